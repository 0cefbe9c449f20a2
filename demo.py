"""Run the whole pipeline in a few minutes on a small synthetic data set, by the commands that you would call.

    python demo.py

Last, the weights that come with the project play a piece, to compare with what more training gives. All is written to
demo/ in the current folder; the same command continues after an interruption. The README lists the commands for
MAESTRO, with the configs in configs/.
"""

if __name__ == "__main__":
    from midi2wave.utils import signals

    signals.exit_on_interrupt()  # Ctrl-C during the imports below needs no traceback.

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from midi2wave.utils import signals
from midi2wave.utils.cli import log, make_plain_parser, run
from midi2wave.utils.errors import InputError

PROJECT_FOLDER = Path(__file__).resolve().parent
FOLDER = Path("demo")
DATA_COMMAND = "-m midi2wave.demo_dataset.generate"

# Results with the demo's fixed seeds, measured on a CPU (docs/training.md).
EXPECTED_NLL = 8.20
EXPECTED_GAP = 2.44


def main(argv: list[str] | None = None) -> int:
    """Run all commands; returns the exit code.

    Raises:
        InputError: One of the commands failed.
    """
    # There are no options: the demo would have to hand them on to all commands.
    make_plain_parser(__doc__).parse_args(argv)
    started = time.monotonic()
    run_command(DATA_COMMAND, "-o", FOLDER / "maestro-demo")
    run_command("resample_audio.py", "-d", FOLDER / "maestro-demo", "--hz", "8000")
    run_command("preprocess_maestro.py", "-c", "demo/config_makeTrain.json")
    run_command("preprocess_maestro.py", "-c", "demo/config_makeValidation.json")
    # Measuring takes seconds, and gives the same config for the same data: it is repeated every time.
    data, measured = FOLDER / "data" / "train", FOLDER / "config_train_partials.json"
    run_command("measure_partials.py", "-d", data, "-c", "demo/config_train.json", "-o", measured, "--force")
    training = run_command("train.py", "-c", measured)
    run_command("preprocess_audio.py", "-d", FOLDER / "test", "-c", "demo/config_makeTest.json")
    outputs = []
    for mode in ("teacher_forced", "prompted"):
        options = ("--set", f"inference_config.mode={mode}", "--out", FOLDER / "output" / mode)
        outputs.append(run_command("inference.py", "-c", "demo/config_inference.json", *options))
    midi, out = PROJECT_FOLDER / "examples" / "bach_prelude.mid", FOLDER / "output" / "shipped_weights"
    outputs.append(run_command("inference.py", "-c", "config_play.json", "--midi", midi, "--out", out))
    _print_results(outputs, training, (time.monotonic() - started) / 60)
    return 0


def run_command(script: str, *arguments: str | Path) -> dict[str, Any]:
    """Run one command as a process of its own, with its progress on the terminal.

    Args:
        script: The name of a script of the project, or "-m MODULE".
        arguments: Its arguments; --json is added.

    Returns:
        The command's result.

    Raises:
        InputError: The command failed.
    """
    options = list(map(str, arguments))
    log(f"\n$ python {' '.join([script, *options])}")
    program = script.split() if script.startswith("-m ") else [str(PROJECT_FOLDER / script)]
    # Modules are found wherever the demo is started.
    search_path = os.pathsep.join(filter(None, [str(PROJECT_FOLDER), os.environ.get("PYTHONPATH")]))
    environment = os.environ | {"PYTHONPATH": search_path}
    exit_code, output = signals.run_command([sys.executable, *program, *options, "--json"], environment)
    if exit_code:
        raise InputError(f"{script} ended with exit code {exit_code}; its own message stands above")
    return json.loads(output.splitlines()[-1])


def _print_results(outputs: list[dict[str, Any]], training: dict[str, Any], minutes: float) -> None:
    """Print where audio and figures are, and what the training has reached.

    Args:
        outputs: Results of inference.py.
        training: Result of train.py.
        minutes: Duration of the demo.
    """
    print(f"\nDone in {minutes:.1f} minutes. Results:")
    for output in outputs:
        for wav in output["wavs"]:
            path = Path(output["output_dir"]) / wav
            print(f"  {path}  (figure: {path.with_suffix('.png').name})")
    print("or open demo/output/*/index.html in a browser.")
    print("The demo trains for minutes only: expect noise in prompted and, less, in teacher_forced.")
    print("shipped_weights is a larger model after more training: a piano.\n")
    nll, gap = training["validation_nll"], training["validation_gap"]
    print(f"Validation NLL: {nll:.2f} nats per sample (expected about {EXPECTED_NLL}).")
    print(f"With mismatched MIDI it is {gap:.2f} worse (expected about {EXPECTED_GAP}; 0: the MIDI is ignored).")


if __name__ == "__main__":
    run(main)
