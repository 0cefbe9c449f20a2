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
from midi2wave.sampling.model_choice import Speed
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
    monkeypatch.setattr(model_choice, "measured_speed", lambda loaded, settings: Speed(0.25, 0.25))
    outcome, model = play("slow")
    assert outcome.code == 0 and model == "small"
    assert "would play at 0.25 x real time" in outcome.err and "--quality best" in outcome.err
    monkeypatch.setattr(model_choice, "measured_speed", lambda loaded, settings: Speed(3.0, 3.0))
    outcome, model = play("slow")  # a rerun adds to what is there
    assert "1 was there already" in outcome.out and model == "small"
    outcome, model = play("quick")
    assert model == "run" and "plays at 3.0 x real time" in outcome.err
    monkeypatch.setattr(model_choice, "measured_speed", lambda loaded, settings: Speed(0.25, 0.25))
    assert play("quick")[1] == "run"


def test_the_line_states_the_speed_by_the_clock(play, monkeypatch):
    """Beside other programs the model that is chosen plays slower than with a core of its own."""
    monkeypatch.setattr(model_choice, "measured_speed", lambda loaded, settings: Speed(1.6, 2.5))
    outcome, model = play("slower")
    assert model == "run" and "plays at 1.6 x real time" in outcome.err and "2.5" not in outcome.err
    monkeypatch.setattr(model_choice, "measured_speed", lambda loaded, settings: Speed(0.62, 2.5))
    outcome, model = play("slow")
    assert model == "run" and "plays at 0.62 x real time beside the other programs" in outcome.err
    assert "with a core of its own at 2.5 x" in outcome.err


def test_quality_is_the_users_choice(play, monkeypatch):
    monkeypatch.setattr(model_choice, "measured_speed", lambda loaded, settings: pytest.fail("nothing to choose"))
    assert play("best", "--quality", "best")[1] == "run"
    assert play("fast", "--quality", "fast")[1] == "small"


def test_the_model_that_the_user_names_is_played(pipeline, tmp_path, monkeypatch):
    """--set names the model, the config a smaller one for its own: that one must not stand in, nor the folder's."""
    monkeypatch.setattr(model_choice, "measured_speed", lambda loaded, settings: Speed(0.25, 0.25))
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


class FakeMachine:
    """Clocks of a machine on which a model makes a block of 20 ms of audio in `block_seconds` of CPU time.

    Trial i gets the portion portions[i] of one core; the last one counts for later trials too.
    """

    def __init__(self, monkeypatch, loaded, block_seconds: float, portions: list[float]) -> None:
        self.wall = self.cpu = self.slept = 0.0
        self.n_trials, self.block_seconds, self.portions = 0, block_seconds, portions
        self.n_samples = loaded.config.data_config.audio_hz // 50
        clocks = {"perf_counter": lambda: self.wall, "process_time": lambda: self.cpu, "sleep": self.sleep}
        monkeypatch.setattr(model_choice, "time", SimpleNamespace(**clocks))
        monkeypatch.setattr(model_choice, "synthesize", self.synthesize)

    def sleep(self, seconds: float) -> None:
        self.wall += seconds
        self.slept += seconds

    def synthesize(self, *_, **__):
        portion = self.portions[min(self.n_trials, len(self.portions) - 1)]
        self.n_trials += 1
        yield np.zeros((1, self.n_samples))
        while True:
            self.cpu += self.block_seconds
            self.wall += self.block_seconds / portion
            yield np.zeros((1, self.n_samples))


@pytest.mark.parametrize(
    ("block_ms", "portions", "now", "own_core", "n_trials"),
    [
        (8, [1.0], 2.5, 2.5, 1),  # fast, idle
        (40, [1.0], 0.5, 0.5, 1),  # slow, idle: a second trial would tell nothing new
        (8, [0.5], 1.25, 2.5, 1),  # on half a core; one core would be enough
        (8, [0.2, 1.0], 0.5, 2.5, 1),
        (40, [0.5, 0.3, 1.0], 0.5, 0.5, 3),  # until one trial was not disturbed
        (40, [0.5], 0.25, 0.5, model_choice.MAX_TRIALS),
    ],
)
def test_a_busy_moment_does_not_choose_the_model(pipeline, monkeypatch, block_ms, portions, now, own_core, n_trials):
    loaded = checkpoint.load_checkpoint(pipeline.folder / "run", "cpu")
    machine = FakeMachine(monkeypatch, loaded, block_ms / 1000, portions)
    settings = InferenceConfig(model_filename="run", sampler_threads=1)
    speed = model_choice.measured_speed(loaded, settings)
    assert (speed.now, speed.own_core) == pytest.approx((now, own_core))
    assert machine.n_trials == n_trials
    assert machine.slept == pytest.approx((n_trials - 1) * model_choice.PAUSE_SECONDS)
    if n_trials == 1 and portions == [1.0]:
        assert machine.wall <= 0.2


def test_a_quota_is_no_busy_moment(pipeline, monkeypatch):
    """The process never gets more than half a core."""
    loaded = checkpoint.load_checkpoint(pipeline.folder / "run", "cpu")
    machine = FakeMachine(monkeypatch, loaded, 0.016, [0.5])
    monkeypatch.setattr(model_choice, "cpu_quota", lambda: 0.5)
    settings = InferenceConfig(model_filename="run", sampler_threads=1)
    assert model_choice.measured_speed(loaded, settings).own_core == pytest.approx(0.625) and machine.n_trials == 1


def test_two_threads_that_share_a_core_are_tried_again(pipeline, monkeypatch):
    """Each had half a core, and together they had one: the first trial says little."""
    loaded = checkpoint.load_checkpoint(pipeline.folder / "run", "cpu")
    machine = FakeMachine(monkeypatch, loaded, 0.04, [1.0, 1.9])
    monkeypatch.setattr(model_choice.engines, "n_threads", lambda *_: 2)
    assert model_choice.measured_speed(loaded, InferenceConfig(model_filename="run")).now == pytest.approx(0.95)
    assert machine.n_trials == 2


def test_the_speed_of_a_real_model(pipeline):
    loaded = checkpoint.load_checkpoint(pipeline.folder / "run", "cpu")
    speed = model_choice.measured_speed(loaded, InferenceConfig(model_filename="run", sampler_threads=1))
    assert 0 < speed.now <= speed.own_core
