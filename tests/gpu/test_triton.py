"""The Triton engine on a GPU: the reference's samples, 16-bit operands, launches of every shape. Skipped without one.

Not yet run anywhere: `tests/unit/sampling/test_triton.py` runs the same kernel in Triton's interpreter.
"""

import numpy as np
import pytest
import soundfile
import torch

import inference
from midi2wave.checkpoint import load_checkpoint
from midi2wave.sampling import engines
from midi2wave.sampling.engines import triton
from midi2wave.sampling.options import SamplingOptions
from midi2wave.sampling.uniforms import seeded_uniforms
from tests.gpu.test_cuda import on_gpu
from tests.helpers.paths import ROOT
from tests.helpers.pipeline import call, settings
from tests.helpers.sampler_models import concatenate, make_model, make_sources, parallel_params, random_prefix
from wavenet import Conditioning, generate

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="a CUDA GPU is needed"),
]
SHIPPED = ("disklavier", "rendered", "rendered_reference")


@pytest.mark.parametrize(
    ("output", "kernel_size", "upsampling", "n_streams", "prefix_frames", "guidance", "temperature"),
    [
        ("categorical", 2, "linear", 1, 0, 1.0, 1.0),
        ("categorical", 3, "transposed", 3, 5, 2.0, 0.8),
        ("categorical", 2, "repeat", 70, 0, 1.0, 1.0),
        ("logistic_mixture", 2, "linear", 2, 5, 1.0, 0.7),
        ("logistic_mixture", 3, "repeat", 17, 0, 2.5, 1.0),
    ],
)
def test_triton_samples_what_the_reference_samples(
    output, kernel_size, upsampling, n_streams, prefix_frames, guidance, temperature
):
    """On the same GPU, from the same uniforms; rounding may occasionally move a sample over the edge of its bin."""
    model, conditioning, uniforms = on_gpu(make_model(output, kernel_size, upsampling), n_streams, guidance)
    prefix = random_prefix(model, n_streams, prefix_frames)
    prefix = None if prefix is None else prefix.cuda()
    options = SamplingOptions(temperature=temperature, guidance=guidance, sampler="triton")
    n_frames = prefix_frames + 2 * triton.MAX_BLOCK_FRAMES + 3
    arguments = (model, conditioning, uniforms, n_streams, n_frames)
    expected = concatenate(generate(*arguments, prefix=prefix, temperature=temperature, guidance=guidance))
    played = concatenate(engines.generate(*arguments, options, prefix=prefix))
    assert played.shape == expected.shape == (n_streams, n_frames * model.hop)
    n_same = int((played == expected).cumprod(1).sum())
    # After the first difference they diverge: what counts is that a long beginning is the same.
    assert n_same > 0.9 * expected.numel(), f"apart after {n_same} of {expected.numel()} samples"
    assert torch.equal(concatenate(engines.generate(*arguments, options, prefix=prefix)), played)


@pytest.mark.parametrize("n_rows", [16, 32, 64])
@pytest.mark.parametrize("n_warps", [4, 8])
@pytest.mark.parametrize("n_stages", [1, 2, 3])
def test_launches_of_every_shape_agree(n_rows, n_warps, n_stages):
    model, conditioning, uniforms = on_gpu(make_model(), 70, 1.0)
    samples = concatenate(generate(model, conditioning, uniforms, 70, 8))
    reference = parallel_params(model, samples, conditioning)
    launch = triton.Launch(n_rows, n_warps, n_stages)
    own_samples, params = triton.replay(model, conditioning, uniforms, samples, launch=launch)
    assert (params - reference).abs().max() < 1e-5 * reference.abs().max()
    assert (own_samples == samples).float().mean() > 0.99


@pytest.mark.parametrize("weights", ["bfloat16", "float16"])
@pytest.mark.parametrize("output", ["categorical", "logistic_mixture"])
def test_16_bit_operands_are_near_float32(output, weights):
    model, conditioning, uniforms = on_gpu(make_model(output), 2, 1.0)
    samples = concatenate(generate(model, conditioning, uniforms, 2, 14))
    reference = parallel_params(model, samples, conditioning)
    options = SamplingOptions(sampler="triton", weights=weights)
    error = (triton.replay(model, conditioning, uniforms, samples, options)[1] - reference).abs().max()
    assert 1e-5 < error / reference.abs().max() < 0.03


@pytest.mark.parametrize("weights", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_models_play_as_on_the_cpu(name, weights):
    """A second of the numba engine's samples, each of them drawn again by the GPU after the same past."""
    model = load_checkpoint(ROOT / "pretrained" / f"{name}.safetensors", "cpu").model
    n_streams, n_frames = 3, 250
    rng = np.random.default_rng(0)
    n_features, n_excitation = model.context.input.in_channels, model.decoder.layers[0].excitation.in_features
    features = torch.from_numpy(rng.random((n_streams, n_features, n_frames + 400), dtype=np.float32))
    excitation = torch.from_numpy(
        0.2 * rng.standard_normal((n_streams, n_excitation, n_frames * model.hop), dtype=np.float32)
    )

    def conditioning(device):
        return Conditioning(
            lambda first, n: features[..., first + 200 : first + 200 + n].to(device),
            lambda first, n: excitation[..., first * model.hop : (first + n) * model.hop].to(device),
        )

    uniforms = seeded_uniforms(0, list(range(n_streams)), model.uniforms_per_sample)
    played = concatenate(engines.generate(model, conditioning("cpu"), uniforms, n_streams, n_frames))
    reference = parallel_params(model, played, conditioning("cpu"))
    options = SamplingOptions(sampler="triton", weights=weights)
    own, params = triton.replay(model.cuda(), conditioning("cuda"), uniforms, played.cuda(), options)
    error = ((params.cpu() - reference).abs().max() / reference.abs().max()).item()
    assert error < (1e-4 if weights == "float32" else 0.05)
    assert (own.cpu() == played).float().mean() > (0.999 if weights == "float32" else 0.9)


def test_inference_writes_the_same_clips_as_numba(pipeline, tmp_path):
    sounds = {}
    for sampler in ("triton", "numba"):
        folder = tmp_path / sampler
        options = ["device=cuda", f"sampler={sampler}", f"output_dir={folder}"]
        outcome = call(
            inference, "-c", pipeline.config, *settings(*(f"inference_config.{option}" for option in options)), "--json"
        )
        assert outcome.code == 0, outcome.err
        sounds[sampler] = [soundfile.read(folder / name)[0] for name in outcome.result["wavs"]]
    for sound, expected in zip(sounds["triton"], sounds["numba"], strict=True):
        assert np.isfinite(sound).all() and np.abs(sound).max() > 0
        assert np.abs(sound[:50] - expected[:50]).max() <= 2 / 32768


def test_the_second_gpu_may_play():
    if torch.cuda.device_count() < 2:
        pytest.skip("two GPUs are needed")
    model = make_model().to("cuda:1")
    conditioning, _ = make_sources(model, 1)
    on_second = Conditioning(
        lambda first, n: conditioning.features(first, n).to("cuda:1"),
        lambda first, n: conditioning.excitation(first, n).to("cuda:1"),
    )
    uniforms = seeded_uniforms(3, [0], model.uniforms_per_sample, "cuda:1")
    options = SamplingOptions(sampler="triton")
    played = concatenate(engines.generate(model, on_second, uniforms, 1, 4, options))
    assert torch.equal(played, concatenate(generate(model, on_second, uniforms, 1, 4)))
