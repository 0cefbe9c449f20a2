"""Audio and MIDI files with equal names, in one folder or in two."""

from pathlib import Path

import pytest

from midi2wave.recordings.pairs import find_pairs
from midi2wave.utils.errors import InputError

HZ = 16000


def make_files(folder: Path, *names: str) -> None:
    """Empty files: only their names count."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def pairs_in(folder: Path, resampled_dir: Path | None = None) -> tuple[dict[str, str], list[str]]:
    """MIDI and audio file of each pair, and the files without a partner, as relative names."""
    listing = find_pairs(folder, HZ, resampled_dir)
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
    make_files(tmp_path, "a.wav", "a_16000.wav", "a.mid", "audio/b.wav", "audio/b_16000.wav", "midi/b.mid")
    assert pairs_in(tmp_path) == ({"a.mid": "a_16000.wav", "midi/b.mid": "audio/b_16000.wav"}, [])


def test_files_of_different_folders(tmp_path):
    make_files(tmp_path, "audio/a.wav", "audio/b.wav", "audio/b.flac", "midi/a.mid", "midi/b.mid")
    assert pairs_in(tmp_path)[0] == {"midi/a.mid": "audio/a.wav", "midi/b.mid": "audio/b.wav"}


def test_what_could_belong_to_two_is_left_out(tmp_path):
    make_files(tmp_path, "audio/a.wav", "midi/a.mid", "other/a.mid", "audio/b.wav", "more/b.wav", "midi/b.mid")
    make_files(tmp_path, "c.wav", "c.mid", "c.midi", "alone.aiff", "lost.mid")
    pairs, unmatched = pairs_in(tmp_path)
    assert pairs == {"c.mid": "c.wav"}
    assert unmatched == [
        *("alone.aiff", "audio/a.wav", "audio/b.wav", "c.midi", "lost.mid", "midi/a.mid", "midi/b.mid", "more/b.wav"),
        "other/a.mid",
    ]


def test_a_folder_of_resampled_audio(tmp_path):
    """Its files lie where the originals lie; an original that was not resampled has no partner."""
    make_files(tmp_path / "raw", "x/a.flac", "x/a.mid", "audio/b.flac", "midi/b.mid", "audio/c.flac", "midi/c.mid")
    make_files(tmp_path / "resampled", "x/a_16000.wav", "audio/b_16000.wav")
    pairs, unmatched = pairs_in(tmp_path / "raw", tmp_path / "resampled")
    assert pairs == {"x/a.mid": "x/a_16000.wav", "midi/b.mid": "audio/b_16000.wav"}
    assert unmatched == ["audio/c.flac", "midi/c.mid"]


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
