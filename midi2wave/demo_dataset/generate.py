"""A small piano data set in the MAESTRO layout, made from nothing: composed by rules, rendered by additive synthesis.

    python demo_data.py -o demo/maestro-demo              # 6 minutes to train on, 45 s each to validate and to test
    python demo_data.py -o demo/tiny --minutes 0.5 --seed 3

It lets every step be tried before MAESTRO (about 100 GB) is there. It is no real piano, but it has what a model must
learn from one: decaying inharmonic partials, beating, velocity as level and brightness, dampers and the pedal.
`demo_music.py` composes, `demo_piano.py` plays.
"""

import csv
import io
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soundfile

from midi2wave.data.maestro import COLUMNS
from midi2wave.demo_dataset.composer import SHORTEST_PIECE_SECONDS, compose
from midi2wave.demo_dataset.piano_synth import render
from midi2wave.utils import cli
from midi2wave.utils.atomic_files import acquire_output_dir, atomic_file, write_text
from midi2wave.utils.errors import InputError

RECIPE = 1  # raise it when the music or the sound changes, so that a rerun does not mix old pieces with new ones
METADATA_NAME = "maestro-v2.0.0.csv"
RECORD_NAME = "demo.json"
PRODUCTS = ("*/demo_seed*.midi", "*/demo_seed*.wav", METADATA_NAME)
YEARS = (2008, 2009)
MEAN_PIECE_SECONDS = 50.0  # at most; pieces then last between about half a minute and a minute


class Piece(NamedTuple):
    """One piece to make; `stem` is its path in the folder without the suffix."""

    split: str
    year: int
    stem: str
    seed: int
    seconds: float


def _plan(seed: int, minutes: dict[str, float]) -> list[Piece]:
    """Divide every split's minutes into pieces of unequal length; no two pieces of a data set share a seed."""
    rng, pieces = np.random.default_rng(seed), []
    for split, split_minutes in minutes.items():
        share = rng.uniform(0.85, 1.15, math.ceil(split_minutes * 60 / MEAN_PIECE_SECONDS))
        for seconds in split_minutes * 60 * share / share.sum():
            number = len(pieces)
            year = YEARS[number % len(YEARS)]
            stem = f"{year}/demo_seed{seed}_{number + 1:03d}"
            pieces.append(Piece(split, year, stem, 10_000 * seed + number, round(float(seconds), 3)))
    return pieces


def _checked_parameters(seed: int, minutes: dict[str, float], audio_hz: int) -> dict[str, Any]:
    if seed < 0:
        raise InputError(f"seed is {seed}; give 0 or a positive whole number")
    for split, split_minutes in minutes.items():
        if not SHORTEST_PIECE_SECONDS / 60 <= split_minutes <= 600:
            lowest = SHORTEST_PIECE_SECONDS / 60
            raise InputError(f"{split_minutes:g} minutes for {split}; give between {lowest:g} and 600")
    if not 8000 <= audio_hz <= 192_000:
        raise InputError(f"audio_hz is {audio_hz}; give between 8000 and 192000")
    return {"recipe": RECIPE, "seed": seed, "minutes": minutes, "audio_hz": audio_hz}


def _make_piece(folder: Path, piece: Piece, audio_hz: int) -> None:
    midi_path, audio_path = folder / f"{piece.stem}.midi", folder / f"{piece.stem}.wav"
    if midi_path.is_file() and audio_path.is_file():
        return
    with atomic_file(midi_path) as tmp_path:
        compose(piece.seed, piece.seconds).save(tmp_path)
    audio = render(midi_path, audio_hz)
    with atomic_file(audio_path) as tmp_path:
        soundfile.write(tmp_path, audio, audio_hz, subtype="PCM_16", format="WAV")


def _metadata(folder: Path, pieces: list[Piece]) -> str:
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(COLUMNS)
    for piece in pieces:
        title = compose(piece.seed, piece.seconds).tracks[0].name
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
    """Write the data set to `folder` and return the path of its metadata, which is written last.

    The same arguments give the same bytes. Pieces that an earlier run with the same arguments finished are kept.
    Raises InputError for impossible arguments, for a folder of other files, and for a demo data set made with other
    arguments unless `force`, which removes its pieces and what was resampled from them (see `atomic.claim`).
    """
    folder = Path(folder)
    minutes = {"train": float(train_minutes), "validation": float(validation_minutes), "test": float(test_minutes)}
    parameters = _checked_parameters(seed, minutes, audio_hz)
    pieces = _plan(seed, minutes)
    acquire_output_dir(folder, RECORD_NAME, parameters, PRODUCTS, force=force)
    metadata = folder / METADATA_NAME
    if metadata.is_file() and all((folder / f"{p.stem}{end}").is_file() for p in pieces for end in (".midi", ".wav")):
        cli.log(f"{folder} is already complete; nothing to do")
        return metadata
    for done, piece in enumerate(pieces, start=1):
        _make_piece(folder, piece, audio_hz)
        cli.log(f"piece {done} of {len(pieces)}: {piece.stem}.wav ({piece.split}, {piece.seconds:.0f} s)")
    write_text(metadata, _metadata(folder, pieces))
    return metadata


def main(argv: list[str] | None = None) -> int:
    """Make the data set; returns the exit code."""
    parser = cli.make_parser(__doc__)
    parser.add_argument("-o", "--output", default="demo/maestro-demo", help="folder (default %(default)s)")
    parser.add_argument(
        "--minutes",
        type=float,
        default=6.0,
        help="minutes to train on (default %(default)s); an eighth of that each to validate and to test",
    )
    parser.add_argument("--seed", type=int, default=0, help="another seed, other pieces (default %(default)s)")
    args = parser.parse_args(argv)
    held_out = max(args.minutes / 8, SHORTEST_PIECE_SECONDS / 60)
    minutes = {"train_minutes": args.minutes, "validation_minutes": held_out, "test_minutes": held_out}
    metadata = make_data_set(args.output, seed=args.seed, force=args.force, **minutes)
    rows = list(csv.DictReader(io.StringIO(metadata.read_text(encoding="utf-8"))))
    total_minutes = sum(float(row["duration"]) for row in rows) / 60
    result = {"metadata": str(metadata), "pieces": len(rows), "minutes": round(total_minutes, 2)}
    summary = f"{len(rows)} pieces, {total_minutes:.1f} minutes: {metadata}"
    return cli.report_and_exit_code(summary, result, [], len(rows), as_json=args.as_json)


if __name__ == "__main__":
    cli.run(main)
