"""The excitation: a slow reference on random performances, and single notes."""

import itertools
import math

import numpy as np
import pytest

from midi2wave.conditioning.excitation import N_EXCITATION
from midi2wave.conditioning.note_conditioning import NoteConditioning, conditioning_for
from midi2wave.config import DataConfig
from midi2wave.midi.performance import Performance, sounding_offset
from tests.helpers.performances import (
    AUDIO_HZ,
    C4,
    FRAME,
    MIDI_HZ,
    dense_performance,
    note_conditioning,
    performance_of,
)

IN_QUADRATURE = DataConfig(audio_hz=AUDIO_HZ, midi_hz=MIDI_HZ, features=["onset"], excitation_quadrature=True)


def slow_excitation(piece: Performance, first: int, n: int, audio_hz: int = AUDIO_HZ) -> np.ndarray:
    """The sum of decaying sinusoids, note by note and partial by partial, over all samples in float64."""
    seconds = np.arange(first * audio_hz // MIDI_HZ, (first + n) * audio_hz // MIDI_HZ) / audio_hz
    out = np.zeros((N_EXCITATION, len(seconds)))
    groups = [(1,), (2,), (3,), (4, 5), (6, 7, 8), tuple(range(9, 17))]
    for onset, end, pitch, velocity in zip(
        piece.onset, sounding_offset(piece), piece.pitch, piece.velocity, strict=True
    ):
        age, stiffness = seconds - onset, 2e-4 * 2 ** (max(0, pitch - 48) / 10)
        envelope = np.exp(-np.maximum(0, seconds - end) / 0.04) * (age >= 0)
        for channel, k in ((channel, k) for channel, group in enumerate(groups) for k in group):
            hz = k * 440 * 2 ** ((pitch - 69) / 12) * math.sqrt(1 + stiffness * k * k)
            decay = (0.5 + 0.25 * (k - 1)) * 2 ** ((pitch - 60) / 24)
            level = (velocity / 127) ** 1.5 / math.sqrt(len(groups[channel]))
            if hz < 0.45 * audio_hz:
                out[channel] += level * np.exp(-decay * age * (age > 0)) * np.sin(2 * np.pi * hz * age) * envelope
    return out


@pytest.mark.parametrize("seed", range(2))
def test_excitation_equals_the_slow_reference(seed):
    piece = dense_performance(seed, n_notes=20)
    fast = note_conditioning(piece).excitation(-100, 700)
    assert fast.dtype == np.float32 and fast.shape == (N_EXCITATION, 700 * 64)
    # A damped note may be left out once it has fallen by exp(-10).
    np.testing.assert_allclose(fast, slow_excitation(piece, -100, 700), rtol=0, atol=20 * math.exp(-10))
    undamped = performance_of([(0.1234567, 9, 45, 100), (0.3, 9, C4, 30)])
    np.testing.assert_allclose(
        note_conditioning(undamped).excitation(0, 500), slow_excitation(undamped, 0, 500), atol=2e-5
    )


def test_quadrature_adds_the_cosine_of_every_partial():
    piece = dense_performance(3, n_notes=20)
    plain = note_conditioning(piece).excitation(-100, 700)
    both = NoteConditioning(piece, IN_QUADRATURE)
    in_quadrature = both.excitation(-100, 700)
    assert in_quadrature.shape == (2 * N_EXCITATION, 700 * 64) and np.array_equal(in_quadrature[:N_EXCITATION], plain)
    assert in_quadrature[:, 64 * 300 : 64 * 301].tobytes() == both.excitation(200, 1).tobytes()
    tone = NoteConditioning(performance_of([(0, 9, 69, 127)]), IN_QUADRATURE)
    sine, cosine = tone.excitation(0, 250)[[0, N_EXCITATION]]
    # sin^2 + cos^2: the envelope of the only partial of its channel, which falls smoothly from 1
    envelope = np.hypot(sine, cosine)
    decay = 0.5 * 2 ** ((69 - 60) / 24)
    np.testing.assert_allclose(envelope, np.exp(-decay * np.arange(len(envelope)) / AUDIO_HZ), atol=1e-4)


def test_excitation_starts_at_the_onset_with_phase_zero():
    onset = 0.1234567  # between two samples
    fundamental = note_conditioning(performance_of([(onset, 1, 69, 127)])).excitation(0, 100)[0]
    start = math.ceil(onset * AUDIO_HZ)
    assert not fundamental[:start].any()
    expected = np.sin(2 * np.pi * 440.4 * (np.arange(start, start + 8) / AUDIO_HZ - onset))
    np.testing.assert_allclose(fundamental[start : start + 8], expected, atol=1e-3)


@pytest.mark.parametrize("pitch", [33, 57, 69, 93])
def test_excitation_has_the_frequency_of_the_key(pitch):
    sound = note_conditioning(performance_of([(0, 9, pitch, 100)])).excitation(0, 4 * MIDI_HZ)[:3]
    spectrum = np.abs(np.fft.rfft(sound * np.hanning(sound.shape[1])))
    peaks = spectrum.argmax(axis=1) * AUDIO_HZ / sound.shape[1]
    keys = 440 * 2 ** ((pitch - 69) / 12) * np.arange(1, 4)
    # Stiffness raises the third partial of the highest of these keys by 2 %, the fundamentals by less than 0.3 %.
    assert np.all(peaks >= keys - 0.25) and peaks[0] < 1.003 * keys[0] + 0.25 and np.all(peaks < 1.021 * keys + 0.25)


def test_damper_stops_the_excitation():
    sound = note_conditioning(performance_of([(0, 0.5, 69, 127)])).excitation(0, 300)
    free = note_conditioning(performance_of([(0, 9, 69, 127)])).excitation(0, 300)
    damped, decayed = int(0.5 * AUDIO_HZ), int(0.58 * AUDIO_HZ)
    assert np.array_equal(sound[:, : damped + 1], free[:, : damped + 1])
    np.testing.assert_allclose(sound[:, decayed], free[:, decayed] * math.exp(-2), rtol=1e-4)
    assert not sound[:, int((0.5 + 0.4 + FRAME) * AUDIO_HZ) :].any()
    silent = performance_of([(0, 99, 69, 127)])
    assert not note_conditioning(silent).excitation(21 * MIDI_HZ, 10).any()


def test_partials_above_the_band_limit_are_silent():
    highest = performance_of([(0, 1, 108, 127)])  # 4186 Hz and up
    sound = note_conditioning(highest).excitation(0, 50)
    assert sound[0].any() and not sound[1:].any()
    assert not note_conditioning(highest, audio_hz=8000).excitation(0, 50).any()
    assert note_conditioning(highest, audio_hz=48000).excitation(0, 50)[:3].any(axis=1).all()


def test_velocity_raises_the_excitation():
    levels = [note_conditioning(performance_of([(0, 1, C4, v)])).excitation(0, 50) for v in (20, 40, 80)]
    for soft, loud in itertools.pairwise(levels):
        np.testing.assert_allclose(loud, soft * 2**1.5, rtol=1e-5, atol=1e-6)


def test_a_chord_is_the_sum_of_its_notes():
    first, second = (0.0, 0.2, C4, 90), (0.1, 0.3, 64, 60)
    apart = [note_conditioning(performance_of([note])).excitation(0, 120) for note in (first, second)]
    np.testing.assert_allclose(
        note_conditioning(performance_of([first, second])).excitation(0, 120), sum(apart), atol=1e-6
    )


def test_held_note_is_left_out_only_when_inaudible():
    for pitch in (21, 48, 84):
        sound = note_conditioning(performance_of([(0, 300, pitch, 127)])).excitation(0, 250 * 90)
        audible = np.flatnonzero(np.abs(sound).max(axis=0))
        assert np.abs(sound[:, audible[-1] - 64 :]).max() < 1.5e-3 < np.abs(sound[:, : audible[-1] // 2]).max()


@pytest.mark.parametrize(
    ("options", "n_channels"), [({"excitation": False}, 0), ({}, 6), ({"excitation_quadrature": True}, 12)]
)
@pytest.mark.parametrize("piece", [performance_of([(0, 1, C4)]), None])
def test_number_of_excitation_channels(options, n_channels, piece):
    for dropout in (0.0, 0.1):
        config = DataConfig(audio_hz=AUDIO_HZ, midi_hz=MIDI_HZ, conditioning_dropout=dropout, **options)
        excitation = conditioning_for(piece, config).excitation(-2, 5)
        assert excitation.shape == (n_channels, 5 * 64) and excitation.dtype == np.float32
