"""The lag between two layers of a key."""

import numpy as np

from midi2wave.data.layer_alignment import find_lag


def test_the_lag_of_two_sounds():
    noise = np.random.default_rng(0).standard_normal((2000, 2))
    assert find_lag(noise[100:1600], noise[83:1583], 50) == 17
    assert find_lag(noise[100:1600], -3 * noise[83:1583], 50) == 0
    assert find_lag(noise[100:1600], np.random.default_rng(1).standard_normal((1500, 2)), 50) == 0
    assert find_lag(noise[100:1600], np.zeros((1500, 2)), 50) == 0
