"""Held-out pieces: no second of audio is in two splits, and the parts are those that were asked for."""

import pytest

from midi2wave.finetuning.pieces import UsablePair, clip_seconds, holds_out_middles, plan_pieces
from midi2wave.utils.errors import InputError


def pairs(n, seconds=100.0, late_seconds=0.0):
    return [UsablePair(f"{k}/take.wav", f"{k}/take.mid", seconds + k, late_seconds, str(k)) for k in range(n)]


def seconds_of(pieces):
    return {
        split: sum(one.recording.duration for one in pieces if one.recording.split == split)
        for split in ("train", "validation", "test")
    }


@pytest.mark.parametrize("hold_out", [0.05, 0.1, 0.3])
def test_the_middles_of_few_recordings_are_held_out(tmp_path, hold_out):
    pieces = plan_pieces(tmp_path, pairs(3), hold_out, seed=0)
    assert holds_out_middles(pieces)
    by_recording = [pieces[first : first + 4] for first in range(0, 12, 4)]
    for own in by_recording:
        assert [one.recording.split for one in own] == ["train", "test", "validation", "train"]
        assert own[0].stretch.start == 0 and own[1].stretch.end == own[-1].stretch.end / 2
        assert [one.stretch.end for one in own[:-1]] == [one.stretch.start for one in own[1:]]
    total = sum(pair.seconds for pair in pairs(3))
    seconds = seconds_of(pieces)
    assert seconds["test"] == pytest.approx(hold_out * total)
    assert seconds["validation"] == pytest.approx(hold_out * total)
    assert len({one.recording.index for one in pieces}) == 12 and len({one.name for one in pieces}) == 3


@pytest.mark.parametrize("seed", range(5))
def test_whole_recordings_of_many_are_held_out(tmp_path, seed):
    pieces = plan_pieces(tmp_path, pairs(40), 0.1, seed)
    assert not holds_out_middles(pieces) and len(pieces) == 40
    seconds = seconds_of(pieces)
    total = sum(seconds.values())
    assert seconds["test"] / total == pytest.approx(0.1, abs=0.02)
    assert seconds["validation"] / total == pytest.approx(0.1, abs=0.02)


def test_the_seed_decides_which(tmp_path):
    splits = [[one.recording.split for one in plan_pieces(tmp_path, pairs(40), 0.1, seed)] for seed in (0, 0, 1)]
    assert splits[0] == splits[1] != splits[2]


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("minutes", [[100] + [1] * 9, [60] + [3] * 9, [1] * 5 + [8] * 8, [2] * 10])
def test_recordings_of_unequal_lengths(tmp_path, minutes, seed):
    """No split is empty, and about 0.1 of the seconds are held out for each, in whole recordings as far as they fit."""
    recordings = [UsablePair(f"{k}.wav", f"{k}.mid", 60.0 * one, 0.0, str(k)) for k, one in enumerate(minutes)]
    pieces = plan_pieces(tmp_path, recordings, 0.1, seed)
    seconds = seconds_of(pieces)
    assert sum(seconds.values()) == pytest.approx(60 * sum(minutes))
    longest = max(0.12 * sum(minutes), min(minutes))
    assert all(0 < seconds[split] <= 60 * longest for split in ("validation", "test"))
    assert not holds_out_middles(pieces)


def test_the_middles_of_long_recordings_are_held_out(tmp_path):
    """Ten recordings of which the shortest is more than could be held out of two long ones."""
    recordings = [UsablePair(f"{k}.wav", f"{k}.mid", 60.0, 0.0, "same") for k in range(10)]
    pieces = plan_pieces(tmp_path, recordings, 0.1, 0)
    assert holds_out_middles(pieces)


def test_recordings_of_the_same_notes_are_in_one_split(tmp_path):
    recordings = [one._replace(notes_sha256=str(k // 2)) for k, one in enumerate(pairs(40))]
    for seed in range(5):
        splits = {}
        for piece in plan_pieces(tmp_path, recordings, 0.1, seed):
            splits.setdefault(piece.notes_sha256, set()).add(piece.recording.split)
        assert all(len(one) == 1 for one in splits.values()) and len(splits) == 20


def test_names_are_unique(tmp_path):
    paths = ["a/b.wav", "a_b.wav", "c.wav"]
    recordings = [UsablePair(path, f"{path}.mid", 60.0, 0.0, path) for path in paths]
    names = {piece.recording.audio_filename: piece.name for piece in plan_pieces(tmp_path, recordings, 0.1, 0)}
    assert len(set(names.values())) == 3 and names["c.wav"] == "c"


def test_all_lags_are_corrected(tmp_path):
    for n in (3, 12):
        pieces = plan_pieces(tmp_path, pairs(n, late_seconds=-0.004), 0.1, 0)
        assert {one.stretch.late_seconds for one in pieces} == {-0.004}


def test_clips_fit_into_the_test_pieces(tmp_path):
    assert clip_seconds(plan_pieces(tmp_path, pairs(1, 60.0), 0.1, 0), "test", 10.0) == 2.0  # A third of 6 s.
    assert clip_seconds(plan_pieces(tmp_path, pairs(3, 60.0), 0.1, 0), "test", 10.0) == 6.0
    assert clip_seconds(plan_pieces(tmp_path, pairs(40), 0.1, 0), "test", 10.0) == 10.0
    with pytest.raises(InputError, match=r"room for clips of 0\.4 s.*--hold_out"):
        clip_seconds(plan_pieces(tmp_path, pairs(1, 60.0), 0.02, 0), "test", 10.0)


def test_too_little_is_refused(tmp_path):
    with pytest.raises(InputError, match="59 s of usable recordings, expected at least 60"):
        plan_pieces(tmp_path, pairs(1, 59.0), 0.1, 0)
