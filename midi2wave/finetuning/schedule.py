"""How a fine-tuning is trained: its config and the number of its steps, by default what fits into some minutes.

The learning rate is below that of a training from random weights, so that what the base model knows is not lost. The
past samples are disturbed as in the training of the base: as in `configs/grand/config_train.json` if it receives their
level, else as in `configs/real/config_train.json`.
"""

import collections
import contextlib
import math
import time
from dataclasses import dataclass, replace
from pathlib import Path

from midi2wave.checkpoint import LoadedCheckpoint
from midi2wave.config import Config, DistConfig, SamplingConfig, TrainConfig
from midi2wave.finetuning.play_settings import play_settings
from midi2wave.midi.performance import empty_performance
from midi2wave.sampling.options import SamplingOptions
from midi2wave.sampling.synthesis import synthesize
from midi2wave.training.data_loader import MicroBatches, batches, micro_batch_indices, training_crops
from midi2wave.training.hardware import choose_precision, keep_freed_memory, synchronize
from midi2wave.training.run_state import choose_gate_kernels, make_unsaved_run
from midi2wave.training.step import train_step
from midi2wave.utils.cli import choose_device
from midi2wave.utils.errors import InputError

RUN_NAME = "run"
# 0.0003 to 0.002 gave the same validation loss after 200 steps on a CPU (docs/own_piano.md). With the larger batch of a
# GPU none was compared.
LEARNING_RATE = 7e-4
BATCH_SIZE = {"cpu": 4, "cuda": 32}
SEGMENT_SECONDS = 0.5
CONDITIONING_DROPOUT = 0.1
N_WORKERS = 1
VALIDATION_CROPS = 32
# Validations during a training; fewer, down to one at its end, where so many would take more than a part of the time.
MAX_VALIDATIONS = 5
MAX_VALIDATION_PART = 0.2
N_CHECKPOINTS = 20
# The fewest steps whose result was measured (docs/own_piano.md).
FEW_STEPS = 435
WARMUP_PART = 0.1
MAX_WARMUP_STEPS = 50
# A forward pass takes about a third of a step with its backward pass.
FORWARD_SHARE = 1 / 3
MIN_STEPS = 2
MIN_MINUTES, MAX_MINUTES = 0.01, 60 * 24 * 30
# Length of what is generated to measure the speed of generation.
PLAYED_SECONDS = 0.5
# Duration of the measurement, after a first step in which kernels are compiled.
MEASURED_SECONDS = 5.0
MIN_MEASURED_STEPS = 2
MAX_MEASURED_STEPS = 50
MEASURED_RANGE = range(MAX_MEASURED_STEPS + 1)


@dataclass(frozen=True)
class Schedule:
    """Length of a training.

    Attributes:
        steps: Optimiser steps.
        n_validations: Validations during these steps.
        seconds_per_step: As measured on this machine.
        seconds: How long the training takes, with its validations.
    """

    steps: int
    n_validations: int
    seconds_per_step: float
    seconds: float


def training_config(base: Config, base_path: str, out: Path, seed: int, device: str = "auto") -> Config:
    """The config of the training, without its folders of data and its length.

    Args:
        base: The config of the base model.
        base_path: Its weights.
        out: The output folder.
        seed: Seed of the crops.
        device: As in train_config.
    """
    settings = TrainConfig(
        output_directory=str(out / RUN_NAME),
        batch_size=BATCH_SIZE[choose_device(device).type],
        learning_rate=LEARNING_RATE,
        final_learning_rate=1e-5,
        warmup_steps=0,
        # The average begins with a decay far below this one, by which it soon forgets the base (`train_step`).
        ema_decay=0.999,
        seed=seed,
        checkpoint_path=base_path,
        validation_crops=VALIDATION_CROPS,
        iters_per_sample=0,
        device=device,
        history_noise=0.3,
        final_history_noise=0.3 if base.data_config.history_level_input else 0.03,
        history_mixing=1.0,
        history_dropout=0.2 if base.data_config.history_level_input else 0.1,
    )
    data = replace(
        base.data_config, segment_length=SEGMENT_SECONDS, conditioning_dropout=CONDITIONING_DROPOUT, n_workers=N_WORKERS
    )
    return Config(
        data_config=data,
        wavenet_config=base.wavenet_config,
        cond_wavenet_config=base.cond_wavenet_config,
        train_config=settings,
        dist_config=DistConfig(),
    )


def measure_step_seconds(config: Config) -> float:
    """Mean duration of some steps on this machine, with the training's own data, from random weights."""
    settings = config.train_config
    keep_freed_memory()
    device = choose_device(settings.device)
    state = make_unsaved_run(config, device, choose_precision(settings.precision, device))
    state.model.decoder.gates = choose_gate_kernels(settings, device, verbose=False)
    crops = training_crops(config, state.model)
    indices = micro_batch_indices(MEASURED_RANGE, settings.batch_size, state.micro_batch_size, 0, 1)
    n_micro_batches = settings.batch_size // state.micro_batch_size
    durations: list[float] = []
    with contextlib.closing(batches(crops, indices, config.data_config.n_workers)) as loader:
        for _ in MEASURED_RANGE:
            started = time.monotonic()
            train_step(state, MicroBatches(loader, n_micro_batches))
            synchronize(device)
            durations.append(time.monotonic() - started)
            measured = durations[1:]
            if len(measured) >= MIN_MEASURED_STEPS and sum(measured) >= MEASURED_SECONDS:
                break
    return sum(measured) / len(measured)


def measure_play_seconds(base: LoadedCheckpoint, path: str, n_clips: int, device: str) -> float:
    """How long a second of some clips at once takes to generate on this machine.

    Args:
        base: The model, whose size the trained one has.
        path: Its weights.
        n_clips: The number of clips.
        device: As in train_config.
    """
    data = base.config.data_config
    options = SamplingOptions.from_config(play_settings(data).apply(SamplingConfig(model_filename=path)))
    n_frames = math.ceil(PLAYED_SECONDS * data.midi_hz)
    model = base.model.to(choose_device(device))
    for _ in range(2):  # The first time kernels are compiled.
        started = time.monotonic()
        blocks = synthesize(
            model, [empty_performance()] * n_clips, n_frames, data, options, streams=list(range(n_clips))
        )
        collections.deque(blocks, maxlen=0)
    return (time.monotonic() - started) * data.midi_hz / n_frames


def plan_steps(minutes: float, seconds_per_step: float, config: Config) -> Schedule:
    """The number of steps that fit into some minutes, validations included.

    Args:
        minutes: Minutes of training.
        seconds_per_step: Duration of a step.
        config: The config of the training.

    Raises:
        InputError: Not even a few steps fit.
    """
    validation_steps = _validation_steps(config)
    available = 60 * minutes / seconds_per_step
    n_validations = max(1, min(MAX_VALIDATIONS, math.floor(MAX_VALIDATION_PART * available / validation_steps)))
    steps = math.floor(available - n_validations * validation_steps)
    if steps < MIN_STEPS:
        needed = (MIN_STEPS + validation_steps) * seconds_per_step / 60
        raise InputError(
            f"--minutes {minutes:g}: a step takes {seconds_per_step:.2g} s here, so that fewer than two fit; "
            f"give {needed:.2g} or more"
        )
    seconds = (steps + n_validations * validation_steps) * seconds_per_step
    return Schedule(steps, n_validations, seconds_per_step, seconds)


def schedule_of_steps(steps: int, seconds_per_step: float, config: Config) -> Schedule:
    """The schedule of a number of steps.

    Args:
        steps: Optimiser steps.
        seconds_per_step: Duration of a step.
        config: The config of the training.
    """
    validation_steps = _validation_steps(config)
    part = MAX_VALIDATION_PART / (1 - MAX_VALIDATION_PART)  # Of the steps, where validations are a part of the time.
    n_validations = max(1, min(MAX_VALIDATIONS, math.floor(part * steps / validation_steps)))
    return Schedule(
        steps, n_validations, seconds_per_step, (steps + n_validations * validation_steps) * seconds_per_step
    )


def _validation_steps(config: Config) -> float:
    """Duration of a validation in steps of training; it is done with the right notes and with wrong ones."""
    settings = config.train_config
    return 2 * FORWARD_SHARE * settings.validation_crops / settings.batch_size


def with_steps(config: Config, steps: int, n_validations: int) -> Config:
    """The config of a training of so many steps, with so many validations."""
    settings = replace(
        config.train_config,
        steps=steps,
        warmup_steps=min(MAX_WARMUP_STEPS, math.floor(WARMUP_PART * steps)),
        iters_per_validation=math.ceil(steps / n_validations),
        iters_per_checkpoint=math.ceil(steps / N_CHECKPOINTS),
        iters_per_log=max(1, min(50, steps // N_CHECKPOINTS)),
    )
    return replace(config, train_config=settings)
