"""Test clips come back as written, or are refused."""

import numpy as np
import pytest

from midi2wave.data import test_clips
from midi2wave.utils.errors import InputError
from tests.helpers.processed_data import AUDIO_HZ, MADE_FROM, make_performance


def test_clips_are_read_as_written_and_damage_is_refused(tmp_path):
    folder = tmp_path / "test"
    with pytest.raises(InputError, match="holds no test clips; make some"):
        test_clips.clip_paths(folder)
    test_clips.begin_clips(folder, MADE_FROM, force=False)
    pcm = np.arange(-500, 500, dtype=np.int16)
    for number in (1, 0):
        name = test_clips.clip_name(number, "x", 1.5)
        test_clips.write_clip(folder, name, pcm + number, make_performance(0, 1.0), AUDIO_HZ)
    paths = test_clips.clip_paths(folder)
    clips = [test_clips.read_clip(path, AUDIO_HZ) for path in paths]
    assert [clip.name for clip in clips] == ["clip_000_x_1.500s", "clip_001_x_1.500s"]
    assert np.array_equal(clips[1].pcm, pcm + 1)
    assert np.array_equal(clips[1].performance.onset, make_performance(0, 1.0).onset)
    with pytest.raises(InputError, match="is at 4000 Hz, expected 16000"):
        test_clips.read_clip(paths[1], 16000)
    (folder / "clip_001_x_1.500s.npz").unlink()
    with pytest.raises(InputError, match=r"clip_001_x_1\.500s\.npz"):
        test_clips.read_clip(paths[1], AUDIO_HZ)


def test_starts_are_uniform_over_what_is_left():
    """Of starts 0..9 s beside a clip of 3 s at 4 s, those from 2 to 6 s are not possible."""
    starts, rng = np.arange(10.0), np.random.default_rng(0)
    draws = rng.integers(test_clips.N_DRAWS, size=2000).tolist()
    positions = [test_clips.choose_start(starts, [4.0], 3.0, draw, rng) for draw in draws]
    values, counts = np.unique(positions, return_counts=True)
    assert values.tolist() == [0, 1, 7, 8, 9] and counts.min() > 340
    assert test_clips.choose_start(starts, [1.0, 4.0, 7.5], 3.0, draws[0], rng) is None
    assert test_clips.choose_start(starts, [], 3.0, 12, rng) == 2
