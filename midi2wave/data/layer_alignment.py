"""Alignment of the velocity layers of a sampled key by their waveforms.

The envelope of a low note rises slowly, and at another rate in each layer, so that its attack is measured to a
millisecond or two. The partials of all layers begin with the same phases, however: the waveforms of neighbouring layers
agree, and their cross-correlation gives the lag between them to a frame.
"""

from collections.abc import Iterable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np

from midi2wave.data.sample_analysis import Sample, read_frames
from midi2wave.data.sfz import Region

# How much of a note is compared, from its attack on.
COMPARED_SECONDS = 0.06
# Lags are looked for up to this, and up to half a period: the next maximum is a period away.
MAX_LAG_SECONDS = 0.004
# Layers that agree less than this are of different recordings or microphones, and stay where they are.
MIN_CORRELATION = 0.9


def align_layers(regions: Iterable[Region], samples: dict[Path, Sample]) -> dict[Path, Sample]:
    """Move the attacks of each key's layers so that their waveforms agree. Their median stays.

    Args:
        regions: Those of an instrument.
        samples: The measured sample of each file that a key starts.

    Returns:
        The samples with their new attacks.
    """
    keys: dict[tuple[int, tuple[int, int]], list[Region]] = {}
    for region in regions:
        if not region.on_release:
            keys.setdefault((region.keycenter, region.keys), []).append(region)
    aligned = dict(samples)
    for (keycenter, _), layers in keys.items():
        layers.sort(key=lambda region: region.velocities)
        files = list(dict.fromkeys(region.sample for region in layers))
        of_key = [samples[file] for file in files]
        if len(of_key) > 1 and len({sample.audio_hz for sample in of_key}) == 1:
            aligned |= zip(files, _aligned(of_key, 440 * 2 ** ((keycenter - 69) / 12)), strict=True)
    return aligned


def _aligned(layers: list[Sample], hertz: float) -> list[Sample]:
    audio_hz = layers[0].audio_hz
    max_lag = round(min(MAX_LAG_SECONDS, 0.5 / hertz) * audio_hz)
    n_compared = round(COMPARED_SECONDS * audio_hz)
    stretches = [_stretch(sample, max_lag, n_compared) for sample in layers]
    lags = np.cumsum([0, *(find_lag(one, other, max_lag) for one, other in pairwise(stretches))])
    shifts = lags - round(float(np.median(lags)))
    return [
        replace(sample, attack=max(0, sample.attack + int(shift))) for sample, shift in zip(layers, shifts, strict=True)
    ]


def _stretch(sample: Sample, margin: int, n_compared: int) -> np.ndarray:
    """What is compared of a sample, with a margin on both sides: float64 [2 * margin + n_compared, 2]."""
    audio, _ = read_frames(sample.path, sample.attack + n_compared + margin)
    first = sample.attack - margin
    stretch = np.pad(audio[max(0, first) :].astype(np.float64), ((max(0, -first), 0), (0, 0)))
    return np.pad(stretch, ((0, 2 * margin + n_compared - len(stretch)), (0, 0)))


def find_lag(one: np.ndarray, other: np.ndarray, max_lag: int) -> int:
    """By how many frames the second of two sounds is later than the first.

    Args:
        one: float64 [T, channels].
        other: The same.
        max_lag: The largest lag, in frames; so much at both ends of `one` is not compared.

    Returns:
        The lag of the highest normalised cross-correlation; 0 if that is below MIN_CORRELATION.
    """
    reference = one[max_lag : len(one) - max_lag]
    product = sum(np.correlate(b, a, "valid") for a, b in zip(reference.T, other.T, strict=True))
    total = np.concatenate([[0.0], np.cumsum(np.square(other).sum(axis=1))])
    energy = np.square(reference).sum() * (total[len(reference) :] - total[: -len(reference)])
    correlation = product / np.sqrt(np.maximum(energy, np.finfo(float).tiny))
    best = int(np.argmax(correlation))
    return best - max_lag if correlation[best] >= MIN_CORRELATION else 0
