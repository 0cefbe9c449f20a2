"""Files and folders are whole or not there."""

import errno
import os

import pytest

from midi2wave.utils import atomic_files
from midi2wave.utils.atomic_files import (
    atomic_file,
    atomic_folder,
    remove_own_files,
    remove_partial_files,
    require_writable,
    update_symlink,
    write_text,
)
from tests.helpers.forbidden import forbid_new_files


def names(folder) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_file_appears_when_complete_in_a_new_folder(tmp_path):
    path = tmp_path / "a" / "b" / "x.bin"
    with atomic_file(path) as partial:
        assert partial.parent == path.parent and partial.name.startswith(".") and partial.name.endswith(".partial")
        partial.write_bytes(b"half")
        assert not path.exists()
    assert path.read_bytes() == b"half" and names(path.parent) == {"x.bin"}


@pytest.mark.parametrize("atomic", [atomic_file, atomic_folder])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_names_the_file(tmp_path, atomic, number):
    """write() raises an error without a name, which the message to the user needs; other errors keep theirs."""
    path = tmp_path / "x"
    with pytest.raises(OSError, match="x") as full, atomic(path):
        raise OSError(number, "no space")
    assert full.value.filename == str(path) and names(tmp_path) == set()
    with pytest.raises(OSError, match="read") as other, atomic(path):
        raise OSError(errno.EIO, "a read failed")
    assert other.value.filename is None


@pytest.mark.parametrize("error", [ValueError, OSError, KeyboardInterrupt])
def test_failure_keeps_the_old_file_and_leaves_nothing(tmp_path, error):
    path = tmp_path / "x"
    path.write_text("old")
    with pytest.raises(error), atomic_file(path) as partial:
        partial.write_text("new, but ha")
        raise error
    assert path.read_text() == "old" and names(tmp_path) == {"x"}


def test_names_that_cannot_be_written_are_noticed_before(tmp_path, monkeypatch):
    (tmp_path / "there").write_text("old")
    require_writable(tmp_path, ["there", "new"])
    assert names(tmp_path) == {"there"} and (tmp_path / "there").read_text() == "old"
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError, match="folder"):
        require_writable(tmp_path, ["new", "folder"])
    forbid_new_files(monkeypatch, tmp_path)
    with pytest.raises(PermissionError) as forbidden:
        require_writable(tmp_path, ["new"])
    assert forbidden.value.filename == str(tmp_path / "new") and names(tmp_path) == {"there", "folder"}


def test_file_with_the_name_of_a_folder_is_an_os_error(tmp_path):
    """Nothing is left behind."""
    (tmp_path / "x").mkdir()
    with pytest.raises(OSError):
        write_text(tmp_path / "x", "text")
    assert names(tmp_path) == {"x"}


def test_folder_appears_when_complete(tmp_path):
    with atomic_folder(tmp_path / "runs" / "step") as partial:
        (partial / "deep").mkdir()
        (partial / "deep" / "file").write_text("x")
        assert not (tmp_path / "runs" / "step").exists()
    assert (tmp_path / "runs" / "step" / "deep" / "file").read_text() == "x"
    assert names(tmp_path / "runs") == {"step"}


def test_failure_leaves_no_folder(tmp_path):
    with pytest.raises(OSError, match="full"), atomic_folder(tmp_path / "step") as partial:
        (partial / "file").write_text("x")
        raise OSError("full")
    assert not names(tmp_path)


def test_folder_with_files_is_never_replaced(tmp_path):
    write_text(tmp_path / "step" / "file", "old")
    with pytest.raises(OSError), atomic_folder(tmp_path / "step") as partial:
        (partial / "file").write_text("new")
    assert (tmp_path / "step" / "file").read_text() == "old" and names(tmp_path) == {"step"}


def test_partial_files_do_not_enter_a_new_folder(tmp_path):
    """What a killed process left is not part of a folder that is written later."""
    left = atomic_folder(tmp_path / "step")
    partial = left.__enter__()  # and never left
    write_text(partial / "old", "x")
    with atomic_folder(tmp_path / "step") as again:
        write_text(again / "new", "x")
    assert names(tmp_path / "step") == {"new"} and names(tmp_path) == {"step", partial.name}
    remove_partial_files(tmp_path)
    assert names(tmp_path) == {"step"}


def test_temporary_names_of_two_hosts_differ(tmp_path, monkeypatch):
    """Processes of two hosts that have the same number write to different temporary files."""
    monkeypatch.setattr(atomic_files.os, "getpid", lambda: 7)
    with atomic_file(tmp_path / "x") as first:
        with atomic_file(tmp_path / "x") as second:
            assert first != second
            second.write_text("second")
        first.write_text("first")
    assert (tmp_path / "x").read_text() == "first" and names(tmp_path) == {"x"}


def test_partial_files_are_recognised_by_name(tmp_path):
    """Only the partial files of the given names are removed."""
    left = []
    for name in ("a.wav", "b.wav", "a.wav.wav"):
        file = atomic_file(tmp_path / name)
        left.append((file, file.__enter__()))
        left[-1][1].write_text("half")
    (tmp_path / ".a.wav.partial").write_text("of somebody else")
    remove_partial_files(tmp_path, {"a.wav"})
    assert names(tmp_path) == {".a.wav.partial", left[1][1].name, left[2][1].name}


def test_data_reach_the_disk_before_the_name_does(tmp_path, monkeypatch):
    calls = []
    sync, replace = os.fsync, os.replace
    monkeypatch.setattr(atomic_files.os, "fsync", lambda handle: (calls.append("fsync"), sync(handle)))
    monkeypatch.setattr(atomic_files.os, "replace", lambda *paths: (calls.append("replace"), replace(*paths)))
    write_text(tmp_path / "x", "text")
    with atomic_folder(tmp_path / "step") as partial:
        (partial / "a").write_text("x")
        (partial / "b").write_text("x")
    assert calls == ["fsync", "replace", "fsync", "fsync", "replace"]


def test_a_folder_is_never_half_removed(tmp_path, monkeypatch):
    """A process that is killed while it removes a checkpoint leaves no part of it under the checkpoint's name."""
    folder = tmp_path / "step_00000002"
    folder.mkdir()
    for name in ("weights", "training"):
        (folder / name).touch()

    def killed(path):
        (path / "training").unlink()
        raise KeyboardInterrupt

    monkeypatch.setattr(atomic_files.shutil, "rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        atomic_files.remove(folder)
    assert not folder.exists()
    monkeypatch.undo()
    atomic_files.remove_partial_files(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.links
@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EPERM, errno.EIO])
@pytest.mark.parametrize("broken", ["os.symlink", "os.replace"])
def test_no_link_is_made_where_none_is_possible(tmp_path, monkeypatch, number, broken):
    """A file system without links answers with any error; a link of an earlier target would be wrong."""
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
    assert update_symlink(tmp_path / "link", tmp_path / "old") and os.readlink(tmp_path / "link") == "old"

    def refuse(*_arguments, **_options):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(broken, refuse)
    assert not update_symlink(tmp_path / "link", tmp_path / "new")
    assert names(tmp_path) == {"old", "new"}


def test_a_link_replaces_nothing_but_a_link(tmp_path):
    (tmp_path / "target").mkdir()
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "mine").touch()
    (tmp_path / "file").write_text("mine")
    assert not update_symlink(tmp_path / "folder", tmp_path / "target")
    assert not update_symlink(tmp_path / "file", tmp_path / "target")
    assert names(tmp_path / "folder") == {"mine"} and (tmp_path / "file").read_text() == "mine"
    assert names(tmp_path) == {"target", "folder", "file"}


def test_own_files_are_removed_from_a_folder(tmp_path):
    for folder in ("own", "shared"):
        (tmp_path / folder).mkdir()
        for name in ("a", "b", ".DS_Store"):
            (tmp_path / folder / name).touch()
    (tmp_path / "shared" / "mine").touch()
    for folder in ("own", "shared"):
        remove_own_files(tmp_path / folder, ("a", "b", "c"))
    assert names(tmp_path) == {"shared"} and names(tmp_path / "shared") == {"mine", ".DS_Store"}
