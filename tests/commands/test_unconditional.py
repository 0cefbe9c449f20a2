"""A model without any MIDI: no context stack, the same samples from every engine, trained and played by a length. And
the null condition of a model with MIDI, played in the same way."""

import warnings

import numpy as np
import pytest
import torch

import evaluate
import inference
import train
from midi2wave import checkpoint
from midi2wave.audio import io as audio_io
from midi2wave.audio.mu_law import mu_law_decode
from midi2wave.config import load_config
from midi2wave.data.test_clips import clip_paths, read_clip
from midi2wave.sampling import engines
from midi2wave.sampling.engines import cpu, cuda
from midi2wave.sampling.options import SamplingOptions
from midi2wave.sampling.synthesis import conditioning, synthesize
from midi2wave.sampling.uniforms import seeded_uniforms
from nv_wavenet_bridge import check, export
from tests.helpers.exportable_models import NO_MIDI, inference_file, make, save
from tests.helpers.pipeline import HZ, PROMPT_SECONDS, assert_refused, call, read_files, settings, write_midi
from tests.helpers.sampler_models import concatenate, parallel_params
from wavenet import build_model, generate

N_FRAMES, CPU = 9, torch.device("cpu")


def test_no_context_stack_and_no_conditioning_weights():
    """It has neither a context stack nor weights for conditioning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # torch warns of weights without elements
        model, config = make()
    names = [name for name, value in model.state_dict().items() if value.numel()]
    assert not [name for name in names if name.startswith("context") or name.endswith("cond.weight")]
    assert model.context_frames == (0, 0) and not config.data_config.conditional
    assert make({**NO_MIDI, "features": ["onset"]})[1].data_config.conditional
    preset = load_config("demo/config_train_unconditional.json", train.NEEDS)
    assert not preset.data_config.conditional and build_model(preset).context_frames == (0, 0)


@pytest.mark.parametrize(
    ("output", "kernel_size", "threads", "prefix_frames"),
    [("categorical", 2, 1, 0), ("categorical", 3, 2, 4), ("logistic_mixture", 2, 2, 0), ("logistic_mixture", 3, 1, 4)],
)
def test_every_engine_plays_what_the_parallel_pass_draws(output, kernel_size, threads, prefix_frames):
    model, config = make(output=output, kernel_size=kernel_size)
    inputs = conditioning([None, None], config.data_config, CPU)
    uniforms = seeded_uniforms(3, [0, 1], model.uniforms_per_sample)
    prefix = None
    if prefix_frames:
        prefix = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, prefix_frames * model.hop)))
    arguments, new = (model, inputs, uniforms, 2, N_FRAMES), slice(prefix_frames * model.hop, None)
    expected = concatenate(generate(*arguments, prefix=prefix))
    params = parallel_params(model, expected, inputs)
    again = model.draw(params, uniforms(0, expected.shape[1]))
    _, replayed = cpu.replay(model, inputs, uniforms, expected, options=SamplingOptions(threads=threads))
    assert (replayed - params).abs().max() < 1e-5 * params.abs().max()
    assert torch.equal(concatenate(cuda.generate(*arguments, prefix=prefix)), expected)
    played = concatenate(
        engines.generate(*arguments, options=SamplingOptions(sampler="numba", threads=threads), prefix=prefix)
    )
    if model.decoder.mixture:  # rounding to a sample may fall either way
        assert (again - expected)[:, new].abs().max() <= 1
        assert torch.equal(played[:, : new.start + 8], expected[:, : new.start + 8])
    else:
        assert torch.equal(again[:, new], expected[:, new]) and torch.equal(played, expected)
    assert not torch.equal(expected[0, new], expected[1, new])


def test_what_needs_a_context_is_refused(tmp_path):
    for data, words in (
        ({"features": []}, "excitation = false"),
        ({**NO_MIDI, "conditioning_dropout": 0.1}, "dropout"),
    ):
        with pytest.raises(checkpoint.InputError, match=words):
            make(data)
    with pytest.raises(checkpoint.InputError, match=r"unconditional model .* has no context"):
        make(output_conditioning=True)


@pytest.fixture(scope="module")
def trained(pipeline, tmp_path_factory):
    """A run folder, what the training said, and what it logged."""
    folder = tmp_path_factory.mktemp("unconditional")
    outcome = call(
        train,
        "-c",
        pipeline.config,
        *settings(
            f"train_config.output_directory={folder / 'run'}",
            "data_config.features=[]",
            "data_config.excitation=false",
            "train_config.iters_per_sample=2",
            "train_config.iters_per_validation=1",
            "data_config.n_workers=1",
        ),
    )
    assert outcome.code == 0, outcome.err
    return folder / "run", outcome.err, (folder / "run/metrics.jsonl").read_text(encoding="utf-8")


def test_training_reports_its_likelihood_and_no_gap(trained):
    run, said, metrics = trained
    assert said.count("it has no MIDI input, so validation measures its likelihood and no gap") == 1
    assert "ignores its MIDI" not in said and "validation_nll" in metrics
    assert "gap" not in metrics and "shuffled" not in metrics and "conditioning_ratio" not in metrics
    assert (run / "best").exists() and list((run / "samples").glob("*.wav"))


def test_plays_freely_and_continues_clips(pipeline, trained, tmp_path):
    arguments = (
        "-c",
        trained[0] / "config.json",
        "--seconds",
        0.06,
        "--json",
        *settings(f"inference_config.model_filename={trained[0]}"),
    )
    free = settings("inference_config.mode=free")
    made = call(inference, *arguments, *free, "--n_pieces", 2, "--out", tmp_path / "free")
    assert made.code == 0 and made.result["wavs"] == ["piece_000.wav", "piece_001.wav"], made.err
    sounds = [audio_io.read_pcm(tmp_path / "free" / name, HZ) for name in made.result["wavs"]]
    assert [len(sound) for sound in sounds] == [960, 960] and not np.array_equal(*sounds)
    model, config, _ = checkpoint.load_model(trained[0], CPU)
    expected = list(
        synthesize(model, [None, None], 15, config.data_config, options=SamplingOptions(seed=0), streams=[0, 1])
    )
    assert np.array_equal(np.concatenate(expected, axis=1), np.stack(sounds))
    before = read_files(tmp_path / "free")
    assert call(inference, *arguments, *free, "--n_pieces", 3, "--out", tmp_path / "free").code == 0
    after = read_files(tmp_path / "free")
    rewritten = (inference.PAGE_NAME, inference.RECORD_NAME)
    assert all(after[name] == before[name] for name in before if name not in rewritten) and len(after) > len(before)
    longer = call(inference, *arguments, *free, "--seconds", 0.08, "--out", tmp_path / "free")
    assert_refused(longer, "results of another config")

    prompted = call(inference, *arguments, "--n_pieces", 3, "--out", tmp_path / "prompted")
    clips, n_prompt = [read_clip(path, HZ) for path in clip_paths(pipeline.folder / "test")], round(PROMPT_SECONDS * HZ)
    names = [f"piece_{number:03d}_{clips[number % 2].name}" for number in range(3)]
    assert prompted.result["wavs"] == [f"{name}.wav" for name in names]
    sounds = [audio_io.read_pcm(tmp_path / "prompted" / f"{name}.wav", HZ) for name in names]
    assert all(np.array_equal(s[:n_prompt], clips[i % 2].pcm[:n_prompt]) for i, s in enumerate(sounds))
    assert not np.array_equal(sounds[0][n_prompt:], sounds[2][n_prompt:])  # the same clip, another stream


def test_its_clips_have_a_likelihood(trained, tmp_path):
    overrides = settings(f"inference_config.model_filename={trained[0]}", "inference_config.mode=teacher_forced")
    made = call(inference, "-c", trained[0] / "config.json", "--json", "--out", tmp_path / "out", *overrides)
    assert made.code == 0 and np.isfinite(made.result["mean_nll"])


def test_impossible_requests_are_one_line(pipeline, trained, tmp_path):
    song = write_midi(tmp_path / "song.mid", [(0.0, 0.05, 60, 90)])
    own = trained[0] / "config.json"
    of_it = ("-c", own, "--out", tmp_path / "out", *settings(f"inference_config.model_filename={trained[0]}"))
    assert_refused(call(inference, *of_it, "--midi", song), "unconditional model and plays no MIDI", "--seconds")
    assert_refused(call(inference, *of_it, "--null", "--seconds", 1), "--seconds alone is enough")
    assert_refused(call(inference, *of_it, "--n_pieces", 2), "--n_pieces", "--seconds N")
    assert_refused(
        call(inference, *of_it, "--seconds", 0.03), "at least one conditioning frame after teacher_length = 0.04 s"
    )
    assert_refused(call(inference, *of_it, "--seconds", "nan"), "--seconds nan")
    assert_refused(call(inference, *of_it, "--seconds", 1e5), "max_seconds")
    assert_refused(call(inference, *of_it, "--seconds", 1, "--n_pieces", 0), "--n_pieces 0")
    assert_refused(call(inference, *of_it, "--seconds", 1, *settings("inference_config.guidance=2")), "guidance = 2")
    judged = settings(f"evaluate_config.model_filename={trained[0]}", "evaluate_config.device=cpu")
    assert_refused(call(evaluate, "-c", own, *judged), "is an unconditional model", "mode=teacher_forced")
    assert not (tmp_path / "out").exists()

    of_another = ("-c", pipeline.config, "--out", tmp_path / "out")
    assert_refused(call(inference, *of_another, "--seconds", 1), "plays MIDI; give --midi FILE, or --null")
    assert_refused(call(inference, *of_another, "--seconds", 1, "--midi", song), "exclude each other")
    assert_refused(call(inference, *of_another, "--seconds", 1, "--null"), "without data_config.conditioning_dropout")


def test_the_null_condition_is_played(tmp_path):
    model, config = make({"audio_hz": 4000, "midi_hz": 250, "conditioning_dropout": 0.1})
    file = inference_file(tmp_path, save(tmp_path / "run", model, config))
    arguments = ("-c", file, "--null", "--seconds", 0.04, "--out", tmp_path / "out")
    assert call(inference, *arguments).code == 0
    expected = np.concatenate(
        list(synthesize(model, [None], 10, config.data_config, options=SamplingOptions(seed=0), streams=[0])), axis=1
    )
    config.data_config.conditioning_dropout = 0.0  # of such a model silence would stand for it
    silence = np.concatenate(
        list(synthesize(model, [None], 10, config.data_config, options=SamplingOptions(seed=0), streams=[0])), axis=1
    )
    played = audio_io.read_pcm(tmp_path / "out/piece_000.wav", 4000)
    assert np.array_equal(played, expected[0]) and not np.array_equal(played, silence[0])
    assert_refused(
        call(inference, *arguments, *settings("inference_config.guidance=2")),
        "guidance = 2 has no effect without notes",
    )


def test_nv_wavenet_plays_it(tmp_path):
    file = inference_file(tmp_path, save(tmp_path / "run", *make()))
    arguments = ("-c", file, "--out", tmp_path / "bundle")
    song = write_midi(tmp_path / "song.mid", [(0.0, 0.05, 60, 90)])
    assert_refused(call(export, *arguments, "--midi", song), "unconditional model; give --seconds")
    assert call(export, *arguments, "--seconds", 0.1).code == 0
    checked = call(check, tmp_path / "bundle")
    assert checked.code == 0, checked.err
    assert call(inference, "-c", file, "--seconds", 0.1, "--out", tmp_path / "out").code == 0
    codes = np.load(tmp_path / "bundle/expected.npy")[0]
    assert np.array_equal(mu_law_decode(codes), audio_io.read_pcm(tmp_path / "out/piece_000.wav", 4000))
