"""Types the examples in: public-domain music, as notes and beats, and the little that makes a performance of them.

    python examples/type_in.py                # writes the .mid files beside this one

A voice is a line of words "NAME+NAME:beats:velocity": notes struck together, how long they last in quarter notes, how
loud; beats and velocity stay as they were where they are left out. A dot rests, bar lines are for the eye. The pedal is
a voice too: "Ped" for as long as it is down, taken anew with every word.
"""

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import mido
import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from midi2wave.midi.performance import PEDALS, SUSTAIN, Performance  # noqa: E402
from midi2wave.midi.writer import to_midi_file  # noqa: E402
from midi2wave.utils.atomic_files import atomic_file  # noqa: E402 - the project's folder must be on the path
from midi2wave.utils.cli import run  # noqa: E402

STEPS = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}
LEAD_IN_SECONDS = 0.3  # silence before the first note
RITARDANDO = 0.35  # the last fifth slows down until a beat is this much longer
SWELL = 10  # velocity steps between the ends of a phrase and its middle
UNEVEN_SECONDS, UNEVEN_VELOCITY = 0.006, 2.0  # standard deviations: no two notes of a hand's chord are quite alike
LEGATO = 0.95  # the part of its length for which a key is down
KEY_UP_SECONDS = 0.03  # a key has to come up before it can be struck again
PEDAL_UP_SECONDS, PEDAL_DOWN_SECONDS = 0.01, 0.1  # after the harmony changes: the new one is caught, the old one gone


@dataclass(frozen=True)
class Piece:
    """What is typed in. Phrases of `phrase_beats` swell; 0: played exactly as written, without any expression."""

    voices: tuple[str, ...]
    pedal: str
    tempo: float  # quarter notes in a minute
    phrase_beats: float


def pitch(name: str) -> int:
    """C4 is 60; # and b come after the letter."""
    letter, accidental, octave = name[0], name[1:-1], name[-1]
    return 12 * (int(octave) + 1) + STEPS[letter] + accidental.count("#") - accidental.count("b")


def words(line: str) -> Iterator[tuple[float, float, str, int]]:
    """(beat, beats, names, velocity) of each word of a voice or of the pedal, rests left out."""
    beat, beats, velocity = 0.0, 1.0, 70
    for word in line.replace("|", " ").split():
        names, *given = word.split(":")
        beats = float(given[0]) if given and given[0] else beats
        velocity = int(given[1]) if len(given) > 1 else velocity
        if names != ".":
            yield beat, beats, names, velocity
        beat += beats


def voice(line: str) -> list[tuple[float, float, int, int]]:
    """(beat, beats, pitch, velocity) of a voice's notes."""
    return [(beat, beats, pitch(n), velocity) for beat, beats, names, velocity in words(line) for n in names.split("+")]


def perform(piece: Piece) -> Performance:
    """Seconds instead of beats: phrases swell, the end slows down, the unevenness has a fixed seed."""
    rng, expression = np.random.default_rng(0), float(piece.phrase_beats > 0)
    notes = sorted(note for line in piece.voices for note in voice(line))
    last = max(beat + beats for beat, beats, *_ in notes)

    def seconds(beat: float) -> float:
        beyond = expression * max(0.0, beat - 0.8 * last)  # the beat's length grows linearly, so the time as a square
        return LEAD_IN_SECONDS + 60 / piece.tempo * (beat + RITARDANDO * beyond**2 / (0.4 * last))

    played = []
    for beat, beats, key, velocity in notes:
        phase = beat % piece.phrase_beats / piece.phrase_beats if expression else 0.0
        loudness = velocity + expression * (SWELL * (np.sin(np.pi * phase) - 0.5) + rng.normal(scale=UNEVEN_VELOCITY))
        onset = seconds(beat) + expression * rng.normal(scale=UNEVEN_SECONDS)
        played.append((key, onset, seconds(beat + LEGATO * beats), int(np.clip(round(loudness), 1, 127))))
    played.sort()
    for i, (key, onset, offset, velocity) in enumerate(played[:-1]):
        if played[i + 1][0] == key:
            played[i] = (key, onset, min(offset, played[i + 1][1] - KEY_UP_SECONDS), velocity)

    key, onset, offset, velocity = (np.array(column) for column in zip(*sorted(played, key=_in_time), strict=True))
    pedals = {controller: np.empty((0, 2)) for controller in PEDALS}
    pressed = [(beat, beat + beats) for beat, beats, *_ in words(piece.pedal)]
    moves = [(seconds(down) + PEDAL_DOWN_SECONDS, 127.0) for down, _ in pressed]
    moves += [(seconds(up) + PEDAL_UP_SECONDS, 0.0) for _, up in pressed]
    pedals[SUSTAIN] = np.array(sorted(moves))
    return Performance(onset, offset, key, velocity, pedals)


def _in_time(note: tuple[int, float, float, int]) -> tuple[float, int]:
    return note[1], note[0]


def prelude(bars: list[str], ending: tuple[str, str, str]) -> tuple[str, str, str]:
    """The three voices of Bach's figure from "velocity low second a b c" per bar, whose halves are alike.

    The low note is held for the half bar, the second one from its entry on; a b c a b c run above, c as the melody.
    """
    lines = ([], [], [])
    for bar in bars:
        loud, low, second, a, b, c = bar.split()
        top, soft = int(loud) + 2, int(loud) - 8
        rising = f"{a}:0.25:{soft} {b} {c}::{top}"
        lines[0].append(f"{low}:2:{loud} {low}")
        lines[1].append(f".:0.25 {second}:1.75:{soft} .:0.25 {second}:1.75")
        lines[2].append(" ".join([".:0.5", rising, rising] * 2))
    return tuple(" | ".join([*line, end]) for line, end in zip(lines, ending, strict=True))


PRELUDE = Piece(
    prelude(
        [
            "60 C4 E4 G4 C5 E5", "60 C4 D4 A4 D5 F5", "63 B3 D4 G4 D5 F5", "59 C4 E4 G4 C5 E5",
            "65 C4 E4 A4 E5 A5", "61 C4 D4 F#4 A4 D5", "67 B3 D4 G4 D5 G5", "61 B3 C4 E4 G4 C5",
            "59 A3 C4 E4 G4 C5", "64 D3 A3 D4 F#4 C5", "60 G3 B3 D4 G4 B4",
        ],
        ("C3:4:58", "G3:4:50", "E4+G4+C5:4:56"),
    ),
    pedal=" | ".join(["Ped:4"] * 12),
    tempo=72,
    phrase_beats=16,
)  # fmt: skip

_ELISE_RIGHT = (
    "| E5:0.25:66 D#5 E5 B4 D5 C5 | A4:0.5:70 .:0.25 C4:0.25:56 E4:0.25:58 A4:0.25:62"
    "| B4:0.5:70 .:0.25 E4:0.25:56 G#4:0.25:58 B4:0.25:62 | C5:0.5:72 .:0.25 E4:0.25:56 E5:0.25:64 D#5"
    "| E5:0.25:68 D#5 E5 B4 D5 C5 | A4:0.5:70 .:0.25 C4:0.25:56 E4:0.25:58 A4:0.25:62"
    "| B4:0.5:70 .:0.25 E4:0.25:56 C5:0.25:66 B4:0.25:62"
)
_ELISE_LEFT = (
    "| .:1.5 | A2:0.25:52 E3:0.25:46 A3 .:0.75 | E2:0.25:52 E3:0.25:46 G#3 .:0.75 | A2:0.25:52 E3:0.25:46 A3 .:0.75"
    "| .:1.5 | A2:0.25:52 E3:0.25:46 A3 .:0.75 | E2:0.25:52 E3:0.25:46 G#3 .:0.75"
)
_ELISE_PEDAL = "| .:1.5 | Ped:1.5 | Ped:1.5 | Ped:1 .:0.5 | .:1.5 | Ped:1.5 | Ped:1 .:0.5"  # never under the half steps
FUR_ELISE = Piece(
    (
        f"E5:0.25:64 D#5 {_ELISE_RIGHT} | A4:0.5:70 .:0.5 E5:0.25:62 D#5 {_ELISE_RIGHT} | A4:1.5:64",
        f".:0.5 {_ELISE_LEFT} | A2:0.25:52 E3:0.25:46 A3 .:0.75 {_ELISE_LEFT} | A2:0.25:50 E3:0.25:44 A3:1",
    ),
    pedal=f".:0.5 {_ELISE_PEDAL} | Ped:1 .:0.5 {_ELISE_PEDAL} | Ped:1.5",
    tempo=72,
    phrase_beats=12,
)

GYMNOPEDIE = Piece(
    (
        ".:12 | .:1 F#5:1:70 A5:1:74 | G5:1:73 F#5:1:71 C#5:1:69 | B4:1:68 C#5:1:70 D5:1:72 | A4:3:68 | F#4:12:64"
        "| .:1 F#5:1:70 A5:1:74 | G5:1:73 F#5:1:71 C#5:1:69 | B4:1:68 C#5:1:69 D5:1:70 | A4:3:66",
        " | ".join(["G2:3:54 | D2:3:52"] * 8),
        " | ".join([".:1 B3+D4+F#4:2:44 | .:1 A3+C#4+F#4:2:42"] * 8),
    ),
    pedal=" | ".join(["Ped:3"] * 16),
    tempo=76,
    phrase_beats=12,
)

SCALE = Piece(
    (
        "C2:0.5:70 G2 C3 E3 G3 C4 D4 E4 F4 G4 A4 B4 C5 E5 G5 C6 E6 G6 C7 .:0.5"  # single notes over the keyboard
        "| C4+E4+G4:1:30 C4+E4+G4:1:64 C4+E4+G4:1:110"  # soft, medium, loud
        "| .:1 C4+E4+G4:0.5:64 .:1.5 C4+E4+G4:0.5:64",  # the same short chord without the pedal and with it
    ),
    pedal=".:16 Ped:4",
    tempo=120,
    phrase_beats=0,
)
PIECES = {"bach_prelude": PRELUDE, "fur_elise": FUR_ELISE, "gymnopedie": GYMNOPEDIE, "scale": SCALE}


def written(piece: Piece) -> mido.MidiFile:
    """The piece as a MIDI file: piano, times in steps of 0.1 ms; the tempo lies in the times, as in a recording."""
    return to_midi_file(perform(piece), program=0, tail_seconds=0.0, ticks_per_second=10_000)[0]


def main(argv: list[str] | None = None) -> int:
    """Write all of them; returns the exit code."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args(argv)
    for name, piece in PIECES.items():
        with atomic_file(HERE / f"{name}.mid") as tmp_path:
            written(piece).save(tmp_path)
    print(f"{len(PIECES)} files written to {HERE}")
    return 0


if __name__ == "__main__":
    run(main)
