"""Functions that numba compiles, cached on disk for the next process where that is possible."""

import functools
from collections.abc import Callable
from typing import Any

import numba

from midi2wave.utils.cli import format_error, log


class cached_njit:
    """Decorator: numba.njit(cache=True), which compiles for this process alone where the cache cannot be written.

    numba itself fails there: with RuntimeError if no cache folder is writable, with OSError at the first call if
    writing or reading fails (full disk, quota).
    """

    def __init__(self, function: Callable, **options: Any) -> None:
        """Wrap a function.

        Args:
            function: The Python function.
            **options: Options of numba.njit.
        """
        functools.update_wrapper(self, function)
        self.uncached = numba.njit(**options)(function)
        try:
            self.dispatcher = numba.njit(cache=True, **options)(function)
        except RuntimeError:
            self.dispatcher = self.uncached

    def __call__(self, *arguments: Any) -> Any:
        """Call the compiled function."""
        try:
            return self.dispatcher(*arguments)
        except OSError as error:
            # It comes from the compiler: compiled code raises none, so that nothing has been done yet.
            if self.dispatcher is self.uncached:
                raise
            log(f"compiled code could not be kept ({format_error(error)}); it is compiled for this process alone")
            self.dispatcher = self.uncached
            return self.dispatcher(*arguments)
