"""One run at a time on a folder of results.

The lock is the system's, on a hidden file in the folder. It ends with the process that holds it, however that ends, so
that there is never a stale one to remove. Where a file system has no locks, or the folder is read-only, the run goes on
with a message.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import filelock

from midi2wave.utils.atomic_files import remove_partial_files
from midi2wave.utils.cli import log
from midi2wave.utils.errors import InputError
from midi2wave.utils.file_names import MAX_NAME_BYTES, fit_name
from midi2wave.utils.output_folder import require_own_dir

LOCK_NAME = ".midi2wave.lock"
# A shard that starts holds the folder's lock for an instant; others that start wait so long for it.
SHARD_START_SECONDS = 2.0


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
        try:
            _lock(exit_stack, folder, shard)
        except filelock.Timeout:
            raise InputError(
                f"another run is working on {folder}; wait until it has ended, or choose another folder"
            ) from None
        except OSError as error:  # A read-only folder: the run can still find that everything is done.
            log(f"{folder} cannot be locked ({error.strerror}); do not start a second run on it")
        yield


@contextlib.contextmanager
def lock_own_folder(folder: Path, record_name: str, shard: str = "") -> Iterator[None]:
    """Context manager that locks a folder which only one command writes to, and removes what killed runs left in it.

    Args:
        folder: The folder; made if need be.
        record_name: The file that this command writes first.
        shard: As of `lock_folder`; other shards may be writing, so that a shard removes nothing.

    Raises:
        InputError: The folder holds files of other origin, which is found before anything is written, or another run
            holds it.
        OSError: The folder cannot be made.
    """
    require_own_dir(folder, record_name)
    with lock_folder(folder, shard):
        if not shard:
            remove_partial_files(folder)
        yield


@contextlib.contextmanager
def lock_output(path: Path) -> Iterator[None]:
    """Context manager that locks a single file or folder that a run makes, and removes what a killed run left of it.

    Args:
        path: The file or folder; the folder that it lies in is made if need be.

    Raises:
        InputError: Another run makes it.
        OSError: The folder that it lies in cannot be made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock_path = path.with_name(f".{fit_name(path.name, LOCK_NAME, MAX_NAME_BYTES - 1)}")
    with contextlib.ExitStack() as exit_stack:
        try:
            exit_stack.enter_context(_file_lock(lock_path))
        except filelock.Timeout:
            raise InputError(f"another run is making {path}; wait until it has ended, or choose another name") from None
        except OSError as error:
            log(f"{path} cannot be locked ({error.strerror}); do not start a second run on it")
        remove_partial_files(path.parent, {path.name})
        try:
            yield
        finally:
            # The folder is the user's: nothing is to stay in it but the output.
            with contextlib.suppress(OSError):
                lock_path.unlink(missing_ok=True)


def _lock(exit_stack: contextlib.ExitStack, folder: Path, shard: str) -> None:
    """Take the lock of the folder, and that of each shard; a shard keeps only its own."""
    if not shard:
        exit_stack.enter_context(_file_lock(folder / LOCK_NAME))
        for path in folder.glob(f"{LOCK_NAME}.*"):
            with _file_lock(path):
                pass  # No shard can start after this, without the folder's lock.
        return
    with _file_lock(folder / LOCK_NAME, SHARD_START_SECONDS):
        exit_stack.enter_context(_file_lock(folder / f"{LOCK_NAME}.{shard}"))


def _file_lock(path: Path, seconds: float = 0.0) -> filelock.FileLock:
    # Without the fallback, whose lock files would stay behind after a run was killed.
    return filelock.FileLock(path, seconds, poll_interval=0.01, fallback_to_soft=False)
