"""What all commands share: options, messages, progress, exit codes, errors as one line.

Exit 0: all done. 1: some items failed, the rest is done and usable. 2: nothing could be done. 128 + N: stopped by the
signal N (130: Ctrl-C, 143: SIGTERM, 129: SIGHUP, 141: the program that reads the output has ended).
"""

import argparse
import contextlib
import errno
import io
import json
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from tqdm import tqdm

from midi2wave.utils import signals
from midi2wave.utils.cores import cpu_quota, usable_cores
from midi2wave.utils.errors import DISK_FULL_ERRNOS, RESOURCE_ERRNOS, InputError
from midi2wave.utils.text import shorten

if TYPE_CHECKING:
    import torch

Item = TypeVar("Item")

SECONDS_BETWEEN_MESSAGES = 30
# What a file holds instead of text may be in a message: so many characters of it.
MAX_LINE = 1500
MIN_ELAPSED_SECONDS = 1e-3
# Of a disk or a share that fails, whatever the path.
DISK_ERRNOS = (errno.EIO, errno.ENODEV, getattr(errno, "ESTALE", errno.EIO))
# As shells have it of a program that SIGPIPE ends. Windows has neither the signal nor its number.
EXIT_BROKEN_PIPE = 141


@dataclass(frozen=True)
class Failure:
    """One item (a file, a clip) that could not be done, and the reason in words for the user."""

    item: str
    reason: str


def item_failure(item: str, error: InputError | OSError) -> Failure:
    """The failure of one item of many, whose others are done all the same.

    Args:
        item: What the item is called.
        error: Why it could not be done.

    Raises:
        OSError: `error` itself, where all other items would fail, too: the disk is full, or the memory is exhausted.
    """
    if isinstance(error, OSError) and error.errno in (*DISK_FULL_ERRNOS, *RESOURCE_ERRNOS):
        raise error
    return Failure(item, format_error(error))


class _Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, as those of the commands are."""

    def error(self, message: str) -> NoReturn:
        """Exit with one line instead of the usage, which is in --help."""
        self.exit(2, f"error: {' '.join(message.split())}; see {self.prog} --help\n")


def make_plain_parser(description: str | None) -> argparse.ArgumentParser:
    """An argument parser without any options, whose errors are one line."""
    return _Parser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)


def make_parser(
    description: str | None, *, config: str | None = None, force: str = "overwrite what exists"
) -> argparse.ArgumentParser:
    """An argument parser with the options that all commands share.

    Args:
        description: Help text of the command.
        config: The default of -c; None: the command has no config.
        force: What --force does.
    """
    parser = make_plain_parser(description)
    if config is not None:
        parser.add_argument(
            "-c", "--config", default=config, help=f"JSON config, a path or a name in configs/ (default {config})"
        )
        parser.add_argument(
            "--set",
            dest="overrides",
            action="append",
            default=[],
            metavar="BLOCK.OPTION=VALUE",
            help="override one config value; repeatable",
        )
    parser.add_argument("--force", action="store_true", help=force)
    parser.add_argument("--json", dest="as_json", action="store_true", help="print the result as one JSON object")
    return parser


def path_argument(text: str) -> Path:
    """The value of an option that is a path.

    Raises:
        argparse.ArgumentTypeError: It is empty, as from an unset variable of a shell: Path would take that for the
            current folder.
    """
    if not text:
        raise argparse.ArgumentTypeError("it is empty, expected a path; is a variable of the shell unset?")
    return Path(text)


def log(message: str) -> None:
    """Print progress or a remark to stderr, so that stdout holds results only."""
    # A terminal that was closed takes no messages; the work, or what is saved at its end, must not fail for that.
    with contextlib.suppress(OSError):
        print(message, file=sys.stderr, flush=True)


def count_of(number: int, noun: str) -> str:
    """A number of things in words: "1 wav", "2 wavs"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def choose_device(name: str) -> "torch.device":
    """The torch device of a name in a config.

    Args:
        name: "cpu", "cuda", "cuda:1", ..., or "auto": CUDA where it is available.

    Raises:
        InputError: The device cannot be used.
    """
    import torch  # Commands without a model should not wait for it.

    _limit_torch_threads()
    try:
        device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)
    except (RuntimeError, TypeError) as error:  # PyTorch's own message lists two dozen devices.
        raise InputError(
            f"device {name!r} cannot be used (expected cpu, cuda, or cuda:N for GPU N); set it to auto or cpu"
        ) from error
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0].split(". ")[0]
        raise InputError(f"device {name!r} cannot be used ({reason}); set it to auto or cpu") from error
    return device


def _limit_torch_threads() -> None:
    """Let PyTorch compute on as many threads as a container's CPU quota has cores; by default it sees the host's."""
    import torch

    n_cores = usable_cores()
    chosen_by_user = "OMP_NUM_THREADS" in os.environ
    if not chosen_by_user and cpu_quota() is not None and torch.get_num_threads() > n_cores:
        torch.set_num_threads(n_cores)


def progress(items: Iterable[Item], total: int, unit: str) -> Iterator[Item]:
    """Pass items on with a progress bar on a terminal, or with periodic messages elsewhere.

    Args:
        items: The items.
        total: How many there are.
        unit: What one is called.

    Yields:
        The items.
    """
    if sys.stderr.isatty():
        yield from tqdm(items, total=total, unit=unit, dynamic_ncols=True)
        return
    last_message = time.monotonic()
    for n_done, item in enumerate(items, start=1):
        yield item
        if time.monotonic() - last_message > SECONDS_BETWEEN_MESSAGES:
            last_message = time.monotonic()
            log(f"{n_done} of {count_of(total, unit)}")


def progress_in_hours(
    items: Iterable[Item], total: float, share: Callable[[Item], float], seconds: Callable[[Item], float]
) -> Iterator[Item]:
    """Pass items on and show the hours of audio done, how many times real time that is, and the time left.

    Args:
        items: The items.
        total: The work of all, in any unit that grows with it (bytes, seconds).
        share: An item's part of `total`.
        seconds: An item's seconds of audio.

    Yields:
        The items.
    """
    started = time.monotonic()
    last_message = started
    work_done = 0.0
    hours = 0.0
    with tqdm(total=1.0, bar_format="{l_bar}{bar}| {postfix}", disable=not sys.stderr.isatty()) as bar:
        for item in items:
            work_done += share(item)
            hours += seconds(item) / 3600
            now = time.monotonic()
            fraction = min(1.0, work_done / total) if total else 1.0
            message = _hours_message(hours, fraction, max(now - started, MIN_ELAPSED_SECONDS))
            bar.set_postfix_str(message, refresh=False)
            bar.update(fraction - bar.n)
            if bar.disable and now - last_message > SECONDS_BETWEEN_MESSAGES:
                last_message = now
                log(message)
            yield item


def _hours_message(hours: float, fraction: float, elapsed: float) -> str:
    all_hours = hours / fraction if fraction else 0
    minutes_left = elapsed * (1 - fraction) / fraction / 60 if fraction else 0.0
    return f"{hours:.2f} of {all_hours:.2f} h, {hours * 3600 / elapsed:.0f} x real time, {minutes_left:.1f} min left"


def print_result(summary: str, result: Any, *, as_json: bool) -> None:
    """Print the result of a command.

    Args:
        summary: The result in words.
        result: The result as JSON values; numbers that JSON does not have, such as NaN, become null.
        as_json: Whether `result` is printed instead of `summary`: in ASCII, whatever the encoding of stdout is.
    """
    if as_json:
        summary = json.dumps(json.loads(json.dumps(result), parse_constant=lambda _: None))
    print(summary)


def report_and_exit_code(
    summary: str, result: dict[str, Any], failures: list[Failure], done: int, *, as_json: bool
) -> int:
    """Print the outcome of a command over many items.

    Args:
        summary: The result in words.
        result: The result as JSON values.
        failures: The items that failed.
        done: How many items are usable.
        as_json: Whether `result` is printed instead of `summary`.

    Returns:
        The exit code: 2 only if nothing is usable.
    """
    print_result(summary, {**result, "failures": [vars(failure) for failure in failures]}, as_json=as_json)
    for failure in failures:
        # Many reasons begin with the file's name.
        reason = failure.reason.removeprefix(failure.item).lstrip(": ")
        log(f"failed: {failure.item}: {reason}")
    if not failures:
        return 0
    log(f"{len(failures)} of {count_of(len(failures) + done, 'item')} failed (listed above)")
    return 1 if done else 2


def format_error(error: Exception) -> str:
    """An exception as one line for the user; full disks and missing permissions in plain words."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        full = "disk is full" if error.errno == errno.ENOSPC else "disk quota is used up"
        return f"the {full} ({error.filename or 'while writing'}); free some space and run the same command again"
    if isinstance(error, PermissionError):
        # Windows says the same of a file that is in use.
        in_use = ", or another program has it open" if sys.platform == "win32" else ""
        return f"no permission for {error.filename}{in_use}"
    if isinstance(error, OSError) and error.filename and error.strerror:
        remedy = "check the disk or the share" if error.errno in DISK_ERRNOS else "check the path"
        return f"{error.strerror}: {error.filename!r}; {remedy}"
    if isinstance(error, UnicodeEncodeError):
        return f"{error.object!r} has no form in this system's encoding, {error.encoding}; set PYTHONUTF8=1"
    return shorten(" ".join(str(error).split()), MAX_LINE) or type(error).__name__


def run(command: Callable[[], int]) -> NoReturn:
    """Run a command's main function and exit with its code; a mistake of the user or of the system is one line.

    Args:
        command: Returns the exit code.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):  # The bytes of a file name need not be text in any encoding.
        sys.stdout.reconfigure(errors="backslashreplace")
    exit_code: int | str | None
    try:
        with signals.raise_interrupted():
            try:
                exit_code = command()
            except SystemExit as left:  # Of argparse, after --help or a wrong argument.
                exit_code = left.code
            _flush_stdout()  # Here, since what fails when Python ends has a traceback.
    except (InputError, OSError, UnicodeEncodeError) as error:
        if isinstance(error, BrokenPipeError) and _is_stdout_broken():
            sys.exit(EXIT_BROKEN_PIPE)
        log(f"error: {format_error(error)}")
        exit_code = 2
    except KeyboardInterrupt as error:
        number = error.number if isinstance(error, signals.Interrupted) else signal.SIGINT
        by = "" if number == signal.SIGINT else f" by {signal.Signals(number).name}"
        log(f"interrupted{by}; finished files are whole, the same command goes on from there")
        exit_code = signals.exit_code(number)
    if "TORCHELASTIC_RUN_ID" in os.environ and isinstance(exit_code, int):
        _exit_without_finalization(exit_code)
    sys.exit(exit_code)


def _exit_without_finalization(code: int) -> NoReturn:
    """End a process of torchrun.

    PyTorch keeps gloo's threads after DistributedDataParallel and its process group are gone. One that releases a
    tensor while Python ends aborts the process (pytorch/pytorch pull request 179291), and torchrun then reports that a
    finished training failed.
    """
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.flush()
    os._exit(code)


def _flush_stdout() -> None:
    if sys.stdout is not None:  # It is None if the command was started without one.
        sys.stdout.flush()


def _is_stdout_broken() -> bool:
    """Whether nobody reads stdout any more, as after `| head -1`; what is left for it is then dropped."""
    if sys.stdout is None or not hasattr(select, "poll"):  # Windows cannot ask.
        return False
    poll = select.poll()
    poll.register(sys.stdout.fileno(), select.POLLOUT)
    if not any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0)):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return True
