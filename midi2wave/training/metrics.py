"""Measurements of training steps: metrics of one step, their asynchronous transfer from the device, throughput."""

import contextlib
import math
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class StepMetrics:
    """Metrics of one optimiser step; the losses are means over all processes, in nats.

    Attributes:
        loss: Negative log-likelihood per sample.
        gradient_norm: Norm of the gradient before clipping.
        local_loss: This process's part of `loss`, before the sum over processes.
        stop_fraction: Fraction of the processes that were asked to stop.
        mel_loss: Loss of the auxiliary head, before its weight.
        diversity_loss: Loss of the codebook's usage, before its weight.
    """

    loss: float
    gradient_norm: float
    local_loss: float
    stop_fraction: float
    mel_loss: float = 0.0
    diversity_loss: float = 0.0

    @property
    def finite(self) -> bool:
        """Whether losses and gradient were finite; otherwise the step changed nothing."""
        return math.isfinite(self.loss + self.mel_loss + self.diversity_loss + self.gradient_norm)


class AsyncMetricsReader:
    """Reads step metrics from a CUDA device one step late, so that the host never waits for the step in progress."""

    def __init__(self, device: torch.device) -> None:
        self.asynchronous = device.type == "cuda"
        self.pending: deque[tuple[int, Tensor, torch.cuda.Event | None]] = deque()

    def push(self, step: int, values: Tensor) -> None:
        """Start the transfer of a step's metrics.

        Args:
            step: Number of the step.
            values: What `train_step` returned, on the device.
        """
        event = None
        if self.asynchronous:
            event = torch.cuda.Event()
            stream = torch.cuda.current_stream(values.device)
            values = values.to("cpu", non_blocking=True)  # Pinned memory, complete once the event has passed.
            event.record(stream)
        self.pending.append((step, values, event))

    def ready(self, *, everything: bool = False) -> Iterator[tuple[int, StepMetrics]]:
        """Yield steps and their metrics, oldest first.

        Args:
            everything: Include the newest step, which on CUDA is otherwise left for the next call.
        """
        while len(self.pending) > (1 if self.asynchronous and not everything else 0):
            step, values, event = self.pending.popleft()
            if event:
                event.synchronize()
            yield step, StepMetrics(*values.tolist())


class ThroughputMeter:
    """Accumulates step metrics and wall-clock time between two lines of the log.

    Args:
        samples_per_step: Audio samples of one optimiser step, of all processes together.
        gradient_clip: Norm above which gradients are clipped.
    """

    def __init__(self, samples_per_step: int, gradient_clip: float) -> None:
        self.samples_per_step = samples_per_step
        self.gradient_clip = gradient_clip
        self.training_seconds = 0.0
        self._total_steps = 0
        self._first_step_seconds = 0.0
        self._step_started = time.monotonic()
        self._reset()

    def _reset(self) -> None:
        self._seconds_at_reset = self.training_seconds
        self._n_steps = 0
        self._waiting_seconds = 0.0
        self._finite_steps: list[StepMetrics] = []

    @property
    def empty(self) -> bool:
        """Whether no step with finite metrics has been added since the last `read`."""
        return not self._finite_steps

    @property
    def seconds_per_step(self) -> float:
        """Mean duration of all steps but the first, in which kernels are compiled and loader processes start."""
        return (self.training_seconds - self._first_step_seconds) / (self._total_steps - 1)

    @contextlib.contextmanager
    def waiting_for_data(self) -> Iterator[None]:
        """Count the time spent inside this context as waiting for data."""
        started = time.monotonic()
        yield
        self._waiting_seconds += time.monotonic() - started

    def add(self, metrics: StepMetrics) -> None:
        """Include a step's metrics in the means, unless the step was skipped."""
        if metrics.finite:
            self._finite_steps.append(metrics)

    def end_step(self) -> None:
        """Stop the clock at the end of a step."""
        self.training_seconds += time.monotonic() - self._step_started
        self._n_steps += 1
        self._total_steps += 1
        if self._total_steps == 1:
            self._first_step_seconds = self.training_seconds

    def begin_step(self) -> None:
        """Restart the clock at the beginning of a step."""
        self._step_started = time.monotonic()

    def read(self) -> dict[str, float]:
        """Return the means since the last call, by metric name, and start anew."""
        seconds = self.training_seconds - self._seconds_at_reset
        n_finite = len(self._finite_steps)
        metrics = {
            "loss": sum(step.loss for step in self._finite_steps) / n_finite,
            "gradient_norm": sum(step.gradient_norm for step in self._finite_steps) / n_finite,
            "clip_rate": sum(step.gradient_norm > self.gradient_clip for step in self._finite_steps) / n_finite,
            "samples_per_second": self._n_steps * self.samples_per_step / seconds,
            "data_wait": self._waiting_seconds / seconds,
        }
        for name in ("mel_loss", "diversity_loss"):
            values = [getattr(step, name) for step in self._finite_steps]
            if any(values):
                metrics[name] = sum(values) / n_finite
        self._reset()
        return metrics
