"""The lock of a folder, what a run removes with it, and what forked processes have of it."""

import os

import pytest

from midi2wave.utils.errors import InputError
from midi2wave.utils.folder_lock import LOCK_NAME, lock_folder, lock_own_folder


def open_files() -> dict[int, str]:
    """The open files of this process by number."""
    names = {}
    for number in map(int, os.listdir("/proc/self/fd")):
        try:
            names[number] = os.readlink(f"/proc/self/fd/{number}")
        except OSError:  # The listing itself.
            continue
    return names


def result_in_child(function) -> int:
    """What a function returns in a forked process, in 0..255."""
    pid = os.fork()
    if pid == 0:
        result = 255
        try:
            result = function()
        finally:
            os._exit(result)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs /proc")
def test_a_forked_process_does_not_hold_the_lock(tmp_path):
    """A worker that outlives a killed run must not keep its folder locked."""
    with lock_folder(tmp_path):
        assert any(name.endswith(LOCK_NAME) for name in open_files().values())
        assert result_in_child(lambda: sum(name.endswith(LOCK_NAME) for name in open_files().values())) == 0
        with pytest.raises(InputError, match="another run is working"), lock_folder(tmp_path):
            pass


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs /proc")
def test_a_released_lock_closes_nothing_in_forked_processes(tmp_path):
    """Another file may have got its number since."""
    with lock_folder(tmp_path / "runs"):
        (number,) = [number for number, name in open_files().items() if name.endswith(LOCK_NAME)]
    (tmp_path / "data").write_text("the data")
    reader = os.open(tmp_path / "data", os.O_RDONLY)
    if reader != number:
        os.dup2(reader, number)
    try:
        assert result_in_child(lambda: len(os.read(number, 100))) == len("the data")
    finally:
        for file in {reader, number}:
            os.close(file)


def test_a_folder_of_others_stays_as_it_is(tmp_path):
    """Not even the lock's file is written into it."""
    (tmp_path / "novel.txt").write_text("It was a dark night")
    with pytest.raises(InputError, match="did not make it"), lock_own_folder(tmp_path, "record.json"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["novel.txt"]


@pytest.mark.parametrize("shard", ["", "shard-1-of-2"])
def test_what_killed_runs_left_goes_unless_shards_work(tmp_path, shard):
    leftover = tmp_path / ".song.wav.17-0123abcd.partial"
    for path in (leftover, tmp_path / "record.json"):
        path.write_text("")
    with lock_own_folder(tmp_path, "record.json", shard):
        assert leftover.exists() == bool(shard)
        with pytest.raises(InputError, match="another run"), lock_own_folder(tmp_path, "record.json"):
            pass
