"""A piano made of sines: renders MIDI with inharmonic, beating, damped strings, a hammer, a pedal and a small room.

A decaying sine is a phasor, and a phasor at sample b * BLOCK + j is the product of one that depends on b and one that
depends on j. A note is therefore one matrix product over its partials, which is what makes this fast in numpy.
"""

import zlib
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from midi2wave.midi.performance import sounding_offset
from midi2wave.midi.reader import read_midi
from midi2wave.utils.errors import InputError

BLOCK = 1024  # samples that one matrix product synthesises from one row of phasors
LAST_DAMPED_PITCH = 89  # strings above have no dampers
INAUDIBLE = 1e-4  # -80 dB
GAIN = 0.25  # the default set peaks at about -3 dBFS; the same for every piece, so that velocity keeps its meaning
RELEASE_TAIL_SECONDS = 1.0  # from the last damper to the end of the audio
LONGEST_SECONDS = 3600
NOISE_FLOOR = 10 ** (-75 / 20)  # RMS, full scale is 1


class Key(NamedTuple):
    """What is fixed for a key of this piano; K partials with two modes each, a prompt and an after-sound."""

    partial_hz: np.ndarray  # [K]
    start: np.ndarray  # complex [2K], amplitude and phase of every mode at the hammer's blow, before its loudness
    rate: np.ndarray  # complex [2K], -decay + i angular frequency, 1/s
    block: np.ndarray  # float32 [4K, BLOCK], real and negated imaginary part of every mode over one block
    thump: np.ndarray  # float32, the hammer's knock
    release_seconds: float  # from the damper's touch to -60 dB
    pan: np.ndarray  # float32 [2]


@lru_cache(maxsize=128)
def _key(pitch: int, audio_hz: int) -> Key:
    """String, hammer and damper of one key, after Fletcher & Rossing, The Physics of Musical Instruments, ch. 12;
    two decay modes per partial, slightly out of tune, after Weinreich, Coupled piano strings (1977).
    """
    rng = np.random.default_rng(pitch)
    height = (pitch - 33) / 63  # 0 at A1, 1 at C7
    inharmonicity = 1.2e-4 * 40**height
    stretch_cents = 8 * ((pitch - 64) / 32) ** 3
    first_hz = 440 * 2 ** ((pitch - 69 + stretch_cents / 100) / 12)
    n = np.arange(1, 49)
    partial_hz = first_hz * n * np.sqrt((1 + inharmonicity * n**2) / (1 + inharmonicity))
    heard = partial_hz < min(0.45 * audio_hz, 10_000)
    n, partial_hz = n[heard], partial_hz[heard]
    strike = 0.15 + abs(np.sin(np.pi * n * 0.12))  # the hammer hits about an eighth of the string
    board = partial_hz**2 / (partial_hz**2 + 90**2)  # the soundboard radiates little below 90 Hz
    prompt = strike * board * n**-0.6 * np.exp(rng.normal(0, 0.25, len(n)))
    after = prompt * 0.25 * np.exp(rng.normal(0, 0.4, len(n)))
    decay = 0.5 * 10**height * n**0.55
    detune = 2 ** (rng.normal(0, 0.7, len(n)) / 1200)
    rate = np.concatenate((-decay, -0.25 * decay)) + 2j * np.pi * np.concatenate((partial_hz, partial_hz * detune))
    phase = np.exp(2j * np.pi * rng.random(len(n)))
    modes = np.exp(rate[:, None] * np.arange(BLOCK) / audio_hz)
    thump_time = np.arange(int(0.08 * audio_hz)) / audio_hz
    felt = np.hanning(max(3, int(0.0016 * audio_hz)))
    noise = np.convolve(rng.standard_normal(len(thump_time)), felt / np.sqrt(np.sum(felt**2)), "same")
    angle = np.pi / 4 + 0.5 * (height - 0.5)
    return Key(
        partial_hz,
        np.concatenate((prompt * phase, after * phase)),
        rate,
        np.concatenate((modes.real, -modes.imag)).astype(np.float32),
        (noise * np.exp(-thump_time / 0.012)).astype(np.float32),
        0.09 + 0.16 * (1 - min(height, 1)) ** 2,
        np.array([np.cos(angle), np.sin(angle)], np.float32),
    )


def _strike(pitch: int, velocity: int, held_seconds: float, audio_hz: int) -> np.ndarray:
    """One note as float32 [T]: the key struck at `velocity`, damped after `held_seconds`."""
    key, force = _key(pitch, audio_hz), velocity / 127
    brightness = np.exp(-key.partial_hz / ((350 + 1.2 * key.partial_hz[0]) * (0.5 + 2.2 * force)))
    loudness = np.tile(brightness, 2) * abs(key.start)
    start = key.start * np.tile(brightness, 2) * (force**1.6 / np.sqrt(np.sum(loudness**2)))
    audible = np.log(np.maximum(abs(start) / INAUDIBLE, 1)) / -key.rate.real
    damped = pitch <= LAST_DAMPED_PITCH
    seconds = min(audible.max(), held_seconds + key.release_seconds * 1.3 if damped else np.inf) + BLOCK / audio_hz
    n_blocks = int(np.ceil(seconds * audio_hz / BLOCK))
    blocks = start * np.exp(key.rate * (np.arange(n_blocks)[:, None] * (BLOCK / audio_hz)))  # [n_blocks, 2K]
    sound = (np.concatenate((blocks.real, blocks.imag), 1).astype(np.float32) @ key.block).reshape(-1)
    rise = int((0.001 + 0.003 * (1 - force)) * audio_hz)
    sound[:rise] *= np.linspace(0, 1, rise, dtype=np.float32)
    knock = key.thump[: len(sound)]
    sound[: len(knock)] += 0.03 * force**1.4 * knock
    if damped and held_seconds * audio_hz < len(sound):
        tail = sound[round(held_seconds * audio_hz) :]
        tail *= np.exp(np.arange(len(tail), dtype=np.float32) * (np.log(1e-3) / (key.release_seconds * audio_hz)))
    fade = min(len(sound), BLOCK)
    sound[-fade:] *= np.linspace(1, 0, fade, dtype=np.float32)
    return sound


def _room(dry: np.ndarray, audio_hz: int) -> np.ndarray:
    """Early reflections of a small room, other ones for each ear; `dry` and the result are float32 [T, 2]."""
    rng, wet = np.random.default_rng(0), dry.copy()
    for ear in (0, 1):
        for seconds in np.sort(rng.uniform(0.004, 0.045, 8)):
            delay, gain = int(seconds * audio_hz), np.float32(0.25 * np.exp(-seconds / 0.025) * rng.choice([-1, 1]))
            wet[delay:, ear] += gain * dry[: len(dry) - delay, rng.integers(2)]
    return wet


def render(midi_path: str | Path, audio_hz: int = 44100) -> np.ndarray:
    """Play a MIDI file; returns float32 [T, 2] within -1..1, the same samples every time.

    The sound ends a second after the last damper falls; chords louder than full scale are clipped. Raises InputError
    where the file cannot be read or lasts more than LONGEST_SECONDS.
    """
    performance = read_midi(midi_path)
    sounding = sounding_offset(performance)
    seconds = max(float(sounding.max()), float(performance.offset.max())) + RELEASE_TAIL_SECONDS
    if seconds > LONGEST_SECONDS:
        raise InputError(
            f"{midi_path} lasts {seconds:.0f} s; give one of at most {LONGEST_SECONDS} s, it is held in memory"
        )
    dry = np.zeros((round(seconds * audio_hz), 2), np.float32)
    columns = (performance.onset, sounding, performance.pitch, performance.velocity)
    for onset, end, pitch, velocity in zip(*(column.tolist() for column in columns), strict=True):
        first = round(onset * audio_hz)
        sound = _strike(pitch, velocity, end - onset, audio_hz)[: len(dry) - first]
        dry[first : first + len(sound)] += sound[:, None] * _key(pitch, audio_hz).pan
    wet = GAIN * _room(dry, audio_hz)
    noise = np.random.default_rng(zlib.crc32(performance.onset.tobytes()))
    wet += np.float32(NOISE_FLOOR) * noise.standard_normal(wet.shape, dtype=np.float32)
    return np.clip(wet, -1, 1)
