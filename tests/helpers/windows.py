"""System calls that act as on Windows, on Linux: `python -m pytest -p tests.helpers.windows TESTS` tests with them.

Calls that differ fail as they do there: flushing of files opened for reading, links, replacing and removing of files
that are open or mapped, names with reserved characters. Line ends and the encoding of text are those of Windows.
"""

import builtins
import contextlib
import ctypes
import errno
import io
import os
import re
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

RESERVED = re.compile(r'[<>:"|?*]|[. ]$')
TEXT_ENCODING = "cp1252"


@pytest.fixture(autouse=True)
def on_windows(request: pytest.FixtureRequest) -> Iterator[None]:
    """Let all tests run with the system calls of Windows; only where this module is a plugin of pytest."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        act_as_windows(monkeypatch)
        yield


def act_as_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the system calls that differ."""
    for name in ("replace", "rename", "unlink", "remove"):
        monkeypatch.setattr(os, name, _refusing_open_files(getattr(os, name)))
    monkeypatch.setattr(os, "fsync", _refusing_readers(os.fsync))
    monkeypatch.setattr(os, "symlink", _no_links)
    monkeypatch.setattr(os, "mkdir", _refusing_reserved_names(os.mkdir))
    monkeypatch.setattr(os, "open", _refusing_folders(os.open))
    monkeypatch.setattr(shutil, "_use_fd_functions", False)  # It would open folders.
    monkeypatch.setattr(tempfile, "TemporaryFile", tempfile.NamedTemporaryFile)  # Elsewhere it removes an open file.
    monkeypatch.setattr(ctypes, "CDLL", _NamedLibrary)
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.delattr(signal, "SIGHUP")
    opens = _with_windows_text(io.open)
    monkeypatch.setattr(io, "open", opens)
    monkeypatch.setattr(builtins, "open", opens)


class _NamedLibrary(ctypes.CDLL):
    """A library; None is not the program itself, as it is elsewhere."""

    def __init__(self, name: str | None, *arguments: Any, **options: Any) -> None:
        if name is None:
            raise TypeError("argument of type 'NoneType' is not iterable")
        super().__init__(name, *arguments, **options)


def _no_links(source: Any, link: Any, target_is_directory: bool = False, **_: Any) -> None:
    # ERROR_PRIVILEGE_NOT_HELD, for which Python has no exception of its own.
    raise OSError(errno.EINVAL, "A required privilege is not held by the client", os.fspath(source), None, str(link))


def _refusing_readers(original: Callable[[int], None]) -> Callable[[int], None]:
    def fsync(handle: int) -> None:
        import fcntl

        if fcntl.fcntl(handle, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, "Bad file descriptor")
        original(handle)

    return fsync


def _refusing_folders(original: Callable[..., int]) -> Callable[..., int]:
    def open_handle(path: Any, *arguments: Any, **options: Any) -> int:
        if os.path.isdir(path):
            raise PermissionError(errno.EACCES, "Permission denied", os.fspath(path))
        return original(path, *arguments, **options)

    return open_handle


def _refusing_reserved_names(original: Callable[..., None]) -> Callable[..., None]:
    def function(path: Any, *arguments: Any, **options: Any) -> None:
        _check_name(path)
        original(path, *arguments, **options)

    return function


def _check_name(path: Any) -> None:
    if RESERVED.search(os.path.basename(os.fsdecode(path))):
        raise OSError(errno.EINVAL, "Invalid argument", os.fspath(path))


def _refusing_open_files(original: Callable[..., None]) -> Callable[..., None]:
    def function(*paths: Any, **options: Any) -> None:
        if "dir_fd" not in options:
            for path in paths:
                if _is_open(path):
                    message = "The process cannot access the file because it is being used by another process"
                    raise PermissionError(errno.EACCES, message, os.fspath(path))
        if len(paths) == 2:
            _check_name(paths[1])
        if original.__name__ == "rename" and os.path.exists(paths[1]):
            raise FileExistsError(errno.EEXIST, "Cannot create a file when that file already exists", str(paths[1]))
        original(*paths, **options)

    return function


def _is_open(path: Any) -> bool:
    """Whether this process has the file, or one in the folder, open or mapped."""
    real = os.path.realpath(os.fsdecode(path))
    used = set()
    for handle in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            used.add(os.readlink(f"/proc/self/fd/{handle}"))
    with io.FileIO("/proc/self/maps") as maps:
        used |= {line.split(maxsplit=5)[-1] for line in maps.readall().decode("utf-8", "replace").splitlines()}
    return any(name == real or name.startswith(f"{real}/") for name in used)


def _with_windows_text(original: Callable[..., Any]) -> Callable[..., Any]:
    def open_file(
        file: Any,
        mode: str = "r",
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
        **options: Any,
    ) -> Any:
        writes = any(letter in mode for letter in "wax+")
        if writes and isinstance(file, str | bytes | Path) and not str(file).startswith("/dev/"):
            _check_name(file)
        if "b" not in mode:
            encoding = TEXT_ENCODING if encoding in (None, "locale") else encoding
            newline = "\r\n" if newline is None and writes else newline
        return original(file, mode, buffering, encoding, errors, newline, **options)

    return open_file
