"""The better model is played where it plays in real time, else the faster one; a folder keeps the model that it has."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest

import inference
from midi2wave import checkpoint
from midi2wave.config import InferenceConfig
from midi2wave.sampling import model_choice
from tests.helpers.pipeline import assert_refused, call, settings, write_midi


@pytest.fixture
def play(pipeline, tmp_path):
    """Plays a short song with two models into a folder; returns the outcome and the model of the folder's record."""
    small = shutil.copytree(pipeline.folder / "run", tmp_path / "small")
    song = write_midi(tmp_path / "song.mid", [(0.0, 0.01, 60, 90)])

    def run(folder, *arguments):
        overrides = settings("inference_config.tail_seconds=0", f"inference_config.fast_model_filename={small}")
        out = tmp_path / folder
        outcome = call(inference, "-c", pipeline.config, "--out", out, *overrides, "--midi", song, *arguments)
        model = json.loads((out / inference.RECORD_NAME).read_text())["inference_config"]["model_filename"]
        return outcome, model.split("/")[-1]

    return run


def test_the_faster_model_is_played_on_a_slow_machine(play, monkeypatch):
    monkeypatch.setattr(model_choice, "measured_speed", lambda loaded, settings: 0.25)
    outcome, model = play("slow")
    assert outcome.code == 0 and model == "small"
    assert "would play at 0.25 x real time" in outcome.err and "--quality best" in outcome.err
    monkeypatch.setattr(model_choice, "measured_speed", lambda loaded, settings: 3.0)
    outcome, model = play("slow")  # a rerun adds to what is there
    assert "1 was there already" in outcome.out and model == "small"
    outcome, model = play("quick")
    assert model == "run" and "plays at 3.0 x real time" in outcome.err
    monkeypatch.setattr(model_choice, "measured_speed", lambda loaded, settings: 0.25)
    assert play("quick")[1] == "run"


def test_quality_is_the_users_choice(play, monkeypatch):
    monkeypatch.setattr(model_choice, "measured_speed", lambda loaded, settings: pytest.fail("nothing to choose"))
    assert play("best", "--quality", "best")[1] == "run"
    assert play("fast", "--quality", "fast")[1] == "small"


def test_the_model_that_the_user_names_is_played(pipeline, tmp_path, monkeypatch):
    """--set names the model, the config a smaller one for its own: that one must not stand in, nor the folder's."""
    monkeypatch.setattr(model_choice, "measured_speed", lambda loaded, settings: 0.25)
    small = shutil.copytree(pipeline.folder / "run", tmp_path / "small")
    content = json.loads(pipeline.config.read_text())
    content["inference_config"] |= {"fast_model_filename": str(small), "tail_seconds": 0.0}
    config = tmp_path / "config.json"
    config.write_text(json.dumps(content))
    song = write_midi(tmp_path / "song.mid", [(0.0, 0.01, 60, 90)])
    arguments = ("-c", config, "--out", tmp_path / "out", "--midi", song)
    assert "1 wav" in call(inference, *arguments).out  # by the smaller model
    missing = settings("inference_config.model_filename=nowhere/mine")
    assert_refused(call(inference, *arguments, *missing), "nowhere/mine")
    assert_refused(call(inference, *arguments, *missing, "--quality", "fast"), "--quality fast", "model_filename")
    own = settings(f"inference_config.model_filename={pipeline.folder / 'run'}")
    call(inference, *arguments, *own, "--out", tmp_path / "own")
    record = json.loads((tmp_path / "own" / inference.RECORD_NAME).read_text())
    assert record["inference_config"]["model_filename"].endswith("run")


def test_fast_needs_a_second_model(pipeline, tmp_path):
    song = write_midi(tmp_path / "song.mid", [(0.0, 0.01, 60, 90)])
    arguments = ("-c", pipeline.config, "--out", tmp_path / "out", "--midi", song, "--quality", "fast")
    assert_refused(call(inference, *arguments), "--quality fast", "fast_model_filename")


def test_the_speed_is_audio_per_second(pipeline, monkeypatch):
    """By a clock that goes on 10 ms whenever somebody looks; the first block, which compiles, does not count."""
    loaded = checkpoint.load_checkpoint(pipeline.folder / "run", "cpu")
    n = loaded.config.data_config.audio_hz // 50  # 20 ms
    ticks = iter(range(1000))
    monkeypatch.setattr(model_choice, "time", SimpleNamespace(perf_counter=lambda: next(ticks) / 100))
    monkeypatch.setattr(model_choice, "synthesize", lambda *_, **__: (np.zeros((1, n)) for _ in range(1000)))
    n_blocks = round(model_choice.TRIAL_SECONDS * 100) - 1
    expected = n_blocks * 0.02 / model_choice.TRIAL_SECONDS
    assert model_choice.measured_speed(loaded, InferenceConfig(model_filename="run")) == pytest.approx(
        expected, rel=0.15
    )


def test_the_speed_of_a_real_model(pipeline):
    loaded = checkpoint.load_checkpoint(pipeline.folder / "run", "cpu")
    assert model_choice.measured_speed(loaded, InferenceConfig(model_filename="run", sampler_threads=1)) > 0
