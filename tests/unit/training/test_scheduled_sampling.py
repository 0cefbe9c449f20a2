"""Scheduled sampling: the schedule, which samples are replaced and by what, and that a run resumes bit for bit."""

import json

import numpy as np
import pytest
import torch

from midi2wave.sampling.uniforms import seeded_uniforms
from midi2wave.training import loop
from midi2wave.training import step as step_module
from midi2wave.training.data_loader import batches, crops_for_model, micro_batch_indices
from midi2wave.training.scheduled_sampling import FIRST_STREAM, apply_scheduled_sampling
from midi2wave.training.schedules import model_sample_probability
from tests.helpers.sampler_models import make_conditioning, make_model
from tests.helpers.training import checkpoint_tensors, make_train_config, same_tensors, start_run
from wavenet import generate

CPU, N_FRAMES, INDICES = torch.device("cpu"), 3, [7, 2]
OUTPUTS = pytest.mark.parametrize("output", ["logistic_mixture", "categorical"])


def test_probability_grows_linearly_after_the_start_step():
    config = make_train_config(scheduled_sampling_passes=1, scheduled_sampling=0.6, scheduled_sampling_start_step=40)
    assert [model_sample_probability(config, step) for step in (0, 40, 70, 100)] == pytest.approx([0, 0, 0.3, 0.6])
    assert model_sample_probability(make_train_config(scheduled_sampling=0.6), 100) == 0
    with pytest.raises(ValueError, match="scheduled_sampling_start_step = 100: expected less than steps = 100"):
        make_train_config(scheduled_sampling_passes=1, scheduled_sampling_start_step=100).check()


def make_batch(model):
    """Two crops whose history is noise, as `Crops` makes them, and their conditioning."""
    conditioning, n_samples = make_conditioning(model, 2), N_FRAMES * model.hop
    low, high = (-9999, 9999) if model.decoder.mixture else (0, 256)
    history = torch.from_numpy(np.random.default_rng(1).integers(low, high, (2, model.decoder.taps + n_samples)))
    left, right = model.context_frames
    return {
        "index": torch.tensor(INDICES),
        "samples": torch.zeros(2, n_samples, dtype=torch.long),
        "history": history,
        "features": conditioning.features(-left, left + N_FRAMES + right),
        "excitation": conditioning.excitation(0, N_FRAMES),
    }, conditioning


def sampled_history(model, batch, share, n_passes, **options):
    config = make_train_config(scheduled_sampling_passes=n_passes, seed=5)
    return apply_scheduled_sampling(model, batch, share, config, CPU, **options)["history"]


def crop_uniforms(model):
    return seeded_uniforms(5, [FIRST_STREAM + index for index in INDICES], model.uniforms_per_sample + 1)


@OUTPUTS
def test_all_of_the_history_becomes_model_samples(output):
    model = make_model(output)
    batch, _ = make_batch(model)
    previous, original = batch["history"].tensor_split([model.decoder.taps], dim=1)
    with torch.no_grad():
        params = model(batch["history"], batch["features"], batch["excitation"]).params
    expected = model.draw(params, crop_uniforms(model)(0, original.shape[1])[..., :-1])
    history = sampled_history(model, batch, 1.0, 1)
    assert torch.equal(history, torch.cat([previous, expected], dim=1))
    assert (expected != original).float().mean() > 0.9
    assert torch.equal(sampled_history(model, batch, 0.0, 3), batch["history"])
    again = sampled_history(model, batch, 1.0, 2)
    assert not torch.equal(again, history)  # The second pass is conditioned on the samples of the first.


@OUTPUTS
def test_many_passes_equal_sequential_sampling(output):
    """From silence, by the cached sampler: drawing the samples one after another."""
    model = make_model(output)
    batch, conditioning = make_batch(model)
    batch["history"][:, : model.decoder.taps] = model.decoder.input.silence
    uniforms = crop_uniforms(model)
    blocks = generate(model, conditioning, lambda first, n: uniforms(first, n)[..., :-1], 2, N_FRAMES)
    played = torch.cat(list(blocks), dim=1)
    history = sampled_history(model, batch, 1.0, N_FRAMES * model.hop)[:, model.decoder.taps :]
    # Rounding to a sample may fall either way.
    assert (history - played).abs().max() <= int(model.decoder.mixture) and (history != played).float().mean() < 0.02


@OUTPUTS
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_share_of_the_history_is_replaced_in_any_batch(output, precision):
    """Which positions are replaced, and by which samples, does not depend on how the crops are batched."""
    model = make_model(output)
    batch, _ = make_batch(model)
    all_sampled = sampled_history(model, batch, 1.0, 1, precision=precision)
    some = sampled_history(model, batch, 0.25, 1, precision=precision)
    replaced = some != batch["history"]
    assert torch.equal(some[replaced], all_sampled[replaced]) and 0.1 < replaced.float().mean() < 0.4
    more = sampled_history(model, batch, 0.5, 1, precision=precision) != batch["history"]
    assert (more | ~replaced).all() and more.sum() > replaced.sum()
    for i in range(len(INDICES)):
        alone = {name: value[i : i + 1] for name, value in batch.items()}
        apart = sampled_history(model, alone, 0.25, 1, precision=precision)
        tolerance = int(model.decoder.mixture) * (1 if precision == torch.float32 else 999)
        close = (apart - some[i : i + 1]).abs() <= tolerance
        assert torch.equal(apart != batch["history"][i : i + 1], replaced[i : i + 1]) and close.float().mean() > 0.9
    others = batch | {"index": torch.tensor([3, 4])}
    assert not torch.equal(sampled_history(model, others, 0.25, 1) != batch["history"], replaced)


def train_briefly(pipeline, folder, *overrides, stop_at=None):
    """A short run with all augmentations of the history, in micro-batches, stopped at some step; all it has saved."""
    options = ["steps=5", "batch_size=4", "micro_batch_size=2", "history_mixing=0.5", "history_dropout=0.3"]
    options += ["validation_crops=2", "iters_per_checkpoint=100", *overrides]
    run = start_run(pipeline, folder, *(f"train_config.{option}" for option in options))
    loop.train(run, None, lambda: stop_at is not None and run.step >= stop_at)
    return checkpoint_tensors(folder)


def test_probability_of_zero_changes_nothing(pipeline, tmp_path):
    """Nor do steps before the start step; a positive probability does."""
    off = train_briefly(pipeline, tmp_path / "off")
    nothing = train_briefly(pipeline, tmp_path / "nothing", "scheduled_sampling_passes=2", "scheduled_sampling=0")
    late = train_briefly(pipeline, tmp_path / "late", "scheduled_sampling_passes=2", "scheduled_sampling_start_step=4")
    some = train_briefly(pipeline, tmp_path / "some", "scheduled_sampling_passes=2", "scheduled_sampling=1")
    assert same_tensors(nothing, off) and same_tensors(late, off) and not same_tensors(some, off)


@pytest.mark.parametrize("output", ["logistic_mixture", "categorical"])
def test_stopped_run_resumes_bit_for_bit(pipeline, tmp_path, output):
    options = ("scheduled_sampling_passes=1", "scheduled_sampling=1")
    whole = train_briefly(pipeline, tmp_path / "whole", *options)
    halves = [train_briefly(pipeline, tmp_path / "halves", *options, stop_at=step) for step in (3, None)]
    assert halves[0]["step"] == 3 and not same_tensors(halves[0], whole) and same_tensors(halves[1], whole)


def test_each_step_samples_its_own_crops(pipeline, tmp_path, monkeypatch):
    """The indices are those of the crops in the batch, other ones in every step."""
    seen, real = [], step_module.apply_scheduled_sampling

    def spy(model, batch, *rest):
        seen.append((batch["index"].tolist(), batch["samples"]))
        return real(model, batch, *rest)

    monkeypatch.setattr(step_module, "apply_scheduled_sampling", spy)
    train_briefly(pipeline, tmp_path, "scheduled_sampling_passes=1")
    # At step 0 the probability is still 0.
    assert [indices for indices, _ in seen] == [list(range(i, i + 2)) for i in range(4, 20, 2)]
    run = start_run(pipeline, tmp_path / "other")
    crops = crops_for_model(run.config.data_config.dataset_path, run.config.data_config, run.model, 0)
    expected = next(batches(crops, micro_batch_indices(range(1, 2), 4, 2, 0, 1), 0))
    assert torch.equal(seen[0][1], expected["samples"])
    assert json.loads((tmp_path / "config.json").read_text())["train_config"]["scheduled_sampling_passes"] == 1
