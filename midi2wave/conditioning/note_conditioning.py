"""Conditioning from note events: frame-rate features, and the note-synchronous excitation at audio rate.

Both are closed formulas of the events and the absolute time, for any frame range, also before the start of the piece:
a crop or a block equals the same stretch of the whole, bit for bit.
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from midi2wave.conditioning.global_conditioning import one_hot
from midi2wave.config import FEATURE_PRESETS, DataConfig
from midi2wave.midi.reader import LOWEST_PITCH, N_PITCHES, PEDALS, Performance, no_notes, sounding_offset
from midi2wave.utils.numba_cache import kept_njit

ONSET_AGE_SECONDS = 0.5
RELEASE_AGE_SECONDS = 0.1

# The partials of a string, grouped into the excitation's channels: 1 | 2 | 3 | 4-5 | 6-8 | 9-16.
PARTIAL_CHANNEL = np.array([0, 1, 2, 3, 3, 4, 4, 4, 5, 5, 5, 5, 5, 5, 5, 5])
N_EXCITATION = 6  # twice that in quadrature
NULL_FEATURE = -1.0  # of the null condition, which is not silence: any value that no feature takes
# How fast the first partial of each key decays, in 1/s; higher partials decay faster.
FUNDAMENTAL_DECAY = 0.5 * 2 ** ((np.arange(N_PITCHES) + LOWEST_PITCH - 60) / 24)
# Inharmonicity of each key: it grows from the tenor upwards.
USUAL_STIFFNESS = (2e-4 * 2 ** (np.maximum(0, np.arange(N_PITCHES) + LOWEST_PITCH - 48) / 10)).tolist()
ANCHOR_FRAMES = 8  # of which one costs sines and exponentials, the others a complex product for each partial
SHORTEST_SECONDS, PERIODS = 0.08, 4  # of a window that measures partials: so many periods keep a string's apart
SILENT = math.log(1000)  # nepers: a partial that has fallen by 60 dB is left out


def feature_names(names: list[str]) -> tuple[str, ...]:
    """Feature names with presets spelt out, in the given order."""
    return tuple(dict.fromkeys(n for name in names for n in FEATURE_PRESETS.get(name, (name,))))


def n_excitation(config: DataConfig) -> int:
    """Channels of the excitation that a model is shown."""
    return N_EXCITATION * (1 + config.excitation_quadrature) if config.excitation else 0


def n_features(names: list[str]) -> int:
    """Rows of the feature matrix: one for each pedal, 88 for everything else."""
    return sum(len(PEDALS) if name == "pedals" else N_PITCHES for name in feature_names(names))


def partial_hz(key: int, cents: float, stiffness: float) -> np.ndarray:
    """Frequencies of the partials of a key, 0 to 87, of a stiff string: n f sqrt(1 + B n^2) (Fletcher 1964)."""
    n = np.arange(1, len(PARTIAL_CHANNEL) + 1)
    return n * 440.0 * 2 ** ((key + LOWEST_PITCH - 69 + cents / 100) / 12) * np.sqrt(1 + stiffness * n**2)


@dataclass(frozen=True)
class NullPerformance:
    """In the place of a performance: nothing is said of its notes, but what is known of its recording."""

    recording: tuple[str, ...]  # as of `Performance`


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
        """What `_add_note` needs to know of a key, computed once."""
        if (key, audio_hz, hop) not in self.tables:
            rows = (self.hz[key], self.level[key], self.decay[key], self.phase[key])
            self.tables[key, audio_hz, hop] = _string(*rows, audio_hz, hop)
        return self.tables[key, audio_hz, hop]


def window_seconds(hz: np.ndarray) -> np.ndarray:
    """The length of the windows in which the partials [88, 16] of each key are measured, [88]."""
    return np.maximum(SHORTEST_SECONDS, PERIODS / hz[:, 0])


@functools.cache
def default_partials() -> PianoPartials:
    """Those of an ordinary piano in tune, all beginning at phase 0; every channel's partials as loud as one."""
    n = np.arange(1, len(PARTIAL_CHANNEL) + 1)
    shape = (N_PITCHES, len(n))
    return PianoPartials(
        hz=np.stack([partial_hz(key, 0.0, USUAL_STIFFNESS[key]) for key in range(N_PITCHES)]),
        level=np.broadcast_to(1 / np.sqrt(np.bincount(PARTIAL_CHANNEL)[PARTIAL_CHANNEL]), shape),
        decay=FUNDAMENTAL_DECAY[:, None] * (1 + 0.5 * (n - 1)),
        phase=np.zeros(shape),
    )


def partials_for(config: DataConfig, of_recording: Sequence[float] = ()) -> PianoPartials:
    """The strings that a config describes, the same object for all recordings of which it says the same.

    Where it has a set for each of its global values, those of the recording's first value; where none is known, the
    first set.
    """
    if not config.partial_hz:
        return default_partials()
    given = (config.partial_hz, config.partial_level, config.partial_decay, config.partial_phase)
    sets = _given_strings(*map(tuple, given))
    known = np.flatnonzero(of_recording)
    return sets[known[0] if len(sets) > 1 and len(known) else 0]


@functools.lru_cache(maxsize=4)
def _given_strings(*given: tuple[float, ...]) -> list[PianoPartials]:
    lists = (np.array(values, dtype=np.float64).reshape(-1, N_PITCHES, len(PARTIAL_CHANNEL)) for values in given)
    return [PianoPartials(*one) for one in zip(*lists, strict=True)]


class NullConditioning:
    """No statement about the notes at all: what a model is shown of the crops whose MIDI is dropped."""

    def __init__(self, config: DataConfig, of_recording: Sequence[float] = ()) -> None:
        self.config, self.hop = config, config.audio_hz // config.midi_hz
        self.of_recording = np.array(of_recording, dtype=np.float32)  # [G]

    def features(self, first: int, n: int) -> np.ndarray:
        """As of `NoteConditioning`: float32 [F + G, n]."""
        unsaid = np.full((n_features(self.config.features), n), NULL_FEATURE, dtype=np.float32)
        return np.concatenate([unsaid, _rows(self.of_recording, n)])

    def excitation(self, first: int, n: int) -> np.ndarray:
        """As of `NoteConditioning`: float32 [E, n * hop]."""
        return np.zeros((n_excitation(self.config), n * self.hop), dtype=np.float32)


class NoteConditioning:
    """The conditioning of one performance, on demand for any range of frames.

    Frame f covers the samples [f * hop, (f + 1) * hop); an onset belongs to the frame it falls into, so that the
    conditioning is there when the attack begins.
    """

    def __init__(
        self,
        performance: Performance,
        names: list[str],
        *,
        audio_hz: int,
        midi_hz: int,
        quadrature: bool = False,
        strings: PianoPartials | None = None,
        velocity_exponent: float = 1.5,
        damping_seconds: float = 0.04,
        sustain_extends_notes: bool = True,
        of_recording: Sequence[float] = (),
    ) -> None:
        self.names, self.quadrature = feature_names(names), quadrature
        self.of_recording = np.array(of_recording, dtype=np.float32)  # [G], the same at all times
        self.strings = strings or default_partials()
        self.velocity_exponent, self.damping_seconds = velocity_exponent, damping_seconds
        self.audio_hz, self.midi_hz, self.hop = audio_hz, midi_hz, audio_hz // midi_hz
        self.key = performance.pitch - LOWEST_PITCH
        self.velocity = performance.velocity
        self.level = (performance.velocity / 127).astype(np.float32)
        # A pedal that never comes up holds its notes for ever; a year is as good and fits into whole numbers.
        end = sounding_offset(performance) if sustain_extends_notes else performance.offset
        self.onset, self.end = performance.onset, np.minimum(end, 3e7)
        self.onset_frame = self._frame(self.onset)
        # A note shorter than a frame still sounds in the frame of its onset.
        self.end_frame = np.maximum(self._frame(self.end), self.onset_frame + 1)
        # Strokes of one key within a frame share that frame; from the next one on the last of them counts.
        self.next_frame = np.maximum(_next_of_same(self.key, self.onset_frame), self.onset_frame + 1)
        self.pedals = {}
        for controller in PEDALS:
            events = performance.pedals.get(controller, np.zeros((0, 2)))
            self.pedals[controller] = (self._frame(events[:, 0]), events[:, 1])

    def _frame(self, seconds: np.ndarray) -> np.ndarray:
        # A microsecond of tolerance keeps a time that is meant to lie on a frame's edge out of the frame before.
        return np.floor(np.asarray(seconds) * self.midi_hz + 1e-6 * self.midi_hz).astype(np.int64)

    def features(self, first: int, n: int) -> np.ndarray:
        """Frame-rate features of the frames first..first+n-1, then what is said of the recording: float32 [F + G, n],
        values in 0..1."""
        rows = [
            self._pedal_rows(first, n) if name == "pedals" else self._key_rows(name, first, n) for name in self.names
        ]
        return np.concatenate([*rows, _rows(self.of_recording, n)])

    def _key_rows(self, name: str, first: int, n: int) -> np.ndarray:
        rows = np.zeros((N_PITCHES, n), dtype=np.float32)
        velocity = name in ("onset", "held_velocity")
        age = _ages(ONSET_AGE_SECONDS if name == "onset_age" else RELEASE_AGE_SECONDS, self.midi_hz)
        start = self.end_frame if name == "release_age" else self.onset_frame
        stop = {"onset": self.onset_frame + 1, "held_velocity": np.minimum(self.next_frame, self.end_frame)}
        # Only the notes in the range, and of each key the last one before it, can matter: a re-strike ends a state.
        _add_states(rows, first, self.key, start, stop.get(name, self.next_frame), self.level, velocity, age)
        return rows

    def _pedal_rows(self, first: int, n: int) -> np.ndarray:
        rows = np.zeros((len(PEDALS), n), dtype=np.float32)
        for row, controller in zip(rows, PEDALS, strict=True):
            frames, values = self.pedals[controller]
            last = np.searchsorted(frames, np.arange(first, first + n), side="right") - 1
            if len(values):
                row[:] = np.where(last >= 0, values[last] / 127, 0)
        return rows

    def excitation(self, first: int, n: int) -> np.ndarray:
        """The sounding notes as decaying, slightly inharmonic sinusoids: float32 [6, n * hop], or [12, n * hop].

        Every partial starts with its phase at its note's onset, also if that lies before `first`; in quadrature its
        cosine stands six channels further. It gives the decoder a source to filter, as source-filter vocoders do for
        speech (arXiv 1810.11946).
        """
        out = np.zeros((N_EXCITATION * (1 + self.quadrature), n * self.hop), dtype=np.float32)
        start, stop = first / self.midi_hz, (first + n) / self.midi_hz
        longest = SILENT / self.strings.decay.min(axis=1)
        gone = np.minimum(self.onset + longest[self.key], self.end + 10 * self.damping_seconds)
        for i in np.flatnonzero((self.onset < stop) & (gone > start)):
            key = int(self.key[i])
            times = (self.onset[i], self.end[i], gone[i], self.damping_seconds)
            loudness = (self.velocity[i] / 127) ** self.velocity_exponent
            _add_note(
                out, first, self.hop, self.audio_hz, *times, loudness, *self.strings.table(key, self.audio_hz, self.hop)
            )
        return out


def conditioning_of(
    performance: Performance | NullPerformance | None, config: DataConfig
) -> NoteConditioning | NullConditioning:
    """The conditioning of a performance as a model of this config is shown it; of None or Untold, the null condition.

    A model that was never shown the null condition in training gets silence in its place, an unconditional one nothing:
    features [0, n] and excitation [0, n * hop].
    """
    of_recording = one_hot(performance.recording if performance else (), config.global_values)
    told = isinstance(performance, Performance)
    if not config.conditional or (not told and config.conditioning_dropout):
        return NullConditioning(config, of_recording)
    return NoteConditioning(
        performance if told else no_notes(),
        config.features,
        audio_hz=config.audio_hz,
        midi_hz=config.midi_hz,
        quadrature=config.excitation_quadrature,
        strings=partials_for(config, of_recording),
        velocity_exponent=config.velocity_exponent,
        damping_seconds=config.damping_seconds,
        sustain_extends_notes=config.sustain_extends_notes,
        of_recording=of_recording,
    )


def _rows(values: np.ndarray, n: int) -> np.ndarray:
    """Values [G] that hold at all times, as rows [G, n]."""
    return np.repeat(values[:, None], n, axis=1)


@functools.lru_cache(maxsize=16)
def _ages(seconds: float, midi_hz: int) -> np.ndarray:
    """exp(-age / seconds) for ages of 0, 1, ... frames, as long as float32 can tell it from 0."""
    return np.exp(-np.arange(math.ceil(104 * seconds * midi_hz) + 1) / (seconds * midi_hz)).astype(np.float32)


@kept_njit
def _add_states(rows, first, key, start, stop, level, velocity, age):
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


def _next_of_same(key: np.ndarray, onset_frame: np.ndarray) -> np.ndarray:
    """For each note the onset frame of the next note of its key, or the end of time."""
    result = np.full(len(key), np.iinfo(np.int64).max)
    order = np.lexsort((np.arange(len(key)), key))
    same = key[order][1:] == key[order][:-1]
    result[order[:-1][same]] = onset_frame[order[1:][same]]
    return result


def _string(
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


@kept_njit
def _add_note(
    out, first, hop, audio_hz, onset, end, gone, damping, loudness,
    turn, decay, level, phase, channel, cosine, sine, step,
):  # fmt: skip
    """Add one note to out [6 or 12, n * hop], whose first sample is first * hop.

    Phase and envelope are set anew in float64 at every frame whose number is a multiple of ANCHOR_FRAMES, also if that
    lies before `first`, and turned from there on: the result is the same whatever block a frame is in.
    """
    damper = np.empty(hop, dtype=np.float32)
    state = np.empty(len(turn), dtype=np.complex128)
    last = first + out.shape[1] // hop
    sounding = max(first, math.floor(onset * audio_hz / hop) - 1)  # one early: no rounding may lose a frame
    for f in range(sounding - sounding % ANCHOR_FRAMES, last):
        start = f * hop / audio_hz
        if start >= gone:
            break
        if f % ANCHOR_FRAMES == 0:
            for p in range(len(turn)):
                amplitude = loudness * level[p] * math.exp(-decay[p] * (start - onset))
                angle = turn[p] * (start - onset) + phase[p]
                state[p] = complex(amplitude * math.cos(angle), amplitude * math.sin(angle))
        if f >= first and start + hop / audio_hz > onset:
            begin = min(max(0, math.ceil(onset * audio_hz) - f * hop), hop)
            released = start + (hop - 1) / audio_hz > end
            for i in range(hop if released else 0):
                since = start + i / audio_hz - end
                damper[i] = math.exp(-since / damping) if since > 0 else 1.0
            for p in range(len(turn)):
                re, im = np.float32(state[p].real), np.float32(state[p].imag)
                # slices, whose indices from 0 on the compiler can take several at a time
                row = out[channel[p], (f - first) * hop + begin : (f - first + 1) * hop]
                cosines, sines, dampers = cosine[p, begin:], sine[p, begin:], damper[begin:]
                if released:
                    for i in range(len(row)):
                        row[i] += (re * sines[i] + im * cosines[i]) * dampers[i]
                else:
                    for i in range(len(row)):
                        row[i] += re * sines[i] + im * cosines[i]
                if len(out) > N_EXCITATION:
                    row = out[N_EXCITATION + channel[p], (f - first) * hop + begin : (f - first + 1) * hop]
                    if released:
                        for i in range(len(row)):
                            row[i] += (re * cosines[i] - im * sines[i]) * dampers[i]
                    else:
                        for i in range(len(row)):
                            row[i] += re * cosines[i] - im * sines[i]
        for p in range(len(turn)):
            state[p] *= step[p]
