"""What an inference's folder says of the model and its likelihoods, also on a rerun, and the order of its work."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import inference
from midi2wave import checkpoint
from midi2wave.audio import io as audio_io
from midi2wave.data import test_clips
from midi2wave.sampling import render, synthesis
from midi2wave.sampling.options import SamplingOptions
from tests.helpers.pipeline import HZ, assert_refused, call, modification_times, read_files, settings, write_midi


def test_retrained_model_is_another_model(pipeline, tmp_path):
    """Config and step are equal, the weights are not."""
    run = shutil.copytree(pipeline.folder / "run", tmp_path / "run")
    song = write_midi(tmp_path / "song.mid", [(0.0, 0.01, 60, 90)])
    overrides = settings(f"inference_config.model_filename={run}", "inference_config.tail_seconds=0")
    arguments = ("-c", pipeline.config, "--out", tmp_path / "out", *overrides, "--midi", song)
    assert call(inference, *arguments).code == 0
    assert "1 was there already" in call(inference, *arguments).out

    before = read_files(tmp_path / "out")
    path = run / "step_00000004/weights.safetensors"
    with safe_open(path, framework="pt") as stored:
        metadata = stored.metadata()
        tensors = {name: stored.get_tensor(name) + 0.1 for name in stored.keys()}  # noqa: SIM118 - not a dictionary
    save_file(tensors, path, metadata)
    assert_refused(call(inference, *arguments), "results of another config", "--force")
    assert read_files(tmp_path / "out") == before
    assert call(inference, *arguments, "--force").code == 0
    assert read_files(tmp_path / "out")["song.wav"] != before["song.wav"]


@pytest.fixture
def clips(pipeline, tmp_path):
    """The pipeline's clips, the second one cut to half its length."""
    folder = shutil.copytree(pipeline.folder / "test", tmp_path / "test")
    path = sorted(folder.glob("clip_*.wav"))[1]
    pcm = audio_io.read_pcm(path, HZ)
    audio_io.write_wav(path, pcm[: len(pcm) // 2], HZ)
    return folder


def test_likelihoods_are_reported_on_a_rerun(pipeline, clips, tmp_path):
    """Likelihoods of clips that an earlier run made are reported too."""
    overrides = settings(f"inference_config.test_dir={clips}", "inference_config.mode=teacher_forced")
    arguments = ("-c", pipeline.config, "--out", tmp_path / "out", *overrides)
    model, config, _ = checkpoint.load_model(pipeline.folder / "run", torch.device("cpu"))
    expected, n_samples = {}, []
    for path in test_clips.clip_paths(clips):
        clip = test_clips.read_clip(path, HZ)
        _, nll = synthesis.teacher_forced(
            model, [clip.performance], clip.pcm[None], config.data_config, options=SamplingOptions(seed=0), streams=[0]
        )
        expected[f"{clip.name}_teacher_forced"] = nll
        n_samples.append(len(clip.pcm))
    first, second = expected.values()
    mean = (2 * first + second) / 3
    assert n_samples[0] == 2 * n_samples[1] and abs(first - second) > 1e-3  # or the test would not see the weights

    made = call(inference, *arguments)
    assert made.code == 0 and f"; mean NLL {mean:.4f} nats per sample; listen: " in made.out
    written = modification_times(tmp_path / "out")
    again = call(inference, *arguments, "--json")
    assert again.result["nll"] == pytest.approx(expected, rel=1e-6)
    assert again.result["mean_nll"] == pytest.approx(mean, rel=1e-6)
    assert all(
        modification_times(tmp_path / "out")[name] == written[name] for name in written if name != inference.PAGE_NAME
    )
    page = (tmp_path / "out/index.html").read_text(encoding="utf-8")
    for name, nll in expected.items():
        assert f"<h2>{name}</h2>\n<p>NLL of the recording: {nll:.4f} nats per sample</p>" in page

    lost = next(iter(expected))
    (tmp_path / f"out/{lost}.json").write_text("{")  # without its number a clip is not finished
    mended = call(inference, *arguments, "--json")
    assert mended.result["nll"] == pytest.approx(expected, rel=1e-6)
    assert json.loads((tmp_path / f"out/{lost}.json").read_text())["nll"] == mended.result["nll"][lost]


def test_other_modes_have_no_likelihood(pipeline):
    result = pipeline.commands["output"].result
    assert (result["nll"], result["mean_nll"]) == ({}, None)
    assert "NLL" not in (pipeline.folder / "output/index.html").read_text(encoding="utf-8")


def test_guidance_changes_samples_and_is_reported(pipeline, tmp_path):
    song = write_midi(tmp_path / "song.mid", [(0.0, 0.05, 60, 90)])
    sounds = {}
    for guidance in (1, 0, 3):
        overrides = settings("inference_config.tail_seconds=0", f"inference_config.guidance={guidance}")
        out = tmp_path / str(guidance)
        made = call(inference, "-c", pipeline.config, "--out", out, *overrides, "--midi", song)
        assert made.code == 0 and ("silence stands for no MIDI" in made.err) == (guidance != 1)
        assert "guidance" in (out / "index.html").read_text(encoding="utf-8")
        sounds[guidance] = audio_io.read_pcm(out / "song.wav", HZ)
    assert all(np.mean(sounds[one] != sounds[1]) > 0.1 for one in (0, 3))
    overrides = settings("inference_config.guidance=-1")
    assert_refused(
        call(inference, "-c", pipeline.config, "--out", tmp_path / "out", *overrides, "--midi", song), "guidance", "-1"
    )


def test_pieces_are_batched_by_length_and_listed_in_order(pipeline, tmp_path, monkeypatch):
    seconds = {"d": 0.04, "a": 0.008, "c": 0.035, "b": 0.012}
    songs = [write_midi(tmp_path / f"{name}.mid", [(0.0, end, 60, 90)]) for name, end in seconds.items()]
    batches, synthesize = [], render.synthesize

    def noted(model, performances, n_frames, *rest, **options):
        batches.append((n_frames, options["streams"]))
        return synthesize(model, performances, n_frames, *rest, **options)

    monkeypatch.setattr(render, "synthesize", noted)
    samples = []
    for batch_size in (2, 1):
        overrides = settings("inference_config.tail_seconds=0", f"inference_config.batch_size={batch_size}")
        out = tmp_path / str(batch_size)
        done = call(inference, "-c", pipeline.config, "--out", out, "--json", *overrides, "--midi", *songs)
        assert done.result["wavs"] == ["d.wav", "a.wav", "c.wav", "b.wav"]
        page = (out / "index.html").read_text(encoding="utf-8")
        assert np.all(np.diff([page.index(f"<h2>{name}</h2>") for name in seconds]) > 0)
        samples.append([audio_io.read_pcm(out / f"{name}.wav", HZ) for name in seconds])
    assert batches[:2] == [(3, [1, 3]), (10, [2, 0])]
    assert all(np.array_equal(a, b) for a, b in zip(*samples, strict=True))


def test_clip_that_ends_with_its_prompt_is_refused(pipeline, tmp_path):
    """Rounded to frames teacher_length is all of it, though it is a little less."""
    clip = min(test_clips.clip_paths(pipeline.folder / "test"), key=lambda path: path.name)
    frames = len(test_clips.read_clip(clip, HZ).pcm) // (HZ // 250)
    overrides = settings(f"inference_config.teacher_length={(frames - 0.4) / 250}")
    made = call(inference, "-c", pipeline.config, "--out", tmp_path / "out", *overrides)
    assert made.code == 2 and f"{clip.stem}: has" in made.err and "nothing is left" in made.err


def test_note_without_length(pipeline, tmp_path):
    """A note without length is a piece or said to be none."""
    song = write_midi(tmp_path / "song.mid", [(0.0, 0.0, 60, 90)])
    arguments = ("-c", pipeline.config, "--out", tmp_path / "out", *settings("inference_config.tail_seconds=0"))
    made = call(inference, *arguments, "--midi", song)
    assert made.code == 2 and "song.mid: ends as it begins; raise inference_config.tail_seconds" in made.err
