"""Uncompressed samples of a known place in a file, read without libsndfile, which believes its header."""

from typing import BinaryIO

import numpy as np
import soundfile

from midi2wave.audio.containers import SampleBytes

_TYPES = {"PCM_S8": "i1", "PCM_U8": "u1", "PCM_16": "i2", "PCM_32": "i4", "FLOAT": "f4", "DOUBLE": "f8"}
# libsndfile's kinds of samples, and their bytes.
SAMPLE_BYTES = {name: np.dtype(kind).itemsize for name, kind in _TYPES.items()} | {"PCM_24": 3}


class PlainSamples:
    """The samples of an open file from a given byte on.

    Attributes:
        samplerate: Sample rate in Hz.
        channels: Number of channels.
        subtype: libsndfile's kind of samples, one of SAMPLE_BYTES.
        format: libsndfile's name of the container.
        frames: Number of frames.
    """

    def __init__(self, handle: BinaryIO, samples: SampleBytes, header: soundfile.SoundFile) -> None:
        """Begin with the first sample.

        Args:
            handle: The file, used by nothing else.
            samples: Where the samples lie.
            header: The same file, which libsndfile has opened.
        """
        self.samplerate: int = header.samplerate
        self.channels: int = header.channels
        self.subtype: str = header.subtype
        self.format: str = header.format
        self._frame_bytes = self.channels * SAMPLE_BYTES[self.subtype]
        self.frames = samples.size // self._frame_bytes
        little_endian = {"LITTLE": True, "BIG": False}.get(header.endian, samples.little_endian)
        self._order = "<" if little_endian else ">"
        self._handle = handle
        handle.seek(samples.first)

    def read_block(self, n_frames: int, dtype: str) -> np.ndarray:
        """The next frames, int16 or float32 [<= n_frames, channels]; float32 in units of full scale."""
        raw = self._handle.read(n_frames * self._frame_bytes)
        raw = raw[: len(raw) // self._frame_bytes * self._frame_bytes]
        return self._decode(raw).reshape(-1, self.channels).astype(dtype, copy=False)

    def _decode(self, raw: bytes) -> np.ndarray:
        if self.subtype == "PCM_24":
            wide = np.zeros((len(raw) // 3, 4), dtype=np.uint8)
            wide[:, slice(1, 4) if self._order == "<" else slice(0, 3)] = np.frombuffer(raw, np.uint8).reshape(-1, 3)
            return wide.view(f"{self._order}i4")[:, 0] / np.float32(2**31)
        values = np.frombuffer(raw, f"{self._order}{_TYPES[self.subtype]}")
        if self.subtype == "PCM_U8":
            return (values.astype(np.float32) - 128) / 128
        if values.dtype.kind == "i" and self.subtype != "PCM_16":
            return values / np.float32(2 ** (8 * values.itemsize - 1))
        return values


def has_plain_samples(header: soundfile.SoundFile) -> bool:
    """Whether the samples of a file that libsndfile has opened are uncompressed."""
    return header.subtype in SAMPLE_BYTES


def stated_bytes(header: soundfile.SoundFile) -> int:
    """The bytes of uncompressed samples that libsndfile would read."""
    return header.frames * header.channels * SAMPLE_BYTES[header.subtype]
