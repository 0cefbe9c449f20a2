"""An additive piano synthesiser: inharmonic, beating, damped partials, hammer noise, pedals and a small room.

A decaying sine is a phasor, and a phasor at sample b * BLOCK + j is the product of one that depends on b and one that
depends on j. A note is therefore one matrix product over its partials, which is fast in NumPy.
"""

import zlib
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from midi2wave.midi.performance import sounding_offset
from midi2wave.midi.reader import read_midi
from midi2wave.utils.errors import InputError

BLOCK = 1024  # Samples that one matrix product synthesises from one row of phasors.
LAST_DAMPED_PITCH = 89  # Piano strings above have no dampers.
MIN_AMPLITUDE = 1e-4  # -80 dB
GAIN = 0.25  # The same for every piece, so that a velocity has one level; the default set peaks at about -3 dBFS.
RELEASE_TAIL_SECONDS = 1.0  # From the last damper to the end of the audio.
MAX_SECONDS = 3600
NOISE_FLOOR = 10 ** (-75 / 20)  # RMS; full scale is 1.
N_PARTIALS = 48
MAX_PARTIAL_HZ = 10_000


class PianoKey(NamedTuple):
    """The constants of a key: K partials with two modes each, prompt sound and aftersound.

    Attributes:
        partial_hz: Frequencies of the partials, [K].
        start: Amplitude and phase of every mode at the onset, before scaling by velocity, complex [2K].
        rate: -decay + i omega of every mode in 1/s, complex [2K].
        block: Real and negated imaginary part of every mode over one block, float32 [4K, BLOCK].
        hammer_noise: Sound of the hammer, float32 [T].
        release_seconds: From the damper's fall to -60 dB.
        pan: Gains of both channels, float32 [2].
    """

    partial_hz: np.ndarray
    start: np.ndarray
    rate: np.ndarray
    block: np.ndarray
    hammer_noise: np.ndarray
    release_seconds: float
    pan: np.ndarray


@lru_cache(maxsize=128)
def _piano_key(pitch: int, audio_hz: int) -> PianoKey:
    """String, hammer and damper of one key, after Fletcher & Rossing, The Physics of Musical Instruments, ch. 12.

    Each partial has two decay modes, slightly out of tune, after Weinreich, Coupled piano strings (1977).
    """
    rng = np.random.default_rng(pitch)
    height = (pitch - 33) / 63  # 0 at A1, 1 at C7.
    inharmonicity = 1.2e-4 * 40**height
    stretch_cents = 8 * ((pitch - 64) / 32) ** 3
    first_hz = 440 * 2 ** ((pitch - 69 + stretch_cents / 100) / 12)
    n = np.arange(1, N_PARTIALS + 1)
    partial_hz = first_hz * n * np.sqrt((1 + inharmonicity * n**2) / (1 + inharmonicity))
    is_audible = partial_hz < min(0.45 * audio_hz, MAX_PARTIAL_HZ)
    n, partial_hz = n[is_audible], partial_hz[is_audible]
    strike = 0.15 + abs(np.sin(np.pi * n * 0.12))  # The hammer hits the string at about an eighth of its length.
    board = partial_hz**2 / (partial_hz**2 + 90**2)  # The soundboard radiates little below 90 Hz.
    prompt = strike * board * n**-0.6 * np.exp(rng.normal(0, 0.25, len(n)))
    after = prompt * 0.25 * np.exp(rng.normal(0, 0.4, len(n)))
    decay = 0.5 * 10**height * n**0.55
    detune = 2 ** (rng.normal(0, 0.7, len(n)) / 1200)
    rate = np.concatenate((-decay, -0.25 * decay)) + 2j * np.pi * np.concatenate((partial_hz, partial_hz * detune))
    phase = np.exp(2j * np.pi * rng.random(len(n)))
    modes = np.exp(rate[:, None] * np.arange(BLOCK) / audio_hz)
    noise_time = np.arange(int(0.08 * audio_hz)) / audio_hz
    felt = np.hanning(max(3, int(0.0016 * audio_hz)))
    noise = np.convolve(rng.standard_normal(len(noise_time)), felt / np.sqrt(np.sum(felt**2)), "same")
    angle = np.pi / 4 + 0.5 * (height - 0.5)
    return PianoKey(
        partial_hz,
        np.concatenate((prompt * phase, after * phase)),
        rate,
        np.concatenate((modes.real, -modes.imag)).astype(np.float32),
        (noise * np.exp(-noise_time / 0.012)).astype(np.float32),
        0.09 + 0.16 * (1 - min(height, 1)) ** 2,
        np.array([np.cos(angle), np.sin(angle)], np.float32),
    )


def _synthesize_note(pitch: int, velocity: int, held_seconds: float, audio_hz: int) -> np.ndarray:
    """The sound of one note, damped after `held_seconds`, float32 [T]."""
    key, force = _piano_key(pitch, audio_hz), velocity / 127
    brightness = np.exp(-key.partial_hz / ((350 + 1.2 * key.partial_hz[0]) * (0.5 + 2.2 * force)))
    amplitude = np.tile(brightness, 2) * abs(key.start)
    start = key.start * np.tile(brightness, 2) * (force**1.6 / np.sqrt(np.sum(amplitude**2)))
    audible_seconds = np.log(np.maximum(abs(start) / MIN_AMPLITUDE, 1)) / -key.rate.real
    has_damper = pitch <= LAST_DAMPED_PITCH
    damped_seconds = held_seconds + key.release_seconds * 1.3 if has_damper else np.inf
    seconds = min(audible_seconds.max(), damped_seconds) + BLOCK / audio_hz
    n_blocks = int(np.ceil(seconds * audio_hz / BLOCK))
    blocks = start * np.exp(key.rate * (np.arange(n_blocks)[:, None] * (BLOCK / audio_hz)))  # [n_blocks, 2K]
    sound = (np.concatenate((blocks.real, blocks.imag), 1).astype(np.float32) @ key.block).reshape(-1)
    rise = int((0.001 + 0.003 * (1 - force)) * audio_hz)
    sound[:rise] *= np.linspace(0, 1, rise, dtype=np.float32)
    noise = key.hammer_noise[: len(sound)]
    sound[: len(noise)] += 0.03 * force**1.4 * noise
    if has_damper and held_seconds * audio_hz < len(sound):
        tail = sound[round(held_seconds * audio_hz) :]
        tail *= np.exp(np.arange(len(tail), dtype=np.float32) * (np.log(1e-3) / (key.release_seconds * audio_hz)))
    fade = min(len(sound), BLOCK)
    sound[-fade:] *= np.linspace(1, 0, fade, dtype=np.float32)
    return sound


def _add_reflections(dry: np.ndarray, audio_hz: int) -> np.ndarray:
    """Add early reflections of a small room, different ones in each channel; float32 [T, 2] -> float32 [T, 2]."""
    rng, wet = np.random.default_rng(0), dry.copy()
    for channel in (0, 1):
        for seconds in np.sort(rng.uniform(0.004, 0.045, 8)):
            delay = int(seconds * audio_hz)
            gain = np.float32(0.25 * np.exp(-seconds / 0.025) * rng.choice([-1, 1]))
            wet[delay:, channel] += gain * dry[: len(dry) - delay, rng.integers(2)]
    return wet


def render(midi_path: str | Path, audio_hz: int = 44100) -> np.ndarray:
    """Render a MIDI file.

    The sound ends a second after the last damper falls; chords above full scale are clipped.

    Args:
        midi_path: The MIDI file.
        audio_hz: Sampling rate.

    Returns:
        Samples within -1..1, float32 [T, 2]; always the same for the same file.

    Raises:
        InputError: The file cannot be read, or lasts more than MAX_SECONDS.
    """
    performance = read_midi(midi_path)
    sounding = sounding_offset(performance)
    seconds = max(float(sounding.max()), float(performance.offset.max())) + RELEASE_TAIL_SECONDS
    if seconds > MAX_SECONDS:
        remedy = f"give one of at most {MAX_SECONDS} s, since it is held in memory"
        raise InputError(f"{midi_path} lasts {seconds:.0f} s; {remedy}")
    dry = np.zeros((round(seconds * audio_hz), 2), np.float32)
    columns = (performance.onset, sounding, performance.pitch, performance.velocity)
    for onset, end, pitch, velocity in zip(*(column.tolist() for column in columns), strict=True):
        first = round(onset * audio_hz)
        sound = _synthesize_note(pitch, velocity, end - onset, audio_hz)[: len(dry) - first]
        dry[first : first + len(sound)] += sound[:, None] * _piano_key(pitch, audio_hz).pan
    wet = GAIN * _add_reflections(dry, audio_hz)
    rng = np.random.default_rng(zlib.crc32(performance.onset.tobytes()))
    wet += np.float32(NOISE_FLOOR) * rng.standard_normal(wet.shape, dtype=np.float32)
    return np.clip(wet, -1, 1)
