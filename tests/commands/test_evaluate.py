"""evaluate.py as a command, and with generated audio that is correct or wrong by construction."""

import dataclasses
import importlib.util
import json
import shutil

import numpy as np
import pytest

import evaluate
from benchmarks import measures
from midi2wave.data import test_clips
from midi2wave.data.pairing import mismatched_pairs
from midi2wave.evaluation import evaluation_folder, synthesizer, transcription
from midi2wave.evaluation.counterfactual import counterfactuals
from midi2wave.evaluation.report import table
from midi2wave.evaluation.transkun_transcriber import performed_events
from midi2wave.midi.performance import CLIP_MARGIN_SECONDS, clip
from midi2wave.utils import folder_lock
from tests.helpers.fake_piano import HZ, melody, play, play_batch
from tests.helpers.forbidden import forbid_new_files
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
KEYS = {"nll_true", "nll_shuffled", "nll_null", "gap", "gap_onsets", "f1", "f1_topline", "f1_baseline", "chroma"}
KEYS |= {"chroma_topline", "chroma_baseline", "mrstft", "transcriber", "nll_linear_prediction", "noise_excess_db"}
PROMPTED = settings("evaluate_config.mode=prompted", "evaluate_config.teacher_length=2")

needs_transcriber = pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in ("basic_pitch", "mir_eval")),
    reason="a transcriber is needed (requirements-transcribe.txt is not installed)",
)


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
            clip_name = test_clips.clip_name(number, f"a_piece_{source}", start)
            test_clips.write_clip(folder / name, clip_name, pcm, events, HZ)
    return folder


@pytest.fixture
def options(pipeline, clips, tmp_path):
    overrides = settings(
        f"evaluate_config.model_filename={pipeline.folder}/run",
        f"evaluate_config.test_dir={clips}/test",
        f"evaluate_config.output_dir={tmp_path}/out",
        "evaluate_config.counterfactuals=false",
        "evaluate_config.device=cpu",
    )
    return ["-c", pipeline.config, *overrides]


@pytest.fixture
def without_pictures(monkeypatch):
    """Draw no pictures, which take most of the time."""
    monkeypatch.setattr(evaluation_folder, "_write_pictures", lambda *_: None)


@pytest.fixture
def generated(monkeypatch):
    """Replace the audio of the model by that of a function; returns the batch sizes of the calls."""

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

        monkeypatch.setattr(synthesizer, "synthesize", synthesize)
        return calls

    return choose


def play_midi(performance, n):
    return play(performance, n / HZ)[:n]


def play_silence(_, n):
    return np.zeros(n, np.int16)


def make_noise():
    """A function that generates other white noise with each call."""
    rng = np.random.default_rng(0)
    return lambda _, n: np.rint(rng.normal(scale=1000, size=n)).astype(np.int16)


def test_the_command_with_an_untrained_model(pipeline, tmp_path):
    overrides = settings(
        f"evaluate_config.model_filename={pipeline.folder}/run",
        f"evaluate_config.test_dir={pipeline.folder}/test",
        f"evaluate_config.output_dir={tmp_path}/out",
        "evaluate_config.counterfactuals=false",
    )
    done = command("evaluate.py", "-c", pipeline.config, "--json", *overrides)
    assert done.code == 0, done.err
    assert done.result.keys() >= KEYS
    assert done.result["nll_true"] > 0 and len(done.result["conditioning_ratios"]) == 2
    assert len(done.result["per_clip"]) == 2 and done.result["failures"] == []
    assert {"scores.json", "summary.png", "index.html", "evaluate.json"} <= read_files(tmp_path / "out").keys()
    assert len(list((tmp_path / "out").glob("clip_*.png"))) == 2
    assert_no_partial_files(tmp_path / "out")


def test_correct_audio_reaches_the_topline(options, generated, tmp_path):
    pytest.importorskip("mir_eval")
    generated(play_midi)
    done = call(evaluate, *options, "--json")
    assert done.code == 0, done.err
    result = done.result
    assert result["chroma"] > 0.9 and result["onsets"] > 0.9 and result["mrstft"] < 0.6
    assert result["chroma_baseline"] < 0.4 and result["mrstft_baseline"] > 2
    assert result["chroma_topline"] == pytest.approx(1) and result["mrstft_topline"] == 0
    assert all(abs(octave["median"]) < 12 for octave in result["noise_excess_db"])
    low, high = result["chroma_interval"]
    assert low <= result["chroma"] <= high
    saved = json.loads((tmp_path / "out/scores.json").read_text())
    assert saved.items() >= {k: v for k, v in result.items() if k != "failures"}.items()
    assert saved["config"]["evaluate_config"]["mode"] == "free"


@needs_transcriber
def test_f1_of_correct_audio_reaches_the_topline(without_pictures, options, generated):
    generated(play_midi)
    result = call(evaluate, *options, "--json").result
    assert result["f1"] > 0.9 * result["f1_topline"] > 0.5
    assert result["f1_baseline"] < 0.3


def test_noise_scores_like_the_baseline(without_pictures, options, generated):
    generated(make_noise())
    result = call(evaluate, *options, "--json").result
    assert result["chroma"] < 0.2 and result["onsets"] < 0.2 and result["mrstft"] > 2
    assert min(octave["percentile_10"] for octave in result["noise_excess_db"]) > 10


@needs_transcriber
def test_f1_of_noise_is_low(without_pictures, options, generated):
    generated(make_noise())
    assert call(evaluate, *options, "--json").result["f1"] < 0.2


def test_the_prompt_is_not_scored(without_pictures, options, generated):
    generated(play_silence)
    result = call(evaluate, *options, *PROMPTED, "--json").result
    assert result["chroma"] == result["onsets"] == 0
    assert result["chroma_topline"] == pytest.approx(1)


@needs_transcriber
def test_f1_does_not_score_the_prompt(without_pictures, options, generated):
    generated(play_silence)
    assert call(evaluate, *options, *PROMPTED, "--json").result["f1"] == 0


def test_the_prompt_must_be_shorter_than_the_clips(options):
    too_long = settings("evaluate_config.mode=prompted", f"evaluate_config.teacher_length={SECONDS}")
    assert_refused(call(evaluate, *options, *too_long), "0 usable clips", "teacher_length")


def test_without_a_transcriber_there_is_no_f1(without_pictures, options, generated, monkeypatch):
    generated(play_midi)

    def missing():
        raise ImportError("No module named 'basic_pitch'")

    monkeypatch.setattr(transcription, "Transcriber", missing)
    done = call(evaluate, *options, "--json")
    assert done.code == 0 and "pip install -r requirements-transcribe.txt" in done.err
    result = done.result
    assert result["transcriber"] is result["f1"] is result["f1_topline"] is None
    assert result["chroma"] > 0.9 and result["gap"] is not None
    words = call(evaluate, *options).out
    assert "F1 of" not in words and "no transcriber is installed" in words and "chroma similarity" in words


def test_scores_of_the_second_transcriber(without_pictures, options, generated, monkeypatch):
    """It detects exactly what was played in the recordings, and in the generated audio the notes without the pedal."""
    pytest.importorskip("mir_eval")

    class Second:
        name = "second 1"

        def analyse(self, pcm, audio_hz):
            piece = next(one for one in pieces if np.array_equal(one.truth, pcm)) if pcm.any() else pieces[0]
            assert audio_hz == HZ
            return performed_events(piece.performance, 0, SECONDS), pcm.reshape(-1, 100).astype(np.float32)

    generated(play_silence)
    pieces = []
    load = evaluate.scorable_clips
    monkeypatch.setattr(evaluate, "scorable_clips", lambda *args: (pieces.extend(load(*args)[0]), load(*args))[1])
    monkeypatch.setattr(evaluate, "_load_second_transcriber", lambda _: Second())
    result = call(evaluate, *options, "--json").result
    assert result["second_transcriber"] == "second 1"
    for name in ("transkun_f1", "transkun_f1_offsets", "transkun_velocity"):
        assert result[f"{name}_topline"] == pytest.approx(1)
        assert result["per_clip"][0][name]["value"] == pytest.approx(1)  # All silence is transcribed as the first clip.
        assert result["per_clip"][2][name]["value"] is None or result["per_clip"][2][name]["value"] < 0.5
    frechet = result["frechet_distance"]
    assert frechet["distance"] > 0 and frechet["recording_halves"] > 0
    words = table(result)
    assert "Fréchet distance" in words and "F1, second transcriber" in words and "second transcriber: second 1" in words
    del (
        result["frechet_distance"],
        result["second_transcriber"],
        result["noise_excess_db"],
        result["nll_linear_prediction"],
    )
    words = table(result)  # As in files of earlier versions.
    assert "second transcriber" not in words and "noise" not in words and "linear prediction" not in words


def test_the_table_has_the_noise_and_the_linear_prediction(without_pictures, options, generated):
    generated(play_midi)
    lines = {line[:34].strip(): line[34:].split() for line in call(evaluate, *options).out.splitlines()}
    result = call(evaluate, *options, "--json").result
    assert float(lines["NLL, linear prediction"][0]) == pytest.approx(result["nll_linear_prediction"], abs=1e-4)
    assert float(lines["3200 .. 6400 Hz"][0]) == pytest.approx(result["noise_excess_db"][-1]["median"], abs=0.1)


def test_existing_audio_is_not_generated_again(without_pictures, options, generated, tmp_path):
    calls = generated(play_midi)
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


def test_results_that_cannot_be_written_are_noticed_first(without_pictures, options, generated, tmp_path, monkeypatch):
    """Of an evaluation that was done before, only the scores are computed and written anew."""
    generated(play_midi)
    assert call(evaluate, *options).code == 0
    monkeypatch.setattr(evaluation_folder, "_evaluate", lambda *_: pytest.fail("computed"))
    (tmp_path / "out/index.html").mkdir()
    assert_refused(call(evaluate, *options), "Is a directory", "index.html")
    (tmp_path / "out/index.html").rmdir()
    forbid_new_files(monkeypatch, tmp_path / "out")
    assert_refused(call(evaluate, *options), "no permission for", "scores.json")


def test_force_keeps_other_clips_and_files_of_the_user(without_pictures, options, generated, clips, tmp_path):
    out, calls = tmp_path / "out", generated(play_midi)
    assert call(evaluate, *options).code == 0
    for name in ("my_own_recording.wav", "scan.png"):
        (out / name).write_bytes(b"mine")
    before = read_files(out)
    two = shutil.copytree(clips / "test", tmp_path / "two")
    *_, other = sorted(path.stem for path in two.glob("*.wav"))
    (two / f"{other}.wav").unlink()
    fewer = settings(f"evaluate_config.test_dir={two}")
    refused = call(evaluate, *options, *fewer)
    assert_refused(refused, "another config", "which evaluates anew and removes no files but those of its clips")
    assert read_files(out) == before
    assert call(evaluate, *options, *fewer, "--force").code == 0
    now = read_files(out)
    assert all(now[name] == before[name] for name in ("my_own_recording.wav", "scan.png", f"{other}.wav"))
    assert calls == [3, 2]
    assert call(evaluate, *options, *fewer).code == 0 and calls == [3, 2]
    assert call(evaluate, *options, "--force").code == 0 and calls == [3, 2, 3]


def test_a_wav_of_the_user_is_not_taken_for_a_clip(without_pictures, options, generated, clips, tmp_path):
    """The one with the name of a clip that was not evaluated before."""
    generated(play_midi)
    two = shutil.copytree(clips / "test", tmp_path / "two")
    *_, other = sorted(path.stem for path in two.glob("*.wav"))
    (two / f"{other}.wav").unlink()
    assert call(evaluate, *options, *settings(f"evaluate_config.test_dir={two}")).code == 0
    (tmp_path / f"out/{other}.wav").write_bytes(b"mine")
    assert_refused(call(evaluate, *options, "--force"), f"{other}.wav is there and this command did not make it")
    assert (tmp_path / f"out/{other}.wav").read_bytes() == b"mine"


@pytest.mark.parametrize("damage", [b"", b"damaged", None])
def test_a_damaged_wav_is_generated_again(without_pictures, options, generated, tmp_path, damage):
    calls = generated(play_midi)
    first = call(evaluate, *options, "--json").result
    wav = sorted((tmp_path / "out").glob("*s.wav"))[1]
    whole = wav.read_bytes()
    wav.write_bytes(whole[: len(whole) // 2] if damage is None else damage)
    again = call(evaluate, *options, "--json")
    assert again.code == 0 and again.result == first and "it is generated again" in again.err
    assert calls == [3, 1] and wav.read_bytes() == whole


def test_second_run_is_refused_and_leftovers_are_removed(without_pictures, options, generated, tmp_path):
    generated(play_midi)
    with folder_lock.lock_folder(tmp_path / "out"):
        assert_refused(call(evaluate, *options), "another run is working on", str(tmp_path / "out"))
    leftover = tmp_path / "out/.clip_000.wav.4711-0123abcd.partial"
    leftover.write_bytes(b"half")
    assert call(evaluate, *options).code == 0
    assert not leftover.exists()


def test_a_folder_of_a_former_version_is_accepted(without_pictures, options, generated, tmp_path):
    """Its record names the clips, but does not list their files."""
    calls, record = generated(play_midi), tmp_path / "out/evaluate.json"
    assert call(evaluate, *options).code == 0
    stored = json.loads(record.read_text(encoding="utf-8"))
    del stored["products"]
    for force in ([], ["--force"]):
        record.write_text(json.dumps(stored, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        (tmp_path / "out/mine.wav").write_bytes(b"mine")
        assert call(evaluate, *options, *force).code == 0
    assert calls == [3, 3] and (tmp_path / "out/mine.wav").read_bytes() == b"mine"


def test_batch_size(without_pictures, options, generated):
    calls = generated(play_midi)
    call(evaluate, *options, *settings("evaluate_config.batch_size=2"))
    assert calls == [2, 1]


def test_drift_and_counterfactuals(without_pictures, options, clips, generated, monkeypatch, tmp_path):
    calls = generated(play_midi)
    more = settings(f"evaluate_config.drift_dir={clips}/long", "evaluate_config.counterfactuals=true")
    done = call(evaluate, *options, *more, "--json")
    assert done.code == 0, done.err
    (values,) = done.result["drift"].values()
    assert abs(values["worst_window_db"]) < 1 and values["silent_after_seconds"] <= 0.5 and values["tail_db"] < -100
    assert done.result["counterfactuals"] == dataclasses.asdict(counterfactuals(play_batch, HZ))
    long_files = read_files(tmp_path / "out/drift")
    assert sum(name.endswith("s.wav") for name in long_files) == 1
    n_calls = len(calls)
    words = call(evaluate, *options, *more).out
    assert "long clip clip_000_a_piece_2" in words and "note moved by a semitone" in words
    assert len(calls) == n_calls + 4  # 30 phrases in batches of 8; no clip, long or short


@needs_transcriber
def test_f1_at_the_end_of_a_long_clip(without_pictures, options, clips, generated):
    generated(play_midi)
    result = call(evaluate, *options, *settings(f"evaluate_config.drift_dir={clips}/long"), "--json").result
    (values,) = result["drift"].values()
    assert values["f1_last"] == pytest.approx(values["f1_last_topline"], abs=0.1)


def test_intervals_are_over_recordings(without_pictures, options, clips, generated, tmp_path):
    """Two clips of one recording alone have none, and the table says why."""
    generated(make_noise())
    result = call(evaluate, *options, "--json").result
    assert (result["clips"], result["recordings"]) == (3, 2)
    by_recording: dict[str, list[float]] = {}
    for one in result["per_clip"]:
        by_recording.setdefault(test_clips.clip_source(one["clip"]), []).append(one["mrstft"]["value"])
    # The extremes of resampled recordings are the means of each.
    assert result["mrstft_interval"] == pytest.approx(sorted(map(np.mean, by_recording.values())))
    words = table(result)
    assert "3 clips of 2 recordings" in words and "intervals: bootstrap over the 2 recordings" in words
    del result["recordings"]  # As in files of earlier versions.
    assert "as if each were of a recording of its own" in table(result)

    folder = tmp_path / "one"
    folder.mkdir()
    for path in (clips / "test").glob("*_a_piece_0_*"):
        (folder / path.name).write_bytes(path.read_bytes())
    of_one = settings(f"evaluate_config.test_dir={folder}", f"evaluate_config.output_dir={tmp_path}/of_one")
    result = call(evaluate, *options, *of_one, "--json").result
    assert (result["clips"], result["recordings"]) == (2, 1)
    assert all(value == [None, None] for name, value in result.items() if name.endswith("_interval"))
    assert result["mrstft"] is not None and "no intervals: all clips are of one recording" in table(result)


def test_a_damaged_clip_is_reported(without_pictures, options, clips, generated, tmp_path):
    generated(play_midi)
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
        call(evaluate, *options, *settings(f"evaluate_config.test_dir={folder}")), "1 usable clip,", "two or more"
    )


def test_missing_inputs_are_reported(options, tmp_path):
    for key, words in (
        ("model_filename", "no checkpoint"),
        ("test_dir", "no test clips"),
        ("drift_dir", "no test clips"),
    ):
        assert_refused(call(evaluate, *options, *settings(f"evaluate_config.{key}={tmp_path}/gone")), words)
    assert_refused(
        call(evaluate, *options, *settings("evaluate_config.mode=teacher_forced")), "expected 'free' or 'prompted'"
    )
    assert_refused(call(evaluate, *options, *settings("data_config.midi_hz=125")), "differ", "midi_hz")


def test_mismatched_pairs_are_of_different_recordings():
    """Where there is more than one recording."""
    names = ["clip_000_a_b_1.000s", "clip_001_a_b_2.000s", "clip_002_c_1.500s"]
    sources = [test_clips.clip_source(name) for name in names]
    assert sources == ["a_b", "a_b", "c"]
    assert mismatched_pairs(sources) == [2, 2, 0]


@needs_transcriber
def test_the_benchmark_of_the_measures(clips, capsys):
    assert measures.main([str(clips / "test")]) == 0
    rows = {line[:22].strip(): line[22:].split() for line in capsys.readouterr().out.splitlines()}
    scores = {kind: float(rows[kind][2]) for kind in ("the recording", "white noise", "another clip")}
    assert scores.pop("the recording") == 1 and all(abs(score) < 0.4 for score in scores.values())


def test_the_table_has_dashes_for_missing_values(without_pictures, options, generated):
    generated(play_midi)
    result = call(evaluate, *options, "--json").result
    result["gap_onsets"], result["gap_onsets_interval"] = None, [None, None]
    (line,) = [line for line in table(result).splitlines() if line.startswith("gap, 50 ms after onsets")]
    assert line.split()[-2:] == ["-", "-"]
