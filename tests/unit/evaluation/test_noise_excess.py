"""Noise excess of recordings with noise of a known level."""

import numpy as np
import pytest

from midi2wave.audio.pcm import FULL_SCALE
from midi2wave.evaluation.noise_excess import (
    OCTAVES_HZ,
    ROUNDING_POWER,
    noise_excess,
    octave_levels,
    quantize,
    summarize_noise,
)
from tests.helpers.fake_piano import HZ, melody, play

SECONDS = 4.0
TRUTH = play(melody(0, SECONDS), SECONDS)


def white_noise(deviation, seed=0):
    return np.rint(np.random.default_rng(seed).normal(scale=deviation, size=round(SECONDS * HZ))).astype(np.int16)


def test_the_level_is_that_of_an_stft():
    """Against the sum of squares of each windowed frame, computed without librosa."""
    pcm = white_noise(1000)
    window = np.sin(np.pi * np.arange(2048) / 2048) ** 2
    frames = np.lib.stride_tricks.sliding_window_view(pcm / FULL_SCALE, 2048)[::512] * window
    power = np.abs(np.fft.rfft(frames, axis=1)) ** 2
    frequency = np.fft.rfftfreq(2048, 1 / HZ)
    for number, low in enumerate(OCTAVES_HZ):
        bins = 10 * np.log10(power[:, (frequency >= low) & (frequency < 2 * low)])
        expected = np.percentile(bins, [10, 50])
        assert octave_levels(pcm, HZ)[:, number] == pytest.approx(expected, abs=0.01)


def test_louder_noise_has_this_excess():
    quiet, loud = white_noise(100), white_noise(1000, seed=1)
    result = noise_excess(loud, quiet, quiet, HZ)
    assert result.output["median"] == pytest.approx([20] * 7, abs=1.5)
    assert result.output["percentile_10"] == pytest.approx([20] * 7, abs=2)
    assert result.quantized["median"] == [0] * 7


def test_noise_between_the_notes_is_measured():
    noisy = (TRUTH.astype(np.int32) + white_noise(300)).clip(-FULL_SCALE, FULL_SCALE - 1).astype(np.int16)
    result = noise_excess(noisy, TRUTH, TRUTH, HZ)
    assert min(result.output["percentile_10"]) > 20
    loudest = octave_levels(noisy, HZ) - octave_levels(TRUTH, HZ)
    assert result.output["percentile_10"] == pytest.approx(loudest[0].tolist())


def test_silence_is_as_loud_as_the_rounding():
    level = octave_levels(np.zeros(HZ, np.int16), HZ)
    assert np.allclose(level, 10 * np.log10(ROUNDING_POWER * 768))  # The squares of the Hann window sum to 768.
    assert octave_levels(np.zeros(10, np.int16), HZ) == pytest.approx(level)


def test_octaves_above_half_the_sample_rate_are_nan():
    level = octave_levels(white_noise(1000), 4000)
    assert np.isfinite(level[:, :5]).all() and np.isnan(level[:, 5:]).all()


@pytest.mark.parametrize("codes", [True, False])
def test_quantize_goes_through_the_samples_of_the_model(codes):
    rounded = quantize(TRUTH, 0.9, codes=codes)
    error = rounded.astype(float) - TRUTH
    assert len(rounded) == len(TRUTH) and error.any()
    # 256 codes err by some percent, and 16 bits by a step or two.
    assert (10 < np.std(error) < 0.05 * TRUTH.std()) if codes else np.abs(error).max() <= 2


def test_summary_has_means_and_intervals():
    clips = [noise_excess(white_noise(s, seed=s), white_noise(100), TRUTH, HZ) for s in (200, 400)]
    octaves = summarize_noise(clips, ["a", "b"])
    assert [one["low_hz"] for one in octaves] == list(OCTAVES_HZ) and octaves[-1]["high_hz"] == 6400
    for number, one in enumerate(octaves):
        values = [clip.output["median"][number] for clip in clips]
        assert one["median"] == pytest.approx(np.mean(values))
        assert one["median_interval"] == pytest.approx(sorted(values))
        assert one["percentile_10_quantized"] == pytest.approx(
            np.mean([c.quantized["percentile_10"][number] for c in clips])
        )
