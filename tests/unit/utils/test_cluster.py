"""What workers of a cluster check and do, without a cluster; `tests/commands/test_clusters.py` has one."""

import contextlib
import logging
import pickle
import platform
import threading
import time
from concurrent.futures import CancelledError, ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
from distributed.comm import CommClosedError

from midi2wave.utils import cluster
from midi2wave.utils.errors import InputError


@pytest.fixture
def code_folder(monkeypatch, tmp_path):
    """A folder with the package's code, as the module sees it, and a process that has not asked for its checksum."""
    for name in ("wavenet.py", "logistic_mixture.py", "midi2wave/utils/cluster.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("# code\n")
    monkeypatch.setattr(cluster, "__file__", str(tmp_path / "midi2wave/utils/cluster.py"))
    cluster.package_digest.cache_clear()
    yield tmp_path
    cluster.package_digest.cache_clear()


@pytest.mark.parametrize("name", ["wavenet.py", "logistic_mixture.py", "midi2wave/utils/cluster.py"])
def test_the_digest_is_of_the_code_that_a_process_runs(code_folder, name):
    """The model beside the package counts; files that changed after a process began are not what it runs."""
    before = cluster.package_digest()
    (code_folder / name).write_text("# other code\n")
    assert cluster.package_digest() == before
    cluster.package_digest.cache_clear()  # as in a process that begins now
    assert cluster.package_digest() != before


def test_jobs_of_two_folders_in_one_worker(monkeypatch, tmp_path):
    """The current folder is that of the whole process: a job never sees the folder of another caller's job."""
    monkeypatch.chdir(tmp_path)
    working_folder, together = cluster.WorkingFolder(), threading.Barrier(2)

    def is_inside(folder: Path) -> bool:
        with working_folder.inside(str(folder)):
            with contextlib.suppress(threading.BrokenBarrierError):
                together.wait(0.3)
            return Path.cwd() == folder

    for folders in (("a", "b"), ("c", "c")):
        for name in folders:
            (tmp_path / name).mkdir(exist_ok=True)
        with ThreadPoolExecutor(2) as pool:
            assert all(pool.map(is_inside, [tmp_path / name for name in folders]))
        assert together.broken == (folders[0] != folders[1])  # Jobs of one folder do run at once.
        together.reset()


@pytest.mark.parametrize("machine", ["the scheduler", "worker tcp://10.0.0.2:9000"])
def test_machines_with_another_python_are_refused(machine):
    """Functions travel as compiled code, which another Python misreads or refuses with a message of its own."""
    own = {"host": {"python": f"{platform.python_version()}.final.0"}}
    versions = {"scheduler": own, "workers": {"tcp://10.0.0.1:9000": own, "tcp://10.0.0.2:9000": own}}
    client = SimpleNamespace(get_versions=lambda: versions)
    cluster._check_python(client)
    other = {"host": {"python": "3.2.1.final.0"}}
    if machine == "the scheduler":
        versions["scheduler"] = other
    else:
        versions["workers"]["tcp://10.0.0.2:9000"] = other
    with pytest.raises(InputError, match=f"{machine} runs Python 3\\.2\\.1"):
        cluster._check_python(client)


@pytest.mark.parametrize("lost", [CancelledError("gone"), CommClosedError("in gather: Stream is closed")])
def test_a_scheduler_that_ends_is_one_line(lost):
    """Whatever the client was doing when it noticed."""
    with pytest.raises(InputError, match="the scheduler has ended"), cluster._scheduler_that_may_end():
        raise lost


def test_the_client_prints_no_tracebacks(caplog):
    """What its event loop logs after Ctrl-C is said by the command in one line."""
    with cluster._without_messages_of_dask():
        for name in ("distributed.client", "distributed.utils", "tornado.application"):
            logging.getLogger(name).error("Exception in callback")
    assert not caplog.records
    logging.getLogger("tornado.application").error("after it")
    assert [record.message for record in caplog.records] == ["after it"]


class FakeClient:
    """A cluster whose workers, by name, are good or not, and do at most `speed` jobs a wait, in order."""

    def __init__(self, monkeypatch, workers: dict[str, bool], speed: int = 5) -> None:
        self.workers, self.speed = workers, speed
        self.futures: dict[str, tuple[bytes, list[str] | None]] = {}
        self.n_submitted = self.most = 0
        monkeypatch.setattr(cluster, "_finished", self.finished)
        monkeypatch.setattr(cluster, "_job_on_worker", lambda: None)

    def scheduler_info(self, n_workers: int) -> dict:
        assert n_workers == -1
        return {"workers": {name: {"nthreads": 1} for name in self.workers}}

    def submit(self, _call, pickled: bytes, *, pure: bool, workers: list[str] | None) -> str:
        self.n_submitted += 1
        self.futures[f"future {self.n_submitted}"] = pickled, workers
        self.most = max(self.most, len(self.futures))
        return f"future {self.n_submitted}"

    def cancel(self, futures: list[str]) -> None:
        for future in futures:
            del self.futures[future]

    def finished(self, futures: list[str]):
        """As `_finished`; bad workers come first, since they refuse at once."""
        assert sorted(futures) == sorted(self.futures)
        time.sleep(0.001)
        for future in futures[: self.speed]:
            pickled, allowed = self.futures[future]
            able = [name for name in sorted(self.workers, key=self.workers.get) if allowed is None or name in allowed]
            if able:
                del self.futures[future]
                function, job = pickle.loads(pickled)
                is_good = self.workers[able[0]]
                yield future, pickle.dumps(function(job)) if is_good else (able[0], "has another version")


def run_on(client: FakeClient, n_jobs: int) -> list[int]:
    return sorted(cluster._results(client, abs, list(range(n_jobs))))


def test_a_refused_worker_is_named_once_and_gets_no_more(monkeypatch, capsys):
    client = FakeClient(monkeypatch, {"good": True, "bad": False})
    assert run_on(client, 200) == list(range(200))
    assert capsys.readouterr().err.count("worker bad has another version") == 1
    assert client.n_submitted <= 200 + cluster.MIN_JOBS_AHEAD + 2 * cluster.JOBS_AHEAD_PER_THREAD


def test_the_command_ends_if_only_refused_workers_are_left(monkeypatch):
    monkeypatch.setattr(cluster, "WORKER_SECONDS", 0.05)
    client = FakeClient(monkeypatch, {"bad": False})
    with pytest.raises(InputError, match=r"no worker is left .*, 200 files .*refused: bad"):
        run_on(client, 200)


def test_few_of_many_jobs_are_on_the_cluster_at_once(monkeypatch):
    """A wait for results looks at all of them."""
    client = FakeClient(monkeypatch, {"one": True, "two": True})
    assert run_on(client, 500) == list(range(500))
    assert client.most == cluster.MIN_JOBS_AHEAD + 2 * cluster.JOBS_AHEAD_PER_THREAD and client.n_submitted == 500


def test_jobs_of_good_workers_that_ended_go_to_new_ones(monkeypatch):
    """After a refusal jobs name the workers that may do them, and must not wait for those for ever."""
    client = FakeClient(monkeypatch, {"good": True, "bad": False})
    remaining, results = cluster._Jobs(client, abs, list(range(100))), []
    for _ in range(3):
        remaining.submit()
        results += remaining.results()
    del client.workers["good"]
    client.workers["new"] = True
    for _ in range(100):
        if remaining:
            remaining.submit()
            results += remaining.results()
    assert sorted(map(pickle.loads, results)) == list(range(100))
