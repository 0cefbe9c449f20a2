"""The plain implementation of the model, for comparison: Conv1d over [B, C, T] with everything at audio rate.

It uses the parameters of a `WaveNet`, so that both compute the same function and learn in the same way.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from midi2wave.modules.sample_embedding import N_CODES
from midi2wave.training.data_loader import MicroBatches
from midi2wave.training.losses import Batch
from midi2wave.training.run_state import Run
from midi2wave.training.schedules import learning_rate
from wavenet import Decoder, WaveNet


def plain_forward(model: WaveNet, history: Tensor, features: Tensor, excitation: Tensor) -> Tensor:
    """The parameters of `WaveNet.forward`, layer by layer with padded convolutions.

    Args:
        model: The model.
        history: The samples with the K samples before them, [B, K + T].
        features: Note features, [B, F, frames].
        excitation: Excitation, [B, E, T].

    Returns:
        Parameters of the output distribution, [B, P, T].
    """
    decoder, n_samples = model.decoder, history.shape[1] - model.decoder.taps
    n_layers, n_channels = len(decoder.layers), decoder.config.n_residual_channels
    x = _input_layer(decoder, history[:, :-1])
    layer_conditioning = _conditioning(model, features, excitation).chunk(n_layers, dim=1)
    skip_weights = decoder.skip.weight.unflatten(1, (n_layers, n_channels))
    skip = torch.zeros((), dtype=x.dtype, device=x.device)
    for i, (layer, cond) in enumerate(zip(decoder.layers, layer_conditioning, strict=True)):
        weight = layer.dilated.weight.unflatten(1, (decoder.taps, n_channels)).transpose(1, 2)
        dilated = F.conv1d(F.pad(x, (layer.history, 0)), weight, dilation=layer.dilation)[..., -n_samples:]
        tanh_half, sigmoid_half = (dilated + cond).chunk(2, dim=1)
        z = torch.tanh(tanh_half) * torch.sigmoid(sigmoid_half)
        skip = skip + F.conv1d(z, skip_weights[:, i, :, None])
        if layer.residual is not None:
            x = x + F.conv1d(z, layer.residual.weight[..., None], layer.residual.bias)
    skip = torch.relu(skip + decoder.skip.bias[:, None])
    hidden = torch.relu(F.conv1d(skip, decoder.hidden.weight[..., None], decoder.hidden.bias))
    params = F.conv1d(hidden, decoder.output.weight[..., None], decoder.output.bias)
    return params * decoder.units[:, None] if decoder.mixture else params


def _input_layer(decoder: Decoder, history: Tensor) -> Tensor:
    """Samples [B, K + T - 1] -> [B, R, T]."""
    if decoder.mixture:
        return decoder.input(history.unfold(1, decoder.taps, 1)).transpose(1, 2)
    weight = decoder.input.weight.unflatten(1, (decoder.taps, N_CODES)).transpose(1, 2)
    one_hot = F.one_hot(history, N_CODES).transpose(1, 2).to(weight.dtype)
    return F.conv1d(one_hot, weight, decoder.input.bias)


def _conditioning(model: WaveNet, features: Tensor, excitation: Tensor) -> Tensor:
    """The conditioning of all layers at audio rate, [B, 2R * L, T]."""
    decoder = model.decoder
    context = decoder.upsampling(model.context(features).permute(2, 0, 1)).permute(1, 2, 0)
    weights = torch.cat([layer.cond.weight for layer in decoder.layers])
    cond = F.conv1d(context, weights[..., None], torch.cat([layer.cond.bias for layer in decoder.layers]))
    if not excitation.shape[1]:
        return cond
    weights = torch.cat([layer.excitation.weight for layer in decoder.layers])
    return cond + F.conv1d(excitation, weights[..., None])


def plain_train_step(state: Run, micro_batches: list[Batch] | MicroBatches) -> float:
    """`train_step` in its simplest form, in float32.

    Args:
        state: The run, which is changed in place.
        micro_batches: The crops of the step.

    Returns:
        The loss in nats per sample.
    """
    for group in state.optimizer.param_groups:
        group["lr"] = learning_rate(state.step, state.config.train_config)
    state.optimizer.zero_grad(set_to_none=True)
    losses = []
    for micro_batch in micro_batches:
        batch_on_device = {name: value.to(state.device) for name, value in micro_batch.items()}
        loss = plain_loss(state.model, batch_on_device) / len(micro_batches)
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
