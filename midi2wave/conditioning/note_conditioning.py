"""The conditioning of a performance: frame-rate features, and the note-synchronous excitation at audio rate.

Both are closed formulas of the note and pedal events and the absolute time, for any range of frames, also before the
start of the piece: a crop or a block equals the same stretch of the whole, bit for bit.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from midi2wave.conditioning.excitation import NoteExcitation, n_excitation
from midi2wave.conditioning.features import NULL_FEATURE, NoteFeatures, n_features
from midi2wave.conditioning.global_conditioning import global_features
from midi2wave.conditioning.partials import partials_for
from midi2wave.config import MIN_HISTORY_LEVEL, DataConfig
from midi2wave.midi.performance import Performance, empty_performance, sounding_offset

# A pedal that never comes up holds its notes for ever. A year is as good, and its frames are integers.
MAX_DAMPER_SECONDS = 3e7


@dataclass(frozen=True)
class NullPerformance:
    """Placeholder for the null condition: no notes, global labels kept."""

    global_labels: tuple[str, ...]  # as of `Performance`


class NullConditioning:
    """The null condition: nothing is stated about notes. Crops whose MIDI is dropped have it in training."""

    def __init__(self, config: DataConfig, global_features: Sequence[float] = ()) -> None:
        """Prepare the constant rows.

        Args:
            config: The model's features, excitation and rates.
            global_features: `global_conditioning.global_features` of the recording, [G].
        """
        self.config = config
        self.hop = config.audio_hz // config.midi_hz
        self.global_features = np.array(global_features, dtype=np.float32)

    def features(self, first: int, n: int) -> np.ndarray:
        """Features of n frames from `first` on: float32 [F + G, n]."""
        rows = np.full((n_features(self.config.features) + len(self.global_features), n), NULL_FEATURE, np.float32)
        rows[len(rows) - len(self.global_features) :] = self.global_features[:, None]
        return rows

    def excitation(self, first: int, n: int) -> np.ndarray:
        """Excitation of n frames from `first` on, which is silent: float32 [E, n * hop]."""
        return np.zeros((n_excitation(self.config), n * self.hop), dtype=np.float32)


class NoteConditioning:
    """The conditioning of one performance, on demand for any range of frames.

    Frame f covers the samples [f * hop, (f + 1) * hop). An onset belongs to the frame into which it falls, so that the
    model receives it before the attack begins.
    """

    def __init__(self, performance: Performance, config: DataConfig, global_features: Sequence[float] = ()) -> None:
        """Prepare the notes.

        Args:
            performance: Notes and pedals in seconds.
            config: The model's features, excitation and rates.
            global_features: `global_conditioning.global_features` of the recording, [G]; the same at all times.
        """
        self.config = config
        self.hop = config.audio_hz // config.midi_hz
        self.global_features = np.array(global_features, dtype=np.float32)
        offset = sounding_offset(performance) if config.sustain_extends_notes else performance.offset
        damper_time = np.minimum(offset, MAX_DAMPER_SECONDS)
        partials = partials_for(config, global_features[: len(config.global_values)])
        self._features = NoteFeatures(performance, damper_time, config)
        self._excitation = NoteExcitation(performance, damper_time, config, partials)

    def features(self, first: int, n: int) -> np.ndarray:
        """Features of n frames from `first` on, then the global features: float32 [F + G, n], values in 0..1."""
        n_note_rows = n_features(self.config.features)
        rows = np.zeros((n_note_rows + len(self.global_features), n), dtype=np.float32)
        self._features.fill(rows[:n_note_rows], first)
        rows[n_note_rows:] = self.global_features[:, None]
        return rows

    def excitation(self, first: int, n: int) -> np.ndarray:
        """Excitation of n frames from `first` on: float32 [E, n * hop], E = 0 without excitation."""
        return self._excitation.samples(first, n)


def conditioning_for(
    performance: Performance | NullPerformance | None, config: DataConfig, history_level: float = MIN_HISTORY_LEVEL
) -> NoteConditioning | NullConditioning:
    """The conditioning that a model of this config receives for a performance.

    Args:
        performance: Notes and pedals; NullPerformance or None stand for the null condition.
        config: The model's data config.
        history_level: Level of the disturbance of the past samples in dB, for models with that input.

    Returns:
        For the null condition: NullConditioning where the model is trained with it, else that of a silent piano. For
        an unconditional model: NullConditioning with features [0, n] and excitation [0, n * hop].
    """
    labels = performance.global_labels if performance else ()
    constant = global_features(labels, config, history_level)
    has_notes = isinstance(performance, Performance)
    if not config.conditional or (not has_notes and config.conditioning_dropout):
        return NullConditioning(config, constant)
    notes = performance if isinstance(performance, Performance) else empty_performance()
    return NoteConditioning(notes, config, constant)
