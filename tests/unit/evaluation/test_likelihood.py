"""Paired likelihoods and conditioning ratios against direct computation, with a small untrained model."""

import math

import numpy as np
import pytest
import torch

from midi2wave.audio.mu_law import mu_law_encode
from midi2wave.conditioning.note_conditioning import NoteConditioning
from midi2wave.evaluation.conditioning_ratios import clip_conditioning_ratios
from midi2wave.evaluation.likelihood import paired_likelihood
from midi2wave.midi.performance import empty_performance
from midi2wave.sampling.synthesis import conditioning, log_likelihood_blocks
from tests.helpers.fake_piano import performance
from tests.helpers.synthesis_models import HOP, make

OUTPUTS = pytest.mark.parametrize("output", ["logistic_mixture", "categorical"])
N_FRAMES, HZ = 400, 4000
NOTES = [(-0.1, 0.3, 60, 90), (0.4, 0.7, 64, 50), (0.41, 0.9, 67, 100), (1.2, 1.5, 55, 70)]
OTHER = performance([(0.2, 0.5, 70, 80), (0.9, 1.4, 45, 110)])
OWN = performance(NOTES, pedal=[(0.3, 100), (1.0, 0)])


def clip(n_frames=N_FRAMES):
    return (3000 * np.random.default_rng(7).standard_normal(n_frames * HOP)).astype(np.int16)


def nll_in_one_pass(model, data, pcm, one):
    """Negative log-likelihood of every sample, from one pass over the whole clip: [T]."""
    left, right = model.context_frames
    notes, n_frames = NoteConditioning(one, data), len(pcm) // HOP
    features = torch.from_numpy(notes.features(-left, left + n_frames + right))[None]
    excitation = torch.from_numpy(notes.excitation(0, n_frames))[None]
    samples = torch.from_numpy((pcm if model.decoder.mixture else mu_law_encode(pcm)).astype(np.int64))[None]
    with torch.no_grad():
        params = model(model.decoder.prepend_silence(samples), features, excitation).params
        return -model.log_likelihood(params, samples)[0].double().numpy()


@OUTPUTS
@pytest.mark.parametrize("excitation", [True, False])
def test_likelihood_in_blocks_equals_one_pass(output, excitation):
    model, data = make(output, excitation)
    pcm = clip()
    everywhere, at_onsets = paired_likelihood(model, pcm, OWN, OTHER, data)
    warmup = math.ceil(model.decoder.receptive_field / HOP) * HOP
    assert everywhere.n_samples == len(pcm) - warmup
    after = np.zeros(len(pcm), bool)
    for onset in (0.4, 0.41, 1.2):
        after[round(onset * HZ) : round((onset + 0.05) * HZ)] = True
    assert at_onsets.n_samples == after[warmup:].sum() == round(0.11 * HZ)
    for name, one in (("true", OWN), ("shuffled", OTHER), ("null", empty_performance())):
        nll = nll_in_one_pass(model, data, pcm, one)
        assert getattr(everywhere, name) == pytest.approx(nll[warmup:].mean(), rel=1e-5)
        assert getattr(at_onsets, name) == pytest.approx(nll[after].mean(), rel=1e-5)
    assert len({everywhere.true, everywhere.shuffled, everywhere.null}) == 3
    assert everywhere.gap == everywhere.shuffled - everywhere.true
    assert everywhere.gap_null == everywhere.null - everywhere.true


@OUTPUTS
@pytest.mark.parametrize("first_frame", [0, 7])
def test_every_sample_of_a_block_has_its_past(output, first_frame):
    """Each sample's likelihood is that of one pass, the first ones of a block too."""
    model, data = make(output)
    pcm = clip(90)
    expected = nll_in_one_pass(model, data, pcm, OWN)
    n_blocks, end = 0, first_frame * HOP
    blocks = log_likelihood_blocks(model, [OWN], pcm, data, block_seconds=20 / data.midi_hz, first_frame=first_frame)
    for first, log_likelihood in blocks:
        assert first == end
        n_blocks, end = n_blocks + 1, first + log_likelihood.shape[1]
        np.testing.assert_allclose(-log_likelihood[0].numpy(), expected[first:end], atol=1e-4)
    assert n_blocks > 3 and end == len(pcm)


def test_a_model_that_ignores_its_midi_has_no_gap():
    model, data = make()
    with torch.no_grad():
        for layer in model.decoder.layers:
            layer.cond.weight.zero_()
            layer.excitation.weight.zero_()
    for paired in paired_likelihood(model, clip(), OWN, OTHER, data):
        assert paired.gap == paired.gap_null == 0
    assert clip_conditioning_ratios(model, clip(), OWN, data) == pytest.approx([0, 0, 0], abs=1e-5)


def test_an_empty_performance_has_zero_conditioning():
    _, data = make()
    empty = conditioning([empty_performance()], data, torch.device("cpu"))
    assert not empty.features(-50, 100).any() and not empty.excitation(0, 100).any()


def test_without_onsets_their_likelihood_is_nan():
    model, data = make()
    everywhere, at_onsets = paired_likelihood(model, clip(), empty_performance(), OTHER, data)
    assert np.isfinite(everywhere.gap) and at_onsets.n_samples == 0 and np.isnan(at_onsets.gap)


def test_the_second_half_of_a_short_clip_is_scored():
    model, data = make()
    everywhere, _ = paired_likelihood(model, clip(1), OWN, OTHER, data)
    assert everywhere.n_samples == HOP


def test_ratios_grow_with_the_conditioning():
    model, data = make()
    before = clip_conditioning_ratios(model, clip(), OWN, data)
    with torch.no_grad():
        model.decoder.layers[2].cond.weight.mul_(3)
        model.decoder.layers[2].excitation.weight.mul_(3)
    after = clip_conditioning_ratios(model, clip(), OWN, data)
    assert after == pytest.approx([before[0], before[1], 3 * before[2]], rel=1e-3)
