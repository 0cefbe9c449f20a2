"""Files of codes: what is written is read, and what is none of ours is refused in one line."""

import numpy as np
import pytest

from midi2wave.sampling.code_files import FORMAT, Codes, load_codes, save_codes
from midi2wave.utils.errors import InputError

WHOLE = {
    "format": np.array(FORMAT),
    "codes": np.array([3, 0, 7, 2], dtype=np.int16),
    "first": np.array(-1),
    "n_frames": np.array(3),
    "n_codes": np.array(8),
    "midi_hz": np.array(250),
    "weights_sha256": np.array(""),
}


def test_what_is_written_is_read(tmp_path):
    codes = Codes(np.array([3, 0, 7, 2, 2], dtype=np.int16), -1, 3, 8, 250, "abc")
    save_codes(tmp_path / "a.codes.npz", codes)
    read = load_codes(tmp_path / "a.codes.npz")
    assert read.same_as(codes) and read.weights_sha256 == "abc" and read.codes.dtype == np.int16
    for other in (
        Codes(codes.codes[::-1], -1, 3, 8, 250),
        Codes(codes.codes, 0, 3, 8, 250),
        Codes(codes.codes, -1, 4, 8, 250),
    ):
        assert not read.same_as(other)


def test_frames_have_their_numbers_and_the_ends_go_on():
    codes = Codes(np.array([3, 0, 7, 2], dtype=np.int16), -1, 3, 8, 250)
    assert codes.frames(-1, 4).tolist() == [3, 0, 7, 2] and codes.frames(1, 2).tolist() == [7, 2]
    assert codes.frames(-3, 3).tolist() == [3, 3, 3] and codes.frames(2, 4).tolist() == [2, 2, 2, 2]
    assert codes.frames(0, 1).dtype == np.int64


def test_a_file_by_hand_may_hold_just_its_frames(tmp_path):
    np.savez(tmp_path / "a.npz", **WHOLE | {"first": np.array(0), "n_frames": np.array(4)})
    assert load_codes(tmp_path / "a.npz").frames(0, 5).tolist() == [3, 0, 7, 2, 2]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"codes": np.array([0, 8, 0, 0])}, "from 0 to 8, expected 0 to 7"),
        ({"codes": np.array([0, -1, 0, 0])}, "from -1 to 0"),
        ({"codes": np.array([0, 1 << 40, 0, 0])}, "expected 0 to 7"),
        ({"codes": np.array([0.0, 1.0, 2.0, 3.0])}, "float64"),
        ({"codes": np.zeros((1, 4), dtype=np.int16)}, "[1, 4]"),
        ({"codes": np.array([], dtype=np.int16)}, "0 codes from frame -1 on"),
        ({"codes": np.array([3, 0, 7], dtype=np.int16)}, "not those of 3 frames"),
        ({"n_frames": np.array(0)}, "0 frames"),
        ({"first": np.array(1)}, "from frame 1 on"),
        ({"n_codes": np.array([8, 8])}, "its n_codes is not one whole number"),
        ({"midi_hz": np.array(250.5)}, "its midi_hz is not one whole number"),
        ({"format": np.array("midi2wave note events 1")}, "its format is not"),
        ({"codes": np.array([{}], dtype=object)}, "allow_pickle"),
    ],
)
def test_refused_in_one_line(tmp_path, wrong, words):
    path = tmp_path / "a.codes.npz"
    np.savez(path, **WHOLE | wrong)
    with pytest.raises(InputError) as refused:
        load_codes(path)
    said = str(refused.value)
    assert str(path) in said and words in said and "\n" not in said


@pytest.mark.parametrize("n_bytes", [0, 10, 400, -1])
def test_cut_off_or_not_there(tmp_path, n_bytes):
    path = tmp_path / "a.codes.npz"
    save_codes(path, Codes(np.zeros(500, dtype=np.int16), 0, 500, 8, 250))
    path.write_bytes(path.read_bytes()[:n_bytes])
    with pytest.raises(InputError, match="not a whole file of codes"):
        load_codes(path)
    with pytest.raises(InputError, match="no such file of codes"):
        load_codes(tmp_path / "b.codes.npz")


@pytest.mark.parametrize("missing", sorted(WHOLE))
def test_a_part_that_is_not_there_is_named(tmp_path, missing):
    np.savez(tmp_path / "a.npz", **{name: value for name, value in WHOLE.items() if name != missing})
    with pytest.raises(InputError, match=missing):
        load_codes(tmp_path / "a.npz")
