"""The decoder's weights and state as the arrays that the Triton engine's kernel reads (`triton_kernel.py`).

Channels are padded with zeros to powers of two, at least 16, as the kernel's matrix products need them. Padded channels
stay zero: their weights and biases are, and the gate of zeros is zero.
"""

from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor

from midi2wave.utils.errors import InputError
from wavenet import Caches, Decoder

# The smallest side of a product of `tl.dot`.
MIN_CHANNELS = 16
# A product with more of them takes more memory than a multiprocessor has, whatever the number format.
MAX_RESIDUAL_CHANNELS = 128
MAX_OTHER_CHANNELS = 512


def padded(n: int) -> int:
    """Round n up to a power of two, at least MIN_CHANNELS."""
    return max(MIN_CHANNELS, 1 << (n - 1).bit_length())


def n_aux_inputs(decoder: Decoder) -> int:
    """Audio-rate inputs of every gate: the excitation, and the context if it is upsampled before projecting."""
    layer = decoder.layers[0]
    return layer.excitation.in_features + (0 if decoder.upsampling.commutes else layer.cond.in_features)


def require_fitting(decoder: Decoder) -> None:
    """Refuse a model that is too large for the kernel.

    Raises:
        InputError: It has too many channels.
    """
    limits = {
        "wavenet_config.n_residual_channels": (decoder.config.n_residual_channels, MAX_RESIDUAL_CHANNELS),
        "wavenet_config.n_skip_channels": (decoder.config.n_skip_channels, MAX_OTHER_CHANNELS),
        "wavenet_config.n_out_channels": (decoder.config.n_out_channels, MAX_OTHER_CHANNELS),
        "wavenet_config.n_mixtures": (decoder.config.n_mixtures if decoder.mixture else 0, MAX_OTHER_CHANNELS),
        "the inputs of the gates at audio rate": (n_aux_inputs(decoder), MAX_OTHER_CHANNELS),
    }
    for name, (value, limit) in limits.items():
        if value > limit:
            raise InputError(
                f"sampler triton: the model has {name} = {value}, expected at most {limit}; choose cuda or numba"
            )


@dataclass(frozen=True)
class PackedWeights:
    """The tensors of `triton_kernel.Weights`, in its order."""

    embedding: Tensor
    embedding_bias: Tensor
    gate: Tensor
    aux_inputs: Tensor
    residual: Tensor
    residual_bias: Tensor
    skip: Tensor
    skip_bias: Tensor
    skip_aux_inputs: Tensor
    hidden: Tensor
    hidden_bias: Tensor
    output: Tensor
    output_bias: Tensor
    dilations: Tensor
    ring_start: Tensor

    @property
    def tensors(self) -> list[Tensor]:
        """All of them, in order."""
        return [getattr(self, field.name) for field in fields(self)]

    @property
    def n_bytes(self) -> int:
        """Bytes of the weights that every sample reads; of the embedding it reads single rows."""
        names = ("gate", "aux_inputs", "residual", "skip", "hidden", "output")
        return sum(getattr(self, name).nbytes for name in names)


def _pad(values: Tensor, *shape: int) -> Tensor:
    """The values in float32 with zeros behind them in the last dimensions, up to these sizes."""
    amounts: list[int] = []
    for size, wanted in zip(values.shape[::-1], shape[::-1], strict=False):
        amounts += [0, wanted - size]
    return F.pad(values.detach().float(), amounts)


def _halves(weight: Tensor, n: int) -> Tensor:
    """A gate's weight [2 R, inputs] as [2, inputs, n]: the tanh half, then the sigmoid half."""
    half = weight.unflatten(0, (2, -1)).transpose(1, 2)
    return _pad(half, half.shape[1], n)


def conditioning_layer(decoder: Decoder) -> tuple[Tensor, Tensor]:
    """The layers' conditioning products as one: weight [C, L * 2R] and bias [L * 2R], gate halves padded.

    If the output is conditioned, the S padded columns of that product follow, with the bias of the skip sum.
    """
    n = padded(decoder.config.n_residual_channels)
    weights = [_halves(layer.cond.weight, n).transpose(0, 1).flatten(1) for layer in decoder.layers]
    biases = [_halves(layer.cond.bias[:, None], n).flatten() for layer in decoder.layers]
    if decoder.output_cond is not None:
        n_skip = padded(decoder.config.n_skip_channels)
        weights.append(_pad(decoder.output_cond.weight.t(), decoder.output_cond.in_features, n_skip))
        biases.append(_pad(decoder.skip.bias, n_skip))
    return torch.cat(weights, dim=1), torch.cat(biases)


def _aux_weights(decoder: Decoder) -> tuple[Tensor, Tensor]:
    """`Weights.aux_inputs` and `skip_aux_inputs`; one zero each where there are no such inputs."""
    n_inputs, commutes = n_aux_inputs(decoder), decoder.upsampling.commutes
    nothing = decoder.input.weight.new_zeros(1)
    if not n_inputs:
        return nothing, nothing
    n, n_skip = padded(decoder.config.n_residual_channels), padded(decoder.config.n_skip_channels)
    layers = []
    for layer in decoder.layers:
        parts = [layer.excitation.weight, *([] if commutes else [layer.cond.weight])]
        halves = _halves(torch.cat(parts, dim=1), n)
        layers.append(_pad(halves, padded(n_inputs), n))
    if decoder.output_cond is None or decoder.output_excitation is None:
        return torch.stack(layers), nothing
    parts = [decoder.output_excitation.weight, *([] if commutes else [decoder.output_cond.weight])]
    return torch.stack(layers), _pad(torch.cat(parts, dim=1).t(), padded(n_inputs), n_skip)


def _output_layer(decoder: Decoder) -> tuple[Tensor, Tensor]:
    """`Weights.output` and `output_bias`, the means' unit (`wavenet.MEAN_UNIT`) included."""
    n_hidden, layer = padded(decoder.config.n_out_channels), decoder.output
    bias: Tensor = layer.weight.new_zeros(layer.out_features) if layer.bias is None else layer.bias
    units, n_parts = (decoder.units, 3) if decoder.mixture else (torch.ones_like(bias), 1)
    weight, bias = layer.weight * units[:, None], bias * units
    n_params = padded(layer.out_features // n_parts)
    parts = weight.unflatten(0, (n_parts, -1)).transpose(1, 2)  # [parts, A, P]
    return _pad(parts, n_hidden, n_params), _pad(bias.unflatten(0, (n_parts, -1)), n_params)


def _embedding(decoder: Decoder) -> Tensor:
    table = decoder.input.weight.t()
    return _pad(table, len(table), padded(decoder.config.n_residual_channels))


def _bias(bias: Tensor | None, n: int, like: Tensor) -> Tensor:
    return like.new_zeros(n, dtype=torch.float32) if bias is None else _pad(bias, n)


def ring_lengths(decoder: Decoder) -> list[int]:
    """Rows of each layer's ring: one more than it looks back."""
    return [layer.history + 1 for layer in decoder.layers]


@torch.no_grad()
def pack_decoder(decoder: Decoder, operand: torch.dtype) -> PackedWeights:
    """The weights of a decoder on its device, those of matrix products in the format `operand`."""
    config, layers, like = decoder.config, decoder.layers, decoder.input.weight
    r = config.n_residual_channels
    n, n_skip, n_hidden = map(padded, (r, config.n_skip_channels, config.n_out_channels))
    gates, residuals, residual_biases, skips = [], [], [], []
    for i, layer in enumerate(layers):
        taps = layer.dilated.weight.split(r, dim=1)
        gates.append(torch.stack([_pad(_halves(tap, n), n, n) for tap in taps]))
        product = layer.residual  # The last layer has none.
        residuals.append(like.new_zeros(n, n) if product is None else _pad(product.weight.t(), n, n))
        residual_biases.append(_bias(None if product is None else product.bias, n, like))
        skips.append(_pad(decoder.skip.weight[:, i * r : (i + 1) * r].t(), n, n_skip))
    aux_inputs, skip_aux_inputs = _aux_weights(decoder)
    output, output_bias = _output_layer(decoder)
    lengths = torch.tensor(ring_lengths(decoder), dtype=torch.int32)
    # Means need more than 16 bits: the last product of a mixture is in float32, as in `Decoder.head`.
    output_type = torch.float32 if decoder.mixture else operand
    return PackedWeights(
        embedding=_embedding(decoder).contiguous(),
        embedding_bias=_bias(decoder.input.bias, n, like),
        gate=torch.stack(gates).to(operand).contiguous(),
        aux_inputs=aux_inputs.to(operand).contiguous(),
        residual=torch.stack(residuals).to(operand).contiguous(),
        residual_bias=torch.stack(residual_biases),
        skip=torch.stack(skips).to(operand).contiguous(),
        skip_bias=_bias(None if decoder.output_cond is not None else decoder.skip.bias, n_skip, like),
        skip_aux_inputs=skip_aux_inputs.to(operand).contiguous(),
        hidden=_pad(decoder.hidden.weight.t(), n_skip, n_hidden).to(operand).contiguous(),
        hidden_bias=_bias(decoder.hidden.bias, n_hidden, like),
        output=output.to(output_type).contiguous(),
        output_bias=output_bias.contiguous(),
        dilations=torch.tensor([layer.dilation for layer in layers], dtype=torch.int32).to(like.device),
        ring_start=(lengths.cumsum(0) - lengths).to(torch.int32).to(like.device),
    )


def pack_rings(decoder: Decoder, caches: Caches, time: int, operand: torch.dtype) -> Tensor:
    """The layers' past inputs before sample `time` from the caches, in the layout of `State.rings`."""
    n_rows, n = len(caches.recent), padded(decoder.config.n_residual_channels)
    lengths = ring_lengths(decoder)
    rings = torch.zeros(sum(lengths), n_rows, n, dtype=operand, device=caches.recent.device)
    start = 0
    for cache, length in zip(caches.layers, lengths, strict=True):
        times = torch.arange(time - len(cache), time, device=cache.device)
        rings[start + times % length, :, : cache.shape[2]] = cache[times % max(1, len(cache))].to(operand)
        start += length
    return rings
