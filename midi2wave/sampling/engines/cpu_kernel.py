"""The kernel of the CPU engine: one team of threads samples some streams.

Functions take `borrow`ed tuples, whose fields are pointers: every index below is counted in elements, and shapes stand
beside the fields of `packing.Weights`, `Team` and `Block`. R, S, A and P are padded channels.
"""

import math
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numba import njit

from midi2wave.sampling.engines.cpu_draw import draw
from midi2wave.sampling.engines.cpu_weights import MOST_AHEAD
from midi2wave.sampling.engines.simd import (
    add16,
    await_flag,
    blend16,
    borrow,
    copy16,
    gate16,
    multiply,
    observe,
    prefetch_write,
    publish,
    relu16,
    round16,
)
from midi2wave.utils.numba_cache import cached_njit

TOLD = 2  # layers of which the helpers hear together: every flag costs the chain an exchange of cache lines
CLAIMED = 2  # layers ahead of which the chain takes its outputs' cache lines back from the helpers
FLAG = 8  # int64 words from one thread's flag to the next: a cache line each


class Team(NamedTuple):
    """What the threads that play the same S streams share. `inputs` are float32, or bfloat16 as uint16.

    With guidance every stream counts twice: the first half of the S hear their notes, the second half do not.
    """

    recent: np.ndarray  # [S, K], int64: the last samples, oldest first
    ring: np.ndarray  # inputs [sum of ring rows * S * R]: row t % rows of a layer holds its input at time t
    ahead: np.ndarray  # float32 [L * MOST_AHEAD * S * 2R]: gates but for the newest tap, in slot (t + phase) % ahead
    x: np.ndarray  # float32 [S * R]
    gated: np.ndarray  # inputs [L * S * R]
    skip: np.ndarray  # float32 [S * skip]
    middle: np.ndarray  # float32 [S * middle]
    params: np.ndarray  # float32 [S * P]
    scratch: np.ndarray  # inputs [threads, S * max(skip, middle)]: each thread's own
    mass: np.ndarray  # float32 [256]
    flags: np.ndarray  # int64 [(threads + 1) * FLAG]: how far each thread is; the last one tells all to stop


class Block(NamedTuple):
    """What a stretch of T samples is made from, and where they go."""

    frames: np.ndarray  # float32 [F, L, S, 2R]: the projected conditioning
    output_frames: np.ndarray  # float32 [F, S, skip]: what the skip sum begins with, if the output is conditioned
    side: np.ndarray  # float32 [T, S, E]
    uniforms: np.ndarray  # float32 [T, D, U]
    given: np.ndarray  # int64 [T or 0, D]: samples that are heard instead of the drawn ones
    drawn: np.ndarray  # int64 [T, D]
    params: np.ndarray  # float32 [T or 0, D, P]
    n_samples: int
    n_streams: int  # S
    n_drawn: int  # D: S, or with guidance half of it
    start: int  # absolute time of the first sample
    hop: int  # samples per frame; of one frame for all: more than T
    linear: bool  # whether samples lie between their frame and the next
    is_given: bool
    keep_params: bool
    temperature: float
    guidance: float


@njit(nogil=True, forceinline=True)
def _prepare(weights, team, block, layer, i, n):
    """Leave in team.ahead all of a layer's gates for the block's samples i .. i + n - 1 but the newest tap."""
    residual, n_streams, time = weights.n_residual, block.n_streams, block.start + i
    width = 2 * residual
    slot = (time + weights.phase[layer]) % weights.ahead[layer]
    first = (layer * MOST_AHEAD + slot) * n_streams * width
    to = first
    for j in range(i, i + n):
        frame = (j // block.hop * weights.n_layers + layer) * n_streams * width
        after = frame + weights.n_layers * n_streams * width
        ramp = np.float32(j % block.hop) / np.float32(block.hop)
        for c in range(0, n_streams * width, 16):
            if block.linear:
                blend16(team.ahead, to + c, block.frames, frame + c, after + c, ramp)
            else:
                copy16(team.ahead, to + c, block.frames, frame + c)
        to += n_streams * width
    blocks, columns, inputs = width // 16, n * n_streams, weights.n_side
    if inputs:
        multiply(team.ahead, first, width, weights.side, layer * width * inputs, blocks, inputs,
                 block.side, i * n_streams * inputs, inputs, columns)  # fmt: skip
    for k in range(weights.n_taps - 1):
        row = weights.ring_start[layer] + (time + k * weights.dilations[layer]) % weights.ring_rows[layer]
        of = (layer * (weights.n_taps - 1) + k) * width * residual
        multiply(team.ahead, first, width, weights.past, of, blocks, residual,
                 team.ring, row * n_streams * residual, residual, columns)  # fmt: skip


@njit(nogil=True, forceinline=True)
def _embed(weights, team, n_streams):
    """The first layer's input, from the last samples."""
    residual, taps = weights.n_residual, weights.n_taps
    for s in range(n_streams):
        for c in range(0, residual, 16):
            copy16(team.x, s * residual + c, weights.embedding_bias, c)
        for k in range(taps):
            sample = team.recent[s * taps + k]
            if weights.n_mixtures == 0:
                row = (k * 256 + sample) * residual
                for c in range(0, residual, 16):
                    add16(team.x, s * residual + c, weights.embedding, row + c, np.float32(1))
            else:
                amplitude = np.float32(sample) / np.float32(32768)
                size = np.log1p(np.float32(255) * abs(amplitude)) / np.float32(math.log(256))
                companded = size if sample >= 0 else -size
                row = 2 * k * residual
                for c in range(0, residual, 16):
                    add16(team.x, s * residual + c, weights.embedding, row + c, amplitude)
                    add16(team.x, s * residual + c, weights.embedding, row + residual + c, companded)


@njit(nogil=True, forceinline=True)
def _layer(weights, team, layer, time, n_streams):
    """One layer's newest tap, gate and residual product."""
    residual = weights.n_residual
    width, columns = 2 * residual, n_streams * residual
    row = (weights.ring_start[layer] + time % weights.ring_rows[layer]) * columns
    for c in range(0, columns, 16):
        round16(team.ring, row + c, team.x, c)
    gates = (layer * MOST_AHEAD + (time + weights.phase[layer]) % weights.ahead[layer]) * n_streams * width
    at = layer * 3 * residual * residual
    multiply(team.ahead, gates, width, weights.chain, at, width // 16, residual, team.ring, row, residual, n_streams)
    out = layer * columns
    for s in range(n_streams):
        for c in range(0, residual, 16):
            a = gates + s * width + c
            gate16(team.gated, out + s * residual + c, team.ahead, a, a + residual)


@njit(nogil=True, forceinline=True)
def _residual(weights, team, layer, n_streams):
    """The next layer's input."""
    residual = weights.n_residual
    for s in range(n_streams):
        for c in range(0, residual, 16):
            add16(team.x, s * residual + c, weights.residual_bias, layer * residual + c, np.float32(1))
    at = (3 * layer + 2) * residual * residual
    multiply(team.x, 0, residual, weights.chain, at, residual // 16, residual,
             team.gated, layer * n_streams * residual, residual, n_streams)  # fmt: skip


@njit(nogil=True, forceinline=True)
def _start(y, width, bias, cuts, thread, n_streams):
    """Set this thread's rows to the bias."""
    for s in range(n_streams):
        for c in range(cuts[thread] * 16, cuts[thread + 1] * 16, 16):
            copy16(y, s * width + c, bias, c)


@njit(nogil=True, forceinline=True)
def _rows(y, width, w, w0, inputs, cuts, thread, x, x0, n_streams):
    """Add this thread's rows of a product."""
    begin, end = cuts[thread], cuts[thread + 1]
    multiply(y, begin * 16, width, w, w0 + begin * 16 * inputs, end - begin, inputs, x, x0, inputs, n_streams)


@njit(nogil=True, forceinline=True)
def _start_skip(weights, team, block, i, thread):
    """Set this thread's rows of the skip sum to what stands in it before the layers: the bias and the conditioning."""
    n_streams, skip, cuts = block.n_streams, weights.n_skip, weights.skip_cuts
    if not weights.is_output_conditioned:
        _start(team.skip, skip, weights.skip_bias, cuts, thread, n_streams)
        return
    frame = i // block.hop * n_streams * skip
    after = frame + n_streams * skip
    ramp = np.float32(i % block.hop) / np.float32(block.hop)
    for s in range(n_streams):
        for c in range(s * skip + cuts[thread] * 16, s * skip + cuts[thread + 1] * 16, 16):
            if block.linear:
                blend16(team.skip, c, block.output_frames, frame + c, after + c, ramp)
            else:
                copy16(team.skip, c, block.output_frames, frame + c)
    if weights.n_side:
        _rows(team.skip, skip, weights.skip_side, 0, weights.n_side, cuts, thread,
              block.side, i * n_streams * weights.n_side, n_streams)  # fmt: skip


@njit(nogil=True, forceinline=True)
def _dense(y, width, w, bias, cuts, thread, x, n_inputs, scratch, scratch0, n_streams):
    """This thread's rows of W relu(x) + bias."""
    for c in range(0, n_streams * n_inputs, 16):
        relu16(scratch, scratch0 + c, x, c)
    _start(y, width, bias, cuts, thread, n_streams)
    _rows(y, width, w, 0, n_inputs, cuts, thread, scratch, scratch0, n_streams)


@njit(nogil=True)
def _meet(flags, thread, n_threads, value):
    """Wait until all threads of the team are as far; False if they were told to stop."""
    publish(flags, thread * FLAG, value)
    for other in range(n_threads):
        if other != thread and not await_flag(flags, other * FLAG, value, n_threads * FLAG):
            return False
    return True


@njit(nogil=True, forceinline=True)
def _prepare_next(weights, team, block, i):
    """Prepare all layers for whose gates the sample i begins a new stretch, or all at the block's first.

    A stretch ends where the layer's slots, its ring or the block do.
    """
    time = block.start + i
    for layer in range(weights.n_layers):
        ahead, dilation = weights.ahead[layer], weights.dilations[layer]
        into, turn = (time + weights.phase[layer]) % ahead, time % dilation
        if into == 0 or turn == 0 or i == 0:
            _prepare(weights, team, block, layer, i, min(ahead - into, dilation - turn, block.n_samples - i))


@njit(nogil=True, forceinline=True)
def _lead(weights, team, block, i, epoch):
    """The chain of layers, and what the next sample's gates need: none of it is shared with the helpers but `gated`."""
    n_layers, n_streams = weights.n_layers, block.n_streams
    _embed(weights, team, n_streams)
    width = n_streams * weights.n_residual
    for layer in range(n_layers):
        if layer + CLAIMED < n_layers:
            for c in range(0, width, 16):
                prefetch_write(team.gated, (layer + CLAIMED) * width + c)
        _layer(weights, team, layer, block.start + i, n_streams)
        if (layer + 1) % TOLD == 0 or layer + 1 == n_layers:
            publish(team.flags, 0, epoch + layer)
        if layer + 1 < n_layers:
            _residual(weights, team, layer, n_streams)
    if i + 1 < block.n_samples:
        _prepare_next(weights, team, block, i + 1)


@njit(nogil=True)
def _play(weight_arrays, team_arrays, block_arrays, thread, n_threads):
    """Sample one block; every thread of the team calls it, and the first one leads.

    A thread's flag counts phases, those of sample t from t * phases on: layer l is done (l), its rows of the skip
    product, of the middle, of the output.
    """
    weights, team, block = borrow(weight_arrays), borrow(team_arrays), borrow(block_arrays)
    n_layers, residual, n_streams = weights.n_layers, weights.n_residual, block.n_streams
    skip, middle, flags, stop = weights.n_skip, weights.n_middle, team.flags, n_threads * FLAG
    scratch0, phases = thread * n_streams * max(skip, middle), n_layers + 3
    if thread == 0:
        _prepare_next(weights, team, block, 0)
    for i in range(block.n_samples):
        epoch = (block.start + i) * phases
        if thread == 0:
            if observe(flags, stop) != 0:  # the others wait for this thread, and look while they wait
                return
            _lead(weights, team, block, i, epoch)
        _start_skip(weights, team, block, i, thread)
        for first in range(0, n_layers, TOLD):
            end = min(first + TOLD, n_layers)
            if thread != 0 and not await_flag(flags, 0, epoch + end - 1, stop):
                return
            for layer in range(first, end):
                _rows(team.skip, skip, weights.skip, layer * skip * residual, residual, weights.skip_cuts, thread,
                      team.gated, layer * n_streams * residual, n_streams)  # fmt: skip
        if n_threads > 1 and not _meet(flags, thread, n_threads, epoch + n_layers):
            return
        _dense(team.middle, middle, weights.hidden, weights.hidden_bias, weights.hidden_cuts, thread, team.skip, skip,
               team.scratch, scratch0, n_streams)  # fmt: skip
        if n_threads > 1 and not _meet(flags, thread, n_threads, epoch + n_layers + 1):
            return
        if weights.output_cuts[thread + 1] > weights.output_cuts[thread]:
            _dense(team.params, weights.n_outputs, weights.output, weights.output_bias, weights.output_cuts, thread,
                   team.middle, middle, team.scratch, scratch0, n_streams)  # fmt: skip
        if thread != 0:
            publish(flags, thread * FLAG, epoch + n_layers + 2)
            continue
        for other in range(1, n_threads):
            if not await_flag(flags, other * FLAG, epoch + n_layers + 2, stop):
                return
        draw(weights, team, block, i)


def _compiled(sources: int):
    """`_play` with a cache on disk that knows `sources`: numba itself watches the file of the function only."""

    def play(weights, team, block, thread, n_threads):
        sources  # noqa: B018 - enclosed values are part of the cache's key
        _play(weights, team, block, thread, n_threads)

    return cached_njit(play, nogil=True)


play = _compiled(zlib.crc32(b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py")))))
