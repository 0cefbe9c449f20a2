"""Onsets of a piano's notes, refined by the phases of its partials (`align_labels.py`).

The mean phasors of all keys and the onsets of all notes are fitted alternately (`onset_fitting.py`), over several
rounds: each round measures the partials at the onsets of the one before.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from midi2wave.audio.pcm import FULL_SCALE
from midi2wave.audio.pre_emphasis import emphasize
from midi2wave.conditioning.partials import PianoPartials, window_seconds
from midi2wave.config import DataConfig
from midi2wave.data.note_events import NoteEvents, load_note_events
from midi2wave.data.onset_fitting import MIN_FIT, MIN_PARTIALS, KeyPhases, fit_key
from midi2wave.data.partial_tracking import demodulator, onset_rotation
from midi2wave.data.processed_folder import ProcessedFolder
from midi2wave.midi.performance import N_PITCHES
from midi2wave.utils.cli import progress
from midi2wave.utils.errors import InputError

WINDOW_START_SECONDS = 0.01  # From an onset to its window: the hammer's noise is left out.
FLUX_LAG_SECONDS = 0.01  # By which a note's spectral flux (`midi_alignment.py`) comes after its onset.

# Successive windows of a note, between which the phases of its partials show their frequencies.
HOP_SECONDS = 0.04
N_WINDOWS = 5
N_TUNING_ROUNDS = 2
MAX_DETUNING_HZ = 4.0

MAX_RELATIVE_HZ = 0.43  # Of the sampling rate; higher partials are not used.
MIN_RELATIVE_LEVEL = 0.01  # Of a key's loudest partial.
MIN_NOTES_PER_KEY = 6  # Keys with fewer notes keep their labels.
MIN_FIT_SCORE = 2.0  # `KeyPhases.fit_score`: reached by one in twenty of the notes of a mismatched MIDI file.
MIN_RELIABLE_FIT = 0.8  # Mean cosine of a note's phases, from which on the note counts for the labels' common errors.
MIN_RELIABLE_NOTES = 100
# Share of a recording's notes that reach MIN_FIT_SCORE, below which its MIDI file is probably another recording's.
MIN_FITTING_SHARE = 0.2
MIN_SCORED_NOTES = 10  # With fewer notes that can be scored, the share says nothing.
N_ROUNDS = 4
# A period of lower partials is longer than the labels' errors, so that their onsets are unambiguous.
MAX_UNAMBIGUOUS_HZ = 230.0

# Of notes that still sound in another note's window.
MAX_AGE_SECONDS = 4.0
MAX_RELEASED_SECONDS = 0.3
RELEASE_SECONDS = 0.05
MIN_OVERLAP_SECONDS = 0.01


@dataclass(frozen=True)
class PianoPhases:
    """The partials of a piano with their onset phases, each [88, 16].

    Attributes:
        hz: Frequencies.
        decay: Decay rates in 1/s.
        level: Amplitudes at velocity 127.
        phasor: Mean of exp(i phase) over notes, complex: 0 where it is unknown, of length 1 where all notes agree.
    """

    hz: np.ndarray
    decay: np.ndarray
    level: np.ndarray
    phasor: np.ndarray


def measure_phases(folder: ProcessedFolder, data: DataConfig, partials: PianoPartials) -> PianoPhases:
    """The phases of a folder's piano by its labels, which must be aligned.

    Keys with fewer than MIN_NOTES_PER_KEY notes have no phasors.
    """
    notes = load_note_events(folder, data.velocity_exponent)
    piano = _untuned_phases(folder, notes, data, partials)
    onset = notes.labelled_onset
    amplitudes = _measure_amplitudes(folder, notes, onset, piano.hz, data.preemphasis)[0]
    noise = _relative_noise(notes, onset, piano)
    for key, _, audible, phases in _phases_by_key(notes, piano, amplitudes, noise, folder.audio_hz):
        if (n := len(phases.phasors)) >= MIN_NOTES_PER_KEY:
            piano.phasor[key, audible] = phases.mean_phasor(np.zeros(n), np.ones(n))
    return piano


def refine_onsets(
    folder: ProcessedFolder,
    data: DataConfig,
    partials: PianoPartials,
    recording_lag_seconds: Sequence[float | None],
    reference: PianoPhases | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Refine the onsets of all notes of a folder.

    Keys with too few notes or partials keep their labels, as do recordings of which hardly any note fits.

    Args:
        folder: The recordings.
        data: Pre-emphasis and velocity exponent.
        partials: The piano's partials.
        recording_lag_seconds: By how much each recording's spectral flux comes after its notes, None where that is
            unknown (`midi_alignment.trusted_seconds`).
        reference: Phases to align to, of the same piano; None: fit them, too.

    Returns:
        Onsets in seconds [N], and fit scores [N]: at least MIN_FIT_SCORE where the onset is right; NaN where that
        cannot be judged.

    Raises:
        InputError: There are no notes, or none that is long enough.
    """
    lags = [0.0 if lag is None else lag - FLUX_LAG_SECONDS for lag in recording_lag_seconds]
    notes = load_note_events(folder, data.velocity_exponent, lags)
    piano = reference or _untuned_phases(folder, notes, data, partials)
    # Isolated notes come first; others serve where a key has too few of them.
    suitability = _is_isolated(notes) + 0.1
    fit, fit_score = np.zeros(len(notes)), np.full(len(notes), np.nan)
    expected = onset = notes.labelled_onset
    velocity_slope = 0.0
    for _ in range(N_ROUNDS):
        amplitudes = _measure_amplitudes(folder, notes, onset, piano.hz, data.preemphasis)[0]
        noise, fitted = _relative_noise(notes, onset, piano), expected.copy()
        for key, index, audible, phases in _phases_by_key(notes, piano, amplitudes, noise, folder.audio_hz):
            phasor = piano.phasor[key, audible]
            if not phasor.any() if reference else len(index) < MIN_NOTES_PER_KEY:
                continue
            phases = phases.shifted(expected[index] - onset[index])
            shift, fit[index], phasor = fit_key(phases, phasor, suitability[index], update_phasor=reference is None)
            fit_score[index] = phases.fit_score(phasor, fit[index])
            piano.phasor[key, audible] = phasor
            fitted[index] += shift
        expected, velocity_slope = _expected_onsets(notes, fitted, fit, piano, velocity_slope)
        onset = np.where(fit > MIN_FIT, fitted, expected)
    return _restore_mismatched(notes, onset, fit_score), fit_score


def fitting_share(fit_score: np.ndarray) -> float:
    """The share of notes that fit, of those with a score; 0 if there are none. `fit_score` is [N]."""
    return float((fit_score > MIN_FIT_SCORE).sum() / max(1, np.isfinite(fit_score).sum()))


def is_probably_mismatched(fit_score: np.ndarray) -> bool:
    """Whether a recording's notes [N] fit as badly as those of another recording's MIDI file."""
    return bool(np.isfinite(fit_score).sum() >= MIN_SCORED_NOTES and fitting_share(fit_score) < MIN_FITTING_SHARE)


def _measure_amplitudes(
    folder: ProcessedFolder,
    notes: NoteEvents,
    onset: np.ndarray,
    hz: np.ndarray,
    preemphasis: float,
    n_windows: int = 1,
) -> np.ndarray:
    """Complex amplitudes [W, N, 16] of the partials in windows after the onsets, demodulated to these."""
    rate = folder.audio_hz
    amplitudes = np.zeros((n_windows, len(onset), hz.shape[1]), dtype=np.complex128)
    lengths = np.rint(window_seconds(hz) * rate).astype(int)
    padding = rate  # Silence around a recording, for windows that reach beyond its ends.
    for position in progress(range(len(folder.rows)), len(folder.rows), "recording"):
        pcm = emphasize(np.array(folder.pcm(position)), preemphasis) / FULL_SCALE
        sound = np.pad(pcm, padding).astype(np.float32)
        in_recording = np.flatnonzero(notes.recording == position)
        for key in np.unique(notes.key[in_recording]):
            index, length = in_recording[notes.key[in_recording] == key], lengths[key]
            window = np.hanning(length) * 2 / np.hanning(length).sum()
            kernel = (demodulator(hz[key], length, rate) * window[:, None]).astype(np.complex64)
            for w in range(n_windows):
                start = np.rint((onset[index] + WINDOW_START_SECONDS + w * HOP_SECONDS) * rate).astype(int)
                first = np.clip(start + padding, 0, len(sound) - length)
                frames = sound[first[:, None] + np.arange(length)]
                amplitudes[w, index] = (frames @ kernel) * onset_rotation(start, onset[index], hz[key], rate)
    return amplitudes


def _is_isolated(notes: NoteEvents) -> np.ndarray:
    """Which notes [N] are loud and long enough, on a key that was silent before."""
    is_loud = notes.velocity >= np.median(notes.velocity)
    return is_loud & (notes.duration > HOP_SECONDS * N_WINDOWS) & (notes.gap_before > 0.1)


def _untuned_phases(
    folder: ProcessedFolder, notes: NoteEvents, data: DataConfig, partials: PianoPartials
) -> PianoPhases:
    """A piano of unknown phases: frequencies and levels are measured, whatever the labels' errors."""
    hz, level = _tune(folder, notes, data, partials)
    return PianoPhases(hz, partials.decay, level, np.zeros(hz.shape, dtype=np.complex128))


def _tune(
    folder: ProcessedFolder, notes: NoteEvents, data: DataConfig, partials: PianoPartials
) -> tuple[np.ndarray, np.ndarray]:
    """Frequencies [88, 16] by the rotation of phases within notes; levels at velocity 127 [88, 16]."""
    hz, isolated = partials.hz.copy(), notes.select(_is_isolated(notes))
    for _ in range(N_TUNING_ROUNDS):
        amplitudes = _measure_amplitudes(folder, isolated, isolated.labelled_onset, hz, data.preemphasis, N_WINDOWS)
        size = np.abs(amplitudes) + 1e-12
        rotation = (amplitudes[1:] * amplitudes[:-1].conj() / (size[1:] + size[:-1])).sum(axis=0)  # [N, 16]
        total = np.zeros(hz.shape, dtype=np.complex128)
        np.add.at(total, isolated.key, rotation)
        offset = np.angle(total) / (2 * np.pi * HOP_SECONDS)
        has_notes = np.bincount(isolated.key, minlength=N_PITCHES) >= MIN_NOTES_PER_KEY
        is_usable = has_notes[:, None] & (np.abs(offset) < MAX_DETUNING_HZ) & (hz < MAX_RELATIVE_HZ * folder.audio_hz)
        hz += np.where(is_usable, offset, 0.0)
    return hz, _median_levels(amplitudes[0], isolated)


def _median_levels(amplitudes: np.ndarray, notes: NoteEvents) -> np.ndarray:
    """Median amplitudes at velocity 127 of each key [88, 16], from [N, 16]; interpolated for keys without notes."""
    keys = np.unique(notes.key)
    if not len(keys):
        raise InputError(
            "no key has a note that is loud and long enough: "
            "the data set is too small to be aligned; take more recordings"
        )
    scaled = np.abs(amplitudes) / notes.gain[:, None]
    medians = np.stack([np.median(scaled[notes.key == key], axis=0) for key in keys])
    logs = np.log(np.maximum(medians, 1e-12))
    return np.exp(np.stack([np.interp(range(N_PITCHES), keys, column) for column in logs.T], axis=1))


def _relative_noise(notes: NoteEvents, onset: np.ndarray, piano: PianoPhases) -> np.ndarray:
    """Power of other notes' partials in each partial's window, relative to its own [N, 16]."""
    result, seconds = np.zeros((len(onset), piano.hz.shape[1])), window_seconds(piano.hz)
    start = onset + WINDOW_START_SECONDS
    stop = start + seconds[notes.key]
    for position in np.unique(notes.recording):
        index = np.flatnonzero(notes.recording == position)
        for i in index:
            key, centre = notes.key[i], (start[i] + stop[i]) / 2
            begins_before = onset[index] < stop[i] - MIN_OVERLAP_SECONDS
            others = index[begins_before & (onset[index] > start[i] - MAX_AGE_SECONDS) & (index != i)]
            released = np.maximum(centre - onset[others] - notes.duration[others], 0.0)
            others, released = others[released < MAX_RELEASED_SECONDS], released[released < MAX_RELEASED_SECONDS]
            if not len(others):
                continue
            age = np.maximum(centre - onset[others], 0.0)[:, None]
            envelope = np.exp(-piano.decay[notes.key[others]] * age - released[:, None] / RELEASE_SECONDS)
            overlap = np.clip((stop[i] - onset[others]) / seconds[key], 0.0, 1.0)
            amplitude = piano.level[notes.key[others]] * envelope * (notes.gain[others] * overlap)[:, None]
            bins = (piano.hz[notes.key[others]].ravel() - piano.hz[key][:, None]) * seconds[key]
            power = (_hann_response(bins) ** 2) @ amplitude.ravel() ** 2
            result[i] = power / np.maximum((notes.gain[i] * piano.level[key]) ** 2, 1e-20)
    return result


def _hann_response(bins: np.ndarray) -> np.ndarray:
    """A Hann window's spectrum, this many bins from its centre, relative to that; an upper bound outside its lobe."""
    x = np.abs(bins)
    inside = np.where(x < 2, x, 0.0)
    lobe = np.sinc(inside) / np.where(np.abs(1 - inside**2) < 1e-3, 1.0, 1 - inside**2)
    lobe = np.where(np.abs(1 - inside**2) < 1e-3, 0.5, np.abs(lobe))
    return np.where(x < 2, lobe, 0.02 / np.maximum(x / 2, 1.0) ** 3)


def _phases_by_key(
    notes: NoteEvents, piano: PianoPhases, amplitudes: np.ndarray, noise: np.ndarray, audio_hz: int
) -> Iterator[tuple[int, np.ndarray, np.ndarray, KeyPhases]]:
    """Yield each key with notes and MIN_PARTIALS audible partials: its number, notes [n], partials [P], phases."""
    for key in np.unique(notes.key):
        index, level = np.flatnonzero(notes.key == key), piano.level[key]
        is_audible = (piano.hz[key] < MAX_RELATIVE_HZ * audio_hz) & (level > MIN_RELATIVE_LEVEL * level.max())
        audible = np.flatnonzero(is_audible)
        if len(audible) < MIN_PARTIALS:
            continue
        own = amplitudes[index][:, audible]
        size = np.maximum(np.abs(own), 1e-12)
        ratio = size / (notes.gain[index, None] * level[audible])
        amplitude_match = 2 / (ratio + 1 / ratio)
        phases = KeyPhases(own / size, amplitude_match, noise[index][:, audible], piano.hz[key, audible])
        yield key, index, audible, phases


def _restore_mismatched(notes: NoteEvents, onset: np.ndarray, fit_score: np.ndarray) -> np.ndarray:
    """Onsets [N] with the labels of recordings that are probably mismatched."""
    restored = onset.copy()
    for position in np.unique(notes.recording):
        index = np.flatnonzero(notes.recording == position)
        if is_probably_mismatched(fit_score[index]):
            restored[index] = notes.labelled_onset[index]
    return restored


def _expected_onsets(
    notes: NoteEvents, onset: np.ndarray, fit: np.ndarray, piano: PianoPhases, slope: float
) -> tuple[np.ndarray, float]:
    """Labels corrected by their common errors: one for each recording, and one in proportion to velocity.

    Args:
        notes: The notes.
        onset: Fitted onsets, [N].
        fit: Their fits, [N].
        piano: Frequencies of the partials.
        slope: Error in seconds per unit of velocity, as estimated so far.

    Returns:
        Corrected onsets [N], and the slope as estimated from them.
    """
    is_reliable = fit > MIN_RELIABLE_FIT
    is_unambiguous = piano.hz[notes.key, 0] < MAX_UNAMBIGUOUS_HZ
    if (is_reliable & is_unambiguous).sum() > MIN_RELIABLE_NOTES:
        is_reliable &= is_unambiguous
    error, n_recordings = onset - notes.labelled_onset, int(notes.recording.max()) + 1
    recording, velocities = notes.recording[is_reliable], notes.velocity[is_reliable]
    count = np.bincount(recording, minlength=n_recordings)
    mean_velocity = np.bincount(recording, velocities, n_recordings) / np.maximum(count, 1)
    velocity = np.where(count[notes.recording], notes.velocity - mean_velocity[notes.recording], 0.0)
    spread = float((velocity[is_reliable] ** 2).sum())
    lag = np.zeros(n_recordings)
    for _ in range(3):
        for position in np.unique(recording):
            index = is_reliable & (notes.recording == position)
            lag[position] = np.median((error - slope * velocity)[index])
        covariance = float((velocity * (error - lag[notes.recording]))[is_reliable].sum())
        slope = covariance / spread if spread else 0.0
    return notes.labelled_onset + lag[notes.recording] + slope * velocity, slope
