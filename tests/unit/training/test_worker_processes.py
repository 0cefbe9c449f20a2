"""Worker processes that fail, and the end of all of them with the training; each error is one line with a remedy."""

import contextlib
import errno
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from midi2wave.training.data_loader import MicroBatches, batches
from midi2wave.utils.errors import InputError
from midi2wave.utils.signals import STOP_SIGNALS
from tests.helpers.paths import ROOT
from tests.helpers.training import data_workers

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")


class Numbers(torch.utils.data.Dataset):
    """The crop of an index is the index; a subclass says what happens to a worker that is asked for `number`."""

    number = 5

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        """One crop."""
        if index == self.number and multiprocessing.parent_process() is not None:
            self.fail()
        return {"index": torch.tensor(index), "features": torch.zeros(4)}

    def fail(self) -> None:
        """What the worker does instead."""


class Killed(Numbers):
    """As by the system when memory runs out."""

    def fail(self) -> None:
        """Die."""
        os.kill(os.getpid(), signal.SIGKILL)


class BusError(Numbers):
    """As by a write to shared memory that has no room."""

    def fail(self) -> None:
        """Die."""
        signal.signal(signal.SIGBUS, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGBUS)


class Ended(Numbers):
    """As by a library that ends the process."""

    def fail(self) -> None:
        """Exit."""
        os._exit(3)


class NoSharedMemory(Numbers):
    """PyTorch's error on a full /dev/shm."""

    def fail(self) -> None:
        """Raise it."""
        raise RuntimeError("unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)")


class NoDescriptors(Numbers):
    """The worker may open no further file: neither shared memory nor a connection."""

    n_files = 0

    def fail(self) -> None:
        """Lower the limit, so that only a few files can be opened."""
        import resource

        files = [os.dup(0) for _ in range(self.n_files + 1)]
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(files), 1024))
        for file in files:
            os.close(file)


class TwoDescriptors(NoDescriptors):
    """The worker can still make the two tensors of a crop, and fails when its queue's thread sends them."""

    n_files = 2


class Unreadable(Numbers):
    """A disk with an error."""

    def fail(self) -> None:
        """Raise it."""
        raise OSError(errno.EIO, "Input/output error", "3.npy")


class Busy(Numbers):
    """A disk that does not answer."""

    def fail(self) -> None:
        """Wait."""
        time.sleep(60)


class Mistake(Numbers):
    """A mistake of the program, whose traceback must be seen."""

    def fail(self) -> None:
        """Raise it."""
        raise KeyError("no such crop")


FAILURES = {
    Killed: ("killed (SIGKILL), perhaps for lack of memory", "lower data_config.n_workers"),
    Ended: ("ended by itself (exit code 3)", "lower data_config.n_workers"),
    BusError: ("shared memory of", "--shm-size", "n_workers=0"),
    NoSharedMemory: ("shared memory of", "--shm-size", "n_workers=0"),
    NoDescriptors: ("too many open files", "ulimit -n", "n_workers"),
    TwoDescriptors: ("too many open files", "ulimit -n", "n_workers"),
    Unreadable: ("could not read the data", "Input/output error: '3.npy'"),
}


def numbers_of(crops: Numbers, n_workers: int = 2) -> list[int]:
    """The numbers of twelve batches of one crop."""
    return [batch["index"].item() for batch in batches(crops, [[index] for index in range(12)], n_workers)]


@pytest.fixture(autouse=True)
def no_worker_is_left(monkeypatch):
    """No test may leave a process, or a handler that raises errors anywhere; PyTorch looks for them every 0.2 s."""
    get_data = torch.utils.data.dataloader._MultiProcessingDataLoaderIter._try_get_data
    monkeypatch.setattr(get_data, "__defaults__", (0.2,))
    handler, others = signal.getsignal(signal.SIGCHLD), set(multiprocessing.active_children())
    yield
    assert set(multiprocessing.active_children()) <= others
    assert signal.getsignal(signal.SIGCHLD) == handler


@pytest.mark.parametrize("failure", FAILURES)
def test_failed_worker_is_one_line_with_a_remedy(failure):
    with pytest.raises(InputError) as caught:
        numbers_of(failure())
    message = str(caught.value)
    assert "\n" not in message and all(words in message for words in FAILURES[failure]), message


def test_mistake_in_a_worker_keeps_its_traceback():
    with pytest.raises(KeyError, match="in fail"):
        numbers_of(Mistake())


def test_workers_that_cannot_start_are_one_line(monkeypatch):
    """As with a limit of processes (ulimit -u, pids cgroup)."""

    def refuse(*_: object) -> None:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(os, "fork", refuse)
    with pytest.raises(InputError, match=r"cannot be started \(Resource temporarily unavailable\); lower"):
        numbers_of(Numbers())


@pytest.mark.parametrize("error", [KeyError("unexpected"), KeyboardInterrupt()])
def test_workers_end_with_an_error_of_the_training(error):
    """The traceback, and with it every frame, outlives the loop, as at the end of a program."""
    loader = batches(Numbers(), [[index] for index in range(1000)], 2)
    try:
        with contextlib.closing(loader):
            next(loader)
            assert len(data_workers()) == 2
            raise error
    except (KeyError, KeyboardInterrupt) as raised:
        assert raised.__traceback__ is not None
        assert next(loader, None) is None


def test_workers_ignore_what_asks_a_training_to_stop():
    loader = batches(Numbers(), [[index] for index in range(40)], 2)
    numbers = [next(loader)["index"].item()]
    for worker in data_workers():
        for number in STOP_SIGNALS:
            os.kill(worker.pid, number)
    assert [*numbers, *(batch["index"].item() for batch in loader)] == list(range(40))


UNCLOSED = """
import sys
from midi2wave.training.data_loader import batches
from tests.unit.training.test_worker_processes import Busy
loader = batches(Busy(), [[index] for index in range(1000)], 2)
next(loader)
print(*[child.pid for child in __import__("multiprocessing").active_children()], flush=True)
if sys.argv[1] == "raise":
    raise KeyError("unexpected")
sys.stdin.read()
"""


def start_unclosed(how: str) -> tuple[subprocess.Popen[str], list[int]]:
    """Start a program that leaves its loader open; returns it and the process numbers of its workers."""
    command = [sys.executable, "-c", UNCLOSED, how]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(command, cwd=ROOT, text=True, **pipes)
    return process, [int(pid) for pid in process.stdout.readline().split()]


def is_running(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_program_ends_though_its_loader_is_open():
    """Python's exit sends the workers a SIGTERM, which they ignore, and then waits for them."""
    process, workers = start_unclosed("raise")
    _, err = process.communicate(timeout=30)
    assert process.returncode == 1 and "KeyError: 'unexpected'" in err and len(workers) == 2
    assert not any(is_running(pid) for pid in workers)


@pytest.mark.skipif(sys.platform != "linux", reason="needs prctl")
def test_workers_end_with_a_killed_parent():
    process, workers = start_unclosed("wait")
    process.kill()
    process.wait(timeout=30)
    deadline = time.monotonic() + 10
    while any(is_running(pid) for pid in workers):
        assert time.monotonic() < deadline, "PyTorch's own check waits for a busy worker"
        time.sleep(0.02)
    process.communicate(timeout=30)
    assert len(workers) == 2


def test_micro_batches_of_a_step_are_read_one_by_one():
    taken: list[int] = []

    def loader():
        for index in range(5):
            taken.append(index)
            yield {"index": torch.tensor(index)}

    source = loader()
    first, second = MicroBatches(source, 3), MicroBatches(source, 2)
    assert len(first) == 3
    for index, batch in enumerate(first):
        assert batch["index"] == index and taken == list(range(index + 1))
    assert [batch["index"].item() for batch in second] == [3, 4] and next(source, None) is None
