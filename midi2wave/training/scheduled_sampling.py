"""Scheduled sampling: in training a growing share of the decoder's history consists of the model's own samples.

arXiv 1506.03099, for all positions of a crop at once as in arXiv 1906.04331: a pass is one parallel forward over the
history, from which a sample is drawn at every position; the history's chosen positions are replaced by these. Positions
and uniforms are the same in every pass. A sample is final once the chosen ones before it are: as many passes as there
are positions would give the result of drawing them one after another; a few passes approximate it.
"""

import torch
from torch import Tensor

from midi2wave.config import TrainConfig
from midi2wave.sampling.uniforms import seeded_uniforms
from midi2wave.training.losses import Batch, forward_crops
from wavenet import WaveNet

FIRST_STREAM = 2**40  # Of the crops' uniforms: no generated piece has these.


def apply_scheduled_sampling(
    model: WaveNet,
    batch: Batch,
    probability: float,
    settings: TrainConfig,
    device: torch.device,
    precision: torch.dtype = torch.float32,
) -> Batch:
    """Replace a share of a batch's history by the model's own samples.

    The result is a pure function of the weights and the batch, whose crops' indices choose the uniforms; an index is
    used in one step only. The samples before the crop, which are not predicted, stay as they are.

    Args:
        model: The model that samples.
        batch: Crops, on any device.
        probability: Probability of each position to be replaced.
        settings: Seed and number of passes.
        device: Where the model is.
        precision: Number format of the matrix products.

    Returns:
        The batch with another history.
    """
    previous, history = batch["history"].to(device, non_blocking=True).tensor_split([model.decoder.taps], dim=1)
    streams = [FIRST_STREAM + index for index in batch["index"].tolist()]
    uniforms = seeded_uniforms(settings.seed, streams, model.uniforms_per_sample + 1, device)(0, history.shape[1])
    replaced = uniforms[..., -1] < probability
    for _ in range(settings.scheduled_sampling_passes):
        sampled = sample_teacher_forced(model, batch, device, precision, uniforms[..., :-1])
        batch = batch | {"history": torch.cat([previous, torch.where(replaced, sampled, history)], dim=1)}
    return batch


@torch.no_grad()
def sample_teacher_forced(
    model: WaveNet, batch: Batch, device: torch.device, precision: torch.dtype, uniforms: Tensor
) -> Tensor:
    """Draw a sample at every position of a batch, given the history before it.

    Args:
        model: The model that samples.
        batch: Crops, on any device.
        device: Where the model is.
        precision: Number format of the matrix products.
        uniforms: Random numbers in (0, 1), [B, T, U].

    Returns:
        16-bit values or codes, int64 [B, T].
    """
    _, output = forward_crops(model, batch, device, precision)
    return model.draw(output.params.float(), uniforms)
