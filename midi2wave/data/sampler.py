"""A sampler: plays performances with sampled instruments.

The attack of every sample, as measured and aligned, falls onto the onset of its note, to half a frame of the output.
What lies more than LEAD_SECONDS before it in the file is left out, and that much is faded in. A note sounds until its
damper falls, as the labels have it (`sounding_offset`: a pedal is down from 64 on), then ends in the time that the
instrument says, while its release sample sounds. A note whose key is struck again ends without one: its damper does not
fall.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import soxr

from midi2wave.data.sample_analysis import Sample, read_frames
from midi2wave.data.sampled_instrument import SampledInstrument
from midi2wave.midi.performance import Performance, sounding_offset

LEAD_SECONDS = 0.003
# After its damper has fallen, a note's level falls by this much in the instrument's release time, and then it ends.
RELEASE_DB = 80.0
MIN_RELEASE_SECONDS = 0.01
# So that chords do not clip: a single note of the Salamander piano has peaks up to -1 dB. At the same gain, pieces are
# then as loud as with FluidR3, within 1 dB.
HEADROOM_DB = -5.2
# soxr's filter reaches this many input frames beyond what it is asked for, at most.
FILTER_FRAMES = 512


@dataclass(frozen=True)
class Voice:
    """A region that sounds once.

    Attributes:
        region: Its index.
        pitch: MIDI pitch.
        onset: The output frame of its attack.
        n_sounding: Frames until its damper falls.
        n_release: Frames that it then takes to end.
        gain: Linear.
    """

    region: int
    pitch: int
    onset: int
    n_sounding: int
    n_release: int
    gain: float


def play_samples(performance: Performance, n_frames: int, instrument: SampledInstrument, audio_hz: int) -> np.ndarray:
    """The sound of a performance.

    Args:
        performance: Notes and pedals.
        n_frames: Length.
        instrument: What plays it.
        audio_hz: Sample rate of the output.

    Returns:
        float32 [n_frames, 2]. The same input gives the same samples.

    Raises:
        InputError: A sample is damaged.
        OSError: A sample cannot be read.
    """
    audio = np.zeros((n_frames, 2), np.float32)
    voices = sorted(plan_voices(performance, n_frames, instrument, audio_hz), key=_transposition)
    # Each sample is read and transposed once, however often the piece uses it, and no more of it than sounds.
    for (number, pitch), group in groupby(voices, key=_transposition):
        of_sample = list(group)
        n_needed = max(voice.n_sounding + voice.n_release for voice in of_sample)
        sound, lead = transposed(instrument, number, pitch, n_needed, audio_hz)
        for voice in of_sample:
            _mix(audio, sound, lead, voice)
    return audio


def _transposition(voice: Voice) -> tuple[int, int]:
    return voice.region, voice.pitch


def plan_voices(
    performance: Performance, n_frames: int, instrument: SampledInstrument, audio_hz: int
) -> Iterator[Voice]:
    """What sounds when, in the order of the notes. Args as of `play_samples`."""
    gain = instrument.gain * 10 ** (HEADROOM_DB / 20)
    end = np.minimum(sounding_offset(performance), n_frames / audio_hz)
    onsets = np.rint(performance.onset * audio_hz).astype(int).tolist()
    ends = np.rint(end * audio_hz).astype(int).tolist()
    struck = set(zip(onsets, performance.pitch.tolist(), strict=True))
    notes = zip(onsets, ends, performance.pitch.tolist(), performance.velocity.tolist(), strict=True)
    for onset, stop, pitch, velocity in notes:
        for number, note_gain in instrument.gains_of_note(pitch, velocity, on_release=False).items():
            release = max(instrument.regions[number].release_seconds, MIN_RELEASE_SECONDS)
            linear = gain * 10 ** (note_gain / 20)
            yield Voice(number, pitch, onset, stop - onset, round(release * audio_hz), linear)
        if (stop, pitch) in struck or stop >= n_frames:
            continue
        for number, note_gain in instrument.gains_of_note(pitch, velocity, on_release=True).items():
            decay_db = instrument.regions[number].rt_decay_db * (stop - onset) / audio_hz
            yield Voice(number, pitch, stop, n_frames - stop, 0, gain * 10 ** ((note_gain - decay_db) / 20))


def transposed(
    instrument: SampledInstrument, number: int, pitch: int, n_needed: int, audio_hz: int
) -> tuple[np.ndarray, int]:
    """A sample at the pitch of a key, at the output's sample rate.

    Args:
        instrument: The instrument.
        number: The index of the region.
        pitch: MIDI pitch.
        n_needed: How many output frames are needed from the attack on.
        audio_hz: Sample rate of the output.

    Returns:
        float32 [T, 2], and the frame of its attack.
    """
    region, sample = instrument.regions[number], instrument.samples[number]
    ratio = 2 ** (region.cents(pitch) / 1200)
    if sample is None:  # A release sample begins when the damper falls: its noise is that of the action.
        audio, sample_hz = read_frames(region.sample)
        return _resampled(audio, sample_hz * ratio, audio_hz), 0
    input_hz = sample.audio_hz * ratio
    first = max(0, math.floor(sample.attack - LEAD_SECONDS * input_hz))
    end = sample.attack + math.ceil(n_needed * input_hz / audio_hz) + FILTER_FRAMES
    audio = _read_until(sample, end)
    lead = round((sample.attack - first) * audio_hz / input_hz)
    sound = _resampled(audio[first:], input_hz, audio_hz)[: lead + n_needed]
    sound[:lead] *= np.float32(0.5) - np.float32(0.5) * np.cos(np.linspace(0, np.pi, lead, dtype=np.float32))[:, None]
    return sound, lead


def _read_until(sample: Sample, end: int) -> np.ndarray:
    # Up to the end of the file, whose length is checked only when all of it is read.
    audio, _ = read_frames(sample.path, end if end < sample.n_frames else None)
    return audio


def _resampled(audio: np.ndarray, input_hz: float, output_hz: int) -> np.ndarray:
    resampled: np.ndarray = soxr.resample(np.ascontiguousarray(audio), input_hz, output_hz, quality="HQ")
    return resampled


def _mix(audio: np.ndarray, sound: np.ndarray, lead: int, voice: Voice) -> None:
    """Add a voice to the audio, [T, 2]; what lies before its beginning or after its end is left out."""
    before_release = lead + voice.n_sounding
    sound = sound[: before_release + voice.n_release] * np.float32(voice.gain)
    tail = sound[before_release:]
    if len(tail):
        fall_db = RELEASE_DB / voice.n_release * np.arange(len(tail), dtype=np.float32)
        tail *= (10 ** (-fall_db / 20))[:, None]
    begin = voice.onset - lead
    sound = sound[max(0, -begin) :]
    begin = max(0, begin)
    sound = sound[: max(0, len(audio) - begin)]
    audio[begin : begin + len(sound)] += sound
