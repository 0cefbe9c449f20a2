"""Performances: note and pedal events in seconds, what they mean for the sound, and their files."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from midi2wave.utils.atomic_files import atomic_file
from midi2wave.utils.errors import DAMAGED_ARRAY_ERRORS, RESOURCE_ERRNOS, InputError

# Controller numbers of the pedals (MIDI 1.0).
SUSTAIN = 64
SOSTENUTO = 66
SOFT = 67
PEDALS = (SUSTAIN, SOSTENUTO, SOFT)
# A switch controller is on from this value on (MIDI 1.0), which is a pedal that is down.
PEDAL_DOWN = 64
MIN_PITCH = 21
MAX_PITCH = 108
N_PITCHES = MAX_PITCH - MIN_PITCH + 1
# After so long, a note that has ended changes the conditioning by 1e-17 at most.
CLIP_MARGIN_SECONDS = 20.0
_FORMAT = "midi2wave note events 1"
_NOTE_ARRAYS = ("onset", "offset", "pitch", "velocity")
# The field of the file format that holds the global labels.
_GLOBAL_LABELS_FIELD = "recording"


@dataclass(frozen=True, eq=False)
class Performance:
    """Note and pedal events of a piano piece.

    `read_midi`, `clip` and `load_events` always give all three pedals, with no rows for a pedal that never moves.

    Attributes:
        onset: Seconds, float64 [N], sorted by (onset, pitch); negative in a clip for notes that began before it.
        offset: When the key is released, in seconds, float64 [N], >= onset.
        pitch: MIDI pitch 21..108, int64 [N].
        velocity: MIDI velocity 1..127, int64 [N].
        pedals: Controller number -> float64 [K, 2] of (seconds, value 0..127), sorted by time.
        dropped: What the reader left out or repaired, each as "what: how many".
        global_labels: Labels of the recording as a whole, each as COLUMN=VALUE (`global_conditioning.py`).
    """

    onset: np.ndarray
    offset: np.ndarray
    pitch: np.ndarray
    velocity: np.ndarray
    pedals: dict[int, np.ndarray]
    dropped: tuple[str, ...] = ()
    global_labels: tuple[str, ...] = ()


def empty_performance() -> Performance:
    """A performance without notes or pedal events."""
    seconds = np.empty(0)
    integers = np.empty(0, dtype=np.int64)
    return Performance(seconds, seconds, integers, integers, {pedal: np.empty((0, 2)) for pedal in PEDALS})


class _PedalIntervals:
    """The times at which a pedal is down."""

    def __init__(self, events: np.ndarray) -> None:
        down = events[:, 1] >= PEDAL_DOWN
        change = np.flatnonzero(np.diff(down, prepend=False))
        self.starts = events[change[0::2], 0]
        # A pedal that stays down is released at np.inf.
        self.stops = np.append(events[change[1::2], 0], np.inf)[: len(self.starts)]

    def __len__(self) -> int:
        return len(self.starts)

    def extend(self, release: np.ndarray) -> np.ndarray:
        """Releases [N] while the pedal is down, moved to the time at which it comes up."""
        if not len(self):
            return release
        index = np.searchsorted(self.starts, release, side="right") - 1
        is_down = (index >= 0) & (release < self.stops[index])
        return np.where(is_down, self.stops[index], release)


def sounding_offset(performance: Performance) -> np.ndarray:
    """When each note's damper falls: at the key release, or later if a pedal holds the damper up.

    Sustain holds every released note, sostenuto the keys that were down when it was pressed. A note never sounds past
    the next onset of its pitch.

    Returns:
        Seconds, float64 [N]. np.inf where the pedal is never released and the key has no later onset: take the minimum
        with the end of what you compute. (So a clip agrees with the whole piece up to the clip's end.)
    """
    onset, offset, pitch = performance.onset, performance.offset, performance.pitch
    no_events = np.empty((0, 2))
    sustain = _PedalIntervals(performance.pedals.get(SUSTAIN, no_events))
    sostenuto = _PedalIntervals(performance.pedals.get(SOSTENUTO, no_events))
    end = sustain.extend(offset.copy())
    if len(sostenuto):
        index = np.searchsorted(sostenuto.starts, offset, side="left") - 1  # the last press before the key release
        was_pressed = (index >= 0) & (onset <= sostenuto.starts[index])
        end = sustain.extend(np.where(was_pressed, np.maximum(end, sostenuto.stops[index]), end))
    order = np.lexsort((onset, pitch))
    this, following = order[:-1], order[1:]
    limit = np.where(pitch[this] == pitch[following], onset[following], np.inf)
    end[this] = np.minimum(end[this], limit)
    return end


def clip(performance: Performance, start: float, end: float, margin: float = 0.0) -> Performance:
    """Cut [start - margin, end + margin) seconds out of a performance and shift it so that `start` becomes 0.

    The notes that begin before the end of that stretch and still sound in it (or begin in it) remain, and the pedal
    events that can matter for them or for the pedals' state at its beginning. Earlier ones get negative times. Apart
    from the offsets of these notes, nothing in the result depends on what lies beyond.

    Args:
        performance: The whole piece.
        start: Seconds; becomes 0.
        end: Seconds.
        margin: Seconds on both sides that conditioning needs beyond the clip: it depends on notes that have ended, and
            looks ahead.

    Returns:
        The clip, with the labels of the whole.
    """
    first_second, last_second = start - margin, end + margin
    onset = performance.onset
    sounds_in = (onset >= first_second) | (sounding_offset(performance) > first_second)
    in_clip = (onset < last_second) & sounds_in
    earliest = min(first_second, float(onset[in_clip].min(initial=first_second)))
    pedals = {}
    for controller in PEDALS:
        events = performance.pedals.get(controller, np.empty((0, 2)))
        # The event before the earliest time is the pedal's state at that time.
        first = max(0, np.searchsorted(events[:, 0], earliest, side="left") - 1)
        last = np.searchsorted(events[:, 0], last_second, side="left")
        pedals[controller] = events[first:last] - [start, 0.0]
    return replace(
        performance,
        onset=onset[in_clip] - start,
        offset=performance.offset[in_clip] - start,
        pitch=performance.pitch[in_clip],
        velocity=performance.velocity[in_clip],
        pedals=pedals,
    )


def save_events(path: str | Path, performance: Performance) -> None:
    """Write a performance to an .npz file, atomically and without pickle.

    Raises:
        OSError: The file cannot be written.
    """
    arrays = {name: getattr(performance, name) for name in _NOTE_ARRAYS}
    for controller in PEDALS:
        arrays[f"pedal_{controller}"] = performance.pedals.get(controller, np.empty((0, 2)))
    if performance.global_labels:
        arrays[_GLOBAL_LABELS_FIELD] = np.array(performance.global_labels, dtype=str)
    with atomic_file(path) as tmp_path, open(tmp_path, "wb") as handle:
        np.savez(handle, format=np.array(_FORMAT), dropped=np.array(performance.dropped, dtype=str), **arrays)


def load_events(path: str | Path) -> Performance:
    """Read a file that `save_events` has written.

    Raises:
        InputError: The file is missing, truncated or of another format.
        OSError: Too many files are open, or the memory is exhausted.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return _performance_from(arrays)
    except (FileNotFoundError, IsADirectoryError):
        raise InputError(f"{path}: no such file of note events; preprocess the data again") from None
    except DAMAGED_ARRAY_ERRORS as error:
        if getattr(error, "errno", None) in RESOURCE_ERRNOS:
            raise
        why = " ".join(str(error).split())
        raise InputError(f"{path}: not a whole file of note events ({why}); preprocess the data again") from error


def _performance_from(arrays: Mapping[str, np.ndarray]) -> Performance:
    """The performance in the arrays of an .npz file. Raises ValueError and others if they are none."""

    def read(name: str, dtype: type[np.generic]) -> np.ndarray:
        return arrays[name].astype(dtype, casting="safe")

    if str(arrays["format"]) != _FORMAT:
        raise ValueError(f"its format is not {_FORMAT!r}")
    has_labels = _GLOBAL_LABELS_FIELD in arrays
    performance = Performance(
        onset=read("onset", np.float64),
        offset=read("offset", np.float64),
        pitch=read("pitch", np.int64),
        velocity=read("velocity", np.int64),
        pedals={pedal: read(f"pedal_{pedal}", np.float64).reshape(-1, 2) for pedal in PEDALS},
        dropped=tuple(arrays["dropped"].tolist()),
        global_labels=tuple(arrays[_GLOBAL_LABELS_FIELD].tolist()) if has_labels else (),
    )
    if len({getattr(performance, name).shape for name in _NOTE_ARRAYS}) > 1 or performance.onset.ndim != 1:
        raise ValueError("its note arrays differ in length")
    if not (np.isfinite(performance.onset) & (np.abs(performance.pitch - 64.5) < N_PITCHES / 2)).all():
        raise ValueError("its notes are not those of a piano")
    return performance
