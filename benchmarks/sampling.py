"""Speed of every sampling engine, beside the PyTorch sampler and the limits of the processor, all in one run.

    python -m benchmarks.sampling            a table; about two minutes
    python -m benchmarks.sampling --engine torch cuda --config reference      only these rows
    python -m benchmarks.sampling --json     the rows as one JSON list; limits and start-up times on stderr

A row measures whole calls of `engines.generate` after the first block, conditioning included, with random weights of
the sizes of the config. Its limit is the time in which the threads could do the multiply-adds of a sample, or read its
weights once, whichever takes longer. Both rates are measured here, the reading rate at the size of the weights. Weights
of older taps count as often as the engine must read them: once for up to 16 samples.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.configs import CONFIGS, MEASURED
from midi2wave.utils.cli import log, make_plain_parser, print_result, run
from midi2wave.utils.errors import InputError

START_OPTION = "--time-of-first-block"


def start_up() -> list[float]:
    """Seconds from the start of a process to its first block, twice: the second time the compiled code exists."""
    command = [sys.executable, "-m", "benchmarks.sampling", START_OPTION]
    seconds = []
    for _ in range(2):
        start = time.perf_counter()
        subprocess.run(command, check=True, cwd=Path(__file__).resolve().parents[1])
        seconds.append(time.perf_counter() - start)
    return seconds


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown, with a dash where there is nothing to compare with."""
    titles = ["config", "output", "engine", "threads", "streams", "weights", "samples/s", "x real time", "x torch"]
    lines = ["| " + " | ".join([*titles, "of limit"]) + " |", "|---" * (len(titles) + 1) + "|"]
    for row in rows:
        vs_torch = "-" if row["vs_torch"] is None else f"{row['vs_torch']:.1f}"
        of_limit = "-" if row["limit_fraction"] is None else f"{row['limit_fraction']:.0%}"
        lines.append(
            f"| {row['config']} | {row['output']} | {row['engine']} | {row['threads']} | {row['streams']} "
            f"| {row['weights']} | {row['samples_per_second']:,} | {row['realtime']:.2f} | {vs_torch} | {of_limit} |"
        )
    return "\n".join(lines)


def main() -> int:
    """Measure and print; returns the exit code."""
    arguments = make_plain_parser(__doc__)
    arguments.add_argument("--json", dest="as_json", action="store_true", help="print the rows as one JSON list")
    arguments.add_argument("--config", nargs="+", choices=CONFIGS, default=MEASURED)
    arguments.add_argument(
        "--engine", nargs="+", choices=("torch", "numba", "cuda"), default=["torch", "numba", "cuda"]
    )
    arguments.add_argument(START_OPTION, dest="only_start", action="store_true", help=argparse.SUPPRESS)
    args = arguments.parse_args()
    # PyTorch and numba take seconds to import, for which neither --help nor a wrong argument should wait.
    import torch

    from benchmarks.sampling_measurement import cases, first_block, machine, measure, play_first_block

    if args.only_start:
        play_first_block()
        return 0
    if not any(case.engine in args.engine for case in cases()):
        raise InputError("--engine cuda needs a CUDA device")
    log(machine())
    if "cuda" in args.engine and torch.cuda.is_available():
        log(torch.cuda.get_device_name())
    rows = measure(args.config, args.engine)
    if "numba" in args.engine:
        first_block()
        log("start of a process to its first block: " + ", then ".join(f"{seconds:.1f} s" for seconds in start_up()))
    print_result(table(rows), rows, as_json=args.as_json)
    return 0


if __name__ == "__main__":
    run(main)
