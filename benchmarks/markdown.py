"""Tables of benchmarks in Markdown pages, between two marks."""

from pathlib import Path

from midi2wave.utils.atomic_files import write_text
from midi2wave.utils.errors import InputError


def split_at_marks(path: Path, begin: str, end: str) -> tuple[str, str]:
    """The text before the first and after the second mark of a page.

    Args:
        path: The page.
        begin: The first mark.
        end: The second mark.

    Raises:
        InputError: The marks are not there once each, in this order.
    """
    text = path.read_text(encoding="utf-8")
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(end) < text.index(begin):
        raise InputError(f"{path}: expected the lines {begin} and {end} once each, in this order")
    return text.split(begin)[0], text.split(end)[1]


def insert_lines(path: Path, lines: list[str], begin: str, end: str) -> None:
    """Replace the text between the marks of a page. Raises InputError as `split_at_marks`."""
    before, after = split_at_marks(path, begin, end)
    write_text(path, "\n".join([before + begin, "", *lines, "", end + after]))


def table_lines(headings: list[str], rows: list[list[str]]) -> list[str]:
    """The lines of a table."""
    return [f"| {' | '.join(cells)} |" for cells in (headings, ["---"] * len(headings), *rows)]
