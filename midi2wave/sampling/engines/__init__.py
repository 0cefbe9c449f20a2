"""Engines that make the cached sampler fast; each gives the samples of the reference, `wavenet.generate`.

    for block in samplers.generate(model, conditioning, uniforms, n_streams, n_frames, sampler="numba", threads=2): ...

numba (`cpu.py`) is the fast one on a processor, `cuda.py` plays a CUDA graph, torch is the reference itself. auto takes
numba, also for a model that lies on a GPU: conditioning is then computed there and sampled here.
"""

import os
from collections.abc import Callable, Iterator

from torch import Tensor

import wavenet
from midi2wave.config import SAMPLER_WEIGHTS, SAMPLERS
from midi2wave.utils.errors import InputError
from wavenet import Conditioning, Decoder, WaveNet

MOST_HELPERS = 3  # beyond, the chain of layers, which one thread walks, sets the pace of a stream
# Multiply-adds of the skip product below which a helper, whose work it is, costs more than it saves (the demo's size).
WORTH_A_HELPER = 100_000


def n_threads(wanted: int, n_streams: int, decoder: Decoder) -> int:
    """How many threads to sample n_streams on; wanted = 0: as many as help, never more than there are cores.

    Threads that wait for one another on the same core are many times slower than one. Raises InputError if wanted < 0.
    """
    if wanted < 0:
        raise InputError(f"threads = {wanted}: expected 0 (as many as help) or more")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    helped = wanted > 0 or decoder.skip.weight.numel() >= WORTH_A_HELPER
    return min(cores, wanted or cores, (1 + MOST_HELPERS if helped else 1) * n_streams)


def generate(
    model: WaveNet,
    conditioning: Conditioning,
    uniforms: Callable[[int, int], Tensor],
    n_streams: int,
    n_frames: int,
    *,
    sampler: str = "auto",
    threads: int = 0,
    weights: str = "float32",
    prefix: Tensor | None = None,
    temperature: float = 1.0,
    guidance: float = 1.0,
) -> Iterator[Tensor]:
    """`wavenet.generate` by the engine of that name: the same arguments and the same samples, in int64 blocks [B, n].

    threads: of the numba engine, at most as many as there are cores; 0: all that help. weights: float32, or bfloat16,
    which is faster and not exact (numba only). Blocks are as large as the engine likes; the first one after the prefix
    is small. Raises InputError if the engine cannot do what is asked for.
    """
    if sampler not in SAMPLERS:
        raise InputError(f"sampler {sampler!r} is unknown; expected one of {', '.join(SAMPLERS)}")
    if weights not in SAMPLER_WEIGHTS:
        raise InputError(f"weights {weights!r} are unknown; expected one of {', '.join(SAMPLER_WEIGHTS)}")
    if weights != "float32" and sampler not in ("auto", "numba"):
        raise InputError(f"sampler {sampler} has no {weights} weights; choose numba or float32")
    given = {"prefix": prefix, "temperature": temperature, "guidance": guidance}
    if sampler == "torch":
        return wavenet.generate(model, conditioning, uniforms, n_streams, n_frames, **given)
    if sampler == "cuda":
        from midi2wave.sampling.engines import cuda

        if model.decoder.input.weight.device.type != "cuda":
            raise InputError("sampler cuda needs the model on a CUDA device; set device to cuda, or choose numba")
        return cuda.generate(model, conditioning, uniforms, n_streams, n_frames, **given)
    from midi2wave.sampling.engines import cpu  # numba takes a moment to import

    count = n_threads(threads, n_streams, model.decoder)
    return cpu.generate(model, conditioning, uniforms, n_streams, n_frames, threads=count, weights=weights, **given)
