"""What changes over a training by its own course: pure functions of the config and a step's or a crop's number."""

import math

from midi2wave.config import TrainConfig


def learning_rate(step: int, config: TrainConfig) -> float:
    """Linear warm-up, then a cosine from the peak down to the final rate."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    progress = (step - config.warmup_steps) / (config.steps - config.warmup_steps)
    span = config.learning_rate - config.final_learning_rate
    return config.final_learning_rate + span * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


def history_noise(config: TrainConfig, index: int) -> float:
    """Largest level of the noise on the history of the crop of this index: a line from first to final."""
    return _along_a_line(config, index, config.history_noise, config.final_history_noise)


def history_mixing(config: TrainConfig, index: int) -> float:
    """The same of the other crop's sound."""
    first, final = config.history_mixing, config.final_history_mixing
    return _along_a_line(config, index, first, first if final < 0 else final)


def model_sample_probability(settings: TrainConfig, step: int) -> float:
    """Which share of the history is the model's own: none up to the patience, then a line up to the last step."""
    if not settings.scheduled_sampling_passes:
        return 0.0
    patience = settings.scheduled_sampling_start_step
    return settings.scheduled_sampling * max(0, step - patience) / (settings.steps - patience)


def _along_a_line(config: TrainConfig, index: int, first: float, final: float) -> float:
    """From first to final over all crops of the training, at the crop of this index."""
    return first + index / (config.steps * config.batch_size) * (final - first)
