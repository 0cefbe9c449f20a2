"""Write the example MIDI files: public-domain music, typed in as notes and beats, with rules for the performance.

    python examples/type_in.py                # writes the .mid files beside this one

A voice is a line of words "NAME+NAME:beats:velocity": simultaneous notes, their duration in quarter notes, and their
velocity; beats and velocity are those of the word before where they are left out. A dot is a rest; bar lines have no
effect. The pedal is a voice too: "Ped" for as long as it is down; every word presses it again.
"""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pretty_midi

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))  # The modules are found without an installation.

from midi2wave.midi.performance import PEDALS, SUSTAIN, Performance  # noqa: E402
from midi2wave.utils.atomic_files import atomic_file  # noqa: E402
from midi2wave.utils.cli import make_plain_parser, run  # noqa: E402

SEMITONES = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}
LEAD_IN_SECONDS = 0.3  # Silence before the first note.
RITARDANDO_PART = 0.2  # The last part of a piece, which slows down
RITARDANDO = 0.35  # until a beat is longer by this factor.
SWELL = 10  # Difference in velocity between the ends of a phrase and its middle.
ONSET_DEVIATION_SECONDS = 0.006  # Standard deviation.
VELOCITY_DEVIATION = 2.0  # Standard deviation.
LEGATO = 0.95  # The part of a note's duration for which its key is held.
KEY_UP_SECONDS = 0.03  # From the release of a key to its next note.
# After a change of harmony the pedal is lifted, and pressed again when the old notes have ended.
PEDAL_UP_SECONDS = 0.01
PEDAL_DOWN_SECONDS = 0.1
DEFAULT_BEATS = 1.0
DEFAULT_VELOCITY = 70


@dataclass(frozen=True)
class Piece:
    """A piece as it is typed in.

    Attributes:
        voices: The voices, each a line of words.
        pedal: The pedal's line.
        tempo: Quarter notes in a minute.
        phrase_beats: Length of a phrase, over which the velocity swells; 0: played exactly as written, without rules.
    """

    voices: tuple[str, ...]
    pedal: str
    tempo: float
    phrase_beats: float


def pitch(name: str) -> int:
    """MIDI pitch of a name: 60 for C4; # and b come after the letter."""
    letter, accidental, octave = name[0], name[1:-1], name[-1]
    return 12 * (int(octave) + 1) + SEMITONES[letter] + accidental.count("#") - accidental.count("b")


def words(line: str) -> Iterator[tuple[float, float, str, int]]:
    """Yield (beat, beats, names, velocity) of each word of a voice or of the pedal, without the rests."""
    beat, beats, velocity = 0.0, DEFAULT_BEATS, DEFAULT_VELOCITY
    for word in line.replace("|", " ").split():
        names, *numbers = word.split(":")
        beats = float(numbers[0]) if numbers and numbers[0] else beats
        velocity = int(numbers[1]) if len(numbers) > 1 else velocity
        if names != ".":
            yield beat, beats, names, velocity
        beat += beats


def voice(line: str) -> list[tuple[float, float, int, int]]:
    """The notes of a voice, each (beat, beats, pitch, velocity)."""
    return [(beat, beats, pitch(n), velocity) for beat, beats, names, velocity in words(line) for n in names.split("+")]


def perform(piece: Piece) -> Performance:
    """Perform a piece: phrases swell, the end slows down, onsets and velocities deviate at random (fixed seed)."""
    rng, expression = np.random.default_rng(0), float(piece.phrase_beats > 0)
    notes = sorted(note for line in piece.voices for note in voice(line))
    last = max(beat + beats for beat, beats, *_ in notes)

    def seconds(beat: float) -> float:
        # The duration of a beat grows linearly, so that the time grows with the square.
        late_beats = expression * max(0.0, beat - (1 - RITARDANDO_PART) * last)
        delay = RITARDANDO * late_beats**2 / (2 * RITARDANDO_PART * last)
        return LEAD_IN_SECONDS + 60 / piece.tempo * (beat + delay)

    performed = []
    for beat, beats, key, velocity in notes:
        phase = beat % piece.phrase_beats / piece.phrase_beats if expression else 0.0
        swell = SWELL * (np.sin(np.pi * phase) - 0.5)
        level = velocity + expression * (swell + rng.normal(scale=VELOCITY_DEVIATION))
        onset = seconds(beat) + expression * rng.normal(scale=ONSET_DEVIATION_SECONDS)
        performed.append((key, onset, seconds(beat + LEGATO * beats), int(np.clip(round(level), 1, 127))))
    performed.sort()
    for i, (key, onset, offset, velocity) in enumerate(performed[:-1]):
        if performed[i + 1][0] == key:
            performed[i] = (key, onset, min(offset, performed[i + 1][1] - KEY_UP_SECONDS), velocity)
    pitches, onsets, offsets, velocities = map(np.array, zip(*sorted(performed, key=_by_onset), strict=True))
    return Performance(onsets, offsets, pitches, velocities, _pedals(piece, seconds))


def _by_onset(note: tuple[int, float, float, int]) -> tuple[float, int]:
    """Sort order of notes: onset, then pitch."""
    return note[1], note[0]


def _pedals(piece: Piece, seconds: Callable[[float], float]) -> dict[int, np.ndarray]:
    """The pedal events of a piece, by a function from beats to seconds."""
    intervals = [(beat, beat + beats) for beat, beats, *_ in words(piece.pedal)]
    moves = [(seconds(down) + PEDAL_DOWN_SECONDS, 127.0) for down, _ in intervals]
    moves += [(seconds(up) + PEDAL_UP_SECONDS, 0.0) for _, up in intervals]
    return {controller: np.empty((0, 2)) for controller in PEDALS} | {SUSTAIN: np.array(sorted(moves))}


def prelude_voices(bars: str, ending: tuple[str, str, str]) -> tuple[str, ...]:
    """The three voices of the figure of Bach's prelude.

    Args:
        bars: For each bar, separated by bar lines, "velocity low second a b c". The low note is held for half a bar,
            the second one from its entry on; the other three are repeated above, the last one of them as the melody.
            Both halves of a bar are equal.
        ending: The last bar of each voice.
    """
    lines: tuple[list[str], ...] = ([], [], [])
    for bar in bars.split("|"):
        velocity, low, second, a, b, c = bar.split()
        top, soft = int(velocity) + 2, int(velocity) - 8
        rising = f"{a}:0.25:{soft} {b} {c}::{top}"
        lines[0].append(f"{low}:2:{velocity} {low}")
        lines[1].append(f".:0.25 {second}:1.75:{soft} .:0.25 {second}:1.75")
        lines[2].append(" ".join([".:0.5", rising, rising] * 2))
    return tuple(" | ".join([*line, end]) for line, end in zip(lines, ending, strict=True))


PRELUDE = Piece(
    prelude_voices(
        "60 C4 E4 G4 C5 E5 | 60 C4 D4 A4 D5 F5 | 63 B3 D4 G4 D5 F5 | 59 C4 E4 G4 C5 E5"
        "| 65 C4 E4 A4 E5 A5 | 61 C4 D4 F#4 A4 D5 | 67 B3 D4 G4 D5 G5 | 61 B3 C4 E4 G4 C5"
        "| 59 A3 C4 E4 G4 C5 | 64 D3 A3 D4 F#4 C5 | 60 G3 B3 D4 G4 B4",
        ("C3:4:58", "G3:4:50", "E4+G4+C5:4:56"),
    ),
    pedal=" | ".join(["Ped:4"] * 12),
    tempo=72,
    phrase_beats=16,
)

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
_ELISE_PEDAL = "| .:1.5 | Ped:1.5 | Ped:1.5 | Ped:1 .:0.5 | .:1.5 | Ped:1.5 | Ped:1 .:0.5"  # Never under semitones.
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
        "C2:0.5:70 G2 C3 E3 G3 C4 D4 E4 F4 G4 A4 B4 C5 E5 G5 C6 E6 G6 C7 .:0.5"  # Single notes over the keyboard.
        "| C4+E4+G4:1:30 C4+E4+G4:1:64 C4+E4+G4:1:110"  # Soft, medium, loud.
        "| .:1 C4+E4+G4:0.5:64 .:1.5 C4+E4+G4:0.5:64",  # The same short chord without and with pedal.
    ),
    pedal=".:16 Ped:4",
    tempo=120,
    phrase_beats=0,
)
PIECES = {"bach_prelude": PRELUDE, "fur_elise": FUR_ELISE, "gymnopedie": GYMNOPEDIE, "scale": SCALE}


def piece_to_midi(piece: Piece) -> pretty_midi.PrettyMIDI:
    """A performed piece, with a resolution of 0.1 ms; its times contain the tempo."""
    return perform(piece).to_pretty_midi(ticks_per_second=10_000)


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    make_plain_parser(__doc__).parse_args(argv)
    for name, piece in PIECES.items():
        with atomic_file(HERE / f"{name}.mid") as tmp_path:
            piece_to_midi(piece).write(tmp_path)
    print(f"{len(PIECES)} files written to {HERE}")
    return 0


if __name__ == "__main__":
    run(main)
