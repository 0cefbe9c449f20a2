"""The example MIDI files are those that type_in.py writes, are read without warnings, and are the pieces named."""

import importlib.util
import io

import mido
import numpy as np
import pytest

from midi2wave.midi import reader as midi_reader
from midi2wave.midi.performance import sounding_offset
from tests.helpers.paths import ROOT

FOLDER = ROOT / "examples"
SPEC = importlib.util.spec_from_file_location("type_in", FOLDER / "type_in.py")
type_in = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(type_in)


def example(name):
    return midi_reader.read_midi(FOLDER / f"{name}.mid")


@pytest.mark.parametrize("name", type_in.PIECES)
def test_an_example_is_what_type_in_writes(name):
    made = io.BytesIO()
    type_in.piece_to_midi(type_in.PIECES[name]).write(made)
    assert made.getvalue() == (FOLDER / f"{name}.mid").read_bytes(), "run: python examples/type_in.py"


@pytest.mark.parametrize("name", type_in.PIECES)
def test_an_example_is_read_whole(name):
    piece = example(name)
    typed = sum(len(type_in.voice(line)) for line in type_in.PIECES[name].voices)
    assert not piece.dropped and len(piece.pitch) == typed
    assert 8 < sounding_offset(piece).max() < 60  # infinite with a pedal that stays down


@pytest.mark.parametrize("name", type_in.PIECES)
def test_no_key_is_struck_while_it_is_down(name):
    down = set()
    for message in mido.MidiFile(FOLDER / f"{name}.mid"):
        if message.type == "note_on" and message.velocity:
            assert message.note not in down
            down.add(message.note)
        elif message.type in ("note_on", "note_off"):
            down.remove(message.note)
    assert not down


def test_every_example_is_listed():
    listed = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert [path.name for path in FOLDER.glob("*.mid") if f"`{path.name}`" not in listed] == []


@pytest.mark.parametrize("name", [name for name, piece in type_in.PIECES.items() if piece.phrase_beats])
def test_voices_and_beats_add_up(name):
    piece = type_in.PIECES[name]
    ends = {max(beat + beats for beat, beats, *_ in type_in.words(line)) for line in (*piece.voices, piece.pedal)}
    assert len(ends) == 1


def test_names_are_pitches():
    assert [type_in.pitch(name) for name in ("C4", "A0", "C8", "F#4", "Bb3")] == [60, 21, 108, 66, 58]


def test_beats_and_velocity_are_those_of_the_word_before():
    assert type_in.voice("C4+E4:0.5:80 .  D4 | F4:2 G4::60") == [
        (0.0, 0.5, 60, 80),
        (0.0, 0.5, 64, 80),
        (1.0, 0.5, 62, 80),
        (1.5, 2.0, 65, 80),
        (3.5, 2.0, 67, 60),
    ]


def test_bachs_first_bars():
    first, second = [60, 64, 67, 72, 76, 67, 72, 76], [60, 62, 69, 74, 77, 69, 74, 77]
    assert example("bach_prelude").pitch[:32].tolist() == first * 2 + second * 2


def test_beethovens_first_bars():
    elise = example("fur_elise")
    assert elise.pitch[:9].tolist() == [76, 75, 76, 75, 76, 71, 74, 72, elise.pitch[8]]
    assert sorted(elise.pitch[8:15]) == sorted([45, 69, 52, 57, 60, 64, 69])


def test_saties_first_bars_and_melody():
    satie = example("gymnopedie")
    bars = [satie.pitch[i] for i in (0, slice(1, 4), 4, slice(5, 8))]
    assert [sorted(np.atleast_1d(bar)) for bar in bars] == [[43], [59, 62, 66], [38], [57, 61, 66]]
    assert satie.pitch[satie.pitch > 66].tolist() == [78, 81, 79, 78, 73, 71, 73, 74, 69] * 2


def test_the_chords_of_the_scale():
    """Chords are soft, medium and loud, then without and with pedal."""
    scale = example("scale")
    assert scale.pitch[:19].tolist() == sorted(set(scale.pitch))
    assert scale.velocity[19:].reshape(5, 3).tolist() == [[v] * 3 for v in (30, 64, 110, 64, 64)]
    ringing = sounding_offset(scale) - scale.offset
    assert ringing[:-3].max() == 0 and ringing[-3:].min() > 1
