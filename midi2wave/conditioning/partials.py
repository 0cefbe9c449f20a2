"""The partials of a piano's strings: frequency, level, decay rate and phase for each of the 88 keys."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from midi2wave.config import N_PARTIALS, DataConfig
from midi2wave.midi.performance import MIN_PITCH, N_PITCHES

# Channel of the excitation to which each partial belongs: 1 | 2 | 3 | 4-5 | 6-8 | 9-16.
PARTIAL_CHANNEL = np.array([0, 1, 2, 3, 3, 4, 4, 4, 5, 5, 5, 5, 5, 5, 5, 5])
# Channels of the excitation without quadrature; there are twice as many with it.
N_EXCITATION = 6
# Decay rate of the first partial of each key in 1/s; higher partials decay faster.
FUNDAMENTAL_DECAY = 0.5 * 2 ** ((np.arange(N_PITCHES) + MIN_PITCH - 60) / 24)
# Inharmonicity of each key: it grows from the tenor upwards.
DEFAULT_STIFFNESS = (2e-4 * 2 ** (np.maximum(0, np.arange(N_PITCHES) + MIN_PITCH - 48) / 10)).tolist()
MIN_WINDOW_SECONDS = 0.08
# Neighbouring partials of a key are resolved by a window of at least so many periods of the first one.
MIN_WINDOW_PERIODS = 4


@dataclass(frozen=True, eq=False)
class PianoPartials:
    """The partials of every key of a piano.

    Attributes:
        hz: Frequencies in Hz, float64 [88, 16].
        level: Amplitudes at the onset for velocity 127, float64 [88, 16].
        decay: Decay rates in 1/s, float64 [88, 16].
        phase: Phases at the onset in radians, float64 [88, 16].
    """

    hz: np.ndarray
    level: np.ndarray
    decay: np.ndarray
    phase: np.ndarray


def partial_hz(key: int, cents: float, stiffness: float) -> np.ndarray:
    """Frequencies of the partials of a stiff string: n f sqrt(1 + B n^2) (Fletcher 1964).

    Args:
        key: Piano key, 0 to 87.
        cents: Deviation of the key from equal temperament at A4 = 440 Hz.
        stiffness: Inharmonicity coefficient B.

    Returns:
        Frequencies in Hz, float64 [16].
    """
    n = np.arange(1, N_PARTIALS + 1)
    return n * 440.0 * 2 ** ((key + MIN_PITCH - 69 + cents / 100) / 12) * np.sqrt(1 + stiffness * n**2)


def window_seconds(hz: np.ndarray) -> np.ndarray:
    """Lengths of the windows in which partials are measured.

    Args:
        hz: Frequencies of the partials of each key, [88, 16].

    Returns:
        Seconds, [88].
    """
    return np.maximum(MIN_WINDOW_SECONDS, MIN_WINDOW_PERIODS / hz[:, 0])


@functools.cache
def default_partials() -> PianoPartials:
    """Partials of a piano in tune: zero phase, and unit power in each channel of the excitation."""
    n = np.arange(1, N_PARTIALS + 1)
    shape = (N_PITCHES, len(n))
    return PianoPartials(
        hz=np.stack([partial_hz(key, 0.0, DEFAULT_STIFFNESS[key]) for key in range(N_PITCHES)]),
        level=np.broadcast_to(1 / np.sqrt(np.bincount(PARTIAL_CHANNEL)[PARTIAL_CHANNEL]), shape),
        decay=FUNDAMENTAL_DECAY[:, None] * (1 + 0.5 * (n - 1)),
        phase=np.zeros(shape),
    )


def partials_for(config: DataConfig, global_features: Sequence[float] = ()) -> PianoPartials:
    """The partials that a config describes, or the default ones.

    Args:
        config: Its options `partial_*` hold one set of partials, or one for each of its global values.
        global_features: Which of the global values the recording has, [G]. Its first value chooses the set; without
            any, the first set is taken.

    Returns:
        The same object for all recordings that share a set, so that what is computed from it is cached.
    """
    if not config.partial_hz:
        return default_partials()
    lists = (config.partial_hz, config.partial_level, config.partial_decay, config.partial_phase)
    sets = _configured_partials(*map(tuple, lists))
    labels = np.flatnonzero(global_features)
    return sets[labels[0] if len(sets) > 1 and len(labels) else 0]


@functools.lru_cache(maxsize=4)
def _configured_partials(*lists: tuple[float, ...]) -> list[PianoPartials]:
    arrays = (np.array(values, dtype=np.float64).reshape(-1, N_PITCHES, N_PARTIALS) for values in lists)
    return [PianoPartials(*one) for one in zip(*arrays, strict=True)]
