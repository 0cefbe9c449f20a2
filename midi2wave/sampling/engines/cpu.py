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
import time
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
from midi2wave.sampling.engines.follower_policy import N_TRIAL_PARTS, BlockTimes, FollowerPolicy
from midi2wave.sampling.engines.simd import has_bfloat16
from midi2wave.sampling.options import DEFAULT_OPTIONS, SamplingOptions
from midi2wave.utils.float32_convolutions import float32_convolutions
from wavenet import Caches, Conditioning, WaveNet, prefill, rows_per_stream, sample_dtype

# Blocks are small at first, so that the first sound comes early.
FIRST_BLOCK_FRAMES = 1
MAX_BLOCK_FRAMES = 128
# Multiply-adds of a sample to one round of waiting for another thread: a wait lasts as long as a sample at least, where
# a round takes 10 cycles (before Skylake), and 14 times as long where it takes 140.
MULTIPLY_ADDS_PER_SPIN = 80
MIN_SPINS = 1000
# The more streams, the smaller the largest block, but never below this.
MIN_LARGEST_BLOCK_FRAMES = 8


@dataclass(frozen=True)
class _KernelInputs:
    """The conditioning of a range of frames in the layout of `cpu_kernel.Block`, for all rows."""

    frames: np.ndarray  # [F, L, rows, 2R]
    output_frames: np.ndarray  # [F, rows, S]; S is 0 without conditioning of the output
    aux_inputs: np.ndarray  # [T, rows, E]; E is 0 without inputs at audio rate

    def part(self, first: int, n_frames: int, hop: int) -> "_KernelInputs":
        """The inputs of some of the frames, and of the frame after them, with which the last one is interpolated."""
        frames = slice(first, first + n_frames + 1) if len(self.frames) > 1 else slice(None)
        aux_inputs = self.aux_inputs[first * hop : (first + n_frames) * hop]
        return _KernelInputs(self.frames[frames], self.output_frames[frames], aux_inputs)


@dataclass
class _Group:
    """Streams, the threads that sample them, and their state."""

    weights: Weights
    state: ThreadGroup
    n_threads: int
    streams: slice  # of the batch
    rows: slice | np.ndarray  # of the conditioning: with guidance two for each stream
    policy: FollowerPolicy = field(default_factory=FollowerPolicy)
    followers: dict[int, Future[BlockTimes]] = field(default_factory=dict)  # the job of each
    output_frames: np.ndarray | None = None  # memory of those of `Block`
    aux_inputs: np.ndarray | None = None
    pools: list[ThreadPoolExecutor] = field(init=False)  # one a thread: one without a core never becomes the first

    def __post_init__(self) -> None:
        self.pools = [ThreadPoolExecutor(1, "sampler") for _ in range(self.n_threads)]


def _timed_play(weights: Weights, state: ThreadGroup, block: Block, thread: int, n_threads: int) -> BlockTimes:
    """Sample a block as one thread of a group."""
    start, cpu_start = time.perf_counter(), time.thread_time()
    play(weights, state, block, thread, n_threads)
    return BlockTimes(time.perf_counter() - start, time.thread_time() - cpu_start)


def _to_input_type(values: np.ndarray, bfloat16: bool) -> np.ndarray:
    return to_bfloat16(values) if bfloat16 else np.ascontiguousarray(values, dtype=np.float32)


def _thread_group(
    weights: Weights, n_threads: int, caches: Caches, rows: slice | np.ndarray, bfloat16_inputs: bool
) -> ThreadGroup:
    """The initial state of a group that samples these rows, from the caches."""
    n_layers, residual, skip, middle = weights.n_layers, weights.n_residual, weights.n_skip, weights.n_middle
    recent = caches.recent[rows].cpu().numpy()
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
        block=np.zeros(4, np.int64),
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

    def __init__(
        self,
        model: WaveNet,
        caches: Caches,
        options: SamplingOptions,
        *,
        max_frames: int = MAX_BLOCK_FRAMES,
        portable: bool = False,
    ) -> None:
        self.max_frames = max_frames  # of a block
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

    def play(
        self, start: int, inputs: _KernelInputs, uniforms: np.ndarray, teacher_samples: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Sample the T samples from sample number `start` on, in parts where a trial without followers should be short.

        Args:
            start: Absolute number of the first sample.
            inputs: Their conditioning.
            uniforms: [T, B, U].
            teacher_samples: float32 [T, B], which take the place of the drawn samples as the past; None: free-running.

        Returns:
            Drawn samples, float32 [T, B], and with teacher samples the parameters, float32 [T, B, P], else [0, B, P].
        """
        n_frames, first, results = len(uniforms) // self.hop, 0, []
        while first < n_frames:
            is_short = any(group.policy.is_alone_trial for group in self.groups)
            n = max(1, n_frames // N_TRIAL_PARTS) if is_short else n_frames - first
            part = slice(first * self.hop, (first + n) * self.hop)
            past = None if teacher_samples is None else teacher_samples[part]
            results.append(self._play_part(start + part.start, inputs.part(first, n, self.hop), uniforms[part], past))
            first += n
        samples, params = zip(*results, strict=True)
        return np.concatenate(samples), np.concatenate(params)

    def _play_part(
        self, start: int, inputs: _KernelInputs, uniforms: np.ndarray, teacher_samples: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """As `play`, by one call of the kernel for each thread."""
        blocks = [self._block(group, start, inputs, uniforms, teacher_samples) for group in self.groups]
        leaders = [self._begin(group, block) for group, block in zip(self.groups, blocks, strict=True)]
        wait(leaders, return_when=FIRST_EXCEPTION)
        self._raise_failures([*leaders, *(follower for group in self.groups for follower in group.followers.values())])
        for group, leader in zip(self.groups, leaders, strict=True):
            if group.n_threads > 1:
                group.policy.note(len(uniforms), leader.result())
        samples = np.concatenate([block.samples for block in blocks], axis=1)
        return samples, np.concatenate([block.params for block in blocks], axis=1)

    def _begin(self, group: _Group, block: Block) -> Future[BlockTimes]:
        """Let the threads of a group sample a block; returns the first one's job, which depends on no other."""
        self._raise_failures(list(group.followers.values()))
        group.state.block[:] = block.start, block.n_samples, block.hop, group.policy.take_part
        arguments = group.weights, group.state, block
        leader = group.pools[0].submit(_timed_play, *arguments, 0, group.n_threads)
        for thread in range(1, group.n_threads if group.policy.take_part else 1):
            if thread not in group.followers or group.followers[thread].done():
                job = group.pools[thread].submit(_timed_play, *arguments, thread, group.n_threads)
                group.followers[thread] = job
        return leader

    def _raise_failures(self, jobs: list[Future[BlockTimes]]) -> None:
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
        past = np.zeros((0, uniforms.shape[1]), np.float32) if teacher_samples is None else teacher_samples
        output_frames, aux_inputs = inputs.output_frames[:, group.rows], inputs.aux_inputs[:, group.rows]
        if group.output_frames is None or group.aux_inputs is None:
            group.output_frames = np.zeros((self.max_frames + 1, *output_frames.shape[1:]), np.float32)
            group.aux_inputs = np.zeros((self.max_frames * self.hop, *aux_inputs.shape[1:]), np.float32)
        group.output_frames[: len(output_frames)] = output_frames
        group.aux_inputs[: len(aux_inputs)] = aux_inputs
        return Block(
            frames=np.ascontiguousarray(inputs.frames[:, :, group.rows]),
            output_frames=group.output_frames,
            aux_inputs=group.aux_inputs,
            uniforms=np.ascontiguousarray(uniforms[:, group.streams]),
            teacher_samples=np.ascontiguousarray(past[:, group.streams]),
            samples=np.zeros((n_samples, n_streams), np.float32),
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
        for group in self.groups:
            for pool in group.pools:
                pool.shutdown()


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
    count = FIRST_BLOCK_FRAMES
    max_count = options.block_frames or max(MIN_LARGEST_BLOCK_FRAMES, MAX_BLOCK_FRAMES // len(caches.recent))
    groups = _ThreadGroups(model, caches, options, max_frames=max_count, portable=portable)
    try:
        while first < n_frames:
            count = min(count, n_frames - first)
            draws = uniforms(first * model.hop, count * model.hop).transpose(0, 1).cpu().numpy()
            samples, _ = groups.play(first * model.hop, source.block(first, count), draws)
            yield torch.from_numpy(samples.T).to(device, sample_dtype(options.sampling))
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
        The samples that would be drawn, [B, N * hop], and the (guided) distribution parameters [B, P, N * hop].
    """
    source = _ConditioningSource(model, conditioning)
    caches = Caches(model.decoder, rows_per_stream(options.guidance) * len(samples))
    groups = _ThreadGroups(model, caches, options, portable=portable)
    own_samples, params = [], []
    try:
        for start in range(0, samples.shape[1], MAX_BLOCK_FRAMES * model.hop):
            part = samples[:, start : start + MAX_BLOCK_FRAMES * model.hop].float().cpu().numpy().T
            draws = uniforms(start, len(part)).transpose(0, 1).cpu().numpy()
            inputs = source.block(start // model.hop, len(part) // model.hop)
            block_samples, block_params = groups.play(start, inputs, draws, part)
            own_samples.append(torch.from_numpy(block_samples).to(sample_dtype(options.sampling)))
            params.append(torch.from_numpy(block_params))
    finally:
        groups.close()
    return torch.cat(own_samples).t(), torch.cat(params).permute(1, 2, 0)
