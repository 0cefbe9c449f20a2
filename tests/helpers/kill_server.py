"""Starts train.py again and again in processes that can be killed, without importing torch each time.

    python tests/helpers/kill_server.py < commands

Each line of standard input is a JSON list: seconds after which the process gets SIGKILL (null: never), then train.py's
arguments. The answer is a line with its exit code, negative for a signal.
"""

import contextlib
import json
import os
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import midi2wave.training.loop  # noqa: F401 - train.py imports it only after its arguments
import train
from midi2wave.utils.cli import run


def run_and_kill(seconds: float | None, arguments: list[str]) -> int:
    """One run of train.py in a child; forked before torch has begun any threads."""
    child = os.fork()
    if child == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        run(lambda: train.main(arguments))
    if seconds is not None:
        time.sleep(seconds)
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    for line in sys.stdin:
        seconds, *arguments = json.loads(line)
        print(run_and_kill(seconds, arguments), flush=True)
