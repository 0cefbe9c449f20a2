"""Matrix products for numba, written as vector instructions.

numba compiles through LLVM, whose vector types take any width: 16 lanes become one AVX-512 register, two of AVX2, four
of NEON. Written out like this the products keep their sums in registers; loops that LLVM vectorises by itself do not.
Weights are packed (`cpu_weights.py`) so that lanes are output rows: no sum across lanes is ever needed.
"""

from typing import Any, NamedTuple

from llvmlite import ir
from numba import njit, types
from numba.core import cgutils, config
from numba.core.codegen import get_host_cpu_features

from midi2wave.sampling.engines.llvm_vectors import (
    F32,
    I32,
    LANES,
    V32,
    VF,
    BFloat16,
    IntrinsicResult,
    Kind,
    call_function,
    element_pointer,
    fma,
    int_vector,
    intrinsic,
    load_at,
    prefetch_line,
    splat,
)

# Row blocks of 16 whose sums are held in registers together.
PANEL_BLOCKS = 4
# How far ahead of their use weights are prefetched, in 32-bit words: 2 KB, a few hundred cycles.
PREFETCH_WORDS = 512


def has_bfloat16() -> bool:
    """Whether numba compiles for a processor that multiplies bfloat16 pairs with float32 sums (AVX512-BF16).

    That is this processor, or what NUMBA_CPU_NAME and NUMBA_CPU_FEATURES say.
    """
    requested = getattr(config, "CPU_FEATURES", None)
    features = get_host_cpu_features() if requested is None else requested
    return {"+avx512bf16", "+avx512f"} <= set(features.split(","))


@intrinsic
def as_pointers(typingctx: Any, fields: Kind) -> IntrinsicResult:
    """A named tuple of arrays (and numbers) as one of pointers to their first elements.

    numba counts references to arrays, by atomic instructions for which threads would contend, but not to pointers.
    """
    kinds = [types.CPointer(kind.dtype) if isinstance(kind, types.Array) else kind for kind in fields.types]
    result = types.NamedTuple(kinds, fields.instance_class)

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> ir.Value:
        values = cgutils.unpack_tuple(builder, arguments[0])
        for i, kind in enumerate(fields.types):
            if isinstance(kind, types.Array):
                values[i] = context.make_array(kind)(context, builder, values[i]).data
        return context.make_tuple(builder, result, values)

    return result(fields), generate


class _Panel(NamedTuple):
    """The operands of a panel's product, as LLVM values."""

    y: ir.Value  # pointer to the first sum of the first column
    y_stride: ir.Value  # from one column's sums to the next one's
    w: ir.Value  # pointer to the packed weights, as 32-bit words
    x: ir.Value  # pointer to the first input of the first column
    x_stride: ir.Value
    n_rounds: ir.Value  # of the inner loop: inputs, or pairs of them in bfloat16


def _multiply_add(builder: ir.IRBuilder, form: str, w: ir.Value, inputs: Any, total: ir.Value) -> ir.Value:
    """Compute total + w * x for one round of the inner loop: an input in float32, two neighbouring ones in bfloat16."""
    if form == "float32":
        return fma(builder, builder.bitcast(w, VF), inputs, total)
    if form == "dot":
        kind = ir.VectorType(BFloat16(), 2 * LANES)
        arguments = [total, builder.bitcast(w, kind), builder.bitcast(inputs, kind)]
        return call_function(builder, "llvm.x86.avx512bf16.dpbf16ps.512", VF, arguments)
    low = builder.bitcast(builder.shl(w, int_vector(16)), VF)
    high = builder.bitcast(builder.and_(w, int_vector(0xFFFF0000)), VF)
    return fma(builder, high, inputs[1], fma(builder, low, inputs[0], total))


def _broadcast_inputs(builder: ir.IRBuilder, form: str, x: ir.Value, index: ir.Value) -> Any:
    """The input(s) of one round in all lanes; x points to float32, or to bfloat16 pairs as 32-bit words."""
    if form == "float32":
        return splat(builder, load_at(builder, x, index, F32), VF)
    if form == "dot":
        return splat(builder, load_at(builder, x, index, I32), V32)
    first = builder.shl(index, ir.Constant(index.type, 1))
    second = builder.add(first, ir.Constant(index.type, 1))
    return [splat(builder, load_at(builder, x, i, F32), VF) for i in (first, second)]


def _add_panel_products(builder: ir.IRBuilder, form: str, n_blocks: int, n_columns: int, panel: _Panel) -> None:
    """Add one panel's products to the sums of n_columns columns.

    Every sum runs through the inputs in order, whatever the panel and the number of columns: samples are the same bit
    for bit however streams and rows are distributed over threads.
    """
    word = panel.n_rounds.type

    def number(value: int) -> ir.Constant:
        return ir.Constant(word, value)

    def sum_pointer(column: int, block: int) -> ir.Value:
        offset = builder.add(builder.mul(number(column), panel.y_stride), number(block * LANES))
        return element_pointer(builder, panel.y, offset, VF)

    totals = {}
    for column in range(n_columns):
        for block in range(n_blocks):
            initial = builder.load(sum_pointer(column, block), align=4)
            totals[column, block] = cgutils.alloca_once_value(builder, initial)
    with cgutils.for_range(builder, panel.n_rounds) as loop:
        row = builder.mul(loop.index, number(n_blocks * LANES))
        weights = [load_at(builder, panel.w, builder.add(row, number(b * LANES)), V32) for b in range(n_blocks)]
        for b in range(n_blocks):
            prefetch_line(builder, builder.gep(panel.w, [builder.add(row, number(b * LANES + PREFETCH_WORDS))]))
        for column in range(n_columns):
            index = builder.add(builder.mul(number(column), panel.x_stride), loop.index)
            inputs = _broadcast_inputs(builder, form, panel.x, index)
            for block in range(n_blocks):
                total = totals[column, block]
                builder.store(_multiply_add(builder, form, weights[block], inputs, builder.load(total)), total)
    for column in range(n_columns):
        for block in range(n_blocks):
            builder.store(builder.load(totals[column, block]), sum_pointer(column, block), align=4)


def _panel_function(module: ir.Module, form: str, n_blocks: int, n_columns: int, kinds: list[ir.Type]) -> ir.Function:
    """A function that does `_add_panel_products`: inlined at every product, the code would outgrow the cache."""
    name = f"midi2wave_panel_{form}_{n_blocks}_{n_columns}"
    if name in module.globals:
        return module.globals[name]
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), kinds), name)
    function.linkage = "linkonce_odr"
    function.attributes.add("noinline")
    builder = ir.IRBuilder(function.append_basic_block())
    _add_panel_products(builder, form, n_blocks, n_columns, _Panel(*function.args))
    builder.ret_void()
    return function


# An intrinsic takes its operands one by one: pointers with offsets and strides, which no tuple may hold here.
@intrinsic(prefer_literal=True)
def _panel(
    typingctx: Any,
    y: Kind,
    y0: Kind,
    y_stride: Kind,
    w: Kind,
    w0: Kind,
    x: Kind,
    x0: Kind,
    x_stride: Kind,
    n_inputs: Kind,
    n_blocks: Kind,
    n_columns: Kind,
) -> IntrinsicResult | None:
    """One call of `_panel_function`; n_blocks and n_columns are literals."""
    if not (isinstance(n_blocks, types.Literal) and isinstance(n_columns, types.Literal)):
        return None
    forms = {("float32", "float32"): "float32", ("uint16", "uint16"): "dot", ("uint16", "float32"): "widen"}
    form = forms[w.dtype.name, x.dtype.name]

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> ir.Value:
        y, y0, y_stride, w, w0, x, x0, x_stride, n_inputs, _, _ = arguments
        one = ir.Constant(n_inputs.type, 1)
        panel = _Panel(
            y=element_pointer(builder, y, y0, F32),
            y_stride=y_stride,
            w=element_pointer(builder, w, w0, I32),
            x=element_pointer(builder, x, x0, I32 if form == "dot" else F32),
            x_stride=x_stride if form == "float32" else builder.lshr(x_stride, one),
            n_rounds=n_inputs if form == "float32" else builder.lshr(n_inputs, one),
        )
        kinds = [operand.type for operand in panel]
        sizes = n_blocks.literal_value, n_columns.literal_value
        builder.call(_panel_function(builder.module, form, *sizes, kinds), panel)
        return context.get_dummy_value()

    word = types.intp
    signature = types.void(y, word, word, w, word, x, word, word, word, n_blocks, n_columns)
    return signature, generate


# Like `_panel`, the functions below take pointers with offsets and strides one by one: a tuple of them would be built
# at every call. The numbers of blocks and columns are literals, so that each combination is a function of its own.
@njit(nogil=True, forceinline=True)
def _four_columns(
    y: Any,
    y0: int,
    y_stride: int,
    w: Any,
    w0: int,
    x: Any,
    x0: int,
    x_stride: int,
    n_inputs: int,
    width: int,
) -> None:
    """`_panel` of four columns and `width` row blocks: 4, 2 or 1."""
    if width == 4:
        _panel(y, y0, y_stride, w, w0, x, x0, x_stride, n_inputs, 4, 4)
    elif width == 2:
        _panel(y, y0, y_stride, w, w0, x, x0, x_stride, n_inputs, 2, 4)
    else:
        _panel(y, y0, y_stride, w, w0, x, x0, x_stride, n_inputs, 1, 4)


@njit(nogil=True, forceinline=True)
def _two_columns(
    y: Any,
    y0: int,
    y_stride: int,
    w: Any,
    w0: int,
    x: Any,
    x0: int,
    x_stride: int,
    n_inputs: int,
    width: int,
) -> None:
    """`_panel` of two columns and `width` row blocks: 4, 2 or 1."""
    if width == 4:
        _panel(y, y0, y_stride, w, w0, x, x0, x_stride, n_inputs, 4, 2)
    elif width == 2:
        _panel(y, y0, y_stride, w, w0, x, x0, x_stride, n_inputs, 2, 2)
    else:
        _panel(y, y0, y_stride, w, w0, x, x0, x_stride, n_inputs, 1, 2)


@njit(nogil=True, forceinline=True)
def _one_column(
    y: Any,
    y0: int,
    y_stride: int,
    w: Any,
    w0: int,
    x: Any,
    x0: int,
    x_stride: int,
    n_inputs: int,
    width: int,
) -> None:
    """`_panel` of one column and `width` row blocks: 4, 2 or 1."""
    if width == 4:
        _panel(y, y0, y_stride, w, w0, x, x0, x_stride, n_inputs, 4, 1)
    elif width == 2:
        _panel(y, y0, y_stride, w, w0, x, x0, x_stride, n_inputs, 2, 1)
    else:
        _panel(y, y0, y_stride, w, w0, x, x0, x_stride, n_inputs, 1, 1)


@njit(nogil=True)
def multiply(
    y: Any,
    y0: int,
    y_stride: int,
    w: Any,
    w0: int,
    n_row_blocks: int,
    n_inputs: int,
    x: Any,
    x0: int,
    x_stride: int,
    n_columns: int,
) -> None:
    """y[c] += W x[c] for the columns c: y float32 [columns, 16 * row blocks], x [columns, inputs].

    W lies packed at w[w0:]: panels of 4, 2 and 1 row blocks, in each all inputs one after the other, in bfloat16 in
    pairs. n_inputs must be even in bfloat16. Up to four columns share one reading of the weights.
    """
    block = 0
    while block < n_row_blocks:
        left = n_row_blocks - block
        width = 4 if left >= 4 else 2 if left >= 2 else 1
        weight, row = w0 + block * 16 * n_inputs, y0 + block * 16
        column = 0
        while column < n_columns:
            out, source = row + column * y_stride, x0 + column * x_stride
            if n_columns - column >= 4:
                _four_columns(y, out, y_stride, w, weight, x, source, x_stride, n_inputs, width)
                column += 4
            elif n_columns - column >= 2:
                _two_columns(y, out, y_stride, w, weight, x, source, x_stride, n_inputs, width)
                column += 2
            else:
                _one_column(y, out, y_stride, w, weight, x, source, x_stride, n_inputs, width)
                column += 1
        block += width
