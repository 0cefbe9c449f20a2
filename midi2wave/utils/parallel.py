"""Many files at once: processes of this machine, or of several through the backends that joblib knows.

A batch scheduler starts the same command several times with `--shard 1/8`, `--shard 2/8`, ... instead.
"""

import argparse
import re
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

import joblib

from midi2wave.utils.cli import log
from midi2wave.utils.errors import InputError

J = TypeVar("J")
R = TypeVar("R")
T = TypeVar("T")

BACKENDS = ("loky", "dask", "ray")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of every step that works on many files."""
    help_ = "files at once, at most one per core (default 1; with another backend: as many as it can)"
    parser.add_argument("-j", "--jobs", type=int, default=1, help=help_)
    parser.add_argument(
        "--backend",
        choices=BACKENDS,
        default="loky",
        help="who does them: processes of this machine (loky, default), or the dask or ray cluster that "
        "DASK_SCHEDULER_ADDRESS or RAY_ADDRESS names, where this code and the data must lie under the same paths; "
        "both untested, and ray tells what is done, and notes it for a rerun, only when all is",
    )
    parser.add_argument("--shard", metavar="I/N", default="", help="only the I-th of N equal parts of the files")


def check_arguments(args: argparse.Namespace) -> None:
    """Refuse impossible values with InputError; -j becomes at most the number of cores, with a line that says so."""
    if args.jobs < 1:
        raise InputError(f"--jobs is {args.jobs}, expected 1 or more")
    if args.backend == "loky" and args.jobs > joblib.cpu_count():
        log(f"--jobs {args.jobs} is more than the cores there are; {joblib.cpu_count()} files at once")
        args.jobs = joblib.cpu_count()
    if args.shard:
        whole = re.fullmatch(r"(\d{1,6})/(\d{1,6})", args.shard)
        if not whole or not 1 <= int(whole[1]) <= int(whole[2]):
            raise InputError(f"--shard is {args.shard}, expected I/N with I from 1 to N, as in 2/8")


def shard_name(shard: str) -> str:
    """A shard as part of a file name: "2/8" -> "shard-2-of-8"; "" for none."""
    return "shard-{}-of-{}".format(*map(int, shard.split("/"))) if shard else ""


def select_shard(items: list[T], shard: str) -> list[T]:
    """The items of a shard ("2/8"; "": all). They are dealt out like cards, since neighbours are alike in length."""
    if not shard:
        return items
    number, count = map(int, shard.split("/"))
    return items[number - 1 :: count]


def parallel_map(function: Callable[[J], R], jobs: Iterable[J], *, n_jobs: int, backend: str) -> Iterator[R]:
    """Yield what `function` makes of each job, as each is done; `function` must be importable by its name.

    Raises InputError if the backend is not there or a worker was killed.
    """
    jobs = list(jobs)
    n_jobs = min(n_jobs, max(len(jobs), 1)) if backend == "loky" or n_jobs > 1 else -1
    if backend == "loky" and n_jobs == 1:  # no process to start and to feed
        yield from map(function, jobs)
        return
    _connect(backend)
    # One file is plenty for a task. Few are dispatched ahead: a run that is stopped leaves little half done.
    return_as = "list" if backend == "ray" else "generator_unordered"  # its backend knows nothing else
    with joblib.parallel_config(backend=backend):
        parallel = joblib.Parallel(n_jobs=n_jobs, return_as=return_as, batch_size=1)
        try:
            yield from parallel(joblib.delayed(function)(job) for job in jobs)
        except BrokenProcessPool as error:
            raise InputError(
                "a worker process was killed, perhaps for lack of memory; finished files are whole: run the same "
                "command again, with fewer --jobs"
            ) from error


def _connect(backend: str) -> None:
    """Tell joblib about a backend that is not its own. InputError if its package or its cluster is not there."""
    try:
        if backend == "dask":
            from distributed import Client

            Client(set_as_default=True)
        elif backend == "ray":
            import ray
            from ray.util.joblib import register_ray

            ray.init(ignore_reinit_error=True)
            register_ray()
    except ImportError as error:
        package = {"dask": "distributed", "ray": "ray"}[backend]
        raise InputError(f"--backend {backend} needs a package ({error}); pip install {package}") from error
    except (OSError, RuntimeError, ValueError) as error:
        raise InputError(f"--backend {backend}: its cluster cannot be reached ({error})") from error
