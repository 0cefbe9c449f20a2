"""The decoder and its cached sampler are one function, causal, and exact at any batch size."""

import numpy as np
import pytest
import torch

from midi2wave.audio.mu_law import mu_law_decode
from midi2wave.config import CondWavenetConfig, WavenetConfig
from midi2wave.evaluation.conditioning_ratios import conditioning_ratios
from midi2wave.modules.residual_layer import ALIGNED_COLUMNS
from midi2wave.sampling.uniforms import seeded_uniforms
from tests.helpers.sampler_models import N_FEATURES
from tests.helpers.wavenet_models import (
    HOP,
    N_EXCITATION,
    N_FRAMES,
    make_conditioning,
    make_model,
    parallel,
    random_samples,
)
from wavenet import Caches, Conditioning, ContextStack, Decoder, WaveNet, generate, prefill


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
@pytest.mark.parametrize("output", ["logistic_mixture", "categorical"])
@pytest.mark.parametrize("kernel_size", [2, 3])
@pytest.mark.parametrize("upsampling", ["repeat", "linear", "transposed"])
@pytest.mark.parametrize("inputs", ["features and excitation", "features", "nothing"])
def test_cached_steps_give_the_parallel_pass(dtype, tolerance, output, kernel_size, upsampling, inputs):
    n_excitation = N_EXCITATION if "excitation" in inputs else 0
    model = make_model(output, kernel_size, upsampling, n_excitation=n_excitation, dtype=dtype)
    conditioning, samples = make_conditioning(n_excitation=n_excitation, dtype=dtype), random_samples(model)
    if inputs == "nothing":  # the null condition: no note has ever been played
        conditioning = Conditioning(
            lambda first, n: torch.zeros(2, N_FEATURES, n, dtype=dtype),
            lambda first, n: torch.zeros(2, 0, n * HOP, dtype=dtype),
        )
    with torch.inference_mode():
        expected = parallel(model, samples, conditioning)
        caches = Caches(model.decoder, 2)
        context, excitation = model.decoder.prepare(*conditioning.block(model, 0, N_FRAMES))
        cond = torch.stack([model.decoder.layer_conditioning(x, context, excitation) for x in model.decoder.layers], 1)
        for t in range(samples.shape[1]):
            torch.testing.assert_close(
                caches.step(model.decoder, t, cond[t]), expected[..., t], rtol=tolerance, atol=tolerance
            )
            caches.push(samples[:, t])


@pytest.mark.parametrize("output", ["logistic_mixture", "categorical"])
@pytest.mark.parametrize("upsampling", ["repeat", "linear", "transposed"])
@pytest.mark.parametrize("n_excitation", [0, N_EXCITATION])
def test_cached_steps_with_output_conditioning(output, upsampling, n_excitation):
    """Cached steps give the parallel pass also with conditioning at the output."""
    model = make_model(output, upsampling=upsampling, n_excitation=n_excitation, output_conditioning=True)
    conditioning, samples = make_conditioning(n_excitation=n_excitation), random_samples(model)
    with torch.inference_mode():
        expected = parallel(model, samples, conditioning)
        caches = Caches(model.decoder, 2)
        prepared = model.decoder.prepare(*conditioning.block(model, 0, N_FRAMES))
        cond = torch.stack([model.decoder.layer_conditioning(layer, *prepared) for layer in model.decoder.layers], 1)
        output_cond = model.decoder.output_conditioning(*prepared)
        for t in range(samples.shape[1]):
            params = caches.step(model.decoder, t, cond[t], output_cond[t])
            torch.testing.assert_close(params, expected[..., t], rtol=1e-10, atol=1e-10)
            caches.push(samples[:, t])
        model.decoder.output_cond.weight.zero_()
        assert not torch.allclose(parallel(model, samples, conditioning), expected)


@pytest.mark.parametrize("upsampling", ["linear", "transposed"])
def test_padded_rows_give_the_same_values_and_gradients(upsampling, monkeypatch):
    """As a GPU has them: what stands in the spare columns goes nowhere."""
    model, conditioning = make_model(upsampling=upsampling), make_conditioning()
    samples, results, widths = random_samples(model), [], []
    for padded in (False, True):
        monkeypatch.setattr(Decoder, "aligned", lambda *_, padded=padded: padded)
        model.zero_grad(set_to_none=True)
        params = parallel(model, samples, conditioning)
        model.log_likelihood(params, samples).mean().backward()
        gradients = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
        results.append(torch.cat([params.detach().flatten(), *gradients]))
        prepared = model.decoder.prepare(*conditioning.block(model, 0, N_FRAMES))
        first_input, *_ = model.decoder._stack_inputs(model.decoder.prepend_silence(samples), *prepared)
        widths.append(first_input.shape[1])
    torch.testing.assert_close(results[1], results[0], rtol=1e-10, atol=1e-12)
    assert widths[0] % ALIGNED_COLUMNS and not widths[1] % ALIGNED_COLUMNS


def test_only_the_first_layer_is_conditioned():
    """The other layers' projections are 0 and get no gradient."""
    model = make_model(conditioned_layers="first", n_mels=4)
    conditioning, samples = make_conditioning(), random_samples(model)
    history = model.decoder.prepend_silence(samples)
    context, excitation = conditioning.block(model, 0, N_FRAMES)
    params = model.decoder(history, context, excitation)
    params.sum().backward()
    first, *others = model.decoder.layers
    assert first.cond.weight.grad.any() and first.excitation.weight.grad.any()
    for layer in others:
        assert not layer.cond.weight.any() and layer.cond.weight.grad is None and layer.excitation.weight.grad is None
    ratios = conditioning_ratios(model.decoder, history, context.detach(), excitation)
    assert ratios[0] > 0 and not any(ratios[1:])


@pytest.mark.parametrize("upsampling", ["linear", "transposed"])
def test_the_mel_head_depends_on_the_context_of_each_frame(upsampling):
    """It changes nothing else."""
    model = make_model(upsampling=upsampling, n_mels=4)
    conditioning, samples = make_conditioning(), random_samples(model)
    left, right = model.context_frames
    features, excitation = conditioning.features(-left, left + N_FRAMES + right), conditioning.excitation(0, N_FRAMES)
    history = model.decoder.prepend_silence(samples)
    with torch.inference_mode():
        output = model(history, features, excitation)
        mel_prediction = output.mel_prediction
        assert mel_prediction.shape == (2, 4, N_FRAMES) and output.diversity_loss is None
        assert torch.equal(output.params, parallel(model, samples, conditioning))
        part = model(history[:, HOP:], features[..., 1:], excitation[..., HOP:]).mel_prediction
        torch.testing.assert_close(part, mel_prediction[..., 1:])
        features[..., left + 3] += 1
        changed = model(history, features, excitation).mel_prediction
        moved = (changed - mel_prediction).abs().amax(dim=(0, 1)) > 1e-9
        assert moved[3] and not moved[:1].any()  # a look-ahead of two frames


def test_amplitudes_of_samples_and_codes():
    codes, pcm = make_model("categorical").decoder, make_model().decoder
    every = torch.arange(256)
    np.testing.assert_allclose(codes.input.amplitudes(every), mu_law_decode(every.numpy()) / 32768, atol=4e-5)
    assert pcm.input.amplitudes(torch.tensor([-32768, 0, 16384])).tolist() == [-1, 0, 0.5]


@pytest.mark.parametrize("output", ["logistic_mixture", "categorical"])
def test_the_default_size_is_exact_too(output):
    torch.manual_seed(0)
    model = WaveNet(
        WavenetConfig(output=output),
        CondWavenetConfig(),
        n_features=N_FEATURES,
        n_excitation=N_EXCITATION,
        audio_hz=4000,
        midi_hz=250,
    ).eval()
    rng = np.random.default_rng(0)
    features = torch.from_numpy(rng.random((2, N_FEATURES, 400))).float()
    excitation = torch.from_numpy(rng.normal(size=(2, N_EXCITATION, 40 * HOP))).float()
    conditioning = Conditioning(
        lambda first, n: features[..., first + 200 : first + 200 + n],
        lambda first, n: excitation[..., first * HOP : (first + n) * HOP],
    )
    samples = random_samples(model, n_frames=40)
    with torch.inference_mode():
        expected = parallel(model, samples, conditioning)
        caches = Caches(model.decoder, 2)
        history = model.decoder.prepend_silence(samples[:, : 30 * HOP])
        model.decoder.fill(caches, history, *conditioning.block(model, 0, 30))
        context, excited = model.decoder.prepare(*conditioning.block(model, 30, 10))
        cond = torch.stack([model.decoder.layer_conditioning(x, context, excited) for x in model.decoder.layers], 1)
        for t in range(10 * HOP):
            params = caches.step(model.decoder, 30 * HOP + t, cond[t])
            torch.testing.assert_close(params, expected[..., 30 * HOP + t], rtol=1e-5, atol=1e-5)
            caches.push(samples[:, 30 * HOP + t])


@pytest.mark.parametrize("output", ["logistic_mixture", "categorical"])
@pytest.mark.parametrize("kernel_size", [2, 3])
def test_generation_equals_draws_of_the_parallel_pass(output, kernel_size):
    """From the same uniforms."""
    model, conditioning = make_model(output, kernel_size), make_conditioning()
    uniforms = seeded_uniforms(7, [0, 1], model.uniforms_per_sample)
    generated = torch.cat(list(generate(model, conditioning, uniforms, 2, N_FRAMES)), dim=1)
    with torch.inference_mode():
        expected = model.draw(parallel(model, generated, conditioning), uniforms(0, N_FRAMES * HOP))
    assert torch.equal(generated, expected)
    assert len(generated.unique()) > 20  # it is not stuck


@pytest.mark.parametrize("output", ["logistic_mixture", "categorical"])
@pytest.mark.parametrize("kernel_size", [2, 3])
@pytest.mark.parametrize("prefix_frames", [1, 5])
def test_a_prefix_leaves_the_caches_as_generation_would(output, kernel_size, prefix_frames):
    model, conditioning = make_model(output, kernel_size), make_conditioning()
    uniforms = seeded_uniforms(7, [0, 1], model.uniforms_per_sample)
    whole = torch.cat(list(generate(model, conditioning, uniforms, 2, N_FRAMES, block_frames=4)), dim=1)
    prefix = whole[:, : prefix_frames * HOP]
    prompted = list(generate(model, conditioning, uniforms, 2, N_FRAMES, prefix=prefix, block_frames=3))
    assert torch.equal(torch.cat(prompted, dim=1), whole)


@torch.inference_mode()
@pytest.mark.parametrize("prefix_frames", [1, 5, 12])
def test_a_prefix_has_the_conditioning_of_its_own_frames(prefix_frames):
    """Nothing of the future but the look-ahead; of a long prefix the last receptive field alone is computed.

    The longest ring has 32 rows, no divisor of the 112 samples that are left out, so that its rows are shifted.
    """
    model, conditioning, calls = make_model(max_dilation=32), make_conditioning(), []

    def spied(name):
        def rows(first, n):
            calls.append((name, first, first + n))
            return getattr(conditioning, name)(first, n)

        return rows

    prefix = random_samples(model)[:, : prefix_frames * HOP]
    spy = Conditioning(spied("features"), spied("excitation"))
    caches, first = prefill(model, spy, 2, N_FRAMES, prefix)
    left, right = model.context_frames
    begin = max(0, prefix_frames - -(-(model.decoder.receptive_field + model.decoder.taps) // HOP))
    assert (first, begin) == (prefix_frames, 7 if prefix_frames == 12 else 0)
    assert calls == [("features", begin - left, first + right), ("excitation", begin, first)]
    whole = Caches(model.decoder, 2)
    model.decoder.fill(whole, model.decoder.prepend_silence(prefix), *conditioning.block(model, 0, prefix_frames))
    assert all(torch.allclose(a, b) for a, b in zip(caches.layers, whole.layers, strict=True))
    assert torch.equal(caches.recent, whole.recent)


def test_a_stream_does_not_depend_on_its_neighbours():
    model, conditioning = make_model(), make_conditioning()
    both = torch.cat(list(generate(model, conditioning, seeded_uniforms(7, [0, 5], 2), 2, N_FRAMES)), dim=1)
    second = Conditioning(lambda *a: conditioning.features(*a)[1:], lambda *a: conditioning.excitation(*a)[1:])
    alone = torch.cat(list(generate(model, second, seeded_uniforms(7, [5], 2), 1, N_FRAMES)), dim=1)
    assert torch.equal(alone, both[1:])


def test_a_prefix_with_a_part_of_a_frame_is_refused():
    model, conditioning = make_model(), make_conditioning()
    with pytest.raises(ValueError, match="whole number of frames"):
        next(generate(model, conditioning, seeded_uniforms(0, [0, 1], 2), 2, N_FRAMES, prefix=torch.zeros(2, HOP + 1)))


@pytest.mark.parametrize("output", ["logistic_mixture", "categorical"])
@pytest.mark.parametrize("kernel_size", [2, 3])
def test_an_output_depends_only_on_samples_before_it(output, kernel_size):
    model, conditioning = make_model(output, kernel_size), make_conditioning()
    samples, changed_at = random_samples(model), 70
    changed = samples.clone()
    changed[:, changed_at] = (changed[:, changed_at] + 100) % 256
    with torch.inference_mode():
        difference = (
            (parallel(model, samples, conditioning) - parallel(model, changed, conditioning)).abs().amax((0, 1))
        )
    assert torch.all(difference[: changed_at + 1] == 0)  # the output at t never sees sample t
    assert difference[changed_at + 1] > 0  # but the one before it
    last = changed_at + model.decoder.receptive_field
    assert difference[last] > 0
    assert torch.all(difference[last + 1 :] == 0)


@pytest.mark.parametrize("upsampling", ["repeat", "linear", "transposed"])
@pytest.mark.parametrize("lookahead_ms", [0.0, 12.0])
def test_the_context_has_the_declared_lookahead(upsampling, lookahead_ms):
    """And no more."""
    model = make_model(upsampling=upsampling, lookahead_ms=lookahead_ms)
    left, right = model.context_frames
    features = torch.rand(1, N_FEATURES, left + N_FRAMES + right, dtype=torch.float64)
    samples, excitation = random_samples(model, 1), torch.zeros(1, N_EXCITATION, N_FRAMES * HOP, dtype=torch.float64)
    frame = 6
    changed = features.clone()
    changed[..., left + frame] += 1
    with torch.inference_mode():
        history = model.decoder.prepend_silence(samples)
        before, after = (model(history, one, excitation).params for one in (features, changed))
        difference = (before - after).abs().amax((0, 1))
    seen_from = (frame - right) * HOP + (1 if upsampling == "linear" else 0)  # its weight is 0 at the frame's start
    assert torch.all(difference[:seen_from] == 0)
    assert difference[seen_from] > 0
    assert right == round(lookahead_ms / 4) + (1 if upsampling == "linear" else 0)


def test_a_crop_of_the_context_equals_the_whole():
    stack = ContextStack(CondWavenetConfig(n_layers=5, max_dilation=4), N_FEATURES, 8, 3).double()
    features = torch.rand(1, N_FEATURES, 60, dtype=torch.float64)
    whole = stack(features)
    crop = stack(features[..., 10 : 10 + stack.left + 9 + stack.right])
    torch.testing.assert_close(crop, whole[..., 10:19], rtol=0, atol=1e-12)


def test_a_lookahead_beyond_the_receptive_field_is_refused():
    with pytest.raises(ValueError, match="lookahead_ms"):
        make_model(lookahead_ms=400.0)
