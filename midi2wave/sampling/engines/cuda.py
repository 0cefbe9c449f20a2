"""The CUDA engine: the cached step with static buffers, captured in a CUDA graph. Its speed: docs/performance.md.

A sample takes some ten small kernels per layer; launching them one by one from Python takes longer than they run.
Captured once, they are replayed with one call for several samples, and nothing waits for the GPU within a block:
time, position, rings and samples stay in its memory. The arithmetic is that of `wavenet.generate`, operation by
operation; tests run it on the CPU, uncaptured, and captured where there is a GPU (`tests/gpu/test_cuda.py`).
"""

import contextlib
import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from midi2wave.sampling.options import DEFAULT_OPTIONS, SamplingOptions
from midi2wave.utils.cuda_graphs import capture_graph
from midi2wave.utils.float32_convolutions import float32_convolutions
from wavenet import Caches, Conditioning, WaveNet, prefill, rows_per_stream, sample_dtype

BLOCK_FRAMES = 16
# Samples for each replay of the graph: more gain little, and every one lengthens the capture.
MAX_SAMPLES_PER_REPLAY = 16


class SampleStep:
    """The computation of one sample of every stream, on buffers with fixed addresses."""

    def __init__(self, model: WaveNet, caches: Caches, n_samples: int, options: SamplingOptions) -> None:
        """Allocate the buffers of blocks of n_samples."""
        like, decoder = model.decoder.input.weight, model.decoder
        n_rows, width = len(caches.recent), 2 * decoder.config.n_residual_channels
        self.model = model
        self.decoder = decoder
        self.options = options
        self.rows_per_stream = rows_per_stream(options.guidance)
        n_streams = n_rows // self.rows_per_stream
        self.rings = caches.layers
        self.recent = caches.recent.to(sample_dtype(options.sampling))  # Of integers a look-up takes fewer kernels.
        self.cond = like.new_zeros(n_samples, len(decoder.layers), n_rows, width)
        self.output_cond = None
        if decoder.output_cond is not None:
            self.output_cond = like.new_zeros(n_samples, n_rows, decoder.config.n_skip_channels)
        self.uniforms = like.new_full((n_samples, n_streams, model.uniforms_per_sample), 0.5, dtype=torch.float32)
        self.samples = torch.zeros(n_samples, n_streams, dtype=sample_dtype(options.sampling), device=like.device)
        self.time = torch.zeros(1, dtype=torch.long, device=like.device)  # absolute
        self.position = torch.zeros(1, dtype=torch.long, device=like.device)  # in the block

    def run(self) -> None:
        """Draw the next sample. Every index is a tensor, so that the host needs no value."""
        x, hidden = self.decoder.input(self.recent), []
        cond = self.cond.index_select(0, self.position)[0]
        for i, (layer, ring) in enumerate(zip(self.decoder.layers, self.rings, strict=True)):
            rows = [
                ring.index_select(0, (self.time + k * layer.dilation) % len(ring))[0] for k in range(layer.taps - 1)
            ]
            hidden.append(layer.gate(torch.cat([*rows, x], dim=-1), cond[i]))
            ring.index_copy_(0, self.time % len(ring), x.unsqueeze(0))
            if layer.residual is not None:
                x = x + layer.residual(hidden[-1])
        output_cond = None if self.output_cond is None else self.output_cond.index_select(0, self.position)[0]
        params = self.model.guide(self.decoder.head(torch.cat(hidden, dim=-1), output_cond), self.options.guidance)
        uniforms = self.uniforms.index_select(0, self.position).transpose(0, 1)  # [B, 1, U]
        sample = self.model.draw(params.unsqueeze(-1), uniforms, self.options.temperature, self.options.sampling)[:, 0]
        self.samples.index_copy_(0, self.position, sample.unsqueeze(0))
        self.recent.copy_(torch.cat([self.recent[:, 1:], sample.repeat(self.rows_per_stream).unsqueeze(1)], dim=1))
        self.time += 1
        self.position += 1


def _on_device(device: torch.device) -> contextlib.AbstractContextManager:
    """A context in which streams and graphs belong to this device, which need not be the first GPU."""
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()


def _capture(step: SampleStep, n_samples: int) -> Callable[[], None]:
    """n_samples runs as one call: a graph on a GPU, a loop elsewhere."""

    def run_samples() -> None:
        for _ in range(n_samples):
            step.run()

    if step.time.device.type != "cuda":
        return run_samples
    state = [*step.rings, step.recent, step.time, step.position]
    before = [tensor.clone() for tensor in state]
    # The warm-up draws fewer samples than the buffers hold.
    graph, _ = capture_graph(run_samples, step.time.device)
    for tensor, value in zip(state, before, strict=True):
        tensor.copy_(value)
    return graph.replay


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
) -> Iterator[Tensor]:
    """`wavenet.generate` by this engine; see `engines.generate`."""
    caches, first = prefill(model, conditioning, n_streams, n_frames, prefix, options.guidance)
    if prefix is not None:
        yield prefix
    decoder, hop = model.decoder, model.hop
    step = SampleStep(model, caches, BLOCK_FRAMES * hop, options)
    step.time.fill_(first * hop)
    n_samples = math.gcd(hop, MAX_SAMPLES_PER_REPLAY)
    with _on_device(step.time.device):
        run_samples = _capture(step, n_samples)
    while first < n_frames:
        count = min(BLOCK_FRAMES, n_frames - first)
        with float32_convolutions():
            context, excitation = decoder.prepare(*conditioning.block(model, first, count))
        for i, layer in enumerate(decoder.layers):
            step.cond[: count * hop, i] = decoder.layer_conditioning(layer, context, excitation)
        output_cond = decoder.output_conditioning(context, excitation)
        if step.output_cond is not None and output_cond is not None:
            step.output_cond[: count * hop] = output_cond
        step.uniforms[: count * hop] = uniforms(first * hop, count * hop).transpose(0, 1)
        step.position.zero_()
        with _on_device(step.time.device):  # Not around the yield: callers have their own device.
            for _ in range(count * hop // n_samples):
                run_samples()
        yield step.samples[: count * hop].t().clone()
        first += count
