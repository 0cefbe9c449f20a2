"""The CPU engine: the cached sampler as one numba kernel, for any number of streams on any number of threads.

What makes it fast:

- Weights are read straight ahead by products whose sums stay in registers (`simd.multiply`), and once for all streams.
- Only the newest tap of a gate depends on the sample before. The older taps of a layer with dilation d, the
  conditioning and the excitation are known d samples ahead: their products are taken for up to 16 samples together.
- Streams are dealt to threads, which then need not talk. A stream that has several threads gets one for the chain of
  layers; the others follow it through the skip products. Per sample the team meets three times, not once per layer, and
  what moves between the cores is the layers' outputs only.
- Weights in bfloat16 halve the memory that has to be read.
"""

import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait

import numpy as np
import torch
from torch import Tensor

from midi2wave.sampling.engines.cpu_kernel import FLAG, Block, Team, play
from midi2wave.sampling.engines.cpu_weights import (
    MOST_AHEAD,
    Weights,
    aligned,
    conditioning_layer,
    n_side,
    pack_decoder,
    padded,
    to_bfloat16,
)
from midi2wave.sampling.engines.simd import has_bfloat16
from wavenet import Caches, Conditioning, WaveNet, prefill, rows_per_stream

NOT_YET = -(2**62)  # a flag before anything was done
FIRST_FRAMES, MOST_FRAMES = 1, 128  # a block is small at first, for the first sound to come early
LEAST_LARGEST_FRAMES = 8  # of many streams blocks are smaller, but not below that


def _inputs(values: np.ndarray, bfloat16: bool) -> np.ndarray:
    return to_bfloat16(values) if bfloat16 else np.ascontiguousarray(values, dtype=np.float32)


def _team(weights: Weights, n_threads: int, caches: Caches, rows: slice | np.ndarray, bfloat16_inputs: bool) -> Team:
    """Fresh state of the rows of one team, going on from caches."""
    n_layers, residual, skip, middle = weights.n_layers, weights.n_residual, weights.n_skip, weights.n_middle
    recent = caches.recent[rows].cpu().numpy().astype(np.int64)
    n_streams = len(recent)
    rings = []
    for layer in caches.layers:
        past = layer[:, rows].to("cpu", torch.float32).numpy()
        rings.append(np.pad(past, ((0, 0), (0, 0), (0, residual - past.shape[2]))).reshape(-1))
    kind = np.uint16 if bfloat16_inputs else np.float32
    arrays = dict(
        recent=recent,
        ring=_inputs(np.concatenate(rings), bfloat16_inputs),
        ahead=np.zeros(n_layers * MOST_AHEAD * n_streams * 2 * residual, np.float32),
        x=np.zeros(n_streams * residual, np.float32),
        gated=np.zeros(n_layers * n_streams * residual, kind),
        skip=np.zeros(n_streams * skip, np.float32),
        middle=np.zeros(n_streams * middle, np.float32),
        params=np.zeros(n_streams * weights.n_outputs, np.float32),
        scratch=np.zeros((n_threads, n_streams * max(skip, middle)), kind),
        mass=np.zeros(256, np.float32),
        flags=np.array([NOT_YET] * (n_threads * FLAG) + [0] * FLAG),
    )
    return Team(**{name: aligned(array) for name, array in arrays.items()})


class _Inputs:
    """The conditioning of a stretch as the kernel wants it: projected per layer at frame rate, never at audio rate."""

    def __init__(self, model: WaveNet, conditioning: Conditioning) -> None:
        self.model, self.conditioning, self.decoder = model, conditioning, model.decoder
        device = model.decoder.input.weight.device
        self.weight, self.bias = (part.to(device) for part in conditioning_layer(model.decoder))
        self.n_side = n_side(model.decoder)

    def stretch(self, first: int, n_frames: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """frames [F, L, B, 2R], output frames [F, B, S] and side inputs [T, B, E] of a range of frames.

        S and E are 0 without conditioning of the output and without inputs at audio rate.
        """
        decoder = self.decoder
        context, excitation = self.conditioning.block(self.model, first, n_frames)
        n_layers, n_streams, n_samples = len(decoder.layers), len(context), n_frames * self.model.hop
        parts = [excitation.permute(2, 0, 1)]
        if decoder.upsampling.commutes:
            frames = torch.addmm(self.bias, context.permute(2, 0, 1).flatten(0, 1).float(), self.weight.t())
            frames = frames.unflatten(0, (-1, n_streams))
        else:
            parts.append(decoder.prepare(context, excitation)[0])
            frames = self.bias.expand(1, n_streams, -1)
        n_gates = 2 * padded(decoder.config.n_residual_channels) * n_layers
        frames, output_frames = frames.tensor_split([n_gates], dim=-1)
        frames = frames.unflatten(-1, (n_layers, -1)).transpose(1, 2)
        side = np.zeros((n_samples, n_streams, self.n_side), np.float32)
        joined = torch.cat(parts, dim=-1)
        side[..., : joined.shape[-1]] = joined.cpu().numpy()
        return frames.cpu().numpy(), output_frames.cpu().numpy(), side


class _Teams:
    """Streams dealt to teams of threads, and the threads that play them. A guided stream's two rows are of one team."""

    def __init__(
        self, model: WaveNet, caches: Caches, n_threads: int, weights: str, portable: bool, guidance: float = 1.0
    ) -> None:
        n_rows = len(caches.recent)
        n_streams = n_rows // rows_per_stream(guidance)
        n_teams = min(n_threads, n_streams)
        bounds = [n_streams * i // n_teams for i in range(n_teams + 1)]
        self.streams = [slice(a, b) for a, b in itertools.pairwise(bounds)]
        self.rows = self.streams
        if n_rows > n_streams:
            self.rows = [np.r_[part, part.start + n_streams : part.stop + n_streams] for part in self.streams]
        self.sizes = [n_threads * (i + 1) // n_teams - n_threads * i // n_teams for i in range(n_teams)]
        bfloat16 = weights == "bfloat16"
        rounded = bfloat16 and has_bfloat16() and not portable
        packed = {size: pack_decoder(model.decoder, size, bfloat16=bfloat16) for size in set(self.sizes)}
        self.weights = [packed[size] for size in self.sizes]
        self.teams = [
            _team(w, size, caches, rows, rounded)
            for w, size, rows in zip(self.weights, self.sizes, self.rows, strict=True)
        ]
        self.linear, self.hop, self.guidance = model.decoder.upsampling.kind == "linear", model.hop, guidance
        self.pool = ThreadPoolExecutor(sum(self.sizes), thread_name_prefix="sampler")

    def play(
        self,
        start: int,
        frames: np.ndarray,
        output_frames: np.ndarray,
        side: np.ndarray,
        uniforms: np.ndarray,
        *,
        temperature: float,
        given: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Sample the T samples from `start` on: drawn [T, B], int64, and, if samples are given, params [T, B, P].

        frames, output_frames and side as `_Inputs` makes them (with guidance of 2B rows), uniforms [T, B, U], given
        [T, B], int64.
        """
        is_given = given is not None
        heard = given if is_given else np.zeros((0, uniforms.shape[1]), np.int64)
        drawn, params, jobs = [], [], []
        n_samples = len(side)
        dealt = zip(self.weights, self.teams, self.sizes, self.streams, self.rows, strict=True)
        for weights, team, size, part, rows in dealt:
            n_drawn = part.stop - part.start
            params.append(np.zeros((n_samples if is_given else 0, n_drawn, weights.n_params), np.float32))
            drawn.append(np.zeros((n_samples, n_drawn), np.int64))
            block = Block(
                frames=np.ascontiguousarray(frames[:, :, rows]),
                output_frames=np.ascontiguousarray(output_frames[:, rows]),
                side=np.ascontiguousarray(side[:, rows]),
                uniforms=np.ascontiguousarray(uniforms[:, part]),
                given=np.ascontiguousarray(heard[:, part]),
                drawn=drawn[-1],
                params=params[-1],
                n_samples=n_samples,
                n_streams=len(team.recent),
                n_drawn=n_drawn,
                start=start,
                hop=self.hop if len(frames) > 1 else n_samples + 1,
                linear=self.linear,
                is_given=is_given,
                keep_params=is_given,
                temperature=np.float32(temperature),
                guidance=np.float32(self.guidance),
            )
            jobs += [(weights, team, block, thread, size) for thread in range(size)]
        done, _ = wait([self.pool.submit(play, *job) for job in jobs], return_when=FIRST_EXCEPTION)
        if failed := [job for job in done if job.exception()]:
            self.stop()  # or the others of the team would wait for it for ever
            failed[0].result()
        return np.concatenate(drawn, axis=1), np.concatenate(params, axis=1)

    def stop(self) -> None:
        """Tell all threads to leave what they are doing: each does within a sample, also if it waits for another."""
        for team in self.teams:
            team.flags[-FLAG] = 1

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
    *,
    prefix: Tensor | None = None,
    temperature: float = 1.0,
    guidance: float = 1.0,
    threads: int = 1,
    weights: str = "float32",
    portable: bool = False,
) -> Iterator[Tensor]:
    """`wavenet.generate` by this engine; see `samplers.generate`.

    portable: bfloat16 weights are widened and multiplied in float32 also where the processor multiplies bfloat16.
    """
    caches, first = prefill(model, conditioning, n_streams, n_frames, prefix, guidance)
    if prefix is not None:
        yield prefix
    device = caches.recent.device
    inputs, teams = _Inputs(model, conditioning), _Teams(model, caches, threads, weights, portable, guidance)
    count, most = FIRST_FRAMES, max(LEAST_LARGEST_FRAMES, MOST_FRAMES // len(caches.recent))
    try:
        while first < n_frames:
            count = min(count, n_frames - first)
            draws = uniforms(first * model.hop, count * model.hop).transpose(0, 1).cpu().numpy()
            stretch = inputs.stretch(first, count)
            drawn, _ = teams.play(first * model.hop, *stretch, draws, temperature=temperature)
            yield torch.from_numpy(drawn.T).to(device)
            first += count
            count = min(2 * count, most)
    finally:
        teams.close()


@torch.inference_mode()
def replay(
    model: WaveNet,
    conditioning: Conditioning,
    uniforms: Callable[[int, int], Tensor],
    samples: Tensor,
    *,
    temperature: float = 1.0,
    guidance: float = 1.0,
    threads: int = 1,
    weights: str = "float32",
    portable: bool = False,
) -> tuple[Tensor, Tensor]:
    """Step through samples [B, N * hop] as given, for comparing engines sample by sample.

    Returns what would have been drawn, int64 [B, N * hop], and the (guided) distribution parameters [B, P, N * hop].
    """
    inputs = _Inputs(model, conditioning)
    caches = Caches(model.decoder, rows_per_stream(guidance) * len(samples))
    teams = _Teams(model, caches, threads, weights, portable, guidance)
    drawn, params = [], []
    try:
        for start in range(0, samples.shape[1], MOST_FRAMES * model.hop):
            part = samples[:, start : start + MOST_FRAMES * model.hop].cpu().numpy().T
            draws = uniforms(start, len(part)).transpose(0, 1).cpu().numpy()
            stretch = inputs.stretch(start // model.hop, len(part) // model.hop)
            codes, values = teams.play(start, *stretch, draws, temperature=temperature, given=part)
            drawn.append(torch.from_numpy(codes))
            params.append(torch.from_numpy(values))
    finally:
        teams.close()
    return torch.cat(drawn).t(), torch.cat(params).permute(1, 2, 0)
