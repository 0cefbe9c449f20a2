"""Continuing any audio (inference.py --prompt), which ends at time 0 of the piece."""

from dataclasses import replace

import numpy as np
import pytest
import soundfile
import torch

import inference
from midi2wave.audio import io as audio_io
from midi2wave.audio.pre_emphasis import Deemphasis
from midi2wave.audio.source import BLOCK_FRAMES, AudioSource
from midi2wave.midi.performance import Performance
from midi2wave.sampling.options import SamplingOptions
from midi2wave.sampling.synthesis import conditioning, synthesize, to_pcm, to_samples
from midi2wave.sampling.uniforms import seeded_uniforms
from midi2wave.utils.errors import InputError
from tests.helpers.exportable_models import NO_MIDI, inference_file, save
from tests.helpers.exportable_models import make as make_unconditional
from tests.helpers.pipeline import (
    HZ,
    assert_refused,
    call,
    melody,
    modification_times,
    read_files,
    settings,
    write_audio,
    write_midi,
)
from tests.helpers.synthesis_models import HOP, N_FRAMES, make, make_pcm, make_performance, play

BEFORE = 4  # frames of prompt


def later(piece: Performance, frames: int) -> Performance:
    return replace(piece, onset=piece.onset + frames / 250, offset=piece.offset + frames / 250)


def continue_prompt(model, data, prompt, sampler, pieces) -> np.ndarray:
    """The continuation of a prompt int16 [B, BEFORE * HOP]: int16 [B, N_FRAMES * HOP]."""
    blocks = synthesize(
        model,
        pieces,
        BEFORE + N_FRAMES,
        data,
        options=SamplingOptions(seed=5, sampler=sampler, threads=1),
        streams=[0, 1],
        prefix=prompt,
        first_frames=[-BEFORE] * len(pieces),
    )
    return np.concatenate(list(blocks), axis=1)[:, BEFORE * HOP :]


@pytest.mark.parametrize("sampler", ["torch", "numba"])
@pytest.mark.parametrize("output", ["logistic_mixture", "categorical"])
@pytest.mark.parametrize("preemphasis", [0.0, 0.9])
def test_teacher_forced_after_prompt_draws_the_output(output, sampler, preemphasis):
    """Cached and teacher-forced agree: with the piece moved behind the prompt and the uniforms of the piece's time."""
    model, data = make(output)
    data = replace(data, preemphasis=preemphasis)
    pieces, prompt = [make_performance(0), make_performance(1)], make_pcm(2, BEFORE)
    made = continue_prompt(model, data, prompt, sampler, pieces)
    assert made.shape == (2, N_FRAMES * HOP)

    prompt_samples = to_samples(model, prompt, data)
    raw = to_pcm(model, prompt_samples, data)
    uniforms = seeded_uniforms(5, [0, 1], model.uniforms_per_sample)(0, N_FRAMES * HOP)
    moved = conditioning([later(piece, BEFORE) for piece in pieces], data, torch.device("cpu"))
    context, excitation = moved.block(model, 0, BEFORE + N_FRAMES)
    own_samples = torch.zeros(2, N_FRAMES * HOP, dtype=torch.long)
    with torch.inference_mode():
        for i in range(N_FRAMES * HOP):  # a whole parallel pass for every sample: no cache is left that could err
            history = model.decoder.prepend_silence(torch.cat([prompt_samples, own_samples], dim=1))
            params = model.decoder(history, context, excitation)[:, :, BEFORE * HOP + i : BEFORE * HOP + i + 1]
            own_samples[:, i] = model.draw(params, uniforms[:, i : i + 1])[:, 0]
    deemphasis = Deemphasis(preemphasis)
    deemphasis(raw)
    expected = deemphasis(to_pcm(model, own_samples, data))
    # A sum in another order may move a 16-bit sample over a rounding edge, and the histories part there.
    same = np.abs(made.astype(int) - expected) <= 2
    assert same[:, : 2 * HOP].all() and same.mean() > (0.99 if output == "categorical" else 0.9)


def test_prompt_matters_and_differs_from_silence():
    model, data = make("logistic_mixture")
    pieces, prompt = [make_performance(0), make_performance(1)], make_pcm(2, BEFORE)
    made = continue_prompt(model, data, prompt, "numba", pieces)
    assert np.mean(made[:, :HOP] != continue_prompt(model, data, prompt // 8, "numba", pieces)[:, :HOP]) > 0.3
    quiet = [Performance(*(values[:0] for values in (p.onset, p.offset, p.pitch, p.velocity)), {}) for p in pieces]
    assert np.mean(made[:, HOP:] != continue_prompt(model, data, prompt, "numba", quiet)[:, HOP:]) > 0.3
    assert np.mean(made[:, :4] != play(model, data, pieces, [0, 1], threads=1)[:, :4]) > 0.3  # of silence


@pytest.mark.parametrize(("suffix", "audio_hz", "channels"), [("wav", HZ, 1), ("flac", 44100, 2), ("ogg", 8000, 2)])
def test_read_beginning_equals_resample_audio(tmp_path, suffix, audio_hz, channels):
    path = write_audio(tmp_path / f"a.{suffix}", melody(0), audio_hz, channels)
    audio_io.resample_file(path, tmp_path / "whole.wav", HZ)
    whole = audio_io.read_pcm(tmp_path / "whole.wav", HZ)
    for n_samples in (1, 777, HZ, len(whole)):
        assert np.array_equal(audio_io.read_beginning(path, HZ, n_samples), whole[:n_samples])
    with pytest.raises(InputError, match=r"a\.\w+ has only 3\.000 s, expected at least 3\.5 s"):
        audio_io.read_beginning(path, HZ, 7 * HZ // 2)


def test_a_long_file_is_not_read_to_its_end(tmp_path, monkeypatch):
    soundfile.write(tmp_path / "long.wav", np.zeros(100 * BLOCK_FRAMES, dtype=np.int16), HZ)
    blocks, n_read = AudioSource.blocks, []

    def counted(opened):
        for block in blocks(opened):
            n_read.append(len(block))
            yield block

    monkeypatch.setattr(AudioSource, "blocks", counted)
    audio_io.read_beginning(tmp_path / "long.wav", HZ, BLOCK_FRAMES + 1)
    assert len(n_read) == 2


@pytest.fixture
def prompt(tmp_path):
    return write_audio(tmp_path / "prompt.flac", melody(5), 44100, 2)


def test_midi_files_continue_any_audio(pipeline, prompt, tmp_path):
    song, other = (write_midi(tmp_path / f"{n}.mid", [(0.0, 0.02, 60 + n, 90)]) for n in (0, 1))
    out, arguments = tmp_path / "out", ("-c", pipeline.config, *settings("inference_config.tail_seconds=0"))
    arguments, midi = (*arguments, "--prompt_seconds", "0.1"), ("--midi", song, other)
    prompted = (*arguments, "--out", out, "--prompt", prompt, *midi)
    done = call(inference, *prompted, "--json")
    assert done.code == 0 and done.result["mode"] == "prompted" and done.result["wavs"] == ["0.wav", "1.wav"]
    assert call(inference, *arguments[:-2], "--out", tmp_path / "free", *midi).code == 0
    for name in done.result["wavs"]:
        sounds = [audio_io.read_pcm(folder / name, HZ) for folder in (out, tmp_path / "free")]
        assert len(sounds[0]) == len(sounds[1]) == 0.02 * HZ  # of the prompt nothing is in the wav
        assert not np.array_equal(sounds[0][:8], sounds[1][:8])
    assert "0.1 s of prompt.flac, before each piece" in (out / "index.html").read_text(encoding="utf-8")

    before = read_files(out)
    assert "2 were there already" in call(inference, *prompted).out
    renamed = prompt.rename(tmp_path / "renamed.flac")  # the same sound
    assert "2 were there already" in call(inference, *arguments, "--out", out, "--prompt", renamed, *midi).out
    other_prompt = write_audio(tmp_path / "b.wav", melody(6))
    for extra_options in (["--prompt", other_prompt], ["--prompt", renamed, "--prompt_seconds", "0.2"]):
        assert_refused(
            call(inference, *arguments, "--out", out, *extra_options, *midi), "results of another config", "--force"
        )
    assert_refused(call(inference, *arguments[:-2], "--out", out, *midi), "results of another config")
    assert {name: before[name] for name in before if name != "index.html"} == {
        name: content for name, content in read_files(out).items() if name != "index.html"
    }


@pytest.mark.parametrize("mode", ["prompted", "free"])
def test_clips_continue_the_prompt_not_their_truth(pipeline, prompt, tmp_path, mode):
    extra_options = (*settings(f"inference_config.mode={mode}"), "--prompt", prompt, "--prompt_seconds", "0.1")
    done = call(inference, "-c", pipeline.config, "--out", tmp_path / "out", "--json", *extra_options)
    assert done.code == 0 and done.result["mode"] == "prompted"
    for name in done.result["wavs"]:
        assert name.endswith("_prompted.wav")
        output, of_truth = (
            audio_io.read_pcm(folder / name, HZ) for folder in (tmp_path / "out", pipeline.folder / "output")
        )
        truth = audio_io.read_pcm(tmp_path / "out" / name.replace(".wav", "_truth.wav"), HZ)
        assert len(output) == len(truth) == len(of_truth)
        assert np.mean(output[:640] != truth[:640]) > 0.3 and np.array_equal(of_truth[:640], truth[:640])


def test_a_short_clip_is_played_whole_after_a_long_prompt(pipeline, prompt, tmp_path):
    """teacher_length is of the clip's own truth: it plays no part here."""
    extra_options = (*settings("inference_config.teacher_length=5"), "--prompt", prompt)
    assert call(inference, "-c", pipeline.config, "--out", tmp_path / "out", *extra_options).code == 0
    of_truth = call(inference, "-c", pipeline.config, "--out", tmp_path / "b", *extra_options[:2])
    assert of_truth.code == 2 and of_truth.err.count("nothing is left") == 2


@pytest.mark.parametrize(
    ("extra_options", "words"),
    [
        (["--prompt_seconds", "4"], ["prompt.flac has only 3.000 s", "at least 4 s"]),
        (["--prompt_seconds", "0"], ["--prompt_seconds 0", "more than 0"]),
        (["--prime_seconds", "nan"], ["--prompt_seconds nan"]),
        (settings("inference_config.mode=teacher_forced"), ["teacher_forced", "inference_config.mode=prompted"]),
        (["--prime", "/no/such.wav"], ["/no/such.wav", "no such audio file"]),
    ],
)
def test_impossible_prompts(pipeline, prompt, tmp_path, extra_options, words):
    out = tmp_path / "out"
    assert_refused(call(inference, "-c", pipeline.config, "--out", out, "--prompt", prompt, *extra_options), *words)
    assert not out.exists()


def test_former_spellings_are_logged(pipeline, prompt, tmp_path):
    former = ("--prime", prompt, "--prime_seconds", "4")
    outcome = call(inference, "-c", pipeline.config, "--out", tmp_path / "out", *former)
    assert_refused(outcome, "prompt.flac has only 3.000 s")
    assert "--prime is deprecated; write --prompt\n" in outcome.err
    assert "--prime_seconds is deprecated; write --prompt_seconds\n" in outcome.err


def test_prompt_seconds_without_prompt(pipeline, tmp_path):
    assert_refused(
        call(inference, "-c", pipeline.config, "--out", tmp_path / "out", "--prompt_seconds", "2"), "--prompt FILE"
    )


def test_unconditional_model_continues_a_prompt(prompt, tmp_path):
    run = save(tmp_path / "run", *make_unconditional({**NO_MIDI, "audio_hz": HZ}))
    sounds = []
    for extra_options in ([], ["--prompt", prompt, "--prompt_seconds", "0.05"]):
        out = tmp_path / f"out{len(extra_options)}"
        file = inference_file(tmp_path, run, mode="prompted" if extra_options else "free")
        assert call(inference, "-c", file, "--out", out, "--seconds", "0.1", *extra_options).code == 0
        sounds.append(audio_io.read_pcm(out / "piece_000.wav", HZ))
    assert len(sounds[0]) == len(sounds[1]) == 0.1 * HZ and not np.array_equal(*sounds)
    folded = settings("inference_config.fold_seconds=1", "inference_config.mode=free")
    assert_refused(
        call(inference, "-c", file, "--out", tmp_path / "c", "--seconds", "3", *folded), "fold_seconds", "set it to 0"
    )


def test_a_rerun_writes_nothing(pipeline, prompt, tmp_path):
    arguments = ("-c", pipeline.config, "--out", tmp_path / "out", "--prompt", prompt, "--prompt_seconds", "0.05")
    assert call(inference, *arguments).code == 0
    written = modification_times(tmp_path / "out")
    assert call(inference, *arguments).code == 0
    assert all(
        modification_times(tmp_path / "out")[name] == written[name] for name in written if name != inference.PAGE_NAME
    )
