"""Engines that make the cached sampler fast; each gives the samples of the reference, `wavenet.generate`.

    for block in engines.generate(model, conditioning, uniforms, n_streams, n_frames, options): ...

numba (`cpu.py`) is the fast one on a processor, `cuda.py` replays a CUDA graph, `triton.py` has one kernel for many
streams on a GPU, torch is the reference itself. auto takes numba, also for a model on a GPU: its conditioning is then
computed there, and its samples here.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

import wavenet
from midi2wave.config import SamplerWeights
from midi2wave.sampling.options import DEFAULT_OPTIONS, SamplingOptions
from midi2wave.utils.cores import usable_cores
from midi2wave.utils.errors import InputError, NoMemoryError
from wavenet import Conditioning, Decoder, WaveNet

# With more of them the chain of layers, which one thread computes, limits the speed of a stream.
MAX_FOLLOWERS = 3
# With fewer multiply-adds in the skip product, which is a follower's work, it costs more than it saves (the demo's
# size).
MIN_SKIP_WEIGHTS_FOR_FOLLOWERS = 100_000
# The second-level cache of a core has 1 to 2 MB on present processors. With AVX2 (Haswell's instructions) bfloat16 made
# no difference to a model of 1.6 MB of float32 weights, and played one of 6 MB 1.07 to 1.24 times as fast.
TYPICAL_CORE_CACHE_BYTES = 2_000_000
# Frames of a block of PyTorch's sampler, unless the options limit them.
TORCH_BLOCK_FRAMES = 16


def n_threads(requested: int, n_streams: int, decoder: Decoder) -> int:
    """How many threads to sample n_streams on, never more than there are cores for this process.

    Threads that wait for one another on the same core are many times slower than one.

    Args:
        requested: The largest number; 0: as many as help.
        n_streams: Streams that are sampled side by side.
        decoder: The decoder whose size decides whether followers help.
    """
    cores = usable_cores()
    followers_help = requested > 0 or decoder.skip.weight.numel() >= MIN_SKIP_WEIGHTS_FOR_FOLLOWERS
    return min(cores, requested or cores, (1 + MAX_FOLLOWERS if followers_help else 1) * n_streams)


def fastest_weights(decoder: Decoder) -> SamplerWeights:
    """The number format of weights in which the CPU engine is fastest on this machine: float32 or bfloat16.

    It is bfloat16 where the processor multiplies that. Elsewhere weights are widened to float32 when they are used,
    which saves time only if they do not fit the core's own cache.
    """
    from midi2wave.sampling.engines.simd import has_bfloat16  # numba takes a moment to import

    n_bytes = 4 * sum(parameter.numel() for parameter in decoder.parameters())
    return "bfloat16" if has_bfloat16() or n_bytes > TYPICAL_CORE_CACHE_BYTES else "float32"


def choose_weights(requested: SamplerWeights, sampler: str, decoder: Decoder) -> SamplerWeights:
    """The requested number format of weights; of auto what it is on this machine, with this model."""
    if requested != "auto":
        return requested
    if sampler == "triton" and decoder.input.weight.device.type == "cuda":
        return "bfloat16"  # Tensor cores multiply it at many times the rate of float32.
    return fastest_weights(decoder) if sampler in ("auto", "numba") else "float32"


def _gpu_engine(model: WaveNet, sampler: str) -> Any:
    """The module of an engine for GPUs.

    Raises:
        InputError: If the engine cannot run with this model.
    """
    from midi2wave.sampling.engines import cuda, triton

    if sampler == "triton":
        triton.require_available(model)
        return triton
    if model.decoder.input.weight.device.type != "cuda":
        raise InputError("sampler cuda needs the model on a CUDA device; set device to cuda, or choose numba")
    return cuda


def generate(
    model: WaveNet,
    conditioning: Conditioning,
    uniforms: Callable[[int, int], Tensor],
    n_streams: int,
    n_frames: int,
    options: SamplingOptions = DEFAULT_OPTIONS,
    *,
    prefix: Tensor | None = None,
) -> Iterator[Tensor]:
    """`wavenet.generate` by the engine that the options name: the same samples, in blocks [B, n].

    The engine chooses the size of the blocks; the first one after the prefix is small.

    Args:
        model: The model.
        conditioning: Of the B streams; with guidance of 2B rows (`wavenet.generate`).
        uniforms: uniforms(first, n) -> [B, n, U] for the samples first..first+n-1. The options' seed is not used.
        n_streams: B.
        n_frames: Frames to generate, the prefix included.
        options: How samples are drawn, and by which engine.
        prefix: Samples [B, P * hop] that come first, teacher-forced.

    Raises:
        InputError: If the engine cannot run with this model, or the GPU's memory is too small for it.
    """
    blocks = _blocks(model, conditioning, uniforms, n_streams, n_frames, options, prefix)
    return _friendly_oom_errors(blocks, n_streams)


def _friendly_oom_errors(blocks: Iterator[Tensor], n_streams: int) -> Iterator[Tensor]:
    """The blocks. Raises NoMemoryError where a GPU's memory is too small for so many streams."""
    try:
        yield from blocks
    except torch.OutOfMemoryError as error:
        raise NoMemoryError(
            f"out of memory on the GPU with {n_streams} streams at once; lower batch_size, or set device to cpu"
        ) from error


def _blocks(
    model: WaveNet,
    conditioning: Conditioning,
    uniforms: Callable[[int, int], Tensor],
    n_streams: int,
    n_frames: int,
    options: SamplingOptions,
    prefix: Tensor | None,
) -> Iterator[Tensor]:
    """The blocks of the engine that the options name; see `generate`."""
    if options.sampler == "torch":
        return wavenet.generate(
            model,
            conditioning,
            uniforms,
            n_streams,
            n_frames,
            prefix=prefix,
            temperature=options.temperature,
            sampling=options.sampling,
            guidance=options.guidance,
            block_frames=options.block_frames or TORCH_BLOCK_FRAMES,
        )
    options = replace(options, weights=choose_weights(options.weights, options.sampler, model.decoder))
    if options.sampler in ("cuda", "triton"):
        engine = _gpu_engine(model, options.sampler)
        return engine.generate(model, conditioning, uniforms, n_streams, n_frames, options, prefix=prefix)
    from midi2wave.sampling.engines import cpu  # numba takes a moment to import

    options = replace(options, threads=n_threads(options.threads, n_streams, model.decoder))
    return cpu.generate(model, conditioning, uniforms, n_streams, n_frames, options, prefix=prefix)
