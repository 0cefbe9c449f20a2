"""What every command does the same: errors as one line, exit codes, results on stdout.

Exit 0: all done. 1: some items failed, the rest is done and usable. 2: nothing could be done.
"""

import argparse
import errno
import io
import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from tqdm import tqdm

from midi2wave.utils.errors import InputError

if TYPE_CHECKING:
    import torch

T = TypeVar("T")
SECONDS_BETWEEN_MESSAGES = 30


@dataclass(frozen=True)
class Failure:
    """One item (a file, a clip) that could not be done, and why, in words for the person who owns it."""

    item: str
    reason: str


def make_parser(description: str | None, *, config: str | None = None) -> argparse.ArgumentParser:
    """An argument parser with the options that all steps share; `config` is the default of -c where there is one."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    if config is not None:
        made.add_argument(
            "-c", "--config", default=config, help=f"JSON config, a path or a name in configs/ (default {config})"
        )
        made.add_argument(
            "--set",
            dest="overrides",
            action="append",
            default=[],
            metavar="BLOCK.KEY=VALUE",
            help="override one config value; repeatable",
        )
    made.add_argument("--force", action="store_true", help="overwrite what exists")
    made.add_argument("--json", dest="as_json", action="store_true", help="print the result as one JSON object")
    return made


def log(message: str) -> None:
    """Progress and remarks go to stderr, so that stdout holds results only."""
    print(message, file=sys.stderr, flush=True)


def choose_device(name: str) -> "torch.device":
    """The torch device that a config names; auto is CUDA where there is one. Raises InputError if it is not there."""
    import torch  # the steps without a model should not wait for it

    try:
        device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(
            f"device {name!r} cannot be used ({str(error).splitlines()[0]}); set it to auto or cpu"
        ) from error
    return device


def progress(items: Iterable[T], total: int, unit: str) -> Iterator[T]:
    """Pass items on with a bar on a terminal, or with a line now and then elsewhere."""
    if sys.stderr.isatty():
        yield from tqdm(items, total=total, unit=unit, dynamic_ncols=True)
        return
    noted = time.monotonic()
    for done, item in enumerate(items, start=1):
        yield item
        if time.monotonic() - noted > SECONDS_BETWEEN_MESSAGES:
            noted = time.monotonic()
            log(f"{done} of {total} {unit}s")


def progress_in_hours(
    items: Iterable[T], total: float, share: Callable[[T], float], seconds: Callable[[T], float]
) -> Iterator[T]:
    """Pass items on while telling hours of audio done, how many times real time that is, and the time left.

    `share` is an item's part of `total`, in any unit that grows with the work (bytes, seconds); `seconds` its audio.
    """
    started = noted = time.monotonic()
    done, hours = 0.0, 0.0
    with tqdm(total=1.0, bar_format="{l_bar}{bar}| {postfix}", disable=not sys.stderr.isatty()) as bar:
        for item in items:
            done, hours = done + share(item), hours + seconds(item) / 3600
            now = time.monotonic()
            elapsed, part = max(now - started, 1e-3), min(1.0, done / total) if total else 1.0
            left = elapsed * (1 - part) / part if part else 0.0
            words = f"{hours:.2f} of {hours / part if part else 0:.2f} h, {hours * 3600 / elapsed:.0f} x real time, "
            words += f"{left / 60:.1f} min left"
            bar.set_postfix_str(words, refresh=False)
            bar.update(part - bar.n)
            if bar.disable and now - noted > SECONDS_BETWEEN_MESSAGES:
                noted = now
                log(words)
            yield item


def report_and_exit_code(
    summary: str, result: dict[str, Any], failures: list[Failure], done: int, *, as_json: bool
) -> int:
    """Print the outcome of a step over many items and return its exit code.

    `done` counts the usable items; `failures` the others. Exit 2 only if there is nothing usable.
    """
    if as_json:
        print(json.dumps({**result, "failures": [vars(f) for f in failures]}, ensure_ascii=False))
    else:
        print(summary)
    for failure in failures:
        why = failure.reason.removeprefix(failure.item).lstrip(": ")  # many reasons begin with the file's name
        log(f"failed: {failure.item}: {why}")
    if not failures:
        return 0
    log(f"{len(failures)} of {len(failures) + done} items failed (listed above)")
    return 1 if done else 2


def format_error(error: Exception) -> str:
    """An exception as one line for the user; full disks and missing rights in plain words."""
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return f"the disk is full ({error.filename or 'while writing'}); free some space and run the same command again"
    if isinstance(error, PermissionError):
        return f"no permission for {error.filename}"
    return " ".join(str(error).split()) or type(error).__name__


def run(step: Callable[[], int]) -> NoReturn:
    """Run a step's main function and leave the process with its exit code; InputError and OSError become one line."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # a file name need not be text in any encoding
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        code = step()
    except (InputError, OSError) as error:
        log(f"error: {format_error(error)}")
        code = 2
    except KeyboardInterrupt:
        log("interrupted; finished files are whole, the same command goes on from there")
        code = 130
    sys.exit(code)
