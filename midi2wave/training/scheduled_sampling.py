"""Scheduled sampling: in training a growing share of the samples shown as the past are the model's own.

arXiv 1506.03099, for all positions of a crop at once as in arXiv 1906.04331: a pass is one parallel forward over the
history, from which every sample is drawn, and the history's chosen positions become what was drawn there. Positions and
uniforms are the same in every pass. What is drawn at a position is final once the chosen ones before it are: as many
passes as there are positions would give what drawing them one after another gives; few go a part of that way.
"""

import torch
from torch import Tensor

from midi2wave.config import TrainConfig
from midi2wave.sampling.uniforms import seeded_uniforms
from midi2wave.training.validation import sample_teacher_forced
from wavenet import WaveNet

FIRST_STREAM = 2**40  # of the crops' uniforms: no piece that is played has these


def apply_scheduled_sampling(
    model: WaveNet,
    batch: dict[str, Tensor],
    share: float,
    settings: TrainConfig,
    device: torch.device,
    precision: torch.dtype = torch.float32,
) -> dict[str, Tensor]:
    """The batch, with a share of its history replaced by the model's own samples.

    What they are is a pure function of the weights and the batch, whose crops' indices choose the uniforms; an index
    comes in one step only. The samples before the crop, which are not predicted, stay as they are.
    """
    previous, crop = batch["history"].to(device, non_blocking=True).tensor_split([model.decoder.taps], dim=1)
    streams = [FIRST_STREAM + index for index in batch["index"].tolist()]
    uniforms = seeded_uniforms(settings.seed, streams, model.uniforms_per_sample + 1, device)(0, crop.shape[1])
    chosen = uniforms[..., -1] < share
    for _ in range(settings.scheduled_sampling_passes):
        own = sample_teacher_forced(model, batch, device, precision, uniforms[..., :-1])
        batch = batch | {"history": torch.cat([previous, torch.where(chosen, own, crop)], dim=1)}
    return batch
