"""The measurement of `benchmarks.gpu_sampling`: its rows, and the speed of the engines in each."""

import itertools
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from benchmarks.sampling_measurement import build
from midi2wave.config import SamplerWeights
from midi2wave.sampling.engines import cuda, triton
from midi2wave.sampling.engines.triton_weights import pack_decoder
from midi2wave.sampling.options import SamplingOptions
from midi2wave.utils.cli import format_error, log
from midi2wave.utils.errors import InputError
from wavenet import Caches, Conditioning, WaveNet

# Blocks of the engine that grow, and one more.
N_WARM_UP_BLOCKS = 5
N_BLOCKS = 5
MAX_SECONDS = 8.0
MAX_FRAMES = 1_000_000  # More than are generated.


@dataclass(frozen=True)
class Case:
    """One row to measure; a launch of None is the engine's own choice."""

    config: str
    engine: str
    streams: int
    weights: SamplerWeights
    launch: triton.Launch | None = None


def cases(config_names: list[str], streams: list[int], weights: list[SamplerWeights]) -> list[Case]:
    """The rows: for each size the CUDA graph, which has float32 only, then the Triton engine."""
    rows = []
    for name, n_streams in itertools.product(config_names, streams):
        rows.append(Case(name, "cuda", n_streams, "float32"))
        rows += [Case(name, "triton", n_streams, number_format) for number_format in weights]
    return rows


def sweep_cases(config_names: list[str], streams: list[int]) -> list[Case]:
    """The Triton engine in bfloat16 with programs of several shapes."""
    shapes = itertools.product((16, 32, 64), (4, 8), (1, 2, 3))
    launches = [triton.Launch(rows, warps, stages) for rows, warps, stages in shapes]
    return [
        Case(name, "triton", n_streams, "bfloat16", launch)
        for name, n_streams, launch in itertools.product(config_names, streams, launches)
        if launch.n_rows == triton.MIN_ROWS or n_streams >= launch.n_rows
    ]


def random_inputs(model: WaveNet, n_streams: int, device: torch.device) -> tuple[Conditioning, Any]:
    """Conditioning and uniforms that are on the device, whatever the frame."""
    n_features, n_excitation = model.context.input.in_channels, model.decoder.layers[0].excitation.in_features
    generator = torch.Generator(device).manual_seed(0)
    n_frames = triton.MAX_BLOCK_FRAMES + sum(model.context_frames)
    features = torch.rand(n_streams, n_features, n_frames, device=device, generator=generator)
    excitation = torch.randn(
        n_streams, n_excitation, triton.MAX_BLOCK_FRAMES * model.hop, device=device, generator=generator
    )

    def uniforms(first: int, n: int) -> Tensor:
        draws = torch.rand(n_streams, n, model.uniforms_per_sample, device=device, generator=generator)
        return draws.clamp(2**-24, 1 - 2**-24)

    conditioning = Conditioning(lambda first, n: features[..., :n], lambda first, n: excitation[..., : n * model.hop])
    return conditioning, uniforms


def seconds_per_sample(blocks: Iterator[Tensor]) -> float:
    """The median over some blocks of their seconds for each sample of a stream."""
    for _ in range(N_WARM_UP_BLOCKS):
        next(blocks)
    torch.cuda.synchronize()
    seconds: list[float] = []
    end = time.perf_counter() + MAX_SECONDS
    while len(seconds) < N_BLOCKS and (not seconds or time.perf_counter() < end):
        start = time.perf_counter()
        n_samples = next(blocks).shape[1]
        torch.cuda.synchronize()
        seconds.append((time.perf_counter() - start) / n_samples)
    return statistics.median(seconds)


def measure(case: Case, device: torch.device) -> dict[str, Any]:
    """One row; speeds are None where the engine refuses the case or memory is too small, which is logged."""
    model, config = build(case.config)
    model = model.to(device)
    conditioning, uniforms = random_inputs(model, case.streams, device)
    options = SamplingOptions(sampler=case.engine, weights=case.weights)
    row: dict[str, Any] = vars(case) | {
        "launch": None,
        "output": config.wavenet_config.output,
        "samples_per_second": None,
        "realtime_per_stream": None,
        "weights_gb_per_second": None,
    }
    generator = None
    try:
        if case.engine == "cuda":
            blocks = cuda.generate(model, conditioning, uniforms, case.streams, MAX_FRAMES, options)
        else:
            caches = Caches(model.decoder, case.streams)
            generator = triton.BlockGenerator(model, caches, 0, options, case.launch)
            blocks = generator.blocks(conditioning, uniforms, MAX_FRAMES)
        seconds = seconds_per_sample(blocks)
        cast(Any, blocks).close()
    except (InputError, torch.OutOfMemoryError) as error:
        log(f"{case.config}, {case.engine}, {case.streams} streams, {case.weights}: {format_error(error)}")
        return row
    finally:
        if generator is not None:
            launch = generator.launch  # Its stages are those that fit the GPU.
            row["launch"] = f"{launch.n_rows} rows, {launch.n_warps} warps, {launch.n_stages}"
    row["samples_per_second"] = round(case.streams / seconds)
    row["realtime_per_stream"] = round(1 / seconds / config.data_config.audio_hz, 3)
    if generator is not None:
        n_programs = -(-case.streams // generator.launch.n_rows)
        n_bytes = pack_decoder(model.decoder, getattr(torch, case.weights)).n_bytes
        row["weights_gb_per_second"] = round(n_programs * n_bytes / seconds / 1e9)
    return row
