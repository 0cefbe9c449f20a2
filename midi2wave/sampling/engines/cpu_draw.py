"""From distribution parameters to samples in the kernel: guidance, then a draw as `logistic_mixture` makes it."""

import numpy as np
from numba import njit

from midi2wave.sampling.engines.simd import exp16, max16, sum16


@njit(nogil=True, forceinline=True)
def _draw_code(logits, first, uniform, temperature, mass):
    """Inverse of the cumulative distribution in code order, as `logistic_mixture.from_cumulative` does."""
    if temperature != 1:
        for c in range(first, first + 256):
            logits[c] = logits[c] / temperature
    largest = logits[first]
    for c in range(0, 256, 16):
        largest = max(largest, max16(logits, first + c))
    total = 0.0
    for c in range(0, 256, 16):
        exp16(mass, c, logits, first + c, largest)
        total += sum16(mass, c)
    threshold = uniform * np.float32(total)
    below, c = 0.0, 0
    while c < 240:  # the 16 codes with the wanted one among them, then that one
        through = below + sum16(mass, c)
        if np.float32(through) > threshold:
            break
        below, c = through, c + 16
    while c < 255:
        below += np.float64(mass[c])
        if np.float32(below) > threshold:
            break
        c += 1
    return c


@njit(nogil=True, forceinline=True)
def _draw_amplitude(params, first, n, choice, quantile, temperature):
    """Component, then the logistic's quantile, as `logistic_mixture.sample` does."""
    largest = params[first]
    for k in range(1, n):
        largest = max(largest, params[first + k])
    total = 0.0
    for k in range(n):
        total += np.float64(np.exp((params[first + k] - largest) / temperature))
    threshold = choice * np.float32(total)
    below, chosen = 0.0, 0
    while chosen < n - 1:
        below += np.float64(np.exp((params[first + chosen] - largest) / temperature))
        if np.float32(below) > threshold:
            break
        chosen += 1
    scale = np.exp(max(params[first + 2 * n + chosen], np.float32(-12)) + np.log(temperature))
    amplitude = params[first + n + chosen] + scale * np.log(quantile / (np.float32(1) - quantile))
    value = np.floor(amplitude * np.float32(32768) + np.float32(0.5))
    return np.int64(min(max(value, np.float32(-32768)), np.float32(32767)))


@njit(nogil=True, forceinline=True)
def _lerp(null, own, weight):
    """As torch.lerp, exact at 0 and 1."""
    if weight < np.float32(0.5):
        return null + weight * (own - null)
    return own - (own - null) * (np.float32(1) - weight)


@njit(nogil=True, forceinline=True)
def _guide(params, own, null, n_params, n_mixtures, guidance):
    """Leave the guided parameters in the place of a stream's own, as `WaveNet.guide` does."""
    if n_mixtures == 0:
        for p in range(n_params):
            params[own + p] = _lerp(params[null + p], params[own + p], guidance)
        return
    n, within, moved = n_mixtures, min(guidance, np.float32(1)), np.float32(0)
    if guidance > 1:
        largest = params[own]
        for k in range(1, n):
            largest = max(largest, params[own + k])
        total = np.float32(0)
        for k in range(n):
            mass = np.exp(params[own + k] - largest)
            total += mass
            moved += mass * (params[own + n + k] - params[null + n + k])
        moved *= (guidance - within) / total
    for k in range(n):
        params[own + k] = _lerp(params[null + k], params[own + k], guidance)
        params[own + n + k] = _lerp(params[null + n + k], params[own + n + k], within) + moved
        params[own + 2 * n + k] = _lerp(params[null + 2 * n + k], params[own + 2 * n + k], within)


@njit(nogil=True, forceinline=True)
def draw(weights, team, block, i):
    """Draw the samples of all streams, and make them (or the given ones) the newest of all their rows."""
    taps, n_drawn = weights.n_taps, block.n_drawn
    for s in range(n_drawn):
        at, first = i * n_drawn + s, s * weights.n_outputs
        if n_drawn < block.n_streams:
            null = first + n_drawn * weights.n_outputs
            _guide(team.params, first, null, weights.n_params, weights.n_mixtures, block.guidance)
        if block.keep_params:
            for p in range(weights.n_params):
                block.params[at * weights.n_params + p] = team.params[first + p]
        if weights.n_mixtures:
            sample = _draw_amplitude(team.params, first, weights.n_mixtures, block.uniforms[2 * at],
                                     block.uniforms[2 * at + 1], block.temperature)  # fmt: skip
        else:
            sample = _draw_code(team.params, first, block.uniforms[at], block.temperature, team.mass)
        block.drawn[at] = sample
        for row in range(s, block.n_streams, n_drawn):
            for k in range(taps - 1):
                team.recent[row * taps + k] = team.recent[row * taps + k + 1]
            team.recent[row * taps + taps - 1] = block.given[at] if block.is_given else sample
