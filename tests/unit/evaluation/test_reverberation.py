"""Decay of notes and decay rates of recordings with a known reverberation time; a piano with a room per label."""

import numpy as np
import pytest

from midi2wave.audio import io as audio_io
from midi2wave.data.processed_folder import ProcessedFolder
from midi2wave.evaluation import reverberation
from midi2wave.evaluation.counterfactual import counterfactuals
from midi2wave.evaluation.report import _counterfactual_lines
from midi2wave.evaluation.reverberation import Decay, decay_rate, decay_rates, mean_decay, measure_decay, octave_band
from tests.helpers.fake_piano import HZ, play, play_batch
from tests.helpers.global_models import write_years
from tests.helpers.pipeline import assert_refused, call

VALUES = ["year=2008", "year=2009"]
RT60 = {"year=2008": 0.3, "year=2009": 0.9}  # seconds


def ringing(rt60, seconds=2.0, release=0.5, noise_db=-80.0, seed=0):
    """Noise that decays after the release with this reverberation time, over steady noise."""
    rng, time = np.random.default_rng(seed), np.arange(round(seconds * HZ)) / HZ
    envelope = 10 ** (-3 * np.maximum(time - release, 0) / rt60)
    sound = 0.1 * envelope * rng.standard_normal(len(time)) + 10 ** (noise_db / 20) * rng.standard_normal(len(time))
    return np.rint(32767 * sound.clip(-1, 1)).astype(np.int16)


@pytest.mark.parametrize("rt60", [0.2, 0.5, 1.0])
@pytest.mark.parametrize("noise_db", [-90.0, -55.0])
def test_the_slope_of_a_known_decay(rt60, noise_db):
    decays = [measure_decay(ringing(rt60, noise_db=noise_db, seed=seed), HZ, 0.5) for seed in range(4)]
    assert [one.db_per_second for one in decays] == pytest.approx([60 / rt60] * 4, rel=0.15)
    mean = mean_decay(decays)
    assert mean.db_per_second == pytest.approx(60 / rt60, rel=0.1)
    # The mean power of an exponential over 0.2 .. 0.7 s, above the noise.
    rate = 6 * np.log(10) / rt60
    power = (np.exp(-0.2 * rate) - np.exp(-0.7 * rate)) / (0.5 * rate) + (10 ** (noise_db / 20) / 0.1) ** 2
    assert mean.level_db == pytest.approx(10 * np.log10(power), abs=1)


def test_signals_without_decay_have_no_slope():
    rng = np.random.default_rng(0)
    steady = np.rint(3000 * rng.standard_normal(2 * HZ)).astype(np.int16)
    stopped = np.where(np.arange(2 * HZ) < HZ, steady, 0).astype(np.int16)
    for pcm in (np.zeros(2 * HZ, np.int16), stopped, steady[:HZ]):
        assert np.isnan(measure_decay(pcm, HZ, 1.0).db_per_second)
    assert measure_decay(steady, HZ, 1.0).level_db == pytest.approx(0, abs=1)
    assert measure_decay(stopped, HZ, 1.0).level_db < -80
    assert np.isnan(mean_decay([]).level_db)
    assert mean_decay([Decay(np.nan, -10.0), Decay(20.0, -30.0)]) == Decay(20.0, -20.0)


@pytest.mark.parametrize("rt60", [0.3, 0.6, 1.2])
def test_decay_rate_of_repeated_decays(rt60):
    bursts = np.concatenate([ringing(rt60, seconds=1.0, release=0.3, seed=seed) for seed in range(10)])
    assert decay_rate(bursts, HZ) == pytest.approx(60 / rt60, rel=0.25)
    assert decay_rate(bursts // 8, HZ) == pytest.approx(decay_rate(bursts, HZ), rel=0.05)


def test_decay_rate_of_silence_and_steady_noise():
    for pcm in (np.zeros(HZ, np.int16), np.zeros(0, np.int16), ringing(0.3)[: HZ // 10]):
        assert np.isnan(decay_rate(pcm, HZ))
    assert np.isnan(decay_rate(ringing(0.3), 4000)), "no room for an octave around 2 kHz"
    dithered = np.random.default_rng(0).integers(-1, 2, HZ).astype(np.int16)
    assert decay_rate(dithered, HZ) < 30, "steady"
    assert decay_rate(ringing(0.3), 8000) > 0, "one octave has room"


def test_a_low_tone_does_not_change_the_decay_rate():
    """The tone of 200 Hz continues through all decays and is louder than they are."""
    bursts = np.concatenate([ringing(0.6, seconds=1.0, release=0.3, seed=seed) for seed in range(10)])
    tone = 12000 * np.sin(2 * np.pi * 200 * np.arange(len(bursts)) / HZ)
    assert decay_rate(np.rint(bursts * 0.5 + tone).astype(np.int16), HZ) == pytest.approx(
        decay_rate(bursts, HZ), rel=0.05
    )


def test_octave_band():
    time = np.arange(HZ) / HZ
    for hz, gain in ((1000, 0.0), (2000 * 0.5**0.5, 0.5), (2000, 1.0), (2000 * 2**0.5, 0.5), (4000, 0.0)):
        tone = np.rint(10000 * np.sin(2 * np.pi * hz * time)).astype(np.int16)
        middle = slice(HZ // 4, -HZ // 4)
        band = octave_band(tone, HZ, 2000.0)[middle]
        assert np.std(band) / np.std(tone[middle]) == pytest.approx(gain, abs=0.05)


def play_in_room(performances, seconds):
    """The fake piano in the room of its label: convolved with decaying noise."""
    sounds = []
    for one in performances:
        dry = play(one, seconds).astype(float)
        rt60 = RT60[one.global_labels[0]] if one.global_labels else 0.1
        time = np.arange(HZ) / HZ
        room = 0.03 * 10 ** (-3 * time / rt60) * np.random.default_rng(0).standard_normal(len(time))
        n = len(dry) + len(room)
        wet = np.fft.irfft(np.fft.rfft(dry, n) * np.fft.rfft(room, n), n)[: len(dry)]
        sounds.append(np.rint(dry + wet).clip(-32768, 32767).astype(np.int16))
    return np.stack(sounds)


def test_counterfactuals_measure_the_decay_of_each_label():
    effects = counterfactuals(play_in_room, HZ, labels=VALUES)
    dry, wet = (effects.decays[value] for value in VALUES)
    assert dry.db_per_second > 1.8 * wet.db_per_second > 80 and wet.level_db > dry.level_db + 5
    values = {"decays": {value: vars(one) for value, one in effects.decays.items()}, "elsewhere_db": 0.0}
    values |= {key: {"db": 1.0, "lowest_db": 1.0, "right": 1.0} for key in ("semitone", "velocity", "pedal")}
    lines = list(_counterfactual_lines(values))
    assert "global value changed" in lines[-3] and [line.split()[0] for line in lines[-2:]] == VALUES
    assert float(lines[-1].split()[1]) == pytest.approx(wet.db_per_second, abs=0.1)


def test_equal_decays_if_the_labels_are_ignored():
    """And without labels no decays are measured or reported."""
    dry, wet = counterfactuals(play_batch, HZ, labels=VALUES).decays.values()
    assert dry == wet
    effects = counterfactuals(play_batch, HZ)
    assert effects.decays == {} and effects.pedal.right == 1
    values = {"decays": {}, "elsewhere_db": 0.0}
    values |= {key: {"db": 1.0, "lowest_db": 1.0, "right": 1.0} for key in ("semitone", "velocity", "pedal")}
    assert not any("global" in line for line in _counterfactual_lines(values))


def test_what_cannot_be_measured_is_null_and_names_stay(tmp_path):
    """A name may contain the letters that NaN has in Python's JSON."""
    song = tmp_path / "NaN-Infinity.wav"
    audio_io.write_wav(song, np.zeros(HZ, np.int16), HZ)
    made = call(reverberation, song, "--json")
    assert made.result == {str(song): {"recordings": 1, "decay_db_per_second": None}}
    assert call(reverberation, song).out == f"{song}: 1 recording, decay rate nan dB/s\n"


def test_decay_rates_of_folders_and_files(tmp_path, monkeypatch):
    folder = ProcessedFolder(write_years(tmp_path / "data", [2008, 2009], lengths=(2 * HZ, 2 * HZ)))
    folder.audio_hz = HZ
    monkeypatch.setattr(folder, "pcm", lambda position: ringing(RT60[VALUES[position]]))
    (close,), (ambient,) = decay_rates(folder, "year").values()
    assert close > 2 * ambient
    assert [len(rates) for rates in decay_rates(folder, "piano").values()] == [2]

    songs = [tmp_path / f"{value}.wav" for value in VALUES]
    for song, rt60 in zip(songs, RT60.values(), strict=True):
        audio_io.write_wav(song, ringing(rt60), HZ)
    made = call(reverberation, *songs, tmp_path / "data", "--json")
    assert made.code == 0, made.err
    numbers = {name: one["decay_db_per_second"] for name, one in made.result.items()}
    assert [numbers[str(song)] for song in songs] == pytest.approx([close, ambient])
    assert {f"{tmp_path}/data {value}" for value in VALUES} < numbers.keys()
    assert [line.split(": ")[0] for line in call(reverberation, *songs).out.splitlines()] == [
        str(song) for song in songs
    ]
    assert_refused(
        call(reverberation, tmp_path / "data", "--column", "room"), "no whole number in a column 'room'", "year"
    )
    assert_refused(call(reverberation, tmp_path / "gone.wav"), "gone.wav")
