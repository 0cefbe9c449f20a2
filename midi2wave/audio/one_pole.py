"""The recursive filter that de-emphasis and the filter of constants share."""

import numpy as np


def one_pole(values: np.ndarray, coefficient: float, before: np.ndarray | None) -> np.ndarray:
    """y[t] = x[t] + a y[t-1], for a block of a stream.

    Args:
        values: x, float64 [B, n], n of 1 or more. It is overwritten.
        coefficient: a of the formula.
        before: The last y of the block before, [B]; None: 0.

    Returns:
        y, float64 [B, n]: the same array.
    """
    # y[t] - a y[t-1] = x[t] is a triangular system with two diagonals. `scipy.signal.lfilter` gives the same numbers,
    # but takes half a second to import, for which the first block of audio would wait. numba has imported this module
    # already.
    from scipy.linalg.blas import dtbsv

    if before is not None:
        values[:, 0] += coefficient * before
    diagonals = np.ones((2, values.shape[1]), order="F")
    diagonals[1] = -coefficient
    for row, x in enumerate(values):
        values[row] = dtbsv(1, diagonals, x, lower=1, diag=1)
    return values
