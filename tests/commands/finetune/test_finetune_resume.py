"""finetune.py after an interruption, a full disk, and with options or recordings that have changed."""

import errno
import functools
import os
import re
import signal

import pytest

import finetune
from midi2wave.checkpoint import stored_licences
from midi2wave.data import clip_cutting, preprocessing
from midi2wave.data.processed_folder import ProcessedFolder
from midi2wave.evaluation import synthesizer
from midi2wave.finetuning import comparison, pipeline, schedule
from midi2wave.utils import atomic_files
from midi2wave.utils.atomic_files import remove
from midi2wave.utils.signals import Interrupted
from tests.helpers.pipeline import (
    assert_refused,
    call,
    melody,
    modification_times,
    write_audio,
    write_midi,
)
from tests.helpers.short_finetuning import SECONDS, pairs_of_equal_stems, stop, write_recordings
from tests.helpers.tiny_base import write_tiny_base


def test_the_same_command_goes_on_after_an_interruption(arguments, tmp_path, monkeypatch):
    """Nothing that is finished is made again: phases, training steps, the base model's clips."""
    evaluate_model = pipeline.evaluate_model

    def interrupt_at(last, model, name, *rest):
        if name == last:
            raise Interrupted(signal.SIGTERM)
        return evaluate_model(model, name, *rest)

    monkeypatch.setattr(pipeline, "evaluate_model", functools.partial(interrupt_at, "validation/share_1"))
    assert call(finetune, *arguments).code == 143
    first_times = modification_times(tmp_path / "mine/evaluation/validation")
    monkeypatch.setattr(pipeline, "evaluate_model", functools.partial(interrupt_at, comparison.TUNED_NAME))
    assert call(finetune, *arguments).code == 143
    clips = [name for name in first_times if "/clip_" in name and name.endswith(".wav")]
    assert {name.split("/")[0] for name in clips} == {"base", "share_0.75"}
    assert all(modification_times(tmp_path / "mine/evaluation/validation")[name] == first_times[name] for name in clips)
    before = modification_times(tmp_path / "mine")
    monkeypatch.setattr(pipeline, "evaluate_model", evaluate_model)
    monkeypatch.setattr(pipeline, "run_training", None)
    done = call(finetune, *arguments)
    assert done.code == 0, done.err
    after = modification_times(tmp_path / "mine")
    expected = [name for name in before if name.endswith((".npy", ".safetensors")) or "evaluation/base/clip" in name]
    assert expected and all(after[name] == before[name] for name in expected if not name.endswith(".png"))
    assert call(finetune, *arguments, "--licence", "CC0").code == 0
    assert '"licence":"CC0"' in (tmp_path / "mine/mine.safetensors").read_bytes()[:100_000].decode(errors="replace")


def test_a_training_that_is_stopped_goes_on(arguments, tmp_path, monkeypatch):
    run_training = pipeline.run_training

    def stop_at_half(config, *, force):
        steps = config.train_config.steps // 2
        run, training_log, _ = run_training(schedule.with_steps(config, steps, 2), force=force)
        assert run.step == steps
        return run, training_log, 143

    monkeypatch.setattr(pipeline, "run_training", stop_at_half)
    assert call(finetune, *arguments).code == 143
    monkeypatch.setattr(pipeline, "run_training", run_training)
    done = call(finetune, *arguments)
    assert done.code == 0 and "going on from step" in done.err
    steps, finished = re.search(
        r"training: (\d+) steps of .*, of which (\d+) are done; 0\.0 minutes", done.err
    ).groups()
    assert int(finished) == int(steps) // 2


def interrupt(monkeypatch, owner, name, is_last):
    """Have a function do its work, and then be interrupted for the arguments for which `is_last` holds."""
    function = getattr(owner, name)

    def interrupted(*args, **options):
        if name == "run_training":
            args = (schedule.with_steps(args[0], args[0].train_config.steps // 2, 1),)
        result = function(*args, **options)
        if is_last(*args):
            raise Interrupted(signal.SIGTERM)
        return result

    monkeypatch.setattr(owner, name, interrupted)


# Where the first call ends: in the function of this name, once its arguments fulfil the condition. Then what it has
# made, and the second call leaves as it is.
INTERRUPTIONS = {
    "in the processed folder": (
        preprocessing,
        "write_recording",
        lambda folder, row, *_: folder.name == "train" and row.index > 0,
        "data/train/0.npy",
    ),
    "in the test clips": (
        clip_cutting,
        "write_clip",
        lambda _, name, *__: name.startswith("clip_001"),
        "data/*/*.npy",
    ),
    "after the labels": (pipeline.label_refinement, "refine", lambda *_: True, "data/train/*.npy"),
    "in the training": (pipeline, "run_training", lambda *_: True, "run/step_00000002/*"),
    "in the clips of a share": (
        synthesizer,
        "write_wav",
        lambda path, *_: path.parent.name == "share_0.75",
        "evaluation/validation/base/clip_*.wav",
    ),
    "before the share is recorded": (
        pipeline.blending,
        "choose_share",
        lambda *_: True,
        "evaluation/validation/*/clip_*.wav",
    ),
    "in the clips of the comparison": (
        synthesizer,
        "write_wav",
        lambda path, *_: path.parent.name == comparison.TUNED_NAME,
        "evaluation/base/clip_*.wav",
    ),
}


@pytest.mark.parametrize("moved", [False, True])
@pytest.mark.parametrize("place", INTERRUPTIONS)
def test_it_goes_on_from_another_working_folder(recordings, base, tmp_path, monkeypatch, place, moved):
    """The folders are given by relative names, and the output folder may be moved too; what is finished stays."""
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()

    def arguments(out):
        folder = os.path.relpath(recordings)
        return ["-d", folder, "-o", out, "--base", os.path.relpath(base), "--steps", 4, "--device", "cpu"]

    def times(out):
        return {path.relative_to(out): path.stat().st_mtime_ns for path in out.glob(pattern)}

    owner, name, is_last, pattern = INTERRUPTIONS[place]
    monkeypatch.chdir(first)
    with monkeypatch.context() as patches:
        interrupt(patches, owner, name, is_last)
        assert call(finetune, *arguments("mine")).code == 143
    before = times(first / "mine")
    monkeypatch.chdir(second)
    if moved:
        (first / "mine").rename(second / "moved")
    out = "moved" if moved else "../first/mine"
    done = call(finetune, *arguments(out))
    assert done.code == 0, done.err
    assert "made again" not in done.err
    after = times(second / out)
    assert before and all(after[path] == time for path, time in before.items())
    assert (second / out / "mine.safetensors").is_file()


def test_a_finished_model_needs_no_recordings(base, tmp_path):
    """A licence is stated after the recordings were moved, and then after they are gone."""
    folder = write_recordings(tmp_path / "in")
    options = ["--base", base, "--steps", 4, "--device", "cpu"]
    assert call(finetune, "-d", folder, "-o", tmp_path / "mine", *options).code == 0
    (tmp_path / "mine").rename(tmp_path / "renamed")
    remove(tmp_path / "renamed/blended.safetensors")
    folder.rename(tmp_path / "elsewhere")
    for source, licence in (("elsewhere", "CC0"), ("nowhere", "CC BY 4.0")):
        arguments = ["-d", tmp_path / source, "-o", tmp_path / "renamed", *options, "--licence", licence]
        done = call(finetune, *arguments)
        assert done.code == 0, done.err
        assert ("nowhere is not there" in done.err) == (source == "nowhere")
        (weights,) = (tmp_path / "renamed").glob("*.safetensors")
        assert weights.name == "mine.safetensors" and stored_licences(weights)[0] == licence


def test_changed_options_make_anew_what_depends_on_them(arguments, tmp_path, monkeypatch, base):
    """Before the training; with a checkpoint they are refused, and nothing is lost."""
    monkeypatch.setattr(pipeline, "run_training", stop)
    assert call(finetune, *arguments).code == 130
    before = modification_times(tmp_path / "mine")
    longer = [*arguments, "--minutes", "0.04"]
    done = call(finetune, *longer)
    assert done.code == 130 and "minutes = 0.04 instead of 0.02" in done.err
    after = modification_times(tmp_path / "mine")
    assert all(after[name] == before[name] for name in before if name.startswith(("data/", "audio/")))
    done = call(finetune, *longer, "--hold_out", "0.2")
    assert done.code == 130 and "hold_out = 0.2 instead of 0.1" in done.err
    folder = ProcessedFolder(tmp_path / "mine/data/test")
    assert len(folder.pcm(0)) == pytest.approx(0.2 * SECONDS * 16000, abs=2)
    monkeypatch.undo()
    monkeypatch.setattr(pipeline, "check_recordings", pairs_of_equal_stems)
    steps = tmp_path / "mine/run/step_00000001"
    steps.mkdir(parents=True)
    (steps / "weights.safetensors").write_bytes(base.read_bytes())
    refused = call(finetune, *longer, "--hold_out", "0.3")
    assert_refused(refused, "hold_out = 0.3 instead of 0.2", "another folder")
    assert ProcessedFolder(tmp_path / "mine/data/test").pcm(0).shape == folder.pcm(0).shape


def test_recordings_that_are_added_after_a_refusal_are_used(tmp_path, base):
    options = ["-d", tmp_path / "in", "-o", tmp_path / "out", "--base", base, "--steps", "4", "--device", "cpu"]
    for number, words in ((0, "34 s of usable recordings"), (1, None)):
        write_midi(tmp_path / f"in/{number}.mid", melody(number, 34.0))
        write_audio(tmp_path / f"in/{number}.wav", melody(number, 34.0), seconds=34.0)
        done = call(finetune, *options)
        if words:
            assert_refused(done, words)
    assert done.code == 0, done.err
    assert "2 of 2 recordings usable" in done.err
    write_midi(tmp_path / "in/late.mid", melody(5, 34.0))
    done = call(finetune, *options)
    assert done.code == 0 and "and not used: late.mid; another folder" in done.err
    write_midi(tmp_path / "in/0.mid", melody(6, 30.0))
    done = call(finetune, *options)  # All that is needed of it is in the output folder.
    assert done.code == 0 and "and not used: 0.mid, late.mid; another folder" in done.err


def test_a_base_that_has_changed_is_refused(arguments, tmp_path, monkeypatch):
    own = write_tiny_base(tmp_path / "own.safetensors")
    monkeypatch.setattr(pipeline, "run_training", stop)
    assert call(finetune, *arguments, "--base", own).code == 130
    monkeypatch.chdir(tmp_path)
    done = call(finetune, *arguments, "--base", "own.safetensors")  # The same file.
    assert done.code == 130 and "made again" not in done.err
    write_tiny_base(own, seed=1)
    assert_refused(call(finetune, *arguments, "--base", own), "own.safetensors has changed since")


@pytest.mark.parametrize(
    "file",
    ["data/train/.*npy", r"run/step_\d+$", r"evaluation/fine_tuned/.*\.wav", "model_card.md"],
)
def test_a_full_disk_is_one_line_and_the_same_command_goes_on(arguments, tmp_path, monkeypatch, file):
    replace = atomic_files.replace

    def full(source, target):
        if re.search(f"mine/{file}", target.as_posix()):
            raise OSError(errno.ENOSPC, "No space left on device", str(target))
        replace(source, target)

    monkeypatch.setattr(atomic_files, "replace", full)
    assert_refused(call(finetune, *arguments), "the disk is full")
    monkeypatch.setattr(atomic_files, "replace", replace)
    done = call(finetune, *arguments)
    assert done.code == 0, done.err
