"""Does a MIDI file belong to its recording, and how late is it? Onsets of the notes against those of the sound.

The onset envelope is the half-wave rectified spectral flux of compressed magnitudes (Bello et al., "A Tutorial on Onset
Detection in Music Signals", IEEE TSAP 2005, section III.A); what is compared are its correlations with the note onsets
at every lag, in a window from the first note on and in one up to the last.
"""

from dataclasses import dataclass

import numpy as np

from midi2wave.midi.performance import Performance

WARN_SECONDS = 0.05
WINDOW_SECONDS = 30.0
SEARCH_SECONDS = 1.0  # largest misalignment that can be told
LEAST_ONSETS = 8  # different times of onset in a window, below which nothing can be said
TRUSTED_AGREEMENT = (
    6.0  # a wrong MIDI got up to 5.0, the right one between 3 and 17 (35 recordings, docs/robustness.md)
)
ENVELOPE_HZ = 250
FFT_SECONDS = 0.016


@dataclass(frozen=True)
class Alignment:
    """How one stretch of a recording agrees with its notes."""

    seconds: float  # by how much the sound comes after the notes; only meaningful if they agree
    agreement: float  # height of the best lag's correlation above the others, in their standard deviations


def trusted_seconds(found: list[Alignment]) -> float | None:
    """By how much the sound comes after the notes, on average; None if that is not known.

    Two windows that give the same lag confirm each other; one alone must be clear.
    """
    lags = [alignment.seconds for alignment in found]
    if len(lags) < 2 or abs(lags[0] - lags[1]) > WARN_SECONDS:
        lags = [alignment.seconds for alignment in found if alignment.agreement >= TRUSTED_AGREEMENT]
    return sum(lags) / len(lags) if lags else None


def verdict(found: list[Alignment]) -> str | None:
    """What is wrong with the alignment, in words for the files' owner; None if nothing is, or nothing is known."""
    lags = [alignment.seconds for alignment in found]
    late = trusted_seconds(found)
    if len(lags) == 2 and abs(lags[0] - lags[1]) > WARN_SECONDS:
        if late is None:
            return "its notes do not agree with the sound; is it the MIDI of this recording?"
        if all(alignment.agreement >= TRUSTED_AGREEMENT for alignment in found):
            first, last = (1000 * lag for lag in lags)
            return f"the sound is {first:.0f} ms after the notes at the start and {last:.0f} ms at the end"
    if late is None or abs(late) <= WARN_SECONDS:
        return None
    return f"the sound is {1000 * abs(late):.0f} ms {'after' if late > 0 else 'before'} the notes"


def onset_envelope(pcm: np.ndarray, audio_hz: int) -> np.ndarray:
    """int16 [T] -> how strongly something begins, float32 [frames] at ENVELOPE_HZ; frame f is centred on f / 250 s."""
    n_fft = max(16, round(FFT_SECONDS * audio_hz))
    n_frames = len(pcm) * ENVELOPE_HZ // audio_hz
    first = np.rint(np.arange(n_frames) * audio_hz / ENVELOPE_HZ).astype(np.int64)
    padded = np.pad(pcm.astype(np.float32) / 32768, (n_fft // 2, n_fft))
    frames = np.lib.stride_tricks.sliding_window_view(padded, n_fft)[first] * np.hanning(n_fft).astype(np.float32)
    compressed = np.log1p(100 * np.abs(np.fft.rfft(frames)))  # [frames, bins]
    flux = np.zeros(n_frames, dtype=np.float32)
    flux[1:-1] = np.maximum(compressed[2:] - compressed[:-2], 0).sum(axis=1)
    return flux


def alignments(pcm: np.ndarray, performance: Performance, audio_hz: int) -> list[Alignment]:
    """Of the first and, if the piece is longer than two windows, the last onsets; empty if there are too few."""
    end = len(pcm) / audio_hz
    onset = performance.onset[performance.onset < end]
    if not len(onset):
        return []
    starts = [onset[0] - SEARCH_SECONDS]
    if onset[-1] - onset[0] > 2 * WINDOW_SECONDS:
        starts.append(onset[-1] - WINDOW_SECONDS)
    found = (_alignment(pcm, performance, audio_hz, max(0.0, start)) for start in starts)
    return [alignment for alignment in found if alignment]


def _alignment(pcm: np.ndarray, performance: Performance, audio_hz: int, start: float) -> Alignment | None:
    """The lag at which the envelope of one window agrees best with the notes."""
    search = round(SEARCH_SECONDS * ENVELOPE_HZ)
    first = round(start * ENVELOPE_HZ)
    piece = pcm[first * audio_hz // ENVELOPE_HZ :][: round((WINDOW_SECONDS + 2 * SEARCH_SECONDS) * audio_hz)]
    envelope = onset_envelope(piece, audio_hz)
    # Loud notes are seen best; of a chord, which begins once, the loudest counts.
    strokes = np.zeros(len(envelope), dtype=np.float64)
    at = np.rint(performance.onset * ENVELOPE_HZ).astype(np.int64) - first
    inside = (at >= 0) & (at < len(envelope))
    np.maximum.at(strokes, at[inside], performance.velocity[inside] / 127)
    if np.count_nonzero(strokes) < LEAST_ONSETS or not envelope.any():
        return None
    envelope = envelope - envelope.mean()
    n = 1 << int(np.ceil(np.log2(len(strokes) + 2 * search)))
    correlation = np.fft.irfft(np.fft.rfft(envelope, n) * np.conj(np.fft.rfft(strokes, n)), n)
    lags = np.concatenate([correlation[-search:], correlation[: search + 1]])
    best = int(lags.argmax())
    others = np.delete(lags, slice(max(0, best - 8), best + 9))
    agreement = (lags[best] - others.mean()) / max(float(others.std()), 1e-12)
    shift = 0.0
    if 0 < best < len(lags) - 1:  # the peak of the parabola through three points
        left, middle, right = lags[best - 1 : best + 2]
        shift = 0.5 * (left - right) / min(left - 2 * middle + right, -1e-12)
    return Alignment(float(best - search + shift) / ENVELOPE_HZ, float(agreement))
