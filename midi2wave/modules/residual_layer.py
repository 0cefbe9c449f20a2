"""One gated residual layer of the decoder: its parameters, its cached step, and what the parallel pass takes of it."""

import warnings
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from midi2wave.config import WavenetConfig
from midi2wave.modules.residual_stack import LayerWeights

ALIGNED_COLUMNS = 8  # of bfloat16: 16 bytes


def dilations(n_layers: int, max_dilation: int) -> list[int]:
    """The dilation of each layer: 1, 2, 4, ... doubling; once beyond max_dilation it starts again at 1."""
    result = []
    dilation = 1
    for _ in range(n_layers):
        result.append(dilation)
        dilation = dilation * 2 if dilation * 2 <= max_dilation else 1
    return result


class EmptyLinear(nn.Module):
    """A linear layer of zero inputs without bias, whose output is 0.

    Its weight is no parameter: neither the state dict nor the optimiser has an entry for it.
    """

    weight: Tensor

    def __init__(self, n_out: int) -> None:
        super().__init__()
        self.in_features = 0
        self.register_buffer("weight", torch.zeros(n_out, 0), persistent=False)

    def forward(self, inputs: Tensor) -> Tensor:
        """Zeros [..., n_out] for inputs [..., 0]."""
        return F.linear(inputs, self.weight)


def unbiased_linear(n_in: int, n_out: int) -> nn.Linear | EmptyLinear:
    """A linear layer without bias, also of zero inputs."""
    return nn.Linear(n_in, n_out, bias=False) if n_in else EmptyLinear(n_out)


class ResidualLayer(nn.Module):
    """One gated layer (WaveNet, section 2.3, with local conditioning, section 2.5).

    Its products are linear layers over taps, oldest first, so that the parallel and the cached pass share them.

    Args:
        config: Config of the decoder.
        n_excitation: Channels of the excitation, E.
        dilation: Samples between two taps.
        last: Whether it is the last layer, whose residual output nobody uses.
    """

    def __init__(self, config: WavenetConfig, n_excitation: int, dilation: int, *, last: bool) -> None:
        super().__init__()
        residual = config.n_residual_channels
        self.dilation = dilation
        self.taps = config.kernel_size
        self.dilated = nn.Linear(config.kernel_size * residual, 2 * residual, bias=False)
        with warnings.catch_warnings():
            # The conditioning of an unconditional model has no channels; its projection is only the bias.
            warnings.filterwarnings("ignore", "Initializing zero-element tensors")
            self.cond = nn.Linear(config.n_cond_channels, 2 * residual)  # Its bias is that of both products.
        self.excitation = unbiased_linear(n_excitation, 2 * residual)
        self.residual = None if last else nn.Linear(residual, residual)

    @property
    def history(self) -> int:
        """How many past samples of the layer's input its output depends on."""
        return self.dilation * (self.taps - 1)

    def weights(self, aux_weight: Tensor) -> LayerWeights:
        """The layer's parameters as `residual_stack` takes them, with the weight [2R, Q] of its auxiliary inputs."""
        if self.residual is None:
            return LayerWeights(self.dilation, self.dilated.weight, aux_weight, None, None)
        return LayerWeights(self.dilation, self.dilated.weight, aux_weight, self.residual.weight, self.residual.bias)

    def gate(self, taps: Tensor, cond: Tensor) -> Tensor:
        """The gated activation z [..., R] of taps [..., K * R] and conditioning [..., 2R]."""
        pre_activations = torch.addmm(cond.flatten(0, -2), taps.flatten(0, -2), self.dilated.weight.t())
        tanh_half, sigmoid_half = pre_activations.chunk(2, dim=-1)
        return (torch.tanh(tanh_half) * torch.sigmoid(sigmoid_half)).unflatten(0, taps.shape[:-1])


def frame_rate_conditioning(
    layers: Sequence[ResidualLayer], context: Tensor, n_frames: int, *, project: bool
) -> tuple[Tensor, list[Tensor]]:
    """The layers' conditioning at frame rate, and their weights for the inputs at audio rate.

    Args:
        layers: The layers, L.
        context: Context at frame rate, [left + N + right, B, C]; or already at audio rate, [T, B, C].
        n_frames: N.
        project: Whether the context is at frame rate, and so projected here; otherwise it is an input at audio rate,
            and only the biases are left.

    Returns:
        Conditioning [N + 1, B, L * 2R], and for each layer the weight [2R, Q] of its inputs at audio rate: the
        context, if it is one, then the excitation.
    """
    biases = torch.cat([layer.cond.bias for layer in layers])
    if project:
        frames = F.linear(context, torch.cat([layer.cond.weight for layer in layers]), biases)
        # Repetition needs no frame after the last one.
        frames = torch.cat([frames, frames[-1:]])[: n_frames + 1]
        return frames, [layer.excitation.weight for layer in layers]
    frames = biases.to(context.dtype).expand(n_frames + 1, context.shape[1], -1)
    return frames, [torch.cat([layer.cond.weight, layer.excitation.weight], dim=1) for layer in layers]


def join_inputs(inputs: Sequence[Tensor], weights: list[Tensor], *, align: bool) -> tuple[Tensor, list[Tensor]]:
    """Join the first layer's input and the inputs at audio rate, which are columns of one tensor.

    Args:
        inputs: The first layer's input [T, B, R], then inputs at audio rate [T, B, Q...], all of one type.
        weights: Weight [2R, Q] of each layer for all inputs at audio rate.
        align: Whether to add zero columns up to a multiple of ALIGNED_COLUMNS: products whose rows do not begin at
            multiples of 16 bytes take kernels of half the speed on a GPU.

    Returns:
        The columns as rows of samples, [T * B, R + Q], and the weights of the auxiliary inputs with as many columns.
    """
    columns = list(inputs)
    spare = -(columns[0].shape[-1] + weights[0].shape[1]) % ALIGNED_COLUMNS
    if spare and align:
        columns.append(columns[0].new_zeros(*columns[0].shape[:2], spare))
        weights = [F.pad(weight, (0, spare)) for weight in weights]
    return torch.cat(columns, dim=-1).flatten(0, 1), weights
