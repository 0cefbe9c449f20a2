"""All commands that draw, in one process: `python -m tests.helpers.drawing_commands FOLDER`.

FOLDER holds the config and the MAESTRO folder of a tiny pipeline; the results are written beside them. Prints as JSON
the exit codes and messages, and what the process then has of matplotlib's state.
"""

import json
import os
import sys
from pathlib import Path

from tests.helpers.pipeline import PROMPT_SECONDS, call, settings


def main(folder: Path) -> dict[str, object]:
    """Run the commands; returns what is printed."""
    import evaluate
    import inference
    import preprocess_audio
    import preprocess_maestro
    import train

    config = ("-c", folder / "config.json")
    sampled = settings("train_config.steps=6", "train_config.iters_per_sample=6", "train_config.keep_checkpoints=1")
    scored = (f"teacher_length={PROMPT_SECONDS}", "counterfactuals=false", f"test_dir={folder}/test")
    scored = (*scored, f"output_dir={folder}/evaluation", f"model_filename={folder}/run", "device=cpu")
    validation = settings("preprocess_config.split=validation", f"preprocess_config.out_dir={folder}/validation")
    calls = {
        "validation": (preprocess_maestro, *config, *validation),
        "preprocess_maestro": (preprocess_maestro, *config),
        "preprocess_audio": (preprocess_audio, *config, "-d", folder / "test"),
        "train": (train, *config, *sampled),
        "inference": (inference, *config),
        "evaluate": (evaluate, *config, *settings(*(f"evaluate_config.{one}" for one in scored))),
    }
    outcomes = {name: call(*arguments) for name, arguments in calls.items()}
    matplotlib = sys.modules.get("matplotlib")
    return {
        "codes": {name: outcome.code for name, outcome in outcomes.items()},
        "messages": {name: outcome.err.splitlines() for name, outcome in outcomes.items()},
        "uses_pyplot": "matplotlib.pyplot" in sys.modules,
        "usetex": matplotlib is not None and matplotlib.rcParams["text.usetex"],
        "MPLBACKEND": os.environ.get("MPLBACKEND"),
    }


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]))))
