"""Files that are either complete or absent, and output folders that are never overwritten by mistake.

A file is written under a temporary name and then renamed, so that a reader, or a rerun after a crash or on a full disk,
never reads half a file. The temporary name starts with a dot and ends with `.partial`, so that what a killed process
left is recognised and never read.
"""

import contextlib
import json
import os
import re
import secrets
import shutil
import sys
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

from midi2wave.utils.errors import InputError
from midi2wave.utils.file_names import MAX_NAME_BYTES, fit_name

Record = dict[str, Any]

WINDOWS = sys.platform == "win32"
RENAME_WAITS = (0.01, 0.03, 0.1, 0.3, 1.0)  # In seconds, between attempts.
# The dot, the number of the process, the random digits and the suffix that a temporary name has beside the file's name.
_TEMPORARY_BYTES = 40


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
        yield tmp_path
        _sync(tmp_path)
        replace(tmp_path, path)
    finally:
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
        yield tmp_path
        for file in filter(Path.is_file, tmp_path.rglob("*")):
            _sync(file)
        replace(tmp_path, path)
    finally:
        shutil.rmtree(tmp_path, ignore_errors=True)


def remove_partial_files(folder: Path, names: set[str]) -> None:
    """Remove what a killed run left of the files of these names; only for the sole process that writes them."""
    stems = {_temporary_stem(name) for name in names}
    for path in folder.iterdir() if folder.is_dir() else ():
        match = re.fullmatch(r"\.(.+)\.\d+-[0-9a-f]{8}\.partial", path.name)
        if match and match[1] in stems:
            path.unlink(missing_ok=True)


def remove_all_partial_files(folder: Path) -> None:
    """Remove what killed processes left in a folder that no other process writes to."""
    for path in folder.glob(".*.partial"):
        remove(path)


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


def require_own_dir(folder: Path, record_name: str) -> None:
    """Check that a folder is absent or empty, or was made by this command.

    Args:
        folder: The folder.
        record_name: The file that this command writes first.

    Raises:
        InputError: It is a file, or it holds files but no record.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file, expected a folder")
    # Listed before the record is looked for: another process that acquires the folder now writes the record first.
    has_files = folder.is_dir() and any(not p.name.startswith(".") for p in folder.iterdir())
    if has_files and not (folder / record_name).is_file():
        raise InputError(
            f"{folder} exists and is not empty, and this command did not make it (no {record_name}); "
            "choose another folder"
        )


def check_output_dir(
    folder: Path,
    record_name: str,
    record: Record,
    products: tuple[str, ...],
    *,
    force: bool,
    migrate: Callable[[Record], Record] | None = None,
) -> list[Path]:
    """Check that `acquire_output_dir` will accept a folder; changes nothing.

    Args:
        folder: The folder.
        record_name: The file that holds the record.
        record: All that the products depend on (the resolved config).
        products: Patterns of the files that are made from it.
        force: Whether products of another record may be removed.
        migrate: Translates a record that an earlier version wrote into today's names.

    Returns:
        The products that must be removed first.

    Raises:
        InputError: The folder holds files of others, or products of another record.
    """
    require_own_dir(folder, record_name)
    path = folder / record_name
    if not path.is_file() or (not force and _holds_record(path, record, migrate)):
        return []
    outdated = [file for pattern in products for file in folder.glob(pattern)]
    if outdated and not force:
        raise InputError(f"{folder} holds results of another config ({path}); choose another folder, or use --force")
    return outdated


def acquire_output_dir(
    folder: str | Path,
    record_name: str,
    record: Record,
    products: tuple[str, ...],
    *,
    force: bool,
    migrate: Callable[[Record], Record] | None = None,
) -> None:
    """Make a folder the place of products that depend on `record`, or refuse.

    Work on a folder with the same record resumes: what is finished stays. A folder whose record is another one is
    accepted only if nothing was made from that, or with `force`; then its products are removed, so that a rerun never
    takes an old product for a finished one. A folder with files of others is always refused: `force` removes nothing
    but what the same command made before.

    Args:
        folder: The folder; made if need be.
        record_name: The file that holds the record.
        record: All that the products depend on (the resolved config).
        products: Patterns of the files that are made from it.
        force: Whether products of another record are removed.
        migrate: Translates a record that an earlier version wrote into today's names.

    Raises:
        InputError: The folder is refused.
        OSError: It cannot be written to.
    """
    folder = Path(folder)
    outdated = check_output_dir(folder, record_name, record, products, force=force, migrate=migrate)
    path = folder / record_name
    text = _record_text(record)
    if not force and path.is_file() and path.read_bytes() == text.encode():
        return
    for file in outdated:
        file.unlink()
    write_text(path, text)


def _holds_record(path: Path, record: Record, migrate: Callable[[Record], Record] | None) -> bool:
    """Whether a file holds a record, be it in the names of an earlier version."""
    stored = path.read_bytes()
    if stored == _record_text(record).encode() or migrate is None:
        return stored == _record_text(record).encode()
    try:
        former = json.loads(stored)
    except ValueError:
        return False
    return isinstance(former, dict) and _record_text(migrate(former)) == _record_text(record)


def _record_text(record: Record) -> str:
    return json.dumps(record, indent=2, sort_keys=True) + "\n"
