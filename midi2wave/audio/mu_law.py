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
        codes: 0 to 255, integers [...].

    Returns:
        The sample that each code stands for, int16 [...].
    """
    return to_pcm(_expand(codes))[0]


def mu_law_decode_between(codes: np.ndarray) -> np.ndarray:
    """Expand codes that may lie between two codes, minus what the code of silence stands for.

    Zero is 127.5, the edge between the codes 127 and 128, and silence is rounded to 128, which stands for 3. A signal
    that moves through all values keeps a constant of -3, which `DcBlocker` removes. (Were only 128 decoded as 0, as
    `mu_law_decode_preemphasized` does, quiet sound would be distorted.)

    Args:
        codes: 0 to 255, floats [...].

    Returns:
        int16 [...].
    """
    return to_pcm(_expand(codes) - _expand(np.array(SILENT_CODE)))[0]


def _expand(codes: np.ndarray) -> np.ndarray:
    """The amplitudes that codes stand for, in -1..1."""
    companded = 2 * codes.astype(np.float64) / MU - 1
    return np.sign(companded) * np.expm1(np.abs(companded) * np.log1p(MU)) / MU


def _code_edges() -> np.ndarray:
    """See CODE_EDGES."""
    return np.concatenate([[-np.inf], _expand(np.arange(1, MU + 1) - 0.5) * FULL_SCALE, [np.inf]])


# Code c stands for the amplitudes from CODE_EDGES[c] to CODE_EDGES[c + 1], in steps of 16 bits; float64 [257]. The
# lowest and the highest code reach to infinity.
CODE_EDGES = _code_edges()
