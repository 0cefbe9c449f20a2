"""Piano studies: random passages over the whole keyboard, all velocities, textures and uses of the sustain pedal.

`composer.py` writes pieces of one style. Studies have what these lack and performances of real music have: the outer
octaves, pianissimo and fortissimo, dense textures, trills, repeated notes, half pedal, long decays. All is a
function of a seed.
"""

from typing import NamedTuple

import numpy as np

from midi2wave.demo_dataset import textures
from midi2wave.demo_dataset.textures import Frame, Harmony, Texture
from midi2wave.midi.keyboard import MAX_PITCH, MAX_VELOCITY, MIN_PITCH
from midi2wave.midi.performance import PEDAL_DOWN, SUSTAIN, Performance, performance_from_events, sounding_offset
from midi2wave.utils.errors import InputError

MIN_STUDY_SECONDS = 5.0
MIN_PASSAGE_SECONDS = 1.5
MIN_VELOCITY = 8
MIN_PRESSED_SECONDS = 0.03
MIN_REPETITION_SECONDS = 0.065  # A grand piano's key cannot be struck again sooner.
MAX_RELEASE_SECONDS = 0.03  # How long before it is struck again a key is up.
SCALES = (
    (0, 2, 4, 5, 7, 9, 11),  # Major.
    (0, 2, 3, 5, 7, 8, 10),  # Minor.
    (0, 2, 3, 5, 7, 8, 11),  # Harmonic minor.
    (0, 2, 4, 7, 9),  # Pentatonic.
    (0, 2, 4, 6, 8, 10),  # Whole tones.
    tuple(range(12)),  # Chromatic.
)
SCALE_WEIGHTS = (0.32, 0.22, 0.18, 0.06, 0.05, 0.17)
CHORDS = ((0, 4, 7), (0, 3, 7), (0, 4, 7, 10), (0, 3, 7, 10), (0, 4, 7, 11), (0, 3, 6, 9), (0, 4, 8), (0, 5, 7), (0, 7))
CHORD_WEIGHTS = (0.28, 0.22, 0.16, 0.08, 0.06, 0.08, 0.03, 0.04, 0.05)
PEDAL_USES = ("none", "harmony", "long", "half", "late")
PEDAL_WEIGHTS = (0.22, 0.42, 0.13, 0.13, 0.10)
# Ranges of the part of a note's duration during which the key is down; the last ones hold keys beyond the next note.
ARTICULATIONS = ((0.1, 0.3), (0.3, 0.6), (0.6, 0.95), (0.95, 1.1), (1.1, 2.2))
ARTICULATION_WEIGHTS = (0.15, 0.27, 0.25, 0.22, 0.11)
STACCATO_SHARE = 0.15  # Of the layers; their keys are down for a fixed time.
STACCATO_SECONDS = (0.04, 0.11)
PEDAL_EVENT_SECONDS = 0.012  # Between the values that a pedal passes through.
SILENCE_SECONDS = (0.3, 2.0)
# Largest sum of the powers of the notes that sound, relative to one of velocity 127. Exponent, decays and limit were
# fitted to the peaks of these studies as Salamander plays them at a gain of 0.7: 0.35 times the root of the sum in the
# median, and at most 0.50 times. With this limit the fit expects no peak above 0.96.
MAX_TOTAL_POWER = 3.7
POWER_EXPONENT = 4.0  # Of the velocity.
DECAY_OF_C3 = 0.35  # Of the amplitude, in 1/s.
DECAY_LIMITS = (0.8, 15.0)
DECAY_DOUBLING_SEMITONES = 16
DAMPED_DECAY = 5.0  # After the damper has fallen, or the key was struck again.


class Layer(NamedTuple):
    """One hand or voice of a kind of passage.

    Attributes:
        texture: Its texture.
        min_rate: Smallest number of notes or chords a second.
        max_rate: Largest number of them.
        centre: Mean of the central pitch; None: anywhere.
        emphasis: Mean of the velocity relative to the passage's.
    """

    texture: Texture
    min_rate: float
    max_rate: float
    centre: int | None = None
    emphasis: float = 0.0


class Kind(NamedTuple):
    """A kind of passage.

    Attributes:
        weight: How often it occurs, relative to the others.
        layers: Its layers.
        seconds: Shortest and longest duration.
        pedal_uses: Those of `PEDAL_USES` that it has; none: all.
    """

    weight: float
    layers: tuple[Layer, ...]
    seconds: tuple[float, float] = (2.0, 9.0)
    pedal_uses: tuple[str, ...] = ()


KINDS = (
    Kind(1.2, (Layer(textures.one_chord, 1, 1),), (5.0, 18.0), ("long", "long", "none", "late")),
    Kind(2, (Layer(textures.leaps, 0.4, 1.5),), (3.0, 8.0)),
    Kind(1.5, (Layer(textures.chords, 0.25, 0.8, 60),), (4.0, 10.0)),
    Kind(4, (Layer(textures.chords, 1, 5, 70, 4), Layer(textures.chords, 1, 4, 46))),
    Kind(3, (Layer(textures.scale_run, 4, 20),)),
    Kind(4, (Layer(textures.scale_run, 5, 18, 76, 3), Layer(textures.chords, 0.7, 3, 50, -4))),
    Kind(3, (Layer(textures.scale_run, 5, 16, 76), Layer(textures.scale_run, 5, 16, 48))),
    Kind(4, (Layer(textures.arpeggio, 5, 22), Layer(textures.melody, 0.5, 2.5, 60, 8))),
    Kind(3, (Layer(textures.trill, 8, 15, 76), Layer(textures.melody, 1, 4, 52, 4))),
    Kind(3, (Layer(textures.repeated, 3, 12, 68), Layer(textures.melody, 1, 5, 48, 6))),
    Kind(3, (Layer(textures.octaves, 2, 8, 66, 6), Layer(textures.chords, 1, 4, 50, -4))),
    Kind(2, (Layer(textures.octaves, 2, 9, 72), Layer(textures.octaves, 2, 9, 40))),
    Kind(0.6, (Layer(textures.clusters, 0.5, 3),)),
    Kind(2, (Layer(textures.leaps, 2, 9),)),
    Kind(3, (Layer(textures.melody, 1, 6, 72, 3), Layer(textures.melody, 1, 6, 52))),
    Kind(3, tuple(Layer(textures.melody, 1, 5, centre) for centre in (76, 64, 50))),
    Kind(2, tuple(Layer(textures.melody, 0.8, 4, centre) for centre in (79, 70, 59, 45))),
    Kind(3, (Layer(textures.tremolo, 8, 14, 60, -5), Layer(textures.melody, 1, 4, 74, 10))),
    Kind(6, (Layer(textures.melody, 0.8, 4, 75, 10), Layer(textures.broken_chord, 4, 11, 52, -8))),
    Kind(4, (Layer(textures.octaves, 1, 3, 74, 10), Layer(textures.arpeggio, 7, 13, 52, -6))),
    Kind(
        6,
        (
            Layer(textures.chords, 1.5, 4, 74, 10),
            Layer(textures.arpeggio, 8, 14, 56, -6),
            Layer(textures.octaves, 0.7, 2, 34, 4),
        ),
    ),
)


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def _harmonies(rng: np.random.Generator, seconds: float) -> tuple[Harmony, ...]:
    """Harmonies that change at one rate, of chords on tones of one scale."""
    pitches = np.arange(MIN_PITCH, MAX_PITCH + 1)
    tonic = int(rng.integers(12))
    intervals = SCALES[rng.choice(len(SCALES), p=SCALE_WEIGHTS)]
    scale = pitches[np.isin((pitches - tonic) % 12, intervals)]
    period = _log_uniform(rng, 0.5, 4.0)
    harmonies = []
    for start in np.arange(0.0, seconds, period).tolist():
        root = tonic + int(rng.choice(intervals))
        chord = CHORDS[rng.choice(len(CHORDS), p=CHORD_WEIGHTS)]
        harmonies.append(Harmony(start, pitches[np.isin((pitches - root) % 12, chord)], scale))
    return tuple(harmonies)


def _range(rng: np.random.Generator, centre: int | None) -> tuple[int, int]:
    """The lowest and the highest pitch of a layer: at least an octave and a half, around its centre or anywhere."""
    width = rng.integers(9, 22)
    if centre is None:
        middle = rng.uniform(MIN_PITCH, MAX_PITCH)
        width += rng.integers(0, 24)
    else:
        middle = rng.normal(centre, 10)
    middle = np.clip(middle, MIN_PITCH + width, MAX_PITCH - width)
    return max(MIN_PITCH, round(middle - width)), min(MAX_PITCH, round(middle + width))


def _mean_velocity(rng: np.random.Generator) -> float:
    """The mean velocity of a passage: mezzo-forte most of the time, and sometimes anything."""
    if rng.random() < 0.2:
        return float(rng.uniform(MIN_VELOCITY + 4, MAX_VELOCITY - 5))
    return float(np.clip(rng.normal(61, 14), 20, 115))


def _play_layer(rng: np.random.Generator, layer: Layer, frame: Frame, velocity: np.ndarray) -> np.ndarray:
    """Articulation and dynamics of a layer.

    Args:
        rng: The random generator.
        layer: The layer.
        frame: Its range, rate and harmonies.
        velocity: Mean velocity at the beginning and at the end of the passage.

    Returns:
        [N, 4] of (onset, offset, pitch, velocity).
    """
    notes = layer.texture(rng, frame)
    onset, seconds, pitch, weight = np.array([tuple(note) for note in notes], np.float64).reshape(-1, 4).T
    if rng.random() < STACCATO_SHARE and layer.texture is not textures.one_chord:
        pressed_seconds = rng.uniform(*STACCATO_SECONDS) * rng.uniform(0.8, 1.25, len(notes))
    else:
        low, high = ARTICULATIONS[rng.choice(len(ARTICULATIONS), p=ARTICULATION_WEIGHTS)]
        pressed_seconds = seconds * rng.uniform(low, high) * rng.uniform(0.85, 1.15, len(notes))
    pressed_seconds = np.clip(pressed_seconds, MIN_PRESSED_SECONDS, np.maximum(frame.seconds - onset, 0) + 0.1)
    level = layer.emphasis + np.interp(onset, [0, frame.seconds], velocity)
    spread = rng.uniform(2, 11)
    accents = (rng.random(len(notes)) < 0.04) * rng.uniform(10, 30, len(notes))
    velocities = np.clip(np.rint(level + weight + rng.normal(0, spread, len(notes)) + accents), MIN_VELOCITY, 127)
    return np.stack([onset, onset + pressed_seconds, pitch, velocities], axis=1)


def _move(start: float, start_value: float, value: float, seconds: float) -> list[tuple[float, float]]:
    """A pedal's way from a value to another."""
    count = max(2, round(seconds / PEDAL_EVENT_SECONDS))
    parts = np.arange(1, count + 1) / count
    values = np.rint(start_value + (value - start_value) * parts)
    return list(zip((start + seconds * parts).tolist(), values.tolist(), strict=True))


def _pedal_down_between(rng: np.random.Generator, spans: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """A pedal that is down in each span; the moves take some of its time."""
    events: list[tuple[float, float]] = []
    for start, end in spans:
        if end - start < 0.2:
            continue
        depth = float(rng.choice([127, int(rng.integers(PEDAL_DOWN + 8, 127))]))
        down, up = rng.uniform(0.04, 0.25 * min(1.0, end - start), 2)
        events += _move(start, 0.0, depth, down)
        if rng.random() < 0.5:  # The foot rests with small movements.
            times = np.arange(start + down + 0.1, end - up - 0.05, rng.uniform(0.04, 0.3))
            values = np.clip(np.rint(depth + rng.normal(0, 4, len(times))), PEDAL_DOWN + 4, 127)
            events += list(zip(times.tolist(), values.tolist(), strict=True))
        last = events[-1][1]
        events += _move(end - up, last, 0.0, up)
    return events


def _half_pedal(rng: np.random.Generator, seconds: float) -> list[tuple[float, float]]:
    """A pedal that moves between values around the one at which it takes hold of the strings."""
    events: list[tuple[float, float]] = []
    now, value = float(rng.uniform(0, 0.3)), 0.0
    while now < seconds - 0.5:
        target = float(np.clip(rng.normal(PEDAL_DOWN + 6, 24), 0, 127).round())
        duration = rng.uniform(0.04, 0.25)
        events += _move(now, value, target, duration)
        value = target
        now += duration + _log_uniform(rng, 0.05, 0.8)
    return events + _move(seconds - 0.12, value, 0.0, 0.1)


def _pedal(
    rng: np.random.Generator, use: str, seconds: float, harmonies: tuple[Harmony, ...]
) -> list[tuple[float, float]]:
    """The sustain pedal of a passage, (seconds, value); it is up at the end."""
    if use == "none" or seconds < 1.0:
        return []
    if use == "half":
        return _half_pedal(rng, seconds)
    if use == "long":
        starts = np.array([rng.uniform(0, 0.3), *np.arange(rng.uniform(4, 20), seconds - 2, 10.0)])
    elif use == "late":
        starts = np.arange(rng.uniform(0.25, 1.0), seconds - 0.5, rng.uniform(1.0, 3.0))
    else:
        starts = np.array([harmony.start for harmony in harmonies])
        starts = starts + rng.uniform(0.03, 0.2, len(starts)) * (np.diff(starts, append=seconds) > 0.5)
    gap = rng.uniform(0.01, 0.08) if use != "late" else rng.uniform(0.1, 0.4)
    ends = np.append(starts[1:] - gap, seconds - 0.01)
    return _pedal_down_between(rng, list(zip(starts.tolist(), ends.tolist(), strict=True)))


def _passage(rng: np.random.Generator, longest: float) -> tuple[float, np.ndarray, list[tuple[float, float]]]:
    """A passage of at most `longest` seconds: its duration, notes [N, 4] and pedal events (seconds, value)."""
    weights = np.array([kind.weight for kind in KINDS])
    kind = KINDS[rng.choice(len(KINDS), p=weights / weights.sum())]
    seconds = min(_log_uniform(rng, *kind.seconds), longest)
    harmonies = _harmonies(rng, seconds)
    velocity = np.full(2, _mean_velocity(rng))
    if rng.random() < 0.5:
        velocity += rng.uniform(0, 18) * np.array([-1, 1]) * rng.choice([-1, 1])
    played = []
    for layer in kind.layers:
        frame = Frame(seconds, _log_uniform(rng, layer.min_rate, layer.max_rate), *_range(rng, layer.centre), harmonies)
        played.append(_play_layer(rng, layer, frame, velocity))
    use = rng.choice(kind.pedal_uses) if kind.pedal_uses else rng.choice(PEDAL_USES, p=PEDAL_WEIGHTS)
    pedal = _pedal(rng, str(use), seconds, harmonies)
    return seconds, _limit_power(np.concatenate(played), pedal), pedal


def total_power(performance: Performance) -> np.ndarray:
    """The sum of the powers of the notes that sound at each onset, [N]; a note of velocity 127 begins with 1."""
    now = performance.onset[:, None]
    decay = np.clip(DECAY_OF_C3 * 2 ** ((performance.pitch - 48) / DECAY_DOUBLING_SEMITONES), *DECAY_LIMITS)
    nepers = decay * np.maximum(now - performance.onset, 0)
    nepers += DAMPED_DECAY * np.maximum(now - sounding_offset(performance), 0)
    power = (performance.velocity / MAX_VELOCITY) ** POWER_EXPONENT
    return np.where(now >= performance.onset, power * np.exp(-2 * nepers), 0.0).sum(axis=1)


def _limit_power(notes: np.ndarray, pedal: list[tuple[float, float]]) -> np.ndarray:
    """The notes [N, 4] of a passage, all of them softer where they are too loud together."""
    excess = total_power(_with_pedal(notes, pedal)).max() / MAX_TOTAL_POWER
    if excess <= 1:
        return notes
    softer = np.floor(notes[:, 3] / excess ** (1 / POWER_EXPONENT))
    return np.column_stack([notes[:, :3], np.maximum(softer, MIN_VELOCITY)])


def _on_one_keyboard(rng: np.random.Generator, notes: np.ndarray) -> np.ndarray:
    """Notes [N, 4] that a keyboard can play: a key is up before it is struck again, and not struck again too soon."""
    notes = notes[np.lexsort((notes[:, 0], notes[:, 2]))]
    playable: list[np.ndarray] = []
    for note in notes:
        previous = playable[-1] if playable and playable[-1][2] == note[2] else None
        if previous is not None:
            if note[0] - previous[0] < MIN_REPETITION_SECONDS:
                continue
            previous[1] = min(previous[1], note[0] - rng.uniform(0.005, MAX_RELEASE_SECONDS))
        playable.append(note.copy())
    return np.array(playable)


def _with_pedal(notes: np.ndarray, pedal: list[tuple[float, float]]) -> Performance:
    events = np.array([(second, SUSTAIN, value) for second, value in pedal], np.float64).reshape(-1, 3)
    return performance_from_events(notes, events, (), "a study")


def _require_seconds(seconds: float) -> None:
    if seconds < MIN_STUDY_SECONDS:
        raise InputError(f"a study of {seconds:g} s is too short; ask for {MIN_STUDY_SECONDS:g} s or more")


def study(seed: int, seconds: float) -> Performance:
    """Passages of a few seconds, each with its own texture, dynamics, articulation and pedal.

    Args:
        seed: Seed of all random choices.
        seconds: When the last key and the pedal are up, at the latest, but for a tenth of a second.

    Returns:
        The performance; the same arguments give the same one.

    Raises:
        InputError: `seconds` is less than MIN_STUDY_SECONDS.
    """
    _require_seconds(seconds)
    rng = np.random.default_rng(seed)
    now = float(rng.uniform(0, 0.5))
    notes: list[np.ndarray] = []
    pedal: list[tuple[float, float]] = []
    while seconds - now > MIN_PASSAGE_SECONDS:
        duration, passage_notes, passage_pedal = _passage(rng, seconds - now)
        notes.append(passage_notes + np.array([now, now, 0, 0]))
        pedal += [(now + second, value) for second, value in passage_pedal]
        now += duration
        if rng.random() < 0.3:
            now += float(rng.uniform(*SILENCE_SECONDS)) if rng.random() < 0.5 else float(rng.uniform(0.05, 0.3))
    return _with_pedal(_on_one_keyboard(rng, np.concatenate(notes)), pedal)


def single_notes(seed: int, seconds: float) -> Performance:
    """Single notes, one after another: all keys in a random order, then all in another one.

    Partials of a key can be measured where nothing else sounds.

    Args:
        seed: Seed of all random choices.
        seconds: When the last key and the pedal are up, at the latest.

    Returns:
        The performance; the same arguments give the same one.

    Raises:
        InputError: `seconds` is less than MIN_STUDY_SECONDS.
    """
    _require_seconds(seconds)
    rng = np.random.default_rng(seed)
    notes: list[tuple[float, float, int, int]] = []
    pedal: list[tuple[float, float]] = []
    order: list[int] = []
    now = float(rng.uniform(0, 0.5))
    while True:
        order = order or rng.permutation(np.arange(MIN_PITCH, MAX_PITCH + 1)).tolist()
        duration = float(rng.uniform(1.1, 2.8))
        if now + duration > seconds:
            break
        pressed_seconds = duration * float(rng.choice([rng.uniform(0.05, 0.4), rng.uniform(0.5, 0.9)], p=[0.2, 0.8]))
        velocity = int(rng.integers(MIN_VELOCITY, MAX_VELOCITY + 1))
        notes.append((now, now + pressed_seconds, order.pop(), velocity))
        if rng.random() < 0.3:
            pedal_delay = float(rng.uniform(-0.05, 0.3 * duration))
            pedal += _pedal_down_between(rng, [(max(0.0, now + pedal_delay), now + 0.95 * duration)])
        now += duration
    return _with_pedal(_on_one_keyboard(rng, np.array(notes, np.float64)), pedal)
