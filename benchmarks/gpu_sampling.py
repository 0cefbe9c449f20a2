"""Speed of the Triton engine on a CUDA GPU beside the CUDA graph, by number of streams, number format and output.

    python -m benchmarks.gpu_sampling                  a table
    python -m benchmarks.gpu_sampling --streams 1 16 --weights bfloat16       only these rows
    python -m benchmarks.gpu_sampling --sweep          speeds by rows, warps and stages of a program, bfloat16
    python -m benchmarks.gpu_sampling --json           the rows as one JSON list

Conditioning and uniforms are random numbers that are on the GPU already: rows measure the engines, not the features and
the excitation of notes, which a CPU computes. A row is the median block after those that compile. "weights, GB/s" is
arithmetic: bytes of the weights, times programs, times samples of one stream in a second. Stages are those used: one
where those asked for do not fit a multiprocessor.
"""

import argparse
from typing import Any

from benchmarks.configs import CONFIGS
from midi2wave.config import SamplerWeights
from midi2wave.utils.cli import log, make_plain_parser, print_result, run
from midi2wave.utils.errors import InputError

STREAMS = (1, 16, 64, 256, 1024, 2048)
WEIGHTS: tuple[SamplerWeights, ...] = ("float32", "bfloat16")
# The reference has a categorical output, the default a mixture.
OUTPUT_CONFIGS = ("reference", "default")
SWEEP_STREAMS = (1, 2048)


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
    if args.streams and min(args.streams) < 1:
        raise InputError(f"--streams {min(args.streams)}: expected numbers of 1 or more")
    # PyTorch takes a second or two to import, for which neither --help nor a wrong argument should wait.
    import torch

    from benchmarks.gpu_sampling_measurement import cases, measure, sweep_cases

    if not torch.cuda.is_available():
        raise InputError("this benchmark needs a CUDA device, and PyTorch finds none")
    log(f"{torch.cuda.get_device_name()}, PyTorch {torch.__version__}")
    if args.sweep:
        rows = sweep_cases(args.config, args.streams or list(SWEEP_STREAMS))
    else:
        rows = cases(args.config, args.streams or list(STREAMS), args.weights)
    results = []
    for case in rows:
        results.append(measure(case, torch.device("cuda")))
        log(table(results[-1:]).splitlines()[-1])  # A run that is stopped has printed what it measured.
    print_result(table(results), results, as_json=args.as_json)
    return 0


if __name__ == "__main__":
    run(main)
