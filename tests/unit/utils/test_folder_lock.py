"""The lock of a folder in processes that are forked while it is held, and after it was released."""

import os

import pytest

from midi2wave.utils.errors import InputError
from midi2wave.utils.folder_lock import LOCK_NAME, lock_folder

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


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
