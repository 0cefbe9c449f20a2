"""How like a recording generated audio is, in numbers, without a transcriber: chroma, onsets, spectra, level.

Every score compares two sounds of one rate, int16 [T]; where one is longer, its rest is not looked at. What they mean
is seen only beside a ceiling and a floor: the same score of a real recording, and of sound against another clip.
"""

import numpy as np
from numpy.typing import ArrayLike

from midi2wave.audio.pcm import FULL_SCALE

CHROMA_WINDOW_SECONDS, CHROMA_HOP_SECONDS = 0.2, 0.05
CHROMA_HZ = (100.0, 5000.0)  # below, neighbouring keys fall into one bin of the window; above are few partials
AUDIBLE_DB = 60.0  # frames of the recording further than this below its loudest one are not looked at
FLUX_WINDOW_SECONDS, FLUX_HOP_SECONDS = 0.04, 0.01
FLUX_BANDS, FLUX_LOWEST_HZ = 40, 50.0
FLUX_RANGE_DB = 60.0
ONSET_BLUR_SECONDS = 0.02
STFT_RESOLUTIONS = ((512, 50, 240), (1024, 120, 600), (2048, 240, 1200))  # FFT size, hop, window in samples
STFT_FLOOR = 1e-4  # the magnitude that the rounding to 16 bits alone has in these windows
N_RESAMPLES = 2000


def chroma_similarity(output: np.ndarray, truth: np.ndarray, audio_hz: int) -> float:
    """Correlation of the two sounds' chroma vectors, averaged over the frames in which the truth is audible: -1..1.

    A chroma vector holds the magnitude of the spectrum folded into the 12 pitch classes, a bin shared between its two
    nearest classes. 1: the same harmony at every moment; a silent frame of the output counts 0, and so, about, do other
    music and noise. It is Pearson's correlation over the classes and not the usual cosine of the vectors as they are:
    these have no negative entries, by which even white noise reaches 0.8. nan where the truth is silent.
    """
    a, b = (chroma_vectors(x, audio_hz) for x in _same_length(output, truth))
    level = np.linalg.norm(b, axis=1)
    audible = level > max(level.max(initial=0.0) * 10 ** (-AUDIBLE_DB / 20), 1e-9)
    if not audible.any():
        return float("nan")
    a, b = (x - x.mean(axis=1, keepdims=True) for x in (a, b))
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    correlation = np.einsum("tc,tc->t", a, b) / np.maximum(norms, 1e-12)
    return float(correlation[audible].mean())


def onset_agreement(output: np.ndarray, truth: np.ndarray, audio_hz: int) -> float:
    """Correlation (Pearson) of the two sounds' onset envelopes: -1..1; 1: every attack at its time and strength.

    The envelope is the spectral flux: the rise of the level in each of 40 bands of equal width in octaves from one
    10 ms frame to the next, falls counted as none, summed over the bands and blurred by a Gaussian of 20 ms. It is 0
    where the output has no attack at all, and nan where the truth has none.
    """
    a, b = (_flux(x, audio_hz) for x in _same_length(output, truth))
    a, b = a - a.mean(), b - b.mean()
    norm_a, norm_b = np.linalg.norm(a), np.linalg.norm(b)
    if norm_b < 1e-9:
        return float("nan")
    return float(np.sum(a * b) / (norm_a * norm_b)) if norm_a > 1e-9 else 0.0


def multi_resolution_stft(output: np.ndarray, truth: np.ndarray) -> float:
    """Multi-resolution STFT distance: 0 (the same magnitudes) and up, without a unit.

    Parallel WaveGAN, arXiv 1910.11480, section 2.2, with its three resolutions: the spectral convergence
    ||S - S'|| / ||S|| (Frobenius) plus the mean absolute difference of the magnitudes' natural logarithms, averaged
    over the resolutions. Magnitudes are held above what the rounding to 16 bits makes of silence.
    """
    output, truth = _same_length(output, truth)
    distances = []
    for n_fft, hop, window in STFT_RESOLUTIONS:
        a, b = (np.maximum(_magnitudes(x, n_fft, hop, window), STFT_FLOOR) for x in (output, truth))
        convergence = np.linalg.norm(b - a) / np.linalg.norm(b)
        distances.append(convergence + np.mean(np.abs(np.log(b) - np.log(a))))
    return float(np.mean(distances))


def mean(values: ArrayLike, weights: ArrayLike | None = None) -> float:
    """The (weighted) mean over clips, [N]; nan and what has no weight is left out, nan if nothing is left."""
    values, weights = _known(values, weights)
    return float(np.average(values, weights=weights)) if len(values) else float("nan")


def bootstrap_interval(values: ArrayLike, weights: ArrayLike | None = None) -> tuple[float, float]:
    """95 % interval of `mean`, by drawing the clips anew with replacement; the same draws every time.

    It tells how much the choice of the clips matters and takes them as independent: several clips of one recording make
    it look narrower than it is. (nan, nan) for fewer than two.
    """
    values, weights = _known(values, weights)
    if len(values) < 2:
        return float("nan"), float("nan")
    drawn = np.random.default_rng(0).integers(len(values), size=(N_RESAMPLES, len(values)))
    means = np.sum((values * weights)[drawn], axis=1) / np.sum(weights[drawn], axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def _known(values: ArrayLike, weights: ArrayLike | None) -> tuple[np.ndarray, np.ndarray]:
    values = np.asarray(values, dtype=np.float64)
    weights = np.ones(len(values)) if weights is None else np.asarray(weights, dtype=np.float64)
    kept = np.isfinite(values) & (weights > 0)
    return values[kept], weights[kept]


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
    """How strong each pitch class sounds, C first: [T] -> [frames, 12]."""
    window, hop = round(CHROMA_WINDOW_SECONDS * audio_hz), round(CHROMA_HOP_SECONDS * audio_hz)
    magnitudes = _magnitudes(pcm, window, hop, window)
    hz = np.fft.rfftfreq(window, 1 / audio_hz)
    kept = (hz >= CHROMA_HZ[0]) & (hz <= min(CHROMA_HZ[1], audio_hz / 2))
    semitone = 69 + 12 * np.log2(hz[kept] / 440)
    below = np.floor(semitone).astype(int)
    fold = np.zeros((kept.sum(), 12))
    rows = np.arange(len(below))
    fold[rows, below % 12] = 1 - (semitone - below)
    fold[rows, (below + 1) % 12] += semitone - below
    return magnitudes[:, kept] @ fold


def _flux(pcm: np.ndarray, audio_hz: int) -> np.ndarray:
    """The onset envelope, [frames]; frame i stands for the rise at i * FLUX_HOP_SECONDS."""
    window, hop = round(FLUX_WINDOW_SECONDS * audio_hz), round(FLUX_HOP_SECONDS * audio_hz)
    # Half a window of silence at both ends centres the frames, one more hop makes an attack at the start a rise.
    magnitudes = _magnitudes(np.pad(pcm, (window // 2 + hop, window // 2)), window, hop, window)
    hz = np.fft.rfftfreq(window, 1 / audio_hz)
    edges = np.geomspace(FLUX_LOWEST_HZ, audio_hz / 2, FLUX_BANDS + 1)
    # The lowest bands are narrower than a bin: each takes the nearest one.
    first = np.minimum(np.searchsorted(hz, edges[:-1]), len(hz) - 1)
    last = np.maximum(np.searchsorted(hz, edges[1:]), first + 1)
    power = np.stack([np.square(magnitudes[:, a:b]).sum(axis=1) for a, b in zip(first, last, strict=True)], axis=1)
    floor = max(power.max() * 10 ** (-FLUX_RANGE_DB / 10), 1e-12)
    rise = np.diff(10 * np.log10(np.maximum(power, floor)), axis=0).clip(0).sum(axis=1)
    reach = np.arange(-4, 5) * FLUX_HOP_SECONDS / ONSET_BLUR_SECONDS
    blur = np.exp(-(reach**2) / 2)
    return np.convolve(rise, blur / blur.sum(), "same")
