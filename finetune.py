"""Train a shipped model further on your own recordings: a folder of audio and MIDI pairs -> a model of your piano.

    python finetune.py -d FOLDER -o runs/my_piano --minutes 30
    python inference.py -c runs/my_piano/play.json --midi song.mid --out songs

The folder holds pairs of audio and MIDI files with equal names at any depth, or MAESTRO. The recordings are checked
before anything else (runs/my_piano/recordings has the report). Base weights, partials, labels and the number of steps
are chosen by measurements, each of which is said in a line. At the end the base model and the new one play the same
held-out clips, and the scores say whether it worked. The same command goes on after an interruption.
docs/own_piano.md has the details.
"""

if __name__ == "__main__":
    from midi2wave.utils import signals

    signals.exit_on_interrupt()  # Ctrl-C during the imports below needs no traceback.

from dataclasses import asdict

from midi2wave.utils.cli import make_plain_parser, path_argument, print_result, run


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = make_plain_parser(__doc__)
    add = parser.add_argument
    add("-d", "--dir", type=path_argument, required=True, help="folder of audio and MIDI pairs, or MAESTRO")
    add("-o", "--out", type=path_argument, required=True, help="output folder")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--minutes", type=float, help="minutes of training (default 30)")
    length.add_argument("--steps", type=int, help="optimiser steps, in place of --minutes")
    add("--base", default="", help="weights to begin with (default: the nearest of pretrained/)")
    add(
        "--hold_out",
        type=float,
        default=0.1,
        help="part that is held out, once to validate, once to test (default 0.1)",
    )
    add("--licence", default="", help="licence of the new weights, which their file and card state")
    add("--seed", type=int, default=0, help="seed of split and crops (default 0)")
    add("-j", "--jobs", type=int, default=1, help="recordings that are read at once (default 1)")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N (default auto)")
    add("--json", dest="as_json", action="store_true", help="print the result as one JSON object")
    args = parser.parse_args(argv)
    # PyTorch takes a second or two to import, for which neither --help nor a wrong argument should wait.
    from midi2wave.finetuning.comparison import describe
    from midi2wave.finetuning.model_files import play_command
    from midi2wave.finetuning.options import FinetuneOptions
    from midi2wave.finetuning.pipeline import finetune

    options = FinetuneOptions(
        minutes=args.minutes,
        steps=args.steps,
        base=args.base,
        hold_out=args.hold_out,
        licence=args.licence,
        seed=args.seed,
        jobs=args.jobs,
        device=args.device,
    )
    result = finetune(args.dir, args.out, options)
    play = f"play: {play_command(args.out)}"
    lines = [result.verdict, *describe(result.comparison), f"listen: {result.page}; {result.card}", play]
    values = {name: value if isinstance(value, dict) else str(value) for name, value in asdict(result).items()}
    print_result("\n".join(lines), values, as_json=args.as_json)
    return 0


if __name__ == "__main__":
    run(main)
