"""The decoder's gated residual layers over a whole crop: where training spends its time.

    x_0 -> layer 0 -> x_1 -> ... ; layer l:  a_l = sum_k W_lk x_l[t - (K-1-k) d_l] + V_l q[t] + upsampled c_l
                                             h_l = tanh(first half of a_l) * sigmoid(second half)
                                             x_{l+1} = x_l + U_l h_l + b_l

WaveNet (arXiv 1609.03499), equation 2 with local conditioning. What is done here for speed, with its own backward pass:

- Tensors are time-first and flat, [T * B, channels]: a dilated tap is a range of rows, and every product is a plain
  matrix product that reads and writes views, so that nothing is padded, shifted or copied.
- Conditioning at frame rate (c, [frames, B, L, 2R]) is interpolated where the gate is computed. It never exists at
  audio rate.
- Conditioning at audio rate (q, the auxiliary inputs) stands in columns behind the residual ones: each layer's
  newest tap has weights for it, the residual product has none. Its gradient comes back the same way.
- All gates write into one tensor [T * B, L, R]: the skip outputs of all layers are then one product.
- A gate's nonlinearities and their gradient are one pass over memory each, where torch.compile may fuse them
  (`compiled_gates`).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True)
class LayerWeights:
    """One layer's parameters; R residual channels, K taps, Q aux_inputs."""

    dilation: int
    taps: Tensor  # [2R, K * R], oldest tap first
    aux_inputs: Tensor  # [2R, Q], Q >= 0
    residual: Tensor | None  # [R, R]; None in the last layer, whose residual output nobody uses
    bias: Tensor | None  # [R], of the residual product

    def tensors(self) -> tuple[Tensor | None, ...]:
        """The parameters in the order in which autograd is given them."""
        return self.taps, self.aux_inputs, self.residual, self.bias


def gate(summed: Tensor, frames: Tensor, ramp: Tensor, hidden: Tensor) -> None:
    """Write tanh * sigmoid of summed [F, hop, B, 2R] + upsampled frames [F + 1, B, 2R] into hidden [F, hop, B, R].

    Sample i of frame f gets (1 - ramp[i]) * frames[f] + ramp[i] * frames[f + 1].
    """
    tanh_half, sigmoid_half = (summed + upsampled(frames, ramp)).chunk(2, dim=-1)
    hidden.copy_(torch.tanh(tanh_half) * torch.sigmoid(sigmoid_half))


def gate_backward(summed: Tensor, frames: Tensor, ramp: Tensor, grad_hidden: Tensor, grad_summed: Tensor) -> None:
    """Write the gradient with respect to `gate`'s summed [F, hop, B, 2R] into grad_summed; the rest as there."""
    tanh_half, sigmoid_half = (summed + upsampled(frames, ramp)).chunk(2, dim=-1)
    t, s = torch.tanh(tanh_half), torch.sigmoid(sigmoid_half)
    grad_summed.copy_(torch.cat([grad_hidden * s * (1 - t * t), grad_hidden * t * s * (1 - s)], dim=-1))


def upsampled(frames: Tensor, ramp: Tensor) -> Tensor:
    """[F + 1, B, C] -> [F, hop, B, C], as `gate` sees it."""
    now = frames[:-1].unsqueeze(1)  # [F, 1, B, 2R]
    return now + (frames[1:].unsqueeze(1) - now) * ramp.view(1, -1, 1, 1)


@dataclass(frozen=True)
class GateKernels:
    """How the gates are computed in training: by torch's operators one by one, or compiled into one kernel each."""

    forward: Callable[..., None] = gate
    backward: Callable[..., None] = gate_backward
    # Keep the layers' sums for the backward pass, or compute them again there: half the memory, a tenth more time.
    recompute: bool = field(default=False, kw_only=True)


def compile_gate_kernels(device: torch.device | str = "cpu", *, recompute: bool = False) -> GateKernels | None:
    """Gates as one kernel each, made by torch.compile; None where it has no compiler to work with."""
    made = GateKernels(
        torch.compile(gate, dynamic=False), torch.compile(gate_backward, dynamic=False), recompute=recompute
    )
    summed, frames, ramp = (torch.zeros(shape, device=device) for shape in ((1, 1, 1, 2), (2, 1, 2), (1,)))
    try:
        made.forward(summed, frames, ramp, torch.zeros(1, 1, 1, 1, device=device))
    except (RuntimeError, OSError):  # InvalidCxxCompiler, or what the compiler said, as torch._inductor wraps it
        return None
    return made


def residual_stack(
    x: Tensor,
    frames: Tensor,
    ramp: Tensor,
    layers: list[LayerWeights],
    gates: GateKernels = GateKernels(),
) -> Tensor:
    """What all layers' gates let through, [T * B, L, R], with gradients for x, frames and the weights.

    x: [T * B, R + Q], the first layer's input and the auxiliary inputs, time-first;
    frames: [F + 1, B, L, 2R]; ramp: [hop] with
    T = F * hop, 0 for repetition, i / hop for linear interpolation. Before the first row stands zero in every layer.
    Products are in x's dtype; the weights may be of a wider one, and so are then their gradients.
    """
    flat = [tensor for layer in layers for tensor in layer.tensors()]
    return _ResidualStack.apply(x, frames, ramp, [layer.dilation for layer in layers], gates, *flat)


def run_layers(
    x: Tensor,
    frames: Tensor,
    ramp: Tensor,
    layers: list[LayerWeights],
    hidden: Tensor | None = None,
    gates: GateKernels = GateKernels(recompute=True),
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """The same without gradients, layer by layer: its input [T * B, R + Q], what it sums before the conditioning at
    frame rate is added [T * B, 2R], and what its gate lets through [T * B, R].

    `hidden` [T * B, L, R] keeps the latter of all layers; without it the next layer writes over it, as it does over the
    sums unless `gates` keeps them.
    """
    layers = [_in_dtype(layer, x.dtype) for layer in layers]
    n_channels = layers[0].taps.shape[0] // 2
    summed, one = x.new_empty(len(x), 2 * n_channels), None if hidden is not None else x.new_empty(len(x), n_channels)
    for i, layer in enumerate(layers):
        gated = one if hidden is None else hidden[:, i]
        if i and not gates.recompute:
            summed = torch.empty_like(summed)
        _sum_taps(x, layer, frames.shape[1], summed)
        gates.forward(_by_frame(summed, frames, ramp), frames[:, :, i], ramp, _by_frame(gated, frames, ramp))
        yield x, summed, gated
        if layer.residual is not None:
            x = _next_input(x, gated, layer)


def _in_dtype(layer: LayerWeights, dtype: torch.dtype) -> LayerWeights:
    return LayerWeights(layer.dilation, *(None if t is None else t.to(dtype) for t in layer.tensors()))


def _by_frame(rows: Tensor, frames: Tensor, ramp: Tensor) -> Tensor:
    """[F * hop * B, C] -> [F, hop, B, C]."""
    return rows.unflatten(0, (len(frames) - 1, len(ramp), frames.shape[1]))


def _offsets(layer: LayerWeights, batch_size: int) -> list[int]:
    """By how many rows each tap looks back, oldest first."""
    n_taps = layer.taps.shape[1] // (layer.taps.shape[0] // 2)
    return [layer.dilation * (n_taps - 1 - k) * batch_size for k in range(n_taps)]


def _newest(layer: LayerWeights) -> Tensor:
    """The weights of the newest tap and of the aux_inputs: [2R, R + Q]."""
    newest = layer.taps[:, -(layer.taps.shape[0] // 2) :]
    return torch.cat([newest, layer.aux_inputs], dim=1) if layer.aux_inputs.shape[1] else newest


def _sum_taps(x: Tensor, layer: LayerWeights, batch_size: int, out: Tensor) -> None:
    """Write the sum over taps and aux_inputs, [T * B, 2R], into `out`."""
    n_channels = layer.taps.shape[0] // 2
    torch.mm(x, _newest(layer).t(), out=out)
    for k, offset in enumerate(_offsets(layer, batch_size)[:-1]):
        if offset < len(x):
            weight = layer.taps[:, k * n_channels : (k + 1) * n_channels]
            out[offset:].addmm_(x[: len(x) - offset, :n_channels], weight.t())


def _next_input(x: Tensor, hidden: Tensor, layer: LayerWeights) -> Tensor:
    n_channels = len(layer.bias)
    # The aux_inputs' columns get zero weights, so that one product makes the whole next input.
    padded = torch.nn.functional.pad(layer.residual, (0, 0, 0, x.shape[1] - n_channels))
    result = torch.addmm(x, hidden, padded.t())
    result[:, :n_channels] += layer.bias
    return result


def _column_sums(rows: Tensor) -> Tensor:
    """[N, C] -> [C]; on a GPU by a product, since its reductions of columns are slow."""
    return rows.new_ones(1, len(rows)).mm(rows)[0] if rows.is_cuda else rows.sum(0)


class _ResidualStack(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, frames, ramp, dilations, gates, *flat):
        layers = _unflatten(dilations, flat)
        n_channels = layers[0].taps.shape[0] // 2
        hidden, inputs, sums = x.new_empty(len(x), len(layers), n_channels), [], []
        for given, summed, _ in run_layers(x, frames, ramp, layers, hidden, gates):
            inputs.append(given)
            sums.append(None if gates.recompute else summed)
        ctx.save_for_backward(hidden, frames, ramp, *inputs, *sums, *flat)
        ctx.dilations, ctx.gates = dilations, gates
        return hidden

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_hidden):
        hidden, frames, ramp, *rest = ctx.saved_tensors
        n_layers, n_channels = hidden.shape[1:]
        inputs, sums, flat = rest[:n_layers], rest[n_layers : 2 * n_layers], rest[2 * n_layers :]
        layers, batch_size = _unflatten(ctx.dilations, flat), frames.shape[1]
        summed = grad_summed = inputs[0].new_empty(len(hidden), 2 * n_channels)
        if ctx.gates.recompute:
            summed = torch.empty_like(grad_summed)
        # Sums of a frame's gradients, for its own value and for the next one's: [2, hop].
        blend = torch.stack([1 - ramp, ramp]).to(grad_summed.dtype)
        grad_frames, grads, grad_x = torch.zeros_like(frames), [], torch.zeros_like(inputs[0])
        for i in reversed(range(n_layers)):
            x, layer, h = inputs[i], _in_dtype(layers[i], inputs[i].dtype), hidden[:, i]
            grad_h, grad_residual, grad_bias = grad_hidden[:, i], None, None
            if layer.residual is not None:
                grad_out = grad_x[:, :n_channels]
                grad_h = torch.addmm(grad_h, grad_out, layer.residual)
                grad_residual, grad_bias = grad_out.t() @ h, _column_sums(grad_out)
            if ctx.gates.recompute:
                _sum_taps(x, layer, batch_size, summed)
            else:
                summed = sums[i]
            ctx.gates.backward(_by_frame(summed, frames, ramp), frames[:, :, i], ramp,
                               _by_frame(grad_h, frames, ramp), _by_frame(grad_summed, frames, ramp))  # fmt: skip
            by_frame = _by_frame(grad_summed, frames, ramp).flatten(2)  # [F, hop, B * 2R]
            now, following = torch.matmul(blend, by_frame).unflatten(2, (batch_size, -1)).unbind(1)
            grad_frames[:-1, :, i] += now
            grad_frames[1:, :, i] += following
            grad_newest = grad_summed.t() @ x
            grad_taps = []
            grad_x = torch.addmm(grad_x, grad_summed, _newest(layer))
            for k, offset in enumerate(_offsets(layer, batch_size)[:-1]):
                later, earlier = grad_summed[offset:], x[: max(0, len(x) - offset), :n_channels]
                grad_taps.append(later.t() @ earlier)
                if len(earlier):
                    weight = layer.taps[:, k * n_channels : (k + 1) * n_channels]
                    grad_x[: len(earlier), :n_channels].addmm_(later, weight)
            grad_taps.append(grad_newest[:, :n_channels])
            grads.append((torch.cat(grad_taps, dim=1), grad_newest[:, n_channels:], grad_residual, grad_bias))
        by_layer = [g for layer_grads in reversed(grads) for g in layer_grads]
        given = [None if g is None else g.to(p.dtype) for g, p in zip(by_layer, flat, strict=True)]
        return grad_x, grad_frames, None, None, None, *given


def _unflatten(dilations: list[int], flat: tuple[Tensor | None, ...]) -> list[LayerWeights]:
    return [LayerWeights(d, *flat[4 * i : 4 * i + 4]) for i, d in enumerate(dilations)]
