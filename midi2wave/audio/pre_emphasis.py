"""Pre-emphasis: the model predicts y[t] = g (x[t] - a x[t-1]) instead of the samples x[t].

The noise with which a WaveNet samples is white, while the spectrum of music falls off towards high frequencies, so that
the noise masks high notes. The spectrum of y is nearly white, and de-emphasis gives the noise the spectrum of music
(Valin and Skoglund, arXiv 1810.11846, section 3.2; Tachibana et al., ICASSP 2018). g = 1 / sqrt(1 - a) approximately
keeps the level of music. A coefficient a of 0 leaves everything as it is.
"""

import math

import numpy as np

from midi2wave.audio.mu_law import SILENT_CODE, mu_law_decode
from midi2wave.audio.one_pole import one_pole
from midi2wave.audio.pcm import round_to_int16


def gain(coefficient: float) -> float:
    """The factor g that approximately keeps the level of music."""
    return 1 / math.sqrt(1 - coefficient)


def emphasize(pcm: np.ndarray, coefficient: float) -> np.ndarray:
    """Apply pre-emphasis, as if silence came before.

    Args:
        pcm: int16 [..., T].
        coefficient: a of the formula, in 0..1.

    Returns:
        int16 [..., T]; values beyond full scale are clipped.
    """
    if not coefficient:
        return pcm
    from scipy.signal import lfilter

    return round_to_int16(lfilter([1.0, -coefficient], [1.0], pcm) * gain(coefficient))


class Deemphasis:
    """The inverse of `emphasize` for streams that arrive in blocks."""

    def __init__(self, coefficient: float) -> None:
        """Begin with silence.

        Args:
            coefficient: a of the formula.
        """
        self.coefficient = coefficient
        self.last: np.ndarray | None = None  # The last sample before each row's next block, not rounded, [B].

    def __call__(self, block: np.ndarray) -> np.ndarray:
        """De-emphasise the next block.

        Args:
            block: Pre-emphasised samples, int16 [B, n].

        Returns:
            Samples, int16 [B, n].
        """
        if not self.coefficient or not block.size:
            return block
        samples = one_pole(block / gain(self.coefficient), self.coefficient, self.last)
        self.last = samples[:, -1].copy()
        return round_to_int16(samples)


def mu_law_decode_preemphasized(codes: np.ndarray) -> np.ndarray:
    """`mu_law_decode` for a pre-emphasised signal: silence is decoded as 0.

    The middle of the bin of silence is 3, which de-emphasis would turn into a constant of 9 and more.

    Args:
        codes: Mu-law codes, uint8 [...].

    Returns:
        Pre-emphasised samples, int16 [...].
    """
    return np.where(codes == SILENT_CODE, 0, mu_law_decode(codes)).astype(np.int16)


def deemphasize_teacher_forced(samples: np.ndarray, pcm: np.ndarray, coefficient: float) -> np.ndarray:
    """De-emphasise teacher-forced samples using the true previous sample.

    Args:
        samples: Pre-emphasised samples, each predicted from the true ones before it, int16 [B, T].
        pcm: The true samples, not pre-emphasised, int16 [B, T].
        coefficient: a of the formula.

    Returns:
        int16 [B, T].
    """
    if not coefficient:
        return samples
    deemphasized = samples / gain(coefficient)
    deemphasized[:, 1:] += coefficient * pcm[:, :-1]
    return round_to_int16(deemphasized)
