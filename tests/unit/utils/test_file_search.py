"""Walking a folder: links, circles, and what cannot be opened."""

import errno
import os
from pathlib import Path

import pytest

from midi2wave.utils import file_search
from midi2wave.utils.file_search import UnreadFiles, expand_folders, walk_folder


def make(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def names_in(folder: Path) -> list[str]:
    return [path.as_posix() for path in walk_folder(folder).paths]


@pytest.mark.links
def test_links_to_folders_are_followed_once(tmp_path):
    make(tmp_path / "disk", "2008/a.wav", "2008/deep/b.wav", "c.wav")
    make(tmp_path / "in", "z/d.wav", ".e.wav")
    (tmp_path / "in/2008").symlink_to(tmp_path / "disk/2008")
    (tmp_path / "in/same").symlink_to(tmp_path / "disk/2008")
    (tmp_path / "in/a").symlink_to("z")  # The folder itself is preferred to a link that is sorted before it.
    (tmp_path / "in/file.wav").symlink_to(tmp_path / "disk/c.wav")
    (tmp_path / "link").symlink_to(tmp_path / "in")
    names = ["2008/a.wav", "2008/deep/b.wav", "file.wav", "z/d.wav"]
    assert names_in(tmp_path / "in") == names_in(tmp_path / "link") == names


@pytest.mark.links
def test_circles_end(tmp_path):
    make(tmp_path / "in", "a/b.wav")
    make(tmp_path / "disk", "c.wav")
    (tmp_path / "in/self").symlink_to(".")
    (tmp_path / "in/a/up").symlink_to("..")
    (tmp_path / "in/a/root").symlink_to("/")
    (tmp_path / "in/a/parent").symlink_to(tmp_path)  # Followed, it would give disk/c.wav.
    (tmp_path / "in/loop.wav").symlink_to("loop.wav")
    assert names_in(tmp_path / "in") == ["a/b.wav"]
    (tmp_path / "in/disk").symlink_to(tmp_path / "disk")
    (tmp_path / "disk/back").symlink_to(tmp_path / "in")
    assert names_in(tmp_path / "in") == ["a/b.wav", "disk/c.wav"]


@pytest.mark.links
def test_what_is_no_file_is_named(tmp_path):
    make(tmp_path, "a.wav", "folder.wav/b.wav", "lost+found/c.wav")
    (tmp_path / "gone.wav").symlink_to("/no/disk/gone.wav")
    (tmp_path / "gone.txt").symlink_to("/no/disk/gone.txt")
    (tmp_path / "2008").symlink_to("/no/disk/2008")
    os.mkfifo(tmp_path / "pipe.WAV")
    tree = walk_folder(tmp_path)
    assert [path.as_posix() for path in tree.select((".wav",))] == ["a.wav", "folder.wav/b.wav"]
    failures = {failure.item: failure.reason for failure in tree.failures_of((".wav",))}
    assert failures.keys() == {"2008", "gone.wav", "pipe.WAV"}
    assert "/no/disk/2008, which is not there" in failures["2008"] and "is no file" in failures["pipe.WAV"]


def test_folder_without_permission_is_named(tmp_path, monkeypatch):
    make(tmp_path, "a.wav", "secret/b.wav")
    real = os.scandir

    def scandir(path):
        if Path(path).name == "secret":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(file_search.os, "scandir", scandir)
    tree = walk_folder(tmp_path)
    assert [path.name for path in tree.paths] == ["a.wav"]
    assert [(one.item, one.reason) for one in tree.failures] == [("secret", f"no permission for {tmp_path}/secret")]


UNREAD = UnreadFiles((".m4a", ".wma"), "audio", "convert them")


def test_message_counts_kinds_and_names_some(tmp_path, capsys):
    make(tmp_path, *(f"{number}.m4a" for number in range(6)), "deep/x.WMA", "y.wav")
    assert len(walk_folder(tmp_path).log_left_out(UNREAD)) == 7
    assert capsys.readouterr().err == (
        "left out: 7 files of audio (6 .m4a, 1 .wma): 0.m4a, 1.m4a, 2.m4a, 3.m4a, 4.m4a and 2 more; convert them\n"
    )
    assert walk_folder(tmp_path / "deep").log_left_out(UnreadFiles((".wav",), "audio", "")) == []
    assert capsys.readouterr().err == ""


@pytest.mark.links
@pytest.mark.parametrize("as_link", [False, True])
def test_folders_among_files_are_expanded(tmp_path, as_link):
    make(tmp_path / "songs", "b.mid", "deep/a.KAR", "c.txt")
    make(tmp_path / "empty", "c.txt")
    folder = tmp_path / "songs"
    if as_link:
        folder = tmp_path / "link"
        folder.symlink_to("songs")
    files, failures = expand_folders([tmp_path / "x.mid", folder, tmp_path / "empty"], (".mid", ".kar"), UNREAD)
    assert files == [tmp_path / "x.mid", folder / "b.mid", folder / "deep/a.KAR"]
    assert [failure.item for failure in failures] == [str(tmp_path / "empty")]
