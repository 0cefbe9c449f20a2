"""The training loop's own rules: schedules, skipped steps, what it keeps and says, what it refuses to begin with."""

import contextlib
import errno
import itertools
import math
import os
import signal

import pytest
import torch

import train
from midi2wave import checkpoint
from midi2wave.config import TrainConfig, load_config
from midi2wave.training import data_loader, run_state, validation
from midi2wave.training import log as training_log
from midi2wave.training.distributed import World
from midi2wave.training.log import TrainingLog
from midi2wave.training.run_state import Run, create_or_resume_run
from midi2wave.utils.errors import InputError
from wavenet import build_model


def settings(**changes):
    return TrainConfig(**{"output_directory": "run", "steps": 100, "batch_size": 4, "warmup_steps": 10, **changes})


def pipeline_config(pipeline, folder, *overrides):
    """The config of the tiny pipeline, with a run folder of its own and gates that need no compiler."""
    own = [f"train_config.output_directory={folder}", "train_config.compile=false"]
    return load_config(pipeline.config, train.NEEDS, [*own, *overrides])


def run_to_the_end(state):
    with contextlib.closing(TrainingLog(state.folder, state.step)) as log:
        train.train(state, log)
    return log


def test_the_learning_rate_warms_up_and_falls_along_a_cosine():
    config = settings(learning_rate=1.0, final_learning_rate=0.1)
    rates = [train.learning_rate(step, config) for step in range(101)]
    assert rates[0] == pytest.approx(0.1) and rates[9] == rates[10] == 1.0
    assert rates[55] == pytest.approx(0.55) and rates[100] == pytest.approx(0.1)
    assert all(a > b for a, b in itertools.pairwise(rates[10:]))


def test_the_history_noise_falls_along_a_line_over_the_crops():
    config = settings(history_noise=0.3, final_history_noise=0.1)
    assert [train.history_noise(config, index) for index in (0, 200, 400)] == pytest.approx([0.3, 0.2, 0.1])


@pytest.mark.parametrize(("final", "expected"), [(0.0, [1.0, 0.5, 0.0]), (-1.0, [1.0, 1.0, 1.0])])
def test_the_other_crops_sound_falls_with_it_or_stays(final, expected):
    config = settings(history_mixing=1.0, final_history_mixing=final)
    assert [train.history_mixing(config, index) for index in (0, 200, 400)] == pytest.approx(expected)


def make_state(tmp_path):
    """A run whose model is one weight."""
    model = torch.nn.Linear(1, 1, bias=False)
    average = torch.nn.Linear(1, 1, bias=False)
    average.load_state_dict({"weight": model.weight + 1})
    config = train_settings(learning_rate=0.1, warmup_steps=0, ema_decay=0.5)
    optimizer = run_state.make_optimizer(model, config.train_config)
    return Run(config, tmp_path, torch.device("cpu"), model, average, optimizer)


def train_settings(**changes):
    return run_state.Config(train_config=settings(**changes))


def loss_of_weight(monkeypatch, factor=1.0):
    def losses(model, *_):
        nll = model.weight.sum(dim=1) * factor
        return nll, torch.zeros_like(nll), torch.zeros_like(nll)

    monkeypatch.setattr(train, "training_losses", losses)


@pytest.mark.parametrize("factor", [math.nan, math.inf])
def test_a_step_without_a_finite_gradient_changes_nothing(tmp_path, monkeypatch, factor):
    state = make_state(tmp_path)
    before, average = state.model.weight.detach().clone(), state.average.weight.clone()
    loss_of_weight(monkeypatch, factor)
    report = train.StepMetrics(*train.train_step(state, [{}]).tolist())
    assert not report.finite
    assert torch.equal(state.model.weight, before) and torch.equal(state.average.weight, average)
    assert not any(value.any() for value in state.optimizer.state[state.model.weight].values())
    loss_of_weight(monkeypatch)
    assert train.StepMetrics(*train.train_step(state, [{}]).tolist()).finite
    assert not torch.equal(state.model.weight, before)


def test_the_average_follows_the_weights(tmp_path, monkeypatch):
    state = make_state(tmp_path)
    state.step = 1000  # past the quick start of the average
    start = state.average.weight.item()
    loss_of_weight(monkeypatch)
    train.train_step(state, [{}])
    assert state.average.weight.item() == pytest.approx((start + state.model.weight.item()) / 2)


def test_passes_add_up_to_the_batch(pipeline, tmp_path):
    """In float64, lest rounding hide a mistake."""
    overrides = [f"train_config.{name}" for name in ("batch_size=4", "gradient_clip=1e9", "precision=float32")]
    config, gradients, losses = pipeline_config(pipeline, tmp_path, *overrides), [], []
    for size in (4, 2, 1):
        state = create_or_resume_run(config, force=True)
        state.model.double()
        crops = validation.crops_for_model(config.data_config.dataset_path, config.data_config, state.model, 0)
        passes = [
            {name: value.double() if value.is_floating_point() else value for name, value in batch.items()}
            for batch in data_loader.batches(crops, data_loader.micro_batch_indices(range(1), 4, size, 0, 1), 0)
        ]
        losses.append(train.train_step(state, passes)[0].item())
        gradients.append(torch.cat([p.grad.flatten() for p in state.model.parameters()]))
    assert losses[1:] == pytest.approx([losses[0]] * 2, abs=1e-7)  # the sum of the passes' losses is kept in float32
    assert all((g - gradients[0]).abs().max() < 1e-12 for g in gradients[1:])


class Replayed:
    """In the place of a recorded pass: leaves a gradient when it is made, as that does, and runs the pass anew."""

    def __init__(self, run, batch, device):
        self.run = run
        run(batch)

    def __call__(self, batch):
        return self.run(batch)


def test_a_recorded_pass_takes_part_in_a_step(pipeline, tmp_path, monkeypatch):
    """Two passes a step, two steps: the weights are those of steps without it, the gradients the same tensors."""
    config, weights = (
        pipeline_config(pipeline, tmp_path, "train_config.batch_size=4", "train_config.precision=float32"),
        [],
    )
    monkeypatch.setattr(train, "GraphedPass", Replayed)
    for to_record in (False, True):
        state = create_or_resume_run(config, force=True)
        state.to_record = to_record
        crops = validation.crops_for_model(config.data_config.dataset_path, config.data_config, state.model, 0)
        places = []
        for step in range(2):
            indices = data_loader.micro_batch_indices(range(step, step + 1), 4, 2, 0, 1)
            train.train_step(state, list(data_loader.batches(crops, indices, 0)))
            state.step += 1
            places.append([p.grad.data_ptr() for p in state.model.parameters() if p.grad is not None])
        assert (state.recorded is not None) == to_record and not state.to_record
        weights.append(torch.cat([p.detach().flatten() for p in state.model.parameters()]))
    assert places[0] == places[1]
    assert torch.equal(*weights)


def test_where_a_pass_cannot_be_recorded_training_goes_on_without(tmp_path, monkeypatch, capsys):
    def refuse(*_):
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(train, "GraphedPass", refuse)
    loss_of_weight(monkeypatch)
    state, usual = make_state(tmp_path), make_state(tmp_path)
    usual.model.load_state_dict(state.model.state_dict())
    state.to_record = True
    for _ in range(2):
        assert torch.equal(train.train_step(state, [{}]), train.train_step(usual, [{}]))
    assert torch.equal(state.model.weight, usual.model.weight)
    assert capsys.readouterr().err.count("could not be recorded") == 1


def test_the_mel_head_learns_and_is_logged(pipeline, tmp_path):
    heads = ["cond_wavenet_config.n_mels=8", "data_config.segment_length=0.1", "train_config.mel_loss_weight=1.0"]
    state = create_or_resume_run(pipeline_config(pipeline, tmp_path / "with", *heads), force=False)
    before = state.model.mel_head.weight.detach().clone()
    log = run_to_the_end(state)
    assert log.newest["mel_loss"] > 0 and not torch.equal(state.model.mel_head.weight, before)
    assert (
        "mel_loss"
        not in run_to_the_end(create_or_resume_run(pipeline_config(pipeline, tmp_path / "without"), force=False)).newest
    )
    with pytest.raises(InputError, match=r"segment_length = 0.01: expected at least 0.036 s"):
        create_or_resume_run(
            pipeline_config(pipeline, tmp_path / "short", *heads[:1], "data_config.segment_length=0.01"), force=False
        )


def test_the_context_stack_alone_is_taught_by_the_mel_loss(pipeline, tmp_path):
    """Without a loss of the decoder, only the context stack and its head get a gradient."""
    state = create_or_resume_run(
        pipeline_config(pipeline, tmp_path, "cond_wavenet_config.n_mels=8", "data_config.segment_length=0.1"),
        force=False,
    )
    batch = {name: value[:2] for name, value in state.validation.crops.items()}
    _, mel, _ = validation.training_losses(state.model, batch, state.device, torch.float32, state.model)
    mel.sum().backward()
    taught = {name.split(".")[0] for name, p in state.model.named_parameters() if p.grad is not None and p.grad.any()}
    assert taught == {"context", "mel_head"}


def test_the_context_s_learning_rate_is_a_factor_of_the_schedule(pipeline, tmp_path):
    overrides = (
        "cond_wavenet_config.n_mels=8",
        "data_config.segment_length=0.1",
        "train_config.context_learning_rate=3",
    )
    state = create_or_resume_run(pipeline_config(pipeline, tmp_path, *overrides), force=False)
    rates = {}
    train.train_step(state, [{name: value[:2] for name, value in state.validation.crops.items()}])
    names = {id(p): name.split(".")[0] for name, p in state.model.named_parameters()}
    for group in state.optimizer.param_groups:
        rates.update({names[id(p)]: group["lr"] for p in group["params"]})
    plain = train.learning_rate(0, state.config.train_config)
    assert rates == {"context": 3 * plain, "mel_head": 3 * plain, "decoder": plain}


def test_a_model_that_ignores_its_midi_is_told_of_in_plain_words(tmp_path):
    state = make_state(tmp_path)
    deaf, listens = ({"validation_gap": gap, "validation_gap_error": 0.01} for gap in (0.015, 0.03))
    said = [train.ignored_conditioning_warning(state, found) for found in [deaf] * 5 + [listens] + [deaf] * 2]
    assert [bool(words) for words in said] == [False, True, False, True, False, False, False, True]
    assert "ignores its MIDI" in said[1] and "0.0150 +- 0.0100" in said[1] and "4 validations" in said[3]
    assert "\n" not in said[1]


def test_the_training_says_so_itself_and_not_at_every_validation(pipeline, tmp_path, monkeypatch, capsys):
    others = {"validation_gap": 0.0, "validation_gap_error": 0.01}
    monkeypatch.setattr(train, "validate", lambda *_: {"validation_nll": 5.0, **others})
    every = ["train_config.iters_per_validation=1", "train_config.steps=3"]
    run_to_the_end(create_or_resume_run(pipeline_config(pipeline, tmp_path, *every), force=False))
    said = [line for line in capsys.readouterr().err.splitlines() if "ignores its MIDI" in line]
    assert len(said) == 1 and "2 validations in a row" in said[0] and "docs/conditioning.md" in said[0]


def test_weights_that_are_not_finite_are_not_saved(tmp_path):
    state = make_state(tmp_path)
    with torch.no_grad():
        state.model.weight.fill_(math.nan)
    with pytest.raises(InputError, match="not finite"):
        train.save(state)
    assert list(tmp_path.iterdir()) == []


def test_a_step_on_damaged_audio_is_skipped_and_its_crops_are_named(pipeline, tmp_path, monkeypatch, capsys):
    state, original, losses = (
        create_or_resume_run(pipeline_config(pipeline, tmp_path), force=False),
        train.training_losses,
        [],
    )

    def damaged(*given):
        losses.append(given)
        nll, *others = original(*given)
        return nll * (math.nan if len(losses) == 2 else 1), *others

    monkeypatch.setattr(train, "training_losses", damaged)
    log = run_to_the_end(state)
    said = [line for line in capsys.readouterr().err.splitlines() if "was skipped" in line]
    assert len(said) == 1 and said[0].startswith("step 1 was skipped")
    assert said[0].count(".wav at ") == 2  # both crops of the batch
    assert state.step == state.saved_step == 4
    assert math.isfinite(log.newest["loss"])


def test_the_curves_end_with_the_last_validation(pipeline, tmp_path, monkeypatch):
    drawn, original = [], training_log.training_curves_figure

    def spy(metrics):
        drawn.append(metrics)
        return original(metrics)

    monkeypatch.setattr(training_log, "training_curves_figure", spy)
    run_to_the_end(create_or_resume_run(pipeline_config(pipeline, tmp_path), force=False))
    assert drawn[-1][-1]["step"] == 4 and "validation_nll" in drawn[-1][-1]
    assert (tmp_path / "curves.png").is_file()


def test_every_metric_is_logged(pipeline, tmp_path):
    log = run_to_the_end(create_or_resume_run(pipeline_config(pipeline, tmp_path), force=False))
    assert log.newest.keys() >= {"loss", "gradient_norm", "clip_rate", "learning_rate", "samples_per_second",
                                 "data_wait", "validation_nll", "validation_gap", "conditioning_ratio",
                                 "conditioning_ratio/layer_01"}  # fmt: skip
    assert 0 <= log.newest["data_wait"] <= 1 and 0 <= log.newest["clip_rate"] <= 1
    assert log.newest["conditioning_ratio/layer_00"] > 0


def test_the_conditioning_ratio_is_zero_where_the_midi_is_not_heard(pipeline, tmp_path):
    state = create_or_resume_run(pipeline_config(pipeline, tmp_path), force=False)
    with torch.no_grad():
        for layer in state.model.decoder.layers[:1]:
            layer.cond.weight.zero_()
            layer.excitation.weight.zero_()
    ratios = validation.first_crop_ratios(state.model, state.validation.crops, state.device)
    assert ratios[0] < 1e-6 < 1e-2 < ratios[1]


def test_ten_skipped_steps_in_a_row_end_the_run(pipeline, tmp_path, monkeypatch):
    state = create_or_resume_run(pipeline_config(pipeline, tmp_path, "train_config.steps=20"), force=False)
    monkeypatch.setattr(train, "train_step", lambda *_, **__: torch.tensor([math.nan, 1.0, math.nan, 0.0]))
    with pytest.raises(InputError, match="ten steps in a row"):
        run_to_the_end(state)
    assert state.step == 10


def test_a_full_disk_at_a_checkpoint_does_not_end_the_run(pipeline, tmp_path, monkeypatch, capsys):
    best = "train_config.iters_per_validation=100"  # else the first validation saves too
    state, original, full = (
        create_or_resume_run(pipeline_config(pipeline, tmp_path, best), force=False),
        checkpoint.save,
        [True, False],
    )

    def save(*arguments, **options):
        if full.pop(0):
            raise OSError(errno.ENOSPC, "No space left on device", "weights.safetensors")
        return original(*arguments, **options)

    monkeypatch.setattr(checkpoint, "save", save)
    run_to_the_end(state)
    assert "step 2 could not be saved: the disk is full" in capsys.readouterr().err
    assert [folder.name for folder in checkpoint.step_folders(tmp_path)] == ["step_00000004"]

    full[:] = [True, True, True]
    with pytest.raises(InputError, match="step 5 is not saved"):
        run_to_the_end(create_or_resume_run(pipeline_config(pipeline, tmp_path, "train_config.steps=5"), force=False))


def test_a_full_disk_ends_neither_the_log_nor_the_run(pipeline, tmp_path, monkeypatch, capsys):
    """TensorBoard's writer hands the error on at some later call, and is dead from then on."""

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device", "events")

    monkeypatch.setattr(training_log.SummaryWriter, "add_scalar", full)
    monkeypatch.setattr(training_log, "save_figure", full)
    state = create_or_resume_run(pipeline_config(pipeline, tmp_path), force=False)
    run_to_the_end(state)
    said = capsys.readouterr().err
    assert state.saved_step == 4
    assert said.count("TensorBoard's events could not be written, none follow: the disk is full") == 1
    assert "curves.png could not be written: the disk is full" in said


def test_half_a_line_of_metrics_is_passed_over(pipeline, tmp_path):
    run_to_the_end(create_or_resume_run(pipeline_config(pipeline, tmp_path, "train_config.steps=2"), force=False))
    with open(tmp_path / "metrics.jsonl", "a", encoding="utf-8") as handle:
        handle.write('{"step": 2, "lo')
    log = TrainingLog(tmp_path, 2)
    log.curves()
    log.close()
    assert "loss" in log.newest and "lo" not in log.newest


def test_only_a_run_s_folder_is_taken(tmp_path):
    (tmp_path / ".config.json.17.partial").write_text("{")  # a kill during the very first write leaves no more
    run_state._check_folder(tmp_path)
    (tmp_path / "diary.txt").write_text("mine")
    with pytest.raises(InputError, match="not the folder of a run"):
        run_state._check_folder(tmp_path)
    with pytest.raises(InputError, match="is a file"):
        run_state._check_folder(tmp_path / "diary.txt")


def test_a_second_training_in_the_same_folder_is_refused(pipeline, tmp_path):
    with contextlib.ExitStack() as held:
        create_or_resume_run(pipeline_config(pipeline, tmp_path), force=False, held=held)
        with pytest.raises(InputError, match="another run is working on"), contextlib.ExitStack() as other:
            create_or_resume_run(pipeline_config(pipeline, tmp_path), force=True, held=other)
    with contextlib.ExitStack() as held:
        create_or_resume_run(pipeline_config(pipeline, tmp_path), force=False, held=held)


def test_signals_at_once_are_one_and_a_later_one_is_impatience(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(train.time, "monotonic", lambda: now[0])
    with train.stop_signals() as stop:
        assert not stop()
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        assert stop()
        now[0] += 10
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    with train.stop_signals(World(0, 2)) as stop:  # torchrun hands on what the terminal has sent already
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGINT)
            now[0] += 10
        assert stop()


def test_fewer_validation_crops_than_processes_are_refused(pipeline):
    config = load_config(pipeline.config, train.NEEDS, ["train_config.validation_crops=2"])
    with pytest.raises(InputError, match="validation_crops = 2: expected at least one for each of 3 processes"):
        validation.load_validation(config, build_model(config), World(0, 3))


def test_a_saved_checkpoint_counts_as_saved_even_if_old_ones_cannot_be_removed(pipeline, tmp_path, monkeypatch, capsys):
    def stuck(*_):
        raise PermissionError(errno.EACCES, "Permission denied", "step_00000002")

    monkeypatch.setattr(checkpoint, "_tidy", stuck)
    run_to_the_end(
        create_or_resume_run(pipeline_config(pipeline, tmp_path, "train_config.keep_checkpoints=1"), force=False)
    )
    assert "is saved, but" in capsys.readouterr().err
    assert checkpoint.load_weights(tmp_path)[2] == 4


def test_the_best_checkpoint_by_validation_is_kept_beside_the_newest(pipeline, tmp_path, monkeypatch):
    losses = iter([5.0, 3.0, 4.0, 4.5, 4.2])
    others = {"validation_gap": 0.0, "validation_gap_error": 0.0}
    monkeypatch.setattr(train, "validate", lambda *_: {"validation_nll": next(losses), **others})
    every = [f"train_config.{name}=1" for name in ("iters_per_validation", "iters_per_checkpoint", "keep_checkpoints")]
    run_to_the_end(
        create_or_resume_run(pipeline_config(pipeline, tmp_path, *every, "train_config.steps=4"), force=False)
    )
    assert [folder.name[-1] for folder in checkpoint.step_folders(tmp_path)] == ["2", "4"]
    assert checkpoint.load_weights(tmp_path / "best")[2] == 2 and checkpoint.load_weights(tmp_path / "latest")[2] == 4
    state = create_or_resume_run(pipeline_config(pipeline, tmp_path, *every, "train_config.steps=5"), force=False)
    assert state.best == (3.0, 2)  # also known after going on
    run_to_the_end(state)
    assert checkpoint.load_weights(tmp_path / "best")[2] == 2


def test_a_batch_that_cannot_be_shared_out_is_refused():
    def choose(size, crop_samples=8000, **changes):
        return run_state.choose_micro_batch_size(settings(**changes), World(0, size), torch.device("cpu"), crop_samples)

    assert choose(1, batch_size=16) == choose(2, batch_size=16) == 2
    assert choose(1, batch_size=9) == 1 and choose(1, 4000, batch_size=9) == 3
    assert choose(2, batch_size=16, micro_batch_size=8) == 8
    with pytest.raises(InputError, match="batch_size = 16: expected a multiple of the 3 processes"):
        choose(3, batch_size=16)
    with pytest.raises(InputError, match="micro_batch_size = 3: expected a divisor of the 8 crops"):
        choose(2, batch_size=16, micro_batch_size=3)


def test_a_run_without_a_compiler_says_so_and_goes_on(pipeline, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(run_state, "compile_gate_kernels", lambda *_, **__: None)
    create_or_resume_run(pipeline_config(pipeline, tmp_path, "train_config.compile=true"), force=False)
    assert "finds no compiler here: training goes on without it" in capsys.readouterr().err


def test_an_allocation_that_fails_says_what_to_lower(monkeypatch):
    with pytest.raises(InputError, match=r"micro_batch_size.*segment_length.*activation_checkpointing"), \
            train.friendly_oom_errors():  # fmt: skip
        torch.empty(2**60, dtype=torch.uint8)
    with pytest.raises(RuntimeError, match="another"), train.friendly_oom_errors():
        raise RuntimeError("another")


def test_a_validation_crop_s_partner_is_of_another_recording_where_there_is_one():
    assert validation.mismatched_pairs([0, 0, 1, 0]) == [2, 2, 3, 2]
    assert validation.mismatched_pairs([4, 4, 4]) == [1, 2, 0]


def test_processes_share_the_validation_crops(pipeline):
    config = load_config(pipeline.config, train.NEEDS, ["train_config.validation_crops=7"])
    config.data_config.validation_path = str(pipeline.folder / "train")
    model = build_model(config)
    whole, *parts = (validation.load_validation(config, model, World(rank, size)) for rank, size in
                     ((0, 1), (0, 2), (1, 2)))  # fmt: skip
    assert [len(whole), *map(len, parts)] == [7, 4, 3]
    assert whole.warmup_samples >= model.decoder.receptive_field
    for rank, part in enumerate(parts):
        assert all(torch.equal(part.crops[name], whole.crops[name][rank::2]) for name in whole.crops)
        assert all(torch.equal(part.of_partners[name], whole.of_partners[name][rank::2]) for name in whole.of_partners)


def test_the_gap_is_that_of_the_partner_s_midi(pipeline, tmp_path, monkeypatch):
    """With a likelihood that only counts the notes in the features, the gap is the difference of the counts."""
    state = create_or_resume_run(pipeline_config(pipeline, tmp_path, "train_config.validation_crops=6"), force=False)
    monkeypatch.setattr(validation, "negative_log_likelihood", lambda model, batch, *_: batch["features"].sum((1, 2)))
    result = validation.validate(state.model, state.validation, 4, state.device)
    notes, of_partners = (given["features"].sum(dim=(1, 2)) for given in (state.validation.crops,
                                                                          state.validation.of_partners))  # fmt: skip
    gap = of_partners - notes
    assert gap.abs().max() > 0
    assert result["validation_nll"] == pytest.approx(notes.mean().item())
    assert result["validation_gap"] == pytest.approx(gap.mean().item(), abs=1e-3)
    assert result["validation_gap_error"] == pytest.approx(gap.std().item() / 6**0.5, rel=1e-4)
