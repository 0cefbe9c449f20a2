"""Schedules: values that change during a training, as pure functions of the config and a step's or a crop's index."""

import math

from midi2wave.config import TrainConfig


def learning_rate(step: int, config: TrainConfig) -> float:
    """Linear warm-up, then a cosine from the peak down to the final learning rate."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    progress = (step - config.warmup_steps) / (config.steps - config.warmup_steps)
    span = config.learning_rate - config.final_learning_rate
    return config.final_learning_rate + span * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


def history_noise(config: TrainConfig, index: int) -> float:
    """Maximum noise level on the history of the crop with this index: linear from the first to the final level."""
    return _interpolate(config, index, config.history_noise, config.final_history_noise)


def history_mixing(config: TrainConfig, index: int) -> float:
    """Maximum level of another crop's audio on the history of the crop with this index: linear likewise."""
    first, final = config.history_mixing, config.final_history_mixing
    return _interpolate(config, index, first, first if final < 0 else final)


def model_sample_probability(config: TrainConfig, step: int) -> float:
    """Probability of scheduled sampling: 0 up to the start step, then linear up to the last step."""
    if not config.scheduled_sampling_passes:
        return 0.0
    start_step = config.scheduled_sampling_start_step
    return config.scheduled_sampling * max(0, step - start_step) / (config.steps - start_step)


def _interpolate(config: TrainConfig, index: int, first: float, final: float) -> float:
    """Linear interpolation over all crops of the training."""
    return first + index / (config.steps * config.batch_size) * (final - first)
