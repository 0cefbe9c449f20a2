"""What if the MIDI were another: one thing changes in a small phrase, and the sound must change there, in that way.

A player is anything that turns performances into audio: `play(performances, seconds) -> int16 [B, T]`. It should draw
its randomness in the same way for each performance, so that they differ by the notes alone.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from midi2wave.audio.pcm import FULL_SCALE, level_db
from midi2wave.evaluation.reverberation import Decay, decay, mean_decay
from midi2wave.midi.performance import PEDALS, SUSTAIN, Performance

Player = Callable[[list[Performance], float], np.ndarray]

PITCHES = (45, 52, 57, 64, 71)  # the note that is changed, over the keyboard's middle
COMPANION = 6  # semitones above it sounds a note that stays: no low partial of the changed one lies there
ONSET, RELEASE, SECONDS = 0.5, 1.3, 2.5
VELOCITY, SOFT, LOUD = 80, 30, 110
BAND_SEMITONES = 0.5  # a key's band reaches this far to both sides
QUIET_DB = -90.0  # what lies below is called silent, so that two kinds of silence do not differ


@dataclass(frozen=True)
class Effect:
    """One change's effect on the sound, over several pitches, in dB."""

    db: float  # mean
    lowest_db: float  # the worst pitch
    right: float  # share of the pitches at which it has the right sign, 0..1


@dataclass(frozen=True)
class Counterfactuals:
    """The effects of moving a note, striking it harder, holding it with the pedal, and of another recording."""

    semitone: Effect  # what the two keys' bands gain and lose together when the note moves from one to the other
    elsewhere_db: float  # mean absolute change at the companion's key meanwhile: little
    velocity: Effect  # level at velocity 110 against 30
    pedal: Effect  # level after the keys' release with the pedal down against up
    decays: dict[str, Decay] = field(default_factory=dict)  # after the keys' release, told each global value


def phrase(pitch: int, velocity: int = VELOCITY, *, companion: int | None = None, pedal: bool = False) -> Performance:
    """One key, and maybe a second one, struck at ONSET and released at RELEASE; the pedal holds to the end."""
    pitches = np.sort([p for p in (pitch, companion) if p is not None])
    pedals = {number: np.empty((0, 2)) for number in PEDALS}
    if pedal:
        pedals[SUSTAIN] = np.array([[ONSET, 127.0], [SECONDS, 0.0]])
    n = len(pitches)
    velocities = np.full(n, velocity, dtype=np.int64)
    return Performance(np.full(n, ONSET), np.full(n, RELEASE), pitches.astype(np.int64), velocities, pedals)


def counterfactuals(
    play: Player, audio_hz: int, pitches: tuple[int, ...] = PITCHES, *, values: Sequence[str] = ()
) -> Counterfactuals:
    """Play every phrase and its variants, and compare; also told each of some global values."""
    variants = {
        "here": [phrase(p, companion=p + COMPANION) for p in pitches],
        "moved": [phrase(p + 1, companion=p + COMPANION) for p in pitches],
        "soft": [phrase(p, SOFT) for p in pitches],
        "loud": [phrase(p, LOUD) for p in pitches],
        "released": [phrase(p) for p in pitches],
        "held": [phrase(p, pedal=True) for p in pitches],
        **{value: [replace(phrase(p), global_labels=(value,)) for p in pitches] for value in values},
    }
    sounds = play([one for group in variants.values() for one in group], SECONDS)
    by_name = dict(zip(variants, sounds.reshape(len(variants), len(pitches), -1), strict=True))

    sounding, after = _part(ONSET + 0.05, RELEASE, audio_hz), _part(RELEASE + 0.2, SECONDS, audio_hz)
    swap, elsewhere = [], []
    for p, here, moved in zip(pitches, by_name["here"], by_name["moved"], strict=True):
        here_db, moved_db = (
            [key_level_db(x[sounding], key, audio_hz) for key in (p, p + 1, p + COMPANION)] for x in (here, moved)
        )
        swap.append((moved_db[1] - moved_db[0]) - (here_db[1] - here_db[0]))
        elsewhere.append(abs(moved_db[2] - here_db[2]))
    velocity = [_level(loud[sounding]) - _level(soft[sounding])
                for soft, loud in zip(by_name["soft"], by_name["loud"], strict=True)]  # fmt: skip
    pedal = [_level(held[after]) - _level(released[after])
             for released, held in zip(by_name["released"], by_name["held"], strict=True)]  # fmt: skip
    decays = {value: mean_decay([decay(sound, audio_hz, RELEASE) for sound in by_name[value]]) for value in values}
    return Counterfactuals(_effect(swap), float(np.mean(elsewhere)), _effect(velocity), _effect(pedal), decays)


def key_level_db(pcm: np.ndarray, pitch: int, audio_hz: int) -> float:
    """Level of the fundamental's band of one key, within half a semitone, in dB relative to a full-scale sine."""
    spectrum = np.abs(np.fft.rfft(pcm / FULL_SCALE * np.hanning(len(pcm)))) * 4 / len(pcm)
    hz = np.fft.rfftfreq(len(pcm), 1 / audio_hz)
    low, high = (440 * 2 ** ((pitch + side * BAND_SEMITONES - 69) / 12) for side in (-1, 1))
    power = np.square(spectrum[(hz >= low) & (hz < high)]).sum()
    return float(10 * np.log10(max(power, 10 ** (QUIET_DB / 10))))


def _level(pcm: np.ndarray) -> float:
    return max(level_db(pcm), QUIET_DB)


def _part(start: float, end: float, audio_hz: int) -> slice:
    return slice(round(start * audio_hz), round(end * audio_hz))


def _effect(db: list[float]) -> Effect:
    return Effect(float(np.mean(db)), float(np.min(db)), float(np.mean(np.array(db) > 0)))
