"""Mu-law companding: 16-bit PCM to 256 codes and back."""

import numpy as np

from midi2wave.audio.pcm import FULL_SCALE, to_pcm

MU = 255
SILENT_CODE = 128


def mu_law_encode(pcm: np.ndarray) -> np.ndarray:
    """int16 [...] -> 256 mu-law codes, uint8 [...]; silence is 128.

    The continuous form of ITU-T G.711 (WaveNet, arXiv:1609.03499, section 2.2), rounded to codes as nv-wavenet does.
    """
    amplitude = pcm.astype(np.float64) / FULL_SCALE
    companded = np.sign(amplitude) * np.log1p(MU * np.abs(amplitude)) / np.log1p(MU)
    return ((companded + 1) / 2 * MU + 0.5).astype(np.uint8)


def mu_law_decode(codes: np.ndarray) -> np.ndarray:
    """Codes 0 to 255 [...] -> int16 [...], the amplitude each code stands for; `mu_law_encode` gives the code back."""
    companded = 2 * codes.astype(np.float64) / MU - 1
    amplitude = np.sign(companded) * np.expm1(np.abs(companded) * np.log1p(MU)) / MU
    return to_pcm(amplitude)[0]
