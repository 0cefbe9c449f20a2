"""What the commands say to mistakes: one line that names the thing, exit 2 or 1, no traceback and nothing half-made."""

import contextlib
import json
import shutil
import subprocess

import numpy as np
import pytest
import soundfile
import torch

import inference
import preprocess_audio
import preprocess_maestro
import resample_audio
import train
from midi2wave.utils.folder_lock import LOCK_NAME
from tests.helpers.pipeline import (
    HZ,
    SECONDS,
    assert_failed,
    assert_no_partial_files,
    assert_refused,
    bad_midis,
    call,
    command,
    melody,
    read_files,
    settings,
    write_audio,
    write_config,
    write_maestro,
)

SMALL_BYTES = 32 * 1024  # less than a recording, a picture or a checkpoint takes


@pytest.fixture
def data(tmp_path):
    """A fresh MAESTRO folder of two recordings (16 kHz) that a test may damage; beside it a config."""
    write_maestro(tmp_path / "maestro", ["train", "train"])
    write_config(tmp_path)
    return tmp_path


def maestro_refused(folder, *words, overrides=()):
    assert_refused(call(preprocess_maestro, "-c", folder / "config.json", *settings(*overrides)), *words)
    assert not (folder / "train").exists()


# ---- configs and folders


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["preprocess_config.split=tset"], ["preprocess_config.split", "tset", "did you mean 'test'?"]),
        (["preprocess_config.splitt=test"], ["'splitt'", "did you mean 'split'?"]),
        (["preproces_config.split=test"], ["'preproces_config'", "did you mean 'preprocess_config'?"]),
        (["split=test"], ["--set split=test", "expected block.option=value"]),
        (["preprocess_config.split"], ["expected block.option=value"]),
        (["preprocess_config.audio_hz=fast"], ["audio_hz", '"fast"', "expected a valid integer"]),
        (["preprocess_config.midi_hz=300"], ["audio_hz = 16000", "midi_hz = 300", "would do"]),
        (["preprocess_config.maestro_dir=/no/such"], ["/no/such", "no such folder"]),
        (["preprocess_config.maestro_dir="], ["maestro_dir is empty"]),
        (["preprocess_config.out_dir="], ["out_dir is empty"]),
        (["preprocess_config.split=validation"], ["no recordings of split 'validation'"]),
    ],
)
def test_preprocessing_refuses_impossible_settings(data, overrides, words):
    maestro_refused(data, *words, overrides=overrides)


def test_empty_folder_and_folder_without_metadata(data):
    (data / "empty").mkdir()
    maestro_refused(
        data, "maestro-v*.csv", "the folder is empty", overrides=["preprocess_config.maestro_dir=" + f"{data}/empty"]
    )
    (data / "maestro/maestro-v2.0.0.csv").unlink()
    maestro_refused(data, "maestro-v*.csv", "no such file there")


@pytest.mark.parametrize("module", [preprocess_maestro, preprocess_audio, train, inference])
def test_files_that_are_no_configs_are_refused(tmp_path, module):
    directory = ["-d", tmp_path / "clips"] if module is preprocess_audio else []
    assert_refused(
        call(module, "-c", tmp_path / "config_trian.json", *directory),
        "config_trian.json",
        "not found",
        "did you mean",
    )
    (tmp_path / "broken.json").write_text('{"train_config": {"steps": 4,}}')
    assert_refused(call(module, "-c", tmp_path / "broken.json", *directory), "broken.json", "not valid JSON", "line 1")
    (tmp_path / "list.json").write_text("[]")
    assert_refused(call(module, "-c", tmp_path / "list.json", *directory), "list.json", "expected an object of blocks")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken.json", "list.json"]


def test_misspelt_option_is_reported_by_the_command(pipeline, tmp_path):
    blocks = json.loads(pipeline.config.read_text())
    blocks["train_config"]["learning_rat"] = 1e-3
    (tmp_path / "config.json").write_text(json.dumps(blocks))
    assert_refused(command("train.py", "-c", tmp_path / "config.json"), "train_config", "did you mean 'learning_rate'?")


def test_missing_arguments_are_reported_in_one_line():
    for module in (preprocess_audio, resample_audio):
        assert_refused(call(module), "required: -d/--dir", "see ", " --help")


@pytest.mark.skipif(torch.cuda.is_available(), reason="a machine without CUDA is needed")
@pytest.mark.parametrize(("device", "words"), [("cuda", "auto or cpu"), ("gpu", "auto or cpu")])
def test_unavailable_device_is_refused(pipeline, tmp_path, device, words):
    into = settings(f"train_config.output_directory={tmp_path}/run", f"train_config.device={device}")
    assert_refused(call(train, "-c", pipeline.config, *into), repr(device), words)
    elsewhere = ("--out", tmp_path / "out", *settings(f"inference_config.device={device}"))
    assert_refused(call(inference, "-c", pipeline.config, *elsewhere), repr(device), words)
    assert list(tmp_path.iterdir()) == []


def test_folders_with_files_of_others_are_untouched(pipeline, tmp_path):
    (tmp_path / "song.wav").write_bytes(b"precious")
    data = settings(f"preprocess_config.out_dir={tmp_path}")
    calls = [
        (preprocess_maestro, "-c", pipeline.config, *data),
        (preprocess_audio, "-c", pipeline.config, "-d", tmp_path, *settings("preprocess_config.split=test")),
        (inference, "-c", pipeline.config, "--out", tmp_path),
    ]
    for arguments in calls:
        assert_refused(call(*arguments), f"{tmp_path} exists and is not empty", "choose another folder")
        assert_refused(call(*arguments, "--force"), f"{tmp_path} exists and is not empty", "choose another folder")
    assert_refused(
        call(inference, "-c", pipeline.config, "--out", tmp_path / "song.wav"), "is a file, expected a folder"
    )
    assert read_files(tmp_path) == {"song.wav": b"precious"}


# ---- audio and MIDI in preprocessing


def damage_audio(path, kind):
    if kind == "missing":
        path.unlink()
    elif kind == "unreadable":
        path.write_text("not audio")
    elif kind == "truncated":
        path.write_bytes(path.read_bytes()[:5000])
    elif kind == "rate":
        write_audio(path, melody(0), 22050)
    else:
        sound = np.zeros(round(SECONDS * HZ), dtype=np.float32)
        sound[HZ] = np.nan
        soundfile.write(path, sound, HZ, subtype="FLOAT")


AUDIO = {
    "missing": "is missing; run resample_audio.py --hz 16000 first",
    "unreadable": "cannot be read as audio",
    "truncated": "is truncated",
    "rate": "is at 22050 Hz, expected 16000; run resample_audio.py first",
    "nan": "NaN or infinite samples, the first at 1.000 s",
}


@pytest.mark.parametrize("kind", AUDIO)
def test_one_bad_recording_does_not_stop_the_others(data, kind):
    path = data / "maestro/2004/0_16000.wav"
    good = path.read_bytes()
    damage_audio(path, kind)
    arguments = ("-c", data / "config.json", "--json")
    outcome = call(preprocess_maestro, *arguments)
    assert_failed(outcome, 1, **{"0": AUDIO[kind]})
    assert outcome.result["recordings"] == 1
    assert sorted(path.name for path in (data / "train").glob("[0-9]*")) == ["1.json", "1.npy", "1.npz"]
    clips = call(preprocess_audio, "-d", data / "test", *arguments)
    assert_failed(clips, 1, **{"0_16000": AUDIO[kind].split(";")[0] if kind != "missing" else "no such audio file"})
    assert len(clips.result["clips"]) == len(list((data / "test").glob("clip_*.wav"))) > 0
    assert_no_partial_files(data)

    path.write_bytes(good)  # mended: the same commands do what is left, and leave nothing of before
    assert call(preprocess_maestro, *arguments).result["recordings"] == 2
    clips = call(preprocess_audio, "-d", data / "test", *arguments)
    assert clips.code == 0
    assert sorted(path.stem for path in (data / "test").glob("clip_*.wav")) == clips.result["clips"]


def test_corrected_command_after_only_failures_works(data):
    """If all recordings fail, the command with a corrected config is not refused."""
    wrong = settings("preprocess_config.audio_hz=22000")
    arguments = ("-c", data / "config.json", "--json")
    missing = "resample_audio.py --hz 22000"
    assert_failed(call(preprocess_maestro, *arguments, *wrong), 2, **{"0": missing, "1": missing})
    assert call(preprocess_maestro, *arguments).code == 0
    wrong = settings("preprocess_config.test_segment_length=9")
    short = "3.000 s of audio, shorter than a clip of 9 s"
    assert_failed(
        call(preprocess_audio, "-d", data / "test", *arguments, *wrong), 2, **{"0_16000": short, "1_16000": short}
    )
    assert call(preprocess_audio, "-d", data / "test", *arguments).code == 0


def test_bad_midi_in_preprocessing(data):
    answers = bad_midis(data / "bad")
    for name, words in answers.items():
        target = data / "maestro/2004/0.midi"
        target.unlink(missing_ok=True)
        if name != "gone":
            shutil.copy(data / f"bad/{name}.mid", target)
        assert_failed(call(preprocess_maestro, "-c", data / "config.json", "--json", "--force"), 1, **{"0": words})
        assert not (data / "train/0.npy").exists()
    assert_no_partial_files(data)


# ---- full disk


@contextlib.contextmanager
def limited_files():
    """No file grows beyond SMALL_BYTES."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (SMALL_BYTES, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def full_disk(tmp_path):
    """A folder, a context in which it is full, and what is said then. A disk of 32 KiB where one can be mounted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SMALL_BYTES}", "none", str(folder)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True, check=False).returncode:
        yield folder, limited_files, "File too large"
        return
    yield folder, contextlib.nullcontext, "the disk is full"
    subprocess.run(["umount", str(folder)], check=True)


def test_full_disk_is_reported_in_plain_words(pipeline, full_disk):
    folder, full, words = full_disk
    calls = [
        (preprocess_maestro, "-c", pipeline.config, *settings(f"preprocess_config.out_dir={folder}/data")),
        (
            preprocess_audio,
            "-c",
            pipeline.config,
            "-d",
            folder / "test",
            *settings("preprocess_config.test_segment_length=2"),
        ),
        (inference, "-c", pipeline.config, "--out", folder / "out"),
        (train, "-c", pipeline.config, *settings(f"train_config.output_directory={folder}/run")),
    ]
    for arguments in calls:
        with full():
            outcome = call(*arguments)
        assert_refused(outcome, words)
        assert_no_partial_files(folder)
        for made in folder.iterdir():
            shutil.rmtree(made)
    with full():
        outcome = call(
            resample_audio, "-d", pipeline.folder / "maestro", "--hz", "22050", "--out_dir", folder, "--json"
        )
    assert_failed(outcome, 2, **dict.fromkeys("0123", words))
    assert read_files(folder) == {LOCK_NAME: b""}
