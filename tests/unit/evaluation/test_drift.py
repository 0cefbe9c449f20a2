"""Drift of generations without drift, and of such with a fade, hiss or wrong notes."""

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
WHOLE = play(drift.truncate(PIECE, SECONDS), SECONDS + drift.TAIL_SECONDS)
TIME = np.arange(len(WHOLE)) / HZ


def measured(output, transcriber=None, piece=PIECE, truth=TRUTH):
    return drift.measure_drift(np.rint(output).astype(np.int16), truth, piece, HZ, transcriber)


def test_the_recording_itself_has_no_drift():
    result = measured(WHOLE)
    assert result.level_difference_db == pytest.approx(0, abs=0.01)
    assert result.worst_window_db == pytest.approx(0, abs=0.01)
    assert result.tail_db < -100 and result.silent_after_seconds <= 0.5
    assert result.f1_first is result.f1_last is None


def test_a_fade_shows_in_the_worst_window():
    result = measured(WHOLE * 10 ** (-12 * TIME / SECONDS / 20))
    assert -12 < result.worst_window_db < -9
    assert abs(result.level_difference_db) < abs(result.worst_window_db)


def test_hiss_is_not_silence():
    result = measured(WHOLE + np.random.default_rng(0).normal(scale=200, size=len(WHOLE)))
    assert result.silent_after_seconds is None and result.tail_db == pytest.approx(-44.3, abs=0.3)


def test_silence_is_timed_from_the_last_note():
    piece = performance([(0.5, 1.0, 60, 90), (2.0, 2.5, 64, 90)], pedal=[(2.2, 127), (4.0, 0)])
    truth = play(piece, 12.0)
    after = np.arange(len(truth) + HZ) / HZ - 4.0  # the pedal comes up: the last damper falls
    hum = np.where(after < 2.0, 1000, 0) * np.sin(2 * np.pi * 100 * after)
    result = measured(np.pad(truth, (0, HZ)) + hum, piece=piece, truth=truth)
    assert result.silent_after_seconds == pytest.approx(2.0) and result.tail_db < -100


class FixedTranscriber:
    """A transcriber with a fixed result for the recording and another one for everything else."""

    def __init__(self, truth, output):
        self.truth, self.output = truth, output

    def notes(self, pcm, hz):
        assert hz == HZ and len(pcm) == len(TRUTH)
        return self.truth if np.array_equal(pcm, TRUTH) else self.output


def test_f1_of_the_first_and_the_last_ten_seconds():
    pytest.importorskip("mir_eval")
    correct = Notes(PIECE.onset, PIECE.offset, PIECE.pitch)
    wrong_after_14_s = replace(correct, pitch=np.where(PIECE.onset < 14.0, PIECE.pitch, PIECE.pitch + 1))
    result = measured(WHOLE * 0.9, FixedTranscriber(correct, wrong_after_14_s))
    assert result.f1_first == 1 and result.f1_last == 0
    assert result.f1_first_topline == result.f1_last_topline == 1


def test_a_truncated_performance_ends_all_notes():
    piece = performance([(0.5, 9.0, 60, 90), (1.0, 1.2, 64, 90), (5.0, 6.0, 70, 90)], pedal=[(0.8, 127), (7.0, 0)])
    truncated = drift.truncate(piece, 4.0)
    assert truncated.onset.tolist() == [0.5, 1.0] and truncated.offset.tolist() == [4.0, 1.2]
    assert truncated.pedals[SUSTAIN].tolist() == [[0.8, 127], [4.0, 0]]
    assert sounding_offset(truncated).tolist() == [4.0, 4.0]
    assert len(drift.truncate(performance([(0, 1, 60, 90)]), 4.0).pedals[SUSTAIN]) == 0
