"""Step 3: a processed folder -> a run folder with checkpoints that generate.

    python train.py -c config_train.json
    torchrun --nproc_per_node=4 train.py -c config_train.json      # the same training by four processes
    tensorboard --logdir runs

The same command goes on from the newest checkpoint of the run folder, bit for bit as if nothing had happened; Ctrl-C
saves one first. The loss is the negative log-likelihood in nats per sample, with noise on the decoder's history;
validation_nll is the one without noise, on crops with a whole receptive field before them. Beside it stands the one
with another recording's MIDI: as long as the two are equal, the decoder ignores the MIDI.
"""

import contextlib
import functools
import json
import math
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm

from midi2wave.config import TrainConfig, load_config
from midi2wave.data.crops import CropAugmentation, Crops
from midi2wave.training.cuda_graph import GraphedPass
from midi2wave.training.data_loader import batches, micro_batches
from midi2wave.training.distributed import SINGLE_PROCESS, World, init_distributed, local_device
from midi2wave.training.hardware import GIB, available_bytes, friendly_oom_errors, keep_freed_memory, training_bytes
from midi2wave.training.log import TrainingLog
from midi2wave.training.run_state import Run, create_or_resume_run, save
from midi2wave.training.scheduled_sampling import apply_scheduled_sampling
from midi2wave.training.schedules import history_mixing, history_noise, learning_rate, model_sample_probability
from midi2wave.training.validation import crops_for_model, training_losses, validate
from midi2wave.utils.cli import choose_device, format_error, log, make_parser, run
from midi2wave.utils.errors import InputError

NEEDS = ("train_config", "data_config", "wavenet_config", "cond_wavenet_config", "dist_config")
STEPS_BEFORE_FORECAST = 50
SKIPS_BEFORE_GIVING_UP = 10
IMPATIENT_SECONDS = 1.0  # two signals within this time are one: a group of processes gets it, and a parent hands it on


def main(argv: list[str] | None = None) -> int:
    """Run the step; returns the exit code."""
    started = time.monotonic()
    args = make_parser(__doc__, config="config_train.json").parse_args(argv)
    config = load_config(args.config, NEEDS, args.overrides)
    if not config.data_config.dataset_path:
        raise InputError(f"{args.config}: data_config.dataset_path is empty; make one with preprocess_maestro.py")
    keep_freed_memory()
    device = choose_device(local_device(config.train_config.device))
    with init_distributed(config.dist_config, device) as world, friendly_oom_errors(), contextlib.ExitStack() as held:
        state = create_or_resume_run(config, force=args.force, world=world, held=held)
        training_log = TrainingLog(state.folder, state.step) if world.is_main_process else None
        with (
            contextlib.closing(training_log) if training_log else contextlib.nullcontext(),
            stop_signals(world) as stop,
        ):
            train(state, training_log, stop)
    if training_log:
        elapsed = time.monotonic() - started
        result = {
            "run_folder": str(state.folder),
            "step": state.step,
            **training_log.newest,
            "elapsed_seconds": elapsed,
        }
        print(json.dumps(result) if args.as_json else f"{state.folder}: step {state.step}, {training_log.words()}")
    return 0


@contextlib.contextmanager
def stop_signals(world: World = SINGLE_PROCESS) -> Iterator[Callable[[], bool]]:
    """Turn SIGINT and SIGTERM into a question that the loop asks between two steps; a later one acts at once.

    Under torchrun none does: it hands on to its processes what a terminal has sent them already.
    """
    received = []

    def receive(number: int, _frame: object) -> None:
        if received and world.size == 1 and time.monotonic() - received[0] > IMPATIENT_SECONDS:
            signal.default_int_handler(number, None)
        received.append(time.monotonic())

    old = {number: signal.signal(number, receive) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def train(state: Run, training_log: TrainingLog | None, stop: Callable[[], bool] = lambda: False) -> None:
    """The loop: from the state's step to the last one, or until `stop()` of any process; saves at the end.

    `training_log` is None in all processes but the one that writes.
    """
    settings, data, world = state.config.train_config, state.config.data_config, state.world
    if training_log:
        log(run_summary(state))
    crops = crops_for_model(
        data.dataset_path,
        data,
        state.model,
        settings.seed,
        augmentation=CropAugmentation(
            history_noise=functools.partial(history_noise, settings),
            history_mixing=functools.partial(history_mixing, settings),
            history_dropout=settings.history_dropout,
            conditioning_dropout=data.conditioning_dropout,
        ),
    )
    indices = micro_batches(range(state.step, settings.steps), settings.batch_size, state.micro_batch,
                            world.rank, world.size)  # fmt: skip
    loader = batches(crops, indices, data.n_workers, pin_memory=state.device.type == "cuda")
    n_passes = settings.batch_size // world.size // state.micro_batch
    n_samples = settings.batch_size * crops.n_frames * crops.hop
    bar = tqdm(total=settings.steps, initial=state.step, unit="step", dynamic_ncols=True,
               disable=not (training_log and sys.stderr.isatty()))  # fmt: skip
    meter, reports, first, skipped = ThroughputMeter(), AsyncMetricsReader(state.device), state.step, 0
    while state.step < settings.steps:
        with meter.waiting():
            passes = [next(loader) for _ in range(n_passes)]
        reports.push(state.step, train_step(state, passes, stopping=stop()))
        state.step += 1
        last, stopped = state.step == settings.steps, False
        for step, report in reports.ready(everything=last or _due(state)):
            skipped = 0 if report.finite else _skip(state, step, report, skipped, crops)
            meter.add(report, settings)
            stopped = stopped or report.stopping > 0
        bar.update()
        meter.step()  # validation, samples and checkpoints are not training time
        if state.step == first + 1:
            starting = meter.seconds  # compiling, and workers that begin
        if training_log and state.step % settings.iters_per_log == 0 and meter.losses:
            metrics = meter.read(n_samples) | {"learning_rate": learning_rate(state.step - 1, settings)}
            training_log.metrics(state.step, **metrics)
            bar.set_postfix(loss=f"{metrics['loss']:.3f}", samples_per_s=f"{metrics['samples_per_second']:.0f}")
        if training_log and state.step == first + STEPS_BEFORE_FORECAST:
            steps_timed = STEPS_BEFORE_FORECAST - 1
            log(eta_message(settings.steps - state.step, (meter.seconds - starting) / steps_timed))
        run_periodic_tasks(state, training_log)
        if stopped or (world.size == 1 and stop()):  # several must stop after the same step
            break
        meter.resume()
    bar.close()
    if state.saved_step != state.step and (problem := save(state)):
        raise InputError(f"step {state.step} is not saved: {problem}")
    if training_log:
        training_log.curves()
        if state.step < settings.steps:
            log(f"stopped at step {state.step} of {settings.steps}; the same command goes on from there")


def train_step(state: Run, passes: list[dict[str, Tensor]], *, stopping: bool = False) -> Tensor:
    """One optimiser step on some batches of equal size, which changes nothing without a finite loss and gradient.

    Returns what `Report` is made of, on the device: the host asks it nothing, and so need not wait for it.
    """
    settings, parameters = state.config.train_config, list(state.model.parameters())
    for group in state.optimizer.param_groups:
        group["lr"] = learning_rate(state.step, settings) * group["factor"]
    if state.to_record:
        _record(state, passes)
    state.optimizer.zero_grad(set_to_none=state.recorded is None)
    if share := model_sample_probability(settings, state.step):
        passes = [
            apply_scheduled_sampling(state.model, batch, share, settings, state.device, state.precision)
            for batch in passes
        ]
    own = torch.zeros(3, device=state.device)  # this process's means of the losses
    for i, batch in enumerate(passes):
        more_follow = state.called is not state.model and i < len(passes) - 1
        with state.called.no_sync() if more_follow else contextlib.nullcontext():
            own += state.recorded(batch) if state.recorded else _backward(state, len(passes), batch)
    means = torch.cat([own, own.new_full((1,), stopping)]) / state.world.size
    loss, mel, diversity, stop = state.world.all_reduce_sum(means).unbind()
    norm = torch.nn.utils.clip_grad_norm_(parameters, settings.gradient_clip)
    finite = torch.isfinite(loss + mel + diversity + norm).float()
    state.optimizer.found_inf, state.optimizer.grad_scale = 1 - finite, None  # a fused optimiser then leaves it
    state.optimizer.step()
    # At the start the average follows quickly, lest it hold on to the random weights.
    share = finite * (1 - min(settings.ema_decay, (1 + state.step) / (10 + state.step)))
    with torch.no_grad():
        average = list(state.average.parameters())
        steps = torch._foreach_sub(parameters, average)
        torch._foreach_mul_(steps, share)
        torch._foreach_add_(average, steps)
    return torch.stack([loss, norm, own[0], stop, mel, diversity])


def _backward(state: Run, n_passes: int, batch: dict[str, Tensor]) -> Tensor:
    """One of a step's passes there and back: adds to the gradients; returns its share of the three losses, [3]."""
    settings = state.config.train_config
    losses = training_losses(state.model, batch, state.device, state.precision, state.called)
    nll, mel, diversity = (one.mean() / n_passes for one in losses)
    (nll + settings.mel_loss_weight * mel + settings.diversity_loss_weight * diversity).backward()
    return torch.stack([nll, mel, diversity]).detach()


def _record(state: Run, passes: list[dict[str, Tensor]]) -> None:
    """Record a pass, if that is possible: else training goes on without."""
    state.to_record = False
    try:
        state.recorded = GraphedPass(functools.partial(_backward, state, len(passes)), passes[0], state.device)
    except RuntimeError as error:
        log(
            f"a pass could not be recorded as a CUDA graph ({format_error(error)}): training goes on without one, "
            "slower (train_config.cuda_graph=false silences this)"
        )


@dataclass(frozen=True)
class StepMetrics:
    """What a step found: loss over all processes and of this one, the norm of the gradient before it was clipped."""

    loss: float
    gradient_norm: float
    own_loss: float
    stopping: float  # the share of the processes that were asked to stop
    mel_loss: float = 0.0  # of the auxiliary head, before its weight
    diversity_loss: float = 0.0  # of the codes, before its weight

    @property
    def finite(self) -> bool:
        """Whether the step changed anything."""
        return math.isfinite(self.loss + self.mel_loss + self.diversity_loss + self.gradient_norm)


class AsyncMetricsReader:
    """Steps' reports, read from a CUDA device one step late: it works on the next one then, and nobody waits."""

    def __init__(self, device: torch.device) -> None:
        self.late, self.pending = device.type == "cuda", deque()

    def push(self, step: int, values: Tensor) -> None:
        """Take a step's report from the device."""
        event = None
        if self.late:
            event, stream = torch.cuda.Event(), torch.cuda.current_stream(values.device)
            values = values.to("cpu", non_blocking=True)  # into pinned memory; whole once the event has passed
            event.record(stream)
        self.pending.append((step, values, event))

    def ready(self, *, everything: bool = False) -> Iterator[tuple[int, StepMetrics]]:
        """Steps and reports, oldest first; on CUDA all but the newest one, unless `everything` is asked for."""
        while len(self.pending) > (1 if self.late and not everything else 0):
            step, values, event = self.pending.popleft()
            if event:
                event.synchronize()
            yield step, StepMetrics(*values.tolist())


class ThroughputMeter:
    """What is measured between two lines of the log."""

    def __init__(self) -> None:
        self.began, self.seconds = time.monotonic(), 0.0
        self.read_at, self.n_steps, self.waited = 0.0, 0, 0.0
        self.losses, self.mel_losses, self.diversity_losses, self.norms, self.clipped = [], [], [], [], 0

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Around what waits for data."""
        began = time.monotonic()
        yield
        self.waited += time.monotonic() - began

    def add(self, report: StepMetrics, settings: TrainConfig) -> None:
        """Count a step's report in, unless it was skipped."""
        if report.finite:
            self.losses.append(report.loss)
            self.mel_losses.append(report.mel_loss)
            self.diversity_losses.append(report.diversity_loss)
            self.norms.append(report.gradient_norm)
            self.clipped += report.gradient_norm > settings.gradient_clip

    def step(self) -> None:
        """A step ends here."""
        self.seconds += time.monotonic() - self.began
        self.n_steps += 1

    def resume(self) -> None:
        """The next step begins here."""
        self.began = time.monotonic()

    def read(self, n_samples: int) -> dict[str, float]:
        """Means since the last reading; `n_samples` are those of one step."""
        seconds = self.seconds - self.read_at
        metrics = {
            "loss": sum(self.losses) / len(self.losses),
            "gradient_norm": sum(self.norms) / len(self.norms),
            "clip_rate": self.clipped / len(self.norms),
            "samples_per_second": self.n_steps * n_samples / seconds,
            "data_wait": self.waited / seconds,
        }
        if any(self.mel_losses):
            metrics["mel_loss"] = sum(self.mel_losses) / len(self.mel_losses)
        if any(self.diversity_losses):
            metrics["diversity_loss"] = sum(self.diversity_losses) / len(self.diversity_losses)
        self.read_at, self.n_steps, self.waited = self.seconds, 0, 0.0
        self.losses, self.mel_losses, self.diversity_losses, self.norms, self.clipped = [], [], [], [], 0
        return metrics


def _due(state: Run) -> bool:
    """Whether something happens after this step that must know of all steps."""
    settings = state.config.train_config
    every = (settings.iters_per_log, settings.iters_per_checkpoint, settings.iters_per_validation)
    return any(state.step % n == 0 for n in every)


def _skip(state: Run, step: int, report: StepMetrics, skipped: int, crops: Crops) -> int:
    """Say that a step changed nothing, and on which crops; after ten in a row there is no point in going on."""
    world, size = state.world, state.config.train_config.batch_size
    # If one process found the loss itself not to be finite, the fault lies in its crops, and it alone speaks.
    if not math.isfinite(report.own_loss) or math.isfinite(report.loss):
        names, share = [], size // world.size
        for index in range(step * size + world.rank * share, step * size + (world.rank + 1) * share):
            position, frame = crops.locate_crop(index)
            names.append(f"{crops.folder.rows[position].audio_filename} at {frame / crops.config.midi_hz:.2f} s")
        who = f" (process {world.rank})" if world.size > 1 else ""
        log(f"step {step} was skipped{who}: its loss or gradient is not finite; its crops: {', '.join(names)}")
    if skipped + 1 == SKIPS_BEFORE_GIVING_UP:
        save(state)  # the weights are those of the last good step
        raise InputError("ten steps in a row without a finite gradient; lower train_config.learning_rate")
    return skipped + 1


def ignored_conditioning_warning(state: Run, found: dict[str, float]) -> str | None:
    """What to say if the decoder ignores its MIDI: at the second validation of that kind in a row, the fourth, ..."""
    gap, error = found["validation_gap"], found["validation_gap_error"]
    state.n_validations_without_gap = state.n_validations_without_gap + 1 if gap < 2 * error else 0
    count = state.n_validations_without_gap
    if count < 2 or count & (count - 1):
        return None
    return (
        f"the model ignores its MIDI: with the notes of another recording it does as well (gap {gap:.4f} +- "
        f"{error:.4f} nats, {count} validations in a row). However good the loss, by itself it will not play the "
        "piece. It may begin to listen with more training; what makes it listen: docs/conditioning.md"
    )


def run_periodic_tasks(state: Run, training_log: TrainingLog | None) -> None:
    """What does not happen at every step: validation, samples, checkpoints."""
    settings = state.config.train_config
    last, improved = state.step == settings.steps, False
    if state.validation and (state.step % settings.iters_per_validation == 0 or last):
        found = validate(state.average, state.validation, state.micro_batch, state.device, state.precision, state.world)
        improved = found["validation_nll"] < state.best[0]
        if improved:
            state.best = (found["validation_nll"], state.step)
        if training_log:
            training_log.metrics(state.step, **found)
            training_log.curves()
            if "validation_gap" in found and (warning := ignored_conditioning_warning(state, found)):
                log(warning)
    if improved or state.step % settings.iters_per_checkpoint == 0:
        save(state)
    if training_log and settings.iters_per_sample and state.step % settings.iters_per_sample == 0:
        training_log.sample(state.step, state.average, state.config.data_config)


def run_summary(state: Run) -> str:
    """One line with all that matters about a run that begins, and another if it needs more memory than is free."""
    settings, data, decoder = state.config.train_config, state.config.data_config, state.model.decoder
    lookahead, world = state.model.context_frames[1] / data.midi_hz, state.world
    processes = f", {world.size} processes" if world.size > 1 else ""
    crop_samples = max(1, round(data.segment_length * data.midi_hz)) * state.model.hop
    needed = training_bytes(state.model, state.micro_batch * crop_samples, state.precision,
                            recompute=settings.activation_checkpointing)  # fmt: skip
    said = (
        f"{sum(p.numel() for p in state.model.parameters()):,} parameters, receptive field "
        f"{decoder.receptive_field / data.audio_hz * 1000:.0f} ms, look-ahead {lookahead * 1000:.0f} ms, "
        f"{settings.batch_size} crops of {data.segment_length:g} s a step ({state.micro_batch} at once{processes}), "
        f"{settings.steps - state.step} steps on {state.device} in {str(state.precision).removeprefix('torch.')}, "
        f"about {needed / GIB:.1f} GiB"
    )
    if not data.conditional:
        said += "\nan unconditional model: it is shown no MIDI, so validation tells its likelihood and no gap"
    there = available_bytes(state.device)
    if there is not None and needed > there:
        said += (
            f"\nthat is more than the {there / GIB:.1f} GiB that are free: if it fails, lower "
            "train_config.micro_batch_size or data_config.segment_length, or set "
            "train_config.activation_checkpointing=true"
        )
    return said


def eta_message(steps: int, seconds_per_step: float) -> str:
    """How long the rest of a run will take."""
    minutes = steps * seconds_per_step / 60
    left = f"{minutes / 60:.1f} hours" if minutes >= 100 else f"{minutes:.1f} minutes"
    return f"{seconds_per_step:.3g} s a step: the remaining {steps} steps take about {left}, validation not counted"


if __name__ == "__main__":
    run(main)
