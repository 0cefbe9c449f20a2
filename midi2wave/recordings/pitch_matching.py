"""Agreement of notes with sound by pitch and time: at which lag, transposition and tempo they belong together.

The log power of a recording in semitone bands is correlated with the one that its notes predict: decaying harmonics.
The whole recording takes part at every lag, so that a wrong MIDI file does not come near a right one, and harmonics
tell octaves apart. `data/midi_alignment.py` measures the lag to milliseconds, within a second, once it is known
roughly.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from midi2wave.audio.pcm import FULL_SCALE
from midi2wave.audio.peaks import peak_offset
from midi2wave.midi.performance import Performance, sounding_offset

FRAME_HZ = 25
# Long enough to separate the semitones from C3 on; harmonics separate the lower ones.
WINDOW_SECONDS = 0.256
LOW_PITCH = 21
# The bands go on above the piano's highest key, where harmonics of treble notes are.
N_BANDS = 96
# Power below this, relative to the loudest band of a recording, is noise.
RANGE_DB = 70.0
# Of bands that hardly change: their noise should not be amplified to that of the others.
MIN_STD_DB = 1.0
FRAMES_AT_ONCE = 512
# Harmonics of a note: semitones above it, and the amplitude that is expected there. The values are rough: correlations
# of right and of wrong pairs lie far apart.
HARMONICS = ((0, 1.0), (12, 0.8), (19, 0.6), (24, 0.5), (28, 0.35), (31, 0.3), (34, 0.2), (36, 0.2))
DECAY_SECONDS = 1.0
# Nothing of a note is expected after so long.
MAX_NOTE_SECONDS = 6.0
COMPRESSION = 5.0
MAX_SEMITONES = 24
# Lags at which less than this overlaps do not count, unless the recording is shorter.
MIN_OVERLAP_SECONDS = 15.0
EPSILON = 1e-12


@dataclass(frozen=True)
class Match:
    """The best agreement of notes with a sound.

    Attributes:
        correlation: Pearson's correlation of the spectra where both overlap.
        lag_seconds: By how much the sound comes after the notes.
        semitones: By how much the sound is higher than the notes.
        untransposed: The correlation without transposition, at its own best lag.
    """

    correlation: float
    lag_seconds: float
    semitones: int
    untransposed: float


@dataclass(frozen=True)
class WindowMatch:
    """The agreement in one stretch of a recording.

    Attributes:
        centre_seconds: Its middle in the recording.
        correlation: As of `Match`, at the best lag.
        lag_seconds: By how much the sound comes after the notes.
    """

    centre_seconds: float
    correlation: float
    lag_seconds: float


def sound_spectrogram(pcm: np.ndarray, audio_hz: int) -> np.ndarray:
    """The changes of a recording's log power in semitone bands.

    Args:
        pcm: int16 [T].
        audio_hz: Its sample rate.

    Returns:
        float32 [frames at FRAME_HZ, N_BANDS]; every band and every frame has mean 0, every band about the same power.
    """
    from scipy.fft import rfft  # In single precision.

    n_window = round(WINDOW_SECONDS * audio_hz)
    n_frames = max(1, len(pcm) * FRAME_HZ // audio_hz)
    hop = audio_hz // FRAME_HZ
    edges = 440 * 2 ** ((np.arange(LOW_PITCH, LOW_PITCH + N_BANDS + 1) - 69.5) / 12) * n_window / audio_hz
    bins = np.arange(n_window // 2 + 1)
    overlap = np.minimum(edges[1:], bins[:, None] + 0.5) - np.maximum(edges[:-1], bins[:, None] - 0.5)
    to_bands = overlap.clip(0).astype(np.float32)
    window = np.hanning(n_window).astype(np.float32)
    padded = np.pad(pcm, (n_window // 2, n_window))
    frames = np.lib.stride_tricks.sliding_window_view(padded, n_window)[::hop]
    power = np.empty((n_frames, N_BANDS), dtype=np.float32)
    for first in range(0, n_frames, FRAMES_AT_ONCE):
        block = frames[first : min(first + FRAMES_AT_ONCE, n_frames)] * (window / FULL_SCALE)
        power[first : first + len(block)] = np.abs(rfft(block)) ** 2 @ to_bands
    level = 10 * np.log10(np.maximum(power, max(float(power.max()), EPSILON) * 10 ** (-RANGE_DB / 10)))
    level -= level.mean(axis=0)
    level /= level.std(axis=0) + MIN_STD_DB
    return level - level.mean(axis=1, keepdims=True)


def note_spectrogram(performance: Performance, seconds: float) -> np.ndarray:
    """What the first `seconds` of a performance predict of `sound_spectrogram`, [frames, N_BANDS], with the same means.

    Args:
        performance: Notes and pedals; onsets are 0 or more.
        seconds: Length of the result.
    """
    n_frames = max(1, round(seconds * FRAME_HZ))
    roll = np.zeros((n_frames, N_BANDS), dtype=np.float32)
    decay = np.exp(-np.arange(round(MAX_NOTE_SECONDS * FRAME_HZ) + 2) / (DECAY_SECONDS * FRAME_HZ)).astype(np.float32)
    end = np.minimum(sounding_offset(performance), performance.onset + MAX_NOTE_SECONDS)
    first = np.rint(performance.onset * FRAME_HZ).astype(np.int64)
    stop = np.minimum(np.ceil(end * FRAME_HZ).astype(np.int64) + 1, n_frames)
    gain = performance.velocity / 127
    for start, stop_, band, amplitude in zip(first, stop, performance.pitch - LOW_PITCH, gain, strict=True):
        if start < stop_:
            note = roll[start:stop_, band]
            np.maximum(note, amplitude * decay[: stop_ - start], out=note)
    spectrum = np.zeros_like(roll)
    for semitones, amplitude in HARMONICS:
        part = spectrum[:, semitones:]
        np.maximum(part, amplitude * roll[:, : N_BANDS - semitones], out=part)
    spectrum = np.log1p(COMPRESSION * spectrum)
    return _centred(spectrum)


def best_match(sound: np.ndarray, notes: np.ndarray, semitones: Iterable[int] = ()) -> Match:
    """The lag and transposition at which notes agree best with a sound.

    Args:
        sound: Of `sound_spectrogram`, [frames, N_BANDS].
        notes: Of `note_spectrogram`, [other frames, N_BANDS].
        semitones: Transpositions to try beside none.
    """
    n_fft = _fft_size(len(sound) + len(notes))
    sound_fft, notes_fft = np.fft.rfft(sound, n_fft, axis=0), np.fft.rfft(notes, n_fft, axis=0).conj()
    lags = np.arange(-len(notes) + 1, len(sound))
    overlap = np.minimum(len(sound), lags + len(notes)) - np.maximum(0, lags)
    min_overlap = min(round(MIN_OVERLAP_SECONDS * FRAME_HZ), len(sound), len(notes))
    is_valid = overlap >= min_overlap
    matches: dict[int, tuple[float, float]] = {}
    for shift in {0, *semitones}:
        above, below = slice(max(0, shift), N_BANDS + min(0, shift)), slice(max(0, -shift), N_BANDS - max(0, shift))
        by_lag = np.fft.irfft((sound_fft[:, above] * notes_fft[:, below]).sum(axis=1), n_fft)[lags]
        best = int(np.where(is_valid, by_lag, -np.inf).argmax())
        correlation = correlation_at(sound[:, above], notes[:, below], int(lags[best]))
        matches[shift] = correlation, (float(lags[best]) + peak_offset(by_lag, best)) / FRAME_HZ
    best_shift = max(matches, key=lambda shift: matches[shift][0])
    return Match(*matches[best_shift], best_shift, matches[0][0])


def _fft_size(n: int) -> int:
    from scipy.fft import next_fast_len

    return int(next_fast_len(n, real=True))


def correlation_at(sound: np.ndarray, notes: np.ndarray, lag: int) -> float:
    """Pearson's correlation of two spectrograms [frames, bands] where they overlap, the sound `lag` frames later."""
    a, b = sound[max(0, lag) :], notes[max(0, -lag) :]
    n = min(len(a), len(b))
    return _correlation(a[:n], b[:n])


def correlation_of_part(sound: np.ndarray, performance: Performance, seconds: float, lag: int) -> float:
    """The correlation of a sound and some of its notes, over the frames in which these notes are held or just released.

    Elsewhere the other notes of the sound would hide a part that plays for a while only.

    Args:
        sound: As of `sound_spectrogram`.
        performance: The notes of the part.
        seconds: Length of the sound.
        lag: By how many frames the sound comes after the notes.

    Returns:
        Pearson's correlation; NaN if no note sounds within `sound`.
    """
    notes = note_spectrogram(performance, seconds)
    is_held = np.zeros(len(notes), dtype=bool)
    for onset, offset in zip(performance.onset, performance.offset, strict=True):
        is_held[round(onset * FRAME_HZ) : round((offset + DECAY_SECONDS) * FRAME_HZ) + 1] = True
    sound, notes, is_held = sound[max(0, lag) :], notes[max(0, -lag) :], is_held[max(0, -lag) :]
    n = min(len(sound), len(notes))
    selected = is_held[:n]
    if not selected.any():
        return float("nan")
    return _correlation(*(_centred(spectrogram[:n][selected]) for spectrogram in (sound, notes)))


def _centred(spectrogram: np.ndarray) -> np.ndarray:
    """A spectrogram [frames, bands] without the mean of each band, and then of each frame."""
    spectrogram = spectrogram - spectrogram.mean(axis=0)
    return spectrogram - spectrogram.mean(axis=1, keepdims=True)


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.vdot(a, b) / np.sqrt(max(float(np.vdot(a, a) * np.vdot(b, b)), EPSILON)))


def window_matches(
    sound: np.ndarray, notes: np.ndarray, lag_seconds: float, window_seconds: float, search_seconds: float
) -> list[WindowMatch]:
    """The agreement in windows that overlap by half, near a lag that holds for the whole.

    Args:
        sound: Of `sound_spectrogram`, [frames, N_BANDS].
        notes: Of `note_spectrogram`, [other frames, N_BANDS].
        lag_seconds: By how much the sound comes after the notes.
        window_seconds: Length of a window.
        search_seconds: Lags up to this far from `lag_seconds` are tried.

    Returns:
        Those windows in which notes change anything.
    """
    length, search = round(window_seconds * FRAME_HZ), round(search_seconds * FRAME_HZ)
    lag = round(lag_seconds * FRAME_HZ)
    first = max(0, lag)
    end = min(len(sound), len(notes) + lag)
    matches = []
    for start in range(first, end - length + 1, length // 2):
        window = sound[start : start + length]
        by_lag = np.full(2 * search + 1, -1.0)
        for i in range(2 * search + 1):
            note_start = start - lag + search - i
            other = notes[max(0, note_start) : max(0, note_start + length)]
            if len(other) == length and np.abs(other).max() > EPSILON:
                by_lag[i] = _correlation(window, other)
        best = int(by_lag.argmax())
        if by_lag[best] > -1:
            own_lag = lag + best - search + peak_offset(by_lag, best)
            matches.append(WindowMatch((start + length / 2) / FRAME_HZ, float(by_lag[best]), own_lag / FRAME_HZ))
    return matches


def stretched_matches(sound: np.ndarray, notes: np.ndarray, ratios: Iterable[float]) -> dict[float, Match]:
    """The best agreement of a short stretch of sound with notes at other tempi.

    Args:
        sound: Some frames of `sound_spectrogram`, [frames, N_BANDS]: over many, an inexact ratio loses the beat.
        notes: Of `note_spectrogram`, [other frames, N_BANDS].
        ratios: How many seconds of the sound a second of the notes takes.

    Returns:
        For each ratio the agreement, without transposition or with that of a sound that is played at another rate.
    """
    matches = {}
    for ratio in ratios:
        # Frames of the sound at the times of the notes' frames.
        position = np.arange(0, len(sound) - 1, ratio)
        left = position.astype(np.int64)
        weight = (position - left).astype(np.float32)[:, None]
        resampled = sound[left] * (1 - weight) + sound[np.minimum(left + 1, len(sound) - 1)] * weight
        by_rate = -12 * np.log2(ratio)
        matches[ratio] = best_match(resampled, notes, {math.floor(by_rate), math.ceil(by_rate)})
    return matches
