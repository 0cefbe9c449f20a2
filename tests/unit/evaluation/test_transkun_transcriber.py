"""Scores of velocities and pedals in hand-made cases, and the real transcriber on synthetic audio, where installed."""

import sys

import numpy as np
import pytest
import torch

from midi2wave.evaluation import transcription
from midi2wave.evaluation.transkun_transcriber import TranskunTranscriber, event_scores, performed_events
from tests.helpers.fake_piano import HZ, performance, play

ROWS = [(0.1 + 0.3 * i, 0.3 + 0.3 * i, 60 + i, 40 + 10 * i) for i in range(6)]
PEDAL = [(0.2, 127), (0.7, 0), (1.0, 64), (1.4, 63)]


@pytest.fixture(scope="module", autouse=True)
def mir_eval():
    pytest.importorskip("mir_eval", reason="requirements-transcribe.txt is not installed")


@pytest.fixture(scope="module")
def transcriber():
    try:
        return TranskunTranscriber()
    except ImportError as error:
        pytest.skip(f"{error}; {transcription.INSTALL}")


def events(rows=ROWS, pedal=PEDAL, end=3.0):
    return performed_events(performance(rows, pedal), 0, end)


def test_equal_events_have_the_best_scores():
    assert event_scores(events(), events()) == {"f1": 1, "f1_offsets": 1, "velocity": pytest.approx(1), "pedal_f1": 1}


def test_notes_end_with_their_keys_and_not_with_the_pedal():
    assert events().notes.offset[0] == pytest.approx(0.3)
    late = [(on, off + 0.5, pitch, velocity) for on, off, pitch, velocity in ROWS]
    scores = event_scores(events(), events(late))
    assert scores["f1"] == 1 and scores["f1_offsets"] == 0


def test_velocity_is_the_correlation_of_matched_notes():
    velocities = [70, 20, 90, 30, 60, 100]
    others = [(on, off, pitch, velocities[i]) for i, (on, off, pitch, _) in enumerate(ROWS)]
    extra = [(0.11, 0.2, 90, 127), *others]  # Not matched.
    expected = np.corrcoef([row[3] for row in ROWS], velocities)[0, 1]
    assert event_scores(events(), events(extra))["velocity"] == pytest.approx(expected)
    louder = [(on, off, pitch, 20 + velocity // 2) for on, off, pitch, velocity in ROWS]
    assert event_scores(events(), events(louder))["velocity"] == pytest.approx(1)


def test_few_or_equal_velocities_have_no_correlation():
    assert np.isnan(event_scores(events(), events(ROWS[:4]))["velocity"])
    equal = [(*row[:3], 64) for row in ROWS]
    assert np.isnan(event_scores(events(), events(equal))["velocity"])


def test_pedal_f1_is_that_of_the_time():
    assert events().pedal == pytest.approx(np.array([[0.2, 0.7], [1.0, 1.4]]))
    half = events(pedal=[(0.2, 127), (0.7, 0)])
    assert event_scores(events(), half)["pedal_f1"] == pytest.approx(2 * 0.5 / (0.9 + 0.5))
    never = events(pedal=[])
    assert event_scores(events(), never)["pedal_f1"] == 0
    assert np.isnan(event_scores(never, events())["pedal_f1"])


def test_a_pedal_without_release_ends_with_the_clip():
    assert events(pedal=[(-1.0, 127)], end=2.0).pedal.tolist() == [[0.0, 2.0]]
    repeated = events(pedal=[(0.1, 70), (0.2, 90), (0.5, 10), (0.6, 0)])
    assert repeated.pedal.tolist() == [[0.1, 0.5]]


def test_between_cuts_notes_and_pedals():
    part = events().between(0.6, 1.2)
    assert part.notes.pitch.tolist() == [62, 63] and part.velocity.tolist() == [60, 70]
    assert part.pedal == pytest.approx(np.array([[0.6, 0.7], [1.0, 1.2]]))


@pytest.mark.slow
def test_the_transcriber_on_a_scale(transcriber, capsys):
    """A scale with growing velocities; other modules and random numbers are left alone."""
    scale = [
        (0.2 + 0.3 * i, 0.45 + 0.3 * i, 60 + pitch, 40 + 8 * i) for i, pitch in enumerate((0, 2, 4, 5, 7, 9, 11, 12))
    ]
    detected = transcriber.events(play(performance(scale), 3.0), HZ).between(0, 3)
    scores = event_scores(events(scale, []), detected)
    assert scores["f1"] > 0.8 and scores["velocity"] > 0.8
    assert (np.diff(detected.notes.onset) >= 0).all()
    assert "torchaudio" not in sys.modules or sys.modules["torchaudio"].__spec__ is not None
    assert capsys.readouterr().out == ""


def test_the_transcriber_in_silence(transcriber):
    for length in (HZ, 100, 0):
        detected = transcriber.events(np.zeros(length, np.int16), HZ)
        assert len(detected.notes.onset) == len(detected.velocity) == len(detected.pedal) == 0


def test_loading_leaves_random_numbers_alone(transcriber):
    before = torch.random.get_rng_state()
    assert TranskunTranscriber().name == transcriber.name
    assert (torch.random.get_rng_state() == before).all()
