"""The CUDA engine: the cached step with static buffers, captured in a CUDA graph. Its speed: docs/performance.md.

A step launches some ten small kernels per layer; launched one by one from Python they would take longer than they run.
Captured once, they are replayed with one call for several samples, and nothing waits for the GPU within a block: time,
position, rings and the drawn samples live there. The arithmetic is that of `wavenet.generate`, operation by operation;
tests run it on the CPU, uncaptured, and captured where there is a GPU (`tests/test_cuda.py`).
"""

import contextlib
import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from wavenet import Caches, Conditioning, WaveNet, prefill, rows_per_stream

BLOCK_FRAMES = 16
MOST_STEPS = 16  # samples per replay; more gain little, and every one lengthens the capture
WARM_UP = 3  # runs before the capture, as torch.cuda.graph's documentation asks for


class Step:
    """One sample of every stream, from buffers that stay where they are."""

    def __init__(self, model: WaveNet, caches: Caches, n_samples: int, temperature: float, guidance: float) -> None:
        """n_samples: how many the buffers of a block hold."""
        like, decoder = model.decoder.input.weight, model.decoder
        n_rows, width = len(caches.recent), 2 * decoder.config.n_residual_channels
        self.model, self.decoder, self.temperature, self.guidance = model, decoder, temperature, guidance
        self.rows_per_stream = rows_per_stream(guidance)
        n_streams = n_rows // self.rows_per_stream
        self.rings, self.recent = caches.layers, caches.recent
        self.cond = like.new_zeros(n_samples, len(decoder.layers), n_rows, width)
        self.output_cond = None
        if decoder.output_cond is not None:
            self.output_cond = like.new_zeros(n_samples, n_rows, decoder.config.n_skip_channels)
        self.uniforms = like.new_full((n_samples, n_streams, model.uniforms_per_sample), 0.5, dtype=torch.float32)
        self.drawn = torch.zeros(n_samples, n_streams, dtype=torch.long, device=like.device)
        self.time = torch.zeros(1, dtype=torch.long, device=like.device)  # absolute
        self.position = torch.zeros(1, dtype=torch.long, device=like.device)  # in the block

    def run(self) -> None:
        """Draw the next sample; every index is a tensor, so that no value is needed on the host."""
        x, hidden = self.decoder.embed(self.recent), []
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
        params = self.model.guide(self.decoder.head(torch.cat(hidden, dim=-1), output_cond), self.guidance)
        uniforms = self.uniforms.index_select(0, self.position).transpose(0, 1)  # [B, 1, U]
        drawn = self.model.draw(params.unsqueeze(-1), uniforms, self.temperature)[:, 0]
        self.drawn.index_copy_(0, self.position, drawn.unsqueeze(0))
        self.recent.copy_(torch.cat([self.recent[:, 1:], drawn.repeat(self.rows_per_stream).unsqueeze(1)], dim=1))
        self.time += 1
        self.position += 1


def _current(device: torch.device) -> contextlib.AbstractContextManager:
    """Within it streams and graphs are those of this GPU, which need not be the first one."""
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()


def _capture(step: Step, n_steps: int) -> Callable[[], None]:
    """n_steps runs as one call: a graph on a GPU, a loop elsewhere."""

    def several() -> None:
        for _ in range(n_steps):
            step.run()

    if step.time.device.type != "cuda":
        return several
    state = [*step.rings, step.recent, step.time, step.position]
    before = [tensor.clone() for tensor in state]
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(WARM_UP):
            step.position.zero_()
            several()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    step.position.zero_()
    with torch.cuda.graph(graph):
        several()
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
    *,
    prefix: Tensor | None = None,
    temperature: float = 1.0,
    guidance: float = 1.0,
) -> Iterator[Tensor]:
    """`wavenet.generate` by this engine; see `samplers.generate`."""
    caches, first = prefill(model, conditioning, n_streams, n_frames, prefix, guidance)
    if prefix is not None:
        yield prefix
    decoder, hop = model.decoder, model.hop
    step = Step(model, caches, BLOCK_FRAMES * hop, temperature, guidance)
    step.time.fill_(first * hop)
    n_steps = math.gcd(hop, MOST_STEPS)
    with _current(step.time.device):
        several = _capture(step, n_steps)
    while first < n_frames:
        count = min(BLOCK_FRAMES, n_frames - first)
        context, excitation = decoder.prepare(*conditioning.block(model, first, count))
        for i, layer in enumerate(decoder.layers):
            step.cond[: count * hop, i] = decoder.layer_conditioning(layer, context, excitation)
        if step.output_cond is not None:
            step.output_cond[: count * hop] = decoder.output_conditioning(context, excitation)
        step.uniforms[: count * hop] = uniforms(first * hop, count * hop).transpose(0, 1)
        step.position.zero_()
        with _current(step.time.device):  # not over the yield: callers have their own current device
            for _ in range(count * hop // n_steps):
                several()
        yield step.drawn[: count * hop].t().clone()
        first += count
