"""evaluate.py as its users run it, and with generated audio that is known to be right or wrong."""

import dataclasses
import importlib.util
import json

import numpy as np
import pytest

import evaluate
from benchmarks import measures
from midi2wave.data import test_clips
from midi2wave.evaluation.counterfactual import counterfactuals
from midi2wave.evaluation.report import table
from midi2wave.midi.performance import CLIP_MARGIN_SECONDS, clip
from tests.helpers.fake_piano import HZ, melody, play, player
from tests.helpers.pipeline import (
    assert_failed,
    assert_no_partial_files,
    assert_refused,
    call,
    command,
    modification_times,
    read_files,
    settings,
)

SECONDS, LONG_SECONDS = 3.0, 12.0
KEYS = {"nll_true", "nll_shuffled", "nll_null", "gap", "gap_onsets", "f1", "f1_ceiling", "f1_floor", "chroma"}
KEYS |= {"chroma_ceiling", "chroma_floor", "mrstft", "transcriber"}


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Three clips of two recordings, whose audio is known, and a long one."""
    folder = tmp_path_factory.mktemp("clips")
    for name, sources, seconds in (("test", (0, 0, 1), SECONDS), ("long", (2,), LONG_SECONDS)):
        test_clips.begin_clips(folder / name, {}, force=False)
        for number, source in enumerate(sources):
            piece, start = melody(source, 14.0), number * SECONDS
            events = clip(piece, start, start + seconds, CLIP_MARGIN_SECONDS)
            pcm = play(piece, 14.0)[round(start * HZ) :][: round(seconds * HZ)]
            test_clips.write_clip(folder / name, number, f"a_piece_{source}", start, pcm, events, HZ)
    return folder


@pytest.fixture
def options(pipeline, clips, tmp_path):
    return ["-c", pipeline.config, *settings(
        f"evaluate_config.model_filename={pipeline.folder}/run", f"evaluate_config.test_dir={clips}/test",
        f"evaluate_config.output_dir={tmp_path}/out", "evaluate_config.counterfactuals=false",
        "evaluate_config.device=cpu",
    )]  # fmt: skip


@pytest.fixture
def unseen(monkeypatch):
    """No pictures: they take most of the time."""
    monkeypatch.setattr(evaluate, "_write_pictures", lambda *_: None)


@pytest.fixture
def generated(monkeypatch):
    """Replace the model's own audio by a chosen one; counts the calls."""

    def choose(make):
        calls = []

        def synthesize(model, performances, n_frames, data, options, *, prefix=None, **_):
            calls.append(len(performances))
            n = n_frames * model.hop
            sounds = np.stack([make(one, n) for one in performances])
            if prefix is not None:
                sounds[:, : prefix.shape[1]] = prefix
            yield sounds[:, : n // 2]
            yield sounds[:, n // 2 :]

        monkeypatch.setattr(evaluate, "synthesize", synthesize)
        return calls

    return choose


def obey(performance, n):
    return play(performance, n / HZ)[:n]


def test_the_command_on_a_model_that_has_learnt_nothing(pipeline, tmp_path):
    done = command("evaluate.py", "-c", pipeline.config, "--json", *settings(
        f"evaluate_config.model_filename={pipeline.folder}/run", f"evaluate_config.test_dir={pipeline.folder}/test",
        f"evaluate_config.output_dir={tmp_path}/out", "evaluate_config.counterfactuals=false",
    ))  # fmt: skip
    assert done.code == 0, done.err
    assert done.result.keys() >= KEYS
    assert done.result["nll_true"] > 0 and len(done.result["conditioning_ratios"]) == 2
    assert len(done.result["per_clip"]) == 2 and done.result["failures"] == []
    assert {"scores.json", "summary.png", "index.html", "evaluate.json"} <= read_files(tmp_path / "out").keys()
    assert len(list((tmp_path / "out").glob("clip_*.png"))) == 2
    assert_no_partial_files(tmp_path / "out")


def test_obedient_audio_reaches_the_ceiling(options, generated, tmp_path):
    pytest.importorskip("mir_eval")
    generated(obey)
    done = call(evaluate, *options, "--json")
    assert done.code == 0, done.err
    result = done.result
    assert result["chroma"] > 0.9 and result["onsets"] > 0.9 and result["mrstft"] < 0.6
    assert result["chroma_floor"] < 0.4 and result["mrstft_floor"] > 2
    assert result["chroma_ceiling"] == pytest.approx(1) and result["mrstft_ceiling"] == 0
    low, high = result["chroma_interval"]
    assert low <= result["chroma"] <= high
    if result["transcriber"]:
        assert result["f1"] > 0.9 * result["f1_ceiling"] > 0.5
        assert result["f1_floor"] < 0.3
    saved = json.loads((tmp_path / "out/scores.json").read_text())
    assert saved.items() >= {k: v for k, v in result.items() if k != "failures"}.items()
    assert saved["config"]["evaluate_config"]["mode"] == "free"


def test_disobedient_audio_lies_on_the_floor(unseen, options, generated):
    rng = np.random.default_rng(0)
    generated(lambda _, n: np.rint(rng.normal(scale=1000, size=n)).astype(np.int16))
    result = call(evaluate, *options, "--json").result
    assert result["chroma"] < 0.2 and result["onsets"] < 0.2 and result["mrstft"] > 2
    assert not result["transcriber"] or result["f1"] < 0.2


def test_in_mode_prompted_only_what_follows_is_scored(unseen, options, generated):
    generated(lambda _, n: np.zeros(n, np.int16))
    prompted = settings("evaluate_config.mode=prompted", "evaluate_config.teacher_length=2")
    result = call(evaluate, *options, *prompted, "--json").result
    assert result["chroma"] == result["onsets"] == 0
    assert not result["transcriber"] or result["f1"] == 0
    assert result["chroma_ceiling"] == pytest.approx(1)


def test_prompted_needs_clips_that_last(options):
    too_long = settings("evaluate_config.mode=prompted", f"evaluate_config.teacher_length={SECONDS}")
    assert_refused(call(evaluate, *options, *too_long), "0 usable clips")


def test_without_a_transcriber_all_else_is_there(unseen, options, generated, monkeypatch):
    generated(obey)

    def missing():
        raise ImportError("No module named 'basic_pitch'")

    monkeypatch.setattr(evaluate, "Transcriber", missing)
    done = call(evaluate, *options, "--json")
    assert done.code == 0 and "pip install -r requirements-transcribe.txt" in done.err
    result = done.result
    assert result["transcriber"] is result["f1"] is result["f1_ceiling"] is None
    assert result["chroma"] > 0.9 and result["gap"] is not None
    words = call(evaluate, *options).out
    assert "F1 of" not in words and "no transcriber is installed" in words and "chroma similarity" in words


def test_what_was_generated_is_not_generated_again(unseen, options, generated, tmp_path):
    calls = generated(obey)
    first = call(evaluate, *options, "--json").result
    written = modification_times(tmp_path / "out")
    assert call(evaluate, *options, "--json").result == first
    assert len(calls) == 1
    assert all(
        modification_times(tmp_path / "out")[name] == at for name, at in written.items() if name.endswith(".wav")
    )
    assert_refused(call(evaluate, *options, *settings("evaluate_config.seed=1")), "holds results of another config")
    assert call(evaluate, *options, *settings("evaluate_config.seed=1"), "--force").code == 0
    assert len(calls) == 2


def test_batches_are_as_large_as_they_may_be(unseen, options, generated):
    calls = generated(obey)
    call(evaluate, *options, *settings("evaluate_config.batch_size=2"))
    assert calls == [2, 1]


def test_drift_and_counterfactuals(unseen, options, clips, generated, monkeypatch, tmp_path):
    calls = generated(obey)
    more = settings(f"evaluate_config.drift_dir={clips}/long", "evaluate_config.counterfactuals=true")
    done = call(evaluate, *options, *more, "--json")
    assert done.code == 0, done.err
    (found,) = done.result["drift"].values()
    assert abs(found["worst_window_db"]) < 1 and found["silent_after_seconds"] <= 0.5 and found["tail_db"] < -100
    assert not done.result["transcriber"] or found["f1_last"] == pytest.approx(found["f1_last_ceiling"], abs=0.1)
    assert done.result["counterfactuals"] == dataclasses.asdict(counterfactuals(player, HZ))
    long_files = read_files(tmp_path / "out/drift")
    assert sum(name.endswith("s.wav") for name in long_files) == 1
    n_calls = len(calls)
    words = call(evaluate, *options, *more).out
    assert "long clip clip_000_a_piece_2" in words and "note moved by a semitone" in words
    assert len(calls) == n_calls + 4  # 30 phrases in batches of 8; no clip, long or short


def test_one_bad_clip_is_left_out(unseen, options, clips, generated, tmp_path):
    generated(obey)
    folder = tmp_path / "test"
    folder.mkdir()
    for path in (clips / "test").iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    damaged = sorted(folder.glob("*.npz"))[0]
    damaged.write_bytes(b"nothing")
    done = call(evaluate, *options, *settings(f"evaluate_config.test_dir={folder}"), "--json")
    assert_failed(done, 1, **{damaged.stem.split(".")[0]: "not a whole file of note events"})
    assert done.result["clips"] == 2
    sorted(folder.glob("*.wav"))[1].unlink()
    assert_refused(
        call(evaluate, *options, *settings(f"evaluate_config.test_dir={folder}")), "1 usable clips", "two or more"
    )


def test_what_is_missing_is_said(options, tmp_path):
    for key, words in (
        ("model_filename", "no checkpoint"),
        ("test_dir", "no test clips"),
        ("drift_dir", "no test clips"),
    ):
        assert_refused(call(evaluate, *options, *settings(f"evaluate_config.{key}={tmp_path}/gone")), words)
    assert_refused(
        call(evaluate, *options, *settings("evaluate_config.mode=teacher_forced")), "expected one of free, prompted"
    )
    assert_refused(call(evaluate, *options, *settings("data_config.midi_hz=125")), "differ", "midi_hz")


def test_partners_are_of_another_recording_where_there_is_one():
    names = ["clip_000_a_b_1.000s", "clip_001_a_b_2.000s", "clip_002_c_1.500s"]
    sources = [test_clips.clip_source(name) for name in names]
    assert sources == ["a_b", "a_b", "c"]
    assert evaluate.mismatched_pairs(sources) == [2, 2, 0]


def test_the_benchmark_of_the_measures(clips, capsys):
    if not importlib.util.find_spec("basic_pitch"):
        pytest.skip("requirements-transcribe.txt is not installed")
    assert measures.main([str(clips / "test")]) == 0
    rows = {line[:22].strip(): line[22:].split() for line in capsys.readouterr().out.splitlines()}
    scores = {kind: float(rows[kind][2]) for kind in ("the recording", "white noise", "another clip")}
    assert scores.pop("the recording") == 1 and all(abs(score) < 0.4 for score in scores.values())


def test_the_table_names_what_is_not_known(unseen, options, generated):
    generated(obey)
    result = call(evaluate, *options, "--json").result
    result["gap_onsets"], result["gap_onsets_interval"] = None, [None, None]
    (line,) = [line for line in table(result).splitlines() if line.startswith("gap, 50 ms after onsets")]
    assert line.split()[-2:] == ["-", "-"]
