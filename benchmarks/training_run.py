"""A whole training: how long until the first step, how long it waits for data, and what a second process gains.

    python -m benchmarks.training_run -c demo/config_train.json
    python -m benchmarks.training_run -c demo/config_train.json --steps 100 --json

Needs the processed folders of the config (for the demo: `python demo.py`). Each row is a run of train.py as a command.
One process has all cores for itself; of several, each has one thread.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from midi2wave.utils.cli import log, make_parser, run
from midi2wave.utils.errors import InputError

ROOT = Path(__file__).resolve().parents[1]


def main() -> int:
    """Measure and print a table, or JSON; returns the exit code."""
    arguments = make_parser(__doc__, config="demo/config_train.json")
    arguments.add_argument("--steps", type=int, default=60, help="steps of each run (default 60)")
    args = arguments.parse_args()
    rows = []
    for processes, workers in ((1, 0), (1, 1), (1, 2), (2, 1)):
        given = [f"train_config.steps={args.steps}", "train_config.warmup_steps=1", f"data_config.n_workers={workers}",
                 "data_config.validation_path=", *args.overrides]  # fmt: skip
        rows.append({"processes": processes, "workers": workers, **measure(args.config, given, processes, args.steps)})
        log(str(rows[-1]))
    if args.as_json:
        print(json.dumps(rows))
        return 0
    print(
        "| processes | workers each | seconds to the first step | samples/s | waiting for data |\n|---|---|---|---|---|"
    )
    for row in rows:
        print(f"| {row['processes']} | {row['workers']} | {row['seconds_to_first_step']:.1f} | "
              f"{row['samples_per_second']:,.0f} | {row['data_wait']:.1%} |")  # fmt: skip
    return 0


def measure(config: str, given: list[str], processes: int, steps: int) -> dict[str, float]:
    """One run: the time until its first step is logged, then the means over its second half."""
    with tempfile.TemporaryDirectory() as folder:
        given = [*given, f"train_config.output_directory={folder}/run", "train_config.iters_per_log=1"]
        start = [sys.executable, str(ROOT / "train.py")]
        if processes > 1:
            start[1:1] = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
        command = [*start, "-c", config, *(word for pair in given for word in ("--set", pair))]
        began = time.monotonic()
        training = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
        first, said = None, []
        for line in training.stderr:
            said.append(line)
            if first is None and line.startswith("step 1:"):
                first = time.monotonic() - began
        if training.wait():
            raise InputError(f"train.py failed: {''.join(said[-3:])}")
        lines = (Path(folder) / "run/metrics.jsonl").read_text(encoding="utf-8").splitlines()
    metrics = [json.loads(line) for line in lines][steps // 2 :]
    seconds = [1 / row["samples_per_second"] for row in metrics]
    waited = sum(row["data_wait"] * s for row, s in zip(metrics, seconds, strict=True))
    return {
        "seconds_to_first_step": first,
        "samples_per_second": len(metrics) / sum(seconds),
        "data_wait": waited / sum(seconds),
    }


if __name__ == "__main__":
    run(main)
