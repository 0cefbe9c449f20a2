"""The conditioning as a whole: crops equal the same range of the whole, and the null condition."""

import numpy as np
import pytest

from midi2wave.conditioning.excitation import N_EXCITATION
from midi2wave.conditioning.features import NULL_FEATURE
from midi2wave.conditioning.note_conditioning import conditioning_for
from midi2wave.config import DataConfig
from midi2wave.midi.performance import CLIP_MARGIN_SECONDS, clip
from tests.helpers.performances import dense_performance, note_conditioning, performance_of


@pytest.mark.parametrize("seed", range(3))
def test_every_crop_equals_the_same_range_of_the_whole(seed):
    """Every crop equals the same range of the whole, bit for bit."""
    notes, rng = note_conditioning(dense_performance(seed)), np.random.default_rng(seed)
    first, n = -150, 800  # from before the first event to after the last one
    features, excitation = notes.features(first, n), notes.excitation(first, n)
    assert features[:, :50].max() == excitation[:, : 50 * notes.hop].max() == 0 and np.abs(excitation).max() > 0.1
    for begin, length in [(0, n), (0, 1), (n - 1, 1), *rng.integers((0, 1), (700, 100), (40, 2))]:
        crop = slice(begin, begin + length)
        assert notes.features(first + begin, length).tobytes() == features[:, crop].tobytes()
        in_samples = slice(begin * notes.hop, (begin + length) * notes.hop)
        assert notes.excitation(first + begin, length).tobytes() == excitation[:, in_samples].tobytes()


def test_single_frames_make_up_the_whole():
    notes = note_conditioning(dense_performance(9))
    whole, excitation = notes.features(-20, 300), notes.excitation(-20, 300)
    assert np.concatenate([notes.features(f, 1) for f in range(-20, 280)], axis=1).tobytes() == whole.tobytes()
    assert np.concatenate([notes.excitation(f, 1) for f in range(-20, 280)], axis=1).tobytes() == excitation.tobytes()


def test_the_null_condition_is_not_silence_where_it_is_trained():
    silence = conditioning_for(None, DataConfig())
    null = conditioning_for(None, DataConfig(conditioning_dropout=0.1))
    assert not silence.features(0, 5).any() and not silence.excitation(0, 5).any()
    assert null.features(-3, 5).shape == silence.features(-3, 5).shape and (null.features(-3, 5) == NULL_FEATURE).all()
    assert null.excitation(-3, 5).shape == (N_EXCITATION, 5 * 64) and not null.excitation(-3, 5).any()


def test_clip_with_margin_has_the_conditioning_of_the_whole():
    rng = np.random.default_rng(3)
    notes = [(t, t + rng.uniform(0.05, 3), int(rng.integers(21, 109)), 80) for t in np.arange(0, 60, 0.15)]
    whole = performance_of(notes)
    part = clip(whole, 30.0, 34.0, CLIP_MARGIN_SECONDS)
    for name in ("features", "excitation"):
        expected = getattr(note_conditioning(whole), name)(30 * 250 - 100, 1200)
        np.testing.assert_allclose(getattr(note_conditioning(part), name)(-100, 1200), expected, rtol=0, atol=1e-5)
