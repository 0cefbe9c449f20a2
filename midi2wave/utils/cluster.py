"""Many files on the machines of a dask cluster (`--backend dask`).

The package is needed on the workers only, in the version of the caller. Folders must lie under the same paths there.
Jobs and results travel pickled by this module: the scheduler may lack the package, and would fail to unpickle them.
What a worker leaves that dies, or that turns out to have other code, is done by another one. Like every dask cluster,
this one must not be open to strangers: whoever reaches its scheduler can run code on its workers.
"""

import contextlib
import functools
import hashlib
import logging
import os
import pickle
import platform
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any, TypeVar

from midi2wave.utils.cli import count_of, log
from midi2wave.utils.errors import InputError

Job = TypeVar("Job")
Result = TypeVar("Result")

ADDRESS_VARIABLE = "DASK_SCHEDULER_ADDRESS"
INSTALL = "pip install distributed"
CONNECT_SECONDS = 10
# How long to wait for the first worker, and for another one when all are gone.
WORKER_SECONDS = 60
POLL_SECONDS = 2.0
# Jobs on the cluster, beside those that its threads do: so many, and so many more for every thread.
MIN_JOBS_AHEAD = 32
JOBS_AHEAD_PER_THREAD = 4
CLIENT_LOGGERS = ("distributed.client", "distributed.utils", "tornado.application")
# Modules beside the package, which it imports.
TOP_LEVEL_MODULES = ("logistic_mixture.py", "wavenet.py")


@functools.cache
def package_digest() -> str:
    """A checksum of the source files, as they were when this process first asked: equal where the code is.

    A worker lives longer than a command. Files that have changed since it imported them are not the code that it runs.
    """
    digest, package = hashlib.sha256(), Path(__file__).resolve().parents[1]
    root = package.parent
    beside = [root / name for name in TOP_LEVEL_MODULES]
    for path in sorted([*package.rglob("*.py"), *(path for path in beside if path.is_file())]):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


class WorkingFolder:
    """The folder in which a worker's threads compute: it belongs to the process, while jobs may be of several callers.

    Paths of jobs may be relative, so that jobs of one folder wait until those of another are done.
    """

    def __init__(self) -> None:
        self._n_jobs = 0
        self._folder = ""
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def inside(self, folder: str) -> Iterator[None]:
        """Context manager in which the process works in this folder. Raises OSError if it cannot be entered."""
        with self._changed:
            self._changed.wait_for(lambda: self._n_jobs == 0 or self._folder == folder)
            os.chdir(folder)
            self._folder = folder
            self._n_jobs += 1
        try:
            yield
        finally:
            with self._changed:
                self._n_jobs -= 1
                self._changed.notify_all()


WORKING_FOLDER = WorkingFolder()


def run_job(pickled: bytes, folder: str) -> bytes:
    """Run a job in this process, a worker, and in the caller's folder.

    Args:
        pickled: The function and its argument.
        folder: The caller's current folder.

    Returns:
        The result, pickled.
    """
    with WORKING_FOLDER.inside(folder):
        function, job = pickle.loads(pickled)
        return pickle.dumps(function(job))


def map_on_cluster(function: Callable[[Job], Result], jobs: list[Job]) -> Iterator[Result]:
    """Apply a function of this package to every job, on the cluster that DASK_SCHEDULER_ADDRESS names.

    Args:
        function: The function, which workers import by its name.
        jobs: Its arguments, which can be pickled.

    Yields:
        The results, in the order in which they are done.

    Raises:
        InputError: The cluster is not there, has no workers, or other code on them.
    """
    if not jobs:
        return
    with _without_messages_of_dask(), _connect() as client, _scheduler_that_may_end():
        _check_workers(client)
        yield from _results(client, function, jobs)


@contextlib.contextmanager
def _without_messages_of_dask() -> Iterator[None]:
    """Context manager in which dask's client says nothing: it logs tracebacks of what is reported here as one line.

    After Ctrl-C, its event loop (tornado) may log the traceback of a call that had not begun.
    """
    loggers = [logging.getLogger(name) for name in CLIENT_LOGGERS]
    for logger in loggers:
        logger.addFilter(_is_fatal)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(_is_fatal)


def _is_fatal(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.CRITICAL


def _connect() -> Any:
    """A client of the cluster. Raises InputError if its package or its scheduler is not there."""
    try:
        import dask
        from distributed import Client
    except ImportError as error:
        raise InputError(f"--backend dask needs a package ({error}); {INSTALL}") from error
    address = os.environ.get(ADDRESS_VARIABLE) or dask.config.get("scheduler-address", None)
    if not address:
        raise InputError(f"--backend dask: set {ADDRESS_VARIABLE} to the scheduler, as in tcp://10.0.0.1:8786")
    try:
        return Client(address, timeout=CONNECT_SECONDS)
    except (OSError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(
            f"--backend dask: no scheduler answers at {address} ({reason}); see {ADDRESS_VARIABLE}"
        ) from error


@contextlib.contextmanager
def _scheduler_that_may_end() -> Iterator[None]:
    """Context manager that raises InputError in place of dask's errors for a scheduler that has ended."""
    from distributed.comm import CommClosedError

    try:
        yield
    except (CancelledError, CommClosedError) as error:
        raise InputError(
            "--backend dask: the scheduler has ended or forgotten the files; finished files are whole: start it and "
            "its workers, and run the same command again"
        ) from error


def _check_workers(client: Any) -> None:
    """Wait for a worker, and refuse workers without this package, with other code or without the current folder."""
    try:
        client.wait_for_workers(1, timeout=WORKER_SECONDS)
    except TimeoutError as error:
        raise InputError(
            f"--backend dask: its scheduler has had no worker for {WORKER_SECONDS} s; start one: dask worker ADDRESS"
        ) from error
    _check_python(client)
    problems = client.run(_worker_check())
    for worker, problem in sorted(problems.items()):
        if problem:
            raise InputError(f"--backend dask: worker {worker} {problem}")
    log(f"{count_of(len(problems), 'worker')} of {client.scheduler.address}")


def _check_python(client: Any) -> None:
    """Refuse a scheduler and workers with another Python: functions travel as its compiled code."""
    versions = client.get_versions()
    machines = {f"worker {address}": facts for address, facts in sorted(versions["workers"].items())}
    own = platform.python_version()
    for machine, facts in {"the scheduler": versions["scheduler"], **machines}.items():
        python = facts["host"]["python"]
        if python.split(".")[:2] != own.split(".")[:2]:
            raise InputError(
                f"--backend dask: {machine} runs Python {python}, this machine {own}; start it with the Python of "
                "this machine, up to the second number"
            )


def _worker_check() -> Callable[[], str]:
    """A function for workers, which says why one cannot work for this process; "" if it can."""
    digest, folder = package_digest(), os.getcwd()

    # Nested functions are pickled with their code, so that they run where this package is not installed.
    def check() -> str:
        import os as worker_os

        try:
            from midi2wave.utils.cluster import package_digest as worker_digest
        except ImportError as error:
            return f"cannot import midi2wave ({error}); install it there, or set PYTHONPATH to the folder of its code"
        if worker_digest() != digest:
            return "has another version of midi2wave than this machine, or started with one; update and restart it"
        if not worker_os.path.isdir(folder):
            return f"has no folder {folder}; data must lie under the same paths on all machines"
        return ""

    return check


def _job_on_worker() -> Callable[[bytes], bytes | tuple[str, str]]:
    """A function for workers, which runs a pickled job; elsewhere than on a good worker it says why it does not.

    It returns the result of `run_job`, or the worker's address and what is wrong with it.
    """
    folder, check = os.getcwd(), _worker_check()

    def call(pickled: bytes) -> bytes | tuple[str, str]:
        if problem := check():  # A worker may have joined after the others were checked.
            from distributed import get_worker

            return get_worker().address, problem
        from midi2wave.utils.cluster import run_job as run_on_worker

        return run_on_worker(pickled, folder)

    return call


class _Jobs:
    """The jobs of one call on the cluster: few are there at once, and none on a worker that has been refused.

    Each wait for results looks at all jobs on the cluster: with all of many thousand files there, waiting would take
    longer than the work.
    """

    def __init__(self, client: Any, function: Callable[[Job], Result], jobs: list[Job]) -> None:
        self._client, self._call = client, _job_on_worker()
        self._function = function
        self._waiting = deque(jobs)
        # The jobs on the cluster, and the workers that may do them; none: all.
        self._pending: dict[Any, tuple[Job, list[str]]] = {}
        self._refused: set[str] = set()
        self._last_seen = time.monotonic()

    def __len__(self) -> int:
        return len(self._waiting) + len(self._pending)

    def submit(self) -> None:
        """Send as many jobs as the workers soon need. Raises InputError if there has been no good worker for long."""
        workers = self._client.scheduler_info(n_workers=-1)["workers"]
        good = [address for address in workers if address not in self._refused]
        if good:
            self._last_seen = time.monotonic()
        elif time.monotonic() - self._last_seen > WORKER_SECONDS:
            refused = f"; refused: {', '.join(sorted(self._refused))}" if self._refused else ""
            raise InputError(
                f"--backend dask: no worker is left since {WORKER_SECONDS} s, {count_of(len(self), 'file')} are to "
                f"be done{refused}; finished files are whole: start workers and run the same command again"
            )
        self._take_back(good)
        n_threads = sum(workers[address]["nthreads"] for address in good)
        while good and self._waiting and len(self._pending) < MIN_JOBS_AHEAD + JOBS_AHEAD_PER_THREAD * n_threads:
            job, allowed = self._waiting.popleft(), good if self._refused else []
            pickled = pickle.dumps((self._function, job))
            self._pending[self._client.submit(self._call, pickled, pure=False, workers=allowed or None)] = job, allowed

    def _take_back(self, good: list[str]) -> None:
        """Take back jobs that wait for workers of which none is left: others may have joined."""
        lost = [future for future, (_, allowed) in self._pending.items() if allowed and not set(allowed) & set(good)]
        if lost and good:
            self._client.cancel(lost)
            self._waiting.extendleft(self._pending.pop(future)[0] for future in lost)

    def results(self) -> Iterator[bytes]:
        """Wait for results, and return those that are there, pickled; none if none is after a while."""
        for future, outcome in _finished(list(self._pending)):
            job, _ = self._pending.pop(future)
            if isinstance(outcome, bytes):
                yield outcome
                continue
            address, problem = outcome
            self._waiting.appendleft(job)
            if address not in self._refused:
                self._refused.add(address)
                log(f"--backend dask: worker {address} {problem}; others do its files")


def _results(client: Any, function: Callable[[Job], Result], jobs: list[Job]) -> Iterator[Result]:
    """The results as they come. Raises InputError if no good worker or no scheduler is left."""
    remaining = _Jobs(client, function, jobs)
    while remaining:
        remaining.submit()
        for pickled in remaining.results():
            result: Result = pickle.loads(pickled)
            yield result


def _finished(futures: list[Any]) -> Iterator[tuple[Any, bytes | tuple[str, str]]]:
    """Those futures that are done, with their results; none if none is after a while."""
    from distributed import wait
    from distributed.scheduler import KilledWorker

    if not futures:
        time.sleep(POLL_SECONDS)
        return
    try:
        done, _ = wait(futures, timeout=POLL_SECONDS, return_when="FIRST_COMPLETED")
        for future in done:
            yield future, future.result(timeout=POLL_SECONDS)
    except TimeoutError:
        # Perhaps the worker that had a result has ended, and another one does the file again.
        if any(future.status == "error" for future in futures):  # It is the error of a job.
            raise
    except KilledWorker as error:
        raise InputError(
            "--backend dask: a file killed several workers, perhaps for lack of memory; finished files are whole: run "
            "the same command again, with fewer threads a worker (dask worker --nthreads 1)"
        ) from error
