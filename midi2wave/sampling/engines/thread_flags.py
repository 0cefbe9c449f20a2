"""Flags by which the threads of a group tell one another how far they are, in memory that no lock protects.

No wait is unbounded spinning: another process may use the core of the thread that is waited for, for milliseconds.
"""

import sys
from typing import Any

import llvmlite.binding
from llvmlite import ir
from numba import njit, types

from midi2wave.sampling.engines.llvm_vectors import (
    I32,
    IntrinsicResult,
    Kind,
    call_function,
    element_pointer,
    intrinsic,
    prefetch_line,
)

# The naps of a thread that has waited in vain double from the first length to the second one, in microseconds. A nap
# leaves the core to others; the longest one bounds how late a thread returns to work.
FIRST_NAP = 50
MAX_NAP = 3200
# The nap of a thread that has nothing to do until a trial, which lasts 20 times as long.
REST = 10_000


@intrinsic
def publish(typingctx: Any, flags: Kind, index: Kind, value: Kind) -> IntrinsicResult:
    """flags[index] = value, int64, with release order: a thread that reads the value also sees all earlier writes."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> ir.Value:
        flags, index, value = arguments
        place = element_pointer(builder, flags, index, ir.IntType(64))
        builder.store_atomic(value, place, "release", 8)
        return context.get_dummy_value()

    return types.void(flags, types.intp, types.int64), generate


@intrinsic
def observe(typingctx: Any, flags: Kind, index: Kind) -> IntrinsicResult:
    """flags[index], int64, with acquire order."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> ir.Value:
        flags, index = arguments
        place = element_pointer(builder, flags, index, ir.IntType(64))
        return builder.load_atomic(place, "acquire", 8)

    return types.int64(flags, types.intp), generate


@intrinsic
def pause(typingctx: Any) -> IntrinsicResult:
    """Execute the instruction that marks a spin loop, where the processor has one."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> ir.Value:
        if llvmlite.binding.get_process_triple().startswith(("x86_64", "i686")):
            call_function(builder, "llvm.x86.sse2.pause", ir.VoidType(), [])
        return context.get_dummy_value()

    return types.void(), generate


@intrinsic
def _sleep(typingctx: Any, microseconds: Kind) -> IntrinsicResult:
    """Let other threads have the core for at least so long."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> ir.Value:
        duration = builder.trunc(arguments[0], I32)
        if sys.platform == "win32":  # In milliseconds.
            milliseconds = builder.udiv(builder.add(duration, ir.Constant(I32, 999)), ir.Constant(I32, 1000))
            call_function(builder, "Sleep", ir.VoidType(), [milliseconds])
        else:
            call_function(builder, "usleep", I32, [duration])
        return context.get_dummy_value()

    return types.void(types.int64), generate


@njit(nogil=True)
def nap(n_naps: int) -> int:
    """Sleep, the longer the more naps came before this one without work between them; returns n_naps + 1."""
    _sleep(min(FIRST_NAP << min(n_naps, 16), MAX_NAP))
    return n_naps + 1


@njit(nogil=True)
def rest() -> int:
    """Sleep for longer than after waiting in vain; returns 0 naps."""
    _sleep(REST)
    return 0


@njit(nogil=True)
def spin_until(flags: Any, index: int, value: int, max_spins: int) -> bool:
    """Wait until flags[index] >= value, but for max_spins rounds at most; returns whether it is."""
    for _ in range(max_spins):
        if observe(flags, index) >= value:
            return True
        pause()
    return observe(flags, index) >= value


@intrinsic
def prefetch_write(typingctx: Any, x: Kind, x0: Kind) -> IntrinsicResult:
    """Prefetch the cache line of x[x0] for writing, since it lies in another core's cache."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> ir.Value:
        prefetch_line(builder, builder.gep(arguments[0], [arguments[1]]), write=True)
        return context.get_dummy_value()

    return types.void(x, types.intp), generate
