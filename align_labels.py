"""Note onsets as the sound has them: labels of a real piano are off by milliseconds, each note's by its own.

    python measure_partials.py -d data/train -c config_train.json -o measured.json
    python align_labels.py -d data/train -c measured.json -o data/aligned/train
    python align_labels.py -d data/validation -c measured.json -o data/aligned/validation --like data/aligned/train
    python measure_partials.py -d data/aligned/train -c config_train.json -o strings.json

The partials of a key begin with the same phases at every stroke, relative to the hammer's; where labels and sound
agree, `measure_partials.py` finds these phases, and the excitation meets the sound. Here the phases of all keys and the
onset of each stroke are found in turns, until they agree (expectation and maximisation): the onset by all its partials
together, the phases by all strokes of the key. The labels' own error is taken to be one for each recording, one that is
proportional to velocity, and what is left; strokes that do not fit keep the first two, and so do those with too few
partials to tell. A recording of which hardly any note fits is left alone and named: its MIDI may be another's. Phases
are those at the microphones: recordings of another room or piano need a value or a folder of their own. Where in time a
key's phases are read is what its labels say on average; pedals move with the recording. With data_config.global_values
of one column, such as years, each value's recordings are aligned by themselves. Nothing is written until all onsets are
found.
"""

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from midi2wave.conditioning.global_conditioning import one_hot
from midi2wave.conditioning.partials import PianoPartials, partials_for
from midi2wave.config import DataConfig, load_config
from midi2wave.data.midi_alignment import Alignment, alignments, trusted_seconds, verdict
from midi2wave.data.onset_refinement import (
    ENOUGH,
    LEAST_PARTIALS,
    LEAST_SHARE,
    LEAST_STROKES,
    aligned,
    hardly_fits,
    piano_of,
    share_that_fits,
)
from midi2wave.data.processed_folder import (
    ProcessedFolder,
    begin_folder,
    check_output_folder,
    finish_folder,
    product_names,
    write_recording,
)
from midi2wave.midi.performance import Performance
from midi2wave.utils.atomic_files import remove_partial_files
from midi2wave.utils.cli import log, make_parser, run
from midi2wave.utils.errors import InputError
from midi2wave.utils.folder_lock import lock_folder


@dataclass(frozen=True)
class Found:
    """What was found of one recording, at this position of a folder."""

    folder: ProcessedFolder
    position: int
    windows: list[Alignment]  # of its labels with its sound, without phases
    by: np.ndarray  # seconds [N] by which its notes are to come later
    evidence: np.ndarray  # [N] as of `strokes.aligned`


def main(argv: list[str] | None = None) -> int:
    """Run the step; returns the exit code."""
    arguments = make_parser(__doc__, config="measured.json")
    arguments.add_argument("-d", "--data", type=Path, required=True, help="processed folder to align")
    arguments.add_argument("-o", "--out", type=Path, required=True, help="where to write the aligned folder")
    arguments.add_argument("--like", type=Path, help="aligned folder of the same piano, whose phases are taken")
    args = arguments.parse_args(argv)
    data = load_config(args.config, ("data_config",), args.overrides).data_config
    if not data.partial_hz:
        raise InputError(f"{args.config} has no data_config.partial_hz; run measure_partials.py first")
    if args.out.resolve() in {path.resolve() for path in (args.data, args.like) if path}:
        raise InputError(f"{args.out} is what is to be read; choose another name")
    folder, like = ProcessedFolder(args.data), ProcessedFolder(args.like) if args.like else None
    if like and "aligned" not in like.made_from:
        raise InputError(f"{args.like} is not aligned; align it first, without --like")
    made_from = folder.made_from | {"aligned": {"like": str(args.like or args.data)} | _decisive(data)}
    check_output_folder(args.out, made_from, "aligned", force=args.force)
    for each in filter(None, (folder, like)):
        each.check_rate(data.audio_hz)
    parts = folder.parts(data.global_values)
    likes = like.parts(data.global_values) if like else dict.fromkeys(parts)
    if lacking := [value for value in parts if value not in likes]:
        raise InputError(f"{args.like} has no recording of {lacking[0]}, {args.data} has; align that without --like")
    facts = {row.index: folder.facts(position) for position, row in enumerate(folder.rows)}
    with lock_folder(args.out):
        found = []
        for value, part in parts.items():
            strings = partials_for(data, one_hot([value], data.global_values))
            found += _found(part, data, strings, likes[value])
        for each in found:
            _tell(each)
        evidence = np.concatenate([each.evidence for each in found])
        _check_fit(evidence, args.data, args.config)
        begin_folder(args.out, made_from, force=args.force)
        remove_partial_files(args.out, product_names([row.index for row in folder.rows], shared=True))
        for each in found:
            _write(each, facts[each.folder.rows[each.position].index], args.out)
        finish_folder(args.out, folder.rows, folder.added)
    moved = np.concatenate([each.by - np.median(each.by) for each in found if len(each.by)])
    spread_ms, share = 1000 * float(np.std(moved[evidence > ENOUGH])), share_that_fits(evidence)
    result = {"notes": len(evidence), "judged": int(np.isfinite(evidence).sum()), "fit": share, "spread_ms": spread_ms}
    said = (
        f"{len(evidence)} notes; of {result['judged']} that can be judged {100 * share:.0f} % fit, and moved within a "
        f"recording by {spread_ms:.1f} ms (standard deviation); written: {args.out}"
    )
    print(json.dumps(result | {"out": str(args.out)}) if args.as_json else said)
    return 0


def _decisive(data: DataConfig) -> dict[str, Any]:
    """What of a config decides where notes go, as it is recorded."""
    strings = json.dumps([data.partial_hz, data.partial_level, data.partial_decay, data.partial_phase])
    names = ("preemphasis", "velocity_exponent", "global_values")
    return {name: getattr(data, name) for name in names} | {
        "strings_sha256": hashlib.sha256(strings.encode()).hexdigest()
    }


def _found(
    folder: ProcessedFolder, data: DataConfig, strings: PianoPartials, like: ProcessedFolder | None
) -> list[Found]:
    """Of each recording of a folder where its notes belong."""
    positions = range(len(folder.rows))
    played = [folder.performance(position).onset for position in positions]
    windows = [alignments(np.array(folder.pcm(i)), folder.performance(i), folder.audio_hz) for i in positions]
    flux = [trusted_seconds(each) for each in windows]
    onset, evidence = aligned(folder, data, strings, flux, piano_of(like, data, strings) if like else None)
    ends = np.cumsum([len(each) for each in played])[:-1]
    by = [new - old for new, old in zip(np.split(onset, ends), played, strict=True)]
    return [Found(folder, *each) for each in zip(positions, windows, by, np.split(evidence, ends), strict=True)]


def _tell(found: Found) -> None:
    """Name a recording whose MIDI may be another's."""
    doubts = [verdict(found.windows)]
    if trusted_seconds(found.windows) is None:
        doubts = ["how late the sound is cannot be told"]
    if hardly_fits(found.evidence):
        doubts.append(f"{100 * share_that_fits(found.evidence):.0f} % of its notes fit the strings")
    if words := ", ".join(filter(None, doubts)):
        log(f"{found.folder.rows[found.position].audio_filename}: {words}; is it the MIDI of this recording?")


def _check_fit(evidence: np.ndarray, folder: Path, config: str) -> None:
    """Raise InputError if hardly any of the notes [N] fits."""
    if not np.isfinite(evidence).any():
        raise InputError(
            f"{folder} is too small to be aligned: no key is struck {LEAST_STROKES} times or more with "
            f"{LEAST_PARTIALS} partials or more to be heard"
        )
    if (share := share_that_fits(evidence)) < LEAST_SHARE:
        raise InputError(
            f"{folder}: only {100 * share:.0f} % of the notes fit the strings, nothing is written; check that each "
            f"MIDI is its recording's, and that {config} was measured on this piano"
        )


def _write(found: Found, facts: dict[str, Any], out: Path) -> None:
    """Write a recording with its new onsets, and what was found out about it before (`dataset_card.Facts`)."""
    folder, position = found.folder, found.position
    shifted, pcm = _shifted(folder.performance(position), found.by), np.array(folder.pcm(position))
    windows = alignments(pcm, shifted, folder.audio_hz)
    warnings = [words for words in facts.get("warnings", []) if words != verdict(found.windows)]
    facts = facts | {
        "late_ms": [round(1000 * window.seconds, 1) for window in windows],
        "warnings": warnings + [words for words in [verdict(windows)] if words],
    }
    write_recording(out, folder.rows[position], pcm, shifted, facts)


def _shifted(played: Performance, by: np.ndarray) -> Performance:
    """A performance whose notes come later by so many seconds each, its pedals by the median of them.

    Notes of a key stay in their order, and do not reach into one another where they did not before.
    """
    onset = np.where(played.onset >= 0, np.maximum(played.onset + by, 0.0), played.onset)
    offset = played.offset + by
    for pitch in np.unique(played.pitch):
        own = np.flatnonzero(played.pitch == pitch)
        onset[own] = np.maximum.accumulate(onset[own])
        this, following = own[:-1], own[1:]
        apart = played.offset[this] <= played.onset[following]
        offset[this] = np.where(apart, np.minimum(offset[this], onset[following]), offset[this])
    offset = np.maximum(offset, onset)
    order, late = np.lexsort((played.pitch, onset)), np.median(by) if len(by) else 0.0
    pedals = {c: np.column_stack([np.maximum(e[:, 0] + late, 0.0), e[:, 1]]) for c, e in played.pedals.items()}
    columns = {"onset": onset, "offset": offset, "pitch": played.pitch, "velocity": played.velocity}
    return replace(played, pedals=pedals, **{name: column[order] for name, column in columns.items()})


if __name__ == "__main__":
    run(main)
