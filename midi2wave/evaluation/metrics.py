"""Scores of generated audio against a recording, without a transcriber: chroma, onsets, spectra.

Each score compares two signals of one sample rate, int16 [T]; of the longer one the rest is ignored. A score has a
meaning only beside its topline and its baseline: that of the recording itself, and that of the generated audio against
another clip.
"""

import functools
import math
import warnings
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from midi2wave.audio.pcm import FULL_SCALE

CHROMA_HOP_SECONDS = 0.03
# The bass below has wide windows and, in generated audio, most of the noise; its partials lie above.
CHROMA_MIN_NOTE = "C3"
CHROMA_OCTAVES = 5
# With two bins a semitone instead of three, generated audio and another clip are less far apart.
CHROMA_BINS_PER_OCTAVE = 36
# Frames of the recording that are further than this below its loudest frame do not count.
CHROMA_RANGE_DB = 60.0
# A long window makes the start of a clip an attack: with 128 ms white noise correlates with recordings, up to 0.07.
ONSET_WINDOW_SECONDS = 0.04
ONSET_HOP_SECONDS = 0.01
N_ONSET_BANDS = 40
ONSET_MIN_HZ = 50.0
ONSET_RANGE_DB = 60.0
ONSET_BLUR_SECONDS = 0.02
# FFT sizes, hops and windows in samples.
STFT_RESOLUTIONS = ((512, 50, 240), (1024, 120, 600), (2048, 240, 1200))
# The squared magnitude that rounding to 16 bits alone has in these windows.
STFT_MIN_POWER = 1e-8
N_RESAMPLES = 2000


def chroma_similarity(output: np.ndarray, truth: np.ndarray, audio_hz: int) -> float:
    """Correlation of the chroma vectors of two signals, averaged over the frames in which the recording is audible.

    The correlation is Pearson's, over the 12 pitch classes, instead of the usual cosine: chroma vectors have no
    negative entries, so that even white noise has a cosine of 0.7.

    Args:
        output: Generated audio, int16 [T].
        truth: The recording, int16 [T].
        audio_hz: Sample rate of both.

    Returns:
        -1..1; 1: the same harmony at every moment. Silence, noise and other music are near 0. NaN if the recording is
        silent.
    """
    import librosa

    output, truth = _same_length(output, truth)
    hop = round(CHROMA_HOP_SECONDS * audio_hz)
    rms = librosa.feature.rms(y=_amplitudes(truth, 2 * hop), frame_length=2 * hop, hop_length=hop)[0]
    audible = rms > max(rms.max() * 10 ** (-CHROMA_RANGE_DB / 20), 1e-9)
    if not audible.any():
        return float("nan")
    # Frames without a sound have no correlation.
    correlation = _correlation(*(chroma_vectors(pcm, audio_hz)[: len(audible)] for pcm in (output, truth)))
    return float(np.nan_to_num(correlation)[audible[: len(correlation)]].mean())


def onset_agreement(output: np.ndarray, truth: np.ndarray, audio_hz: int) -> float:
    """Pearson correlation of the onset envelopes (spectral flux) of two signals.

    The envelope is the increase of the level from one 10 ms frame to the next, without decreases, averaged over 40 mel
    bands and smoothed by a Gaussian of 20 ms.

    Args:
        output: Generated audio, int16 [T].
        truth: The recording, int16 [T].
        audio_hz: Sample rate of both.

    Returns:
        -1..1; 1: every attack at its time and strength. 0 if the output has no attack, NaN if the recording has none.
    """
    a, b = (_onset_envelope(x, audio_hz) for x in _same_length(output, truth))
    if np.ptp(b) < 1e-6:
        return float("nan")
    return float(_correlation(a, b)) if np.ptp(a) > 1e-6 else 0.0


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
    import torch

    # The ends are mirrored by half a window, which takes so many samples.
    min_samples = max(n_fft for n_fft, _, _ in STFT_RESOLUTIONS)
    signals = (_amplitudes(pcm, min_samples) for pcm in _same_length(output, truth))
    with torch.no_grad():
        return _stft_distance()(*(torch.from_numpy(signal)[None, None] for signal in signals)).item()


@functools.cache
def _stft_distance() -> Any:
    from auraloss.freq import MultiResolutionSTFTLoss

    fft_sizes, hops, windows = (list(sizes) for sizes in zip(*STFT_RESOLUTIONS, strict=True))
    return MultiResolutionSTFTLoss(fft_sizes, hops, windows, eps=STFT_MIN_POWER)


def mean(values: ArrayLike, weights: ArrayLike | None = None) -> float:
    """The (weighted) mean over clips, [N], without NaN and items of weight 0; NaN if nothing remains."""
    numbers, valid_weights, _ = _valid(values, weights)
    return float(np.average(numbers, weights=valid_weights)) if len(numbers) else float("nan")


def bootstrap_interval(
    values: ArrayLike, recordings: Sequence[Hashable], weights: ArrayLike | None = None
) -> tuple[float, float]:
    """95 % interval of `mean` by cluster bootstrap: recordings are resampled with replacement, with all their clips.

    Clips of one recording are not independent: they share instrument, music and player. The interval shows how much
    the choice of the recordings matters; with a handful of them it is still too narrow. The random numbers are the same
    each time.

    Args:
        values: One value per clip, [N].
        recordings: The recording of each clip, N items.
        weights: Weights of the clips, [N]; default equal.

    Returns:
        Lower and upper end; (NaN, NaN) for clips of fewer than two recordings.
    """
    numbers, valid_weights, valid = _valid(values, weights)
    numbering = {recording: number for number, recording in enumerate(dict.fromkeys(recordings))}
    clusters = np.array([numbering[recording] for recording in recordings], dtype=int)[valid]
    _, clusters = np.unique(clusters, return_inverse=True)
    products, totals = np.bincount(clusters, numbers * valid_weights), np.bincount(clusters, valid_weights)
    if len(totals) < 2:
        return float("nan"), float("nan")
    from scipy.stats import bootstrap

    interval = bootstrap(
        (products, totals),
        lambda products, totals, axis: products.sum(axis=axis) / totals.sum(axis=axis),
        paired=True,
        vectorized=True,
        n_resamples=N_RESAMPLES,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return float(interval.low), float(interval.high)


def _valid(values: ArrayLike, weights: ArrayLike | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Values that are finite and have a weight, these weights, and the mask of both."""
    numbers = np.asarray(values, dtype=np.float64)
    all_weights = np.ones(len(numbers)) if weights is None else np.asarray(weights, dtype=np.float64)
    valid = np.isfinite(numbers) & (all_weights > 0)
    return numbers[valid], all_weights[valid], valid


def _same_length(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    n = min(len(a), len(b))
    return a[:n], b[:n]


def _amplitudes(pcm: np.ndarray, min_samples: int) -> np.ndarray:
    """Audio, int16 [T], relative to full scale, with silence at the end if it is shorter: float32."""
    padded = np.pad(pcm, (0, max(0, min_samples - len(pcm))))
    return padded.astype(np.float32) / FULL_SCALE


def _correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Pearson's correlation over the last axis; NaN for constants."""
    from scipy.stats import ConstantInputWarning, NearConstantInputWarning, pearsonr

    with warnings.catch_warnings():
        for category in (ConstantInputWarning, NearConstantInputWarning):
            warnings.simplefilter("ignore", category)
        return pearsonr(a.astype(np.float64), b.astype(np.float64), axis=-1).statistic


def chroma_vectors(pcm: np.ndarray, audio_hz: int) -> np.ndarray:
    """Strength of each pitch class, C first: the magnitudes of a constant-Q transform, summed over the octaves.

    Args:
        pcm: Audio, int16 [T].
        audio_hz: Its sample rate.

    Returns:
        float32 [frames, 12].
    """
    import librosa

    min_hz = librosa.note_to_hz(CHROMA_MIN_NOTE)
    hop = round(CHROMA_HOP_SECONDS * audio_hz)
    # The last filter of the last octave has to stay below the Nyquist frequency.
    n_octaves = min(CHROMA_OCTAVES, int(math.log2(0.47 * audio_hz / min_hz)))
    with warnings.catch_warnings():
        # Of signals that are shorter than a filter.
        warnings.filterwarnings("ignore", message="n_fft=.* is too large")
        chroma = librosa.feature.chroma_cqt(
            y=_amplitudes(pcm, 2 * hop),
            sr=audio_hz,
            hop_length=hop,
            fmin=min_hz,
            norm=None,
            tuning=0.0,
            n_octaves=n_octaves,
            bins_per_octave=CHROMA_BINS_PER_OCTAVE,
        )
    return chroma.T


def _onset_envelope(pcm: np.ndarray, audio_hz: int) -> np.ndarray:
    """The onset envelope, [frames]; frame i is the increase of the level at i * ONSET_HOP_SECONDS."""
    import librosa
    from scipy.ndimage import gaussian_filter1d

    window, hop = round(ONSET_WINDOW_SECONDS * audio_hz), round(ONSET_HOP_SECONDS * audio_hz)
    with warnings.catch_warnings():
        # Below 2 kHz bands are narrower than the spacing of the spectral lines; empty ones have no increase.
        warnings.filterwarnings("ignore", message="Empty filters")
        power = librosa.feature.melspectrogram(
            y=_amplitudes(pcm, window),
            sr=audio_hz,
            n_fft=window,
            hop_length=hop,
            n_mels=N_ONSET_BANDS,
            fmin=ONSET_MIN_HZ,
        )
    level = librosa.power_to_db(power, ref=np.max, top_db=ONSET_RANGE_DB)
    increase = librosa.onset.onset_strength(S=level, sr=audio_hz, n_fft=window, hop_length=hop, center=False)
    return gaussian_filter1d(increase, ONSET_BLUR_SECONDS / ONSET_HOP_SECONDS)
