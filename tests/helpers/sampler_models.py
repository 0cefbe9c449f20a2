"""Models and conditioning for the tests of samplers: odd sizes, outputs that are sensitive to all inputs."""

import numpy as np
import torch

from midi2wave.config import CondWavenetConfig, WavenetConfig
from midi2wave.sampling.engines import cpu, cuda
from midi2wave.sampling.options import SamplingOptions
from midi2wave.sampling.uniforms import seeded_uniforms
from wavenet import Conditioning, WaveNet, generate

HOP, N_FEATURES, REACH = 12, 5, 64


def build(config: WavenetConfig, context: CondWavenetConfig, n_excitation: int, audio_hz: int) -> WaveNet:
    """A model whose output is sensitive to all inputs, with N_FEATURES features 250 times a second."""
    torch.manual_seed(1)
    rates = {"audio_hz": audio_hz, "midi_hz": 250}
    model = WaveNet(config, context, n_features=N_FEATURES, n_excitation=n_excitation, **rates)
    torch.nn.init.normal_(model.decoder.output.weight, std=0.5)  # far from the start, so that a mistake shows
    if context.upsampling == "transposed":
        torch.nn.init.normal_(model.decoder.upsampling.window.weight, std=0.3)
    return model.eval()


def make_model(
    output="categorical", kernel_size=2, upsampling="linear", n_excitation=3, *, n_codes=0, **sizes
) -> WaveNet:
    """A model whose layers are no multiples of any vector; `sizes` replace keys of wavenet_config."""
    config = {
        "n_mixtures": 3,
        "n_layers": 7,
        "max_dilation": 32,
        "n_residual_channels": 20,
        "n_skip_channels": 37,
        "n_out_channels": 50,
        "n_cond_channels": 7,
    } | sizes
    context = CondWavenetConfig(
        n_layers=2,
        max_dilation=2,
        n_residual_channels=6,
        n_skip_channels=6,
        lookahead_ms=4.0,
        upsampling=upsampling,
        n_codes=n_codes,
        code_scale=3.0,
    )
    return build(WavenetConfig(output=output, kernel_size=kernel_size, **config), context, n_excitation, audio_hz=3000)


def make_conditioning(model: WaveNet, n_streams: int, n_frames: int = 600) -> Conditioning:
    """Random conditioning that exists for any frame, a stream's own whatever its neighbours are."""
    n_excitation = model.decoder.layers[0].excitation.in_features
    features, excitation = [], []
    for stream in range(n_streams):
        rng = np.random.default_rng(stream)
        features.append(rng.random((N_FEATURES, n_frames + 2 * REACH), dtype=np.float32))
        excitation.append(rng.standard_normal((n_excitation, n_frames * model.hop), dtype=np.float32))
    features, excitation = torch.from_numpy(np.stack(features)), torch.from_numpy(np.stack(excitation))
    return Conditioning(
        lambda first, n: features[..., first + REACH : first + REACH + n],
        lambda first, n: excitation[..., first * model.hop : (first + n) * model.hop],
    )


def with_null(conditioning: Conditioning) -> Conditioning:
    """Every stream's own rows, then as many of nothing."""

    def doubled(values: torch.Tensor) -> torch.Tensor:
        return torch.cat([values, torch.zeros_like(values)])

    return Conditioning(
        lambda first, n: doubled(conditioning.features(first, n)),
        lambda first, n: doubled(conditioning.excitation(first, n)),
    )


def random_prefix(model, n_streams, n_frames):
    """Samples to begin with, [B, n_frames * hop]; None for no frames."""
    if not n_frames:
        return None
    low, high = (-20000, 20000) if model.decoder.mixture else (0, 256)
    return torch.from_numpy(np.random.default_rng(0).integers(low, high, (n_streams, n_frames * model.hop)))


N_FRAMES = 14


def parallel_params(model: WaveNet, samples: torch.Tensor, conditioning: Conditioning) -> torch.Tensor:
    with torch.inference_mode():
        context, excitation = conditioning.block(model, 0, samples.shape[1] // model.hop)
        return model.decoder(model.decoder.prepend_silence(samples), context, excitation)


def concatenate(blocks) -> torch.Tensor:
    return torch.cat(list(blocks), dim=1)


def assert_engines_agree(model, conditioning, uniforms, n_streams, n_frames, *, threads, guidance):
    """Assert that the engines and the parallel pass agree with the reference; returns its samples, these once for every
    row of the conditioning, and the parameters that they are drawn with."""
    expected = concatenate(generate(model, conditioning, uniforms, n_streams, n_frames, guidance=guidance))
    row_samples = expected.repeat(1 if guidance == 1 else 2, 1)
    reference = model.guide(parallel_params(model, row_samples, conditioning), guidance)
    own_samples, params = cpu.replay(
        model, conditioning, uniforms, expected, options=SamplingOptions(threads=threads, guidance=guidance)
    )
    assert (params - reference).abs().max() < 1e-5 * reference.abs().max()
    assert (own_samples - expected).abs().max() <= int(model.decoder.mixture)
    assert (own_samples != expected).float().mean() < 0.01
    on_cuda = cuda.generate(
        model, conditioning, uniforms, n_streams, n_frames, options=SamplingOptions(guidance=guidance)
    )
    assert torch.equal(concatenate(on_cuda), expected)
    return expected, row_samples, reference


def make_sources(model: WaveNet, n_streams: int, seed: int = 3):
    return make_conditioning(model, n_streams), seeded_uniforms(seed, list(range(n_streams)), model.uniforms_per_sample)
