"""A processed folder of notes whose partials are exactly those of a formula."""

from pathlib import Path

import numpy as np

from midi2wave.conditioning.partials import DEFAULT_STIFFNESS, FUNDAMENTAL_DECAY, partial_hz
from midi2wave.data import processed_folder
from midi2wave.midi.performance import MIN_PITCH, PEDALS, Performance

HZ = 16000
SECONDS = 35.0
N_RECORDINGS = 5
NOTE_SECONDS = 0.53
KEYS = np.arange(39, 47)  # Pitches 60 to 67.
NUMBERS = np.arange(1, 9)  # Of the partials that the keys have.
VELOCITY_EXPONENT = 1.7


def true_hz(key: int) -> np.ndarray:
    """Frequencies of a key's partials, [8]."""
    return partial_hz(key, 4 * np.sin(key / 3), DEFAULT_STIFFNESS[key] * 0.7)[: len(NUMBERS)]


def true_decay(key: int) -> np.ndarray:
    """Decay rates of a key's partials in 1/s, [8]."""
    return FUNDAMENTAL_DECAY[key] * (2 + NUMBERS)


def true_phase(key: int) -> np.ndarray:
    """Onset phases of a key's partials, [8]."""
    return 0.3 * NUMBERS + 0.1 * (key - 40)


def note_sound(key: int, velocity: int, seconds: np.ndarray) -> np.ndarray:
    """The sound of a note at times after its onset: amplitude 3000 / n at velocity 100, and proportional to v^1.7."""
    decay = np.exp(-np.outer(seconds, true_decay(key)))
    envelope = 3000 * (velocity / 100) ** VELOCITY_EXPONENT / NUMBERS * decay
    return (envelope * np.sin(2 * np.pi * np.outer(seconds, true_hz(key)) + true_phase(key))).sum(axis=1)


def write_partials_folder(
    folder: Path, n_notes: int = 60, max_label_error: float = 0.0, years: tuple[int, ...] = (2000,), seed: int = 0
) -> None:
    """Write a processed folder of five recordings.

    Args:
        folder: The folder.
        n_notes: Notes of each recording.
        max_label_error: How late labels are at most, in seconds.
        years: Years of the recordings, in turns.
        seed: Seed of the notes, the labels' errors and the noise.
    """
    rng = np.random.default_rng(seed)
    time = np.arange(round(SECONDS * HZ)) / HZ
    processed_folder.begin_folder(folder, {"preprocess_config": {"audio_hz": HZ}}, force=False)
    rows = []
    for index in range(N_RECORDINGS):
        onset = 0.1 + 0.55 * np.arange(n_notes) + rng.uniform(0, 0.01, n_notes)
        key = rng.choice(KEYS, n_notes)
        pedals = {pedal: np.zeros((0, 2)) for pedal in PEDALS}
        velocity = rng.integers(40, 100, n_notes)
        label = onset + rng.uniform(0, max_label_error, n_notes)
        performance = Performance(label, onset + NOTE_SECONDS, key + MIN_PITCH, velocity, pedals)
        sound = rng.normal(scale=20, size=len(time))
        for start, k, v in zip(onset, key, velocity, strict=True):
            part = slice(round(start * HZ), round((start + NOTE_SECONDS) * HZ))
            sound[part] += note_sound(k, v, time[part] - start)
        name, year = f"{index}.wav", years[index % len(years)]
        rows.append(processed_folder.Row(index, name, "", "train", year, SECONDS, len(time), n_notes, "", ""))
        processed_folder.write_recording(folder, rows[-1], np.rint(sound).astype(np.int16), performance)
    processed_folder.finish_folder(folder, rows)
