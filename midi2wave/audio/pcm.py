"""16-bit PCM, the one form of audio between the modules: full scale, conversion from amplitudes, level, silence."""

import numpy as np

FULL_SCALE = 32768  # int16 samples per unit amplitude
# A stretch of this length is silent if its RMS lies below this level.
SILENCE_THRESHOLD_DB = -60
SILENCE_SECONDS = 0.02
MIN_LEVEL_DB = -120.0  # the level that `level_db` returns for digital silence


def to_pcm(samples: np.ndarray) -> tuple[np.ndarray, int]:
    """Amplitudes in [-1, 1), float [T] -> (int16 [T], how many lay outside and were clipped)."""
    scaled = np.rint(samples * FULL_SCALE)
    clipped = np.clip(scaled, -FULL_SCALE, FULL_SCALE - 1)
    return clipped.astype(np.int16), int(np.count_nonzero(scaled != clipped))


def silent_blocks(pcm: np.ndarray, audio_hz: int) -> np.ndarray:
    """int16 [T] -> which of its whole stretches of SILENCE_SECONDS are silent, bool [blocks].

    SILENCE_THRESHOLD_DB is relative to a full-scale square wave. The noise of a quiet room lies below it, the softest
    notes above it.
    """
    size = max(1, round(SILENCE_SECONDS * audio_hz))
    limit = 10 ** (SILENCE_THRESHOLD_DB / 10) * FULL_SCALE**2 * size
    stretches = pcm[: len(pcm) // size * size].reshape(-1, size)
    silent = np.empty(len(stretches), dtype=bool)
    for first in range(0, len(stretches), 4096):  # in blocks: as floats an hour would be 230 MB
        block = stretches[first : first + 4096].astype(np.float32)
        silent[first : first + 4096] = np.einsum("ij,ij->i", block, block) < limit
    return silent


def level_db(pcm: np.ndarray) -> float:
    """RMS of int16 [T] in dB relative to full scale (a full-scale square wave is 0); at least MIN_LEVEL_DB."""
    power = np.mean(np.square(pcm / FULL_SCALE)) if len(pcm) else 0.0
    return float(10 * np.log10(max(power, 10 ** (MIN_LEVEL_DB / 10))))
