"""Text that is shown to people."""

from collections.abc import Iterable


def printable(text: str) -> str:
    """Replace the surrogates of a file name that is not UTF-8, which neither a font nor a page can hold."""
    return text.encode("utf-8", "replace").decode("utf-8")


def join_names(names: Iterable[object], max_names: int = 5) -> str:
    """The first of some names, separated by commas, and how many more there are."""
    all_names = list(map(str, names))
    n_more = len(all_names) - max_names
    return ", ".join(all_names[:max_names]) + (f" and {n_more} more" if n_more > 0 else "")


def with_remedy(reason: str, remedy: str) -> str:
    """A reason with what to do about it, unless it says that already."""
    return reason if ";" in reason else f"{reason}; {remedy}"


def excerpt(value: object, max_chars: int = 120) -> str:
    """A value as Python writes it; a long one without its middle, so that a message remains one line."""
    return shorten(repr(value), max_chars)


def shorten(text: str, max_chars: int) -> str:
    """A text without its middle if it is longer than `max_chars`."""
    end = max_chars // 3
    return text if len(text) <= max_chars else f"{text[: max_chars - end]} ... {text[-end:]}"
