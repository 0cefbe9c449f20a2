"""The listening page: one HTML file with a picture and audio players for each clip."""

import os
import urllib.parse
from dataclasses import dataclass
from pathlib import Path

from midi2wave.utils.atomic_files import write_text
from midi2wave.utils.text import printable

TEMPLATE_NAME = "listening_page.html"


@dataclass(frozen=True)
class ListeningClip:
    """One clip on the page; file names are relative to the page.

    Attributes:
        name: Heading of the clip.
        picture: File name of its picture; "" for none.
        sounds: Label and file name of each wav.
        remark: Text above the players; "" for none.
    """

    name: str
    picture: str
    sounds: list[tuple[str, str]]
    remark: str = ""


def write_listening_page(path: str | Path, title: str, clips: list[ListeningClip], facts: dict[str, str]) -> None:
    """Write the page atomically; it works without a server and without network.

    Args:
        path: The HTML file.
        title: Title of the page.
        clips: The clips in the order of the page.
        facts: Rows of the table at the top: name -> value.
    """
    template = Path(__file__).with_name(TEMPLATE_NAME)
    write_text(path, render_page(template, title=title, facts=facts, clips=clips))


def render_page(template: Path, **values: object) -> str:
    """An HTML page from a jinja2 template, whose values are escaped; the filter `file_url` makes URLs of file names.

    Args:
        template: The template file.
        values: What it contains.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(template.parent),
        autoescape=True,
        finalize=_printable_value,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["file_url"] = _file_url
    return environment.get_template(template.name).render(**values)


def _printable_value(value: object) -> object:
    """A value of the template, which may be a file name that is not UTF-8."""
    return printable(value) if isinstance(value, str) else value


def _file_url(file_name: str) -> str:
    """A file name as a relative URL; bytes that are not UTF-8 are quoted."""
    return urllib.parse.quote(os.fsencode(file_name))
