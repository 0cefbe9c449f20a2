"""The MIDI reader against hand-written bytes, against mido, and on real and broken files."""

import io
import time
from pathlib import Path

import mido
import numpy as np
import pytest

from midi2wave.midi.performance import SOFT, SOSTENUTO, SUSTAIN, Performance, sounding_offset
from midi2wave.midi.reader import read_midi
from midi2wave.utils.errors import InputError
from tests.helpers import odd_midi
from tests.helpers.midi_bytes import END, chunk, off, on, pedal, smf, tempo, track
from tests.helpers.paths import ROOT, SHARED

DATA = SHARED / "data"


@pytest.fixture
def read(tmp_path):
    def write_and_read(data: bytes) -> Performance:
        path = tmp_path / "piece.mid"
        path.write_bytes(data)
        return read_midi(path)

    return write_and_read


def rows(performance: Performance) -> list[tuple[float, float, int, int]]:
    columns = (performance.onset, performance.offset, performance.pitch, performance.velocity)
    return list(zip(*(column.tolist() for column in columns), strict=True))


# ---- notes (480 ticks = 0.5 s at the default tempo) ----


def test_notes_are_sorted_by_onset_then_pitch(read):
    data = smf(
        track((0, on(72, 90)), (0, on(60, 80)), (480, off(60)), (960, off(72))), track((240, on(64)), (480, off(64)))
    )
    performance = read(data)
    assert rows(performance) == [(0.0, 0.5, 60, 80), (0.0, 1.0, 72, 90), (0.25, 0.5, 64, 64)]
    assert [performance.onset.dtype, performance.pitch.dtype] == [np.float64, np.int64]
    assert performance.dropped == ()
    assert set(performance.pedals) == {SUSTAIN, SOSTENUTO, SOFT}
    assert all(events.shape == (0, 2) for events in performance.pedals.values())


def test_running_status_velocity_zero_and_events_to_skip(read):
    body = b"\x00\x90\x3c\x50" + b"\x83\x60\x3c\x00"  # the second note-on has no status byte
    body += b"\x00\xff\x01\x03\xff\x80\xfe" + b"\x00\x40\x50"  # a text in no encoding; running status goes on after it
    body += b"\x00\xc0\x05" + b"\x00\xd0\x07" + b"\x00\xe0\x00\x40" + b"\x00\xa0\x40\x10" + b"\x83\x60\x90\x40\x00"
    assert rows(read(smf(body + END))) == [(0.0, 0.5, 60, 80), (0.5, 1.0, 64, 80)]


def test_sysex_is_skipped_and_cancels_running_status(read):
    sysex = b"\x00\xf0\x05\x90\x3c\x50\x00\xf7" + b"\x00\xf7\x02\x01\xf7" + b"\x00\xf2\x01\x02\x00\xf8"
    clean = b"\x00\x90\x3c\x50" + sysex + b"\x83\x60\x80\x3c\x00" + END
    assert rows(read(smf(clean))) == [(0.0, 0.5, 60, 80)]
    broken = b"\x00\x90\x3c\x50\x83\x60\x3c\x00" + sysex + b"\x00\x40\x50" + END
    performance = read(smf(broken))
    assert rows(performance) == [(0.0, 0.5, 60, 80)]
    assert "tracks broken off" in performance.dropped[0]


def test_restruck_note_ends_at_the_new_onset(read):
    data = smf(track((0, on(60)), (480, on(60)), (960, off(60)), (1440, off(60))))
    assert [row[:2] for row in rows(read(data))] == [(0.0, 0.5), (0.5, 1.0)]


def test_restrike_on_another_track_or_channel(read):
    """A note that another track or channel strikes again keeps its own release."""
    tracks = smf(track((0, on(60)), (960, off(60))), track((480, on(60)), (1440, off(60))))
    channels = smf(track((0, on(60)), (480, on(60, channel=1)), (960, off(60)), (1440, off(60, channel=1))))
    for performance in (read(tracks), read(channels)):
        assert [row[:2] for row in rows(performance)] == [(0.0, 0.5), (0.5, 1.5)]
        assert performance.dropped == ("notes cut where another track or channel strikes their key: 1",)


def test_doubled_notes_of_one_tick_become_one(read):
    data = smf(track((0, on(60, 50)), (960, off(60))), track((0, on(60, 90, channel=1)), (480, off(60, channel=1))))
    performance = read(data)
    assert rows(performance) == [(0.0, 1.0, 60, 90)]
    assert performance.dropped == ("notes doubled in one tick, merged: 1",)


def test_note_off_in_the_tick_of_a_note_on(read):
    before = smf(track((0, on(60)), (480, off(60)), (480, on(60)), (960, off(60))))
    after = smf(track((0, on(60)), (480, on(60)), (480, off(60)), (960, off(60))))
    assert [row[:2] for row in rows(read(before))] == [(0.0, 0.5), (0.5, 1.0)]
    assert [row[:2] for row in rows(read(after))] == [(0.0, 0.5), (0.5, 1.0)]
    assert rows(read(smf(track((480, on(60)), (480, off(60)), (960, on(61)), (961, off(61))))))[0][:2] == (0.5, 0.5)


def test_unreleased_notes_end_with_their_track(read):
    performance = read(smf(track((0, on(60)), (960, END[1:]), end=b""), track((0, on(70)), (1920, off(70)))))
    assert [row[:2] for row in rows(performance)] == [(0.0, 1.0), (0.0, 2.0)]
    assert performance.dropped == ("notes never released, ended with their track: 1",)


def test_drums_and_pitches_off_the_piano_are_counted(read):
    """Drums and pitches off the piano are left out and counted."""
    inside = [(0, on(21)), (0, on(108)), (480, off(21)), (480, off(108))]
    outside = [(480, on(20)), (480, on(109)), (480, on(38, channel=9)), (960, off(20)), (960, off(38, channel=9))]
    performance = read(smf(track(*inside, *outside)))
    assert performance.pitch.tolist() == [21, 108]
    assert performance.dropped == ("notes outside the piano (pitch 21..108): 2", "drum notes (channel 10): 1")


def test_pedals_of_any_track_and_channel_count(read):
    notes = track((0, on(60)), (480, off(60)))
    moves = track((0, pedal(67, 100, 3)), (240, pedal(64, 127, 5)), (960, pedal(64, 0, 5)), (960, pedal(1, 99)))
    performance = read(smf(notes, moves))
    assert performance.pedals[SUSTAIN].tolist() == [[0.25, 127.0], [1.0, 0.0]]
    assert performance.pedals[SOFT].tolist() == [[0.0, 100.0]]
    assert sounding_offset(performance).tolist() == [1.0]


def test_pedal_events_of_one_tick_keep_their_order(read):
    moves = [track((480, pedal(64, value))) for value in (3, 2, 1)]
    assert read(smf(track((0, on(60))), *moves)).pedals[SUSTAIN][:, 1].tolist() == [3, 2, 1]


# ---- time ----


@pytest.mark.parametrize("file_type", [0, 1])
def test_tempo_changes_within_notes_agree_with_mido(read, file_type):
    rng = np.random.default_rng(3)
    tracks = [mido.MidiTrack() for _ in range(1 if file_type == 0 else 3)]
    for _ in range(200):
        target, ticks = tracks[rng.integers(len(tracks))], int(rng.integers(0, 400))
        pitch = int(rng.integers(21, 109))
        target.append(mido.MetaMessage("set_tempo", tempo=int(rng.integers(1, 1 << 24)), time=ticks))
        target.append(mido.Message("note_on", note=pitch, velocity=70, time=int(rng.integers(1, 300))))
        target.append(mido.MetaMessage("set_tempo", tempo=int(rng.integers(1, 1 << 24)), time=7))
        target.append(mido.Message("note_off", note=pitch, time=int(rng.integers(1, 300))))
    file, buffer = mido.MidiFile(type=file_type, ticks_per_beat=384, tracks=tracks), io.BytesIO()
    file.save(file=buffer)
    performance = read(buffer.getvalue())
    onset, offset = mido_times(mido.MidiFile(file=io.BytesIO(buffer.getvalue())))
    assert np.array_equal(np.diff(onset) > 0, np.ones(len(onset) - 1, bool))  # so that nothing was merged or reordered
    np.testing.assert_allclose(performance.onset, onset, rtol=0, atol=1e-6)
    if file_type == 0:  # with several tracks a key can be struck again before its release
        np.testing.assert_allclose(np.sort(performance.offset), offset, rtol=0, atol=1e-6)


def mido_times(file: mido.MidiFile) -> tuple[np.ndarray, np.ndarray]:
    """Seconds of the note-ons and of the note-offs, accumulated by mido."""
    now, onset, offset = 0.0, [], []
    for message in file:
        now += message.time
        if message.type == "note_on" and message.velocity:
            onset.append(now)
        elif message.type in ("note_on", "note_off"):
            offset.append(now)
    return np.array(onset), np.array(offset)


def test_tempo_of_another_track_counts_in_type_1(read):
    data = smf(track((0, tempo(0)), (480, tempo(1_000_000))), track((0, on(60)), (960, off(60))))
    assert rows(read(data))[0][:2] == (0.0, 1.5)


def test_type_2_plays_its_tracks_one_after_another(read):
    """Type 2 plays its tracks one after another, each in its own tempo."""
    first = track((0, tempo(1_000_000)), (0, on(60)), (480, off(60)), (480, pedal(64, 80)), (960, b"\xff\x06\x00"))
    second = track((0, on(62)), (480, off(62)), (480, pedal(64, 0)))
    performance = read(smf(first, second, file_type=2))
    assert [row[:3] for row in rows(performance)] == [(0.0, 1.0, 60), (2.0, 2.5, 62)]
    assert performance.pedals[SUSTAIN].tolist() == [[1.0, 80.0], [2.5, 0.0]]


@pytest.mark.parametrize(("rate", "per_second"), [(24, 24), (25, 25), (29, 30_000 / 1001), (30, 30)])
def test_smpte_time_ignores_tempo(read, rate, per_second):
    data = smf(track((0, tempo(123)), (0, on(60)), (1000, off(60))), division=(256 - rate) << 8 | 40)
    assert read(data).offset[0] == pytest.approx(1000 / (per_second * 40), rel=1e-12)


@pytest.mark.parametrize("division", [0, 0xF060, 0xE800])
def test_impossible_time_base_is_rejected(read, division):
    with pytest.raises(InputError, match="time base"):
        read(smf(track((0, on(60))), division=division))


# ---- damage ----

TWO_NOTES = track((0, on(60)), (480, off(60)), (480, on(62)), (960, off(62)))
TWO_ROWS = [(0.0, 0.5, 60, 64), (0.5, 1.0, 62, 64)]
HEADER = smf()[:10] + b"\x00\x01" + smf()[12:]


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(chunk(HEADER[8:] + b"more of a header", b"MThd") + chunk(TWO_NOTES), id="long-header"),
        pytest.param(HEADER[:4] + b"\x00\x00\x00\x16" + HEADER[8:] + chunk(TWO_NOTES), id="lying-header"),
        pytest.param(HEADER + chunk(b"hello", b"XFIH") + chunk(TWO_NOTES), id="unknown-chunk"),
        pytest.param(HEADER + b"\x00\x01\x02" + chunk(TWO_NOTES), id="garbage"),
        pytest.param(HEADER + chunk(TWO_NOTES) + b"\x00\x00 trailing \xff bytes", id="trailing"),
        pytest.param(HEADER + chunk(TWO_NOTES, length=3), id="short"),
        pytest.param(HEADER + chunk(TWO_NOTES, length=0xFFFFFFFF), id="long"),
        pytest.param(HEADER + chunk(track((0, tempo(500_000))), length=0xFFFFFF) + chunk(TWO_NOTES), id="long-first"),
        pytest.param(
            b"RIFF\x99\x00\x00\x00RMIDdata"
            + (14 + 8 + len(TWO_NOTES)).to_bytes(4, "little")
            + HEADER
            + chunk(TWO_NOTES),
            id="riff",
        ),
        pytest.param(smf(TWO_NOTES, file_type=7), id="type-7"),
        pytest.param(smf(TWO_NOTES, promised=0), id="promised-0"),
    ],
)
def test_oddities_around_the_tracks_do_not_matter(read, data):
    performance = read(data)
    assert rows(performance) == TWO_ROWS
    assert performance.dropped == ()
    assert read(smf(TWO_NOTES, promised=3)).dropped == ("tracks promised by the header but missing: 2",)


def test_every_truncation_is_read_partly_or_rejected(read):
    data, previous = smf(TWO_NOTES), 0
    for size in range(1, len(data)):
        try:
            performance = read(data[:size])
        except InputError:
            assert previous == 0, "a longer part of the same file was rejected"
            continue
        assert len(performance.onset) >= previous
        assert any("broken off" in line for line in performance.dropped)
        previous = len(performance.onset)
    assert previous == 2


@pytest.mark.parametrize("damage", [b"\x8f\xff\xff\xff\x50" + on(72), b"\x00\x90" + on(72) + b"\x00" + on(73)])
def test_damage_stops_its_track_only(read, damage):
    """A number without end or a lost byte stops its track only."""
    broken = track((0, on(70)), (480, off(70)), end=damage + END)
    performance = read(smf(broken, TWO_NOTES))
    assert performance.offset.max() == 1.0
    assert performance.pitch.tolist() == [60, 70, 62]
    assert performance.dropped == ("tracks broken off or without an end mark, kept as far as readable: 1",)


def test_values_with_the_high_bit_set(read):
    performance = read(smf(track((0, b"\x90\x3c\xc8"), (0, b"\xb0\x40\xff"), (480, off(60)))))
    assert rows(performance) == [(0.0, 0.5, 60, 127)]
    assert performance.pedals[SUSTAIN].tolist() == [[0.0, 127.0]]
    assert performance.dropped == ("velocities above 127, taken as 127: 1",)


def test_random_damage_never_raises_anything_else(read):
    rng = np.random.default_rng(11)
    messages = [(int(t), on(int(p)) if t % 2 else pedal(64, int(p))) for t, p in enumerate(rng.integers(30, 100, 80))]
    whole = np.frombuffer(smf(track(*messages), TWO_NOTES), np.uint8)
    outcomes = set()
    for _ in range(300):
        data = whole.copy()
        data[rng.integers(0, len(data), 6)] = rng.integers(0, 256, 6)
        try:
            performance = read(data.tobytes())
        except InputError:
            outcomes.add("rejected")
            continue
        outcomes.add("read")
        assert np.all(performance.offset >= performance.onset)
        assert np.all((performance.velocity >= 1) & (performance.velocity <= 127))
    assert outcomes == {"read", "rejected"}


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "git lfs pull"),
        (b"RIFF\x00\x00\x00\x00WAVEfmt ", "not a MIDI file"),
        (b"MThd\x00\x00", "cut off"),
        (HEADER, "without any track"),
        (smf(track()), "no piano notes"),
        (smf(track((0, on(38, channel=9)), (0, on(5)))), r"drum notes \(channel 10\): 1; notes outside .*: 1"),
    ],
)
def test_errors_name_the_file_and_the_reason_in_one_line(read, data, words):
    with pytest.raises(InputError, match=words) as error:
        read(data)
    assert "piece.mid: " in str(error.value)
    assert "\n" not in str(error.value)


def test_objects_are_read_like_files(tmp_path):
    """Anything with `read` that gives bytes; errors call it by its name, if it has one."""
    data = smf(TWO_NOTES)
    (tmp_path / "piece.mid").write_bytes(data)
    assert rows(read_midi(io.BytesIO(data))) == TWO_ROWS
    with open(tmp_path / "piece.mid", "rb") as file:
        assert rows(read_midi(file)) == TWO_ROWS
    with pytest.raises(InputError, match="MIDI data: empty"):
        read_midi(io.BytesIO())
    with open(tmp_path / "piece.mid", encoding="latin-1") as file, pytest.raises(InputError, match="'rb'") as error:
        read_midi(file)
    assert "piece.mid" in str(error.value)


def test_paths_that_are_no_file_are_rejected(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_midi(tmp_path / "nothing.mid")
    with pytest.raises(InputError, match="not a file"):
        read_midi(tmp_path)


def test_huge_files_are_rejected_unread(tmp_path):
    with open(tmp_path / "huge.mid", "wb") as handle:
        handle.truncate((64 << 20) + 1)
    with pytest.raises(InputError, match="64 MB"):
        read_midi(tmp_path / "huge.mid")


def test_ten_thousand_notes_are_read_fast(read):
    events = [(40 * i + part, (on if part == 0 else off)(21 + i % 88)) for i in range(10_000) for part in (0, 30)]
    data = smf(track(*events))
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        assert len(read(data).onset) == 10_000
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.15


# ---- real files ----


def real_files(folder: str) -> list[Path]:
    return sorted(p for p in (DATA / folder).rglob("*") if p.suffix in (".mid", ".midi", ".rmi"))


@pytest.mark.skipif(not real_files("odd-midi"), reason="shared/data/odd-midi is missing")
def test_odd_files_are_read_or_rejected():
    n_read = 0
    for path in real_files("odd-midi"):
        start = time.perf_counter()
        try:
            performance = read_midi(path)
        except InputError as error:
            assert path.name in str(error)
        else:
            n_read += 1
            assert np.all(performance.offset >= performance.onset)
            assert np.all(sounding_offset(performance) >= performance.offset)
        assert time.perf_counter() - start < 5
    # Rejected: two git-lfs pointers, two files without notes, one each without MIDI header, track and time base
    assert len(real_files("odd-midi")) - n_read == 7


def agrees_with_mido(path: Path) -> None:
    onset, _ = mido_times(mido.MidiFile(path))
    performance = read_midi(path)
    assert len(performance.onset) == len(onset)
    np.testing.assert_allclose(performance.onset, onset, rtol=0, atol=1e-6)


REAL = sorted(real_files("maestro-midi") + real_files("performance-midi/asap"), key=lambda path: path.stat().st_size)


@pytest.mark.skipif(not REAL, reason="shared/data has no MAESTRO or ASAP MIDI")
def test_small_real_performances_agree_with_mido():
    for path in REAL[:6]:
        agrees_with_mido(path)


@pytest.mark.slow
@pytest.mark.skipif(not REAL, reason="shared/data has no MAESTRO or ASAP MIDI")
def test_all_real_performances_agree_with_mido():
    for path in REAL:
        agrees_with_mido(path)


@pytest.mark.skipif(not real_files("odd-midi"), reason="shared/data/odd-midi is missing")
def test_the_table_of_odd_files_is_up_to_date():
    page = (ROOT / "docs/robustness.md").read_text(encoding="utf-8")
    assert odd_midi.markdown(odd_midi.rows(DATA / "odd-midi")) in page, "run: python -m tests.helpers.odd_midi FOLDER"
