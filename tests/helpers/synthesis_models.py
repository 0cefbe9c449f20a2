"""Small untrained models for the tests of synthesis, and performances, audio and samples for them."""

import numpy as np
import pytest
import torch

from midi2wave.config import CondWavenetConfig, Config, DataConfig, WavenetConfig
from midi2wave.midi.performance import Performance
from midi2wave.sampling.options import SamplingOptions
from midi2wave.sampling.synthesis import synthesize
from wavenet import WaveNet, build_model

HOP = 16
N_FRAMES = 6
CPU = torch.device("cpu")
OUTPUTS = pytest.mark.parametrize("output", ["logistic_mixture", "categorical"])


def make_config(output="logistic_mixture", upsampling="linear", n_mels=0, **data) -> Config:
    """A config of a small model; `data` are options of its data_config."""
    return Config(
        data_config=DataConfig(**{"audio_hz": 4000, "midi_hz": 250} | data),
        wavenet_config=WavenetConfig(
            output=output,
            n_mixtures=2,
            n_layers=3,
            max_dilation=4,
            n_residual_channels=8,
            n_skip_channels=8,
            n_out_channels=8,
            n_cond_channels=8,
        ),
        cond_wavenet_config=CondWavenetConfig(
            n_layers=2,
            max_dilation=2,
            n_residual_channels=8,
            n_skip_channels=8,
            lookahead_ms=8.0,
            upsampling=upsampling,
            n_mels=n_mels,
        ),
    )


def build(config: Config) -> WaveNet:
    """A model whose output is sensitive to its past and its conditioning."""
    torch.manual_seed(0)
    model = build_model(config).eval()
    torch.nn.init.normal_(model.decoder.output.weight, std=0.3)
    return model


def make(output="logistic_mixture", excitation=True):
    """A model of `build`, and the data config that it was built for."""
    config = make_config(output, excitation=excitation)
    return build(config), config.data_config


def make_performance(seed: int) -> Performance:
    rng = np.random.default_rng(seed)
    onset = np.sort(rng.uniform(-0.02, 0.015, 6))
    return Performance(
        onset, onset + 0.03, rng.choice(np.arange(40, 90), 6, replace=False), rng.integers(30, 128, 6), {}
    )


def make_pcm(n_streams: int, n_frames: int) -> np.ndarray:
    shape = (n_streams, n_frames * HOP)
    return (3000 * np.random.default_rng(7).standard_normal(shape)).astype(np.int16)


def play(model, data, performances, streams, *, prefix=None, **options) -> np.ndarray:
    options = SamplingOptions(seed=5, **options)
    blocks = list(synthesize(model, performances, N_FRAMES, data, options, streams=streams, prefix=prefix))
    assert all(block.dtype == np.int16 for block in blocks)
    return np.concatenate(blocks, axis=1)
