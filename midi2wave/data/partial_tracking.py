"""The partials of a data set's piano: frequency, level, decay and phase of each, measured on its recordings.

Amplitudes of the partials are measured in windows after note onsets. Where labels and sound agree to a fraction of a
period, the complex amplitudes of a key's notes are averaged, so that all else that sounds cancels; elsewhere their
phases carry no information, and powers are averaged instead.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from midi2wave.audio.pcm import FULL_SCALE
from midi2wave.audio.peaks import peak_offset
from midi2wave.audio.pre_emphasis import emphasize
from midi2wave.conditioning.partials import (
    MIN_WINDOW_SECONDS,
    PARTIAL_CHANNEL,
    PianoPartials,
    default_partials,
    window_seconds,
)
from midi2wave.config import N_PARTIALS
from midi2wave.data.note_events import NoteEvents, performance_events
from midi2wave.data.processed_folder import ProcessedFolder
from midi2wave.midi.performance import N_PITCHES
from midi2wave.utils.cli import progress
from midi2wave.utils.errors import InputError

MAX_RELATIVE_HZ = 0.45  # Of the sampling rate; higher partials are not measured.

# Spectra in which the frequencies are searched: after the hammer's noise, while the tone is strong.
SPECTRUM_START_SECONDS = 0.03
SPECTRUM_SECONDS = 0.4
MAX_DETUNING_CENTS = 45.0  # Between a partial and that of the default piano.
MAX_SPREAD_CENTS = 5.0  # Interquartile range; what spreads more is a partial of another note.

# Windows in which partials are tracked, from the onset on.
FIRST_WINDOW_SECONDS = 0.02
HOP_SECONDS = 0.02
N_WINDOWS = 18

MAX_NOTES_PER_RECORDING = 250
MIN_NOTES_PER_KEY = 8
MIN_COHERENCE = 0.3  # Power of the mean amplitude / mean power; below it the phases of a key's notes disagree.
MIN_DECAY = 0.1  # In 1/s; what decays more slowly than this, or faster than MAX_DECAY, is not the partial.
MAX_DECAY = 40.0
N_ROUNDS = 2  # Partials are tracked again at the frequencies that the first round has measured.
DEFAULT_VELOCITY_EXPONENT = 1.5
SAMPLING_SEED = 0
# Significant digits of the numbers in a config.
HZ_DIGITS = 7
DIGITS = 4


@dataclass(frozen=True)
class PartialTracks:
    """Amplitudes of each key's partials in successive windows, demodulated to the onset, at velocity 127.

    Attributes:
        mean: Mean over the notes of the key, complex [88, 16, W].
        power: Mean power over the same notes, [88, 16, W].
        n_notes: Number of these notes, [88].
    """

    mean: np.ndarray
    power: np.ndarray
    n_notes: np.ndarray

    def coherence(self) -> np.ndarray:
        """Power of the mean relative to the mean power, [88, 16]; 1 where the phases of all notes agree."""
        return (np.abs(self.mean) ** 2).sum(axis=-1) / np.maximum(self.power.sum(axis=-1), 1e-20)

    def frequency_offset(self) -> np.ndarray:
        """How far the partials lie above the tracked frequencies, by their phase from window to window: Hz [88, 16]."""
        rotation = (self.mean[..., 1:] * self.mean[..., :-1].conj()).sum(axis=-1)
        return np.angle(rotation) / (2 * np.pi * HOP_SECONDS)


@dataclass(frozen=True)
class PartialMeasurement:
    """The partials of a folder's piano.

    Attributes:
        partials: All of them; those that could not be measured are interpolated between the keys around.
        velocity_exponent: Amplitudes grow with this power of the velocity.
        is_measured: Which partials were measured, bool [88, 16].
    """

    partials: PianoPartials
    velocity_exponent: float
    is_measured: np.ndarray


def measure_partials(folder: ProcessedFolder, preemphasis: float) -> PartialMeasurement:
    """Measure the partials of a folder's piano, in the sound after pre-emphasis.

    Raises:
        InputError: No key has enough notes.
    """
    hz = _measure_frequencies(folder)
    exponent = _measure_velocity_exponent(folder, hz, preemphasis)
    for _ in range(N_ROUNDS):
        tracks = track_partials(folder, hz, preemphasis, exponent)
        is_tracked = (tracks.n_notes >= MIN_NOTES_PER_KEY)[:, None] & (hz < MAX_RELATIVE_HZ * folder.audio_hz)
        is_coherent = is_tracked & (tracks.coherence() > MIN_COHERENCE)
        offset_hz = np.where(is_coherent, tracks.frequency_offset(), 0.0)
        hz = hz + offset_hz
    if not is_tracked.any():
        raise InputError(
            f"no key has {MIN_NOTES_PER_KEY} or more notes that are long enough: "
            "the data set is too small to be measured; take more recordings"
        )
    centre = window_seconds(hz) / 2 + FIRST_WINDOW_SECONDS + HOP_SECONDS * np.arange(N_WINDOWS)[:, None]  # [W, 88]
    seconds = centre.T[:, None, :]
    mean = tracks.mean * np.exp(-2j * np.pi * offset_hz[..., None] * seconds)
    amplitude = np.where(is_coherent[..., None], np.abs(mean), np.sqrt(tracks.power))
    decay = _fit_decay(amplitude, seconds)
    is_measured = is_tracked & (decay > MIN_DECAY) & (decay < MAX_DECAY)
    envelope = np.exp(-decay[..., None] * seconds)
    samples = np.where(is_coherent[..., None], mean, amplitude)
    start = (samples * envelope).sum(axis=-1) / (envelope**2).sum(axis=-1)  # Complex amplitude at the onset, [88, 16].
    level = _interpolate(np.abs(start), is_measured)
    decay = _interpolate(decay, is_measured)
    # Demodulation gives the phase of a cosine, while the excitation's first channels are sines.
    phase = np.where(is_coherent & is_measured, np.angle(start) + np.pi / 2, 0.0)
    return PartialMeasurement(PianoPartials(hz, level * _channel_gain(level), decay, phase), exponent, is_measured)


def partial_options(measurements: Sequence[PartialMeasurement]) -> dict[str, Any]:
    """The options of data_config that describe measured partials.

    Args:
        measurements: One set of partials for each of data_config.global_values, or one for all recordings.
    """
    partials = [each.partials for each in measurements]
    return {
        "partial_hz": _rounded([each.hz for each in partials], HZ_DIGITS),
        "partial_level": _rounded([each.level for each in partials], DIGITS),
        "partial_decay": _rounded([each.decay for each in partials], DIGITS),
        "partial_phase": _rounded([each.phase for each in partials], DIGITS),
        "velocity_exponent": round(float(np.mean([each.velocity_exponent for each in measurements])), 2),
    }


def _rounded(arrays: Sequence[np.ndarray], digits: int) -> list[float]:
    """All values in one list, with this many significant digits."""
    return [float(f"{value:.{digits}g}") for value in np.ravel(arrays)]


def track_partials(
    folder: ProcessedFolder, hz: np.ndarray, preemphasis: float, velocity_exponent: float
) -> PartialTracks:
    """Average the amplitudes of the partials of frequencies `hz` [88, 16] over the notes of each key."""
    mean = np.zeros((N_PITCHES, N_PARTIALS, N_WINDOWS), dtype=complex)
    power = np.zeros(mean.shape)
    n_notes = np.zeros(N_PITCHES, dtype=int)
    for key, velocity, audible, amplitudes in _note_amplitudes(folder, hz, preemphasis):
        scaled = amplitudes / (velocity / 127) ** velocity_exponent
        mean[key, audible] += scaled
        power[key, audible] += np.abs(scaled) ** 2
        n_notes[key] += 1
    count = np.maximum(n_notes, 1)[:, None, None]
    return PartialTracks(mean / count, power / count, n_notes)


def demodulator(hz: np.ndarray, length: int, audio_hz: int) -> np.ndarray:
    """Complex oscillations of frequencies `hz` [P], from phase 0 at a window's first sample: [length, P].

    The product of windows [W, length] with it is the partials' complex amplitudes, up to the window's gain.
    """
    return np.exp(-2j * np.pi * np.outer(np.arange(length) / audio_hz, hz))


def onset_rotation(start: np.ndarray, onset: np.ndarray | float, hz: np.ndarray, audio_hz: int) -> np.ndarray:
    """Factors [W, P] that turn phases at windows' first samples `start` [W] into phases at the onset in seconds."""
    return np.exp(-2j * np.pi * np.outer(start / audio_hz - onset, hz))


def _sample_notes(folder: ProcessedFolder, min_seconds: float) -> Iterator[NoteEvents]:
    """Yield for each recording some notes longer than `min_seconds`, not softer than the median velocity."""
    rng = np.random.default_rng(SAMPLING_SEED)
    for position in progress(range(len(folder.rows)), len(folder.rows), "recording"):
        notes = performance_events(folder.performance(position), position)
        median = np.median(notes.velocity) if len(notes) else 0.0
        usable = (notes.duration > min_seconds) & (notes.velocity >= median) & (notes.labelled_onset >= 0)
        yield notes.select(np.sort(rng.permutation(np.flatnonzero(usable))[:MAX_NOTES_PER_RECORDING]))


def _measure_frequencies(folder: ProcessedFolder) -> np.ndarray:
    """Frequencies of all partials by the peaks of notes' spectra near those of the default piano, Hz [88, 16]."""
    default_hz = default_partials().hz
    median = np.full(default_hz.shape, np.nan)  # In cents above the default piano.
    for (key, n), values in _spectral_peaks(folder, default_hz).items():
        if len(values) >= MIN_NOTES_PER_KEY and np.subtract(*np.percentile(values, [75, 25])) < MAX_SPREAD_CENTS:
            median[key, n] = np.median(values)
    is_measured = np.isfinite(median)
    cents = _interpolate(np.where(is_measured, median, 0.0), is_measured, logarithmic=False)
    return default_hz * 2 ** (cents / 1200)


def _spectral_peaks(folder: ProcessedFolder, default_hz: np.ndarray) -> dict[tuple[int, int], list[float]]:
    """The peaks of all notes' spectra near frequencies [88, 16], in cents above these, by key and partial."""
    rate = folder.audio_hz
    length = round(SPECTRUM_SECONDS * rate)
    n_fft = 2 ** int(np.ceil(np.log2(8 * SPECTRUM_SECONDS * rate)))
    peaks: dict[tuple[int, int], list[float]] = {}
    for position, notes in enumerate(_sample_notes(folder, SPECTRUM_START_SECONDS + SPECTRUM_SECONDS)):
        pcm = folder.pcm(position)
        for onset, key in zip(notes.labelled_onset, notes.key, strict=True):
            first = round((onset + SPECTRUM_START_SECONDS) * rate)
            if first + length > len(pcm):
                continue
            spectrum = np.abs(np.fft.rfft(pcm[first : first + length] * np.hanning(length), n_fft))
            for n in np.flatnonzero(default_hz[key] < MAX_RELATIVE_HZ * rate).tolist():
                cents = _peak_cents(spectrum, default_hz[key, n], rate / n_fft)
                if cents is not None:
                    peaks.setdefault((int(key), n), []).append(cents)
    return peaks


def _peak_cents(spectrum: np.ndarray, expected_hz: float, bin_hz: float) -> float | None:
    """The highest peak around a frequency, in cents above it; None if it lies at the edge of the search."""
    low, high = (expected_hz * 2 ** (side * MAX_DETUNING_CENTS / 1200) / bin_hz for side in (-1, 1))
    first, last = int(low), int(high) + 2
    peak = first + int(np.argmax(spectrum[first:last]))
    if peak in (first, last - 1):
        return None
    top = peak + peak_offset(np.log(np.maximum(spectrum[peak - 1 : peak + 2], 1e-9)), 1)
    return float(1200 * np.log2(top * bin_hz / expected_hz))


def _note_amplitudes(
    folder: ProcessedFolder, hz: np.ndarray, preemphasis: float
) -> Iterator[tuple[int, int, np.ndarray, np.ndarray]]:
    """Yield for each note its key, velocity, audible partials (mask [16]), and their complex amplitudes [P, W]."""
    rate = folder.audio_hz
    lengths = np.rint(window_seconds(hz) * rate).astype(int)
    min_seconds = FIRST_WINDOW_SECONDS + HOP_SECONDS * N_WINDOWS + MIN_WINDOW_SECONDS
    offsets = HOP_SECONDS * np.arange(N_WINDOWS)
    for position, notes in enumerate(_sample_notes(folder, min_seconds)):
        sound = emphasize(np.array(folder.pcm(position)), preemphasis) / FULL_SCALE
        for onset, key, velocity in zip(notes.labelled_onset, notes.key, notes.velocity, strict=True):
            length = lengths[key]
            starts = np.rint((onset + FIRST_WINDOW_SECONDS + offsets) * rate).astype(int)
            if starts[-1] + length > len(sound):
                continue
            audible, window = hz[key] < MAX_RELATIVE_HZ * rate, np.hanning(length)
            frames = np.lib.stride_tricks.sliding_window_view(sound, length)[starts] * window
            amplitudes = frames @ demodulator(hz[key, audible], length, rate)
            amplitudes = amplitudes * onset_rotation(starts, onset, hz[key, audible], rate) * (2 / window.sum())
            yield int(key), int(velocity), audible, amplitudes.T


def _measure_velocity_exponent(folder: ProcessedFolder, hz: np.ndarray, preemphasis: float) -> float:
    """Slope of log amplitude over log velocity, relative to each key's means.

    The amplitude is that of a note's loudest partial in the first window.
    """
    keys, log_velocity, log_amplitude = [], [], []
    for key, velocity, _, amplitudes in _note_amplitudes(folder, hz, preemphasis):
        keys.append(key)
        log_velocity.append(np.log(velocity))
        log_amplitude.append(np.log(np.abs(amplitudes[:, 0]).max() + 1e-9))
    if not keys:
        return DEFAULT_VELOCITY_EXPONENT
    count = np.bincount(keys, minlength=N_PITCHES)[keys]
    x, y = (np.array(v) - (np.bincount(keys, v, N_PITCHES)[keys] / count) for v in (log_velocity, log_amplitude))
    spread = float(x @ x)
    return float(np.clip(x @ y / spread, 0.5, 4.0)) if spread > 0 else DEFAULT_VELOCITY_EXPONENT


def _fit_decay(amplitude: np.ndarray, seconds: np.ndarray) -> np.ndarray:
    """Decay rates in 1/s [88, 16] of amplitudes [88, 16, W] at times [88, 1, W], by a line through their logarithms.

    With a non-linear fit by scipy to the amplitudes themselves the excitation explains less (2.07 instead of 2.09 dB
    on the Disklavier recordings), and the fit takes a thousand times as long.
    """
    weight = amplitude**2 + 1e-20
    weight = weight / weight.sum(axis=-1, keepdims=True)
    level = np.log(amplitude + 1e-10)
    time = seconds - (weight * seconds).sum(axis=-1, keepdims=True)
    level = level - (weight * level).sum(axis=-1, keepdims=True)
    slope = (weight * time * level).sum(axis=-1) / (weight * time**2).sum(axis=-1)
    return np.clip(-slope, MIN_DECAY, MAX_DECAY)


def _interpolate(values: np.ndarray, is_measured: np.ndarray, *, logarithmic: bool = True) -> np.ndarray:
    """Values [88, 16] with the missing ones interpolated between keys, partial by partial.

    A partial that was measured on no key takes the values of the partial below it.
    """
    scaled = np.log(np.maximum(values, 1e-12)) if logarithmic else values
    result = np.zeros(values.shape)
    for n in range(N_PARTIALS):
        keys = np.flatnonzero(is_measured[:, n])
        if len(keys):
            result[:, n] = np.interp(range(N_PITCHES), keys, scaled[keys, n])
        elif n:
            result[:, n] = result[:, n - 1]
    return np.exp(result) if logarithmic else result


def _channel_gain(level: np.ndarray) -> np.ndarray:
    """Gains [16] that bring each excitation channel to RMS 1 at the 90th percentile of the keys."""
    n_channels = PARTIAL_CHANNEL.max() + 1
    power = np.stack([(level[:, channel == PARTIAL_CHANNEL] ** 2).sum(axis=1) for channel in range(n_channels)])
    return (1 / np.maximum(np.sqrt(np.percentile(power, 90, axis=1)), 1e-9))[PARTIAL_CHANNEL]
