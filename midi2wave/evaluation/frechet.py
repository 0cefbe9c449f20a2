"""Fréchet distance between generated audio and recordings, on hidden features of the second transcriber.

It compares the distribution of the sounds as a whole, as the Fréchet audio distance does (arXiv 1812.08466), with the
features of a network that was trained on pianos.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Squared Fréchet distance of two normal distributions that have the means and covariances of two sets.

    |m_a - m_b|^2 + tr(C_a) + tr(C_b) - 2 tr((C_a^(1/2) C_b C_a^(1/2))^(1/2))

    Args:
        a: Feature vectors, [N, D].
        b: Others, [M, D].

    Returns:
        0 or more; NaN if a set has fewer than two vectors.
    """
    if min(len(a), len(b)) < 2:
        return float("nan")
    cov_a, cov_b = (np.atleast_2d(np.cov(one.astype(np.float64), rowvar=False)) for one in (a, b))
    values, vectors = np.linalg.eigh(cov_a)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    common = np.sqrt(np.linalg.eigvalsh(root @ cov_b @ root).clip(0)).sum()
    shift = np.square(a.mean(axis=0, dtype=np.float64) - b.mean(axis=0, dtype=np.float64)).sum()
    return float(max(0.0, shift + np.trace(cov_a) + np.trace(cov_b) - 2 * common))


def summarize_features(
    outputs: Sequence[np.ndarray], truths: Sequence[np.ndarray], recordings: Sequence[str]
) -> dict[str, Any]:
    """Distances over all clips.

    Args:
        outputs: Features of the generated audio of each clip, [frames, D].
        truths: Those of the recordings.
        recordings: The recording of each clip.

    Returns:
        `distance`: generated audio against the recordings; `recording_halves`: the recordings of every other piece
        against the rest, which differ in their music. NaN where there is one recording.
    """
    number = {name: i for i, name in enumerate(dict.fromkeys(recordings))}
    halves = [[t for t, name in zip(truths, recordings, strict=True) if number[name] % 2 == half] for half in (0, 1)]
    return {
        "distance": frechet_distance(_concatenate(outputs), _concatenate(truths)),
        "recording_halves": frechet_distance(*map(_concatenate, halves)),
    }


def _concatenate(features: Sequence[np.ndarray]) -> np.ndarray:
    """All vectors of all clips, [N, D]; silent clips have none."""
    parts = [one for one in features if len(one)]
    return np.concatenate(parts) if parts else np.empty((0, 1))
