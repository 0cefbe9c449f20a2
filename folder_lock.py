"""One run at a time on a folder of results.

The lock is the system's (flock) on a hidden file in the folder: it ends with the process that holds it, however that
ends, so that there is never a stale one to remove. Where a file system knows no locks, or nothing may be written, the
run is told so and goes on.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from cli import note
from errors import InputError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

LOCK_NAME = ".midi2wave.lock"


@contextlib.contextmanager
def only_run(folder: Path, shard: str = "") -> Iterator[None]:
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
        note(f"{folder} cannot be locked ({error.strerror}); do not start a second run on it")
        return
    held.callback(os.close, handle)
    try:
        fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        raise InputError(
            f"another run is working on {folder}; wait until it has ended, or choose another folder"
        ) from None
    except OSError as error:
        note(f"{folder} cannot be locked ({error.strerror}); do not start a second run on it")
