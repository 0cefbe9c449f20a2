"""The whole road in a few minutes, on a small data set that it makes itself: the steps, as you would call them.
Last, the weights that come with the project play a piece: what more training gives.

    python demo.py

Writes below demo/ (in the current folder); the same command goes on after an interruption. With MAESTRO instead of the
made data set the same commands, with the configs in configs/, are in the README.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

from midi2wave.utils.cli import log, run
from midi2wave.utils.errors import InputError

HERE = Path(__file__).resolve().parent
FOLDER = Path("demo")
EXPECTED_NLL, EXPECTED_GAP = 8.22, 2.47  # measured with the demo's fixed seeds on a CPU; see README


def main(argv: list[str] | None = None) -> int:
    """Run all steps; returns the exit code. Raises InputError if one of them failed."""
    # It has no options: those of the steps would be promises that it does not keep.
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args(argv)
    started = time.monotonic()
    step("demo_data.py", "-o", FOLDER / "maestro-demo")
    step("resample_audio.py", "-d", FOLDER / "maestro-demo", "--hz", "8000")
    step("preprocess_maestro.py", "-c", "demo/config_makeTrain.json")
    step("preprocess_maestro.py", "-c", "demo/config_makeValidation.json")
    # Again every time: it takes seconds, and of the same data and config come the same figures.
    strings = FOLDER / "config_train_partials.json"
    step(
        "measure_partials.py", "-d", FOLDER / "data" / "train", "-c", "demo/config_train.json", "-o", strings, "--force"
    )
    trained = step("train.py", "-c", strings)
    step("preprocess_audio.py", "-d", FOLDER / "test", "-c", "demo/config_makeTest.json")
    outputs = [step("inference.py", "-c", "demo/config_inference.json", "--set", f"inference_config.mode={mode}",
                    "--out", FOLDER / "output" / mode) for mode in ("teacher_forced", "prompted")]  # fmt: skip
    outputs.append(step("inference.py", "-c", "config_play.json", "--midi", HERE / "examples" / "bach_prelude.mid",
                        "--out", FOLDER / "output" / "shipped_weights"))  # fmt: skip
    print(f"\nDone in {(time.monotonic() - started) / 60:.1f} minutes. Listen and look:")
    for made in outputs:
        for wav in made["wavs"]:
            path = Path(made["output_dir"]) / wav
            print(f"  {path}  (picture: {path.with_suffix('.png').name})")
    print("or open demo/output/*/index.html in a browser.\n")
    loss, gap = trained["validation_nll"], trained["validation_gap"]
    print(f"Validation loss: {loss:.2f} nats per sample (expected about {EXPECTED_NLL}).")
    print(f"With another MIDI it is {gap:.2f} worse (expected about {EXPECTED_GAP}; 0: it ignores the MIDI).")
    return 0


def step(script: str, *arguments: str | Path) -> dict:
    """Run one step as a command of its own, its progress on the terminal; returns its result."""
    command = [script, *map(str, arguments)]
    log(f"\n$ python {' '.join(command)}")
    done = subprocess.run(
        [sys.executable, str(HERE / script), *command[1:], "--json"], stdout=subprocess.PIPE, text=True
    )
    if done.returncode:
        raise InputError(f"{script} ended with exit code {done.returncode}; its own message stands above")
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    run(main)
