"""A processed folder comes back as written, or is refused."""

import contextlib
import dataclasses
import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest

from midi2wave.data import processed_folder
from midi2wave.data.processed_folder import ProcessedFolder, Row
from midi2wave.utils.errors import InputError
from tests.helpers.processed_data import (
    AUDIO_HZ,
    MADE_FROM,
    make_performance,
    write_folder,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A processed folder of three recordings."""
    write_folder(tmp_path / "data", [500, 4000, 1603])
    return tmp_path / "data"


def test_folder_is_read_as_written(folder):
    opened = ProcessedFolder(folder)
    assert opened.audio_hz == AUDIO_HZ and [row.n_samples for row in opened.rows] == [500, 4000, 1603]
    assert opened.rows[1] == Row(1, "2004/é 1.wav", "1.midi", "train", 2004, 1.0, 4000, 12, 'A "B", C', "D\nE")
    for position, row in enumerate(opened.rows):
        assert processed_folder.read_finished(folder, row, {}) == (row, {})
        pcm = opened.pcm(position)
        assert isinstance(pcm, np.memmap) and pcm.dtype == np.int16 and not pcm.flags.writeable
        assert np.array_equal(pcm, np.random.default_rng(position).integers(-20000, 20000, row.n_samples))
        there, made = opened.performance(position), make_performance(position, row.duration)
        assert np.array_equal(there.onset, made.onset) and np.array_equal(there.pedals[64], made.pedals[64])
    assert processed_folder.read_finished(folder, dataclasses.replace(opened.rows[0], index=3), {}) is None
    assert not list(folder.glob(".*"))


def test_only_int16_is_written(tmp_path):
    row = Row(0, "", "", "train", 2004, 1.0, 4, 12, "", "")
    with pytest.raises(TypeError):
        processed_folder.write_recording(tmp_path, row, np.zeros(4), make_performance(0, 1.0))
    assert not any(tmp_path.iterdir())


def test_row_is_written_last(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(processed_folder, "save_events", full)
    row = Row(0, "", "", "train", 2004, 1.0, 4, 12, "", "")
    with pytest.raises(OSError, match="No space"):
        processed_folder.write_recording(tmp_path, row, np.zeros(4, dtype=np.int16), make_performance(0, 1.0))
    assert processed_folder.read_finished(tmp_path, row, {}) is None


@pytest.mark.parametrize("interrupted", ["atomic_file", "save_events", "write_text"])
def test_folder_cannot_be_opened_during_replacement(folder, monkeypatch, interrupted):
    """While a recording is being replaced, the folder cannot be opened."""
    rows = ProcessedFolder(folder).rows

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr(processed_folder, interrupted, killed)
        with pytest.raises(KeyboardInterrupt):
            processed_folder.write_recording(folder, rows[1], np.zeros(4000, np.int16), make_performance(9, 1.0))
    with pytest.raises(InputError, match="not a processed folder"):
        ProcessedFolder(folder)
    processed_folder.write_recording(folder, rows[1], np.zeros(4000, np.int16), make_performance(9, 1.0))
    processed_folder.finish_folder(folder, rows)
    assert not ProcessedFolder(folder).pcm(1).any()


def test_added_recording_leaves_the_folder_readable(folder):
    row = dataclasses.replace(ProcessedFolder(folder).rows[0], index=3)
    processed_folder.write_recording(folder, row, np.zeros(500, np.int16), make_performance(9, 1.0))
    assert len(ProcessedFolder(folder).rows) == 3


def test_recording_with_damaged_row_is_unfinished(folder):
    row = ProcessedFolder(folder).rows[0]
    for text in ("", "{", "[]", "3", '"x"', "null", '{"index": 0}'):
        (folder / "0.json").write_text(text)
        assert processed_folder.read_finished(folder, row, {}) is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"sources": []},
        {"sources": "x"},
        {"facts": []},
        {"duration": "x"},
        {"duration": float("nan")},
        {"duration": -1.0},
        {"duration": 10**400},
        {"n_samples": 500.0},
        {"n_samples": 501},
        {"n_notes": None},
        {"year": "2004"},
        {"title": "\ud800"},
        {"composer": 3},
        {"index": 1},
        {"audio_filename": 3},
        {"more": 1},
    ],
)
def test_recording_with_wrong_types_is_unfinished(folder, wrong):
    row = ProcessedFolder(folder).rows[0]
    stored = json.loads((folder / "0.json").read_text(encoding="utf-8"))
    (folder / "0.json").write_text(json.dumps({**stored, **wrong}))
    assert processed_folder.read_finished(folder, row, {}) is None


def test_recording_with_damaged_files_is_unfinished(folder):
    """Damaged audio or notes mean that the recording is not finished."""
    row = ProcessedFolder(folder).rows[0]
    for suffix in ("npy", "npz"):
        path = folder / f"0.{suffix}"
        whole = path.read_bytes()
        spoilt = [b"", whole[:-1], whole + b"\0"]
        if suffix == "npz":
            spoilt.append(whole[:200] + bytes([whole[200] ^ 1]) + whole[201:])
        for damaged in spoilt:
            path.write_bytes(damaged)
            assert processed_folder.read_finished(folder, row, {}) is None
        path.write_bytes(whole)
        assert processed_folder.read_finished(folder, row, {}) == (row, {})


def test_recording_without_file_states_is_finished(folder):
    """Recordings that were written before file states were stored count as finished."""
    row, path = ProcessedFolder(folder).rows[0], folder / "0.json"
    stored = json.loads(path.read_text(encoding="utf-8"))
    del stored["files"]
    path.write_text(json.dumps(stored), encoding="utf-8")
    assert processed_folder.read_finished(folder, row, {}) == (row, {})
    (folder / "0.npz").write_bytes((folder / "0.npz").read_bytes()[:100])
    assert processed_folder.read_finished(folder, row, {}) is None


@pytest.mark.parametrize("name", ["audio_filename", "midi_filename", "split"])
def test_other_recording_under_the_same_index_is_refused(folder, name):
    recording = dataclasses.replace(ProcessedFolder(folder).rows[1], **{name: "other"})
    with pytest.raises(InputError, match=f"another recording under index 1 .{name} .*'other'.* --force"):
        processed_folder.read_finished(folder, recording, {})


def test_folder_of_another_config_is_refused(folder, tmp_path):
    processed_folder.begin_folder(folder, MADE_FROM, force=False)  # going on with the same config
    assert ProcessedFolder(folder).rows
    with pytest.raises(InputError, match="another config"):
        processed_folder.begin_folder(folder, {"preprocess_config": {"audio_hz": 8000}}, force=False)
    (folder / "mine.txt").write_text("keep")
    processed_folder.begin_folder(folder, {"preprocess_config": {"audio_hz": 8000}}, force=True)
    assert {p.name for p in folder.iterdir()} == {"dataset.json", "mine.txt"}


@pytest.mark.parametrize("force", [False, True])
def test_a_record_of_another_program_is_not_overwritten(tmp_path, force):
    (tmp_path / "dataset.json").write_text('{"name": "squad", "format": "parquet"}')
    (tmp_path / "0.npy").write_text("mine")
    with pytest.raises(InputError, match=r"dataset\.json is a file of another program"):
        processed_folder.begin_folder(tmp_path, MADE_FROM, force=force)
    assert {path.name for path in tmp_path.iterdir()} == {"dataset.json", "0.npy"}


def spoil_record(folder, record):
    (folder / "dataset.json").write_text(json.dumps(record))


SPOILT = {
    "no index": (lambda f: (f / "filenames.csv").unlink(), "not a processed folder"),
    "no record": (lambda f: (f / "dataset.json").unlink(), "damaged"),
    "binary record": (lambda f: (f / "dataset.json").write_bytes(b"\xff\xfe"), "damaged"),
    "record without format": (lambda f: spoil_record(f, {"made_from": MADE_FROM}), "damaged"),
    "record is a list": (lambda f: spoil_record(f, [1]), "damaged"),
    "record of another program": (lambda f: spoil_record(f, {"format": 1, "made_from": []}), "damaged"),
    "later format": (lambda f: spoil_record(f, {"format": 2}), "has format 2, expected 1"),
    "index of another program": (lambda f: (f / "filenames.csv").write_text("a,b\n1,2\n"), "damaged"),
    "index cut within a row": (
        lambda f: (f / "filenames.csv").write_text((f / "filenames.csv").read_text()[:-30]),
        "damaged",
    ),
    "index of binary": (lambda f: (f / "filenames.csv").write_bytes(b"\x93NUMPY\x00\xff"), "damaged"),
    "index of one endless field": (lambda f: (f / "filenames.csv").write_text("index\n" + 200_000 * "1"), "damaged"),
    "empty index": (lambda f: (f / "filenames.csv").write_text(""), "holds no recordings"),
}


@pytest.mark.parametrize(("spoil", "words"), SPOILT.values(), ids=SPOILT.keys())
def test_incomplete_folders_are_refused(folder, spoil, words):
    spoil(folder)
    with pytest.raises(InputError, match=words) as caught:
        ProcessedFolder(folder)
    assert str(folder) in str(caught.value)


def test_missing_folder_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"not a processed folder.*run preprocess_maestro.py"):
        ProcessedFolder(tmp_path / "nowhere")


def test_damaged_audio_is_refused(folder):
    path = folder / "1.npy"
    whole = path.read_bytes()
    for spoilt in (b"", whole[:4], whole[:60], whole[:-1], whole[:200], b"RIFF" + whole, b"PK\x03\x04" + whole):
        path.write_bytes(spoilt)
        with pytest.raises(InputError, match=r"1\.npy is missing or damaged"):
            ProcessedFolder(folder).pcm(1)
    for other in (np.zeros(4000), np.zeros(3999, dtype=np.int16), np.zeros((2, 2000), dtype=np.int16)):
        np.save(path, other)
        with pytest.raises(InputError, match="does not hold the 4000 samples"):
            ProcessedFolder(folder).pcm(1)
    np.save(path, np.array([{}] * 4000), allow_pickle=True)
    with pytest.raises(InputError, match=r"1\.npy is missing or damaged"):
        ProcessedFolder(folder).pcm(1)
    path.unlink()
    with pytest.raises(InputError, match=r"1\.npy is missing or damaged"):
        ProcessedFolder(folder).pcm(1)


def test_damaged_events_are_refused(folder):
    path = folder / "1.npz"
    whole = path.read_bytes()
    for spoilt in (b"", whole[:50], whole[: len(whole) // 2], whole[:-1]):
        path.write_bytes(spoilt)
        with pytest.raises(InputError, match=r"1\.npz"):
            ProcessedFolder(folder).performance(1)


@contextlib.contextmanager
def few_files(more: int):
    """No more than so many files beyond those that are open now."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(map(int, os.listdir("/proc/self/fd")))
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + more, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts open files in /proc")
def test_more_recordings_than_open_files_are_allowed(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda _: None)
    sounds = write_folder(tmp_path / "data", [20 + i for i in range(200)])
    opened = ProcessedFolder(tmp_path / "data")
    first = opened.pcm(0)
    with few_files(processed_folder.MAPPED_RECORDINGS + 20):
        for position in (*range(200), *range(200)):
            assert np.array_equal(opened.pcm(position), sounds[position])
        recent = opened.pcm(199)
        assert opened.pcm(199) is recent
    assert np.array_equal(first, sounds[0])  # A mapping is closed only when nobody uses it any more.


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts open files in /proc")
def test_too_many_open_files_are_not_reported_as_damage(folder):
    opened = ProcessedFolder(folder)
    for read in (lambda: opened.pcm(1), lambda: opened.performance(1), lambda: ProcessedFolder(folder)):
        with few_files(1), contextlib.ExitStack() as others:
            with contextlib.suppress(OSError):
                while True:
                    others.enter_context(open(os.devnull))
            with pytest.raises(OSError, match="Too many open files"):
                read()
    assert opened.pcm(1).shape == (4000,)


@pytest.fixture
def unmapped(monkeypatch):
    """A file system that cannot map files into memory."""

    def refuse(*_arguments, **_options):
        raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))

    monkeypatch.setattr("mmap.mmap", refuse)


def test_recordings_are_read_where_they_cannot_be_mapped(folder, unmapped, capsys):
    opened = ProcessedFolder(folder)
    for position in (0, 1, 1):
        pcm = opened.pcm(position)
        assert not isinstance(pcm, np.memmap) and pcm.dtype == np.int16 and not pcm.flags.writeable
        assert np.array_equal(pcm, np.load(folder / f"{opened.rows[position].index}.npy"))
    assert capsys.readouterr().err.count("cannot map files into memory") == 1
    path = folder / "1.npy"
    whole = path.read_bytes()
    for spoilt in (b"", whole[:60], whole[:-1], b"PK\x03\x04" + whole):
        path.write_bytes(spoilt)
        with pytest.raises(InputError, match=r"1\.npy is missing or damaged"):
            ProcessedFolder(folder).pcm(1)


def test_few_recordings_that_are_read_are_kept(tmp_path, unmapped, monkeypatch):
    monkeypatch.setattr(processed_folder, "READ_RECORDINGS", 2)
    sounds = write_folder(tmp_path / "data", [20, 21, 22, 23])
    opened = ProcessedFolder(tmp_path / "data")
    assert all(np.array_equal(opened.pcm(position), sounds[position]) for position in (*range(4), *range(4)))
    assert len(opened._mapped) == 2


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES, errno.ENOMEM, errno.ESTALE])
def test_what_the_system_cannot_read_is_not_called_damaged(folder, monkeypatch, number):
    """The advice would be to preprocess again."""
    opened, real = ProcessedFolder(folder), open

    def refuse(path, *arguments, **options):
        if str(path).startswith(str(folder)):
            raise OSError(number, os.strerror(number), str(path))
        return real(path, *arguments, **options)

    monkeypatch.setattr("builtins.open", refuse)
    monkeypatch.setattr("io.open", refuse)
    for read in (
        lambda: opened.pcm(1),
        lambda: opened.performance(1),
        lambda: opened.facts(1),
        lambda: ProcessedFolder(folder),
    ):
        with pytest.raises(OSError) as caught:
            read()
        assert caught.value.errno == number
