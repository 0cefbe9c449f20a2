"""The Triton engine's kernel: a block of samples of 16 or more rows in one program, without a launch between samples.

    generate_block[n_programs,](weights, state, block, sizes, start, n_samples, n_streams)

A program has `Sizes.n_rows` rows of the decoder's batch: as many streams, or with guidance half as many, each with its
two rows side by side. All products have these rows on the one side and weights on the other (`tl.dot`, sums in
float32). Programs never wait for one another; the weights, which all read, should stay in the second-level cache.

Memory that one thread of a program writes and another reads has a barrier between: `tl.store` and `tl.load` themselves
have none for global memory. A ring has one row more than the layer looks back, so that the row that is written is none
of those that are read for the same sample.

Triton's interpreter knows numbers of `Sizes` as `tl.constexpr` only, which must stand behind a tensor, not before one.

R, S, A, E and P are padded channels, all powers of two, at least 16 (`triton_weights.py`).
"""

from typing import Any, NamedTuple

import triton
import triton.language as tl

# Inputs of the last two products that are multiplied at once: whole matrices do not fit a multiprocessor's memory.
CHUNK = tl.constexpr(64)
N_CODES = tl.constexpr(256)
FULL_SCALE = tl.constexpr(32768.0)
LOG_N_CODES = tl.constexpr(5.545177444479562)
MIN_LOG_SCALE = tl.constexpr(-12.0)
# Beyond these tanh and sigmoid are constant in float32, and the exponentials' product stays finite.
MAX_TANH_INPUT = tl.constexpr(10.0)
MAX_SIGMOID_INPUT = tl.constexpr(40.0)


class Weights(NamedTuple):
    """Pointers to the weights; `operand` is the number format of the products: float32, bfloat16 or float16."""

    embedding: Any  # float32 [K * (256 or 2), R]
    embedding_bias: Any  # float32 [R]
    gate: Any  # operand [L, K, 2, R, R]: inputs, then outputs; oldest tap first; the tanh half, then the sigmoid half
    aux_inputs: Any  # operand [L, 2, E, R]
    residual: Any  # operand [L, R, R]
    residual_bias: Any  # float32 [L, R]
    skip: Any  # operand [L, R, S]
    skip_bias: Any  # float32 [S]
    skip_aux_inputs: Any  # operand [E, S], used if the output is conditioned
    hidden: Any  # operand [S, A]
    hidden_bias: Any  # float32 [A]
    output: Any  # operand [1, A, 256], or of a mixture float32 [3, A, P]: logits, means, log-scales
    output_bias: Any  # float32 [1, 256] or [3, P]
    dilations: Any  # int32 [L]
    ring_start: Any  # int32 [L]: the first row of each layer's ring


class State(NamedTuple):
    """Pointers to what lasts from block to block, and to memory of the programs. Rows are those of the conditioning."""

    rings: Any  # operand [ring rows, B, R]: the input at time t is in row t % length of a layer's ring
    skip: Any  # operand [programs * rows, S]
    hidden: Any  # [programs * rows, A] in the format of Weights.output


class Block(NamedTuple):
    """Pointers to the inputs and outputs of T samples of D streams, and how to draw them."""

    frames: Any  # operand [F, L, B, 2, R]: the projected conditioning
    output_frames: Any  # operand [F, B, S], used if the output is conditioned
    aux_inputs: Any  # operand [T, B, E]: inputs at audio rate
    uniforms: Any  # float32 [T, D, U]
    history: Any  # float32 [K + T, D]: the K samples before the block, then its own; means have fractions
    own_samples: Any  # float32 [T, D], written under teacher forcing, where the history is an input
    params: Any  # float32 [T, D, n * P], written if Sizes.keep_params: P of each of the output's n parts
    temperature: Any
    guidance: Any


class Sizes(NamedTuple):
    """Numbers that are known at compile time; the kernel is compiled once for each set of them."""

    n_rows: Any  # rows of a program
    rows_per_stream: Any  # 1, or 2 with guidance
    n_layers: Any
    n_taps: Any  # K
    n_residual: Any  # R
    n_skip: Any  # S
    n_hidden: Any  # A
    n_aux_inputs: Any  # E; 0: none
    n_params: Any  # P of each of the output's parts
    n_mixtures: Any  # 0: categorical
    hop: Any
    has_frames: Any  # whether the conditioning changes from frame to frame; otherwise there is one frame
    linear: Any  # whether samples are interpolated between their frame and the next
    is_output_conditioned: Any
    teacher_forcing: Any
    keep_params: Any
    takes_mean: Any  # whether samples are means of their distributions
    precision: Any  # of float32 products: ieee, or tf32


class Tile(NamedTuple):
    """The rows of a program, and the sample that it computes."""

    rows: Any  # [n_rows]: row of the conditioning
    streams: Any  # [n_rows]
    in_use: Any  # [n_rows]: unused rows repeat row 0, and write nothing
    n_all_rows: Any  # B
    n_streams: Any  # D
    index: Any  # of the sample in the block
    time: Any  # of the sample


@triton.jit
def _embed(weights, block, sizes, tile):
    """The first layer's input, float32 [n_rows, R], from the last samples."""
    channels = tl.arange(0, sizes.n_residual)
    x = tl.zeros([sizes.n_rows, sizes.n_residual], tl.float32) + tl.load(weights.embedding_bias + channels)[None, :]
    for k in tl.static_range(sizes.n_taps):
        sample = tl.load(block.history + (tile.index + k) * tile.n_streams + tile.streams)
        if sizes.n_mixtures == 0:
            code = tl.minimum(tl.maximum(sample, 0.0), N_CODES - 1).to(tl.int32)
            fraction = (sample - code.to(tl.float32))[:, None]
            row = (code + k * N_CODES)[:, None] * sizes.n_residual
            own = tl.load(weights.embedding + row + channels[None, :])
            x += own
            if sizes.takes_mean:
                after = (tl.minimum(code + 1, N_CODES - 1) + k * N_CODES)[:, None] * sizes.n_residual
                x += fraction * (tl.load(weights.embedding + after + channels[None, :]) - own)
        else:
            amplitude = sample / FULL_SCALE
            size = tl.log(1.0 + tl.abs(amplitude) * (N_CODES - 1)) / LOG_N_CODES
            companded = tl.where(sample < 0, -size, size)
            row = weights.embedding + 2 * k * sizes.n_residual + channels
            x += amplitude[:, None] * tl.load(row)[None, :]
            x += companded[:, None] * tl.load(row + sizes.n_residual)[None, :]
    return x


@triton.jit
def _frame_values(frames, frame_stride, offsets, sizes, tile):
    """The conditioning of the sample, float32, of values at these offsets in every frame."""
    if not sizes.has_frames:
        return tl.load(frames + offsets).to(tl.float32)
    frame = tile.index // sizes.hop
    values = tl.load(frames + frame * frame_stride + offsets).to(tl.float32)
    if sizes.linear:
        following = tl.load(frames + (frame + 1) * frame_stride + offsets).to(tl.float32)
        ramp = (tile.index % sizes.hop).to(tl.float32) / sizes.hop
        values += (following - values) * ramp
    return values


@triton.jit
def _aux_input(block, sizes, tile):
    """The sample's inputs at audio rate, [n_rows, E]."""
    channels = tl.arange(0, sizes.n_aux_inputs)
    rows = tile.index.to(tl.int64) * tile.n_all_rows + tile.rows
    return tl.load(block.aux_inputs + rows[:, None] * sizes.n_aux_inputs + channels[None, :])


@triton.jit
def _matrix(weights, first, n_inputs, n_outputs):
    """A matrix [inputs, outputs] that begins at an element of the weights."""
    rows, columns = tl.arange(0, n_inputs), tl.arange(0, n_outputs)
    return tl.load(weights + first + rows[:, None] * n_outputs + columns[None, :])


@triton.jit
def _pre_activations(weights, state, block, sizes, tile, layer, x):
    """Both halves of a layer's pre-activations, float32 [n_rows, R]; stores the layer's input."""
    n: tl.constexpr = sizes.n_residual
    taps: tl.constexpr = sizes.n_taps
    channels = tl.arange(0, n)
    frame_stride = tile.n_all_rows.to(tl.int64) * (sizes.n_layers * 2 * n)
    offsets = ((layer * tile.n_all_rows + tile.rows) * 2 * n)[:, None] + channels[None, :]
    a = _frame_values(block.frames, frame_stride, offsets, sizes, tile)
    b = _frame_values(block.frames, frame_stride, offsets + n, sizes, tile)
    if sizes.n_aux_inputs > 0:
        aux_input = _aux_input(block, sizes, tile)
        first = layer * 2 * sizes.n_aux_inputs * n
        matrix = _matrix(weights.aux_inputs, first, sizes.n_aux_inputs, n)
        a = tl.dot(aux_input, matrix, a, input_precision=sizes.precision)
        matrix = _matrix(weights.aux_inputs, first + sizes.n_aux_inputs * n, sizes.n_aux_inputs, n)
        b = tl.dot(aux_input, matrix, b, input_precision=sizes.precision)
    dilation, start = tl.load(weights.dilations + layer), tl.load(weights.ring_start + layer)
    length = dilation * (taps - 1) + 1
    ring = tile.rows[:, None] * n + channels[None, :]
    for k in tl.static_range(taps - 1):
        row = (start + (tile.time + 1 + k * dilation) % length).to(tl.int64)
        past = tl.load(state.rings + row * tile.n_all_rows * n + ring)
        first = (layer * taps + k) * 2 * n * n
        a = tl.dot(past, _matrix(weights.gate, first, n, n), a, input_precision=sizes.precision)
        b = tl.dot(past, _matrix(weights.gate, first + n * n, n, n), b, input_precision=sizes.precision)
    newest = x.to(state.rings.dtype.element_ty)
    row = (start + tile.time % length).to(tl.int64)
    tl.store(state.rings + row * tile.n_all_rows * n + ring, newest, mask=tile.in_use[:, None])
    first = (layer * taps + taps - 1) * 2 * n * n
    a = tl.dot(newest, _matrix(weights.gate, first, n, n), a, input_precision=sizes.precision)
    b = tl.dot(newest, _matrix(weights.gate, first + n * n, n, n), b, input_precision=sizes.precision)
    return a, b


@triton.jit
def _gate(a, b):
    """tanh(a) * sigmoid(b) by two exponentials and one division; the largest absolute error is 3e-7."""
    p = tl.exp(-2.0 * tl.minimum(tl.maximum(a, -MAX_TANH_INPUT), MAX_TANH_INPUT))
    q = tl.exp(-tl.minimum(tl.maximum(b, -MAX_SIGMOID_INPUT), MAX_SIGMOID_INPUT))
    return (1.0 - p) / ((1.0 + p) * (1.0 + q))


@triton.jit
def _initial_skip_sum(weights, block, sizes, tile):
    """The skip sum before the layers, float32 [n_rows, S]: its bias and the conditioning of the output."""
    channels = tl.arange(0, sizes.n_skip)
    bias = tl.load(weights.skip_bias + channels)
    total = tl.zeros([sizes.n_rows, sizes.n_skip], tl.float32) + bias[None, :]
    if sizes.is_output_conditioned:
        offsets = (tile.rows * sizes.n_skip)[:, None] + channels[None, :]
        total += _frame_values(block.output_frames, tile.n_all_rows * sizes.n_skip, offsets, sizes, tile)
        if sizes.n_aux_inputs > 0:
            matrix = _matrix(weights.skip_aux_inputs, 0, sizes.n_aux_inputs, sizes.n_skip)
            total = tl.dot(_aux_input(block, sizes, tile), matrix, total, input_precision=sizes.precision)
    return total


@triton.jit
def _store_rows(memory, values, n_rows, n_channels):
    """Store values [n_rows, channels] in this program's rows of its memory."""
    rows = tl.program_id(0) * n_rows + tl.arange(0, n_rows)
    place = memory + rows[:, None] * n_channels + tl.arange(0, n_channels)[None, :]
    tl.store(place, values.to(memory.dtype.element_ty))
    tl.debug_barrier()  # Other threads read these values.


@triton.jit
def _product(memory, matrix, total, n_inputs, n_outputs, sizes):
    """Total + x W for the x [n_rows, inputs] that `_store_rows` stored and a matrix [inputs, outputs], in chunks."""
    chunk: tl.constexpr = CHUNK if n_inputs > CHUNK else n_inputs
    rows = tl.program_id(0) * sizes.n_rows + tl.arange(0, sizes.n_rows)
    inputs, columns = tl.arange(0, chunk), tl.arange(0, n_outputs)
    for first in range(0, n_inputs, chunk):
        x = tl.load(memory + rows[:, None] * n_inputs + (first + inputs)[None, :])
        w = tl.load(matrix + (first + inputs)[:, None] * n_outputs + columns[None, :])
        total = tl.dot(x, w, total, input_precision=sizes.precision)
    return total


@triton.jit
def _output_part(weights, state, sizes, part):
    """One part of the distribution's parameters, float32 [n_rows, P]."""
    bias = tl.load(weights.output_bias + part * sizes.n_params + tl.arange(0, sizes.n_params))
    total = tl.zeros([sizes.n_rows, sizes.n_params], tl.float32) + bias[None, :]
    matrix = weights.output + part * sizes.n_hidden * sizes.n_params
    return _product(state.hidden, matrix, total, sizes.n_hidden, sizes.n_params, sizes)


@triton.jit
def _hidden(weights, state, sizes, skip):
    """Store the input of the last product for a skip sum."""
    _store_rows(state.skip, tl.maximum(skip, 0.0), sizes.n_rows, sizes.n_skip)
    bias = tl.load(weights.hidden_bias + tl.arange(0, sizes.n_hidden))
    hidden = tl.zeros([sizes.n_rows, sizes.n_hidden], tl.float32) + bias[None, :]
    hidden = _product(state.skip, weights.hidden, hidden, sizes.n_skip, sizes.n_hidden, sizes)
    _store_rows(state.hidden, tl.maximum(hidden, 0.0), sizes.n_rows, sizes.n_hidden)


@triton.jit
def _own_and_null(values):
    """The even and the odd rows: those of the streams' notes, and of the null condition."""
    pairs = tl.reshape(values, [values.shape[0] // 2, 2, values.shape[1]])
    return tl.split(tl.permute(pairs, [0, 2, 1]))


@triton.jit
def _lerp(null, own, weight):
    """`torch.lerp`, which begins at the nearer end."""
    return tl.where(weight < 0.5, null + weight * (own - null), own - (own - null) * (1.0 - weight))


@triton.jit
def _choose(logits, uniforms, n_choices):
    """The first of the choices whose cumulative mass exceeds u, as `logistic_mixture.from_cumulative`: int32 [D]."""
    mass = tl.exp(logits - tl.max(logits, axis=1)[:, None])
    cumulative = tl.cumsum(mass, axis=1)
    threshold = uniforms * tl.max(cumulative, axis=1)
    below = tl.sum((cumulative <= threshold[:, None]).to(tl.int32), axis=1)
    return tl.minimum(below, n_choices - 1)


@triton.jit
def _store_params(block, sizes, tile, streams, part, values):
    """Store a part of the parameters, [D, P], as an output."""
    n_parts: tl.constexpr = 1 if sizes.n_mixtures == 0 else 3
    places = ((tile.index * tile.n_streams + streams) * n_parts + part) * sizes.n_params
    offsets = places[:, None] + tl.arange(0, sizes.n_params)[None, :]
    tl.store(block.params + offsets, values, mask=(streams < tile.n_streams)[:, None])


@triton.jit
def _draw_code(weights, state, block, sizes, tile, streams):
    """Draw a mu-law code for each stream of the program, float32 [D]; a mean has a fraction."""
    logits = _output_part(weights, state, sizes, 0)
    if sizes.rows_per_stream == 2:
        own, null = _own_and_null(logits)
        logits = _lerp(null, own, block.guidance)
    if sizes.keep_params:
        _store_params(block, sizes, tile, streams, 0, logits)
    uniforms = tl.load(block.uniforms + tile.index * tile.n_streams + streams, mask=streams < tile.n_streams, other=0.5)
    logits = logits / block.temperature
    if sizes.takes_mean:
        codes = tl.arange(0, N_CODES)[None, :].to(tl.float64)
        mass = tl.exp(logits - tl.max(logits, axis=1)[:, None]).to(tl.float64)
        return (tl.sum(mass * codes, axis=1) / tl.sum(mass, axis=1)).to(tl.float32)
    return _choose(logits, uniforms, N_CODES).to(tl.float32)


@triton.jit
def _guided_mixture(logits, means, log_scales, guidance, in_use):
    """`logistic_mixture.guided` of the three parts, each [n_rows, P] -> [D, P]."""
    within = tl.minimum(guidance, 1.0)
    own_logits, null_logits = _own_and_null(logits)
    own_means, null_means = _own_and_null(means)
    own_scales, null_scales = _own_and_null(log_scales)
    in_use_logits = tl.where(in_use, own_logits, -float("inf"))
    mass = tl.exp(in_use_logits - tl.max(in_use_logits, axis=1)[:, None])
    moved = tl.sum(mass * (own_means - null_means), axis=1) / tl.sum(mass, axis=1)
    means = _lerp(null_means, own_means, within) + ((guidance - within) * moved)[:, None]
    return _lerp(null_logits, own_logits, guidance), means, _lerp(null_scales, own_scales, within)


@triton.jit
def _draw_amplitude(weights, state, block, sizes, tile, streams):
    """Draw a 16-bit sample of the mixture for each stream of the program, float32 [D], as `logistic_mixture.sample`."""
    components = tl.arange(0, sizes.n_params)[None, :]
    in_use = components < sizes.n_mixtures
    logits = _output_part(weights, state, sizes, 0)
    means = _output_part(weights, state, sizes, 1)
    log_scales = _output_part(weights, state, sizes, 2)
    if sizes.rows_per_stream == 2:
        logits, means, log_scales = _guided_mixture(logits, means, log_scales, block.guidance, in_use)
    if sizes.keep_params:
        _store_params(block, sizes, tile, streams, 0, logits)
        _store_params(block, sizes, tile, streams, 1, means)
        _store_params(block, sizes, tile, streams, 2, log_scales)
    place = block.uniforms + 2 * (tile.index * tile.n_streams + streams)
    choice = tl.load(place, mask=streams < tile.n_streams, other=0.5)
    quantile = tl.load(place + 1, mask=streams < tile.n_streams, other=0.5)
    logits = tl.where(in_use, logits / block.temperature, -float("inf"))
    if sizes.takes_mean:
        mass = tl.exp(logits - tl.max(logits, axis=1)[:, None]).to(tl.float64)
        mean = tl.sum(mass * tl.where(in_use, means, 0.0), axis=1) / tl.sum(mass, axis=1)
        return tl.minimum(tl.maximum(mean * FULL_SCALE, -FULL_SCALE), FULL_SCALE - 1).to(tl.float32)
    is_chosen = components == _choose(logits, choice, sizes.n_mixtures)[:, None]
    mean = tl.sum(tl.where(is_chosen, means, 0.0), axis=1)
    log_scale = tl.sum(tl.where(is_chosen, tl.maximum(log_scales, MIN_LOG_SCALE), 0.0), axis=1)
    amplitude = mean + tl.exp(log_scale) * block.temperature * tl.log(quantile / (1.0 - quantile))
    sample = tl.floor(amplitude * FULL_SCALE + 0.5)
    return tl.minimum(tl.maximum(sample, -FULL_SCALE), FULL_SCALE - 1)


@triton.jit
def _generate_sample(weights, state, block, sizes, tile):
    """Draw the next sample of the program's streams."""
    n: tl.constexpr = sizes.n_residual
    n_skip: tl.constexpr = sizes.n_skip
    channels = tl.arange(0, n)
    x = _embed(weights, block, sizes, tile)
    skip = _initial_skip_sum(weights, block, sizes, tile)
    for layer in range(sizes.n_layers):
        a, b = _pre_activations(weights, state, block, sizes, tile, layer, x)
        z = _gate(a, b).to(state.rings.dtype.element_ty)
        skip = tl.dot(z, _matrix(weights.skip, layer * n * n_skip, n, n_skip), skip, input_precision=sizes.precision)
        x += tl.load(weights.residual_bias + layer * n + channels)[None, :]
        x = tl.dot(z, _matrix(weights.residual, layer * n * n, n, n), x, input_precision=sizes.precision)
    _hidden(weights, state, sizes, skip)
    n_draws: tl.constexpr = sizes.n_rows // sizes.rows_per_stream
    streams = tl.program_id(0) * n_draws + tl.arange(0, n_draws)
    if sizes.n_mixtures == 0:
        sample = _draw_code(weights, state, block, sizes, tile, streams)
    else:
        sample = _draw_amplitude(weights, state, block, sizes, tile, streams)
    if sizes.teacher_forcing:
        place = block.own_samples + tile.index * tile.n_streams + streams
    else:
        place = block.history + (tile.index + sizes.n_taps) * tile.n_streams + streams
    tl.store(place, sample, mask=streams < tile.n_streams)
    tl.debug_barrier()  # The next sample reads this one and the rings, and writes to the memory that this one read.


@triton.jit(do_not_specialize=["start", "n_samples", "n_streams"])
def generate_block(weights, state, block, sizes, start, n_samples, n_streams):
    """Generate n_samples of each stream from absolute time `start` on.

    Args:
        weights: `Weights`.
        state: `State`.
        block: `Block`.
        sizes: `Sizes`, of `tl.constexpr`.
        start: Number of the first sample.
        n_samples: Samples, T.
        n_streams: Streams, D.
    """
    row = tl.arange(0, sizes.n_rows)
    stream = (tl.program_id(0) * sizes.n_rows + row) // sizes.rows_per_stream
    in_use = stream < n_streams
    stream = tl.where(in_use, stream, 0)
    conditioning_row = stream + tl.where(in_use, row % sizes.rows_per_stream, 0) * n_streams
    n_all_rows = n_streams * sizes.rows_per_stream
    for i in range(n_samples):
        index = tl.cast(i, tl.int32)
        tile = Tile(conditioning_row, stream, in_use, n_all_rows, n_streams, index, start + index)
        _generate_sample(weights, state, block, sizes, tile)
