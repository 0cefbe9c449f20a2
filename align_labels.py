"""Note onsets as the sound has them: labels of a real piano are off by milliseconds, each note's by its own.

    python measure_strings.py -d data/train -c config_train.json -o measured.json
    python align_labels.py -d data/train -c measured.json -o data/aligned/train
    python align_labels.py -d data/validation -c measured.json -o data/aligned/validation --like data/aligned/train
    python measure_strings.py -d data/aligned/train -c config_train.json -o strings.json

The partials of a key begin with the same phases at every stroke, relative to the hammer's; where labels and sound
agree, `measure_strings.py` finds these phases, and the excitation meets the sound. Here the phases of all keys and the
onset of each stroke are found in turns, until they agree (expectation and maximisation): the onset by all its partials
together, the phases by all strokes of the key. The labels' own error is taken to be one for each recording, one that is
proportional to velocity, and what is left; strokes that do not fit keep the first two, and so do those with too few
partials to tell.  Phases are those at the
microphones: recordings of another room or piano need a value or a folder of their own. Where in time a key's phases are
read is what its labels say on average; pedals move with the recording. With data_config.global_values of one column,
such as years, each value's recordings are aligned by themselves.
"""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from alignment import Alignment, alignments, trusted_seconds, verdict
from atomic import write_text
from cli import note, parser, run
from conditioning import PARTIAL_CHANNEL
from config import DataConfig, load_config
from errors import InputError
from midi import N_PITCHES, Performance
from processed_folder import INDEX_NAME, RECORD_NAME, ProcessedFolder, begin_folder, write_recording
from strokes import GOOD_FIT, LEAST_SHARE, aligned, piano_of, share_that_fits


def main(argv: list[str] | None = None) -> int:
    """Run the step; returns the exit code."""
    arguments = parser(__doc__, config="measured.json")
    arguments.add_argument("-d", "--data", type=Path, required=True, help="processed folder to align")
    arguments.add_argument("-o", "--out", type=Path, required=True, help="where to write the aligned folder")
    arguments.add_argument("--like", type=Path, help="aligned folder of the same piano, whose phases are taken")
    args = arguments.parse_args(argv)
    data = load_config(args.config, ("data_config",), args.overrides).data_config
    if not data.partial_hz:
        raise InputError(f"{args.config} has no data_config.partial_hz; run measure_strings.py first")
    if args.out.exists() and not args.force:
        raise InputError(f"{args.out} is there already; choose another name, or use --force")
    if args.like and "aligned" not in _made_from(args.like):
        raise InputError(f"{args.like} is not aligned; align it first, without --like")
    if args.out.resolve() in {path.resolve() for path in (args.data, args.like) if path}:
        raise InputError(f"{args.out} is what is to be read; choose another name")
    folder = ProcessedFolder(args.data)
    folder.check_rate(data.audio_hz)
    likes = ProcessedFolder(args.like).parts(data.global_values) if args.like else {}
    parts, found = folder.parts(data.global_values), []
    if lacking := [value for value in parts if likes and value not in likes]:
        raise InputError(f"{args.like} has no recording of {lacking[0]}, {args.data} has; align that without --like")
    for value, part in parts.items():
        own, heard = _of_value(data, value), _alignments(part)
        flux = [trusted_seconds(windows) for windows in heard]
        found.append(aligned(part, own, flux, piano_of(likes[value], own) if likes else None))
        _tell(part, heard, found[-1][1])
    begin_folder(args.out, _made_from(args.data) | {"aligned": {"like": str(args.like or args.data)}}, force=args.force)
    both = zip(parts.values(), found, strict=True)
    moved = np.concatenate([_write(part, onset, args.out) for part, (onset, _) in both])
    fit = np.concatenate([fits for _, fits in found])
    # with the columns that its owner has added
    write_text(args.out / INDEX_NAME, (args.data / INDEX_NAME).read_text(encoding="utf-8"))
    left = float(np.std(moved[fit > GOOD_FIT])) * 1000
    result = {"notes": len(fit), "fit": share_that_fits(fit), "spread_ms": left, "out": str(args.out)}
    said = (
        f"{len(fit)} notes, {100 * result['fit']:.0f} % of those that can be judged fit well; within a recording they "
        f"moved by {left:.1f} ms (standard deviation); written: {args.out}"
    )
    print(json.dumps(result) if args.as_json else said)
    return 0


def _of_value(data: DataConfig, value: str) -> DataConfig:
    """The config with the strings of one global value alone, if it has a set for each."""
    n = N_PITCHES * len(PARTIAL_CHANNEL)
    if not value or len(data.partial_hz) == n:
        return data
    first = n * data.global_values.index(value)
    names = ("partial_hz", "partial_level", "partial_decay", "partial_phase")
    return replace(data, **{name: getattr(data, name)[first : first + n] for name in names})


def _made_from(path: Path) -> dict:
    ProcessedFolder(path)  # says what is wrong with it
    return json.loads((path / RECORD_NAME).read_text(encoding="utf-8"))["made_from"]


def _alignments(folder: ProcessedFolder) -> list[list[Alignment]]:
    """What `alignment.py` says of each recording's labels."""
    rows = range(len(folder.rows))
    return [alignments(np.array(folder.pcm(i)), folder.performance(i), folder.audio_hz) for i in rows]


def _tell(folder: ProcessedFolder, heard: list[list[Alignment]], fit: np.ndarray) -> None:
    """Name the recordings whose MIDI may be another's: fit [N] is that of all their notes."""
    first = 0
    for position, (row, windows) in enumerate(zip(folder.rows, heard, strict=True)):
        own = fit[first : first + len(folder.performance(position).onset)]
        first += len(own)
        unknown = trusted_seconds(windows) is None
        doubts = ["how late the sound is cannot be told" if unknown else verdict(windows)]
        if len(own) and (share := share_that_fits(own)) < LEAST_SHARE:
            doubts.append(f"{100 * share:.0f} % of its notes fit the strings")
        if words := ", ".join(filter(None, doubts)):
            note(f"{row.audio_filename}: {words}; is it the MIDI of this recording?")


def _write(folder: ProcessedFolder, onset: np.ndarray, out: Path) -> np.ndarray:
    """Write the folder with these onsets; returns by how much each moved more than its recording's median, seconds."""
    moved, first = [], 0
    for position, row in enumerate(folder.rows):
        played, pcm = folder.performance(position), np.array(folder.pcm(position))
        by = onset[first : first + len(played.onset)] - played.onset
        first += len(by)
        moved.append(by - np.median(by))
        shifted = _shifted(played, by)
        facts = json.loads((folder.path / f"{row.index}.json").read_text(encoding="utf-8"))["facts"]
        facts["late_ms"] = [round(1000 * found.seconds, 1) for found in alignments(pcm, shifted, folder.audio_hz)]
        write_recording(out, row, pcm, shifted, facts)
    return np.concatenate(moved)


def _shifted(played: Performance, by: np.ndarray) -> Performance:
    """A performance whose notes come later by so many seconds each, its pedals by the median of them."""
    onset = np.where(played.onset >= 0, np.maximum(played.onset + by, 0.0), played.onset)
    offset = np.maximum(played.offset + by, onset)
    order, late = np.lexsort((played.pitch, onset)), np.median(by) if len(by) else 0.0
    pedals = {c: np.column_stack([np.maximum(e[:, 0] + late, 0.0), e[:, 1]]) for c, e in played.pedals.items()}
    columns = {"onset": onset, "offset": offset, "pitch": played.pitch, "velocity": played.velocity}
    return replace(played, pedals=pedals, **{name: column[order] for name, column in columns.items()})


if __name__ == "__main__":
    run(main)
