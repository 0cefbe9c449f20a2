"""Checks of compressed audio files whose end libsndfile does not look for: Ogg, MP3, FLAC."""

import os
import re
from pathlib import Path
from typing import BinaryIO

from midi2wave.audio.containers import is_harmless_rest
from midi2wave.utils.cli import log
from midi2wave.utils.errors import InputError

# The first bits of the flags of an Ogg page.
OGG_BEGINS, OGG_ENDS = 2, 4
OGG_HEADER_BYTES = 27
# The lengths of MP3 files from different encoders differ by the encoder's delay.
MP3_TOLERANCE_FRAMES = 4 * 1152


def check_ogg(path: str | Path) -> None:
    """Look at all pages of an Ogg file; other files are not looked at.

    Raises:
        InputError: The last page is cut, there are bytes between pages, or several recordings one after another.
        OSError: It cannot be read.
    """
    with open(path, "rb") as handle:
        n_bytes = os.fstat(handle.fileno()).st_size
        offset, flags, has_content = 0, 0, False
        while (header := handle.read(OGG_HEADER_BYTES)).startswith(b"OggS"):
            lengths = handle.read(header[-1]) if len(header) == OGG_HEADER_BYTES else b""
            end = offset + OGG_HEADER_BYTES + len(lengths) + sum(lengths)
            if len(header) < OGG_HEADER_BYTES or len(lengths) < header[-1] or end > n_bytes:
                raise InputError(f"{path} is truncated: its last page is not whole; copy it again")
            flags = header[5]
            if has_content and flags & OGG_BEGINS:
                raise InputError(f"{path} holds several recordings, the second one from byte {offset} on; split it")
            has_content = has_content or not flags & OGG_BEGINS
            handle.seek(end)
            offset = end
        if not offset:
            return
        if not is_harmless_rest(handle, offset):
            raise InputError(f"{path} is damaged at byte {offset}: no Ogg page begins there; get the file again")
        if not flags & OGG_ENDS:
            log(f"{path} has no mark of its end, as a stream that was recorded or a file that was cut; read as it is")


def states_length(path: str | Path) -> bool:
    """Whether an MP3 file begins with a frame that holds the number of frames (Xing or Info)."""
    with open(path, "rb") as handle:
        head = handle.read(10)
        offset = 0
        if head[:3] == b"ID3" and len(head) == 10:
            size = 0
            for byte in head[6:]:
                size = size << 7 | byte & 0x7F
            offset = 10 + size
        handle.seek(offset)
        field = re.search(rb"(?:Xing|Info)...(.)", handle.read(64), re.DOTALL)
    return bool(field and field[1][0] & 1)


def check_end(path: str | Path, handle: BinaryIO, n_frames: int, kind: str) -> None:
    """Check that a decoder which has read all frames that it knows of has come to the end of the file.

    Args:
        path: The file.
        handle: The file that the decoder has read from.
        n_frames: How many frames it has read.
        kind: The name of the format.

    Raises:
        InputError: More than a tag follows.
    """
    position = os.lseek(handle.fileno(), 0, os.SEEK_CUR)
    n_bytes = os.fstat(handle.fileno()).st_size
    if position < n_bytes and not is_harmless_rest(handle, position):
        reason = "several files in one" if kind == "FLAC" else "several files in one, or a variable bit rate"
        raise InputError(
            f"{path}: by its header libsndfile ends after {n_frames} frames, but {n_bytes - position} of {n_bytes} "
            f"bytes follow ({reason}); convert it to wav by a program that reads it whole, such as ffmpeg"
        )
