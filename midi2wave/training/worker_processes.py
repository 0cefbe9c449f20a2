"""Worker processes that read training data ahead: how they end, and what their failures mean.

PyTorch's `DataLoader` starts them. They must outlive the signals that ask a training to stop, since the step in
progress still needs their data; nothing else may outlive the training.
"""

import atexit
import contextlib
import errno
import functools
import multiprocessing
import multiprocessing.queues
import os
import shutil
import signal
import threading
from collections.abc import Iterator
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from typing import Any

from torch.utils.data import DataLoader

from midi2wave.utils.errors import InputError
from midi2wave.utils.signals import STOP_SIGNALS, end_with_parent

SHARED_MEMORY = "/dev/shm"
EXIT_NOT_HANDED_OVER = 70
JOIN_SECONDS = 5.0

TOO_MANY_FILES = ("Too many open files", "received 0 items of ancdata")
NO_SHARED_MEMORY = ("shared memory", "unable to resize file", "unable to write to file", "unable to mmap")


def init_worker(_worker: int) -> None:
    """Prepare a worker process; `worker_init_fn` of a `DataLoader`."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    end_with_parent("SIGKILL")  # Elsewhere than on Linux, PyTorch's workers look every 5 s for their parent.
    parent = multiprocessing.parent_process()
    if parent is not None and not parent.is_alive():  # It ended before the system was asked to tell.
        os._exit(EXIT_NOT_HANDED_OVER)
    # A batch that the queue's thread cannot send, for lack of file descriptors, would be dropped with a traceback, and
    # the training would wait for it for ever.
    multiprocessing.queues.Queue._on_queue_feeder_error = staticmethod(_exit_worker)  # type: ignore[attr-defined]


def _exit_worker(_error: Exception, _batch: Any) -> None:
    os._exit(EXIT_NOT_HANDED_OVER)


@contextlib.contextmanager
def iterate(loader: DataLoader) -> Iterator[Iterator[Any]]:
    """Context manager that iterates over a loader, and ends its workers when it is left, whatever was raised.

    Args:
        loader: The loader.

    Yields:
        The loader's iterator.

    Raises:
        InputError: A worker could not be started, was ended, or found no resources.
    """
    others = set(multiprocessing.active_children())
    iterator, workers = None, list[BaseProcess]()
    kill_workers = functools.partial(_kill, workers)
    try:
        try:
            with _blocked_stop_signals(), _unchanged_sigchld():
                iterator = iter(loader)
        finally:
            workers += set(multiprocessing.active_children()) - others
            # Python waits at its exit for all children, which ignore the SIGTERM that it sends them.
            atexit.register(kill_workers)
        yield iterator
    except (RuntimeError, OSError, EOFError) as error:
        starting = iterator is None
        message = _explain(error, workers, starting=starting) if workers or starting else None
        if message is None:
            raise
        raise InputError(message) from None
    finally:
        # PyTorch does this when the iterator is garbage, which a traceback may delay.
        getattr(iterator, "_shutdown_workers", lambda: None)()
        kill_workers()
        atexit.unregister(kill_workers)


@contextlib.contextmanager
def _blocked_stop_signals() -> Iterator[None]:
    """Context manager in which no signal asks to stop; workers started in it are safe until they can ignore them."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    former = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, former)


@contextlib.contextmanager
def _unchanged_sigchld() -> Iterator[None]:
    """Context manager that restores the handler of SIGCHLD.

    PyTorch's handler raises an error wherever the program is when a worker dies: in the middle of a step's update, or
    while a checkpoint is saved. Without it a worker's end is noticed while the next batch is waited for.
    """
    if not hasattr(signal, "SIGCHLD") or threading.current_thread() is not threading.main_thread():
        yield
        return
    former = signal.getsignal(signal.SIGCHLD)
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL if former is None else former)


def _kill(workers: list[BaseProcess]) -> None:
    """End the workers that are still there; they write nothing that could be damaged."""
    for worker in workers:
        if worker.is_alive():
            worker.kill()
            worker.join(JOIN_SECONDS)


def _explain(error: Exception, workers: list[BaseProcess], *, starting: bool) -> str | None:
    """Why a loader failed and what to do about it, in one line; None if that is not known."""
    text = str(error)
    if isinstance(error, (ConnectionError, EOFError)):
        _wait_for_an_end(workers)
    exit_codes = [worker.exitcode for worker in workers if worker.exitcode]
    if any(words in text for words in TOO_MANY_FILES) or EXIT_NOT_HANDED_OVER in exit_codes:
        return _too_many_files()
    if _exit_code("SIGBUS") in exit_codes or (os.strerror(errno.ENOSPC) in text and _names_shared_memory(text)):
        return _no_shared_memory()
    if exit_codes:
        return _ended_worker(exit_codes[0])
    if starting and isinstance(error, OSError):
        return f"worker processes cannot be started ({error.strerror}); lower data_config.n_workers (0: none)"
    if isinstance(error, (ConnectionError, EOFError)):  # A worker that cannot open another file ends the connection.
        return _too_many_files()
    if isinstance(error, OSError) and is_of_worker(error):
        return f"a worker process could not read the data: {last_line(error)}"
    return None


def _wait_for_an_end(workers: list[BaseProcess]) -> None:
    """Wait a moment for workers that are just ending, so that their exit codes are there."""
    ended = connection.wait([worker.sentinel for worker in workers], timeout=1.0)
    for worker in workers:
        if worker.sentinel in ended:
            worker.join(JOIN_SECONDS)


def is_of_worker(error: Exception) -> bool:
    """Whether an error was raised in a worker; its message then holds the worker's traceback."""
    return str(error).startswith("Caught ") and "DataLoader worker" in str(error).splitlines()[0]


def last_line(error: Exception) -> str:
    """The last line of an error's message: of a worker's error, the message without the traceback before it."""
    return str(error).strip().splitlines()[-1]


def _exit_code(name: str) -> int:
    """The exit code of a worker that a signal has ended; 0 where the system has no such signal."""
    return -getattr(signal, name, 0)


def _names_shared_memory(text: str) -> bool:
    return any(words in text for words in NO_SHARED_MEMORY)


def _ended_worker(exit_code: int) -> str:
    """The message about a worker that ended by itself or by a signal."""
    remedy = "lower data_config.n_workers (0: none), and run the same command again"
    if exit_code == _exit_code("SIGKILL"):
        return f"a worker process that reads the data was killed (SIGKILL), perhaps for lack of memory; {remedy}"
    by = f"signal {signal.Signals(-exit_code).name}" if exit_code < 0 else f"exit code {exit_code}"
    return f"a worker process that reads the data ended by itself ({by}); {remedy}"


def _no_shared_memory() -> str:
    """The message about a full /dev/shm, which Docker makes 64 MB large."""
    size = ""
    with contextlib.suppress(OSError):
        size = f" of {shutil.disk_usage(SHARED_MEMORY).total / 2**20:.3g} MiB"
    return (
        f"the shared memory{size} ({SHARED_MEMORY}), through which worker processes hand over batches, is full; start "
        "the container with more (docker run --shm-size=2g), lower train_config.micro_batch_size or "
        "data_config.n_workers, or set data_config.n_workers=0"
    )


def _too_many_files() -> str:
    """The message about the limit of open files: each tensor of a worker is one."""
    limit = ""
    with contextlib.suppress(ImportError):  # Windows has no such module.
        import resource

        limit = f" ({resource.getrlimit(resource.RLIMIT_NOFILE)[0]})"
    return (
        f"too many open files: the batches of worker processes need more than a process may open{limit}; raise the "
        "limit (ulimit -n 4096), lower data_config.n_workers, or set it to 0"
    )
