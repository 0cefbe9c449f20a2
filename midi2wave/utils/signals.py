"""Signals that ask a command to stop: Ctrl-C, SIGTERM (batch schedulers, containers), SIGHUP (a closed terminal)."""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from types import FrameType

# Windows has no SIGHUP.
STOP_SIGNALS = tuple(
    signal.Signals[name] for name in ("SIGINT", "SIGTERM", "SIGHUP") if name in signal.Signals.__members__
)
PR_SET_PDEATHSIG = 1  # Of Linux's sys/prctl.h.


class Interrupted(KeyboardInterrupt):
    """A signal asked the command to stop; code that keeps what is finished on Ctrl-C does so on this, too.

    Attributes:
        number: The signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def exit_code(number: int) -> int:
    """The exit code of a command that a signal has stopped, as shells have it: 130 after Ctrl-C, 143 after SIGTERM."""
    return 128 + number


def exit_on_interrupt() -> None:
    """Let Ctrl-C end the process at once with code 130 until `raise_interrupted` begins, and again after its end.

    A command calls this before it imports other modules: there is nothing to be cleaned up yet, and KeyboardInterrupt
    in the middle of an import has a traceback.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # Not where it is ignored.
        signal.signal(signal.SIGINT, _exit)


def _exit(number: int, _frame: FrameType | None) -> None:
    os.write(2, b"interrupted\n")
    os._exit(exit_code(number))


@contextlib.contextmanager
def raise_interrupted() -> Iterator[None]:
    """Context manager in which SIGTERM and SIGHUP raise `Interrupted` in the main thread, as Ctrl-C does by itself.

    Only the first one does: a batch scheduler and a closed terminal may send several, and none must end the cleaning
    up that the first one has begun. A signal that the command was started to ignore (nohup) stays ignored.
    """

    def receive(number: int, _frame: FrameType | None) -> None:
        for one in handled:
            signal.signal(one, signal.SIG_IGN)
        raise Interrupted(number)

    # Python installs handlers in the main thread only; a command that runs in another one has no signals of its own.
    in_main = threading.current_thread() is threading.main_thread()
    handled = [number for number in STOP_SIGNALS if in_main and signal.getsignal(number) is signal.SIG_DFL]
    for number in handled:
        signal.signal(number, receive)
    exits = in_main and signal.getsignal(signal.SIGINT) is _exit
    if exits:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        if exits:
            signal.signal(signal.SIGINT, _exit)
        for number in handled:
            signal.signal(number, signal.SIG_DFL)


@contextlib.contextmanager
def ignored(name: str) -> Iterator[None]:
    """Context manager in which a signal is ignored, and so for ever by processes that are started in it.

    Args:
        name: "SIGINT" for example; nothing is done where there is no such signal.
    """
    number = getattr(signal, name, None)
    if number is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    former = signal.signal(number, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(number, former)


def end_with_parent(name: str, parent: int | None = None) -> None:
    """Let Linux send this process a signal when its parent ends, even by `kill -9`; elsewhere this does nothing.

    Args:
        name: "SIGKILL" for example.
        parent: The process number of the parent. A parent that has ended before this call is noticed only where it is
            given; then the signal is sent at once.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.Signals[name])
        if parent is not None and os.getppid() != parent:
            os.kill(os.getpid(), signal.Signals[name])


def run_command(command: Sequence[str], env: Mapping[str, str] | None = None) -> tuple[int, str]:
    """Run another command, which stops as this one does: by its own handling of the signal, with what it keeps.

    (`subprocess.run` kills it a quarter of a second after Ctrl-C, while a training may still save its checkpoint.)

    Args:
        command: The program and its arguments.
        env: Its environment; None: that of this process.

    Returns:
        Its exit code and what it printed to standard output.

    Raises:
        KeyboardInterrupt: This command was stopped; the other one has ended.
    """
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env) as process:
        try:
            output, _ = process.communicate()
        except KeyboardInterrupt as error:
            # A terminal sends Ctrl-C to both; other signals were sent to this process alone, or do no harm twice.
            if isinstance(error, Interrupted):
                process.send_signal(error.number)
            process.wait()
            raise
    return process.returncode, output
