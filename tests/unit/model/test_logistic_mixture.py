"""The mixture is a distribution over the 65,536 samples, and sampling follows it."""

import math

import numpy as np
import pytest
import torch

from logistic_mixture import (
    MIN_LOG_SCALE,
    from_cumulative,
    guided,
    log_likelihood,
    mean_class,
    mean_sample,
    sample,
    split,
)

BINS = torch.arange(-32768, 32768)


def make_params(logits, means, log_scales, dtype=torch.float64):
    return torch.tensor([*logits, *means, *log_scales], dtype=dtype).view(1, -1, 1)


def all_bins(params):
    """Log-probabilities of all bins: [65536]."""
    return log_likelihood(params.expand(-1, -1, len(BINS)), BINS[None])[0]


def brute_force(logits, means, log_scales):
    """Probabilities as differences of the cumulative distribution, in float64, edges open: [65536]."""
    weights = np.exp(logits) / np.sum(np.exp(logits))
    edges = np.concatenate([[-np.inf], (np.arange(-32767, 32768) - 0.5) / 32768, [np.inf]])
    with np.errstate(over="ignore"):
        below = [1 / (1 + np.exp(-(edges - m) / np.exp(s))) for m, s in zip(means, log_scales, strict=True)]
    return sum(w * np.diff(b) for w, b in zip(weights, below, strict=True))


CASES = {
    "ordinary": ([0.1, -0.3, 0.7], [0.1, -0.2, 0.0], [-4.0, -3.0, -6.0]),
    "wide": ([0.0], [0.3], [1.0]),
    "narrow": ([0.0, 0.5], [0.25, 0.25001], [-10.0, -11.5]),
    "at both edges": ([0.0, 0.0], [-1.0, 0.99997], [-5.0, -8.0]),
    "beyond the edges": ([0.0, 0.0], [-1.5, 1.4], [-3.0, -4.0]),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_all_bins_match_the_brute_force_and_sum_to_one(case):
    probabilities = all_bins(make_params(*case)).exp()
    np.testing.assert_allclose(probabilities.numpy(), brute_force(*case), rtol=1e-6, atol=1e-14)
    assert abs(probabilities.sum().item() - 1) < 1e-12


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_float32_keeps_the_likelihood(case):
    exact, single = all_bins(make_params(*case)), all_bins(make_params(*case, dtype=torch.float32))
    assert single.dtype == torch.float32
    likely = exact > -40
    # A mean in float32 is off by up to 6e-8, which the narrowest scale here (1e-5) sees as 0.006.
    torch.testing.assert_close(single[likely].double(), exact[likely], rtol=1e-4, atol=1e-2)
    assert abs(single.double().exp().sum().item() - 1) < 1e-3


def test_it_runs_in_float32_under_autocast():
    params, samples = torch.randn(2, 30, 50).bfloat16(), torch.randint(-32768, 32768, (2, 50))
    expected = log_likelihood(params.float(), samples)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = log_likelihood(params, samples)
    assert result.dtype == torch.float32
    assert torch.equal(result, expected)


@pytest.mark.parametrize("value", [-32768, -32767, 0, 12345, 32766, 32767])
@pytest.mark.parametrize("log_scale", [-60.0, MIN_LOG_SCALE, -7.0, 0.0, 20.0])
@pytest.mark.parametrize("mean", [-3.0, -1.0, 0.0, 0.99997, 50.0])
def test_value_and_gradient_are_finite_at_the_extremes(value, log_scale, mean):
    params = make_params([0.0, 30.0], [mean, -mean], [log_scale, log_scale], torch.float32).requires_grad_()
    result = log_likelihood(params, torch.tensor([[value]]))
    result.sum().backward()
    assert torch.isfinite(result).all() and torch.isfinite(params.grad).all()


def test_sampled_histogram_follows_the_likelihood():
    case = ([0.0, 1.0, -0.5], [-0.001, 0.0005, 0.9999], [-8.5, -9.0, -8.0])  # a few dozen bins, some at the edge
    n = 400_000
    uniforms = torch.rand(1, n, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    samples = sample(make_params(*case).expand(-1, -1, n), uniforms)[0]
    expected = brute_force(*case) * n
    counts = torch.bincount(samples + 32768, minlength=65536).numpy()
    seen = expected > 20
    chi_square = ((counts[seen] - expected[seen]) ** 2 / expected[seen]).sum()
    assert abs(chi_square - seen.sum()) < 5 * np.sqrt(2 * seen.sum())  # five standard deviations
    assert counts[~seen].sum() < 2 * expected[~seen].sum() + 50


def test_temperature_narrows_components_and_selection():
    n = 20_000
    uniforms = torch.rand(1, n, 2, generator=torch.Generator().manual_seed(0))
    params = make_params([0.0, 1.0], [-0.5, 0.5], [-5.0, -5.0], torch.float32).expand(-1, -1, n)
    hot, cold = sample(params, uniforms, 1.0).float(), sample(params, uniforms, 0.25).float()
    assert cold[cold > 0].std() == pytest.approx(0.25 * hot[hot > 0].std().item(), rel=0.05)
    assert (hot > 0).float().mean() == pytest.approx(1 / (1 + np.exp(-1)), abs=0.01)
    assert (cold > 0).float().mean() == pytest.approx(1 / (1 + np.exp(-4)), abs=0.01)


def test_from_cumulative_inverts_the_distribution():
    """In class order."""
    logits = torch.log(torch.tensor([0.2, 0.0, 0.5, 0.3])).view(1, 4, 1)
    uniforms = torch.tensor([[1e-7, 0.19999, 0.20001, 0.69999, 0.70001, 1 - 1e-7]])
    assert from_cumulative(logits.expand(-1, -1, 6), uniforms).tolist() == [[0, 0, 2, 2, 3, 3]]


def test_the_mean_of_a_mixture_has_a_fraction():
    params = make_params([0.0, math.log(3)], [-0.1 / 32768, 0.5 / 32768], [-3.0, -12.0])
    assert mean_sample(params).item() == pytest.approx((-0.1 + 3 * 0.5) / 4, abs=1e-6)
    assert mean_sample(params, 0.25).item() == pytest.approx((-0.1 + 81 * 0.5) / 82, abs=1e-6)
    edges = make_params([0.0], [1.5], [-3.0]), make_params([0.0], [-1.5], [-3.0])
    assert [mean_sample(one).item() for one in edges] == [32767, -32768]


def test_the_mean_class_has_a_fraction():
    logits = torch.tensor([[0.25, 0.0, 0.25, 0.5], [0.0, 0.7, 0.3, 0.0]]).log().unsqueeze(-1)
    torch.testing.assert_close(mean_class(logits), torch.tensor([[2.0], [1.3]]))
    certain = torch.tensor([0.0, 0.0, 0.0, 90.0]).view(1, 4, 1)
    assert mean_class(certain).item() == 3


def test_smaller_scales_are_the_minimum():
    assert split(make_params([0.0], [0.0], [-50.0]))[2].item() == MIN_LOG_SCALE


OWN = make_params(*CASES["ordinary"])
NULL = make_params([0.5, -0.5, 0.0], [0.1, 0.99997, -1.0], [-5.0, -8.0, -2.0])


@pytest.mark.parametrize("guidance", [0.0, 0.4, 0.5, 1.0, 1.7, 5.0])
def test_a_guided_mixture_is_a_distribution(guidance):
    result = guided(OWN, NULL, guidance)
    assert abs(all_bins(result).exp().sum().item() - 1) < 1e-12
    scales, own_scales, null_scales = (params.chunk(3, dim=1)[2] for params in (result, OWN, NULL))
    assert torch.all(scales <= torch.maximum(own_scales, null_scales))
    assert torch.all(scales >= torch.minimum(own_scales, null_scales))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_guidance_of_0_and_1_gives_the_two_mixtures(dtype):
    """Exactly."""
    own, null = torch.randn(2, 4, 30, 100, generator=torch.Generator().manual_seed(0), dtype=dtype)
    assert torch.equal(guided(own, null, 1.0), own)
    assert torch.equal(guided(own, null, 0.0), null)


def test_one_component_moves_as_by_the_power_law():
    own, null = make_params([0.0], [0.101], [-5.0]), make_params([0.0], [0.1], [-5.0])  # a seventh of a scale apart
    for guidance in (0.5, 2.0, 3.0):
        power = torch.softmax(guidance * all_bins(own) + (1 - guidance) * all_bins(null), dim=0)
        result = all_bins(guided(own, null, guidance)).exp()
        assert (power * BINS).sum() / 32768 == pytest.approx(0.1 + guidance * 0.001, abs=2e-5)
        assert 0.5 * (power - result).abs().sum() < 0.01 < 0.5 * (power - all_bins(own).exp()).abs().sum()


def test_beyond_one_the_components_keep_their_places():
    """The second one is never chosen, and says nothing of where the notes move the sound."""
    own = make_params([0.0, -40.0], [0.3, -0.9], [-5.0, -2.0])
    null = make_params([0.0, -40.0], [0.2, 0.9], [-6.0, -2.0])
    logits, means, log_scales = split(guided(own, null, 3.0))
    assert logits.flatten().tolist() == [0.0, -40.0] and log_scales.flatten().tolist() == [-5.0, -2.0]
    assert means.flatten().tolist() == pytest.approx([0.5, -0.7])
