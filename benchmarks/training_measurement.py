"""The measurement of `benchmarks.training`: variants of the training step, and the limits of the machine."""

import argparse
import dataclasses
import math
import time
from collections.abc import Callable
from typing import Any

import torch

import train
from benchmarks.configs import CONFIGS
from benchmarks.limits import copy_bandwidth, matrix_product_rate, processor
from benchmarks.plain import plain_train_step
from benchmarks.speed_measurement import noise_crops
from midi2wave.config import load_config
from midi2wave.modules.residual_stack import GateKernels, compile_gate_kernels
from midi2wave.training.data_loader import crop_samples
from midi2wave.training.hardware import choose_precision, keep_freed_memory, synchronize, training_bytes
from midi2wave.training.run_state import Run, make_unsaved_run
from midi2wave.training.step import train_step
from midi2wave.utils.cli import choose_device


@dataclasses.dataclass(frozen=True)
class Variant:
    """One row to measure.

    Attributes:
        name: Name of the row.
        batch_size: Crops per step.
        precision: Number format.
        gates: The kernels of the gates; None: the plain implementation.
        recompute: Activation checkpointing.
        cuda_graph: Whether the passes are captured as a CUDA graph.
    """

    name: str
    batch_size: int
    precision: torch.dtype = torch.float32
    gates: GateKernels | None = None
    recompute: bool = False
    cuda_graph: bool = False


@dataclasses.dataclass(frozen=True)
class Limits:
    """Limits of the machine: floating-point operations per second by number format, and bytes copied per second."""

    operations: dict[torch.dtype, float]
    bandwidth: float


def measure(args: argparse.Namespace) -> tuple[list[str], list[dict[str, Any]]]:
    """The table of the configs that the command line names, and its rows."""
    device = choose_device(args.device)
    operations = {kind: matrix_product_rate(kind, device) for kind in (torch.float32, torch.bfloat16)}
    limits = Limits(operations, copy_bandwidth(device))
    rows = [row for name in args.config for row in measure_config(name, args, device, limits)]
    return table(rows, limits, device), rows


def table(rows: list[dict[str, Any]], limits: Limits, device: torch.device) -> list[str]:
    """The rows as Markdown, below a line with the limits."""
    float32, bfloat16 = (limits.operations[kind] / 1e9 for kind in (torch.float32, torch.bfloat16))
    products = f"matrix products {float32:.0f} GFLOP/s in float32, {bfloat16:.0f} in bfloat16"
    lines = [
        f"{processor(device)}; {products}; copy {limits.bandwidth / 1e9:.0f} GB/s",
        "| config | variant | batch | samples/s | vs plain | of the matrix-product rate | of the bandwidth |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        cells = [
            row["config"],
            row["variant"],
            f"{row['batch']} x {row['crop_seconds']:g} s",
            f"{row['samples_per_second']:,.0f}",
            f"{row['vs_plain']:.2f}",
            f"{row['limit_fraction']:.0%}",
            f"{row['bandwidth_fraction']:.0%}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def measure_config(name: str, args: argparse.Namespace, device: torch.device, limits: Limits) -> list[dict[str, Any]]:
    """The rows of one config."""
    config = load_config(CONFIGS[name], train.NEEDS, [f"train_config.batch_size={args.batch}"])
    n_samples = crop_samples(config.data_config)
    rows: list[dict[str, Any]] = []
    for variant in variants(args.batch, device):
        state = make_unsaved_run(config, device, variant.precision)
        state.capture_pending = variant.cuda_graph
        keep_freed_memory(variant.name != "plain")
        if variant.gates is None:
            rate = time_plain(state, variant.batch_size, n_samples, args.seconds)
        else:
            state.model.decoder.gates = dataclasses.replace(variant.gates, recompute=variant.recompute)
            rate = time_step(state, n_samples, args.seconds)
            if variant.cuda_graph and state.graphed_pass is None:
                raise RuntimeError("no CUDA graph could be captured: this row would not be what it says")
        with_one, with_none = (
            training_bytes(state.model, n, variant.precision, recompute=variant.recompute) for n in (1, 0)
        )
        rows.append(
            {
                "config": name,
                "variant": variant.name,
                "batch": variant.batch_size,
                "crop_seconds": config.data_config.segment_length,
                "samples_per_second": rate,
                "limit_fraction": rate * step_operations(state) / limits.operations[variant.precision],
                "bandwidth_fraction": 2 * rate * (with_one - with_none) / limits.bandwidth,
            }
        )
    best = max(row["samples_per_second"] for row in rows if row["variant"] == "plain")
    return [{**row, "vs_plain": row["samples_per_second"] / best} for row in rows]


def variants(batch_size: int, device: torch.device) -> list[Variant]:
    """The rows of a config: the plain implementation, then one option after the other."""
    rows = [Variant("plain", size) for size in sorted({1, batch_size})]
    on_gpu = device.type == "cuda"
    if not on_gpu:
        rows.append(Variant("plain, freed memory kept", batch_size))
    rows.append(Variant("float32", batch_size, gates=GateKernels()))
    if choose_precision("auto", device) != torch.bfloat16:
        return rows
    rows.append(Variant("bfloat16", batch_size, torch.bfloat16, GateKernels()))
    if compiled := compile_gate_kernels(device):
        fastest = Variant("bfloat16, compiled", batch_size, torch.bfloat16, compiled)
        rows.append(fastest)
        if on_gpu:
            fastest = dataclasses.replace(fastest, name=f"{fastest.name}, CUDA graph", cuda_graph=True)
            rows.append(fastest)
        name = f"{fastest.name}, activation checkpointing"
        rows.append(dataclasses.replace(fastest, name=name, recompute=True))
    return rows


def time_step(state: Run, n_samples: int, seconds: float) -> float:
    """Samples per second of `train_step`."""
    batch_size, data = state.config.train_config.batch_size, state.config.data_config
    size = state.micro_batch_size
    micro_batches = [noise_crops(state.model, data, size, n_samples) for _ in range(batch_size // size)]
    return batch_size * n_samples / seconds_per_step(lambda: train_step(state, micro_batches), state.device, seconds)


def time_plain(state: Run, batch_size: int, n_samples: int, seconds: float) -> float:
    """Samples per second of a step of the plain implementation."""
    micro_batches = [noise_crops(state.model, state.config.data_config, batch_size, n_samples)]
    duration = seconds_per_step(lambda: plain_train_step(state, micro_batches), state.device, seconds)
    return batch_size * n_samples / duration


def seconds_per_step(step: Callable[[], object], device: torch.device, seconds: float) -> float:
    """Mean time of a step, after two to warm up.

    Args:
        step: Takes one step.
        device: The device on which it runs.
        seconds: How long to measure.
    """
    for _ in range(2):
        step()
    synchronize(device)
    start, n, previous_end = time.perf_counter(), 0, None
    while time.perf_counter() - start < seconds or not n:
        step()
        n += 1
        if device.type == "cuda":
            # As in training, the host is at most one step ahead.
            end = torch.cuda.current_stream(device).record_event()
            if previous_end:
                previous_end.synchronize()
            previous_end = end
    synchronize(device)
    return (time.perf_counter() - start) / n


def step_operations(state: Run) -> float:
    """Floating-point operations per sample that a training step cannot do without.

    Those of the matrix products at audio rate, three times: forward, and the gradients of inputs and weights.
    """
    decoder = state.model.decoder
    per_sample = sum(math.prod(layer.dilated.weight.shape) for layer in decoder.layers)
    per_sample += sum(math.prod(layer.residual.weight.shape) for layer in decoder.layers if layer.residual)
    per_sample += sum(math.prod(part.weight.shape) for part in (decoder.skip, decoder.hidden, decoder.output))
    return 3 * 2 * per_sample
