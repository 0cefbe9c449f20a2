"""Audio and MIDI files with equal names, in one folder or in two."""

from pathlib import Path

import pytest

from midi2wave.data.maestro import resampled_name
from midi2wave.recordings.pairs import find_pairs
from midi2wave.utils.errors import InputError

HZ = 16000


def make_files(folder: Path, *names: str) -> None:
    """Empty files: only their names count."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def pairs_in(
    folder: Path, resampled_dir: Path | None = None, *, prefer_originals: bool = False
) -> tuple[dict[str, str], list[str]]:
    """MIDI and audio file of each pair, and the files without a partner, as relative names."""
    listing = find_pairs(folder, HZ, resampled_dir, prefer_originals=prefer_originals)
    audio_dir = resampled_dir or folder
    names = {
        midi.relative_to(folder).as_posix(): audio.relative_to(audio_dir).as_posix() for audio, midi in listing.pairs
    }
    assert len(names) == len(listing.pairs)
    return names, [path.relative_to(folder).as_posix() for path in listing.unmatched]


def test_files_of_one_folder_at_any_depth(tmp_path):
    make_files(tmp_path, "a/one.flac", "a/one.MID", "a/b/two.wav", "a/b/two.midi", "three.mp3", "three.mid")
    assert pairs_in(tmp_path) == (
        {"a/b/two.midi": "a/b/two.wav", "a/one.MID": "a/one.flac", "three.mid": "three.mp3"},
        [],
    )


def test_a_resampled_file_takes_the_place_of_its_original(tmp_path):
    make_files(tmp_path, "a.wav", "a_16000.wav", "a.mid", "audio/b.flac", "audio/b_16000.wav", "midi/b.mid")
    make_files(tmp_path, "audio/c_16000.wav", "midi/c.mid", "audio/d_44100.wav", "midi/d.mid")
    pairs, unmatched = pairs_in(tmp_path)
    expected = {"a.mid": "a_16000.wav", "midi/b.mid": "audio/b_16000.wav", "midi/c.mid": "audio/c_16000.wav"}
    assert pairs == expected
    assert unmatched == ["audio/d_44100.wav", "midi/d.mid"]
    pairs, _ = pairs_in(tmp_path, prefer_originals=True)
    assert pairs == {**expected, "a.mid": "a.wav", "midi/b.mid": "audio/b.flac"}


def test_a_name_that_ends_like_that_of_a_resampled_file(tmp_path):
    make_files(tmp_path, "a_16000.wav", "a_16000.mid", "a.wav", "a.mid", "b_16000.flac", "b_16000.mid")
    assert pairs_in(tmp_path) == ({"a.mid": "a.wav", "a_16000.mid": "a_16000.wav", "b_16000.mid": "b_16000.flac"}, [])


def test_a_long_name_is_cut_when_it_is_resampled(tmp_path):
    stem = "n" * 250
    make_files(tmp_path, f"{stem}.mid", resampled_name(f"{stem}.wav", HZ))
    assert pairs_in(tmp_path) == ({f"{stem}.mid": resampled_name(f"{stem}.wav", HZ)}, [])


def test_files_of_different_folders(tmp_path):
    make_files(tmp_path, "audio/a.wav", "audio/b.wav", "audio/b.flac", "midi/a.mid", "midi/b.mid")
    assert pairs_in(tmp_path) == ({"midi/a.mid": "audio/a.wav", "midi/b.mid": "audio/b.wav"}, [])


def test_suffixes_in_any_case(tmp_path):
    make_files(tmp_path, "a.Wav", "a.Mid", "audio/b.Flac", "midi/b.MIDI")
    assert pairs_in(tmp_path) == ({"a.Mid": "a.Wav", "midi/b.MIDI": "audio/b.Flac"}, [])


@pytest.mark.parametrize(
    ("names", "pairs"),
    [
        ("audio/a.wav midi/a.mid other/a.mid", {}),
        ("audio/a.wav more/a.wav midi/a.mid", {}),
        ("x/a.wav x/a.mid y/a.wav z/a.mid", {"x/a.mid": "x/a.wav"}),
        ("x/a.wav x/a.mid x/a.midi y/a.wav", {"x/a.mid": "x/a.wav"}),
        ("a.wav a.mid a.midi", {"a.mid": "a.wav"}),
    ],
)
def test_what_could_belong_to_two_is_left_out(tmp_path, names, pairs):
    make_files(tmp_path, *names.split())
    used = {*pairs, *pairs.values()}
    assert pairs_in(tmp_path) == (pairs, sorted(name for name in names.split() if name not in used))


@pytest.mark.parametrize("inside", [True, False])
def test_a_folder_of_resampled_audio(tmp_path, inside):
    """Its files lie where the originals lie; an original that was not resampled is named."""
    folder = tmp_path / "raw"
    resampled = folder / "resampled" if inside else tmp_path / "resampled"
    make_files(folder, "x/a.flac", "x/a.mid", "audio/b.flac", "midi/b.mid", "audio/c.flac", "midi/c.mid", "d.flac")
    make_files(resampled, "x/a_16000.wav", "audio/b_16000.wav", "d_16000.wav")
    assert pairs_in(folder, resampled) == ({"x/a.mid": "x/a_16000.wav", "midi/b.mid": "audio/b_16000.wav"}, ["d.flac"])
    assert find_pairs(folder, HZ, resampled).not_resampled == [folder / "audio/c.flac"]


def test_a_folder_without_resampled_audio_is_one_line(tmp_path):
    make_files(tmp_path, "a.flac", "a.mid", "resampled/b_16000.wav")
    with pytest.raises(InputError, match=r"of their audio no file is resampled: a.flac; run resample_audio.py, or"):
        find_pairs(tmp_path, HZ, tmp_path / "resampled").require_pairs()


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ([], "holds no audio and no MIDI files; put pairs NAME.wav and NAME.mid into it"),
        (
            ["a.wav", "b.mid"],
            r"holds 2 audio or MIDI files \(a.wav, b.mid\), but no pair .* with equal names; rename",
        ),
        (["a.aac", "a.mid"], "holds no audio that can be read: a.aac: "),
    ],
)
def test_no_pairs_is_one_line_with_the_remedy(tmp_path, names, words):
    make_files(tmp_path, *names)
    with pytest.raises(InputError, match=words):
        find_pairs(tmp_path, HZ).require_pairs()
