"""How many samples a second a training step takes in: the obvious implementation, then each switch on top of the last.

    python -m benchmarks.training
    python -m benchmarks.training --json --config reference demo --batch 4

The rows of a config and the limits above them are of one run. `vs_plain` is the ratio to the obvious implementation
(`benchmarks/plain.py`: Conv1d, float32, everything at audio rate) at its better batch size, `limit_fraction` the share
of the rate of large matrix products in the same number format, `bandwidth_fraction` that of the copy bandwidth which
writing the results of the layers once and reading them once takes.
"""

import argparse
import dataclasses
import json
import math
import subprocess
import sys
import time

import torch

import train
from benchmarks.limits import copy_bandwidth, matrix_product_rate, processor
from benchmarks.model_speed import noise_crops
from benchmarks.plain import plain_train_step
from midi2wave.config import load_config
from midi2wave.modules.residual_stack import GateKernels, compile_gate_kernels
from midi2wave.training.data_loader import crop_samples
from midi2wave.training.hardware import choose_precision, keep_freed_memory, synchronize, training_bytes
from midi2wave.training.run_state import Run, make_unsaved_run
from midi2wave.training.step import train_step
from midi2wave.utils.cli import choose_device

CONFIGS = {
    "reference": "config_train_nv_wavenet.json",  # nv-wavenet's reference size, categorical
    "default": "config_train.json",
    "demo": "demo/config_train.json",
    "paper": "config_train_paper.json",
}


def main() -> None:
    """Measure and print a table, or JSON."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--config", nargs="+", choices=CONFIGS, default=["reference", "default", "demo"])
    arguments.add_argument("--batch", type=int, default=4, help="crops per step (default 4)")
    arguments.add_argument("--seconds", type=float, default=6.0, help="time to measure each row for (default 6)")
    arguments.add_argument("--device", default="auto")
    arguments.add_argument("--json", action="store_true")
    args = arguments.parse_args()
    if len(args.config) > 1:  # each in a process of its own: memory that one has got from the system serves the next
        found = [in_process_of_its_own(name, args) for name in args.config]
        print("\n".join(found) if not args.json else json.dumps([row for out in found for row in json.loads(out)]))
        return
    device = choose_device(args.device)
    limits = {kind: matrix_product_rate(kind, device) for kind in (torch.float32, torch.bfloat16)}
    bandwidth = copy_bandwidth(device)
    rows = [row for name in args.config for row in measure_config(name, args, device, limits, bandwidth)]
    if args.json:
        print(json.dumps(rows))
        return
    print(f"{processor(device)}; matrix products {limits[torch.float32] / 1e9:.0f} GFLOP/s in float32, "
          f"{limits[torch.bfloat16] / 1e9:.0f} in bfloat16; copy {bandwidth / 1e9:.0f} GB/s")  # fmt: skip
    print("| config | variant | batch | samples/s | vs plain | of the matrix-product rate | of the bandwidth |")
    print("|---|---|---|---|---|---|---|")
    for row in rows:
        print(f"| {row['config']} | {row['variant']} | {row['batch']} x {row['crop_seconds']:g} s | "
              f"{row['samples_per_second']:,.0f} | {row['vs_plain']:.2f} | {row['limit_fraction']:.0%} | "
              f"{row['bandwidth_fraction']:.0%} |")  # fmt: skip


def in_process_of_its_own(name: str, args: argparse.Namespace) -> str:
    """What this benchmark prints for one config."""
    given = ["--config", name, "--batch", args.batch, "--seconds", args.seconds, "--device", args.device]
    command = [sys.executable, "-m", "benchmarks.training", *map(str, given), *(["--json"] if args.json else [])]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def measure_config(
    name: str, args: argparse.Namespace, device: torch.device, limits: dict[torch.dtype, float], bandwidth: float
) -> list[dict]:
    """The rows of one config."""
    config = load_config(CONFIGS[name], train.NEEDS, [f"train_config.batch_size={args.batch}"])
    n_samples = crop_samples(config.data_config)
    rows = []
    for variant, batch, precision, once, recompute, recorded in variants(args.batch, device):
        state = make_unsaved_run(config, device, precision)
        state.capture_pending = recorded
        keep_freed_memory(variant != "plain")
        if once is None:
            rate = time_plain(state, batch, n_samples, args.seconds)
        else:
            state.model.decoder.gates = dataclasses.replace(once, recompute=recompute)
            rate = time_step(state, n_samples, args.seconds)
            if recorded and state.graphed_pass is None:
                raise RuntimeError("no CUDA graph could be captured: this row would not be what it says")
        kept = training_bytes(state.model, 1, precision, recompute=recompute)
        kept -= training_bytes(state.model, 0, precision, recompute=recompute)
        rows.append(
            {
                "config": name,
                "variant": variant,
                "batch": batch,
                "crop_seconds": config.data_config.segment_length,
                "samples_per_second": rate,
                "limit_fraction": rate * step_operations(state) / limits[precision],
                "bandwidth_fraction": 2 * rate * kept / bandwidth,
            }
        )
    best = max(row["samples_per_second"] for row in rows if row["variant"] == "plain")
    return [{**row, "vs_plain": row["samples_per_second"] / best} for row in rows]


def variants(batch: int, device: torch.device) -> list[tuple[str, int, torch.dtype, GateKernels | None, bool, bool]]:
    """Of each row name, batch, number format, gates (None: the obvious implementation), activation checkpointing, and
    whether its pass is captured as a CUDA graph."""
    rows = [("plain", size, torch.float32, None, False, False) for size in sorted({1, batch})]
    on_gpu = device.type == "cuda"
    if not on_gpu:
        rows.append(("plain, freed memory kept", batch, torch.float32, None, False, False))
    rows.append(("float32", batch, torch.float32, GateKernels(), False, False))
    if choose_precision("auto", device) == torch.bfloat16:
        rows.append(("bfloat16", batch, torch.bfloat16, GateKernels(), False, False))
        if compiled := compile_gate_kernels(device):
            name = "bfloat16, compiled"
            rows.append((name, batch, torch.bfloat16, compiled, False, False))
            if on_gpu:
                name += ", CUDA graph"
                rows.append((name, batch, torch.bfloat16, compiled, False, True))
            rows.append((f"{name}, activation checkpointing", batch, torch.bfloat16, compiled, True, on_gpu))
    return rows


def time_step(state: Run, n_samples: int, seconds: float) -> float:
    """Samples per second of `train_step`."""
    n_micro_batches = state.config.train_config.batch_size // state.micro_batch_size
    data, size = state.config.data_config, state.micro_batch_size
    micro_batches = [noise_crops(state.model, data, size, n_samples) for _ in range(n_micro_batches)]
    return (
        state.config.train_config.batch_size
        * n_samples
        / seconds_per_step(lambda: train_step(state, micro_batches), state.device, seconds)
    )


def time_plain(state: Run, batch_size: int, n_samples: int, seconds: float) -> float:
    """Samples per second of a step of the obvious implementation."""
    micro_batches = [noise_crops(state.model, state.config.data_config, batch_size, n_samples)]
    return (
        batch_size * n_samples / seconds_per_step(lambda: plain_train_step(state, micro_batches), state.device, seconds)
    )


def seconds_per_step(step, device: torch.device, seconds: float) -> float:
    """Mean time of a step, after two to warm up."""
    for _ in range(2):
        step()
    synchronize(device)
    began, n, before = time.perf_counter(), 0, None
    while time.perf_counter() - began < seconds or not n:
        step()
        n += 1
        if device.type == "cuda":  # as in training the host is one step ahead, no more
            end = torch.cuda.current_stream(device).record_event()
            if before:
                before.synchronize()
            before = end
    synchronize(device)
    return (time.perf_counter() - began) / n


def step_operations(state: Run) -> float:
    """Floating-point operations per sample of a training step that the model cannot do without: those of its matrix
    products at audio rate, three times (forward, and the gradients of inputs and weights)."""
    decoder = state.model.decoder
    per_sample = sum(math.prod(layer.dilated.weight.shape) for layer in decoder.layers)
    per_sample += sum(math.prod(layer.residual.weight.shape) for layer in decoder.layers if layer.residual)
    per_sample += sum(math.prod(part.weight.shape) for part in (decoder.skip, decoder.hidden, decoder.output))
    return 3 * 2 * per_sample


if __name__ == "__main__":
    main()
