"""A whole training: time to the first step, time spent waiting for data, and the gain of a second process.

    python -m benchmarks.training_run -c demo/config_train.json
    python -m benchmarks.training_run -c demo/config_train.json --steps 100 --json

Needs the processed folders of the config (for the demo: `python demo.py`). Each row is a run of train.py as a command.
A single process uses all cores; of several, each has one thread.
"""

import json
import math
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from midi2wave.utils.cli import log, make_parser, print_result, run
from midi2wave.utils.errors import InputError

ROOT = Path(__file__).resolve().parents[1]


def main() -> int:
    """Measure and print a table, or JSON; returns the exit code."""
    arguments = make_parser(__doc__, config="demo/config_train.json")
    arguments.add_argument("--steps", type=int, default=60, help="steps of each run (default 60)")
    args = arguments.parse_args()
    rows = []
    for processes, workers in ((1, 0), (1, 1), (1, 2), (2, 1)):
        overrides = [
            f"train_config.steps={args.steps}",
            "train_config.warmup_steps=1",
            f"data_config.n_workers={workers}",
            "data_config.validation_path=",
            *args.overrides,
        ]
        numbers = measure(args.config, overrides, processes, args.steps)
        rows.append({"processes": processes, "workers": workers, **numbers})
        log(str(rows[-1]))
    lines = [
        "| processes | workers each | seconds to the first step | samples/s | waiting for data |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        first, rate, wait = row["seconds_to_first_step"], row["samples_per_second"], row["data_wait"]
        lines.append(f"| {row['processes']} | {row['workers']} | {first:.1f} | {rate:,.0f} | {wait:.1%} |")
    print_result("\n".join(lines), rows, as_json=args.as_json)
    return 0


def measure(config: str, overrides: list[str], processes: int, steps: int) -> dict[str, float]:
    """Time until the first step of a run is logged, then the means over its second half.

    Args:
        config: Config file.
        overrides: Options for --set.
        processes: Number of processes.
        steps: Number of steps.

    Raises:
        InputError: train.py failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        overrides = [*overrides, f"train_config.output_directory={folder}/run", "train_config.iters_per_log=1"]
        start = [sys.executable, str(ROOT / "train.py")]
        if processes > 1:
            start[1:1] = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
        command = [*start, "-c", config, *(word for pair in overrides for word in ("--set", pair))]
        start_time = time.monotonic()
        training = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
        assert training.stderr is not None
        seconds_to_first_step, messages = math.nan, []
        for line in training.stderr:
            messages.append(line)
            if math.isnan(seconds_to_first_step) and line.startswith("step 1:"):
                seconds_to_first_step = time.monotonic() - start_time
        if training.wait():
            raise InputError(f"train.py failed: {''.join(messages[-3:])}")
        lines = (Path(folder) / "run/metrics.jsonl").read_text(encoding="utf-8").splitlines()
    metrics = [json.loads(line) for line in lines][steps // 2 :]
    seconds = [1 / row["samples_per_second"] for row in metrics]
    wait = sum(row["data_wait"] * s for row, s in zip(metrics, seconds, strict=True))
    return {
        "seconds_to_first_step": seconds_to_first_step,
        "samples_per_second": len(metrics) / sum(seconds),
        "data_wait": wait / sum(seconds),
    }


if __name__ == "__main__":
    run(main)
