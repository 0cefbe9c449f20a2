"""Elementwise functions of 16 float32 lanes for numba: the gate's nonlinearity, exponentials, copies and sums.

Pointers are those of `simd.as_pointers`; each comes with the offset of its first element.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils

from midi2wave.sampling.engines.llvm_vectors import (
    F32,
    LANES,
    V32,
    VF,
    IntrinsicResult,
    Kind,
    call_function,
    element_pointer,
    float_vector,
    fma,
    int_vector,
    intrinsic,
    splat,
)


def _exp_vector(builder: ir.IRBuilder, x: ir.Value) -> ir.Value:
    """e^x of 16 lanes, |x| <= 87: 2^n by the exponent's bits times a polynomial on [-ln 2 / 2, ln 2 / 2].

    Taylor's terms up to the 7th; the reduced argument keeps its digits by subtracting ln 2 in two parts (Cody and
    Waite). Largest relative error 2e-7, see tests/unit/sampling/test_simd.py.
    """
    n = call_function(builder, "llvm.rint.v16f32", VF, [builder.fmul(x, float_vector(1.44269504))])
    r = fma(builder, n, float_vector(-0.693145751953125), x)
    r = fma(builder, n, float_vector(-1.42860682030941723e-6), r)
    total = float_vector(1 / 5040)
    for factorial in (720, 120, 24, 6, 2, 1, 1):
        total = fma(builder, total, r, float_vector(1 / factorial))
    bits = builder.shl(builder.fptosi(n, V32), int_vector(23))
    return builder.bitcast(builder.add(builder.bitcast(total, V32), bits), VF)


def _clip(builder: ir.IRBuilder, x: ir.Value, low: float, high: float) -> ir.Value:
    x = builder.select(builder.fcmp_ordered("<", x, float_vector(high)), x, float_vector(high))
    return builder.select(builder.fcmp_ordered(">", x, float_vector(low)), x, float_vector(low))


def _store_rounded(builder: ir.IRBuilder, kind: Kind, pointer: ir.Value, offset: ir.Value, vector: ir.Value) -> None:
    """Store 16 float32 lanes as they are, or rounded to the nearest bfloat16."""
    if kind.dtype == types.float32:
        builder.store(vector, element_pointer(builder, pointer, offset, VF), align=4)
        return
    short = ir.VectorType(ir.IntType(16), LANES)
    bits = builder.bitcast(vector, V32)
    odd = builder.and_(builder.lshr(bits, int_vector(16)), int_vector(1))
    bits = builder.add(bits, builder.add(odd, int_vector(0x7FFF)))
    rounded = builder.trunc(builder.lshr(bits, int_vector(16)), short)
    builder.store(rounded, element_pointer(builder, pointer, offset, short), align=2)


@intrinsic
def gate16(typingctx: Any, out: Kind, out0: Kind, a: Kind, a0: Kind, b0: Kind) -> IntrinsicResult:
    """out[out0:][:16] = tanh(a[a0:][:16]) * sigmoid(a[b0:][:16]), in out's type: float32, or bfloat16 as uint16.

    With p = e^-2a and q = e^-b it is (1 - p) / ((1 + p)(1 + q)): two exponentials and one division. Largest absolute
    error 3e-7, see tests/unit/sampling/test_simd.py.
    """

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> ir.Value:
        out, out0, a, a0, b0 = arguments
        tanh_half = builder.load(element_pointer(builder, a, a0, VF), align=4)
        sigmoid_half = builder.load(element_pointer(builder, a, b0, VF), align=4)
        p = _exp_vector(builder, builder.fmul(_clip(builder, tanh_half, -10, 10), float_vector(-2)))
        q = _exp_vector(builder, builder.fmul(_clip(builder, sigmoid_half, -40, 40), float_vector(-1)))
        one = float_vector(1)
        below = builder.fmul(builder.fadd(one, p), builder.fadd(one, q))
        result = builder.fdiv(builder.fsub(one, p), below)
        _store_rounded(builder, signature.args[0], out, out0, result)
        return context.get_dummy_value()

    return types.void(out, types.intp, a, types.intp, types.intp), generate


@intrinsic
def round16(typingctx: Any, out: Kind, out0: Kind, x: Kind, x0: Kind) -> IntrinsicResult:
    """out[out0:][:16] = x[x0:][:16] in out's type: float32, or rounded to bfloat16 as uint16."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> ir.Value:
        out, out0, x, x0 = arguments
        vector = builder.load(element_pointer(builder, x, x0, VF), align=4)
        _store_rounded(builder, signature.args[0], out, out0, vector)
        return context.get_dummy_value()

    return types.void(out, types.intp, x, types.intp), generate


@intrinsic
def copy16(typingctx: Any, y: Kind, y0: Kind, x: Kind, x0: Kind) -> IntrinsicResult:
    """y[y0:][:16] = x[x0:][:16], float32."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> ir.Value:
        y, y0, x, x0 = arguments
        builder.store(
            builder.load(element_pointer(builder, x, x0, VF), align=4), element_pointer(builder, y, y0, VF), align=4
        )
        return context.get_dummy_value()

    return types.void(y, types.intp, x, types.intp), generate


@intrinsic
def add16(typingctx: Any, y: Kind, y0: Kind, x: Kind, x0: Kind, factor: Kind) -> IntrinsicResult:
    """y[y0:][:16] += factor * x[x0:][:16], float32."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> ir.Value:
        y, y0, x, x0, factor = arguments
        place = element_pointer(builder, y, y0, VF)
        vector = builder.load(element_pointer(builder, x, x0, VF), align=4)
        total = fma(builder, vector, splat(builder, factor, VF), builder.load(place, align=4))
        builder.store(total, place, align=4)
        return context.get_dummy_value()

    return types.void(y, types.intp, x, types.intp, types.float32), generate


@intrinsic
def blend16(typingctx: Any, y: Kind, y0: Kind, x: Kind, a0: Kind, b0: Kind, ramp: Kind) -> IntrinsicResult:
    """y[y0:][:16] = a + (b - a) * ramp of a = x[a0:][:16] and b = x[b0:][:16], float32."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> ir.Value:
        y, y0, x, a0, b0, ramp = arguments
        a = builder.load(element_pointer(builder, x, a0, VF), align=4)
        b = builder.load(element_pointer(builder, x, b0, VF), align=4)
        blended = fma(builder, builder.fsub(b, a), splat(builder, ramp, VF), a)
        builder.store(blended, element_pointer(builder, y, y0, VF), align=4)
        return context.get_dummy_value()

    return types.void(y, types.intp, x, types.intp, types.intp, types.float32), generate


@intrinsic
def relu16(typingctx: Any, out: Kind, out0: Kind, x: Kind, x0: Kind) -> IntrinsicResult:
    """out[out0:][:16] = max(x[x0:][:16], 0) in out's type: float32, or rounded to bfloat16 as uint16."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> ir.Value:
        out, out0, x, x0 = arguments
        vector = builder.load(element_pointer(builder, x, x0, VF), align=4)
        positive = builder.select(builder.fcmp_ordered(">", vector, float_vector(0)), vector, float_vector(0))
        _store_rounded(builder, signature.args[0], out, out0, positive)
        return context.get_dummy_value()

    return types.void(out, types.intp, x, types.intp), generate


@intrinsic
def exp16(typingctx: Any, out: Kind, out0: Kind, x: Kind, x0: Kind, shift: Kind) -> IntrinsicResult:
    """out[out0:][:16] = e^(x[x0:][:16] - shift), float32; differences below -87 count as -87."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> ir.Value:
        out, out0, x, x0, shift = arguments
        vector = builder.load(element_pointer(builder, x, x0, VF), align=4)
        vector = builder.fsub(vector, splat(builder, shift, VF))
        result = _exp_vector(builder, _clip(builder, vector, -87, 87))
        builder.store(result, element_pointer(builder, out, out0, VF), align=4)
        return context.get_dummy_value()

    return types.void(out, types.intp, x, types.intp, types.float32), generate


@intrinsic
def sum16(typingctx: Any, x: Kind, x0: Kind) -> IntrinsicResult:
    """The sum of x[x0:][:16], taken in float64."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> ir.Value:
        wide = ir.VectorType(ir.DoubleType(), LANES)
        vector = builder.load(element_pointer(builder, arguments[0], arguments[1], VF), align=4)
        name, zero = "llvm.vector.reduce.fadd.v16f64", ir.Constant(ir.DoubleType(), 0.0)
        kind = ir.FunctionType(ir.DoubleType(), [ir.DoubleType(), wide])
        function = cgutils.get_or_insert_function(builder.module, kind, name)
        return builder.call(function, [zero, builder.fpext(vector, wide)], fastmath=("reassoc",))

    return types.float64(x, types.intp), generate


@intrinsic
def max16(typingctx: Any, x: Kind, x0: Kind) -> IntrinsicResult:
    """The largest of x[x0:][:16], float32."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> ir.Value:
        vector = builder.load(element_pointer(builder, arguments[0], arguments[1], VF), align=4)
        return call_function(builder, "llvm.vector.reduce.fmax.v16f32", F32, [vector])

    return types.float32(x, types.intp), generate
