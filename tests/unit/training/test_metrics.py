"""Metrics of steps: their order, their means, and the clock of the training."""

import math

import pytest
import torch

from midi2wave.training import metrics as metrics_module
from midi2wave.training.metrics import AsyncMetricsReader, StepMetrics, ThroughputMeter


@pytest.fixture
def clock(monkeypatch):
    """The time that the meter sees, as a list of one number."""
    now = [100.0]
    monkeypatch.setattr(metrics_module.time, "monotonic", lambda: now[0])
    return now


def test_cpu_metrics_are_read_at_once_in_order():
    reader = AsyncMetricsReader(torch.device("cpu"))
    for step in range(3):
        reader.push(step, torch.tensor([float(step), 1.0, 0.5, 0.0, 0.0, 0.0]))
    assert [(step, metrics.loss) for step, metrics in reader.ready()] == [(0, 0.0), (1, 1.0), (2, 2.0)]
    assert list(reader.ready(everything=True)) == []


def test_means_leave_out_skipped_steps(clock):
    meter = ThroughputMeter(samples_per_step=1000, gradient_clip=1.0)
    assert meter.empty
    for loss, norm in ((2.0, 0.5), (math.nan, 1.0), (4.0, 1.5)):
        meter.begin_step()
        with meter.waiting_for_data():
            clock[0] += 0.5
        clock[0] += 1.5
        meter.add(StepMetrics(loss, norm, loss, 0.0))
        meter.end_step()
        clock[0] += 10  # Such as a validation.
    assert meter.read() == {
        "loss": 3.0,
        "gradient_norm": 1.0,
        "clip_rate": 0.5,
        "samples_per_second": 500.0,
        "data_wait": 0.25,
    }
    assert meter.empty


def test_auxiliary_losses_appear_where_there_are_any(clock):
    meter = ThroughputMeter(samples_per_step=1, gradient_clip=1.0)
    meter.add(StepMetrics(1.0, 1.0, 1.0, 0.0, mel_loss=0.5))
    clock[0] += 1
    meter.end_step()
    metrics = meter.read()
    assert metrics["mel_loss"] == 0.5 and "diversity_loss" not in metrics


def test_time_per_step_leaves_out_the_first(clock):
    meter = ThroughputMeter(samples_per_step=1, gradient_clip=1.0)
    for seconds in (60.0, 1.0, 3.0):
        meter.begin_step()
        clock[0] += seconds
        meter.end_step()
    assert meter.seconds_per_step == pytest.approx(2.0)
