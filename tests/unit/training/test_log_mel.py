"""The auxiliary head's target is the log-mel spectrum of the audio, frame by frame."""

import math

import numpy as np
import pytest
import torch

from midi2wave.training.log_mel import MIN_AMPLITUDE, log_mel, mel_bands, window_samples

HZ, HOP, N_MELS = 16000, 64, 40
CPU = torch.device("cpu")


def tone(hz: float, seconds: float = 0.2, amplitude: float = 0.5) -> torch.Tensor:
    return torch.from_numpy(amplitude * np.sin(2 * np.pi * hz * np.arange(int(seconds * HZ)) / HZ)).float()[None]


def band_centres() -> np.ndarray:
    mels = np.linspace(1127 * math.log1p(30 / 700), 1127 * math.log1p(HZ / 2 / 700), N_MELS + 2)
    return 700 * (np.exp(mels / 1127) - 1)[1:-1]


@pytest.mark.parametrize("band", [12, 25, 38])
def test_tone_has_its_level_in_its_band(band):
    spectrum, _ = log_mel(tone(band_centres()[band]), HZ, HOP, N_MELS)
    assert (spectrum.argmax(dim=1) == band).all()
    # the energy of a Hann window's peak is 1.5 times that of its middle line, a band's triangle takes most of it
    assert spectrum[0, band].mean().item() == pytest.approx(math.log(0.5), abs=0.25)


def test_silence_is_the_minimum_amplitude():
    spectrum, _ = log_mel(torch.zeros(1, 4000), HZ, HOP, N_MELS)
    assert torch.allclose(spectrum, torch.tensor(math.log(MIN_AMPLITUDE)))


def test_frame_is_the_centre_of_its_window():
    window = window_samples(HZ, HOP)
    assert window % HOP == 0 and window // HOP % 2 == 1
    click = torch.zeros(1, 40 * HOP)
    click[0, 20 * HOP + HOP // 2] = 1  # in the middle of frame 20
    spectrum, first = log_mel(click, HZ, HOP, N_MELS)
    assert spectrum.shape[-1] == 40 - 2 * first
    assert spectrum.mean(dim=1)[0].argmax().item() + first == 20


def test_crop_shorter_than_a_window_has_no_frame():
    assert log_mel(torch.zeros(3, 100), HZ, HOP, N_MELS)[0].shape == (3, N_MELS, 0)


def test_bands_cover_all_spectral_lines():
    for n_mels in (8, 40, 128):
        weights = mel_bands(HZ, window_samples(HZ, HOP), n_mels, CPU)
        assert (weights.sum(dim=0) > 0).all() and weights.min() >= 0 and weights.max() <= 1
    weights, hz = mel_bands(HZ, window_samples(HZ, HOP), N_MELS, CPU), np.arange(289) * HZ / 576
    inside = weights[(hz > band_centres()[10]) & (hz < band_centres()[-1])].sum(dim=1)
    torch.testing.assert_close(inside, torch.ones_like(inside), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("audio_hz", "hop", "n_mels"), [(HZ, HOP, N_MELS), (HZ, HOP, 128), (22050, 90, 80)])
def test_targets_of_earlier_trainings(audio_hz, hop, n_mels):
    """The bands have the weights of the shipped models' trainings: narrow bands take the nearest spectral line."""
    window = window_samples(audio_hz, hop)
    edges = 700 * (np.exp(np.linspace(*(np.log1p(hz / 700) for hz in (30, audio_hz / 2)), n_mels + 2)) - 1)
    hz = np.arange(window // 2 + 1)[:, None] * audio_hz / window
    rising, falling = (hz - edges[:-2]) / np.diff(edges)[:-1], (edges[2:] - hz) / np.diff(edges)[1:]
    expected = np.maximum(0, np.minimum(rising, falling))
    empty = np.flatnonzero(expected.sum(axis=0) == 0)
    expected[np.abs(hz - edges[1:-1]).argmin(axis=0)[empty], empty] = 1
    weights = mel_bands(audio_hz, window, n_mels, CPU).numpy()
    np.testing.assert_allclose(weights, expected.astype(np.float32), rtol=0, atol=1e-7)
