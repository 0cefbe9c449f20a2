"""Where the samples of an audio file lie, by the size of the file as well as by its header.

libsndfile believes a size in a header that is smaller than the file, and reads no further. Such a size may be wrong: a
32-bit size starts again from 0 after 4 GiB, a recorder that was cut off has written 0, and files that were joined
state the size of the first. What follows the samples tells: further chunks or tags, or samples.
"""

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

from midi2wave.utils.cli import log
from midi2wave.utils.errors import InputError

# So many bytes that are no chunk may follow the samples: 23 ms of stereo at 44.1 kHz.
MAX_REST_BYTES = 4096
# NULs beyond this are not looked at, which would take a second for each gigabyte.
MAX_NUL_BYTES = 2**26
TAG_MARKS = (b"TAG", b"ID3", b"APETAGEX", b"LYRICSBEGIN")
FILE_MARKS = (b"RIFF", b"RIFX", b"RF64", b"riff", b"FORM", b".snd", b"dns.", b"caff", b"fLaC", b"OggS")
READ_BYTES = 2**20
# No file has more, but damaged ones may seem to have millions.
MAX_CHUNKS = 10_000
# A 32-bit size that a program writes while it does not know the size yet: about 2^31 or 2^32, minus the header.
UNKNOWN_SIZES = (range(0x7FFF0000, 0x80010000), range(0xFFFF0000, 2**32))
# In a RIFF file a chunk's size; in RF64 it means: the size is in the chunk ds64.
MAX_SIZE = 0xFFFFFFFF


@dataclass(frozen=True)
class SampleBytes:
    """The bytes of a file that hold its samples.

    Attributes:
        first: Where they begin.
        size: How many there are.
        stated: How many the header states.
        little_endian: The byte order of the container.
    """

    first: int
    size: int
    stated: int
    little_endian: bool


class _Chunk(NamedTuple):
    """A chunk of a file: its name, and where its content begins and ends."""

    name: bytes
    first: int
    stop: int


@dataclass(frozen=True)
class _ChunkFormat:
    """How the chunks of a container are written.

    Attributes:
        name_bytes: Length of a chunk's name.
        size: The size that follows it.
        inclusive: Whether the size counts name and size too.
        alignment: A chunk begins at a multiple of it.
        data: The name of the chunk with the samples.
    """

    name_bytes: int
    size: struct.Struct
    inclusive: bool
    alignment: int
    data: bytes

    @property
    def header_bytes(self) -> int:
        """Length of name and size."""
        return self.name_bytes + self.size.size

    def read(self, handle: BinaryIO, offset: int) -> _Chunk | None:
        """The chunk that begins there, or None at the end of the file."""
        handle.seek(offset)
        header = handle.read(self.header_bytes)
        if len(header) < self.header_bytes:
            return None
        size = self.size.unpack(header[self.name_bytes :])[0] - self.inclusive * self.header_bytes
        first = offset + self.header_bytes
        return _Chunk(header[:4], first, first + max(0, size))

    def walk(self, handle: BinaryIO, offset: int) -> Iterator[_Chunk]:
        """The chunks from there to the end of the file, to one that goes beyond it, or to the first one that is none.

        Some programs leave out the byte that fills up an odd chunk: a name never begins with a NUL.
        """
        file_bytes = handle.seek(0, os.SEEK_END)
        for _ in range(MAX_CHUNKS):
            chunk = self.read(handle, offset)
            if chunk is None or not (chunk.name.isascii() and chunk.name.decode().isprintable()):
                return
            yield chunk
            if chunk.stop > file_bytes:
                return
            offset = chunk.stop + _padding(handle, chunk.stop, self.alignment)


RIFF_CHUNKS = _ChunkFormat(4, struct.Struct("<I"), inclusive=False, alignment=2, data=b"data")
RIFX_CHUNKS = _ChunkFormat(4, struct.Struct(">I"), inclusive=False, alignment=2, data=b"data")
AIFF_CHUNKS = _ChunkFormat(4, struct.Struct(">I"), inclusive=False, alignment=2, data=b"SSND")
W64_CHUNKS = _ChunkFormat(16, struct.Struct("<Q"), inclusive=True, alignment=8, data=b"data")
CAF_CHUNKS = _ChunkFormat(4, struct.Struct(">q"), inclusive=False, alignment=1, data=b"data")


class _SampleHeader(NamedTuple):
    """What a header says of the samples: where they begin, their bytes, whether it may be modulo 2^32, the chunks."""

    first: int
    size: int
    is_32_bit: bool
    chunks: _ChunkFormat | None
    little_endian: bool


def locate_samples(path: str | Path) -> SampleBytes | None:
    """The samples of a WAV, RF64, W64, AIFF, AU or CAF file; None for any other, which states no such size.

    A size that is certainly wrong (wrapped, or 0 as of a file that was never closed) is corrected, with a remark.

    Raises:
        InputError: The file is truncated, holds several recordings, or there is no telling how long it is.
        OSError: It cannot be read.
    """
    with open(path, "rb") as handle:
        header = _read_header(handle, path)
        if header is None:
            return None
        available = max(0, os.fstat(handle.fileno()).st_size - header.first)
        size = _true_size(handle, path, header, available)
    if size > header.size and not _is_unknown(header):
        log(
            f"{path}: its header states {header.size} bytes of samples, the file holds {size}; read to the end, "
            f"as {'it was never finished' if not header.size else 'a 32-bit size starts again from 0 after 4 GiB'}"
        )
    return SampleBytes(header.first, size, header.size, header.little_endian)


def _true_size(handle: BinaryIO, path: str | Path, header: _SampleHeader, available: int) -> int:
    """The bytes of samples: the stated ones, or those that the size of the file proves. Raises InputError."""
    n_wraps = (available - header.size) // 2**32 if header.is_32_bit and available > header.size else 0
    for size in (header.size + k * 2**32 for k in range(n_wraps, -1, -1)):
        if size <= available and _ends_there(handle, path, header, size):
            return size
    if not header.size or _is_unknown(header):
        return available
    if header.size > available:
        raise InputError(f"{path} is truncated: {available} of {header.size} bytes of samples; copy it again")
    rest = header.first + header.size
    if is_harmless_rest(handle, rest):
        return header.size
    raise InputError(
        f"{path}: its header states {header.size} bytes of samples, but {available - header.size} bytes follow that "
        f"are no chunk ({describe_rest(handle, rest)}); export it again, or cut it there"
    )


def _is_unknown(header: _SampleHeader) -> bool:
    return header.is_32_bit and any(header.size in sizes for sizes in UNKNOWN_SIZES)


def _ends_there(handle: BinaryIO, path: str | Path, header: _SampleHeader, size: int) -> bool:
    """Whether chunks follow, or nothing, if there are so many bytes of samples. Raises InputError for other samples."""
    file_bytes = handle.seek(0, os.SEEK_END)
    end = header.first + size
    if end == file_bytes:
        return True
    if header.chunks is None:
        return False
    begin = end + _padding(handle, end, header.chunks.alignment)
    stop = begin
    for chunk in header.chunks.walk(handle, begin):
        if chunk.stop > file_bytes or chunk.name in FILE_MARKS:
            break
        if chunk.name == header.chunks.data:
            raise InputError(f"{path} holds several chunks of samples, the second one at byte {chunk.first}; split it")
        stop = chunk.stop + _padding(handle, chunk.stop, header.chunks.alignment)
    return stop == file_bytes


def _padding(handle: BinaryIO, offset: int, alignment: int) -> int:
    """How many NULs fill the bytes up to the next multiple."""
    handle.seek(offset)
    missing = -offset % alignment
    return missing if handle.read(missing) == bytes(missing) else 0


def is_harmless_rest(handle: BinaryIO, offset: int) -> bool:
    """Whether the bytes from there to the end of the file are none, few, a tag, or only NULs."""
    n_bytes = handle.seek(0, os.SEEK_END) - offset
    handle.seek(offset)
    head = handle.read(16)
    if head.startswith(FILE_MARKS):
        return False
    if n_bytes <= MAX_REST_BYTES or head.startswith(TAG_MARKS):
        return True
    handle.seek(offset)
    return n_bytes <= MAX_NUL_BYTES and not any(any(block) for block in iter(lambda: handle.read(READ_BYTES), b""))


def describe_rest(handle: BinaryIO, offset: int) -> str:
    """In words, what the bytes from there on seem to be."""
    handle.seek(offset)
    head = handle.read(4)
    return f"another file, {head.decode()}" if head in FILE_MARKS else "more samples, or damage"


def _read_header(handle: BinaryIO, path: str | Path) -> _SampleHeader | None:
    """What the header says; None for another format, or without a chunk of samples."""
    head = handle.read(40)
    form = head[:4], head[8:12]
    if form in ((b"RIFF", b"WAVE"), (b"RIFX", b"WAVE"), (b"RF64", b"WAVE")):
        return _read_wav_header(handle, RIFX_CHUNKS if head[:4] == b"RIFX" else RIFF_CHUNKS)
    if form in ((b"FORM", b"AIFF"), (b"FORM", b"AIFC")):
        return _read_aiff_header(handle)
    if head[:4] == b"riff" and head[24:28] == b"wave":
        chunk = _find(handle, W64_CHUNKS, 40)
        return chunk and _SampleHeader(chunk.first, chunk.stop - chunk.first, False, W64_CHUNKS, True)
    if head[:4] in (b".snd", b"dns.") and len(head) >= 24:
        first, size = struct.unpack(">II" if head[:4] == b".snd" else "<II", head[4:12])
        return _SampleHeader(first, size, True, None, head[:4] == b"dns.")
    if head[:4] == b"caff":
        chunk = _find(handle, CAF_CHUNKS, 8)
        if chunk and chunk.stop - chunk.first < 4:
            raise InputError(f"{path} does not state its length: it was never finished; open and export it again")
        return chunk and _SampleHeader(chunk.first + 4, chunk.stop - chunk.first - 4, False, CAF_CHUNKS, False)
    return None


def _find(handle: BinaryIO, chunks: _ChunkFormat, offset: int) -> _Chunk | None:
    return next((chunk for chunk in chunks.walk(handle, offset) if chunk.name == chunks.data), None)


def _read_wav_header(handle: BinaryIO, chunks: _ChunkFormat) -> _SampleHeader | None:
    data_bytes = None
    for chunk in chunks.walk(handle, 12):
        if chunk.name == b"ds64":
            handle.seek(chunk.first + 8)
            field = handle.read(8)
            data_bytes = int.from_bytes(field, "little") if len(field) == 8 else None
        if chunk.name == chunks.data:
            size = chunk.stop - chunk.first
            if size == MAX_SIZE and data_bytes is not None:
                return _SampleHeader(chunk.first, data_bytes, False, chunks, True)
            return _SampleHeader(chunk.first, size, True, chunks, chunks is RIFF_CHUNKS)
    return None


def _read_aiff_header(handle: BinaryIO) -> _SampleHeader | None:
    chunk = _find(handle, AIFF_CHUNKS, 12)
    if chunk is None:
        return None
    handle.seek(chunk.first)
    offset = int.from_bytes(handle.read(4), "big")  # Of the first sample after this and another number.
    n_bytes = chunk.stop - chunk.first
    return _SampleHeader(chunk.first + 8 + offset, max(0, n_bytes - 8 - offset), True, AIFF_CHUNKS, False)
