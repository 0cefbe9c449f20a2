"""The argmax autoencoder's bottleneck: each frame of the context becomes one of K codes.

    z [B, K, N] -> q = ReLU(z) / its sum over the codes -> one-hot of the largest -> scale, projection -> [B, C, N]

The decoder hears the one-hot vector and nothing else; the gradient goes to q as if that had been heard instead
(straight-through). Source: arXiv 1806.10474, section 3.2.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Of the features few are not 0 in a frame. At the usual scale of the first weights, which counts on all of them, frames
# differ by a hundredth of what they have in common: one code takes them all, and any step moves them all to another.
INPUT_WEIGHT_GAIN = 10.0
# Added to the sum that z is divided by: q is uniform where no z is positive, and its gradient finite.
MIN_SUM = 1e-3


class ArgmaxBottleneck(nn.Module):
    """From what the context stack says of every code to the context of the codes that it says most of."""

    def __init__(self, n_codes: int, n_channels: int, scale: float) -> None:
        super().__init__()
        self.n_codes, self.scale = n_codes, scale
        self.projection = nn.Conv1d(n_codes, n_channels, 1)

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """z [B, K, N] -> context [B, C, N], and the loss that asks for all codes to be used alike, a number.

        It is the `diversity_loss` of q, as in the paper, and that of the codes: the former alone is content with frames
        that are all divided evenly, in which one code may still be a little ahead everywhere.
        """
        q = normalized_relu(z.to(self.projection.weight.dtype))  # also under autocast
        code = self._one_hot(codes_of(z)) + (q - q.detach())  # in brackets: exactly 0
        return self.projection(code * self.scale), diversity_loss(q) + diversity_loss(code)

    def context(self, codes: Tensor) -> Tensor:
        """Codes, int64 [B, N] -> what `forward` makes of the frames that have them: context [B, C, N]."""
        return self.projection(self._one_hot(codes) * self.scale)

    def _one_hot(self, codes: Tensor) -> Tensor:
        return F.one_hot(codes, self.n_codes).transpose(1, 2).to(self.projection.weight.dtype)


def normalized_relu(z: Tensor) -> Tensor:
    """z [B, K, N] -> q [B, K, N]: ReLU(z) over its sum across the codes of a frame, which is 1 for q.

    MIN_SUM stands in the sum and, shared out evenly, in each of its parts: without a positive z all codes are alike.
    """
    positive = torch.relu(z)
    return (positive + MIN_SUM / z.shape[1]) / (positive.sum(dim=1, keepdim=True) + MIN_SUM)


def codes_of(z: Tensor) -> Tensor:
    """z [B, K, N] -> the code of each frame, int64 [B, N]: that of the largest q, or of the least negative z."""
    return z.argmax(dim=1)


def init_codebook(frames: Tensor, n_codes: int) -> tuple[Tensor, Tensor]:
    """Weight [K, S] and bias [K] of a z that is largest for the nearest of K centres, which are some of these frames,
    [M, S], evenly spaced: codes to begin with, of which most are in use.

    |h - c|^2 is least where c h - |c|^2 / 2 is largest. z has a standard deviation of 1; about half of it is positive.
    """
    mean = frames.mean(dim=0)
    centres = frames[torch.linspace(0, len(frames) - 1, n_codes).round().long()] - mean
    half = centres.square().sum(dim=1) / 2
    bias = half.mean() - half - centres @ mean
    scale = 1 / (frames @ centres.t() + bias).std().clamp(min=1e-6)
    return centres * scale, bias * scale


def diversity_loss(q: Tensor) -> Tensor:
    """How unevenly a batch q [B, K, N] is shared out among the codes: the mean over k of (K mean_q_k - 1)^2, a number.

    The paper has the sum in place of the mean, which grows with K. This one is 0 if all codes have the same, 1 if half
    of them have it, K - 1 if one of them has: K over the number of codes in use, less 1.
    """
    return (q.shape[1] * q.mean(dim=(0, 2)) - 1).square().mean()


def codebook_usage(counts: np.ndarray) -> dict[str, float]:
    """How often each code was chosen, [K] -> the share of codes that were, and the perplexity of the choice, 1..K."""
    p = counts[counts > 0] / counts.sum()
    return {"code_usage": len(p) / len(counts), "code_perplexity": float(np.exp(-np.sum(p * np.log(p))))}
