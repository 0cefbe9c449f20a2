"""Text that is shown to people."""


def printable(text: str) -> str:
    """Replace the surrogates of a file name that is not UTF-8, which neither a font nor a page can hold."""
    return text.encode("utf-8", "replace").decode("utf-8")
