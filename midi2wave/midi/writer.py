"""What is done to a performance before it is written as a MIDI file."""

from dataclasses import replace

import numpy as np

from midi2wave.midi.performance import Performance, last_sound_seconds


def end_with_last_sound(performance: Performance) -> tuple[Performance, float]:
    """End a performance where its last damper falls.

    Pedal events after that are left out, and a pedal that is not quite up then is released. One that is never released
    ends with the last key.

    Returns:
        The performance, and its end in seconds.
    """
    last = last_sound_seconds(performance)
    pedals = {}
    for pedal, events in performance.pedals.items():
        events = events[events[:, 0] <= last]
        is_up = not len(events) or events[-1, 1] == 0
        pedals[pedal] = events if is_up else np.append(events, [[last, 0.0]], axis=0)
    return replace(performance, pedals=pedals), last
