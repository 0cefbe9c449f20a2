"""The benchmarks of the players, on a tiny model."""

import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from benchmarks import playing, weight_formats
from midi2wave.live.models import load_models
from midi2wave.sampling.engines import cpu
from tests.helpers.paths import ROOT
from tests.helpers.pipeline import call


def test_players_have_the_settings_of_their_configs(monkeypatch):
    monkeypatch.chdir(ROOT)
    models = load_models(list(playing.PLAYERS), "cpu")
    assert {model.path: (model.sampling, model.guidance) for model in models} == playing.PLAYERS
    assert {path.name for path in ROOT.glob("pretrained/*.safetensors")} == {Path(one).name for one in playing.PLAYERS}


@pytest.mark.slow
def test_players_are_measured(pipeline, monkeypatch):
    """A process of its own for every row, also beside busy processes, which then end."""
    busy = []
    original = playing.subprocess.Popen

    def popen(command, *arguments, **keywords):
        process = original(command, *arguments, **keywords)
        if playing.BUSY_PROGRAM in command:
            busy.append(process)
        return process

    monkeypatch.setattr(playing.subprocess, "Popen", popen)
    options = ["--model", str(pipeline.folder / "run"), "--weights", "float32", "--threads", "1", "--seconds", "0.1"]
    monkeypatch.setattr(sys, "argv", ["playing", *options, "--situation", "idle", "busy", "--json"])
    outcome = call_main(playing)
    rows = json.loads(outcome.out)["rows"]
    assert [row["situation"] for row in rows] == ["idle", "busy"]
    assert all(row["speed"] > 0 and 0 < row["first_block_seconds"] <= row["seconds"] for row in rows)
    assert len(busy) == playing.usable_cores() and all(process.poll() is not None for process in busy)


def row(situation: str, threads: int, speed: float) -> dict:
    return {"model": "grand", "weights": "float32", "threads": threads, "situation": situation, "speed": speed}


def test_speeds_of_threads_are_compared():
    rows = [row("idle", 1, 2.0), row("idle", 2, 3.0), row("busy", 1, 1.0), row("busy", 2, 0.9)]
    expected = [{"model": "grand", "weights": "float32", "idle": 1.5, "busy": 0.9}]
    assert playing.thread_ratios(rows) == expected
    assert playing.thread_ratios(rows[:1]) == []


def test_the_median_of_repeated_runs():
    assert playing.median_row([row("idle", 2, speed) for speed in (3.0, 1.0, 2.0)]) == row("idle", 2, 2.0)


@pytest.mark.skipif(len(getattr(os, "sched_getaffinity", lambda _: [0])(0)) < 2, reason="needs two cores and Linux")
def test_followers_are_starved_in_their_own_threads(monkeypatch):
    """The first thread and a follower are on cores of their own, whatever the thread was before."""
    seen = []

    def play(_weights, _group, _block, thread, _n_threads):
        seen.append((thread, os.sched_getaffinity(0), os.sched_getscheduler(0)))

    monkeypatch.setattr(cpu, "play", play)
    first, last = playing.first_and_last_core()
    playing.starve_followers()
    with ThreadPoolExecutor(1) as pool:
        for thread in (0, 1, 0):
            pool.submit(cpu.play, None, None, None, thread, 2).result()
    leader, follower = (0, {first}, os.SCHED_OTHER), (1, {last}, os.SCHED_IDLE)
    assert seen == [leader, follower, leader]


def test_formats_of_weights_are_compared(pipeline, monkeypatch):
    options = [str(pipeline.folder / "run"), str(pipeline.folder / "test"), "--json"]
    monkeypatch.setattr(sys, "argv", ["weight_formats", *options])
    result = json.loads(call_main(weight_formats).out)
    deviations = {name: row["change"] for name, row in result["formats"].items()}
    assert result["n_clips"] == 2 and len(deviations) == 4
    assert deviations["PyTorch, float32"] == 0 and abs(deviations["float32"]) < 1e-5
    assert all(0 < abs(deviations[name]) < 0.05 for name in deviations if name.startswith("bfloat16"))


def call_main(module):
    class Command:
        """A main without arguments, as `call` runs it."""

        @staticmethod
        def main(_arguments):
            return module.main()

    return call(Command)
