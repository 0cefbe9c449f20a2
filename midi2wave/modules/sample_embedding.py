"""The decoder's input layer: from the latest samples to the first residual layer's input."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from midi2wave.audio.mu_law import MU, SILENT_CODE
from midi2wave.audio.pcm import FULL_SCALE

N_CODES = MU + 1  # Codes of mu-law companding.


class SampleEmbedding(nn.Linear):
    """A linear layer over the latest samples, each as its amplitude and companded value or as a one-hot code.

    Args:
        n_taps: Latest samples that are its input, K.
        n_out: Channels of its output, R.
        mixture: Whether samples are 16-bit values; otherwise they are mu-law codes.
    """

    def __init__(self, n_taps: int, n_out: int, *, mixture: bool) -> None:
        super().__init__(n_taps * (2 if mixture else N_CODES), n_out)
        self.n_taps = n_taps
        self.mixture = mixture

    @property
    def silence(self) -> int:
        """The value of a silent sample, which precedes the first one."""
        return 0 if self.mixture else SILENT_CODE

    def forward(self, samples: Tensor) -> Tensor:
        """Map samples to the first layer's input.

        Args:
            samples: Integers, or float32 values that may have a fraction, [..., K], oldest first. Between two codes the
                vectors of both are interpolated.

        Returns:
            [..., R].
        """
        if not self.mixture:  # A look-up in a table for each tap: the product with a one-hot vector.
            tables = self.weight.t().split(N_CODES)
            embedded = [_look_up(samples[..., k], tables[k]) for k in range(self.n_taps)]
            return sum(embedded[1:], embedded[0]) + self.bias
        # Quiet passages lie within a thousandth of the range. The mu-law companded value (WaveNet, section 2.2), in
        # which they are as wide as loud ones, is given beside the amplitude.
        amplitude = samples.to(self.weight.dtype) / FULL_SCALE
        companded = torch.sign(amplitude) * torch.log1p(MU * amplitude.abs()) / math.log(N_CODES)
        return super().forward(torch.stack([amplitude, companded], dim=-1).flatten(-2))

    def amplitudes(self, samples: Tensor) -> Tensor:
        """Sample values as amplitudes, float32 of the same shape, 1 at full scale (codes as `mu_law_decode`)."""
        if self.mixture:
            return samples.float() / FULL_SCALE
        companded = 2 * samples.float() / MU - 1
        return companded.sign() * torch.expm1(companded.abs() * math.log(N_CODES)) / MU


def _look_up(codes: Tensor, table: Tensor) -> Tensor:
    """Rows of a table, or between two rows, [...] -> [..., R]."""
    if not codes.is_floating_point():
        return F.embedding(codes, table)
    below = codes.floor()
    row = below.long().clamp(0, N_CODES - 1)  # NaN, of weights that are not finite, is some code.
    own, after = F.embedding(row, table), F.embedding((row + 1).clamp(max=N_CODES - 1), table)
    return own.lerp(after, (codes - below).to(table.dtype).unsqueeze(-1))
