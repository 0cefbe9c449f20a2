"""What training and inference say to data, checkpoints, clips and MIDI files that they cannot use."""

import json
import shutil

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import inference
import train
from tests.helpers.pipeline import (
    HZ,
    PROMPT_SECONDS,
    assert_failed,
    assert_refused,
    bad_midis,
    call,
    read_files,
    settings,
    write_audio,
    write_midi,
)


@pytest.fixture
def run_folder(pipeline, tmp_path):
    """A copy of the pipeline's run, and the --set options that make it be used."""
    run = shutil.copytree(pipeline.folder / "run", tmp_path / "run", symlinks=True)
    return run, settings(f"inference_config.model_filename={run}", f"inference_config.output_dir={tmp_path}/out")


def test_training_without_usable_data(pipeline, tmp_path):
    into = settings(f"train_config.output_directory={tmp_path}/run")

    def answer(*overrides):
        return call(train, "-c", pipeline.config, *into, *settings(*overrides))

    (tmp_path / "empty").mkdir()
    assert_refused(answer("data_config.dataset_path="), "data_config.dataset_path is empty")
    assert_refused(
        answer(f"data_config.dataset_path={tmp_path}/empty"), "not a processed folder", "preprocess_maestro.py"
    )
    assert_refused(
        answer(f"data_config.dataset_path={tmp_path}/none"), "not a processed folder", "preprocess_maestro.py"
    )
    assert_refused(answer("data_config.segment_length=5"), "no recording", "crop of 5 s", "segment_length")
    assert_refused(answer("data_config.audio_hz=8000"), "is at 16000 Hz", "data_config.audio_hz = 8000")
    assert_refused(answer("cond_wavenet_config.lookahead_ms=500"), "look-ahead", "cond_wavenet_config.lookahead_ms")
    assert_refused(answer("train_config.checkpoint_path=/no/such"), "no checkpoint at /no/such")
    assert not list(tmp_path.rglob("step_*"))


def test_a_damaged_recording_in_training(pipeline, tmp_path):
    processed = shutil.copytree(pipeline.folder / "train", tmp_path / "train")
    for index in range(2):
        path = processed / f"{index}.npz"
        path.write_bytes(path.read_bytes()[:100])
    paths = settings(f"data_config.dataset_path={processed}", f"train_config.output_directory={tmp_path}/run")
    for workers in (0, 1):
        outcome = call(train, "-c", pipeline.config, *paths, *settings(f"data_config.n_workers={workers}"))
        assert_refused(outcome, ".npz", "not a whole file of note events")


def test_resuming_with_another_model_is_refused(run_folder, pipeline):
    run, _ = run_folder
    before = read_files(run)
    into = settings(f"train_config.output_directory={run}", "train_config.steps=6")
    for override in ("wavenet_config.n_layers=4", "data_config.features=paper_v1", "cond_wavenet_config.kernel_size=3"):
        words = override.partition("=")[0]
        assert_refused(
            call(train, "-c", pipeline.config, *into, *settings(override)), "another model", words, "instead of"
        )
    assert read_files(run) == before


def test_a_truncated_checkpoint(run_folder, pipeline, tmp_path):
    run, use = run_folder
    weights = run / "step_00000004/weights.safetensors"
    whole = weights.read_bytes()
    for size in (0, 4, 200, len(whole) - 1):
        weights.write_bytes(whole[:size])
        assert_refused(call(inference, "-c", pipeline.config, *use), "weights.safetensors", "damaged or truncated")
    weights.write_text("not a checkpoint at all")
    assert_refused(call(inference, "-c", pipeline.config, *use), "weights.safetensors", "damaged or truncated")
    assert not (tmp_path / "out").exists()
    into = settings(f"train_config.output_directory={run}", "train_config.steps=5")
    outcome = call(train, "-c", pipeline.config, *into)
    assert outcome.code == 0 and "trying the one before" in outcome.err and "going on from step 2" in outcome.err
    assert "Traceback" not in outcome.err


def test_weights_of_another_architecture(run_folder, pipeline, tmp_path):
    run, use = run_folder
    path = run / "step_00000004/weights.safetensors"
    with safe_open(path, framework="pt") as stored:
        metadata = stored.metadata()
        tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 - not a dictionary
    save_file({**tensors, "decoder.hidden.weight": torch.zeros(16, 8)}, path, metadata)
    assert_refused(
        call(inference, "-c", pipeline.config, *use),
        "another architecture",
        "decoder.hidden.weight is [16, 8]",
        "[8, 8]",
    )
    save_file(tensors, path)
    assert_refused(call(inference, "-c", pipeline.config, *use), "not a midi2wave checkpoint")
    assert not (tmp_path / "out").exists()


def test_a_config_that_contradicts_the_checkpoint(pipeline, tmp_path):
    blocks = json.loads(pipeline.config.read_text())
    blocks["data_config"]["features"] = ["onset", "pedals"]
    (tmp_path / "config.json").write_text(json.dumps(blocks))
    outcome = call(inference, "-c", tmp_path / "config.json", "--out", tmp_path / "out")
    assert_refused(
        outcome, "config.json", str(pipeline.folder / "run"), "data_config.features = ['onset', 'pedals'] instead of"
    )
    assert not (tmp_path / "out").exists()


def test_inference_without_a_model_or_clips(pipeline, tmp_path):
    (tmp_path / "empty").mkdir()

    def answer(*overrides):
        return call(inference, "-c", pipeline.config, "--out", tmp_path / "out", *settings(*overrides))

    assert_refused(answer("inference_config.model_filename=/no/such"), "no checkpoint at /no/such", "run folder")
    assert_refused(answer(f"inference_config.model_filename={tmp_path}/empty"), "no checkpoint at")
    assert_refused(answer(f"inference_config.test_dir={tmp_path}/empty"), "no test clips", "preprocess_audio.py")
    assert_refused(answer(f"inference_config.test_dir={tmp_path}/none"), "no test clips", "preprocess_audio.py")
    assert_refused(answer("inference_config.mode=prompt"), "inference_config.mode", "did you mean 'prompted'?")
    assert_refused(answer("inference_config.temperature=0"), "inference_config.temperature", "greater than 0")
    assert_refused(answer("inference_config.seed=1e3"), "inference_config.seed", "expected a valid integer")
    assert_refused(answer(f"inference_config.seed={2**70}"), "inference_config.seed", "less than or equal to")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty"]


def test_bad_clips_are_listed_and_the_others_generated(pipeline, tmp_path):
    """One clip is shorter than teacher_length, one has damaged events, one is at another rate."""
    clips = shutil.copytree(pipeline.folder / "test", tmp_path / "test")
    first, second = sorted(path.stem for path in clips.glob("clip_*.wav"))
    (clips / f"{second}.npz").write_bytes(b"damaged")
    for name, hz, seconds in (("clip_8", HZ, PROMPT_SECONDS), ("clip_9", 22050, 1.0)):
        write_audio(clips / f"{name}.wav", [], hz, seconds=seconds)
        shutil.copy(clips / f"{first}.npz", clips / f"{name}.npz")
    arguments = (
        "-c",
        pipeline.config,
        "--json",
        "--out",
        tmp_path / "out",
        *settings(f"inference_config.test_dir={clips}"),
    )
    outcome = call(inference, *arguments)
    failures = {
        second.split(".")[0]: "not a whole file of note events",
        "clip_8": "nothing is left after teacher_length = 0.04 s",
        "clip_9": "is at 22050 Hz, expected 16000",
    }
    assert_failed(outcome, 1, **failures)
    assert outcome.result["wavs"] == [f"{first}_prompted.wav"]
    # of a clip made alone, the samples are those that it had in company
    made, alone = (folder / f"{first}_prompted.wav" for folder in (pipeline.folder / "output", tmp_path / "out"))
    assert made.read_bytes() == alone.read_bytes()


def test_other_midi_file_of_the_same_name_is_not_done(pipeline, tmp_path):
    arguments = ("-c", pipeline.config, "--out", tmp_path / "out", *settings("inference_config.tail_seconds=0"))
    for number in range(2):
        write_midi(tmp_path / f"{number}/song.mid", [(0.0, 0.01, 60 + number, 90)])
    assert call(inference, *arguments, "--midi", tmp_path / "0/song.mid").code == 0
    before = read_files(tmp_path / "out")
    outcome = call(inference, *arguments, "--json", "--midi", tmp_path / "1/song.mid")
    assert_failed(outcome, 2, song="song.wav of other notes")
    assert read_files(tmp_path / "out") == before


def test_bad_midi_in_inference(pipeline, tmp_path):
    answers = {**bad_midis(tmp_path / "bad"), "long": "inference_config.max_seconds"}
    paths = [tmp_path / f"bad/{name}.mid" for name in answers]
    arguments = ("-c", pipeline.config, "--out", tmp_path / "out", "--json")
    assert_failed(call(inference, *arguments, "--midi", *paths), 2, **answers)
    assert not (tmp_path / "out").exists()
    good = write_midi(tmp_path / "good.mid", [(0.0, 0.01, 60, 90)])
    outcome = call(inference, *arguments, *settings("inference_config.tail_seconds=0"), "--midi", *paths, good)
    assert_failed(outcome, 1, **answers)
    assert outcome.result["wavs"] == ["good.wav"]
