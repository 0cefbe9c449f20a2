"""Conditioning ratios: how much the MIDI moves the gates of the decoder, relative to the past samples.

A ratio of 0 means that a layer ignores its conditioning.
"""

import math

import numpy as np
import torch
from torch import Tensor

from midi2wave.config import DataConfig
from midi2wave.midi.performance import Performance
from midi2wave.sampling.synthesis import conditioning, to_samples
from wavenet import Decoder, WaveNet

# Length of the stretch of a clip over which the ratios are measured.
RATIO_SECONDS = 0.5
# Past samples that are silent do not move a gate at all.
MIN_DEVIATION = 1e-6


@torch.inference_mode()
def conditioning_ratios(decoder: Decoder, history: Tensor, context: Tensor, excitation: Tensor) -> list[float]:
    """How much the conditioning moves the gate of each layer over time, relative to the past samples.

    The ratio of the standard deviations of their contributions to the gate before tanh and sigmoid, each the root mean
    square over the channels of the gate.

    Args:
        decoder: The decoder.
        history: The samples, 16-bit values or mu-law codes, with the K samples before them, [B, K + T].
        context: Output of the context stack, [B, C, left + N + right] with T = N * hop.
        excitation: Excitation, [B, E, T].
    """
    ratios = []
    for contributions in decoder.gate_contributions(history, context, excitation):
        cond, past = (part.std(dim=0).square().mean().sqrt() for part in contributions)
        ratios.append(cond / past.clamp(min=MIN_DEVIATION))
    return torch.stack(ratios).tolist()


@torch.inference_mode()
def clip_conditioning_ratios(
    model: WaveNet, pcm: np.ndarray, performance: Performance, data: DataConfig
) -> list[float]:
    """`conditioning_ratios` of the end of a clip: half a second after one receptive field.

    Args:
        model: The model.
        pcm: The recording, int16 [N * hop].
        performance: Its notes.
        data: The data config of the model.
    """
    device = next(model.parameters()).device
    n_frames, warmup = len(pcm) // model.hop, math.ceil(model.decoder.receptive_field / model.hop)
    begin = max(0, n_frames - round(RATIO_SECONDS * data.midi_hz) - warmup)
    context, excitation = conditioning([performance], data, device).block(model, begin, n_frames - begin)
    history = model.decoder.prepend_silence(to_samples(model, pcm[None], data).to(device))
    return conditioning_ratios(model.decoder, history[:, begin * model.hop :], context, excitation)
