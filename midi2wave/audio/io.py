"""Audio files: reading, writing and resampling of 16-bit mono samples.

Reading and the soxr resamplers work in blocks, so that an hour of stereo takes no more memory than a second, beyond
what is returned.
"""

import filecmp
import math
import wave
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr

from midi2wave.audio.pcm import FULL_SCALE, to_pcm
from midi2wave.audio.source import BLOCK_FRAMES, open_audio
from midi2wave.utils.atomic_files import atomic_file, replace
from midi2wave.utils.cli import log
from midi2wave.utils.errors import InputError
from midi2wave.utils.file_search import UnreadFiles

# What libsndfile reads, in the order of preference where files differ only in their suffix.
AUDIO_SUFFIXES: tuple[str, ...] = (
    *(".wav", ".flac", ".aif", ".aiff", ".ogg", ".mp3", ".opus", ".oga"),
    *(".wave", ".w64", ".rf64", ".aifc", ".au", ".snd", ".caf"),
)
# Recognised, but nothing that libsndfile reads; some of them are films.
UNREAD_AUDIO = UnreadFiles(
    (
        *(".m4a", ".m4b", ".mp4", ".aac", ".webm", ".wma", ".mka", ".mkv", ".mov", ".3gp", ".amr", ".ac3", ".dts"),
        *(".ape", ".wv", ".tta", ".mpc", ".dsf", ".dff", ".ra", ".rm"),
    ),
    "audio that libsndfile does not read",
    "convert them, for example with ffmpeg -i NAME NAME.flac",
)
RESAMPLERS = ("soxr_hq", "soxr_vhq", "soxr_mq", "soxr_lq", "soxr_qq", "kaiser_best", "kaiser_fast")

# The sizes in a wav header are 32-bit byte counts.
MAX_WAV_SAMPLES = (2**32 - 64) // 2
# The size of the header that `_wav_writer` writes.
WAV_HEADER_BYTES = 44


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
    with open_audio(path) as source:
        if source.samplerate != audio_hz:
            raise InputError(f"{path} is at {source.samplerate} Hz, expected {audio_hz}; run resample_audio.py first")
        # Bytes that grow in place: a list of blocks would be held twice while they are concatenated.
        pcm = bytearray()
        for block in source.blocks():
            exact = block.dtype == np.int16 and source.channels == 1
            pcm += (block[:, 0] if exact else to_pcm(_mono(block))[0]).tobytes()
    return np.frombuffer(pcm, dtype=np.int16)


def sample_rate(path: str | Path) -> int:
    """Sample rate of an audio file in Hz.

    Raises:
        InputError: The file is missing or unreadable.
    """
    with open_audio(path) as source:
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
    pcm = read_resampled(path, audio_hz, max_samples=n_samples)
    if len(pcm) < n_samples:
        raise InputError(f"{path} has only {len(pcm) / audio_hz:.3f} s, expected at least {n_samples / audio_hz:g} s")
    return pcm


def read_resampled(
    path: str | Path, audio_hz: int, inspect: Callable[[np.ndarray], None] | None = None, max_samples: int | None = None
) -> np.ndarray:
    """Read any audio file, channels averaged and resampled as by `resample_file`.

    Args:
        path: A file that libsndfile reads.
        audio_hz: Sample rate of the result.
        inspect: Receives each block of the file as it is, [frames, channels] (see `AudioSource.blocks`).
        max_samples: Reading ends after so many samples of the result; None: at the end of the file.

    Returns:
        int16 [T].

    Raises:
        InputError: As by `read_pcm`, but at any rate.
    """

    def inspected(blocks: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
        for block in blocks:
            if inspect:
                inspect(block)
            yield _mono(block)

    pcm = bytearray()
    with open_audio(path) as source:
        for block in _resampled_blocks(inspected(source.blocks()), source.samplerate, audio_hz, RESAMPLERS[0]):
            pcm += to_pcm(block)[0].tobytes()
            if max_samples is not None and len(pcm) >= 2 * max_samples:
                break
    return np.frombuffer(pcm, dtype=np.int16)[:max_samples]


def require_wav_length(name: str | Path, n_samples: int, audio_hz: int) -> None:
    """Raise InputError if so many 16-bit samples do not fit into a wav, whose sizes have 32 bits."""
    if n_samples > MAX_WAV_SAMPLES:
        limit = f"{MAX_WAV_SAMPLES / audio_hz / 3600:.1f} h at {audio_hz} Hz"
        raise InputError(
            f"{name}: {n_samples / audio_hz / 3600:.1f} h are too long for a wav ({limit}); cut it into parts"
        )


def write_wav(path: str | Path, pcm: np.ndarray, audio_hz: int) -> None:
    """Write int16 [T] as a 16-bit mono wav, atomically.

    Raises:
        InputError: There are too many samples for a wav.
        OSError: The disk is full, or permission is missing.
    """
    require_wav_length(path, len(pcm), audio_hz)
    with atomic_file(path) as tmp_path, _wav_writer(tmp_path, audio_hz) as target:
        target.writeframesraw(pcm.astype(np.int16, casting="safe").tobytes())


def write_amplitudes(path: str | Path, audio: np.ndarray, audio_hz: int, file_format: str) -> None:
    """Write amplitudes as 16-bit samples by libsndfile, atomically.

    Args:
        path: The file.
        audio: float32 [T] or [T, channels].
        audio_hz: Sample rate.
        file_format: "FLAC" or "WAV".

    Raises:
        InputError: Not all of it was written.
        OSError: Permission is missing.
    """
    with atomic_file(path) as tmp_path:
        n_written, reason = 0, "the last samples are missing"
        try:
            soundfile.write(tmp_path, audio, audio_hz, format=file_format, subtype="PCM_16")
            # libsndfile does not report that the last bytes, which it writes when it closes a file, found no room.
            with soundfile.SoundFile(tmp_path) as written:
                n_written = sum(map(len, written.blocks(BLOCK_FRAMES, dtype="int16")))
        except soundfile.LibsndfileError as error:
            reason = error.error_string.strip() or "it cannot be read again"
        if n_written != len(audio):
            raise InputError(f"{path} was not written whole ({reason}); is the disk full? Run the same command again")


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
        InputError: There are too many samples for a wav.
        OSError: The disk is full, or permission is missing.
    """
    n_samples = 0

    def append(pcm: np.ndarray) -> None:
        nonlocal n_samples
        require_wav_length(path, n_samples + len(pcm), audio_hz)
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
    """Map a wav of `write_wav` or `wav_stream` into memory, or read it where that is not possible: int16 [T]."""
    try:
        return np.memmap(path, "<i2", mode="r", offset=WAV_HEADER_BYTES)
    except OSError:  # Of the mapping, or of the file itself; then reading raises it again.
        return np.fromfile(path, "<i2", offset=WAV_HEADER_BYTES)


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
    with open_audio(source) as opened:
        source_hz, channels = opened.samplerate, opened.channels
        n_expected = math.ceil((opened.n_frames or 0) * audio_hz / source_hz)
        require_wav_length(source, n_expected, audio_hz)
        blocks = _resampled_blocks(map(_mono, opened.blocks()), source_hz, audio_hz, resampler)
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
            require_wav_length(source, n_samples, audio_hz)
            wav.writeframesraw(pcm.tobytes())
    return n_samples, n_clipped, peak


def _mono(block: np.ndarray) -> np.ndarray:
    """A block of an `AudioSource` -> float32 amplitudes [frames], channels averaged."""
    n_channels = block.shape[1]
    total = block[:, 0].astype(np.float32)
    # NumPy's mean over so short an axis takes longer than the resampling.
    for channel in range(1, n_channels):
        total += block[:, channel]
    total *= np.float32(1 / (n_channels * (FULL_SCALE if block.dtype == np.int16 else 1)))
    return total


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
