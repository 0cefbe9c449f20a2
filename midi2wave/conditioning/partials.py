"""The partials of a piano's strings: frequencies, levels, decay rates and phases of every key."""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from midi2wave.config import DataConfig
from midi2wave.midi.performance import LOWEST_PITCH, N_PITCHES

# The partials of a string, grouped into the excitation's channels: 1 | 2 | 3 | 4-5 | 6-8 | 9-16.
PARTIAL_CHANNEL = np.array([0, 1, 2, 3, 3, 4, 4, 4, 5, 5, 5, 5, 5, 5, 5, 5])
# How fast the first partial of each key decays, in 1/s; higher partials decay faster.
FUNDAMENTAL_DECAY = 0.5 * 2 ** ((np.arange(N_PITCHES) + LOWEST_PITCH - 60) / 24)
# Inharmonicity of each key: it grows from the tenor upwards.
DEFAULT_STIFFNESS = (2e-4 * 2 ** (np.maximum(0, np.arange(N_PITCHES) + LOWEST_PITCH - 48) / 10)).tolist()
MIN_WINDOW_SECONDS = 0.08  # of a window in which partials are measured
MIN_WINDOW_PERIODS = 4  # of the first partial in such a window: so many keep neighbouring partials apart


def partial_hz(key: int, cents: float, stiffness: float) -> np.ndarray:
    """Frequencies of the partials of a key, 0 to 87, of a stiff string: n f sqrt(1 + B n^2) (Fletcher 1964)."""
    n = np.arange(1, len(PARTIAL_CHANNEL) + 1)
    return n * 440.0 * 2 ** ((key + LOWEST_PITCH - 69 + cents / 100) / 12) * np.sqrt(1 + stiffness * n**2)


@dataclass(frozen=True)
class PianoPartials:
    """The partials of every key that the excitation sounds, each float64 [88, 16]: Hz, amplitude at the onset for
    velocity 127, decay in 1/s and phase at the onset in radians."""

    hz: np.ndarray
    level: np.ndarray
    decay: np.ndarray
    phase: np.ndarray
    tables: dict[tuple[int, int, int], tuple[np.ndarray, ...]] = field(default_factory=dict, compare=False, repr=False)

    def table(self, key: int, audio_hz: int, hop: int) -> tuple[np.ndarray, ...]:
        """What `add_note` needs to know of a key, computed once."""
        if (key, audio_hz, hop) not in self.tables:
            rows = (self.hz[key], self.level[key], self.decay[key], self.phase[key])
            self.tables[key, audio_hz, hop] = _partial_table(*rows, audio_hz, hop)
        return self.tables[key, audio_hz, hop]


def window_seconds(hz: np.ndarray) -> np.ndarray:
    """The length of the windows in which the partials [88, 16] of each key are measured, [88]."""
    return np.maximum(MIN_WINDOW_SECONDS, MIN_WINDOW_PERIODS / hz[:, 0])


@functools.cache
def default_partials() -> PianoPartials:
    """Those of an ordinary piano in tune, all beginning at phase 0; every channel's partials as loud as one."""
    n = np.arange(1, len(PARTIAL_CHANNEL) + 1)
    shape = (N_PITCHES, len(n))
    return PianoPartials(
        hz=np.stack([partial_hz(key, 0.0, DEFAULT_STIFFNESS[key]) for key in range(N_PITCHES)]),
        level=np.broadcast_to(1 / np.sqrt(np.bincount(PARTIAL_CHANNEL)[PARTIAL_CHANNEL]), shape),
        decay=FUNDAMENTAL_DECAY[:, None] * (1 + 0.5 * (n - 1)),
        phase=np.zeros(shape),
    )


def partials_for(config: DataConfig, global_features: Sequence[float] = ()) -> PianoPartials:
    """The strings that a config describes, the same object for all recordings of which it says the same.

    Where it has a set for each of its global values, those of the recording's first value; where none is known, the
    first set.
    """
    if not config.partial_hz:
        return default_partials()
    given = (config.partial_hz, config.partial_level, config.partial_decay, config.partial_phase)
    sets = _configured_partials(*map(tuple, given))
    known = np.flatnonzero(global_features)
    return sets[known[0] if len(sets) > 1 and len(known) else 0]


@functools.lru_cache(maxsize=4)
def _configured_partials(*given: tuple[float, ...]) -> list[PianoPartials]:
    lists = (np.array(values, dtype=np.float64).reshape(-1, N_PITCHES, len(PARTIAL_CHANNEL)) for values in given)
    return [PianoPartials(*one) for one in zip(*lists, strict=True)]


def _partial_table(
    hz: np.ndarray, level: np.ndarray, decay: np.ndarray, phase: np.ndarray, audio_hz: int, hop: int
) -> tuple[np.ndarray, ...]:
    """A key's audible partials: turn (rad/s), decay (1/s), level, phase, channel; cosine and sine over one frame
    [P, hop], and what they are after one, complex [P].

    The cosine and sine carry the decay inside the frame; an oscillation within any frame is a blend of the two.
    """
    audible = hz < 0.45 * audio_hz
    turn, decay = 2 * math.pi * hz[audible], decay[audible]
    oscillation = np.exp(np.outer(1j * turn - decay, np.arange(hop) / audio_hz))
    cosine, sine = oscillation.real.astype(np.float32), oscillation.imag.astype(np.float32)
    step = np.exp((1j * turn - decay) * hop / audio_hz)
    return turn, decay, level[audible], phase[audible], PARTIAL_CHANNEL[audible], cosine, sine, step
