"""LLVM instructions on vectors of 16 lanes, as the compiled functions of this folder are built from them."""

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba.core import cgutils
from numba.extending import intrinsic as numba_intrinsic

LANES = 16
I32 = ir.IntType(32)
F32 = ir.FloatType()
V32 = ir.VectorType(I32, LANES)
VF = ir.VectorType(F32, LANES)
# Typed as Any: what it decorates is called with values, and defined as a function of their types.
intrinsic: Any = numba_intrinsic
# numba's type of an argument: a numba.types.Type, whose attributes depend on what it is the type of.
Kind = Any
# What a function decorated with `numba.extending.intrinsic` returns: its signature, and what generates its code.
IntrinsicResult = tuple[Any, Callable[[Any, ir.IRBuilder, Any, Any], ir.Value]]


class BFloat16(ir.types._BaseFloatType):
    """LLVM's bfloat, which llvmlite does not name."""

    def __str__(self) -> str:
        return "bfloat"


BFloat16._create_instance()


def element_pointer(builder: ir.IRBuilder, pointer: ir.Value, offset: ir.Value, element: ir.Type) -> ir.Value:
    """Pointer to pointer[offset], as a pointer to LLVM's type `element`."""
    return builder.bitcast(builder.gep(pointer, [offset]), ir.PointerType(element))


def load_at(builder: ir.IRBuilder, pointer: ir.Value, index: ir.Value, element: ir.Type) -> ir.Value:
    """Load pointer[index] as LLVM's type `element`, aligned to 4 bytes."""
    place = builder.bitcast(builder.gep(pointer, [index]), ir.PointerType(element))
    return builder.load(place, align=4)


def splat(builder: ir.IRBuilder, scalar: ir.Value, kind: ir.Type) -> ir.Value:
    """A vector of type `kind` with the scalar in all lanes."""
    one = builder.insert_element(ir.Constant(kind, ir.Undefined), scalar, ir.Constant(I32, 0))
    return builder.shuffle_vector(one, ir.Constant(kind, ir.Undefined), ir.Constant(V32, [0] * LANES))


def call_function(builder: ir.IRBuilder, name: str, result: ir.Type, arguments: Sequence[ir.Value]) -> ir.Value:
    """Call the function or LLVM intrinsic of that name."""
    kind = ir.FunctionType(result, [argument.type for argument in arguments])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), arguments)


def fma(builder: ir.IRBuilder, a: ir.Value, b: ir.Value, c: ir.Value) -> ir.Value:
    """Compute a * b + c of 16 float32 lanes, fused where the processor can."""
    return call_function(builder, "llvm.fmuladd.v16f32", VF, [a, b, c])


def float_vector(value: float) -> ir.Constant:
    """A float32 constant in all lanes."""
    return ir.Constant(VF, [float(value)] * LANES)


def int_vector(value: int) -> ir.Constant:
    """A 32-bit integer constant in all lanes."""
    return ir.Constant(V32, [value] * LANES)


def prefetch_line(builder: ir.IRBuilder, pointer: ir.Value, *, write: bool = False) -> None:
    """Prefetch the cache line at a pointer, to read it or to own it for writing."""
    byte = builder.bitcast(pointer, ir.PointerType(ir.IntType(8)))
    kind = ir.FunctionType(ir.VoidType(), [byte.type, I32, I32, I32])
    hints = [ir.Constant(I32, value) for value in (int(write), 3, 1)]  # 3: keep it, 1: data
    builder.call(cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0"), [byte, *hints])
