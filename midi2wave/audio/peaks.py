"""Peaks between samples."""

import numpy as np

# Largest curvature of a parabola that counts as a peak.
MAX_CURVATURE = -1e-12


def peak_offset(values: np.ndarray, peak: int) -> float:
    """How far a maximum lies from its largest sample, by the parabola through it and its neighbours.

    For spectra on a logarithmic scale this is QIFFT (Smith, Spectral Audio Signal Processing, "Quadratic Interpolation
    of Spectral Peaks").

    Args:
        values: The samples, [N].
        peak: Index of the largest sample of a neighbourhood.

    Returns:
        Between -0.5 and 0.5 samples; 0 at either end.
    """
    if not 0 < peak < len(values) - 1:
        return 0.0
    left, middle, right = values[peak - 1 : peak + 2]
    return float(0.5 * (left - right) / min(left - 2 * middle + right, MAX_CURVATURE))
