"""A high-pass filter that removes a constant from audio."""

import numpy as np

from midi2wave.audio.one_pole import one_pole
from midi2wave.audio.pcm import round_to_int16

# The pole of the filter. At 16 kHz a constant falls to a third in 31 ms, and 27.5 Hz, the lowest note of a piano, loses
# 0.15 dB.
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
        before = np.zeros(len(block)) if self.last_input is None else self.last_input
        samples = one_pole(np.diff(block.astype(np.float64), axis=1, prepend=before[:, None]), POLE, self.last_output)
        self.last_input, self.last_output = block[:, -1].astype(np.float64), samples[:, -1].copy()
        return round_to_int16(samples)
