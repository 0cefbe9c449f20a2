"""Whether a MIDI file belongs to its recording, and its lag: onsets of the notes against onsets of the sound.

The onset envelope is the half-wave rectified spectral flux of compressed magnitudes (Bello et al., "A Tutorial on Onset
Detection in Music Signals", IEEE TSAP 2005, section III.A). It is correlated with the note onsets at every lag, in a
window from the first note on and in one up to the last.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from midi2wave.audio.pcm import FULL_SCALE
from midi2wave.audio.peaks import peak_offset
from midi2wave.midi.performance import Performance

# Larger lags are reported.
WARN_SECONDS = 0.05
WINDOW_SECONDS = 30.0
# The largest lag that can be measured.
SEARCH_SECONDS = 1.0
# Lags up to this are compared with it. Where one of them agrees better, the lag is larger, or the notes are of another
# recording.
WIDE_SECONDS = 20.0
# From this length on, a window counts whatever its agreement. In 630 excerpts of 20 to 60 s of 35 real recordings with
# their own MIDI, the best lag up to WIDE_SECONDS was never beyond the search; with a foreign MIDI in 93 % of them.
CONCLUSIVE_SECONDS = 20.0
# With fewer different onset times in a window nothing can be said.
MIN_ONSETS = 8
# A wrong MIDI file reached up to 5.0, the right one between 3 and 17 (35 recordings, docs/robustness.md).
TRUSTED_AGREEMENT = 6.0
# The same for the best of the lags up to WIDE_SECONDS, which are more: a wrong MIDI file reached up to 7.4.
TRUSTED_WIDE_AGREEMENT = 10.0
ENVELOPE_HZ = 250
FFT_SECONDS = 0.016
# Magnitudes m of a spectrum are compressed to log(1 + COMPRESSION * m).
COMPRESSION = 100
# So many lags on either side of the best one belong to the same peak.
PEAK_LAGS = 8
EPSILON = 1e-12


@dataclass(frozen=True)
class Alignment:
    """How one window of a recording agrees with its notes."""

    seconds: float  # by how much the sound comes after the notes; only meaningful if they agree
    agreement: float  # height of the best lag's correlation above the others, in their standard deviations
    window_seconds: float = 0.0  # length of the window
    wide_seconds: float = 0.0  # the best lag up to WIDE_SECONDS
    wide_agreement: float = 0.0  # its agreement

    @property
    def is_conclusive(self) -> bool:
        """Whether the window is so long that the best lag counts, whatever its agreement."""
        return self.window_seconds >= CONCLUSIVE_SECONDS

    @property
    def is_beyond_search(self) -> bool:
        """Whether the sound agrees best with the notes at a larger lag than can be measured."""
        return self.is_conclusive and abs(self.wide_seconds) > SEARCH_SECONDS


def trusted_seconds(alignments: list[Alignment]) -> float | None:
    """By how much the sound comes after the notes, on average over the windows; None if that is uncertain.

    Two windows with the same lag confirm each other. A single one needs an agreement of TRUSTED_AGREEMENT, or be
    conclusive. A window whose lag is beyond the search does not count.
    """
    alignments = [alignment for alignment in alignments if not alignment.is_beyond_search]
    lags = [alignment.seconds for alignment in alignments]
    if len(lags) < 2 or abs(lags[0] - lags[1]) > WARN_SECONDS:
        single = len(lags) == 1
        lags = [a.seconds for a in alignments if a.agreement >= TRUSTED_AGREEMENT or (single and a.is_conclusive)]
    return sum(lags) / len(lags) if lags else None


def alignment_warning(alignments: list[Alignment]) -> str | None:
    """What is wrong with the alignment, in words for the files' owner; None if nothing is, or it is uncertain."""
    if alignments and all(alignment.is_beyond_search for alignment in alignments):
        return f"the sound does not agree with the notes within {SEARCH_SECONDS:g} s; {_wide_lag(alignments)}"
    lags = [alignment.seconds for alignment in alignments]
    mean_lag = trusted_seconds(alignments)
    if len(lags) == 2 and abs(lags[0] - lags[1]) > WARN_SECONDS:
        if mean_lag is None:
            return "its notes do not agree with the sound; is it the MIDI of this recording?"
        if all(alignment.agreement >= TRUSTED_AGREEMENT for alignment in alignments):
            first, last = (1000 * lag for lag in lags)
            return f"the sound is {first:.0f} ms after the notes at the start and {last:.0f} ms at the end"
    if mean_lag is None or abs(mean_lag) <= WARN_SECONDS:
        return None
    return f"the sound is {1000 * abs(mean_lag):.0f} ms {'after' if mean_lag > 0 else 'before'} the notes"


def _wide_lag(alignments: list[Alignment]) -> str:
    """Where the sound agrees best with notes that it does not agree with within SEARCH_SECONDS, in words."""
    lags = [alignment.wide_seconds for alignment in alignments]
    confirmed = len(lags) == 2 and abs(lags[0] - lags[1]) <= WARN_SECONDS
    if not confirmed and max(alignment.wide_agreement for alignment in alignments) < TRUSTED_WIDE_AGREEMENT:
        return "is it the MIDI of this recording?"
    lag = max(alignments, key=lambda alignment: alignment.wide_agreement).wide_seconds
    return f"it does {abs(lag):.2f} s {'after' if lag > 0 else 'before'} them"


def unchecked_warning(alignments: list[Alignment]) -> str | None:
    """Words for the files' owner if it could not be checked whether the notes agree with the sound; else None."""
    if not alignments:
        return f"its notes were not compared with the sound: fewer than {MIN_ONSETS} onsets, or silence"
    if len(alignments) == 1 and trusted_seconds(alignments) is None and not alignments[0].is_conclusive:
        return f"its notes were not compared with the sound: {alignments[0].window_seconds:.0f} s are too short"
    return None


def onset_envelope(pcm: np.ndarray, audio_hz: int) -> np.ndarray:
    """The spectral flux of a signal.

    librosa.onset.onset_strength gives the same verdicts on 35 recordings, but from its lags `align_labels.py` fits
    onsets with which the excitation explains less of the unseen recordings (1.97 instead of 2.12 dB).

    Args:
        pcm: int16 [T].
        audio_hz: Its sample rate.

    Returns:
        float32 [frames] at ENVELOPE_HZ; frame f is centred on f / ENVELOPE_HZ seconds.
    """
    n_fft = max(16, round(FFT_SECONDS * audio_hz))
    n_frames = len(pcm) * ENVELOPE_HZ // audio_hz
    first = np.rint(np.arange(n_frames) * audio_hz / ENVELOPE_HZ).astype(np.int64)
    padded = np.pad(pcm.astype(np.float32) / FULL_SCALE, (n_fft // 2, n_fft))
    frames = np.lib.stride_tricks.sliding_window_view(padded, n_fft)[first] * np.hanning(n_fft).astype(np.float32)
    compressed = np.log1p(COMPRESSION * np.abs(np.fft.rfft(frames)))  # [frames, bins]
    envelope = np.zeros(n_frames, dtype=np.float32)
    envelope[1:-1] = np.maximum(compressed[2:] - compressed[:-2], 0).sum(axis=1)
    return envelope


def measure_alignments(pcm: np.ndarray, performance: Performance, audio_hz: int) -> list[Alignment]:
    """The alignment of the first and, if the piece is longer than two windows, of the last onsets.

    Args:
        pcm: The recording, int16 [T].
        performance: Its notes.
        audio_hz: Its sample rate.

    Returns:
        At most two; none if there are too few onsets.
    """
    end = len(pcm) / audio_hz
    onset = performance.onset[performance.onset < end]
    if not len(onset):
        return []
    starts = [onset[0] - SEARCH_SECONDS]
    if onset[-1] - onset[0] > 2 * WINDOW_SECONDS:
        starts.append(onset[-1] - WINDOW_SECONDS)
    measured = (_measure_window(pcm, performance, audio_hz, max(0.0, start)) for start in starts)
    return [alignment for alignment in measured if alignment]


class WindowLag(NamedTuple):
    """The lag in one window.

    Attributes:
        centre_seconds: Its centre.
        lag_seconds: By how much the sound comes after the notes.
        agreement: By how many standard deviations it agrees better at this lag than at the others.
    """

    centre_seconds: float
    lag_seconds: float
    agreement: float


def window_lags(
    pcm: np.ndarray, performance: Performance, audio_hz: int, window_seconds: float, max_lag_seconds: float
) -> list[WindowLag]:
    """The lags in windows of the whole recording, each half a window after the one before.

    Args:
        pcm: The recording, int16 [T].
        performance: Its notes.
        audio_hz: Its sample rate.
        window_seconds: Length of a window.
        max_lag_seconds: The largest lag, of those up to SEARCH_SECONDS that it is compared with.

    Returns:
        Those with MIN_ONSETS onsets or more.
    """
    envelope = onset_envelope(pcm, audio_hz)
    notes = _note_envelope(performance, 0, len(envelope))
    size, search, limit = (round(s * ENVELOPE_HZ) for s in (window_seconds, SEARCH_SECONDS, max_lag_seconds))
    padded = np.pad(envelope, search)
    lags = []
    for first in range(0, max(1, len(envelope) - size + 1), size // 2):
        own = notes[first : first + size]
        around = padded[first : first + len(own) + 2 * search]
        if np.count_nonzero(own) < MIN_ONSETS or not around.any():
            continue
        seconds, agreement = _best_of_lags(around - around.mean(), own, limit)
        lags.append(WindowLag((first + len(own) / 2) / ENVELOPE_HZ, seconds, agreement))
    return lags


def _measure_window(pcm: np.ndarray, performance: Performance, audio_hz: int, start: float) -> Alignment | None:
    """The lag at which the envelope of one window agrees best with the notes."""
    first = round(start * ENVELOPE_HZ)
    n_samples = round((WINDOW_SECONDS + 2 * SEARCH_SECONDS) * audio_hz)
    window = pcm[first * audio_hz // ENVELOPE_HZ :][:n_samples]
    envelope = onset_envelope(window, audio_hz)
    note_envelope = _note_envelope(performance, first, len(envelope))
    if np.count_nonzero(note_envelope) < MIN_ONSETS or not envelope.any():
        return None
    return _best_lag(envelope - envelope.mean(), note_envelope)


def _note_envelope(performance: Performance, first: int, n_frames: int) -> np.ndarray:
    """The onsets in a window as an envelope, [frames]: loud notes weigh most; of a chord, the loudest note counts."""
    envelope = np.zeros(n_frames, dtype=np.float64)
    frame = np.rint(performance.onset * ENVELOPE_HZ).astype(np.int64) - first
    inside = (frame >= 0) & (frame < n_frames)
    np.maximum.at(envelope, frame[inside], performance.velocity[inside] / 127)
    return envelope


def _best_lag(envelope: np.ndarray, note_envelope: np.ndarray) -> Alignment:
    """The lag of the largest correlation, interpolated between frames by a parabola."""
    seconds, agreement = _best_lag_within(SEARCH_SECONDS, envelope, note_envelope)
    wide_seconds, wide_agreement = _best_lag_within(WIDE_SECONDS, envelope, note_envelope)
    return Alignment(seconds, agreement, len(envelope) / ENVELOPE_HZ, wide_seconds, wide_agreement)


def _best_lag_within(search_seconds: float, envelope: np.ndarray, note_envelope: np.ndarray) -> tuple[float, float]:
    """The best of the lags up to search_seconds, in seconds, and its agreement."""
    # No lag beyond the length of the window, where nothing overlaps, but at least those up to SEARCH_SECONDS.
    search = min(round(search_seconds * ENVELOPE_HZ), max(round(SEARCH_SECONDS * ENVELOPE_HZ), len(envelope) - 1))
    return _best_of_lags(np.pad(envelope, search), note_envelope, search)


def _best_of_lags(envelope: np.ndarray, note_envelope: np.ndarray, limit: int) -> tuple[float, float]:
    """The lag at which the notes agree best with an envelope that is longer on both sides.

    Args:
        envelope: The envelope, [S + N + S].
        note_envelope: The notes, [N].
        limit: The largest lag in frames, up to S.

    Returns:
        The lag in seconds, and its agreement: by how many standard deviations it is better than lags up to S.
    """
    from scipy.signal import correlate

    by_lag = correlate(envelope, note_envelope, mode="valid", method="fft")
    middle = len(by_lag) // 2
    best = middle - limit + int(by_lag[middle - limit : middle + limit + 1].argmax())
    others = np.delete(by_lag, slice(max(0, best - PEAK_LAGS), best + PEAK_LAGS + 1))
    agreement = (by_lag[best] - others.mean()) / max(float(others.std()), EPSILON)
    return (best - middle + peak_offset(by_lag, best)) / ENVELOPE_HZ, float(agreement)
