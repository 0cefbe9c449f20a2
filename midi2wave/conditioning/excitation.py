"""Note-synchronous excitation: every sounding note as decaying, slightly inharmonic sinusoids at audio rate.

It gives the decoder a source to filter, as source-filter vocoders do for speech (Wang et al., arXiv 1810.11946).
"""

import functools
import math
from typing import TYPE_CHECKING

import numpy as np

from midi2wave.conditioning.partials import N_EXCITATION, PARTIAL_CHANNEL, PianoPartials
from midi2wave.config import DataConfig
from midi2wave.midi.performance import MIN_PITCH, Performance

if TYPE_CHECKING:
    from midi2wave.conditioning.excitation_kernel import PartialTable

# A partial above this share of the sample rate is left out: it would alias, or lie in a resampler's transition band.
MAX_PARTIAL_RATIO = 0.45
# A partial that has fallen by 60 dB is left out, and so is a note that its damper has lowered by exp(-10).
MAX_DECAY_NEPERS = math.log(1000)
MAX_DAMPING_NEPERS = 10


def n_excitation(config: DataConfig) -> int:
    """Number of excitation channels E that a model of this config receives: 0, 6, or 12 in quadrature."""
    return N_EXCITATION * (1 + config.excitation_quadrature) if config.excitation else 0


@functools.lru_cache(maxsize=4096)
def partial_table(partials: PianoPartials, key: int, audio_hz: int, hop: int) -> "PartialTable":
    """Prepare the partials of a key (0 to 87) for synthesis at a sample rate."""
    from midi2wave.conditioning.excitation_kernel import PartialTable

    below_limit = partials.hz[key] < MAX_PARTIAL_RATIO * audio_hz
    omega = 2 * math.pi * partials.hz[key][below_limit]
    decay = partials.decay[key][below_limit]
    oscillation = np.exp(np.outer(1j * omega - decay, np.arange(hop) / audio_hz))
    return PartialTable(
        omega=omega,
        decay=decay,
        level=partials.level[key][below_limit],
        phase=partials.phase[key][below_limit],
        channel=PARTIAL_CHANNEL[below_limit],
        cosine=oscillation.real.astype(np.float32),
        sine=oscillation.imag.astype(np.float32),
        frame_factor=np.exp((1j * omega - decay) * hop / audio_hz),
    )


class NoteExcitation:
    """The excitation of one performance, on demand for any range of frames."""

    def __init__(
        self, performance: Performance, damper_time: np.ndarray, config: DataConfig, partials: PianoPartials
    ) -> None:
        """Prepare the notes.

        Args:
            performance: Notes in seconds.
            damper_time: When each note's damper falls, in seconds, float64 [N].
            config: Rates, number of channels, and how velocity and dampers act.
            partials: The partials of each key.
        """
        self.config = config
        self.partials = partials
        self.hop = config.audio_hz // config.midi_hz
        self.key = performance.pitch - MIN_PITCH
        self.velocity = performance.velocity
        self.onset = performance.onset
        self.damper_time = damper_time
        undamped_seconds = MAX_DECAY_NEPERS / partials.decay.min(axis=1)
        self.inaudible_after = np.minimum(
            self.onset + undamped_seconds[self.key], damper_time + MAX_DAMPING_NEPERS * config.damping_seconds
        )

    def samples(self, first: int, n: int) -> np.ndarray:
        """The excitation of a range of frames.

        Every partial starts with its phase at its note's onset, also if that lies before the range.

        Args:
            first: First frame.
            n: Number of frames.

        Returns:
            float32 [E, n * hop]: the sines, and in quadrature the cosines, six channels further.
        """
        # Here, since numba takes a while to import and the rest of this module does not need it.
        from midi2wave.conditioning.excitation_kernel import NoteEnvelope, add_note

        out = np.zeros((n_excitation(self.config), n * self.hop), dtype=np.float32)
        if not len(out):
            return out
        audio_hz, midi_hz = self.config.audio_hz, self.config.midi_hz
        in_range = (self.onset < (first + n) / midi_hz) & (self.inaudible_after > first / midi_hz)
        for i in np.flatnonzero(in_range):
            note = NoteEnvelope(
                onset=self.onset[i],
                damper_time=self.damper_time[i],
                inaudible_after=self.inaudible_after[i],
                damping_seconds=self.config.damping_seconds,
                gain=(self.velocity[i] / 127) ** self.config.velocity_exponent,
            )
            add_note(out, first, audio_hz, note, partial_table(self.partials, int(self.key[i]), audio_hz, self.hop))
        return out
