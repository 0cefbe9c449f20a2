"""Conversion of amplitudes to 16-bit samples."""

import numpy as np

from midi2wave.audio.pcm import to_pcm


def test_to_pcm_rounds_and_counts_clipped_samples():
    pcm, n_clipped = to_pcm(np.array([0.0, 1.4 / 32768, -1.6 / 32768, 1.0, -1.0, -1.5, 32767 / 32768]))
    assert pcm.dtype == np.int16
    assert pcm.tolist() == [0, 1, -2, 32767, -32768, -32768, 32767]
    assert n_clipped == 2
