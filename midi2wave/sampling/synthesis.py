"""From a trained model and performances to audio: what inference.py and the training log share.

Streams of one batch are generated side by side, as int16 whatever the model's output is. A stream's randomness depends
on the seed and the stream's number only, never on its neighbours.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import torch

from midi2wave.audio.mu_law import mu_law_decode, mu_law_encode
from midi2wave.audio.pre_emphasis import Deemphasis, deemphasize_teacher_forced, emphasize, mu_law_decode_preemphasized
from midi2wave.conditioning.note_conditioning import NullPerformance, conditioning_for
from midi2wave.config import DataConfig
from midi2wave.midi.performance import Performance
from midi2wave.sampling import engines
from midi2wave.sampling.code_files import Codes
from midi2wave.sampling.uniforms import seeded_uniforms
from wavenet import Conditioning, WaveNet, rows_per_stream

FRAMES_AT_ONCE = 1000  # of which `encode` makes codes: memory does not grow with a piece's length


def conditioning(
    performances: list[Performance | NullPerformance | None],
    config: DataConfig,
    device: torch.device,
    first_frames: list[int] | None = None,
) -> Conditioning:
    """Conditioning of a batch of performances, as the model was trained to see it; None or Untold is the null one.

    first_frames: the frame of each performance that is the batch's frame 0; default: its own frame 0.
    """
    notes = [conditioning_for(one, config) for one in performances]
    dated = list(zip(notes, first_frames or [0] * len(notes), strict=True))

    def features(first: int, n: int) -> torch.Tensor:
        return torch.from_numpy(np.stack([one.features(begin + first, n) for one, begin in dated])).to(device)

    def excitation(first: int, n: int) -> torch.Tensor:
        return torch.from_numpy(np.stack([one.excitation(begin + first, n) for one, begin in dated])).to(device)

    return Conditioning(features, excitation)


def with_null(
    performances: list[Performance | NullPerformance | None], guidance: float
) -> list[Performance | NullPerformance | None]:
    """The performances of the rows that guidance needs: each one, then as often the null condition of its recording."""
    return performances + [one and NullPerformance(one.global_labels) for one in performances] * (
        rows_per_stream(guidance) - 1
    )


def dated_uniforms(
    model: WaveNet, seed: int, streams: list[int], first_frames: list[int], device: torch.device
) -> Callable[[int, int], torch.Tensor]:
    """`seeded_uniforms` of a batch of which stream i begins at frame first_frames[i] of its piece: a sample's uniforms
    belong to its time in the piece, wherever the stream begins."""
    sources = [seeded_uniforms(seed, [stream], model.uniforms_per_sample, device) for stream in streams]
    begins = [first * model.hop for first in first_frames]
    return lambda first, n: torch.cat([of(begin + first, n) for of, begin in zip(sources, begins, strict=True)])


@torch.inference_mode()
def encode(model: WaveNet, performance: Performance | None, n_frames: int, config: DataConfig) -> Codes:
    """The codes of a performance, or of the null condition, by a model that has codes."""
    given = conditioning([performance], config, next(model.parameters()).device)
    up, context, blocks = model.decoder.upsampling, model.context, []
    for first in range(-up.left, n_frames + up.right, FRAMES_AT_ONCE):
        n = min(FRAMES_AT_ONCE, n_frames + up.right - first)
        features = given.features(first - context.left, context.left + n + context.right)
        blocks.append(context.codes(features)[0].to(torch.int16).cpu().numpy())
    return Codes(np.concatenate(blocks), -up.left, n_frames, model.n_codes, config.midi_hz)


def _from_codes(
    model: WaveNet, codes: list[Codes], guidance: float, given: Conditioning, config: DataConfig
) -> Conditioning:
    """Conditioning whose context is made of codes, of `with_null`'s rows; the excitation stays."""
    # The null condition is the same in all frames, and so is its code.
    null = [encode(model, None, 1, config)] * ((rows_per_stream(guidance) - 1) * len(codes))
    device = next(model.parameters()).device

    def rows(first: int, n: int) -> torch.Tensor:
        return torch.from_numpy(np.stack([one.frames(first, n) for one in codes + null])).to(device)

    return replace(given, codes=rows)


def synthesize(
    model: WaveNet,
    performances: list[Performance | NullPerformance | None],
    n_frames: int,
    config: DataConfig,
    *,
    streams: list[int],
    seed: int,
    codes: list[Codes] | None = None,
    prefix: np.ndarray | None = None,
    first_frames: list[int] | None = None,
    temperature: float = 1.0,
    guidance: float = 1.0,
    sampler: str = "auto",
    threads: int = 0,
    weights: str = "float32",
) -> Iterator[np.ndarray]:
    """Generate n_frames * hop samples for each performance; yields int16 blocks [B, n], the prefix first.

    codes: what the context is made of, if not of the performances' notes (`encode`).
    prefix: int16 [B, P * hop], the truth that is taken as given before the model goes on by itself. A model of mu-law
    codes hears and returns it rounded to the codes, one with pre-emphasis as `emphasis.emphasize` rounds and clips it.
    first_frames: the frame of its performance at which each stream begins, prefix included; default 0, before 0 no note
    has begun. The uniforms of a sample from frame 0 on do not depend on it. guidance: see `WaveNet.guide`; sampler,
    threads, weights: see `samplers.generate`.
    """
    device, begins = next(model.parameters()).device, first_frames or [0] * len(performances)
    if codes and any(begins):
        raise ValueError("codes begin where their piece does: expected first_frames of 0")
    given = conditioning(with_null(performances, guidance), config, device, begins * rows_per_stream(guidance))
    blocks = engines.generate(
        model,
        given if codes is None else _from_codes(model, codes, guidance, given, config),
        dated_uniforms(model, seed, streams, begins, device),
        len(performances),
        n_frames,
        prefix=None if prefix is None else to_samples(model, prefix, config).to(device),
        temperature=temperature,
        guidance=guidance,
        sampler=sampler,
        threads=threads,
        weights=weights,
    )
    deemphasis = Deemphasis(config.preemphasis)
    for block in blocks:
        yield deemphasis(to_pcm(model, block, config))


@torch.inference_mode()
def teacher_forced(
    model: WaveNet,
    performances: list[Performance],
    pcm: np.ndarray,
    config: DataConfig,
    *,
    streams: list[int],
    seed: int,
    temperature: float = 1.0,
    guidance: float = 1.0,
) -> tuple[np.ndarray, float]:
    """One parallel pass over the truth, int16 [B, N * hop]: every sample is drawn given the true ones before it.

    Returns int16 [B, N * hop] and the mean negative log-likelihood of the truth in nats per sample. That is the model's
    own, whatever temperature and guidance the samples are drawn with.
    """
    device = next(model.parameters()).device
    samples = to_samples(model, pcm, config).to(device)
    given = conditioning(with_null(performances, guidance), config, device)
    history = model.decoder.prepend_silence(samples.repeat(rows_per_stream(guidance), 1))
    params = model.decoder(history, *given.block(model, 0, pcm.shape[1] // model.hop))
    uniforms = seeded_uniforms(seed, streams, model.uniforms_per_sample, device)(0, pcm.shape[1])
    drawn = model.draw(model.guide(params, guidance), uniforms, temperature)
    nll = -model.log_likelihood(params[: len(samples)], samples).mean().item()
    return deemphasize_teacher_forced(to_pcm(model, drawn, config), pcm, config.preemphasis), nll


def to_samples(model: WaveNet, pcm: np.ndarray, config: DataConfig) -> torch.Tensor:
    """int16 [B, T] -> what the model predicts: 16-bit values or mu-law codes, pre-emphasised, int64 [B, T]."""
    heard = emphasize(pcm, config.preemphasis)
    return torch.from_numpy((heard if model.decoder.mixture else mu_law_encode(heard)).astype(np.int64))


def to_pcm(model: WaveNet, samples: torch.Tensor, config: DataConfig) -> np.ndarray:
    """16-bit values or mu-law codes [B, T] -> int16 [B, T], pre-emphasised as they are."""
    values = samples.cpu().numpy()
    if model.decoder.mixture:
        return values.astype(np.int16)
    return mu_law_decode_preemphasized(values) if config.preemphasis else mu_law_decode(values)
