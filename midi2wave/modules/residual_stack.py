"""The decoder's gated residual layers over a whole crop: where training spends its time.

    x_0 -> layer 0 -> x_1 -> ... ; layer l:  a_l = sum_k W_lk x_l[t - (K-1-k) d_l] + V_l q[t] + upsampled c_l
                                             z_l = tanh(first half of a_l) * sigmoid(second half)
                                             x_{l+1} = x_l + U_l z_l + b_l

WaveNet (arXiv 1609.03499), equation 2 with local conditioning. What is done here for speed, with its own backward pass:

- Tensors are time-first and flat, [T * B, channels]: a dilated tap is a range of rows, and every product is a plain
  matrix product that reads and writes views, so that nothing is padded, shifted or copied.
- Conditioning at frame rate (c, [frames, B, L, 2R]) is interpolated where the gate is computed. It never exists at
  audio rate.
- Conditioning at audio rate (q, the auxiliary inputs) occupies columns behind the residual ones: each layer's
  newest tap has weights for it, the residual product has none. Its gradient is computed the same way.
- All gates write into one tensor [T * B, L, R]: the skip outputs of all layers are then one product.
- A gate's nonlinearities and their gradient are one pass over memory each, where torch.compile may fuse them
  (`compile_gate_kernels`).
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class LayerWeights:
    """One layer's parameters, with R residual channels, K taps and Q auxiliary inputs.

    Attributes:
        dilation: Samples between two taps.
        taps: [2R, K * R], oldest tap first.
        aux_inputs: [2R, Q], Q >= 0.
        residual: [R, R]; None in the last layer, whose residual output nobody uses.
        bias: Bias of the residual product, [R]; None in the last layer.
    """

    dilation: int
    taps: Tensor
    aux_inputs: Tensor
    residual: Tensor | None
    bias: Tensor | None

    def tensors(self) -> tuple[Tensor | None, ...]:
        """The parameters in the order in which autograd receives them."""
        return self.taps, self.aux_inputs, self.residual, self.bias

    @property
    def n_channels(self) -> int:
        """Residual channels, R."""
        return self.taps.shape[0] // 2


def gate(pre_activations: Tensor, frames: Tensor, ramp: Tensor, z: Tensor) -> None:
    """Write the gated activations of one layer into `z`.

    Sample i of frame f gets (1 - ramp[i]) * frames[f] + ramp[i] * frames[f + 1].

    Args:
        pre_activations: Sums over taps and auxiliary inputs, [F, hop, B, 2R].
        frames: Conditioning at frame rate, [F + 1, B, 2R].
        ramp: Weight of the next frame in each sample of a frame, [hop].
        z: Output, [F, hop, B, R].
    """
    tanh_half, sigmoid_half = (pre_activations + upsampled(frames, ramp)).chunk(2, dim=-1)
    z.copy_(torch.tanh(tanh_half) * torch.sigmoid(sigmoid_half))


def gate_backward(
    pre_activations: Tensor, frames: Tensor, ramp: Tensor, grad_z: Tensor, grad_pre_activations: Tensor
) -> None:
    """Write the gradient with respect to `gate`'s pre-activations into `grad_pre_activations`; shapes as there."""
    tanh_half, sigmoid_half = (pre_activations + upsampled(frames, ramp)).chunk(2, dim=-1)
    t, s = torch.tanh(tanh_half), torch.sigmoid(sigmoid_half)
    grad_pre_activations.copy_(torch.cat([grad_z * s * (1 - t * t), grad_z * t * s * (1 - s)], dim=-1))


def upsampled(frames: Tensor, ramp: Tensor) -> Tensor:
    """Frames [F + 1, B, C], interpolated as in `gate`: [F, hop, B, C]."""
    start = frames[:-1].unsqueeze(1)  # [F, 1, B, C]
    return start + (frames[1:].unsqueeze(1) - start) * ramp.view(1, -1, 1, 1)


@dataclass(frozen=True)
class GateKernels:
    """How the gates are computed in training: by torch's operators one by one, or compiled into one kernel each.

    Attributes:
        forward: `gate`.
        backward: `gate_backward`.
        recompute: Whether the layers' pre-activations are computed again in the backward pass instead of being stored:
            half the memory, a tenth more time.
    """

    forward: Callable[..., None] = gate
    backward: Callable[..., None] = gate_backward
    recompute: bool = field(default=False, kw_only=True)


DEFAULT_GATES = GateKernels()
RECOMPUTING_GATES = GateKernels(recompute=True)


def compile_gate_kernels(
    device: torch.device | str = "cpu", *, recompute: bool = False, on_failure: Callable[[str], object] | None = None
) -> GateKernels | None:
    """Gates as one kernel each, made by torch.compile.

    Args:
        device: Where they run.
        recompute: See `GateKernels`.
        on_failure: It is called with the reason, in words for the user, if they cannot be compiled.

    Returns:
        The kernels; None if they cannot be compiled.
    """
    kernels = GateKernels(
        torch.compile(gate, dynamic=False), torch.compile(gate_backward, dynamic=False), recompute=recompute
    )
    pre_activations, frames, ramp = (torch.zeros(shape, device=device) for shape in ((1, 1, 1, 2), (2, 1, 2), (1,)))
    try:
        kernels.forward(pre_activations, frames, ramp, torch.zeros(1, 1, 1, 1, device=device))
    except (RuntimeError, OSError) as error:  # InvalidCxxCompiler, or the compiler's message as _inductor wraps it
        if on_failure:
            on_failure(compilation_failure(error))
        return None
    return kernels


def compilation_failure(error: Exception) -> str:
    """Why torch.compile failed, in one line: its message is of many, most of them the compiler's options."""
    message = str(error)
    if "failed to map segment" in message:
        return (
            "code must not be executed in the folder where it is compiled, which is mounted with noexec; set "
            "TORCHINDUCTOR_CACHE_DIR to another folder"
        )
    if compiler_error := re.search(r"\berror: .*", message):
        hint = "; install Python's headers (python3-dev)" if "Python.h" in compiler_error[0] else ""
        return f"the compiler's message: {compiler_error[0]}{hint}"
    if "InvalidCxxCompiler" in message:
        return "there is no C++ compiler; install g++, or name one in CXX"
    return (message.strip().splitlines() or [type(error).__name__])[0]


def residual_stack(
    x: Tensor,
    frames: Tensor,
    ramp: Tensor,
    layers: list[LayerWeights],
    gates: GateKernels = DEFAULT_GATES,
) -> Tensor:
    """The gated activations of all layers, with gradients for x, frames and the weights.

    Before the first row stands zero in every layer. Products are in x's dtype; the weights may be of a wider one, and
    so are then their gradients.

    Args:
        x: The first layer's input and the auxiliary inputs, time-first, [T * B, R + Q].
        frames: Conditioning at frame rate, [F + 1, B, L, 2R] with T = F * hop.
        ramp: [hop]: 0 for repetition, i / hop for linear interpolation.
        layers: The layers' parameters.
        gates: How the gates are computed.

    Returns:
        [T * B, L, R].
    """
    flat = [tensor for layer in layers for tensor in layer.tensors()]
    return _ResidualStack.apply(x, frames, ramp, [layer.dilation for layer in layers], gates, *flat)


def run_layers(
    x: Tensor,
    frames: Tensor,
    ramp: Tensor,
    layers: list[LayerWeights],
    z: Tensor | None = None,
    gates: GateKernels = RECOMPUTING_GATES,
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """The same without gradients, layer by layer; arguments as of `residual_stack`.

    Args:
        x: As there.
        frames: As there.
        ramp: As there.
        layers: As there.
        z: Where the gated activations of all layers are stored, [T * B, L, R]; without it the next layer overwrites
            them.
        gates: As there; with `recompute` the next layer overwrites the pre-activations.

    Yields:
        A layer's input [T * B, R + Q], its pre-activations before the conditioning at frame rate is added
        [T * B, 2R], and its gated activations [T * B, R].
    """
    layers = [_in_dtype(layer, x.dtype) for layer in layers]
    n_channels = layers[0].n_channels
    pre_activations = x.new_empty(len(x), 2 * n_channels)
    buffer = x.new_empty(len(x), n_channels) if z is None else z[:, 0]
    for i, layer in enumerate(layers):
        gated = buffer if z is None else z[:, i]
        if i and not gates.recompute:
            pre_activations = torch.empty_like(pre_activations)
        _sum_taps(x, layer, frames.shape[1], pre_activations)
        gates.forward(_by_frame(pre_activations, frames, ramp), frames[:, :, i], ramp, _by_frame(gated, frames, ramp))
        yield x, pre_activations, gated
        if layer.residual is not None and layer.bias is not None:
            x = _next_input(x, gated, layer.residual, layer.bias)


def _in_dtype(layer: LayerWeights, dtype: torch.dtype) -> LayerWeights:
    residual = None if layer.residual is None else layer.residual.to(dtype)
    bias = None if layer.bias is None else layer.bias.to(dtype)
    return LayerWeights(layer.dilation, layer.taps.to(dtype), layer.aux_inputs.to(dtype), residual, bias)


def _by_frame(rows: Tensor, frames: Tensor, ramp: Tensor) -> Tensor:
    """[F * hop * B, C] -> [F, hop, B, C]."""
    return rows.unflatten(0, (len(frames) - 1, len(ramp), frames.shape[1]))


def _older_taps(layer: LayerWeights, batch_size: int) -> Iterator[tuple[int, Tensor]]:
    """Every tap but the newest, oldest first: by how many rows it looks back, and its weight [2R, R]."""
    taps = layer.taps.split(layer.n_channels, dim=1)
    for k, weight in enumerate(taps[:-1]):
        yield layer.dilation * (len(taps) - 1 - k) * batch_size, weight


def _newest(layer: LayerWeights) -> Tensor:
    """The weights of the newest tap and of the auxiliary inputs: [2R, R + Q]."""
    newest = layer.taps[:, -layer.n_channels :]
    return torch.cat([newest, layer.aux_inputs], dim=1) if layer.aux_inputs.shape[1] else newest


def _sum_taps(x: Tensor, layer: LayerWeights, batch_size: int, out: Tensor) -> None:
    """Write the sum over taps and auxiliary inputs, [T * B, 2R], into `out`."""
    torch.mm(x, _newest(layer).t(), out=out)
    for offset, weight in _older_taps(layer, batch_size):
        if offset < len(x):
            out[offset:].addmm_(x[: len(x) - offset, : layer.n_channels], weight.t())


def _next_input(x: Tensor, z: Tensor, residual: Tensor, bias: Tensor) -> Tensor:
    n_channels = len(bias)
    # The auxiliary inputs' columns get zero weights, so that one product makes the whole next input.
    padded = torch.nn.functional.pad(residual, (0, 0, 0, x.shape[1] - n_channels))
    result = torch.addmm(x, z, padded.t())
    result[:, :n_channels] += bias
    return result


def _column_sums(rows: Tensor) -> Tensor:
    """[N, C] -> [C]; on a GPU by a product, since its reductions of columns are slow."""
    return rows.new_ones(1, len(rows)).mm(rows)[0] if rows.is_cuda else rows.sum(0)


def _add_frame_gradients(grad_frames: Tensor, grad_pre_activations: Tensor, ramp: Tensor) -> None:
    """Add one layer's gradient of the frames to grad_frames [F + 1, B, 2R], from that of its pre-activations."""
    # The gradients of a frame's samples, summed for its own value and for the next one's: [2, hop].
    blend = torch.stack([1 - ramp, ramp]).to(grad_pre_activations.dtype)
    by_frame = _by_frame(grad_pre_activations, grad_frames, ramp).flatten(2)  # [F, hop, B * 2R]
    own, following = torch.matmul(blend, by_frame).unflatten(2, (grad_frames.shape[1], -1)).unbind(1)
    grad_frames[:-1] += own
    grad_frames[1:] += following


def _tap_gradients(
    x: Tensor, layer: LayerWeights, batch_size: int, grad_x: Tensor, grad_pre_activations: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """One layer's gradients of its input, taps and auxiliary weights, the former with that of its output, `grad_x`."""
    n_channels = layer.n_channels
    grad_newest = grad_pre_activations.t() @ x
    grad_taps = []
    grad_x = torch.addmm(grad_x, grad_pre_activations, _newest(layer))
    for offset, weight in _older_taps(layer, batch_size):
        later, earlier = grad_pre_activations[offset:], x[: max(0, len(x) - offset), :n_channels]
        grad_taps.append(later.t() @ earlier)
        if len(earlier):
            grad_x[: len(earlier), :n_channels].addmm_(later, weight)
    grad_taps.append(grad_newest[:, :n_channels])
    return grad_x, torch.cat(grad_taps, dim=1), grad_newest[:, n_channels:]


class _ResidualStack(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        frames: Tensor,
        ramp: Tensor,
        dilations: list[int],
        gates: GateKernels,
        *flat: Tensor | None,
    ) -> Tensor:
        layers = _unflatten(dilations, flat)
        z = x.new_empty(len(x), len(layers), layers[0].n_channels)
        inputs, pre_activations = [], []
        for layer_input, layer_pre_activations, _ in run_layers(x, frames, ramp, layers, z, gates):
            inputs.append(layer_input)
            pre_activations.append(None if gates.recompute else layer_pre_activations)
        ctx.save_for_backward(z, frames, ramp, *inputs, *pre_activations, *flat)
        ctx.dilations, ctx.gates = dilations, gates
        return z

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_z: Tensor) -> tuple[Tensor | None, ...]:
        z, frames, ramp, *rest = ctx.saved_tensors
        n_layers, n_channels = z.shape[1:]
        inputs, stored, flat = rest[:n_layers], rest[n_layers : 2 * n_layers], rest[2 * n_layers :]
        layers, batch_size = _unflatten(ctx.dilations, flat), frames.shape[1]
        pre_activations = grad_pre_activations = inputs[0].new_empty(len(z), 2 * n_channels)
        if ctx.gates.recompute:
            pre_activations = torch.empty_like(grad_pre_activations)
        grad_frames, grads, grad_x = torch.zeros_like(frames), [], torch.zeros_like(inputs[0])
        for i in reversed(range(n_layers)):
            x, layer = inputs[i], _in_dtype(layers[i], inputs[i].dtype)
            grad_gated, grad_residual, grad_bias = grad_z[:, i], None, None
            if layer.residual is not None:
                grad_out = grad_x[:, :n_channels]
                grad_gated = torch.addmm(grad_gated, grad_out, layer.residual)
                grad_residual, grad_bias = grad_out.t() @ z[:, i], _column_sums(grad_out)
            if ctx.gates.recompute:
                _sum_taps(x, layer, batch_size, pre_activations)
            else:
                pre_activations = stored[i]
            by_frame = [_by_frame(rows, frames, ramp) for rows in (pre_activations, grad_gated, grad_pre_activations)]
            ctx.gates.backward(by_frame[0], frames[:, :, i], ramp, by_frame[1], by_frame[2])
            _add_frame_gradients(grad_frames[:, :, i], grad_pre_activations, ramp)
            grad_x, grad_taps, grad_aux = _tap_gradients(x, layer, batch_size, grad_x, grad_pre_activations)
            grads.append((grad_taps, grad_aux, grad_residual, grad_bias))
        by_layer = [grad for layer_grads in reversed(grads) for grad in layer_grads]
        weight_grads = [None if g is None else g.to(p.dtype) for g, p in zip(by_layer, flat, strict=True)]
        return grad_x, grad_frames, None, None, None, *weight_grads


def _unflatten(dilations: list[int], flat: tuple[Any, ...]) -> list[LayerWeights]:
    return [LayerWeights(dilation, *flat[4 * i : 4 * i + 4]) for i, dilation in enumerate(dilations)]
