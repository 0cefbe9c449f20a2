"""The training loop: what it logs, which steps it skips, how it stops."""

import errno
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from midi2wave import checkpoint
from midi2wave.checkpoint_folders import step_folders, step_of
from midi2wave.data.crops import Crops
from midi2wave.training import loop, stopping
from midi2wave.training import step as step_module
from midi2wave.training.distributed import World
from midi2wave.utils.errors import InputError
from tests.helpers.paths import ROOT
from tests.helpers.pipeline import settings
from tests.helpers.training import checkpoint_tensors, data_workers, same_tensors, start_run, train_to_end


def test_mel_head_learns_and_is_logged(pipeline, tmp_path):
    heads = ["cond_wavenet_config.n_mels=8", "data_config.segment_length=0.1", "train_config.mel_loss_weight=1.0"]
    state = start_run(pipeline, tmp_path / "with", *heads)
    before = state.model.mel_head.weight.detach().clone()
    log = train_to_end(state)
    assert log.latest_metrics["mel_loss"] > 0 and not torch.equal(state.model.mel_head.weight, before)
    without = train_to_end(start_run(pipeline, tmp_path / "without"))
    assert "mel_loss" not in without.latest_metrics
    with pytest.raises(InputError, match=r"segment_length = 0.01: expected at least 0.036 s"):
        start_run(pipeline, tmp_path / "short", *heads[:1], "data_config.segment_length=0.01")


def test_ignored_conditioning_is_not_reported_every_time(pipeline, tmp_path, monkeypatch, capsys):
    """The training reports it by itself, but not at every validation."""
    others = {"validation_gap": 0.0, "validation_gap_error": 0.01}
    monkeypatch.setattr(loop, "validate", lambda *_: {"validation_nll": 5.0, **others})
    every = ["train_config.iters_per_validation=1", "train_config.steps=3"]
    train_to_end(start_run(pipeline, tmp_path, *every))
    messages = [line for line in capsys.readouterr().err.splitlines() if "ignores its MIDI" in line]
    assert len(messages) == 1 and "2 validations in a row" in messages[0] and "docs/conditioning.md" in messages[0]


def test_recordings_shorter_than_a_crop_are_reported_once(pipeline, tmp_path, monkeypatch, capsys):
    """Those of the training and those of the validation."""
    monkeypatch.setattr(Crops, "describe_unused", lambda crops: f"not used in {crops.folder.path.name}")
    train_to_end(start_run(pipeline, tmp_path))
    said = capsys.readouterr().err
    assert said.count("not used in train\n") == said.count("not used in validation\n") == 1


def test_skipped_step_names_its_crops(pipeline, tmp_path, monkeypatch, capsys):
    """As when the audio of a crop is damaged."""
    state, original, losses = start_run(pipeline, tmp_path), step_module.training_losses, []

    def damaged(*arguments):
        losses.append(arguments)
        nll, *others = original(*arguments)
        return nll * (math.nan if len(losses) == 2 else 1), *others

    monkeypatch.setattr(step_module, "training_losses", damaged)
    log = train_to_end(state)
    messages = [line for line in capsys.readouterr().err.splitlines() if "was skipped" in line]
    assert len(messages) == 1 and messages[0].startswith("step 1 was skipped")
    assert messages[0].count(".wav at ") == 2  # Both crops of the batch.
    assert state.step == state.saved_step == 4
    assert math.isfinite(log.latest_metrics["loss"])


def test_ten_skipped_steps_in_a_row_end_the_run(pipeline, tmp_path, monkeypatch):
    state = start_run(pipeline, tmp_path, "train_config.steps=20")
    monkeypatch.setattr(loop, "train_step", lambda *_, **__: torch.tensor([math.nan, 1.0, math.nan, 0.0]))
    with pytest.raises(InputError, match="10 steps in a row"):
        train_to_end(state)
    assert state.step == 10


def test_full_disk_at_a_checkpoint_does_not_end_the_run(pipeline, tmp_path, monkeypatch, capsys):
    # Otherwise the first validation saves a checkpoint, too.
    no_validation = "train_config.iters_per_validation=100"
    state, original, full = start_run(pipeline, tmp_path, no_validation), checkpoint.save, [True, False]

    def save(*arguments, **options):
        if full.pop(0):
            raise OSError(errno.ENOSPC, "No space left on device", "weights.safetensors")
        return original(*arguments, **options)

    monkeypatch.setattr(checkpoint, "save", save)
    train_to_end(state)
    assert "step 2 could not be saved: the disk is full" in capsys.readouterr().err
    assert [folder.name for folder in step_folders(tmp_path)] == ["step_00000004"]

    full[:] = [True, True, True]
    with pytest.raises(InputError, match="step 5 is not saved"):
        train_to_end(start_run(pipeline, tmp_path, "train_config.steps=5"))


def test_simultaneous_signals_count_as_one(monkeypatch):
    """A later one ends the process at once."""
    now = [100.0]
    monkeypatch.setattr(stopping.time, "monotonic", lambda: now[0])
    with stopping.stop_signals() as stop:
        assert not stop()
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        assert stop()
        now[0] += 10
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    with stopping.stop_signals(World(0, 2)) as stop:  # torchrun hands on what the terminal has sent already.
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGINT)
            now[0] += 10
        assert stop()


@pytest.mark.parametrize(("name", "reaction"), [("SIGHUP", "ignored"), ("SIGTERM", "ignored"), ("SIGINT", "stop")])
def test_signals_that_nohup_ignores_stay_ignored(name, reaction):
    """Python's own handler of SIGINT, too, is installed whatever a shell has set for a command in the background."""
    number = signal.Signals[name]
    former = signal.signal(number, signal.SIG_IGN)
    try:
        with stopping.stop_signals() as stop:
            os.kill(os.getpid(), number)
            assert stop() == (reaction == "stop")
        assert signal.getsignal(number) is signal.SIG_IGN
    finally:
        signal.signal(number, former)


def kill_worker() -> None:
    """End one of the loader's processes, as the system does when memory runs out."""
    os.kill(data_workers()[0].pid, signal.SIGKILL)


def raise_error() -> None:
    """An error that nobody expects."""
    raise ZeroDivisionError("unexpected")


ACCIDENTS = {"worker": (kill_worker, InputError, "SIGKILL"), "mistake": (raise_error, ZeroDivisionError, "unexpected")}


@pytest.mark.parametrize("name", ACCIDENTS)
def test_last_step_is_saved_before_an_error_ends_the_run(pipeline, tmp_path, monkeypatch, capsys, name):
    """The run goes on from there as if nothing had happened, and no worker process is left."""
    accident, error, words = ACCIDENTS[name]
    options = ["train_config.steps=40", "train_config.iters_per_checkpoint=100", "train_config.iters_per_validation=40"]
    train_to_end(start_run(pipeline, tmp_path / "whole", *options))
    state, original = start_run(pipeline, tmp_path / "parts", *options, "data_config.n_workers=1"), loop.train_step

    def step_with_accident(*inputs, **others):
        if state.step == 5:
            accident()
        return original(*inputs, **others)

    monkeypatch.setattr(loop, "train_step", step_with_accident)
    with pytest.raises(error, match=words) as caught:
        train_to_end(state)
    assert caught.value.__traceback__ is not None and data_workers() == []
    assert 5 <= state.saved_step == state.step < 40
    assert f"step {state.step} is saved; the same command goes on from there" in capsys.readouterr().err
    monkeypatch.undo()
    train_to_end(start_run(pipeline, tmp_path / "parts", *options))
    assert same_tensors(checkpoint_tensors(tmp_path / "parts"), checkpoint_tensors(tmp_path / "whole"))


def test_half_a_step_is_not_saved(pipeline, tmp_path, monkeypatch):
    """An error between the update of the weights and that of their average."""
    state, original = start_run(pipeline, tmp_path, "train_config.iters_per_checkpoint=2"), step_module.update_ema

    def fail_in_step_three(*inputs):
        if state.step == 3:
            raise ZeroDivisionError
        original(*inputs)

    monkeypatch.setattr(step_module, "update_ema", fail_in_step_three)
    with pytest.raises(ZeroDivisionError):
        train_to_end(state)
    assert state.step == 3 and [path.name for path in step_folders(tmp_path)] == ["step_00000002"]


def test_error_is_reported_though_nothing_can_be_saved(pipeline, tmp_path, monkeypatch, capsys):
    state = start_run(pipeline, tmp_path, "train_config.iters_per_checkpoint=100")
    original = loop.train_step

    def spoil_step_three(*inputs, **others):
        if state.step == 3:
            with torch.no_grad():
                next(state.model.parameters()).fill_(math.nan)
            raise ZeroDivisionError("the cause")
        return original(*inputs, **others)

    monkeypatch.setattr(loop, "train_step", spoil_step_three)
    monkeypatch.setattr(loop, "validate", lambda *_: {"validation_nll": math.inf})
    with pytest.raises(ZeroDivisionError, match="the cause"):
        train_to_end(state)
    assert "step 3 is not saved: the weights of step 3 are not finite" in capsys.readouterr().err
    assert step_folders(tmp_path) == []


TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")


def start_training(pipeline, folder: Path, *interpreter_options: str) -> subprocess.Popen[str]:
    """Start train.py, with worker processes, in a process group of its own; returns it after the first step."""
    options = ["iters_per_checkpoint=100000", "iters_per_validation=100000", "steps=100000"]
    overrides = [f"train_config.{option}" for option in (f"output_directory={folder}", *options)]
    arguments = settings(*overrides, "data_config.n_workers=2")
    process = subprocess.Popen(
        [sys.executable, *interpreter_options, ROOT / "train.py", "-c", pipeline.config, *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        text=True,
    )
    for line in process.stderr:
        if line.startswith("step "):
            return process
    raise AssertionError(process.communicate())


def descendants(pid: int) -> list[int]:
    """The running processes that a process has started, and those that they have started, level by level."""
    listed = subprocess.run(["ps", "-eo", "ppid=,pid=,stat="], capture_output=True, text=True, check=True).stdout
    pairs = [(int(parent), int(child)) for parent, child, state in map(str.split, listed.splitlines()) if state != "Z"]
    level, pids = [pid], list[int]()
    while level:
        level = [child for parent, child in pairs if parent in level]
        pids += level
    return pids


def are_running(pids: list[int]) -> bool:
    """Whether any of these processes runs; a killed one whose parent is gone may take a moment."""
    listed = subprocess.run(["ps", "-o", "stat=", "-p", ",".join(map(str, pids))], capture_output=True, text=True)
    return any(not state.startswith("Z") for state in listed.stdout.split())


def wait_for_end(pids: list[int], seconds: float = 20.0) -> None:
    """Wait until none of these processes runs."""
    deadline = time.monotonic() + seconds
    while are_running(pids):
        assert time.monotonic() < deadline, "they still run"
        time.sleep(0.1)


def saved_step(folder: Path) -> int:
    """The step of a run's only checkpoint."""
    (path,) = step_folders(folder)
    return step_of(path)


@pytest.mark.skipif(sys.platform == "win32", reason="no process groups")
def test_closed_terminal_saves_the_training(pipeline, tmp_path):
    """It sends SIGHUP to the workers as well, whose data the step in progress still needs."""
    process = start_training(pipeline, tmp_path / "run")
    workers = descendants(process.pid)
    os.killpg(process.pid, signal.SIGHUP)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 129, err
    assert f"stopped at step {saved_step(tmp_path / 'run')} of 100000" in err
    assert workers and not are_running(workers)


@pytest.mark.slow
@pytest.mark.parametrize("options", [(), TORCHRUN], ids=["alone", "torchrun"])
def test_killed_worker_ends_all_processes_in_one_line(pipeline, tmp_path, options):
    process = start_training(pipeline, tmp_path / "run", *options)
    processes = descendants(process.pid)
    os.kill(processes[-1], signal.SIGKILL)
    _, err = process.communicate(timeout=60)
    assert process.returncode == (1 if options else 2), err
    assert "error: a worker process that reads the data was killed (SIGKILL)" in err
    assert f"step {saved_step(tmp_path / 'run')} is saved; the same command goes on" in err
    wait_for_end(processes)


@pytest.mark.slow
def test_processes_of_a_killed_torchrun_save_and_end(pipeline, tmp_path):
    process = start_training(pipeline, tmp_path / "run", *TORCHRUN)
    processes = descendants(process.pid)
    process.kill()
    wait_for_end(processes)
    process.communicate(timeout=60)
    assert saved_step(tmp_path / "run") > 0
