"""Textures of piano music: each gives the notes of one layer of a passage, in a range of the keyboard.

A texture is a function of a random generator, the harmonies of the passage, and the layer's range, rate and duration.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from midi2wave.midi.keyboard import MAX_PITCH, MIN_PITCH

MAX_TIMING_ERROR_SECONDS = 0.008  # Standard deviation of onsets around an even rhythm; less in fast passages.
TIMING_ERROR = 0.06  # The same, relative to the time between two notes.
MAX_TEMPO_CHANGE = 0.35  # How much faster or slower the ends of a passage are than its middle.
RHYTHM_VALUES = (0.5, 0.5, 1.0, 1.0, 1.0, 1.5, 2.0, 3.0)
MAX_SPREAD_SECONDS = 0.06  # Of a chord, from its first note to its last; rolled chords take longer.
MAX_ROLL_SECONDS = 0.5
CHORD_SIZES = (2, 3, 3, 4, 4, 5, 6, 7)


class Note(NamedTuple):
    """A note before articulation and dynamics.

    Attributes:
        onset: Seconds from the beginning of the passage.
        seconds: Until the next note of the same voice.
        pitch: MIDI pitch.
        weight: Velocity relative to the layer's.
    """

    onset: float
    seconds: float
    pitch: int
    weight: float


class Harmony(NamedTuple):
    """A harmony of a passage.

    Attributes:
        start: Its beginning in seconds from that of the passage.
        chord: The pitches of the chord, over the whole keyboard, ascending.
        scale: The pitches of the scale, over the whole keyboard, ascending.
    """

    start: float
    chord: np.ndarray
    scale: np.ndarray


class Frame(NamedTuple):
    """Where and how fast a layer plays.

    Attributes:
        seconds: Duration.
        rate: Notes or chords a second.
        low: Lowest pitch.
        high: Highest pitch.
        harmonies: The harmonies, by their beginnings; the first begins at 0.
    """

    seconds: float
    rate: float
    low: int
    high: int
    harmonies: tuple[Harmony, ...]

    def pitches(self, second: float, *, from_chord: bool) -> np.ndarray:
        """The pitches of the chord or of the scale at a time, within the layer's range."""
        harmony = [harmony for harmony in self.harmonies if harmony.start <= second or not harmony.start][-1]
        pitches = harmony.chord if from_chord else harmony.scale
        return pitches[(pitches >= self.low) & (pitches <= self.high)]


Texture = Callable[[np.random.Generator, Frame], list[Note]]


def _warped(rng: np.random.Generator, positions: np.ndarray, frame: Frame) -> np.ndarray:
    """Even times as a player plays them: faster or slower towards the end, with small errors; ascending."""
    change = rng.uniform(-MAX_TEMPO_CHANGE, MAX_TEMPO_CHANGE)
    error = min(MAX_TIMING_ERROR_SECONDS, TIMING_ERROR / frame.rate)
    part = positions / frame.seconds
    times = frame.seconds * (part + change * part * (1 - part)) + rng.normal(0, error, len(positions))
    return np.maximum.accumulate(np.maximum(times, 0.0))


def _even(rng: np.random.Generator, frame: Frame) -> Iterator[tuple[float, float]]:
    """Onsets and durations of even notes."""
    times = _warped(rng, np.arange(0.0, frame.seconds, 1 / frame.rate), frame)
    return zip(times.tolist(), np.diff(times, append=frame.seconds).clip(0.02).tolist(), strict=True)


def _rhythmic(rng: np.random.Generator, frame: Frame) -> Iterator[tuple[float, float]]:
    """Onsets and durations in a rhythm of a few values that repeats."""
    values = rng.choice(RHYTHM_VALUES, int(rng.integers(2, 7)))
    values = np.resize(values / values.mean(), max(1, int(frame.seconds * frame.rate)))
    positions = np.cumsum(values / frame.rate) - values[0] / frame.rate
    times = _warped(rng, positions[positions < frame.seconds], frame)
    return zip(times.tolist(), np.diff(times, append=frame.seconds).clip(0.02).tolist(), strict=True)


def closest_pitch(pitches: np.ndarray, target: float) -> int:
    """The pitch with the smallest distance from a target."""
    return int(pitches[np.argmin(abs(pitches - target))])


def _run(rng: np.random.Generator, frame: Frame, *, from_chord: bool) -> list[Note]:
    """Up and down the scale or the chord; some runs are doubled in thirds, sixths, octaves or tenths."""
    notes: list[Note] = []
    pitch = int(rng.integers(frame.low, frame.high + 1))
    direction = int(rng.choice([-1, 1]))
    turning = rng.choice([0.0, 0.0, 0.05, 0.3])
    interval = int(rng.choice([0, 0, 0, 0, 4, 9, 12, 16]))
    group = int(rng.choice([3, 4, 6, 8]))
    for number, (onset, seconds) in enumerate(_even(rng, frame)):
        pitches = frame.pitches(onset, from_chord=from_chord)
        onward = pitches[(pitches - pitch) * direction > 0]
        if not len(onward) or rng.random() < turning:
            direction = -direction
            onward = pitches[(pitches - pitch) * direction > 0]
        pitch = closest_pitch(onward if len(onward) else pitches, pitch)
        weight = 5.0 * (number % group == 0)
        notes.append(Note(onset, seconds, pitch, weight))
        if interval and pitch + interval <= MAX_PITCH:
            partner = closest_pitch(pitches, pitch + interval) if interval != 12 else pitch + 12
            notes.append(Note(onset + abs(rng.normal(0, 0.006)), seconds, partner, weight - 3))
    return notes


def scale_run(rng: np.random.Generator, frame: Frame) -> list[Note]:
    """Even notes up and down a scale."""
    return _run(rng, frame, from_chord=False)


def arpeggio(rng: np.random.Generator, frame: Frame) -> list[Note]:
    """Even notes up and down a chord."""
    return _run(rng, frame, from_chord=True)


def broken_chord(rng: np.random.Generator, frame: Frame) -> list[Note]:
    """A figure of the tones of the chord that repeats with every harmony."""
    order = rng.permutation(int(rng.integers(3, 7)))
    position = int(rng.integers(0, 100))
    notes = []
    for number, (onset, seconds) in enumerate(_even(rng, frame)):
        pitches = frame.pitches(onset, from_chord=True)
        first = position % max(1, len(pitches) - len(order))
        index = min(first + int(order[number % len(order)]), len(pitches) - 1)
        notes.append(Note(onset, seconds, int(pitches[index]), 4.0 * (number % len(order) == 0)))
    return notes


def _chord(rng: np.random.Generator, onset: float, seconds: float, pitches: np.ndarray, spread: float) -> list[Note]:
    """Notes that begin within `spread` seconds, in the order of the pitches or in a random one; the top is louder."""
    delays = np.sort(rng.uniform(0, spread, len(pitches)))
    if rng.random() < 0.6:
        delays = rng.permutation(delays)
    weights = rng.normal(-4, 3, len(pitches))
    weights[-1] += 7
    return [
        Note(onset + delay, seconds, int(pitch), weight)
        for delay, pitch, weight in zip(delays.tolist(), pitches.tolist(), weights.tolist(), strict=True)
    ]


def _voicing(rng: np.random.Generator, pitches: np.ndarray, size: int) -> np.ndarray:
    """Some neighbouring pitches, or pitches drawn from all: close or wide chords; ascending."""
    if len(pitches) <= size:
        return pitches
    if rng.random() < 0.6:
        first = int(rng.integers(len(pitches) - size + 1))
        return pitches[first : first + size]
    return np.sort(rng.choice(pitches, size, replace=False))


def chords(rng: np.random.Generator, frame: Frame) -> list[Note]:
    """Chords of two to seven tones in a rhythm; each spreads over 1 to 60 ms, or is rolled."""
    size = int(rng.choice(CHORD_SIZES))
    spread = float(rng.uniform(0.001, MAX_SPREAD_SECONDS))
    is_rolled = rng.random() < 0.08
    notes: list[Note] = []
    for onset, seconds in _rhythmic(rng, frame):
        pitches = _voicing(rng, frame.pitches(onset, from_chord=True), size)
        width = min(rng.uniform(0.1, MAX_ROLL_SECONDS), seconds / 2) if is_rolled else min(spread, seconds / 2)
        notes += _chord(rng, onset, seconds, pitches, width)
    return notes


def melody(rng: np.random.Generator, frame: Frame) -> list[Note]:
    """A voice that moves along the scale in a rhythm, with some leaps; some voices are in thirds."""
    notes: list[Note] = []
    pitch = (frame.low + frame.high) / 2
    is_in_thirds = rng.random() < 0.15
    for onset, seconds in _rhythmic(rng, frame):
        pitches = frame.pitches(onset, from_chord=rng.random() < 0.3)
        distance = rng.normal(0, 9.0 if rng.random() < 0.12 else 2.5)
        others = pitches[pitches != pitch]
        pitch = closest_pitch(others, pitch + distance) if len(others) else int(pitches[0])
        notes.append(Note(onset, seconds, int(pitch), float(rng.normal(0, 3))))
        if is_in_thirds and pitch - 4 >= frame.low:
            notes.append(Note(onset + abs(rng.normal(0, 0.008)), seconds, closest_pitch(pitches, pitch - 3.5), -6.0))
    return notes


def octaves(rng: np.random.Generator, frame: Frame) -> list[Note]:
    """A melody in octaves, of which some have a tone of the chord between."""
    interval = 12 if (frame.low + frame.high) / 2 < 84 else -12
    is_filled = rng.random() < 0.3
    notes = []
    for note in melody(rng, frame):
        pitches = [note.pitch, note.pitch + interval]
        if is_filled:
            inner = frame.pitches(note.onset, from_chord=True)
            low, high = sorted((note.pitch, note.pitch + interval))
            pitches += inner[(inner > low + 2) & (inner < high - 2)].tolist()[:1]
        for pitch in pitches:
            if MIN_PITCH <= pitch <= MAX_PITCH:
                notes.append(note._replace(onset=note.onset + abs(rng.normal(0, 0.007)), pitch=int(pitch)))
    return notes


def trill(rng: np.random.Generator, frame: Frame) -> list[Note]:
    """Two neighbouring tones in turn; after a while two others."""
    notes = []
    end = 0.0
    pair = (frame.low, frame.low + 2)
    for number, (onset, seconds) in enumerate(_even(rng, frame)):
        if onset >= end:
            lower = closest_pitch(frame.pitches(onset, from_chord=False), rng.uniform(frame.low, frame.high - 2))
            pair = (lower, lower + int(rng.choice([1, 2, 2, 3])))
            end = onset + rng.uniform(0.8, 4.0)
        notes.append(Note(onset, seconds, min(pair[number % 2], MAX_PITCH), float(rng.normal(0, 3))))
    return notes


def tremolo(rng: np.random.Generator, frame: Frame) -> list[Note]:
    """The lower and the upper tones of a chord in turn."""
    size = int(rng.integers(2, 6))
    notes: list[Note] = []
    tones, current = np.empty(0, int), np.empty(0)
    for number, (onset, seconds) in enumerate(_even(rng, frame)):
        pitches = frame.pitches(onset, from_chord=True)
        if not np.array_equal(pitches, current):
            current, tones = pitches, _voicing(rng, pitches, size)
        half = (len(tones) + 1) // 2
        part = tones[:half] if number % 2 or len(tones) < 2 else tones[half:]
        notes += [Note(onset + abs(rng.normal(0, 0.004)), seconds, int(p), float(rng.normal(0, 3))) for p in part]
    return notes


def repeated(rng: np.random.Generator, frame: Frame) -> list[Note]:
    """A note or a chord that is struck again and again; after a while another one."""
    size = int(rng.choice([1, 1, 2, 3, 4]))
    notes: list[Note] = []
    remaining = 0
    tones = np.empty(0, int)
    for onset, seconds in _even(rng, frame):
        if not remaining:
            tones = _voicing(rng, frame.pitches(onset, from_chord=True), size)
            remaining = int(rng.integers(2, 17))
        remaining -= 1
        notes += _chord(rng, onset, seconds, tones, min(0.012, seconds / 8))
    return notes


def leaps(rng: np.random.Generator, frame: Frame) -> list[Note]:
    """Single notes anywhere in the range, of any velocity around the layer's."""
    return [
        Note(onset, seconds, int(rng.integers(frame.low, frame.high + 1)), float(rng.normal(0, 10)))
        for onset, seconds in _rhythmic(rng, frame)
    ]


def clusters(rng: np.random.Generator, frame: Frame) -> list[Note]:
    """Three to eight neighbouring keys at once, of all keys or of the scale."""
    size = int(rng.integers(3, 9))
    is_chromatic = rng.random() < 0.5
    notes: list[Note] = []
    for onset, seconds in _rhythmic(rng, frame):
        pitches = np.arange(frame.low, frame.high + 1) if is_chromatic else frame.pitches(onset, from_chord=False)
        first = int(rng.integers(max(1, len(pitches) - size + 1)))
        notes += _chord(rng, onset, seconds, pitches[first : first + size], 0.03)
    return notes


def one_chord(rng: np.random.Generator, frame: Frame) -> list[Note]:
    """One note or chord at the beginning, which lasts for the whole passage."""
    pitches = _voicing(rng, frame.pitches(0.0, from_chord=True), int(rng.choice([1, 1, 2, 3, 4, 6, 8])))
    return _chord(rng, 0.0, frame.seconds, pitches, float(rng.uniform(0.001, MAX_SPREAD_SECONDS)))
