"""16-bit mono PCM, the form of audio between the modules: full scale, conversion from amplitudes, level, silence."""

import numpy as np

# int16 samples per unit amplitude.
FULL_SCALE = 32768
# A block of SILENCE_SECONDS is silent if its RMS is below this level relative to a full-scale square wave. The noise of
# a quiet room lies below it, the softest notes above it.
SILENCE_THRESHOLD_DB = -60
SILENCE_SECONDS = 0.02
# The level that `level_db` returns for digital silence.
DIGITAL_SILENCE_DB = -120.0
# Samples are converted to float in parts of so many blocks: an hour at once would take 230 MB.
_BLOCKS_AT_ONCE = 4096


def to_pcm(samples: np.ndarray) -> tuple[np.ndarray, int]:
    """Round amplitudes to 16-bit samples.

    Args:
        samples: Amplitudes in [-1, 1), float [T].

    Returns:
        int16 [T], and how many of them lay outside the range and were clipped.
    """
    scaled = np.rint(samples * FULL_SCALE)
    clipped = np.clip(scaled, -FULL_SCALE, FULL_SCALE - 1)
    return clipped.astype(np.int16), int(np.count_nonzero(scaled != clipped))


def silent_blocks(pcm: np.ndarray, audio_hz: int) -> np.ndarray:
    """Which blocks of SILENCE_SECONDS are silent.

    Args:
        pcm: int16 [T].
        audio_hz: Sample rate.

    Returns:
        bool [N], one for each whole block.
    """
    block_size = max(1, round(SILENCE_SECONDS * audio_hz))
    max_energy = 10 ** (SILENCE_THRESHOLD_DB / 10) * FULL_SCALE**2 * block_size
    blocks = pcm[: len(pcm) // block_size * block_size].reshape(-1, block_size)
    silent = np.empty(len(blocks), dtype=bool)
    for first in range(0, len(blocks), _BLOCKS_AT_ONCE):
        part = blocks[first : first + _BLOCKS_AT_ONCE].astype(np.float32)
        silent[first : first + _BLOCKS_AT_ONCE] = np.einsum("ij,ij->i", part, part) < max_energy
    return silent


def level_db(pcm: np.ndarray) -> float:
    """RMS level in dB relative to a full-scale square wave, at least DIGITAL_SILENCE_DB.

    Args:
        pcm: int16 [T].
    """
    power = np.mean(np.square(pcm / FULL_SCALE)) if len(pcm) else 0.0
    return float(10 * np.log10(max(power, 10 ** (DIGITAL_SILENCE_DB / 10))))


def round_to_int16(values: np.ndarray) -> np.ndarray:
    """Round values in units of 16-bit samples; what lies beyond full scale is clipped."""
    return np.clip(np.rint(values), -FULL_SCALE, FULL_SCALE - 1).astype(np.int16)
