"""From performances to audio: streams, prefix and likelihood, with a small untrained model."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from midi2wave.audio.mu_law import mu_law_decode, mu_law_encode
from midi2wave.audio.pre_emphasis import Deemphasis, deemphasize_teacher_forced, emphasize
from midi2wave.conditioning.note_conditioning import NoteConditioning
from midi2wave.config import DataConfig
from midi2wave.sampling.options import SamplingOptions
from midi2wave.sampling.synthesis import conditioning, synthesize, teacher_forced, to_pcm, to_samples
from tests.helpers.synthesis_models import CPU, HOP, N_FRAMES, OUTPUTS, make, make_pcm, make_performance, play


@OUTPUTS
@pytest.mark.parametrize("prompted", [False, True])
def test_one_batch_gives_the_same_as_stream_by_stream(output, prompted):
    model, data = make(output)
    pieces = [make_performance(i) for i in range(3)]
    prefix = make_pcm(3, 2) if prompted else None
    together = play(model, data, pieces, [0, 1, 2], prefix=prefix)
    assert together.shape == (3, N_FRAMES * HOP)
    for i in (2, 0, 1):
        alone = play(model, data, [pieces[i]], [i], prefix=prefix[i : i + 1] if prompted else None)
        assert np.array_equal(alone[0], together[i])
    assert len({row.tobytes() for row in together}) == 3


def test_seed_stream_and_performance_decide():
    model, data = make()
    pieces = [make_performance(0), make_performance(1)]
    output = play(model, data, pieces[:1], [0])
    assert np.array_equal(output, play(model, data, pieces[:1], [0]))
    other_seed = np.concatenate(
        list(synthesize(model, pieces[:1], N_FRAMES, data, options=SamplingOptions(seed=6), streams=[0])), axis=1
    )
    for other in (play(model, data, pieces[:1], [1]), play(model, data, pieces[1:], [0]), other_seed):
        assert not np.array_equal(output, other)


def test_prefix_is_returned_and_conditions_the_rest():
    model, data = make()
    pieces, prefix = [make_performance(0), make_performance(1)], make_pcm(2, 3)
    prompted = play(model, data, pieces, [0, 1], prefix=prefix)
    assert prompted.shape == (2, N_FRAMES * HOP)
    assert np.array_equal(prompted[:, : 3 * HOP], prefix)
    changed = play(model, data, pieces, [0, 1], prefix=prefix // 2)
    assert not np.array_equal(prompted[:, 3 * HOP :], changed[:, 3 * HOP :])


def test_prefix_of_own_samples_changes_nothing():
    for output in ("logistic_mixture", "categorical"):
        model, data = make(output)
        free = play(model, data, [make_performance(0)], [0])
        assert np.array_equal(free, play(model, data, [make_performance(0)], [0], prefix=free[:, : 3 * HOP]))


def test_categorical_prefix_is_returned_quantised():
    """Prefix of codes comes back as the codes stand for."""
    model, data = make("categorical")
    prefix = make_pcm(1, 3)
    prompted = play(model, data, [make_performance(0)], [0], prefix=prefix)
    assert np.array_equal(prompted[:, : 3 * HOP], mu_law_decode(mu_law_encode(prefix)))


@pytest.mark.parametrize("n_samples", [HOP + 1, (N_FRAMES + 1) * HOP, 0])
def test_impossible_prefixes(n_samples):
    model, data = make()
    with pytest.raises(ValueError, match="not a whole number of frames up to 6"):
        play(model, data, [make_performance(0)], [0], prefix=np.zeros((1, n_samples), dtype=np.int16))


@OUTPUTS
@pytest.mark.parametrize("excitation", [True, False])
def test_teacher_forced_likelihood_is_that_of_the_model(output, excitation):
    model, data = make(output, excitation)
    pieces, pcm = [make_performance(0), make_performance(1)], make_pcm(2, N_FRAMES)
    own_samples, nll = teacher_forced(model, pieces, pcm, data, options=SamplingOptions(seed=5), streams=[0, 1])
    assert own_samples.dtype == np.int16 and own_samples.shape == pcm.shape
    left, right = model.context_frames
    notes = [NoteConditioning(piece, data) for piece in pieces]
    features = torch.from_numpy(np.stack([one.features(-left, left + N_FRAMES + right) for one in notes]))
    excitation_inputs = torch.from_numpy(np.stack([one.excitation(0, N_FRAMES) for one in notes]))
    samples = torch.from_numpy((mu_law_encode(pcm) if output == "categorical" else pcm).astype(np.int64))
    with torch.no_grad():
        params = model(model.decoder.prepend_silence(samples), features, excitation_inputs).params
    assert nll == pytest.approx(-model.log_likelihood(params, samples).mean().item(), rel=1e-6)


@OUTPUTS
def test_teacher_forced_on_its_own_output_draws_it_again(output):
    """Parallel pass and sampler draw every sample from the same uniforms, so that their output is a fixed point."""
    model, data = make(output)
    pieces = [make_performance(0), make_performance(1)]
    free = play(model, data, pieces, [3, 4])
    again, _ = teacher_forced(model, pieces, free, data, options=SamplingOptions(seed=5), streams=[3, 4])
    # A sum in another order may move a 16-bit sample over a rounding edge, to its neighbour.
    assert np.abs(again.astype(int) - free).max() <= 1 and np.mean(again != free) < 0.02


@OUTPUTS
def test_guided_teacher_forced_and_sampled_agree(output):
    model, data = make(output)
    pieces, options = [make_performance(0), make_performance(1)], {"guidance": 4.0, "temperature": 0.9}
    free = play(model, data, pieces, [3, 4], **options)
    again, nll = teacher_forced(model, pieces, free, data, options=SamplingOptions(seed=5, **options), streams=[3, 4])
    assert np.abs(again.astype(int) - free).max() <= 1 and np.mean(again != free) < 0.02
    plain, own_nll = teacher_forced(model, pieces, free, data, options=SamplingOptions(seed=5), streams=[3, 4])
    assert np.mean(plain != free) > 0.1 and nll == pytest.approx(own_nll)  # the likelihood is the model's own


@OUTPUTS
def test_guidance_zero_ignores_the_notes(output):
    model, data = make(output)
    null_output = play(model, data, [make_performance(0), make_performance(1)], [3, 3], guidance=0.0)
    assert np.array_equal(null_output[0], null_output[1])
    assert np.array_equal(null_output[:1], play(model, data, [None], [3]))


def test_temperature_narrows_the_output():
    model, data = make()
    pcm, piece = np.zeros((1, N_FRAMES * HOP), dtype=np.int16), [make_performance(0)]
    spread = [
        teacher_forced(model, piece, pcm, data, options=SamplingOptions(seed=5, temperature=t), streams=[0])[0].std()
        for t in (1.0, 0.01)
    ]
    assert spread[1] < 0.5 * spread[0]


@OUTPUTS
def test_pre_emphasised_model_samples_the_pre_emphasised_signal(output):
    model, data = make(output)
    emphasized, pieces = replace(data, preemphasis=0.9), [make_performance(0), make_performance(1)]

    def changes_of(pcm):  # silence's code, 3 without pre-emphasis, is 0
        return pcm if output == "logistic_mixture" else np.where(pcm == 3, 0, pcm).astype(np.int16)

    plain = changes_of(play(model, data, pieces, [0, 1]))
    assert np.array_equal(play(model, emphasized, pieces, [0, 1]), Deemphasis(0.9)(plain))
    # With a prefix: the past is the pre-emphasised prefix, and the audio continues from its last sample.
    prefix = make_pcm(2, 2) // 10
    emphasized_output = changes_of(play(model, data, pieces, [0, 1], prefix=emphasize(prefix, 0.9)))
    prompted = play(model, emphasized, pieces, [0, 1], prefix=prefix)
    assert np.array_equal(prompted, Deemphasis(0.9)(emphasized_output))
    assert np.abs(prompted[:, : 2 * HOP] - prefix).max() <= (5 if output == "logistic_mixture" else 150)
    forced, nll = teacher_forced(model, pieces, prompted, emphasized, options=SamplingOptions(seed=5), streams=[0, 1])
    forced_emphasized, same_nll = teacher_forced(
        model, pieces, emphasize(prompted, 0.9), data, options=SamplingOptions(seed=5), streams=[0, 1]
    )
    assert (
        np.array_equal(forced, deemphasize_teacher_forced(changes_of(forced_emphasized), prompted, 0.9))
        and nll == same_nll
    )


@pytest.mark.parametrize("excitation", [True, False])
def test_conditioning_stacks_performances(excitation):
    """Conditioning stacks what each performance gives."""
    data = DataConfig(audio_hz=4000, midi_hz=250, features=["paper_v1"], excitation=excitation)
    pieces = [make_performance(0), make_performance(1)]
    inputs = conditioning(pieces, data, CPU)
    notes = [NoteConditioning(piece, data) for piece in pieces]
    assert np.array_equal(inputs.features(-3, 9), np.stack([one.features(-3, 9) for one in notes]))
    expected = np.stack([one.excitation(2, 5) for one in notes])
    assert expected.shape == (2, 6 if excitation else 0, 5 * HOP)
    assert np.array_equal(inputs.excitation(2, 5), expected)


@OUTPUTS
def test_pcm_to_samples_and_back(output):
    model, data = make(output)
    pcm = np.array([[-32768, -1, 0, 1, 32767]], dtype=np.int16)
    samples = to_samples(model, pcm, data)
    assert samples.dtype == torch.int64 and samples[0, 2] == (0 if output == "logistic_mixture" else 128)
    back = to_pcm(model, samples, data)
    assert back.dtype == np.int16
    assert np.array_equal(back, pcm if output == "logistic_mixture" else mu_law_decode(mu_law_encode(pcm)))
