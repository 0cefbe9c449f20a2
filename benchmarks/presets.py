"""The table of docs/presets.md: the cost of the model of each preset.

    python -m benchmarks.presets                                       # prints it
    python -m benchmarks.presets --report docs/presets.md              # inserts it there, without speeds
    python -m benchmarks.presets --report docs/presets.md --measure    # with speeds, on an idle machine

Each column is the output of `python wavenet.py -c PRESET`; with --measure the presets are measured one after the other,
each in a process of its own.
"""

import functools
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.limits import processor
from benchmarks.markdown import insert_lines, split_at_marks
from midi2wave.utils.cli import choose_device, log, make_parser, print_result, run

ROOT = Path(__file__).resolve().parents[1]
MARKS = ("<!-- presets -->", "<!-- /presets -->")
PRESETS = {
    "default": "config_train.json",
    "paper": "config_train_paper.json",
    "nv-wavenet": "config_train_nv_wavenet.json",
    "demo": "demo/config_train.json",
    "rendered": "rendered/config_train.json",
}
ENGINES = ("training", "sampling_torch", "sampling_numba")


def main(argv: list[str] | None = None) -> int:
    """Print the table or insert it into a page; returns the exit code."""
    arguments = make_parser(__doc__)
    arguments.add_argument("--measure", action="store_true", help="measure the speeds on this machine too")
    arguments.add_argument("--report", type=Path, help="Markdown file to put the table into, between its marks")
    args = arguments.parse_args(argv)
    if args.report:
        # Mistakes in the page are reported before minutes have passed.
        split_at_marks(args.report, *MARKS)
    costs = {name: cost_of(config, measure=args.measure) for name, config in PRESETS.items()}
    lines = table(costs)
    if args.measure:
        lines += ["", f"Speeds: {processor(choose_device('auto'))}; one stream, float32 weights."]
    if args.report:
        insert_lines(args.report, lines, *MARKS)
    print_result("\n".join(lines), costs, as_json=args.as_json)
    return 0


def cost_of(config: str, *, measure: bool) -> dict[str, Any]:
    """The cost of the model of one config, by `python wavenet.py`."""
    log(config)
    command = [sys.executable, "wavenet.py", "-c", config, "--json", *(["--measure"] if measure else [])]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT).stdout)


def table(costs: dict[str, dict[str, Any]]) -> list[str]:
    """Markdown: a column for each preset."""
    from midi2wave.training.model_summary import MIB  # It imports PyTorch, for which --help should not wait.

    rows: dict[str, Callable[[dict[str, Any]], str]] = {
        "config": lambda cost: f"`{cost['config']}`",
        "parameters": lambda cost: f"{cost['parameters']:,}",
        "of the decoder": lambda cost: f"{cost['decoder_parameters']:,}",
        "of the context stack": lambda cost: f"{cost['context_parameters']:,}",
        "receptive field (samples)": lambda cost: f"{cost['receptive_field_ms']:.0f} ms",
        "receptive field (MIDI)": lambda cost: f"{cost['context_field_ms']:.0f} ms",
        "look-ahead": lambda cost: f"{cost['lookahead_ms']:.0f} ms",
        "multiply-adds a sample": lambda cost: f"{cost['multiply_adds_per_sample'] / 1e6:.2f} M",
        "activations, a second of audio": lambda cost: f"{cost['activation_bytes'] / MIB:,.0f} MiB",
        "the same in bfloat16": lambda cost: f"{cost['activation_bytes_bfloat16'] / MIB:,.0f} MiB",
        "a stream's caches": lambda cost: f"{cost['cache_bytes'] / MIB:.2f} MiB",
        **{f"{name.replace('_', ', ')} (samples/s)": functools.partial(speed, name=name) for name in ENGINES},
    }
    lines = [f"| | {' | '.join(costs)} |", "|---" * (len(costs) + 1) + "|"]
    return lines + [
        f"| {title} | {' | '.join(cell(cost) for cost in costs.values())} |" for title, cell in rows.items()
    ]


def speed(cost: dict[str, Any], name: str) -> str:
    """A speed in the table."""
    return f"{cost[name]:,.0f}" if name in cost else "not measured"


if __name__ == "__main__":
    run(main)
