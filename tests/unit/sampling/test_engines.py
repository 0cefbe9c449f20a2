"""Every engine gives the reference's samples from the same uniforms, however the work is dealt out."""

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import torch

from midi2wave.config import load_config
from midi2wave.sampling import engines
from midi2wave.sampling.engines import cpu, cuda, simd
from midi2wave.sampling.options import SamplingOptions
from midi2wave.sampling.uniforms import seeded_uniforms
from midi2wave.utils.errors import InputError
from tests.helpers.sampler_models import (
    N_FRAMES,
    assert_engines_agree,
    concatenate,
    make_conditioning,
    make_model,
    make_sources,
    parallel_params,
    random_prefix,
    with_null,
)
from wavenet import Caches, Conditioning, build_model, generate, prefill


@pytest.mark.parametrize(
    ("output", "kernel_size", "upsampling", "n_excitation", "threads", "n_streams", "prefix_frames", "temperature"),
    [
        ("categorical", 2, "linear", 3, 1, 1, 0, 1.0),
        ("categorical", 2, "repeat", 0, 2, 1, 5, 1.0),
        ("categorical", 3, "linear", 6, 2, 3, 0, 0.8),
        ("categorical", 3, "transposed", 0, 1, 3, 5, 1.0),
        ("categorical", 2, "transposed", 3, 3, 1, 0, 1.0),
        ("logistic_mixture", 2, "linear", 3, 2, 1, 5, 1.0),
        ("logistic_mixture", 3, "repeat", 3, 1, 1, 0, 0.7),
        ("logistic_mixture", 2, "transposed", 3, 2, 17, 0, 1.0),
        ("logistic_mixture", 3, "linear", 0, 3, 2, 5, 1.0),
    ],
)
def test_numba_is_the_reference(
    output, kernel_size, upsampling, n_excitation, threads, n_streams, prefix_frames, temperature
):
    model = make_model(output, kernel_size, upsampling, n_excitation)
    conditioning, uniforms = make_sources(model, n_streams)
    prefix = random_prefix(model, n_streams, prefix_frames)
    arguments = (model, conditioning, uniforms, n_streams, N_FRAMES)
    expected = concatenate(generate(*arguments, prefix=prefix, temperature=temperature))
    options = SamplingOptions(temperature=temperature, threads=threads)
    played = concatenate(cpu.generate(*arguments, options, prefix=prefix))
    assert played.dtype == expected.dtype and played.shape == expected.shape
    own_samples, params = cpu.replay(model, conditioning, uniforms, expected, options)
    reference = parallel_params(model, expected, conditioning)
    assert (params - reference).abs().max() < 1e-5 * reference.abs().max()
    new = slice(prefix_frames * model.hop, None)
    if model.decoder.mixture:  # rounding to a sample may fall either way; the histories part there
        assert (own_samples - expected)[:, new].abs().max() <= 1
        assert (own_samples != expected)[:, new].float().mean() < 0.01
        assert torch.equal(played[:, : new.start + 8], expected[:, : new.start + 8])
    else:
        assert torch.equal(own_samples[:, new], expected[:, new])
        assert torch.equal(played, expected)


@pytest.mark.parametrize(("guidance", "prefix_frames"), [(1.0, 5), (2.0, 0)])
@pytest.mark.parametrize("output", ["categorical", "logistic_mixture"])
def test_every_engine_takes_the_reference_mean(output, guidance, prefix_frames):
    model = make_model(output)
    conditioning, uniforms = make_sources(model, 2)
    prefix = random_prefix(model, 2, prefix_frames)
    if guidance != 1:
        conditioning = with_null(conditioning)
    arguments = (model, conditioning, uniforms, 2, N_FRAMES)
    options = SamplingOptions(sampling="mean", temperature=0.7, guidance=guidance, threads=2)
    expected = concatenate(generate(*arguments, prefix=prefix, sampling="mean", temperature=0.7, guidance=guidance))
    new = slice(prefix_frames * model.hop, None)
    assert expected.dtype == torch.float32 and (expected != expected.round())[:, new].float().mean() > 0.9
    random = concatenate(generate(*arguments, prefix=prefix, temperature=0.7, guidance=guidance))
    assert (expected - random)[:, new].abs().mean() > 1
    # In units of the samples. Without rounding, differences of float32 sums remain; those of an engine that rounds what
    # it feeds back are 0.01 and more.
    tolerance = 1e-3 if output == "categorical" else 5e-3
    own_samples, _ = cpu.replay(model, conditioning, uniforms, expected, options)
    assert (own_samples - expected)[:, new].abs().max() < tolerance
    assert torch.equal(concatenate(cuda.generate(*arguments, options, prefix=prefix)), expected)
    played = concatenate(cpu.generate(*arguments, options, prefix=prefix))
    assert played.dtype == torch.float32 and (played - expected).abs().max() < tolerance
    alone = concatenate(cpu.generate(*arguments, replace(options, threads=1), prefix=prefix))
    assert torch.equal(alone, played), "the same sums, whatever thread computes them"


@pytest.mark.parametrize(
    ("output", "upsampling", "n_excitation", "threads", "n_streams", "guidance"),
    [
        ("categorical", "linear", 3, 1, 1, 1.0),
        ("categorical", "transposed", 3, 3, 2, 1.0),
        ("categorical", "repeat", 0, 2, 1, 1.0),
        ("logistic_mixture", "transposed", 0, 1, 5, 1.0),
        ("logistic_mixture", "linear", 3, 2, 2, 2.0),
    ],
)
def test_the_output_conditioned_in_every_engine(output, upsampling, n_excitation, threads, n_streams, guidance):
    model = make_model(output, 2, upsampling, n_excitation, output_conditioning=True, n_skip_channels=70)
    conditioning, uniforms = make_sources(model, n_streams)
    if guidance != 1:
        conditioning = with_null(conditioning)
    _, row_samples, reference = assert_engines_agree(
        model, conditioning, uniforms, n_streams, N_FRAMES, threads=threads, guidance=guidance
    )
    for product in (model.decoder.output_cond, model.decoder.output_excitation):
        if not product.in_features:
            continue
        original = product.weight.data.clone()
        product.weight.data.zero_()  # each one matters, or the test would not see it
        ablated = model.guide(parallel_params(model, row_samples, conditioning), guidance)
        assert (ablated - reference).abs().max() > 1e-3 * reference.abs().max()
        product.weight.data.copy_(original)


@pytest.mark.parametrize("kernel_size", [2, 3])
def test_long_prefix_fills_caches_from_its_end(kernel_size):
    """Of a long prefix only the last receptive field is computed."""
    model = make_model("logistic_mixture", kernel_size, "transposed")
    conditioning, n_frames = make_conditioning(model, 2), 31
    prefix = torch.from_numpy(np.random.default_rng(0).integers(-9999, 9999, (2, n_frames * model.hop)))
    whole = Caches(model.decoder, 2)
    with torch.inference_mode():
        model.decoder.fill(whole, model.decoder.prepend_silence(prefix), *conditioning.block(model, 0, n_frames))
    caches, first = prefill(model, conditioning, 2, 40, prefix)
    assert model.decoder.receptive_field < (n_frames - 10) * model.hop and first == n_frames
    assert torch.equal(caches.recent, whole.recent)
    for ring, expected in zip(caches.layers, whole.layers, strict=True):
        torch.testing.assert_close(ring, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "sizes",
    [
        {"n_layers": 1, "max_dilation": 1, "n_residual_channels": 1, "n_skip_channels": 1, "n_out_channels": 1},
        {"n_residual_channels": 16, "n_skip_channels": 16, "n_out_channels": 64, "output_bias": False},
        {"n_residual_channels": 50, "n_skip_channels": 130, "n_out_channels": 100, "max_dilation": 5},
    ],
)
def test_any_size(sizes):
    model = make_model(**sizes)
    conditioning, uniforms = make_sources(model, 1)
    expected = concatenate(generate(model, conditioning, uniforms, 1, N_FRAMES))
    for threads in (1, 2):
        played = cpu.generate(model, conditioning, uniforms, 1, N_FRAMES, options=SamplingOptions(threads=threads))
        assert torch.equal(concatenate(played), expected)


@pytest.mark.parametrize("weights", ["float32", "bfloat16"])
def test_threads_and_batch_change_no_bit(weights):
    model = make_model()
    conditioning, uniforms = make_sources(model, 3)
    samples = concatenate(
        engines.generate(model, conditioning, uniforms, 3, 8, options=SamplingOptions(threads=1, weights=weights))
    )
    _, params = cpu.replay(model, conditioning, uniforms, samples, options=SamplingOptions(threads=1, weights=weights))
    for threads in (2, 3, 4, 9):  # 9: more than there are cores here; they must come to an end all the same
        _, others = cpu.replay(
            model, conditioning, uniforms, samples, options=SamplingOptions(threads=threads, weights=weights)
        )
        assert torch.equal(others, params)
    alone, its_uniforms = make_sources(model, 1)
    _, its_params = cpu.replay(
        model, alone, its_uniforms, samples[:1], options=SamplingOptions(threads=1, weights=weights)
    )
    # the context is PyTorch's, whose products may round differently in another batch
    assert (its_params - params[:1]).abs().max() < 1e-5 * params.abs().max()


@pytest.mark.parametrize("output", ["categorical", "logistic_mixture"])
def test_bfloat16_portable_and_native_are_near_float32(output):
    model = make_model(output)
    conditioning, uniforms = make_sources(model, 2)
    samples = concatenate(generate(model, conditioning, uniforms, 2, N_FRAMES))
    exact = cpu.replay(model, conditioning, uniforms, samples)[1]
    for portable in (False, True):
        rounded = cpu.replay(
            model, conditioning, uniforms, samples, options=SamplingOptions(weights="bfloat16"), portable=portable
        )[1]
        error = (rounded - exact).abs().max() / exact.abs().max()
        assert 1e-5 < error < 0.03
    played = engines.generate(model, conditioning, uniforms, 2, N_FRAMES, options=SamplingOptions(weights="bfloat16"))
    assert concatenate(played).shape == samples.shape


@pytest.mark.parametrize("output", ["categorical", "logistic_mixture"])
def test_bfloat16_keeps_the_likelihood_of_a_trained_model(output):
    """A model that has learnt something to lose: the tones of a few sines, from their pasts."""
    model = make_model(output, n_layers=5, max_dilation=16, n_residual_channels=32).train()
    model.decoder.output.weight.data.mul_(0.1)
    rng, n_frames = np.random.default_rng(0), 100
    time = np.arange(n_frames * model.hop)
    waves = 0.3 * np.sin(rng.uniform(0.02, 0.3, (4, 1)) * time + rng.uniform(0, 6, (4, 1)))
    waves += 0.01 * rng.standard_normal(waves.shape)
    values = 32767 * waves if model.decoder.mixture else 128 + 127 * waves
    samples = torch.from_numpy(np.rint(values).astype(np.int64))
    history = model.decoder.prepend_silence(samples)
    conditioning, uniforms = make_sources(model, 4)
    context, excitation = (part.detach() for part in conditioning.block(model, 0, n_frames))
    optimizer = torch.optim.Adam(model.parameters(), lr=4e-3)
    losses = []
    for _ in range(60):
        loss = -model.log_likelihood(model.decoder(history, context, excitation), samples).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 1
    model.eval()
    nll = {}
    for weights, portable in (("float32", False), ("bfloat16", False), ("bfloat16", True)):
        params = cpu.replay(
            model, conditioning, uniforms, samples, options=SamplingOptions(weights=weights), portable=portable
        )[1]
        nll[weights, portable] = -model.log_likelihood(params, samples).mean().item()
    exact = nll["float32", False]
    assert exact == pytest.approx(
        -model.log_likelihood(parallel_params(model, samples, conditioning), samples).mean().item()
    )
    assert all(abs(value - exact) < 0.005 for value in nll.values()), nll


@pytest.mark.parametrize("prefix_frames", [0, 3])
@pytest.mark.parametrize("output", ["categorical", "logistic_mixture"])
def test_uncaptured_cuda_engine_equals_reference(output, prefix_frames):
    """On the CPU, where it is not captured; three of its blocks."""
    model = make_model(output, kernel_size=3)
    conditioning, uniforms = make_sources(model, 2)
    n_frames = 2 * cuda.BLOCK_FRAMES + 5
    prefix = torch.full((2, prefix_frames * model.hop), 100) if prefix_frames else None
    expected = concatenate(generate(model, conditioning, uniforms, 2, n_frames, prefix=prefix))
    assert torch.equal(concatenate(cuda.generate(model, conditioning, uniforms, 2, n_frames, prefix=prefix)), expected)


def test_blocks_begin_small_and_grow():
    model = make_model()
    conditioning, uniforms = make_sources(model, 1)
    blocks = [block.shape[1] // model.hop for block in engines.generate(model, conditioning, uniforms, 1, 300)]
    assert blocks[:4] == [1, 2, 4, 8] and max(blocks) == cpu.MAX_BLOCK_FRAMES and sum(blocks) == 300
    many = engines.generate(model, *make_sources(model, 5), 5, 100)
    assert max(block.shape[1] // model.hop for block in many) == cpu.MAX_BLOCK_FRAMES // 5


def test_memory_does_not_grow_with_the_piece():
    model = make_model()
    peaks = []
    for n_frames in (4 * cpu.MAX_BLOCK_FRAMES, 16 * cpu.MAX_BLOCK_FRAMES):
        frames = torch.rand(1, 5, 1)
        conditioning = Conditioning(
            lambda first, n, f=frames: f.expand(-1, -1, n), lambda first, n: torch.zeros(1, 3, n * model.hop)
        )
        tracemalloc.start()
        for _ in engines.generate(
            model, conditioning, seeded_uniforms(0, [0], 1), 1, n_frames, options=SamplingOptions(threads=1)
        ):
            pass
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.1 * peaks[0]


@pytest.mark.parametrize(
    ("wrong_options", "words"),
    [
        ({"sampler": "nummba"}, "expected one of auto, torch, numba, cuda"),
        ({"sampling": "mode"}, "expected one of random, mean"),
        ({"weights": "int4"}, "expected one of float32, bfloat16, auto"),
        ({"sampler": "torch", "weights": "bfloat16"}, "choose numba or float32"),
        ({"threads": -1}, "expected 0"),
        ({"sampler": "cuda"}, "set device to cuda, or choose numba"),
    ],
)
def test_impossible_options_are_refused(wrong_options, words):
    model = make_model()
    with pytest.raises(InputError, match=words):
        engines.generate(model, *make_sources(model, 1), 1, 4, SamplingOptions(**wrong_options))


def test_auto_is_numba():
    model = make_model()
    arguments = (model, *make_sources(model, 2), 2, 4)
    assert torch.equal(
        concatenate(engines.generate(*arguments)),
        concatenate(cpu.generate(*arguments, options=SamplingOptions(threads=1))),
    )


@pytest.mark.parametrize(
    ("multiplies_bfloat16", "n_channels", "expected"),
    [(True, 16, "bfloat16"), (False, 16, "float32"), (False, 256, "bfloat16")],
)
def test_auto_weights_are_the_fastest_format(monkeypatch, multiplies_bfloat16, n_channels, expected):
    monkeypatch.setattr(simd, "has_bfloat16", lambda: multiplies_bfloat16)
    model = make_model(n_residual_channels=n_channels, n_skip_channels=n_channels)
    assert engines.choose_weights("auto", "auto", model.decoder) == expected
    assert engines.choose_weights("auto", "torch", model.decoder) == "float32"
    assert engines.choose_weights("float32", "numba", model.decoder) == "float32"
    arguments = (model, *make_sources(model, 1), 1, 2)
    auto, named = (engines.generate(*arguments, SamplingOptions(weights=name)) for name in ("auto", expected))
    assert torch.equal(concatenate(auto), concatenate(named))


def test_torch_is_the_reference_itself():
    model = make_model()
    arguments = (model, *make_sources(model, 2), 2, 4)
    assert torch.equal(
        concatenate(engines.generate(*arguments, options=SamplingOptions(sampler="torch"))),
        concatenate(generate(*arguments)),
    )


def test_threads_are_no_more_than_cores_or_use(monkeypatch):
    monkeypatch.setattr(engines, "usable_cores", lambda: 64)
    small, large = make_model().decoder, make_model(n_residual_channels=64, n_skip_channels=256).decoder
    cases = ((0, 1), (0, 3), (0, 100), (3, 1), (5, 1), (70, 100))
    assert [engines.n_threads(wanted, n, large) for wanted, n in cases] == [4, 12, 64, 3, 4, 64]
    assert [engines.n_threads(wanted, n, small) for wanted, n in cases] == [1, 3, 64, 3, 4, 64]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["config_train_nv_wavenet.json", "config_train.json"])
def test_four_seconds_at_full_size(name):
    """Played freely by numba; the parallel pass over these samples must draw every one of them again.

    By induction over time these are then the samples of the reference, which would take minutes. Codes may differ only
    where the uniform lies within rounding of a code's edge.
    """
    torch.manual_seed(0)
    model = build_model(load_config(name, ())).eval()
    torch.nn.init.normal_(model.decoder.output.weight, std=0.2)
    rng, n_frames = np.random.default_rng(1), 1000
    features = torch.from_numpy(rng.random((1, model.context.input.in_channels, n_frames + 400), dtype=np.float32))
    n_excitation = model.decoder.layers[0].excitation.in_features
    excitation = 0.2 * rng.standard_normal((1, n_excitation, n_frames * model.hop), dtype=np.float32)
    excitation = torch.from_numpy(excitation)
    conditioning = Conditioning(
        lambda first, n: features[..., first + 200 : first + 200 + n],
        lambda first, n: excitation[..., first * model.hop : (first + n) * model.hop],
    )
    uniforms = seeded_uniforms(0, [0], model.uniforms_per_sample)
    played = concatenate(engines.generate(model, conditioning, uniforms, 1, n_frames))
    assert played.shape == (1, 4 * 16000) and len(torch.unique(played)) > 100
    params = parallel_params(model, played, conditioning)
    draws = uniforms(0, played.shape[1])
    expected = model.draw(params, draws)
    if model.decoder.mixture:
        assert (played - expected).abs().max() <= 1
        return
    differing = torch.nonzero(played != expected)[:, 1]
    edges = torch.softmax(params[0, :, differing].double(), dim=0).cumsum(dim=0)
    distance = (edges - draws[0, differing, 0].double()).abs().amin(dim=0)
    assert len(differing) <= 10 and torch.all(distance < 1e-5), distance


def test_a_gpu_whose_memory_is_too_small_is_one_line(monkeypatch):
    def without_memory(*_, **__):
        yield torch.zeros(1, 1)
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(engines.wavenet, "generate", without_memory)
    blocks = engines.generate(make_model(), None, None, 500, 4, SamplingOptions(sampler="torch"))
    assert next(blocks).shape == (1, 1)
    with pytest.raises(InputError, match="out of memory on the GPU with 500 streams at once; lower batch_size"):
        next(blocks)
