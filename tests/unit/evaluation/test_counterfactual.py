"""Counterfactuals of a fake piano that follows its MIDI, and of ones that do not: each effect must be able to fail."""

import numpy as np
import pytest

from midi2wave.evaluation.counterfactual import (
    COMPANION_SEMITONES,
    PHRASE_SECONDS,
    PITCHES,
    counterfactuals,
    key_level_db,
    phrase,
)
from midi2wave.midi.performance import SUSTAIN
from tests.helpers.fake_piano import HZ, performance, play, play_batch


def noisy(sounds, level):
    return sounds + np.rint(np.random.default_rng(0).normal(scale=level, size=sounds.shape)).astype(np.int16)


def test_effects_of_a_piano_that_follows_its_midi():
    effects = counterfactuals(play_batch, HZ)
    for effect in (effects.semitone, effects.velocity, effects.pedal):
        assert effect.right == 1 and effect.lowest_db > 6
    assert effects.semitone.lowest_db > 40
    assert effects.velocity.db == pytest.approx(40 * np.log10(110 / 30), abs=0.5)  # The fake piano's square law.
    assert effects.elsewhere_db < 1


def test_noise_has_no_effects():
    fixed = np.random.default_rng(0).normal(scale=3000, size=round(PHRASE_SECONDS * HZ)).astype(np.int16)
    effects = counterfactuals(lambda performances, _: np.stack([fixed] * len(performances)), HZ)
    for effect in (effects.semitone, effects.velocity, effects.pedal):
        assert effect.db == effect.right == 0


def test_silence_has_no_effects():
    effects = counterfactuals(lambda performances, s: np.zeros((len(performances), round(s * HZ)), np.int16), HZ)
    assert effects.semitone.right == effects.velocity.right == effects.pedal.right == 0


def test_an_ignored_property_has_no_effect():
    def without(**replaced):
        def play_changed(performances, seconds):
            changed = []
            for one in performances:
                values = {"pitch": one.pitch, "velocity": one.velocity, "pedal": one.pedals[SUSTAIN]} | replaced
                rows = zip(one.onset, one.offset, values["pitch"], values["velocity"], strict=False)
                changed.append(performance(rows, values["pedal"]))
            return play_batch(changed, seconds)

        return play_changed

    assert counterfactuals(without(velocity=[80] * 9), HZ).velocity.db == pytest.approx(0)
    assert counterfactuals(without(pedal=()), HZ).pedal.db == pytest.approx(0)
    assert counterfactuals(without(pitch=[60] * 9), HZ).semitone.right == 0
    assert counterfactuals(without(pitch=[60] * 9), HZ).velocity.right == 1


def test_effects_of_a_noisy_piano():
    effects = counterfactuals(lambda performances, seconds: noisy(play_batch(performances, seconds), 300), HZ)
    assert effects.semitone.lowest_db > 10 and effects.velocity.right == 1 and effects.pedal.right == 1


def test_a_change_of_the_other_note_is_reported():
    def softer_when_moved(performances, seconds):
        moved = [pitch + 1 for pitch in PITCHES]
        return np.stack([play(one, seconds) // (8 if one.pitch[0] in moved else 1) for one in performances])

    assert counterfactuals(softer_when_moved, HZ).elsewhere_db == pytest.approx(20 * np.log10(8), abs=1)


def test_phrases_are_on_the_keyboard_and_differ_in_one_note():
    for pitch in PITCHES:
        original, moved = (
            phrase(pitch, companion=pitch + COMPANION_SEMITONES),
            phrase(pitch + 1, companion=pitch + COMPANION_SEMITONES),
        )
        assert (
            set(moved.pitch) - set(original.pitch) == {pitch + 1} and pitch >= 21 and pitch + COMPANION_SEMITONES <= 108
        )
        assert len(phrase(pitch, pedal=True).pedals[SUSTAIN]) == 2


@pytest.mark.parametrize("pitch", [36, 60, 84])
def test_level_of_a_key_is_that_of_its_fundamental(pitch):
    time = np.arange(HZ) / HZ
    sine = np.rint(16384 * np.sin(2 * np.pi * 440 * 2 ** ((pitch - 69) / 12) * time)).astype(np.int16)
    assert key_level_db(sine, pitch, HZ) == pytest.approx(-6, abs=2)
    assert key_level_db(sine, pitch + 2, HZ) < -40
