"""Files that are either whole or not there, in folders that are ours: write aside, then rename; overwrite nothing.

A reader, or a rerun after a crash or on a full disk, never meets half a file. The aside name starts with a dot and ends
with `.partial`, so that a leftover of a killed process is recognised and never read.
"""

import contextlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from midi2wave.utils.errors import InputError


def _aside(path: Path) -> Path:
    # Processes of several hosts that share a folder may have the same number.
    return path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.partial")


def _sync(path: Path) -> None:
    with open(path, "rb") as handle:  # the data must reach the disk before the name does
        os.fsync(handle.fileno())


@contextlib.contextmanager
def atomic_file(path: str | Path) -> Iterator[Path]:
    """Yield a path to write to; on success it becomes `path` in one step, on any failure nothing is left.

    The aside file lies in the same folder, since a rename is atomic only within one file system. Raises OSError
    (full disk, no permission) after cleaning up.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = _aside(path)
    try:
        yield aside
        _sync(aside)
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Like `atomic_file` for a whole folder that must not exist yet (a checkpoint)."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = _aside(path)
    aside.mkdir()
    try:
        yield aside
        for file in filter(Path.is_file, aside.rglob("*")):
            _sync(file)
        os.replace(aside, path)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def remove_partial_files(folder: Path, names: set[str]) -> None:
    """Remove the half-written asides of `names` that a killed run left; for whoever alone works on the folder."""
    for path in folder.iterdir() if folder.is_dir() else ():
        whole = re.fullmatch(r"\.(.+)\.\d+-[0-9a-f]{8}\.partial", path.name)
        if whole and whole[1] in names:
            path.unlink(missing_ok=True)


def remove_all_partial_files(folder: Path) -> None:
    """Remove what processes that were killed while writing left aside in a folder that is ours alone."""
    for path in folder.glob(".*.partial"):
        remove(path)


def remove(path: Path) -> None:
    """Remove a file, a link or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def update_symlink(link: Path, target: Path) -> None:
    """Make `link` a symbolic link to a neighbour in the same folder, in one step; where there are none, do without."""
    aside = _aside(link)
    if not link.is_symlink():  # nothing, or a folder, where the run was copied by something that follows links
        remove(link)
    with contextlib.suppress(NotImplementedError, PermissionError):
        aside.symlink_to(target.name)
        os.replace(aside, link)


def write_text(path: str | Path, text: str) -> None:
    """Write a small text file atomically, as UTF-8."""
    with atomic_file(path) as aside:
        aside.write_text(text, encoding="utf-8")


def require_own_dir(folder: Path, record_name: str) -> None:
    """InputError if `folder` is a file, or holds files that are not ours (no record of that name)."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file, expected a folder")
    # Listed before the record is looked for: whoever else claims the folder now writes the record first.
    others = folder.is_dir() and any(not p.name.startswith(".") for p in folder.iterdir())
    if others and not (folder / record_name).is_file():
        raise InputError(
            f"{folder} exists and is not empty, and this command did not make it (no {record_name}); "
            "choose another folder"
        )


def acquire_output_dir(
    folder: str | Path, record_name: str, record: dict[str, Any], products: tuple[str, ...], *, force: bool
) -> None:
    """Make `folder` ours for products made from `record` (the resolved config), or refuse.

    A folder with the same record is gone on with (what is finished stays); an empty one is taken. One with another
    record is refused by InputError once something was made from that, unless `force`: then files that match the
    `products` patterns are removed, so that a rerun never takes an old product for a finished one. A folder of foreign
    files is always refused: `force` may remove what the same step made before, nothing else.
    """
    folder = Path(folder)
    require_own_dir(folder, record_name)
    path, text = folder / record_name, json.dumps(record, indent=2, sort_keys=True) + "\n"
    if path.is_file():
        made = [file for pattern in products for file in folder.glob(pattern)]
        if not force and path.read_bytes() == text.encode():
            return
        if not force and made:
            raise InputError(
                f"{folder} holds results of another config ({path}); choose another folder, or use --force"
            )
        for old in made:
            old.unlink()
    write_text(path, text)
