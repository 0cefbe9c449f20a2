"""Performances as pretty_midi objects and back: nothing of a piano is lost, and times move less than 0.1 ms."""

import io

import numpy as np
import pretty_midi
import pytest

from midi2wave.midi.performance import PEDALS, SOFT, SOSTENUTO, SUSTAIN, TICKS_PER_SECOND, Performance
from midi2wave.midi.reader import read_midi
from midi2wave.utils.errors import InputError
from tests.helpers.paths import SHARED
from tests.helpers.performances import performance_of

MAX_SHIFT_SECONDS = 1e-4
ARRAYS = ("onset", "offset", "pitch", "velocity")


def random_performance(seed: int, n_notes: int = 400) -> Performance:
    """Notes at arbitrary times, at most one of a key at a time, and all pedals."""
    rng = np.random.default_rng(seed)
    notes = []
    for pitch in rng.choice(np.arange(21, 109), 30, replace=False):
        edges = np.sort(rng.uniform(0, 60, 2 * n_notes // 30))
        notes += [(start, end, pitch, rng.integers(1, 128)) for start, end in zip(edges[::2], edges[1::2], strict=True)]
    pedals = {c: np.column_stack([np.sort(rng.uniform(0, 60, 90)), rng.integers(0, 128, 90)]) for c in PEDALS}
    return performance_of(notes, pedals)


def written_and_read(performance: Performance, **options: int) -> Performance:
    """The performance by way of a MIDI file."""
    file = io.BytesIO()
    performance.to_pretty_midi(**options).write(file)
    return read_midi(io.BytesIO(file.getvalue()))


def assert_equal(one: Performance, other: Performance, seconds: float) -> None:
    """Equal, key by key, but for times that differ by at most so many seconds."""
    orders = [np.lexsort((piece.onset, piece.pitch)) for piece in (one, other)]
    for name in ARRAYS:
        values = [getattr(piece, name)[order] for piece, order in zip((one, other), orders, strict=True)]
        np.testing.assert_allclose(*values, rtol=0, atol=seconds, err_msg=name)
    for pedal in PEDALS:
        np.testing.assert_allclose(one.pedals[pedal], other.pedals[pedal], rtol=0, atol=seconds)


@pytest.mark.parametrize("seed", range(3))
def test_nothing_is_lost(seed):
    """Onsets, offsets, velocities, pitches and three pedals, in the object and in its file."""
    performance = random_performance(seed)
    midi = performance.to_pretty_midi()
    back = Performance.from_pretty_midi(midi)
    assert_equal(performance, back, MAX_SHIFT_SECONDS)
    assert_equal(back, written_and_read(performance), 1e-9)
    assert back.dropped == ()
    assert TICKS_PER_SECOND > 1 / (2 * MAX_SHIFT_SECONDS)
    again = Performance.from_pretty_midi(back.to_pretty_midi())
    assert all(np.array_equal(getattr(back, name), getattr(again, name)) for name in ARRAYS)


@pytest.mark.parametrize("ticks_per_beat", [384, 480])
def test_times_of_maestro_do_not_move(ticks_per_beat):
    """Its files have 384 or 480 ticks in half a second."""
    ticks = np.sort(np.random.default_rng(0).choice(10**6, 200, replace=False)) / (2 * ticks_per_beat)
    notes = [(start, end, 60) for start, end in zip(ticks[::2], ticks[1::2], strict=True)]
    performance = performance_of(notes, {SUSTAIN: [(time, 70) for time in ticks]})
    assert_equal(performance, written_and_read(performance), 1e-9)


@pytest.mark.real_data
def test_real_performances_survive():
    """MAESTRO, ASAP and Disklavier."""
    folders = [SHARED / "data" / name for name in ("maestro-midi", "performance-midi", "disklavier-maestro-layout")]
    paths = [path for folder in folders for path in sorted(folder.rglob("*.mid*"))[::8]]
    if not paths:
        pytest.skip(f"no real MIDI files at {SHARED}/data")
    for path in paths:
        performance = read_midi(path)
        assert_equal(performance, written_and_read(performance), 2 * MAX_SHIFT_SECONDS)


def test_resolution_can_be_chosen():
    performance = performance_of([(0.0123, 0.5678, 60)])
    assert written_and_read(performance, ticks_per_second=1000).onset[0] == pytest.approx(0.012)
    assert performance.to_pretty_midi(program=5).instruments[0].program == 5


def test_events_of_one_tick_keep_their_order():
    """pretty_midi sorts the pedal events of a tick by value, and loses notes without length."""
    moves = [(0.5, 127), (0.5, 3), (0.50001, 80), (0.5002, 0)]
    notes = [(0.0, 0.0, 60, 50), (0.0, 0.1, 62, 60), (0.1, 0.1, 62, 70), (0.100001, 0.2, 62, 80)]
    performance = performance_of(notes, {SUSTAIN: moves, SOSTENUTO: [(0.5, 9)]})
    read = written_and_read(performance)
    assert read.pedals[SUSTAIN][:, 1].tolist() == [127, 3, 80, 0]
    assert np.all(np.diff(read.pedals[SUSTAIN][:, 0]) > 0) and read.pedals[SUSTAIN][-1, 0] < 0.501
    assert read.velocity.tolist() == [50, 60, 70, 80] and read.pitch.tolist() == [60, 62, 62, 62]
    assert np.all(read.offset > read.onset) and not read.dropped


def test_what_is_no_piano_is_left_out_and_counted():
    midi = pretty_midi.PrettyMIDI()
    note = pretty_midi.Note
    piano, ensemble, drums = (pretty_midi.Instrument(0), pretty_midi.Instrument(48), pretty_midi.Instrument(0, True))
    piano.notes = [note(80, 60, 1.0, 2.0), note(90, 20, 0.0, 1.0), note(0, 61, 0.0, 1.0)]
    ensemble.notes = [note(99, 60, 1.5, 3.0), note(50, 60, 1.0, 1.2), note(200, 72, 0.0, 1.0)]
    ensemble.control_changes = [pretty_midi.ControlChange(SUSTAIN, 127, 0.5), pretty_midi.ControlChange(7, 100, 0.0)]
    drums.notes = [note(80, 38, 0.0, 1.0)]
    midi.instruments = [piano, ensemble, drums]
    performance = Performance.from_pretty_midi(midi)
    assert performance.onset.tolist() == [0.0, 1.0, 1.5] and performance.offset.tolist() == [1.0, 1.5, 3.0]
    assert performance.velocity.tolist() == [127, 80, 99]
    assert performance.pedals[SUSTAIN].tolist() == [[0.5, 127.0]] and len(performance.pedals[SOFT]) == 0
    assert set(performance.dropped) == {
        "drum notes (channel 10): 1",
        "notes outside the piano (pitch 21..108): 1",
        "notes of velocity 0: 1",
        "notes doubled in one tick, merged: 1",
        "notes cut where another track or channel strikes their key: 1",
        "velocities above 127, taken as 127: 1",
    }


def test_shared_pedal_events_count_once():
    """pretty_midi's reader gives all instruments of a track the same list of the events before its first note."""
    midi = pretty_midi.PrettyMIDI()
    shared = [pretty_midi.ControlChange(SUSTAIN, 127, 0.5)]
    for program in (0, 1):
        instrument = pretty_midi.Instrument(program)
        instrument.notes = [pretty_midi.Note(80, 60 + program, 1.0, 2.0)]
        instrument.control_changes = shared
        midi.instruments.append(instrument)
    assert len(Performance.from_pretty_midi(midi).pedals[SUSTAIN]) == 1


@pytest.mark.parametrize("seconds", [-1.0, float("nan"), float("inf")])
def test_impossible_times_are_refused(seconds):
    midi = performance_of([(0.0, 1.0, 60)]).to_pretty_midi()
    midi.instruments[0].notes[0].start = seconds
    with pytest.raises(InputError, match="negative or no numbers"):
        Performance.from_pretty_midi(midi)


def test_objects_without_notes_and_clips_are_refused():
    with pytest.raises(InputError, match="pretty_midi object: no piano notes"):
        Performance.from_pretty_midi(pretty_midi.PrettyMIDI())
    with pytest.raises(InputError, match="before time 0"):
        performance_of([(-0.5, 1.0, 60)]).to_pretty_midi()
