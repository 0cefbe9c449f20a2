"""The obvious implementation of the same model, as the yardstick: Conv1d over [B, C, T] with everything at audio rate.

It works on the parameters of a `WaveNet`, so that both compute the same function and learn the same way.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from midi2wave.modules.sample_embedding import N_CODES
from midi2wave.training.run_state import Run
from midi2wave.training.schedules import learning_rate
from wavenet import WaveNet


def plain_forward(model: WaveNet, history: Tensor, features: Tensor, excitation: Tensor) -> Tensor:
    """The params of `WaveNet.forward`, layer by layer with padded convolutions; all layers' conditioning is one
    tensor [B, 2R * L, T]."""
    decoder, n_samples = model.decoder, history.shape[1] - model.decoder.taps
    history = history[:, :-1]
    if decoder.mixture:
        x = decoder.input(history.unfold(1, decoder.taps, 1)).transpose(1, 2)
    else:
        weight = decoder.input.weight.unflatten(1, (decoder.taps, N_CODES)).transpose(1, 2)
        x = F.conv1d(F.one_hot(history, N_CODES).transpose(1, 2).to(weight.dtype), weight, decoder.input.bias)
    context = decoder.upsampling(model.context(features).permute(2, 0, 1)).permute(1, 2, 0)
    cond = F.conv1d(context, torch.cat([layer.cond.weight for layer in decoder.layers])[..., None],
                    torch.cat([layer.cond.bias for layer in decoder.layers]))  # fmt: skip
    if excitation.shape[1]:
        cond = cond + F.conv1d(excitation, torch.cat([layer.excitation.weight for layer in decoder.layers])[..., None])
    skip, residual = 0, decoder.config.n_residual_channels
    skip_weights = decoder.skip.weight.unflatten(1, (len(decoder.layers), residual))
    for i, (layer, layer_cond) in enumerate(zip(decoder.layers, cond.chunk(len(decoder.layers), dim=1), strict=True)):
        weight = layer.dilated.weight.unflatten(1, (decoder.taps, residual)).transpose(1, 2)
        summed = F.conv1d(F.pad(x, (layer.history, 0)), weight, dilation=layer.dilation)[..., -n_samples:] + layer_cond
        tanh_half, sigmoid_half = summed.chunk(2, dim=1)
        hidden = torch.tanh(tanh_half) * torch.sigmoid(sigmoid_half)
        skip = skip + F.conv1d(hidden, skip_weights[:, i, :, None])
        if layer.residual is not None:
            x = x + F.conv1d(hidden, layer.residual.weight[..., None], layer.residual.bias)
    skip = torch.relu(skip + decoder.skip.bias[:, None])
    skip = torch.relu(F.conv1d(skip, decoder.hidden.weight[..., None], decoder.hidden.bias))
    params = F.conv1d(skip, decoder.output.weight[..., None], decoder.output.bias)
    return params * decoder.units[:, None] if decoder.mixture else params


def plain_train_step(state: Run, micro_batches: list[dict[str, Tensor]]) -> float:
    """`train_step` as one writes it first, in float32; returns the loss."""
    for group in state.optimizer.param_groups:
        group["lr"] = learning_rate(state.step, state.config.train_config)
    state.optimizer.zero_grad(set_to_none=True)
    losses = []
    for batch in micro_batches:
        loss = plain_loss(state.model, {name: value.to(state.device) for name, value in batch.items()}) / len(
            micro_batches
        )
        loss.backward()
        losses.append(loss.item())
    torch.nn.utils.clip_grad_norm_(state.model.parameters(), state.config.train_config.gradient_clip)
    state.optimizer.step()
    return sum(losses)


def plain_loss(model: WaveNet, batch: dict[str, Tensor]) -> Tensor:
    """Mean negative log-likelihood of a batch of crops in nats per sample."""
    params = plain_forward(model, batch["history"], batch["features"], batch["excitation"])
    if model.decoder.mixture:
        return -model.log_likelihood(params, batch["samples"]).mean()
    return F.cross_entropy(params, batch["samples"])
