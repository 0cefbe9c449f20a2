"""Scheduled sampling: the schedule, which samples are replaced and by what, and that a run goes on bit for bit."""

import json

import numpy as np
import pytest
import torch

import train
from midi2wave.sampling.uniforms import seeded_uniforms
from midi2wave.training import step as step_module
from midi2wave.training.data_loader import batches, crops_for_model, micro_batch_indices
from midi2wave.training.run_state import create_or_resume_run
from midi2wave.training.scheduled_sampling import FIRST_STREAM, apply_scheduled_sampling
from midi2wave.training.schedules import model_sample_probability
from tests.helpers.sampler_models import make_conditioning, make_model
from tests.helpers.training import checkpoint_tensors, make_train_config, pipeline_config, same_tensors, start_run
from wavenet import generate

CPU, N_FRAMES, INDICES = torch.device("cpu"), 3, [7, 2]
OUTPUTS = pytest.mark.parametrize("output", ["logistic_mixture", "categorical"])


def test_the_share_grows_along_a_line_after_the_patience():
    config = make_train_config(scheduled_sampling_passes=1, scheduled_sampling=0.6, scheduled_sampling_start_step=40)
    assert [model_sample_probability(config, step) for step in (0, 40, 70, 100)] == pytest.approx([0, 0, 0.3, 0.6])
    assert model_sample_probability(make_train_config(scheduled_sampling=0.6), 100) == 0
    with pytest.raises(ValueError, match="scheduled_sampling_start_step = 100: expected less than steps = 100"):
        make_train_config(scheduled_sampling_passes=1, scheduled_sampling_start_step=100).check()


def make_batch(model):
    """Two crops whose history is noise, as `dataset.Crops` gives them, and their conditioning."""
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


def mixed(model, batch, share, n_passes, **options):
    config = make_train_config(scheduled_sampling_passes=n_passes, seed=5)
    return apply_scheduled_sampling(model, batch, share, config, CPU, **options)["history"]


def draws(model):
    return seeded_uniforms(5, [FIRST_STREAM + index for index in INDICES], model.uniforms_per_sample + 1)


@OUTPUTS
def test_all_of_the_history_becomes_what_the_model_draws(output):
    model = make_model(output)
    batch, _ = make_batch(model)
    before, heard = batch["history"].tensor_split([model.decoder.taps], dim=1)
    with torch.no_grad():
        params = model(batch["history"], batch["features"], batch["excitation"]).params
    expected = model.draw(params, draws(model)(0, heard.shape[1])[..., :-1])
    found = mixed(model, batch, 1.0, 1)
    assert torch.equal(found, torch.cat([before, expected], dim=1))
    assert (expected != heard).float().mean() > 0.9
    assert torch.equal(mixed(model, batch, 0.0, 3), batch["history"])
    again = mixed(model, batch, 1.0, 2)
    assert not torch.equal(again, found)  # the second pass hears the first one's samples


@OUTPUTS
def test_with_enough_passes_it_is_what_the_model_plays(output):
    """From silence, by the cached sampler: drawing the samples one after another."""
    model = make_model(output)
    batch, conditioning = make_batch(model)
    batch["history"][:, : model.decoder.taps] = model.decoder.silence
    uniforms = draws(model)
    blocks = generate(model, conditioning, lambda first, n: uniforms(first, n)[..., :-1], 2, N_FRAMES)
    played = torch.cat(list(blocks), dim=1)
    found = mixed(model, batch, 1.0, N_FRAMES * model.hop)[:, model.decoder.taps :]
    # rounding to a sample may fall either way
    assert (found - played).abs().max() <= int(model.decoder.mixture) and (found != played).float().mean() < 0.02


@OUTPUTS
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_a_share_of_the_history_is_replaced_and_how_the_crops_are_passed_does_not_matter(output, precision):
    model = make_model(output)
    batch, _ = make_batch(model)
    all_own, some = (mixed(model, batch, share, 1, precision=precision) for share in (1.0, 0.25))
    replaced = some != batch["history"]
    assert torch.equal(some[replaced], all_own[replaced]) and 0.1 < replaced.float().mean() < 0.4
    more = mixed(model, batch, 0.5, 1, precision=precision) != batch["history"]
    assert (more | ~replaced).all() and more.sum() > replaced.sum()
    for i in range(len(INDICES)):
        alone = {name: value[i : i + 1] for name, value in batch.items()}
        apart = mixed(model, alone, 0.25, 1, precision=precision)
        close = (apart - some[i : i + 1]).abs() <= int(model.decoder.mixture) * (
            1 if precision == torch.float32 else 999
        )
        assert torch.equal(apart != batch["history"][i : i + 1], replaced[i : i + 1]) and close.float().mean() > 0.9
    others = batch | {"index": torch.tensor([3, 4])}
    assert not torch.equal(mixed(model, others, 0.25, 1) != batch["history"], replaced)


def trained(pipeline, folder, *overrides, stop_at=None):
    """A short run with all that disturbs the history, in micro-batches, stopped at some step; all it has saved."""
    config = pipeline_config(pipeline, folder, "train_config.steps=5", "train_config.batch_size=4", *(
        f"train_config.{one}" for one in ("micro_batch_size=2", "history_mixing=0.5", "history_dropout=0.3",
                                          "validation_crops=2", "iters_per_checkpoint=100", *overrides)
    ))  # fmt: skip
    run = create_or_resume_run(config, force=False)
    train.train(run, None, lambda: stop_at is not None and run.step >= stop_at)
    return checkpoint_tensors(folder)


def test_a_share_of_nothing_trains_as_without_and_another_share_does_not(pipeline, tmp_path):
    off = trained(pipeline, tmp_path / "off")
    nothing = trained(pipeline, tmp_path / "nothing", "scheduled_sampling_passes=2", "scheduled_sampling=0")
    patient = trained(pipeline, tmp_path / "patient", "scheduled_sampling_passes=2", "scheduled_sampling_start_step=4")
    some = trained(pipeline, tmp_path / "some", "scheduled_sampling_passes=2", "scheduled_sampling=1")
    assert same_tensors(nothing, off) and same_tensors(patient, off) and not same_tensors(some, off)


@pytest.mark.parametrize("output", ["logistic_mixture", "categorical"])
def test_a_stopped_run_goes_on_bit_for_bit(pipeline, tmp_path, output):
    given = ("scheduled_sampling_passes=1", "scheduled_sampling=1")
    whole = trained(pipeline, tmp_path / "whole", *given)
    halves = [trained(pipeline, tmp_path / "halves", *given, stop_at=at) for at in (3, None)]
    assert halves[0]["step"] == 3 and not same_tensors(halves[0], whole) and same_tensors(halves[1], whole)


def test_each_step_hears_its_own_crops(pipeline, tmp_path, monkeypatch):
    """The indices are those of the crops in the batch: in every step others."""
    seen, real = [], step_module.apply_scheduled_sampling

    def noted(model, batch, *rest):
        seen.append((batch["index"].tolist(), batch["samples"]))
        return real(model, batch, *rest)

    monkeypatch.setattr(step_module, "apply_scheduled_sampling", noted)
    trained(pipeline, tmp_path, "scheduled_sampling_passes=1")
    assert [indices for indices, _ in seen] == [
        list(range(i, i + 2)) for i in range(4, 20, 2)
    ]  # at step 0 there are none
    run = start_run(pipeline, tmp_path / "other")
    crops = crops_for_model(run.config.data_config.dataset_path, run.config.data_config, run.model, 0)
    expected = next(batches(crops, micro_batch_indices(range(1, 2), 4, 2, 0, 1), 0))
    assert torch.equal(seen[0][1], expected["samples"])
    assert json.loads((tmp_path / "config.json").read_text())["train_config"]["scheduled_sampling_passes"] == 1
