"""Messages of train.py to its user: summary of a run, remaining time, warnings."""

import math

from midi2wave.data.crops import Crops
from midi2wave.training.data_loader import crop_samples
from midi2wave.training.hardware import GIB, available_bytes, training_bytes
from midi2wave.training.metrics import StepMetrics
from midi2wave.training.run_state import Run
from midi2wave.training.validation import gap_error
from midi2wave.utils.cli import count_of


def run_summary(state: Run) -> str:
    """Describe a run that starts in one line; more lines follow for an unconditional model or a lack of memory."""
    settings, data = state.config.train_config, state.config.data_config
    decoder, world = state.model.decoder, state.world
    lookahead = state.model.context_frames[1] / data.midi_hz
    processes = f", {world.size} processes" if world.size > 1 else ""
    recompute = settings.activation_checkpointing
    pass_samples = state.micro_batch_size * crop_samples(data)
    needed = training_bytes(state.model, pass_samples, state.precision, recompute=recompute)
    n_parameters = sum(p.numel() for p in state.model.parameters())
    summary = (
        f"{n_parameters:,} parameters, receptive field "
        f"{decoder.receptive_field / data.audio_hz * 1000:.0f} ms, look-ahead {lookahead * 1000:.0f} ms, "
        f"{count_of(settings.batch_size, 'crop')} of {data.segment_length:g} s a step "
        f"({state.micro_batch_size} at once{processes}), "
        f"{count_of(settings.steps - state.step, 'step')} on {state.device} "
        f"in {str(state.precision).removeprefix('torch.')}, "
        f"about {needed / GIB:.1f} GiB"
    )
    if not data.conditional:
        summary += "\nan unconditional model: it has no MIDI input, so validation measures its likelihood and no gap"
    free = available_bytes(state.device)
    if free is not None and needed > free:
        summary += (
            f"\nthat is more than the {free / GIB:.1f} GiB that are free: if it fails, lower "
            "train_config.micro_batch_size or data_config.segment_length, or set "
            "train_config.activation_checkpointing=true"
        )
    return summary


def eta_message(remaining_steps: int, seconds_per_step: float) -> str:
    """Describe how long the remaining steps of a run will take."""
    minutes = remaining_steps * seconds_per_step / 60
    duration = f"{minutes / 60:.1f} hours" if minutes >= 100 else f"{minutes:.1f} minutes"
    return (
        f"{seconds_per_step:.3g} s a step: the remaining {remaining_steps} steps take about {duration}, "
        "validation not counted"
    )


def skipped_step_warning(state: Run, step: int, metrics: StepMetrics, crops: Crops) -> str | None:
    """Name the crops of a step that was skipped.

    Returns:
        The warning; None where the loss of another process was not finite, which then writes the warning itself.
    """
    world, batch_size = state.world, state.config.train_config.batch_size
    if math.isfinite(metrics.local_loss) and not math.isfinite(metrics.loss):
        return None
    names, share = [], batch_size // world.size
    first = step * batch_size + world.rank * share
    for index in range(first, first + share):
        position, frame = crops.locate_crop(index)
        names.append(f"{crops.folder.rows[position].audio_filename} at {frame / crops.config.midi_hz:.2f} s")
    process = f" (process {world.rank})" if world.size > 1 else ""
    return f"step {step} was skipped{process}: its loss or gradient is not finite; its crops: {', '.join(names)}"


def ignored_conditioning_warning(metrics: dict[str, float], n_validations_without_gap: int) -> str | None:
    """Warn about a decoder that ignores its MIDI.

    Args:
        metrics: Result of `validate`.
        n_validations_without_gap: Number of validations in a row without a significant conditioning gap.

    Returns:
        The warning at the second such validation in a row, the fourth, the eighth, ...; otherwise None.
    """
    n = n_validations_without_gap
    if n < 2 or n & (n - 1):
        return None
    return (
        f"the model ignores its MIDI: with the notes of another crop it does as well (gap "
        f"{metrics['validation_gap']:.4f} +- {gap_error(metrics):.4f} nats, {n} validations in a row). "
        "However good the loss, by itself it will not play the piece. It may start to use the MIDI with more training; "
        "what helps: docs/conditioning.md"
    )
