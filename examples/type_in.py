"""Types the examples in: public-domain music, as notes and beats, and the little that makes a performance of them.

    python examples/type_in.py                # writes the .mid files beside this one

A voice is a list of words "NAME+NAME:beats:velocity": notes struck together, how long they last, how loud (both stay as
they were where they are left out); a dot rests.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from atomic import atomic_file  # noqa: E402 - the project's folder must be on the path
from midi import PEDALS, SUSTAIN, Performance  # noqa: E402
from render_midi import midi_file  # noqa: E402

STEPS = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}
LEAD_IN = 0.3  # seconds of silence before the first note
SLOWER = 0.35  # the last fifth of a piece slows down by up to this share
UNEVEN_SECONDS = 0.006  # no two notes of a chord are struck at once


@dataclass(frozen=True)
class Piece:
    """What is typed in: voices of words; beats in a minute; pedal down anew every so many beats (0: never)."""

    voices: tuple[str, ...]
    tempo: float
    pedal_beats: float


def pitch(name: str) -> int:
    """C4 is 60; # and b come after the letter."""
    letter, accidental, octave = name[0], name[1:-1], name[-1]
    return 12 * (int(octave) + 1) + STEPS[letter] + accidental.count("#") - accidental.count("b")


def voice(words: str) -> list[tuple[float, float, int, int]]:
    """(beat, beats, pitch, velocity) of a voice's notes."""
    notes, beat, beats, velocity = [], 0.0, 1.0, 70
    for word in words.replace("|", " ").split():
        names, *given = word.split(":")
        beats = float(given[0]) if given and given[0] else beats
        velocity = int(given[1]) if len(given) > 1 else velocity
        notes += [(beat, beats, pitch(name), velocity) for name in names.split("+") if name != "."]
        beat += beats
    return notes


def perform(piece: Piece) -> Performance:
    """Seconds instead of beats, with a slower end; the randomness has a fixed seed."""
    rng = np.random.default_rng(0)
    notes = sorted(note for words in piece.voices for note in voice(words))
    last = max(beat + beats for beat, beats, *_ in notes)

    def seconds(beat: float) -> float:
        beyond = max(0.0, beat - 0.8 * last)
        return LEAD_IN + 60 / piece.tempo * (beat + SLOWER * beyond**2 / (0.4 * last))

    rows = []
    for beat, beats, key, velocity in notes:
        onset = max(0.05, seconds(beat) + rng.normal(scale=UNEVEN_SECONDS))
        rows.append(
            (onset, seconds(beat + 0.95 * beats), key, int(np.clip(round(velocity + rng.normal(scale=2)), 1, 127)))
        )
    onset, offset, key, velocity = (np.array(column) for column in zip(*sorted(rows), strict=True))
    pedals = {controller: np.zeros((0, 2)) for controller in PEDALS}
    if piece.pedal_beats:
        changes = np.arange(0, last, piece.pedal_beats)
        # the pedal comes up with the new harmony and goes down again just after it
        events = [(seconds(beat) + after, value) for beat in changes for after, value in ((-0.02, 0.0), (0.08, 127.0))]
        pedals[SUSTAIN] = np.array([*events[1:], (seconds(last), 0.0)])
    return Performance(onset, np.maximum(offset, onset + 0.05), key, velocity, pedals)


def arpeggios(bars: list[str]) -> str:
    """Bach's figure: five notes a bar, the upper three again, all of it twice."""
    figure = []
    for bar in bars:
        low, second, *upper = bar.split()
        figure += [low, second, *upper, *upper] * 2
    return " ".join(figure)


_PRELUDE_BARS = [
    "C4:0.25:62 E4 G4 C5 E5", "C4:0.25:60 D4 A4 D5 F5", "B3:0.25:64 D4 G4 D5 F5", "C4:0.25:60 E4 G4 C5 E5",
    "C4:0.25:66 E4 A4 E5 A5", "C4:0.25:62 D4 F#4 A4 D5", "B3:0.25:68 D4 G4 D5 G5", "B3:0.25:62 C4 E4 G4 C5",
    "A3:0.25:60 C4 E4 G4 C5", "D3:0.25:64 A3 D4 F#4 C5", "G3:0.25:60 B3 D4 G4 B4",
]  # fmt: skip
PRELUDE = Piece((arpeggios(_PRELUDE_BARS) + " C3+C4+E4+G4+C5:4:58",), tempo=72, pedal_beats=4)

_FUR_ELISE_RIGHT = (
    "| E5 D#5 E5 B4:0.25:66 D5 C5 | A4:0.5:72 .:0.25 C4:0.25:56 E4 A4 | B4:0.5:72 .:0.25 E4:0.25:56 G#4 B4 "
    "| C5:0.5:72 .:0.25 E4:0.25:58 E5:0.25:68 D#5 | E5 D#5 E5 B4:0.25:66 D5 C5 | A4:0.5:72 .:0.25 C4:0.25:56 E4 A4 "
    "| B4:0.5:72 .:0.25 E4:0.25:56 C5 B4 "
)
_FUR_ELISE_LEFT = (
    "| .:1.5 | A2:0.25:54 E3 A3 .:0.75 | E2:0.25:54 E3 G#3 .:0.75 | A2:0.25:54 E3 A3 .:0.75 | .:1.5 "
    "| A2:0.25:54 E3 A3 .:0.75 | E2:0.25:54 E3 G#3 .:0.75 "
)
FUR_ELISE = Piece(
    (
        "E5:0.25:66 D#5 " + _FUR_ELISE_RIGHT + "| A4:0.5:70 .:0.5 E5:0.25:64 D#5 " + _FUR_ELISE_RIGHT + "| A4:1.5:64",
        ".:0.5 " + _FUR_ELISE_LEFT + "| A2:0.25:54 E3 A3 .:0.75 " + _FUR_ELISE_LEFT + "| A2:0.25:52 E3 A3:1",
    ),
    tempo=72,
    pedal_beats=0,
)

GYMNOPEDIE = Piece(
    (
        ".:12 | .:1 F#5:1:72 A5 | G5:1:74 F#5 C#5:1:70 | B4:1:70 C#5 D5 | A4:3:68 | F#4:12:62"
        " | .:1 F#5:1:72 A5 | G5:1:74 F#5 C#5:1:70 | B4:1:70 C#5 D5 | A4:3:66",
        " ".join(["G2:3:56 D2:3:54"] * 8),
        " ".join([".:1 B3+D4+F#4:2:46 .:1 A3+C#4+F#4:2:44"] * 8),
    ),
    tempo=84,
    pedal_beats=3,
)

SCALE = Piece(
    (
        "C2:0.5:70 G2 C3 E3 G3 C4 D4 E4 F4 G4 A4 B4 C5 E5 G5 C6 E6 G6 C7:1 .:1 "
        "C4+E4+G4:1:30 C4+E4+G4:1:64 C4+E4+G4:1:110 .:1",
    ),
    tempo=120,
    pedal_beats=0,
)
PIECES = {"bach_prelude": PRELUDE, "fur_elise": FUR_ELISE, "gymnopedie": GYMNOPEDIE, "scale": SCALE}


def main() -> None:
    """Write all of them."""
    for name, piece in PIECES.items():
        made, _ = midi_file(perform(piece), 0, tail_seconds=0.0)
        with atomic_file(HERE / f"{name}.mid") as aside:
            made.save(aside)


if __name__ == "__main__":
    main()
