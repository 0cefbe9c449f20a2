"""Settings of a file: tempo, transposition and velocities; defaults of shipped models; odd messages."""

import json
import random
from dataclasses import replace

import numpy as np
import pytest

from midi2wave.config import DEFAULT_HISTORY_LEVEL
from midi2wave.live.messages import FileSettings, Settings, parse
from midi2wave.live.models import load_models
from midi2wave.live.pieces import Take, modified, read_upload, sampling_options
from midi2wave.live.stream import LiveStream
from midi2wave.midi.performance import SUSTAIN, Performance
from midi2wave.utils.errors import InputError
from tests.helpers.live_server import small_model
from tests.helpers.paths import ROOT
from tests.helpers.pipeline import write_midi

PERFORMANCE = Performance(
    onset=np.array([0.5, 1.0, 2.0]),
    offset=np.array([0.75, 1.5, 4.0]),
    pitch=np.array([21, 60, 108]),
    velocity=np.array([1, 64, 127]),
    pedals={SUSTAIN: np.array([[1.0, 127], [3.0, 0]])},
)
PLAIN = {"temperature": 0.8, "guidance": 1.0, "seed": 0}


def test_tempo_changes_all_times():
    faster = modified(PERFORMANCE, FileSettings(**PLAIN, tempo=2.0))
    assert faster.onset.tolist() == [0.25, 0.5, 1.0] and faster.offset.tolist() == [0.375, 0.75, 2.0]
    assert faster.pedals[SUSTAIN].tolist() == [[0.5, 127], [1.5, 0]]
    assert faster.velocity.tolist() == [1, 64, 127] and faster.pitch.tolist() == [21, 60, 108]


def test_notes_beyond_the_piano_are_left_out():
    higher = modified(PERFORMANCE, FileSettings(**PLAIN, transposition=1))
    assert higher.pitch.tolist() == [22, 61] and higher.offset.tolist() == [0.75, 1.5]
    high = Performance(*(getattr(PERFORMANCE, name)[2:] for name in ("onset", "offset", "pitch", "velocity")), {})
    with pytest.raises(InputError, match=r"transposition \+1 moves all notes off the piano"):
        modified(high, FileSettings(**PLAIN, transposition=1))


@pytest.mark.parametrize(("scale", "velocities"), [(1.0, [1, 64, 127]), (0.5, [1, 32, 64]), (1.5, [2, 96, 127])])
def test_velocities_are_scaled_and_stay_in_range(scale, velocities):
    assert modified(PERFORMANCE, FileSettings(**PLAIN, velocity_scale=scale)).velocity.tolist() == velocities


def test_an_hour_is_the_longest_as_it_is_played(tmp_path):
    """The limit holds after the change of tempo; what is too long at any tempo is refused at once."""
    model = small_model()
    long = write_midi(tmp_path / "long.mid", [(0.0, 0.5, 60, 80), (3700.0, 3701.0, 60, 80)])
    performance = read_upload(long.read_bytes())
    with pytest.raises(InputError, match="at this tempo the file lasts 3701 s, expected at most 3600 s; choose"):
        Take.prepare(model, performance, FileSettings(**PLAIN), 1)
    faster = Take.prepare(model, performance, FileSettings(**PLAIN, tempo=2.0), 1)
    assert faster.n_frames == pytest.approx((3701 / 2 + 2) * 250, abs=1)
    with pytest.raises(InputError, match="at this tempo the file lasts 7402 s"):
        Take.prepare(model, performance, FileSettings(**PLAIN, tempo=0.5), 1)
    longer = write_midi(tmp_path / "longer.mid", [(0.0, 0.5, 60, 80), (14500.0, 14501.0, 60, 80)])
    with pytest.raises(InputError, match="lasts 14501 s, expected at most 14400 s; cut it"):
        read_upload(longer.read_bytes())


def test_the_level_of_the_disturbance_reaches_the_model(monkeypatch):
    monkeypatch.chdir(ROOT)
    model = small_model(history_level_input=True)
    assert model.describe()["has_history_level"] and not small_model().describe()["has_history_level"]
    assert model.describe()["defaults"]["history_level"] == DEFAULT_HISTORY_LEVEL
    sounds = []
    for level in (-60.0, 0.0):
        options = sampling_options(model, Settings(**PLAIN, history_level=level), threads=1)
        assert options.history_level == level
        stream = LiveStream(model.checkpoint, replace(options, sampler="torch"))
        sounds.append(np.concatenate([stream.next_block() for _ in range(4)]))
    assert (sounds[0] != sounds[1]).any()
    for level in (-60.5, 0.5):
        with pytest.raises(ValueError, match="history_level"):
            Settings(**PLAIN, history_level=level)


def test_the_sampling_reaches_the_model():
    model = small_model()
    assert model.describe()["defaults"]["sampling"] == "random"
    options = [sampling_options(model, Settings(**PLAIN, sampling=one), threads=1) for one in ("random", "mean")]
    sounds = [LiveStream(model.checkpoint, one).next_block() for one in options]
    assert (sounds[0] != sounds[1]).any()
    with pytest.raises(ValueError, match="sampling"):
        Settings(**PLAIN, sampling="mode")


def test_a_model_of_finetune_begins_with_the_settings_beside_it(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    weights = tmp_path / "mine.safetensors"
    weights.write_bytes((ROOT / "pretrained/rendered.safetensors").read_bytes())
    settings = {"model_filename": str(weights), "sampling": "mean", "temperature": 0.5, "guidance": 2.0}
    (tmp_path / "play.json").write_text(json.dumps({"inference_config": settings}))
    model = load_models([str(weights)], "cpu")[0]
    assert (model.sampling, model.temperature, model.guidance) == ("mean", 0.5, 2.0)
    assert model.config == str(tmp_path / "play.json")


def test_shipped_models_begin_with_the_settings_of_their_configs(monkeypatch):
    monkeypatch.chdir(ROOT)
    rendered, disklavier = load_models(
        [str(ROOT / "pretrained/rendered.safetensors"), "pretrained/disklavier.safetensors"], "cpu"
    )
    assert rendered.describe()["lookahead_ms"] == 104 and disklavier.describe()["lookahead_ms"] == 252
    assert (rendered.sampling, rendered.guidance, rendered.config) == ("mean", 2.0, "rendered/config_play.json")
    assert (disklavier.sampling, disklavier.temperature) == ("random", 0.8)
    assert (disklavier.guidance, disklavier.global_labels) == (1.0, ("year=2009",))
    json.dumps(disklavier.describe())


def test_odd_messages_are_refused_in_a_line():
    """Valid messages with bytes changed, removed and added are messages or refused, and nothing else happens."""
    numbers = random.Random(0)
    messages = [
        {"type": "live", "stream": 1, "model": 0, "settings": PLAIN, "lead_ms": 0},
        {"type": "play", "stream": 1, "model": 0, "settings": {**PLAIN, "tempo": 0.5}, "from_sample": 100},
        {"type": "key", "pitch": 60, "velocity": 64, "time": 1.5},
        {"type": "credit", "stream": 1, "until": 100},
    ]
    n_refused = 0
    for _ in range(2000):
        text = list(json.dumps(numbers.choice(messages)))
        for _ in range(numbers.randint(1, 3)):
            position = numbers.randrange(len(text))
            text[position : position + numbers.randint(0, 2)] = numbers.choices(
                '{}[]",:0-9eE.ab\0\ud800', k=numbers.randint(0, 2)
            )
        try:
            parse("".join(text))
        except InputError as error:
            n_refused += 1
            assert "\n" not in str(error) and len(str(error)) < 500
    assert 1000 < n_refused < 2000
