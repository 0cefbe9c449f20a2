"""Training state: what a run saves and keeps, and what it refuses to begin with."""

import contextlib
import errno
import math

import pytest
import torch
from safetensors.torch import load_file

from midi2wave import checkpoint
from midi2wave.training import loop, run_state
from midi2wave.training.distributed import World
from midi2wave.training.optimizer import make_optimizer
from midi2wave.training.run_state import choose_micro_batch_size, create_or_resume_run, save_checkpoint
from midi2wave.training.step import train_step
from midi2wave.utils.errors import InputError
from tests.helpers.training import (
    make_state,
    make_train_config,
    pipeline_config,
    start_run,
    train_to_end,
    use_weight_as_loss,
)


def test_weights_that_are_not_finite_are_not_saved(tmp_path):
    state = make_state(tmp_path)
    with torch.no_grad():
        state.model.weight.fill_(math.nan)
    with pytest.raises(InputError, match="not finite"):
        save_checkpoint(state)
    assert list(tmp_path.iterdir()) == []


def test_only_the_folder_of_a_run_is_used(pipeline, tmp_path):
    own, others = tmp_path / "own", tmp_path / "others"
    for folder in (own, others):
        folder.mkdir()
    (own / ".config.json.17.partial").write_text("{")  # A kill during the very first write leaves no more.
    start_run(pipeline, own)
    (others / "diary.txt").write_text("mine")
    with pytest.raises(InputError, match=r"this command did not make it \(no config.json\)"):
        start_run(pipeline, others)
    with pytest.raises(InputError, match="is a file, expected a folder"):
        start_run(pipeline, others / "diary.txt")
    assert [path.name for path in others.iterdir()] == ["diary.txt"]


def test_second_training_in_the_same_folder_is_refused(pipeline, tmp_path):
    with contextlib.ExitStack() as exit_stack:
        create_or_resume_run(pipeline_config(pipeline, tmp_path), force=False, exit_stack=exit_stack)
        with pytest.raises(InputError, match="another run is working on"), contextlib.ExitStack() as other:
            create_or_resume_run(pipeline_config(pipeline, tmp_path), force=True, exit_stack=other)
    with contextlib.ExitStack() as exit_stack:
        create_or_resume_run(pipeline_config(pipeline, tmp_path), force=False, exit_stack=exit_stack)


def test_checkpoint_is_saved_though_old_ones_cannot_be_removed(pipeline, tmp_path, monkeypatch, capsys):
    def stuck(*_):
        raise PermissionError(errno.EACCES, "Permission denied", "step_00000002")

    monkeypatch.setattr(checkpoint, "tidy", stuck)
    train_to_end(start_run(pipeline, tmp_path, "train_config.keep_checkpoints=1"))
    assert "is saved, but" in capsys.readouterr().err
    assert checkpoint.load_weights(tmp_path)[2] == 4


def test_best_checkpoint_is_kept_beside_the_newest(pipeline, tmp_path, monkeypatch):
    """The best one by validation."""
    losses = iter([5.0, 3.0, 4.0, 4.5, 4.2])
    others = {"validation_gap": 0.0, "validation_gap_error": 0.0}
    monkeypatch.setattr(loop, "validate", lambda *_: {"validation_nll": next(losses), **others})
    every = [f"train_config.{name}=1" for name in ("iters_per_validation", "iters_per_checkpoint", "keep_checkpoints")]
    train_to_end(start_run(pipeline, tmp_path, *every, "train_config.steps=4"))
    assert [folder.name[-1] for folder in checkpoint.step_folders(tmp_path)] == ["2", "4"]
    assert checkpoint.load_weights(tmp_path / "best")[2] == 2 and checkpoint.load_weights(tmp_path / "latest")[2] == 4
    state = start_run(pipeline, tmp_path, *every, "train_config.steps=5")
    assert state.best == (3.0, 2)  # Also after it was resumed.
    train_to_end(state)
    assert checkpoint.load_weights(tmp_path / "best")[2] == 2


def test_batch_that_cannot_be_divided_is_refused():
    def choose(size, crop_samples=8000, **options):
        return choose_micro_batch_size(make_train_config(**options), World(0, size), torch.device("cpu"), crop_samples)

    assert choose(1, batch_size=16) == choose(2, batch_size=16) == 2
    assert choose(1, batch_size=9) == 1 and choose(1, 4000, batch_size=9) == 3
    assert choose(2, batch_size=16, micro_batch_size=8) == 8
    with pytest.raises(InputError, match="batch_size = 16: expected a multiple of the 3 processes"):
        choose(3, batch_size=16)
    with pytest.raises(InputError, match="micro_batch_size = 3: expected a divisor of the 8 crops"):
        choose(2, batch_size=16, micro_batch_size=3)


def test_run_without_a_compiler_says_so_and_goes_on(pipeline, tmp_path, monkeypatch, capsys):
    def fails(*_, on_failure, **__):
        on_failure("there is no C++ compiler")

    monkeypatch.setattr(run_state, "compile_gate_kernels", fails)
    start_run(pipeline, tmp_path, "train_config.compile=true")
    assert (
        "torch.compile does not work here (there is no C++ compiler): training goes on without it"
        in capsys.readouterr().err
    )


def test_resumed_run_has_the_state_of_the_saved_one(tmp_path, monkeypatch):
    """The average is not the weights, and the optimiser's moments are not zero; decay and factor are the config's."""
    saved = make_state(tmp_path)
    use_weight_as_loss(monkeypatch)
    train_step(saved, [{}])
    saved.step, saved.best = 1, (3.5, 1)
    assert save_checkpoint(saved) is None
    resumed = make_state(tmp_path)
    resumed.optimizer.param_groups[0].update(weight_decay=0.125, factor=7.0)
    stored = torch.load(tmp_path / "step_00000001" / checkpoint.TRAINING_NAME, weights_only=True)
    run_state.restore(resumed, stored)
    assert torch.equal(resumed.ema_model.weight, saved.ema_model.weight)
    assert not torch.equal(resumed.ema_model.weight, saved.model.weight)
    shipped = load_file(tmp_path / "step_00000001" / checkpoint.WEIGHTS_NAME)
    assert torch.equal(shipped["weight"], saved.ema_model.weight)  # Commands play the average.
    moments, others = (state.optimizer.state[state.model.weight] for state in (resumed, saved))
    assert moments["exp_avg"].any() and all(torch.equal(moments[name], others[name]) for name in others)
    assert (resumed.step, resumed.saved_step, resumed.best) == (1, 1, (3.5, 1))
    configured = make_optimizer(resumed.model, resumed.config.train_config).param_groups
    for group, own in zip(resumed.optimizer.param_groups, configured, strict=True):
        assert (group["weight_decay"], group["factor"]) == (own["weight_decay"], own["factor"])
