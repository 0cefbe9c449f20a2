"""Frame-rate features of the notes and pedals of a performance.

Frame f covers the samples [f * hop, (f + 1) * hop). An onset belongs to the frame into which it falls.
"""

import functools
import math
from collections.abc import Sequence

import numpy as np

from midi2wave.config import FEATURE_PRESETS, DataConfig
from midi2wave.midi.performance import MIN_PITCH, N_PITCHES, PEDALS, Performance
from midi2wave.utils.numba_cache import cached_njit

ONSET_AGE_SECONDS = 0.5
RELEASE_AGE_SECONDS = 0.1
# Every feature of the null condition, which is not silence, has this value; no feature of a performance has it.
NULL_FEATURE = -1.0
MAX_FLOAT32_NEPERS = 104  # exp(-104) is 0 in float32


def feature_names(names: Sequence[str]) -> tuple[str, ...]:
    """Feature names with presets spelt out, each once, in the order of the names."""
    return tuple(dict.fromkeys(n for name in names for n in FEATURE_PRESETS.get(name, (name,))))


def n_features(names: Sequence[str]) -> int:
    """Rows of the feature matrix F: one for each pedal, 88 for every other feature."""
    return sum(len(PEDALS) if name == "pedals" else N_PITCHES for name in feature_names(names))


class NoteFeatures:
    """The features of one performance, on demand for any range of frames."""

    def __init__(self, performance: Performance, damper_time: np.ndarray, config: DataConfig) -> None:
        """Prepare the notes.

        Args:
            performance: Notes and pedals in seconds.
            damper_time: When each note's damper falls, in seconds, float64 [N].
            config: Names of the features and the frame rate.
        """
        self.names = feature_names(config.features)
        self.midi_hz = config.midi_hz
        self.key = performance.pitch - MIN_PITCH
        self.level = (performance.velocity / 127).astype(np.float32)
        self.onset_frame = self._frame(performance.onset)
        # A note shorter than a frame still sounds in the frame of its onset.
        self.end_frame = np.maximum(self._frame(damper_time), self.onset_frame + 1)
        # Notes of one key with an onset in the same frame share that frame; after it, the last of them counts.
        self.next_frame = np.maximum(_next_onset_frame(self.key, self.onset_frame), self.onset_frame + 1)
        self.pedals = {}
        for controller in PEDALS:
            events = performance.pedals.get(controller, np.zeros((0, 2)))
            self.pedals[controller] = (self._frame(events[:, 0]), events[:, 1])

    def fill(self, rows: np.ndarray, first: int) -> None:
        """Write the features of the frames from `first` on.

        Args:
            rows: Zeros, float32 [F, n]; gets values in 0..1, in the order of the names.
            first: First frame.
        """
        start = 0
        for name in self.names:
            stop = start + n_features([name])
            if name == "pedals":
                self._fill_pedals(rows[start:stop], first)
            else:
                self._fill_keys(name, rows[start:stop], first)
            start = stop

    def _frame(self, seconds: np.ndarray) -> np.ndarray:
        # A microsecond of tolerance keeps a time that is meant to lie on a frame's edge out of the frame before.
        return np.floor(np.asarray(seconds) * self.midi_hz + 1e-6 * self.midi_hz).astype(np.int64)

    def _fill_keys(self, name: str, rows: np.ndarray, first: int) -> None:
        """One feature of the 88 keys, [88, n]."""
        if name in ("onset", "held_velocity"):
            held_until = np.minimum(self.next_frame, self.end_frame)
            stop = self.onset_frame + 1 if name == "onset" else held_until
            add_levels(rows, first, self.key, self.onset_frame, stop, self.level)
        else:
            # A new onset of the key ends the state that an earlier note has left.
            start = self.end_frame if name == "release_age" else self.onset_frame
            age_seconds = ONSET_AGE_SECONDS if name == "onset_age" else RELEASE_AGE_SECONDS
            add_decays(rows, first, self.key, start, self.next_frame, _age_decay(age_seconds, self.midi_hz))

    def _fill_pedals(self, rows: np.ndarray, first: int) -> None:
        """The last value of each pedal, [3, n]."""
        for row, controller in zip(rows, PEDALS, strict=True):
            frames, values = self.pedals[controller]
            last = np.searchsorted(frames, np.arange(first, first + len(row)), side="right") - 1
            if len(values):
                row[:] = np.where(last >= 0, values[last] / 127, 0)


@functools.lru_cache(maxsize=16)
def _age_decay(seconds: float, midi_hz: int) -> np.ndarray:
    """exp(-age / seconds) for ages of 0, 1, ... frames, until it is 0 in float32."""
    n_frames = math.ceil(MAX_FLOAT32_NEPERS * seconds * midi_hz) + 1
    return np.exp(-np.arange(n_frames) / (seconds * midi_hz)).astype(np.float32)


@cached_njit
def add_levels(
    rows: np.ndarray, first: int, key: np.ndarray, start: np.ndarray, stop: np.ndarray, level: np.ndarray
) -> None:
    """Write each note's level into its key's row.

    Args:
        rows: float32 [88, n], changed in place.
        first: The frame with which `rows` begins.
        key: Key of each note, int64 [N].
        start: First frame of each note, int64 [N].
        stop: Frame after its last one, int64 [N].
        level: float32 [N].
    """
    n = rows.shape[1]
    for i in range(len(key)):
        row = rows[key[i]]
        for f in range(max(start[i], first) - first, min(stop[i], first + n) - first):
            # Of two notes of one key in one frame the louder one counts, never their sum.
            row[f] = max(row[f], level[i])


@cached_njit
def add_decays(
    rows: np.ndarray, first: int, key: np.ndarray, start: np.ndarray, stop: np.ndarray, decay: np.ndarray
) -> None:
    """Write the decay since each note's start into its key's row.

    Args:
        rows: float32 [88, n], changed in place.
        first: The frame with which `rows` begins.
        key: Key of each note, int64 [N].
        start: First frame of each note's state, int64 [N].
        stop: Frame after its last one, int64 [N]; it may be the largest integer.
        decay: Value at each age in frames, float32 [A]; later ages are 0.
    """
    n = rows.shape[1]
    for i in range(len(key)):
        row = rows[key[i]]
        for f in range(max(start[i], first) - first, min(stop[i], first + n) - first):
            age = f + first - start[i]
            row[f] = max(row[f], decay[age] if age < len(decay) else np.float32(0))


def _next_onset_frame(key: np.ndarray, onset_frame: np.ndarray) -> np.ndarray:
    """For each note the onset frame of the next note of its key, or the largest integer."""
    result = np.full(len(key), np.iinfo(np.int64).max)
    order = np.lexsort((np.arange(len(key)), key))
    same_key = key[order][1:] == key[order][:-1]
    result[order[:-1][same_key]] = onset_frame[order[1:][same_key]]
    return result
