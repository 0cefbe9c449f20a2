"""The keyboard of one piano: which notes of a file it has, and that a key is down only once at a time."""

from collections import Counter

import numpy as np

MIN_PITCH = 21
MAX_PITCH = 108
N_PITCHES = MAX_PITCH - MIN_PITCH + 1
MAX_VELOCITY = 127

# What readers leave out or repair, as `Performance.dropped` names it.
DRUM_NOTES = "drum notes (channel 10)"
OUTSIDE_NOTES = f"notes outside the piano (pitch {MIN_PITCH}..{MAX_PITCH})"
LOUD_NOTES = f"velocities above {MAX_VELOCITY}, taken as {MAX_VELOCITY}"


def merge_onto_one_keyboard(notes: np.ndarray, tally: Counter[str]) -> np.ndarray:
    """Lay the notes of all tracks and channels on one keyboard, where a key can be down only once at a time.

    Notes of one pitch and onset become one (larger velocity, later offset); a note ends where its key is struck again.

    Args:
        notes: [N, 4] of (onset, offset, pitch, velocity), times in ticks or in seconds.
        tally: Counts what is merged or cut.
    """
    if not len(notes):
        return notes
    notes = notes[np.lexsort((notes[:, 0], notes[:, 2]))]
    is_first = np.ones(len(notes), bool)
    is_first[1:] = (np.diff(notes[:, 0]) != 0) | (np.diff(notes[:, 2]) != 0)
    merged = notes[is_first]
    merged[:, [1, 3]] = np.maximum.reduceat(notes[:, [1, 3]], np.flatnonzero(is_first), axis=0)
    same_key = np.flatnonzero(np.diff(merged[:, 2]) == 0)
    cut = same_key[merged[same_key, 1] > merged[same_key + 1, 0]]
    merged[cut, 1] = merged[cut + 1, 0]
    tally["notes doubled in one tick, merged"] += len(notes) - len(merged)
    tally["notes cut where another track or channel strikes their key"] += len(cut)
    return merged
