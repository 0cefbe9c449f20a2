"""A model with codes by the commands: trained, its codes written, played from, and counted."""

import json
import shutil

import numpy as np
import pytest
import torch

import evaluate
import inference
import train
from midi2wave import checkpoint
from midi2wave.config import load_config
from midi2wave.midi.performance import load_events
from midi2wave.sampling.code_files import load_codes, save_codes
from midi2wave.sampling.synthesis import encode
from tests.helpers.pipeline import (
    HZ,
    assert_failed,
    assert_refused,
    call,
    read_files,
    read_metrics,
    read_wavs,
    settings,
    write_midi,
)
from tests.unit.training.test_toy_task import learn
from wavenet import build_model

K = 6
SONGS = {"a": [(0.0, 0.02, 60, 90), (0.03, 0.05, 64, 50)], "b": [(0.0, 0.03, 48, 90)]}


@pytest.fixture(scope="module")
def run(pipeline, tmp_path_factory):
    """A run of the pipeline's model with codes and without excitation."""
    folder = tmp_path_factory.mktemp("codes") / "run"
    done = call(
        train,
        "-c",
        pipeline.config,
        "--json",
        *settings(
            f"train_config.output_directory={folder}",
            f"cond_wavenet_config.n_codes={K}",
            "data_config.excitation=false",
            "train_config.diversity_loss_weight=0.5",
        ),
    )
    assert done.code == 0, done.err
    return folder, done.result


@pytest.fixture(scope="module")
def plain(pipeline, tmp_path_factory):
    """The pipeline's config without the blocks of its model, which is another one."""
    blocks = json.loads(pipeline.config.read_text())
    path = tmp_path_factory.mktemp("plain") / "config.json"
    path.write_text(json.dumps({"inference_config": blocks["inference_config"]}))
    return path


def play(plain, run, out, *options, **overrides):
    keys = {"model_filename": run[0], "tail_seconds": 0, "mode": "free"} | overrides
    call_options = settings(*(f"inference_config.{name}={value}" for name, value in keys.items()))
    return call(inference, "-c", plain, "--out", out, "--json", *call_options, *options)


@pytest.fixture(scope="module")
def played(plain, run, tmp_path_factory):
    """Two MIDI files played, with their codes."""
    folder = tmp_path_factory.mktemp("played")
    songs = [write_midi(folder / f"{name}.mid", notes) for name, notes in SONGS.items()]
    done = play(plain, run, folder / "out", "--midi", *songs)
    assert done.code == 0, done.err
    return folder / "out"


def test_training_logs_the_loss_and_the_use_of_the_codes(run):
    folder, result = run
    lines = read_metrics(folder)
    assert all(line["diversity_loss"] >= 0 for line in lines if "loss" in line)
    validated = [line for line in lines if "validation_nll" in line]
    assert len(validated) == 2
    for line in validated:
        assert 1 / K <= line["code_usage"] <= 1 and 1 <= line["code_perplexity"] <= K * (1 + 1e-9)
    assert result["code_perplexity"] == validated[-1]["code_perplexity"]
    _, config, _ = checkpoint.load_weights(folder)
    assert (config.cond_wavenet_config.n_codes, config.train_config.diversity_loss_weight) == (K, 0.5)


def test_without_codes_there_is_nothing_to_log(pipeline):
    assert not any(
        "code" in name or "diversity" in name for line in read_metrics(pipeline.folder / "run") for name in line
    )


def test_saved_codes_play_the_same_samples(plain, run, played, tmp_path):
    """Codes are written beside the wavs, and give the same samples."""
    names = sorted(path.name for path in played.glob("*.codes.npz"))
    assert names == ["a.codes.npz", "b.codes.npz"]
    model, config, _ = checkpoint.load_model(run[0], torch.device("cpu"))
    for name in SONGS:
        codes, n_frames = load_codes(played / f"{name}.codes.npz"), len(read_wavs(played)[name]) // (HZ // 250)
        made = encode(model, load_events(played / f"{name}.npz"), n_frames, config.data_config)
        assert codes.same_as(made) and (codes.n_codes, codes.midi_hz) == (K, 250)
    again = play(plain, run, tmp_path / "out", "--codes", *(played / name for name in names))
    assert again.code == 0 and again.result["wavs"] == ["a.wav", "b.wav"] and "weights" not in again.err
    assert all(np.array_equal(sound, read_wavs(played)[name]) for name, sound in read_wavs(tmp_path / "out").items())
    assert sorted(path.name for path in (tmp_path / "out").glob("*.npz")) == names  # no notes
    assert (tmp_path / "out/a.png").is_file() and "a.wav" in (tmp_path / "out/index.html").read_text()

    # an edited file of codes beside its old wav would be taken for done
    refused = play(plain, run, played, "--codes", played / "a.codes.npz")
    assert refused.code == 2 and "where results go; choose another folder" in refused.err


@pytest.mark.parametrize("overrides", [{"guidance": 3.0}, {"sampler": "torch"}, {"batch_size": 1, "temperature": 0.7}])
def test_also_with_guidance_and_by_every_sampler(plain, run, tmp_path, overrides):
    songs = [write_midi(tmp_path / f"{name}.mid", notes) for name, notes in SONGS.items()]
    assert play(plain, run, tmp_path / "midi", "--midi", *songs, **overrides).code == 0
    files_of_codes = sorted((tmp_path / "midi").glob("*.codes.npz"))
    assert play(plain, run, tmp_path / "codes", "--codes", *files_of_codes, **overrides).code == 0
    from_midi, from_codes = read_wavs(tmp_path / "midi"), read_wavs(tmp_path / "codes")
    assert sorted(from_midi) == ["a", "b"]
    assert all(np.array_equal(from_codes[name], sound) for name, sound in from_midi.items())


def test_other_codes_differ_and_replace_nothing(plain, run, played, tmp_path):
    """Other codes give other samples, and do not replace earlier results."""
    codes = load_codes(played / "a.codes.npz")
    changed = type(codes)(**vars(codes) | {"codes": (codes.codes + 1) % K})
    save_codes(tmp_path / "a.codes.npz", changed)
    out = shutil.copytree(played, tmp_path / "out")
    assert_failed(play(plain, run, out, "--codes", tmp_path / "a.codes.npz"), 2, a="holds a.wav of other notes")
    assert read_files(out) == read_files(played)
    assert play(plain, run, tmp_path / "new", "--codes", tmp_path / "a.codes.npz").code == 0
    assert not np.array_equal(read_wavs(tmp_path / "new")["a"], read_wavs(played)["a"])
    song = write_midi(tmp_path / "a.mid", SONGS["a"])  # nor does MIDI replace what was made from codes
    assert_failed(play(plain, run, tmp_path / "new", "--midi", song), 2, a="holds a.wav of other codes")


def test_bad_files_are_left_out_and_named(plain, run, played, tmp_path):
    codes = load_codes(played / "a.codes.npz")
    (tmp_path / "cut.codes.npz").write_bytes((played / "a.codes.npz").read_bytes()[:200])
    for name, wrong in {
        "rate": {"midi_hz": 100},
        "more": {"n_codes": 2 * K},
        "other": {"weights_sha256": "0" * 64},
    }.items():
        save_codes(tmp_path / f"{name}.codes.npz", type(codes)(**vars(codes) | wrong))
    call_options = [tmp_path / f"{name}.codes.npz" for name in ("cut", "rate", "more", "other", "gone")]
    done = play(plain, run, tmp_path / "out", "--codes", *call_options)
    assert_failed(
        done,
        1,
        cut="not a whole file of codes",
        rate="100 times a second, the model has 6",
        more="one of 12 codes",
        gone="no such file of codes",
    )
    assert done.result["wavs"] == ["other.wav"]
    assert "other: other weights wrote these codes" in done.err
    assert_failed(play(plain, run, tmp_path / "none", "--codes", call_options[0]), 2, cut="not a whole file of codes")
    long = play(plain, run, tmp_path / "none", "--codes", played / "a.codes.npz", max_seconds=0.01)
    assert_failed(long, 2, a="raise inference_config.max_seconds")


def test_models_that_play_no_codes_say_so(pipeline, plain, run, played, tmp_path):
    call_options = ("--codes", played / "a.codes.npz")
    codeless = (pipeline.folder / "run",)
    assert_refused(
        play(plain, codeless, tmp_path / "out", *call_options), "has no codes", "cond_wavenet_config.n_codes"
    )
    excited = tmp_path / "excited"
    assert (
        call(
            train,
            "-c",
            pipeline.config,
            *settings(
                f"train_config.output_directory={excited}",
                f"cond_wavenet_config.n_codes={K}",
                "train_config.steps=2",
            ),
        ).code
        == 0
    )
    assert_refused(play(plain, (excited,), tmp_path / "out", *call_options), "data_config.excitation", "--midi")
    assert_refused(
        play(plain, run, tmp_path / "out", *call_options, "--midi", "a.mid"), "--codes and --midi exclude each other"
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("mode", ["teacher_forced", "prompted"])
def test_clips_have_their_codes_too(plain, run, tmp_path, mode):
    done = play(plain, run, tmp_path / "out", mode=mode)
    assert done.code == 0
    for wav in done.result["wavs"]:
        assert (tmp_path / "out" / wav.replace(".wav", ".codes.npz")).is_file()


def test_evaluation_counts_the_codes(pipeline, plain, run, tmp_path):
    keys = {"model_filename": run[0], "test_dir": pipeline.folder / "test", "output_dir": tmp_path / "out"}
    options = settings(
        *(f"evaluate_config.{name}={value}" for name, value in keys.items()), "evaluate_config.counterfactuals=false"
    )
    done = call(evaluate, "-c", plain, *options)
    assert done.code == 0 and f"of {K} codes used" in done.out and "perplexity of the codes" in done.out
    result = call(evaluate, "-c", plain, *options, "--json").result
    assert result["n_codes"] == K and 1 / K <= result["code_usage"] <= 1 and 1 <= result["code_perplexity"] <= K
    without = call(
        evaluate,
        "-c",
        plain,
        "--json",
        *options,
        "--set",
        f"evaluate_config.model_filename={pipeline.folder}/run",
        "--force",
    ).result
    assert (without["n_codes"], without["code_usage"], without["code_perplexity"]) == (0, None, None)


def test_preset_has_codes_without_excitation():
    """The preset is a model with codes and without excitation, which plays files of codes."""
    config = load_config("demo/config_train_argmax.json", train.NEEDS)
    model = build_model(config)
    assert model.n_codes == 32 and not config.data_config.excitation


@pytest.mark.slow
def test_the_codes_carry_the_notes(tmp_path):
    """The toy model, whose decoder is conditioned on codes and nothing else of the MIDI."""
    _, newest = learn(
        tmp_path,
        train_config={"steps": 150, "batch_size": 4, "context_learning_rate": 0.3},
        data_config={"excitation": False},
        cond_wavenet_config={"n_codes": 16, "code_scale": 4.0, "n_mels": 16},
    )
    assert newest["validation_gap"] > 0.1  # nats per sample; measured: 0.40 +- 0.04
    assert newest["code_perplexity"] > 10  # measured: 14.4
