"""Mu-law companding: 16-bit PCM to 256 codes and back (WaveNet, arXiv 1609.03499, section 2.2)."""

import numpy as np

from midi2wave.audio.pcm import FULL_SCALE, to_pcm

MU = 255
# The mu-law code of a sample of 0.
SILENT_CODE = 128


def mu_law_encode(pcm: np.ndarray) -> np.ndarray:
    """Compand samples by the continuous form of ITU-T G.711, rounded to codes as nv-wavenet does.

    Args:
        pcm: int16 [...].

    Returns:
        Mu-law codes 0 to 255, uint8 [...].
    """
    amplitude = pcm.astype(np.float64) / FULL_SCALE
    companded = np.sign(amplitude) * np.log1p(MU * np.abs(amplitude)) / np.log1p(MU)
    return ((companded + 1) / 2 * MU + 0.5).astype(np.uint8)


def mu_law_decode(codes: np.ndarray) -> np.ndarray:
    """Expand mu-law codes; `mu_law_encode` returns the same codes again.

    Args:
        codes: 0 to 255 [...]: integers, or floats, which may lie between two codes.

    Returns:
        The sample that each code stands for, int16 [...].
    """
    companded = 2 * codes.astype(np.float64) / MU - 1
    amplitude = np.sign(companded) * np.expm1(np.abs(companded) * np.log1p(MU)) / MU
    return to_pcm(amplitude)[0]


def _code_edges() -> np.ndarray:
    """See CODE_EDGES."""
    companded = 2 * (np.arange(1, MU + 1) - 0.5) / MU - 1
    amplitude = np.sign(companded) * np.expm1(np.abs(companded) * np.log1p(MU)) / MU
    return np.concatenate([[-np.inf], amplitude * FULL_SCALE, [np.inf]])


# Code c stands for the amplitudes from CODE_EDGES[c] to CODE_EDGES[c + 1], in steps of 16 bits; float64 [257]. The
# lowest and the highest code reach to infinity.
CODE_EDGES = _code_edges()
