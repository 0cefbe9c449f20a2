"""The measurement of `benchmarks.sampling`: rows, limits and start-up times."""

import os
import sys
import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from numba import njit
from tqdm import tqdm

import wavenet
from benchmarks.configs import CONFIGS
from benchmarks.limits import processor_name
from benchmarks.speed_measurement import random_performance
from midi2wave.config import Config, SamplerWeights, load_config
from midi2wave.sampling import engines
from midi2wave.sampling.engines.cpu_weights import aligned, pack, pack_decoder, to_bfloat16
from midi2wave.sampling.engines.simd import as_pointers, has_bfloat16, multiply
from midi2wave.sampling.options import SamplingOptions
from midi2wave.sampling.synthesis import conditioning
from midi2wave.sampling.uniforms import seeded_uniforms
from midi2wave.training.hardware import synchronize
from midi2wave.utils.cli import log
from wavenet import WaveNet, build_model

# Duration of a repetition.
SECONDS = 1.0
# The best repetition counts, since other processes only make it slower.
REPEATS = 2


@dataclass(frozen=True)
class Case:
    """One row to measure."""

    engine: str
    threads: int
    streams: int
    weights: SamplerWeights


def cases() -> list[Case]:
    """The rows of one config; PyTorch first, with its default number of threads."""
    rows = [Case("torch", torch.get_num_threads(), streams, "float32") for streams in (1, 4, 16)]
    for weights in ("float32", "bfloat16"):
        for streams in (1, 4, 16):
            rows += [Case("numba", threads, streams, weights) for threads in (1, 2)]
    if torch.cuda.is_available():
        rows += [Case("cuda", 0, streams, "float32") for streams in (1, 4, 16, 64)]
    return rows


class Product(NamedTuple):
    """Arrays of one matrix product."""

    y: np.ndarray
    w: np.ndarray
    x: np.ndarray


@njit(nogil=True)
def _multiply_often(arrays: Product, rows: int, inputs: int, columns: int, repeats: int) -> None:
    p = as_pointers(arrays)
    for _ in range(repeats):
        multiply(p.y, 0, rows, p.w, 0, rows // 16, inputs, p.x, 0, inputs, columns)


@njit(nogil=True, fastmath=True)
def _read_often(values: np.ndarray, repeats: int) -> np.float32:
    total = np.float32(0)
    for _ in range(repeats):
        for i in range(values.shape[0]):
            total += values[i]
    return total


def _best(function: Callable[..., object], repeats: int, *arguments: Any) -> float:
    """Shortest time of a call in seconds, after a first one that compiles."""
    function(*arguments, 1)
    times = []
    for _ in range(5):
        start = time.perf_counter()
        function(*arguments, repeats)
        times.append(time.perf_counter() - start)
    return min(times) / repeats


def multiply_rate(weights: str) -> float:
    """Multiply-adds per second of one thread on operands in its first-level cache."""
    rows, inputs, columns = 64, 64, 16
    rng = np.random.default_rng(0)
    bfloat16 = weights == "bfloat16"
    matrix, x = rng.standard_normal((rows, inputs)).astype(np.float32), rng.standard_normal((columns, inputs))
    x = to_bfloat16(x) if bfloat16 and has_bfloat16() else x.astype(np.float32)
    packed = aligned(pack(matrix, bfloat16=bfloat16))
    product = Product(np.zeros((columns, rows), np.float32), packed, aligned(x))
    return rows * inputs * columns / _best(_multiply_often, 2000, product, rows, inputs, columns)


def read_rate(n_bytes: int, threads: int) -> float:
    """Bytes per second and thread if each thread repeatedly reads n_bytes of its own."""
    arrays = [aligned(np.zeros(max(1024, n_bytes // 4), np.float32)) for _ in range(threads)]
    repeats = max(1, int(2e9 / arrays[0].nbytes))
    with ThreadPoolExecutor(threads) as pool:
        return arrays[0].nbytes / max(pool.map(lambda array: _best(_read_often, repeats, array), arrays))


def limit(model: WaveNet, case: Case, rates: dict[str, float], reading: dict[tuple[int, int], float]) -> float | None:
    """Upper limit of the samples per second of all streams of a case; None for a GPU.

    Args:
        model: The model.
        case: The row.
        rates: Multiply-adds per second and thread, by number format of the weights.
        reading: Bytes read per second and thread, by size and number of threads; missing entries are measured.
    """
    if case.engine == "cuda":
        return None
    packed = pack_decoder(model.decoder, 1, bfloat16=case.weights == "bfloat16")
    once = [packed.chain, packed.skip, packed.hidden, packed.output]
    per_layer = packed.past.nbytes + packed.aux_inputs.nbytes
    n_bytes = sum(array.nbytes for array in once) + per_layer * float(np.mean(1 / packed.ahead))
    multiplies = sum(array.size for array in [*once, packed.past, packed.aux_inputs])
    # Threads per stream, or 1.
    share = case.threads / min(case.threads, case.streams)
    key = (round(n_bytes / share), case.threads)
    if key not in reading:
        reading[key] = read_rate(*key)
    # Streams per thread or thread group.
    streams = case.streams / min(case.threads, case.streams)
    seconds = max(n_bytes / share / reading[key], multiplies * streams / share / rates[case.weights])
    return case.streams / seconds


def speed(model: WaveNet, config: Config, case: Case) -> float:
    """Samples per second of all streams together."""
    data, best, device = config.data_config, 0.0, torch.device("cuda" if case.engine == "cuda" else "cpu")
    model = model.to(device)
    performances = [random_performance(stream, 120) for stream in range(case.streams)]
    for _ in range(REPEATS):
        inputs = conditioning(performances, data, device)
        uniforms = seeded_uniforms(0, list(range(case.streams)), model.uniforms_per_sample, device)
        arguments = (model, inputs, uniforms, case.streams, 120 * data.midi_hz)
        if case.engine == "torch":  # Its default blocks take seconds.
            blocks = wavenet.generate(*arguments, block_frames=2)
        else:
            blocks = engines.generate(
                *arguments, options=SamplingOptions(sampler=case.engine, threads=case.threads, weights=case.weights)
            )
        next(blocks)
        synchronize(device)
        done = 0
        start = time.perf_counter()
        while (elapsed := time.perf_counter() - start) < SECONDS:
            done += next(blocks).numel()
            synchronize(device)
        best = max(best, done / elapsed)
        cast(Generator[torch.Tensor, None, None], blocks).close()
    return best


def build(name: str) -> tuple[WaveNet, Config]:
    """A model of a config's sizes with random weights."""
    config = load_config(CONFIGS[name], ())
    torch.manual_seed(0)
    return build_model(config).eval(), config


def measure(config_names: list[str], engine_names: list[str]) -> list[dict[str, Any]]:
    """The rows of these configs and engines; the rates behind the limits go to stderr."""
    rates = {weights: multiply_rate(weights) for weights in ("float32", "bfloat16")}
    for weights, rate in rates.items():
        log(f"multiply-adds of one thread, {weights}: {rate / 1e9:.0f} G/s")
    rows: list[dict[str, Any]] = []
    reading: dict[tuple[int, int], float] = {}
    selected = [case for case in cases() if case.engine in engine_names]
    with tqdm(total=len(config_names) * len(selected), disable=not sys.stderr.isatty()) as bar:
        for name in config_names:
            model, config = build(name)
            torch_speeds: dict[int, float] = {}
            for case in selected:
                measured = speed(model, config, case)
                if case.engine == "torch":
                    torch_speeds[case.streams] = measured
                row = {
                    **vars(case),
                    "output": config.wavenet_config.output,
                    "config": name,
                    "samples_per_second": round(measured),
                    "realtime": round(measured / config.data_config.audio_hz, 3),
                    "vs_torch": ratio(measured, torch_speeds.get(case.streams)),
                    "limit_fraction": ratio(measured, limit(model, case, rates, reading)),
                }
                rows.append(row)
                bar.update()
    for (n_bytes, threads), rate in sorted(reading.items()):
        log(f"reading {n_bytes / 1e6:.2f} MB a thread, {threads} at once: {rate / 1e9:.0f} GB/s each")
    return rows


def ratio(measured: float, other: float | None) -> float | None:
    """The ratio of two speeds; None if there is nothing to compare with."""
    return None if other is None else round(measured / other, 3)


def first_block(prefix_seconds: float = 2.0) -> None:
    """Log the time from the call to the first new audio, for a model of the reference size with an audio prompt."""
    model, config = build("reference")
    data = config.data_config
    prefix = torch.full((1, round(prefix_seconds * data.midi_hz) * model.hop), 128)
    for _ in range(REPEATS):
        start = time.perf_counter()
        inputs = conditioning([random_performance(0, 10)], data, torch.device("cpu"))
        uniforms = seeded_uniforms(0, [0], 1)
        blocks = engines.generate(model, inputs, uniforms, 1, 10 * data.midi_hz, prefix=prefix)
        next(blocks)
        prefix_end = time.perf_counter()
        next(blocks)
        total_ms, prefix_ms = 1e3 * (time.perf_counter() - start), 1e3 * (prefix_end - start)
        log(
            f"first block after a prompt: {total_ms:.0f} ms after the call, of which {prefix_ms:.0f} ms for "
            f"{prefix_seconds:g} s of prompt"
        )
        cast(Generator[torch.Tensor, None, None], blocks).close()


def play_first_block() -> None:
    """Generate the first block of a model of the reference size."""
    model, config = build("reference")
    inputs = conditioning([random_performance(0, 1)], config.data_config, torch.device("cpu"))
    next(engines.generate(model, inputs, seeded_uniforms(0, [0], 1), 1, 4))


def machine() -> str:
    """Name and features of the processor."""
    return f"{processor_name()}, {os.cpu_count()} cores, {'with' if has_bfloat16() else 'without'} AVX512-BF16"
