"""F1 of notes in hand-made cases, and the real transcriber on synthetic audio, where both are installed."""

import logging
import re
import sys

import numpy as np
import pytest

from midi2wave.evaluation import transcription
from midi2wave.evaluation.transcription import Notes, Transcriber, matched, note_f1, played_notes
from tests.helpers.fake_piano import HZ, melody, performance, play
from tests.helpers.paths import ROOT

SOME = [(0.1, 0.5, 60, 80), (0.6, 1.0, 64, 80), (0.6, 1.5, 67, 80), (1.2, 1.6, 72, 80)]


@pytest.fixture(scope="module", autouse=True)
def mir_eval():
    pytest.importorskip("mir_eval", reason="requirements-transcribe.txt is not installed")


@pytest.fixture(scope="module")
def transcriber():
    try:
        return Transcriber()
    except ImportError as error:
        pytest.skip(f"{error}; {transcription.INSTALL}")


def notes(rows):
    return played_notes(performance(rows), 0, 10)


def moved(seconds=0.0, pitch=0):
    return notes([(on + seconds, off + seconds, p + pitch, v) for on, off, p, v in SOME])


def test_equal_notes_score_1():
    assert note_f1(notes(SOME), notes(SOME)) == note_f1(notes(SOME), notes(SOME), with_offsets=True) == 1


@pytest.mark.parametrize(("seconds", "expected"), [(0.045, 1), (-0.045, 1), (0.06, 0), (-0.06, 0)])
def test_onsets_count_within_50_ms(seconds, expected):
    assert note_f1(notes(SOME), moved(seconds)) == expected


@pytest.mark.parametrize("pitch", [1, -1, 12])
def test_wrong_pitches_score_0(pitch):
    assert note_f1(notes(SOME), moved(pitch=pitch)) == 0


def test_missing_and_invented_notes():
    assert note_f1(notes(SOME), notes(SOME[:2])) == pytest.approx(2 / 3)  # precision 1, recall 1/2
    assert note_f1(notes(SOME[:2]), notes(SOME)) == pytest.approx(2 / 3)
    assert note_f1(notes(SOME[:1]), notes(SOME[:1] * 2)) <= 1  # a note is matched once
    assert note_f1(notes(SOME), notes([])) == 0
    assert np.isnan(note_f1(notes([]), notes(SOME)))


def test_offsets_count_where_asked():
    short = notes([(on, on + 0.1, pitch, v) for on, _, pitch, v in SOME])
    assert note_f1(notes(SOME), short) == 1
    assert note_f1(notes(SOME), short, with_offsets=True) == 0


def test_pedals_extend_the_notes():
    sustained = performance([(0.1, 0.3, 60, 80), (1.0, 1.2, 60, 80)], pedal=[(0.2, 127), (2.0, 0)])
    assert played_notes(sustained, 0, 10).offset == pytest.approx([1.0, 2.0])  # up to its next strike, and the pedal
    assert played_notes(sustained, 0, 1.5).offset == pytest.approx([1.0, 1.5])
    assert played_notes(sustained, 0.5, 10).onset == pytest.approx([1.0])


def test_a_pedal_without_release_ends_with_the_clip():
    assert played_notes(performance([(0.1, 0.3, 60, 80)], pedal=[(0.2, 127)]), 0, 4).offset == pytest.approx([4.0])


def test_matched_returns_masks():
    estimate = notes([SOME[1], SOME[3], (0.9, 1.0, 50, 80)])
    detected, correct = matched(notes(SOME), estimate)
    assert detected.tolist() == [False, True, False, True]
    assert correct.tolist() == [True, False, True]
    assert not matched(notes(SOME), notes([]))[0].any()


def test_between_includes_the_start_and_excludes_the_end():
    assert notes(SOME).between(0.6, 1.2).pitch.tolist() == [64, 67]


def test_transcriber_detects_the_notes(transcriber):
    piece = melody(0, 6.0)
    estimate = transcriber.notes(play(piece, 6.0), HZ)
    detected, _ = matched(played_notes(piece, 0, 6), estimate)
    # The partials of the fake piano are stronger than a piano's and sometimes transcribed as notes, too.
    assert detected.mean() > 0.9
    assert note_f1(played_notes(piece, 0, 6), estimate) > 0.7
    assert note_f1(played_notes(melody(1, 6.0), 0, 6), estimate) < 0.2
    assert (np.diff(estimate.onset) >= 0).all()


def test_transcriber_at_any_sample_rate(transcriber):
    piece = melody(0, 4.0)
    estimates = [transcriber.notes(play(piece, 4.0, hz), hz) for hz in (8000, 44100)]
    assert all(matched(played_notes(piece, 0, 4), one)[0].mean() > 0.9 for one in estimates)


@pytest.mark.parametrize("pcm", [np.zeros(HZ, np.int16), np.zeros(100, np.int16)])
def test_transcriber_detects_nothing_in_silence(transcriber, pcm):
    assert isinstance(transcriber.notes(pcm, HZ), Notes)
    assert len(transcriber.notes(pcm, HZ).onset) == 0


def test_transcriber_keeps_logging_and_other_frameworks(transcriber):
    assert "tensorflow" not in sys.modules or sys.modules["tensorflow"] is not None
    handlers = list(logging.root.handlers)
    Transcriber()
    assert logging.root.handlers == handlers and logging.root.manager.disable == 0


def test_the_pinned_version_is_the_same_everywhere():
    pages = ("README.md", "docs/evaluation.md", ".ci/run", "requirements-transcribe.txt")
    for pin in transcription.INSTALL.split()[-2:]:
        pattern = pin.split("==")[0] + r"==[\d.]+"
        pins = {one for page in pages for one in re.findall(pattern, (ROOT / page).read_text(encoding="utf-8"))}
        assert pins == {pin}
