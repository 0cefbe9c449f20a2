"""How fast the shipped models play, from the start of the process, also where other processes use the cores.

    python -m benchmarks.playing             two tables; about ten minutes
    python -m benchmarks.playing --model pretrained/rendered.safetensors --seconds 6       only this model, shorter
    python -m benchmarks.playing --repeats 3 medians of three runs
    python -m benchmarks.playing --json      all of it as one JSON object

Every run is a process of its own that plays `examples/scale.mid`, as `inference.py` does, but writes no file. The other
table has the speeds of the largest number of threads as portions of those of the smallest. In these situations:

- idle: nothing else runs, as far as this benchmark knows
- busy: one process on every core computes without end, which the benchmark starts and ends
- one core: the process may use one core only
- four at once: four such processes side by side; speeds are their sum
- follower starved: the second thread may use the last core only, where a busy process has precedence (Linux). That is
  how a user without further rights stops one thread: a signal stops a whole process.
"""

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from midi2wave.config import SamplingMethod
from midi2wave.utils.cli import make_parser, print_result, run
from midi2wave.utils.cores import usable_cores
from midi2wave.utils.errors import InputError

MIDI = "examples/scale.mid"
# Models with sampling and guidance of the configs that play them.
PLAYERS: dict[str, tuple[SamplingMethod, float]] = {
    "pretrained/grand.safetensors": ("mean", 1.0),
    "pretrained/rendered_reference.safetensors": ("mean", 2.0),
    "pretrained/rendered.safetensors": ("mean", 2.0),
    "pretrained/disklavier.safetensors": ("random", 1.0),
    "pretrained/disklavier_small.safetensors": ("mean", 1.5),
}
STARVED = "follower starved"
SITUATIONS = ("idle", "busy", "one core", "four at once", STARVED)
N_AT_ONCE = 4
BUSY_PROGRAM = "while True: pass"
TITLES = {
    "first_block_seconds": "first block, s",
    "seconds": "in all, s",
    "speed": "x real time",
    "cpu_seconds_per_second": "CPU s per s",
}


def play(arguments: argparse.Namespace) -> dict[str, float]:
    """Play in this process, which the benchmark has started, and measure.

    Returns:
        first_block_seconds and seconds since the start of the process, speed after the first block in seconds of audio
        per second, and the CPU seconds of the whole process.
    """
    import midi2wave

    if arguments.starve:
        starve_followers()
    threads, weights = arguments.threads[0], arguments.weights[0]
    model = midi2wave.load(arguments.model[0], "cpu", threads=threads, weights=weights)
    sampling, guidance = PLAYERS.get(arguments.model[0], ("mean", 1.0))
    blocks = model.stream(MIDI, sampling=sampling, guidance=guidance, seconds=arguments.seconds)
    next(blocks)
    first = time.time()
    n_samples = sum(len(block) for block in blocks)
    end = time.time()
    import resource  # Windows has none.

    usage = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "first_block_seconds": first - arguments.play_since,
        "seconds": end - arguments.play_since,
        "speed": n_samples / model.sample_rate / (end - first),
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
    }


def starve_followers() -> None:
    """Let the followers of this process have only what other processes leave of its last core."""
    from midi2wave.sampling.engines import cpu

    first, last = first_and_last_core()
    kernel = cpu.play

    def play(weights: Any, group: Any, block: Any, thread: int, n_threads: int) -> None:
        os.sched_setaffinity(0, {last if thread else first})
        os.sched_setscheduler(0, os.SCHED_IDLE if thread else os.SCHED_OTHER, os.sched_param(0))
        kernel(weights, group, block, thread, n_threads)

    setattr(cpu, "play", play)  # noqa: B010 - mypy knows another type for the compiled function.


def first_and_last_core() -> tuple[int, int]:
    """The cores for the first thread and for its followers. Raises InputError if there are no two."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if len(cores) < 2:
        raise InputError(f"--situation {STARVED!r} needs Linux and two cores")
    return cores[0], cores[-1]


@contextmanager
def busy_processes(n: int, prefix: Sequence[str] = ()) -> Iterator[None]:
    """N processes that compute without end, within."""
    processes = [subprocess.Popen([*prefix, sys.executable, "-c", BUSY_PROGRAM]) for _ in range(n)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def command(model: str, weights: str, threads: int, seconds: float) -> list[str]:
    """The command line of a process that plays and prints its measurements as JSON."""
    options = ["--model", model, "--weights", weights, "--threads", str(threads), "--seconds", str(seconds)]
    return [sys.executable, "-m", "benchmarks.playing", *options, "--play_since", str(time.time())]


def measure(situation: str, model: str, weights: str, threads: int, seconds: float) -> dict[str, Any]:
    """One row: play in a process of its own, or in four, in this situation."""
    n_at_once = N_AT_ONCE if situation == "four at once" else 1
    prefix = ["taskset", "-c", "0"] if situation == "one core" else []
    options, busy_prefix = [], []
    n_busy = usable_cores() if situation == "busy" else 0
    if situation == STARVED:
        options, busy_prefix, n_busy = ["--starve"], ["taskset", "-c", str(first_and_last_core()[1])], 1
    with busy_processes(n_busy, busy_prefix):
        processes = [
            subprocess.Popen(
                [*prefix, *command(model, weights, threads, seconds), *options],
                stdout=subprocess.PIPE,
                text=True,
                cwd=Path(__file__).resolve().parents[1],
            )
            for _ in range(n_at_once)
        ]
        outputs = [process.communicate()[0] for process in processes]
    if any(process.returncode for process in processes):
        raise InputError(f"playing {model} with {weights} weights on {threads} threads failed (see above)")
    results = [json.loads(output) for output in outputs]
    return {
        "model": Path(model).stem,
        "weights": weights,
        "threads": threads,
        "situation": situation,
        "first_block_seconds": round(max(result["first_block_seconds"] for result in results), 2),
        "seconds": round(max(result["seconds"] for result in results), 2),
        "speed": round(sum(result["speed"] for result in results), 2),
        "cpu_seconds_per_second": round(sum(result["cpu_seconds"] for result in results) / n_at_once / seconds, 3),
    }


def median_row(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Of repeated runs of one row: the median of each figure."""
    return {
        name: round(statistics.median(row[name] for row in rows), 3) if isinstance(value, float) else value
        for name, value in rows[0].items()
    }


def thread_ratios(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Speed of the largest number of threads / speed of the smallest, by situation, for each model and format."""
    fewest, most = (function(row["threads"] for row in rows) for function in (min, max))
    speeds = {(row["model"], row["weights"], row["situation"], row["threads"]): row["speed"] for row in rows}
    ratios: dict[tuple[str, str], dict[str, Any]] = {}
    for model, weights, situation, threads in speeds:
        if threads == most > fewest:
            ratio = speeds[model, weights, situation, most] / speeds[model, weights, situation, fewest]
            ratios.setdefault((model, weights), {"model": model, "weights": weights})[situation] = round(ratio, 2)
    return list(ratios.values())


def limits() -> tuple[str, dict[str, float]]:
    """The processor, and what one thread of it can do, in 10^9 a second: multiply-adds, bytes read beyond its cache."""
    from benchmarks.sampling_measurement import machine, multiply_rate, read_rate

    rates = {
        "float32 multiply-adds": multiply_rate("float32") / 1e9,
        "bfloat16 multiply-adds": multiply_rate("bfloat16") / 1e9,
        "bytes read of 6 MB": read_rate(6_000_000, 1) / 1e9,
    }
    return machine(), rates


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown."""
    titles = [TITLES.get(name, name) for name in rows[0]]
    lines = ["| " + " | ".join(titles) + " |", "|---" * len(titles) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(str(value) for value in row.values()) + " |" for row in rows)])


def main() -> int:
    """Measure and print; returns the exit code."""
    parser = make_parser(__doc__)
    parser.add_argument("--model", nargs="+", default=list(PLAYERS), help="models to play")
    parser.add_argument("--weights", nargs="+", default=["float32", "bfloat16"], help="number formats of the weights")
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2], help="numbers of threads")
    parser.add_argument("--situation", nargs="+", choices=SITUATIONS, default=list(SITUATIONS))
    parser.add_argument("--seconds", type=float, default=12.3, help="how much is played")
    parser.add_argument("--repeats", type=int, default=1, help="runs of each row, of which the median counts")
    parser.add_argument("--play_since", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--starve", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.play_since is not None:
        print(json.dumps(play(args)))
        return 0
    rows = []
    for model, weights, situation in itertools.product(args.model, args.weights, args.situation):
        runs = [
            [measure(situation, model, weights, threads, args.seconds) for threads in args.threads]
            for _ in range(args.repeats)
        ]
        rows += [median_row(list(repeated)) for repeated in zip(*runs, strict=True)]
    name, rates = limits()
    summary = "; ".join(f"{what}: {rate:.0f} G/s" for what, rate in rates.items())
    ratios = thread_ratios(rows)
    tables = "\n\n".join(table(part) for part in (rows, ratios) if part)
    result = {"processor": name, "limits": rates, "rows": rows, "thread_ratios": ratios}
    print_result(f"{name}\n{summary}\n{tables}", result, as_json=args.as_json)
    return 0


if __name__ == "__main__":
    run(main)
