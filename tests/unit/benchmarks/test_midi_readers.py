"""The comparison of MIDI readers: kinds, numbers, and the table in a page."""

import pytest

from benchmarks import midi_readers
from tests.helpers.midi_bytes import off, on, smf, tempo, track
from tests.helpers.paths import ROOT
from tests.helpers.pipeline import assert_refused, call

NOTE = track((0, on(60)), (480, off(60)))

TWO_NOTES = track((0, on(60)), (480, off(60)), (480, on(62)), (960, off(62)))


@pytest.fixture
def folder(tmp_path):
    files = {
        "set/plain.mid": smf(NOTE),
        "set/short.mid": smf(track((0, on(60)), (0, off(60)), (0, on(62)), (480, off(62)))),
        "set/tempo.mid": smf(
            track((0, on(60)), (480, off(60)), (480, on(62)), (960, off(62))), track((0, tempo(10**6)))
        ),
        "wrapped.rmi": b"RIFF\0\0\0\0RMIDdata\0\0\0\0" + smf(NOTE),
        "text.mid": b"a letter",
    }
    for name, data in files.items():
        (tmp_path / "midi" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "midi" / name).write_bytes(data)
    return tmp_path / "midi"


def test_every_file_counts_under_its_kind(folder, capsys):
    assert midi_readers.main([str(folder)]) == 0
    printed = capsys.readouterr()
    table = {row.strip("| ").split(" | ")[0]: row.strip("| ").split(" | ")[1:-1] for row in printed.out.splitlines()}
    assert table["ordinary, set"] == ["1", "1 / 1", "1 / 1", "0 / 0", "0, 0, 0"]
    assert table["keys released in the tick of their press"] == ["1", "1 / 1", "2 / 1", "1 / 0", "0, 0, 0"]
    assert table["tempo changes on a track other than the first"] == ["1", "1 / 1", "2 / 2", "1 / 1", "1, 0, 0"]
    assert table["in a RIFF wrapper"] == ["1", "1 / 0", "1 / 0", "0 / 0", "0, 0, 0"]
    assert table["text, such as a git-lfs pointer"][0] == "1"
    differing = [line for line in printed.err.splitlines() if str(folder) in line]
    assert len(differing) == 3 and "plain" not in printed.err and "OSError" in printed.err


def test_the_table_is_written_into_a_page(folder, tmp_path, capsys):
    page = tmp_path / "page.md"
    page.write_text(f"before\n{midi_readers.BEGIN}\nold\n{midi_readers.END}\nafter\n")
    assert midi_readers.main([str(folder), "--page", str(page)]) == 0
    text = page.read_text()
    assert "old" not in text and "| in a RIFF wrapper |" in text and text.endswith("after\n")


def test_the_table_of_the_documentation_has_the_columns_of_today():
    page = (ROOT / "docs/midi.md").read_text(encoding="utf-8")
    assert midi_readers.HEADER in page
    assert all(kind.name in page or kind.name == "SMPTE time" for kind in midi_readers.KINDS)


def test_folders_without_midi_are_refused(tmp_path):
    assert_refused(call(midi_readers, tmp_path / "gone"), "no such folder")
    assert_refused(call(midi_readers, tmp_path), "no MIDI files")
