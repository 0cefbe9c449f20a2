"""Speed of the Triton engine on a CUDA GPU beside the CUDA graph, by number of streams, number format and output.

    python -m benchmarks.gpu_sampling                  a table
    python -m benchmarks.gpu_sampling --streams 1 16 --weights bfloat16       only these rows
    python -m benchmarks.gpu_sampling --sweep          speeds by rows, warps and stages of a program, bfloat16
    python -m benchmarks.gpu_sampling --json           the rows as one JSON list

Conditioning and uniforms are random numbers that are on the GPU already: rows measure the engines, not the features and
the excitation of notes, which a CPU computes. A row is the median block after those that compile. "weights, GB/s" is
arithmetic: bytes of the weights, times programs, times samples of one stream in a second. Stages are those asked for:
where they do not fit a multiprocessor, the engine takes one.
"""

import argparse
import itertools
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from benchmarks.sampling import CONFIGS, build
from midi2wave.config import SamplerWeights
from midi2wave.sampling.engines import cuda, triton
from midi2wave.sampling.engines.triton_weights import pack_decoder
from midi2wave.sampling.options import SamplingOptions
from midi2wave.utils.cli import format_error, log, make_plain_parser, print_result, run
from midi2wave.utils.errors import InputError
from wavenet import Conditioning, WaveNet

STREAMS = (1, 16, 64, 256, 1024, 2048)
WEIGHTS: tuple[SamplerWeights, ...] = ("float32", "bfloat16")
# The reference has a categorical output, the default a mixture.
OUTPUT_CONFIGS = ("reference", "default")
# Blocks of the engine that grow, and one more.
N_WARM_UP_BLOCKS = 5
N_BLOCKS = 5
MAX_SECONDS = 8.0
SWEEP_STREAMS = (1, 2048)


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


def measure(case: Case) -> dict[str, Any]:
    """One row; speeds are None where the engine refuses the case or memory is too small, which is logged."""
    model, config = build(case.config)
    device = torch.device("cuda")
    model = model.to(device)
    conditioning, uniforms = random_inputs(model, case.streams, device)
    options = SamplingOptions(sampler=case.engine, weights=case.weights)
    arguments = (model, conditioning, uniforms, case.streams, 1_000_000, options)
    launch = case.launch or triton.choose_launch(case.streams, device)
    row: dict[str, Any] = vars(case) | {
        "launch": None if case.engine == "cuda" else f"{launch.n_rows} rows, {launch.n_warps} warps, {launch.n_stages}",
        "output": config.wavenet_config.output,
        "samples_per_second": None,
        "realtime_per_stream": None,
        "weights_gb_per_second": None,
    }
    try:
        blocks = cuda.generate(*arguments) if case.engine == "cuda" else triton.generate(*arguments, launch=launch)
        seconds = seconds_per_sample(blocks)
        cast(Any, blocks).close()
    except (InputError, torch.OutOfMemoryError) as error:
        log(f"{case.config}, {case.engine}, {case.streams} streams, {case.weights}: {format_error(error)}")
        return row
    row["samples_per_second"] = round(case.streams / seconds)
    row["realtime_per_stream"] = round(1 / seconds / config.data_config.audio_hz, 3)
    if case.engine == "triton":
        n_programs = -(-case.streams // launch.n_rows)
        n_bytes = pack_decoder(model.decoder, getattr(torch, case.weights)).n_bytes
        row["weights_gb_per_second"] = round(n_programs * n_bytes / seconds / 1e9)
    return row


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown, with a dash where there is no number."""
    titles = ["config", "output", "streams", "engine", "weights", "rows, warps, stages", "samples/s", "x real time"]
    lines = ["| " + " | ".join([*titles, "weights, GB/s"]) + " |", "|---" * (len(titles) + 1) + "|"]
    for row in rows:
        numbers = [row["samples_per_second"], row["realtime_per_stream"], row["weights_gb_per_second"]]
        values = [row["config"], row["output"], row["streams"], row["engine"], row["weights"], row["launch"] or "-"]
        values += ["-" if number is None else f"{number:,}" for number in numbers]
        lines.append("| " + " | ".join(map(str, values)) + " |")
    return "\n".join(lines)


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    arguments = make_plain_parser(__doc__)
    arguments.add_argument("--json", dest="as_json", action="store_true", help="print the rows as one JSON list")
    arguments.add_argument("--config", nargs="+", choices=CONFIGS, default=list(OUTPUT_CONFIGS))
    arguments.add_argument("--streams", nargs="+", type=int, default=None, help=f"default: {STREAMS}")
    arguments.add_argument("--weights", nargs="+", choices=[*WEIGHTS, "float16"], default=list(WEIGHTS))
    arguments.add_argument("--sweep", action="store_true", help="the Triton engine with programs of several shapes")
    return arguments


def main(argv: list[str] | None = None) -> int:
    """Measure and print; returns the exit code."""
    args = parser().parse_args(argv)
    if not torch.cuda.is_available():
        raise InputError("this benchmark needs a CUDA device, and PyTorch finds none")
    log(f"{torch.cuda.get_device_name()}, PyTorch {torch.__version__}")
    if args.sweep:
        rows = sweep_cases(args.config, args.streams or list(SWEEP_STREAMS))
    else:
        rows = cases(args.config, args.streams or list(STREAMS), args.weights)
    results = []
    for case in rows:
        results.append(measure(case))
        log(table(results[-1:]).splitlines()[-1])  # A run that is stopped has printed what it measured.
    print_result(table(results), results, as_json=args.as_json)
    return 0


if __name__ == "__main__":
    run(main)
