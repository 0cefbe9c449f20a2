"""The level of the disturbance of the past samples: in crops, in the model's input, in generation."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from midi2wave.conditioning.history_level import KNOTS_DB, N_LEVEL_FEATURES, level_features
from midi2wave.conditioning.note_conditioning import NullPerformance, conditioning_for
from midi2wave.config import MIN_HISTORY_LEVEL, DataConfig
from midi2wave.data.crops import NO_AUGMENTATION, CropAugmentation
from midi2wave.sampling.options import SamplingOptions
from midi2wave.utils.errors import InputError
from tests.helpers.global_models import make, make_config, of, play
from tests.helpers.processed_data import make_crops, write_folder

DISTURBED = CropAugmentation(history_noise=lambda _: 0.0, history_mixing=lambda _: 1.0)


@pytest.fixture
def folder(tmp_path):
    write_folder(tmp_path / "data", [20000, 8000])
    return tmp_path / "data"


def stated_level(crop):
    """The level in dB that a crop's features state."""
    rows = crop["features"][-N_LEVEL_FEATURES:]
    assert torch.equal(rows, rows[:, :1].expand_as(rows))
    return float(np.dot(rows[:, 0].numpy(), KNOTS_DB))


def test_levels_are_interpolated_between_the_knots():
    assert level_features(-60) == [1, 0, 0, 0, 0] and level_features(0) == [0, 0, 0, 0, 1]
    assert np.allclose(level_features(-20), [0, 0, 1 / 3, 2 / 3, 0])
    assert level_features(-90) == level_features(-60)
    for level in np.linspace(-60, 0, 13):
        assert np.dot(level_features(level), KNOTS_DB) == pytest.approx(level)


def test_the_level_follows_the_labels_in_the_features():
    data = replace(make_config().data_config, history_level_input=True)
    rows = conditioning_for(of("year=2009"), data, -45.0).features(0, 3)
    without = conditioning_for(of("year=2009"), replace(data, history_level_input=False), -45.0).features(0, 3)
    assert np.array_equal(rows[:-N_LEVEL_FEATURES], without)
    assert rows[-N_LEVEL_FEATURES:, 0].tolist() == [0, 1, 0, 0, 0]
    null = conditioning_for(NullPerformance(("year=2009",)), data, -45.0).features(0, 3)
    assert np.array_equal(null[-N_LEVEL_FEATURES:], rows[-N_LEVEL_FEATURES:])
    with_partials = conditioning_for(of("year=2009"), data).excitation(0, 3)
    assert np.array_equal(with_partials, conditioning_for(of("year=2009"), data, 0.0).excitation(0, 3))


def test_crops_state_the_level_at_which_another_crop_is_mixed_in(folder):
    clean, disturbed = (
        make_crops(folder, history_level_input=True, augmentation=a) for a in (NO_AUGMENTATION, DISTURBED)
    )
    levels = []
    for i in range(60):
        own, shown = clean[i], disturbed[i]
        assert stated_level(own) == MIN_HISTORY_LEVEL and torch.equal(own["samples"], shown["samples"])
        added = (shown["history"] - own["history"]).double().numpy()
        measured = 20 * np.log10(added.std() / own["history"].double().numpy().std())
        levels.append(stated_level(shown))
        if -40 < levels[-1] < -6:  # Neither rounded away nor clipped.
            assert measured == pytest.approx(levels[-1], abs=1.5)
    assert min(levels) < -50 and max(levels) > -10 and len(set(levels)) == 60


def test_dropped_histories_are_noise_or_silent(folder):
    augmentation = replace(DISTURBED, history_dropout=1.0)
    crops = make_crops(folder, history_level_input=True, augmentation=augmentation)
    noise, silent = [], []
    for i in range(60):
        (noise if crops[i]["history"].any() else silent).append(stated_level(crops[i]))
    assert set(noise) == {0.0} and 15 < len(noise) < 45
    assert min(silent) < -45 and max(silent) > -15
    without_input = make_crops(folder, augmentation=augmentation)
    assert all(without_input[i]["history"].any() for i in range(20))


def test_generation_depends_on_the_level_only_with_that_input():
    for has_input in (False, True):
        model, data = make("categorical", history_level_input=has_input)
        clean, disturbed = (play(model, data, [of("year=2008")], history_level=level) for level in (-60.0, 0.0))
        assert np.array_equal(clean, disturbed) != has_input


@pytest.mark.parametrize("level", [-61, 1, "low", True])
def test_levels_beyond_those_of_training_are_refused(level):
    with pytest.raises(InputError, match="history_level = "):
        SamplingOptions(history_level=level)


def test_an_unconditional_model_has_no_level():
    with pytest.raises(ValueError, match="history_level_input: an unconditional model"):
        DataConfig(features=[], excitation=False, history_level_input=True)
