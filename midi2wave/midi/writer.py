"""Performances as Standard MIDI Files."""

import mido
import numpy as np

from midi2wave.midi.performance import Performance, sounding_offset

TICKS_PER_SECOND = 1000


def to_midi_file(
    performance: Performance, program: int, tail_seconds: float = 2.0, ticks_per_second: int = TICKS_PER_SECOND
) -> tuple[mido.MidiFile, float]:
    """A performance as one track on one channel, at 120 quarter notes a minute, and how long it sounds in seconds.

    It ends `tail_seconds` after the last damper has fallen; a pedal that is never released is so at the last key's
    release. A pedal's state from before the first note is kept.
    """
    events = []  # (tick, order within a tick, message): pedals, releases, then strikes
    for pedal, changes in performance.pedals.items():
        events += [(t, 0, mido.Message("control_change", control=pedal, value=int(v))) for t, v in changes]
    keys = (performance.onset, performance.offset, performance.pitch, performance.velocity)
    for onset, offset, pitch, velocity in zip(*keys, strict=True):
        # A note of no length would be released before it is struck.
        offset = max(offset, onset + 1 / ticks_per_second)
        events.append((offset, 1, mido.Message("note_off", note=int(pitch), velocity=0)))
        events.append((onset, 2, mido.Message("note_on", note=int(pitch), velocity=int(velocity))))
    ends = sounding_offset(performance)
    last = float(np.where(np.isfinite(ends), ends, performance.offset).max())
    end = last + tail_seconds
    for pedal in performance.pedals:
        events.append((last, 3, mido.Message("control_change", control=pedal, value=0)))
    ordered = sorted(((round(t * ticks_per_second), order, i) for i, (t, order, _) in enumerate(events) if t <= last))
    track, before = mido.MidiTrack([mido.Message("program_change", program=program)]), 0
    for tick, _, i in ordered:
        track.append(events[i][2].copy(time=tick - before))
        before = tick
    track.append(mido.MetaMessage("end_of_track", time=round(end * ticks_per_second) - before))
    return mido.MidiFile(type=0, ticks_per_beat=ticks_per_second // 2, tracks=[track]), end
