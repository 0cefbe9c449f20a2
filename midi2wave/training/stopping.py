"""How a training ends before its last step: by a signal, or by an error; in both cases the last step is saved."""

import contextlib
import signal
import time
from collections.abc import Iterator
from types import FrameType

from midi2wave.training.distributed import SINGLE_PROCESS, World
from midi2wave.training.run_state import Run, save_checkpoint
from midi2wave.utils import signals
from midi2wave.utils.cli import format_error, log
from midi2wave.utils.errors import InputError

# Two signals within this time are one: a group of processes receives it, and a parent process forwards it as well.
SAME_SIGNAL_SECONDS = 1.0


class StopRequest:
    """Whether this process was asked to stop; false until the first signal arrives."""

    def __init__(self) -> None:
        # A process of torchrun may stop with another one that has received the signal.
        self.number: int = signal.SIGTERM
        self.received_at: float | None = None

    def __call__(self) -> bool:
        """Whether a stop was requested."""
        return self.received_at is not None

    @property
    def exit_code(self) -> int:
        """The exit code of a training that stops before its last step."""
        return signals.exit_code(self.number)


@contextlib.contextmanager
def stop_signals(world: World = SINGLE_PROCESS) -> Iterator[StopRequest]:
    """Install handlers of signals that request a stop after the current step; a second signal acts at once.

    Under torchrun a second signal does not: torchrun forwards what a terminal has already sent to its processes. A
    SIGHUP or SIGTERM that the command was started to ignore (nohup) stays ignored.

    Yields:
        The request.
    """
    request = StopRequest()

    def receive(number: int, _frame: FrameType | None) -> None:
        now = time.monotonic()
        if request.received_at is None:
            request.number, request.received_at = number, now
        elif world.size == 1 and now - request.received_at > SAME_SIGNAL_SECONDS:
            raise signals.Interrupted(number)

    handled = [
        number
        for number in signals.STOP_SIGNALS
        if number == signal.SIGINT or signal.getsignal(number) is not signal.SIG_IGN
    ]
    former = {number: signal.signal(number, receive) for number in handled}
    try:
        yield request
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def save_on_error(state: Run) -> Iterator[None]:
    """Context manager that saves the last complete step before an error ends the training.

    Args:
        state: The run.
    """
    first_step = state.step
    try:
        yield
    except Exception:
        if state.step > max(first_step, state.saved_step) and not state.updating:
            _save_last_step(state)
        raise


def _save_last_step(state: Run) -> None:
    """Save a checkpoint after an error, and say so; what prevents it is reported beside that error."""
    try:
        problem = save_checkpoint(state)
    except (InputError, RuntimeError, MemoryError) as error:  # Weights that are not finite, or a GPU that has failed.
        log(f"step {state.step} is not saved: {format_error(error)}")
        return
    if state.world.is_main_process and problem is None:
        log(f"step {state.step} is saved; the same command goes on from there")
