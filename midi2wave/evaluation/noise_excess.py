"""Noise between the notes: how much louder the quiet time-frequency bins of generated audio are than the recording's.

Most bins of piano music lie between the partials and hold background noise only. A low percentile of their levels
therefore measures the noise, whatever the notes are.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from midi2wave.audio.mu_law import mu_law_encode
from midi2wave.audio.pcm import FULL_SCALE
from midi2wave.audio.pre_emphasis import Deemphasis, emphasize, mu_law_decode_preemphasized
from midi2wave.evaluation.metrics import bootstrap_interval, mean

# Lower ends of the octaves; the last one ends at 6400 Hz.
OCTAVES_HZ = (50, 100, 200, 400, 800, 1600, 3200)
# The names in scores.json, and the percentile of the bins.
PERCENTILES = {"percentile_10": 10.0, "median": 50.0}
N_FFT = 2048
HOP = N_FFT // 4
# Variance of the rounding to 16 bits, in amplitudes squared: quieter bins count as this loud.
ROUNDING_POWER = 1 / 12 / FULL_SCALE**2


@dataclass(frozen=True)
class NoiseExcess:
    """Noise of one clip: differences of percentiles in dB, one for each octave; NaN above half the sample rate.

    Attributes:
        output: Of the generated audio against the recording, by the name of the percentile.
        quantized: Of the recording rounded to the samples of the model against the recording: what a perfect model that
            draws these samples at random has.
    """

    output: dict[str, list[float]]
    quantized: dict[str, list[float]]


def octave_levels(pcm: np.ndarray, audio_hz: int) -> np.ndarray:
    """Percentiles of the levels of all time-frequency bins of each octave, in dB.

    The bins are those of an STFT of 2048 points (Hann window, 75 % overlap, no padding but of a signal that is shorter)
    whose frequency is in [lower end, twice the lower end). Of all bins of all frames together the percentile is taken.

    Args:
        pcm: Audio, int16 [T].
        audio_hz: Its sample rate.

    Returns:
        float64 [percentiles, octaves]; NaN where an octave does not end below half the sample rate.
    """
    import librosa

    samples = np.pad(pcm, (0, max(0, N_FFT - len(pcm)))).astype(np.float32) / FULL_SCALE
    power = np.abs(librosa.stft(samples, n_fft=N_FFT, hop_length=HOP, center=False)) ** 2
    noise_floor = ROUNDING_POWER * float((librosa.filters.get_window("hann", N_FFT) ** 2).sum())
    level = 10 * np.log10(np.maximum(power, noise_floor))
    frequency = np.arange(N_FFT // 2 + 1) * audio_hz / N_FFT
    values = np.full((len(PERCENTILES), len(OCTAVES_HZ)), np.nan)
    for number, low in enumerate(OCTAVES_HZ):
        inside = (frequency >= low) & (frequency < 2 * low)
        if 2 * low <= audio_hz / 2 and inside.any():
            values[:, number] = np.percentile(level[inside], list(PERCENTILES.values()))
    return values


def quantize(pcm: np.ndarray, preemphasis: float, *, codes: bool) -> np.ndarray:
    """A recording as the samples of a model represent it: pre-emphasised, rounded, and back.

    Args:
        pcm: The recording, int16 [T].
        preemphasis: The coefficient.
        codes: Whether the samples are mu-law codes; otherwise 16-bit values.
    """
    samples = emphasize(pcm, preemphasis)
    if codes:
        samples = mu_law_decode_preemphasized(mu_law_encode(samples))
    return Deemphasis(preemphasis)(samples[None])[0]


def noise_excess(output: np.ndarray, truth: np.ndarray, quantized: np.ndarray, audio_hz: int) -> NoiseExcess:
    """Compare generated audio with its recording.

    There is no baseline: against other clips, each once, the mean over all clips would be the same.

    Args:
        output: Generated audio, int16 [T].
        truth: The recording, int16 [T].
        quantized: `quantize` of the recording.
        audio_hz: Sample rate of all.
    """
    own, recording, rounded = (octave_levels(pcm, audio_hz) for pcm in (output, truth, quantized))
    differences = (own - recording, rounded - recording)
    return NoiseExcess(*(dict(zip(PERCENTILES, rows.tolist(), strict=True)) for rows in differences))


def summarize_noise(clips: Sequence[NoiseExcess], recordings: Sequence[str]) -> list[dict[str, Any]]:
    """Means over the clips with intervals by bootstrap over the recordings.

    Args:
        clips: The noise of each clip.
        recordings: The recording of each clip.

    Returns:
        For each octave `low_hz`, `high_hz`, and for each percentile NAME: NAME, NAME_interval and NAME_quantized, in
        dB.
    """
    octaves = []
    for number, low in enumerate(OCTAVES_HZ):
        values: dict[str, Any] = {"low_hz": low, "high_hz": 2 * low}
        for name in PERCENTILES:
            excess = [clip.output[name][number] for clip in clips]
            values[name] = mean(excess)
            values[f"{name}_interval"] = bootstrap_interval(excess, recordings)
            values[f"{name}_quantized"] = mean([clip.quantized[name][number] for clip in clips])
        octaves.append(values)
    return octaves
