"""Cost and speed of the model of a config: what `python wavenet.py` prints.

    python wavenet.py -c config_train.json
    python wavenet.py -c config_train_paper.json --measure      # with its speed on this machine

The cost is counted (`midi2wave/training/model_summary.py`). --measure takes a few training steps on noise (the step of
`train.py`, before scheduled sampling begins) and generates some notes with every engine of this machine, with random
weights.
"""

from midi2wave.config import load_config
from midi2wave.utils.cli import make_parser, print_result, run

NEEDS = ("train_config", "data_config", "wavenet_config", "cond_wavenet_config")


def main(argv: list[str] | None = None) -> int:
    """Print the cost of the model of a config; returns the exit code."""
    arguments = make_parser(__doc__, config="config_train.json")
    arguments.add_argument("--measure", action="store_true", help="measure speeds on this machine too: a minute or so")
    args = arguments.parse_args(argv)
    config = load_config(args.config, NEEDS, args.overrides)
    # PyTorch takes a second or two to import, for which neither --help nor a wrong argument should wait.
    from midi2wave.training.model_summary import summarize_model

    summary = summarize_model(config)
    speeds = {}
    if args.measure:
        from benchmarks.speed_measurement import measure

        speeds = measure(config)
    measured = [f"{name.replace('_', ' '):20} {speed:,.0f} samples/s here" for name, speed in speeds.items()]
    result = {"config": args.config, **summary.as_dict(), **speeds}
    print_result("\n".join(summary.lines() + measured), result, as_json=args.as_json)
    return 0


if __name__ == "__main__":
    run(main)
