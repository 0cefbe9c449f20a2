"""Fréchet distance of sets whose distance is known."""

import numpy as np
import pytest

from midi2wave.evaluation.frechet import frechet_distance, summarize_features

RNG = np.random.default_rng(0)
SET = RNG.normal(size=(500, 8)) @ RNG.normal(size=(8, 8))


def test_a_set_has_no_distance_to_itself():
    assert frechet_distance(SET, SET) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(SET, SET[::-1]) == pytest.approx(0, abs=1e-9)


def test_a_shift_is_the_squared_distance_of_the_means():
    shift = np.arange(8)
    assert frechet_distance(SET, SET + shift) == pytest.approx(np.square(shift).sum())


def test_a_scaled_set_has_the_distance_of_the_deviations():
    """For covariances C and 9 C the distance is (3 - 1)^2 tr(C)."""
    centred = SET - SET.mean(axis=0)
    assert frechet_distance(centred, 3 * centred) == pytest.approx(4 * np.trace(np.cov(SET, rowvar=False)))


def test_it_is_that_of_the_matrix_square_root():
    from scipy.linalg import sqrtm

    other = RNG.normal(size=(400, 8)) @ RNG.normal(size=(8, 8)) + 1
    a, b = np.cov(SET, rowvar=False), np.cov(other, rowvar=False)
    expected = np.square(SET.mean(axis=0) - other.mean(axis=0)).sum() + np.trace(a + b - 2 * sqrtm(a @ b).real)
    assert frechet_distance(SET, other) == pytest.approx(expected) == frechet_distance(other, SET)


def test_halves_are_of_different_recordings():
    truths = [SET, SET + 1, SET + 100, SET + 101]
    names = ["a", "a", "b", "b"]
    result = summarize_features(truths, truths, names)
    assert result["distance"] == pytest.approx(0, abs=1e-6)
    assert result["recording_halves"] == pytest.approx(8 * 100**2)
    assert np.isnan(summarize_features(truths, truths, ["a"] * 4)["recording_halves"])
    assert np.isnan(frechet_distance(SET[:1], SET))
    silent = np.empty((0, 1))
    assert summarize_features([silent, SET], [SET, silent], ["a", "b"])["distance"] == pytest.approx(0, abs=1e-6)
    assert np.isnan(summarize_features([silent], [SET], ["a"])["distance"])
