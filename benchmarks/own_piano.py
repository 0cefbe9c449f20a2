"""Finished fine-tunings side by side: how the quality grows with the minutes of recordings and the steps of training.

    python -m benchmarks.own_piano runs/own_2 runs/own_8 runs/own_45 --page docs/own_piano.md --out docs/own_piano.png

Reads what `finetune.py` has left in its output folders. All must have the same test clips. They are compared with the
base of the first folder, whatever their own base is.
"""

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.markdown import insert_lines, table_lines
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
# Headings of what tells one fine-tuning from another.
FACTS = ["base", "recordings, minutes", "steps", "seed"]
COLOURS = ("#007878", "#7a3b9a", "#a06000", "#404040")


def main(argv: list[str] | None = None) -> int:
    """Read the folders, write the table and the picture; returns the exit code."""
    parser = make_plain_parser(__doc__)
    parser.add_argument("folders", nargs="+", type=Path, help="output folders of finetune.py")
    parser.add_argument("--page", type=Path, help="page whose table, between two marks, is replaced")
    parser.add_argument("--out", type=Path, default=Path("own_piano.png"), help="the picture")
    parser.add_argument("--json", dest="as_json", action="store_true", help="print the values as one JSON object")
    args = parser.parse_args(argv)
    # PyTorch takes a second or two to import.
    from midi2wave.finetuning.comparison import BASE_NAME

    reference = read_scores(args.folders[0], BASE_NAME)
    results = [read_result(folder, reference) for folder in args.folders]
    first_base = results[0]["base"]
    results.sort(key=lambda one: (one["base"] != first_base, round(one["minutes"]), one["steps"], one["seed"]))
    lines = table(results)
    if args.page:
        insert_lines(args.page, lines, BEGIN, END)
    save_picture(args.out, lambda: amounts_figure(results))
    print_result("\n".join(lines), {"results": results}, as_json=args.as_json)
    return 0


def read_result(folder: Path, reference: dict[str, Any]) -> dict[str, Any]:
    """What a finished fine-tuning has found.

    Args:
        folder: The output folder.
        reference: Scores of the base with which it is compared.

    Returns:
        The name of its own `base`, `seed`, `minutes` of recordings, `steps`, `share` of the trained weights, the
        `outcome` that the command printed, against its own base, and the comparison, as of `comparison.compare`.

    Raises:
        InputError: There is none, it is not finished, or has other test clips than the base.
    """
    from midi2wave.finetuning.comparison import BASE_NAME, TUNED_NAME, compare, outcome

    tuned = read_scores(folder, TUNED_NAME)
    names, expected = ([clip["clip"] for clip in scores["per_clip"]] for scores in (tuned, reference))
    if names != expected:
        raise InputError(f"{folder} has different test clips from the first folder's; give those of one test split")
    record = read_record(folder)
    phases = record["phases"]
    try:
        return {
            "base": Path(phases["base"]["path"]).stem,
            "seed": record["options"]["pieces"]["seed"],
            "minutes": phases["data"]["splits"]["train"]["seconds"] / 60,
            "steps": phases["training"]["step"],
            "share": phases["blending"]["share"],
            "outcome": outcome(compare(read_scores(folder, BASE_NAME), tuned)),
            **compare(reference, tuned),
        }
    except KeyError as error:
        raise _unfinished(folder, error) from error


def read_record(folder: Path) -> dict[str, Any]:
    """Options and phases of the record of finetune.py. Raises InputError if there are none."""
    try:
        record: dict[str, Any] = json.loads((folder / RECORD_NAME).read_bytes())
        return {name: dict(record[name]) for name in ("options", "phases")}
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise _unfinished(folder, error) from error


def read_scores(folder: Path, model: str) -> dict[str, Any]:
    """The scores of a model on the test clips. Raises InputError if there are none."""
    from midi2wave.evaluation.evaluation_folder import RESULT_NAME
    from midi2wave.finetuning.model_scores import EVALUATION_NAME

    try:
        scores: dict[str, Any] = json.loads((folder / EVALUATION_NAME / model / RESULT_NAME).read_bytes())
    except (OSError, ValueError) as error:
        raise _unfinished(folder, error) from error
    return scores


def _unfinished(folder: Path, error: Exception) -> InputError:
    return InputError(f"{folder} holds no finished fine-tuning ({error!r}); run finetune.py to its end")


def table(results: list[dict[str, Any]]) -> list[str]:
    """A Markdown table: a row for the recordings, the base of the first result, and each fine-tuning."""
    first = results[0]["measures"]
    columns = [column for column in COLUMNS if column[0] in first]
    headings = [*FACTS, "share", "outcome", *(heading for _, heading, _ in columns)]
    toplines = [_number(first[key].get("topline"), digits) for key, _, digits in columns]
    bases = [_number(first[key]["base"], digits) for key, _, digits in columns]
    rows = [["topline", *[""] * 5, *toplines], [results[0]["base"], "0", "0", *[""] * 3, *bases]]
    for one in results:
        cells = [_with_interval(one["measures"][key], digits) for key, _, digits in columns]
        rows.append([*facts_of(one), f"{one['share']:g}", one["outcome"], *cells])
    return table_lines(headings, rows)


def facts_of(result: dict[str, Any]) -> list[str]:
    """The cells of FACTS."""
    return [result["base"], f"{result['minutes']:.1f}", str(result["steps"]), str(result["seed"])]


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _with_interval(values: dict[str, Any], digits: int) -> str:
    text = f"{values['fine_tuned']:.{digits}f}"
    if values["interval"]:
        low, high = values["interval"]
        text += f" ({low:+.{digits}f} .. {high:+.{digits}f})"
    return text


def amounts_figure(results: list[dict[str, Any]]) -> "Figure":
    """A panel for each measure: the fine-tunings by minutes of recordings, the base and the recordings as lines.

    A colour for each base and magnitude of the number of steps, and a line through the means of the seeds.
    """
    from matplotlib.figure import Figure

    from midi2wave.evaluation.metrics import mean

    columns = [column for column in PICTURE_COLUMNS if column[0] in results[0]["measures"]]
    by_kind: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for one in results:
        by_kind.setdefault((one["base"], round(math.log10(one["steps"]))), []).append(one)
    figure = Figure(figsize=(12, 4.2), dpi=100, layout="constrained")
    axes = figure.subplots(1, len(columns), squeeze=False)[0]
    for ax, (key, heading, _) in zip(axes, columns, strict=True):
        first = results[0]["measures"][key]
        ax.axhline(first["base"], color="#d95f02", linestyle="--", label=f"{results[0]['base']}, not trained further")
        if key == "f1":  # That of the other measures is 0 and far away.
            ax.axhline(first["topline"], color="0.4", linestyle=":", label="recordings")
        for number, ((base, _), own) in enumerate(by_kind.items()):
            values = [one["measures"][key] for one in own]
            # Side by side where kinds have the same minutes. The interval is that of the difference from the base.
            minutes = [one["minutes"] * 1.06 ** (number - (len(by_kind) - 1) / 2) for one in own]
            ends = [one["interval"] or (one["difference"], one["difference"]) for one in values]
            errors = [[one["difference"] - end[0] for one, end in zip(values, ends, strict=True)]]
            errors += [[end[1] - one["difference"] for one, end in zip(values, ends, strict=True)]]
            heights = [one["fine_tuned"] for one in values]
            colour = COLOURS[number % len(COLOURS)]
            steps = sorted({one["steps"] for one in own})
            label = f"{base}, {' to '.join(map(str, dict.fromkeys((steps[0], steps[-1]))))} steps"
            ax.errorbar(minutes, heights, errors, fmt="o", color=colour, capsize=3, markersize=4, label=label)
            by_minutes: dict[float, list[float]] = {}
            for x, y in zip(minutes, heights, strict=True):
                by_minutes.setdefault(x, []).append(y)
            ax.plot(list(by_minutes), [mean(ys) for ys in by_minutes.values()], color=colour, linewidth=0.8)
        ax.set(xscale="log", xlabel="minutes of recordings", title=heading)
        ticks = sorted({round(one["minutes"], 1) for one in results})
        ax.set_xticks(ticks, [f"{tick:.0f}" for tick in ticks])
        ax.minorticks_off()
        ax.margins(x=0.15)
        ax.grid(color="0.9")
    handles = {name: handle for ax in axes for handle, name in zip(*ax.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=len(handles), frameon=False)
    return figure


if __name__ == "__main__":
    run(main)
