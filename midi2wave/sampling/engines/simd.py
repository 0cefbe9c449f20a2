"""Vector instructions for numba: packed matrix products, the gate's nonlinearity, exponentials, flags between threads.

numba compiles through LLVM, whose vector types take any width: 16 lanes become one AVX-512 register, two of AVX2, four
of NEON. Written out like this the products keep their sums in registers; loops that LLVM vectorises by itself do not.
Weights are packed (`packing.py`) so that lanes are output rows: no sum across lanes is ever needed.
"""

import sys

import llvmlite.binding
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils, config
from numba.core.codegen import get_host_cpu_features
from numba.extending import intrinsic

LANES = 16
PANEL = 4  # row blocks of 16 whose sums are held in registers together
PREFETCH = 512  # 32-bit words that weights are asked for ahead of their use: 2 KB, a few hundred cycles
_I32, _F32 = ir.IntType(32), ir.FloatType()
_V32, _VF = ir.VectorType(_I32, LANES), ir.VectorType(_F32, LANES)


class _BFloat16(ir.types._BaseFloatType):
    """LLVM's bfloat, which llvmlite does not name."""

    def __str__(self) -> str:
        return "bfloat"


_BFloat16._create_instance()


def has_bfloat16() -> bool:
    """Whether numba compiles for a processor that multiplies bfloat16 pairs with float32 sums (AVX512-BF16).

    That is this processor, or what NUMBA_CPU_NAME and NUMBA_CPU_FEATURES say.
    """
    features = get_host_cpu_features() if config.CPU_FEATURES is None else config.CPU_FEATURES
    return {"+avx512bf16", "+avx512f"} <= set(features.split(","))


@intrinsic
def borrow(typingctx, fields):
    """A named tuple of arrays (and numbers) as one of pointers to their first elements.

    numba counts references to arrays, with atomic instructions that threads would fight over; pointers it leaves alone.
    """
    kinds = [types.CPointer(kind.dtype) if isinstance(kind, types.Array) else kind for kind in fields.types]
    result = types.NamedTuple(kinds, fields.instance_class)

    def generate(context, builder, signature, arguments):
        values = cgutils.unpack_tuple(builder, arguments[0])
        for i, kind in enumerate(fields.types):
            if isinstance(kind, types.Array):
                values[i] = context.make_array(kind)(context, builder, values[i]).data
        return context.make_tuple(builder, result, values)

    return result(fields), generate


def _at(builder, pointer, offset, element):
    """Pointer to pointer[offset] as a pointer to LLVM's `element`."""
    return builder.bitcast(builder.gep(pointer, [offset]), ir.PointerType(element))


def _load(builder, pointer, index, element, align=4):
    place = builder.bitcast(builder.gep(pointer, [index]), ir.PointerType(element))
    return builder.load(place, align=align)


def _splat(builder, scalar, kind):
    one = builder.insert_element(ir.Constant(kind, ir.Undefined), scalar, ir.Constant(_I32, 0))
    return builder.shuffle_vector(one, ir.Constant(kind, ir.Undefined), ir.Constant(_V32, [0] * LANES))


def _call(builder, name, result, arguments):
    kind = ir.FunctionType(result, [argument.type for argument in arguments])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), arguments)


def _fma(builder, a, b, c):
    return _call(builder, "llvm.fmuladd.v16f32", _VF, [a, b, c])


def _float(value):
    return ir.Constant(_VF, [float(value)] * LANES)


def _int(value):
    return ir.Constant(_V32, [value] * LANES)


def _prefetch(builder, pointer, *, write=False):
    """Ask for a cache line, to read it or to have it alone."""
    byte = builder.bitcast(pointer, ir.PointerType(ir.IntType(8)))
    kind = ir.FunctionType(ir.VoidType(), [byte.type, _I32, _I32, _I32])
    hints = [ir.Constant(_I32, value) for value in (int(write), 3, 1)]  # 3: keep it, 1: data
    builder.call(cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0"), [byte, *hints])


def _multiply_add(builder, form, w, pair, total):
    """total + w * x for one step of the inner loop: an input in float32, two neighbouring ones in bfloat16."""
    if form == "float32":
        return _fma(builder, builder.bitcast(w, _VF), pair, total)
    if form == "dot":
        kind = ir.VectorType(_BFloat16(), 2 * LANES)
        arguments = [total, builder.bitcast(w, kind), builder.bitcast(pair, kind)]
        return _call(builder, "llvm.x86.avx512bf16.dpbf16ps.512", _VF, arguments)
    low = builder.bitcast(builder.shl(w, _int(16)), _VF)
    high = builder.bitcast(builder.and_(w, _int(0xFFFF0000)), _VF)
    return _fma(builder, high, pair[1], _fma(builder, low, pair[0], total))


def _inputs(builder, form, x, index):
    """The input(s) of one step in all lanes; x points to float32, or to bfloat16 pairs as 32-bit words."""
    if form == "float32":
        return _splat(builder, _load(builder, x, index, _F32), _VF)
    if form == "dot":
        return _splat(builder, _load(builder, x, index, _I32), _V32)
    first = builder.shl(index, ir.Constant(index.type, 1))
    second = builder.add(first, ir.Constant(index.type, 1))
    return [_splat(builder, _load(builder, x, i, _F32), _VF) for i in (first, second)]


def _kernel(builder, form, n_blocks, n_columns, y, y_step, w, x, x_step, steps):
    """Add one panel's products to n_columns outputs; y, w and x are pointers, the steps count inner-loop rounds.

    Every sum runs through the inputs in order, whatever the panel and the number of columns: samples are the same bit
    for bit however streams and rows are dealt to threads.
    """
    word = steps.type

    def number(value):
        return ir.Constant(word, value)

    def place(column, block):
        offset = builder.add(builder.mul(number(column), y_step), number(block * LANES))
        return _at(builder, y, offset, _VF)

    sums = {}
    for column in range(n_columns):
        for block in range(n_blocks):
            sums[column, block] = cgutils.alloca_once_value(builder, builder.load(place(column, block), align=4))
    with cgutils.for_range(builder, steps) as loop:
        row = builder.mul(loop.index, number(n_blocks * LANES))
        weights = [_load(builder, w, builder.add(row, number(b * LANES)), _V32) for b in range(n_blocks)]
        for b in range(n_blocks):
            _prefetch(builder, builder.gep(w, [builder.add(row, number(b * LANES + PREFETCH))]))
        for column in range(n_columns):
            given = _inputs(builder, form, x, builder.add(builder.mul(number(column), x_step), loop.index))
            for block in range(n_blocks):
                total = sums[column, block]
                builder.store(_multiply_add(builder, form, weights[block], given, builder.load(total)), total)
    for column in range(n_columns):
        for block in range(n_blocks):
            builder.store(builder.load(sums[column, block]), place(column, block), align=4)


def _panel_function(module, form, n_blocks, n_columns, kinds):
    """`_kernel` as a function of its own: inlined at every product the code would outgrow the instruction cache."""
    name = f"midi2wave_panel_{form}_{n_blocks}_{n_columns}"
    if name in module.globals:
        return module.globals[name]
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), kinds), name)
    function.linkage = "linkonce_odr"
    function.attributes.add("noinline")
    builder = ir.IRBuilder(function.append_basic_block())
    y, y_step, w, x, x_step, steps = function.args
    _kernel(builder, form, n_blocks, n_columns, y, y_step, w, x, x_step, steps)
    builder.ret_void()
    return function


@intrinsic(prefer_literal=True)
def _panel(typingctx, y, y0, y_step, w, w0, x, x0, x_step, inputs, n_blocks, n_columns):
    """One call of `_kernel`; n_blocks and n_columns are literals."""
    if not (isinstance(n_blocks, types.Literal) and isinstance(n_columns, types.Literal)):
        return None
    form = {("float32", "float32"): "float32", ("uint16", "uint16"): "dot", ("uint16", "float32"): "widen"}[
        w.dtype.name, x.dtype.name
    ]

    def generate(context, builder, signature, arguments):
        y, y0, y_step, w, w0, x, x0, x_step, inputs, _, _ = arguments
        one = ir.Constant(inputs.type, 1)
        given = [
            _at(builder, y, y0, _F32),
            y_step,
            _at(builder, w, w0, _I32),
            _at(builder, x, x0, _I32 if form == "dot" else _F32),
            x_step if form == "float32" else builder.lshr(x_step, one),
            inputs if form == "float32" else builder.lshr(inputs, one),
        ]
        kinds = [argument.type for argument in given]
        sizes = n_blocks.literal_value, n_columns.literal_value
        builder.call(_panel_function(builder.module, form, *sizes, kinds), given)
        return context.get_dummy_value()

    word = types.intp
    signature = types.void(y, word, word, w, word, x, word, word, word, n_blocks, n_columns)
    return signature, generate


@njit(nogil=True)
def multiply(y, y0, y_step, w, w0, blocks, inputs, x, x0, x_step, columns):
    """y[c] += W x[c] for the columns c: y float32 [columns, 16 * blocks], x [columns, inputs], each from an offset.

    W lies packed at w[w0:]: panels of 4, 2 and 1 row blocks, in each all inputs one after the other, in bfloat16 in
    pairs. inputs: even in bfloat16. Up to four columns share one reading of the weights.
    """
    block = 0
    while block < blocks:
        left = blocks - block
        wide = 4 if left >= 4 else 2 if left >= 2 else 1
        at, row = w0 + block * 16 * inputs, y0 + block * 16
        column = 0
        while column < columns:
            to, of = row + column * y_step, x0 + column * x_step
            if columns - column >= 4:
                if wide == 4:
                    _panel(y, to, y_step, w, at, x, of, x_step, inputs, 4, 4)
                elif wide == 2:
                    _panel(y, to, y_step, w, at, x, of, x_step, inputs, 2, 4)
                else:
                    _panel(y, to, y_step, w, at, x, of, x_step, inputs, 1, 4)
                column += 4
            elif columns - column >= 2:
                if wide == 4:
                    _panel(y, to, y_step, w, at, x, of, x_step, inputs, 4, 2)
                elif wide == 2:
                    _panel(y, to, y_step, w, at, x, of, x_step, inputs, 2, 2)
                else:
                    _panel(y, to, y_step, w, at, x, of, x_step, inputs, 1, 2)
                column += 2
            else:
                if wide == 4:
                    _panel(y, to, y_step, w, at, x, of, x_step, inputs, 4, 1)
                elif wide == 2:
                    _panel(y, to, y_step, w, at, x, of, x_step, inputs, 2, 1)
                else:
                    _panel(y, to, y_step, w, at, x, of, x_step, inputs, 1, 1)
                column += 1
        block += wide


def _exp(builder, x):
    """e^x of 16 lanes, |x| <= 87: 2^n by the exponent's bits times a polynomial on [-ln 2 / 2, ln 2 / 2].

    Taylor's terms up to the 7th; the reduced argument keeps its digits by subtracting ln 2 in two parts (Cody and
    Waite). Largest relative error 2e-7, see tests/test_samplers_simd.py.
    """
    n = _call(builder, "llvm.rint.v16f32", _VF, [builder.fmul(x, _float(1.44269504))])
    r = _fma(builder, n, _float(-0.693145751953125), x)
    r = _fma(builder, n, _float(-1.42860682030941723e-6), r)
    total = _float(1 / 5040)
    for factorial in (720, 120, 24, 6, 2, 1, 1):
        total = _fma(builder, total, r, _float(1 / factorial))
    bits = builder.shl(builder.fptosi(n, _V32), _int(23))
    return builder.bitcast(builder.add(builder.bitcast(total, _V32), bits), _VF)


def _clip(builder, x, low, high):
    x = builder.select(builder.fcmp_ordered("<", x, _float(high)), x, _float(high))
    return builder.select(builder.fcmp_ordered(">", x, _float(low)), x, _float(low))


def _store_rounded(builder, kind, pointer, offset, vector):
    """Store 16 float32 lanes as they are, or rounded to the nearest bfloat16."""
    if kind.dtype == types.float32:
        builder.store(vector, _at(builder, pointer, offset, _VF), align=4)
        return
    short = ir.VectorType(ir.IntType(16), LANES)
    bits = builder.bitcast(vector, _V32)
    odd = builder.and_(builder.lshr(bits, _int(16)), _int(1))
    bits = builder.add(bits, builder.add(odd, _int(0x7FFF)))
    rounded = builder.trunc(builder.lshr(bits, _int(16)), short)
    builder.store(rounded, _at(builder, pointer, offset, short), align=2)


@intrinsic
def gate16(typingctx, out, out0, a, a0, b0):
    """out[out0:][:16] = tanh(a[a0:][:16]) * sigmoid(a[b0:][:16]), in out's type: float32, or bfloat16 as uint16.

    With p = e^-2a and q = e^-b it is (1 - p) / ((1 + p)(1 + q)): two exponentials and one division. Largest absolute
    error 3e-7, see tests/test_samplers_simd.py.
    """

    def generate(context, builder, signature, arguments):
        out, out0, a, a0, b0 = arguments
        tanh_half = builder.load(_at(builder, a, a0, _VF), align=4)
        sigmoid_half = builder.load(_at(builder, a, b0, _VF), align=4)
        p = _exp(builder, builder.fmul(_clip(builder, tanh_half, -10, 10), _float(-2)))
        q = _exp(builder, builder.fmul(_clip(builder, sigmoid_half, -40, 40), _float(-1)))
        one = _float(1)
        below = builder.fmul(builder.fadd(one, p), builder.fadd(one, q))
        result = builder.fdiv(builder.fsub(one, p), below)
        _store_rounded(builder, signature.args[0], out, out0, result)
        return context.get_dummy_value()

    return types.void(out, types.intp, a, types.intp, types.intp), generate


@intrinsic
def round16(typingctx, out, out0, x, x0):
    """out[out0:][:16] = x[x0:][:16] in out's type: float32, or rounded to bfloat16 as uint16."""

    def generate(context, builder, signature, arguments):
        out, out0, x, x0 = arguments
        vector = builder.load(_at(builder, x, x0, _VF), align=4)
        _store_rounded(builder, signature.args[0], out, out0, vector)
        return context.get_dummy_value()

    return types.void(out, types.intp, x, types.intp), generate


@intrinsic
def prefetch_write(typingctx, x, x0):
    """Ask for the cache line of x[x0], which is about to be written and lies in another core's cache."""

    def generate(context, builder, signature, arguments):
        _prefetch(builder, builder.gep(arguments[0], [arguments[1]]), write=True)
        return context.get_dummy_value()

    return types.void(x, types.intp), generate


@intrinsic
def copy16(typingctx, y, y0, x, x0):
    """y[y0:][:16] = x[x0:][:16], float32."""

    def generate(context, builder, signature, arguments):
        y, y0, x, x0 = arguments
        builder.store(builder.load(_at(builder, x, x0, _VF), align=4), _at(builder, y, y0, _VF), align=4)
        return context.get_dummy_value()

    return types.void(y, types.intp, x, types.intp), generate


@intrinsic
def add16(typingctx, y, y0, x, x0, factor):
    """y[y0:][:16] += factor * x[x0:][:16], float32."""

    def generate(context, builder, signature, arguments):
        y, y0, x, x0, factor = arguments
        place, given = _at(builder, y, y0, _VF), builder.load(_at(builder, x, x0, _VF), align=4)
        total = _fma(builder, given, _splat(builder, factor, _VF), builder.load(place, align=4))
        builder.store(total, place, align=4)
        return context.get_dummy_value()

    return types.void(y, types.intp, x, types.intp, types.float32), generate


@intrinsic
def blend16(typingctx, y, y0, x, a0, b0, ramp):
    """y[y0:][:16] = a + (b - a) * ramp of a = x[a0:][:16] and b = x[b0:][:16], float32."""

    def generate(context, builder, signature, arguments):
        y, y0, x, a0, b0, ramp = arguments
        a = builder.load(_at(builder, x, a0, _VF), align=4)
        b = builder.load(_at(builder, x, b0, _VF), align=4)
        blended = _fma(builder, builder.fsub(b, a), _splat(builder, ramp, _VF), a)
        builder.store(blended, _at(builder, y, y0, _VF), align=4)
        return context.get_dummy_value()

    return types.void(y, types.intp, x, types.intp, types.intp, types.float32), generate


@intrinsic
def relu16(typingctx, out, out0, x, x0):
    """out[out0:][:16] = max(x[x0:][:16], 0) in out's type: float32, or rounded to bfloat16 as uint16."""

    def generate(context, builder, signature, arguments):
        out, out0, x, x0 = arguments
        vector = builder.load(_at(builder, x, x0, _VF), align=4)
        positive = builder.select(builder.fcmp_ordered(">", vector, _float(0)), vector, _float(0))
        _store_rounded(builder, signature.args[0], out, out0, positive)
        return context.get_dummy_value()

    return types.void(out, types.intp, x, types.intp), generate


@intrinsic
def exp16(typingctx, out, out0, x, x0, shift):
    """out[out0:][:16] = e^(x[x0:][:16] - shift), float32; differences below -87 count as -87."""

    def generate(context, builder, signature, arguments):
        out, out0, x, x0, shift = arguments
        vector = builder.load(_at(builder, x, x0, _VF), align=4)
        vector = builder.fsub(vector, _splat(builder, shift, _VF))
        result = _exp(builder, _clip(builder, vector, -87, 87))
        builder.store(result, _at(builder, out, out0, _VF), align=4)
        return context.get_dummy_value()

    return types.void(out, types.intp, x, types.intp, types.float32), generate


@intrinsic
def sum16(typingctx, x, x0):
    """The sum of x[x0:][:16], taken in float64."""

    def generate(context, builder, signature, arguments):
        wide = ir.VectorType(ir.DoubleType(), LANES)
        vector = builder.load(_at(builder, arguments[0], arguments[1], _VF), align=4)
        name, zero = "llvm.vector.reduce.fadd.v16f64", ir.Constant(ir.DoubleType(), 0.0)
        kind = ir.FunctionType(ir.DoubleType(), [ir.DoubleType(), wide])
        function = cgutils.get_or_insert_function(builder.module, kind, name)
        return builder.call(function, [zero, builder.fpext(vector, wide)], fastmath=("reassoc",))

    return types.float64(x, types.intp), generate


@intrinsic
def max16(typingctx, x, x0):
    """The largest of x[x0:][:16], float32."""

    def generate(context, builder, signature, arguments):
        vector = builder.load(_at(builder, arguments[0], arguments[1], _VF), align=4)
        return _call(builder, "llvm.vector.reduce.fmax.v16f32", _F32, [vector])

    return types.float32(x, types.intp), generate


@intrinsic
def publish(typingctx, flags, index, value):
    """flags[index] = value, int64: who sees the value also sees all that this thread wrote before."""

    def generate(context, builder, signature, arguments):
        flags, index, value = arguments
        place = _at(builder, flags, index, ir.IntType(64))
        builder.store_atomic(value, place, "release", 8)
        return context.get_dummy_value()

    return types.void(flags, types.intp, types.int64), generate


@intrinsic
def observe(typingctx, flags, index):
    """flags[index], int64, as another thread published it last."""

    def generate(context, builder, signature, arguments):
        flags, index = arguments
        place = _at(builder, flags, index, ir.IntType(64))
        return builder.load_atomic(place, "acquire", 8)

    return types.int64(flags, types.intp), generate


@intrinsic
def _pause(typingctx):
    """Tell the core that this is a waiting loop, where it has a word for that."""

    def generate(context, builder, signature, arguments):
        if llvmlite.binding.get_process_triple().startswith(("x86_64", "i686")):
            _call(builder, "llvm.x86.sse2.pause", ir.VoidType(), [])
        return context.get_dummy_value()

    return types.void(), generate


@intrinsic
def _yield(typingctx):
    """Let another thread have the core."""

    def generate(context, builder, signature, arguments):
        name = "SwitchToThread" if sys.platform == "win32" else "sched_yield"
        _call(builder, name, _I32, [])
        return context.get_dummy_value()

    return types.void(), generate


SPINS = 2000  # rounds of waiting before the core is offered to others: longer than any wait while all threads run


@njit(nogil=True)
def await_flag(flags, index, value, stop):
    """Wait until flags[index] >= value; True if that happened, False if somebody set flags[stop]."""
    spins = 0
    while observe(flags, index) < value:
        spins += 1
        if spins < SPINS:
            _pause()
        else:
            if observe(flags, stop) != 0:
                return False
            _yield()
    return True
