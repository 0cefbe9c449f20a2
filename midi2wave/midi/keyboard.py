"""The keyboard and the pedals of one piano.

Which notes of a file it has, that a key is down only once at a time, and where a pedal is that several channels move.
"""

from collections import Counter
from collections.abc import Mapping

import numpy as np

MIN_PITCH = 21
MAX_PITCH = 108
N_PITCHES = MAX_PITCH - MIN_PITCH + 1
MAX_VELOCITY = 127

# What readers leave out or repair, as `Performance.dropped` names it.
DRUM_NOTES = "drum notes (channel 10)"
DRUM_PEDALS = "pedal events of the drum channel (10)"
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


def merge_pedals(events: np.ndarray, lifted_by: Mapping[int, tuple[int, ...]]) -> np.ndarray:
    """The pedals of one piano from those of several channels: the largest value counts.

    A pedal that one channel releases stays down while another channel holds it.

    Args:
        events: [K, 4] of (time, channel, controller, value), sorted by time.
        lifted_by: For each controller that is no pedal, the pedals of its channel that it sets to 0.

    Returns:
        [K', 3] of (time, pedal, value): a row for every event of a pedal, and for every other event one for each pedal
        that it lifts.
    """
    channels = {controller: set(events[events[:, 2] == controller, 1]) for controller in set(events[:, 2])}
    if channels.keys().isdisjoint(lifted_by) and all(len(users) == 1 for users in channels.values()):
        return events[:, [0, 2, 3]]
    positions: dict[int, dict[int, float]] = {}  # pedal -> channel -> value
    rows: list[tuple[float, int, float]] = []
    for time, channel, controller, value in events.tolist():
        if controller in lifted_by:
            pedals = [pedal for pedal in lifted_by[controller] if positions.get(pedal, {}).get(channel)]
            new_value = 0.0
        else:
            pedals = [int(controller)]
            new_value = value
        for pedal in pedals:
            positions.setdefault(pedal, {})[channel] = new_value
            rows.append((time, pedal, max(positions[pedal].values())))
    return np.array(rows, np.float64).reshape(-1, 3)
