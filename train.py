"""Train a model: a processed folder -> a run folder with checkpoints that generate audio.

    python train.py -c config_train.json
    torchrun --nproc_per_node=4 train.py -c config_train.json      # the same training by four processes
    tensorboard --logdir runs

The same command resumes from the newest checkpoint of the run folder, bit for bit as if nothing had happened. Ctrl-C,
SIGTERM and SIGHUP save one first; the exit code is then 130, 143 or 129, that of a finished training 0. The loss is the
negative log-likelihood in nats per sample, with noise on the decoder's history; validation_nll is the one without
noise, on crops with a whole receptive field before them. validation_nll_shuffled is the same with the MIDI of another
crop, of another recording if there is more than one: as long as the two are equal, the decoder ignores the MIDI.
"""

if __name__ == "__main__":
    from midi2wave.utils import signals

    signals.exit_on_interrupt()  # Ctrl-C during the imports below needs no traceback.

import time

from midi2wave.config import load_config
from midi2wave.utils.cli import make_parser, print_result, run
from midi2wave.utils.errors import InputError

NEEDS = ("train_config", "data_config", "wavenet_config", "cond_wavenet_config", "dist_config")


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    started = time.monotonic()
    args = make_parser(__doc__, config="config_train.json").parse_args(argv)
    config = load_config(args.config, NEEDS, args.overrides)
    if not config.data_config.dataset_path:
        raise InputError(f"{args.config}: data_config.dataset_path is empty; make one with preprocess_maestro.py")
    # PyTorch takes a second or two to import, for which neither --help nor a wrong argument should wait.
    from midi2wave.training.loop import run_training

    state, training_log, exit_code = run_training(config, force=args.force)
    if training_log:
        result = {
            "run_folder": str(state.folder),
            "step": state.step,
            **training_log.latest_metrics,
            "elapsed_seconds": time.monotonic() - started,
        }
        summary = f"{state.folder}: step {state.step}, {training_log.format_metrics()}"
        print_result(summary, result, as_json=args.as_json)
    return exit_code


if __name__ == "__main__":
    run(main)
