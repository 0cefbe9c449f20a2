"""Shares of the trained weights, compared on the test clips of finished fine-tunings.

    python -m benchmarks.own_piano_shares runs/own_10 runs/own_45 --shares 0.5 0.75 1 --page docs/own_piano.md

Each folder's clips and scores of a share go to its evaluation/test_share_0.5 and so on; the same command goes on there.
"""

from pathlib import Path
from typing import Any

from benchmarks.markdown import insert_lines
from benchmarks.own_piano import markdown_row, read_record, read_result, read_scores
from midi2wave.utils.cli import make_plain_parser, print_result, run

BEGIN, END = "<!-- shares -->", "<!-- /shares -->"


def main(argv: list[str] | None = None) -> int:
    """Blend, generate, score, and write the table; returns the exit code."""
    parser = make_plain_parser(__doc__)
    parser.add_argument("folders", nargs="+", type=Path, help="output folders of finetune.py")
    parser.add_argument("--shares", nargs="+", type=float, default=[0.5, 0.75, 1.0], help="shares of trained weights")
    parser.add_argument("--page", type=Path, help="page whose table, between two marks, is replaced")
    parser.add_argument("--json", dest="as_json", action="store_true", help="print the values as one JSON object")
    args = parser.parse_args(argv)
    # PyTorch takes a second or two to import.
    from midi2wave.evaluation.transcription import load_transcriber
    from midi2wave.finetuning.comparison import BASE_NAME

    transcriber = load_transcriber()
    rows = []
    for folder in args.folders:
        result = read_result(folder, read_scores(folder, BASE_NAME))
        rows.append({name: result[name] for name in ("base", "minutes", "steps", "seed")})
        rows[-1]["shares"] = {f"{share:g}": score_share(folder, share, transcriber) for share in args.shares}
    rows.sort(key=lambda one: (one["base"], round(one["minutes"]), one["steps"], one["seed"]))
    lines = table(rows)
    if args.page:
        insert_lines(args.page, lines, BEGIN, END)
    print_result("\n".join(lines), {"results": rows}, as_json=args.as_json)
    return 0


def score_share(folder: Path, share: float, transcriber: Any) -> dict[str, Any]:
    """A share compared with the base, as by `comparison.compare`.

    Args:
        folder: Output folder of a finished fine-tuning.
        share: 0: the base with the measured partials; 1: the weights after the training.
        transcriber: Detects the notes.

    Raises:
        InputError: The folder is not finished, or has no weights of the training any more.
    """
    from midi2wave import checkpoint
    from midi2wave.checkpoint_folders import step_name
    from midi2wave.evaluation.evaluation_folder import RESULT_NAME
    from midi2wave.finetuning import comparison, preparation, schedule
    from midi2wave.finetuning.blending import write_blended
    from midi2wave.finetuning.model_scores import EVALUATION_NAME, evaluate_model

    phases = read_record(folder)["phases"]
    base = read_scores(folder, comparison.BASE_NAME)
    name = f"test_share_{share:g}"
    if share == phases["blending"]["share"]:
        return comparison.compare(base, read_scores(folder, comparison.TUNED_NAME))
    if (folder / EVALUATION_NAME / name / RESULT_NAME).is_file():
        return comparison.compare(base, read_scores(folder, name))
    trained = folder / schedule.RUN_NAME / step_name(phases["training"]["best_step"])
    old, new = (checkpoint.load_checkpoint(path, "cpu") for path in (phases["base"]["path"], trained))
    weights = folder / f"{name}.safetensors"
    # The folder of its clips accepts no other file, and one that is written again can have another checksum.
    if not weights.is_file():
        write_blended(weights, old, new, share)
    scores = evaluate_model(str(weights), name, folder, preparation.clips_folder(folder, "test"), transcriber)
    weights.unlink()
    return comparison.compare(base, scores)


def table(rows: list[dict[str, Any]]) -> list[str]:
    """A Markdown table: a row for each fine-tuning, a column for each share."""
    from midi2wave.finetuning.comparison import verdict

    columns = list(rows[0]["shares"])
    lines = [markdown_row(["base", "recordings, minutes", "steps", "seed", *columns])]
    lines.append(markdown_row(["---"] * (4 + len(columns))))
    for one in rows:
        cells = [one["base"], f"{one['minutes']:.1f}", str(one["steps"]), str(one["seed"])]
        for share in columns:
            compared = one["shares"][share]
            values = compared["measures"]
            notes = f"{values['f1']['fine_tuned']:.3f}" if "f1" in values else ""
            outcome = verdict(compared).split(":")[0]
            cells.append(f"{notes}, {values['mrstft']['fine_tuned']:.3f}, {outcome}")
        lines.append(markdown_row(cells))
    return lines


if __name__ == "__main__":
    run(main)
