"""The MIDI writer: what it writes is read as the same performance."""

import numpy as np
import pytest

from midi2wave.midi.performance import SUSTAIN
from midi2wave.midi.reader import read_midi
from midi2wave.midi.writer import to_midi_file
from tests.helpers.performances import performance_of


def test_written_midi_is_read_as_the_same_performance(tmp_path):
    written = performance_of(
        [(0.25, 0.5, 60, 80), (0.5, 0.7, 60, 1), (0.5, 0.5, 64, 127), (1.0, 1.2, 21, 64)],
        {SUSTAIN: [(0.1, 127), (2.0, 30)]},
    )
    file, seconds = to_midi_file(written, 0)
    file.save(tmp_path / "a.mid")
    read = read_midi(tmp_path / "a.mid")
    assert seconds == pytest.approx(4.0)
    assert read.onset == pytest.approx(written.onset, abs=1e-4)
    assert read.offset == pytest.approx(np.maximum(written.offset, written.onset + 0.001), abs=1e-4)
    assert read.pitch.tolist() == written.pitch.tolist() and read.velocity.tolist() == written.velocity.tolist()
    assert read.pedals[SUSTAIN] == pytest.approx(np.array([[0.1, 127], [2.0, 30], [2.0, 0]]), abs=1e-4)
    assert not read.dropped


def test_unreleased_pedal_ends_with_the_last_key():
    _, seconds = to_midi_file(performance_of([(0.0, 1.0, 60, 80)], {SUSTAIN: [(0.5, 127)]}), 0)
    assert seconds == pytest.approx(3.0)
