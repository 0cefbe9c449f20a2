"""Performances as Standard MIDI Files."""

from collections.abc import Iterator

import mido
import numpy as np

from midi2wave.midi.performance import Performance, sounding_offset

TICKS_PER_SECOND = 1000
# MIDI's default tempo, 120 quarter notes a minute.
BEATS_PER_SECOND = 2

# Order of the messages of one tick: a key is released before it is pressed again.
_PEDAL_ORDER = 0
_NOTE_OFF_ORDER = 1
_NOTE_ON_ORDER = 2
_LAST_PEDAL_ORDER = 3


def to_midi_file(
    performance: Performance, program: int, tail_seconds: float = 2.0, ticks_per_second: int = TICKS_PER_SECOND
) -> tuple[mido.MidiFile, float]:
    """Convert a performance to a MIDI file of one track on one channel, at 120 quarter notes a minute.

    A pedal that is never released is released with the last key. A pedal's state from before the first note remains.

    Args:
        performance: Its times must not be negative.
        program: General MIDI program, 0..127.
        tail_seconds: Time between the fall of the last damper and the end of the file.
        ticks_per_second: Resolution, even.

    Returns:
        The file, and its length in seconds.
    """
    ends = sounding_offset(performance)
    last = float(np.where(np.isfinite(ends), ends, performance.offset).max())
    events = list(_events(performance, 1 / ticks_per_second))
    for pedal in performance.pedals:
        events.append((last, _LAST_PEDAL_ORDER, mido.Message("control_change", control=pedal, value=0)))
    ordered = sorted((round(t * ticks_per_second), order, i) for i, (t, order, _) in enumerate(events) if t <= last)
    track = mido.MidiTrack([mido.Message("program_change", program=program)])
    previous_tick = 0
    for tick, _, i in ordered:
        track.append(events[i][2].copy(time=tick - previous_tick))
        previous_tick = tick
    end = last + tail_seconds
    track.append(mido.MetaMessage("end_of_track", time=round(end * ticks_per_second) - previous_tick))
    ticks_per_beat = ticks_per_second // BEATS_PER_SECOND
    return mido.MidiFile(type=0, ticks_per_beat=ticks_per_beat, tracks=[track]), end


def _events(performance: Performance, min_seconds: float) -> Iterator[tuple[float, int, mido.Message]]:
    """The performance as (seconds, order within a tick, message), not sorted."""
    for pedal, pedal_events in performance.pedals.items():
        for seconds, value in pedal_events:
            yield seconds, _PEDAL_ORDER, mido.Message("control_change", control=pedal, value=int(value))
    notes = (performance.onset, performance.offset, performance.pitch, performance.velocity)
    for onset, offset, pitch, velocity in zip(*notes, strict=True):
        # The release of a note of no length would come before its onset.
        release = max(offset, onset + min_seconds)
        yield release, _NOTE_OFF_ORDER, mido.Message("note_off", note=int(pitch), velocity=0)
        yield onset, _NOTE_ON_ORDER, mido.Message("note_on", note=int(pitch), velocity=int(velocity))
