"""The auxiliary head's target is the log-mel spectrum of the audio, frame by frame."""

import math

import numpy as np
import pytest
import torch

from midi2wave.training.log_mel import FLOOR, log_mel, mel_bands, window_samples

HZ, HOP, N_MELS = 16000, 64, 40
CPU = torch.device("cpu")


def tone(hz: float, seconds: float = 0.2, amplitude: float = 0.5) -> torch.Tensor:
    return torch.from_numpy(amplitude * np.sin(2 * np.pi * hz * np.arange(int(seconds * HZ)) / HZ)).float()[None]


def middles() -> np.ndarray:
    mels = np.linspace(1127 * math.log1p(30 / 700), 1127 * math.log1p(HZ / 2 / 700), N_MELS + 2)
    return 700 * (np.exp(mels / 1127) - 1)[1:-1]


@pytest.mark.parametrize("band", [12, 25, 38])
def test_a_tone_is_loudest_in_its_band_and_as_loud_as_it_is(band):
    found, _ = log_mel(tone(middles()[band]), HZ, HOP, N_MELS)
    assert (found.argmax(dim=1) == band).all()
    # the energy of a Hann window's peak is 1.5 times that of its middle line, a band's triangle takes most of it
    assert found[0, band].mean().item() == pytest.approx(math.log(0.5), abs=0.25)


def test_silence_is_the_floor():
    found, _ = log_mel(torch.zeros(1, 4000), HZ, HOP, N_MELS)
    assert torch.allclose(found, torch.tensor(math.log(FLOOR)))


def test_a_frame_has_its_window_around_it():
    window = window_samples(HZ, HOP)
    assert window % HOP == 0 and window // HOP % 2 == 1
    click = torch.zeros(1, 40 * HOP)
    click[0, 20 * HOP + HOP // 2] = 1  # in the middle of frame 20
    found, first = log_mel(click, HZ, HOP, N_MELS)
    assert found.shape[-1] == 40 - 2 * first
    assert found.mean(dim=1)[0].argmax().item() + first == 20


def test_a_crop_shorter_than_a_window_has_no_frame():
    assert log_mel(torch.zeros(3, 100), HZ, HOP, N_MELS)[0].shape == (3, N_MELS, 0)


def test_every_band_takes_something_and_they_share_the_lines_between_them():
    for n_mels in (8, 40, 128):
        weights = mel_bands(HZ, window_samples(HZ, HOP), n_mels, CPU)
        assert (weights.sum(dim=0) > 0).all() and weights.min() >= 0 and weights.max() <= 1
    weights, hz = mel_bands(HZ, window_samples(HZ, HOP), N_MELS, CPU), np.arange(289) * HZ / 576
    inside = weights[(hz > middles()[10]) & (hz < middles()[-1])].sum(dim=1)
    torch.testing.assert_close(inside, torch.ones_like(inside), rtol=0, atol=1e-5)
