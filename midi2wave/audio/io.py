"""Audio files to 16-bit mono samples and back: reading, writing, resampling, mu-law.

One form of audio walks through the project: int16 PCM, mono, at a rate the config names. Reading and the soxr
resamplers work in blocks, so that an hour of stereo takes no more memory than a second, beyond what is returned.
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
from midi2wave.utils.atomic_files import atomic_file
from midi2wave.utils.cli import log
from midi2wave.utils.errors import InputError

# What libsndfile reads, in the order of preference where files differ only in their suffix.
AUDIO_SUFFIXES = (".wav", ".flac", ".aif", ".aiff", ".ogg", ".mp3", ".opus", ".oga", ".wave", ".w64", ".rf64", ".aifc")
AUDIO_SUFFIXES += (".au", ".snd", ".caf")
RESAMPLERS = ("soxr_hq", "soxr_vhq", "soxr_mq", "soxr_lq", "soxr_qq", "kaiser_best", "kaiser_fast")

LOUDEST = 1e6  # amplitudes from here on are no sound, and would overflow in the resampler
BLOCK_FRAMES = 65536
MAX_WAV_SAMPLES = (2**32 - 64) // 2  # the sizes in a wav header are 32-bit byte counts
WAV_HEADER_BYTES = 44  # as `_wav_writer` makes it
UNKNOWN_BYTES = 0x7FFFF000  # encoders that write to a pipe put this or more where the data size is not known yet


@dataclass(frozen=True)
class Resampled:
    """What became of one file, and what it was."""

    seconds: float
    peak: float  # largest |amplitude| after resampling, before clipping; 1 is full scale
    n_clipped: int  # samples of the output
    source_hz: int
    channels: int


def read_pcm(path: str | Path, audio_hz: int) -> np.ndarray:
    """Read a file that is at `audio_hz` already -> int16 [T], channels averaged.

    Raises InputError for a file that is missing, unreadable, truncated, empty, not finite or at another rate.
    """
    with _open(path) as source:
        if source.samplerate != audio_hz:
            raise InputError(f"{path} is at {source.samplerate} Hz, expected {audio_hz}; run resample_audio.py first")
        pcm = bytearray()  # grows in place: blocks put together at the end would be there twice
        for block in _blocks(path, source):
            exact = block.dtype == np.int16 and source.channels == 1
            pcm += (block[:, 0] if exact else to_pcm(_mono(block))[0]).tobytes()
    return np.frombuffer(pcm, dtype=np.int16)


def sample_rate(path: str | Path) -> int:
    """Of an audio file, in Hz. Raises InputError if it is missing or unreadable."""
    with _open(path) as source:
        return source.samplerate


def read_beginning(path: str | Path, audio_hz: int, n_samples: int) -> np.ndarray:
    """The first n_samples at `audio_hz` of any audio file that libsndfile reads: int16 [n_samples], channels averaged
    and resampled as by `resample_file`. Raises InputError as `read_pcm` does, and for a file that is shorter."""
    found, n_found = [np.zeros(0, dtype=np.float32)], 0
    with _open(path) as source:
        for block in _resampled_blocks(map(_mono, _blocks(path, source)), source.samplerate, audio_hz, RESAMPLERS[0]):
            found.append(block)
            n_found += len(block)
            if n_found >= n_samples:
                return to_pcm(np.concatenate(found)[:n_samples])[0]
    raise InputError(f"{path} has only {n_found / audio_hz:.3f} s, expected at least {n_samples / audio_hz:g} s")


def write_wav(path: str | Path, pcm: np.ndarray, audio_hz: int) -> None:
    """Write int16 [T] as a 16-bit mono wav, atomically. Raises OSError (full disk, no permission)."""
    with atomic_file(path) as tmp_path, _wav_writer(tmp_path, audio_hz) as target:
        target.writeframesraw(pcm.astype(np.int16, casting="safe").tobytes())


@contextmanager
def wav_stream(path: str | Path, audio_hz: int, interrupted: str | Path) -> Iterator[Callable[[np.ndarray], None]]:
    """Yield a function that appends int16 [n] to a 16-bit mono wav, which appears at `path` when it is complete.

    Of an interruption by the user (KeyboardInterrupt) remains what was written so far, as a valid wav at
    `interrupted`, unless a longer one is there already; of any other failure nothing. Raises OSError (full disk, no
    permission).
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
                os.replace(tmp_path, interrupted)
            raise


def _is_larger(path: Path, other: Path) -> bool:
    return path.is_file() and path.stat().st_size > other.stat().st_size


def map_wav(path: str | Path) -> np.ndarray:
    """int16 [T], memory-mapped, of a wav that `write_wav` or `wav_stream` wrote."""
    return np.memmap(path, "<i2", mode="r", offset=WAV_HEADER_BYTES)


def resample_file(
    source: str | Path, target: str | Path, audio_hz: int, resampler: str = "soxr_hq", *, replace: bool = True
) -> Resampled:
    """Convert any audio file that libsndfile reads to a 16-bit mono wav at `audio_hz`, atomically.

    Channels are averaged before resampling. The soxr resamplers stream; the kaiser ones (resampy) hold the whole file.
    A file at `audio_hz` already is only mixed down. Without `replace` a `target` that exists must come out the same to
    the byte. Raises InputError if it does not and as `read_pcm` does, OSError if writing fails; in all these cases
    `target` stays as it was.
    """
    if resampler not in RESAMPLERS:
        raise InputError(f"unknown resampler {resampler!r}; expected one of {', '.join(RESAMPLERS)}")
    n_samples = n_clipped = 0
    peak = 0.0
    with _open(source) as opened:
        source_hz, channels = opened.samplerate, opened.channels
        blocks = _resampled_blocks(map(_mono, _blocks(source, opened)), source_hz, audio_hz, resampler)
        with atomic_file(target) as tmp_path:
            with _wav_writer(tmp_path, audio_hz) as wav:
                for block in blocks:
                    pcm, clipped_here = to_pcm(block)
                    n_samples += len(pcm)
                    n_clipped += clipped_here
                    peak = max(peak, float(np.abs(block).max(initial=0.0)))
                    if n_samples > MAX_WAV_SAMPLES:
                        raise InputError(f"{source} is too long for a wav file at {audio_hz} Hz; cut it into parts")
                    wav.writeframesraw(pcm.tobytes())
            if not n_samples:
                raise InputError(f"{source} is too short to give a sample at {audio_hz} Hz")
            if not replace and Path(target).exists() and not filecmp.cmp(tmp_path, target, shallow=False):
                raise InputError(f"{target} exists and is not what would be made here; make it again with --force")
    return Resampled(n_samples / audio_hz, peak, n_clipped, source_hz, channels)


@contextmanager
def _open(path: str | Path) -> Iterator[soundfile.SoundFile]:
    """Open an audio file; whatever libsndfile complains about while it is open becomes an InputError."""
    if not Path(path).is_file():
        raise InputError(f"{path}: no such audio file")
    with open(path, "rb"):  # libsndfile says only "System error" where permission is missing
        pass
    try:
        # as bytes where the system's names are bytes: they need not be text in any encoding
        with soundfile.SoundFile(path if os.name == "nt" else os.fsencode(path)) as opened:
            yield opened
    except soundfile.LibsndfileError as error:
        raise InputError(f"{path} cannot be read as audio: {error.error_string.strip() or 'damaged file'}") from error


def _blocks(path: str | Path, source: soundfile.SoundFile) -> Iterator[np.ndarray]:
    """An open file as blocks [<= BLOCK_FRAMES, channels]: int16 if it holds that, else float32 amplitudes.

    Raises InputError: truncated, empty, not finite.
    """
    _check_data_size(path, source)
    # libsndfile takes five times as long to hand out 16-bit samples as amplitudes as it takes to hand them out as are
    dtype = "int16" if source.subtype == "PCM_16" else "float32"
    n_frames = max(1, BLOCK_FRAMES // source.channels)  # a file may claim a thousand channels
    n_read = 0
    while len(block := source.read(n_frames, dtype=dtype, always_2d=True)):
        if dtype == "float32" and not (sane := np.abs(block) < LOUDEST).all():
            first = int(np.argmin(sane.all(axis=1)))
            finite = np.isfinite(block[first]).all()
            kind = f"samples beyond {LOUDEST:g} times full scale" if finite else "NaN or infinite samples"
            second = (n_read + first) / source.samplerate
            raise InputError(f"{path} has {kind}, the first at {second:.3f} s; export it again")
        n_read += len(block)
        yield block
    # the length of an MP3 without a Xing header is a guess from its bit rate, so a shorter one proves nothing
    if n_read < source.frames and source.format != "MP3":
        raise InputError(f"{path} is truncated: {n_read} of {source.frames} frames; copy it again")
    if not n_read:
        raise InputError(f"{path} is empty: it has no samples")


def _mono(block: np.ndarray) -> np.ndarray:
    """A block of `_blocks` -> float32 amplitudes [frames], channels averaged."""
    n_channels = block.shape[1]
    total = block[:, 0].astype(np.float32)
    for channel in range(1, n_channels):  # numpy's mean over so short an axis takes longer than the resampling
        total += block[:, channel]
    total *= np.float32(1 / (n_channels * (FULL_SCALE if block.dtype == np.int16 else 1)))
    return total


def _check_data_size(path: str | Path, source: soundfile.SoundFile) -> None:
    """Refuse a file cut short: libsndfile mends the size that the header states and mentions it in its log only."""
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
        import resampy  # compiles with numba: a second to import, for the two resamplers that few need

        whole = np.concatenate(list(blocks))
        if len(whole) * audio_hz >= source_hz:  # resampy has no answer for less than one output sample
            yield resampy.resample(whole, source_hz, audio_hz, filter=resampler)


@contextmanager
def _wav_writer(path: Path, audio_hz: int) -> Iterator[wave.Wave_write]:
    """A 16-bit mono wav to write to. The standard library's writer, because its OSErrors say that the disk is full."""
    with open(path, "wb") as handle, wave.open(handle, "wb") as wav:
        wav.setnchannels(1)
        wav.setsampwidth(2)
        wav.setframerate(audio_hz)
        yield wav
