"""One run at a time on a folder of results.

The lock is the system's (flock) on a hidden file in the folder: it ends with the process that holds it, however that
ends, so that there is never a stale one to remove. Where a file system knows no locks, or nothing may be written, the
run is told so and goes on.
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
    fcntl = None

LOCK_NAME = ".midi2wave.lock"

_held: set[int] = set()  # open lock files of this process
if hasattr(os, "register_at_fork"):
    # A lock lives as long as any process has the file open: forked helpers must not outlive a killed run with it.
    os.register_at_fork(after_in_child=lambda: [os.close(handle) for handle in _held])


@contextlib.contextmanager
def lock_folder(folder: Path, shard: str = "") -> Iterator[None]:
    """Hold `folder` (made if need be) for one run, or as one of several shards of different names.

    Raises InputError if another run holds it, OSError if the folder can't be made.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as held:
        _hold(held, folder, LOCK_NAME, shared=bool(shard))
        if shard:
            _hold(held, folder, f"{LOCK_NAME}.{shard}", shared=False)
        yield


def _hold(held: contextlib.ExitStack, folder: Path, name: str, *, shared: bool) -> None:
    if fcntl is None:
        return
    try:
        handle = os.open(folder / name, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:  # a read-only folder: what is done can still be found so
        log(f"{folder} cannot be locked ({error.strerror}); do not start a second run on it")
        return
    _held.add(handle)
    held.callback(_release, handle)
    try:
        fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        raise InputError(
            f"another run is working on {folder}; wait until it has ended, or choose another folder"
        ) from None
    except OSError as error:
        log(f"{folder} cannot be locked ({error.strerror}); do not start a second run on it")


def _release(handle: int) -> None:
    _held.discard(handle)
    os.close(handle)
