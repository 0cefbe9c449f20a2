"""A run that is killed resumes bit for bit as if nothing had happened, from its newest checkpoint that is whole."""

import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from midi2wave import checkpoint, checkpoint_folders
from tests.helpers.paths import ROOT
from tests.helpers.pipeline import command, settings
from tests.helpers.training import checkpoint_tensors, same_tensors

STEPS = 60


class KillServer:
    """A process of tests/helpers/kill_server.py."""

    def __init__(self) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, ROOT / "tests/helpers/kill_server.py"],
            cwd=ROOT.parent,
            env=environment,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )

    def attempt(self, seconds: float | None, *arguments: str | Path) -> int:
        """Run train.py and kill it after some seconds; its exit code."""
        self.process.stdin.write(json.dumps([seconds, *map(str, arguments)]) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())


@pytest.fixture(scope="module")
def server():
    server = KillServer()
    yield server
    server.process.stdin.close()
    server.process.wait(60)


def arguments(pipeline, folder):
    """A run of some seconds with all that could make two runs differ: workers, noise, schedule, average, validation."""
    options = [f"output_directory={folder}", f"steps={STEPS}", "batch_size=4", "micro_batch_size=2"]
    options += ["iters_per_checkpoint=7", "iters_per_log=5", "iters_per_validation=25"]
    overrides = [*(f"train_config.{option}" for option in options), "data_config.n_workers=2"]
    return ["-c", pipeline.config, *settings(*overrides)]


def last_step(folder):
    return max(map(checkpoint_folders.step_of, checkpoint.step_folders(folder)), default=0)


def losses(folder):
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [(m["step"], m.get("loss"), m.get("validation_nll")) for m in map(json.loads, lines)]


@pytest.fixture(scope="module")
def undisturbed(pipeline, server, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    assert server.attempt(None, *arguments(pipeline, folder)) == 0
    return folder


@pytest.mark.slow
def test_run_killed_ten_times_has_the_same_weights(pipeline, server, undisturbed, tmp_path):
    rng, folder, kills = random.Random(4), tmp_path / "run", 0
    while kills < 10:
        before = last_step(folder)
        exit_code = server.attempt(rng.uniform(0.5, 3.5), *arguments(pipeline, folder))
        assert exit_code in (-9, 0)
        assert last_step(folder) >= before  # Nothing saved is lost.
        for saved in checkpoint.step_folders(folder):  # Every checkpoint is whole.
            checkpoint.load_weights(saved)
            torch.load(saved / checkpoint.TRAINING_NAME, weights_only=True)
        if exit_code == 0:  # It ended before it was killed: once more.
            assert same_tensors(checkpoint_tensors(folder), checkpoint_tensors(undisturbed))
            shutil.rmtree(folder)
        kills += exit_code == -9
    assert server.attempt(None, *arguments(pipeline, folder)) == 0
    assert same_tensors(checkpoint_tensors(folder), checkpoint_tensors(undisturbed))
    assert not list(folder.glob(".*.partial"))  # Files of killed processes are removed.
    assert losses(folder)[-1] == losses(undisturbed)[-1]


@pytest.mark.slow
@pytest.mark.parametrize("name", [checkpoint.WEIGHTS_NAME, checkpoint.TRAINING_NAME])
def test_truncated_checkpoint_costs_only_its_steps(pipeline, server, undisturbed, tmp_path, name):
    """The run resumes from the checkpoint before it."""
    folder = tmp_path / "run"
    shutil.copytree(undisturbed, folder, symlinks=True)
    *_, before, newest = checkpoint.step_folders(folder)
    (newest / name).write_bytes((newest / name).read_bytes()[:1000])
    outcome = command("train.py", *arguments(pipeline, folder))
    assert outcome.code == 0, outcome
    assert f"{newest.name} cannot be used" in outcome.err
    assert f"going on from step {checkpoint_folders.step_of(before)}" in outcome.err
    assert same_tensors(checkpoint_tensors(folder), checkpoint_tensors(undisturbed))
