"""Piano pieces composed and performed by rules: tonality, cadences, textures, rubato, pedalling by harmony.

All is a function of a seed: the harmony first, then the notes of both hands in beats, then a performance in seconds.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from midi2wave.demo_dataset.piano_synth import RELEASE_TAIL_SECONDS
from midi2wave.utils.errors import InputError

if TYPE_CHECKING:
    import pretty_midi

MIN_PITCH = 33  # A1
MAX_PITCH = 96  # C7
TICKS_PER_SECOND = 1920  # 960 per quarter note at the default 120 bpm; the times contain the rubato, as in a recording.
MIN_PIECE_SECONDS = 3.0
TEMPO_NAMES = ((76, "Adagio"), (96, "Andante"), (114, "Moderato"), (999, "Allegro"))
MAJOR = (0, 2, 4, 5, 7, 9, 11)
MINOR = (0, 2, 3, 5, 7, 8, 10)
HARMONIC_MINOR = (0, 2, 3, 5, 7, 8, 11)
DOMINANTS = (4, 6)  # Degrees that need a leading tone.
TONIC_NAMES = ("C", "D-flat", "D", "E-flat", "E", "F", "F-sharp", "G", "A-flat", "A", "B-flat", "B")
# The degrees that may follow each degree; 0 is I.
NEXT_DEGREES = {0: (1, 2, 3, 4, 5), 1: (4, 6), 2: (5, 3), 3: (4, 1, 0), 4: (0, 5), 5: (3, 1), 6: (0,)}
# Rhythms of one bar of melody, in beats, by the beats of a bar.
RHYTHMS: dict[int, tuple[tuple[float, ...], ...]] = {
    4: ((1, 1, 1, 1), (1.5, 0.5, 1, 1), (2, 1, 1), (0.5, 0.5, 1, 2), (1, 0.5, 0.5, 1.5, 0.5), (3, 0.5, 0.5)),
    3: ((1, 1, 1), (2, 1), (1.5, 0.5, 1), (0.5,) * 6, (1, 0.5, 0.5, 1), (1, 2)),
}
LEFT_TEXTURES = ("block", "broken", "arpeggio", "stride", "octaves")
RIGHT_TEXTURES = ("melody", "melody", "thirds", "octaves", "running", "chords")

PlayedNote = tuple[float, float, int, int]  # Onset and offset in seconds, pitch, velocity.
PedalEvents = list[tuple[float, int, int]]  # Seconds, controller, value.


class Note(NamedTuple):
    """A note of the score.

    Attributes:
        beat: Onset in beats.
        beats: Duration in beats.
        pitch: MIDI pitch.
        weight: Velocity relative to the section's.
    """

    beat: float
    beats: float
    pitch: int
    weight: float


class Span(NamedTuple):
    """A passage of one harmony.

    Attributes:
        beat: Its beginning in beats.
        beats: Its duration in beats.
        bass: The lowest pitch of the chord's root.
        chord: All pitches of the chord, ascending.
        scale: All pitches of the scale, ascending.
    """

    beat: float
    beats: float
    bass: int
    chord: np.ndarray
    scale: np.ndarray


class Section(NamedTuple):
    """What is constant over a phrase of four bars.

    Attributes:
        left: Texture of the left hand.
        right: Texture of the right hand.
        register: Central pitch of the melody.
        velocity: Mean velocity.
        gate: Sounding part of a melody note: near 1 for legato, 0.5 for staccato.
        has_pedal: Whether the sustain pedal is used.
        rhythms: Rhythm of the melody in each bar.
    """

    left: str
    right: str
    register: int
    velocity: float
    gate: float
    has_pedal: bool
    rhythms: tuple[tuple[float, ...], ...]


def _span(rng: np.random.Generator, beat: float, beats: float, degree: int, tonic: int, minor: bool) -> Span:
    """A passage of the chord on a degree of a scale, sometimes with its seventh."""
    scale = (HARMONIC_MINOR if degree in DOMINANTS else MINOR) if minor else MAJOR
    thirds = (0, 2, 4, 6) if degree in (1, 4) and rng.random() < 0.5 else (0, 2, 4)
    pitches = np.arange(MIN_PITCH, MAX_PITCH + 1)
    root = (tonic + scale[degree]) % 12
    in_chord = np.isin(pitches % 12, [(tonic + scale[(degree + k) % 7]) % 12 for k in thirds])
    in_scale = np.isin(pitches % 12, [(tonic + interval) % 12 for interval in scale])
    return Span(beat, beats, int(pitches[pitches % 12 == root][0]), pitches[in_chord], pitches[in_scale])


def _harmony(rng: np.random.Generator, n_bars: int, beats_per_bar: int, tonic: int, minor: bool) -> list[Span]:
    """Four-bar phrases that end in a cadence; some bars hold two chords; the last two bars are V and I."""
    spans: list[Span] = []
    degree = 0
    for bar in range(n_bars):
        remaining = n_bars - 1 - bar
        if remaining < 2:
            degree = (0, 4)[remaining]
        elif bar % 4 == 3:
            degree = int(rng.choice([4, 0, 5]))
        elif bar:
            degree = int(rng.choice(NEXT_DEGREES[degree]))
        beat = bar * beats_per_bar
        beats = beats_per_bar
        if remaining > 1 and bar % 4 != 3 and rng.random() < 0.35:
            spans.append(_span(rng, beat, 2, degree, tonic, minor))
            degree = int(rng.choice(NEXT_DEGREES[degree]))
            beat += 2
            beats -= 2
        spans.append(_span(rng, beat, beats, degree, tonic, minor))
    return spans


def _left_hand(texture: str, span: Span) -> list[Note]:
    """The left hand's notes in one texture."""
    bass = span.bass + 12 * (span.bass < 36 and texture != "octaves")
    upper = [int(p) for p in span.chord if bass + 7 <= p <= 67]
    middle = [p for p in upper if p >= 48][:3]
    beats = range(int(span.beats))
    if texture == "octaves":
        low = [Note(span.beat, span.beats, p, w) for p, w in ((bass, 3), (bass + 12, 0))]
        return low + [Note(span.beat + b, 1, p, -8) for b in beats[1::2] for p in middle]
    if texture == "block":
        return [Note(span.beat, span.beats, bass, 2)] + [Note(span.beat + b, 1, p, -5) for b in beats for p in middle]
    if texture == "stride":
        return [Note(span.beat, 1, bass, 5)] + [Note(span.beat + b, 0.6, p, -4) for b in beats[1:] for p in middle]
    if texture == "broken":
        figure = [middle[0], middle[2], middle[1], middle[2]]
        beats_per_note = 0.5
    else:
        ascending = [bass, *upper[:: 1 + (len(upper) > 6)]]
        figure = ascending + ascending[-2:0:-1]
        beats_per_note = 0.5 if len(ascending) < 6 else 0.25
    return [
        Note(span.beat + k * beats_per_note, beats_per_note, figure[k % len(figure)], 4 * (k == 0) - 4)
        for k in range(round(span.beats / beats_per_note))
    ]


def _running(rng: np.random.Generator, span: Span, start: int) -> list[Note]:
    """Sixteenths up and down the scale or the chord, from the pitch nearest to `start`."""
    pitches = span.scale if rng.random() < 0.5 else span.chord
    pitches = pitches[pitches >= 58]
    index = int(np.argmin(abs(pitches - start)))
    direction = 1 if rng.random() < 0.5 else -1
    notes = []
    for k in range(int(span.beats * 4)):
        notes.append(Note(span.beat + k / 4, 0.25, int(pitches[index]), 3 * (k % 4 == 0)))
        if not 0 <= index + direction < len(pitches) or rng.random() < 0.06:
            direction = -direction
        index = min(max(index + direction, 0), len(pitches) - 1)
    return notes


def _melody(rng: np.random.Generator, section: Section, span: Span, rhythm: list[float], pitch: int) -> list[Note]:
    """Chord tones on the beat and scale tones between them, in a random walk around the section's register."""
    notes: list[Note] = []
    beat = span.beat
    for beats in rhythm:
        target = pitch + rng.normal(0.25 * (section.register - pitch), 2.5)
        pitches = span.chord if beat % 1 == 0 else span.scale[abs(span.scale - pitch) <= 4]
        pitches = pitches[(pitches != pitch) & (pitches >= 57)]
        pitch = int(pitches[np.argmin(abs(pitches - target))])
        weight = 3.0 if beat == span.beat else 0.0
        sounding = beats * section.gate
        notes.append(Note(beat, sounding, pitch, weight))
        below = span.chord[(span.chord < pitch - 2) & (span.chord > pitch - 12)]
        if section.right == "thirds" and len(below):
            notes.append(Note(beat, sounding, int(below[-1]), weight - 9))
        if section.right == "octaves" and pitch + 12 <= MAX_PITCH:
            notes.append(Note(beat, sounding, pitch + 12, weight - 3))
        if section.right == "chords" and beats >= 1:
            notes += [Note(beat, sounding, int(p), weight - 8) for p in below[-3:]]
        beat += beats
    return notes


def _section(rng: np.random.Generator, beats_per_bar: int) -> Section:
    """Random textures, register, dynamics and rhythms of a section."""
    rhythms = RHYTHMS[beats_per_bar]
    a, b = (rhythms[k] for k in rng.choice(len(rhythms), 2, replace=False))
    return Section(
        left=str(rng.choice(LEFT_TEXTURES)),
        right=str(rng.choice(RIGHT_TEXTURES)),
        register=int(rng.integers(64, 80)),
        velocity=float(rng.uniform(42, 88)),
        gate=float(rng.choice([0.97, 0.97, 0.9, 0.5])),
        has_pedal=bool(rng.random() < 0.8),
        rhythms=(a, a, b, a),
    )


def _crop_rhythm(rhythm: tuple[float, ...], start: float, beats: float) -> list[float]:
    """The part of a bar's rhythm within [start, start + beats); notes across a border are cut there."""
    edges = np.clip(np.cumsum((0.0, *rhythm)), start, start + beats)
    return [float(length) for length in np.diff(edges) if length > 0]


def _beat_times(rng: np.random.Generator, n_beats: int, phrase_beats: int, seconds: float) -> np.ndarray:
    """Seconds at every half beat: phrases get faster and then slower, and the end slows down."""
    half = np.arange(2 * n_beats)
    phase = half % (2 * phrase_beats) / (2 * phrase_beats)
    drift = np.convolve(rng.normal(0, 0.06, len(half) + 7), np.ones(8) / 8, "valid")
    length = 1 - 0.07 * np.sin(np.pi * phase) + 0.18 * np.clip(phase - 0.85, 0, None) / 0.15 + drift
    length *= 1 + 0.5 * np.clip((half - len(half) + 8) / 8, 0, None)
    times = np.concatenate(([0.0], np.cumsum(length)))
    return times * (seconds / times[-1])


def _pedal(rng: np.random.Generator, harmonies: list[tuple[float, float]]) -> PedalEvents:
    """Legato pedalling of harmonies, each from start to end in seconds: up as one begins, down shortly after.

    The pedal moves through several values, as on a recording piano.
    """
    events: PedalEvents = []
    for start, end in harmonies:
        down = start + min(rng.uniform(0.09, 0.2), 0.4 * (end - start))
        depth = rng.integers(95, 128)
        events += [(down + 0.012 * k, 64, int(depth * k / 3)) for k in (1, 2, 3)]
        events += [(end + 0.012 * k, 64, int(depth * (2 - k) / 3)) for k in (0, 1, 2)]
    return events


def _hand(name: str, notes: list[PlayedNote], pedal: PedalEvents) -> "pretty_midi.Instrument":
    """An instrument of notes and pedal events."""
    import pretty_midi

    instrument = pretty_midi.Instrument(0, name=name)
    instrument.notes = [pretty_midi.Note(v, p, onset, offset) for onset, offset, p, v in notes]
    instrument.control_changes = [pretty_midi.ControlChange(c, v, seconds) for seconds, c, v in pedal]
    return instrument


def _score(rng: np.random.Generator, spans: list[Span], sections: list[Section], bar_beats: int) -> list[list[Note]]:
    """The notes of the right and the left hand; their weights include the dynamics, and are thus velocities."""
    hands: list[list[Note]] = [[], []]
    melody_pitch = sections[0].register
    for span in spans[:-1]:
        bar, start = divmod(span.beat, bar_beats)
        section = sections[int(bar) // 4]
        if section.right == "running":
            right = _running(rng, span, melody_pitch)
        else:
            rhythm = _crop_rhythm(section.rhythms[int(bar) % 4], start, span.beats)
            right = _melody(rng, section, span, rhythm, melody_pitch)
        melody_pitch = right[-1].pitch
        swell = 10 * np.sin(np.pi * (span.beat % (4 * bar_beats)) / (4 * bar_beats))
        left = _left_hand(section.left, span)
        for hand, notes, offset in ((0, right, 0), (1, left, -8)):
            hands[hand].extend(n._replace(weight=section.velocity + swell + offset + n.weight) for n in notes)
    last, level = spans[-1], sections[-1].velocity
    above = last.chord[last.chord >= min(melody_pitch, MAX_PITCH - 12) - 7][:3]
    hands[0].extend(Note(last.beat, last.beats, int(p), level) for p in above)
    hands[1].extend(Note(last.beat, last.beats, last.bass + k, level - 4) for k in (0, 12))
    return hands


def _perform(
    rng: np.random.Generator, hands: list[list[Note]], seconds_at: Callable[[float], float]
) -> list[list[PlayedNote]]:
    """Score to performance, per hand: times in seconds, with random deviations."""
    played = []
    for hand, notes in enumerate(hands):
        for note in notes:
            # The melody is a little ahead of the left hand.
            onset = max(0.0, seconds_at(note.beat) + 0.01 * hand + rng.normal(0, 0.006))
            offset = max(seconds_at(note.beat + note.beats) + rng.normal(0, 0.008), onset + 0.04)
            velocity = int(np.clip(round(note.weight + rng.normal(0, 2.5)), 12, 122))
            played.append((note.pitch, onset, offset, velocity, hand))
    played.sort()
    performed: list[list[PlayedNote]] = [[], []]
    for i, (pitch, onset, offset, velocity, hand) in enumerate(played):
        if i + 1 < len(played) and played[i + 1][0] == pitch:
            # A key must be released before its next note.
            offset = min(offset, played[i + 1][1] - 0.015)
        # Notes that become shorter than this are of a key that both hands play at once.
        if offset - onset >= 0.02:
            performed[hand].append((onset, offset, pitch, velocity))
    return performed


def compose(seed: int, seconds: float) -> "pretty_midi.PrettyMIDI":
    """Compose and perform a piano piece; the same arguments give the same piece.

    Args:
        seed: Seed of all random choices.
        seconds: Duration of the piece's sound.

    Returns:
        Two instruments: the right hand, whose name is the piece's title, and the left hand with the sustain pedal.

    Raises:
        InputError: `seconds` is less than MIN_PIECE_SECONDS.
    """
    import pretty_midi

    if seconds < MIN_PIECE_SECONDS:
        raise InputError(f"a piece of {seconds:g} s is too short; ask for {MIN_PIECE_SECONDS:g} s or more")
    rng = np.random.default_rng(seed)
    tonic = int(rng.integers(12))
    minor = bool(rng.random() < 0.5)
    bar_beats = int(rng.choice([4, 4, 3]))
    music_seconds, beats_per_minute = seconds - RELEASE_TAIL_SECONDS, rng.uniform(64, 132)
    n_bars = max(2, round(music_seconds * beats_per_minute / 60 / bar_beats))
    n_beats = n_bars * bar_beats
    themes = [_section(rng, bar_beats) for _ in range(3)]
    sections = [themes[(0, 1, 0, 2)[k % 4]] for k in range(n_bars // 4 + 1)]
    spans = _harmony(rng, n_bars, bar_beats, tonic, minor)
    beat_times = _beat_times(rng, n_beats, 4 * bar_beats, music_seconds)

    def seconds_at(beat: float) -> float:
        return float(np.interp(2 * beat, np.arange(len(beat_times)), beat_times))

    right, left = _perform(rng, _score(rng, spans, sections, bar_beats), seconds_at)
    with_pedal = [s for s in spans if sections[int(s.beat // bar_beats) // 4].has_pedal or s is spans[-1]]
    pedal = _pedal(rng, [(seconds_at(s.beat), seconds_at(s.beat + s.beats)) for s in with_pedal])
    tempo = next(name for limit, name in TEMPO_NAMES if beats_per_minute < limit)
    title = f"{tempo} in {TONIC_NAMES[tonic]} {'minor' if minor else 'major'}"
    midi = pretty_midi.PrettyMIDI(resolution=TICKS_PER_SECOND // 2, initial_tempo=120.0)
    midi.instruments = [_hand(title, right, []), _hand("left hand", left, pedal)]
    return midi
