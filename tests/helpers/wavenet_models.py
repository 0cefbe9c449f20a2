"""Models in float64, conditioning and samples for the tests of the decoder and its reference sampler."""

import numpy as np
import torch

from midi2wave.config import CondWavenetConfig, WavenetConfig
from tests.helpers.sampler_models import N_FEATURES, build
from wavenet import Conditioning

HOP = 16
N_EXCITATION = 2
N_FRAMES = 12


def make_model(
    output="logistic_mixture",
    kernel_size=2,
    upsampling="linear",
    lookahead_ms=8.0,
    n_mels=0,
    n_excitation=N_EXCITATION,
    dtype=torch.float64,
    max_dilation=8,
    **options,
):
    config = WavenetConfig(
        output=output,
        n_mixtures=3,
        n_layers=6,
        max_dilation=max_dilation,
        kernel_size=kernel_size,
        n_residual_channels=8,
        n_skip_channels=12,
        n_out_channels=10,
        n_cond_channels=7,
        **options,
    )
    cond = CondWavenetConfig(
        n_layers=4,
        max_dilation=4,
        n_residual_channels=6,
        n_skip_channels=6,
        lookahead_ms=lookahead_ms,
        upsampling=upsampling,
        n_mels=n_mels,
    )
    return build(config, cond, n_excitation, audio_hz=4000).to(dtype)


def make_conditioning(n_streams=2, n_excitation=N_EXCITATION, dtype=torch.float64, seed=0):
    """Random conditioning that exists for any frame, as real conditioning does."""
    rng, reach = np.random.default_rng(seed), 64
    features = torch.from_numpy(rng.random((n_streams, N_FEATURES, N_FRAMES + 2 * reach))).to(dtype)
    excitation = torch.from_numpy(rng.normal(size=(n_streams, n_excitation, N_FRAMES * HOP))).to(dtype)
    return Conditioning(
        lambda first, n: features[..., first + reach : first + reach + n],
        lambda first, n: excitation[..., first * HOP : (first + n) * HOP],
    )


def parallel(model, samples, conditioning):
    context, excitation = conditioning.block(model, 0, samples.shape[1] // HOP)
    return model.decoder(model.decoder.prepend_silence(samples), context, excitation)


def random_samples(model, n_streams=2, n_frames=N_FRAMES, seed=3):
    low, high = (-30000, 30000) if model.decoder.mixture else (0, 256)
    return torch.randint(low, high, (n_streams, n_frames * HOP), generator=torch.Generator().manual_seed(seed))
