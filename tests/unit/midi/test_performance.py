"""Performances: how pedals extend notes, clips, saving and loading."""

import io
import re
import tracemalloc
import zipfile
from dataclasses import replace

import numpy as np
import pytest

from midi2wave.conditioning.note_conditioning import NoteConditioning
from midi2wave.config import DataConfig
from midi2wave.midi.performance import (
    CLIP_MARGIN_SECONDS,
    PEDALS,
    SOFT,
    SOSTENUTO,
    SUSTAIN,
    Performance,
    clip,
    load_events,
    save_events,
    sounding_offset,
)
from midi2wave.midi.reader import read_midi
from midi2wave.utils.errors import InputError
from tests.helpers.performances import performance_of


def rows(performance: Performance) -> list[tuple[float, float, int, int]]:
    columns = (performance.onset, performance.offset, performance.pitch, performance.velocity)
    return list(zip(*(column.tolist() for column in columns), strict=True))


# ---- pedals and sound ----


@pytest.mark.parametrize(
    ("pedals", "expected"),
    [
        ({}, 1.0),
        ({SUSTAIN: [(0.5, 64), (2, 63)]}, 2.0),
        ({SUSTAIN: [(0.5, 63), (2, 0)]}, 1.0),
        ({SUSTAIN: [(0.5, 127), (1.0, 0)]}, 1.0),
        ({SUSTAIN: [(1.0, 127), (2, 0)]}, 2.0),
        ({SUSTAIN: [(0.5, 127), (2, 0), (2, 127), (3, 0)]}, 2.0),
        ({SUSTAIN: [(0.5, 127), (0.7, 90), (2, 0)]}, 2.0),
        ({SUSTAIN: [(0.5, 127)]}, np.inf),
        ({SOSTENUTO: [(0.5, 127), (2, 0)]}, 2.0),
        ({SOSTENUTO: [(-0.5, 127), (2, 0)]}, 1.0),
        ({SOSTENUTO: [(1.0, 127), (2, 0)]}, 1.0),
        ({SOSTENUTO: [(0.5, 127), (2, 0)], SUSTAIN: [(1.5, 127), (3, 0)]}, 3.0),
        ({SOSTENUTO: [(0.5, 127), (3, 0)], SUSTAIN: [(0.5, 127), (2, 0)]}, 3.0),
        ({SOFT: [(0.5, 127), (3, 0)]}, 1.0),
    ],
)
def test_pedals_hold_a_note(pedals, expected):
    assert sounding_offset(performance_of([(0, 1, 60)], pedals)).tolist() == [expected]


def test_a_held_note_ends_where_its_key_is_restruck():
    performance = performance_of([(0, 1, 60), (0, 1, 61), (1.5, 2, 60)], {SUSTAIN: [(0.5, 127), (4, 0)]})
    assert sounding_offset(performance).tolist() == [1.5, 4.0, 4.0]


def random_performance(rng: np.random.Generator, length: int = 120) -> Performance:
    """Notes on three keys and frequent pedal changes, all at whole seconds, so that times compare exactly."""
    notes = []
    for pitch in (60, 61, 62):
        times = np.sort(rng.choice(length, 20, replace=False))
        notes += [
            (t, min(t + rng.integers(0, 9), limit), pitch) for t, limit in zip(times, [*times[1:], length], strict=True)
        ]
    pedals = {c: [(t, rng.integers(0, 128)) for t in np.sort(rng.choice(length, 30, replace=False))] for c in PEDALS}
    return performance_of(notes, pedals)


def simulated_end(performance: Performance, index: int, seconds: int) -> float:
    """When the damper of one note falls, simulated second by second."""
    onset, offset, pitch = (int(a[index]) for a in (performance.onset, performance.offset, performance.pitch))
    values = {c: dict(map(tuple, performance.pedals[c].tolist())) for c in (SUSTAIN, SOSTENUTO)}
    down, held_by_sostenuto = {SUSTAIN: False, SOSTENUTO: False}, False
    for now in range(seconds):
        before = down[SOSTENUTO]
        for controller in down:
            down[controller] = values[controller].get(now, 127 * down[controller]) >= 64
        key = onset <= now < offset
        held_by_sostenuto = down[SOSTENUTO] and (held_by_sostenuto or (key and not before))
        restruck = bool(np.any((performance.pitch == pitch) & (performance.onset == now)))
        if now >= onset and (not (key or down[SUSTAIN] or held_by_sostenuto) or (now > onset and restruck)):
            return now
    return np.inf


def test_sounding_offset_agrees_with_a_simulated_damper():
    rng = np.random.default_rng(5)
    for _ in range(20):
        performance = random_performance(rng)
        simulated = [simulated_end(performance, i, 130) for i in range(len(performance.onset))]
        assert sounding_offset(performance).tolist() == simulated


# ---- clips ----


def pedal_state(performance: Performance, controller: int, times: np.ndarray) -> np.ndarray:
    events = performance.pedals[controller]
    values = np.append(0.0, events[:, 1])
    return values[np.searchsorted(events[:, 0], times, side="right")]


def test_clip_equals_the_same_range_of_the_whole():
    rng = np.random.default_rng(6)
    for _ in range(60):
        whole = random_performance(rng)
        start, end = np.sort(rng.choice(120, 2, replace=False)).astype(float)
        cut, sound = clip(whole, start, end), sounding_offset(whole)
        in_clip = (whole.onset < end) & ((sound > start) | (whole.onset >= start))
        assert np.array_equal(cut.onset + start, whole.onset[in_clip])
        assert np.array_equal(cut.offset + start, whole.offset[in_clip])
        assert np.array_equal(cut.pitch, whole.pitch[in_clip])
        assert np.array_equal(cut.velocity, whole.velocity[in_clip])
        assert np.array_equal(np.minimum(sounding_offset(cut) + start, end), np.minimum(sound[in_clip], end))
        times = np.arange(start, end, 0.5)
        for controller in PEDALS:
            assert np.all(cut.pedals[controller][:, 0] < end - start)
            assert np.array_equal(pedal_state(cut, controller, times - start), pedal_state(whole, controller, times))


def test_clip_does_not_depend_on_what_follows():
    rng = np.random.default_rng(7)
    for _ in range(60):
        whole, other = random_performance(rng), random_performance(rng)
        start, end = np.sort(rng.choice(120, 2, replace=False)).astype(float)
        past = whole.onset < end
        future = other.onset >= end
        spliced = Performance(
            np.append(whole.onset[past], other.onset[future]),
            np.append(whole.offset[past], other.offset[future]),
            np.append(whole.pitch[past], other.pitch[future]),
            np.append(whole.velocity[past], other.velocity[future]),
            {
                c: np.concatenate(
                    [whole.pedals[c][whole.pedals[c][:, 0] < end], other.pedals[c][other.pedals[c][:, 0] >= end]]
                )
                for c in PEDALS
            },
        )
        one, two = clip(whole, start, end), clip(spliced, start, end)
        assert rows(one) == rows(two)
        assert all(np.array_equal(one.pedals[c], two.pedals[c]) for c in PEDALS)


def test_clip_keeps_only_the_pedal_events_that_matter():
    whole = performance_of([(0, 1, 60), (8, 9, 62)], {SUSTAIN: [(t, 100 * (t % 2)) for t in range(10)]})
    assert clip(whole, 6.5, 9.0).pedals[SUSTAIN].tolist() == [[-0.5, 0.0], [0.5, 100.0], [1.5, 0.0]]


# ---- saving ----


def test_events_are_loaded_as_saved(tmp_path):
    whole = random_performance(np.random.default_rng(8))
    whole = Performance(*(getattr(whole, n) for n in ("onset", "offset", "pitch", "velocity", "pedals")), ("é: 1",))
    save_events(tmp_path / "0.npz", whole)
    back = load_events(tmp_path / "0.npz")
    assert rows(back) == rows(whole)
    assert back.dropped == whole.dropped
    assert back.pitch.dtype == np.int64
    assert all(np.array_equal(back.pedals[c], whole.pedals[c]) for c in PEDALS)
    assert [path.name for path in tmp_path.iterdir()] == ["0.npz"]


def test_damaged_event_files_are_rejected(tmp_path):
    path = tmp_path / "0.npz"
    save_events(path, performance_of([(0, 1, 60)]))
    data = path.read_bytes()
    foreign, unequal = io.BytesIO(), io.BytesIO()
    np.savez(foreign, onset=np.zeros(3))
    stored = dict(np.load(path))
    np.savez(unequal, **{**stored, "pitch": np.array([60, 61])})
    single = io.BytesIO()
    np.save(single, np.zeros(3))
    truncations = [data[:size] for size in range(0, len(data), 97)]
    flipped = bytearray(data)
    flipped[data.index(b"onset.npy") + 150] ^= 0xFF
    for bad in [*truncations, bytes(flipped), foreign.getvalue(), unequal.getvalue(), single.getvalue(), b"text"]:
        path.write_bytes(bad)
        with pytest.raises(InputError, match=r"0\.npz: not a whole file of note events"):
            load_events(path)
    with pytest.raises(InputError, match="no such file"):
        load_events(tmp_path / "missing.npz")


@pytest.mark.parametrize(
    ("name", "array", "words"),
    [
        ("format", np.array("another 1"), "its format is not"),
        ("velocity", None, "it has no velocity"),
        ("onset", np.array(["0.5"]), "its onset is of type <U3, expected float64"),
        ("pitch", np.array([60.0]), "its pitch is of type float64, expected int64"),
        ("pedal_64", np.zeros(3), "its pedal events are not pairs"),
        ("dropped", np.array("text"), "its dropped is of type <U4 [], expected texts in a row"),
        ("recording", np.array([3]), "its recording is of type int64 [1], expected texts in a row"),
    ],
)
def test_events_of_a_wrong_kind_are_rejected(tmp_path, name, array, words):
    save_events(tmp_path / "0.npz", performance_of([(0, 1, 60)]))
    stored = {**np.load(tmp_path / "0.npz"), name: array}
    np.savez(tmp_path / "0.npz", **{key: value for key, value in stored.items() if value is not None})
    with pytest.raises(InputError, match=re.escape(words)):
        load_events(tmp_path / "0.npz")


def test_events_that_are_no_arrays_are_rejected(tmp_path):
    path = tmp_path / "0.npz"
    save_events(path, performance_of([(0, 1, 60)]))
    with zipfile.ZipFile(path) as stored:
        members = {name: stored.read(name) for name in stored.namelist()}
    with zipfile.ZipFile(path, "w") as written:
        for name, content in members.items():
            written.writestr(name, b"text" if name == "onset.npy" else content)
    with pytest.raises(InputError, match="its onset is of type"):
        load_events(path)


@pytest.mark.parametrize("error", [KeyError, TypeError, ValueError, RuntimeError])
def test_a_bug_is_not_reported_as_a_damaged_file(tmp_path, monkeypatch, error):
    def broken(*_):
        raise error("a bug")

    save_events(tmp_path / "0.npz", performance_of([(0, 1, 60)]))
    monkeypatch.setattr("midi2wave.midi.performance._texts", broken)
    with pytest.raises(error, match="a bug"):
        load_events(tmp_path / "0.npz")


@pytest.mark.parametrize(
    "changed", [{"pitch": 500}, {"pitch": 20}, {"pitch": -1}, {"onset": np.nan}, {"onset": np.inf}]
)
def test_stored_events_off_the_piano_are_rejected(tmp_path, changed):
    """What is computed from them indexes by key: pitches off the piano would be read out of bounds."""
    save_events(tmp_path / "x.npz", performance_of([(0, 1, 21), (1, 2, 108)]))
    assert load_events(tmp_path / "x.npz").pitch.tolist() == [21, 108]
    arrays = dict(np.load(tmp_path / "x.npz"))
    for name, value in changed.items():
        arrays[name][0] = value
    np.savez(tmp_path / "y.npz", **arrays)
    with pytest.raises(InputError, match="not those of a piano"):
        load_events(tmp_path / "y.npz")


def test_a_piece_of_twenty_million_seconds_takes_no_memory(tmp_path):
    """The longest pause that a file can write, at the slowest tempo, between two notes."""
    pause = b"\xff\xff\xff\x7f\xff\x06\x00"
    body = (
        b"\x00\xff\x51\x03\xff\xff\xff\x00\x90\x3c\x40\x01\x3c\x00"
        + pause
        + b"\x00\x3c\x40\x01\x3c\x00\x00\xff\x2f\x00"
    )
    body = body.replace(b"\x00\x3c\x40", b"\x00\x90\x3c\x40")
    path = tmp_path / "long.mid"
    path.write_bytes(b"MThd\0\0\0\6\0\0\0\1\0\xc8MTrk" + len(body).to_bytes(4, "big") + body)
    tracemalloc.start()
    piece = read_midi(path)
    notes = NoteConditioning(piece, DataConfig(audio_hz=16000, midi_hz=250, features=["note_state"]))
    last = int(piece.onset[-1] * 250)
    assert piece.onset[-1] > 2e7 and notes.features(last - 2, 5)[:88].any() and notes.excitation(last, 5).any()
    clip(piece, piece.onset[-1] - 1, piece.onset[-1] + 1, margin=CLIP_MARGIN_SECONDS)
    assert tracemalloc.get_traced_memory()[1] < 50e6
    tracemalloc.stop()


def test_global_labels_are_stored_under_their_public_name(tmp_path):
    """Files of event data call the labels "recording"; the field is a public format."""
    labels = ("year=2009", "piano=3")
    save_events(tmp_path / "x.npz", replace(performance_of([(0, 1, 60)]), global_labels=labels))
    with np.load(tmp_path / "x.npz") as arrays:
        assert arrays["recording"].tolist() == list(labels) and "global_labels" not in arrays
    assert load_events(tmp_path / "x.npz").global_labels == labels
