"""Mu-law codes: their formula and its inverse."""

import librosa
import numpy as np
import pytest

from midi2wave.audio.mu_law import mu_law_decode, mu_law_decode_between, mu_law_encode


def test_mu_law_codes_survive_decoding_and_encoding():
    codes = np.arange(256, dtype=np.uint8)
    pcm = mu_law_decode(codes)
    assert pcm.dtype == np.int16
    assert np.array_equal(mu_law_encode(pcm), codes)
    assert np.all(np.diff(pcm.astype(int)) > 0)


def test_mu_law_follows_its_formula():
    pcm = np.arange(-32768, 32768).astype(np.int16)
    codes = mu_law_encode(pcm)
    assert codes.dtype == np.uint8
    assert codes[[0, 32768, 65535]].tolist() == [0, 128, 255]
    assert np.all(np.diff(codes.astype(int)) >= 0)
    # by hand: x = 0.25 -> ln(1 + 63.75) / ln 256 = 0.75209 -> 1.75209 / 2 * 255 + 0.5 = 223.89
    assert codes[32768 + 8192] == 223
    # a code is half a step of 2/255 wide to each side, and the slope there is ln 256 * (1/255 + |x|)
    x = pcm / 32768
    half_step = np.log(256) * (1 / 255 + np.abs(x)) / 255 * 1.03 + 0.5 / 32768
    assert np.all(np.abs(mu_law_decode(codes) / 32768 - x) <= half_step)


def test_mu_law_agrees_with_librosa():
    """Its continuous functions: its own codes are rounded in another way than those of nv-wavenet."""
    pcm = np.arange(-32768, 32768).astype(np.int16)
    companded = librosa.mu_compress(pcm / 32768, mu=255, quantize=False)
    assert np.array_equal(mu_law_encode(pcm), np.floor((companded + 1) / 2 * 255 + 0.5))
    codes = np.arange(256, dtype=np.uint8)
    expanded = librosa.mu_expand(codes.astype(float) / 127.5 - 1, mu=255, quantize=False)
    assert np.abs(mu_law_decode(codes) - (32768 * expanded).clip(-32768, 32767)).max() <= 0.5 + 1e-6


@pytest.mark.parametrize("amplitude", [3, 12, 300, 20000])
def test_codes_with_fractions_keep_a_quiet_sound(amplitude):
    """Its amplitude, without harmonics: a quiet note lies within a few codes."""
    sine = amplitude * np.sin(2 * np.pi * 440 * np.arange(16000) / 16000)
    companded = np.sign(sine) * np.log1p(255 * np.abs(sine) / 32768) / np.log(256)
    decoded = mu_law_decode_between(((companded + 1) / 2 * 255).astype(np.float32))
    spectrum = np.abs(np.fft.rfft(decoded)) / 8000
    assert decoded.dtype == np.int16
    assert spectrum[440] == pytest.approx(amplitude, abs=0.05, rel=1e-3)
    assert spectrum[880] < 0.1
    assert decoded.mean() == pytest.approx(-2.83, abs=0.05)


def test_the_code_of_silence_and_the_largest_codes():
    codes = np.array([128, 128.0001, 127.5, 129, 0, 255], np.float32)
    assert mu_law_decode_between(codes).tolist() == [0, 0, -3, 6, -32768, 32765]
