"""Pre-emphasis: the formula, and its inverse in blocks and for teacher forcing."""

import itertools

import numpy as np
import pytest

from midi2wave.audio.mu_law import mu_law_encode
from midi2wave.audio.pre_emphasis import (
    Deemphasis,
    deemphasize_teacher_forced,
    emphasize,
    gain,
    mu_law_decode_preemphasized,
)

A = 0.9


def music(n: int = 6000, rows: int = 2) -> np.ndarray:
    """Decaying low tones, int16 [rows, n]."""
    t = np.arange(n) / 16000
    tones = [np.exp(-2 * t) * np.sin(2 * np.pi * hz * t) for hz in (110.0, 220.0, 523.0)]
    return (np.array([[0.3], [-0.2]][:rows]) * 32768 * sum(tones) / 3).astype(np.int16)


def test_emphasize_follows_its_formula():
    pcm = np.array([[0, 1000, 1000, -500]], dtype=np.int16)
    expected = np.rint(np.array([[0, 1000, 100, -1400]]) * gain(A))
    assert gain(A) == pytest.approx(10**0.5)
    assert np.array_equal(emphasize(pcm, A), expected) and emphasize(pcm, A).dtype == np.int16
    assert emphasize(pcm, 0.0) is pcm


def test_values_beyond_full_scale_are_clipped():
    assert emphasize(np.array([-32768, 32767], dtype=np.int16), A).tolist() == [-32768, 32767]
    loud = np.full((1, 50), 32767, dtype=np.int16)
    assert Deemphasis(A)(loud)[0, -1] == 32767


@pytest.mark.parametrize("coefficient", [0.5, 0.9, 0.97])
@pytest.mark.parametrize("sizes", [[6000], [1, 2, 3, 994, 5000], [64] * 93 + [48]])
def test_deemphasis_inverts_emphasis_for_any_block_sizes(coefficient, sizes):
    pcm, deemphasis = music(), Deemphasis(coefficient)
    emphasized = emphasize(pcm, coefficient)
    edges = np.cumsum([0, *sizes])
    back = np.concatenate([deemphasis(emphasized[:, a:b]) for a, b in itertools.pairwise(edges)], axis=1)
    assert back.dtype == np.int16
    # Only the rounding of the pre-emphasised signal is lost, 1/2 at most.
    assert np.abs(back.astype(int) - pcm).max() <= 0.5 / gain(coefficient) / (1 - coefficient) + 1
    exact, last = np.zeros(emphasized.shape), 0.0
    for t in range(emphasized.shape[1]):
        last = exact[:, t] = emphasized[:, t] / gain(coefficient) + coefficient * last
    assert np.abs(back - exact).max() <= 0.5 + 1e-6


def test_empty_blocks_and_coefficient_zero():
    deemphasis = Deemphasis(A)
    first = deemphasis(emphasize(music(), A)[:, :100])
    assert deemphasis(np.zeros((2, 0), dtype=np.int16)).shape == (2, 0)
    again = Deemphasis(A)
    assert np.array_equal(again(emphasize(music(), A)[:, :100]), first)
    pcm = music()
    assert Deemphasis(0.0)(pcm) is pcm and deemphasize_teacher_forced(pcm, pcm, 0.0) is pcm


def test_teacher_forced_samples_use_the_true_previous_sample():
    pcm = music()
    emphasized = emphasize(pcm, A)
    assert np.abs(deemphasize_teacher_forced(emphasized, pcm, A).astype(int) - pcm).max() <= 1
    off = emphasized.copy()
    off[:, 500] += 1000  # one different sample, which does not change the next ones
    difference = deemphasize_teacher_forced(off, pcm, A).astype(int) - deemphasize_teacher_forced(emphasized, pcm, A)
    assert np.flatnonzero(difference[0]).tolist() == [500] and difference[0, 500] == pytest.approx(
        1000 / gain(A), abs=1
    )


def test_deemphasis_attenuates_noise_at_high_frequencies():
    noise = np.random.default_rng(0).normal(0, 300, (1, 2**15)).astype(np.int16)
    power = np.abs(np.fft.rfft(Deemphasis(A)(noise)[0])) ** 2
    low, high = power[len(power) // 160 : len(power) // 40].mean(), power[len(power) // 2 :].mean()
    assert 10 * np.log10(low / high) > 15


def test_mu_law_silence_stays_silence():
    silence = np.zeros((1, 1000), dtype=np.int16)
    assert not Deemphasis(A)(mu_law_decode_preemphasized(mu_law_encode(emphasize(silence, A)))).any()
    codes = mu_law_encode(emphasize(music(), A))
    assert np.array_equal(mu_law_encode(mu_law_decode_preemphasized(codes)), codes)


@pytest.mark.parametrize("coefficient", [0.5, 0.9, 0.97])
def test_streams_in_blocks_give_the_same_samples_as_the_whole(coefficient):
    emphasized = emphasize(music(), coefficient)
    deemphasis = Deemphasis(coefficient)
    blocks = [deemphasis(block) for block in np.array_split(emphasized, [1, 7, 8, 500, 5999], axis=1)]
    assert np.array_equal(np.concatenate(blocks, axis=1), Deemphasis(coefficient)(emphasized))


@pytest.mark.parametrize("coefficient", [0.5, 0.9, 0.97])
def test_deemphasis_is_the_filter_of_scipy(coefficient):
    from scipy.signal import lfilter

    emphasized = emphasize(music(), coefficient)
    expected = np.rint(lfilter([1.0], [1.0, -coefficient], emphasized / gain(coefficient)))
    assert np.array_equal(Deemphasis(coefficient)(emphasized), expected)
