"""Speed of the training step: the plain implementation, then each option on top of the ones before.

    python -m benchmarks.training
    python -m benchmarks.training --json --config reference demo --batch 4

The rows of a config and the limits above them are measured in one run. `vs_plain` is the ratio to the plain
implementation (`benchmarks/plain.py`: Conv1d, float32, everything at audio rate) at its better batch size.
`limit_fraction` is the share of the rate of large matrix products in the same number format, `bandwidth_fraction` the
share of the copy bandwidth that writing and reading the results of the layers once takes.
"""

import argparse
import json
import subprocess
import sys

from benchmarks.configs import CONFIGS, MEASURED
from midi2wave.utils.cli import make_plain_parser, print_result, run


def main() -> int:
    """Measure and print a table, or JSON; returns the exit code."""
    arguments = make_plain_parser(__doc__)
    arguments.add_argument("--config", nargs="+", choices=CONFIGS, default=MEASURED)
    arguments.add_argument("--batch", type=int, default=4, help="crops per step (default 4)")
    arguments.add_argument("--seconds", type=float, default=6.0, help="time to measure each row for (default 6)")
    arguments.add_argument("--device", default="auto")
    arguments.add_argument("--json", action="store_true")
    args = arguments.parse_args()
    if len(args.config) > 1:
        # Each config has a process of its own, since freed memory of one would serve the next.
        outputs = [in_own_process(name, args) for name in args.config]
        rows_of_all = [row for output in outputs for row in json.loads(output)] if args.json else []
        print_result("\n".join(outputs), rows_of_all, as_json=args.json)
        return 0
    # PyTorch takes a second or two to import, for which neither --help nor a wrong argument should wait.
    from benchmarks.training_measurement import measure

    lines, rows = measure(args)
    print_result("\n".join(lines), rows, as_json=args.json)
    return 0


def in_own_process(name: str, args: argparse.Namespace) -> str:
    """The output of this benchmark for one config."""
    options = ["--config", name, "--batch", args.batch, "--seconds", args.seconds, "--device", args.device]
    command = [sys.executable, "-m", "benchmarks.training", *map(str, options), *(["--json"] if args.json else [])]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


if __name__ == "__main__":
    run(main)
