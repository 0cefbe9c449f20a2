"""Pre-emphasis: the model is shown, predicts and draws y[t] = g (x[t] - a x[t-1]) in the place of the samples x[t].

What a WaveNet draws at random is white: of the same level at all frequencies, where music falls off towards the high
ones, so that high notes drown. Of y, which is nearly white itself, the same noise is music-shaped after de-emphasis
(Valin and Skoglund, arXiv 1810.11846, section 3.2; Tachibana et al., ICASSP 2018). g = 1 / sqrt(1 - a) about keeps the
level of music. A coefficient a of 0 leaves everything as it is.
"""

import math

import numpy as np

from midi2wave.audio.mu_law import SILENT_CODE, mu_law_decode
from midi2wave.audio.pcm import FULL_SCALE

NEGLIGIBLE = 1e-12  # of an echo: below a float64's rounding error at full scale


def gain(coefficient: float) -> float:
    """g of this module's formula."""
    return 1 / math.sqrt(1 - coefficient)


def emphasize(pcm: np.ndarray, coefficient: float) -> np.ndarray:
    """int16 [..., T] -> int16 [..., T], as if silence stood before; what exceeds full scale is clipped."""
    if not coefficient:
        return pcm
    changes = pcm.astype(np.float64)
    changes[..., 1:] -= coefficient * pcm[..., :-1]
    return _rounded(changes * gain(coefficient))


class Deemphasis:
    """The inverse of `emphasize` for streams that arrive in blocks."""

    def __init__(self, coefficient: float) -> None:
        self.coefficient, self.last = coefficient, 0.0  # the amplitudes after the block before, [B]

    def __call__(self, block: np.ndarray) -> np.ndarray:
        """The next int16 [B, n] -> int16 [B, n]."""
        if not self.coefficient or not block.size:
            return block
        sound = block / gain(self.coefficient)
        sound[:, 0] += self.coefficient * self.last
        # 1 / (1 - a z^-1) = (1 + a z^-1) (1 + a^2 z^-2) (1 + a^4 z^-4) ...: a few vector sums in place of a recursion
        delay, factor = 1, self.coefficient
        while delay < sound.shape[1] and factor > NEGLIGIBLE:
            sound[:, delay:] += factor * sound[:, :-delay]
            delay, factor = 2 * delay, factor**2
        self.last = sound[:, -1].copy()
        return _rounded(sound)


def mu_law_decode_preemphasized(codes: np.ndarray) -> np.ndarray:
    """`mu_law_decode` of a model with pre-emphasis, uint8 [...] -> int16 [...]: silence is 0, where the middle of its
    code's bin, 3, would become a constant of 9 and more."""
    return np.where(codes == SILENT_CODE, 0, mu_law_decode(codes)).astype(np.int16)


def deemphasize_teacher_forced(drawn: np.ndarray, pcm: np.ndarray, coefficient: float) -> np.ndarray:
    """Samples that were each drawn after true ones, and these, int16 [B, T] -> what was drawn, as int16 [B, T]."""
    if not coefficient:
        return drawn
    sound = drawn / gain(coefficient)
    sound[:, 1:] += coefficient * pcm[:, :-1]
    return _rounded(sound)


def _rounded(values: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(values), -FULL_SCALE, FULL_SCALE - 1).astype(np.int16)
