"""The high-pass filter that removes a constant."""

import itertools

import numpy as np
import pytest
from scipy.signal import lfilter

from midi2wave.audio.dc_blocker import POLE, DcBlocker


@pytest.mark.parametrize("sizes", [[6000], [1, 2, 3, 994, 5000], [64] * 93 + [48]])
def test_it_is_the_filter_of_scipy_for_any_block_sizes(sizes):
    rng = np.random.default_rng(0)
    pcm, edges, blocker = rng.integers(-30000, 30000, (2, 6000)).astype(np.int16), np.cumsum([0, *sizes]), DcBlocker()
    filtered = np.concatenate([blocker(pcm[:, a:b]) for a, b in itertools.pairwise(edges)], axis=1)
    expected = np.clip(np.rint(lfilter([1.0, -1.0], [1.0, -POLE], pcm)), -32768, 32767)
    assert filtered.dtype == np.int16 and np.array_equal(filtered, expected)


def test_a_constant_becomes_silence_and_a_low_note_stays():
    t = np.arange(16000) / 16000
    note = np.rint(9 + 5000 * np.sin(2 * np.pi * 27.5 * t)).astype(np.int16)[None]
    assert DcBlocker()(np.full((1, 16000), 9, np.int16))[0, 1600:].tolist() == [0] * 14400
    level = np.sqrt(np.mean(DcBlocker()(note)[0, 8000:].astype(float) ** 2)) / (5000 / np.sqrt(2))
    assert 20 * np.log10(level) == pytest.approx(-0.15, abs=0.1)


def test_after_samples_that_are_not_filtered_there_is_no_step():
    blocker = DcBlocker()
    blocker.skip(np.array([[5, 700]], np.int16))
    assert blocker(np.array([[700, 700]], np.int16)).tolist() == [[699, 697]]
