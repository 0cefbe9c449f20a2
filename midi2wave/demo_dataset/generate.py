"""Generate a small synthetic piano data set in the MAESTRO layout: composed by rules, rendered by additive synthesis.

    python -m midi2wave.demo_dataset.generate -o demo/maestro-demo      # 6 minutes for training
    python -m midi2wave.demo_dataset.generate -o demo/tiny --minutes 0.5 --seed 3

An eighth of the minutes is for validation, and a little more for testing, so that test clips can be of four pieces.

It serves to try every command without downloading MAESTRO (about 100 GB). It has the properties of a piano that a model
must learn: decaying inharmonic partials, beating, velocity as level and brightness, dampers and the sustain pedal.
`composer.py` composes the pieces, `piano_synth.py` renders them.
"""

if __name__ == "__main__":
    from midi2wave.utils import signals

    signals.exit_on_interrupt()  # Ctrl-C during the imports below needs no traceback.

import csv
import io
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soundfile

from midi2wave.audio.io import write_amplitudes
from midi2wave.data.maestro import COLUMNS
from midi2wave.demo_dataset.composer import MIN_PIECE_SECONDS, compose
from midi2wave.demo_dataset.piano_synth import render
from midi2wave.utils import cli
from midi2wave.utils.atomic_files import atomic_file, remove_partial_files, write_text
from midi2wave.utils.errors import InputError
from midi2wave.utils.folder_lock import lock_own_folder
from midi2wave.utils.output_folder import acquire_output_dir

RECIPE_VERSION = 1  # To be raised when music or sound change, so that a rerun does not mix old and new pieces.
METADATA_NAME = "maestro-v2.0.0.csv"
RECORD_NAME = "demo.json"
# Pieces, and what resample_audio.py makes of them.
PRODUCTS = r"\d{4}/demo_seed\d+_\d+(_\d+)?\.(midi|wav)|maestro-v2\.0\.0\.csv"
FORCE_EFFECT = "removes its pieces and what was resampled from them, and makes them anew"
YEARS = (2008, 2009)
MAX_MEAN_PIECE_SECONDS = 50.0  # Pieces then last between about half a minute and a minute.
MAX_SPLIT_MINUTES = 600
MIN_AUDIO_HZ = 8000
MAX_AUDIO_HZ = 192_000
HELD_OUT_PART = 1 / 8  # Minutes of each held-out split, relative to the training split.
# Clips of one piece do not show how pieces differ. A test split of fewer pieces gets short ones beside them, each a
# quarter of its minutes, unless they would be shorter than a few test clips.
MIN_TEST_PIECES = 4
MIN_SHORT_PIECE_SECONDS = 10.0


class DemoPiece(NamedTuple):
    """One piece of the data set.

    Attributes:
        split: train, validation or test.
        year: Year in the metadata.
        stem: Path of its files in the folder, without suffix.
        seed: Seed of the composition.
        seconds: Duration.
    """

    split: str
    year: int
    stem: str
    seed: int
    seconds: float


def _plan_pieces(seed: int, minutes: dict[str, float]) -> list[DemoPiece]:
    """Divide the minutes of every split into pieces of unequal length, and add short test pieces.

    No two pieces of a data set share a seed.
    """
    rng = np.random.default_rng(seed)
    pieces: list[DemoPiece] = []
    for split, split_minutes in minutes.items():
        share = rng.uniform(0.85, 1.15, math.ceil(split_minutes * 60 / MAX_MEAN_PIECE_SECONDS))
        lengths = [*(split_minutes * 60 * share / share.sum())]
        short_seconds = split_minutes * 60 / MIN_TEST_PIECES
        if split == "test" and short_seconds >= MIN_SHORT_PIECE_SECONDS:
            lengths += [short_seconds] * (MIN_TEST_PIECES - len(lengths))
        for seconds in lengths:
            number = len(pieces)
            year = YEARS[number % len(YEARS)]
            stem = f"{year}/demo_seed{seed}_{number + 1:03d}"
            pieces.append(DemoPiece(split, year, stem, 10_000 * seed + number, round(float(seconds), 3)))
    return pieces


def _validated_parameters(seed: int, minutes: dict[str, float], audio_hz: int) -> dict[str, Any]:
    """The parameters as the folder's record holds them."""
    if seed < 0:
        raise InputError(f"seed is {seed}; give 0 or a positive whole number")
    for split, split_minutes in minutes.items():
        low = MIN_PIECE_SECONDS / 60
        if not low <= split_minutes <= MAX_SPLIT_MINUTES:
            raise InputError(f"{split_minutes:g} minutes for {split}; give between {low:g} and {MAX_SPLIT_MINUTES}")
    if not MIN_AUDIO_HZ <= audio_hz <= MAX_AUDIO_HZ:
        raise InputError(f"audio_hz is {audio_hz}; give between {MIN_AUDIO_HZ} and {MAX_AUDIO_HZ}")
    return {"recipe": RECIPE_VERSION, "seed": seed, "minutes": minutes, "audio_hz": audio_hz}


def _write_piece(folder: Path, piece: DemoPiece, audio_hz: int) -> None:
    """Write MIDI and audio of a piece, unless both are there."""
    midi_path, audio_path = folder / f"{piece.stem}.midi", folder / f"{piece.stem}.wav"
    if midi_path.is_file() and audio_path.is_file():
        return
    with atomic_file(midi_path) as tmp_path:
        compose(piece.seed, piece.seconds).write(tmp_path)
    write_amplitudes(audio_path, render(midi_path, audio_hz), audio_hz, "WAV")


def _metadata_table(folder: Path, pieces: list[DemoPiece]) -> str:
    """The metadata of all pieces as CSV, with MAESTRO's columns."""
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(COLUMNS)
    for piece in pieces:
        title = compose(piece.seed, piece.seconds).instruments[0].name
        duration = soundfile.info(folder / f"{piece.stem}.wav").duration
        files = (f"{piece.stem}.midi", f"{piece.stem}.wav")
        writer.writerow(("midi2wave demo", title, piece.split, piece.year, *files, duration))
    return table.getvalue()


def make_data_set(
    folder: str | Path,
    *,
    seed: int = 0,
    train_minutes: float = 6.0,
    validation_minutes: float = 0.75,
    test_minutes: float = 0.75,
    audio_hz: int = 44100,
    force: bool = False,
) -> Path:
    """Write the data set; the same arguments give the same bytes.

    Pieces that an earlier run with the same arguments finished are kept.

    Args:
        folder: The folder of the data set.
        seed: Seed of all pieces.
        train_minutes: Duration of the training split.
        validation_minutes: Duration of the validation split.
        test_minutes: Duration of the test split, without the short pieces that are added to a few long ones.
        audio_hz: Sampling rate of the audio.
        force: Whether to replace a demo data set of other arguments: its pieces are removed, with what was resampled
            from them.

    Returns:
        The path of the metadata, which is written last.

    Raises:
        InputError: An argument is out of range, or the folder holds other files, or without `force` a demo data set of
            other arguments.
    """
    folder = Path(folder)
    minutes = {"train": float(train_minutes), "validation": float(validation_minutes), "test": float(test_minutes)}
    parameters = _validated_parameters(seed, minutes, audio_hz)
    pieces = _plan_pieces(seed, minutes)
    with lock_own_folder(folder, RECORD_NAME):
        acquire_output_dir(folder, RECORD_NAME, parameters, PRODUCTS, force=force, force_effect=FORCE_EFFECT)
        for year in YEARS:
            remove_partial_files(folder / str(year))
        return _write_data_set(folder, pieces, audio_hz)


def _write_data_set(folder: Path, pieces: list[DemoPiece], audio_hz: int) -> Path:
    """Write the pieces that are missing, and last the metadata, whose path is returned."""
    metadata = folder / METADATA_NAME
    if metadata.is_file() and all((folder / f"{p.stem}{end}").is_file() for p in pieces for end in (".midi", ".wav")):
        cli.log(f"{folder} is already complete; nothing to do")
        return metadata
    for done, piece in enumerate(pieces, start=1):
        _write_piece(folder, piece, audio_hz)
        cli.log(f"piece {done} of {len(pieces)}: {piece.stem}.wav ({piece.split}, {piece.seconds:.0f} s)")
    write_text(metadata, _metadata_table(folder, pieces))
    return metadata


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = cli.make_parser(__doc__, force=FORCE_EFFECT)
    parser.add_argument("-o", "--output", default="demo/maestro-demo", help="folder (default %(default)s)")
    parser.add_argument(
        "--minutes",
        type=float,
        default=6.0,
        help="minutes for training (default %(default)s); an eighth of that each for validation and test",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the pieces (default %(default)s)")
    args = parser.parse_args(argv)
    held_out = max(args.minutes * HELD_OUT_PART, MIN_PIECE_SECONDS / 60)
    minutes = {"train_minutes": args.minutes, "validation_minutes": held_out, "test_minutes": held_out}
    metadata = make_data_set(args.output, seed=args.seed, force=args.force, **minutes)
    rows = list(csv.DictReader(io.StringIO(metadata.read_text(encoding="utf-8"))))
    total_minutes = sum(float(row["duration"]) for row in rows) / 60
    result = {"metadata": str(metadata), "pieces": len(rows), "minutes": round(total_minutes, 2)}
    summary = f"{cli.count_of(len(rows), 'piece')}, {total_minutes:.1f} minutes: {metadata}"
    return cli.report_and_exit_code(summary, result, [], len(rows), as_json=args.as_json)


if __name__ == "__main__":
    cli.run(main)
