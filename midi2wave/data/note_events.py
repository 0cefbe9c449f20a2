"""The notes of recordings as arrays, as partial tracking and onset refinement need them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from midi2wave.data.processed_folder import ProcessedFolder
from midi2wave.midi.performance import MIN_PITCH, Performance, sounding_offset
from midi2wave.utils.errors import InputError


@dataclass(frozen=True)
class NoteEvents:
    """Notes of one or more recordings, ordered by recording; every array is [N].

    Attributes:
        recording: Position of the note's recording in its folder.
        key: Piano key, 0 to 87.
        velocity: MIDI velocity, 1 to 127.
        gain: Amplitude relative to velocity 127: (velocity / 127) ** exponent.
        labelled_onset: Onset by the label in seconds, plus the lag of the recording's sound.
        duration: Seconds from the onset until the damper falls.
        gap_before: Seconds for which the key was silent before; infinite for its first note.
    """

    recording: np.ndarray
    key: np.ndarray
    velocity: np.ndarray
    gain: np.ndarray
    labelled_onset: np.ndarray
    duration: np.ndarray
    gap_before: np.ndarray

    def __len__(self) -> int:
        return len(self.key)

    def select(self, index: np.ndarray) -> NoteEvents:
        """The notes of a mask or an index array."""
        return NoteEvents(*(getattr(self, field.name)[index] for field in fields(self)))


def performance_events(
    performance: Performance, recording: int = 0, velocity_exponent: float = 1.0, lag_seconds: float = 0.0
) -> NoteEvents:
    """The notes of one performance.

    Args:
        performance: Notes and pedals.
        recording: Position of its recording in its folder.
        velocity_exponent: Exponent of the gain.
        lag_seconds: By how much the sound comes after the labels.
    """
    offset, key = sounding_offset(performance), performance.pitch - MIN_PITCH
    gap_before = np.full(len(key), np.inf)
    for number in np.unique(key):
        same = np.flatnonzero(key == number)
        gap_before[same[1:]] = performance.onset[same[1:]] - offset[same[:-1]]
    return NoteEvents(
        recording=np.full(len(key), recording),
        key=key,
        velocity=performance.velocity,
        gain=(performance.velocity / 127) ** velocity_exponent,
        labelled_onset=performance.onset + lag_seconds,
        duration=offset - performance.onset,
        gap_before=gap_before,
    )


def load_note_events(
    folder: ProcessedFolder, velocity_exponent: float, lag_seconds: Sequence[float] | None = None
) -> NoteEvents:
    """The notes of all recordings of a folder.

    Args:
        folder: The recordings.
        velocity_exponent: Exponent of the gain.
        lag_seconds: For each recording, by how much its sound comes after its labels; None for no lag.

    Raises:
        InputError: There are no notes.
    """
    lags = [0.0] * len(folder.rows) if lag_seconds is None else lag_seconds
    events = [
        performance_events(folder.performance(position), position, velocity_exponent, lag)
        for position, lag in enumerate(lags)
    ]
    columns = ([getattr(each, field.name) for each in events] for field in fields(NoteEvents))
    notes = NoteEvents(*map(np.concatenate, columns))
    if not len(notes):
        raise InputError(f"{folder.path} has no notes: there is nothing to align; check its MIDI files")
    return notes
