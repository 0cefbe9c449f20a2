"""The CPU engine: the cached sampler as one numba kernel, for any number of streams on any number of threads.

What makes it fast, in the order of effect:

- Weights are read straight ahead by products whose sums stay in registers (`simd.multiply`), and once for all streams.
- Only the newest tap of a gate depends on the sample before. The older taps of a layer with dilation d, the
  conditioning and the excitation are known d samples ahead: their products are taken for up to 16 samples together.
- Streams are dealt to threads, which then need not talk. A stream that has several threads gets one for the chain of
  layers; the others follow it through the skip products and prepare the next samples. Per sample the team meets three
  times, not once per layer.
- Weights in bfloat16 halve the memory that has to be read.
"""

import itertools
import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from numba import njit
from torch import Tensor

from samplers.packing import MOST_AHEAD, Weights, conditioning_layer, n_side, pack_decoder, to_bfloat16
from samplers.simd import await_flag, exp16, gate16, has_bfloat16, multiply, publish, relu16, round16
from wavenet import Caches, Conditioning, WaveNet

FIRST_FRAMES, MOST_FRAMES = 1, 64  # a block is small at first, for the first sound to come early
FLAG = 8  # int64 words from one thread's flag to the next: a cache line each


class Team(NamedTuple):
    """What the threads that play the same S streams share. `inputs` are float32, or bfloat16 as uint16."""

    recent: np.ndarray  # [S, K], int64: the last samples, oldest first
    ring: np.ndarray  # inputs [sum of ring rows * S * R]: row t % rows of a layer holds its input at time t
    ahead: np.ndarray  # float32 [L * MOST_AHEAD * S * 2R]: gates without the newest tap, slot t % ahead of a layer
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
    side: np.ndarray  # float32 [T * S * E]
    uniforms: np.ndarray  # float32 [T, S, U]
    given: np.ndarray  # int64 [T or 0, S]: samples that are heard instead of the drawn ones
    drawn: np.ndarray  # int64 [T, S]
    params: np.ndarray  # float32 [T or 0, S, P]


@njit(nogil=True)
def _prepare(weights, team, block, layer, start, i, n, n_streams, hop, linear):
    """Leave in team.ahead all of a layer's gates for the samples start + i .. + n - 1 but the newest tap."""
    width = 2 * weights.residual_bias.shape[1]
    slots, rows = weights.ahead[layer], weights.ring_rows[layer]
    first = (layer * MOST_AHEAD + (start + i) % slots) * n_streams * width
    for j in range(n):
        frame = (i + j) // hop if block.frames.shape[0] > 1 else 0
        ramp = np.float32((i + j) % hop) / np.float32(hop)
        for s in range(n_streams):
            to = first + (j * n_streams + s) * width
            now = block.frames[frame, layer, s]
            if linear:
                after = block.frames[frame + 1, layer, s]
                for c in range(width):
                    team.ahead[to + c] = now[c] + (after[c] - now[c]) * ramp
            else:
                for c in range(width):
                    team.ahead[to + c] = now[c]
    residual, blocks, columns = width // 2, width // 16, n * n_streams
    if block.side.shape[0]:
        inputs = weights.side.shape[0] // (weights.dilations.shape[0] * width)
        of = layer * width * inputs
        multiply(team.ahead, first, width, weights.side, of, blocks, inputs,
                 block.side, i * n_streams * inputs, inputs, columns)  # fmt: skip
    for k in range(weights.n_taps - 1):
        # These n rows never wrap: n divides the dilation, and the stretch begins at a multiple of n or ends at one.
        row = weights.ring_start[layer] + (start + i + k * weights.dilations[layer]) % rows
        of = (layer * (weights.n_taps - 1) + k) * width * residual
        multiply(team.ahead, first, width, weights.past, of, blocks, residual,
                 team.ring, row * n_streams * residual, residual, columns)  # fmt: skip


@njit(nogil=True)
def _embed(weights, team, n_streams):
    """The first layer's input, from the last samples."""
    residual, taps = weights.residual_bias.shape[1], weights.n_taps
    for s in range(n_streams):
        x = team.x[s * residual : (s + 1) * residual]
        x[:] = weights.embedding_bias
        for k in range(taps):
            sample = team.recent[s, k]
            if weights.n_mixtures == 0:
                row = weights.embedding[k * 256 + sample]
                for c in range(residual):
                    x[c] += row[c]
            else:
                amplitude = np.float32(sample) / np.float32(32768)
                size = np.log1p(np.float32(255) * abs(amplitude)) / np.float32(math.log(256))
                companded = size if sample >= 0 else -size
                loud, quiet = weights.embedding[2 * k], weights.embedding[2 * k + 1]
                for c in range(residual):
                    x[c] += amplitude * loud[c] + companded * quiet[c]


@njit(nogil=True)
def _layer(weights, team, layer, time, n_streams):
    """One layer's newest tap, gate and residual product."""
    residual, last = weights.residual_bias.shape[1], weights.dilations.shape[0] - 1
    width, columns = 2 * residual, n_streams * residual
    row = (weights.ring_start[layer] + time % weights.ring_rows[layer]) * columns
    for c in range(0, columns, 16):
        round16(team.ring, row + c, team.x, c)
    gates = (layer * MOST_AHEAD + time % weights.ahead[layer]) * n_streams * width
    at = layer * 3 * residual * residual
    multiply(team.ahead, gates, width, weights.chain, at, width // 16, residual, team.ring, row, residual, n_streams)
    out = layer * columns
    for s in range(n_streams):
        for c in range(0, residual, 16):
            a = gates + s * width + c
            gate16(team.gated, out + s * residual + c, team.ahead, a, a + residual)
    if layer == last:
        return
    for s in range(n_streams):
        for c in range(residual):
            team.x[s * residual + c] += weights.residual_bias[layer, c]
    multiply(team.x, 0, residual, weights.chain, at + width * residual, residual // 16, residual,
             team.gated, out, residual, n_streams)  # fmt: skip


@njit(nogil=True)
def _start(y, bias, cuts, thread, n_streams):
    """Set this thread's rows to the bias."""
    width = bias.shape[0]
    for s in range(n_streams):
        for c in range(cuts[thread] * 16, cuts[thread + 1] * 16):
            y[s * width + c] = bias[c]


@njit(nogil=True)
def _rows(y, width, w, w0, inputs, cuts, thread, x, x0, n_streams):
    """Add this thread's rows of a product."""
    begin, end = cuts[thread], cuts[thread + 1]
    multiply(y, begin * 16, width, w, w0 + begin * 16 * inputs, end - begin, inputs, x, x0, inputs, n_streams)


@njit(nogil=True)
def _dense(y, w, bias, cuts, thread, x, n_inputs, scratch, n_streams):
    """This thread's rows of W relu(x) + bias."""
    for c in range(0, n_streams * n_inputs, 16):
        relu16(scratch, c, x, c)
    _start(y, bias, cuts, thread, n_streams)
    _rows(y, bias.shape[0], w, 0, n_inputs, cuts, thread, scratch, 0, n_streams)


@njit(nogil=True)
def _draw_code(logits, uniform, temperature, mass):
    """Inverse of the cumulative distribution in code order, as `logistic_mixture.from_cumulative` does."""
    n = logits.shape[0]
    if temperature != 1:
        for c in range(n):
            logits[c] /= temperature
    largest = logits[0]
    for c in range(1, n):
        largest = max(largest, logits[c])
    for c in range(0, n, 16):
        exp16(mass, c, logits, c, largest)
    total = 0.0
    for c in range(n):
        total += np.float64(mass[c])
    threshold = np.float32(uniform * np.float32(total))
    below, code = 0.0, 0
    for c in range(n):
        below += np.float64(mass[c])
        if np.float32(below) > threshold:
            break
        code = min(c + 1, n - 1)
    return code


@njit(nogil=True)
def _draw_amplitude(params, n, uniforms, temperature):
    """Component, then the logistic's quantile, as `logistic_mixture.sample` does."""
    largest = params[0]
    for k in range(1, n):
        largest = max(largest, params[k])
    total = 0.0
    for k in range(n):
        total += np.float64(np.exp((params[k] - largest) / temperature))
    threshold = uniforms[0] * np.float32(total)
    below, chosen = 0.0, 0
    for k in range(n):
        below += np.float64(np.exp((params[k] - largest) / temperature))
        if np.float32(below) > threshold:
            break
        chosen = min(k + 1, n - 1)
    scale = np.exp(max(params[2 * n + chosen], np.float32(-12)) + np.log(temperature))
    quantile = np.log(uniforms[1] / (np.float32(1) - uniforms[1]))
    amplitude = params[n + chosen] + scale * quantile
    value = np.floor(amplitude * np.float32(32768) + np.float32(0.5))
    return np.int64(min(max(value, np.float32(-32768)), np.float32(32767)))


@njit(nogil=True)
def _draw(weights, team, block, i, n_streams, temperature):
    """Draw the samples of all streams, and make them (or the given ones) the newest."""
    width = weights.output_bias.shape[0]
    for s in range(n_streams):
        params = team.params[s * width : s * width + weights.n_params]
        if block.params.shape[0]:
            block.params[i, s, :] = params
        if weights.n_mixtures:
            sample = _draw_amplitude(params, weights.n_mixtures, block.uniforms[i, s], temperature)
        else:
            sample = _draw_code(params, block.uniforms[i, s, 0], temperature, team.mass)
        block.drawn[i, s] = sample
        for k in range(weights.n_taps - 1):
            team.recent[s, k] = team.recent[s, k + 1]
        team.recent[s, weights.n_taps - 1] = block.given[i, s] if block.given.shape[0] else sample


@njit(nogil=True)
def _meet(flags, thread, n_threads, value):
    """Wait until all threads of the team are as far; False if they were told to stop."""
    publish(flags, thread * FLAG, value)
    for other in range(n_threads):
        if other != thread and not await_flag(flags, other * FLAG, value, n_threads * FLAG):
            return False
    return True


@njit(nogil=True, cache=True)
def play(weights, team, block, thread, n_threads, start, hop, linear, temperature):
    """Sample block.drawn.shape[0] samples from absolute time `start` on; every thread of the team calls it.

    A thread's flag counts its phases: 1: the first samples are prepared, 2 + l: layer l is done, then skip, middle and
    output product.
    """
    n_samples, n_streams = block.drawn.shape
    n_layers, residual = weights.dilations.shape[0], weights.residual_bias.shape[1]
    skip, middle = weights.skip_bias.shape[0], weights.hidden_bias.shape[0]
    flags, scratch = team.flags, team.scratch[thread]
    phases, helpers = n_layers + 8, max(1, n_threads - 1)
    helper = thread - 1 if n_threads > 1 else 0  # -1: this thread leads, and helpers prepare
    for layer in range(n_layers):
        if layer % helpers == helper:
            n = min(weights.ahead[layer] - start % weights.ahead[layer], n_samples)
            _prepare(weights, team, block, layer, start, 0, n, n_streams, hop, linear)
    if n_threads > 1 and not _meet(flags, thread, n_threads, start * phases + 1):
        return
    for i in range(n_samples):
        time = start + i
        epoch = time * phases
        _start(team.skip, weights.skip_bias, weights.skip_cuts, thread, n_streams)
        if thread == 0:
            _embed(weights, team, n_streams)
        for layer in range(n_layers):
            if thread == 0:
                _layer(weights, team, layer, time, n_streams)
                publish(flags, 0, epoch + 2 + layer)
            elif not await_flag(flags, 0, epoch + 2 + layer, n_threads * FLAG):
                return
            _rows(team.skip, skip, weights.skip, layer * skip * residual, residual, weights.skip_cuts, thread,
                  team.gated, layer * n_streams * residual, n_streams)  # fmt: skip
            after = time + 1
            if layer % helpers == helper and after % weights.ahead[layer] == 0 and i + 1 < n_samples:
                n = min(weights.ahead[layer], n_samples - i - 1)
                _prepare(weights, team, block, layer, start, i + 1, n, n_streams, hop, linear)
        if n_threads > 1 and not _meet(flags, thread, n_threads, epoch + n_layers + 2):
            return
        _dense(team.middle, weights.hidden, weights.hidden_bias, weights.hidden_cuts, thread, team.skip, skip, scratch,
               n_streams)  # fmt: skip
        if n_threads > 1 and not _meet(flags, thread, n_threads, epoch + n_layers + 3):
            return
        if weights.output_cuts[thread + 1] > weights.output_cuts[thread]:
            _dense(team.params, weights.output, weights.output_bias, weights.output_cuts, thread, team.middle, middle,
                   scratch, n_streams)  # fmt: skip
        if thread != 0:
            publish(flags, thread * FLAG, epoch + n_layers + 4)
            continue
        for other in range(1, n_threads):
            if not await_flag(flags, other * FLAG, epoch + n_layers + 4, n_threads * FLAG):
                return
        _draw(weights, team, block, i, n_streams, temperature)


def _inputs(values: np.ndarray, bfloat16: bool) -> np.ndarray:
    return to_bfloat16(values) if bfloat16 else np.ascontiguousarray(values, dtype=np.float32)


def _team(weights: Weights, n_threads: int, caches: Caches, streams: slice, bfloat16_inputs: bool) -> Team:
    """Fresh state of the streams of one team, going on from caches."""
    n_layers, residual = weights.residual_bias.shape
    skip, middle, n_params = len(weights.skip_bias), len(weights.hidden_bias), len(weights.output_bias)
    n_streams = len(range(*streams.indices(len(caches.recent))))
    rings = []
    for layer in caches.layers:
        rows = layer[:, streams].to("cpu", torch.float32).numpy()
        rings.append(np.pad(rows, ((0, 0), (0, 0), (0, residual - rows.shape[2]))).reshape(-1))
    kind = np.uint16 if bfloat16_inputs else np.float32
    return Team(
        recent=caches.recent[streams].cpu().numpy().astype(np.int64),
        ring=_inputs(np.concatenate(rings), bfloat16_inputs),
        ahead=np.zeros(n_layers * MOST_AHEAD * n_streams * 2 * residual, np.float32),
        x=np.zeros(n_streams * residual, np.float32),
        gated=np.zeros(n_layers * n_streams * residual, kind),
        skip=np.zeros(n_streams * skip, np.float32),
        middle=np.zeros(n_streams * middle, np.float32),
        params=np.zeros(n_streams * n_params, np.float32),
        scratch=np.zeros((n_threads, n_streams * max(skip, middle)), kind),
        mass=np.zeros(256, np.float32),
        flags=np.zeros((n_threads + 1) * FLAG, np.int64),
    )


class _Inputs:
    """The conditioning of a stretch as the kernel wants it: projected per layer at frame rate, never at audio rate."""

    def __init__(self, model: WaveNet, conditioning: Conditioning) -> None:
        self.model, self.conditioning, self.decoder = model, conditioning, model.decoder
        self.weight, self.bias = conditioning_layer(model.decoder)
        self.n_side = n_side(model.decoder)

    def stretch(self, first: int, n_frames: int) -> tuple[np.ndarray, np.ndarray]:
        """frames [F, L, B, 2R] and side inputs [T, B, E] (E may be 0) of a range of frames."""
        decoder = self.decoder
        context, excitation = self.conditioning.block(self.model, first, n_frames)
        n_layers, n_streams, n_samples = len(decoder.layers), len(context), n_frames * self.model.hop
        parts = [] if excitation is None else [excitation.permute(2, 0, 1)]
        if decoder.upsampling.commutes:
            frames = torch.addmm(self.bias, context.permute(2, 0, 1).flatten(0, 1).float(), self.weight.t())
            frames = frames.view(-1, n_streams, n_layers, self.weight.shape[0] // n_layers).transpose(1, 2)
        else:
            parts.append(decoder.prepare(context, None)[0])
            frames = self.bias.view(1, n_layers, 1, -1).expand(1, -1, n_streams, -1)
        side = np.zeros((n_samples, n_streams, self.n_side), np.float32)
        if parts:
            joined = torch.cat(parts, dim=-1)
            side[..., : joined.shape[-1]] = joined.numpy()
        return frames.numpy(), side


class _Teams:
    """Streams dealt to teams of threads, and the threads that play them."""

    def __init__(self, model: WaveNet, caches: Caches, n_threads: int, weights: str, portable: bool) -> None:
        n_streams = len(caches.recent)
        n_teams = min(n_threads, n_streams)
        bounds = [n_streams * i // n_teams for i in range(n_teams + 1)]
        self.streams = [slice(a, b) for a, b in itertools.pairwise(bounds)]
        self.sizes = [n_threads * (i + 1) // n_teams - n_threads * i // n_teams for i in range(n_teams)]
        bfloat16 = weights == "bfloat16"
        rounded = bfloat16 and has_bfloat16() and not portable
        packed = {size: pack_decoder(model.decoder, size, bfloat16=bfloat16) for size in set(self.sizes)}
        self.weights = [packed[size] for size in self.sizes]
        self.teams = [
            _team(w, size, caches, part, rounded)
            for w, size, part in zip(self.weights, self.sizes, self.streams, strict=True)
        ]
        self.linear, self.hop = model.decoder.upsampling.kind == "linear", model.hop
        self.pool = ThreadPoolExecutor(sum(self.sizes), thread_name_prefix="sampler")

    def play(self, start, frames, side, uniforms, given, temperature, keep_params) -> tuple[np.ndarray, np.ndarray]:
        """drawn [T, B] and, if they are kept, params [T, B, P]."""
        drawn, params, jobs = [], [], []
        n_samples = len(side)
        for weights, team, size, part in zip(self.weights, self.teams, self.sizes, self.streams, strict=True):
            n_streams = len(team.recent)
            params.append(np.zeros((n_samples if keep_params else 0, n_streams, weights.n_params), np.float32))
            drawn.append(np.zeros((n_samples, n_streams), np.int64))
            own_side = np.ascontiguousarray(side[:, part]).reshape(-1)
            block = Block(np.ascontiguousarray(frames[:, :, part]), own_side, np.ascontiguousarray(uniforms[:, part]),
                          np.ascontiguousarray(given[:, part]), drawn[-1], params[-1])  # fmt: skip
            jobs += [(weights, team, block, thread, size, start, self.hop, self.linear, np.float32(temperature))
                     for thread in range(size)]  # fmt: skip
        for done in [self.pool.submit(play, *job) for job in jobs]:
            done.result()
        return np.concatenate(drawn, axis=1), np.concatenate(params, axis=1)

    def close(self) -> None:
        """Stop threads that may wait for one another, and leave."""
        for team in self.teams:
            team.flags[-FLAG] = 1
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
    threads: int = 1,
    weights: str = "float32",
    portable: bool = False,
) -> Iterator[Tensor]:
    """`wavenet.generate` by this engine; see `samplers.generate`."""
    caches, first = Caches(model.decoder, n_streams), 0
    if prefix is not None:
        first = prefix.shape[1] // model.hop
        if prefix.shape[1] != first * model.hop or not 0 < first <= n_frames:
            raise ValueError(f"a prefix of {prefix.shape[1]} samples is not a whole number of frames up to {n_frames}")
        context, excitation = conditioning.block(model, 0, first)
        model.decoder.fill(caches, prefix, context, excitation)
        yield prefix
    inputs, teams = _Inputs(model, conditioning), _Teams(model, caches, threads, weights, portable)
    given, count = np.zeros((0, n_streams), np.int64), FIRST_FRAMES
    try:
        while first < n_frames:
            count = min(count, n_frames - first)
            draws = uniforms(first * model.hop, count * model.hop).transpose(0, 1).numpy()
            drawn, _ = teams.play(first * model.hop, *inputs.stretch(first, count), draws, given, temperature, False)
            yield torch.from_numpy(drawn.T)
            first += count
            count = min(2 * count, MOST_FRAMES)
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
    threads: int = 1,
    weights: str = "float32",
    portable: bool = False,
) -> tuple[Tensor, Tensor]:
    """Step through samples [B, N * hop] as given, for comparing engines sample by sample.

    Returns what would have been drawn, int64 [B, N * hop], and the distribution parameters [B, P, N * hop].
    """
    inputs = _Inputs(model, conditioning)
    teams = _Teams(model, Caches(model.decoder, len(samples)), threads, weights, portable)
    drawn, params = [], []
    try:
        for start in range(0, samples.shape[1], MOST_FRAMES * model.hop):
            part = samples[:, start : start + MOST_FRAMES * model.hop].numpy().T
            draws = uniforms(start, len(part)).transpose(0, 1).numpy()
            stretch = inputs.stretch(start // model.hop, len(part) // model.hop)
            codes, values = teams.play(start, *stretch, draws, part, temperature, True)
            drawn.append(torch.from_numpy(codes))
            params.append(torch.from_numpy(values))
    finally:
        teams.close()
    return torch.cat(drawn).t(), torch.cat(params).permute(1, 2, 0)
