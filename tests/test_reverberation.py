"""Decays that are known, from silence to noise; pauses in recordings; a player whose room its global value decides."""

import json

import numpy as np
import pytest
from fake_piano import HZ, performance, play, player
from test_global_conditioning import write_years
from tiny_road import call, refused

import reverberation
from counterfactual import counterfactuals
from evaluation_report import _counterfactual_lines
from midi import SUSTAIN
from processed_folder import ProcessedFolder
from reverberation import Decay, decay, mean_decay, pauses, recorded_decays

VALUES = ["year=2008", "year=2009"]
RT60 = {"year=2008": 0.3, "year=2009": 0.9}  # seconds


def ringing(rt60, seconds=2.0, release=0.5, noise_db=-80.0, seed=0):
    """Noise that rings on after the release as in a room of this reverberation time, over steadier noise."""
    rng, time = np.random.default_rng(seed), np.arange(round(seconds * HZ)) / HZ
    envelope = 10 ** (-3 * np.maximum(time - release, 0) / rt60)
    sound = 0.1 * envelope * rng.standard_normal(len(time)) + 10 ** (noise_db / 20) * rng.standard_normal(len(time))
    return np.rint(32767 * sound.clip(-1, 1)).astype(np.int16)


@pytest.mark.parametrize("rt60", [0.2, 0.5, 1.0])
@pytest.mark.parametrize("noise_db", [-90.0, -55.0])
def test_the_slope_of_a_known_decay(rt60, noise_db):
    found = [decay(ringing(rt60, noise_db=noise_db, seed=seed), HZ, 0.5) for seed in range(4)]
    assert [one.db_per_second for one in found] == pytest.approx([60 / rt60] * 4, rel=0.15)
    mean = mean_decay(found)
    assert mean.db_per_second == pytest.approx(60 / rt60, rel=0.1)
    # the mean power of an exponential over 0.2 .. 0.7 s, above the noise
    fall = 6 * np.log(10) / rt60
    power = (np.exp(-0.2 * fall) - np.exp(-0.7 * fall)) / (0.5 * fall) + (10 ** (noise_db / 20) / 0.1) ** 2
    assert mean.level_db == pytest.approx(10 * np.log10(power), abs=1)


def test_what_has_no_decay_has_no_slope():
    rng = np.random.default_rng(0)
    steady = np.rint(3000 * rng.standard_normal(2 * HZ)).astype(np.int16)
    stopped = np.where(np.arange(2 * HZ) < HZ, steady, 0).astype(np.int16)
    for pcm in (np.zeros(2 * HZ, np.int16), stopped, steady[:HZ]):
        assert np.isnan(decay(pcm, HZ, 1.0).db_per_second)
    assert decay(steady, HZ, 1.0).level_db == pytest.approx(0, abs=1)
    assert decay(stopped, HZ, 1.0).level_db < -80
    assert np.isnan(mean_decay([]).level_db)
    assert mean_decay([Decay(np.nan, -10.0), Decay(20.0, -30.0)]) == Decay(20.0, -20.0)


def test_pauses_begin_with_the_last_damper():
    piece = performance([(0.5, 3.0, 50, 80), (1.0, 1.2, 60, 80), (4.5, 4.6, 62, 80), (5.0, 5.1, 64, 80)])
    assert pauses(piece, 7.0) == [(3.0, 4.5), (pytest.approx(5.1), 7.0)]
    assert pauses(piece, 5.5) == [(3.0, 4.5)]
    held = performance([(0.5, 0.6, 50, 80), (4.0, 4.1, 52, 80)], [(0.4, 127), (2.0, 0), (3.9, 127)])
    assert pauses(held, 6.0) == [(2.0, 4.0)]  # the second pedal never comes up


def in_the_room(played, seconds):
    """The fake piano, heard through noise that decays as its recording's room does."""
    sounds = []
    for one in played:
        dry = play(one, seconds).astype(float)
        rt60 = RT60[one.recording[0]] if one.recording else 0.1
        time = np.arange(HZ) / HZ
        room = 0.03 * 10 ** (-3 * time / rt60) * np.random.default_rng(0).standard_normal(len(time))
        n = len(dry) + len(room)
        wet = np.fft.irfft(np.fft.rfft(dry, n) * np.fft.rfft(room, n), n)[: len(dry)]
        sounds.append(np.rint(dry + wet).clip(-32768, 32767).astype(np.int16))
    return np.stack(sounds)


def test_an_evaluation_shows_the_room_of_each_value():
    effects = counterfactuals(in_the_room, HZ, values=VALUES)
    dry, wet = (effects.decays[value] for value in VALUES)
    assert dry.db_per_second > 1.8 * wet.db_per_second > 80 and wet.level_db > dry.level_db + 5
    changes = {"decays": {value: vars(one) for value, one in effects.decays.items()}, "elsewhere_db": 0.0}
    changes |= {key: {"db": 1.0, "lowest_db": 1.0, "right": 1.0} for key in ("semitone", "velocity", "pedal")}
    lines = list(_counterfactual_lines(changes))
    assert "global value changed" in lines[-3] and [line.split()[0] for line in lines[-2:]] == VALUES
    assert float(lines[-1].split()[1]) == pytest.approx(wet.db_per_second, abs=0.1)


def test_a_player_deaf_to_it_shows_none_and_without_values_nothing_is_shown():
    dry, wet = counterfactuals(player, HZ, values=VALUES).decays.values()
    assert dry == wet
    effects = counterfactuals(player, HZ)
    assert effects.decays == {} and effects.pedal.right == 1
    changes = {"decays": {}, "elsewhere_db": 0.0}
    changes |= {key: {"db": 1.0, "lowest_db": 1.0, "right": 1.0} for key in ("semitone", "velocity", "pedal")}
    assert not any("global" in line for line in _counterfactual_lines(changes))


def test_recordings_show_it_in_their_pauses(tmp_path, monkeypatch):
    folder = ProcessedFolder(write_years(tmp_path / "data", [2008, 2009], lengths=(2 * HZ, 2 * HZ)))
    folder.audio_hz = HZ
    piece = performance([(0.1, 0.5, 60, 80)])
    monkeypatch.setattr(folder, "performance", lambda _: piece)
    monkeypatch.setattr(folder, "pcm", lambda position: ringing(RT60[VALUES[position]]))
    found = dict(recorded_decays(folder, "year"))
    assert found.keys() == set(VALUES)
    for value, one in found.items():
        assert one.db_per_second == pytest.approx(60 / RT60[value], rel=0.15)
    assert [value for value, _ in recorded_decays(folder, "piano")] == ["piano=3", "piano=3"]
    piece.pedals[SUSTAIN] = np.array([[0.2, 127.0]])
    assert list(recorded_decays(folder, "year")) == []


def test_the_command(tmp_path):
    folder = write_years(tmp_path / "data", [2008, 2009], lengths=(8000, 12000))
    made = call(reverberation, folder, "--json")
    assert made.code == 0 and isinstance(json.loads(made.out), dict)
    refused(call(reverberation, folder, "--column", "room"), "no whole number in a column 'room'", "index, year")
