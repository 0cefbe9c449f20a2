"""Frame-rate features of notes and pedals: their names, their number, and the functions that fill them in."""

import functools
import math

import numpy as np

from midi2wave.config import FEATURE_PRESETS
from midi2wave.midi.performance import N_PITCHES, PEDALS
from midi2wave.utils.numba_cache import cached_njit

ONSET_AGE_SECONDS = 0.5
RELEASE_AGE_SECONDS = 0.1
NULL_FEATURE = -1.0  # of the null condition, which is not silence: any value that no feature takes


def feature_names(names: list[str]) -> tuple[str, ...]:
    """Feature names with presets spelt out, in the given order."""
    return tuple(dict.fromkeys(n for name in names for n in FEATURE_PRESETS.get(name, (name,))))


def n_features(names: list[str]) -> int:
    """Rows of the feature matrix: one for each pedal, 88 for everything else."""
    return sum(len(PEDALS) if name == "pedals" else N_PITCHES for name in feature_names(names))


def constant_rows(values: np.ndarray, n: int) -> np.ndarray:
    """Values [G] that hold at all times, as rows [G, n]."""
    return np.repeat(values[:, None], n, axis=1)


@functools.lru_cache(maxsize=16)
def age_decay(seconds: float, midi_hz: int) -> np.ndarray:
    """exp(-age / seconds) for ages of 0, 1, ... frames, as long as float32 can tell it from 0."""
    return np.exp(-np.arange(math.ceil(104 * seconds * midi_hz) + 1) / (seconds * midi_hz)).astype(np.float32)


@cached_njit
def add_states(rows, first, key, start, stop, level, velocity, age):
    """Write into rows [88, n] what each note is from its start to its stop frame: its level, or its age's value."""
    n = rows.shape[1]
    for i in range(len(key)):
        a, b = max(start[i], first) - first, min(stop[i], first + n) - first  # stop may be the largest number
        row = rows[key[i]]
        for f in range(a, b):
            since = f + first - start[i]
            value = level[i] if velocity else age[since] if since < len(age) else np.float32(0)
            # Of two strokes of one key in one frame the louder one counts, never their sum.
            row[f] = max(row[f], value)


def next_frame_of_key(key: np.ndarray, onset_frame: np.ndarray) -> np.ndarray:
    """For each note the onset frame of the next note of its key, or the end of time."""
    result = np.full(len(key), np.iinfo(np.int64).max)
    order = np.lexsort((np.arange(len(key)), key))
    same = key[order][1:] == key[order][:-1]
    result[order[:-1][same]] = onset_frame[order[1:][same]]
    return result
