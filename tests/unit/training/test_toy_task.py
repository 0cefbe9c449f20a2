"""A tiny model learns to play, free-running, the pitches of its MIDI and no others."""

import numpy as np
import pytest

from midi2wave.config import config_from_dict
from midi2wave.data import processed_folder
from midi2wave.midi.performance import PEDALS, Performance
from midi2wave.sampling.options import SamplingOptions
from midi2wave.sampling.synthesis import synthesize
from midi2wave.training import loop
from midi2wave.training.log import TrainingLog
from midi2wave.training.run_state import create_or_resume_run

AUDIO_HZ, PITCHES = 4000, np.array([48, 52, 55, 60, 64, 67])


def frequency(pitch):
    return 440 * 2 ** ((pitch - 69) / 12)


def melody(rng, seconds):
    onset = np.arange(0.1, seconds - 0.4, 0.4)
    onset = onset + rng.uniform(0, 0.05, len(onset))
    pitch, velocity = rng.choice(PITCHES, len(onset)), rng.integers(60, 110, len(onset))
    return Performance(onset, onset + 0.35, pitch, velocity, {pedal: np.zeros((0, 2)) for pedal in PEDALS})


def play(performance, seconds, rng):
    """Two decaying partials a note, of a phase that belongs to the pitch, over faint noise: int16 [T]."""
    time = np.arange(round(seconds * AUDIO_HZ)) / AUDIO_HZ
    sound = rng.normal(scale=0.002, size=len(time))
    for on, off, pitch, velocity in zip(
        performance.onset, performance.offset, performance.pitch, performance.velocity, strict=True
    ):
        since = np.maximum(time - on, 0)
        envelope = np.exp(-since / 0.3) * (1 - np.exp(-since / 0.003)) * np.exp(-np.maximum(time - off, 0) / 0.02)
        angle = 2 * np.pi * frequency(pitch) * since + 1.3 * pitch
        sound += velocity / 127 * envelope * (0.25 * np.sin(angle) + 0.1 * np.sin(2 * angle))
    return np.round(sound * 32768).astype(np.int16)


def make_folder(folder, seed, count, seconds=12.0):
    rng, rows = np.random.default_rng(seed), []
    processed_folder.begin_folder(folder, {"preprocess_config": {"audio_hz": AUDIO_HZ}}, force=False)
    for index in range(count):
        performance = melody(rng, seconds)
        pcm = play(performance, seconds, rng)
        rows.append(
            processed_folder.Row(index, "", "", "train", 2000, seconds, len(pcm), len(performance.onset), "", "")
        )
        processed_folder.write_recording(folder, rows[-1], pcm, performance)
    processed_folder.finish_folder(folder, rows)


def share_of_right_pitches(sounds, performances):
    """How often the strongest of the six fundamentals in a note's sound is the note's own."""
    right = []
    for sound, performance in zip(sounds, performances, strict=True):
        for onset, pitch in zip(performance.onset, performance.pitch, strict=True):
            part = sound[round((onset + 0.05) * AUDIO_HZ) :][: round(0.25 * AUDIO_HZ)].astype(float)
            spectrum = np.abs(np.fft.rfft(part * np.hanning(len(part)), 2**14))
            at = np.fft.rfftfreq(2**14, 1 / AUDIO_HZ)
            level = [spectrum[np.abs(at - frequency(p)) < 8].max() for p in PITCHES]
            right.append(PITCHES[np.argmax(level)] == pitch)
    return np.mean(right)


def learn(folder, **changed_blocks):
    """Train the toy model with the defaults, or with some options changed; returns the run and its last metrics."""
    make_folder(folder / "train", 0, 10)
    make_folder(folder / "validation", 1, 2)
    blocks = {
        "train_config": {
            "output_directory": str(folder / "run"),
            "steps": 300,
            "batch_size": 8,
            "learning_rate": 4e-3,
            "final_learning_rate": 2e-4,
            "warmup_steps": 20,
            "ema_decay": 0.98,
            "iters_per_checkpoint": 1000,
            "iters_per_validation": 1000,
            "iters_per_sample": 0,
            "device": "cpu",
        },
        "data_config": {
            "dataset_path": str(folder / "train"),
            "validation_path": str(folder / "validation"),
            "audio_hz": AUDIO_HZ,
            "segment_length": 0.4,
            "n_workers": 0,
        },
        "wavenet_config": {
            "n_mixtures": 5,
            "n_layers": 8,
            "max_dilation": 128,
            "n_residual_channels": 16,
            "n_skip_channels": 32,
            "n_out_channels": 32,
            "n_cond_channels": 16,
        },
        "cond_wavenet_config": {
            "n_layers": 4,
            "max_dilation": 8,
            "n_residual_channels": 16,
            "n_skip_channels": 16,
            "lookahead_ms": 20.0,
        },
    }
    state = create_or_resume_run(
        config_from_dict({name: blocks[name] | changed_blocks.get(name, {}) for name in blocks}, "toy"), force=False
    )
    log = TrainingLog(state.folder, 0)
    loop.train(state, log)
    log.close()
    return state, log.latest_metrics


def free_running(state):
    """What eight melodies sound like by the model alone: the share of right pitches, and of those of another melody."""
    rng = np.random.default_rng(5)
    performances = [melody(rng, 3.0) for _ in range(8)]
    blocks = synthesize(
        state.ema_model,
        performances,
        750,
        state.config.data_config,
        options=SamplingOptions(seed=0),
        streams=list(range(8)),
    )
    sounds = np.concatenate(list(blocks), axis=1)
    own = share_of_right_pitches(sounds, performances)
    return own, share_of_right_pitches(sounds, performances[1:] + performances[:1])


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return learn(tmp_path_factory.mktemp("toy"))


@pytest.mark.slow
def test_loss_distinguishes_true_from_mismatched_midi(trained):
    assert trained[1]["validation_gap"] > 1.5  # nats per sample; measured: 2.4


@pytest.mark.slow
def test_free_running_model_plays_the_pitches_of_its_midi(trained):
    """And not those of another melody."""
    own, other = free_running(trained[0])
    assert own > 0.9  # chance: 1/6; measured: 1.0
    assert other < 0.35  # measured: 0.11


@pytest.mark.slow
def test_without_regularisers_both_fail_at_the_same_loss(trained, tmp_path):
    """The earlier implementation's model: onsets only, a context without look-ahead, no excitation, clean history."""
    state, metrics = learn(
        tmp_path,
        train_config={"history_noise": 0.0, "final_history_noise": 0.0},
        data_config={"features": ["paper_v5"], "excitation": False},
        cond_wavenet_config={"lookahead_ms": 0.0, "upsampling": "repeat"},
    )
    own, _ = free_running(state)
    assert metrics["validation_gap"] < 0.1  # measured: 0.002
    assert own < 0.35  # measured: 0.12
    assert metrics["validation_nll"] == pytest.approx(trained[1]["validation_nll"], abs=0.15)  # measured: 6.53, 6.51
