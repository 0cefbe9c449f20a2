"""What the model of a config costs, before anything is trained: parameters, receptive field, multiply-adds, memory.

Everything is counted, not measured. Multiply-adds are those of the matrix products that one sample takes (guidance
takes them twice; additions, nonlinearities and the look-up of a mu-law code count nothing). The activations of training
are what `hardware.training_bytes` counts besides weights and optimiser: layers' inputs, pre-activations and outputs
stored for the backward pass, the outputs' gradient there, and the likelihood's intermediate results. A sampler's caches
are the ring buffers of `wavenet.Caches`.
"""

from dataclasses import asdict, dataclass

import torch
from torch import nn

from midi2wave.config import Config
from midi2wave.training.hardware import training_bytes
from wavenet import Caches, WaveNet, build_model

MIB = 2**20


@dataclass(frozen=True)
class ModelSummary:
    """What a model costs.

    Attributes:
        decoder_parameters: Parameters of the decoder.
        context_parameters: Parameters of the context stack.
        mel_head_parameters: Parameters of the auxiliary head, which only training uses.
        receptive_field_ms: How much of the past samples a sample depends on.
        context_field_ms: How much of the MIDI a sample depends on, before and after it.
        lookahead_ms: How much of that is after it.
        multiply_adds_per_sample: All multiply-adds of a sample.
        conditioning_multiply_adds: Those of them that are done once a frame, for all its samples.
        activation_bytes: Memory for a second of audio in training with float32 products.
        activation_bytes_bfloat16: The same with bfloat16 products.
        cache_bytes: Memory of the sampler's caches for one stream.
    """

    decoder_parameters: int
    context_parameters: int
    mel_head_parameters: int
    receptive_field_ms: float
    context_field_ms: float
    lookahead_ms: float
    multiply_adds_per_sample: float
    conditioning_multiply_adds: float
    activation_bytes: int
    activation_bytes_bfloat16: int
    cache_bytes: int

    @property
    def parameters(self) -> int:
        """All parameters that are trained."""
        return self.decoder_parameters + self.context_parameters + self.mel_head_parameters

    def as_dict(self) -> dict[str, float]:
        """All figures by name, as --json prints them."""
        return {"parameters": self.parameters, **asdict(self)}

    def lines(self) -> list[str]:
        """The figures as lines of text."""
        return [
            f"parameters           {self.parameters:,}: decoder {self.decoder_parameters:,}, context stack "
            f"{self.context_parameters:,}, auxiliary head {self.mel_head_parameters:,}",
            f"receptive field      {self.receptive_field_ms:.0f} ms of samples, {self.context_field_ms:.0f} ms of MIDI",
            f"look-ahead           {self.lookahead_ms:.0f} ms",
            f"multiply-adds        {self.multiply_adds_per_sample:,.0f} a sample, "
            f"{self.conditioning_multiply_adds:,.0f} of them conditioning",
            f"training memory      {self.activation_bytes / MIB:,.0f} MiB of activations a second of audio "
            f"({self.activation_bytes_bfloat16 / MIB:,.0f} MiB in bfloat16)",
            f"sampler's caches     {self.cache_bytes / MIB:.2f} MiB a stream",
        ]


def summarize_model(config: Config) -> ModelSummary:
    """Count what the model of a config costs.

    Raises:
        InputError: Parts of the model do not fit together.
    """
    with torch.device("meta"):  # nothing is computed, and of the largest model nothing stored
        model = build_model(config)
        cache_bytes = sum(ring.nbytes for ring in Caches(model.decoder, 1).layers)
    data, (left, right) = config.data_config, model.context_frames
    at_audio_rate, at_frame_rate = multiply_adds(model)
    recompute = config.train_config.activation_checkpointing

    def activation_bytes(precision: torch.dtype) -> int:
        whole, weights = (training_bytes(model, n, precision, recompute=recompute) for n in (data.audio_hz, 0))
        return whole - weights

    return ModelSummary(
        decoder_parameters=sum(p.numel() for p in model.decoder.parameters()),
        context_parameters=sum(p.numel() for p in model.context.parameters()),
        mel_head_parameters=sum(p.numel() for p in model.mel_head.parameters()) if model.mel_head else 0,
        receptive_field_ms=1000 * model.decoder.receptive_field / data.audio_hz,
        context_field_ms=1000 * (left + 1 + right) / data.midi_hz if data.conditional else 0.0,
        lookahead_ms=1000 * right / data.midi_hz,
        multiply_adds_per_sample=at_audio_rate + at_frame_rate / model.hop,
        conditioning_multiply_adds=at_frame_rate / model.hop,
        activation_bytes=activation_bytes(torch.float32),
        activation_bytes_bfloat16=activation_bytes(torch.bfloat16),
        cache_bytes=cache_bytes,
    )


def multiply_adds(model: WaveNet) -> tuple[int, int]:
    """Multiply-adds of the matrix products that are done once a sample, and of those that are done once a frame."""
    decoder = model.decoder
    frame_rate_modules = {id(module) for part in (model.context, decoder.upsampling) for module in part.modules()}
    if decoder.upsampling.commutes:
        frame_rate_modules |= {id(layer.cond) for layer in decoder.layers} | {id(decoder.output_cond)}
    audio_rate = frame_rate = 0
    for module in model.modules():
        is_lookup = module is decoder.input and not decoder.mixture
        if isinstance(module, (nn.Linear, nn.Conv1d, nn.ConvTranspose1d)) and module is not model.mel_head:
            if id(module) in frame_rate_modules:
                frame_rate += module.weight.numel()
            elif not is_lookup:
                audio_rate += module.weight.numel()
    return audio_rate, frame_rate
