"""Speed of the model of a config on this machine, in training and with every engine, on noise and random notes."""

import time
from collections.abc import Callable, Generator
from typing import cast

import numpy as np
import torch
from torch import Tensor

import wavenet
from midi2wave.conditioning.excitation import n_excitation
from midi2wave.conditioning.features import n_features
from midi2wave.conditioning.global_conditioning import n_global_features
from midi2wave.config import Config, DataConfig
from midi2wave.midi.performance import Performance
from midi2wave.modules.residual_stack import GateKernels, compile_gate_kernels
from midi2wave.sampling import engines
from midi2wave.sampling.options import SamplingOptions
from midi2wave.sampling.synthesis import conditioning
from midi2wave.sampling.uniforms import seeded_uniforms
from midi2wave.training.data_loader import crop_samples
from midi2wave.training.hardware import choose_precision, keep_freed_memory, synchronize
from midi2wave.training.run_state import make_unsaved_run
from midi2wave.training.step import train_step
from midi2wave.utils.cli import choose_device, log
from wavenet import WaveNet, build_model

# The best repetition counts, since other processes only make it slower.
REPEATS = 3
# Duration of a repetition.
SAMPLING_SECONDS = 1.0
TRAINING_SECONDS = 1.0
# Length of the performance: more than any engine generates in that time.
NOTES_SECONDS = 600


def measure(config: Config) -> dict[str, float]:
    """Samples per second of training, and of one stream with every engine of this machine."""
    device = choose_device(config.train_config.device)
    speeds = {"training": training_speed(config, device)}
    for engine in ("torch", "numba", *(["cuda"] if device.type == "cuda" else [])):
        engine_device = device if engine == "cuda" else torch.device("cpu")
        speeds[f"sampling_{engine}"] = sampling_speed(config, engine_device, engine)
    return speeds


def training_speed(config: Config, device: torch.device) -> float:
    """Samples per second of training, with steps of one micro-batch as train.py would choose it."""
    settings, data = config.train_config, config.data_config
    keep_freed_memory()
    state = make_unsaved_run(config, device, choose_precision(settings.precision, device))
    recompute = settings.activation_checkpointing
    compiled = compile_gate_kernels(device, recompute=recompute) if settings.compile else None
    state.model.decoder.gates = compiled or GateKernels(recompute=recompute)
    n_crops, n_samples = state.micro_batch_size, crop_samples(data)
    format_name = str(state.precision).removeprefix("torch.")
    gates = "compiled" if compiled else "not compiled"
    log(
        f"training: {n_crops} crops of {data.segment_length:g} s in {format_name} on {device}, gates {gates}, "
        f"{torch.get_num_threads()} threads"
    )
    batch = noise_crops(state.model, data, n_crops, n_samples)

    def step() -> int:
        train_step(state, [batch])
        synchronize(device)
        return n_crops * n_samples

    step()
    return rate(step, TRAINING_SECONDS)


def noise_crops(model: WaveNet, data: DataConfig, n_crops: int, n_samples: int) -> dict[str, Tensor]:
    """A batch of noise in the form of `Crops`: the time of a step does not depend on its content.

    Args:
        model: The model; the batch is on its device, since the host does not wait for batches in pinned memory either.
        data: Its data config.
        n_crops: Batch size.
        n_samples: Samples of a crop.
    """
    generator = torch.Generator().manual_seed(0)
    low, high = (-3000, 3000) if model.decoder.mixture else (0, 256)
    history = torch.randint(low, high, (n_crops, model.decoder.taps + n_samples), generator=generator)
    frames = sum(model.context_frames) + n_samples // model.hop
    n_rows = n_features(data.features) + n_global_features(data)
    batch = {
        "history": history,
        "samples": history[:, model.decoder.taps :].clone(),
        "features": torch.rand(n_crops, n_rows, frames, generator=generator),
        "excitation": torch.randn(n_crops, n_excitation(data), n_samples, generator=generator),
    }
    return {name: value.to(model.decoder.input.weight.device) for name, value in batch.items()}


def sampling_speed(config: Config, device: torch.device, engine: str) -> float:
    """Samples per second of one stream, conditioning included."""
    torch.manual_seed(0)
    model, data = build_model(config).to(device).eval(), config.data_config
    inputs = conditioning([random_performance(0, NOTES_SECONDS)], data, device)
    uniforms = seeded_uniforms(0, [0], model.uniforms_per_sample, device)
    arguments = (model, inputs, uniforms, 1, NOTES_SECONDS * data.midi_hz)
    if engine == "torch":  # Its default blocks take seconds.
        blocks = wavenet.generate(*arguments, block_frames=2)
    else:
        blocks = engines.generate(*arguments, options=SamplingOptions(sampler=engine))
    next(blocks)  # The first block compiles the kernels.
    try:
        return rate(lambda: next(blocks).numel(), SAMPLING_SECONDS)
    finally:
        cast(Generator[Tensor, None, None], blocks).close()


def random_performance(seed: int, seconds: float) -> Performance:
    """Random notes over the whole keyboard, ten per second."""
    rng = np.random.default_rng(seed)
    onset = np.sort(rng.uniform(0, seconds, round(10 * seconds)))
    return Performance(onset, onset + 0.4, rng.integers(21, 109, len(onset)), rng.integers(30, 110, len(onset)), {})


def rate(step: Callable[[], int], seconds: float) -> float:
    """Samples per second of a function, the best of some repetitions.

    Args:
        step: Makes some samples, and returns how many.
        seconds: Duration of a repetition.
    """
    best = 0.0
    for _ in range(REPEATS):
        start, done = time.perf_counter(), 0
        while (elapsed := time.perf_counter() - start) < seconds or not done:
            done += step()
        best = max(best, done / elapsed)
    return best
