"""Frame-rate features: hand-made cases, and a slow reference on random performances."""

import math

import numpy as np
import pytest

from midi2wave.conditioning.features import feature_names, n_features
from midi2wave.config import FEATURE_PRESETS
from midi2wave.midi.performance import MIN_PITCH, N_PITCHES, SOFT, SOSTENUTO, SUSTAIN, Performance, sounding_offset
from tests.helpers.performances import C4, FRAME, MIDI_HZ, dense_performance, note_conditioning, performance_of


def row(piece: Performance, name: str, n: int, pitch: int = C4, first: int = 0) -> np.ndarray:
    """One feature of one key: [n]; every other key must be silent."""
    rows = note_conditioning(piece, name).features(first, n)
    assert rows.shape == (N_PITCHES, n) and rows.dtype == np.float32
    assert not np.delete(rows, pitch - MIN_PITCH, axis=0).any()
    return rows[pitch - MIN_PITCH]


def test_presets_and_their_sizes():
    assert feature_names(["note_state"]) == ("onset", "held_velocity", "onset_age", "release_age", "pedals")
    assert feature_names(["pedals", "paper_v5", "onset"]) == ("pedals", "onset")
    assert n_features(["note_state"]) == 4 * 88 + 3
    assert n_features(["paper_v1"]) == n_features(["paper_v5"]) == 88
    piece = dense_performance(0)
    for preset, names in FEATURE_PRESETS.items():
        both = [note_conditioning(piece, *selected).features(-5, 300) for selected in ([preset], names)]
        assert both[0].tobytes() == both[1].tobytes() and both[0].shape == (n_features([preset]), 300)
    onsets = note_conditioning(piece, "paper_v5").features(-100, 600)
    held_velocity = note_conditioning(piece, "paper_v1").features(-100, 600)
    assert (
        np.array_equal(held_velocity[onsets > 0], onsets[onsets > 0]) and (held_velocity > 0).sum() > (onsets > 0).sum()
    )


def test_rows_are_in_the_order_of_the_names():
    piece = performance_of([(0.0, 0.1, C4, 127)], {SUSTAIN: [(0.0, 127)]})
    rows = note_conditioning(piece, "pedals", "onset").features(0, 2)
    assert np.flatnonzero(rows[:, 0]).tolist() == [0, 3 + C4 - MIN_PITCH]


def test_a_note_from_its_onset_to_its_end():
    piece = performance_of([(0.008, 0.020, C4, 64)])  # frames 2, 3, 4
    velocity = np.float32(64 / 127)
    assert row(piece, "onset", 8).tolist() == [0, 0, velocity, 0, 0, 0, 0, 0]
    assert row(piece, "held_velocity", 8).tolist() == [0, 0, velocity, velocity, velocity, 0, 0, 0]
    np.testing.assert_allclose(row(piece, "onset_age", 200)[2:], np.exp(-np.arange(198) * FRAME / 0.5), rtol=1e-6)
    np.testing.assert_allclose(row(piece, "release_age", 200)[5:], np.exp(-np.arange(195) * FRAME / 0.1), rtol=1e-6)
    assert not row(piece, "onset_age", 2).any() and not row(piece, "release_age", 5).any()


def test_the_pedal_holds_a_note_until_it_comes_up():
    piece = performance_of([(0.0, 0.004, C4, 127)], {SUSTAIN: [(0.002, 100), (0.024, 63)]})
    assert row(piece, "held_velocity", 10).tolist() == [1] * 6 + [0] * 4
    assert np.flatnonzero(row(piece, "release_age", 10))[0] == 6
    assert row(piece, "onset", 10).tolist() == [1] + [0] * 9
    for_ever = performance_of([(0.0, 0.004, C4, 127)], {SUSTAIN: [(0.002, 100)]})
    assert row(for_ever, "held_velocity", 3, first=1_000_000).tolist() == [1, 1, 1]


def test_restrike_restarts_a_state():
    piece = performance_of([(0.0, 0.008, C4, 127), (0.016, 0.024, C4, 64)])  # frames 0, 1 and 4, 5
    low = np.float32(64 / 127)
    assert row(piece, "held_velocity", 8).tolist() == [1, 1, 0, 0, low, low, 0, 0]
    assert row(piece, "onset_age", 8)[4] == 1
    assert (row(piece, "release_age", 8) > 0).tolist() == [False, False, True, True, False, False, True, True]
    assert row(piece, "release_age", 8)[6] == 1


def test_restrike_under_the_pedal_has_its_own_velocity():
    piece = performance_of([(0.0, 0.004, C4, 127), (0.016, 0.020, C4, 64)], {SUSTAIN: [(0.0, 127), (0.028, 0)]})
    low = np.float32(64 / 127)
    assert row(piece, "held_velocity", 8).tolist() == [1, 1, 1, 1, low, low, low, 0]
    assert np.flatnonzero(row(piece, "release_age", 8)).tolist() == [7]


@pytest.mark.parametrize("velocities", [(100, 50), (50, 100)])
def test_two_onsets_of_a_key_in_one_frame(velocities):
    """Of two onsets of a key in one frame the louder counts, and after the frame the last."""
    piece = performance_of([(0.0041, 0.005, C4, velocities[0]), (0.0055, 0.02, C4, velocities[1])])
    loud, last = np.float32(100 / 127), np.float32(velocities[1] / 127)
    assert row(piece, "onset", 6).tolist() == [0, loud, 0, 0, 0, 0]
    assert row(piece, "held_velocity", 6).tolist() == [0, loud, last, last, last, 0]
    assert np.flatnonzero(row(piece, "release_age", 6)).tolist() == [5]
    assert row(piece, "onset", 1, first=1).tolist() == [loud]  # also where the crop begins at them


def test_note_shorter_than_a_frame():
    """A note shorter than a frame sounds in the frame of its onset."""
    piece = performance_of([(0.009, 0.0095, C4, 127)])
    assert row(piece, "held_velocity", 5).tolist() == [0, 0, 1, 0, 0]
    assert np.flatnonzero(row(piece, "release_age", 5)).tolist() == [3, 4]


def test_note_from_before_the_start_has_no_onset():
    piece = performance_of([(-0.01, 0.008, C4, 127)])
    assert not row(piece, "onset", 5).any()
    assert row(piece, "held_velocity", 5).tolist() == [1, 1, 0, 0, 0]
    assert row(piece, "onset", 5, first=-5).tolist() == [0, 0, 1, 0, 0]  # frame -3 covers -12 to -8 ms
    assert row(piece, "onset_age", 1)[0] == pytest.approx(math.exp(-3 * FRAME / 0.5), rel=1e-6)


def test_onset_on_a_frame_edge_opens_its_frame():
    frames = np.arange(0, 20_000, 7)
    for times in (frames / MIDI_HZ, frames * FRAME, np.cumsum(np.full(len(frames), 7 * FRAME)) - 7 * FRAME):
        piece = performance_of([(t, t, C4, 127) for t in times])
        assert np.flatnonzero(row(piece, "onset", 20_000)).tolist() == frames.tolist()


def test_pedal_rows_hold_the_last_value():
    pedals = {SUSTAIN: [(-0.1, 127), (0.0081, 0)], SOSTENUTO: [(0.004, 64)], SOFT: []}
    rows = note_conditioning(performance_of([(0, 1, C4, 1)], pedals), "pedals").features(0, 4)
    assert rows.tolist() == [[1, 1, 0, 0], [0, *[np.float32(64 / 127)] * 3], [0, 0, 0, 0]]
    assert rows.dtype == np.float32
    before = note_conditioning(performance_of([(0, 1, C4, 1)], pedals), "pedals").features(-50, 50)
    assert before[0].tolist() == [0] * 25 + [1] * 25 and not before[1:].any()


def test_long_pieces_raise_no_warning_of_overflow():
    piece = performance_of([(100.0, 100.1, C4, 127)])
    assert np.flatnonzero(row(piece, "release_age", 25_100))[0] == 25_025


def slow_features(piece: Performance, first: int, n: int) -> np.ndarray:
    """All of note_state, frame by frame and key by key, from what the features are said to mean."""

    def frame_of(seconds: float) -> int:
        return math.floor((seconds + 1e-6) * MIDI_HZ)

    rows = np.zeros((4, N_PITCHES, n))
    ends = sounding_offset(piece)
    notes = {key: [] for key in range(N_PITCHES)}
    for onset, end, pitch, velocity in zip(piece.onset, ends, piece.pitch, piece.velocity, strict=True):
        begin = frame_of(onset)
        until = max(begin + 1, frame_of(end)) if math.isfinite(end) else math.inf
        notes[pitch - MIN_PITCH].append((begin, until, velocity / 127))
    for key, column in ((key, column) for key in notes for column in range(n)):
        frame = first + column
        struck = [velocity for begin, _, velocity in notes[key] if begin == frame]
        past = [note for note in notes[key] if note[0] <= frame]
        if not past:
            continue
        begin, until, velocity = past[-1]
        rows[0, key, column] = max(struck, default=0)
        rows[1, key, column] = max(struck) if struck else velocity * (frame < until)
        rows[2, key, column] = math.exp(-(frame - begin) / MIDI_HZ / 0.5)
        rows[3, key, column] = math.exp(-(frame - until) / MIDI_HZ / 0.1) if frame >= until else 0
    pedals = np.zeros((3, n))
    for line, controller in zip(pedals, (64, 66, 67), strict=True):
        for seconds, value in piece.pedals[controller]:
            line[max(0, frame_of(seconds) - first) :] = value / 127
    return np.concatenate([*rows, pedals])


@pytest.mark.parametrize("seed", range(4))
def test_features_equal_the_slow_reference(seed):
    piece = dense_performance(seed)
    fast, slow = note_conditioning(piece).features(-100, 550), slow_features(piece, -100, 550)
    assert fast.shape == slow.shape == (n_features(["note_state"]), 550)
    np.testing.assert_allclose(fast, slow, rtol=1e-6, atol=1e-30)
    assert fast.min() >= 0 and fast.max() <= 1
