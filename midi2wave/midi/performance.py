"""Performances: note and pedal events in seconds, what they mean for the sound, and their files."""

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from midi2wave.midi.keyboard import (
    DRUM_NOTES,
    DRUM_PEDALS,
    LOUD_NOTES,
    MAX_PITCH,
    MAX_VELOCITY,
    MIN_PITCH,
    N_PITCHES,
    OUTSIDE_NOTES,
    merge_onto_one_keyboard,
    merge_pedals,
)
from midi2wave.utils.array_files import load_arrays, required_array
from midi2wave.utils.atomic_files import atomic_file
from midi2wave.utils.errors import InputError

if TYPE_CHECKING:
    import pretty_midi

# Controller numbers of the pedals (MIDI 1.0).
SUSTAIN = 64
SOSTENUTO = 66
SOFT = 67
PEDALS = (SUSTAIN, SOSTENUTO, SOFT)
# Controllers without a value of their own (MIDI 1.0 and RP-015).
ALL_SOUND_OFF = 120
RESET_ALL_CONTROLLERS = 121
# The pedals of their channel that they lift. What is not to sound any more cannot be held.
PEDALS_LIFTED_BY = {ALL_SOUND_OFF: (SUSTAIN, SOSTENUTO), RESET_ALL_CONTROLLERS: PEDALS}
# A switch controller is on from this value on (MIDI 1.0), which is a pedal that is down.
PEDAL_DOWN = 64
# Resolution of `Performance.to_pretty_midi`: times move by at most half a tick, 65 microseconds. A multiple of 768 and
# 960, so that MAESTRO's times do not move; and pretty_midi, which refuses more than 1e7 ticks, reads 21 minutes of it.
TICKS_PER_SECOND = 7680
# MIDI's default tempo, 120 quarter notes a minute.
_BEATS_PER_SECOND = 2
# A first note after so long is worth a remark: exported from a sequencer, a file may begin with an hour of silence.
SILENT_START_SECONDS = 30.0
# After so long, a note that has ended changes the conditioning by 1e-17 at most.
CLIP_MARGIN_SECONDS = 20.0
_FORMAT = "midi2wave note events 1"
_NOTE_ARRAYS = ("onset", "offset", "pitch", "velocity")
_INTEGER_ARRAYS = ("pitch", "velocity")
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

    @classmethod
    def from_pretty_midi(cls, midi: "pretty_midi.PrettyMIDI") -> "Performance":
        """Take the notes and pedals of all instruments but drums as one piano.

        Args:
            midi: Its instruments' programs and names, pitch bends and other controllers are not used.

        Raises:
            InputError: It has no piano notes, or a time that is negative or no number.
        """
        tally: Counter[str] = Counter()
        notes = np.array(
            [(n.start, n.end, n.pitch, n.velocity) for i in midi.instruments if not i.is_drum for n in i.notes]
        ).reshape(-1, 4)
        tally[DRUM_NOTES] = sum(len(i.notes) for i in midi.instruments if i.is_drum)
        tally[DRUM_PEDALS] = sum(c.number in PEDALS for i in midi.instruments if i.is_drum for c in i.control_changes)
        pedals = _pedals_of_instruments(midi)
        times = np.concatenate([notes[:, :2].ravel(), pedals[:, 0]])
        if not (np.isfinite(times) & (times >= 0)).all():
            raise InputError("a pretty_midi object with times that are negative or no numbers; correct them")
        on_piano = (notes[:, 2] >= MIN_PITCH) & (notes[:, 2] <= MAX_PITCH)
        tally[OUTSIDE_NOTES] = int((~on_piano).sum())
        tally["notes of velocity 0"] = int((on_piano & (notes[:, 3] < 1)).sum())
        notes = merge_onto_one_keyboard(notes[on_piano & (notes[:, 3] >= 1)].astype(np.float64), tally)
        tally[LOUD_NOTES] = int((notes[:, 3] > MAX_VELOCITY).sum())
        notes[:, 3] = np.minimum(notes[:, 3], MAX_VELOCITY)
        notes[:, 1] = np.maximum(notes[:, 0], notes[:, 1])
        pedals[:, 2] = pedals[:, 2].clip(0, MAX_VELOCITY)
        dropped = tuple(f"{what}: {count}" for what, count in tally.items() if count)
        return performance_from_events(notes, pedals, dropped, "a pretty_midi object")

    def to_pretty_midi(self, program: int = 0, ticks_per_second: int = TICKS_PER_SECOND) -> "pretty_midi.PrettyMIDI":
        """Convert to a `pretty_midi.PrettyMIDI` of one instrument; its `write` gives a MIDI file of these ticks.

        Times are rounded to ticks. A note lasts at least a tick, and events of one key or of one pedal that would share
        a tick move on to the next ones, since `PrettyMIDI.write` does not keep the order of such events.

        Args:
            program: General MIDI program, 0..127; 0 is the acoustic grand piano.
            ticks_per_second: Resolution, even, at most 65534.

        Raises:
            InputError: Notes or pedal events begin before time 0, as they may in a clip.
        """
        import pretty_midi

        events = {pedal: _distinct_ticks(rows[:, 0], ticks_per_second) for pedal, rows in self.pedals.items()}
        onset, offset = _note_ticks(self, ticks_per_second)
        if min(int(ticks.min(initial=0)) for ticks in (onset, *events.values())) < 0:
            raise InputError("a performance with events before time 0, which MIDI files cannot hold; cut them off")
        instrument = pretty_midi.Instrument(program)
        instrument.notes = [
            pretty_midi.Note(velocity, pitch, start, end)
            for velocity, pitch, start, end in zip(
                self.velocity.tolist(),
                self.pitch.tolist(),
                (onset / ticks_per_second).tolist(),
                (offset / ticks_per_second).tolist(),
                strict=True,
            )
        ]
        instrument.control_changes = [
            pretty_midi.ControlChange(pedal, int(value), seconds)
            for pedal, ticks in events.items()
            for seconds, value in zip((ticks / ticks_per_second).tolist(), self.pedals[pedal][:, 1], strict=True)
        ]
        midi = pretty_midi.PrettyMIDI(
            resolution=ticks_per_second // _BEATS_PER_SECOND, initial_tempo=60.0 * _BEATS_PER_SECOND
        )
        midi.instruments.append(instrument)
        return midi


def _pedals_of_instruments(midi: "pretty_midi.PrettyMIDI") -> np.ndarray:
    """The pedal events of all instruments but drums, [K, 3] of (seconds, controller, value); each is a channel."""
    # pretty_midi's reader puts the events before a track's first note into every instrument of the channel. Those
    # that share events are of one channel, the number of the first of them.
    events: dict[int, tuple[float, int, int, int]] = {}
    for number, instrument in enumerate(i for i in midi.instruments if not i.is_drum):
        controls = [c for c in instrument.control_changes if c.number in PEDALS or c.number in PEDALS_LIFTED_BY]
        channel = min((events[id(c)][1] for c in controls if id(c) in events), default=number)
        for control in controls:
            events.setdefault(id(control), (control.time, channel, control.number, control.value))
    rows = np.array(list(events.values()), np.float64).reshape(-1, 4)
    return merge_pedals(rows[np.argsort(rows[:, 0], kind="stable")], PEDALS_LIFTED_BY)


def _distinct_ticks(seconds: np.ndarray, ticks_per_second: int) -> np.ndarray:
    """Sorted times as ticks, int64 [N]; what would share a tick moves on to the next ones."""
    index = np.arange(len(seconds))
    ticks = np.rint(seconds * ticks_per_second).astype(np.int64)
    return np.maximum.accumulate(ticks - index) + index


def _note_ticks(performance: Performance, ticks_per_second: int) -> tuple[np.ndarray, np.ndarray]:
    """Onsets and offsets in ticks, int64 [N] each: every note ends after its onset, and before its key's next one."""
    onset = np.empty(len(performance.onset), np.int64)
    offset = np.rint(performance.offset * ticks_per_second).astype(np.int64)
    for pitch in np.unique(performance.pitch):
        notes = np.flatnonzero(performance.pitch == pitch)
        onset[notes] = _distinct_ticks(performance.onset[notes], ticks_per_second)
        following = np.append(onset[notes][1:], np.iinfo(np.int64).max)
        offset[notes] = np.clip(offset[notes], onset[notes] + 1, following)
    return onset, offset


def performance_from_events(
    notes: np.ndarray, pedals: np.ndarray, dropped: tuple[str, ...], source: str
) -> Performance:
    """Sort events into a performance.

    Args:
        notes: [N, 4] of (onset, offset, pitch, velocity), with at most one note of a key at a time.
        pedals: [K, 3] of (seconds, controller, value); those of one time stay in order.
        dropped: What was left out or repaired.
        source: Where they come from, for the message.

    Raises:
        InputError: There are no notes.
    """
    if not len(notes):
        left_out = "; ".join(dropped)
        raise InputError(
            f"{source}: no piano notes{f' (left out: {left_out})' if left_out else ''}; "
            f"give a MIDI file with notes between pitch {MIN_PITCH} and {MAX_PITCH} outside the drum channel"
        )
    notes = notes[np.lexsort((notes[:, 2], notes[:, 0]))]
    pedals = pedals[np.argsort(pedals[:, 0], kind="stable")]
    return Performance(
        onset=notes[:, 0].copy(),
        offset=notes[:, 1].copy(),
        pitch=notes[:, 2].astype(np.int64),
        velocity=notes[:, 3].astype(np.int64),
        pedals={controller: pedals[pedals[:, 1] == controller][:, [0, 2]] for controller in PEDALS},
        dropped=dropped,
    )


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


def last_sound_seconds(performance: Performance) -> float:
    """When the last damper of a performance with notes falls, in seconds.

    A pedal that is never released would hold the last notes for ever: there the key release counts.
    """
    ends = sounding_offset(performance)
    return float(np.where(np.isfinite(ends), ends, performance.offset).max())


def silent_start(performance: Performance) -> str:
    """A remark on a performance whose first note begins late."""
    return f"its first note begins after {performance.onset[0]:.0f} s of silence; cut it off if it is not meant"


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
        OSError: The system cannot read it (`errors.is_system_error`).
    """
    try:
        return _performance_from(load_arrays(path))
    except (FileNotFoundError, IsADirectoryError):
        raise InputError(f"{path}: no such file of note events; preprocess the data again") from None
    except InputError as error:
        raise InputError(f"{path}: not a whole file of note events ({error}); preprocess the data again") from error


def _performance_from(arrays: dict[str, np.ndarray]) -> Performance:
    """The performance in the arrays of an .npz file. Raises InputError, without the file's name, if they are none."""
    if str(required_array(arrays, "format")) != _FORMAT:
        raise InputError(f"its format is not {_FORMAT!r}")
    notes = {name: _numbers(arrays, name, np.int64 if name in _INTEGER_ARRAYS else np.float64) for name in _NOTE_ARRAYS}
    if len({array.shape for array in notes.values()}) > 1 or notes["onset"].ndim != 1:
        raise InputError("its note arrays differ in length")
    if not (np.isfinite(notes["onset"]) & (np.abs(notes["pitch"] - 64.5) < N_PITCHES / 2)).all():
        raise InputError("its notes are not those of a piano")
    pedals = {pedal: _numbers(arrays, f"pedal_{pedal}", np.float64) for pedal in PEDALS}
    if any(events.size % 2 for events in pedals.values()):
        raise InputError("its pedal events are not pairs of time and value")
    return Performance(
        **notes,
        pedals={pedal: events.reshape(-1, 2) for pedal, events in pedals.items()},
        dropped=_texts(arrays, "dropped"),
        global_labels=_texts(arrays, _GLOBAL_LABELS_FIELD) if _GLOBAL_LABELS_FIELD in arrays else (),
    )


def _numbers(arrays: dict[str, np.ndarray], name: str, dtype: type[np.generic]) -> np.ndarray:
    array = required_array(arrays, name)
    if not np.can_cast(array.dtype, dtype, "safe"):
        raise InputError(f"its {name} is of type {array.dtype}, expected {np.dtype(dtype)}")
    return array.astype(dtype)


def _texts(arrays: dict[str, np.ndarray], name: str) -> tuple[str, ...]:
    array = required_array(arrays, name)
    if array.ndim != 1 or array.dtype.kind != "U":
        raise InputError(f"its {name} is of type {array.dtype} {list(array.shape)}, expected texts in a row")
    return tuple(array.tolist())
