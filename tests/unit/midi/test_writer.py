"""The end of a performance, and what is written of it."""

import numpy as np
import pytest

from midi2wave.midi.performance import SOFT, SUSTAIN
from midi2wave.midi.reader import read_midi
from midi2wave.midi.writer import end_with_last_sound
from tests.helpers.performances import performance_of


def test_written_midi_is_read_as_the_same_performance(tmp_path):
    written = performance_of(
        [(0.25, 0.5, 60, 80), (0.5, 0.7, 60, 1), (0.5, 0.5, 64, 127), (1.0, 1.2, 21, 64)],
        {SUSTAIN: [(0.1, 127), (2.0, 30)]},
    )
    ended, seconds = end_with_last_sound(written)
    ended.to_pretty_midi(ticks_per_second=1000).write(tmp_path / "a.mid")
    read = read_midi(tmp_path / "a.mid")
    assert seconds == pytest.approx(2.0)
    assert read.onset == pytest.approx(written.onset, abs=1e-4)
    assert read.offset == pytest.approx(np.maximum(written.offset, written.onset + 0.001), abs=1e-4)
    assert read.pitch.tolist() == written.pitch.tolist() and read.velocity.tolist() == written.velocity.tolist()
    # The release shares its time with the event before it, and takes the next tick.
    assert read.pedals[SUSTAIN] == pytest.approx(np.array([[0.1, 127], [2.0, 30], [2.001, 0]]), abs=1e-4)
    assert not read.dropped


def test_unreleased_pedal_ends_with_the_last_key():
    ended, seconds = end_with_last_sound(performance_of([(0.0, 1.0, 60, 80)], {SUSTAIN: [(0.5, 127)]}))
    assert seconds == pytest.approx(1.0)
    assert ended.pedals[SUSTAIN].tolist() == [[0.5, 127], [1.0, 0]]


def test_pedal_events_after_the_last_sound_are_left_out():
    moves = {SUSTAIN: [(0.5, 127), (2.0, 0), (3.0, 127)], SOFT: [(0.1, 0), (9.0, 1)]}
    ended, seconds = end_with_last_sound(performance_of([(0.0, 1.0, 60, 80)], moves))
    assert seconds == 2.0
    assert ended.pedals[SUSTAIN].tolist() == [[0.5, 127], [2.0, 0]] and ended.pedals[SOFT].tolist() == [[0.1, 0]]
