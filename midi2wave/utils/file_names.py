"""Names of results: which ones file systems accept, and which ones are the same file."""

import hashlib
import os
import sys
import unicodedata

# Bytes of a file name on common file systems.
MAX_NAME_BYTES = 255
# Bytes of the name of a piece, to which commands append up to 25, as in NAME_teacher_forced.json.
MAX_STEM_BYTES = 230
# File systems of these are usually case-insensitive: `Song.wav` and `song.wav` are one file.
CASE_INSENSITIVE = sys.platform in ("win32", "darwin")
# Hexadecimal digits of the checksum that makes a cut name unique.
_DIGITS = 8


def fit_name(stem: str, suffix: str = "", max_bytes: int = MAX_NAME_BYTES) -> str:
    """A file name that is not too long; one that is short enough stays as it is.

    Args:
        stem: What is cut where need be, between two characters. A checksum of all of it then follows, so that names
            that begin alike remain different.
        suffix: What the name ends with in any case.
        max_bytes: The limit.
    """
    try:
        encoded = os.fsencode(stem)
        room = max_bytes - len(os.fsencode(suffix))
    except UnicodeEncodeError:  # No file can have this name; who opens it says so.
        return stem + suffix
    if len(encoded) <= room:
        return stem + suffix
    end = room - 1 - _DIGITS
    while end > 0 and encoded[end] & 0xC0 == 0x80:  # Within a character of UTF-8.
        end -= 1
    return f"{os.fsdecode(encoded[:end])}~{hashlib.sha256(encoded).hexdigest()[:_DIGITS]}{suffix}"


def fit_stem(stem: str) -> str:
    """The name of a piece or a recording, cut so that a command can append its suffixes."""
    return fit_name(stem, "", MAX_STEM_BYTES)


def file_name_key(name: str) -> str:
    """A name that is equal for names that mean the same file."""
    return unicodedata.normalize("NFC", name).casefold() if CASE_INSENSITIVE else name
