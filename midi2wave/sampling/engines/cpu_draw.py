"""Guidance and sampling from parameters inside the CPU engine's kernel, as `logistic_mixture` does them."""

from typing import Any

import numpy as np
from numba import njit

from midi2wave.audio.pcm import FULL_SCALE
from midi2wave.sampling.engines.simd_elementwise import exp16, max16, sum16


@njit(nogil=True, forceinline=True)
def _draw_code(
    logits: Any, first: int, uniform: np.float32, temperature: np.float32, takes_mean: bool, mass: Any
) -> Any:
    """Draw a code as `logistic_mixture.from_cumulative` does, in code order, or the mean as `mean_class`."""
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
    if takes_mean:
        return _mean_code(mass, total)
    threshold = uniform * np.float32(total)
    below, c = 0.0, 0
    while c < 240:  # First the group of 16 codes that holds the code, then the code itself.
        through = below + sum16(mass, c)
        if np.float32(through) > threshold:
            break
        below, c = through, c + 16
    while c < 255:
        below += np.float64(mass[c])
        if np.float32(below) > threshold:
            break
        c += 1
    return np.float32(c)


@njit(nogil=True, forceinline=True)
def _mean_code(mass: Any, total: float) -> Any:
    """The mean code of 256 masses, as `logistic_mixture.mean_class` computes it."""
    # Four sums, so that an addition need not wait for the one before.
    a, b, c, d = 0.0, 0.0, 0.0, 0.0
    for code in range(0, 256, 4):
        a += np.float64(code) * np.float64(mass[code])
        b += np.float64(code + 1) * np.float64(mass[code + 1])
        c += np.float64(code + 2) * np.float64(mass[code + 2])
        d += np.float64(code + 3) * np.float64(mass[code + 3])
    # In this order NaN, of weights that are not finite, becomes 0: the code chooses a row of a table.
    return np.float32(min(max(0.0, ((a + b) + (c + d)) / total), 255.0))


@njit(nogil=True, forceinline=True)
def _mean_amplitude(params: Any, first: int, n: int, temperature: np.float32) -> Any:
    """The mean of a mixture in units of 16-bit samples, as `logistic_mixture.mean_sample` computes it."""
    largest = params[first]
    for k in range(1, n):
        largest = max(largest, params[first + k])
    total, mean = 0.0, 0.0
    for k in range(n):
        mass = np.float64(np.exp((params[first + k] - largest) / temperature))
        total += mass
        mean += mass * np.float64(params[first + n + k])
    value = mean / total * FULL_SCALE
    return np.float32(min(max(float(-FULL_SCALE), value), float(FULL_SCALE - 1)))


@njit(nogil=True, forceinline=True)
def _draw_amplitude(
    params: Any, first: int, n: int, choice: np.float32, quantile: np.float32, temperature: np.float32
) -> Any:
    """Draw a component, then the logistic's quantile, as `logistic_mixture.sample` does."""
    largest = params[first]
    for k in range(1, n):
        largest = max(largest, params[first + k])
    total = 0.0
    for k in range(n):
        total += np.float64(np.exp((params[first + k] - largest) / temperature))
    threshold = choice * np.float32(total)
    below, component = 0.0, 0
    while component < n - 1:
        below += np.float64(np.exp((params[first + component] - largest) / temperature))
        if np.float32(below) > threshold:
            break
        component += 1
    scale = np.exp(max(params[first + 2 * n + component], np.float32(-12)) + np.log(temperature))
    amplitude = params[first + n + component] + scale * np.log(quantile / (np.float32(1) - quantile))
    value = np.floor(amplitude * np.float32(FULL_SCALE) + np.float32(0.5))
    return min(max(value, np.float32(-FULL_SCALE)), np.float32(FULL_SCALE - 1))


@njit(nogil=True, forceinline=True)
def _lerp(null: np.float32, own: np.float32, weight: np.float32) -> np.float32:
    """Interpolate as torch.lerp does, exactly at 0 and 1."""
    if weight < np.float32(0.5):
        return null + weight * (own - null)
    return own - (own - null) * (np.float32(1) - weight)


@njit(nogil=True, forceinline=True)
def _guide(params: Any, own: int, null: int, n_params: int, n_mixtures: int, guidance: np.float32) -> None:
    """Overwrite a stream's parameters with the guided ones, as `WaveNet.guide` does."""
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
def draw(weights: Any, group: Any, block: Any, i: int, copy: int) -> None:
    """Draw the samples of all streams, and append them (or the teacher's samples) to the past of all their rows."""
    taps, n_streams = weights.n_taps, block.n_streams
    for s in range(n_streams):
        at, first = i * n_streams + s, (copy * block.n_rows + s) * weights.n_outputs
        if n_streams < block.n_rows:
            null = first + n_streams * weights.n_outputs
            _guide(group.params, first, null, weights.n_params, weights.n_mixtures, block.guidance)
        if block.keep_params:
            for p in range(weights.n_params):
                block.params[at * weights.n_params + p] = group.params[first + p]
        if weights.n_mixtures:
            choice, quantile = block.uniforms[2 * at], block.uniforms[2 * at + 1]
            if block.takes_mean:
                sample = _mean_amplitude(group.params, first, weights.n_mixtures, block.temperature)
            else:
                sample = _draw_amplitude(group.params, first, weights.n_mixtures, choice, quantile, block.temperature)
        else:
            uniform = block.uniforms[at]
            sample = _draw_code(group.params, first, uniform, block.temperature, block.takes_mean, group.mass)
        block.samples[at] = sample
        for row in range(s, block.n_rows, n_streams):
            for k in range(taps - 1):
                group.recent[row * taps + k] = group.recent[row * taps + k + 1]
            group.recent[row * taps + taps - 1] = block.teacher_samples[at] if block.teacher_forcing else sample
