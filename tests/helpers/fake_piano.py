"""A synthetic piano that follows its MIDI: measures of a model can be tested without a trained model."""

import numpy as np

from midi2wave.midi.performance import PEDALS, SUSTAIN, Performance, sounding_offset

HZ = 16000


def performance(notes=(), pedal=()):
    """From (onset, offset, pitch, velocity) rows and (seconds, value) of the sustain pedal."""
    rows = np.array(sorted(notes, key=lambda note: (note[0], note[2])), dtype=float).reshape(-1, 4)
    pedals = {number: np.empty((0, 2)) for number in PEDALS}
    pedals[SUSTAIN] = np.array(pedal, dtype=float).reshape(-1, 2)
    return Performance(rows[:, 0], rows[:, 1], rows[:, 2].astype(np.int64), rows[:, 3].astype(np.int64), pedals)


def melody(seed, seconds):
    """A note every 0.3 s, some of them together, over three octaves."""
    rng, notes = np.random.default_rng(seed), []
    for onset in np.arange(0.1, seconds - 0.3, 0.3):
        for pitch in rng.choice(np.arange(48, 84), rng.integers(1, 3), replace=False):
            notes.append((onset, onset + 0.28, pitch, rng.integers(50, 110)))
    return performance(notes)


def play(piece, seconds, hz=HZ):
    """int16 [T]: decaying harmonic tones that end with their dampers."""
    time = np.arange(round(seconds * hz)) / hz
    sound = np.zeros_like(time)
    ends = np.minimum(sounding_offset(piece), seconds + 1)
    for onset, end, pitch, velocity in zip(piece.onset, ends, piece.pitch, piece.velocity, strict=True):
        since = (time - onset).clip(0)
        envelope = (1 - np.exp(-since / 0.003)) * np.exp(-since / 0.6) * np.exp(-(time - end).clip(0) / 0.03)
        for partial in range(1, 7):
            hertz = partial * 440 * 2 ** ((pitch - 69) / 12)
            if hertz < hz / 2:
                sound += 0.15 * (velocity / 127) ** 2 / partial * envelope * np.sin(2 * np.pi * hertz * since)
    return np.rint(sound.clip(-1, 1) * 32767).astype(np.int16)


def play_batch(performances, seconds):
    """`play` as a `counterfactual.PhraseGenerator`: int16 [B, T]."""
    return np.stack([play(one, seconds) for one in performances])
