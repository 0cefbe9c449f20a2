"""Notes that play for a part of a recording only are recognised in its sound."""

from dataclasses import replace

import numpy as np
import pytest

from midi2wave.audio.pcm import FULL_SCALE
from midi2wave.demo_dataset import composer, piano_synth
from midi2wave.midi.performance import Performance
from midi2wave.midi.reader import read_midi
from midi2wave.recordings.pitch_matching import correlation_of_part, sound_spectrogram
from midi2wave.recordings.problems import MIN_PART_CORRELATION, MIN_PART_NOTES

HZ = 16000
SECONDS = 60.0


@pytest.fixture(scope="module")
def pieces(tmp_path_factory):
    """The spectrograms of two pieces, and the notes of these and of a third one."""
    performances, spectrograms = [], []
    for seed in (1, 2, 3):
        path = tmp_path_factory.mktemp("pieces") / f"{seed}.mid"
        composer.compose(seed, SECONDS).write(str(path))
        performances.append(read_midi(path))
        if seed < 3:
            pcm = (piano_synth.render(path, HZ).mean(axis=1) * FULL_SCALE).astype(np.int16)
            spectrograms.append(sound_spectrogram(pcm, HZ))
    return spectrograms, performances


def passage(performance: Performance, first: int, n_notes: int = MIN_PART_NOTES) -> Performance:
    """Some notes that follow each other."""
    selected = slice(first, first + n_notes)
    columns = {name: getattr(performance, name)[selected] for name in ("onset", "offset", "pitch", "velocity")}
    return replace(performance, **columns)


def test_short_passages_are_recognised(pieces):
    """All right ones, with a margin; of the wrong ones, which are of the same composer, one in twenty is missed."""
    spectrograms, performances = pieces
    right, wrong = [], []
    for i, sound in enumerate(spectrograms):
        for j, performance in enumerate(performances):
            for first in range(0, len(performance.onset) - MIN_PART_NOTES, MIN_PART_NOTES // 3):
                correlation = correlation_of_part(sound, passage(performance, first), SECONDS, 0)
                (right if i == j else wrong).append(correlation)
    assert len(right) > 20 and len(wrong) > 40
    assert min(right) > 2 * MIN_PART_CORRELATION
    assert np.mean(np.array(wrong) < MIN_PART_CORRELATION) > 0.95


def test_the_lag_counts(pieces):
    (sound, _), (own, *_) = pieces
    late = replace(own, onset=own.onset - 1.0, offset=own.offset - 1.0)
    part = passage(late, 50)
    frames_per_second = len(sound) / SECONDS
    at_lag, at_zero = (correlation_of_part(sound, part, SECONDS, lag) for lag in (round(frames_per_second), 0))
    assert at_lag > 0.4 and at_zero < 0.3


def test_notes_outside_the_sound_are_unknown(pieces):
    (sound, _), (own, *_) = pieces
    assert np.isnan(correlation_of_part(sound, own, SECONDS, len(sound)))
