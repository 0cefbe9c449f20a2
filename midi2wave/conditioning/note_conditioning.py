"""Conditioning from note events: frame-rate features, and the note-synchronous excitation at audio rate.

Both are closed formulas of the events and the absolute time, for any frame range, also before the start of the piece:
a crop or a block equals the same stretch of the whole, bit for bit.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from midi2wave.conditioning.excitation import MAX_DECAY_NEPERS, N_EXCITATION, add_note, n_excitation
from midi2wave.conditioning.features import (
    NULL_FEATURE,
    ONSET_AGE_SECONDS,
    RELEASE_AGE_SECONDS,
    add_states,
    age_decay,
    constant_rows,
    feature_names,
    n_features,
    next_frame_of_key,
)
from midi2wave.conditioning.global_conditioning import one_hot
from midi2wave.conditioning.partials import PianoPartials, default_partials, partials_for
from midi2wave.config import DataConfig
from midi2wave.midi.performance import LOWEST_PITCH, N_PITCHES, PEDALS, Performance, empty_performance, sounding_offset


@dataclass(frozen=True)
class NullPerformance:
    """In the place of a performance: nothing is said of its notes, but what is known of its recording."""

    global_labels: tuple[str, ...]  # as of `Performance`


class NullConditioning:
    """No statement about the notes at all: what a model is shown of the crops whose MIDI is dropped."""

    def __init__(self, config: DataConfig, global_features: Sequence[float] = ()) -> None:
        self.config, self.hop = config, config.audio_hz // config.midi_hz
        self.global_features = np.array(global_features, dtype=np.float32)  # [G]

    def features(self, first: int, n: int) -> np.ndarray:
        """As of `NoteConditioning`: float32 [F + G, n]."""
        unsaid = np.full((n_features(self.config.features), n), NULL_FEATURE, dtype=np.float32)
        return np.concatenate([unsaid, constant_rows(self.global_features, n)])

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
        n_channels: int = N_EXCITATION,
        partials: PianoPartials | None = None,
        velocity_exponent: float = 1.5,
        damping_seconds: float = 0.04,
        sustain_extends_notes: bool = True,
        global_features: Sequence[float] = (),
    ) -> None:
        self.names = feature_names(names)
        self.n_channels = n_channels  # of the excitation: 0, 6, or 12 in quadrature
        self.global_features = np.array(global_features, dtype=np.float32)  # [G], the same at all times
        self.partials = partials or default_partials()
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
        self.next_frame = np.maximum(next_frame_of_key(self.key, self.onset_frame), self.onset_frame + 1)
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
        return np.concatenate([*rows, constant_rows(self.global_features, n)])

    def _key_rows(self, name: str, first: int, n: int) -> np.ndarray:
        rows = np.zeros((N_PITCHES, n), dtype=np.float32)
        velocity = name in ("onset", "held_velocity")
        age = age_decay(ONSET_AGE_SECONDS if name == "onset_age" else RELEASE_AGE_SECONDS, self.midi_hz)
        start = self.end_frame if name == "release_age" else self.onset_frame
        stop = {"onset": self.onset_frame + 1, "held_velocity": np.minimum(self.next_frame, self.end_frame)}
        # Only the notes in the range, and of each key the last one before it, can matter: a re-strike ends a state.
        add_states(rows, first, self.key, start, stop.get(name, self.next_frame), self.level, velocity, age)
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
        """The sounding notes as decaying, slightly inharmonic sinusoids: float32 [E, n * hop].

        Every partial starts with its phase at its note's onset, also if that lies before `first`; in quadrature its
        cosine stands six channels further. It gives the decoder a source to filter, as source-filter vocoders do for
        speech (arXiv 1810.11946).
        """
        out = np.zeros((self.n_channels, n * self.hop), dtype=np.float32)
        if not self.n_channels:
            return out
        start, stop = first / self.midi_hz, (first + n) / self.midi_hz
        longest = MAX_DECAY_NEPERS / self.partials.decay.min(axis=1)
        gone = np.minimum(self.onset + longest[self.key], self.end + 10 * self.damping_seconds)
        for i in np.flatnonzero((self.onset < stop) & (gone > start)):
            key = int(self.key[i])
            times = (self.onset[i], self.end[i], gone[i], self.damping_seconds)
            loudness = (self.velocity[i] / 127) ** self.velocity_exponent
            add_note(
                out,
                first,
                self.hop,
                self.audio_hz,
                *times,
                loudness,
                *self.partials.table(key, self.audio_hz, self.hop),
            )
        return out


def conditioning_for(
    performance: Performance | NullPerformance | None, config: DataConfig
) -> NoteConditioning | NullConditioning:
    """The conditioning of a performance as a model of this config is shown it; of None or Untold, the null condition.

    A model that was never shown the null condition in training gets silence in its place, an unconditional one nothing:
    features [0, n] and excitation [0, n * hop].
    """
    global_features = one_hot(performance.global_labels if performance else (), config.global_values)
    told = isinstance(performance, Performance)
    if not config.conditional or (not told and config.conditioning_dropout):
        return NullConditioning(config, global_features)
    return NoteConditioning(
        performance if told else empty_performance(),
        config.features,
        audio_hz=config.audio_hz,
        midi_hz=config.midi_hz,
        n_channels=n_excitation(config),
        partials=partials_for(config, global_features),
        velocity_exponent=config.velocity_exponent,
        damping_seconds=config.damping_seconds,
        sustain_extends_notes=config.sustain_extends_notes,
        global_features=global_features,
    )
