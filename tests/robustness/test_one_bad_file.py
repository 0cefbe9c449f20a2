"""One bad file of many is listed at the end with exit code 1, and the others are done, in every command."""

import shutil

import numpy as np

import evaluate
import inference
import preprocess_audio
import preprocess_maestro
import resample_audio
from midi2wave.utils.file_names import MAX_NAME_BYTES
from tests.helpers.forbidden import forbid, forbid_replacing
from tests.helpers.pipeline import (
    assert_failed,
    assert_no_partial_files,
    call,
    melody,
    read_wav,
    read_wavs,
    settings,
    write_audio,
    write_config,
    write_maestro,
    write_midi,
)

KANA = "エリーゼのために" * 9  # 72 characters of three bytes
# The longest name that a file system takes.
MAX_STEM = "x" * (MAX_NAME_BYTES - len(".mid"))


def write_pairs(folder, *names):
    for number, name in enumerate(names):
        write_midi(folder / f"{name}.mid", melody(number))
        write_audio(folder / f"{name}.wav", melody(number))
    return settings("preprocess_config.maestro_dir=", f"preprocess_config.audio_dir={folder}")


def test_long_names_go_through_resampling_and_clips(tmp_path):
    overrides = write_pairs(tmp_path / "pairs", "a", KANA, MAX_STEM)
    resampled = call(resample_audio, "-d", tmp_path / "pairs", "--hz", "8000", "--json")
    assert (resampled.code, resampled.result["files"]) == (0, 3)
    assert call(resample_audio, "-d", tmp_path / "pairs", "--hz", "8000", "--json").result["already_done"] == 3
    config = write_config(tmp_path)
    options = settings("preprocess_config.audio_hz=8000", "preprocess_config.n_clips=3")
    clips = call(preprocess_audio, "-d", tmp_path / "clips", "-c", config, "--json", *overrides, *options)
    assert (clips.code, len(clips.result["clips"])) == (0, 3)
    assert {name.split("_")[2][:8] for name in clips.result["clips"]} == {"a", KANA[:8], "x" * 8}
    assert_no_partial_files(tmp_path)


def test_long_names_are_played(pipeline, tmp_path):
    paths = [write_midi(tmp_path / f"{name}.mid", melody(0, 0.1)) for name in ("a", KANA, MAX_STEM)]
    options = ("-c", pipeline.config, "--out", tmp_path / "out", "--json")
    done = call(inference, *options, "--midi", *paths)
    assert (done.code, len(done.result["wavs"])) == (0, 3)
    assert len(read_wavs(tmp_path / "out")) == 3
    assert_no_partial_files(tmp_path)
    clips = tmp_path / "test"
    shutil.copytree(pipeline.folder / "test", clips)
    for path in sorted(clips.glob("clip_000*")):
        path.rename(clips / f"clip_000_{MAX_STEM[:200]}_0.000s{path.suffix}")
    played = call(inference, *options[:2], "--out", tmp_path / "clips", *settings(f"inference_config.test_dir={clips}"))
    assert played.code == 0, played.err


def test_file_without_permission_leaves_the_other_clips(tmp_path, monkeypatch):
    overrides = write_pairs(tmp_path / "pairs", "a", "b", "c")
    forbid(monkeypatch, tmp_path / "pairs/a.wav", tmp_path / "pairs/b.mid")
    arguments = ("-d", tmp_path / "clips", "-c", write_config(tmp_path), "--json", *overrides)
    done = call(preprocess_audio, *arguments, *settings("preprocess_config.n_clips=3"))
    assert_failed(done, 1, a="no permission for ", b="no permission for ")
    assert {name.split("_")[2] for name in done.result["clips"]} == {"c"}


def test_file_without_permission_leaves_the_other_pieces(pipeline, tmp_path, monkeypatch):
    paths = [write_midi(tmp_path / f"{name}.mid", melody(0, 0.1)) for name in ("a", "b")]
    forbid(monkeypatch, paths[0])
    done = call(inference, "-c", pipeline.config, "--out", tmp_path / "out", "--json", "--midi", *paths)
    assert_failed(done, 1, a="no permission for ")
    assert done.result["wavs"] == ["b.wav"]


def test_clip_without_permission_leaves_the_others(pipeline, tmp_path, monkeypatch):
    clips = tmp_path / "test"
    shutil.copytree(pipeline.folder / "test", clips)
    first = min(clips.glob("clip_*.wav"))
    forbid(monkeypatch, first)
    options = settings(f"inference_config.test_dir={clips}", "inference_config.mode=free")
    done = call(inference, "-c", pipeline.config, "--out", tmp_path / "out", "--json", *options)
    assert done.code == 1 and [failure["item"] for failure in done.result["failures"]] == [first.stem]
    assert len(done.result["wavs"]) == 1


def test_file_without_permission_leaves_the_other_recordings(tmp_path, monkeypatch):
    write_maestro(tmp_path / "maestro", ["train", "train", "train"])
    forbid(monkeypatch, tmp_path / "maestro/2004/0_16000.wav", tmp_path / "maestro/2004/1.midi")
    done = call(preprocess_maestro, "-c", write_config(tmp_path), "--json")
    assert_failed(done, 1, **{"0": "no permission for ", "1": "no permission for "})
    assert done.result["recordings"] == 1
    forbid(monkeypatch, tmp_path / "maestro/2004/0_16000.wav")
    (tmp_path / "maestro/maestro-v2.0.0.csv").unlink()
    done = call(resample_audio, "-d", tmp_path / "maestro", "--hz", "8000", "--json")
    assert_failed(done, 1, **{"0_16000": "no permission for "})
    assert done.result["files"] == 2


def test_file_that_cannot_be_written_leaves_the_other_pieces(pipeline, tmp_path, monkeypatch):
    """Whether it is seen before the work or only while it is written, in a batch of all pieces."""
    paths = [write_midi(tmp_path / f"{name}.mid", melody(0, 0.1)) for name in ("a", "b", "c")]
    arguments = ("-c", pipeline.config, "--json", "--midi")
    assert call(inference, "--out", tmp_path / "expected", *arguments, *paths).code == 0
    assert call(inference, "--out", tmp_path / "out", *arguments, tmp_path / "no.mid").code == 2
    write_midi(tmp_path / "d.mid", melody(0, 0.1))
    assert call(inference, "--out", tmp_path / "out", *arguments, tmp_path / "d.mid").code == 0
    (tmp_path / "out/c.wav").mkdir()
    forbid_replacing(monkeypatch, tmp_path / "out/b.wav")
    done = call(inference, "--out", tmp_path / "out", *arguments, *paths)
    assert_failed(done, 1, b="no permission for ", c="did not make it")
    assert done.result["wavs"] == ["a.wav"]
    assert np.array_equal(read_wav(tmp_path / "out/a.wav"), read_wav(tmp_path / "expected/a.wav"))
    assert_no_partial_files(tmp_path)


def test_clip_without_permission_leaves_the_other_scores(pipeline, tmp_path, monkeypatch):
    clips = tmp_path / "test"
    shutil.copytree(pipeline.folder / "test", clips)
    for path in clips.glob("clip_000*"):
        for number in (8, 9):
            shutil.copy(path, clips / path.name.replace("clip_000", f"clip_00{number}"))
    first, *others = sorted(clips.glob("clip_*.wav"))
    forbid(monkeypatch, first)
    options = settings(
        f"evaluate_config.model_filename={pipeline.folder}/run",
        f"evaluate_config.test_dir={clips}",
        f"evaluate_config.output_dir={tmp_path}/out",
        "evaluate_config.counterfactuals=false",
        "evaluate_config.device=cpu",
    )
    done = call(evaluate, "-c", pipeline.config, *options, "--json")
    assert done.code == 1, done.err
    assert [failure["item"] for failure in done.result["failures"]] == [first.stem]
    assert {path.stem for path in (tmp_path / "out").glob("clip_*[0-9]s.wav")} == {path.stem for path in others}
