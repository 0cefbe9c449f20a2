"""The note-synchronous excitation: every sounding note as decaying, slightly inharmonic sinusoids at audio rate."""

import math

import numpy as np

from midi2wave.config import DataConfig
from midi2wave.utils.numba_cache import cached_njit

N_EXCITATION = 6  # twice that in quadrature
ANCHOR_FRAMES = 8  # of which one costs sines and exponentials, the others a complex product for each partial
MAX_DECAY_NEPERS = math.log(1000)  # nepers: a partial that has fallen by 60 dB is left out


def n_excitation(config: DataConfig) -> int:
    """Channels of the excitation that a model is shown."""
    return N_EXCITATION * (1 + config.excitation_quadrature) if config.excitation else 0


@cached_njit
def add_note(
    out, first, hop, audio_hz, onset, end, gone, damping, loudness,
    turn, decay, level, phase, channel, cosine, sine, step,
):  # fmt: skip
    """Add one note to out [6 or 12, n * hop], whose first sample is first * hop.

    Phase and envelope are set anew in float64 at every frame whose number is a multiple of ANCHOR_FRAMES, also if that
    lies before `first`, and turned from there on: the result is the same whatever block a frame is in.
    """
    damper = np.empty(hop, dtype=np.float32)
    state = np.empty(len(turn), dtype=np.complex128)
    last = first + out.shape[1] // hop
    sounding = max(first, math.floor(onset * audio_hz / hop) - 1)  # one early: no rounding may lose a frame
    for f in range(sounding - sounding % ANCHOR_FRAMES, last):
        start = f * hop / audio_hz
        if start >= gone:
            break
        if f % ANCHOR_FRAMES == 0:
            for p in range(len(turn)):
                amplitude = loudness * level[p] * math.exp(-decay[p] * (start - onset))
                angle = turn[p] * (start - onset) + phase[p]
                state[p] = complex(amplitude * math.cos(angle), amplitude * math.sin(angle))
        if f >= first and start + hop / audio_hz > onset:
            begin = min(max(0, math.ceil(onset * audio_hz) - f * hop), hop)
            released = start + (hop - 1) / audio_hz > end
            for i in range(hop if released else 0):
                since = start + i / audio_hz - end
                damper[i] = math.exp(-since / damping) if since > 0 else 1.0
            for p in range(len(turn)):
                re, im = np.float32(state[p].real), np.float32(state[p].imag)
                # slices, whose indices from 0 on the compiler can take several at a time
                row = out[channel[p], (f - first) * hop + begin : (f - first + 1) * hop]
                cosines, sines, dampers = cosine[p, begin:], sine[p, begin:], damper[begin:]
                if released:
                    for i in range(len(row)):
                        row[i] += (re * sines[i] + im * cosines[i]) * dampers[i]
                else:
                    for i in range(len(row)):
                        row[i] += re * sines[i] + im * cosines[i]
                if len(out) > N_EXCITATION:
                    row = out[N_EXCITATION + channel[p], (f - first) * hop + begin : (f - first + 1) * hop]
                    if released:
                        for i in range(len(row)):
                            row[i] += (re * cosines[i] - im * sines[i]) * dampers[i]
                    else:
                        for i in range(len(row)):
                            row[i] += re * cosines[i] - im * sines[i]
        for p in range(len(turn)):
            state[p] *= step[p]
