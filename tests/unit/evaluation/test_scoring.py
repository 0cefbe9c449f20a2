"""F1 of an evaluation: model, topline and baseline are three scores, each of the notes after the prompt alone."""

import numpy as np
import pytest

from midi2wave.evaluation import scoring
from midi2wave.evaluation.clips import ReferenceClip
from midi2wave.evaluation.transcription import Notes
from tests.helpers.performances import performance_of

HZ = 100
PROMPT_END = 1.0


def notes_at(onsets, pitches):
    onset = np.array(onsets, dtype=float)
    return Notes(onset, onset + 0.2, np.array(pitches))


class TranscriberOfMarks:
    """It detects the notes that belong to the first sample of the audio."""

    def __init__(self, notes):
        self.by_mark = notes

    def notes(self, pcm, audio_hz):
        assert audio_hz == HZ
        return self.by_mark[int(pcm[0])]


def share_of_pitches(reference, estimate, *, with_offsets=False):
    """In the place of the F1: the share of all pitches of both that both have."""
    a, b = set(reference.pitch.tolist()), set(estimate.pitch.tolist())
    return len(a & b) / len(a | b)


def make_clip(name, mark, pitches):
    performance = performance_of([(0.5, 0.7, 40, 90), *((1.5, 1.7, pitch, 90) for pitch in pitches)])
    return ReferenceClip(name, mark, performance, 3 * HZ, np.full(3 * HZ, mark, dtype=np.int16))


@pytest.mark.parametrize("score", ["f1", "f1_offsets"])
def test_f1_of_model_topline_and_baseline(monkeypatch, score):
    """The recording's transcription has all notes after the prompt, the model's one of two, the other clip's none."""
    monkeypatch.setattr(scoring, "note_f1", share_of_pitches)
    clip, other = make_clip("a", 1, [60, 62]), make_clip("b", 2, [70, 72])
    output = np.full(3 * HZ, 3, dtype=np.int16)
    # The notes of the prompt are wrong everywhere: they must count nowhere.
    transcriber = TranscriberOfMarks(
        {1: notes_at([0.2, 1.5, 1.5], [21, 60, 62]), 3: notes_at([0.3, 1.5], [22, 60]), 2: notes_at([1.5], [70])}
    )
    transcription, scores = scoring._note_scores(output, clip, other, PROMPT_END, HZ, transcriber)
    assert transcription.pitch.tolist() == [60]
    assert (scores[score].value, scores[score].topline, scores[score].baseline) == (0.5, 1.0, 0.0)
