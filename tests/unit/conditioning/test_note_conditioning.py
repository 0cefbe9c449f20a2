"""Features and excitation: hand-made cases, slow references on random performances, and crops of the whole."""

import itertools
import math

import numpy as np
import pytest

from midi2wave.conditioning.excitation import N_EXCITATION
from midi2wave.conditioning.features import NULL_FEATURE, feature_names, n_features
from midi2wave.conditioning.note_conditioning import NoteConditioning, conditioning_for
from midi2wave.config import FEATURE_PRESETS, DataConfig
from midi2wave.midi.performance import (
    CLIP_MARGIN_SECONDS,
    MIN_PITCH,
    N_PITCHES,
    SOFT,
    SOSTENUTO,
    SUSTAIN,
    Performance,
    clip,
    sounding_offset,
)

AUDIO_HZ, MIDI_HZ = 16000, 250
FRAME = 1 / MIDI_HZ
C4 = 60
IN_QUADRATURE = DataConfig(audio_hz=AUDIO_HZ, midi_hz=MIDI_HZ, features=["onset"], excitation_quadrature=True)
KEYS = ("onset", "held_velocity", "onset_age", "release_age")


def performance(notes, pedals=None) -> Performance:
    """From (onset, offset, pitch, velocity) and controller -> (seconds, value)."""
    notes = sorted(notes, key=lambda note: (note[0], note[2]))
    onset, offset, pitch, velocity = (np.array(column) for column in zip(*notes, strict=True))
    return Performance(
        onset=onset.astype(np.float64),
        offset=offset.astype(np.float64),
        pitch=pitch.astype(np.int64),
        velocity=velocity.astype(np.int64),
        pedals={c: np.array((pedals or {}).get(c, []), dtype=np.float64).reshape(-1, 2) for c in (64, 66, 67)},
    )


def random_performance(seed: int, n_notes: int = 60, n_keys: int = 6, seconds: float = 1.5) -> Performance:
    """A crowd on few keys: re-strikes, duplicates within a frame, times on frame edges and before 0, all pedals."""
    rng = np.random.default_rng(seed)
    onset = rng.uniform(-0.3, seconds, n_notes)
    onset[::3] = np.round(onset[::3] * MIDI_HZ) / MIDI_HZ
    onset[1::6] = onset[0::6] + 0.3 * FRAME
    pitch = rng.choice([21, 48, 60, 64, 90, 108][:n_keys], n_notes)
    pitch[1::6] = pitch[0::6]
    offset = onset + rng.choice([0.0, 0.001, 0.05, 0.4], n_notes)
    pedals = {
        controller: np.column_stack([np.sort(rng.uniform(-0.3, seconds, 12)), rng.integers(0, 128, 12)])
        for controller in (SUSTAIN, SOSTENUTO, SOFT)
    }
    return performance(zip(onset, offset, pitch, rng.integers(1, 128, n_notes), strict=True), pedals)


def conditioning(piece: Performance, *names: str, audio_hz: int = AUDIO_HZ, midi_hz: int = MIDI_HZ):
    return NoteConditioning(
        piece, DataConfig(features=list(names) or ["note_state"], audio_hz=audio_hz, midi_hz=midi_hz)
    )


def row(piece: Performance, name: str, n: int, pitch: int = C4, first: int = 0) -> np.ndarray:
    """One feature of one key: [n]; every other key must be silent."""
    rows = conditioning(piece, name).features(first, n)
    assert rows.shape == (N_PITCHES, n) and rows.dtype == np.float32
    assert not np.delete(rows, pitch - MIN_PITCH, axis=0).any()
    return rows[pitch - MIN_PITCH]


def test_presets_and_their_sizes():
    assert feature_names(["note_state"]) == ("onset", "held_velocity", "onset_age", "release_age", "pedals")
    assert feature_names(["pedals", "paper_v5", "onset"]) == ("pedals", "onset")
    assert n_features(["note_state"]) == 4 * 88 + 3
    assert n_features(["paper_v1"]) == n_features(["paper_v5"]) == 88
    piece = random_performance(0)
    for preset, names in FEATURE_PRESETS.items():
        both = [conditioning(piece, *chosen).features(-5, 300) for chosen in ([preset], names)]
        assert both[0].tobytes() == both[1].tobytes() and both[0].shape == (n_features([preset]), 300)
    onsets = conditioning(piece, "paper_v5").features(-100, 600)
    held = conditioning(piece, "paper_v1").features(-100, 600)
    assert np.array_equal(held[onsets > 0], onsets[onsets > 0]) and (held > 0).sum() > (onsets > 0).sum()


def test_rows_stand_in_the_order_of_the_names():
    piece = performance([(0.0, 0.1, C4, 127)], {SUSTAIN: [(0.0, 127)]})
    rows = conditioning(piece, "pedals", "onset").features(0, 2)
    assert np.flatnonzero(rows[:, 0]).tolist() == [0, 3 + C4 - MIN_PITCH]


def test_a_note_from_its_onset_to_its_end():
    piece = performance([(0.008, 0.020, C4, 64)])  # frames 2, 3, 4
    velocity = np.float32(64 / 127)
    assert row(piece, "onset", 8).tolist() == [0, 0, velocity, 0, 0, 0, 0, 0]
    assert row(piece, "held_velocity", 8).tolist() == [0, 0, velocity, velocity, velocity, 0, 0, 0]
    np.testing.assert_allclose(row(piece, "onset_age", 200)[2:], np.exp(-np.arange(198) * FRAME / 0.5), rtol=1e-6)
    np.testing.assert_allclose(row(piece, "release_age", 200)[5:], np.exp(-np.arange(195) * FRAME / 0.1), rtol=1e-6)
    assert not row(piece, "onset_age", 2).any() and not row(piece, "release_age", 5).any()


def test_the_pedal_holds_a_note_until_it_comes_up():
    piece = performance([(0.0, 0.004, C4, 127)], {SUSTAIN: [(0.002, 100), (0.024, 63)]})
    assert row(piece, "held_velocity", 10).tolist() == [1] * 6 + [0] * 4
    assert np.flatnonzero(row(piece, "release_age", 10))[0] == 6
    assert row(piece, "onset", 10).tolist() == [1] + [0] * 9
    for_ever = performance([(0.0, 0.004, C4, 127)], {SUSTAIN: [(0.002, 100)]})
    assert row(for_ever, "held_velocity", 3, first=1_000_000).tolist() == [1, 1, 1]


def test_a_restrike_starts_a_state_anew():
    piece = performance([(0.0, 0.008, C4, 127), (0.016, 0.024, C4, 64)])  # frames 0, 1 and 4, 5
    low = np.float32(64 / 127)
    assert row(piece, "held_velocity", 8).tolist() == [1, 1, 0, 0, low, low, 0, 0]
    assert row(piece, "onset_age", 8)[4] == 1
    assert (row(piece, "release_age", 8) > 0).tolist() == [False, False, True, True, False, False, True, True]
    assert row(piece, "release_age", 8)[6] == 1


def test_a_restrike_under_the_pedal_goes_on_with_its_own_velocity():
    piece = performance([(0.0, 0.004, C4, 127), (0.016, 0.020, C4, 64)], {SUSTAIN: [(0.0, 127), (0.028, 0)]})
    low = np.float32(64 / 127)
    assert row(piece, "held_velocity", 8).tolist() == [1, 1, 1, 1, low, low, low, 0]
    assert np.flatnonzero(row(piece, "release_age", 8)).tolist() == [7]


@pytest.mark.parametrize("velocities", [(100, 50), (50, 100)])
def test_of_two_strokes_in_one_frame_the_louder_counts_and_then_the_last(velocities):
    piece = performance([(0.0041, 0.005, C4, velocities[0]), (0.0055, 0.02, C4, velocities[1])])
    loud, last = np.float32(100 / 127), np.float32(velocities[1] / 127)
    assert row(piece, "onset", 6).tolist() == [0, loud, 0, 0, 0, 0]
    assert row(piece, "held_velocity", 6).tolist() == [0, loud, last, last, last, 0]
    assert np.flatnonzero(row(piece, "release_age", 6)).tolist() == [5]
    assert row(piece, "onset", 1, first=1).tolist() == [loud]  # also where the crop begins at them


def test_a_note_shorter_than_a_frame_sounds_in_the_frame_of_its_onset():
    piece = performance([(0.009, 0.0095, C4, 127)])
    assert row(piece, "held_velocity", 5).tolist() == [0, 0, 1, 0, 0]
    assert np.flatnonzero(row(piece, "release_age", 5)).tolist() == [3, 4]


def test_a_note_from_before_the_start_is_held_but_not_struck():
    piece = performance([(-0.01, 0.008, C4, 127)])
    assert not row(piece, "onset", 5).any()
    assert row(piece, "held_velocity", 5).tolist() == [1, 1, 0, 0, 0]
    assert row(piece, "onset", 5, first=-5).tolist() == [0, 0, 1, 0, 0]  # frame -3 covers -12 to -8 ms
    assert row(piece, "onset_age", 1)[0] == pytest.approx(math.exp(-3 * FRAME / 0.5), rel=1e-6)


def test_an_onset_on_a_frame_edge_belongs_to_the_frame_it_opens():
    frames = np.arange(0, 20_000, 7)
    for times in (frames / MIDI_HZ, frames * FRAME, np.cumsum(np.full(len(frames), 7 * FRAME)) - 7 * FRAME):
        piece = performance([(t, t, C4, 127) for t in times])
        assert np.flatnonzero(row(piece, "onset", 20_000)).tolist() == frames.tolist()


def test_pedal_rows_hold_the_last_value():
    pedals = {SUSTAIN: [(-0.1, 127), (0.0081, 0)], SOSTENUTO: [(0.004, 64)], SOFT: []}
    rows = conditioning(performance([(0, 1, C4, 1)], pedals), "pedals").features(0, 4)
    assert rows.tolist() == [[1, 1, 0, 0], [0, *[np.float32(64 / 127)] * 3], [0, 0, 0, 0]]
    assert rows.dtype == np.float32
    before = conditioning(performance([(0, 1, C4, 1)], pedals), "pedals").features(-50, 50)
    assert before[0].tolist() == [0] * 25 + [1] * 25 and not before[1:].any()


def test_long_pieces_raise_no_warning_of_overflow():
    piece = performance([(100.0, 100.1, C4, 127)])
    assert np.flatnonzero(row(piece, "release_age", 25_100))[0] == 25_025


def slow_features(piece: Performance, first: int, n: int) -> np.ndarray:
    """All of note_state, frame by frame and key by key, from what the features are said to mean."""

    def frame_of(seconds: float) -> int:
        return math.floor((seconds + 1e-6) * MIDI_HZ)

    rows = np.zeros((4, N_PITCHES, n))
    ends = sounding_offset(piece)
    strokes = {key: [] for key in range(N_PITCHES)}
    for onset, end, pitch, velocity in zip(piece.onset, ends, piece.pitch, piece.velocity, strict=True):
        begin = frame_of(onset)
        until = max(begin + 1, frame_of(end)) if math.isfinite(end) else math.inf
        strokes[pitch - MIN_PITCH].append((begin, until, velocity / 127))
    for key, column in ((key, column) for key in strokes for column in range(n)):
        frame = first + column
        struck = [velocity for begin, _, velocity in strokes[key] if begin == frame]
        past = [stroke for stroke in strokes[key] if stroke[0] <= frame]
        if not past:
            continue
        begin, until, velocity = past[-1]
        rows[0, key, column] = max(struck, default=0)
        rows[1, key, column] = max(struck) if struck else velocity * (frame < until)
        rows[2, key, column] = math.exp(-(frame - begin) / MIDI_HZ / 0.5)
        rows[3, key, column] = math.exp(-(frame - until) / MIDI_HZ / 0.1) if frame >= until else 0
    pedals = np.zeros((3, n))
    for line, controller in zip(pedals, (64, 66, 67), strict=True):
        for seconds, value in piece.pedals[controller]:
            line[max(0, frame_of(seconds) - first) :] = value / 127
    return np.concatenate([*rows, pedals])


@pytest.mark.parametrize("seed", range(4))
def test_features_equal_the_slow_reference(seed):
    piece = random_performance(seed)
    fast, slow = conditioning(piece).features(-100, 550), slow_features(piece, -100, 550)
    assert fast.shape == slow.shape == (n_features(["note_state"]), 550)
    np.testing.assert_allclose(fast, slow, rtol=1e-6, atol=1e-30)
    assert fast.min() >= 0 and fast.max() <= 1


@pytest.mark.parametrize("seed", range(3))
def test_every_crop_equals_the_same_stretch_of_the_whole_bit_for_bit(seed):
    notes, rng = conditioning(random_performance(seed)), np.random.default_rng(seed)
    first, n = -150, 800  # from before the first event to after the last one
    features, excitation = notes.features(first, n), notes.excitation(first, n)
    assert features[:, :50].max() == excitation[:, : 50 * notes.hop].max() == 0 and np.abs(excitation).max() > 0.1
    for begin, length in [(0, n), (0, 1), (n - 1, 1), *rng.integers((0, 1), (700, 100), (40, 2))]:
        crop = slice(begin, begin + length)
        assert notes.features(first + begin, length).tobytes() == features[:, crop].tobytes()
        in_samples = slice(begin * notes.hop, (begin + length) * notes.hop)
        assert notes.excitation(first + begin, length).tobytes() == excitation[:, in_samples].tobytes()


def test_single_frames_make_up_the_whole():
    notes = conditioning(random_performance(9))
    whole, excitation = notes.features(-20, 300), notes.excitation(-20, 300)
    assert np.concatenate([notes.features(f, 1) for f in range(-20, 280)], axis=1).tobytes() == whole.tobytes()
    assert np.concatenate([notes.excitation(f, 1) for f in range(-20, 280)], axis=1).tobytes() == excitation.tobytes()


def slow_excitation(piece: Performance, first: int, n: int, audio_hz: int = AUDIO_HZ) -> np.ndarray:
    """The sum of decaying sinusoids, note by note and partial by partial, over all samples in float64."""
    seconds = np.arange(first * audio_hz // MIDI_HZ, (first + n) * audio_hz // MIDI_HZ) / audio_hz
    out = np.zeros((N_EXCITATION, len(seconds)))
    groups = [(1,), (2,), (3,), (4, 5), (6, 7, 8), tuple(range(9, 17))]
    for onset, end, pitch, velocity in zip(
        piece.onset, sounding_offset(piece), piece.pitch, piece.velocity, strict=True
    ):
        age, stiffness = seconds - onset, 2e-4 * 2 ** (max(0, pitch - 48) / 10)
        damper = np.exp(-np.maximum(0, seconds - end) / 0.04) * (age >= 0)
        for channel, k in ((channel, k) for channel, group in enumerate(groups) for k in group):
            hz = k * 440 * 2 ** ((pitch - 69) / 12) * math.sqrt(1 + stiffness * k * k)
            decay = (0.5 + 0.25 * (k - 1)) * 2 ** ((pitch - 60) / 24)
            level = (velocity / 127) ** 1.5 / math.sqrt(len(groups[channel]))
            if hz < 0.45 * audio_hz:
                out[channel] += level * np.exp(-decay * age * (age > 0)) * np.sin(2 * np.pi * hz * age) * damper
    return out


@pytest.mark.parametrize("seed", range(2))
def test_excitation_equals_the_slow_reference(seed):
    piece = random_performance(seed, n_notes=20)
    fast = conditioning(piece).excitation(-100, 700)
    assert fast.dtype == np.float32 and fast.shape == (N_EXCITATION, 700 * 64)
    # A damped note may be left out once it has fallen by exp(-10).
    np.testing.assert_allclose(fast, slow_excitation(piece, -100, 700), rtol=0, atol=20 * math.exp(-10))
    held = performance([(0.1234567, 9, 45, 100), (0.3, 9, C4, 30)])
    np.testing.assert_allclose(conditioning(held).excitation(0, 500), slow_excitation(held, 0, 500), atol=2e-5)


def test_quadrature_adds_the_cosine_of_every_partial():
    piece = random_performance(3, n_notes=20)
    plain = conditioning(piece).excitation(-100, 700)
    both = NoteConditioning(piece, IN_QUADRATURE)
    given = both.excitation(-100, 700)
    assert given.shape == (2 * N_EXCITATION, 700 * 64) and np.array_equal(given[:N_EXCITATION], plain)
    assert given[:, 64 * 300 : 64 * 301].tobytes() == both.excitation(200, 1).tobytes()
    tone = NoteConditioning(performance([(0, 9, 69, 127)]), IN_QUADRATURE)
    sine, cosine = tone.excitation(0, 250)[[0, N_EXCITATION]]
    # sin^2 + cos^2: the envelope of the only partial of its channel, which falls smoothly from 1
    envelope = np.hypot(sine, cosine)
    decay = 0.5 * 2 ** ((69 - 60) / 24)
    np.testing.assert_allclose(envelope, np.exp(-decay * np.arange(len(envelope)) / AUDIO_HZ), atol=1e-4)


def test_the_null_condition_is_not_silence_where_it_is_trained():
    silence = conditioning_for(None, DataConfig())
    null = conditioning_for(None, DataConfig(conditioning_dropout=0.1))
    assert not silence.features(0, 5).any() and not silence.excitation(0, 5).any()
    assert null.features(-3, 5).shape == silence.features(-3, 5).shape and (null.features(-3, 5) == NULL_FEATURE).all()
    assert null.excitation(-3, 5).shape == (N_EXCITATION, 5 * 64) and not null.excitation(-3, 5).any()


def test_excitation_starts_at_the_onset_with_phase_zero():
    onset = 0.1234567  # between two samples
    fundamental = conditioning(performance([(onset, 1, 69, 127)])).excitation(0, 100)[0]
    start = math.ceil(onset * AUDIO_HZ)
    assert not fundamental[:start].any()
    expected = np.sin(2 * np.pi * 440.4 * (np.arange(start, start + 8) / AUDIO_HZ - onset))
    np.testing.assert_allclose(fundamental[start : start + 8], expected, atol=1e-3)


@pytest.mark.parametrize("pitch", [33, 57, 69, 93])
def test_excitation_has_the_frequency_of_the_key(pitch):
    sound = conditioning(performance([(0, 9, pitch, 100)])).excitation(0, 4 * MIDI_HZ)[:3]
    spectrum = np.abs(np.fft.rfft(sound * np.hanning(sound.shape[1])))
    peaks = spectrum.argmax(axis=1) * AUDIO_HZ / sound.shape[1]
    keys = 440 * 2 ** ((pitch - 69) / 12) * np.arange(1, 4)
    # Stiffness raises the third partial of the highest of these keys by 2 %, the fundamentals by less than 0.3 %.
    assert np.all(peaks >= keys - 0.25) and peaks[0] < 1.003 * keys[0] + 0.25 and np.all(peaks < 1.021 * keys + 0.25)


def test_the_damper_stops_the_excitation():
    sound = conditioning(performance([(0, 0.5, 69, 127)])).excitation(0, 300)
    free = conditioning(performance([(0, 9, 69, 127)])).excitation(0, 300)
    held, fallen = int(0.5 * AUDIO_HZ), int(0.58 * AUDIO_HZ)
    assert np.array_equal(sound[:, : held + 1], free[:, : held + 1])
    np.testing.assert_allclose(sound[:, fallen], free[:, fallen] * math.exp(-2), rtol=1e-4)
    assert not sound[:, int((0.5 + 0.4 + FRAME) * AUDIO_HZ) :].any()
    silent = performance([(0, 99, 69, 127)])
    assert not conditioning(silent).excitation(21 * MIDI_HZ, 10).any()


def test_partials_above_the_band_are_silent():
    highest = performance([(0, 1, 108, 127)])  # 4186 Hz and up
    sound = conditioning(highest).excitation(0, 50)
    assert sound[0].any() and not sound[1:].any()
    assert not conditioning(highest, audio_hz=8000).excitation(0, 50).any()
    assert conditioning(highest, audio_hz=48000).excitation(0, 50)[:3].any(axis=1).all()


def test_velocity_raises_the_excitation():
    levels = [conditioning(performance([(0, 1, C4, v)])).excitation(0, 50) for v in (20, 40, 80)]
    for soft, loud in itertools.pairwise(levels):
        np.testing.assert_allclose(loud, soft * 2**1.5, rtol=1e-5, atol=1e-6)


def test_a_chord_is_the_sum_of_its_notes():
    first, second = (0.0, 0.2, C4, 90), (0.1, 0.3, 64, 60)
    apart = [conditioning(performance([note])).excitation(0, 120) for note in (first, second)]
    np.testing.assert_allclose(conditioning(performance([first, second])).excitation(0, 120), sum(apart), atol=1e-6)


def test_a_clip_with_its_margin_gives_the_conditioning_of_the_whole():
    rng = np.random.default_rng(3)
    notes = [(t, t + rng.uniform(0.05, 3), int(rng.integers(21, 109)), 80) for t in np.arange(0, 60, 0.15)]
    whole = performance(notes)
    part = clip(whole, 30.0, 34.0, CLIP_MARGIN_SECONDS)
    for name in ("features", "excitation"):
        expected = getattr(conditioning(whole), name)(30 * 250 - 100, 1200)
        np.testing.assert_allclose(getattr(conditioning(part), name)(-100, 1200), expected, rtol=0, atol=1e-5)


def test_a_held_note_is_left_out_only_when_it_cannot_be_heard():
    for pitch in (21, 48, 84):
        sound = conditioning(performance([(0, 300, pitch, 127)])).excitation(0, 250 * 90)
        heard = np.flatnonzero(np.abs(sound).max(axis=0))
        assert np.abs(sound[:, heard[-1] - 64 :]).max() < 1.5e-3 < np.abs(sound[:, : heard[-1] // 2]).max()
