"""The kernel of the CPU engine: one group of threads samples some streams.

Compiled functions take tuples made by `as_pointers`, whose fields are pointers: every index below counts elements, and
the shapes are given beside the fields of `cpu_weights.Weights`, `ThreadGroup` and `Block`. R, S, A and P are padded
channels. Pointers, offsets and widths are passed one by one, since tuples of them would be built at every call.
"""

import math
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numba import njit

from midi2wave.audio.pcm import FULL_SCALE
from midi2wave.sampling.engines.cpu_draw import draw
from midi2wave.sampling.engines.cpu_weights import MAX_AHEAD, Weights
from midi2wave.sampling.engines.simd import as_pointers, multiply
from midi2wave.sampling.engines.simd_elementwise import add16, blend16, copy16, gate16, relu16, round16
from midi2wave.sampling.engines.thread_flags import await_flag, observe, prefetch_write, publish
from midi2wave.utils.numba_cache import cached_njit

# The first thread announces this many finished layers at once: every flag costs it an exchange of cache lines.
LAYERS_PER_SIGNAL = 2
# How many layers ahead the first thread takes the cache lines of its outputs back from the followers.
PREFETCH_DISTANCE = 2
# int64 words from one thread's flag to the next: a cache line each.
FLAG_STRIDE = 8

# A tuple of pointers and numbers, or a pointer, inside compiled functions.
Pointers = Any
Pointer = Any


class ThreadGroup(NamedTuple):
    """What the threads that sample the same streams share. `inputs` are float32, or bfloat16 as uint16.

    B counts rows: with guidance every stream has two, the first B / 2 rows with the notes, the others without.
    """

    recent: np.ndarray  # [B, K], int64: the last samples, oldest first
    ring: np.ndarray  # inputs [sum of ring rows * B * R]: row t % rows of a layer holds its input at time t
    ahead: np.ndarray  # float32 [L * MAX_AHEAD * B * 2R]: gates but for the newest tap, in slot (t + phase) % ahead
    x: np.ndarray  # float32 [B * R]
    gated: np.ndarray  # inputs [L * B * R]
    skip: np.ndarray  # float32 [B * skip]
    middle: np.ndarray  # float32 [B * middle]
    params: np.ndarray  # float32 [B * P]
    scratch: np.ndarray  # inputs [threads, B * max(skip, middle)]: each thread's own
    mass: np.ndarray  # float32 [256]
    flags: np.ndarray  # int64 [(threads + 1) * FLAG_STRIDE]: how far each thread is; the last one stops all


class Block(NamedTuple):
    """The inputs and outputs of T samples."""

    frames: np.ndarray  # float32 [F, L, B, 2R]: the projected conditioning
    output_frames: np.ndarray  # float32 [F, B, skip]: initial value of the skip sum, if the output is conditioned
    aux_inputs: np.ndarray  # float32 [T, B, E]: inputs at audio rate
    uniforms: np.ndarray  # float32 [T, D, U]
    teacher_samples: np.ndarray  # int64 [T or 0, D]: the past, in place of the drawn samples
    samples: np.ndarray  # int64 [T, D]
    params: np.ndarray  # float32 [T or 0, D, P]
    n_samples: int
    n_rows: int  # B
    n_streams: int  # D: B, or with guidance half of it
    start: int  # absolute time of the first sample
    hop: int  # samples per frame; of one frame for all: more than T
    linear: bool  # whether samples are interpolated between their frame and the next
    teacher_forcing: bool
    keep_params: bool
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
def _embed(weights: Pointers, group: Pointers, n_rows: int) -> None:
    """Compute the first layer's input from the last samples."""
    residual, taps = weights.n_residual, weights.n_taps
    for s in range(n_rows):
        for c in range(0, residual, 16):
            copy16(group.x, s * residual + c, weights.embedding_bias, c)
        for k in range(taps):
            sample = group.recent[s * taps + k]
            if weights.n_mixtures == 0:
                row = (k * 256 + sample) * residual
                for c in range(0, residual, 16):
                    add16(group.x, s * residual + c, weights.embedding, row + c, np.float32(1))
            else:
                amplitude = np.float32(sample) / np.float32(FULL_SCALE)
                size = np.log1p(np.float32(255) * abs(amplitude)) / np.float32(math.log(256))
                companded = size if sample >= 0 else -size
                row = 2 * k * residual
                for c in range(0, residual, 16):
                    add16(group.x, s * residual + c, weights.embedding, row + c, amplitude)
                    add16(group.x, s * residual + c, weights.embedding, row + residual + c, companded)


@njit(nogil=True, forceinline=True)
def _layer(weights: Pointers, group: Pointers, layer: int, time: int, n_rows: int) -> None:
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
def _residual(weights: Pointers, group: Pointers, layer: int, n_rows: int) -> None:
    """Compute the next layer's input."""
    residual = weights.n_residual
    for s in range(n_rows):
        for c in range(0, residual, 16):
            add16(group.x, s * residual + c, weights.residual_bias, layer * residual + c, np.float32(1))
    w0, x0, blocks = (3 * layer + 2) * residual * residual, layer * n_rows * residual, residual // 16
    multiply(group.x, 0, residual, weights.chain, w0, blocks, residual, group.gated, x0, residual, n_rows)


@njit(nogil=True, forceinline=True)
def _set_rows(y: Pointer, width: int, bias: Pointer, cuts: Pointer, thread: int, n_rows: int) -> None:
    """Set this thread's rows to the bias."""
    for s in range(n_rows):
        for c in range(cuts[thread] * 16, cuts[thread + 1] * 16, 16):
            copy16(y, s * width + c, bias, c)


@njit(nogil=True, forceinline=True)
def _add_rows(
    y: Pointer,
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
    multiply(y, begin * 16, width, w, w0 + begin * 16 * n_inputs, end - begin, n_inputs, x, x0, n_inputs, n_rows)


@njit(nogil=True, forceinline=True)
def _init_skip_rows(weights: Pointers, group: Pointers, block: Pointers, i: int, thread: int) -> None:
    """Set this thread's rows of the skip sum to their values before the layers: the bias and the conditioning."""
    n_rows, skip, cuts = block.n_rows, weights.n_skip, weights.skip_cuts
    if not weights.is_output_conditioned:
        _set_rows(group.skip, skip, weights.skip_bias, cuts, thread, n_rows)
        return
    frame = i // block.hop * n_rows * skip
    after = frame + n_rows * skip
    ramp = np.float32(i % block.hop) / np.float32(block.hop)
    for s in range(n_rows):
        for c in range(s * skip + cuts[thread] * 16, s * skip + cuts[thread + 1] * 16, 16):
            if block.linear:
                blend16(group.skip, c, block.output_frames, frame + c, after + c, ramp)
            else:
                copy16(group.skip, c, block.output_frames, frame + c)
    n_aux = weights.n_aux_inputs
    if n_aux:
        x, x0 = block.aux_inputs, i * n_rows * n_aux
        _add_rows(group.skip, skip, weights.skip_aux_inputs, 0, n_aux, cuts, thread, x, x0, n_rows)


@njit(nogil=True, forceinline=True)
def _hidden_rows(weights: Pointers, group: Pointers, thread: int, scratch0: int, n_rows: int) -> None:
    """This thread's rows of the first output layer: W relu(skip sum) + bias."""
    skip, middle, cuts = weights.n_skip, weights.n_middle, weights.hidden_cuts
    for c in range(0, n_rows * skip, 16):
        relu16(group.scratch, scratch0 + c, group.skip, c)
    _set_rows(group.middle, middle, weights.hidden_bias, cuts, thread, n_rows)
    _add_rows(group.middle, middle, weights.hidden, 0, skip, cuts, thread, group.scratch, scratch0, n_rows)


@njit(nogil=True, forceinline=True)
def _output_rows(weights: Pointers, group: Pointers, thread: int, scratch0: int, n_rows: int) -> None:
    """This thread's rows of the second output layer: W relu(hidden) + bias."""
    middle, n_outputs, cuts = weights.n_middle, weights.n_outputs, weights.output_cuts
    for c in range(0, n_rows * middle, 16):
        relu16(group.scratch, scratch0 + c, group.middle, c)
    _set_rows(group.params, n_outputs, weights.output_bias, cuts, thread, n_rows)
    _add_rows(group.params, n_outputs, weights.output, 0, middle, cuts, thread, group.scratch, scratch0, n_rows)


@njit(nogil=True)
def _barrier(flags: Pointer, thread: int, n_threads: int, value: int) -> bool:
    """Wait until all threads of the group have reached `value`; returns False if the group is to stop."""
    if n_threads == 1:
        return True
    publish(flags, thread * FLAG_STRIDE, value)
    for other in range(n_threads):
        if other != thread and not await_flag(flags, other * FLAG_STRIDE, value, n_threads * FLAG_STRIDE):
            return False
    return True


@njit(nogil=True, forceinline=True)
def _precompute_due_gates(weights: Pointers, group: Pointers, block: Pointers, i: int) -> None:
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


@njit(nogil=True, forceinline=True)
def _run_layers(weights: Pointers, group: Pointers, block: Pointers, i: int, epoch: int, stop: int) -> bool:
    """Compute the chain of layers, and the next sample's gates. The followers need only `gated` of it.

    Returns False if the group is to stop: the others wait for this thread, and look at that flag while they wait.
    """
    if observe(group.flags, stop) != 0:
        return False
    n_layers, n_rows = weights.n_layers, block.n_rows
    _embed(weights, group, n_rows)
    width = n_rows * weights.n_residual
    for layer in range(n_layers):
        if layer + PREFETCH_DISTANCE < n_layers:
            for c in range(0, width, 16):
                prefetch_write(group.gated, (layer + PREFETCH_DISTANCE) * width + c)
        _layer(weights, group, layer, block.start + i, n_rows)
        if (layer + 1) % LAYERS_PER_SIGNAL == 0 or layer + 1 == n_layers:
            publish(group.flags, 0, epoch + layer)
        if layer + 1 < n_layers:
            _residual(weights, group, layer, n_rows)
    if i + 1 < block.n_samples:
        _precompute_due_gates(weights, group, block, i + 1)
    return True


@njit(nogil=True, forceinline=True)
def _add_skip_layers(weights: Pointers, group: Pointers, thread: int, n_rows: int, epoch: int, stop: int) -> bool:
    """Add all layers' products to this thread's rows of the skip sum; returns False if the group is to stop.

    A follower waits for the layers, which the first thread computes.
    """
    n_layers, residual, skip, cuts = weights.n_layers, weights.n_residual, weights.n_skip, weights.skip_cuts
    for first in range(0, n_layers, LAYERS_PER_SIGNAL):
        end = min(first + LAYERS_PER_SIGNAL, n_layers)
        if thread != 0 and not await_flag(group.flags, 0, epoch + end - 1, stop):
            return False
        for layer in range(first, end):
            w0, x0 = layer * skip * residual, layer * n_rows * residual
            _add_rows(group.skip, skip, weights.skip, w0, residual, cuts, thread, group.gated, x0, n_rows)
    return True


@njit(nogil=True, forceinline=True)
def _await_followers(flags: Pointer, n_threads: int, value: int, stop: int) -> bool:
    """Wait until all followers have reached `value`; returns False if the group is to stop."""
    for other in range(1, n_threads):  # noqa: SIM110 - numba does not compile `all` of a generator.
        if not await_flag(flags, other * FLAG_STRIDE, value, stop):
            return False
    return True


@njit(nogil=True)
def _play(weight_arrays: Weights, group_arrays: ThreadGroup, block_arrays: Block, thread: int, n_threads: int) -> None:
    """Sample one block. Every thread of the group calls it; the first one computes the chain of layers.

    A thread's flag counts phases, those of sample t from t * phases on: layer l is done (l), then its rows of the skip
    product, of the first and of the second output layer.
    """
    weights, group, block = as_pointers(weight_arrays), as_pointers(group_arrays), as_pointers(block_arrays)
    n_layers, n_rows, flags, stop = weights.n_layers, block.n_rows, group.flags, n_threads * FLAG_STRIDE
    scratch0, phases = thread * n_rows * max(weights.n_skip, weights.n_middle), n_layers + 3
    if thread == 0:
        _precompute_due_gates(weights, group, block, 0)
    for i in range(block.n_samples):
        epoch = (block.start + i) * phases
        if thread == 0 and not _run_layers(weights, group, block, i, epoch, stop):
            return
        _init_skip_rows(weights, group, block, i, thread)
        if not _add_skip_layers(weights, group, thread, n_rows, epoch, stop):
            return
        if not _barrier(flags, thread, n_threads, epoch + n_layers):
            return
        _hidden_rows(weights, group, thread, scratch0, n_rows)
        if not _barrier(flags, thread, n_threads, epoch + n_layers + 1):
            return
        if weights.output_cuts[thread + 1] > weights.output_cuts[thread]:
            _output_rows(weights, group, thread, scratch0, n_rows)
        if thread != 0:
            publish(flags, thread * FLAG_STRIDE, epoch + n_layers + 2)
            continue
        if not _await_followers(flags, n_threads, epoch + n_layers + 2, stop):
            return
        draw(weights, group, block, i)


def _compiled(sources: int) -> cached_njit:
    """`_play` with a cache on disk that depends on `sources`: numba itself watches the file of the function only."""

    def play(weights: Weights, group: ThreadGroup, block: Block, thread: int, n_threads: int) -> None:
        sources  # noqa: B018 - Values of the enclosing function are part of the cache's key.
        _play(weights, group, block, thread, n_threads)

    return cached_njit(play, nogil=True)


play = _compiled(zlib.crc32(b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py")))))
