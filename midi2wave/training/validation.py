"""Periodic validation: held-out negative log-likelihood, and how much the MIDI conditioning lowers it.

The crops are the same in every validation of every run, and do not overlap. Each is scored with its own MIDI and with
that of another crop (a mismatched pair), of another recording if there is more than one. The difference is the
conditioning gap: a decoder that uses its conditioning does worse with the wrong notes. Several processes share the
crops.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from midi2wave.conditioning.global_conditioning import n_global_features
from midi2wave.config import VALIDATION_SEED, Config
from midi2wave.data.crops import Crops
from midi2wave.data.pairing import mismatched_pairs
from midi2wave.evaluation.conditioning_ratios import conditioning_ratios
from midi2wave.modules.argmax_bottleneck import codebook_usage
from midi2wave.training.data_loader import crops_for_model
from midi2wave.training.distillation import GuidedTeacher
from midi2wave.training.distributed import SINGLE_PROCESS, World
from midi2wave.training.losses import Batch, crop_nll, crop_nll_and_divergence
from midi2wave.utils.cli import count_of, log
from midi2wave.utils.errors import InputError
from wavenet import WaveNet

MIN_GAP_IN_STANDARD_ERRORS = 2  # A smaller conditioning gap may be chance.
GAP_ERROR = "validation_gap_error"
# Takes the place of the former if all crops are of one recording.
GAP_CROP_ERROR = "validation_gap_crop_error"


@dataclass(frozen=True)
class ValidationCrops:
    """One process's share of the validation crops.

    Attributes:
        batch: All of them as one batch.
        mismatched: Conditioning of another crop for each, of another recording if there is one, as entries to replace
            in `batch`; empty for an unconditional model.
        recordings: The recording of each crop, as a number in 0..n_recordings - 1, int64 [N].
        n_recordings: The recordings of the crops of all processes.
        warmup_samples: Number of samples at the start of each crop that are not scored.
    """

    batch: Batch
    mismatched: Batch
    recordings: Tensor
    n_recordings: int
    warmup_samples: int

    def __len__(self) -> int:
        return len(self.batch["samples"])


def load_validation(config: Config, model: WaveNet, world: World = SINGLE_PROCESS) -> ValidationCrops:
    """Read this process's validation crops.

    Raises:
        InputError: The folder is damaged or not a processed folder, or there are fewer crops than processes.
    """
    warmup_frames = math.ceil(model.decoder.receptive_field / model.hop)
    data = config.data_config
    crops = crops_for_model(data.validation_path, data, model, VALIDATION_SEED, warmup_frames=warmup_frames)
    places = _validation_places(config, crops, world)
    positions = [position for position, _ in places]
    distinct, recordings = np.unique(positions, return_inverse=True)
    pairs = mismatched_pairs(positions)
    own = [crops.crop_at(*places[i], i) for i in range(world.rank, len(places), world.size)]
    others = [crops.crop_at(*places[pairs[i]], pairs[i]) for i in range(world.rank, len(places), world.size)]
    if n_global := n_global_features(data):
        global_rows = slice(-n_global, None)
        for item, other in zip(own, others, strict=True):
            # The other recording's notes, but not its global features.
            other["features"][global_rows] = item["features"][global_rows]
    conditioning = ("features", "excitation") if data.conditional else ()
    return ValidationCrops(
        {name: torch.stack([item[name] for item in own]) for name in own[0]},
        {name: torch.stack([item[name] for item in others]) for name in conditioning},
        torch.from_numpy(recordings[world.rank :: world.size]),
        len(distinct),
        warmup_frames * model.hop,
    )


def _validation_places(config: Config, crops: Crops, world: World) -> list[tuple[int, int]]:
    """Position and first frame of the crops of all processes; logs where there is no room for all of them."""
    n, data = config.train_config.validation_crops, config.data_config
    places = crops.locate_distinct_crops(n)
    if world.is_main_process and (unused := crops.describe_unused()):
        log(unused)
    room = f"{data.validation_path} has room for {count_of(len(places), 'crop')} without overlap"
    if len(places) < world.size:
        room = f"; {room}" if len(places) < n else ""
        raise InputError(
            f"train_config.validation_crops = {n}: expected at least one for each of {world.size} processes{room}"
        )
    if len(places) < 2 and data.conditional:  # Each is also scored with another's MIDI.
        raise InputError(f"{room}, expected two or more; lower data_config.segment_length, or validate on more music")
    if world.is_main_process and len(places) < n:
        log(f"{room}; validation takes these instead of train_config.validation_crops = {n}")
    if world.is_main_process and data.conditional and len({position for position, _ in places}) < 2:
        log(
            f"{data.validation_path}: the validation crops are of one recording, so that {GAP_CROP_ERROR} is the "
            f"standard error over these crops, and {GAP_ERROR}, which needs several recordings, is missing"
        )
    return places


@torch.inference_mode()
def validate(
    model: WaveNet,
    validation: ValidationCrops,
    batch_size: int,
    device: torch.device,
    precision: torch.dtype = torch.float32,
    world: World = SINGLE_PROCESS,
    teacher: GuidedTeacher | None = None,
) -> dict[str, float]:
    """Score the validation crops with their own MIDI and with mismatched MIDI.

    Args:
        model: The model to validate, on `device`.
        validation: This process's crops.
        batch_size: Crops in one forward pass.
        device: Where the model is.
        precision: Number format of the matrix products.
        world: The processes that share the crops.
        teacher: Model from which it learns, if it does.

    Returns:
        Metrics by name. Likelihoods, the divergence from a teacher and codebook usage are means over all processes;
        the conditioning ratios are those of this process's first crop. An unconditional model has its likelihood alone.
    """
    own, mismatched, divergences = [], [], []
    ratios: list[float] = []
    counts = torch.zeros(model.n_codes, device=device, dtype=torch.float64)
    for indices in torch.arange(len(validation)).split(batch_size):
        batch = {name: value[indices] for name, value in validation.batch.items()}
        own_nll, divergence = _score_own(model, batch, device, precision, validation.warmup_samples, teacher)
        own.append(own_nll)
        divergences.extend(divergence)
        if validation.mismatched:
            swapped = batch | {name: value[indices] for name, value in validation.mismatched.items()}
            mismatched.append(crop_nll(model, swapped, device, precision, validation.warmup_samples))
            ratios = ratios or first_crop_ratios(model, batch, device, precision)
        if model.n_codes:
            codes = model.context.codes(batch["features"].to(device))
            counts += codes.flatten().bincount(minlength=model.n_codes)
    nll = torch.cat(own).double().cpu()
    if not mismatched:
        return {"validation_nll": _mean(nll, device, world)}
    gap = torch.cat(mismatched).double().cpu() - nll
    return {
        **_gap_metrics(nll, gap, validation, device, world),
        "conditioning_ratio": sorted(ratios)[len(ratios) // 2],
        **({"validation_divergence": _mean(torch.cat(divergences).double(), device, world)} if teacher else {}),
        **(codebook_usage(world.all_reduce_sum(counts).cpu().numpy()) if model.n_codes else {}),
        **{f"conditioning_ratio/layer_{i:02d}": ratio for i, ratio in enumerate(ratios)},
    }


def _score_own(
    model: WaveNet,
    batch: Batch,
    device: torch.device,
    precision: torch.dtype,
    warmup_samples: int,
    teacher: GuidedTeacher | None,
) -> tuple[Tensor, list[Tensor]]:
    """The negative log-likelihood of crops with their own MIDI, and their divergence from the teacher, if any."""
    if teacher is None:
        return crop_nll(model, batch, device, precision, warmup_samples), []
    nll, divergence = crop_nll_and_divergence(model, teacher, batch, device, precision, warmup_samples)
    return nll, [divergence]


def gap_error(metrics: dict[str, float]) -> float:
    """The standard error of a validation's conditioning gap; that over the crops if all are of one recording."""
    return metrics[GAP_ERROR] if GAP_ERROR in metrics else metrics[GAP_CROP_ERROR]


def lacks_conditioning_gap(metrics: dict[str, float]) -> bool:
    """Whether the conditioning gap of a validation is no more than chance."""
    return metrics["validation_gap"] < MIN_GAP_IN_STANDARD_ERRORS * gap_error(metrics)


def _mean(nll: Tensor, device: torch.device, world: World) -> float:
    """Mean over the crops of all processes."""
    totals = torch.tensor([float(len(nll)), nll.sum()], dtype=torch.float64, device=device)
    count, nll_sum = world.all_reduce_sum(totals).tolist()
    return nll_sum / count


def _gap_metrics(
    nll: Tensor, gap: Tensor, validation: ValidationCrops, device: torch.device, world: World
) -> dict[str, float]:
    """Mean likelihood and conditioning gap over the crops of all processes, with the gap's standard error.

    The crops of a recording are not independent. With several recordings the standard error is the cluster-robust one,
    from the sums of the residuals of each recording.
    """
    totals = torch.stack([torch.tensor(float(len(nll))).double(), nll.sum(), gap.sum(), (gap**2).sum()])
    count, nll_sum, gap_sum, gap_squares = world.all_reduce_sum(totals.to(device, torch.float64)).tolist()
    mean_gap = gap_sum / count
    metrics = {
        "validation_nll": nll_sum / count,
        "validation_nll_shuffled": nll_sum / count + mean_gap,
        "validation_gap": mean_gap,
    }
    n = validation.n_recordings
    if n < 2:
        variance = max(0.0, gap_squares - count * mean_gap**2) / (count - 1)
        return metrics | {GAP_CROP_ERROR: math.sqrt(variance / count)}
    per_recording = torch.stack([validation.recordings.bincount(one, n) for one in (torch.ones_like(gap), gap)])
    counts, gap_sums = world.all_reduce_sum(per_recording.to(device, torch.float64)).cpu()
    residuals = gap_sums - counts * mean_gap
    return metrics | {GAP_ERROR: math.sqrt(n / (n - 1) * float((residuals**2).sum())) / count}


@torch.inference_mode()
def first_crop_ratios(
    model: WaveNet, batch: Batch, device: torch.device, precision: torch.dtype = torch.float32
) -> list[float]:
    """`conditioning_ratios` of every layer in the first crop of a batch."""
    history, features, excitation = (batch[name][:1].to(device) for name in ("history", "features", "excitation"))
    with torch.autocast(device.type, precision, enabled=precision != torch.float32):
        return conditioning_ratios(model.decoder, history, model.context(features), excitation)
