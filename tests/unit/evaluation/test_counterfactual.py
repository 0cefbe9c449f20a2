"""Counterfactuals of a player that obeys, and of players that do not: each effect must be able to fail."""

import numpy as np
import pytest

from midi2wave.evaluation.counterfactual import COMPANION, PITCHES, SECONDS, counterfactuals, key_level_db, phrase
from midi2wave.midi.performance import SUSTAIN
from tests.helpers.fake_piano import HZ, performance, play, player


def noisy(sounds, level):
    return sounds + np.rint(np.random.default_rng(0).normal(scale=level, size=sounds.shape)).astype(np.int16)


def test_an_obedient_player_obeys():
    effects = counterfactuals(player, HZ)
    for effect in (effects.semitone, effects.velocity, effects.pedal):
        assert effect.right == 1 and effect.lowest_db > 6
    assert effects.semitone.lowest_db > 40
    assert effects.velocity.db == pytest.approx(40 * np.log10(110 / 30), abs=0.5)  # the player's square law
    assert effects.elsewhere_db < 1


def test_noise_does_not():
    fixed = np.random.default_rng(0).normal(scale=3000, size=round(SECONDS * HZ)).astype(np.int16)
    effects = counterfactuals(lambda played, _: np.stack([fixed] * len(played)), HZ)
    for effect in (effects.semitone, effects.velocity, effects.pedal):
        assert effect.db == effect.right == 0


def test_silence_does_not():
    effects = counterfactuals(lambda played, s: np.zeros((len(played), round(s * HZ)), np.int16), HZ)
    assert effects.semitone.right == effects.velocity.right == effects.pedal.right == 0


def test_each_disobedience_shows_in_its_own_effect():
    def deaf_to_velocity(played, seconds):
        return player([performance(zip(p.onset, p.offset, p.pitch, [80] * 9, strict=False), p.pedals[SUSTAIN])
                       for p in played], seconds)  # fmt: skip

    def deaf_to_the_pedal(played, seconds):
        return player([performance(zip(p.onset, p.offset, p.pitch, p.velocity, strict=True)) for p in played], seconds)

    def deaf_to_pitch(played, seconds):
        return player([performance(zip(p.onset, p.offset, [60] * 9, p.velocity, strict=False), p.pedals[SUSTAIN])
                       for p in played], seconds)  # fmt: skip

    assert counterfactuals(deaf_to_velocity, HZ).velocity.db == pytest.approx(0)
    assert counterfactuals(deaf_to_the_pedal, HZ).pedal.db == pytest.approx(0)
    assert counterfactuals(deaf_to_pitch, HZ).semitone.right == 0
    assert counterfactuals(deaf_to_pitch, HZ).velocity.right == 1


def test_a_noisy_player_is_still_found_to_obey():
    effects = counterfactuals(lambda played, seconds: noisy(player(played, seconds), 300), HZ)
    assert effects.semitone.lowest_db > 10 and effects.velocity.right == 1 and effects.pedal.right == 1


def test_a_player_that_moves_everything_is_found_out():
    def swayed(played, seconds):  # all is softer when the note is moved
        return np.stack([play(p, seconds) // (8 if p.pitch[0] in [q + 1 for q in PITCHES] else 1) for p in played])

    assert counterfactuals(swayed, HZ).elsewhere_db == pytest.approx(20 * np.log10(8), abs=1)


def test_phrases_stay_on_the_keyboard_and_differ_in_one_thing():
    for pitch in PITCHES:
        here, moved = phrase(pitch, companion=pitch + COMPANION), phrase(pitch + 1, companion=pitch + COMPANION)
        assert set(moved.pitch) - set(here.pitch) == {pitch + 1} and pitch >= 21 and pitch + COMPANION <= 108
        assert len(phrase(pitch, pedal=True).pedals[SUSTAIN]) == 2


@pytest.mark.parametrize("pitch", [36, 60, 84])
def test_a_keys_level_is_that_of_its_fundamental(pitch):
    time = np.arange(HZ) / HZ
    sine = np.rint(16384 * np.sin(2 * np.pi * 440 * 2 ** ((pitch - 69) / 12) * time)).astype(np.int16)
    assert key_level_db(sine, pitch, HZ) == pytest.approx(-6, abs=2)
    assert key_level_db(sine, pitch + 2, HZ) < -40
