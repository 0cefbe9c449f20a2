"""Shares of the trained weights, compared on the test clips of finished fine-tunings.

    python -m benchmarks.own_piano_shares runs/own_10 runs/own_45 --shares 0.5 0.75 1 --page docs/own_piano.md

Blended weights go to test_shares/ of each folder, clips and scores to its evaluation/test_share_0.5 and so on. The same
command goes on there.
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.markdown import insert_lines, split_at_marks, table_lines
from benchmarks.own_piano import FACTS, facts_of, read_record, read_result, read_scores
from midi2wave.utils.atomic_files import remove
from midi2wave.utils.cli import make_plain_parser, print_result, run
from midi2wave.utils.errors import InputError

if TYPE_CHECKING:
    from midi2wave.evaluation.transcription import Transcriber

BEGIN, END = "<!-- shares -->", "<!-- /shares -->"
WEIGHTS_NAME = "test_shares"


def main(argv: list[str] | None = None) -> int:
    """Blend, generate, score, and write the table; returns the exit code."""
    parser = make_plain_parser(__doc__)
    parser.add_argument("folders", nargs="+", type=Path, help="output folders of finetune.py")
    parser.add_argument("--shares", nargs="+", type=_share, default=[0.5, 0.75, 1.0], help="of the trained weights")
    parser.add_argument("--page", type=Path, help="page whose table, between two marks, is replaced")
    parser.add_argument("--json", dest="as_json", action="store_true", help="print the values as one JSON object")
    args = parser.parse_args(argv)
    if args.page:
        split_at_marks(args.page, BEGIN, END)  # A page without them is refused before any work.
    # PyTorch takes a second or two to import.
    from midi2wave.evaluation.transcription import load_transcriber
    from midi2wave.finetuning.comparison import BASE_NAME

    results = {folder: read_result(folder, read_scores(folder, BASE_NAME)) for folder in args.folders}
    transcriber = load_transcriber()
    rows = []
    for folder, result in results.items():
        row = {name: result[name] for name in ("base", "minutes", "steps", "seed")}
        rows.append(row | {"shares": {f"{share:g}": score_share(folder, share, transcriber) for share in args.shares}})
    rows.sort(key=lambda one: (one["base"], round(one["minutes"]), one["steps"], one["seed"]))
    lines = table(rows)
    if args.page:
        insert_lines(args.page, lines, BEGIN, END)
    print_result("\n".join(lines), {"results": rows}, as_json=args.as_json)
    return 0


def _share(text: str) -> float:
    """A share from 0 to 1 with at most three decimals, which are those of its folder."""
    share = round(float(text), 3)
    if not 0 <= share <= 1:
        raise argparse.ArgumentTypeError(f"{text}: expected 0 to 1")
    return share


def score_share(folder: Path, share: float, transcriber: "Transcriber | None") -> dict[str, Any]:
    """A share compared with the base, as by `comparison.compare`.

    Args:
        folder: Output folder of a finished fine-tuning.
        share: 0: the base with the measured partials; 1: the weights after the training.
        transcriber: Detects the notes; None: no F1.

    Raises:
        InputError: The folder is not finished or has no weights of the training any more, or the base has changed.
    """
    from midi2wave import checkpoint
    from midi2wave.checkpoint_folders import step_name
    from midi2wave.finetuning import comparison, preparation, schedule
    from midi2wave.finetuning.blending import write_blended
    from midi2wave.finetuning.model_scores import EVALUATION_NAME, evaluate_model

    phases = read_record(folder)["phases"]
    base = read_scores(folder, comparison.BASE_NAME)
    if share == phases["blending"]["share"]:
        return comparison.compare(base, read_scores(folder, comparison.TUNED_NAME))
    name = f"test_share_{share:g}"
    weights = folder / WEIGHTS_NAME / f"{share:g}.safetensors"
    evaluation = folder / EVALUATION_NAME / name
    if not weights.is_file():
        # It accepts no other weights, and those that are written again can have another checksum.
        remove(evaluation)
        trained = folder / schedule.RUN_NAME / step_name(phases["training"]["best_step"])
        old, new = (checkpoint.load_checkpoint(path, "cpu") for path in (phases["base"]["path"], trained))
        if old.sha256 != phases["base"]["sha256"]:
            raise InputError(f"{phases['base']['path']} has changed since {folder} was made; put the former one back")
        write_blended(weights, old, new, share)
    if not _is_finished(evaluation):
        evaluate_model(str(weights), name, folder, preparation.clips_folder(folder, "test"), transcriber)
    return comparison.compare(base, read_scores(folder, name))


def _is_finished(evaluation: Path) -> bool:
    """Whether a folder has the scores, and the page, which is written last."""
    from midi2wave.evaluation.evaluation_folder import PAGE_NAME, RESULT_NAME

    return all((evaluation / one).is_file() for one in (RESULT_NAME, PAGE_NAME))


def table(rows: list[dict[str, Any]]) -> list[str]:
    """A Markdown table: a row for each fine-tuning, a column for each share."""
    from midi2wave.finetuning.comparison import outcome

    columns = list(rows[0]["shares"])
    lines = []
    for one in rows:
        cells = []
        for share in columns:
            measures = one["shares"][share]["measures"]
            values = [f"{measures[name]['fine_tuned']:.3f}" for name in ("f1", "mrstft") if name in measures]
            cells.append("; ".join([*values, outcome(one["shares"][share])]))
        lines.append([*facts_of(one), *cells])
    return table_lines([*FACTS, *columns], lines)


if __name__ == "__main__":
    run(main)
