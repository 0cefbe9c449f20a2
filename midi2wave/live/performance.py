"""A performance that grows while it is played: keys and pedals, each event at the frame at which it takes effect."""

import numpy as np

from midi2wave.midi.keyboard import MAX_PITCH, MAX_VELOCITY, MIN_PITCH
from midi2wave.midi.performance import PEDALS, Performance, clip, empty_performance
from midi2wave.utils.errors import InputError

# So long after its damper has fallen, a note has no effect: the slowest feature of its past is 0 in float32 after 52 s.
FORGET_AFTER_SECONDS = 60.0
# How often notes without effect are removed.
FORGET_INTERVAL_SECONDS = 10.0


class LivePerformance:
    """Keys and pedals of a performance whose future is unknown.

    A key that is down is a note without end. Events must not lie before earlier ones of the same key or pedal: they are
    moved to the frame after those.
    """

    def __init__(self, midi_hz: int, global_labels: tuple[str, ...] = ()) -> None:
        self._midi_hz = midi_hz
        self._global_labels = global_labels
        self._notes: list[list[float]] = []  # [onset, offset, pitch, velocity], in order of their onsets for each key
        self._pressed: dict[int, list[float]] = {}  # pitch -> its note
        self._free_frame: dict[int, int] = {}  # pitch -> the first frame at which its next event may be
        self._pedals: dict[int, list[tuple[float, float]]] = {pedal: [] for pedal in PEDALS}
        self._last_forget = 0.0

    def press(self, pitch: int, velocity: int, frame: int) -> int:
        """A key goes down; one that is down already is struck again.

        Args:
            pitch: MIDI pitch 21..108.
            velocity: MIDI velocity 1..127.
            frame: The frame at which the note begins.

        Returns:
            The frame at which it does begin: later where another event of the key is there.

        Raises:
            InputError: There is no such key, or no such velocity.
        """
        _require_range("pitch", pitch, MIN_PITCH, MAX_PITCH)
        _require_range("velocity", velocity, 1, MAX_VELOCITY)
        frame = max(frame, self._free_frame.get(pitch, 0))
        if note := self._pressed.pop(pitch, None):
            note[1] = frame / self._midi_hz
        self._pressed[pitch] = [frame / self._midi_hz, np.inf, pitch, velocity]
        self._notes.append(self._pressed[pitch])
        self._free_frame[pitch] = frame + 1
        return frame

    def release(self, pitch: int, frame: int) -> int | None:
        """A key goes up; returns the frame at which it does, or None if it was not down."""
        note = self._pressed.pop(pitch, None)
        if note is None:
            return None
        frame = max(frame, self._free_frame[pitch])
        note[1] = frame / self._midi_hz
        self._free_frame[pitch] = frame
        return frame

    def move_pedal(self, pedal: int, value: int, frame: int) -> None:
        """A pedal moves.

        Args:
            pedal: Controller number: 64, 66 or 67.
            value: 0..127.
            frame: When.

        Raises:
            InputError: There is no such pedal, or no such value.
        """
        if pedal not in self._pedals:
            raise InputError(f"pedal = {pedal}: expected one of {', '.join(map(str, PEDALS))}")
        _require_range("value", value, 0, MAX_VELOCITY)
        self._pedals[pedal].append((frame / self._midi_hz, value))

    def release_all(self, frame: int) -> None:
        """All keys and pedals go up, as when a player leaves."""
        for pitch in tuple(self._pressed):
            self.release(pitch, frame)
        for pedal, events in self._pedals.items():
            if events and events[-1][1]:
                self.move_pedal(pedal, 0, frame)

    def snapshot(self) -> Performance:
        """The performance so far. Keys that are down have an infinite offset."""
        notes = np.array(self._notes, np.float64).reshape(-1, 4)
        notes = notes[np.lexsort((notes[:, 2], notes[:, 0]))]
        if not len(notes) and not any(self._pedals.values()):
            performance = empty_performance()
        else:
            performance = Performance(
                onset=notes[:, 0].copy(),
                offset=notes[:, 1].copy(),
                pitch=notes[:, 2].astype(np.int64),
                velocity=notes[:, 3].astype(np.int64),
                pedals={pedal: np.array(events).reshape(-1, 2) for pedal, events in self._pedals.items()},
            )
        return Performance(**(vars(performance) | {"global_labels": self._global_labels}))

    def forget(self, frame: int) -> None:
        """Remove what has no effect on this frame and later ones, so that hours of playing take the same time each."""
        seconds = frame / self._midi_hz
        if seconds < self._last_forget + FORGET_INTERVAL_SECONDS:
            return
        self._last_forget = seconds
        # A negative margin: the end of what is needed is open, its beginning lies before this frame.
        rest = clip(self.snapshot(), 0.0, np.inf, margin=FORGET_AFTER_SECONDS - seconds)
        self._notes = np.stack([rest.onset, rest.offset, rest.pitch, rest.velocity], axis=1).tolist()
        self._pressed = {int(note[2]): note for note in self._notes if np.isinf(note[1])}
        self._pedals = {pedal: [(t, value) for t, value in rest.pedals[pedal].tolist()] for pedal in PEDALS}


def _require_range(name: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise InputError(f"{name} = {value}: expected {low} to {high}")
