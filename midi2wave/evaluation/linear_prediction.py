"""Likelihood of a recording by linear prediction: what a textbook filter, without notes, knows of the next sample.

A model whose NLL is above this one uses its past samples worse than the filter does.
"""

import numpy as np

from midi2wave.audio.mu_law import CODE_EDGES, mu_law_decode
from midi2wave.audio.pcm import FULL_SCALE

ORDER = 256
# The filter is fitted to so much of the past, and scored on what follows.
FIT_SECONDS = 0.4
SCORED_SECONDS = 0.1
# Share of the probability that is uniform over all values. Without it, one attack after silence would decide the mean.
UNIFORM_SHARE = 1e-3
# White noise of this power relative to the signal keeps the equations solvable.
RIDGE = 1e-9
# Steps of 16 bits; the mean error of a value that was rounded to 16 bits is no smaller.
MIN_SCALE = 0.25


def negative_log_likelihood(samples: np.ndarray, audio_hz: int, *, codes: bool, first: int = 0) -> np.ndarray:
    """Negative log-likelihood of samples by linear prediction, in the units of a model.

    The samples from `first` on are scored in blocks of 0.1 s (the last may be shorter). For each block:

    1. The past is the 0.4 s before it: y[t], what each sample stands for (`mu_law_decode` of a code), in steps of 16
       bits. Before the first sample y is 0.
    2. The filter y'[t] = sum_k a[k] y[t - k], k = 1..256, is fitted by the autocorrelation method: a solves the
       Toeplitz system of r[|i - j|] a[j] = r[i], where r[k] is the sum of y[t] y[t - k] over the past (no window), and
       r[0] of the matrix is multiplied by 1 + 1e-9. A silent past has a = 0.
    3. The errors y[t] - y'[t] are taken to be Laplace distributed. Their scale b is the mean of |y[t] - y'[t]| over the
       samples of the past, and at least 0.25 (also where there is no past).
    4. Each sample of the block is predicted from the true ones before it. The probability of its value v, which
       stands for all amplitudes from l(v) to u(v), is 0.999 (F((u(v) - y') / b) - F((l(v) - y') / b)) + 0.001 / n,
       with F the cumulative Laplace distribution and n the number of values. The lowest and the highest value reach
       to infinity.

    Args:
        samples: v, pre-emphasised as the model's: mu-law codes (n = 256), or 16-bit values, which reach half a step to
            either side (n = 65536); integers [T].
        audio_hz: Sample rate.
        codes: Whether the samples are mu-law codes.
        first: The first sample that is scored.

    Returns:
        Nats, float64 [T - first].
    """
    lower, upper = _bins(np.asarray(samples, dtype=np.int64), codes)
    # The silent code, too, stands for the middle of its bin, so that silence is predicted with certainty.
    amplitudes = mu_law_decode(samples) if codes else samples
    n_values = len(CODE_EDGES) - 1 if codes else 2 * FULL_SCALE
    n_fit, n_scored = round(FIT_SECONDS * audio_hz), round(SCORED_SECONDS * audio_hz)
    # The filter reaches further back than the past that it is fitted to, though not beyond it in the fit.
    padded = np.concatenate([np.zeros(n_fit), amplitudes])
    blocks = []
    for start in range(first, len(amplitudes), n_scored):
        stop = min(start + n_scored, len(amplitudes))
        predicted, scale = _predict(padded[start : stop + n_fit], n_fit, min(start, n_fit))
        part = slice(start, stop)
        probability = _laplace_mass((lower[part] - predicted) / scale, (upper[part] - predicted) / scale)
        blocks.append(-np.log((1 - UNIFORM_SHARE) * probability + UNIFORM_SHARE / n_values))
    return np.concatenate(blocks) if blocks else np.empty(0)


def _predict(signal: np.ndarray, n_fit: int, n_past: int) -> tuple[np.ndarray, float]:
    """Fit a filter to the first n_fit values, of which n_past exist: predictions of the rest, and the scale."""
    from scipy.linalg import solve_toeplitz
    from scipy.signal import correlate, lfilter

    past = signal[:n_fit]
    autocorrelation = correlate(past, past, method="fft")[n_fit - 1 : n_fit + ORDER]
    predicted = np.zeros_like(signal)
    if past.any():
        column = np.concatenate([autocorrelation[:1] * (1 + RIDGE), autocorrelation[1:ORDER]])
        coefficients = solve_toeplitz(column, autocorrelation[1 : ORDER + 1])
        predicted = lfilter(np.concatenate([[0.0], coefficients]), [1.0], signal)
    errors = np.abs(signal - predicted)[n_fit - n_past : n_fit]
    return predicted[n_fit:], max(float(errors.mean()) if n_past else 0.0, MIN_SCALE)


def _bins(samples: np.ndarray, codes: bool) -> tuple[np.ndarray, np.ndarray]:
    """The amplitudes from which and to which each sample reaches, in steps of 16 bits."""
    if codes:
        return CODE_EDGES[samples], CODE_EDGES[samples + 1]
    lower = np.where(samples == -FULL_SCALE, -np.inf, samples - 0.5)
    return lower, np.where(samples == FULL_SCALE - 1, np.inf, samples + 0.5)


def _laplace_mass(lower: np.ndarray, upper: np.ndarray) -> np.ndarray:
    """Probability of the interval under the Laplace distribution of scale 1 around 0, exact in the tails, too."""
    # An interval above 0 is mirrored: the distribution function below 0 loses no digits.
    above = lower > 0
    lower, upper = np.where(above, -upper, lower), np.where(above, -lower, upper)
    tail = np.exp(np.minimum(lower, 0.0)) / 2
    return np.where(
        upper <= 0, np.exp(np.minimum(upper, 0.0)) / 2 - tail, 1 - np.exp(-np.maximum(upper, 0.0)) / 2 - tail
    )
