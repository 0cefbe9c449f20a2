"""finetune.py from a folder of pairs to a model that plays, at a tiny size, and input that is refused."""

import json
import re

import numpy as np
import pretty_midi
import pytest
import soundfile
import torch
from safetensors import safe_open

import finetune
import inference
import midi2wave
from midi2wave import checkpoint_folders
from midi2wave.data.processed_folder import ProcessedFolder
from midi2wave.demo_dataset import composer, piano_synth
from midi2wave.demo_dataset.generate import make_data_set
from midi2wave.finetuning import base_choice, model_scores, pipeline, preparation, schedule
from midi2wave.midi.performance import load_events
from midi2wave.sampling.engines import cpu
from midi2wave.training import loop, run_state
from tests.helpers.pipeline import (
    assert_refused,
    call,
    melody,
    write_audio,
    write_maestro,
    write_midi,
)
from tests.helpers.short_finetuning import LATE_SECONDS, stop
from tests.helpers.tiny_base import write_tiny_base

MEASURE_STEP_SECONDS = schedule.measure_step_seconds
CHECK_RECORDINGS = pipeline.check_recordings


def test_recordings_become_a_model_that_plays(arguments, tmp_path):
    done = call(finetune, *arguments, "--licence", "CC BY 4.0", "--json")
    assert done.code == 0, done.err
    out = tmp_path / "mine"
    assert re.search(r"training: \d+ steps of .* until about \d\d:\d\d", done.err)
    assert "the middle of each recording held out" in done.err
    assert "9 steps are few" in done.err
    share = re.search(r"share of the trained weights: (\S+), the rest is the base", done.err).group(1)
    measures = done.result["comparison"]["measures"]
    assert measures.keys() == {"mrstft", "noise_excess_db", "chroma", "nll", "gap"}
    assert measures["nll"]["fine_tuned"] < measures["nll"]["base"]
    assert done.result["comparison"]["recordings"] == 4
    with safe_open(out / "mine.safetensors", framework="pt") as stored:
        assert stored.metadata()["licence"] == "CC BY 4.0"
        assert stored.metadata()["base"] == "tiny.safetensors"
        assert stored.metadata()["base_licence"] == "CC BY-SA 4.0"
    assert "their licence applies to your model too: CC BY-SA 4.0" in done.err
    assert (
        "CC BY 4.0" in (out / "model_card.md").read_text()
        and done.result["verdict"] in (out / "model_card.md").read_text()
    )
    assert f"| share of the trained weights | {share}, the rest is the base |" in (out / "model_card.md").read_text()
    page = (out / "index.html").read_text()
    sounds = re.findall(r'src="(evaluation/[^"]+\.wav)"', page)
    assert len(sounds) == 3 * 4 and all((out / sound.replace("%20", " ")).is_file() for sound in sounds)
    assert midi2wave.load(out / "mine.safetensors", device="cpu").sample_rate == 16000
    played_with = json.loads((out / "play.json").read_text())["inference_config"]
    assert (played_with["temperature"], played_with["guidance"]) == (0.8, 1) and "history_level" not in played_with
    song = write_midi(tmp_path / "song.mid", melody(9, 0.5))
    played = call(inference, "-c", out / "play.json", "--midi", song, "--out", tmp_path / "songs")
    assert played.code == 0 and (tmp_path / "songs/song.wav").is_file()


def test_the_speed_is_measured_and_decides_the_steps(recordings, base, tmp_path, monkeypatch):
    """A step of the tiny model takes more than a tenth of a millisecond and less than ten seconds on any machine."""
    monkeypatch.setattr(schedule, "MEASURED_SECONDS", 0.01)
    monkeypatch.setattr(schedule, "measure_step_seconds", MEASURE_STEP_SECONDS)
    seconds = []
    plan_steps = schedule.plan_steps

    def plan_few(minutes, seconds_per_step, config):
        seconds.append(seconds_per_step)
        # 12.6 steps fit into 1.26 s. A validation takes two thirds of one, and all of them a fifth of the time.
        assert plan_steps(0.021, 0.1, config) == schedule.Schedule(10, 3, 0.1, pytest.approx(1.2))
        return plan_steps(minutes, 0.1, config)

    monkeypatch.setattr(schedule, "plan_steps", plan_few)
    options = ["-d", recordings, "-o", tmp_path / "mine", "--base", base, "--minutes", "0.02", "--device", "cpu"]
    assert call(finetune, *options).code == 0
    assert 1e-4 < seconds[0] < 10


def run_out(*_, **__):
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def run_out_later(*_, **__):
    yield run_out()


@pytest.mark.parametrize(
    ("module", "name", "fail"),
    [(loop, "train_step", run_out), (cpu, "generate", run_out_later), (model_scores, "load_checkpoint", run_out)],
)
def test_too_little_memory_is_one_line(arguments, monkeypatch, module, name, fail):
    """In the training, in the generation of clips, and elsewhere; the same command goes on."""
    with monkeypatch.context() as patches:
        patches.setattr(module, name, fail)
        assert_refused(call(finetune, *arguments), "out of memory; end other programs and run the command again, or")
        patches.setattr(pipeline, "choose_device", lambda _: torch.device("cuda"))
        assert_refused(call(finetune, *arguments), "run the command again with --device cpu, or begin in another")
    done = call(finetune, *arguments)
    assert done.code == 0, done.err


def test_steps_take_the_place_of_minutes(recordings, base, tmp_path):
    """Whatever the speed: 40 steps, with eight test clips and the validations that take a fifth of the time."""
    options = [
        "-d",
        recordings,
        "-o",
        tmp_path / "mine",
        "--base",
        base,
        "--hold_out",
        "0.3",
        "--device",
        "cpu",
        "--steps",
        "40",
    ]
    done = call(finetune, *options, "--json")
    assert done.code == 0, done.err
    assert "training: 40 steps of" in done.err and done.result["comparison"]["clips"] == 8
    phases = json.loads((tmp_path / "mine/finetune.json").read_bytes())["phases"]
    assert (phases["training"]["step"], phases["schedule"]["n_validations"]) == (40, 5)
    assert_refused(
        call(finetune, *options[:-2], "--minutes", "5"), "minutes = 5.0 instead of steps = 40", "another folder"
    )


def test_whole_recordings_are_held_out_of_many(tmp_path, base):
    for number in range(12):
        notes = melody(number, 6.0)
        write_midi(tmp_path / f"in/{number}.mid", notes)
        write_audio(tmp_path / f"in/{number}.wav", notes, seconds=6.0)
    options = ["-d", tmp_path / "in", "-o", tmp_path / "out", "--base", base, "--minutes", "0.02", "--device", "cpu"]
    done = call(finetune, *options)
    assert done.code == 0 and "whole recordings held out" in done.err
    names = [
        {json.loads(file.read_text())["audio_filename"] for file in (tmp_path / "out/data" / split).glob("[0-9]*.json")}
        for split in ("train", "validation", "test")
    ]
    assert set.union(*names) == {f"{number}.wav" for number in range(12)} and sum(map(len, names)) == 12


def test_a_model_with_years_plays_new_recordings_by_the_best(recordings, tmp_path):
    base = write_tiny_base(tmp_path / "years.safetensors", global_values=["year=2008", "year=2009"])
    options = ["-d", recordings, "-o", tmp_path / "out", "--base", base, "--minutes", "0.02", "--device", "cpu"]
    done = call(finetune, *options)
    assert done.code == 0, done.err
    (label,) = json.loads((tmp_path / "out/play.json").read_text())["inference_config"]["global_values"]
    assert f"{base}, {label}" in done.err


def test_a_base_with_a_history_level_keeps_it(recordings, tmp_path):
    base = write_tiny_base(tmp_path / "level.safetensors", history_level_input=True)
    options = ["-d", recordings, "-o", tmp_path / "out", "--base", base, "--minutes", "0.02", "--device", "cpu"]
    done = call(finetune, *options)
    assert done.code == 0, done.err
    played = json.loads((tmp_path / "out/play.json").read_text())["inference_config"]
    scores = json.loads((tmp_path / "out/evaluation/fine_tuned/scores.json").read_text())
    evaluated = scores["config"]["evaluate_config"]
    expected = {"sampling": "mean", "temperature": 1.0, "guidance": 1.5, "history_level": -6.0}
    assert all(played[name] == evaluated[name] == value for name, value in expected.items())
    trained = json.loads((tmp_path / "out/training.json").read_text())["train_config"]
    assert trained["final_history_noise"] == trained["history_noise"]


def test_maestro_keeps_its_split(tmp_path, base):
    folder = write_maestro(tmp_path / "maestro", ("train",) * 20 + ("validation",) * 2 + ("test",) * 2, audio_hz=22050)
    options = ["-d", folder, "-o", tmp_path / "out", "--base", base, "--minutes", "0.02", "--device", "cpu"]
    done = call(finetune, *options)
    assert done.code == 0, done.err
    counts = [len(list((tmp_path / "out/data" / split).glob("*.npy"))) for split in ("train", "validation", "test")]
    assert counts == [20, 2, 2]


def test_bad_input_is_one_line(arguments, recordings, base, tmp_path):
    (tmp_path / "empty").mkdir()
    assert_refused(call(finetune, "-d", tmp_path / "empty", *arguments[2:]), str(tmp_path / "empty"))
    notes = melody(0, 20.0)
    write_midi(tmp_path / "one/a.mid", notes)
    write_audio(tmp_path / "one/a.wav", notes, seconds=20.0)
    one = ["-d", tmp_path / "one", "-o", tmp_path / "one_out", *arguments[4:]]
    assert_refused(call(finetune, *one), "20 s of usable recordings", "at least 60")
    no_weights = tmp_path / "no.safetensors"
    no_weights.write_text("no weights")
    assert_refused(call(finetune, *arguments, "--base", no_weights), "no.safetensors", "damaged")
    assert_refused(call(finetune, *arguments, "--base", tmp_path / "gone"), "no checkpoint at")
    assert_refused(call(finetune, *arguments, "--hold_out", "0.9"), "--hold_out 0.9")
    assert_refused(call(finetune, *arguments, "--minutes", "nan"), "--minutes nan")
    assert_refused(call(finetune, *arguments, "-j", "0"), "--jobs 0: expected 1 or more")
    assert_refused(call(finetune, *arguments, "--device", "gpu"), "device 'gpu' cannot be used")
    assert_refused(call(finetune, *arguments, "--licence", "CC0\n# more"), "expected one line of text")
    assert_refused(call(finetune, *arguments, "--steps", "9"), "--steps", "not allowed with", "--minutes")
    assert_refused(call(finetune, *arguments[:-4], "--steps", "1"), "--steps 1: expected 2 or more")
    assert_refused(call(finetune, "-d", tmp_path / "none", *arguments[2:]), "no such folder")
    assert_refused(call(finetune, *arguments, "-o", recordings / "out"), "whose files are the recordings")
    (tmp_path / "other").mkdir()
    (tmp_path / "other/mine.txt").write_text("mine")
    assert_refused(call(finetune, *arguments, "-o", tmp_path / "other"), "not empty", "another folder")
    assert (tmp_path / "other/mine.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("mistake", "words"),
    [
        ("octave", "an octave higher than the sound; transpose the MIDI file by -12 semitones"),
        ("drums", "give a MIDI file with notes between pitch 21 and 108 outside the drum channel"),
        ("two pianos", "notes that are not in the sound: track "),
    ],
)
def test_recordings_that_cannot_be_used_are_one_line(arguments, tmp_path, monkeypatch, mistake, words):
    """The check as users have it refuses the only recording, and the line says what is wrong with it."""
    monkeypatch.setattr(pipeline, "check_recordings", CHECK_RECORDINGS)
    folder = tmp_path / mistake
    folder.mkdir()
    composer.compose(1, 40.0).write(str(folder / "a.mid"))
    soundfile.write(folder / "a.wav", piano_synth.render(folder / "a.mid", 16000), 16000)
    midi = pretty_midi.PrettyMIDI(str(folder / "a.mid"))
    for instrument in midi.instruments:
        instrument.is_drum = mistake == "drums"
        for note in instrument.notes:
            note.pitch += 12 * (mistake == "octave")
    if mistake == "two pianos":
        midi.instruments += composer.compose(2, 40.0).instruments
    midi.write(str(folder / "a.mid"))
    done = call(finetune, "-d", folder, *arguments[2:])
    assert_refused(done, "no usable pair", words, "index.html")
    assert not (tmp_path / "mine/audio").exists()


def test_many_channels_at_a_high_rate_become_mono(tmp_path, base):
    for number in range(2):
        notes = melody(number, 34.0)
        write_midi(tmp_path / f"in/{number}.mid", notes)
        write_audio(tmp_path / f"in/{number}.wav", notes, audio_hz=96000, channels=6, seconds=34.0)
    options = ["-d", tmp_path / "in", "-o", tmp_path / "out", "--base", base, "--minutes", "0.02", "--device", "cpu"]
    done = call(finetune, *options)
    assert done.code == 0, done.err
    folder = ProcessedFolder(tmp_path / "out/data/train")
    assert len(folder.pcm(0)) == pytest.approx(34.0 * 0.4 * 16000, abs=2)
    assert np.abs(folder.pcm(0).astype(int)).max() > 1000


def test_of_the_shipped_weights_the_likeliest_are_the_base(recordings, tmp_path, monkeypatch):
    """Of two models with random weights, and one that plays no MIDI."""
    for seed in range(2):
        write_tiny_base(tmp_path / f"pretrained/tiny{seed}.safetensors", seed)
    write_tiny_base(tmp_path / "pretrained/plain.safetensors", features=[], excitation=False, conditioning_dropout=0.0)
    monkeypatch.setattr(base_choice, "SHIPPED_FOLDER", tmp_path / "pretrained")
    monkeypatch.setattr(base_choice, "PROJECT_FOLDER", tmp_path)
    monkeypatch.setattr(checkpoint_folders, "PROJECT_FOLDER", tmp_path)
    monkeypatch.chdir("/")
    monkeypatch.setattr(preparation, "process", stop)
    done = call(finetune, "-d", recordings, "-o", tmp_path / "out", "--device", "cpu")
    assert done.code == 130, done.err
    assert "plain.safetensors is no candidate: it is an unconditional model" in done.err
    selected, listed = re.search(r"base weights: (\S+) \(NLL in nats per sample: (.*)\)", done.err).groups()
    scores = {name: float(score) for name, score in (one.split() for one in listed.split("; "))}
    assert scores.keys() == {"tiny0.safetensors", "tiny1.safetensors"} and len(set(scores.values())) == 2
    assert selected == f"pretrained/{min(scores, key=lambda name: scores[name])}"


def test_the_model_plays_from_any_folder(arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = call(finetune, *arguments, "-o", "my piano", "--licence", "CC0")
    assert done.code == 0, done.err
    assert "play: python inference.py -c 'my piano/play.json' --midi song.mid --out songs" in done.out
    assert "-c 'my piano/play.json'" in (tmp_path / "my piano/model_card.md").read_text()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    song = write_midi(tmp_path / "song.mid", melody(9, 0.5))
    played = call(inference, "-c", tmp_path / "my piano/play.json", "--midi", song, "--out", "songs")
    assert played.code == 0, played.err
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my piano/blended.safetensors").unlink()  # The same weights are in the result.
    assert call(finetune, *arguments, "-o", "my piano").code == 0
    assert "**Licence: CC0.**" in (tmp_path / "my piano/model_card.md").read_text()
    (tmp_path / "my piano").rename(tmp_path / "moved")
    played = call(inference, "-c", tmp_path / "moved/play.json", "--midi", song, "--out", tmp_path / "again")
    assert played.code == 0, played.err


def test_from_python(recordings, base, tmp_path):
    result = midi2wave.finetune(recordings, tmp_path / "mine", minutes=0.02, base=base, device="cpu")
    assert result.weights == tmp_path / "mine/mine.safetensors" and result.weights.is_file()
    assert result.verdict and result.comparison["clips"] == 4
    wrong = {"hold_out": 2, "steps": 40.5, "minutes": "30", "licence": None, "jobs": True}
    for name, value in wrong.items():
        with pytest.raises(midi2wave.InputError, match=name):
            midi2wave.finetune(recordings, tmp_path / "mine", **{name: value})


def test_the_notes_of_late_sound_are_moved(tmp_path, base):
    """Processed notes and test clips have the times of the sound, whole recordings and stretches of them alike."""
    notes = [(0.25 * k, 0.25 * k + 0.2, 60, 90) for k in range(4 * 30)]
    late = [(on + LATE_SECONDS, off + LATE_SECONDS, pitch, velocity) for on, off, pitch, velocity in notes]
    for name in ("late 1", "late 2"):
        write_midi(tmp_path / f"in/{name}.mid", notes)
        write_audio(tmp_path / f"in/{name}.wav", late, seconds=34.0)
    options = ["-d", tmp_path / "in", "-o", tmp_path / "out", "--base", base, "--minutes", "0.02", "--device", "cpu"]
    done = call(finetune, *options)
    assert done.code == 0 and "late 1: its sound comes late" in done.err
    folder = ProcessedFolder(tmp_path / "out/data/train")
    assert folder.performance(0).onset[0] == pytest.approx(LATE_SECONDS, abs=0.002)
    sounding = np.flatnonzero(np.abs(folder.pcm(0).astype(int)) > 100)
    assert sounding[0] / 16000 == pytest.approx(LATE_SECONDS, abs=0.01)
    for wav in (tmp_path / "out/clips").glob("*.wav"):
        onset = load_events(wav.with_suffix(".npz")).onset
        pcm = soundfile.read(wav, dtype="int16")[0].astype(int)
        first = onset[onset > 0.06][0]
        before, after = (np.abs(pcm[round((first + by) * 16000) :][:400]).max() for by in (-0.04, 0.01))
        assert after > 1000 > before


@pytest.mark.slow
def test_generated_piano_with_the_real_check(tmp_path, base, monkeypatch):
    """The check accepts the demo's piano, its partials are measured and its labels aligned, and the report is there."""
    monkeypatch.undo()
    monkeypatch.setattr(schedule, "measure_step_seconds", lambda _: 0.1)
    monkeypatch.setattr(schedule, "N_WORKERS", 0)
    monkeypatch.setattr(run_state, "compile_gate_kernels", lambda *_, **__: None)
    make_data_set(tmp_path / "demo", train_minutes=3.0, validation_minutes=0.5, test_minutes=0.5, audio_hz=16000)
    options = ["-d", tmp_path / "demo", "-o", tmp_path / "out", "--base", base, "--minutes", "0.2", "--device", "cpu"]
    done = call(finetune, *options)
    assert done.code == 0, done.err
    assert "labels aligned with the sound" in done.err
    assert (tmp_path / "out/recordings/index.html").is_file()
    config = json.loads((tmp_path / "out/training.json").read_text())
    assert "aligned" in config["data_config"]["dataset_path"] and config["data_config"]["partial_hz"]
