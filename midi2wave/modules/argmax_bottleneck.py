"""The argmax autoencoder's bottleneck: each frame of the context becomes one of K codes.

    z [B, K, N] -> q = ReLU(z) / its sum over the codes -> one-hot of the largest -> scale, projection -> [B, C, N]

The decoder receives only the one-hot vector; the gradient goes to q as if q had been passed on instead
(straight-through). Source: arXiv 1806.10474, section 3.2.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Few features are not 0 in a frame. With the usual scale of initial weights, which assumes that all are used, frames
# differ by a hundredth of their mean: all of them get one code, and any step moves all of them to another.
INPUT_WEIGHT_GAIN = 10.0
# Added to the sum that z is divided by: q is uniform where no z is positive, and its gradient finite.
MIN_SUM = 1e-3
# Lower limit of the standard deviation that initial logits are divided by.
MIN_DEVIATION = 1e-6


class ArgmaxBottleneck(nn.Module):
    """Argmax quantiser: logits to one-hot codes to projected context, with a straight-through gradient.

    Args:
        n_codes: Number of codes, K.
        n_channels: Channels of the context, C.
        scale: Length of the one-hot vector.
    """

    def __init__(self, n_codes: int, n_channels: int, scale: float) -> None:
        super().__init__()
        self.n_codes = n_codes
        self.scale = scale
        self.projection = nn.Conv1d(n_codes, n_channels, 1)

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """The context of logits, and the loss of an uneven use of the codes.

        The loss is the `diversity_loss` of q, as in the paper, plus that of the codes: the former alone is 0 also for
        frames that are all divided evenly, in which one code may still be slightly the largest everywhere.

        Args:
            z: Logits, [B, K, N].

        Returns:
            The context [B, C, N], and the loss, a number.
        """
        q = normalized_relu(z.to(self.projection.weight.dtype))  # also under autocast
        code = self._one_hot(codes_of(z)) + (q - q.detach())  # The difference is exactly 0.
        return self.projection(code * self.scale), diversity_loss(q) + diversity_loss(code)

    def context(self, codes: Tensor) -> Tensor:
        """The context [B, C, N] of codes, int64 [B, N]: that of `forward` for frames with these codes."""
        return self.projection(self._one_hot(codes) * self.scale)

    def _one_hot(self, codes: Tensor) -> Tensor:
        return F.one_hot(codes, self.n_codes).transpose(1, 2).to(self.projection.weight.dtype)


def normalized_relu(z: Tensor) -> Tensor:
    """The distribution q [B, K, N] of logits z: ReLU(z) over its sum across the codes of a frame.

    MIN_SUM is added to the sum and, divided evenly, to each of its parts: without a positive z all codes are equal.
    """
    positive = torch.relu(z)
    return (positive + MIN_SUM / z.shape[1]) / (positive.sum(dim=1, keepdim=True) + MIN_SUM)


def codes_of(z: Tensor) -> Tensor:
    """The code of each frame, int64 [B, N], of logits z [B, K, N]: the one with the largest q, or the largest z."""
    return z.argmax(dim=1)


def init_codebook(frames: Tensor, n_codes: int) -> tuple[Tensor, Tensor]:
    """Initial weights of the logits, with which most codes are in use.

    K of the frames, evenly spaced, are centres; a frame's largest logit is that of the nearest centre c, since
    |h - c|^2 is least where c h - |c|^2 / 2 is largest. The logits have a standard deviation of 1, and about half of
    them are positive.

    Args:
        frames: Inputs h of the layer that computes the logits, [M, S].
        n_codes: Number of codes, K.

    Returns:
        Weight [K, S] and bias [K].
    """
    mean = frames.mean(dim=0)
    centres = frames[torch.linspace(0, len(frames) - 1, n_codes).round().long()] - mean
    half = centres.square().sum(dim=1) / 2
    bias = half.mean() - half - centres @ mean
    scale = 1 / (frames @ centres.t() + bias).std().clamp(min=MIN_DEVIATION)
    return centres * scale, bias * scale


def diversity_loss(q: Tensor) -> Tensor:
    """How unevenly a batch is distributed over the codes: the mean over k of (K mean_q_k - 1)^2.

    The paper has the sum instead of the mean, which grows with K. This one is 0 if all codes are equally frequent, 1 if
    half of them are, K - 1 if there is only one: K over the number of codes in use, minus 1.

    Args:
        q: Distributions, [B, K, N].

    Returns:
        A number.
    """
    return (q.shape[1] * q.mean(dim=(0, 2)) - 1).square().mean()


def codebook_usage(counts: np.ndarray) -> dict[str, float]:
    """The fraction of codes that are in use, and the perplexity of their distribution, 1..K.

    Args:
        counts: How often each code was used, [K].
    """
    p = counts[counts > 0] / counts.sum()
    return {"code_usage": len(p) / len(counts), "code_perplexity": float(np.exp(-np.sum(p * np.log(p))))}
