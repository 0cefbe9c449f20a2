"""Files without permission, also for the tests of a superuser."""

import builtins
import errno
import io
import os
from pathlib import Path
from typing import Any

import pytest


def forbid(monkeypatch: pytest.MonkeyPatch, *paths: Path) -> None:
    """Make Python's `open` of these paths fail as for a user without permission."""
    real_open = io.open
    names = {str(path) for path in paths}

    def open_unless_forbidden(file: Any, *args: Any, **kwargs: Any) -> Any:
        if str(file) in names:
            raise PermissionError(errno.EACCES, "Permission denied", str(file))
        return real_open(file, *args, **kwargs)

    monkeypatch.setattr(io, "open", open_unless_forbidden)
    monkeypatch.setattr(builtins, "open", open_unless_forbidden)


def forbid_new_files(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Make Python's `open` of files to be made in a folder fail as for a user who may only read it."""
    real_open = io.open

    def open_unless_new(file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        is_path = isinstance(file, str | os.PathLike)
        if is_path and Path(file).parent == folder and set(mode) & set("wax") and not Path(file).exists():
            raise PermissionError(errno.EACCES, "Permission denied", str(file))
        return real_open(file, mode, *args, **kwargs)

    monkeypatch.setattr(io, "open", open_unless_new)
    monkeypatch.setattr(builtins, "open", open_unless_new)


def forbid_replacing(monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
    """Make the last step of writing this file fail as for a user without permission."""
    real_replace = os.replace

    def replace_unless_forbidden(source: Any, target: Any) -> None:
        if str(target) == str(path):
            raise PermissionError(errno.EACCES, "Permission denied", str(target))
        real_replace(source, target)

    monkeypatch.setattr(os, "replace", replace_unless_forbidden)
