"""The threads of the CPU engine: how a group of them samples a block, and what it does when one is not running.

The first thread computes the chain of layers, the others (followers) the skip product and their rows of the output
layers. Other processes may need the cores too. Therefore the first thread never depends on a follower: when a sample
begins it looks which are ready, and a sample that they leave unfinished it finishes alone. A follower whose wait
is long sleeps, and leaves its core to others.
"""

import zlib
from pathlib import Path

from numba import njit

from midi2wave.sampling.engines.cpu_draw import draw
from midi2wave.sampling.engines.cpu_kernel import (
    BLOCK_START,
    N_SAMPLES,
    TAKE_PART,
    Block,
    Pointers,
    ThreadGroup,
    add_skip_layers,
    apply_layer,
    apply_residual,
    embed,
    hidden_rows,
    init_skip_rows,
    output_rows,
    precompute_due_gates,
    relu,
)
from midi2wave.sampling.engines.cpu_weights import Weights
from midi2wave.sampling.engines.simd import as_pointers
from midi2wave.sampling.engines.thread_flags import nap, observe, pause, prefetch_write, publish, rest, spin_until
from midi2wave.utils.numba_cache import cached_njit

# The first thread announces this many finished layers at once: every flag costs it an exchange of cache lines.
LAYERS_PER_SIGNAL = 2
# How many layers ahead the first thread takes the cache lines of its outputs back from the followers.
PREFETCH_DISTANCE = 2
# int64 words from one thread's flag to the next: a cache line each.
FLAG_STRIDE = 8
# After the threads' flags: what the first thread does (`_sample_flag`), and whether all are to stop. In the word after
# the former it leaves how many samples of a block it began with the others and had to compute alone, after waiting for
# them.
N_GROUP_FLAGS = 2
# A thread's flag while it neither works nor spins: the first thread does not wait for it.
AWAY = -(2**62)
# A follower that waits for a sample doubles its naps so many times, to 0.4 ms: it may be so late for the next block.
MAX_NAPS_DOUBLED = 3
# Naps without a new sample after which it returns: 0.1 s of these, or 2.5 s while it takes no part.
MAX_IDLE_NAPS = 250
# What the first thread does with a sample: nothing yet, computing it without the others or with them.
PENDING = 0
WITHOUT_FOLLOWERS = 1
WITH_FOLLOWERS = 2


@njit(nogil=True, forceinline=True)
def _run_layers(weights: Pointers, group: Pointers, block: Pointers, i: int, epoch: int, together: bool) -> None:
    """Compute the chain of layers, and the next sample's gates. The followers need only `gated` of it."""
    n_layers, n_rows = weights.n_layers, block.n_rows
    embed(weights, group, n_rows)
    width = n_rows * weights.n_residual
    for layer in range(n_layers):
        if together and layer + PREFETCH_DISTANCE < n_layers:
            for c in range(0, width, 16):
                prefetch_write(group.gated, (layer + PREFETCH_DISTANCE) * width + c)
        apply_layer(weights, group, layer, block.start + i, n_rows)
        if together and ((layer + 1) % LAYERS_PER_SIGNAL == 0 or layer + 1 == n_layers):
            publish(group.flags, 0, epoch + layer)
        if layer + 1 < n_layers:
            apply_residual(weights, group, layer, n_rows)
    if i + 1 < block.n_samples:
        precompute_due_gates(weights, group, block, i + 1)


@njit(nogil=True)
def _finish_alone(weights: Pointers, group: Pointers, block: Pointers, i: int, n_threads: int) -> None:
    """Compute everything after the layers, the rows of all threads, into the first thread's own copy."""
    n_rows = block.n_rows
    for thread in range(n_threads):
        init_skip_rows(weights, group, block, i, thread, 1)
        add_skip_layers(weights, group, 0, weights.n_layers, thread, n_rows, 1)
    n_skip, n_middle = n_rows * weights.n_skip, n_rows * weights.n_middle
    relu(group, 0, group.skip, n_skip, n_skip)
    for thread in range(n_threads):
        hidden_rows(weights, group, thread, 0, n_rows, 1)
    relu(group, 0, group.middle, n_middle, n_middle)
    for thread in range(n_threads):
        output_rows(weights, group, thread, 0, n_rows, 1)


@njit(nogil=True)
def _finish_together(weights: Pointers, group: Pointers, block: Pointers, i: int, epoch: int, n_threads: int) -> bool:
    """The first thread's rows of everything after the layers; returns False if another thread does not keep up."""
    n_rows, flags, done = block.n_rows, group.flags, epoch + weights.n_layers
    init_skip_rows(weights, group, block, i, 0, 0)
    add_skip_layers(weights, group, 0, weights.n_layers, 0, n_rows, 0)
    publish(flags, 0, done)
    if not _spin_until_followers(group, n_threads, done):
        return False
    relu(group, 0, group.skip, 0, n_rows * weights.n_skip)
    hidden_rows(weights, group, 0, 0, n_rows, 0)
    publish(flags, 0, done + 1)
    if not _spin_until_followers(group, n_threads, done + 1):
        return False
    relu(group, 0, group.middle, 0, n_rows * weights.n_middle)
    output_rows(weights, group, 0, 0, n_rows, 0)
    return _spin_until_followers(group, n_threads, done + 2)


@njit(nogil=True)
def _spin_until_followers(group: Pointers, n_threads: int, value: int) -> bool:
    """Wait, not for ever, until the flags of all followers are at `value`; returns whether they are."""
    for other in range(1, n_threads):  # noqa: SIM110 - numba does not compile `all` of a generator.
        if not spin_until(group.flags, other * FLAG_STRIDE, value, group.max_spins):
            return False
    return True


@njit(nogil=True)
def _await(group: Pointers, other: int, value: int, n_threads: int, sample_flag: int) -> bool:
    """Wait until another thread's flag is at `value`; returns False if the first thread has left this sample.

    A follower waits here, which naps once the wait is long: the thread that it waits for may need its core.
    """
    flags, mode, stop = group.flags, n_threads * FLAG_STRIDE, (n_threads + 1) * FLAG_STRIDE
    n_naps = 0
    while not spin_until(flags, other * FLAG_STRIDE, value, group.max_spins):
        if observe(flags, mode) != sample_flag or observe(flags, stop) != 0:
            return False
        n_naps = nap(n_naps)
    return True


@njit(nogil=True)
def _compute_own_rows(
    weights: Pointers, group: Pointers, block: Pointers, i: int, time: int, thread: int, n_threads: int
) -> bool:
    """Compute a follower's rows of sample i of a block; returns False if the first thread went on without it.

    If it did, what this thread read and wrote meanwhile is not used: flags of another sample answer no wait.
    """
    n_layers, n_rows, flags = weights.n_layers, block.n_rows, group.flags
    epoch = time * (n_layers + 3)
    scratch0, done = thread * n_rows * max(weights.n_skip, weights.n_middle), epoch + n_layers
    sample_flag = _sample_flag(time, WITH_FOLLOWERS)
    init_skip_rows(weights, group, block, i, thread, 0)
    for first in range(0, n_layers, LAYERS_PER_SIGNAL):
        end = min(first + LAYERS_PER_SIGNAL, n_layers)
        if not _await(group, 0, epoch + end - 1, n_threads, sample_flag):
            return False
        add_skip_layers(weights, group, first, end, thread, n_rows, 0)
    publish(flags, thread * FLAG_STRIDE, done)
    for other in range(n_threads):
        if other != thread and not _await(group, other, done, n_threads, sample_flag):
            return False
    relu(group, scratch0, group.skip, 0, n_rows * weights.n_skip)
    hidden_rows(weights, group, thread, scratch0, n_rows, 0)
    publish(flags, thread * FLAG_STRIDE, done + 1)
    if weights.output_cuts[thread + 1] > weights.output_cuts[thread]:
        for other in range(n_threads):
            if other != thread and not _await(group, other, done + 1, n_threads, sample_flag):
                return False
        relu(group, scratch0, group.middle, 0, n_rows * weights.n_middle)
        output_rows(weights, group, thread, scratch0, n_rows, 0)
    return True


@njit(nogil=True, forceinline=True)
def _sample_flag(time: int, mode: int) -> int:
    """The value that announces what the first thread does with the sample of that absolute number."""
    return 4 * time + mode


@njit(nogil=True)
def _lead(weights: Pointers, group: Pointers, block: Pointers, n_threads: int) -> None:
    """Sample one block as the first thread: with the followers where all are running, else alone."""
    flags, mode, stop = group.flags, n_threads * FLAG_STRIDE, (n_threads + 1) * FLAG_STRIDE
    phases = weights.n_layers + 3
    n_left = 0
    precompute_due_gates(weights, group, block, 0)
    for i in range(block.n_samples):
        if observe(flags, stop) != 0:
            return
        time = block.start + i
        epoch = time * phases
        together = n_threads > 1
        for other in range(1, n_threads):
            together = together and observe(flags, other * FLAG_STRIDE) >= epoch - 1
        if n_threads > 1:
            publish(flags, mode, _sample_flag(time, WITH_FOLLOWERS if together else WITHOUT_FOLLOWERS))
        _run_layers(weights, group, block, i, epoch, together)
        n_left += together
        together = together and _finish_together(weights, group, block, i, epoch, n_threads)
        n_left -= together
        if not together:
            _finish_alone(weights, group, block, i, n_threads)
        draw(weights, group, block, i, 0 if together else 1)
    flags[mode + 1] = n_left
    publish(flags, mode, _sample_flag(block.start + block.n_samples, PENDING))


@njit(nogil=True)
def _follow_blocks(weights: Pointers, group: Pointers, block: Pointers, thread: int, n_threads: int) -> None:
    """Help the first thread with the samples that it announces as common ones, in this block and the following ones.

    Between blocks it does not return to Python, whose lock it would need: where this thread has no core, others would
    wait for it then. It returns after many naps in which the first thread has sampled nothing.
    """
    flags, mode, stop = group.flags, n_threads * FLAG_STRIDE, (n_threads + 1) * FLAG_STRIDE
    phases, own = weights.n_layers + 3, thread * FLAG_STRIDE
    last, former = block.start - 1, -1
    n_spins = n_naps = n_idle_naps = 0
    publish(flags, own, block.start * phases - 1)
    while observe(flags, stop) == 0 and n_idle_naps < MAX_IDLE_NAPS:
        announced, takes_part = observe(flags, mode), observe(group.block, TAKE_PART) != 0
        time, kind = announced >> 2, announced & 3
        if announced != former:
            former, n_idle_naps = announced, 0
        if takes_part and kind != PENDING and time > last:
            last, n_spins = time, 0
            i, n_samples = time - observe(group.block, BLOCK_START), observe(group.block, N_SAMPLES)
            # Another block may have begun since the announcement was read.
            is_current = observe(flags, mode) == announced and 0 <= i < n_samples
            if (
                kind == WITH_FOLLOWERS
                and is_current
                and _compute_own_rows(weights, group, block, i, time, thread, n_threads)
            ):
                n_naps = 0
            publish(flags, own, (time + 1) * phases - 1)
        elif takes_part and n_spins < group.max_spins:
            n_spins += 1
            pause()
        else:
            publish(flags, own, AWAY)
            n_naps = nap(min(n_naps, MAX_NAPS_DOUBLED)) if takes_part else rest()
            n_idle_naps += 1
    publish(flags, own, AWAY)


@njit(nogil=True)
def _play(weight_arrays: Weights, group_arrays: ThreadGroup, block_arrays: Block, thread: int, n_threads: int) -> None:
    """Sample one block as the first thread, which computes the chain of layers, or follow it from that block on.

    A thread's flag counts phases, those of sample t from t * phases on: layer l is done (l), then its rows of the skip
    product, of the first and of the second output layer. A follower that has finished sample t - 1, or has seen it go
    by, is ready for sample t. The first thread never depends on one: it takes those with it that are ready when a
    sample begins, and computes a sample alone that a follower leaves unfinished.
    """
    weights, group, block = as_pointers(weight_arrays), as_pointers(group_arrays), as_pointers(block_arrays)
    if thread == 0:
        _lead(weights, group, block, n_threads)
    else:
        _follow_blocks(weights, group, block, thread, n_threads)


def _compiled(sources: int) -> cached_njit:
    """`_play` with a cache on disk that depends on `sources`: numba itself watches the file of the function only."""

    def play(weights: Weights, group: ThreadGroup, block: Block, thread: int, n_threads: int) -> None:
        sources  # noqa: B018 - Values of the enclosing function are part of the cache's key.
        _play(weights, group, block, thread, n_threads)

    return cached_njit(play, nogil=True)


play = _compiled(zlib.crc32(b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py")))))
