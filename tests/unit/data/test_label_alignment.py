"""Shifted performances: pedals and notes of one key."""

import numpy as np

from midi2wave.data import label_alignment
from midi2wave.midi.performance import Performance


def test_pedals_move_and_notes_of_a_key_stay_apart():
    """Pedals move by the median shift; notes of a key that did not overlap do not overlap afterwards."""
    pedals = {64: np.array([[0.001, 127.0], [1.0, 0.0]])}
    onset, offset = np.array([0.1, 0.5, 0.8, 0.81]), np.array([0.499, 0.8, 0.9, 0.95])
    performance = Performance(onset, offset, np.array([60, 60, 61, 60]), np.full(4, 64), pedals)
    shifted = label_alignment.shift_onsets(performance, np.array([0.004, -0.006, -0.004, -0.006]))
    np.testing.assert_allclose(shifted.onset, [0.104, 0.494, 0.796, 0.804])
    np.testing.assert_allclose(shifted.offset, [0.494, 0.794, 0.896, 0.944])
    np.testing.assert_allclose(shifted.pedals[64], [[0.0, 127.0], [0.995, 0.0]])
