"""Files that version 0.1.0 wrote still load: checkpoints, run folders, configs and processed folders."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors import safe_open

import inference
import train
from midi2wave.audio.io import read_pcm
from midi2wave.checkpoint import load_model, load_training, load_weights
from midi2wave.config import DEPRECATED_OPTIONS, DEPRECATED_VALUES, load_config, migrate_record
from midi2wave.data.processed_folder import ProcessedFolder
from tests.helpers.paths import ROOT
from tests.helpers.pipeline import call, settings

BEFORE = ROOT / "tests" / "golden" / "before"
RUNS = ("run_global", "run_plain")
HZ = 4000
DEPRECATED = "is deprecated"


def tensor_names(path) -> list[str]:
    with safe_open(path, framework="pt") as stored:
        return list(stored.keys())


def test_the_stored_files_have_former_names():
    """Otherwise the other tests would show nothing."""
    names = tensor_names(BEFORE / "run_global" / "step_00000002" / "weights.safetensors")
    assert "context.of_recording.weight" in names
    stored = json.loads((BEFORE / "run_global" / "config.json").read_text(encoding="utf-8"))["train_config"]
    assert {former for block, former in DEPRECATED_OPTIONS if block == "train_config"} <= stored.keys()


@pytest.mark.parametrize("run", RUNS)
def test_former_checkpoints_load_with_names_of_today(run, capsys):
    model, config, step = load_model(BEFORE / run, torch.device("cpu"))
    assert step == 2 and config.train_config.history_mixing >= 0
    assert (model.context.global_embedding is not None) == (run == "run_global")
    weights, _, _ = load_weights(BEFORE / run)
    assert ("context.global_embedding.weight" in weights) == (run == "run_global")
    assert not any("of_recording" in name for name in weights)
    assert capsys.readouterr().err == ""  # the user cannot change what stands in a checkpoint


@pytest.mark.parametrize("run", RUNS)
def test_former_checkpoints_play_what_they_played(run, tmp_path):
    """Bit for bit on one processor; on another a sample may fall to the other side of a rounding."""
    overrides = {
        "model_filename": str(BEFORE / run),
        "mode": "free",
        "tail_seconds": 0.05,
        "seed": 3,
        "sampler": "torch",
        "device": "cpu",
    }
    options = settings(*(f"inference_config.{name}={value}" for name, value in overrides.items()))
    done = call(inference, "-c", "config_inference.json", "--midi", BEFORE / "song.mid", "--out", tmp_path, *options)
    assert done.code == 0 and DEPRECATED not in done.err, done.err
    played = read_pcm(tmp_path / "song.wav", HZ).astype(int)
    expected = read_pcm(BEFORE / f"played_by_{run}.wav", HZ).astype(int)
    assert played.shape == expected.shape
    difference = np.abs(played - expected)
    assert difference[:100].max() <= 1 and difference.mean() <= 0.1 * np.abs(expected).mean()


def test_former_options_and_values_give_one_message_each(capsys):
    config = load_config(BEFORE / "config.json", ())
    training = config.train_config
    assert (training.history_mixing, training.final_history_mixing) == (0.5, 0.1)
    assert training.scheduled_sampling_start_step == 2
    assert config.inference_config.mode == config.evaluate_config.mode == "prompted"
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == len(DEPRECATED_OPTIONS) + len(DEPRECATED_VALUES) == 5
    assert all(line.startswith(f"{BEFORE / 'config.json'}: ") and DEPRECATED in line for line in lines)


def test_former_options_are_accepted_as_overrides(capsys):
    overrides = ["train_config.scheduled_sampling_patience=3", "inference_config.mode=primed"]
    config = load_config(BEFORE / "config.json", (), overrides)
    assert config.train_config.scheduled_sampling_start_step == 3 and config.inference_config.mode == "prompted"
    assert "write train_config.scheduled_sampling_start_step" in capsys.readouterr().err


def test_a_former_processed_folder_loads():
    folder = ProcessedFolder(BEFORE / "processed")
    folder.check_rate(HZ)
    assert len(folder.rows) == 1 and len(folder.pcm(0)) == folder.rows[0].n_samples == 12058
    assert len(folder.performance(0).onset) > 0


def test_a_former_run_can_be_resumed(tmp_path):
    """Its config.json has former option names, its weights, moving average and optimiser former tensor names."""
    run = tmp_path / "run"
    shutil.copytree(BEFORE / "run_global", run, symlinks=True)
    training, config = load_training(run)
    former = torch.load(run / "step_00000002" / "training.pt", weights_only=True)
    for name in ("model", "average"):
        old, new = former[name]["context.of_recording.weight"], training[name]["context.global_embedding.weight"]
        assert torch.equal(old, new) and len(former[name]) == len(training[name])
    overrides = {
        "data_config.dataset_path": BEFORE / "processed",
        "data_config.validation_path": "",
        "train_config.output_directory": run,
        "train_config.steps": 3,
        "train_config.device": "cpu",
        "train_config.compile": "false",
    }
    options = settings(*(f"{name}={value}" for name, value in overrides.items()))
    done = call(train, "-c", run / "config.json", *options)
    assert done.code == 0, done.err
    assert "step 2 of" in done.err
    moments = former["optimizer"]["state"]
    resumed, _ = load_training(run)
    assert resumed["step"] == 3 and resumed["optimizer"]["state"].keys() == moments.keys()
    weight = "context.global_embedding.weight"
    assert resumed["model"][weight].shape == former["model"]["context.of_recording.weight"].shape
    assert config.train_config.output_directory == "run_global"


@pytest.mark.parametrize("block", ["inference_config", "evaluate_config"])
def test_records_have_the_defaults_of_new_options(block):
    record = migrate_record({block: {"temperature": 0.8}})
    assert record[block] == {"temperature": 0.8, "history_level": -40.0, "sampling": "random"}
    assert migrate_record({block: {"sampling": "mean", "history_level": -12.0}})[block]["sampling"] == "mean"


def test_a_former_output_folder_is_recognised(tmp_path):
    """The same command finds its results done; with another seed they are results of another config."""
    folder = shutil.copytree(BEFORE / "output_prompted", tmp_path / "output")
    record = folder / "inference.json"
    record.write_text(record.read_text(encoding="utf-8").replace("RUN", str(BEFORE / "run_plain")), encoding="utf-8")
    played = (folder / "song.wav").read_bytes()
    overrides = {
        "model_filename": str(BEFORE / "run_plain"),
        "mode": "free",
        "tail_seconds": 0.05,
        "sampler": "torch",
        "device": "cpu",
    }
    prompt = ("--prompt", BEFORE / "played_by_run_global.wav", "--prompt_seconds", "0.05")
    files = ("--midi", BEFORE / "song.mid", "--out", folder)
    for seed, code in ((3, 0), (4, 2)):
        config = tmp_path / f"config_{seed}.json"
        config.write_text(json.dumps({"inference_config": overrides | {"seed": seed}}), encoding="utf-8")
        outcome = call(inference, "-c", config, *files, *prompt)
        assert outcome.code == code, outcome
        assert (folder / "song.wav").read_bytes() == played
    assert "results of another config" in outcome.err
