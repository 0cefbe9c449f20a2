"""Schedules: warm-up and cosine of the learning rate, linear levels of the augmentations."""

import itertools

import pytest

from midi2wave.training.schedules import history_mixing, history_noise, learning_rate
from tests.helpers.training import make_train_config


def test_learning_rate_warms_up_and_falls_along_a_cosine():
    config = make_train_config(learning_rate=1.0, final_learning_rate=0.1)
    rates = [learning_rate(step, config) for step in range(101)]
    assert rates[0] == pytest.approx(0.1) and rates[9] == rates[10] == 1.0
    assert rates[55] == pytest.approx(0.55) and rates[100] == pytest.approx(0.1)
    assert all(a > b for a, b in itertools.pairwise(rates[10:]))


def test_history_noise_falls_linearly_over_the_crops():
    config = make_train_config(history_noise=0.3, final_history_noise=0.1)
    assert [history_noise(config, index) for index in (0, 200, 400)] == pytest.approx([0.3, 0.2, 0.1])


@pytest.mark.parametrize(("final", "expected"), [(0.0, [1.0, 0.5, 0.0]), (-1.0, [1.0, 1.0, 1.0])])
def test_history_mixing_falls_linearly_or_stays_constant(final, expected):
    config = make_train_config(history_mixing=1.0, final_history_mixing=final)
    assert [history_mixing(config, index) for index in (0, 200, 400)] == pytest.approx(expected)
