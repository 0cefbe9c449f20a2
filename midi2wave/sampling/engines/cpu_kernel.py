"""The parts of the CPU engine's kernel: the products of one sample, and what they read and write.

Compiled functions take tuples made by `as_pointers`, whose fields are pointers: every index below counts elements, and
the shapes are given beside the fields of `cpu_weights.Weights`, `ThreadGroup` and `Block`. R, S, A and P are padded
channels. Pointers, offsets and widths are passed one by one, since tuples of them would be built at every call.
"""

import math
from typing import Any, NamedTuple

import numpy as np
from numba import njit

from midi2wave.audio.pcm import FULL_SCALE
from midi2wave.sampling.engines.cpu_weights import MAX_AHEAD
from midi2wave.sampling.engines.simd import multiply
from midi2wave.sampling.engines.simd_elementwise import add16, blend16, copy16, gate16, relu16, round16

# A tuple of pointers and numbers, or a pointer, inside compiled functions.
Pointers = Any
Pointer = Any


# Places in `ThreadGroup.block`: absolute time of its first sample, number of samples, samples per frame, and whether
# followers take part in it.
BLOCK_START, N_SAMPLES, HOP, TAKE_PART = range(4)


class ThreadGroup(NamedTuple):
    """What the threads that sample the same streams share. `inputs` are float32, or bfloat16 as uint16.

    B counts rows: with guidance every stream has two, the first B / 2 rows with the notes, the others without.
    """

    recent: np.ndarray  # float32 [B, K]: the last samples, oldest first; means have fractions
    ring: np.ndarray  # inputs [sum of ring rows * B * R]: row t % rows of a layer holds its input at time t
    ahead: np.ndarray  # float32 [L * MAX_AHEAD * B * 2R]: gates but for the newest tap, in slot (t + phase) % ahead
    x: np.ndarray  # float32 [B * R]
    gated: np.ndarray  # inputs [L * B * R]
    # Of the last products there are two of each: what all threads compute together, and what the first computes alone.
    skip: np.ndarray  # float32 [2, B * skip]
    middle: np.ndarray  # float32 [2, B * middle]
    params: np.ndarray  # float32 [2, B * P]
    scratch: np.ndarray  # inputs [threads, B * max(skip, middle)]: each thread's own
    mass: np.ndarray  # float32 [256]
    flags: np.ndarray  # int64, see `cpu_threads.py`
    block: np.ndarray  # int64 [4], in the order of `BLOCK_START` to `TAKE_PART`: what followers must know of a block
    max_spins: int  # rounds of waiting after which another thread counts as not running


class Block(NamedTuple):
    """The inputs and outputs of T samples. Followers keep their first one, and use only what all blocks share of it."""

    frames: np.ndarray  # float32 [F, L, B, 2R]: the projected conditioning
    # In the same memory for every block, of the size of the longest:
    output_frames: np.ndarray  # float32 [F, B, skip]: initial value of the skip sum, if the output is conditioned
    aux_inputs: np.ndarray  # float32 [T, B, E]: inputs at audio rate
    uniforms: np.ndarray  # float32 [T, D, U]
    teacher_samples: np.ndarray  # float32 [T or 0, D]: the past, in place of the drawn samples
    samples: np.ndarray  # float32 [T, D]
    params: np.ndarray  # float32 [T or 0, D, P]
    n_samples: int
    n_rows: int  # B
    n_streams: int  # D: B, or with guidance half of it
    start: int  # absolute time of the first sample
    hop: int  # samples per frame; of one frame for all: more than T
    linear: bool  # whether samples are interpolated between their frame and the next
    teacher_forcing: bool
    keep_params: bool
    takes_mean: bool  # whether samples are means of their distributions
    temperature: np.float32
    guidance: np.float32


@njit(nogil=True, forceinline=True)
def _precompute_gates(weights: Pointers, group: Pointers, block: Pointers, layer: int, i: int, n: int) -> None:
    """Write to group.ahead all of a layer's gates for the block's samples i .. i + n - 1 but the newest tap."""
    residual, n_rows, time = weights.n_residual, block.n_rows, block.start + i
    width = 2 * residual
    slot = (time + weights.phase[layer]) % weights.ahead[layer]
    first = (layer * MAX_AHEAD + slot) * n_rows * width
    out = first
    for j in range(i, i + n):
        frame = (j // block.hop * weights.n_layers + layer) * n_rows * width
        after = frame + weights.n_layers * n_rows * width
        ramp = np.float32(j % block.hop) / np.float32(block.hop)
        for c in range(0, n_rows * width, 16):
            if block.linear:
                blend16(group.ahead, out + c, block.frames, frame + c, after + c, ramp)
            else:
                copy16(group.ahead, out + c, block.frames, frame + c)
        out += n_rows * width
    blocks, columns, n_aux = width // 16, n * n_rows, weights.n_aux_inputs
    if n_aux:
        w0, x0 = layer * width * n_aux, i * n_rows * n_aux
        multiply(group.ahead, first, width, weights.aux_inputs, w0, blocks, n_aux, block.aux_inputs, x0, n_aux, columns)
    for k in range(weights.n_taps - 1):
        row = weights.ring_start[layer] + (time + k * weights.dilations[layer]) % weights.ring_rows[layer]
        w0, x0 = (layer * (weights.n_taps - 1) + k) * width * residual, row * n_rows * residual
        multiply(group.ahead, first, width, weights.past, w0, blocks, residual, group.ring, x0, residual, columns)


@njit(nogil=True, forceinline=True)
def embed(weights: Pointers, group: Pointers, n_rows: int) -> None:
    """Compute the first layer's input from the last samples."""
    residual, taps = weights.n_residual, weights.n_taps
    for s in range(n_rows):
        for c in range(0, residual, 16):
            copy16(group.x, s * residual + c, weights.embedding_bias, c)
        for k in range(taps):
            sample = group.recent[s * taps + k]
            if weights.n_mixtures == 0:
                code = np.int64(sample)
                fraction = sample - np.float32(code)
                row = (k * 256 + code) * residual
                for c in range(0, residual, 16):
                    add16(group.x, s * residual + c, weights.embedding, row + c, np.float32(1) - fraction)
                if fraction > 0:  # Then there is a code above.
                    for c in range(row + residual, row + 2 * residual, 16):
                        add16(group.x, s * residual + c - row - residual, weights.embedding, c, fraction)
            else:
                amplitude = sample / np.float32(FULL_SCALE)
                size = np.log1p(np.float32(255) * abs(amplitude)) / np.float32(math.log(256))
                companded = size if sample >= 0 else -size
                row = 2 * k * residual
                for c in range(0, residual, 16):
                    add16(group.x, s * residual + c, weights.embedding, row + c, amplitude)
                    add16(group.x, s * residual + c, weights.embedding, row + residual + c, companded)


@njit(nogil=True, forceinline=True)
def apply_layer(weights: Pointers, group: Pointers, layer: int, time: int, n_rows: int) -> None:
    """Add one layer's newest tap, and apply its gate."""
    residual = weights.n_residual
    width, columns = 2 * residual, n_rows * residual
    row = (weights.ring_start[layer] + time % weights.ring_rows[layer]) * columns
    for c in range(0, columns, 16):
        round16(group.ring, row + c, group.x, c)
    gates = (layer * MAX_AHEAD + (time + weights.phase[layer]) % weights.ahead[layer]) * n_rows * width
    w0 = layer * 3 * residual * residual
    multiply(group.ahead, gates, width, weights.chain, w0, width // 16, residual, group.ring, row, residual, n_rows)
    out = layer * columns
    for s in range(n_rows):
        for c in range(0, residual, 16):
            a = gates + s * width + c
            gate16(group.gated, out + s * residual + c, group.ahead, a, a + residual)


@njit(nogil=True, forceinline=True)
def apply_residual(weights: Pointers, group: Pointers, layer: int, n_rows: int) -> None:
    """Compute the next layer's input."""
    residual = weights.n_residual
    for s in range(n_rows):
        for c in range(0, residual, 16):
            add16(group.x, s * residual + c, weights.residual_bias, layer * residual + c, np.float32(1))
    w0, x0, blocks = (3 * layer + 2) * residual * residual, layer * n_rows * residual, residual // 16
    multiply(group.x, 0, residual, weights.chain, w0, blocks, residual, group.gated, x0, residual, n_rows)


@njit(nogil=True, forceinline=True)
def _set_rows(y: Pointer, y0: int, width: int, bias: Pointer, cuts: Pointer, thread: int, n_rows: int) -> None:
    """Set this thread's rows to the bias."""
    for s in range(n_rows):
        for c in range(cuts[thread] * 16, cuts[thread + 1] * 16, 16):
            copy16(y, y0 + s * width + c, bias, c)


@njit(nogil=True, forceinline=True)
def _add_rows(
    y: Pointer,
    y0: int,
    width: int,
    w: Pointer,
    w0: int,
    n_inputs: int,
    cuts: Pointer,
    thread: int,
    x: Pointer,
    x0: int,
    n_rows: int,
) -> None:
    """Add this thread's rows of a product."""
    begin, end = cuts[thread], cuts[thread + 1]
    multiply(y, y0 + begin * 16, width, w, w0 + begin * 16 * n_inputs, end - begin, n_inputs, x, x0, n_inputs, n_rows)


@njit(nogil=True, forceinline=True)
def init_skip_rows(weights: Pointers, group: Pointers, block: Pointers, i: int, thread: int, copy: int) -> None:
    """Set this thread's rows of the skip sum to their values before the layers: the bias and the conditioning."""
    n_rows, skip, cuts = block.n_rows, weights.n_skip, weights.skip_cuts
    first_row = copy * n_rows * skip
    if not weights.is_output_conditioned:
        _set_rows(group.skip, first_row, skip, weights.skip_bias, cuts, thread, n_rows)
        return
    hop = group.block[HOP]
    frame = i // hop * n_rows * skip
    after = frame + n_rows * skip
    ramp = np.float32(i % hop) / np.float32(hop)
    for s in range(n_rows):
        for c in range(s * skip + cuts[thread] * 16, s * skip + cuts[thread + 1] * 16, 16):
            if block.linear:
                blend16(group.skip, first_row + c, block.output_frames, frame + c, after + c, ramp)
            else:
                copy16(group.skip, first_row + c, block.output_frames, frame + c)
    n_aux = weights.n_aux_inputs
    if n_aux:
        x, x0 = block.aux_inputs, i * n_rows * n_aux
        _add_rows(group.skip, first_row, skip, weights.skip_aux_inputs, 0, n_aux, cuts, thread, x, x0, n_rows)


@njit(nogil=True, forceinline=True)
def add_skip_layers(
    weights: Pointers, group: Pointers, first: int, end: int, thread: int, n_rows: int, copy: int
) -> None:
    """Add the products of some layers to this thread's rows of the skip sum."""
    residual, skip, cuts = weights.n_residual, weights.n_skip, weights.skip_cuts
    for layer in range(first, end):
        w0, x0 = layer * skip * residual, layer * n_rows * residual
        _add_rows(
            group.skip, copy * n_rows * skip, skip, weights.skip, w0, residual, cuts, thread, group.gated, x0, n_rows
        )


@njit(nogil=True, forceinline=True)
def hidden_rows(weights: Pointers, group: Pointers, thread: int, scratch0: int, n_rows: int, copy: int) -> None:
    """This thread's rows of the first output layer: W x + bias, where the scratch holds x = relu(skip sum)."""
    skip, middle, cuts = weights.n_skip, weights.n_middle, weights.hidden_cuts
    first_row = copy * n_rows * middle
    _set_rows(group.middle, first_row, middle, weights.hidden_bias, cuts, thread, n_rows)
    _add_rows(group.middle, first_row, middle, weights.hidden, 0, skip, cuts, thread, group.scratch, scratch0, n_rows)


@njit(nogil=True, forceinline=True)
def output_rows(weights: Pointers, group: Pointers, thread: int, scratch0: int, n_rows: int, copy: int) -> None:
    """This thread's rows of the second output layer: W x + bias, where the scratch holds x = relu(hidden)."""
    middle, n_outputs, cuts = weights.n_middle, weights.n_outputs, weights.output_cuts
    first_row = copy * n_rows * n_outputs
    _set_rows(group.params, first_row, n_outputs, weights.output_bias, cuts, thread, n_rows)
    _add_rows(
        group.params, first_row, n_outputs, weights.output, 0, middle, cuts, thread, group.scratch, scratch0, n_rows
    )


@njit(nogil=True, forceinline=True)
def relu(group: Pointers, scratch0: int, values: Pointer, first: int, n: int) -> None:
    """Write the positive parts of n values to the scratch."""
    for c in range(0, n, 16):
        relu16(group.scratch, scratch0 + c, values, first + c)


@njit(nogil=True, forceinline=True)
def precompute_due_gates(weights: Pointers, group: Pointers, block: Pointers, i: int) -> None:
    """Precompute the gates of all layers for which a new range of samples begins with sample i.

    At the block's first sample one begins for every layer. A range ends where the layer's slots, its ring or the block
    end.
    """
    time = block.start + i
    for layer in range(weights.n_layers):
        ahead, dilation = weights.ahead[layer], weights.dilations[layer]
        slot, ring_position = (time + weights.phase[layer]) % ahead, time % dilation
        if slot == 0 or ring_position == 0 or i == 0:
            n = min(ahead - slot, dilation - ring_position, block.n_samples - i)
            _precompute_gates(weights, group, block, layer, i, n)
