"""Losses of training: of the samples, the log-mel error of the auxiliary head, the diversity of the codes."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from midi2wave.config import TrainConfig
from midi2wave.training.distillation import GuidedTeacher, divergence
from midi2wave.training.log_mel import log_mel
from wavenet import WaveNet, WaveNetOutput

Batch = dict[str, Tensor]  # As `midi2wave.data.crops.Crops` makes them, with a first dimension B.


class TrainingLosses(NamedTuple):
    """The losses of a batch of B crops.

    Attributes:
        samples: Loss of the samples of each crop in nats per sample, float32 [B]: the negative log-likelihood; with a
            teacher the divergence from its distributions.
        mel: Mean absolute log-mel error of the auxiliary head in nats of amplitude [B]; 0 without such a head.
        diversity: Loss of the codebook's usage over all crops, a scalar; 0 without codes.
    """

    samples: Tensor
    mel: Tensor
    diversity: Tensor


def forward_crops(
    model: nn.Module, batch: Batch, device: torch.device, precision: torch.dtype
) -> tuple[Tensor, WaveNetOutput]:
    """Apply the model to crops, teacher-forced on their histories.

    Args:
        model: The model, possibly wrapped for distributed training.
        batch: Crops, on any device.
        device: Where the model is.
        precision: Number format of the matrix products.

    Returns:
        The crops' samples [B, T] on the device, and the model's output for them.
    """
    batch = to_device(batch, device)
    inputs = [batch[name] for name in ("history", "features", "excitation")]
    with torch.autocast(device.type, precision, enabled=precision != torch.float32):
        return batch["samples"], model(*inputs)


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The batch on a device; what is there already is not copied."""
    return {name: value.to(device, non_blocking=True) for name, value in batch.items()}


def training_losses(
    model: WaveNet,
    batch: Batch,
    device: torch.device,
    precision: torch.dtype,
    ddp_model: nn.Module | None = None,
    teacher: GuidedTeacher | None = None,
) -> TrainingLosses:
    """Compute the losses of a batch of crops.

    Args:
        model: The model.
        batch: Crops, on any device.
        device: Where the model is.
        precision: Number format of the matrix products.
        ddp_model: The model as it must be called, where it is wrapped for distributed training.
        teacher: Model from which it learns; None: it learns from the samples.
    """
    batch = to_device(batch, device)
    samples, output = forward_crops(model if ddp_model is None else ddp_model, batch, device, precision)
    if teacher:
        sample_loss = divergence(teacher.log_probabilities(batch, precision), output.params)
    else:
        sample_loss = -model.log_likelihood(output.params, samples).mean(dim=1)
    mel, diversity = torch.zeros_like(sample_loss), sample_loss.new_zeros(())
    if output.mel_prediction is not None:
        mel = mel_error(model, samples, output.mel_prediction)
    if output.diversity_loss is not None:
        diversity = output.diversity_loss
    return TrainingLosses(sample_loss, mel, diversity)


def mel_error(model: WaveNet, samples: Tensor, mel_prediction: Tensor) -> Tensor:
    """Mean absolute difference between predicted and true log-mel spectrum.

    Args:
        model: The model that made the prediction.
        samples: Sample values or codes [B, T].
        mel_prediction: Output of the auxiliary head [B, n_mels, N].

    Returns:
        The error of each crop in nats of amplitude, float32 [B].
    """
    amplitudes = model.decoder.input.amplitudes(samples)
    target, first = log_mel(amplitudes, model.audio_hz, model.hop, mel_prediction.shape[1])
    predicted = mel_prediction[..., first : first + target.shape[-1]].float()
    return (predicted - target).abs().mean(dim=(1, 2))


def total_loss(samples: Tensor, mel: Tensor, diversity: Tensor, settings: TrainConfig) -> Tensor:
    """The scalar that training minimises: the weighted sum of the mean losses."""
    return samples + settings.mel_loss_weight * mel + settings.diversity_loss_weight * diversity


def crop_nll(
    model: WaveNet,
    batch: Batch,
    device: torch.device,
    precision: torch.dtype = torch.float32,
    warmup_samples: int = 0,
) -> Tensor:
    """Mean negative log-likelihood of each crop.

    Args:
        model: The model.
        batch: Crops, on any device.
        device: Where the model is.
        precision: Number format of the matrix products.
        warmup_samples: Number of samples at the start of each crop that do not count.

    Returns:
        Nats per sample, float32 [B].
    """
    samples, output = forward_crops(model, batch, device, precision)
    return _mean_nll(model, output, samples, warmup_samples)


def _mean_nll(model: WaveNet, output: WaveNetOutput, samples: Tensor, warmup_samples: int) -> Tensor:
    return -model.log_likelihood(output.params, samples)[:, warmup_samples:].mean(dim=1)


def crop_nll_and_divergence(
    model: WaveNet,
    teacher: GuidedTeacher,
    batch: Batch,
    device: torch.device,
    precision: torch.dtype = torch.float32,
    warmup_samples: int = 0,
) -> tuple[Tensor, Tensor]:
    """`crop_nll`, and the divergence of the model's distributions from the teacher's, from one forward pass.

    Args:
        model: The model.
        teacher: Its teacher.
        batch: Crops, on any device.
        device: Where both models are.
        precision: Number format of the matrix products.
        warmup_samples: Number of samples at the start of each crop that do not count in the likelihood. In the
            divergence all count, as in the training loss.

    Returns:
        Negative log-likelihood and divergence of each crop in nats per sample, both float32 [B].
    """
    batch = to_device(batch, device)
    samples, output = forward_crops(model, batch, device, precision)
    nll = _mean_nll(model, output, samples, warmup_samples)
    return nll, divergence(teacher.log_probabilities(batch, precision), output.params)
