"""The five commands in the order a user runs them, on three-second recordings: what they make, and that they resume."""

import json
import os
import shutil
import signal

import numpy as np
import pytest
import torch

import inference
import preprocess_audio
import preprocess_maestro
import resample_audio
import train
from midi2wave.checkpoint import load_weights
from midi2wave.training import loop
from tests.helpers.pipeline import (
    CLIP_SECONDS,
    HZ,
    PROMPT_SECONDS,
    SECONDS,
    call,
    melody,
    modification_times,
    read_files,
    read_metrics,
    read_wav,
    read_wavs,
    settings,
    write_audio,
    write_midi,
)

CLIP_SAMPLES, PROMPT_SAMPLES = round(CLIP_SECONDS * HZ), round(PROMPT_SECONDS * HZ)
PNG = b"\x89PNG\r\n\x1a\n"


def infer(pipeline, folder, *overrides, midi=()):
    """The result of an inference into `folder`, and its wavs."""
    overrides = settings(*(f"inference_config.{override}" for override in overrides))
    outcome = call(inference, "-c", pipeline.config, "--out", folder, "--json", *overrides, *midi and ("--midi", *midi))
    assert outcome.code == 0, outcome.err
    made = read_wavs(folder)
    assert sorted(f"{name}.wav" for name in made) == sorted(outcome.result["wavs"])
    return outcome.result, made


def test_resampled_audio_is_as_long_as_the_original(pipeline):
    assert pipeline.commands["resample"].result["files"] == 4
    for number in range(4):
        assert len(read_wav(pipeline.folder / f"maestro/2004/{number}_16000.wav")) == SECONDS * HZ


@pytest.mark.parametrize(("name", "indices"), [("train", [0, 1]), ("validation", [2])])
def test_processed_folder(pipeline, name, indices):
    result = pipeline.commands[name].result
    notes = sum(len(melody(index)) for index in indices)
    assert (result["recordings"], result["notes"], result["failures"]) == (len(indices), notes, [])
    assert result["hours"] == pytest.approx(len(indices) * SECONDS / 3600)
    for index in indices:
        stored = np.load(pipeline.folder / name / f"{index}.npy")
        assert stored.dtype == np.int16
        assert np.array_equal(stored, read_wav(pipeline.folder / f"maestro/2004/{index}_16000.wav"))


def test_clips_are_cut_out_of_the_recording(pipeline):
    names = pipeline.commands["test"].result["clips"]
    assert len(names) == 2
    whole = read_wav(pipeline.folder / "maestro/2004/3_16000.wav")
    for name in names:
        clip, first = read_wav(pipeline.folder / f"test/{name}.wav"), round(float(name.split("_")[-1][:-1]) * HZ)
        assert len(clip) == CLIP_SAMPLES
        assert np.array_equal(clip, whole[first : first + CLIP_SAMPLES])
        assert (pipeline.folder / f"test/{name}.png").read_bytes().startswith(PNG)


def test_training_writes_checkpoints_metrics_and_config(pipeline):
    run, result = pipeline.folder / "run", pipeline.commands["run"].result
    assert result["step"] == 4
    assert np.isfinite([result["loss"], result["validation_nll"], result["validation_gap"]]).all()
    assert [line["step"] for line in read_metrics(run) if "loss" in line] == [1, 2, 3, 4]
    assert [line["step"] for line in read_metrics(run) if "validation_nll" in line] == [2, 4]
    assert sorted(path.name for path in run.glob("step_*")) == ["step_00000002", "step_00000004"]
    assert json.loads((run / "config.json").read_text())["wavenet_config"]["n_layers"] == 2
    assert list(run.glob("events.out.tfevents.*"))


def test_prompted_output_starts_with_the_recording(pipeline):
    output, result = pipeline.folder / "output", pipeline.commands["output"].result
    assert (len(result["wavs"]), result["mode"], result["step"], result["failures"]) == (2, "prompted", 4, [])
    page = (output / "index.html").read_text(encoding="utf-8")
    for name, generated in read_wavs(output).items():
        truth = read_wav(output / f"{name}_truth.wav")
        assert len(generated) == len(truth) == CLIP_SAMPLES
        assert np.array_equal(truth, read_wav(pipeline.folder / f"test/{name.removesuffix('_prompted')}.wav"))
        assert np.array_equal(generated[:PROMPT_SAMPLES], truth[:PROMPT_SAMPLES])
        assert not np.array_equal(generated[PROMPT_SAMPLES:], truth[PROMPT_SAMPLES:])
        assert (output / f"{name}.png").read_bytes().startswith(PNG)
        assert f"{name}.wav" in page


def test_teacher_forced_clips_report_the_likelihood(pipeline, tmp_path):
    """All samples are the model's own draws."""
    result, made = infer(pipeline, tmp_path / "out", "mode=teacher_forced")
    assert len(made) == 2 and result["nll"].keys() == made.keys()
    assert np.isfinite(list(result["nll"].values())).all()
    for name, samples in made.items():
        truth = read_wav(tmp_path / f"out/{name}_truth.wav")
        assert len(samples) == CLIP_SAMPLES
        assert not np.array_equal(samples[:PROMPT_SAMPLES], truth[:PROMPT_SAMPLES])


def test_free_clips_contain_nothing_of_the_recording(pipeline, tmp_path):
    _, made = infer(pipeline, tmp_path / "out", "mode=free")
    assert len(made) == 2
    for name, samples in made.items():
        assert len(samples) == CLIP_SAMPLES
        assert not np.array_equal(
            samples[:PROMPT_SAMPLES], read_wav(tmp_path / f"out/{name}_truth.wav")[:PROMPT_SAMPLES]
        )


def test_samples_depend_on_the_seed_and_not_on_the_batch_size(pipeline, tmp_path):
    songs = [write_midi(tmp_path / f"{n}.mid", [(0.0, 0.01 * n, 60 + n, 90)]) for n in (1, 2)]
    alone, together, other = (
        infer(pipeline, tmp_path / str(number), "tail_seconds=0", *overrides, midi=songs)[1]
        for number, overrides in enumerate([("batch_size=1",), ("batch_size=4",), ("seed=1",)])
    )
    assert sorted(alone) == ["1", "2"]
    for name, samples in alone.items():
        assert np.array_equal(samples, together[name])
        assert not np.array_equal(samples, other[name])


def test_midi_file_becomes_a_wav_with_a_tail(pipeline, tmp_path):
    """The wav ends `tail_seconds` after the last note."""
    long = write_midi(tmp_path / "Für Elise.mid", [(0.0, 0.02, 60, 90), (0.02, 0.04, 64, 90)])
    short = write_midi(tmp_path / "b.midi", [(0.0, 0.01, 60, 90)])
    _, made = infer(pipeline, tmp_path / "out", "tail_seconds=0.02", midi=[long, short])
    lengths = {name: len(samples) for name, samples in made.items()}
    assert lengths == {"Für Elise": 0.06 * HZ, "b": np.ceil(0.03 * 250) / 250 * HZ}  # whole conditioning frames
    assert (tmp_path / "out/Für Elise.png").read_bytes().startswith(PNG)
    assert "F%C3%BCr%20Elise.wav" in (tmp_path / "out/index.html").read_text(encoding="utf-8")


def test_training_resumes_where_it_stopped(pipeline, tmp_path):
    run = shutil.copytree(pipeline.folder / "run", tmp_path / "run")
    before = read_metrics(run)
    elsewhere = ("-c", pipeline.config, "--set", f"train_config.output_directory={run}")
    more = call(train, *elsewhere, "--set", "train_config.steps=8", "--json")
    assert more.code == 0 and more.result["step"] == 8
    assert "going on from step 4" in more.err
    assert read_metrics(run)[: len(before)] == before
    assert [line["step"] for line in read_metrics(run) if "loss" in line] == list(range(1, 9))

    again = call(train, *elsewhere, "--set", "train_config.steps=8", "--json")
    assert again.code == 0 and again.result["step"] == 8
    assert [line["step"] for line in read_metrics(run) if "loss" in line] == list(range(1, 9))


def test_killed_and_resumed_run_equals_an_uninterrupted_one(pipeline, tmp_path):
    """The crops, the learning rate and the optimiser go on: the weights at the end are the same, bit for bit."""
    for name in ("whole", "parts"):
        arguments = ("-c", pipeline.config, "--set", f"train_config.output_directory={tmp_path / name}")
        assert call(train, *arguments).code == 0
        if name == "parts":
            shutil.rmtree(tmp_path / "parts/step_00000004")  # as if killed after step 2; metrics.jsonl has 3 and 4
            assert "going on from step 2" in call(train, *arguments).err
    weights = [(tmp_path / name / "step_00000004/weights.safetensors").read_bytes() for name in ("whole", "parts")]
    assert len(weights[0]) == len(weights[1])
    body = [data[8 + int.from_bytes(data[:8], "little") :] for data in weights]  # after the header with the config
    assert body[0] == body[1]
    assert [line["loss"] for line in read_metrics(tmp_path / "parts") if "loss" in line] == [
        line["loss"] for line in read_metrics(tmp_path / "whole") if "loss" in line
    ]


def test_force_removes_nothing_if_the_config_is_wrong(pipeline, tmp_path):
    run = shutil.copytree(pipeline.folder / "run", tmp_path / "run")
    before = read_files(run)
    for wrong in ("train_config.checkpoint_path=nowhere", "data_config.validation_path=nowhere"):
        outcome = call(
            train, "-c", pipeline.config, "--force", "--set", f"train_config.output_directory={run}", "--set", wrong
        )
        assert outcome.code == 2 and "nowhere" in outcome.err
        assert read_files(run) == before


@pytest.mark.parametrize(
    ("after", "number"), [("train_step", "SIGTERM"), ("train_step", "SIGHUP"), ("validate", "SIGINT")]
)
def test_stopped_run_saves_every_complete_step(pipeline, tmp_path, monkeypatch, after, number):
    """A signal may arrive in the middle of a step, or while a checkpoint's step is validated."""
    arguments = ("-c", pipeline.config, "--set", "train_config.iters_per_validation=2", "--set")
    assert call(train, *arguments, f"train_config.output_directory={tmp_path / 'whole'}").code == 0
    original, calls = getattr(loop, after), {"train_step": [2], "validate": [1]}[after]

    def interrupted(*inputs, **options):
        result = original(*inputs, **options)
        calls[0] -= 1
        if calls[0] == 0:
            os.kill(os.getpid(), signal.Signals[number])
        return result

    with monkeypatch.context() as patch:
        patch.setattr(loop, after, interrupted)
        stopped = call(train, *arguments, f"train_config.output_directory={tmp_path / 'parts'}")
    assert stopped.code == 128 + signal.Signals[number]
    assert "stopped at step 2 of 4; the same command goes on" in stopped.err
    assert [folder.name for folder in sorted((tmp_path / "parts").glob("step_*"))] == ["step_00000002"]
    assert call(train, *arguments, f"train_config.output_directory={tmp_path / 'parts'}").code == 0
    weights = [load_weights(tmp_path / name)[0] for name in ("whole", "parts")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_rerun_does_nothing(pipeline):
    folder = pipeline.folder
    written = {name: modification_times(folder / name) for name in ("maestro", "train", "output")}
    clips = read_files(folder / "test")
    assert call(resample_audio, "-d", folder / "maestro", "--json").result["already_done"] == 4
    assert call(preprocess_maestro, "-c", pipeline.config).code == 0
    arguments = ("-d", folder / "test", "-c", pipeline.config, "--set", "preprocess_config.split=test")
    assert call(preprocess_audio, *arguments).code == 0
    done = call(inference, "-c", pipeline.config)
    assert done.code == 0 and "2 were there already" in done.out
    assert modification_times(folder / "maestro") == written["maestro"]
    assert read_files(folder / "test") == clips
    for name, product in (("train", ".np"), ("output", ".wav")):
        now = modification_times(folder / name)
        assert now.keys() == written[name].keys()
        assert all(now[file] == written[name][file] for file in now if product in file)


def test_force_makes_everything_again(pipeline, tmp_path):
    for name in ("train", "test", "output", "run"):
        shutil.copytree(pipeline.folder / name, tmp_path / name)
    (tmp_path / "train/0.npy").write_bytes(b"damaged")
    (tmp_path / "train/9.json").write_text("{}")  # of a recording that is in the split no more
    data = ("-c", pipeline.config, "--set", f"preprocess_config.out_dir={tmp_path / 'train'}")
    assert call(preprocess_maestro, *data, "--force").code == 0
    assert np.array_equal(np.load(tmp_path / "train/0.npy"), np.load(pipeline.folder / "train/0.npy"))
    assert not (tmp_path / "train/9.json").exists()

    clips = ("-d", tmp_path / "test", "-c", pipeline.config, "--set", "preprocess_config.split=validation")
    refused = call(preprocess_audio, *clips)
    assert refused.code == 2 and "--force" in refused.err
    assert read_files(tmp_path / "test") == read_files(pipeline.folder / "test")
    assert call(preprocess_audio, *clips, "--force").code == 0
    assert all("_2_" in path.name for path in (tmp_path / "test").glob("clip_*.wav"))

    other = ("-c", pipeline.config, "--out", tmp_path / "output", "--set", "inference_config.seed=5")
    assert call(inference, *other).code == 2
    assert call(inference, *other, "--force").code == 0
    assert any(
        not np.array_equal(made, read_wavs(pipeline.folder / "output")[n])
        for n, made in read_wavs(tmp_path / "output").items()
    )

    arguments = ("-c", pipeline.config, "--set", f"train_config.output_directory={tmp_path / 'run'}", "--force")
    assert "going on" not in call(train, *arguments, "--set", "train_config.steps=3").err
    assert [line["step"] for line in read_metrics(tmp_path / "run") if "loss" in line] == [1, 2, 3]
    assert sorted(p.name for p in (tmp_path / "run").glob("step_*")) == ["step_00000002", "step_00000003"]


@pytest.mark.parametrize("module", [resample_audio, preprocess_maestro, preprocess_audio, train, inference])
def test_help_shows_the_usage(module):
    shown = call(module, "--help")
    assert shown.code == 0
    assert f"python {module.__name__}.py" in shown.out


def test_pairs_from_any_folder(tmp_path, pipeline):
    """audio_dir instead of maestro_dir: originals at 16 kHz are taken as they are, NAME_16000.wav is preferred."""
    folder = tmp_path / "pairs"
    for stem, written in (("a", "a.flac"), ("b", "b_16000.wav")):
        write_midi(folder / f"{stem}.mid", melody(0))
        write_audio(folder / written, melody(0))
    write_audio(folder / "b.wav", melody(0), 44100)
    write_midi(folder / "lonely.mid", melody(0))
    settings = (
        "preprocess_config.maestro_dir=",
        f"preprocess_config.audio_dir={folder}",
        "preprocess_config.n_clips=4",
    )
    arguments = [part for setting in settings for part in ("--set", setting)]
    done = call(preprocess_audio, "-d", tmp_path / "clips", "-c", pipeline.config, "--json", *arguments)
    assert done.code == 0 and "left out, without a partner of equal name: lonely.mid" in done.err
    assert sorted(name.split("_")[2] for name in done.result["clips"]) == ["a", "a", "b", "b"]


@pytest.mark.slow
def test_training_writes_samples_to_listen_to(pipeline, tmp_path):
    arguments = ("-c", pipeline.config, "--set", f"train_config.output_directory={tmp_path / 'run'}")
    arguments += ("--set", "train_config.iters_per_sample=2", "--set", "train_config.steps=2")
    assert call(train, *arguments).code == 0
    assert len(read_wav(tmp_path / "run/samples/step_00000002.wav")) == 2 * HZ
    assert (tmp_path / "run/samples/step_00000002.png").read_bytes().startswith(PNG)
