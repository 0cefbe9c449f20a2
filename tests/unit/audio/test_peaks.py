"""Peaks between samples."""

import numpy as np
import pytest

from midi2wave.audio.peaks import peak_offset


@pytest.mark.parametrize("top", [2.0, 3.4, 4.5])
def test_top_of_a_parabola(top):
    values = 5 - 3 * (np.arange(8) - top) ** 2
    peak = int(values.argmax())
    assert peak + peak_offset(values, peak) == pytest.approx(top)


def test_the_ends_and_a_plateau_have_no_offset():
    values = np.array([3.0, 1.0, 1.0, 1.0, 2.0])
    assert [peak_offset(values, peak) for peak in (0, 2, 4)] == [0.0, 0.0, 0.0]
