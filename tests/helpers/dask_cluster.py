"""A dask scheduler and workers as processes of this machine, for tests of `--backend dask`."""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

START_SECONDS = 60


class DaskCluster:
    """A scheduler without this project's code, and workers that are started one by one.

    Attributes:
        address: That of the scheduler.
        workers: The processes of the workers.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.scheduler_file = folder / "scheduler.json"
        self.scheduler = self._start("scheduler", "--port", "0", "--dashboard-address", ":0", "--no-jupyter")
        self.workers: list[subprocess.Popen] = []
        self.address: str = self._read_address()

    def _read_address(self) -> str:
        """The address that the scheduler writes to its file, in several steps, once it has started."""
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end:
            with contextlib.suppress(OSError, ValueError):
                return str(json.loads(self.scheduler_file.read_text())["address"])
            time.sleep(0.05)
        self.close()
        raise TimeoutError(f"the scheduler did not start in {START_SECONDS} s")

    def _start(self, *arguments: str, code: Path | None = None) -> subprocess.Popen:
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        environment |= {"OMP_NUM_THREADS": "1", "DASK_DISTRIBUTED__WORKER__DAEMON": "False"}
        if code:
            environment["PYTHONPATH"] = str(code)
        command = [sys.executable, "-m", "distributed.cli.dask_" + arguments[0], *arguments[1:]]
        options = ["--scheduler-file", str(self.scheduler_file)]
        with (self.folder / f"{arguments[0]}.log").open("ab") as log:
            return subprocess.Popen([*command, *options], env=environment, cwd=self.folder, stdout=log, stderr=log)

    def add_worker(self, code: Path | None) -> subprocess.Popen:
        """Start a worker that finds the project's code in this folder; None: that does not find it."""
        options = ["--nthreads", "1", "--no-nanny", "--no-dashboard"]
        worker = self._start("worker", *options, "--name", str(len(self.workers)), code=code)
        self.workers.append(worker)
        return worker

    def wait_for_workers(self, n: int) -> None:
        """Wait until the scheduler has n workers."""
        from distributed import Client

        with Client(self.address, set_as_default=False) as client:
            client.wait_for_workers(n, timeout=START_SECONDS)

    def close(self) -> None:
        """End all processes."""
        for process in (*self.workers, self.scheduler):
            process.kill()
            process.wait()


@contextlib.contextmanager
def dask_cluster(folder: Path) -> Iterator[DaskCluster]:
    """A cluster whose files lie in this folder."""
    cluster = DaskCluster(folder)
    try:
        yield cluster
    finally:
        cluster.close()
