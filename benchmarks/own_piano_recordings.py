"""The recordings of docs/own_piano.md: 2, 10, 30, 45 and 86 minutes of the Disklavier, with the same ones held out.

    python -m benchmarks.own_piano_recordings -d data/real/disklavier -o data/own

Copies the files from a folder in the MAESTRO layout (docs/real_piano.md) to data/own/recordings_2 and so on.
"""

import csv
import shutil
from dataclasses import replace
from pathlib import Path

from midi2wave.data.maestro import COLUMNS, Recording, inside, read_metadata
from midi2wave.utils.cli import make_plain_parser, print_result, run
from midi2wave.utils.errors import InputError

YEAR = 2009
METADATA_NAME = "maestro-v1.0.0.csv"
# By the beginnings of the file names. All are of YEAR.
HELD_OUT = {
    "test": ("chpn-p14_", "chpn_op7_1_", "grieg_kobold_", "scn15_11_"),
    "validation": ("scn15_6_", "scn15_9_"),
}
TEN_MINUTES = ("chpn_op25_e3_", "chpn_op25_e4_", "grieg_butterfly_", "mendel_op62_5_", "ty_maerz_")
TRAIN = {
    "2": ("chpn_op33_2_",),
    "10": TEN_MINUTES,
    "30": (*TEN_MINUTES, "chpn_op33_2_", "schub_d760_3_", "pathetique_2_", "chpn-p15_", "muss_1_"),
    # All others.
    "45": ("",),
    "86": ("",),
}
# The one with the recordings of the other year too, of which those are taken that the metadata call `train`.
WITH_OTHER_YEAR = "86"


def main(argv: list[str] | None = None) -> int:
    """Make the folders; returns the exit code."""
    parser = make_plain_parser(__doc__)
    parser.add_argument("-d", "--dir", type=Path, required=True, help="the recordings in the MAESTRO layout")
    parser.add_argument("-o", "--out", type=Path, required=True, help="where the folders go")
    parser.add_argument("--json", dest="as_json", action="store_true", help="print the result as one JSON object")
    args = parser.parse_args(argv)
    recordings = read_metadata(args.dir)
    by_amount = {amount: select_recordings(recordings, amount) for amount in TRAIN}
    minutes = {}
    for amount, selected in by_amount.items():
        folder = args.out / f"recordings_{amount}"
        if folder.exists():
            raise InputError(f"{folder} exists; choose another folder with -o")
        copy_recordings(args.dir, folder, selected)
        minutes[str(folder)] = sum(one.duration for one in selected if one.split == "train") / 60
    lines = [f"{folder}: {value:.1f} minutes to train on" for folder, value in minutes.items()]
    print_result("\n".join(lines), {"minutes": minutes}, as_json=args.as_json)
    return 0


def select_recordings(recordings: list[Recording], amount: str) -> list[Recording]:
    """The recordings of an amount, with their split.

    Raises:
        InputError: One is missing.
    """
    beginnings = {**HELD_OUT, "train": TRAIN[amount]}
    selected = []
    for recording in recordings:
        name = Path(recording.audio_filename).name
        if recording.year == YEAR:
            splits = (split for split, some in beginnings.items() if name.startswith(some))
            if split := next(splits, None):
                selected.append(replace(recording, split=split))
        elif amount == WITH_OTHER_YEAR and recording.split == "train":
            selected.append(recording)
    names = [Path(one.audio_filename).name for one in selected if one.year == YEAR]
    missing = [one for some in beginnings.values() for one in some if not any(name.startswith(one) for name in names)]
    if missing:
        raise InputError(f"the metadata list no recording of {YEAR} whose name begins with {', '.join(missing)}")
    return selected


def copy_recordings(source: Path, folder: Path, recordings: list[Recording]) -> None:
    """Copy recordings and write their metadata. Raises OSError."""
    for recording in recordings:
        for name in (recording.audio_filename, recording.midi_filename):
            target = inside(folder, name)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(inside(source, name), target)
    with open(folder / METADATA_NAME, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for one in recordings:
            values = (one.composer, one.title, one.split, one.year, one.midi_filename, one.audio_filename, one.duration)
            writer.writerow(values)


if __name__ == "__main__":
    run(main)
