"""Functions that numba compiles, cached on disk for the next process where that is possible."""

import functools
import threading
from collections.abc import Callable
from typing import Any

from midi2wave.utils.cli import format_error, log

# Reading compiled code from the cache takes a fraction of this, compiling the sampler a multiple.
SECONDS_BEFORE_MESSAGE = 2.0


_log_lock = threading.Lock()


@functools.cache
def _log_first() -> None:
    log("compiling for this processor, which takes half a minute or more and is done once")


def _log_compiling() -> None:
    # Once in a process: a player waits for several functions, which threads compile at the same time. functools.cache
    # alone would let two threads through.
    with _log_lock:
        _log_first()


class cached_njit:
    """Decorator: numba.njit(cache=True), which compiles for this process alone where the cache cannot be written.

    numba itself fails there: with RuntimeError if no cache folder is writable, with OSError at the first call if
    writing or reading fails (full disk, quota). numba is imported at the first call, so that a module with such a
    function can be imported without it.
    """

    def __init__(self, function: Callable, **options: Any) -> None:
        """Wrap a function.

        Args:
            function: The Python function.
            **options: Options of numba.njit.
        """
        functools.update_wrapper(self, function)
        self.function = function
        self.options = options
        self.dispatcher: Callable | None = None
        self.is_cached = True
        self._was_called = False
        self._lock = threading.Lock()

    def __call__(self, *arguments: Any) -> Any:
        """Call the compiled function; a first call that compiles for long says so."""
        if self._was_called:
            return self._call(*arguments)
        with self._lock:  # Several threads may call the function for the first time; one of them says so.
            is_first, self._was_called = not self._was_called, True
        if not is_first:
            return self._call(*arguments)
        timer = threading.Timer(SECONDS_BEFORE_MESSAGE, _log_compiling)
        timer.daemon = True
        timer.start()
        try:
            return self._call(*arguments)
        finally:
            timer.cancel()

    def _call(self, *arguments: Any) -> Any:
        dispatcher = self.dispatcher or self._make_dispatcher()
        try:
            return dispatcher(*arguments)
        except OSError as error:
            # It comes from the compiler: compiled code raises none, so that nothing has been done yet.
            self._leave_cache(dispatcher, error)
            return self._make_dispatcher()(*arguments)

    def _leave_cache(self, dispatcher: Callable, error: OSError) -> None:
        """Compile for this process alone from now on. Raises the error if that was so for this dispatcher already."""
        with self._lock:
            if dispatcher is not self.dispatcher:  # Another thread has met the same error.
                return
            if not self.is_cached:
                raise error
            log(f"compiled code could not be kept ({format_error(error)}); it is compiled for this process alone")
            self.is_cached, self.dispatcher = False, None

    def _make_dispatcher(self) -> Callable:
        import numba

        with self._lock:  # Several threads may call the function for the first time; it is compiled once.
            if self.dispatcher is None:
                try:
                    self.dispatcher = numba.njit(cache=self.is_cached, **self.options)(self.function)
                except RuntimeError:
                    self.is_cached = False
                    self.dispatcher = numba.njit(**self.options)(self.function)
            return self.dispatcher
