"""Finished fine-tunings side by side: how the quality grows with the minutes of recordings and the steps of training.

    python -m benchmarks.own_piano runs/own_2 runs/own_8 runs/own_45 --page docs/own_piano.md --out docs/own_piano.png

Reads what `finetune.py` has left in its output folders. All must have the same test clips and the same base.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.markdown import insert_lines
from midi2wave.finetuning.phases import RECORD_NAME
from midi2wave.plotting.pictures import save_picture
from midi2wave.utils.cli import make_plain_parser, print_result, run
from midi2wave.utils.errors import InputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BEGIN, END = "<!-- amounts -->", "<!-- /amounts -->"
# Key, heading, digits.
COLUMNS = (
    ("f1", "F1", 3),
    ("mrstft", "STFT distance", 3),
    ("noise_excess_db", "noise excess, dB", 1),
    ("chroma", "chroma", 3),
    ("nll", "NLL", 3),
    ("gap", "gap", 3),
)
PICTURE_COLUMNS = COLUMNS[:3]


def main(argv: list[str] | None = None) -> int:
    """Read the folders, write the table and the picture; returns the exit code."""
    parser = make_plain_parser(__doc__)
    parser.add_argument("folders", nargs="+", type=Path, help="output folders of finetune.py")
    parser.add_argument("--page", type=Path, help="page whose table, between two marks, is replaced")
    parser.add_argument("--out", type=Path, default=Path("own_piano.png"), help="the picture")
    parser.add_argument("--json", dest="as_json", action="store_true", help="print the values as one JSON object")
    args = parser.parse_args(argv)
    results = sorted((read_result(folder) for folder in args.folders), key=lambda one: (one["minutes"], one["steps"]))
    if len({tuple(one["names"]) for one in results}) > 1:
        raise InputError("the folders have different test clips; give those of one test split")
    lines = table(results)
    if args.page:
        insert_lines(args.page, lines, BEGIN, END)
    save_picture(args.out, lambda: amounts_figure(results))
    print_result("\n".join(lines), {"results": results}, as_json=args.as_json)
    return 0


def read_result(folder: Path) -> dict[str, Any]:
    """What a finished fine-tuning has found.

    Args:
        folder: The output folder.

    Returns:
        `minutes` of recordings, `steps`, `share` of the trained weights, and the comparison.

    Raises:
        InputError: There is none, or it is not finished.
    """
    try:
        phases = json.loads((folder / RECORD_NAME).read_bytes())["phases"]
        return {
            "minutes": phases["data"]["splits"]["train"]["seconds"] / 60,
            "steps": phases["training"]["step"],
            "share": phases["blending"]["share"],
            **phases["comparison"],
        }
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{folder} holds no finished fine-tuning ({error!r}); run finetune.py to its end") from error


def table(results: list[dict[str, Any]]) -> list[str]:
    """A Markdown table: a row for the recordings, the base, and each fine-tuning."""
    first = results[0]["measures"]
    columns = [column for column in COLUMNS if column[0] in first]
    headings = ["recordings, minutes", "steps", "share", *(heading for _, heading, _ in columns)]
    rows = [["", "", "topline", *(_number(first[key].get("topline"), digits) for key, _, digits in columns)]]
    rows.append(["0: the base", "0", "", *(_number(first[key]["base"], digits) for key, _, digits in columns)])
    for one in results:
        cells = [_with_interval(one["measures"][key], digits) for key, _, digits in columns]
        rows.append([f"{one['minutes']:.1f}", str(one["steps"]), f"{one['share']:g}", *cells])
    return [_row(headings), _row(["---"] * len(headings)), *map(_row, rows)]


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _with_interval(values: dict[str, Any], digits: int) -> str:
    text = f"{values['fine_tuned']:.{digits}f}"
    if values["interval"]:
        low, high = values["interval"]
        text += f" ({low:+.{digits}f} .. {high:+.{digits}f})"
    return text


def amounts_figure(results: list[dict[str, Any]]) -> "Figure":
    """A panel for each measure: the fine-tunings by minutes of recordings, the base and the recordings as lines."""
    from matplotlib.figure import Figure

    columns = [column for column in PICTURE_COLUMNS if column[0] in results[0]["measures"]]
    figure = Figure(figsize=(12, 3.8), dpi=100, layout="constrained")
    for ax, (key, heading, _) in zip(figure.subplots(1, len(columns), squeeze=False)[0], columns, strict=True):
        values = [one["measures"][key] for one in results]
        ax.axhline(values[0]["base"], color="#d95f02", linestyle="--", label="base")
        if key == "f1":  # That of the other measures is 0 and far away.
            ax.axhline(values[0]["topline"], color="0.4", linestyle=":", label="recordings")
        for one, value in zip(results, values, strict=True):
            # The interval is that of the difference from the base.
            low, high = value["interval"] or (value["difference"], value["difference"])
            ends = [[value["difference"] - low], [high - value["difference"]]]
            ax.errorbar(one["minutes"], value["fine_tuned"], ends, fmt="o", color="#007878", capsize=3)
            label = f"{one['steps']} steps, share {one['share']:g}"
            ax.annotate(label, (one["minutes"], value["fine_tuned"]), (5, 5), textcoords="offset points", fontsize=7)
        ax.set(xscale="log", xlabel="minutes of recordings", title=heading)
        ticks = sorted({round(one["minutes"], 1) for one in results})
        ax.set_xticks(ticks, [f"{tick:.0f}" for tick in ticks])
        ax.minorticks_off()
        ax.margins(x=0.45)
        ax.grid(color="0.9")
        ax.legend(frameon=False, fontsize=8)
    return figure


if __name__ == "__main__":
    run(main)
