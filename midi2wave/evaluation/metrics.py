"""Scores of generated audio against a recording, without a transcriber: chroma, onsets, spectra.

Each score compares two signals of one sample rate, int16 [T]; of the longer one the rest is ignored. A score has a
meaning only beside its topline and its baseline: that of the recording itself, and that of the generated audio against
another clip.
"""

import numpy as np
from numpy.typing import ArrayLike

from midi2wave.audio.pcm import FULL_SCALE

CHROMA_WINDOW_SECONDS = 0.2
CHROMA_HOP_SECONDS = 0.05
# Below this range neighbouring piano keys fall into one bin of the window; above it there are few partials.
CHROMA_HZ = (100.0, 5000.0)
# Frames of the recording that are further than this below its loudest frame do not count.
CHROMA_RANGE_DB = 60.0
FLUX_WINDOW_SECONDS = 0.04
FLUX_HOP_SECONDS = 0.01
N_FLUX_BANDS = 40
FLUX_MIN_HZ = 50.0
FLUX_RANGE_DB = 60.0
ONSET_BLUR_SECONDS = 0.02
# FFT size, hop and window in samples.
STFT_RESOLUTIONS = ((512, 50, 240), (1024, 120, 600), (2048, 240, 1200))
# The magnitude that rounding to 16 bits alone has in these windows.
STFT_MIN_MAGNITUDE = 1e-4
N_RESAMPLES = 2000


def chroma_similarity(output: np.ndarray, truth: np.ndarray, audio_hz: int) -> float:
    """Correlation of the chroma vectors of two signals, averaged over the frames in which the recording is audible.

    A chroma vector is the magnitude spectrum folded into the 12 pitch classes. The correlation is Pearson's, over the
    classes, instead of the usual cosine: chroma vectors have no negative entries, so that even white noise has a cosine
    of 0.8.

    Args:
        output: Generated audio, int16 [T].
        truth: The recording, int16 [T].
        audio_hz: Sample rate of both.

    Returns:
        -1..1; 1: the same harmony at every moment. Silence, noise and other music are near 0. NaN if the recording is
        silent.
    """
    a, b = (chroma_vectors(x, audio_hz) for x in _same_length(output, truth))
    level = np.linalg.norm(b, axis=1)
    audible = level > max(level.max(initial=0.0) * 10 ** (-CHROMA_RANGE_DB / 20), 1e-9)
    if not audible.any():
        return float("nan")
    a, b = (x - x.mean(axis=1, keepdims=True) for x in (a, b))
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    correlation = np.einsum("tc,tc->t", a, b) / np.maximum(norms, 1e-12)
    return float(correlation[audible].mean())


def onset_agreement(output: np.ndarray, truth: np.ndarray, audio_hz: int) -> float:
    """Pearson correlation of the onset envelopes (spectral flux) of two signals.

    The envelope is the increase of the level from one 10 ms frame to the next in each of 40 bands of equal width in
    octaves, without decreases, summed over the bands and smoothed by a Gaussian of 20 ms.

    Args:
        output: Generated audio, int16 [T].
        truth: The recording, int16 [T].
        audio_hz: Sample rate of both.

    Returns:
        -1..1; 1: every attack at its time and strength. 0 if the output has no attack, NaN if the recording has none.
    """
    a, b = (_onset_envelope(x, audio_hz) for x in _same_length(output, truth))
    a, b = a - a.mean(), b - b.mean()
    norm_a, norm_b = np.linalg.norm(a), np.linalg.norm(b)
    if norm_b < 1e-9:
        return float("nan")
    return float(np.sum(a * b) / (norm_a * norm_b)) if norm_a > 1e-9 else 0.0


def multi_resolution_stft(output: np.ndarray, truth: np.ndarray) -> float:
    """Multi-resolution STFT distance of two signals (Parallel WaveGAN, arXiv 1910.11480, section 2.2).

    The spectral convergence ||S - S'|| / ||S|| (Frobenius norm) plus the mean absolute difference of the natural
    logarithms of the magnitudes, averaged over the three resolutions of the paper. Magnitudes are at least those that
    rounding to 16 bits makes of silence.

    Args:
        output: Generated audio, int16 [T].
        truth: The recording, int16 [T].

    Returns:
        0 (the same magnitudes) or more, without a unit.
    """
    output, truth = _same_length(output, truth)
    distances = []
    for n_fft, hop, window in STFT_RESOLUTIONS:
        a, b = (np.maximum(_magnitudes(x, n_fft, hop, window), STFT_MIN_MAGNITUDE) for x in (output, truth))
        convergence = np.linalg.norm(b - a) / np.linalg.norm(b)
        distances.append(convergence + np.mean(np.abs(np.log(b) - np.log(a))))
    return float(np.mean(distances))


def mean(values: ArrayLike, weights: ArrayLike | None = None) -> float:
    """The (weighted) mean over clips, [N], without NaN and items of weight 0; NaN if nothing remains."""
    numbers, valid_weights = _valid(values, weights)
    return float(np.average(numbers, weights=valid_weights)) if len(numbers) else float("nan")


def bootstrap_interval(values: ArrayLike, weights: ArrayLike | None = None) -> tuple[float, float]:
    """95 % bootstrap interval of `mean`: clips are resampled with replacement, with the same random numbers each time.

    It shows how much the choice of the clips matters. The clips are assumed to be independent; several clips of one
    recording make the interval narrower than it is.

    Args:
        values: One value per clip, [N].
        weights: Their weights, [N]; default equal.

    Returns:
        Lower and upper end; (NaN, NaN) for fewer than two clips.
    """
    numbers, valid_weights = _valid(values, weights)
    if len(numbers) < 2:
        return float("nan"), float("nan")
    indices = np.random.default_rng(0).integers(len(numbers), size=(N_RESAMPLES, len(numbers)))
    means = np.sum((numbers * valid_weights)[indices], axis=1) / np.sum(valid_weights[indices], axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def _valid(values: ArrayLike, weights: ArrayLike | None) -> tuple[np.ndarray, np.ndarray]:
    """Values that are finite and have a weight, and these weights."""
    numbers = np.asarray(values, dtype=np.float64)
    all_weights = np.ones(len(numbers)) if weights is None else np.asarray(weights, dtype=np.float64)
    valid = np.isfinite(numbers) & (all_weights > 0)
    return numbers[valid], all_weights[valid]


def _same_length(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    n = min(len(a), len(b))
    return a[:n], b[:n]


def _magnitudes(pcm: np.ndarray, n_fft: int, hop: int, window: int) -> np.ndarray:
    """Magnitude spectra of Hann-windowed frames: int16 [T] -> [frames, n_fft / 2 + 1]; the last frame is padded."""
    amplitude = pcm / FULL_SCALE
    n_frames = max(1, -(-max(0, len(amplitude) - window) // hop) + 1)
    padded = np.pad(amplitude, (0, max(0, (n_frames - 1) * hop + window - len(amplitude))))
    frames = np.lib.stride_tricks.sliding_window_view(padded, window)[::hop][:n_frames]
    return np.abs(np.fft.rfft(frames * np.hanning(window + 1)[:-1], n_fft))


def chroma_vectors(pcm: np.ndarray, audio_hz: int) -> np.ndarray:
    """Strength of each pitch class, C first, a bin shared between its two nearest classes.

    Args:
        pcm: Audio, int16 [T].
        audio_hz: Its sample rate.

    Returns:
        float64 [frames, 12].
    """
    window, hop = round(CHROMA_WINDOW_SECONDS * audio_hz), round(CHROMA_HOP_SECONDS * audio_hz)
    magnitudes = _magnitudes(pcm, window, hop, window)
    hz = np.fft.rfftfreq(window, 1 / audio_hz)
    in_range = (hz >= CHROMA_HZ[0]) & (hz <= min(CHROMA_HZ[1], audio_hz / 2))
    semitone = 69 + 12 * np.log2(hz[in_range] / 440)
    below = np.floor(semitone).astype(int)
    fold = np.zeros((in_range.sum(), 12))
    rows = np.arange(len(below))
    fold[rows, below % 12] = 1 - (semitone - below)
    fold[rows, (below + 1) % 12] += semitone - below
    return magnitudes[:, in_range] @ fold


def _onset_envelope(pcm: np.ndarray, audio_hz: int) -> np.ndarray:
    """The onset envelope, [frames]; frame i is the increase of the level at i * FLUX_HOP_SECONDS."""
    window, hop = round(FLUX_WINDOW_SECONDS * audio_hz), round(FLUX_HOP_SECONDS * audio_hz)
    # Half a window of silence at both ends centres the frames; one more hop makes an attack at the start an increase.
    magnitudes = _magnitudes(np.pad(pcm, (window // 2 + hop, window // 2)), window, hop, window)
    hz = np.fft.rfftfreq(window, 1 / audio_hz)
    edges = np.geomspace(FLUX_MIN_HZ, audio_hz / 2, N_FLUX_BANDS + 1)
    # The lowest bands are narrower than a bin: each takes the nearest one.
    first = np.minimum(np.searchsorted(hz, edges[:-1]), len(hz) - 1)
    last = np.maximum(np.searchsorted(hz, edges[1:]), first + 1)
    power = np.stack([np.square(magnitudes[:, a:b]).sum(axis=1) for a, b in zip(first, last, strict=True)], axis=1)
    min_power = max(power.max() * 10 ** (-FLUX_RANGE_DB / 10), 1e-12)
    increase = np.diff(10 * np.log10(np.maximum(power, min_power)), axis=0).clip(0).sum(axis=1)
    offsets = np.arange(-4, 5) * FLUX_HOP_SECONDS / ONSET_BLUR_SECONDS
    gaussian = np.exp(-(offsets**2) / 2)
    return np.convolve(increase, gaussian / gaussian.sum(), "same")
