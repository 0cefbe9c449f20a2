"""Arrays in files are mapped, or read where that is not possible; only what is damaged is called damaged."""

import errno
import os

import numpy as np
import pytest

from midi2wave.utils.array_files import load_arrays, map_array
from midi2wave.utils.errors import InputError
from nv_wavenet_bridge import bundle


@pytest.fixture
def unmapped(monkeypatch):
    """A file system that cannot map files into memory."""

    def refuse(*_arguments, **_options):
        raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))

    monkeypatch.setattr("mmap.mmap", refuse)


@pytest.mark.parametrize("mode", ["r", "c"])
def test_an_array_that_cannot_be_mapped_is_read(tmp_path, unmapped, mode):
    np.save(tmp_path / "x.npy", np.arange(5))
    array = map_array(tmp_path / "x.npy", mode)
    assert array.tolist() == [0, 1, 2, 3, 4] and array.flags.writeable == (mode == "c")
    np.savez(tmp_path / "x.npz", x=np.arange(5))
    for path, words in (("x.npz", "magic string is not correct"), ("none.npy", "No such file")):
        with pytest.raises(InputError, match=words):
            map_array(tmp_path / path)


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES, errno.EMFILE, errno.ENOMEM, errno.EOPNOTSUPP])
def test_what_the_system_cannot_read_is_not_called_damaged(tmp_path, monkeypatch, number):
    np.savez(tmp_path / "x.npz", x=np.arange(5))
    (tmp_path / bundle.BUNDLE_NAME).write_text("{}")
    with pytest.raises(InputError, match="is damaged"):
        bundle.read(tmp_path)

    def refuse(path, *_arguments, **_options):
        raise OSError(number, os.strerror(number), os.fspath(path))

    monkeypatch.setattr("builtins.open", refuse)
    monkeypatch.setattr("io.open", refuse)
    for read in (
        lambda: load_arrays(tmp_path / "x.npz"),
        lambda: map_array(tmp_path / "x.npz"),
        lambda: bundle.read(tmp_path),
    ):
        with pytest.raises(OSError) as caught:
            read()
        assert caught.value.errno == number


def test_damaged_arrays_are_called_damaged(tmp_path):
    """Readers that seek where damaged bytes point raise an OSError, too."""
    np.savez(tmp_path / "x.npz", x=np.arange(500))
    whole = (tmp_path / "x.npz").read_bytes()
    for size in range(0, len(whole), 97):
        (tmp_path / "x.npz").write_bytes(whole[:size])
        with pytest.raises(InputError):
            load_arrays(tmp_path / "x.npz")
