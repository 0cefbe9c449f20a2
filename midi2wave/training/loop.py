"""The training loop: steps, and between them the log, validations, samples and checkpoints (train.py)."""

import contextlib
import sys
from collections.abc import Callable, Generator, Iterator

from tqdm import tqdm

from midi2wave.config import Config
from midi2wave.data.crops import Crops
from midi2wave.training.data_loader import (
    MicroBatches,
    batches,
    limit_workers,
    micro_batch_indices,
    training_crops,
)
from midi2wave.training.distributed import init_distributed, local_device
from midi2wave.training.hardware import friendly_oom_errors, keep_freed_memory
from midi2wave.training.log import TrainingLog
from midi2wave.training.losses import Batch
from midi2wave.training.messages import eta_message, ignored_conditioning_warning, run_summary, skipped_step_warning
from midi2wave.training.metrics import AsyncMetricsReader, StepMetrics, ThroughputMeter
from midi2wave.training.run_state import Run, create_or_resume_run, save_checkpoint
from midi2wave.training.schedules import learning_rate
from midi2wave.training.step import train_step
from midi2wave.training.stopping import save_on_error, stop_signals
from midi2wave.training.validation import lacks_conditioning_gap, validate
from midi2wave.utils.cli import choose_device, log
from midi2wave.utils.errors import InputError

STEPS_BEFORE_ETA = 50
MAX_SKIPPED_STEPS = 10  # In a row.


def run_training(config: Config, *, force: bool) -> tuple[Run, TrainingLog | None, int]:
    """Create or resume the run of a config, and train it to its end or until a signal stops it.

    Args:
        config: The whole config.
        force: Whether another run in the folder is replaced.

    Returns:
        The run, its log, which only the main process has, and the exit code: 128 + signal if a signal stopped it.
    """
    keep_freed_memory()
    device = choose_device(local_device(config.train_config.device))
    with (
        init_distributed(config.dist_config, device) as world,
        friendly_oom_errors(),
        contextlib.ExitStack() as exit_stack,
    ):
        state = create_or_resume_run(config, force=force, world=world, exit_stack=exit_stack)
        training_log = TrainingLog(state.folder, state.step) if world.is_main_process else None
        if training_log:
            exit_stack.enter_context(contextlib.closing(training_log))
        with stop_signals(world) as stop:
            train(state, training_log, stop)
    return state, training_log, 0 if state.step == config.train_config.steps else stop.exit_code


def train(state: Run, training_log: TrainingLog | None, stop: Callable[[], bool] = lambda: False) -> None:
    """Train from the state's step to the last one, or until a process is asked to stop; save at the end.

    Args:
        state: A new or resumed run.
        training_log: None in all processes but the main one.
        stop: Whether this process has been asked to stop.
    """
    settings, world, first_step = state.config.train_config, state.world, state.step
    if training_log:
        log(run_summary(state))
    crops = training_crops(state.config, state.model)
    if training_log and (unused := crops.describe_unused()):
        log(unused)
    n_micro_batches = settings.batch_size // world.size // state.micro_batch_size
    reader = AsyncMetricsReader(state.device)
    meter = ThroughputMeter(settings.batch_size * crops.n_frames * crops.hop, settings.gradient_clip)
    progress = make_progress_bar(state, visible=training_log is not None)
    n_skipped, stopping = 0, False
    with contextlib.closing(load_batches(state, crops)) as batch_loader, progress, save_on_error(state):
        loader = measure_waiting(batch_loader, meter)
        while state.step < settings.steps and not stopping:
            meter.begin_step()
            values = train_step(state, MicroBatches(loader, n_micro_batches), stopping=stop())
            state.step += 1
            reader.push(state.step - 1, values)
            for step, metrics in reader.ready(everything=is_reporting_step(state)):
                n_skipped = 0 if metrics.finite else handle_skipped_step(state, step, metrics, n_skipped, crops)
                meter.add(metrics)
                stopping = stopping or metrics.stop_fraction > 0
            progress.update()
            meter.end_step()  # Validation, samples and checkpoints are not training time.
            if training_log:
                report_progress(state, training_log, meter, progress, first_step)
            run_periodic_tasks(state, training_log)
            if world.size == 1:  # Several processes must stop after the same step, and so exchange it in `train_step`.
                stopping = stopping or stop()
    if state.saved_step != state.step and (problem := save_checkpoint(state)):
        raise InputError(f"step {state.step} is not saved: {problem}")
    if training_log:
        training_log.draw_curves()
        if state.step < settings.steps:
            log(f"stopped at step {state.step} of {settings.steps}; the same command goes on from there")


def load_batches(state: Run, crops: Crops) -> Generator[Batch]:
    """Yield this process's micro-batches from the state's step on."""
    settings, world = state.config.train_config, state.world
    steps = range(state.step, settings.steps)
    indices = micro_batch_indices(steps, settings.batch_size, state.micro_batch_size, world.rank, world.size)
    on_gpu = state.device.type == "cuda"
    n_workers = limit_workers(state.config.data_config.n_workers, quiet=world.rank > 0)
    return batches(crops, indices, n_workers, pin_memory=on_gpu)


def measure_waiting(loader: Iterator[Batch], meter: ThroughputMeter) -> Iterator[Batch]:
    """Pass batches on; the time until each one is there counts as waiting for data."""
    while True:
        with meter.waiting_for_data():
            batch = next(loader, None)
        if batch is None:
            return
        yield batch


def make_progress_bar(state: Run, *, visible: bool) -> tqdm:
    """A progress bar over all steps, shown on terminals only."""
    disable = not (visible and sys.stderr.isatty())
    n_steps = state.config.train_config.steps
    return tqdm(total=n_steps, initial=state.step, unit="step", dynamic_ncols=True, disable=disable)


def is_reporting_step(state: Run) -> bool:
    """Whether something happens after this step that needs the metrics of all steps."""
    settings = state.config.train_config
    intervals = (settings.iters_per_log, settings.iters_per_checkpoint, settings.iters_per_validation)
    return state.step == settings.steps or any(state.step % n == 0 for n in intervals)


def report_progress(
    state: Run, training_log: TrainingLog, meter: ThroughputMeter, progress: tqdm, first_step: int
) -> None:
    """Log training metrics every `iters_per_log` steps, and once how long the run will take."""
    settings = state.config.train_config
    if state.step % settings.iters_per_log == 0 and not meter.empty:
        metrics = meter.read() | {"learning_rate": learning_rate(state.step - 1, settings)}
        training_log.write_metrics(state.step, **metrics)
        progress.set_postfix(loss=f"{metrics['loss']:.3f}", samples_per_s=f"{metrics['samples_per_second']:.0f}")
    if state.step == first_step + STEPS_BEFORE_ETA:
        log(eta_message(settings.steps - state.step, meter.seconds_per_step))


def handle_skipped_step(state: Run, step: int, metrics: StepMetrics, n_skipped: int, crops: Crops) -> int:
    """Report a step that changed nothing.

    Returns:
        The number of steps skipped in a row.

    Raises:
        InputError: There were too many of them.
    """
    if warning := skipped_step_warning(state, step, metrics, crops):
        log(warning)
    if n_skipped + 1 == MAX_SKIPPED_STEPS:
        save_checkpoint(state)  # The weights are those of the last good step.
        raise InputError(
            f"{MAX_SKIPPED_STEPS} steps in a row without a finite gradient; lower train_config.learning_rate"
        )
    return n_skipped + 1


def run_periodic_tasks(state: Run, training_log: TrainingLog | None) -> None:
    """Validate, save a checkpoint and write a sample, each after its number of steps."""
    settings = state.config.train_config
    improved = False
    if state.validation and (state.step % settings.iters_per_validation == 0 or state.step == settings.steps):
        metrics = validate(
            state.ema_model,
            state.validation,
            state.micro_batch_size,
            state.device,
            state.precision,
            state.world,
            state.teacher,
        )
        score = metrics["validation_divergence" if state.teacher else "validation_nll"]
        improved = score < state.best[0]
        if improved:
            state.best = (score, state.step)
        if training_log:
            report_validation(state, training_log, metrics)
    if improved or state.step % settings.iters_per_checkpoint == 0:
        save_checkpoint(state)
    if training_log and settings.iters_per_sample and state.step % settings.iters_per_sample == 0:
        training_log.write_sample(state.step, state.ema_model, state.config.data_config)


def report_validation(state: Run, training_log: TrainingLog, metrics: dict[str, float]) -> None:
    """Log a validation's metrics, and a warning if the decoder ignores its conditioning."""
    training_log.write_metrics(state.step, **metrics)
    training_log.draw_curves()
    if "validation_gap" in metrics:
        n_before = state.n_validations_without_gap
        state.n_validations_without_gap = n_before + 1 if lacks_conditioning_gap(metrics) else 0
        if warning := ignored_conditioning_warning(metrics, state.n_validations_without_gap):
            log(warning)
