"""Flags by which the threads of a group tell one another how far they are, in memory that no lock protects."""

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

# Rounds of waiting before the core is offered to other threads: longer than any wait while all threads run.
SPINS_BEFORE_YIELD = 2000


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
def _pause(typingctx: Any) -> IntrinsicResult:
    """Execute the instruction that marks a spin loop, where the processor has one."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> ir.Value:
        if llvmlite.binding.get_process_triple().startswith(("x86_64", "i686")):
            call_function(builder, "llvm.x86.sse2.pause", ir.VoidType(), [])
        return context.get_dummy_value()

    return types.void(), generate


@intrinsic
def _yield_core(typingctx: Any) -> IntrinsicResult:
    """Let another thread have the core."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> ir.Value:
        name = "SwitchToThread" if sys.platform == "win32" else "sched_yield"
        call_function(builder, name, I32, [])
        return context.get_dummy_value()

    return types.void(), generate


@njit(nogil=True)
def await_flag(flags: Any, index: int, value: int, stop: int) -> bool:
    """Wait until flags[index] >= value; returns False if flags[stop] was set before that."""
    spins = 0
    while observe(flags, index) < value:
        spins += 1
        if spins < SPINS_BEFORE_YIELD:
            _pause()
        else:
            if observe(flags, stop) != 0:
                return False
            _yield_core()
    return True


@intrinsic
def prefetch_write(typingctx: Any, x: Kind, x0: Kind) -> IntrinsicResult:
    """Prefetch the cache line of x[x0] for writing, since it lies in another core's cache."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> ir.Value:
        prefetch_line(builder, builder.gep(arguments[0], [arguments[1]]), write=True)
        return context.get_dummy_value()

    return types.void(x, types.intp), generate
