"""From a trained model and performances to audio: the functions under inference.py, evaluate.py and the Python API.

Streams of one batch are generated side by side, as int16 whatever the model's output is. A stream's randomness depends
on the seed and the stream's number only, never on its neighbours.
"""

import math
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from midi2wave.audio.dc_blocker import DcBlocker
from midi2wave.audio.mu_law import mu_law_decode, mu_law_decode_between, mu_law_encode
from midi2wave.audio.pre_emphasis import Deemphasis, deemphasize_teacher_forced, emphasize, mu_law_decode_preemphasized
from midi2wave.conditioning.note_conditioning import NullPerformance, conditioning_for
from midi2wave.config import MIN_HISTORY_LEVEL, DataConfig
from midi2wave.midi.performance import Performance
from midi2wave.sampling import engines
from midi2wave.sampling.code_files import Codes
from midi2wave.sampling.options import DEFAULT_OPTIONS, SamplingOptions
from midi2wave.sampling.uniforms import seeded_uniforms
from wavenet import Conditioning, WaveNet, rows_per_stream

# `encode` works in blocks of so many frames, so that its memory does not grow with a piece's length.
ENCODE_BLOCK_FRAMES = 1000
# Audio in one pass of `negative_log_likelihood`.
LIKELIHOOD_BLOCK_SECONDS = 2.0


@dataclass(frozen=True, eq=False)
class CodedPerformance:
    """A performance whose context is made of codes of the argmax autoencoder, and its excitation of the notes."""

    performance: Performance | NullPerformance | None
    codes: Codes


# What a stream is conditioned on; None is the null condition.
ConditioningSource = Performance | NullPerformance | CodedPerformance | None


def conditioning(
    performances: Sequence[Performance | NullPerformance | None],
    config: DataConfig,
    device: torch.device,
    first_frames: list[int] | None = None,
    history_level: float = MIN_HISTORY_LEVEL,
) -> Conditioning:
    """Conditioning of a batch of performances, as in training.

    Args:
        performances: One for each row; None is the null condition.
        config: The model's data_config.
        device: Where the tensors go.
        first_frames: The frame of each performance that is the batch's frame 0; default: its own frame 0.
        history_level: Level of the disturbance of the past samples in dB; the default is for true audio.
    """
    notes = [conditioning_for(one, config, history_level) for one in performances]
    with_begin = list(zip(notes, first_frames or [0] * len(notes), strict=True))

    def features(first: int, n: int) -> torch.Tensor:
        return torch.from_numpy(np.stack([one.features(begin + first, n) for one, begin in with_begin])).to(device)

    def excitation(first: int, n: int) -> torch.Tensor:
        return torch.from_numpy(np.stack([one.excitation(begin + first, n) for one, begin in with_begin])).to(device)

    return Conditioning(features, excitation)


def with_null(
    performances: Sequence[Performance | NullPerformance | None], guidance: float
) -> list[Performance | NullPerformance | None]:
    """The performances of the rows that guidance needs: each one, then the null condition with each one's labels."""
    null = [one and NullPerformance(one.global_labels) for one in performances]
    return [*performances, *null * (rows_per_stream(guidance) - 1)]


def uniforms_in_time(
    model: WaveNet, seed: int, streams: list[int], first_frames: list[int], device: torch.device
) -> Callable[[int, int], torch.Tensor]:
    """`seeded_uniforms` of a batch of which stream i begins at frame first_frames[i] of its piece.

    A sample's uniforms belong to its time in the piece, wherever the stream begins.
    """
    sources = [seeded_uniforms(seed, [stream], model.uniforms_per_sample, device) for stream in streams]
    begins = [first * model.hop for first in first_frames]
    return lambda first, n: torch.cat([source(begin + first, n) for source, begin in zip(sources, begins, strict=True)])


@torch.inference_mode()
def encode(model: WaveNet, performance: Performance | None, n_frames: int, config: DataConfig) -> Codes:
    """The argmax codes of a performance, or of the null condition (None), by a model that has codes."""
    inputs = conditioning([performance], config, next(model.parameters()).device)
    up, context, blocks = model.decoder.upsampling, model.context, []
    for first in range(-up.left, n_frames + up.right, ENCODE_BLOCK_FRAMES):
        n = min(ENCODE_BLOCK_FRAMES, n_frames + up.right - first)
        features = inputs.features(first - context.left, context.left + n + context.right)
        blocks.append(context.codes(features)[0].to(torch.int16).cpu().numpy())
    return Codes(np.concatenate(blocks), -up.left, n_frames, model.n_codes, config.midi_hz)


def _with_codes(
    model: WaveNet, codes: list[Codes], guidance: float, inputs: Conditioning, config: DataConfig
) -> Conditioning:
    """Conditioning with the rows of `with_null` whose context is made of codes; the excitation is that of `inputs`."""
    # The null condition is the same in all frames, and so is its code.
    null = [encode(model, None, 1, config)] * ((rows_per_stream(guidance) - 1) * len(codes))
    device = next(model.parameters()).device

    def rows(first: int, n: int) -> torch.Tensor:
        return torch.from_numpy(np.stack([one.frames(first, n) for one in codes + null])).to(device)

    return replace(inputs, codes=rows)


def _stream_conditioning(
    model: WaveNet,
    sources: Sequence[ConditioningSource],
    options: SamplingOptions,
    config: DataConfig,
    begins: list[int],
) -> Conditioning:
    """The conditioning of streams that begin at these frames of their sources, with the rows that guidance needs."""
    device = next(model.parameters()).device
    codes = [source.codes for source in sources if isinstance(source, CodedPerformance)]
    if codes and len(codes) < len(sources):
        raise ValueError("expected codes for every stream of a batch, or for none")
    if codes and any(begins):
        raise ValueError("codes begin where their piece does: expected first_frames of 0")
    notes = [source.performance if isinstance(source, CodedPerformance) else source for source in sources]
    rows, n_rows = with_null(notes, options.guidance), rows_per_stream(options.guidance)
    inputs = conditioning(rows, config, device, begins * n_rows, options.history_level)
    return _with_codes(model, codes, options.guidance, inputs, config) if codes else inputs


def synthesize(
    model: WaveNet,
    sources: Sequence[ConditioningSource],
    n_frames: int,
    config: DataConfig,
    options: SamplingOptions = DEFAULT_OPTIONS,
    *,
    streams: list[int],
    prefix: np.ndarray | None = None,
    first_frames: list[int] | None = None,
) -> Generator[np.ndarray, None, None]:
    """Generate n_frames * hop samples for each source, side by side.

    Args:
        model: The model.
        sources: What each of the B streams is conditioned on.
        n_frames: Frames to generate, the prefix included.
        config: The model's data_config.
        options: How samples are drawn, and by which engine.
        streams: The number of each stream's source of randomness.
        prefix: int16 [B, P * hop], which comes first, teacher-forced. A model of mu-law codes is conditioned on it and
            returns it rounded to the codes, one with pre-emphasis as `pre_emphasis.emphasize` rounds and clips it.
        first_frames: The frame of its source at which each stream begins, prefix included; default 0. Before frame 0 no
            note has begun. The uniforms of the samples from frame 0 on do not depend on it.

    Yields:
        int16 blocks [B, n], the prefix first.

    Raises:
        InputError: If the engine cannot run with this model.
    """
    device, begins = next(model.parameters()).device, first_frames or [0] * len(sources)
    blocks = engines.generate(
        model,
        _stream_conditioning(model, sources, options, config, begins),
        uniforms_in_time(model, options.seed, streams, begins, device),
        len(sources),
        n_frames,
        options,
        prefix=None if prefix is None else to_samples(model, prefix, config).to(device),
    )
    yield from map(AudioOutput(model, config), blocks)


@torch.inference_mode()
def teacher_forced(
    model: WaveNet,
    performances: Sequence[Performance | NullPerformance | None],
    pcm: np.ndarray,
    config: DataConfig,
    options: SamplingOptions = DEFAULT_OPTIONS,
    *,
    streams: list[int],
) -> tuple[np.ndarray, float]:
    """One parallel pass over true audio: every sample is drawn given the true ones before it.

    Args:
        model: The model.
        performances: What each of the B streams is conditioned on.
        pcm: The true audio, int16 [B, N * hop].
        config: The model's data_config.
        options: How samples are drawn; the engine is not used.
        streams: The number of each stream's source of randomness.

    Returns:
        The drawn samples, int16 [B, N * hop], and the mean negative log-likelihood of the true ones in nats per sample,
        which does not depend on the options.
    """
    device = next(model.parameters()).device
    samples = to_samples(model, pcm, config).to(device)
    inputs = conditioning(with_null(performances, options.guidance), config, device)
    history = model.decoder.prepend_silence(samples.repeat(rows_per_stream(options.guidance), 1))
    params = model.decoder(history, *inputs.block(model, 0, pcm.shape[1] // model.hop))
    uniforms = seeded_uniforms(options.seed, streams, model.uniforms_per_sample, device)(0, pcm.shape[1])
    own_samples = model.draw(model.guide(params, options.guidance), uniforms, options.temperature, options.sampling)
    nll = -model.log_likelihood(params[: len(samples)], samples).mean().item()
    return deemphasize_teacher_forced(to_pcm(model, own_samples, config), pcm, config.preemphasis), nll


@torch.inference_mode()
def log_likelihood_blocks(
    model: WaveNet,
    performances: Sequence[Performance | NullPerformance | None],
    pcm: np.ndarray,
    config: DataConfig,
    *,
    block_seconds: float,
    first_frame: int = 0,
) -> Iterator[tuple[int, torch.Tensor]]:
    """Log-likelihoods of one recording under several conditions, by teacher forcing in blocks.

    Each block is computed after a receptive field of true audio, so that memory does not grow with the length and the
    values do not depend on the blocks but for rounding. What comes before the recording is silence.

    Args:
        model: The model.
        performances: The R conditions.
        pcm: The recording, int16 [N * hop].
        config: The model's data_config.
        block_seconds: Length of a block; a block has at least as many samples as the receptive field.
        first_frame: The frame from which on samples are scored.

    Yields:
        The first sample of each block, and the log-likelihoods of its samples in nats, [R, T].
    """
    device, hop, taps = next(model.parameters()).device, model.hop, model.decoder.taps
    n_frames, warmup = len(pcm) // hop, math.ceil(model.decoder.receptive_field / hop)
    block_frames = max(warmup, round(block_seconds * config.midi_hz))
    inputs = conditioning(performances, config, device)
    history = model.decoder.prepend_silence(to_samples(model, pcm[None], config).to(device))
    for start in range(first_frame, n_frames, block_frames):
        stop, begin = min(start + block_frames, n_frames), max(0, start - warmup)
        block = history[:, begin * hop : stop * hop + taps].expand(len(performances), -1)
        params = model.decoder(block, *inputs.block(model, begin, stop - begin))
        yield start * hop, model.log_likelihood(params, block[:, taps:])[:, (start - begin) * hop :]


def negative_log_likelihood(
    model: WaveNet, performance: Performance | NullPerformance | None, pcm: np.ndarray, config: DataConfig
) -> float:
    """The mean negative log-likelihood of true audio, int16 [N * hop], in nats per sample: that of `teacher_forced`.

    Memory does not grow with the length.
    """
    blocks = log_likelihood_blocks(model, [performance], pcm, config, block_seconds=LIKELIHOOD_BLOCK_SECONDS)
    total = 0.0
    for _, log_likelihood in blocks:
        total -= log_likelihood.double().sum().item()
    return total / (len(pcm) // model.hop * model.hop)


def to_samples(model: WaveNet, pcm: np.ndarray, config: DataConfig) -> torch.Tensor:
    """int16 [B, T] -> what the model predicts: 16-bit values or mu-law codes, pre-emphasised, int64 [B, T]."""
    emphasized = emphasize(pcm, config.preemphasis)
    return torch.from_numpy((emphasized if model.decoder.mixture else mu_law_encode(emphasized)).astype(np.int64))


class AudioOutput:
    """From the samples of a model to audio, for streams that arrive in blocks."""

    def __init__(self, model: WaveNet, config: DataConfig) -> None:
        """Begin with silence; `config` is the model's data_config."""
        self._model = model
        self._config = config
        self._deemphasis = Deemphasis(config.preemphasis)
        self._dc_blocker = DcBlocker()

    def __call__(self, samples: torch.Tensor) -> np.ndarray:
        """The audio, int16 [B, n], of the next samples [B, n]."""
        pcm = self._deemphasis(to_pcm(self._model, samples, self._config))
        if samples.is_floating_point() and not self._model.decoder.mixture:
            return self._dc_blocker(pcm)
        self._dc_blocker.skip(pcm)
        return pcm


def to_pcm(model: WaveNet, samples: torch.Tensor, config: DataConfig) -> np.ndarray:
    """16-bit values or mu-law codes [B, T], which may have fractions -> int16 [B, T], still pre-emphasised."""
    values = samples.cpu().numpy()
    if model.decoder.mixture:
        return np.rint(values).astype(np.int16)
    if samples.is_floating_point():
        return mu_law_decode_between(values)
    return mu_law_decode_preemphasized(values) if config.preemphasis else mu_law_decode(values)
