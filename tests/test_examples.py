"""The examples are what is typed in, and the MIDI reader has nothing to say against them."""

import importlib.util
from pathlib import Path

import pytest

import midi

FOLDER = Path(__file__).resolve().parent.parent / "examples"
SPEC = importlib.util.spec_from_file_location("type_in", FOLDER / "type_in.py")
type_in = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(type_in)


@pytest.mark.parametrize("name", type_in.PIECES)
def test_an_example_is_what_is_typed_in(name, tmp_path, monkeypatch):
    monkeypatch.setattr(type_in, "HERE", tmp_path)
    type_in.main()
    assert (tmp_path / f"{name}.mid").read_bytes() == (FOLDER / f"{name}.mid").read_bytes()
    piece = midi.read_midi(FOLDER / f"{name}.mid")
    assert not piece.dropped and 7 < piece.offset.max() < 60
    assert name in (FOLDER / "README.md").read_text(encoding="utf-8")


def test_names_are_pitches():
    assert [type_in.pitch(name) for name in ("C4", "A0", "C8", "F#4", "Bb3")] == [60, 21, 108, 66, 58]


def test_a_voice_keeps_length_and_loudness_until_told_otherwise():
    assert type_in.voice("C4+E4:0.5:80 .  D4 | F4:2") == [
        (0.0, 0.5, 60, 80), (0.0, 0.5, 64, 80), (1.0, 0.5, 62, 80), (1.5, 2.0, 65, 80)
    ]  # fmt: skip


def test_first_bars():
    bach, elise = (midi.read_midi(FOLDER / f"{name}.mid") for name in ("bach_prelude", "fur_elise"))
    assert bach.pitch[:16].tolist() == [60, 64, 67, 72, 76, 67, 72, 76] * 2
    melody = elise.pitch[elise.pitch > 62][:9].tolist()
    assert melody == [76, 75, 76, 75, 76, 71, 74, 72, 69]
