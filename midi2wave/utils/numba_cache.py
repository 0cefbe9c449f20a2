"""Functions that numba compiles, kept on disk for the next process where there is room and permission for it."""

import functools
from collections.abc import Callable
from typing import Any

import numba

from midi2wave.utils.cli import format_error, log


class cached_njit:
    """Decorator: numba.njit(cache=True), that compiles for this process alone where nothing can be kept.

    numba gives up there: with RuntimeError if there is no folder that can be written to, with OSError at the first call
    if writing or reading fails (full disk, quota). options: those of njit.
    """

    def __init__(self, function: Callable, **options: Any) -> None:
        functools.update_wrapper(self, function)
        self.here_only = numba.njit(**options)(function)
        try:
            self.dispatcher = numba.njit(cache=True, **options)(function)
        except RuntimeError:
            self.dispatcher = self.here_only

    def __call__(self, *arguments: Any) -> Any:
        try:
            return self.dispatcher(*arguments)
        except OSError as error:  # while compiling: compiled code raises none, so that nothing has been done yet
            if self.dispatcher is self.here_only:
                raise
            log(f"compiled code could not be kept ({format_error(error)}); it is compiled for this process alone")
            self.dispatcher = self.here_only
            return self.dispatcher(*arguments)
