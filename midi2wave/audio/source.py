"""An audio file opened for reading: its blocks of samples, and the checks that it is whole and holds sound.

Every command reads audio through here. Memory does not grow with the length of the file.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile

from midi2wave.audio.amplitudes import require_amplitudes
from midi2wave.audio.compressed import MP3_TOLERANCE_FRAMES, check_end, check_ogg, states_length
from midi2wave.audio.containers import MAX_REST_BYTES, SampleBytes, locate_samples
from midi2wave.audio.plain_samples import PlainSamples, has_plain_samples, stated_bytes
from midi2wave.utils.errors import InputError

BLOCK_FRAMES = 65536
# libsndfile returns more than this where the header states no number of frames.
UNKNOWN_FRAMES = 2**62
# Where libsndfile stops at a length that the header may state wrongly, or at a guess from the bit rate.
STATED_LENGTH_FORMATS = ("FLAC", "MP3")
UNRECOGNISED = 1  # libsndfile's number of this error.


class _Stream(soundfile.SoundFile):
    """A file that is read from its beginning to its end.

    soundfile seeks after every block where that is possible. At the end of a FLAC file of unknown length this fails.
    """

    def seekable(self) -> bool:
        """Whether soundfile may seek after reading: no."""
        return False

    def read_block(self, n_frames: int, dtype: str) -> np.ndarray:
        """The next frames, int16 or float32 [<= n_frames, channels]."""
        block: np.ndarray = self.read(n_frames, dtype, always_2d=True)
        return block


class AudioSource:
    """An open audio file, to be read once.

    Attributes:
        samplerate: Sample rate in Hz.
        channels: Number of channels.
        n_frames: Number of frames; None: the header states none.
    """

    def __init__(self, path: str | Path, handle: BinaryIO | None, stream: "_Stream | PlainSamples") -> None:
        """Describe a file that `open_audio` has opened.

        Args:
            path: The file.
            handle: The same file, from which libsndfile reads too; None if it has opened the file by its name.
            stream: What reads its samples.
        """
        self.samplerate: int = stream.samplerate
        self.channels: int = stream.channels
        self.n_frames: int | None = stream.frames if stream.frames < UNKNOWN_FRAMES else None
        self._path = path
        self._handle = handle
        self._stream = stream

    def blocks(self) -> Iterator[np.ndarray]:
        """The samples as [<= BLOCK_FRAMES, channels]: int16 if the file holds that, else float32 amplitudes.

        Raises:
            InputError: The file is truncated, empty, holds more than it states, or numbers that are no amplitudes.
        """
        # libsndfile takes five times as long to return 16-bit samples as amplitudes as to return them unchanged.
        dtype = "int16" if self._stream.subtype == "PCM_16" else "float32"
        n_read = 0
        blocks = self._unchecked_blocks(dtype)
        for block in blocks:
            if dtype == "float32":
                require_amplitudes(self._path, block, n_read, self.samplerate, blocks)
            n_read += len(block)
            yield block
        self._check_length(n_read)

    def _unchecked_blocks(self, dtype: str) -> Iterator[np.ndarray]:
        size = max(1, BLOCK_FRAMES // self.channels)  # A file may claim a thousand channels.
        # A decoder that is asked for more than there is takes what follows, a tag perhaps, for damaged samples.
        n_left = self._stream.frames
        while n_left and len(block := self._stream.read_block(min(size, n_left), dtype)):
            n_left -= len(block)
            yield block

    def _check_length(self, n_read: int) -> None:
        """Raise InputError if the file holds fewer samples than it states, none, or more."""
        kind = self._stream.format
        expected = self.n_frames or 0
        if kind == "MP3":  # Without a Xing header the length is a guess from the bit rate: fewer frames prove nothing.
            expected = expected - MP3_TOLERANCE_FRAMES if states_length(self._path) else 0
        if n_read < expected:
            raise InputError(f"{self._path} is truncated: {n_read} of {self.n_frames} frames; copy it again")
        if not n_read:
            raise InputError(f"{self._path} is empty: it has no samples; export it again")
        if kind in STATED_LENGTH_FORMATS and self._handle:
            check_end(self._path, self._handle, n_read, kind)


@contextmanager
def open_audio(path: str | Path) -> Iterator[AudioSource]:
    """Open an audio file; any error of libsndfile while it is open becomes an InputError.

    Args:
        path: A file that libsndfile reads.

    Yields:
        The open file.

    Raises:
        InputError: The file is missing, unreadable or truncated, or there is no telling how long it is.
        OSError: It cannot be read.
    """
    if not Path(path).is_file():
        raise InputError(f"{path}: no such audio file; check the path")
    if not Path(path).stat().st_size:
        raise InputError(f"{path} cannot be read as audio: empty file; get it again")
    # Where permission is missing, libsndfile says only "System error", Python the reason.
    with open(path, "rb") as handle:
        samples = locate_samples(path)
        check_ogg(path)
        try:
            with _open_stream(path, handle) as stream:
                reader = _sample_reader(path, handle, samples, stream)
                yield AudioSource(path, handle if stream.name == handle.fileno() else None, reader)
        except soundfile.LibsndfileError as error:
            reason = error.error_string.strip().rstrip(".") or "damaged file"
            raise InputError(f"{path} cannot be read as audio: {reason}") from error


def _open_stream(path: str | Path, handle: BinaryIO) -> _Stream:
    """Open a file by libsndfile, which takes a name on Windows only: elsewhere its position is to be known."""
    if os.name == "nt":
        return _Stream(path)
    try:
        return _Stream(handle.fileno(), closefd=False)
    except soundfile.LibsndfileError as error:
        # By their names, libsndfile takes MP3 files with other bytes in front (and any .au or .snd for mu-law).
        if error.code != UNRECOGNISED or Path(path).suffix.lower() != ".mp3":
            raise
    # Names are bytes and need not be text in any encoding.
    return _Stream(os.fsencode(path))


def _sample_reader(
    path: str | Path, handle: BinaryIO, samples: SampleBytes | None, stream: _Stream
) -> "_Stream | PlainSamples":
    """What reads the samples: libsndfile, unless the file holds more than it would read. Raises InputError."""
    if stream.format == "RAW":  # A guess from the file's name.
        raise InputError(f"{path} cannot be read as audio: Format not recognised")
    if samples is None:
        return stream
    if not has_plain_samples(stream):
        if samples.size > samples.stated:
            raise InputError(
                f"{path}: its header states {samples.stated} of {samples.size} bytes of samples, and they are "
                f"compressed ({stream.subtype}); convert it to wav by another program"
            )
        return stream
    # A container may fill up its last block of samples.
    if stream.frames and abs(samples.size - stated_bytes(stream)) <= MAX_REST_BYTES:
        return stream
    return PlainSamples(handle, samples, stream)
