"""Likelihood by linear prediction against its definition, computed anew, and against signals of known entropy."""

import math

import numpy as np
import pytest

from midi2wave.audio.mu_law import CODE_EDGES, mu_law_decode, mu_law_encode
from midi2wave.audio.pre_emphasis import emphasize
from midi2wave.evaluation.linear_prediction import negative_log_likelihood
from midi2wave.midi.performance import empty_performance
from tests.helpers.fake_piano import melody, play
from tests.unit.evaluation.test_likelihood import HZ, OTHER, OUTPUTS, OWN, clip, make, paired_likelihood

N_FIT, N_SCORED = round(0.4 * HZ), round(0.1 * HZ)


def laplace_below(x):
    return 0.5 * math.exp(x) if x < 0 else 1 - 0.5 * math.exp(-x)


def expected_nll(amplitudes, bins, n_values, start, t):
    """The docstring's definition for sample t of the block that begins at `start`, by other means."""
    signal = np.concatenate([np.zeros(N_FIT), amplitudes.astype(float)])  # Signal N_FIT + t is sample t.
    past = signal[start : start + N_FIT]
    r = np.array([past[: N_FIT - k] @ past[k:] for k in range(257)])
    matrix = r[np.abs(np.subtract.outer(np.arange(256), np.arange(256)))]
    matrix[np.diag_indices(256)] *= 1 + 1e-9
    a = np.linalg.solve(matrix, r[1:])

    def predict(index):
        window = np.concatenate([np.zeros(256), past, signal[start + N_FIT :]])[index - start : index - start + 256]
        return a @ window[::-1]

    fitted = range(max(start, N_FIT), start + N_FIT)
    scale = max(0.25, np.mean([abs(signal[i] - predict(i)) for i in fitted]))
    lower, upper = ((edge - predict(N_FIT + t)) / scale for edge in bins)
    return -math.log(0.999 * (laplace_below(upper) - laplace_below(lower)) + 0.001 / n_values)


@pytest.mark.parametrize("codes", [True, False])
def test_the_definition_computed_anew(codes):
    emphasized = emphasize(play(melody(3, 1.0), 1.0, HZ), 0.9)
    samples = mu_law_encode(emphasized) if codes else emphasized
    amplitudes = mu_law_decode(samples) if codes else emphasized
    first = 900
    nll = negative_log_likelihood(samples, HZ, codes=codes, first=first)
    assert len(nll) == len(samples) - first
    for start, t in ((first, first), (first, first + 399), (first + 4 * N_SCORED, first + 4 * N_SCORED + 7)):
        v = int(samples[t])
        bins = (CODE_EDGES[v], CODE_EDGES[v + 1]) if codes else (v - 0.5, v + 0.5)
        expected = expected_nll(amplitudes, bins, 256 if codes else 65536, start, t)
        assert nll[t - first] == pytest.approx(expected, rel=1e-4)


def test_code_edges_separate_the_codes():
    inner = CODE_EDGES[1:-1]
    assert mu_law_encode(np.ceil(inner)).tolist() == list(range(1, 256))
    assert mu_law_encode(np.ceil(inner) - 1).tolist() == list(range(255))
    values = mu_law_decode(np.arange(256))
    assert (CODE_EDGES[:-1] < values).all() and (values < CODE_EDGES[1:]).all()


@pytest.mark.parametrize("codes", [True, False])
def test_probabilities_sum_to_one(codes):
    pcm = clip(20)
    n_values, lowest = (256, 0) if codes else (65536, -32768)
    # Of the last sample all values are tried; nothing is predicted from it.
    samples = (mu_law_encode(pcm) if codes else pcm).astype(np.int64)
    total = 0.0
    for value in range(lowest, lowest + n_values, 1 if codes else 257):
        samples[-1] = value
        total += math.exp(-negative_log_likelihood(samples, HZ, codes=codes, first=len(pcm) - 1)[0])
    # Every 257th of the 16-bit values, beginning with one of the two that reach to infinity.
    assert total == pytest.approx(1, abs=1e-9) if codes else 256 * total == pytest.approx(1, rel=0.05)


def test_nll_of_noise_is_its_entropy():
    """Laplace noise through a resonance: the filter removes the resonance, not the noise."""
    from scipy.signal import lfilter

    scale = 200.0
    noise = np.random.default_rng(0).laplace(scale=scale, size=3 * HZ)
    pcm = np.rint(lfilter([1.0], [1.0, -1.6, 0.9], noise)).astype(np.int16)
    nll = negative_log_likelihood(pcm, HZ, codes=False, first=HZ).mean()
    entropy = 1 + math.log(2 * scale)
    # 256 coefficients of 1600 samples cost about 0.1 nats, and the probability that is uniform 0.001.
    assert entropy - 0.1 < nll < entropy + 0.35
    assert nll < 1 + math.log(2 * np.abs(pcm).mean()) - 0.7  # Without a filter.


@pytest.mark.parametrize(("codes", "most"), [(True, math.log(256e3)), (False, math.log(65536e3))])
def test_an_attack_after_silence_has_a_limit(codes, most):
    pcm = np.zeros(HZ, np.int16)
    pcm[2000:] = 20000
    samples = mu_law_encode(pcm) if codes else pcm
    nll = negative_log_likelihood(samples, HZ, codes=codes)
    assert np.isfinite(nll).all() and nll[2000] == pytest.approx(most)
    assert nll[N_SCORED:2000].max() < 0.15  # Only the first block has no past.


@OUTPUTS
def test_paired_likelihood_scores_the_same_samples(output):
    model, data = make(output)
    pcm = clip()
    everywhere, at_onsets = paired_likelihood(model, pcm, OWN, OTHER, data)
    samples = mu_law_encode(pcm) if output == "categorical" else pcm
    first = len(pcm) - everywhere.n_samples
    nll = negative_log_likelihood(samples, HZ, codes=output == "categorical", first=first)
    assert everywhere.linear_prediction == pytest.approx(nll.mean())
    after = np.zeros(len(pcm), bool)
    for onset in (0.4, 0.41, 1.2):
        after[round(onset * HZ) : round((onset + 0.05) * HZ)] = True
    assert at_onsets.linear_prediction == pytest.approx(nll[after[first:]].mean())
    assert np.isnan(paired_likelihood(model, pcm, empty_performance(), OTHER, data)[1].linear_prediction)
