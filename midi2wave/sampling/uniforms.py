"""Counter-based random numbers of the samplers: a pure function of seed, stream and time."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor


def seeded_uniforms(
    seed: int, streams: list[int], per_sample: int, device: torch.device | str = "cpu"
) -> Callable[[int, int], Tensor]:
    """The source of a sampler's randomness.

    A stream's values depend neither on its neighbours in the batch nor on the block size. They are odd multiples of
    2^-24, exact in float32 and never 0 or 1 (from 0 nv-wavenet draws a full-scale click).

    Args:
        seed: Seed of all streams, 0 or more.
        streams: Number of each stream of the batch.
        per_sample: Random numbers per sample, U (`WaveNet.uniforms_per_sample`).
        device: Where the numbers are needed.

    Returns:
        A function of the first sample and the number of samples n, which returns float32 [B, n, U] in (0, 1).
    """

    def uniforms(first: int, n: int) -> Tensor:
        begin, end = first * per_sample, (first + n) * per_sample
        rows = []
        for stream in streams:
            # Philox is counter-based: one count gives four 64-bit words, so that any stretch can be drawn directly.
            words = np.random.Philox(key=[seed, stream], counter=[begin // 4, 0, 0, 0]).random_raw(end - begin // 4 * 4)
            rows.append(words[begin % 4 :] >> np.uint64(41))
        odd = 2 * np.stack(rows).astype(np.float32) + 1
        return torch.from_numpy(odd / 2**24).view(len(streams), n, per_sample).to(device)

    return uniforms
