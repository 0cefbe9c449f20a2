"""A high-pass filter that removes a constant from audio."""

import numpy as np

from midi2wave.audio.pcm import FULL_SCALE

# The pole of the filter. At 16 kHz a constant falls to a third in 31 ms, and 27.5 Hz, the lowest note of a piano, by
# 0.1 dB.
POLE = 0.998


class DcBlocker:
    """y[t] = x[t] - x[t-1] + r y[t-1], for streams that arrive in blocks."""

    def __init__(self) -> None:
        """Begin with silence."""
        # Before each row's next block: the last sample of the input, and of the output, not rounded, [B].
        self.last_input: np.ndarray | None = None
        self.last_output: np.ndarray | None = None

    def skip(self, block: np.ndarray) -> None:
        """Begin after these samples, int16 [B, n], which have no constant to remove."""
        if block.size:
            self.last_input = self.last_output = block[:, -1].astype(np.float64)

    def __call__(self, block: np.ndarray) -> np.ndarray:
        """Filter the next block.

        Args:
            block: Samples, int16 [B, n].

        Returns:
            int16 [B, n].
        """
        if not block.size:
            return block
        # A triangular system with two diagonals, as in `pre_emphasis.Deemphasis`.
        from scipy.linalg.blas import dtbsv

        before = np.zeros(len(block)) if self.last_input is None else self.last_input
        samples = np.diff(block.astype(np.float64), axis=1, prepend=before[:, None])
        if self.last_output is not None:
            samples[:, 0] += POLE * self.last_output
        diagonals = np.ones((2, block.shape[1]), order="F")
        diagonals[1] = -POLE
        for row, values in enumerate(samples):
            samples[row] = dtbsv(1, diagonals, values, lower=1, diag=1)
        self.last_input, self.last_output = block[:, -1].astype(np.float64), samples[:, -1].copy()
        return np.clip(np.rint(samples), -FULL_SCALE, FULL_SCALE - 1).astype(np.int16)
