"""Many files at once: in processes of this machine, or on the machines of a cluster (`cluster.py`).

A batch scheduler starts the same command several times with `--shard 1/8`, `--shard 2/8`, ... instead.
"""

import argparse
import os
import re
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

import joblib
from joblib.externals.loky.backend import resource_tracker

from midi2wave.utils import signals
from midi2wave.utils.cli import count_of, log
from midi2wave.utils.cluster import map_on_cluster
from midi2wave.utils.cores import usable_cores
from midi2wave.utils.errors import InputError

Job = TypeVar("Job")
Result = TypeVar("Result")
Item = TypeVar("Item")

BACKENDS = ("loky", "dask")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of every command that works on many files."""
    help_ = "files at once on this machine, at most one per core (default 1)"
    parser.add_argument("-j", "--jobs", type=int, help=help_)
    parser.add_argument(
        "--backend",
        choices=BACKENDS,
        default="loky",
        help="who does them: processes of this machine (loky, default), or the dask cluster that "
        "DASK_SCHEDULER_ADDRESS names (docs/clusters.md)",
    )
    parser.add_argument("--shard", metavar="I/N", default="", help="only the I-th of N equal parts of the files")


def check_arguments(args: argparse.Namespace) -> None:
    """Check the options of `add_arguments`; -j becomes at most the number of cores, with a message, and 1 by default.

    Raises:
        InputError: A value is impossible.
    """
    if args.jobs is not None and args.jobs < 1:
        raise InputError(f"--jobs is {args.jobs}, expected 1 or more")
    if args.backend == "dask" and args.jobs is not None:
        log(
            f"--jobs {args.jobs} has no effect with --backend dask: its workers do as many files at once as they have "
            "threads (dask worker --nthreads)"
        )
    args.jobs = args.jobs or 1
    n_cores = usable_cores()
    if args.backend == "loky" and args.jobs > n_cores:
        log(f"--jobs {args.jobs} is more than the cores there are; {count_of(n_cores, 'file')} at once")
        args.jobs = n_cores
    if args.shard:
        match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", args.shard)
        if not match or not 1 <= int(match[1]) <= int(match[2]):
            raise InputError(f"--shard is {args.shard}, expected I/N with I from 1 to N, as in 2/8")


def shard_name(shard: str) -> str:
    """A shard as part of a file name: "2/8" -> "shard-2-of-8"; "" for none."""
    return "shard-{}-of-{}".format(*map(int, shard.split("/"))) if shard else ""


def select_shard(items: list[Item], shard: str) -> list[Item]:
    """The items of a shard ("2/8"; "": all): every N-th one, since neighbours are alike in length."""
    if not shard:
        return items
    number, count = map(int, shard.split("/"))
    return items[number - 1 :: count]


def _start_resource_tracker() -> None:
    """Start joblib's process that removes shared files, before joblib does, so that it ignores SIGHUP.

    It ignores Ctrl-C and SIGTERM by itself, but dies with a traceback when a closed terminal ends all processes.
    """
    with signals.ignored("SIGHUP"):
        resource_tracker.ensure_running()


def parallel_map(
    function: Callable[[Job], Result], jobs: Iterable[Job], *, n_jobs: int, backend: str
) -> Iterator[Result]:
    """Apply a function to every job.

    Args:
        function: The function; worker processes import it by its name.
        jobs: Its arguments.
        n_jobs: Jobs at once.
        backend: One of `BACKENDS`, or "threading": threads of this process, for jobs that wait for other programs.

    Yields:
        The results, in the order in which they are done.

    Raises:
        InputError: A worker was killed, or the cluster is not there.
    """
    jobs = list(jobs)
    if backend == "dask":
        yield from map_on_cluster(function, jobs)
        return
    n_jobs = min(n_jobs, max(len(jobs), 1))
    if n_jobs == 1:  # No process needs to be started.
        yield from map(function, jobs)
        return
    options: dict[str, Any] = {}
    if backend == "loky":
        _start_resource_tracker()
        options |= {"initializer": _end_worker_with_parent, "initargs": (os.getpid(),)}
    # One file is plenty for a task. Few are dispatched ahead: a run that is stopped leaves few partial files.
    workers = joblib.Parallel(n_jobs=n_jobs, backend=backend, return_as="generator_unordered", batch_size=1, **options)
    try:
        # Ctrl-C reaches workers too, whose imports would end with tracebacks; this process ends them.
        with signals.ignored("SIGINT"):
            results = workers(joblib.delayed(function)(job) for job in jobs)
        yield from results
    except BrokenProcessPool as error:
        raise InputError(
            "a worker process was killed, perhaps for lack of memory; finished files are whole: run the same "
            "command again, with fewer --jobs"
        ) from error


def _end_worker_with_parent(parent: int) -> None:
    """Let the system end this worker with its parent: joblib's workers wait five minutes for more work.

    One that went on after `kill -9` of a command could replace files that a second command has finished meanwhile.
    """
    signals.end_with_parent("SIGKILL", parent)
