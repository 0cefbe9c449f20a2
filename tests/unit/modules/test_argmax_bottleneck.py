"""The context as codes: the bottleneck by hand, its gradient, its use, and the same samples from every engine."""

import math

import numpy as np
import pytest
import torch

from midi2wave.config import config_from_dict
from midi2wave.modules.argmax_bottleneck import (
    MIN_SUM,
    ArgmaxBottleneck,
    codebook_usage,
    codes_of,
    diversity_loss,
    init_codebook,
    normalized_relu,
)
from midi2wave.sampling import engines
from midi2wave.sampling.options import SamplingOptions
from midi2wave.sampling.uniforms import seeded_uniforms
from midi2wave.utils.errors import InputError
from tests.helpers import sampler_models
from tests.helpers.sampler_models import (
    N_FRAMES,
    REACH,
    assert_engines_agree,
    concatenate,
    make_conditioning,
    parallel_params,
    with_null,
)
from wavenet import Conditioning, WaveNet, generate

K = 4


def frames(*rows) -> torch.Tensor:
    """Logits z [1, K, N], float64, of a row for each frame."""
    return torch.tensor(rows, dtype=torch.float64).t()[None]


def make_bottleneck(scale=2.0) -> ArgmaxBottleneck:
    torch.manual_seed(0)
    return ArgmaxBottleneck(K, 3, scale).double()


def test_normalized_relu_by_hand():
    q = normalized_relu(frames([3, 1, -5, 0], [0.2, 0.2, 0.6, 1.0]))
    low = MIN_SUM / K
    expected = frames(
        [(3 + low) / (4 + MIN_SUM), (1 + low) / (4 + MIN_SUM), low / (4 + MIN_SUM), low / (4 + MIN_SUM)],
        [(x + low) / (2 + MIN_SUM) for x in (0.2, 0.2, 0.6, 1)],
    )
    torch.testing.assert_close(q, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(q, frames([0.75, 0.25, 0, 0], [0.1, 0.1, 0.3, 0.5]), rtol=0, atol=2e-4)


@pytest.mark.parametrize("batch_size", [1, 2, K, 7])
@pytest.mark.parametrize("n_frames", [1, K, 5])
def test_the_codes_of_a_frame_share_one_whatever_the_shape(batch_size, n_frames):
    """Also where batch or frames are as many as codes, and a sum over the wrong axis would not be seen by its shape."""
    z = torch.randn(batch_size, K, n_frames, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    q = normalized_relu(z)
    torch.testing.assert_close(q.sum(dim=1), torch.ones(batch_size, n_frames, dtype=torch.float64))
    for b in range(batch_size):
        for n in range(n_frames):
            torch.testing.assert_close(q[b, :, n], normalized_relu(z[b : b + 1, :, n : n + 1])[0, :, 0])


def test_the_context_depends_on_one_code_only():
    """A one-hot code of 512 must not be scaled down to 0.5 %."""
    bottleneck, z = make_bottleneck(scale=2.0), frames([3, 1, -5, 0], [0.3, 0.2, 0.3001, 0.1])
    context, _ = bottleneck(z)
    weight, bias = bottleneck.projection.weight[..., 0], bottleneck.projection.bias
    expected = torch.stack([2 * weight[:, 0] + bias, 2 * weight[:, 2] + bias], dim=1)[None]
    torch.testing.assert_close(context, expected, rtol=1e-14, atol=0)
    assert codes_of(z).tolist() == [[0, 2]]
    torch.testing.assert_close(bottleneck.context(codes_of(z)), context, rtol=0, atol=0)
    assert torch.equal(bottleneck(z + 0.01 * z.abs())[0], context)  # another q, the same codes


def test_the_gradient_is_that_of_q_in_the_place_of_the_code():
    """By hand, for one frame: with g the gradient with respect to q, dL/dz_k = (g_k - sum_j g_j q_j) / (sum + MIN_SUM)
    where z_k is positive, and 0 elsewhere."""
    bottleneck, z = make_bottleneck(scale=2.0), frames([3, 1, -5, 0.5]).requires_grad_()
    wanted = torch.tensor([[[1.0], [-2.0], [0.5]]], dtype=torch.float64)
    (bottleneck(z)[0] * wanted).sum().backward()
    g = 2 * bottleneck.projection.weight[..., 0].t() @ wanted[0, :, 0]
    q = normalized_relu(z.detach())[0, :, 0]
    by_hand = (g - (g * q).sum()) / (4.5 + MIN_SUM) * torch.tensor([1, 1, 0, 1])
    torch.testing.assert_close(z.grad[0, :, 0], by_hand.detach(), rtol=1e-12, atol=1e-15)
    assert by_hand.abs()[[0, 1, 3]].min() > 1e-3  # codes that were not chosen learn too
    assert bottleneck.projection.weight.grad[..., 0].count_nonzero(dim=0).tolist() == [3, 0, 0, 0]  # the selected code


@pytest.mark.parametrize("z", [[0.0] * K, [-1.0, -0.1, -3.0, -2.0], [1e-30, 0, 0, 0], [1e30, 1e30, 0, 0]])
def test_frames_without_a_positive_z_are_finite(z):
    bottleneck, z = make_bottleneck().float(), frames(z, [1, 2, 3, 4]).float().requires_grad_()
    context, uneven = bottleneck(z)
    (context.sum() + uneven).backward()
    q = normalized_relu(z.detach())
    assert q.isfinite().all() and z.grad.isfinite().all() and bottleneck.projection.weight.grad.isfinite().all()
    assert z.grad.abs().max() < 10 / MIN_SUM
    if z[0, :, 0].max() <= 0:
        assert q[0, :, 0].tolist() == [1 / K] * K and not z.grad[0, :, 0].any()
        assert codes_of(z)[0, 0] == z[0, :, 0].argmax()  # the least negative


def test_the_diversity_loss_grows_with_unused_codes():
    """It is 0 if all codes are equally frequent."""
    one_hot = torch.eye(8, dtype=torch.float64)
    losses = {}
    for n_used in (8, 4, 2, 1):
        q = one_hot[torch.arange(16) % n_used].t().reshape(8, 2, 8).transpose(0, 1)  # two crops of 8 frames
        losses[n_used] = diversity_loss(q).item()
    assert losses == pytest.approx({8: 0.0, 4: 1.0, 2: 3.0, 1: 7.0})
    assert diversity_loss(torch.full((2, 8, 5), 1 / 8)).item() == 0
    # the paper's sum over k, by hand, and its mean: the same for as uneven a use of more codes
    q = torch.tensor([0.5, 0.25, 0.25, 0.0]).view(1, 4, 1)
    assert diversity_loss(q).item() == pytest.approx(((2 - 1) ** 2 + 0 + 0 + 1) / 4)
    wider = q.repeat_interleave(16, dim=1) / 16
    assert diversity_loss(wider).item() == pytest.approx(diversity_loss(q).item())


def test_the_diversity_loss_is_of_the_whole_batch():
    """A frame may be as sure of its code as it likes, if the others have other codes."""
    even = torch.eye(K)[None]  # frame n has code n
    assert diversity_loss(even).item() == 0 and diversity_loss(even.transpose(0, 2)).item() == 0
    assert diversity_loss(even[..., :1]).item() == pytest.approx(K - 1)


def test_the_loss_is_of_q_and_of_the_codes():
    """q even in every frame, but for a code that is a little ahead in all of them: the paper's loss sees nothing."""
    z = torch.ones(2, K, 5, dtype=torch.float64)
    z[:, 1] += 0.01
    bottleneck, z = make_bottleneck(), z.requires_grad_()
    _, uneven = bottleneck(z)
    assert diversity_loss(normalized_relu(z)).item() < 1e-3 and uneven.item() == pytest.approx(K - 1, abs=1e-3)
    uneven.backward()
    assert (z.grad[:, 1] > 0.01).all() and (z.grad[:, [0, 2, 3]] < -0.01).all()  # it falls, the others rise


def test_codebook_usage_and_perplexity():
    assert codebook_usage(np.array([5, 5, 5, 5])) == pytest.approx({"code_usage": 1.0, "code_perplexity": 4.0})
    assert codebook_usage(np.array([7, 0, 0, 0])) == pytest.approx({"code_usage": 0.25, "code_perplexity": 1.0})
    entropy = -(0.5 * math.log(0.5) + 2 * 0.25 * math.log(0.25))
    usage = codebook_usage(np.array([2, 1, 1, 0]))
    assert usage == pytest.approx({"code_usage": 0.75, "code_perplexity": math.exp(entropy)})


def test_the_first_codes_are_those_of_the_nearest_frames():
    frames = 3 + torch.randn(200, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    weight, bias = init_codebook(frames, 8)
    z = frames @ weight.t() + bias
    centres = frames[torch.linspace(0, 199, 8).round().long()]
    assert torch.equal(z.argmax(dim=1), torch.cdist(frames, centres).argmin(dim=1))
    assert z.std().item() == pytest.approx(1) and 0.3 < (z > 0).double().mean() < 0.7
    assert codebook_usage(z.argmax(dim=1).bincount(minlength=8).numpy())["code_perplexity"] > 6
    same = init_codebook(frames[:1].expand(20, 5), 8)  # frames that are all alike
    assert all(part.isfinite().all() for part in same)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_stack_begins_with_the_codes_of_its_frames(batch_size):
    model = make_model(n_codes=6)
    features = torch.rand(batch_size, 5, 300, generator=torch.Generator().manual_seed(0))
    torch.nn.init.zeros_(model.context.output.weight)
    assert len(model.context.codes(features).unique()) == 1
    model.context.init_codebook_from_features(features)
    assert len(model.context.codes(features).unique()) == 6
    assert all(p.requires_grad for p in model.context.parameters())


def make_model(*args, n_codes=6, **options) -> WaveNet:
    """As `sampler_models.make_model`, with codes that change from frame to frame."""
    model = sampler_models.make_model(*args, n_codes=n_codes, **options)
    with torch.no_grad():
        for layer in model.context.mix, model.context.dilated:
            for conv in layer:
                torch.nn.init.normal_(conv.weight, std=1.0)
        torch.nn.init.normal_(model.context.output.weight, std=1.0)
        if n_codes:  # none of them ahead of the others
            z = model.context.output(model.context.hidden(torch.rand(1, sampler_models.N_FEATURES, 500)))
            model.context.output.bias -= z.mean(dim=(0, 2))
    return model


def of_codes(model: WaveNet, conditioning: Conditioning) -> Conditioning:
    """The same context by the codes of all its frames, made beforehand, and no features."""
    stack = model.context
    with torch.inference_mode():
        made = stack.codes(conditioning.features(-REACH, 2 * REACH + N_FRAMES))  # of the frames from this one on
    begin = -REACH + stack.left

    def refused(*_):
        raise AssertionError("features are not asked for")

    return Conditioning(refused, conditioning.excitation, lambda first, n: made[:, first - begin :][:, :n])


@pytest.mark.parametrize(
    ("output", "kernel_size", "upsampling", "n_excitation", "threads", "n_streams", "guidance"),
    [
        ("categorical", 2, "linear", 3, 1, 1, 1.0),
        ("categorical", 3, "transposed", 0, 2, 3, 1.0),
        ("logistic_mixture", 2, "linear", 0, 2, 2, 2.0),
        ("logistic_mixture", 2, "repeat", 3, 1, 2, 1.0),
    ],
)
def test_codes_in_every_engine(output, kernel_size, upsampling, n_excitation, threads, n_streams, guidance):
    """The parallel pass, the reference and the engines agree, given features or the codes made of them."""
    model = make_model(output, kernel_size, upsampling, n_excitation)
    conditioning = make_conditioning(model, n_streams)
    uniforms = seeded_uniforms(3, list(range(n_streams)), model.uniforms_per_sample)
    if guidance != 1:
        conditioning = with_null(conditioning)
    arguments = (model, conditioning, uniforms, n_streams, N_FRAMES)
    expected, row_samples, reference = assert_engines_agree(*arguments, threads=threads, guidance=guidance)

    codes = of_codes(model, conditioning)
    context, _ = conditioning.block(model, 0, N_FRAMES)
    assert torch.equal(codes.block(model, 0, N_FRAMES)[0], context)
    assert len(context.detach()[0].unique(dim=1).t()) > 2  # codes do change
    again = (model, codes, uniforms, n_streams, N_FRAMES)
    assert torch.equal(concatenate(generate(*again, guidance=guidance)), expected)
    options = SamplingOptions(sampler="numba", threads=threads, guidance=guidance)
    assert torch.equal(
        concatenate(engines.generate(*again, options)), concatenate(engines.generate(*arguments, options))
    )

    other = Conditioning(codes.features, codes.excitation, lambda first, n: (codes.codes(first, n) + 1) % 6)
    other_params = model.guide(parallel_params(model, row_samples, other), guidance)
    assert (other_params - reference).abs().max() > 0.01 * reference.abs().max()


def test_without_codes_nothing_is_added():
    model = make_model(n_codes=0)
    assert model.context.bottleneck is None and model.n_codes == 0
    assert not any("bottleneck" in name for name in model.state_dict())
    assert model.context.output.out_channels == 7


def test_the_forward_pass_trains_all_parts_of_the_context():
    """It returns the loss of its codes."""
    model = make_model(output="logistic_mixture").train()
    features = make_conditioning(model, 2).features(-model.context_frames[0], sum(model.context_frames) + N_FRAMES)
    excitation = make_conditioning(model, 2).excitation(0, N_FRAMES)
    samples = torch.zeros(2, N_FRAMES * model.hop, dtype=torch.long)
    history = model.decoder.prepend_silence(samples)
    output = model(history, features, excitation)
    params, diversity = output.params, output.diversity_loss
    z = model.context.output(model.context.hidden(features))
    used = codebook_usage(codes_of(z).flatten().bincount(minlength=6).numpy())["code_usage"]
    assert diversity.item() >= diversity_loss(normalized_relu(z)).item() + 1 / used - 1 > 0.01
    assert torch.equal(model.decoder(history, model.context(features), excitation), params)
    (-model.log_likelihood(params, samples).mean()).backward()
    assert all(p.grad.any() for p in model.context.parameters())  # through the hard choice


@pytest.mark.parametrize(("key", "value"), [("n_codes", 1), ("n_codes", -1), ("n_codes", 5000), ("code_scale", 0.0)])
def test_impossible_configs(key, value):
    with pytest.raises(InputError, match=key):
        config_from_dict({"cond_wavenet_config": {key: value}}, "c.json")
