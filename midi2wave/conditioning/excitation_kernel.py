"""The compiled part of the excitation: one note's partials, frame by frame."""

import math
from typing import NamedTuple

import numpy as np
from numba import njit

from midi2wave.conditioning.partials import N_EXCITATION
from midi2wave.utils.numba_cache import cached_njit

# Sines and exponentials are computed once in so many frames; in the others, a partial costs a complex product.
ANCHOR_FRAMES = 8


# The two named tuples are in the module of the kernel, whose compiled code is cached until this file changes.
class PartialTable(NamedTuple):
    """The partials of one key below the band limit, prepared for synthesis at one sample rate.

    The oscillation within any frame is the product of a complex amplitude and that of the table, which includes the
    decay within the frame.

    Attributes:
        omega: Angular frequency in rad/s, float64 [P].
        decay: Decay rate in 1/s, float64 [P].
        level: Amplitude at the onset for velocity 127, float64 [P].
        phase: Phase at the onset in radians, float64 [P].
        channel: Channel of the excitation, int64 [P].
        cosine: Real part of the decaying oscillation over one frame, float32 [P, hop].
        sine: Its imaginary part, float32 [P, hop].
        frame_factor: The factor by which one frame multiplies the complex amplitude, complex128 [P].
    """

    omega: np.ndarray
    decay: np.ndarray
    level: np.ndarray
    phase: np.ndarray
    channel: np.ndarray
    cosine: np.ndarray
    sine: np.ndarray
    frame_factor: np.ndarray


class NoteEnvelope(NamedTuple):
    """When a note sounds and how loud it is.

    Attributes:
        onset: Seconds.
        damper_time: When its damper falls, in seconds.
        inaudible_after: Seconds after which the note is left out.
        damping_seconds: Time constant of the decay under the damper.
        gain: Factor of all its partials.
    """

    onset: float
    damper_time: float
    inaudible_after: float
    damping_seconds: float
    gain: float


@njit(inline="always")
def _set_phasors(phasors: np.ndarray, seconds: float, note: NoteEnvelope, partials: PartialTable) -> None:
    """Amplitude and phase of each partial at a time since the onset, complex128 [P]."""
    for p in range(len(phasors)):
        amplitude = note.gain * partials.level[p] * math.exp(-partials.decay[p] * seconds)
        angle = partials.omega[p] * seconds + partials.phase[p]
        phasors[p] = complex(amplitude * math.cos(angle), amplitude * math.sin(angle))


@njit(inline="always")
def _set_release_envelope(envelope: np.ndarray, start: float, audio_hz: int, note: NoteEnvelope) -> None:
    """Gain of each sample from `start` seconds on under the damper: 1 until it falls, then an exponential decay."""
    for i in range(len(envelope)):
        since = start + i / audio_hz - note.damper_time
        envelope[i] = math.exp(-since / note.damping_seconds) if since > 0 else 1.0


@njit(inline="always")
def _add_frame(
    out: np.ndarray, start: int, skip: int, phasors: np.ndarray, partials: PartialTable, envelope: np.ndarray
) -> None:
    """Add a note's partials to the frame whose first column is `start`, without its first `skip` samples.

    An empty envelope stands for 1. The loops are written out since a function for each costs half as much time again.
    """
    cosines, sines, channels = partials.cosine, partials.sine, partials.channel
    stop = start + sines.shape[1]
    damped = len(envelope) > 0
    for p in range(len(phasors)):
        re, im = np.float32(phasors[p].real), np.float32(phasors[p].imag)
        # These are contiguous slices with indices from 0 on, so that the compiler vectorises the sums.
        cosine, sine = cosines[p, skip:], sines[p, skip:]
        row = out[channels[p], start + skip : stop]
        if damped:
            for i in range(len(row)):
                row[i] += (re * sine[i] + im * cosine[i]) * envelope[i]
        else:
            for i in range(len(row)):
                row[i] += re * sine[i] + im * cosine[i]
        if len(out) > N_EXCITATION:
            row = out[N_EXCITATION + channels[p], start + skip : stop]
            if damped:
                for i in range(len(row)):
                    row[i] += (re * cosine[i] - im * sine[i]) * envelope[i]
            else:
                for i in range(len(row)):
                    row[i] += re * cosine[i] - im * sine[i]


@cached_njit
def add_note(out: np.ndarray, first: int, audio_hz: int, note: NoteEnvelope, partials: PartialTable) -> None:
    """Add one note to the excitation of a range of frames.

    Amplitudes and phases are computed in float64 at every frame whose number is a multiple of ANCHOR_FRAMES, also if
    that lies before the range, and rotated from there on: a frame is the same in whatever range it is computed.

    Args:
        out: float32 [6 or 12, n * hop], changed in place.
        first: The frame with which `out` begins.
        audio_hz: Sample rate.
        note: Times and gain of the note.
        partials: The partials of its key.
    """
    hop = partials.sine.shape[1]
    envelope = np.empty(hop, dtype=np.float32)
    phasors = np.empty(len(partials.omega), dtype=np.complex128)
    # The loop starts one frame early, since rounding must not lose the frame of the onset.
    onset_frame = max(first, math.floor(note.onset * audio_hz / hop) - 1)
    for frame in range(onset_frame - onset_frame % ANCHOR_FRAMES, first + out.shape[1] // hop):
        start = frame * hop / audio_hz
        if start >= note.inaudible_after:
            break
        if frame % ANCHOR_FRAMES == 0:
            _set_phasors(phasors, start - note.onset, note, partials)
        if frame >= first and start + hop / audio_hz > note.onset:
            skip = min(max(0, math.ceil(note.onset * audio_hz) - frame * hop), hop)
            n_damped = hop if start + (hop - 1) / audio_hz > note.damper_time else 0
            _set_release_envelope(envelope[:n_damped], start, audio_hz, note)
            _add_frame(out, (frame - first) * hop, skip, phasors, partials, envelope[skip:n_damped])
        for p in range(len(phasors)):
            phasors[p] *= partials.frame_factor[p]
