"""The argmax autoencoder's bottleneck: each frame of the context becomes one of K codes.

    z [B, K, N] -> q = ReLU(z) / its sum over the codes -> one-hot of the largest -> scale, projection -> [B, C, N]

The decoder hears the one-hot vector and nothing else; the gradient goes to q as if that had been heard instead
(straight-through). Source: arXiv 1806.10474, section 3.2.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

FLOOR = 1e-3  # of the sum that z is divided by: q is uniform where no z is positive, and its gradient finite


class ArgmaxBottleneck(nn.Module):
    """From what the context stack says of every code to the context of the codes that it says most of."""

    def __init__(self, n_codes: int, n_channels: int, scale: float) -> None:
        super().__init__()
        self.n_codes, self.scale = n_codes, scale
        self.projection = nn.Conv1d(n_codes, n_channels, 1)

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """z [B, K, N] -> context [B, C, N], and q [B, K, N] for `diversity_loss`."""
        q = shares(z.to(self.projection.weight.dtype))  # also under autocast
        one_hot = self._one_hot(codes_of(z))
        return self.projection((one_hot + (q - q.detach())) * self.scale), q  # in brackets: exactly 0

    def context(self, codes: Tensor) -> Tensor:
        """Codes, int64 [B, N] -> what `forward` makes of the frames that have them: context [B, C, N]."""
        return self.projection(self._one_hot(codes) * self.scale)

    def _one_hot(self, codes: Tensor) -> Tensor:
        return F.one_hot(codes, self.n_codes).transpose(1, 2).to(self.projection.weight.dtype)


def shares(z: Tensor) -> Tensor:
    """z [B, K, N] -> q [B, K, N]: ReLU(z) over its sum across the codes of a frame, which is 1 for q.

    FLOOR stands in the sum and, shared out evenly, in each of its parts: without a positive z all codes are alike.
    """
    positive = torch.relu(z)
    return (positive + FLOOR / z.shape[1]) / (positive.sum(dim=1, keepdim=True) + FLOOR)


def codes_of(z: Tensor) -> Tensor:
    """z [B, K, N] -> the code of each frame, int64 [B, N]: that of the largest q, or of the least negative z."""
    return z.argmax(dim=1)


def diversity_loss(q: Tensor) -> Tensor:
    """How unevenly the codes are used in a batch, q [B, K, N]: the mean over k of (K mean_q_k - 1)^2, a number.

    The paper has the sum in place of the mean, which grows with K. This one is 0 if all codes are used alike, 1 if
    half of them are, K - 1 if one of them is: K over the number of codes in use, less 1.
    """
    return (q.shape[1] * q.mean(dim=(0, 2)) - 1).square().mean()


def code_use(counts: np.ndarray) -> dict[str, float]:
    """How often each code was chosen, [K] -> the share of codes that were, and the perplexity of the choice, 1..K."""
    p = counts[counts > 0] / counts.sum()
    return {"code_usage": len(p) / len(counts), "code_perplexity": float(np.exp(-np.sum(p * np.log(p))))}
