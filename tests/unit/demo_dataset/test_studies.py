"""Studies: playable, a function of their seed, and as varied in pitch, velocity, density and pedal as they claim."""

import numpy as np
import pytest

from midi2wave.demo_dataset import studies, textures
from midi2wave.demo_dataset.studies import KINDS, MAX_TOTAL_POWER, MIN_REPETITION_SECONDS, single_notes, study
from midi2wave.demo_dataset.textures import Frame
from midi2wave.midi.keyboard import MAX_PITCH, MIN_PITCH
from midi2wave.midi.performance import SUSTAIN, Performance, sounding_offset
from midi2wave.utils.errors import InputError

RUNS = (textures.scale_run, textures.arpeggio, textures.broken_chord)
TEXTURES = sorted({layer.texture for kind in KINDS for layer in kind.layers}, key=lambda texture: texture.__name__)


@pytest.fixture(scope="module")
def many() -> list[Performance]:
    """Half an hour of studies."""
    return [study(seed, 120.0) for seed in range(15)]


def assert_playable(performance: Performance, seconds: float) -> None:
    assert performance.pitch.min() >= MIN_PITCH and performance.pitch.max() <= MAX_PITCH
    assert performance.velocity.min() >= studies.MIN_VELOCITY and performance.velocity.max() <= 127
    assert performance.onset.min() >= 0 and performance.offset.max() <= seconds + 0.2
    for pitch in np.unique(performance.pitch):
        is_key = performance.pitch == pitch
        onset, offset = performance.onset[is_key], performance.offset[is_key]
        assert np.all(offset - onset >= 0.029)  # Released at all, and before the key is struck again.
        assert np.all(onset[1:] - offset[:-1] >= 0.0049)
        assert np.all(np.diff(onset) >= MIN_REPETITION_SECONDS)
    events = performance.pedals[SUSTAIN]
    assert np.all((events[:, 1] >= 0) & (events[:, 1] <= 127)) and np.all(events[:, 1] == np.rint(events[:, 1]))
    assert not len(events) or (events[-1, 1] == 0 and events[-1, 0] <= seconds)


@pytest.mark.parametrize("make", [study, single_notes])
@pytest.mark.parametrize("seconds", [5.0, 5.3, 40.0])
def test_a_keyboard_can_play_it(make, seconds: float) -> None:
    for seed in range(20):
        assert_playable(make(seed, seconds), seconds)


@pytest.mark.parametrize("make", [study, single_notes])
def test_the_seed_decides(make) -> None:
    one, again, other = (make(seed, 20.0) for seed in (3, 3, 4))
    for name in ("onset", "offset", "pitch", "velocity"):
        np.testing.assert_array_equal(getattr(one, name), getattr(again, name))
    np.testing.assert_array_equal(one.pedals[SUSTAIN], again.pedals[SUSTAIN])
    assert not np.array_equal(one.onset[:10], other.onset[:10])


def test_studies_reach_all_keys_velocities_and_densities(many: list[Performance]) -> None:
    pitch, velocity, pressed = (
        np.concatenate(values)
        for values in (
            [p.pitch for p in many],
            [p.velocity for p in many],
            [p.offset - p.onset for p in many],
        )
    )
    assert set(pitch.tolist()) == set(range(MIN_PITCH, MAX_PITCH + 1))
    assert len(np.unique(velocity)) > 115 and 50 < np.median(velocity) < 75
    assert np.mean(pressed < 0.06) > 0.1 and np.mean(pressed > 1.0) > 0.01
    per_second = np.concatenate([np.histogram(p.onset, np.arange(0, 120))[0] for p in many])
    assert np.mean(per_second == 0) > 0.03 and np.mean(per_second <= 2) > 0.08
    assert np.mean(per_second >= 20) > 0.1
    grid = np.arange(0, 120, 0.1)
    sounding = [
        np.searchsorted(p.onset, grid) - np.searchsorted(np.sort(np.minimum(sounding_offset(p), 120)), grid)
        for p in many
    ]
    assert np.quantile(sounding, 0.9) >= 10 and np.mean(np.array(sounding) == 0) > 0.03


def test_no_passage_is_louder_than_a_pianist(many: list[Performance]) -> None:
    loudest = [studies.total_power(performance).max() for performance in many]
    # What still sounds of the passage before is not limited.
    assert 0.9 * MAX_TOTAL_POWER < max(loudest) < 1.05 * MAX_TOTAL_POWER
    assert max(int(performance.velocity.max()) for performance in many) > 120


def test_total_power_is_of_the_notes_that_sound() -> None:
    notes = np.array([(0.0, 1.0, 76, 127), (0.0, 3.0, 80, 127), (2.0, 3.0, 45, 127), (2.0, 3.0, 100, 64)])
    decays = [studies.DECAY_OF_C3 * 2 ** ((pitch - 48) / studies.DECAY_DOUBLING_SEMITONES) for pitch in (76, 80)]
    started = 1 + (64 / 127) ** 4
    damped = np.exp(-2 * (2 * decays[0] + 1 * studies.DAMPED_DECAY)) + np.exp(-2 * 2 * decays[1]) + started
    np.testing.assert_allclose(studies.total_power(studies._with_pedal(notes, [])), [2, 2, damped, damped])
    pedalled = np.exp(-2 * 2 * decays[0]) + np.exp(-2 * 2 * decays[1]) + started
    pedal = [(0.5, 127.0), (2.5, 0.0)]
    np.testing.assert_allclose(studies.total_power(studies._with_pedal(notes, pedal)), [2, 2, pedalled, pedalled])


def test_the_pedal_is_up_down_and_between(many: list[Performance]) -> None:
    for performance in many:
        events = performance.pedals[SUSTAIN]
        share = np.sum(np.diff(events[:, 0], append=120.0)[events[:, 1] >= 64]) / 120
        assert 0.2 < share < 0.9
    values = np.concatenate([p.pedals[SUSTAIN][:, 1] for p in many])
    assert set(values.tolist()) == set(range(128))


def test_pedal_uses_differ() -> None:
    rng = np.random.default_rng(0)
    harmonies = studies._harmonies(rng, 8.0)
    pedals = {use: np.array(studies._pedal(rng, use, 8.0, harmonies)) for use in studies.PEDAL_USES if use != "none"}
    assert studies._pedal(rng, "none", 8.0, harmonies) == []
    starts = {use: events[np.flatnonzero(events[:, 1] >= 64)[0], 0] for use, events in pedals.items()}
    assert starts["late"] > 0.25  # After the notes of the beginning.
    for events in pedals.values():
        assert np.all(np.diff(events[:, 0]) >= 0) and events[-1, 1] == 0 and events[-1, 0] <= 8.0
    turns = {use: int(np.sum(np.diff(events[:, 1] == 0) > 0)) for use, events in pedals.items()}
    assert turns["harmony"] > turns["long"]


@pytest.mark.parametrize("texture", TEXTURES, ids=lambda texture: texture.__name__)
def test_a_texture_stays_in_its_range_and_time(texture) -> None:
    rng = np.random.default_rng(1)
    frame = Frame(6.0, 4.0, 50, 80, studies._harmonies(rng, 6.0))
    for _ in range(10):
        notes = texture(rng, frame)
        onsets = np.array([note.onset for note in notes])
        # Doublings in tenths or octaves lie above the range, and the upper tone of a trill may.
        assert all(50 - 12 <= note.pitch <= 80 + 17 for note in notes)
        assert onsets.min() >= 0 and onsets.max() < 6.6
        assert all(note.seconds > 0 for note in notes)
        if texture in RUNS:
            assert 24 <= len(notes) <= 48 and np.median(np.diff(np.unique(np.round(onsets, 1)))) < 0.4


def test_chords_spread_over_a_few_milliseconds() -> None:
    frame = Frame(8.0, 1.0, 40, 80, studies._harmonies(np.random.default_rng(2), 8.0))
    spreads = []
    for seed in range(60):
        onsets = np.sort([note.onset for note in textures.chords(np.random.default_rng(seed), frame)])
        spreads += [np.ptp(chord) for chord in np.split(onsets, np.flatnonzero(np.diff(onsets) > 0.12) + 1)]
    assert 0.003 < np.median(spreads) < 0.06 and np.max(spreads) > 0.1  # The longest ones are rolled.


def test_single_notes_are_of_every_key_and_alone() -> None:
    performance = single_notes(0, 200.0)
    assert set(performance.pitch.tolist()) == set(range(MIN_PITCH, MAX_PITCH + 1))
    assert np.all(sounding_offset(performance)[:-1] < performance.onset[1:])
    assert np.median(sounding_offset(performance) - performance.onset) > 0.6
    assert performance.velocity.min() < 20 and performance.velocity.max() > 115


@pytest.mark.parametrize("make", [study, single_notes])
def test_a_study_that_is_too_short_is_refused(make) -> None:
    with pytest.raises(InputError, match="too short; ask for 5 s or more"):
        make(0, 4.9)
