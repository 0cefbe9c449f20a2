"""Audio files: reading, writing and resampling of 16-bit mono samples.

Reading and the soxr resamplers work in blocks, so that an hour of stereo takes no more memory than a second, beyond
what is returned.
"""

import filecmp
import os
import re
import wave
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr

from midi2wave.audio.pcm import FULL_SCALE, to_pcm
from midi2wave.utils.atomic_files import atomic_file, replace
from midi2wave.utils.cli import log
from midi2wave.utils.errors import InputError

# What libsndfile reads, in the order of preference where files differ only in their suffix.
AUDIO_SUFFIXES: tuple[str, ...] = (
    *(".wav", ".flac", ".aif", ".aiff", ".ogg", ".mp3", ".opus", ".oga"),
    *(".wave", ".w64", ".rf64", ".aifc", ".au", ".snd", ".caf"),
)
RESAMPLERS = ("soxr_hq", "soxr_vhq", "soxr_mq", "soxr_lq", "soxr_qq", "kaiser_best", "kaiser_fast")

# Amplitudes from here on are no sound, and would overflow in the resampler.
MAX_AMPLITUDE = 1e6
BLOCK_FRAMES = 65536
# The sizes in a wav header are 32-bit byte counts.
MAX_WAV_SAMPLES = (2**32 - 64) // 2
# The size of the header that `_wav_writer` writes.
WAV_HEADER_BYTES = 44
# Encoders that write to a pipe put this or more where the data size is not known yet.
UNKNOWN_BYTES = 0x7FFFF000


@dataclass(frozen=True)
class Resampled:
    """Properties of a resampled file and of its source.

    Attributes:
        seconds: Length of the output.
        peak: Largest absolute amplitude after resampling, before clipping; 1 is full scale.
        n_clipped: Number of clipped samples of the output.
        source_hz: Sample rate of the source.
        channels: Number of channels of the source.
    """

    seconds: float
    peak: float
    n_clipped: int
    source_hz: int
    channels: int


def read_pcm(path: str | Path, audio_hz: int) -> np.ndarray:
    """Read a file that is at `audio_hz` already, channels averaged.

    Returns:
        int16 [T].

    Raises:
        InputError: The file is missing, unreadable, truncated, empty, not finite or at another rate.
    """
    with _open(path) as source:
        if source.samplerate != audio_hz:
            raise InputError(f"{path} is at {source.samplerate} Hz, expected {audio_hz}; run resample_audio.py first")
        # Bytes that grow in place: a list of blocks would be held twice while they are concatenated.
        pcm = bytearray()
        for block in _blocks(path, source):
            exact = block.dtype == np.int16 and source.channels == 1
            pcm += (block[:, 0] if exact else to_pcm(_mono(block))[0]).tobytes()
    return np.frombuffer(pcm, dtype=np.int16)


def sample_rate(path: str | Path) -> int:
    """Sample rate of an audio file in Hz.

    Raises:
        InputError: The file is missing or unreadable.
    """
    with _open(path) as source:
        return source.samplerate


def read_beginning(path: str | Path, audio_hz: int, n_samples: int) -> np.ndarray:
    """Read the first samples of any audio file, channels averaged and resampled as by `resample_file`.

    Args:
        path: A file that libsndfile reads.
        audio_hz: Sample rate of the result.
        n_samples: Number of samples at that rate.

    Returns:
        int16 [n_samples].

    Raises:
        InputError: As by `read_pcm`, or the file is shorter.
    """
    blocks, n_read = [np.zeros(0, dtype=np.float32)], 0
    with _open(path) as source:
        for block in _resampled_blocks(map(_mono, _blocks(path, source)), source.samplerate, audio_hz, RESAMPLERS[0]):
            blocks.append(block)
            n_read += len(block)
            if n_read >= n_samples:
                return to_pcm(np.concatenate(blocks)[:n_samples])[0]
    raise InputError(f"{path} has only {n_read / audio_hz:.3f} s, expected at least {n_samples / audio_hz:g} s")


def write_wav(path: str | Path, pcm: np.ndarray, audio_hz: int) -> None:
    """Write int16 [T] as a 16-bit mono wav, atomically.

    Raises:
        OSError: The disk is full, or permission is missing.
    """
    with atomic_file(path) as tmp_path, _wav_writer(tmp_path, audio_hz) as target:
        target.writeframesraw(pcm.astype(np.int16, casting="safe").tobytes())


@contextmanager
def wav_stream(path: str | Path, audio_hz: int, interrupted: str | Path) -> Iterator[Callable[[np.ndarray], None]]:
    """Write a 16-bit mono wav in parts; it appears at `path` when it is complete.

    After an interruption by the user (KeyboardInterrupt), the samples so far remain as a valid wav at `interrupted`,
    unless a longer one is there already. After any other failure, nothing remains.

    Args:
        path: The wav.
        audio_hz: Sample rate.
        interrupted: The wav of an interrupted run.

    Yields:
        A function that appends int16 [n].

    Raises:
        OSError: The disk is full, or permission is missing.
    """
    n_samples = 0

    def append(pcm: np.ndarray) -> None:
        nonlocal n_samples
        wav.writeframesraw(pcm.astype(np.int16, casting="safe").tobytes())
        n_samples += len(pcm)

    with atomic_file(path) as tmp_path:
        try:
            with _wav_writer(tmp_path, audio_hz) as wav:
                yield append
        except KeyboardInterrupt:
            if n_samples and _is_larger(Path(interrupted), tmp_path):
                log(f"{interrupted}, of an earlier run, is longer and stays as it is")
            elif n_samples:
                replace(tmp_path, Path(interrupted))
            raise


def _is_larger(path: Path, other: Path) -> bool:
    return path.is_file() and path.stat().st_size > other.stat().st_size


def map_wav(path: str | Path) -> np.ndarray:
    """Map a wav of `write_wav` or `wav_stream` into memory: int16 [T]."""
    return np.memmap(path, "<i2", mode="r", offset=WAV_HEADER_BYTES)


def resample_file(
    source: str | Path, target: str | Path, audio_hz: int, resampler: str = "soxr_hq", *, replace: bool = True
) -> Resampled:
    """Convert any audio file that libsndfile reads to a 16-bit mono wav, atomically.

    Channels are averaged before resampling. The soxr resamplers stream; the kaiser ones (resampy) hold the whole file.
    A file at `audio_hz` already is only mixed down.

    Args:
        source: The file to read.
        target: The wav to write; it stays as it was if anything fails.
        audio_hz: Sample rate of the wav.
        resampler: One of RESAMPLERS.
        replace: Without it, a `target` that exists must come out the same to the byte.

    Returns:
        Properties of the source and the wav.

    Raises:
        InputError: As by `read_pcm`; the resampler is unknown; the result is empty or too long for a wav; without
            `replace`, the target differs.
        OSError: Writing fails.
    """
    if resampler not in RESAMPLERS:
        raise InputError(f"unknown resampler {resampler!r}; expected one of {', '.join(RESAMPLERS)}")
    with _open(source) as opened:
        source_hz, channels = opened.samplerate, opened.channels
        blocks = _resampled_blocks(map(_mono, _blocks(source, opened)), source_hz, audio_hz, resampler)
        with atomic_file(target) as tmp_path:
            n_samples, n_clipped, peak = _write_blocks(tmp_path, blocks, audio_hz, source)
            if not n_samples:
                raise InputError(f"{source} is too short to give a sample at {audio_hz} Hz")
            if not replace and Path(target).exists() and not filecmp.cmp(tmp_path, target, shallow=False):
                raise InputError(
                    f"{target} exists and is not what would be made here; move it elsewhere, or use --force, which "
                    "replaces it and makes all outputs of this call again"
                )
    return Resampled(n_samples / audio_hz, peak, n_clipped, source_hz, channels)


def _write_blocks(
    path: Path, blocks: Iterator[np.ndarray], audio_hz: int, source: str | Path
) -> tuple[int, int, float]:
    """Write float32 blocks as a wav; returns the numbers of samples and of clipped ones, and the peak amplitude."""
    n_samples = 0
    n_clipped = 0
    peak = 0.0
    with _wav_writer(path, audio_hz) as wav:
        for block in blocks:
            pcm, n_clipped_in_block = to_pcm(block)
            n_samples += len(pcm)
            n_clipped += n_clipped_in_block
            peak = max(peak, float(np.abs(block).max(initial=0.0)))
            if n_samples > MAX_WAV_SAMPLES:
                raise InputError(f"{source} is too long for a wav file at {audio_hz} Hz; cut it into parts")
            wav.writeframesraw(pcm.tobytes())
    return n_samples, n_clipped, peak


@contextmanager
def _open(path: str | Path) -> Iterator[soundfile.SoundFile]:
    """Open an audio file; any error of libsndfile while it is open becomes an InputError."""
    if not Path(path).is_file():
        raise InputError(f"{path}: no such audio file")
    # Where permission is missing, libsndfile says only "System error", Python the reason.
    with open(path, "rb"):
        pass
    try:
        # Names are bytes on most systems and need not be text in any encoding.
        with soundfile.SoundFile(path if os.name == "nt" else os.fsencode(path)) as opened:
            yield opened
    except soundfile.LibsndfileError as error:
        raise InputError(f"{path} cannot be read as audio: {error.error_string.strip() or 'damaged file'}") from error


def _blocks(path: str | Path, source: soundfile.SoundFile) -> Iterator[np.ndarray]:
    """An open file as blocks [<= BLOCK_FRAMES, channels]: int16 if it holds that, else float32 amplitudes.

    Raises InputError where the file is truncated, empty or not finite.
    """
    _check_data_size(path, source)
    # libsndfile takes five times as long to return 16-bit samples as amplitudes as it takes to return them unchanged.
    dtype = "int16" if source.subtype == "PCM_16" else "float32"
    n_frames = max(1, BLOCK_FRAMES // source.channels)  # A file may claim a thousand channels.
    n_read = 0
    while len(block := source.read(n_frames, dtype=dtype, always_2d=True)):
        if dtype == "float32":
            _check_amplitudes(path, block, n_read, source.samplerate)
        n_read += len(block)
        yield block
    # The length of an MP3 without a Xing header is a guess from its bit rate, so a shorter one proves nothing.
    if n_read < source.frames and source.format != "MP3":
        raise InputError(f"{path} is truncated: {n_read} of {source.frames} frames; copy it again")
    if not n_read:
        raise InputError(f"{path} is empty: it has no samples")


def _check_amplitudes(path: str | Path, block: np.ndarray, first_frame: int, audio_hz: int) -> None:
    """Raise InputError if a block [n, channels] holds NaN, infinity or amplitudes that are no sound."""
    is_sound = np.abs(block) < MAX_AMPLITUDE
    if is_sound.all():
        return
    frame = int(np.argmin(is_sound.all(axis=1)))
    is_finite = np.isfinite(block[frame]).all()
    kind = f"samples beyond {MAX_AMPLITUDE:g} times full scale" if is_finite else "NaN or infinite samples"
    second = (first_frame + frame) / audio_hz
    raise InputError(f"{path} has {kind}, the first at {second:.3f} s; export it again")


def _mono(block: np.ndarray) -> np.ndarray:
    """A block of `_blocks` -> float32 amplitudes [frames], channels averaged."""
    n_channels = block.shape[1]
    total = block[:, 0].astype(np.float32)
    # NumPy's mean over so short an axis takes longer than the resampling.
    for channel in range(1, n_channels):
        total += block[:, channel]
    total *= np.float32(1 / (n_channels * (FULL_SCALE if block.dtype == np.int16 else 1)))
    return total


def _check_data_size(path: str | Path, source: soundfile.SoundFile) -> None:
    """Refuse a truncated file: libsndfile corrects the size that the header states and mentions it in its log only."""
    stated = re.search(r"^\s*(?:data|SSND|Data Size) *: (\d+) \(should be (\d+)\)", source.extra_info, re.MULTILINE)
    if stated and int(stated[2]) < int(stated[1]) < UNKNOWN_BYTES:
        raise InputError(f"{path} is truncated: {stated[2]} of {stated[1]} bytes of samples; copy it again")


def _resampled_blocks(
    blocks: Iterator[np.ndarray], source_hz: int, audio_hz: int, resampler: str
) -> Iterator[np.ndarray]:
    """float32 blocks at `source_hz` -> float32 blocks at `audio_hz`, as if the whole had been resampled at once."""
    if source_hz == audio_hz:
        yield from blocks
    elif resampler.startswith("soxr_"):
        stream = soxr.ResampleStream(source_hz, audio_hz, 1, quality=resampler.removeprefix("soxr_").upper())
        for block in blocks:
            yield stream.resample_chunk(block)
        yield stream.resample_chunk(np.zeros(0, dtype=np.float32), last=True)
    else:
        # Its import compiles with numba for a second, and only two of the resamplers need it. librosa would call it,
        # but does not install it, and takes longer to import.
        import resampy

        whole = np.concatenate(list(blocks))
        # resampy raises an error where the result is shorter than a sample.
        if len(whole) * audio_hz >= source_hz:
            yield resampy.resample(whole, source_hz, audio_hz, filter=resampler)


@contextmanager
def _wav_writer(path: Path, audio_hz: int) -> Iterator[wave.Wave_write]:
    """A 16-bit mono wav to write to, by the standard library, whose OSErrors say that the disk is full."""
    with open(path, "wb") as handle, wave.open(handle, "wb") as wav:
        wav.setnchannels(1)
        wav.setsampwidth(2)
        wav.setframerate(audio_hz)
        yield wav
