"""Processed folders whose note onsets are aligned with the sound (`align_labels.py`)."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from midi2wave.conditioning.global_conditioning import one_hot
from midi2wave.conditioning.partials import PianoPartials, partials_for
from midi2wave.config import DataConfig
from midi2wave.data.midi_alignment import Alignment, alignment_warning, measure_alignments, trusted_seconds
from midi2wave.data.onset_fitting import MIN_PARTIALS
from midi2wave.data.onset_refinement import (
    MIN_FITTING_SHARE,
    MIN_NOTES_PER_KEY,
    fitting_share,
    is_probably_mismatched,
    measure_phases,
    refine_onsets,
)
from midi2wave.data.processed_folder import (
    RECORD_NAME,
    ProcessedFolder,
    begin_folder,
    check_output_folder,
    finish_folder,
    write_recording,
)
from midi2wave.midi.performance import Performance
from midi2wave.utils.cli import log
from midi2wave.utils.errors import InputError
from midi2wave.utils.folder_lock import lock_own_folder

# Settings that decide where notes go; a folder's record holds them.
RECORDED_SETTINGS = ("preemphasis", "velocity_exponent", "global_values")


@dataclass(frozen=True)
class RecordingAlignment:
    """The alignment of one recording.

    Attributes:
        folder: The folder that holds the recording.
        position: Its position there.
        windows: Agreement of its labels with its sound, without phases.
        lag_seconds: By how much its sound comes after its labels by these windows, or the fallback; None: unknown.
        onset_shift: Seconds by which its notes are to come later, [N].
        fit_score: As of `onset_refinement.refine_onsets`, [N].
    """

    folder: ProcessedFolder
    position: int
    windows: list[Alignment]
    lag_seconds: float | None
    onset_shift: np.ndarray
    fit_score: np.ndarray

    def warn_if_mismatched(self) -> None:
        """Log a recording whose MIDI file may be another recording's."""
        doubts = [alignment_warning(self.windows)]
        if self.lag_seconds is None:
            doubts = ["the lag of its sound is unknown"]
        if is_probably_mismatched(self.fit_score):
            doubts.append(f"{100 * fitting_share(self.fit_score):.0f} % of its notes fit the partials")
        if text := ", ".join(filter(None, doubts)):
            name = self.folder.rows[self.position].audio_filename
            log(f"{name}: {text}; is it the MIDI of this recording, and are piano and microphones those of the others?")

    def write(self, out: Path, facts: dict[str, Any]) -> None:
        """Write the recording with its new onsets.

        Args:
            out: The aligned folder.
            facts: What preprocessing measured of the recording (`dataset_card.Facts`); its lag is measured again.
        """
        shifted = shift_onsets(self.folder.performance(self.position), self.onset_shift)
        pcm = np.array(self.folder.pcm(self.position))
        windows = measure_alignments(pcm, shifted, self.folder.audio_hz)
        warnings = [text for text in facts.get("warnings", []) if text != alignment_warning(self.windows)]
        facts = facts | {
            "late_ms": [round(1000 * window.seconds, 1) for window in windows],
            "warnings": warnings + [text for text in [alignment_warning(windows)] if text],
        }
        write_recording(out, self.folder.rows[self.position], pcm, shifted, facts)


def align_folder(
    data_folder: Path,
    out: Path,
    data: DataConfig,
    *,
    like: Path | None,
    source: str,
    force: bool = False,
    fallback_lag: float | None = None,
) -> list[RecordingAlignment]:
    """Align a processed folder, and write it to another one. Nothing is written until all onsets are fitted.

    Args:
        data_folder: The processed folder.
        out: Where the aligned folder goes.
        data: The data config, with measured partials.
        like: An aligned folder of the same piano, whose phases are used; None: they are fitted too.
        source: Where the partials come from, for messages.
        force: Whether another aligned folder at `out` is replaced.
        fallback_lag: By how many seconds the sound comes after the notes in recordings that are too short to measure
            that; None: unknown.

    Returns:
        The alignment of each recording.

    Raises:
        InputError: The folders do not fit each other, or hardly any note fits the partials.
    """
    folder, reference = _open_folders(data_folder, out, like)
    made_from = folder.made_from | {"aligned": {"like": str(like or data_folder)} | _recorded_settings(data)}
    check_output_folder(out, made_from, "aligned", force=force)
    for opened in filter(None, (folder, reference)):
        opened.check_rate(data.audio_hz)
    facts = {row.index: folder.facts(position) for position, row in enumerate(folder.rows)}
    parts = _paired_parts(folder, reference, data)
    with lock_own_folder(out, RECORD_NAME):
        recordings: list[RecordingAlignment] = []
        for value, (part, part_reference) in parts.items():
            partials = partials_for(data, one_hot([value], data.global_values))
            recordings += align_recordings(part, data, partials, part_reference, fallback_lag)
        for recording in recordings:
            recording.warn_if_mismatched()
        require_fit(recordings, data_folder, source)
        begin_folder(out, made_from, force=force)
        for recording in recordings:
            recording.write(out, facts[recording.folder.rows[recording.position].index])
        finish_folder(out, folder.rows, folder.added_columns)
    return recordings


def _open_folders(data_folder: Path, out: Path, like: Path | None) -> tuple[ProcessedFolder, ProcessedFolder | None]:
    """The folder to align, and the one whose phases are used."""
    if out.resolve() in {path.resolve() for path in (data_folder, like) if path}:
        raise InputError(f"{out} is what is to be read; choose another name")
    folder, reference = ProcessedFolder(data_folder), ProcessedFolder(like) if like else None
    if reference and "aligned" not in reference.made_from:
        raise InputError(f"{like} is not aligned; align it first, without --like")
    return folder, reference


def _paired_parts(
    folder: ProcessedFolder, reference: ProcessedFolder | None, data: DataConfig
) -> dict[str, tuple[ProcessedFolder, ProcessedFolder | None]]:
    """The recordings of each global value: those to align, and those whose phases are used."""
    parts = folder.split_by_label(data.global_values)
    if reference is None:
        return {value: (part, None) for value, part in parts.items()}
    references = reference.split_by_label(data.global_values)
    if missing := [value for value in parts if value not in references]:
        raise InputError(
            f"{reference.path} has no recording of {missing[0]}, {folder.path} has; align that without --like"
        )
    return {value: (part, references[value]) for value, part in parts.items()}


def _recorded_settings(data: DataConfig) -> dict[str, Any]:
    """The settings that decide where notes go, as a folder's record holds them."""
    partials = json.dumps([data.partial_hz, data.partial_level, data.partial_decay, data.partial_phase])
    # Records of earlier versions have this key: under another one, an interrupted run could not be continued.
    digest = {"strings_sha256": hashlib.sha256(partials.encode()).hexdigest()}
    return {name: getattr(data, name) for name in RECORDED_SETTINGS} | digest


def align_recordings(
    folder: ProcessedFolder,
    data: DataConfig,
    partials: PianoPartials,
    reference: ProcessedFolder | None,
    fallback_lag: float | None,
) -> list[RecordingAlignment]:
    """Align all recordings of a folder.

    Args:
        folder: The recordings, of one piano.
        data: Pre-emphasis and velocity exponent.
        partials: The piano's partials.
        reference: An aligned folder of the same piano, whose phases are used; None: fit them, too.
        fallback_lag: As of `align_folder`.
    """
    positions = range(len(folder.rows))
    labelled = [folder.performance(position).onset for position in positions]
    windows = [measure_alignments(np.array(folder.pcm(i)), folder.performance(i), folder.audio_hz) for i in positions]
    lags = [fallback_lag if (lag := trusted_seconds(each)) is None else lag for each in windows]
    phases = measure_phases(reference, data, partials) if reference else None
    onset, fit_score = refine_onsets(folder, data, partials, lags, phases)
    ends = np.cumsum([len(each) for each in labelled])[:-1]
    shifts = [refined - label for refined, label in zip(np.split(onset, ends), labelled, strict=True)]
    scores = np.split(fit_score, ends)
    return [
        RecordingAlignment(folder, position, *measured)
        for position, *measured in zip(positions, windows, lags, shifts, scores, strict=True)
    ]


def require_fit(alignments: Sequence[RecordingAlignment], folder: Path, config: str) -> None:
    """Check that the notes fit the partials.

    Args:
        alignments: The alignments of all recordings.
        folder: The processed folder, for the message.
        config: The config file with the partials, for the message.

    Raises:
        InputError: Hardly any note fits, or none can be judged.
    """
    fit_score = np.concatenate([each.fit_score for each in alignments])
    if not np.isfinite(fit_score).any():
        raise InputError(
            f"{folder} is too small to be aligned: no key has {MIN_NOTES_PER_KEY} or more notes with "
            f"{MIN_PARTIALS} or more audible partials; take more recordings"
        )
    if (share := fitting_share(fit_score)) < MIN_FITTING_SHARE:
        raise InputError(
            f"{folder}: only {100 * share:.0f} % of the notes fit the partials, nothing is written; check that each "
            f"MIDI is its recording's, and that {config} was measured on this piano"
        )


def shift_onsets(performance: Performance, shift: np.ndarray) -> Performance:
    """Shift each note of a performance, and its pedals by the median shift.

    Notes of a key stay in their order, and do not overlap where they did not before.

    Args:
        performance: Notes and pedals.
        shift: Seconds by which each note comes later, [N].
    """
    onset = np.where(performance.onset >= 0, np.maximum(performance.onset + shift, 0.0), performance.onset)
    offset = performance.offset + shift
    for pitch in np.unique(performance.pitch):
        same = np.flatnonzero(performance.pitch == pitch)
        onset[same] = np.maximum.accumulate(onset[same])
        this, following = same[:-1], same[1:]
        is_apart = performance.offset[this] <= performance.onset[following]
        offset[this] = np.where(is_apart, np.minimum(offset[this], onset[following]), offset[this])
    offset = np.maximum(offset, onset)
    order = np.lexsort((performance.pitch, onset))
    median = np.median(shift) if len(shift) else 0.0
    pedals = {
        controller: np.column_stack([np.maximum(events[:, 0] + median, 0.0), events[:, 1]])
        for controller, events in performance.pedals.items()
    }
    return replace(
        performance,
        onset=onset[order],
        offset=offset[order],
        pitch=performance.pitch[order],
        velocity=performance.velocity[order],
        pedals=pedals,
    )
