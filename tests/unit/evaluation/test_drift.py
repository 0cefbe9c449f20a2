"""Drift of generations that are known to keep their path, and of such that leave it."""

from dataclasses import replace

import numpy as np
import pytest

from midi2wave.evaluation import drift
from midi2wave.evaluation.transcription import Notes
from midi2wave.midi.performance import SUSTAIN, sounding_offset
from tests.helpers.fake_piano import HZ, melody, performance, play

SECONDS = 24.0
PIECE = melody(0, SECONDS)
TRUTH = play(PIECE, SECONDS)
WHOLE = play(drift.ending(PIECE, SECONDS), SECONDS + drift.TAIL_SECONDS)
TIME = np.arange(len(WHOLE)) / HZ


def measured(output, transcriber=None, piece=PIECE, truth=TRUTH):
    return drift.measure(np.rint(output).astype(np.int16), truth, piece, HZ, transcriber)


def test_what_keeps_its_path_has_no_drift():
    found = measured(WHOLE)
    assert found.level_difference_db == pytest.approx(0, abs=0.01)
    assert found.worst_window_db == pytest.approx(0, abs=0.01)
    assert found.tail_db < -100 and found.silent_after_seconds <= 0.5
    assert found.f1_first is found.f1_last is None


def test_a_level_that_fades_shows_in_the_worst_window():
    found = measured(WHOLE * 10 ** (-12 * TIME / SECONDS / 20))
    assert -12 < found.worst_window_db < -9
    assert abs(found.level_difference_db) < abs(found.worst_window_db)


def test_hiss_that_does_not_end_is_no_silence():
    found = measured(WHOLE + np.random.default_rng(0).normal(scale=200, size=len(WHOLE)))
    assert found.silent_after_seconds is None and found.tail_db == pytest.approx(-44.3, abs=0.3)


def test_silence_is_timed_from_the_last_note():
    piece = performance([(0.5, 1.0, 60, 90), (2.0, 2.5, 64, 90)], pedal=[(2.2, 127), (4.0, 0)])
    truth = play(piece, 12.0)
    after = np.arange(len(truth) + HZ) / HZ - 4.0  # the pedal comes up: the last damper falls
    hum = np.where(after < 2.0, 1000, 0) * np.sin(2 * np.pi * 100 * after)
    found = measured(np.pad(truth, (0, HZ)) + hum, piece=piece, truth=truth)
    assert found.silent_after_seconds == pytest.approx(2.0) and found.tail_db < -100


class Listener:
    """A transcriber that hears exactly what is on its list."""

    def __init__(self, truth, output):
        self.truth, self.output = truth, output

    def notes(self, pcm, hz):
        assert hz == HZ and len(pcm) == len(TRUTH)
        return self.truth if np.array_equal(pcm, TRUTH) else self.output


def test_f1_of_the_first_and_the_last_ten_seconds():
    pytest.importorskip("mir_eval")
    right = Notes(PIECE.onset, PIECE.offset, PIECE.pitch)
    lost = replace(right, pitch=np.where(PIECE.onset < 14.0, PIECE.pitch, PIECE.pitch + 1))
    found = measured(WHOLE * 0.9, Listener(right, lost))
    assert found.f1_first == 1 and found.f1_last == 0
    assert found.f1_first_ceiling == found.f1_last_ceiling == 1


def test_an_ending_stops_everything():
    piece = performance([(0.5, 9.0, 60, 90), (1.0, 1.2, 64, 90), (5.0, 6.0, 70, 90)], pedal=[(0.8, 127), (7.0, 0)])
    ended = drift.ending(piece, 4.0)
    assert ended.onset.tolist() == [0.5, 1.0] and ended.offset.tolist() == [4.0, 1.2]
    assert ended.pedals[SUSTAIN].tolist() == [[0.8, 127], [4.0, 0]]
    assert sounding_offset(ended).tolist() == [4.0, 4.0]
    assert len(drift.ending(performance([(0, 1, 60, 90)]), 4.0).pedals[SUSTAIN]) == 0
