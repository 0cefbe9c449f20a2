"""Files that are either complete or absent.

A file is written under a temporary name and then renamed, so that a reader, or a rerun after a crash or on a full disk,
never reads half a file. The temporary name starts with a dot and ends with `.partial`, so that what a killed process
left is recognised and never read.
"""

import contextlib
import errno
import os
import re
import secrets
import shutil
import sys
import time
from collections.abc import Collection, Iterator
from pathlib import Path

from midi2wave.utils.errors import DISK_FULL_ERRNOS
from midi2wave.utils.file_names import MAX_NAME_BYTES, fit_name

WINDOWS = sys.platform == "win32"
RENAME_WAITS = (0.01, 0.03, 0.1, 0.3, 1.0)  # In seconds, between attempts.
# The dot, the number of the process, the random digits and the suffix that a temporary name has beside the file's name.
_TEMPORARY_BYTES = 40
# A temporary name, and in it the name of the file; those of former versions end with the number of the process.
PARTIAL_NAME = re.compile(r"\.(.+)\.\d+(-[0-9a-f]{8})?\.partial", re.DOTALL)


def _temporary_stem(name: str) -> str:
    """The part of a temporary name that says which file it is for: the file's name, cut if it is long."""
    return fit_name(name, "", MAX_NAME_BYTES - _TEMPORARY_BYTES)


def _temporary_path(path: Path) -> Path:
    # Processes of several hosts that share a folder may have the same number.
    return path.with_name(f".{_temporary_stem(path.name)}.{os.getpid()}-{secrets.token_hex(4)}.partial")


def _sync(path: Path) -> None:
    # The data must reach the disk before the name does.
    with open(path, "r+b") as handle:  # Windows flushes only files that are open for writing.
        os.fsync(handle.fileno())


def replace(source: Path, target: Path) -> None:
    """Rename a file or a folder, as `os.replace`; on Windows, wait for programs that look at new files.

    Virus scanners and indexers open each new file for a moment, and Windows renames no file that is open.
    """
    for seconds in RENAME_WAITS if WINDOWS else ():
        with contextlib.suppress(PermissionError):
            return os.replace(source, target)
        time.sleep(seconds)
    os.replace(source, target)


@contextlib.contextmanager
def _named_when_full(path: Path) -> Iterator[None]:
    # Writing to an open file on a full disk raises an error without the name that the user's message needs.
    try:
        yield
    except OSError as error:
        if error.errno in DISK_FULL_ERRNOS and error.filename is None:
            error.filename = str(path)
        raise


@contextlib.contextmanager
def atomic_file(path: str | Path) -> Iterator[Path]:
    """Context manager for writing a file: it appears under its name at the end, or not at all.

    Args:
        path: Where the file is to be. Its folder is made if need be.

    Yields:
        The temporary path to write to. It lies in the same folder, since a rename is atomic only within one file
        system.

    Raises:
        OSError: The disk is full or there is no permission; nothing is left behind.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    tmp_path = _temporary_path(path)
    try:
        with _named_when_full(path):
            yield tmp_path
            _sync(tmp_path)
            replace(tmp_path, path)
    finally:
        tmp_path.unlink(missing_ok=True)


def require_writable(folder: Path, names: Collection[str]) -> None:
    """Check that files can be written to a folder, before a long computation of what they are to hold.

    Args:
        folder: The folder, which exists.
        names: The names of the files.

    Raises:
        OSError: A folder has one of the names, or no file can be made in the folder.
    """
    for name in names:
        if (folder / name).is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(folder / name))
    for name in names:
        tmp_path = _temporary_path(folder / name)
        try:
            with open(tmp_path, "xb"):
                pass
        except OSError as error:
            error.filename = str(folder / name)
            raise
        finally:
            with contextlib.suppress(OSError):
                tmp_path.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Like `atomic_file` for a whole folder that must not exist yet (a checkpoint).

    Args:
        path: Where the folder is to be.

    Yields:
        The temporary folder to write to.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    tmp_path = _temporary_path(path)
    tmp_path.mkdir()
    try:
        with _named_when_full(path):
            yield tmp_path
            for file in filter(Path.is_file, tmp_path.rglob("*")):
                _sync(file)
            replace(tmp_path, path)
    finally:
        shutil.rmtree(tmp_path, ignore_errors=True)


def remove_partial_files(folder: Path, names: set[str] | None = None) -> None:
    """Remove what killed processes left of files and folders.

    Args:
        folder: The folder.
        names: The names of those that only this process writes; None: no other process writes to the folder.
    """
    stems = None if names is None else {_temporary_stem(name) for name in names}
    for path in list(folder.iterdir()) if folder.is_dir() else ():
        match = PARTIAL_NAME.fullmatch(path.name)
        if not match or (stems is not None and match[1] not in stems):
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def remove(path: Path) -> None:
    """Remove a file, a link or a folder, if it is there.

    A folder is renamed first, so that a process that is killed meanwhile leaves no part of it under its name.
    """
    if path.is_dir() and not path.is_symlink():
        tmp_path = _temporary_path(path)
        replace(path, tmp_path)
        shutil.rmtree(tmp_path)
    else:
        path.unlink(missing_ok=True)


def remove_own_files(folder: Path, names: Collection[str]) -> None:
    """Remove the files of these names from a folder, and the folder unless it holds other files, which stay.

    Hidden files, which systems leave in folders by themselves, are removed with the folder.
    """
    if all(path.name in names or path.name.startswith(".") for path in folder.iterdir()):
        remove(folder)
        return
    for name in names:
        (folder / name).unlink(missing_ok=True)


def update_symlink(link: Path, target: Path) -> bool:
    """Make `link` a symbolic link to a file of the same folder, atomically.

    Returns:
        Whether there is such a link now. There is none, and none of an earlier target either, where the file system has
        no links (it may answer with any error), and where something else than a link has that name, which stays.
    """
    if os.path.lexists(link) and not link.is_symlink():
        return False
    tmp_path = _temporary_path(link)
    try:
        tmp_path.symlink_to(target.name)
        os.replace(tmp_path, link)
    except (OSError, NotImplementedError):
        for path in (tmp_path, link):
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
        return False
    return True


def write_text(path: str | Path, text: str) -> None:
    """Write a small text file atomically, as UTF-8 with the line ends of the text."""
    with atomic_file(path) as tmp_path:
        # With "\n" on every system: records are compared byte for byte, and a CSV has its own line ends.
        tmp_path.write_text(text, encoding="utf-8", newline="\n")
