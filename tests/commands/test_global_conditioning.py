"""Global conditioning with commands, and learned by a tiny model."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest

import inference
import train
from midi2wave import checkpoint
from midi2wave.audio import io as audio_io
from midi2wave.audio.pcm import level_db, to_pcm
from midi2wave.config import (
    config_from_dict,
    load_config,
)
from midi2wave.data import processed_folder
from midi2wave.data.processed_folder import Row
from midi2wave.data.test_clips import clip_paths, read_clip
from midi2wave.evaluation.reverberation import measure_decay
from midi2wave.midi.performance import PEDALS, Performance, load_events
from midi2wave.sampling.options import SamplingOptions
from midi2wave.sampling.synthesis import synthesize
from midi2wave.training import loop
from midi2wave.training.log import TrainingLog
from midi2wave.training.run_state import create_or_resume_run
from tests.helpers.global_models import VALUES
from tests.helpers.paths import SHARED
from tests.helpers.pipeline import HZ, assert_refused, call, read_files, settings, write_midi

DISKLAVIER = SHARED / "data/disklavier-maestro-layout"
LOUDNESS = {2008: 0.1, 2009: 0.01}
# Seconds in which the amplitude falls to 1 / e after a release.
RELEASE_SECONDS = {2008: 0.02, 2009: 0.15}
TOY_HZ = 4000


@pytest.fixture(scope="module")
def run(pipeline, tmp_path_factory):
    """A run like the pipeline's, but with labels; the recordings are of 2004."""
    folder = tmp_path_factory.mktemp("run")
    options = settings(
        'data_config.global_values=["year=2004", "year=2009"]',
        "train_config.learning_rate=0.1",
        f"train_config.output_directory={folder}/run",
    )
    done = call(train, "-c", pipeline.config, *options)
    assert done.code == 0, done.err
    return folder / "run"


def test_the_command_generates_with_a_label(pipeline, run, tmp_path):
    song = write_midi(tmp_path / "song.mid", [(0.0, 0.05, 60, 90)])
    data = checkpoint.load_weights(run)[1].data_config
    own = settings(f"inference_config.model_filename={run}", "inference_config.tail_seconds=0")
    arguments = ("-c", pipeline.config, *own, *settings(f"data_config.global_values={json.dumps(data.global_values)}"))
    sounds = {}
    for value in ("", "year=2004", "year=2009"):
        out, option = tmp_path / f"out{value}", ["--global", value] if value else []
        done = call(inference, *arguments, "--out", out, "--midi", song, *option)
        assert done.code == 0 and ("1 of 1 piece without a label" in done.err) == (not value), done.err
        sounds[value] = audio_io.read_pcm(out / "song.wav", HZ)
        assert load_events(out / "song.npz").global_labels == ((value,) if value else ())
    assert all(np.mean(sounds[a] != sounds[b]) > 0.1 for a, b in (("", "year=2004"), ("year=2004", "year=2009")))

    by_option = settings("inference_config.global_values=year=2009", f"inference_config.output_dir={tmp_path}/set")
    assert call(inference, *arguments, *by_option, "--midi", song).code == 0
    assert np.array_equal(audio_io.read_pcm(tmp_path / "set/song.wav", HZ), sounds["year=2009"])
    assert_refused(
        call(inference, *arguments, *by_option, "--midi", song, "--global", "year=2004"), "results of another config"
    )

    for value, words in (("year=2011", "expected one of year=2004, year=2009"), ("piano=1", "does not know 'piano=1'")):
        for what in (["--midi", song], []):
            assert_refused(call(inference, *arguments, "--out", tmp_path / "no", *what, "--global", value), words)
    plain = call(inference, "-c", pipeline.config, "--out", tmp_path / "no", "--midi", song, "--global", "year=2004")
    assert_refused(plain, "has no input for year=2004", "trained without data_config.global_values")
    assert not (tmp_path / "no").exists()


def test_labels_of_clips_can_be_overridden(pipeline, run, tmp_path):
    clips = [read_clip(path, HZ) for path in clip_paths(pipeline.folder / "test")]
    assert {frozenset(clip.performance.global_labels) for clip in clips} == {frozenset({"index=3", "year=2004"})}
    sounds = {}
    for value in ("", "year=2004", "year=2009"):
        own = settings(
            f"inference_config.model_filename={run}",
            f"inference_config.output_dir={tmp_path}/out{value}",
            'data_config.global_values=["year=2004", "year=2009"]',
        )
        done = call(inference, "-c", pipeline.config, *own, *(["--global", value] if value else []))
        assert done.code == 0 and "without a label" not in done.err
        sounds[value] = {
            name: wav for name, wav in read_files(tmp_path / f"out{value}").items() if name.endswith("prompted.wav")
        }
    assert sounds[""] == sounds["year=2004"] and len(sounds[""]) == 2
    assert all(sounds[""][name] != sounds["year=2009"][name] for name in sounds[""])


def test_the_preset_has_every_year_of_its_recordings():
    labels = load_config("real/config_train.json", ()).data_config.global_values
    assert labels == ["year=2008", "year=2009"]
    if not DISKLAVIER.is_dir():
        pytest.skip("the real recordings are not here")
    with open(DISKLAVIER / "maestro-v1.0.0.csv", encoding="utf-8", newline="") as handle:
        rows = list(csv.DictReader(handle))
    for split in ("train", "validation", "test"):
        assert {f"year={row['year']}" for row in rows if row["split"] == split} == set(labels)


def toy_notes(rng, seconds) -> Performance:
    """Notes of one pitch with pauses between them."""
    onset = np.arange(0.1, seconds - 0.5, 0.8) + rng.uniform(0, 0.1)
    n = len(onset)
    offset = onset + rng.uniform(0.15, 0.3, n)
    return Performance(onset, offset, np.full(n, 60), np.full(n, 80), {pedal: np.zeros((0, 2)) for pedal in PEDALS})


def toy_config(folder, steps):
    """The blocks of a tiny model that distinguishes two years."""
    return {
        "train_config": {
            "output_directory": str(folder / "run"),
            "steps": steps,
            "batch_size": 8,
            "learning_rate": 1e-2,
            "final_learning_rate": 1e-3,
            "warmup_steps": 5,
            "ema_decay": 0.9,
            "history_dropout": 0.5,
            "iters_per_checkpoint": 10_000,
            "iters_per_sample": 0,
            "device": "cpu",
            "compile": False,
            "precision": "float32",
        },
        "data_config": {
            "dataset_path": str(folder / "train"),
            "audio_hz": TOY_HZ,
            "segment_length": 0.4,
            "n_workers": 0,
            "features": ["paper_v1"],
            "excitation": False,
            "global_values": VALUES,
        },
        "wavenet_config": {
            "n_mixtures": 1,
            "n_layers": 2,
            "max_dilation": 2,
            "n_residual_channels": 16,
            "n_skip_channels": 16,
            "n_out_channels": 16,
            "n_cond_channels": 16,
        },
        "cond_wavenet_config": {
            "n_layers": 2,
            "max_dilation": 2,
            "n_residual_channels": 16,
            "n_skip_channels": 16,
            "lookahead_ms": 4.0,
        },
    }


def learn(folder, sound, steps, **blocks):
    """Train a tiny model on recordings of two years, whose audio is `sound(performance, seconds, year, rng)`."""
    rng, rows, seconds = np.random.default_rng(0), [], 12.0
    processed_folder.begin_folder(folder / "train", {"preprocess_config": {"audio_hz": TOY_HZ}}, force=False)
    for index in range(6):
        performance, year = toy_notes(rng, seconds), 2008 + index % 2
        pcm, _ = to_pcm(sound(performance, seconds, year, rng))
        rows.append(Row(index, "", "", "train", year, seconds, len(pcm), len(performance.onset), "", ""))
        processed_folder.write_recording(folder / "train", rows[-1], pcm, performance)
    processed_folder.finish_folder(folder / "train", rows)
    config = toy_config(folder, steps)
    state = create_or_resume_run(
        config_from_dict({name: config[name] | blocks.get(name, {}) for name in config}, "toy"), force=False
    )
    log = TrainingLog(state.folder, 0)
    loop.train(state, log)
    log.close()
    return state


def both_years(state, performance, seconds):
    """The same notes, free-running, with the label of each year: int16 [2, T]."""
    pieces = [replace(performance, global_labels=(value,)) for value in VALUES]
    blocks = synthesize(
        state.ema_model,
        pieces,
        round(seconds * 250),
        state.config.data_config,
        options=SamplingOptions(seed=0),
        streams=[0, 0],
    )
    return np.concatenate(list(blocks), axis=1)


def test_a_model_learns_the_loudness_of_each_year(tmp_path):
    def sound(performance, seconds, year, rng):
        return LOUDNESS[year] * rng.standard_normal(round(seconds * TOY_HZ))

    state = learn(tmp_path, sound, 200, train_config={"batch_size": 4}, data_config={"segment_length": 0.1})
    levels = [level_db(one) for one in both_years(state, toy_notes(np.random.default_rng(1), 1.0), 0.5)]
    assert levels[0] - levels[1] == pytest.approx(20, abs=8)


@pytest.mark.slow
def test_a_model_learns_the_decay_of_each_year(tmp_path):
    """The same notes decay more slowly in 2009, although the years do not differ until the release."""

    def sound(performance, seconds, year, rng):
        time = np.arange(round(seconds * TOY_HZ)) / TOY_HZ
        level = np.zeros(len(time))
        for on, off in zip(performance.onset, performance.offset, strict=True):
            level = np.maximum(level, (time >= on) * np.exp(-np.maximum(time - off, 0) / RELEASE_SECONDS[year]))
        return (0.1 * level + 0.0005) * rng.standard_normal(len(time))

    data, context = {"features": ["held_velocity", "release_age"]}, {"n_layers": 3, "max_dilation": 4}
    state = learn(tmp_path, sound, 250, data_config=data, cond_wavenet_config=context)
    piece = toy_notes(np.random.default_rng(9), 1.0)
    dry, wet = (measure_decay(one, TOY_HZ, piece.offset[0]) for one in both_years(state, piece, piece.offset[0] + 0.8))
    assert wet.db_per_second == pytest.approx(20 / np.log(10) / RELEASE_SECONDS[2009], rel=0.6)  # 58 dB/s
    assert dry.db_per_second > 3 * wet.db_per_second  # 434 dB/s
    assert wet.level_db > dry.level_db + 10
