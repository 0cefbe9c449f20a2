"""Level and clipping of a recording, measured at its own sample rate and in all of its channels."""

from dataclasses import dataclass, field

import numpy as np

from midi2wave.audio.pcm import DIGITAL_SILENCE_DB, FULL_SCALE

N_BINS = 1024


@dataclass
class LevelMeter:
    """Counts of the absolute amplitudes of a file's blocks.

    Attributes:
        counts: How many samples are in each of N_BINS equal steps up to full scale, over all channels.
        peak: The largest amplitude.
        n_above: How many samples are above full scale, which files of floats can hold and 16-bit files cannot.
        channel_energy: Sum of the squared amplitudes of all channels.
        mixed_energy: Sum of the squared amplitudes of their mean.
        n_channels: Number of channels.
        n_frames: Number of frames.
    """

    counts: np.ndarray = field(default_factory=lambda: np.zeros(N_BINS, dtype=np.int64))
    peak: float = 0.0
    n_above: int = 0
    channel_energy: float = 0.0
    mixed_energy: float = 0.0
    n_channels: int = 0
    n_frames: int = 0

    def add(self, block: np.ndarray) -> None:
        """Add a block, int16 or float amplitudes [frames, channels]."""
        amplitudes = block.astype(np.float32)
        if block.dtype == np.int16:
            amplitudes /= FULL_SCALE
        mixed = amplitudes.mean(axis=1) if block.shape[1] > 1 else amplitudes[:, 0]
        self.channel_energy += float(np.vdot(amplitudes, amplitudes))
        self.mixed_energy += float(np.vdot(mixed, mixed))
        magnitude = np.abs(amplitudes).ravel()
        self.peak = max(self.peak, float(magnitude.max(initial=0.0)))
        self.n_above += int(np.count_nonzero(magnitude > 1))
        bins = np.minimum(magnitude * N_BINS, N_BINS - 1).astype(np.int64)
        self.counts += np.bincount(bins, minlength=N_BINS)
        self.n_channels = block.shape[1]
        self.n_frames += len(block)

    @property
    def peak_db(self) -> float:
        """The peak in dB relative to full scale."""
        return max(DIGITAL_SILENCE_DB, 20 * float(np.log10(max(self.peak, 1e-9))))

    @property
    def cancellation(self) -> float:
        """Power of the mean of the channels, relative to that of channels without any relation; 0: they cancel out."""
        return self.mixed_energy * self.n_channels**2 / max(self.channel_energy, 1e-12)
