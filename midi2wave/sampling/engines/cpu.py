"""The CPU engine: the cached sampler as one numba kernel, for any number of streams on any number of threads.

What makes it fast:

- Weights are read sequentially by products whose sums stay in registers (`simd.multiply`), and once for all streams.
- Only the newest tap of a gate depends on the sample before. The older taps of a layer with dilation d, the
  conditioning and the excitation are available d samples ahead: their products are computed for up to 16 samples
  together.
- Streams are distributed over threads, which then need not communicate. A stream that has several threads gets one for
  the chain of layers; the others follow it through the skip products. Per sample the threads of a group wait at three
  barriers, not one per layer, and only the layers' outputs move between the cores.
- Weights in bfloat16 halve the memory that has to be read.
"""

import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from midi2wave.sampling.engines.cpu_kernel import Block, ThreadGroup
from midi2wave.sampling.engines.cpu_threads import AWAY, FLAG_STRIDE, N_GROUP_FLAGS, play
from midi2wave.sampling.engines.cpu_weights import (
    MAX_AHEAD,
    Weights,
    aligned,
    conditioning_layer,
    n_aux_inputs,
    pack_decoder,
    padded,
    to_bfloat16,
)
from midi2wave.sampling.engines.simd import has_bfloat16
from midi2wave.sampling.options import DEFAULT_OPTIONS, SamplingOptions
from midi2wave.utils.float32_convolutions import float32_convolutions
from wavenet import Caches, Conditioning, WaveNet, prefill, rows_per_stream

# Blocks are small at first, so that the first sound comes early.
FIRST_BLOCK_FRAMES = 1
MAX_BLOCK_FRAMES = 128
# Multiply-adds of a sample to one round of waiting for another thread: a wait lasts as long as a sample at least, where
# a round takes 10 cycles (before Skylake), and 14 times as long where it takes 140.
MULTIPLY_ADDS_PER_SPIN = 80
MIN_SPINS = 1000
# Followers rest if fewer than this portion of so many samples was computed with them, for 0.5 to 8 s at 16 kHz.
MIN_COMMON_PORTION = 0.75
JUDGED_SAMPLES = 4096
MIN_REST_SAMPLES = 8192
MAX_REST_SAMPLES = 131_072
# How long a block waits for followers that have not left the one before: most nap for some milliseconds at most. It
# begins without those that have lost their core, and later blocks do not wait for them: one may last only 16 ms.
FOLLOWER_WAIT_SECONDS = 0.01
# The more streams, the smaller the largest block, but never below this.
MIN_LARGEST_BLOCK_FRAMES = 8


@dataclass(frozen=True)
class _KernelInputs:
    """The conditioning of a range of frames in the layout of `cpu_kernel.Block`, for all rows."""

    frames: np.ndarray  # [F, L, rows, 2R]
    output_frames: np.ndarray  # [F, rows, S]; S is 0 without conditioning of the output
    aux_inputs: np.ndarray  # [T, rows, E]; E is 0 without inputs at audio rate


class FollowerPolicy:
    """Decides from block to block whether the followers of a group take part.

    Where other processes use the cores, followers are seldom there when they are needed, but take time from the first
    thread's core. They then rest, the longer the more often that was so.
    """

    def __init__(self) -> None:
        self._n_samples = self._n_common = 0  # with followers, since the last decision
        self._n_left = 0  # of the rest
        self._next_rest = MIN_REST_SAMPLES

    @property
    def take_part(self) -> bool:
        """Whether the followers take part in the next block."""
        return self._n_left <= 0

    def note(self, n_samples: int, n_common: int) -> None:
        """Note a block: how many samples it had, and how many of them all threads computed together."""
        if not self.take_part:
            self._n_left -= n_samples
            return
        self._n_samples += n_samples
        self._n_common += n_common
        if self._n_samples < JUDGED_SAMPLES:
            return
        if self._n_common < MIN_COMMON_PORTION * self._n_samples:
            self._n_left = self._next_rest
            self._next_rest = min(2 * self._next_rest, MAX_REST_SAMPLES)
        else:
            self._next_rest = MIN_REST_SAMPLES
        self._n_samples = self._n_common = 0


@dataclass
class _Group:
    """Streams, the threads that sample them, and their state."""

    weights: Weights
    state: ThreadGroup
    n_threads: int
    streams: slice  # of the batch
    rows: slice | np.ndarray  # of the conditioning: with guidance two for each stream
    policy: FollowerPolicy = field(default_factory=FollowerPolicy)
    followers: list[Future[None]] = field(default_factory=list)  # of the last block in which they took part
    has_late_followers: bool = False  # one of them was not done when the last block began


def _to_input_type(values: np.ndarray, bfloat16: bool) -> np.ndarray:
    return to_bfloat16(values) if bfloat16 else np.ascontiguousarray(values, dtype=np.float32)


def _thread_group(
    weights: Weights, n_threads: int, caches: Caches, rows: slice | np.ndarray, bfloat16_inputs: bool
) -> ThreadGroup:
    """The initial state of a group that samples these rows, from the caches."""
    n_layers, residual, skip, middle = weights.n_layers, weights.n_residual, weights.n_skip, weights.n_middle
    recent = caches.recent[rows].cpu().numpy().astype(np.int64)
    n_rows = len(recent)
    rings = []
    for layer in caches.layers:
        past = layer[:, rows].to("cpu", torch.float32).numpy()
        rings.append(np.pad(past, ((0, 0), (0, 0), (0, residual - past.shape[2]))).reshape(-1))
    dtype = np.uint16 if bfloat16_inputs else np.float32
    arrays = dict(
        recent=recent,
        ring=_to_input_type(np.concatenate(rings), bfloat16_inputs),
        ahead=np.zeros(n_layers * MAX_AHEAD * n_rows * 2 * residual, np.float32),
        x=np.zeros(n_rows * residual, np.float32),
        gated=np.zeros(n_layers * n_rows * residual, dtype),
        skip=np.zeros((2, n_rows * skip), np.float32),
        middle=np.zeros((2, n_rows * middle), np.float32),
        params=np.zeros((2, n_rows * weights.n_outputs), np.float32),
        scratch=np.zeros((n_threads, n_rows * max(skip, middle)), dtype),
        mass=np.zeros(256, np.float32),
        flags=np.array([AWAY] * ((n_threads + N_GROUP_FLAGS - 1) * FLAG_STRIDE) + [0] * FLAG_STRIDE),
    )
    matrices = (weights.chain, weights.past, weights.skip, weights.hidden, weights.output)
    n_multiply_adds = n_rows * sum(matrix.size for matrix in matrices)
    max_spins = max(MIN_SPINS, n_multiply_adds // MULTIPLY_ADDS_PER_SPIN)
    return ThreadGroup(**{name: aligned(array) for name, array in arrays.items()}, max_spins=max_spins)


@contextmanager
def _one_torch_thread() -> Iterator[None]:
    """PyTorch computes on the calling thread alone, within.

    The conditioning of a block is many small operations. With several threads every one of them ends with a wait that
    spins, which takes several times as long as the operations where another process uses one of the cores.
    """
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(n_threads)


class _ConditioningSource:
    """Conditioning in the kernel's layout: projected for every layer at frame rate, never at audio rate."""

    def __init__(self, model: WaveNet, conditioning: Conditioning) -> None:
        self.model = model
        self.conditioning = conditioning
        self.decoder = model.decoder
        device = model.decoder.input.weight.device
        self.weight, self.bias = (part.to(device) for part in conditioning_layer(model.decoder))
        self.n_aux_inputs = n_aux_inputs(model.decoder)

    def block(self, first: int, n_frames: int) -> _KernelInputs:
        """The kernel's inputs of a range of frames."""
        with _one_torch_thread():
            return self._block(first, n_frames)

    @float32_convolutions()
    def _block(self, first: int, n_frames: int) -> _KernelInputs:
        decoder = self.decoder
        context, excitation = self.conditioning.block(self.model, first, n_frames)
        n_layers, n_rows, n_samples = len(decoder.layers), len(context), n_frames * self.model.hop
        parts = [excitation.permute(2, 0, 1)]
        if decoder.upsampling.commutes:
            frames = torch.addmm(self.bias, context.permute(2, 0, 1).flatten(0, 1).float(), self.weight.t())
            frames = frames.unflatten(0, (-1, n_rows))
        else:
            parts.append(decoder.prepare(context, excitation)[0])
            frames = self.bias.expand(1, n_rows, -1)
        n_gates = 2 * padded(decoder.config.n_residual_channels) * n_layers
        frames, output_frames = frames.tensor_split([n_gates], dim=-1)
        frames = frames.unflatten(-1, (n_layers, -1)).transpose(1, 2)
        aux_inputs = np.zeros((n_samples, n_rows, self.n_aux_inputs), np.float32)
        channels = torch.cat(parts, dim=-1)
        aux_inputs[..., : channels.shape[-1]] = channels.cpu().numpy()
        return _KernelInputs(frames.cpu().numpy(), output_frames.cpu().numpy(), aux_inputs)


class _ThreadGroups:
    """The streams of a batch distributed over groups of threads. The two rows of a guided stream are in one group."""

    def __init__(self, model: WaveNet, caches: Caches, options: SamplingOptions, *, portable: bool = False) -> None:
        self.linear = model.decoder.upsampling.kind == "linear"
        self.hop = model.hop
        self.options = options
        n_threads, n_rows = max(1, options.threads), len(caches.recent)
        n_streams = n_rows // rows_per_stream(options.guidance)
        n_groups = min(n_threads, n_streams)
        bounds = [n_streams * i // n_groups for i in range(n_groups + 1)]
        sizes = [n_threads * (i + 1) // n_groups - n_threads * i // n_groups for i in range(n_groups)]
        bfloat16 = options.weights == "bfloat16"
        bfloat16_inputs = bfloat16 and has_bfloat16() and not portable
        packed = {size: pack_decoder(model.decoder, size, bfloat16=bfloat16) for size in set(sizes)}
        self.groups = []
        for size, (start, stop) in zip(sizes, itertools.pairwise(bounds), strict=True):
            rows: slice | np.ndarray = slice(start, stop)
            if n_rows > n_streams:
                rows = np.r_[rows, start + n_streams : stop + n_streams]
            state = _thread_group(packed[size], size, caches, rows, bfloat16_inputs)
            self.groups.append(_Group(packed[size], state, size, slice(start, stop), rows))
        self.pool = ThreadPoolExecutor(sum(sizes), thread_name_prefix="sampler")

    def play(
        self, start: int, inputs: _KernelInputs, uniforms: np.ndarray, teacher_samples: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Sample the T samples from sample number `start` on.

        Args:
            start: Absolute number of the first sample.
            inputs: Their conditioning.
            uniforms: [T, B, U].
            teacher_samples: int64 [T, B], which take the place of the drawn samples as the past; None: free-running.

        Returns:
            Drawn samples int64 [T, B], and with teacher samples the parameters float32 [T, B, P], else none [0, B, P].
        """
        blocks = [self._block(group, start, inputs, uniforms, teacher_samples) for group in self.groups]
        leaders = [self._begin(group, block) for group, block in zip(self.groups, blocks, strict=True)]
        wait(leaders, return_when=FIRST_EXCEPTION)
        self._raise_failures([*leaders, *(follower for group in self.groups for follower in group.followers)])
        for group in self.groups:
            group.policy.note(len(uniforms), int(group.state.flags[group.n_threads * FLAG_STRIDE + 1]))
        samples = np.concatenate([block.samples for block in blocks], axis=1)
        return samples, np.concatenate([block.params for block in blocks], axis=1)

    def _begin(self, group: _Group, block: Block) -> Future[None]:
        """Let the threads of a group sample a block; returns the first one's job, which depends on no other."""
        is_wait_worthwhile = group.policy.take_part and not group.has_late_followers
        _, late = wait(group.followers, timeout=FOLLOWER_WAIT_SECONDS if is_wait_worthwhile else 0)
        group.has_late_followers = bool(late)
        self._raise_failures(group.followers)
        arguments = group.weights, group.state, block
        leader = self.pool.submit(play, *arguments, 0, group.n_threads)
        if not late:  # Else it may still write its rows of a former sample.
            group.followers.clear()
            for thread in range(1, group.n_threads if group.policy.take_part else 1):
                group.followers.append(self.pool.submit(play, *arguments, thread, group.n_threads))
        return leader

    def _raise_failures(self, jobs: list[Future[None]]) -> None:
        """Stop all threads and raise the error of a job that has failed."""
        if failed := [job for job in jobs if job.done() and job.exception()]:
            self.stop()
            failed[0].result()

    def _block(
        self,
        group: _Group,
        start: int,
        inputs: _KernelInputs,
        uniforms: np.ndarray,
        teacher_samples: np.ndarray | None,
    ) -> Block:
        """The kernel's arguments for one group."""
        n_samples, n_streams = len(inputs.aux_inputs), group.streams.stop - group.streams.start
        is_forced = teacher_samples is not None
        past = np.zeros((0, uniforms.shape[1]), np.int64) if teacher_samples is None else teacher_samples
        return Block(
            frames=np.ascontiguousarray(inputs.frames[:, :, group.rows]),
            output_frames=np.ascontiguousarray(inputs.output_frames[:, group.rows]),
            aux_inputs=np.ascontiguousarray(inputs.aux_inputs[:, group.rows]),
            uniforms=np.ascontiguousarray(uniforms[:, group.streams]),
            teacher_samples=np.ascontiguousarray(past[:, group.streams]),
            samples=np.zeros((n_samples, n_streams), np.int64),
            params=np.zeros((n_samples if is_forced else 0, n_streams, group.weights.n_params), np.float32),
            n_samples=n_samples,
            n_rows=len(group.state.recent),
            n_streams=n_streams,
            start=start,
            hop=self.hop if len(inputs.frames) > 1 else n_samples + 1,
            linear=self.linear,
            teacher_forcing=is_forced,
            keep_params=is_forced,
            takes_mean=self.options.sampling == "mean",
            temperature=np.float32(self.options.temperature),
            guidance=np.float32(self.options.guidance),
        )

    def stop(self) -> None:
        """Make all threads return: each does within a sample, also if it waits for another."""
        for group in self.groups:
            group.state.flags[-FLAG_STRIDE] = 1

    def close(self) -> None:
        """Stop all threads, and wait for them."""
        self.stop()
        self.pool.shutdown()


@torch.inference_mode()
def generate(
    model: WaveNet,
    conditioning: Conditioning,
    uniforms: Callable[[int, int], Tensor],
    n_streams: int,
    n_frames: int,
    options: SamplingOptions = DEFAULT_OPTIONS,
    *,
    prefix: Tensor | None = None,
    portable: bool = False,
) -> Iterator[Tensor]:
    """`wavenet.generate` by this engine; see `engines.generate`.

    Args:
        model: The model.
        conditioning: Of the B streams; with guidance of 2B rows.
        uniforms: uniforms(first, n) -> [B, n, U].
        n_streams: B.
        n_frames: Frames to generate, the prefix included.
        options: Exactly `options.threads` threads are used; 0: one.
        prefix: Samples [B, P * hop] that come first.
        portable: Whether bfloat16 weights are widened and multiplied in float32 also where the processor multiplies
            bfloat16.
    """
    caches, first = prefill(model, conditioning, n_streams, n_frames, prefix, options.guidance)
    if prefix is not None:
        yield prefix
    device = caches.recent.device
    source = _ConditioningSource(model, conditioning)
    groups = _ThreadGroups(model, caches, options, portable=portable)
    count = FIRST_BLOCK_FRAMES
    max_count = options.block_frames or max(MIN_LARGEST_BLOCK_FRAMES, MAX_BLOCK_FRAMES // len(caches.recent))
    try:
        while first < n_frames:
            count = min(count, n_frames - first)
            draws = uniforms(first * model.hop, count * model.hop).transpose(0, 1).cpu().numpy()
            samples, _ = groups.play(first * model.hop, source.block(first, count), draws)
            yield torch.from_numpy(samples.T).to(device)
            first += count
            count = min(2 * count, max_count)
    finally:
        groups.close()


@torch.inference_mode()
def replay(
    model: WaveNet,
    conditioning: Conditioning,
    uniforms: Callable[[int, int], Tensor],
    samples: Tensor,
    options: SamplingOptions = DEFAULT_OPTIONS,
    *,
    portable: bool = False,
) -> tuple[Tensor, Tensor]:
    """Run the kernel teacher-forced over samples [B, N * hop], to compare engines sample by sample.

    Returns:
        The samples that would be drawn, int64 [B, N * hop], and the (guided) distribution parameters [B, P, N * hop].
    """
    source = _ConditioningSource(model, conditioning)
    caches = Caches(model.decoder, rows_per_stream(options.guidance) * len(samples))
    groups = _ThreadGroups(model, caches, options, portable=portable)
    own_samples, params = [], []
    try:
        for start in range(0, samples.shape[1], MAX_BLOCK_FRAMES * model.hop):
            part = samples[:, start : start + MAX_BLOCK_FRAMES * model.hop].cpu().numpy().T
            draws = uniforms(start, len(part)).transpose(0, 1).cpu().numpy()
            inputs = source.block(start // model.hop, len(part) // model.hop)
            block_samples, block_params = groups.play(start, inputs, draws, part)
            own_samples.append(torch.from_numpy(block_samples))
            params.append(torch.from_numpy(block_params))
    finally:
        groups.close()
    return torch.cat(own_samples).t(), torch.cat(params).permute(1, 2, 0)
