"""The tables of finished fine-tunings and their shares, and the random weights that some of them begin with."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch

from benchmarks import own_piano, own_piano_recordings, own_piano_shares, random_weights
from midi2wave.checkpoint import load_weights
from midi2wave.data.maestro import SPLITS, Recording, read_metadata
from midi2wave.evaluation import transcription
from midi2wave.finetuning import model_scores
from midi2wave.finetuning.blending import blend
from tests.helpers.pipeline import assert_refused, call
from tests.helpers.tiny_base import write_tiny_base

TRAINED = Path("run/step_00000400/weights.safetensors")


def write_scores(folder, model, distance, names):
    clips = [
        {
            "clip": f"clip_{k:03d}_{name}_1.000s",
            "chroma": {"value": 0.5, "topline": 1.0},
            "mrstft": {"value": distance + 0.1 * k, "topline": 0.0},
            "noise_excess_db": {"output": {"percentile_10": [10 * distance]}},
            "likelihood": {"true": 3.0, "shuffled": 3.5},
        }
        for k, name in enumerate(names)
    ]
    scores = {"per_clip": clips, "mrstft_topline": 0.0, "chroma_topline": 1.0}
    (folder / "evaluation" / model).mkdir(parents=True, exist_ok=True)
    (folder / "evaluation" / model / "scores.json").write_text(json.dumps(scores))


def write_result(folder, seconds, steps, distance, *, base="grand", names=("a", "b"), base_distance=2.0):
    phases = {
        "base": {"path": f"pretrained/{base}.safetensors"},
        "data": {"splits": {"train": {"seconds": seconds}}},
        "training": {"step": steps},
        "blending": {"share": 0.5},
    }
    write_scores(folder, "base", base_distance, names)
    write_scores(folder, "fine_tuned", distance, names)
    (folder / "finetune.json").write_text(json.dumps({"options": {"pieces": {"seed": 3}}, "phases": phases}))
    return folder


def write_trained(folder, base):
    """A result with the weights before and after its training."""
    write_result(folder, 600.0, 500, 1.8)
    write_tiny_base(folder / TRAINED, seed=1)
    record = json.loads((folder / "finetune.json").read_text())
    record["phases"]["base"] = {"path": str(base), "sha256": hashlib.sha256(base.read_bytes()).hexdigest()}
    record["phases"]["training"]["best_step"] = 400
    (folder / "finetune.json").write_text(json.dumps(record))
    return folder


@pytest.fixture
def scored(monkeypatch):
    """The weights that were played, by the name of their scores."""
    played = {}

    def evaluate(model, name, out, clips, transcriber):
        assert name not in played and clips == out / "clips"
        played[name] = load_weights(model)[0]
        write_scores(out, name, 1.5, ("a", "b"))
        (out / "evaluation" / name / "index.html").touch()

    monkeypatch.setattr(model_scores, "evaluate_model", evaluate)
    monkeypatch.setattr(transcription, "load_transcriber", lambda: None)
    return played


def test_shares_are_compared_on_the_test_clips(tmp_path, scored):
    """Neither the share that the fine-tuning chose is played again, nor what was scored by an earlier call."""
    base = write_tiny_base(tmp_path / "tiny.safetensors")
    folder = write_trained(tmp_path / "own", base)
    page = tmp_path / "page.md"
    page.write_text(f"{own_piano_shares.BEGIN}\n{own_piano_shares.END}\n")
    done = call(own_piano_shares, folder, "--shares", 0.25, 0.5, 1, "--page", page)
    assert done.code == 0, done.err
    assert list(scored) == ["test_share_0.25", "test_share_1"]
    before, after = load_weights(base)[0], load_weights(folder / TRAINED)[0]
    for name, share in (("test_share_0.25", 0.25), ("test_share_1", 1.0)):
        expected = blend(before, after, share)
        assert all(torch.equal(scored[name][key], one) for key, one in expected.items())
    row = "| tiny | 10.0 | 500 | 3 | 1.550; It worked | 1.850; It worked | 1.550; It worked |"
    assert row in page.read_text().splitlines()
    again = call(own_piano_shares, folder, "--shares", 0.25, 0.5, 1)
    assert again.code == 0 and row in again.out
    # What is not finished is done again, and so is what has lost its weights.
    (folder / "evaluation/test_share_1/index.html").unlink()
    (folder / "test_shares/0.25.safetensors").unlink()
    scored.clear()
    assert call(own_piano_shares, folder, "--shares", 0.25, 0.5, 1).code == 0
    assert list(scored) == ["test_share_0.25", "test_share_1"]


@pytest.mark.parametrize(
    ("change", "arguments", "words"),
    [
        (lambda folder: (folder / "finetune.json").unlink(), [], "holds no finished fine-tuning"),
        (lambda folder: shutil.rmtree(folder / "run"), [], "no checkpoint"),
        (lambda folder: write_tiny_base(folder.parent / "tiny.safetensors", seed=2), [], "has changed since"),
        (lambda folder: None, ["--shares", "2"], "expected 0 to 1"),
        (lambda folder: (folder / "page.md").touch(), ["--page", "own/page.md"], "expected the lines"),
    ],
)
def test_shares_that_cannot_be_compared_are_refused(tmp_path, monkeypatch, scored, change, arguments, words):
    monkeypatch.chdir(tmp_path)
    change(write_trained(tmp_path / "own", write_tiny_base(tmp_path / "tiny.safetensors")))
    assert_refused(call(own_piano_shares, "own", *arguments), words)
    assert not scored


def test_table_and_picture(tmp_path):
    """Sorted by base and minutes; differences are those from the base of the first folder."""
    folders = [write_result(tmp_path / str(n), 60.0 * n, 100 * n, 1.9 - n / 100) for n in (10, 2)]
    folders.append(write_result(tmp_path / "random", 60.0, 300, 2.5, base="random", base_distance=9.0))
    page = tmp_path / "page.md"
    page.write_text(f"before\n{own_piano.BEGIN}\nold\n{own_piano.END}\nafter\n")
    done = call(own_piano, *folders, "--page", page, "--out", tmp_path / "picture.png")
    assert done.code == 0, done.err
    lines = page.read_text().splitlines()
    rows = [
        line.split(" | chroma")[0].split(" | 0.500")[0].split(" | 1.000")[0] for line in lines if line.startswith("|")
    ]
    assert rows == [
        "| base | recordings, minutes | steps | seed | share | outcome | STFT distance | noise excess, dB",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
        "| topline |  |  |  |  |  | 0.000 | ",
        "| grand | 0 | 0 |  |  |  | 2.050 | 20.0",
        "| grand | 2.0 | 200 | 3 | 0.5 | It worked | 1.930 (-0.120 .. -0.120) | 18.8 (-1.2 .. -1.2)",
        "| grand | 10.0 | 1000 | 3 | 0.5 | It worked | 1.850 (-0.200 .. -0.200) | 18.0 (-2.0 .. -2.0)",
        "| random | 1.0 | 300 | 3 | 0.5 | It worked | 2.550 (+0.500 .. +0.500) | 25.0 (+5.0 .. +5.0)",
    ]
    assert "old" not in lines and lines[0] == "before" and lines[-1] == "after"
    assert (tmp_path / "picture.png").stat().st_size > 1000


@pytest.mark.parametrize("kind", ["unfinished", "no record", "a list", "no scores", "other clips"])
def test_what_cannot_be_compared_is_refused(tmp_path, kind):
    one = write_result(tmp_path / "one", 60.0, 1, 1.9)
    other = write_result(tmp_path / "other", 60.0, 1, 1.9, names=("a", "c") if kind == "other clips" else ("a", "b"))
    records = {"unfinished": '{"options": {}, "phases": {}}', "no record": "{}", "a list": "[]"}
    if kind in records:
        (other / "finetune.json").write_text(records[kind])
    elif kind == "no scores":
        (other / "evaluation/fine_tuned/scores.json").unlink()
    words = "different test clips" if kind == "other clips" else "no finished fine-tuning"
    assert_refused(call(own_piano, one, other), words)


def test_random_weights_have_the_shape_of_the_model(tmp_path):
    like = write_tiny_base(tmp_path / "like.safetensors", seed=5)
    out = tmp_path / "random.safetensors"
    assert call(random_weights, "-o", out, "--like", like).code == 0
    weights, config, step = load_weights(out)
    expected, expected_config, _ = load_weights(like)
    assert step == 0 and config == expected_config
    assert {name: one.shape for name, one in weights.items()} == {name: one.shape for name, one in expected.items()}
    assert any(not torch.equal(one, expected[name]) for name, one in weights.items())
    assert_refused(call(random_weights, "-o", out, "--like", like), "random.safetensors exists")


def test_the_recordings_of_the_page(tmp_path):
    """One recording for each beginning of a name, and one of the other year in each split."""
    beginnings = {
        one for some in (*own_piano_recordings.HELD_OUT.values(), *own_piano_recordings.TRAIN.values()) for one in some
    }
    names = [f"2009/{beginning or 'other_'}x.wav" for beginning in sorted(beginnings)]
    names += [f"2008/{split}.wav" for split in SPLITS]
    recordings = []
    for index, name in enumerate(names):
        midi = Path(name).with_suffix(".mid").as_posix()
        for one in (name, midi):
            (tmp_path / "in" / one).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "in" / one).write_text(one)
        split = Path(name).stem if "2008" in name else "train"
        recordings.append(Recording(index, "Bach", "Air, in G", split, int(name[:4]), midi, name, 60.0))
    own_piano_recordings.copy_recordings(tmp_path / "in", tmp_path / "all", recordings)
    done = call(own_piano_recordings, "-d", tmp_path / "all", "-o", tmp_path / "out", "--json")
    assert done.code == 0 and list(done.result["minutes"].values()) == [1, 5, 10, 11, 12]
    for amount in own_piano_recordings.TRAIN:
        selected = read_metadata(tmp_path / f"out/recordings_{amount}")
        held_out = {(one.audio_filename, one.split) for one in selected if one.split != "train"}
        assert len(held_out) == 6 and ("2009/scn15_9_x.wav", "validation") in held_out
        assert {one.title for one in selected} == {"Air, in G"}
        assert all((tmp_path / f"out/recordings_{amount}" / one.midi_filename).is_file() for one in selected)
    assert [one.audio_filename for one in selected if one.year == 2008] == ["2008/train.wav"]
    assert_refused(call(own_piano_recordings, "-d", tmp_path / "all", "-o", tmp_path / "out"), "recordings_2 exists")
    own_piano_recordings.copy_recordings(tmp_path / "in", tmp_path / "few", recordings[3:])
    refused = call(own_piano_recordings, "-d", tmp_path / "few", "-o", tmp_path / "new")
    assert_refused(refused, "no recording of 2009 whose name begins with chpn-p14_")
    assert not (tmp_path / "new").exists()
