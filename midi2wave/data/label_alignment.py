"""Processed folders whose note onsets are aligned with the sound (`align_labels.py`)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from midi2wave.conditioning.partials import PianoPartials
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
from midi2wave.data.processed_folder import ProcessedFolder, write_recording
from midi2wave.midi.performance import Performance
from midi2wave.utils.cli import log
from midi2wave.utils.errors import InputError


@dataclass(frozen=True)
class RecordingAlignment:
    """The alignment of one recording.

    Attributes:
        folder: The folder that holds the recording.
        position: Its position there.
        windows: Agreement of its labels with its sound, without phases.
        onset_shift: Seconds by which its notes are to come later, [N].
        fit_score: As of `onset_refinement.refine_onsets`, [N].
    """

    folder: ProcessedFolder
    position: int
    windows: list[Alignment]
    onset_shift: np.ndarray
    fit_score: np.ndarray

    def warn_if_mismatched(self) -> None:
        """Log a recording whose MIDI file may be another recording's."""
        doubts = [alignment_warning(self.windows)]
        if trusted_seconds(self.windows) is None:
            doubts = ["the lag of its sound is unknown"]
        if is_probably_mismatched(self.fit_score):
            doubts.append(f"{100 * fitting_share(self.fit_score):.0f} % of its notes fit the partials")
        if text := ", ".join(filter(None, doubts)):
            name = self.folder.rows[self.position].audio_filename
            log(f"{name}: {text}; is it the MIDI of this recording?")

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


def align_recordings(
    folder: ProcessedFolder, data: DataConfig, partials: PianoPartials, reference: ProcessedFolder | None
) -> list[RecordingAlignment]:
    """Align all recordings of a folder.

    Args:
        folder: The recordings, of one piano.
        data: Pre-emphasis and velocity exponent.
        partials: The piano's partials.
        reference: An aligned folder of the same piano, whose phases are used; None: fit them, too.
    """
    positions = range(len(folder.rows))
    labelled = [folder.performance(position).onset for position in positions]
    windows = [measure_alignments(np.array(folder.pcm(i)), folder.performance(i), folder.audio_hz) for i in positions]
    lags = [trusted_seconds(each) for each in windows]
    phases = measure_phases(reference, data, partials) if reference else None
    onset, fit_score = refine_onsets(folder, data, partials, lags, phases)
    ends = np.cumsum([len(each) for each in labelled])[:-1]
    shifts = [refined - label for refined, label in zip(np.split(onset, ends), labelled, strict=True)]
    scores = np.split(fit_score, ends)
    return [
        RecordingAlignment(folder, position, recording_windows, shift, score)
        for position, recording_windows, shift, score in zip(positions, windows, shifts, scores, strict=True)
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
            f"{MIN_PARTIALS} or more audible partials"
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
