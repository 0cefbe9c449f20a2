"""Performances: note and pedal events in seconds, what they mean for the sound, and their files."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from midi2wave.utils.atomic_files import atomic_file
from midi2wave.utils.errors import DAMAGED_ARRAY_ERRORS, RESOURCE_ERRNOS, InputError

SUSTAIN, SOSTENUTO, SOFT = 64, 66, 67  # controller numbers
PEDALS = (SUSTAIN, SOSTENUTO, SOFT)
PEDAL_DOWN = 64  # a controller value from here on is a pressed pedal (MIDI 1.0, switch controllers)
LOWEST_PITCH, HIGHEST_PITCH = 21, 108
N_PITCHES = HIGHEST_PITCH - LOWEST_PITCH + 1
CLIP_MARGIN_SECONDS = 20.0  # by then the conditioning has forgotten a note that ended (to 1e-17)
_FORMAT = "midi2wave note events 1"
_NOTE_ARRAYS = ("onset", "offset", "pitch", "velocity")


@dataclass(frozen=True, eq=False)
class Performance:
    """Note and pedal events of a piano piece, in seconds.

    `read_midi`, `clip` and `load_events` always give all three pedals, with no rows for a pedal that never moves.
    """

    onset: np.ndarray  # float64 [N], sorted by (onset, pitch); negative in a clip for notes that began before it
    offset: np.ndarray  # float64 [N], when the key is released, >= onset
    pitch: np.ndarray  # int64 [N], 21..108
    velocity: np.ndarray  # int64 [N], 1..127
    pedals: dict[int, np.ndarray]  # controller -> float64 [K, 2] of (seconds, value 0..127), sorted by time
    dropped: tuple[str, ...] = ()  # what the reader left out or repaired, as "what: how many"
    global_labels: tuple[str, ...] = ()  # labels of the recording as a whole, as COLUMN=VALUE


def empty_performance() -> Performance:
    """A piano on which no note has ever been played, and no pedal moved."""
    nothing, none = np.empty(0), np.empty(0, dtype=np.int64)
    return Performance(nothing, nothing, none, none, {pedal: np.empty((0, 2)) for pedal in PEDALS})


def _down_intervals(events: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """When a pedal goes down and when it comes up, seconds [I] each; np.inf for one that stays down."""
    down = events[:, 1] >= PEDAL_DOWN
    change = np.flatnonzero(np.diff(down, prepend=False))
    starts, stops = events[change[0::2], 0], events[change[1::2], 0]
    return starts, np.append(stops, np.inf)[: len(starts)]


def sounding_offset(performance: Performance) -> np.ndarray:
    """When each note's damper falls, seconds, float64 [N]: the key release, or later if a pedal holds the damper up.

    Sustain holds every released note, sostenuto the keys that were down when it was pressed. A note never sounds past
    the next onset of its pitch. It is np.inf if the pedal is never released and the key not struck again: take the
    minimum with the end of what you compute. (So a clip agrees with the whole piece up to the clip's end.)
    """

    def held_by_sustain(release: np.ndarray) -> np.ndarray:
        index = np.searchsorted(starts, release, side="right") - 1
        held = (index >= 0) & (release < stops[index])
        return np.where(held, stops[index], release)

    onset, offset, pitch = performance.onset, performance.offset, performance.pitch
    nothing = np.empty((0, 2))
    starts, stops = _down_intervals(performance.pedals.get(SUSTAIN, nothing))
    end = held_by_sustain(offset) if len(starts) else offset.copy()

    sostenuto_starts, sostenuto_stops = _down_intervals(performance.pedals.get(SOSTENUTO, nothing))
    if len(sostenuto_starts):
        index = np.searchsorted(sostenuto_starts, offset, side="left") - 1  # the last press before the key release
        caught = (index >= 0) & (onset <= sostenuto_starts[index])
        end = np.where(caught, np.maximum(end, sostenuto_stops[index]), end)
        end = held_by_sustain(end) if len(starts) else end

    order = np.lexsort((onset, pitch))
    this, following = order[:-1], order[1:]
    limit = np.where(pitch[this] == pitch[following], onset[following], np.inf)
    end[this] = np.minimum(end[this], limit)
    return end


def clip(performance: Performance, start: float, end: float, margin: float = 0.0) -> Performance:
    """Cut [start - margin, end + margin) seconds out of a performance and shift it so that `start` becomes 0.

    Kept are the notes that begin before the end of that stretch and still sound in it (or begin in it), and the pedal
    events that can matter for them or for the pedals' state at its beginning. Earlier ones get negative times. Apart
    from the offsets of kept notes, nothing in the result depends on what lies beyond. The margin is for whoever
    computes conditioning from the clip: that remembers notes that have ended, and looks ahead.
    """
    shift, start, end = start, start - margin, end + margin
    onset = performance.onset
    kept = (onset < end) & ((onset >= start) | (sounding_offset(performance) > start))
    earliest = min(start, float(onset[kept].min(initial=start)))
    pedals = {}
    for controller in PEDALS:
        events = performance.pedals.get(controller, np.empty((0, 2)))
        first = max(0, np.searchsorted(events[:, 0], earliest, side="left") - 1)  # one before: the state it left
        last = np.searchsorted(events[:, 0], end, side="left")
        pedals[controller] = events[first:last] - [shift, 0.0]
    return replace(
        performance,
        onset=onset[kept] - shift,
        offset=performance.offset[kept] - shift,
        pitch=performance.pitch[kept],
        velocity=performance.velocity[kept],
        pedals=pedals,
    )


def save_events(path: str | Path, performance: Performance) -> None:
    """Write a performance to an .npz file, atomically and without pickle. Raises OSError if that is not possible."""
    arrays = {name: getattr(performance, name) for name in _NOTE_ARRAYS}
    for controller in PEDALS:
        arrays[f"pedal_{controller}"] = performance.pedals.get(controller, np.empty((0, 2)))
    if performance.global_labels:
        arrays["recording"] = np.array(performance.global_labels, dtype=str)
    with atomic_file(path) as tmp_path, open(tmp_path, "wb") as handle:
        np.savez(handle, format=np.array(_FORMAT), dropped=np.array(performance.dropped, dtype=str), **arrays)


def load_events(path: str | Path) -> Performance:
    """Read what `save_events` wrote. Raises InputError for a missing, truncated or foreign file."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            if str(stored["format"]) != _FORMAT:
                raise ValueError(f"its format is not {_FORMAT!r}")
            performance = Performance(
                onset=stored["onset"].astype(np.float64, casting="safe"),
                offset=stored["offset"].astype(np.float64, casting="safe"),
                pitch=stored["pitch"].astype(np.int64, casting="safe"),
                velocity=stored["velocity"].astype(np.int64, casting="safe"),
                pedals={c: stored[f"pedal_{c}"].astype(np.float64, casting="safe").reshape(-1, 2) for c in PEDALS},
                dropped=tuple(stored["dropped"].tolist()),
                global_labels=tuple(stored["recording"].tolist()) if "recording" in stored else (),
            )
        if len({getattr(performance, name).shape for name in _NOTE_ARRAYS}) > 1 or performance.onset.ndim != 1:
            raise ValueError("its note arrays differ in length")
        if not (np.isfinite(performance.onset) & (np.abs(performance.pitch - 64.5) < N_PITCHES / 2)).all():
            raise ValueError("its notes are not those of a piano")
    except (FileNotFoundError, IsADirectoryError):
        raise InputError(f"{path}: no such file of note events; preprocess the data again") from None
    except DAMAGED_ARRAY_ERRORS as error:
        if getattr(error, "errno", None) in RESOURCE_ERRNOS:
            raise
        why = " ".join(str(error).split())
        raise InputError(f"{path}: not a whole file of note events ({why}); preprocess the data again") from error
    return performance
