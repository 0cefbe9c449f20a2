"""Counterfactuals: one change in the MIDI of a short phrase, and its effect on the audio.

The audio comes from a function `generate(performances, seconds) -> int16 [B, T]`. It should use the same random numbers
for each performance, so that their audio differs by the notes alone.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from midi2wave.audio.pcm import FULL_SCALE, level_db
from midi2wave.evaluation.reverberation import Decay, mean_decay, measure_decay
from midi2wave.midi.performance import PEDALS, SUSTAIN, Performance

PhraseGenerator = Callable[[list[Performance], float], np.ndarray]

# The notes that are changed: the middle of the keyboard.
PITCHES = (45, 52, 57, 64, 71)
# A note that stays sounds so many semitones above: no low partial of the changed note lies there.
COMPANION_SEMITONES = 6
ONSET_SECONDS = 0.5
RELEASE_SECONDS = 1.3
PHRASE_SECONDS = 2.5
DEFAULT_VELOCITY = 80
SOFT_VELOCITY = 30
LOUD_VELOCITY = 110
# The band of a piano key extends this far to both sides of its fundamental.
BAND_SEMITONES = 0.5
# Levels below are set to this one, so that different kinds of silence do not differ.
MIN_LEVEL_DB = -90.0


@dataclass(frozen=True)
class Effect:
    """The effect of one change on the audio at several pitches.

    Attributes:
        db: Mean over the pitches, in dB.
        lowest_db: The worst pitch, in dB.
        right: Share of the pitches at which the effect has the right sign, 0..1.
    """

    db: float
    lowest_db: float
    right: float


@dataclass(frozen=True)
class Counterfactuals:
    """The effects of all changes.

    Attributes:
        semitone: A note moves by a semitone: the increase of the level in the band of the new piano key plus the
            decrease in that of the old one.
        elsewhere_db: Mean absolute change in the band of the note that stays.
        velocity: Level at velocity 110 relative to 30.
        pedal: Level after the release with the pedal down relative to up.
        decays: Decay after the release, by global label.
    """

    semitone: Effect
    elsewhere_db: float
    velocity: Effect
    pedal: Effect
    decays: dict[str, Decay] = field(default_factory=dict)


def phrase(
    pitch: int, velocity: int = DEFAULT_VELOCITY, *, companion: int | None = None, pedal: bool = False
) -> Performance:
    """A note from ONSET_SECONDS to RELEASE_SECONDS.

    Args:
        pitch: MIDI pitch of the note.
        velocity: MIDI velocity.
        companion: Pitch of a second note at the same time.
        pedal: Whether the sustain pedal is down until the end.
    """
    pitches = np.sort([p for p in (pitch, companion) if p is not None])
    pedals = {number: np.empty((0, 2)) for number in PEDALS}
    if pedal:
        pedals[SUSTAIN] = np.array([[ONSET_SECONDS, 127.0], [PHRASE_SECONDS, 0.0]])
    n = len(pitches)
    velocities = np.full(n, velocity, dtype=np.int64)
    return Performance(
        np.full(n, ONSET_SECONDS), np.full(n, RELEASE_SECONDS), pitches.astype(np.int64), velocities, pedals
    )


def counterfactuals(
    generate: PhraseGenerator, audio_hz: int, pitches: tuple[int, ...] = PITCHES, *, labels: Sequence[str] = ()
) -> Counterfactuals:
    """Generate every phrase and its variants in one batch, and compare them.

    Args:
        generate: Generates the audio of performances.
        audio_hz: Sample rate of this audio.
        pitches: The notes that are changed.
        labels: Global labels that the phrase is also generated with.
    """
    variants = {
        "original": [phrase(p, companion=p + COMPANION_SEMITONES) for p in pitches],
        "moved": [phrase(p + 1, companion=p + COMPANION_SEMITONES) for p in pitches],
        "soft": [phrase(p, SOFT_VELOCITY) for p in pitches],
        "loud": [phrase(p, LOUD_VELOCITY) for p in pitches],
        "released": [phrase(p) for p in pitches],
        "sustained": [phrase(p, pedal=True) for p in pitches],
        **{label: [replace(phrase(p), global_labels=(label,)) for p in pitches] for label in labels},
    }
    batch = generate([one for group in variants.values() for one in group], PHRASE_SECONDS)
    audio = dict(zip(variants, batch.reshape(len(variants), len(pitches), -1), strict=True))

    sounding = _slice(ONSET_SECONDS + 0.05, RELEASE_SECONDS, audio_hz)
    after = _slice(RELEASE_SECONDS + 0.2, PHRASE_SECONDS, audio_hz)
    semitone, elsewhere = [], []
    for p, original, moved in zip(pitches, audio["original"], audio["moved"], strict=True):
        old, new = (
            [key_level_db(pcm[sounding], key, audio_hz) for key in (p, p + 1, p + COMPANION_SEMITONES)]
            for pcm in (original, moved)
        )
        semitone.append((new[1] - new[0]) - (old[1] - old[0]))
        elsewhere.append(abs(new[2] - old[2]))
    return Counterfactuals(
        semitone=_effect(semitone),
        elsewhere_db=float(np.mean(elsewhere)),
        velocity=_effect(_level_differences(audio["loud"], audio["soft"], sounding)),
        pedal=_effect(_level_differences(audio["sustained"], audio["released"], after)),
        decays={
            label: mean_decay([measure_decay(pcm, audio_hz, RELEASE_SECONDS) for pcm in audio[label]])
            for label in labels
        },
    )


def key_level_db(pcm: np.ndarray, pitch: int, audio_hz: int) -> float:
    """Level of the fundamental of a piano key, within half a semitone, in dB relative to a full-scale sine.

    Args:
        pcm: Audio, int16 [T].
        pitch: MIDI pitch of the key.
        audio_hz: Sample rate.
    """
    spectrum = np.abs(np.fft.rfft(pcm / FULL_SCALE * np.hanning(len(pcm)))) * 4 / len(pcm)
    hz = np.fft.rfftfreq(len(pcm), 1 / audio_hz)
    low, high = (440 * 2 ** ((pitch + side * BAND_SEMITONES - 69) / 12) for side in (-1, 1))
    power = np.square(spectrum[(hz >= low) & (hz < high)]).sum()
    return float(10 * np.log10(max(power, 10 ** (MIN_LEVEL_DB / 10))))


def _level_differences(audio: np.ndarray, reference: np.ndarray, part: slice) -> list[float]:
    """Level of a part of each signal relative to that of its reference, [B, T] both."""
    pairs = zip(audio, reference, strict=True)
    return [max(level_db(a[part]), MIN_LEVEL_DB) - max(level_db(b[part]), MIN_LEVEL_DB) for a, b in pairs]


def _slice(start: float, end: float, audio_hz: int) -> slice:
    return slice(round(start * audio_hz), round(end * audio_hz))


def _effect(db: list[float]) -> Effect:
    return Effect(float(np.mean(db)), float(np.min(db)), float(np.mean(np.array(db) > 0)))
