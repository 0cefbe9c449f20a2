"""What a training asks of its model now and then: how likely unseen crops are, and what of that is owed to the MIDI.

The crops are always the same ones, each with a partner of another recording: with the partner's MIDI instead of its own
a decoder that listens does worse. Several processes share the crops.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from midi2wave.config import Config, DataConfig
from midi2wave.data.crops import NO_AUGMENTATION, CropAugmentation, Crops
from midi2wave.data.pairing import mismatched_pairs
from midi2wave.data.processed_folder import ProcessedFolder
from midi2wave.evaluation.conditioning_ratios import conditioning_ratios
from midi2wave.modules.argmax_bottleneck import codebook_usage
from midi2wave.training.distributed import SINGLE_PROCESS, World
from midi2wave.training.log_mel import log_mel
from midi2wave.utils.errors import InputError
from wavenet import WaveNet, WaveNetOutput

SEED = 2**40  # no run's seed: the validation crops are the same in every run


def crops_for_model(
    path: str,
    data: DataConfig,
    model: WaveNet,
    seed: int,
    *,
    warmup_frames: int = 0,
    augmentation: CropAugmentation = NO_AUGMENTATION,
) -> Crops:
    """The crops of a processed folder as this model needs them (see `Crops`)."""
    return Crops(
        ProcessedFolder(path),
        data,
        context_frames=model.context_frames,
        n_previous=model.decoder.taps,
        codes=not model.decoder.mixture,
        seed=seed,
        warmup_frames=warmup_frames,
        augmentation=augmentation,
    )


def _passed(
    batch: dict[str, Tensor], device: torch.device, precision: torch.dtype, called: nn.Module
) -> tuple[Tensor, WaveNetOutput]:
    """The crops' samples [B, T] on the device, and the output of the model, called as `called`, for their histories."""
    batch_on_device = {name: value.to(device, non_blocking=True) for name, value in batch.items()}
    inputs = (batch_on_device[name] for name in ("history", "features", "excitation"))
    with torch.autocast(device.type, precision, enabled=precision != torch.float32):
        return batch_on_device["samples"], called(*inputs)


@torch.no_grad()
def sample_teacher_forced(
    model: WaveNet, batch: dict[str, Tensor], device: torch.device, precision: torch.dtype, uniforms: Tensor
) -> Tensor:
    """The samples that the model draws in the place of the crops' own, each given the history before it: int64 [B, T],
    by uniforms [B, T, U]."""
    _, output = _passed(batch, device, precision, model)
    return model.draw(output.params.float(), uniforms)


def training_losses(
    model: WaveNet, batch: dict[str, Tensor], device: torch.device, precision: torch.dtype, called: nn.Module
) -> tuple[Tensor, Tensor, Tensor]:
    """The training's losses: of each crop `negative_log_likelihood` [B], and how far the auxiliary head is from the
    log-mel spectrum, in nats of amplitude [B] (0 without a head); of all of them that of the codes' use (0 without
    codes). `called` is the model as it must be called, where it is wrapped."""
    samples, output = _passed(batch, device, precision, called)
    nll = -model.log_likelihood(output.params, samples).mean(dim=1)
    diversity = nll.new_zeros(()) if output.diversity_loss is None else output.diversity_loss
    if output.mel_prediction is None:
        return nll, torch.zeros_like(nll), diversity
    n_mels = output.mel_prediction.shape[1]
    target, first = log_mel(model.decoder.amplitudes(samples), model.audio_hz, model.hop, n_mels)
    mel_prediction = output.mel_prediction[..., first : first + target.shape[-1]].float()
    return nll, (mel_prediction - target).abs().mean(dim=(1, 2)), diversity


def negative_log_likelihood(
    model: WaveNet,
    batch: dict[str, Tensor],
    device: torch.device,
    precision: torch.dtype = torch.float32,
    warmup_samples: int = 0,
) -> Tensor:
    """Mean over each crop but its first `warmup_samples`, in nats per sample: [B], float32; products in `precision`."""
    samples, output = _passed(batch, device, precision, model)
    return -model.log_likelihood(output.params, samples)[:, warmup_samples:].mean(dim=1)


@dataclass(frozen=True)
class Validation:
    """One process's share of the validation crops."""

    crops: dict[str, Tensor]  # as a batch of all of them
    of_partners: dict[str, Tensor]  # the partners' features and excitation, in the same order; of no MIDI none
    warmup_samples: int

    def __len__(self) -> int:
        return len(self.crops["samples"])


def load_validation(config: Config, model: WaveNet, world: World = SINGLE_PROCESS) -> Validation:
    """Read this process's validation crops. Raises InputError for what is wrong with their folder."""
    n = config.train_config.validation_crops
    if n < world.size:
        raise InputError(
            f"train_config.validation_crops = {n}: expected at least one for each of {world.size} processes"
        )
    warmup_frames = math.ceil(model.decoder.receptive_field / model.hop)
    path, data = config.data_config.validation_path, config.data_config
    crops = crops_for_model(path, data, model, SEED, warmup_frames=warmup_frames)
    partner = mismatched_pairs([crops.locate_crop(i)[0] for i in range(n)])
    own = [crops[i] for i in range(world.rank, n, world.size)]
    others = [crops[partner[i]] for i in range(world.rank, n, world.size)]
    given = ("features", "excitation") if data.conditional else ()
    for item, other in zip(own, others, strict=True) if data.global_values else ():
        global_rows = slice(-len(data.global_values), None)
        other["features"][global_rows] = item["features"][global_rows]  # the partner's notes, not its recording
    return Validation(
        {name: torch.stack([item[name] for item in own]) for name in crops[0]},
        {name: torch.stack([item[name] for item in others]) for name in given},
        warmup_frames * model.hop,
    )


@torch.inference_mode()
def validate(
    model: WaveNet,
    validation: Validation,
    batch_size: int,
    device: torch.device,
    precision: torch.dtype = torch.float32,
    world: World = SINGLE_PROCESS,
) -> dict[str, float]:
    """Likelihood of the validation crops with their own MIDI and with their partner's; how strong the MIDI is inside,
    and how its codes are used, if it has any.

    Likelihoods and use are of all processes' crops, the same on each of them; the ratios are of this one's first crop.
    Of an unconditional model there is the likelihood alone.
    """
    own, other, ratios, n_codes = [], [], [], model.n_codes
    counts = torch.zeros(n_codes, device=device, dtype=torch.float64)
    for chosen in torch.arange(len(validation)).split(batch_size):
        batch = {name: value[chosen] for name, value in validation.crops.items()}
        swapped = batch | {name: value[chosen] for name, value in validation.of_partners.items()}
        for results, given in ((own, batch), (other, swapped)) if validation.of_partners else ((own, batch),):
            results.append(negative_log_likelihood(model, given, device, precision, validation.warmup_samples))
        if n_codes:
            codes = model.context.codes(batch["features"].to(device))
            counts += codes.flatten().bincount(minlength=n_codes)
        if not ratios and validation.of_partners:
            ratios = first_crop_ratios(model, batch, device, precision)
    own = torch.cat(own).double().cpu()
    if not validation.of_partners:
        sums = torch.tensor([float(len(own)), own.sum()], dtype=torch.float64, device=device)
        count, own_sum = world.all_reduce_sum(sums).tolist()
        return {"validation_nll": own_sum / count}
    gap = torch.cat(other).double().cpu() - own
    sums = torch.stack([torch.tensor(float(len(own))).double(), own.sum(), gap.sum(), (gap**2).sum()])
    count, own_sum, gap_sum, gap_squares = world.all_reduce_sum(sums.to(device, torch.float64)).tolist()
    mean_gap = gap_sum / count
    variance = max(0.0, gap_squares - count * mean_gap**2) / (count - 1)
    return {
        "validation_nll": own_sum / count,
        "validation_nll_shuffled": own_sum / count + mean_gap,
        "validation_gap": mean_gap,
        "validation_gap_error": math.sqrt(variance / count),  # standard error, paired by crop
        "conditioning_ratio": sorted(ratios)[len(ratios) // 2],
        **(codebook_usage(world.all_reduce_sum(counts).cpu().numpy()) if n_codes else {}),
        **{f"conditioning_ratio/layer_{i:02d}": ratio for i, ratio in enumerate(ratios)},
    }


@torch.inference_mode()
def first_crop_ratios(
    model: WaveNet, batch: dict[str, Tensor], device: torch.device, precision: torch.dtype = torch.float32
) -> list[float]:
    """`conditioning_ratios` of every layer in the first crop of a batch."""
    history, features, excitation = (batch[name][:1].to(device) for name in ("history", "features", "excitation"))
    with torch.autocast(device.type, precision, enabled=precision != torch.float32):
        return conditioning_ratios(model.decoder, history, model.context(features), excitation)
