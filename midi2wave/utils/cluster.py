"""Many files on the machines of a dask cluster (`--backend dask`).

The package is needed on the workers only, in the version of the caller. Folders must lie under the same paths there.
Jobs and results travel pickled by this module: the scheduler may lack the package, and would fail to unpickle them.
What a worker leaves that dies is done by another one. Like every dask cluster, this one must not be open to strangers:
whoever reaches its scheduler can run code on its workers.
"""

import hashlib
import os
import pickle
import time
from collections.abc import Callable, Iterator
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


def package_digest() -> str:
    """A checksum of the package's source files: equal where the code is."""
    digest, root = hashlib.sha256(), Path(__file__).resolve().parents[1]
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


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
    with _connect() as client:
        _check_workers(client)
        yield from _results(client, function, jobs)


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


def _check_workers(client: Any) -> None:
    """Wait for a worker, and refuse workers without this package, with other code or without the current folder."""
    try:
        client.wait_for_workers(1, timeout=WORKER_SECONDS)
    except TimeoutError as error:
        raise InputError(
            f"--backend dask: its scheduler has had no worker for {WORKER_SECONDS} s; start one: dask worker ADDRESS"
        ) from error
    folder = os.getcwd()

    # Nested functions are pickled with their code, so that they run where this package is not installed.
    def probe() -> str:
        import os as worker_os

        try:
            from midi2wave.utils.cluster import package_digest as worker_digest
        except ImportError as error:
            return f"cannot import midi2wave ({error}); install it there, or set PYTHONPATH to the folder of its code"
        if not worker_os.path.isdir(folder):
            return f"has no folder {folder}; data must lie under the same paths on all machines"
        return worker_digest()

    answers = client.run(probe)
    own = package_digest()
    for worker, answer in sorted(answers.items()):
        if answer != own:
            is_digest = len(answer) == len(own) and " " not in answer
            problem = "has another version of midi2wave than this machine" if is_digest else answer
            raise InputError(f"--backend dask: worker {worker} {problem}")
    log(f"{count_of(len(answers), 'worker')} of {client.scheduler.address}")


def _results(client: Any, function: Callable[[Job], Result], jobs: list[Job]) -> Iterator[Result]:
    """The results as they come. Raises InputError if no worker is left, or a job kills one worker after another."""
    from distributed import wait
    from distributed.scheduler import KilledWorker

    folder = os.getcwd()

    def call(pickled: bytes) -> bytes:
        import os as worker_os
        import pickle as worker_pickle

        worker_os.chdir(folder)  # Paths of jobs may be relative.
        job_function, job = worker_pickle.loads(pickled)
        return worker_pickle.dumps(job_function(job))

    pending = [client.submit(call, pickle.dumps((function, job)), pure=False) for job in jobs]
    last_seen = time.monotonic()
    while pending:
        if client.scheduler_info(n_workers=-1)["workers"]:
            last_seen = time.monotonic()
        elif time.monotonic() - last_seen > WORKER_SECONDS:
            raise InputError(
                f"--backend dask: no worker is left since {WORKER_SECONDS} s, {count_of(len(pending), 'file')} are to "
                "be done; finished files are whole: start workers and run the same command again"
            )
        try:
            done, _ = wait(pending, timeout=POLL_SECONDS, return_when="FIRST_COMPLETED")
        except TimeoutError:
            continue
        pending = [future for future in pending if future not in done]
        for future in done:
            try:
                result: Result = pickle.loads(future.result())
            except KilledWorker as error:
                raise InputError(
                    "--backend dask: a file killed several workers, perhaps for lack of memory; finished files are "
                    "whole: run the same command again, with fewer threads a worker (dask worker --nthreads 1)"
                ) from error
            yield result
