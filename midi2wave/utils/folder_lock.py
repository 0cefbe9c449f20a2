"""One run at a time on a folder of results.

The lock is the system's (flock) on a hidden file in the folder. It ends with the process that holds it, however that
ends, so that there is never a stale one to remove. Where a file system has no locks, or the folder is read-only, the
run goes on with a message.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from midi2wave.utils.cli import log
from midi2wave.utils.errors import InputError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

LOCK_NAME = ".midi2wave.lock"

_open_lock_files: set[int] = set()  # File descriptors of this process.


def _close_lock_files() -> None:
    for handle in _open_lock_files:
        os.close(handle)


if hasattr(os, "register_at_fork"):
    # A lock lives as long as any process has its file open: forked workers must not keep it after the run was killed.
    os.register_at_fork(after_in_child=_close_lock_files)


@contextlib.contextmanager
def lock_folder(folder: Path, shard: str = "") -> Iterator[None]:
    """Context manager that locks a folder for one run, or for one of several shards.

    Args:
        folder: The folder; made if need be.
        shard: Name of the shard; shards of different names may hold the folder at the same time.

    Raises:
        InputError: Another run holds the folder.
        OSError: The folder cannot be made.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as exit_stack:
        _lock(exit_stack, folder, LOCK_NAME, shared=bool(shard))
        if shard:
            _lock(exit_stack, folder, f"{LOCK_NAME}.{shard}", shared=False)
        yield


def _lock(exit_stack: contextlib.ExitStack, folder: Path, name: str, *, shared: bool) -> None:
    if fcntl is None:
        return
    try:
        handle = os.open(folder / name, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:  # A read-only folder: the run can still find that everything is done.
        log(f"{folder} cannot be locked ({error.strerror}); do not start a second run on it")
        return
    _open_lock_files.add(handle)
    exit_stack.callback(_release, handle)
    try:
        fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        raise InputError(
            f"another run is working on {folder}; wait until it has ended, or choose another folder"
        ) from None
    except OSError as error:
        log(f"{folder} cannot be locked ({error.strerror}); do not start a second run on it")


def _release(handle: int) -> None:
    _open_lock_files.discard(handle)
    os.close(handle)
