"""Classifier-free guidance: the same samples from the parallel pass and from every engine, and what its ends are."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from midi2wave.config import EvaluateConfig
from midi2wave.evaluation.synthesizer import Synthesizer
from midi2wave.sampling import engines
from midi2wave.sampling.engines import cpu, cuda
from midi2wave.sampling.options import SamplingOptions
from tests.helpers.sampler_models import (
    N_FRAMES,
    concatenate,
    make_model,
    make_sources,
    parallel_params,
    random_prefix,
    with_null,
)
from tests.helpers.synthesis_models import make, make_performance
from wavenet import Conditioning, generate


@pytest.mark.parametrize(
    ("output", "kernel_size", "upsampling", "threads", "n_streams", "prefix_frames", "guidance", "temperature"),
    [
        ("categorical", 2, "linear", 1, 1, 0, 2.0, 1.0),
        ("categorical", 3, "transposed", 3, 2, 5, 0.3, 0.8),
        ("logistic_mixture", 2, "linear", 2, 1, 5, 2.5, 0.7),
        ("logistic_mixture", 2, "repeat", 2, 3, 0, 0.6, 1.0),
    ],
)
def test_guidance_in_every_engine(
    output, kernel_size, upsampling, threads, n_streams, prefix_frames, guidance, temperature
):
    """The parallel pass over what the reference played draws it again, and the other engines play it."""
    model = make_model(output, kernel_size, upsampling)
    conditioning, uniforms = make_sources(model, n_streams)
    conditioning, prefix = with_null(conditioning), random_prefix(model, n_streams, prefix_frames)
    arguments = (model, conditioning, uniforms, n_streams, N_FRAMES)
    expected = concatenate(generate(*arguments, prefix=prefix, temperature=temperature, guidance=guidance))
    assert expected.shape == (n_streams, N_FRAMES * model.hop)
    both = parallel_params(model, expected.repeat(2, 1), conditioning)
    reference = model.guide(both, guidance)
    again = model.draw(reference, uniforms(0, expected.shape[1]), temperature)
    options = SamplingOptions(temperature=temperature, guidance=guidance, threads=threads)
    own_samples, params = cpu.replay(model, conditioning, uniforms, expected, options)
    assert (params - reference).abs().max() < 1e-5 * both.abs().max()
    assert (both[:n_streams] - reference).abs().max() > 0.01 * both.abs().max()  # or guidance would not be seen
    played = concatenate(engines.generate(*arguments, replace(options, sampler="numba"), prefix=prefix))
    on_cuda = concatenate(cuda.generate(*arguments, options, prefix=prefix))
    assert torch.equal(on_cuda, expected) and played.shape == expected.shape
    new = slice(prefix_frames * model.hop, None)
    if model.decoder.mixture:
        for one in (again, own_samples):
            assert (one - expected)[:, new].abs().max() <= 1
            assert (one != expected)[:, new].float().mean() < 0.01
        assert torch.equal(played[:, : new.start + 8], expected[:, : new.start + 8])
    else:
        assert all(torch.equal(one[:, new], expected[:, new]) for one in (again, own_samples, played))


@pytest.mark.parametrize("output", ["categorical", "logistic_mixture"])
@pytest.mark.parametrize("sampler", ["torch", "numba"])
def test_guidance_zero_is_the_null_condition(output, sampler):
    model = make_model(output)
    conditioning, uniforms = make_sources(model, 2)
    guided = engines.generate(
        model, with_null(conditioning), uniforms, 2, 4, options=SamplingOptions(sampler=sampler, guidance=0.0)
    )
    null = Conditioning(
        lambda first, n: torch.zeros_like(conditioning.features(first, n)),
        lambda first, n: torch.zeros_like(conditioning.excitation(first, n)),
    )
    assert torch.equal(
        concatenate(guided),
        concatenate(engines.generate(model, null, uniforms, 2, 4, options=SamplingOptions(sampler=sampler))),
    )


def test_categorical_guidance_extrapolates_log_probabilities():
    """Guidance of mu-law codes extrapolates their log-probabilities."""
    model = make_model()
    params = torch.randn(4, 256, 5, generator=torch.Generator().manual_seed(0))
    own, null = torch.log_softmax(params, dim=1).chunk(2)
    for guidance in (0.0, 0.3, 1.0, 3.0):
        guided_params = params[:2] if guidance == 1 else params
        expected = torch.log_softmax(null + guidance * (own - null), dim=1)
        torch.testing.assert_close(torch.log_softmax(model.guide(guided_params, guidance), dim=1), expected)


def test_threads_and_batch_change_no_bit_with_guidance():
    """Neither threads nor the batch change a bit with guidance."""
    model = make_model("logistic_mixture")
    conditioning, uniforms = make_sources(model, 3)
    samples = concatenate(generate(model, conditioning, uniforms, 3, 8))
    _, params = cpu.replay(model, with_null(conditioning), uniforms, samples, options=SamplingOptions(guidance=2.0))
    for threads in (2, 5):
        _, others = cpu.replay(
            model, with_null(conditioning), uniforms, samples, options=SamplingOptions(guidance=2.0, threads=threads)
        )
        assert torch.equal(others, params)


@pytest.mark.parametrize("output", ["categorical", "logistic_mixture"])
def test_evaluation_uses_its_guidance(output):
    """Evaluation generates with the guidance of its config."""
    model, data = make(output)
    pieces, sounds = [make_performance(0), make_performance(1)], {}
    for guidance in (0.0, 1.0, 4.0):
        synthesizer = Synthesizer(model, data, EvaluateConfig(model_filename="", guidance=guidance))
        sounds[guidance] = synthesizer(pieces, 0.1)
    assert np.array_equal(*sounds[0.0]) and not np.array_equal(*sounds[1.0])
    assert not np.array_equal(sounds[1.0], sounds[4.0])
