"""Performances from lists of notes, and their conditioning."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from midi2wave.conditioning.note_conditioning import NoteConditioning
from midi2wave.config import DataConfig
from midi2wave.midi.performance import PEDALS, SOFT, SOSTENUTO, SUSTAIN, Performance

AUDIO_HZ = 16000
MIDI_HZ = 250
FRAME = 1 / MIDI_HZ
C4 = 60


def performance_of(
    notes: Iterable[Sequence[float]], pedals: Mapping[int, Sequence[Sequence[float]]] | None = None
) -> Performance:
    """A performance from lists.

    Args:
        notes: (onset, offset, pitch) or (onset, offset, pitch, velocity) each; without a velocity it is 64.
        pedals: Controller number -> [(seconds, value)].
    """
    ordered = sorted((tuple(note) for note in notes), key=lambda note: (note[0], note[2]))
    rows = np.array([note if len(note) == 4 else (*note, 64) for note in ordered], dtype=np.float64).reshape(-1, 4)
    return Performance(
        onset=rows[:, 0].copy(),
        offset=rows[:, 1].copy(),
        pitch=rows[:, 2].astype(np.int64),
        velocity=rows[:, 3].astype(np.int64),
        pedals={c: np.array((pedals or {}).get(c, []), dtype=np.float64).reshape(-1, 2) for c in PEDALS},
    )


def dense_performance(seed: int, n_notes: int = 60, n_keys: int = 6, seconds: float = 1.5) -> Performance:
    """Many notes on few keys: restrikes, duplicates within a frame, times on frame edges and before 0, all pedals."""
    rng = np.random.default_rng(seed)
    onset = rng.uniform(-0.3, seconds, n_notes)
    onset[::3] = np.round(onset[::3] * MIDI_HZ) / MIDI_HZ
    onset[1::6] = onset[0::6] + 0.3 * FRAME
    pitch = rng.choice([21, 48, 60, 64, 90, 108][:n_keys], n_notes)
    pitch[1::6] = pitch[0::6]
    offset = onset + rng.choice([0.0, 0.001, 0.05, 0.4], n_notes)
    pedals = {
        controller: np.column_stack([np.sort(rng.uniform(-0.3, seconds, 12)), rng.integers(0, 128, 12)])
        for controller in (SUSTAIN, SOSTENUTO, SOFT)
    }
    return performance_of(zip(onset, offset, pitch, rng.integers(1, 128, n_notes), strict=True), pedals)


def note_conditioning(
    piece: Performance, *names: str, audio_hz: int = AUDIO_HZ, midi_hz: int = MIDI_HZ
) -> NoteConditioning:
    """The conditioning of a performance with the features of these names, by default all."""
    config = DataConfig(features=list(names) or ["note_state"], audio_hz=audio_hz, midi_hz=midi_hz)
    return NoteConditioning(piece, config)
