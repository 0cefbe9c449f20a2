"""Write a folder of MIDI files to train on: random studies and composed pieces, made by rules from a seed.

    python -m midi2wave.demo_dataset.write_midi -o midi --hours 5
    python render_midi.py -d midi -o data/grand/maestro -j 2 --instrument salamander

No performance and no score of anyone else is in them: what is rendered from them is subject to the licence of the
instrument only. Files last about three minutes. One in eight of the studies has single notes only, of all keys, so that
the partials of every key can be measured. Composed pieces are transposed by up to an octave.
"""

if __name__ == "__main__":
    from midi2wave.utils import signals

    signals.exit_on_interrupt()  # Ctrl-C during the imports below needs no traceback.

import argparse
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from midi2wave.demo_dataset.composer import compose
from midi2wave.demo_dataset.studies import MIN_STUDY_SECONDS, single_notes, study
from midi2wave.midi.performance import Performance
from midi2wave.utils import cli
from midi2wave.utils.atomic_files import atomic_file
from midi2wave.utils.errors import InputError
from midi2wave.utils.folder_lock import lock_own_folder
from midi2wave.utils.output_folder import acquire_output_dir

RECIPE_VERSION = 2  # To be raised when the music changes, so that a rerun does not mix old and new files.
RECORD_NAME = "midi.json"
PRODUCTS = r"(study|notes|piece)_seed\d+_\d+\.mid"
FORCE_EFFECT = "removes the MIDI files that this command made, and writes others"
MEAN_SECONDS = 180.0
MAX_HOURS = 500.0
STUDIES_PER_SINGLE_NOTES = 8
MAX_TRANSPOSITION = 12  # From the composer's A1..C7 to A0..C8.


class MidiFile(NamedTuple):
    """One file to write.

    Attributes:
        stem: Its name without suffix.
        make: Makes the performance from the seed and the duration.
        seed: Its seed; no two files of a folder share one.
        seconds: Its duration.
    """

    stem: str
    make: Callable[[int, float], Performance]
    seed: int
    seconds: float


def transposed_piece(seed: int, seconds: float) -> Performance:
    """A composed piece, transposed by up to an octave.

    Args:
        seed: Seed of the piece and of the interval.
        seconds: Duration of the piece's sound.

    Raises:
        InputError: It is too short for a piece.
    """
    performance = Performance.from_pretty_midi(compose(seed, seconds))
    interval = np.random.default_rng([seed, 1]).integers(-MAX_TRANSPOSITION, MAX_TRANSPOSITION + 1)
    return replace(performance, pitch=performance.pitch + interval)


def plan_files(hours: float, seed: int, studies: float) -> list[MidiFile]:
    """Divide the hours into files of unequal length, of which a share are studies.

    Args:
        hours: Duration of all files together.
        seed: Seed of all files.
        studies: Share of the studies, in 0..1.
    """
    number = math.ceil(hours * 3600 / MEAN_SECONDS)
    lengths = np.random.default_rng(seed).uniform(0.85, 1.15, number)
    n_studies = round(studies * number)
    files = []
    for k, seconds in enumerate((hours * 3600 * lengths / lengths.sum()).tolist()):
        name, make = ("study", study) if k < n_studies else ("piece", transposed_piece)
        if k < n_studies and k % STUDIES_PER_SINGLE_NOTES == 0:
            name, make = "notes", single_notes
        files.append(MidiFile(f"{name}_seed{seed}_{k + 1:04d}", make, 10_000 * seed + k, round(seconds, 3)))
    return files


def write_folder(
    folder: Path, *, hours: float, seed: int = 0, studies: float = 0.7, force: bool = False
) -> list[MidiFile]:
    """Write the files; the same arguments give the same bytes, and files that are there already are kept.

    Args:
        folder: Where they go.
        hours: Duration of all files together.
        seed: Seed of all files.
        studies: Share of the studies, in 0..1; the others are composed pieces.
        force: Whether to replace files that were made with other arguments.

    Returns:
        The files.

    Raises:
        InputError: An argument is out of range, or the folder holds other files, or without `force` those of other
            arguments.
        OSError: The folder cannot be written to.
    """
    low = MIN_STUDY_SECONDS / 3600
    if not low <= hours <= MAX_HOURS:
        raise InputError(f"--hours is {hours:g}, expected {low:.2g} to {MAX_HOURS:g}")
    if not 0 <= studies <= 1:
        raise InputError(f"--studies is {studies:g}, expected a share from 0 to 1")
    if seed < 0:
        raise InputError(f"--seed is {seed}, expected 0 or a positive whole number")
    files = plan_files(hours, seed, studies)
    record: dict[str, Any] = {"recipe": RECIPE_VERSION, "hours": hours, "seed": seed, "studies": studies}
    with lock_own_folder(folder, RECORD_NAME):
        acquire_output_dir(folder, RECORD_NAME, record, PRODUCTS, force=force, force_effect=FORCE_EFFECT)
        for file in cli.progress(files, len(files), "file"):
            path = folder / f"{file.stem}.mid"
            if not path.is_file():
                with atomic_file(path) as tmp_path:
                    file.make(file.seed, file.seconds).to_pretty_midi().write(str(tmp_path))
    return files


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = cli.make_parser(__doc__, force=FORCE_EFFECT)
    add = parser.add_argument
    add("-o", "--out", type=cli.path_argument, default=Path("midi"), help="the folder (default %(default)s)")
    add("--hours", type=float, default=5.0, help="duration of all files together (default %(default)s)")
    add("--studies", type=float, default=0.7, help="share of the studies, 0 to 1 (default %(default)s)")
    add("--seed", type=int, default=0, help="seed of all files (default %(default)s)")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    args = _arguments(argv)
    files = write_folder(args.out, hours=args.hours, seed=args.seed, studies=args.studies, force=args.force)
    n_pieces = sum(file.make is transposed_piece for file in files)
    hours = sum(file.seconds for file in files) / 3600
    result = {"out": str(args.out), "studies": len(files) - n_pieces, "pieces": n_pieces, "hours": hours}
    studies = "1 study" if result["studies"] == 1 else f"{result['studies']} studies"
    summary = f"{args.out}: {studies} and {cli.count_of(n_pieces, 'composed piece')}, {hours:.2f} h"
    cli.print_result(summary, result, as_json=args.as_json)
    return 0


if __name__ == "__main__":
    cli.run(main)
