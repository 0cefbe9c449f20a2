"""Scores of generated audio where the right value is known."""

import warnings

import numpy as np
import pytest

from midi2wave.audio.pcm import level_db
from midi2wave.evaluation.metrics import (
    bootstrap_interval,
    chroma_similarity,
    mean,
    multi_resolution_stft,
    onset_agreement,
)
from tests.helpers.fake_piano import HZ, melody, performance, play

PIECE, OTHER = (play(melody(seed, 4.0), 4.0) for seed in (0, 1))


def noise(scale=3000):
    return np.rint(np.random.default_rng(0).normal(scale=scale, size=len(PIECE))).astype(np.int16)


def delayed(pcm, seconds):
    return np.concatenate([np.zeros(round(seconds * HZ), np.int16), pcm])[: len(pcm)]


def test_a_recording_agrees_with_itself():
    assert chroma_similarity(PIECE, PIECE, HZ) == pytest.approx(1)
    assert onset_agreement(PIECE, PIECE, HZ) == pytest.approx(1)
    assert multi_resolution_stft(PIECE, PIECE) == 0


@pytest.mark.parametrize("unlike", [OTHER, noise(), noise(scale=30), np.zeros_like(PIECE)])
def test_other_music_noise_and_silence_do_not_agree(unlike):
    assert chroma_similarity(unlike, PIECE, HZ) < 0.35
    assert multi_resolution_stft(unlike, PIECE) > 1.5


@pytest.mark.parametrize("unlike", [delayed(OTHER, 0.1), noise()])  # The melodies share one beat; this one is off it.
def test_other_attacks_do_not_agree(unlike):
    assert onset_agreement(unlike, PIECE, HZ) < 0.2


def test_scores_hardly_depend_on_the_level():
    half = (PIECE // 2).astype(np.int16)
    assert chroma_similarity(half, PIECE, HZ) > 0.99
    assert onset_agreement(half, PIECE, HZ) > 0.95
    # By definition 1/2 for the convergence, and ln 2 for the logarithms but where the recording is silent.
    assert 0.5 + 0.5 * np.log(2) < multi_resolution_stft(half, PIECE) < 0.5 + np.log(2)


def test_chroma_ignores_octaves():
    scale = [(0.2 * i, 0.2 * i + 0.2, 60 + i, 90) for i in range(12)]
    original = play(performance(scale), 2.6)
    octave = play(performance([(on, off, pitch + 12, v) for on, off, pitch, v in scale]), 2.6)
    semitone = play(performance([(on, off, pitch + 1, v) for on, off, pitch, v in scale]), 2.6)
    assert chroma_similarity(octave, original, HZ) > 0.8
    assert chroma_similarity(semitone, original, HZ) < 0.2


def test_onset_agreement_falls_with_the_delay():
    agreement = [onset_agreement(delayed(PIECE, s), PIECE, HZ) for s in (0.0, 0.02, 0.05, 0.15)]
    assert agreement == sorted(agreement, reverse=True)
    assert agreement[1] > 0.6 and agreement[3] < 0.1


def test_the_stft_distance_grows_with_the_noise():
    distances = [multi_resolution_stft((PIECE + noise(scale=s)).astype(np.int16), PIECE) for s in (3, 30, 300)]
    assert distances == sorted(distances) and distances[0] < distances[2] / 2


def test_scores_of_silence():
    silence = np.zeros_like(PIECE)
    assert np.isnan(chroma_similarity(PIECE, silence, HZ))
    assert np.isnan(onset_agreement(PIECE, silence, HZ))
    assert onset_agreement(silence, PIECE, HZ) == 0


def test_the_longer_signal_is_cut():
    assert chroma_similarity(PIECE[: 2 * HZ], PIECE, HZ) == pytest.approx(1)
    assert multi_resolution_stft(PIECE, PIECE[: 2 * HZ]) == 0


@pytest.mark.parametrize("n", [1, 100, 5000])
def test_scores_of_very_short_signals(n):
    assert np.isfinite(multi_resolution_stft(PIECE[-n:], OTHER[-n:]))
    assert -1 <= np.nan_to_num(onset_agreement(PIECE[-n:], OTHER[-n:], HZ)) <= 1


@pytest.mark.parametrize("audio_hz", [1000, 4000, 48000])
@pytest.mark.parametrize("n", [1, 300, 10000])
def test_scores_at_other_sample_rates(audio_hz, n):
    own, other = PIECE[HZ : HZ + n], OTHER[HZ : HZ + n]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert chroma_similarity(own, own, audio_hz) == pytest.approx(1)
        assert -1 <= chroma_similarity(other, own, audio_hz) <= 1
        assert -1 <= np.nan_to_num(onset_agreement(other, own, audio_hz)) <= 1


def test_interval_is_that_of_resampled_recordings():
    """The interval consists of percentiles of weighted means of 2000 resamplings with fixed random numbers."""
    values, weights = np.random.default_rng(2).normal(size=(2, 8)) ** 2
    recordings = np.array([0, 1, 1, 2, 0, 0, 3, 2])
    indices = np.random.default_rng(0).integers(4, size=(2000, 4))
    means = []
    for resampled in indices:
        clips = np.concatenate([np.flatnonzero(recordings == recording) for recording in resampled])
        means.append(np.average(values[clips], weights=weights[clips]))
    assert bootstrap_interval(values, recordings, weights) == pytest.approx(np.percentile(means, [2.5, 97.5]))


def test_more_clips_of_the_same_recordings_are_no_evidence():
    """Equal clips leave the interval as it is, where clips as independent values would halve it."""
    values, recordings = [0.1, 0.5, 0.4, 0.8], ["a", "b", "c", "d"]
    one_each = bootstrap_interval(values, recordings)
    assert bootstrap_interval(values * 4, recordings * 4) == pytest.approx(one_each)
    low, high = bootstrap_interval(values * 4, range(16))
    assert high - low < 0.6 * (one_each[1] - one_each[0])


def test_one_recording_has_no_interval():
    assert np.isnan(bootstrap_interval([1.0, 2.0, 3.0], ["a", "a", "a"])).all()
    assert np.isnan(bootstrap_interval([1.0, 2.0, np.nan], ["a", "a", "b"])).all()


def test_level():
    assert level_db(np.full(100, 16384, np.int16)) == pytest.approx(-6.02, abs=0.01)
    assert level_db(np.zeros(100, np.int16)) == level_db(np.zeros(0, np.int16)) == -120


def test_bootstrap_interval():
    values = np.random.default_rng(1).normal(5, 2, 100)
    low, high = bootstrap_interval(values, range(100))
    assert low < values.mean() < high
    assert high - low == pytest.approx(2 * 1.96 * 2 / 10, rel=0.25)  # the normal theory's interval
    assert bootstrap_interval(values, range(100)) == (low, high)
    assert bootstrap_interval(np.full(10, 3.0), range(10)) == (3, 3)


def test_bootstrap_weights_and_unknown_values():
    assert bootstrap_interval(np.array([1.0, np.nan, 1.0]), range(3)) == (1, 1)
    assert np.isnan(bootstrap_interval(np.array([1.0, np.nan]), range(2))).all()
    assert bootstrap_interval([1.0, 2.0, 2.0], range(3), [0, 1, 3]) == (2, 2)
    assert mean([1.0, np.nan, 4.0], [2, 5, 1]) == 2 and np.isnan(mean([np.nan])) and np.isnan(mean([]))
