"""Guidance distillation: a student learns to predict in one pass what guidance computes from two passes of a teacher.

The loss is the Kullback-Leibler divergence of the student's distribution of each sample from the guided one of the
teacher, on the same crops: the first stage of arXiv 2210.03142, section 3, for a model that predicts distributions.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from midi2wave import checkpoint
from midi2wave.conditioning.features import NULL_FEATURE
from midi2wave.conditioning.global_conditioning import n_global_features
from midi2wave.config import Config
from midi2wave.utils.errors import InputError
from wavenet import WaveNet


@dataclass(frozen=True)
class GuidedTeacher:
    """A model whose guided distribution is to be learnt.

    Attributes:
        model: Its weights, which do not change.
        guidance: Scale of its guidance.
        n_global: Number of global features, which the null condition keeps.
    """

    model: WaveNet
    guidance: float
    n_global: int

    @torch.no_grad()
    def log_probabilities(self, batch: dict[str, Tensor], precision: torch.dtype) -> Tensor:
        """The guided distributions, teacher-forced on the crops' histories.

        Args:
            batch: Crops as of `Crops`, with a first dimension B, on the model's device.
            precision: Number format of the matrix products.

        Returns:
            Log-probability of each code at each sample, float32 [B, 256, T].
        """
        inputs = [batch[name] for name in ("history", "features", "excitation")]
        device = inputs[0].device
        with torch.autocast(device.type, precision, enabled=precision != torch.float32):
            own = self.model(*inputs).params.float()
            if self.guidance == 1:
                return own.log_softmax(dim=1)
            features, excitation = null_condition(batch["features"], batch["excitation"], self.n_global)
            null = self.model(batch["history"], features, excitation).params.float()
        return self.model.guide(torch.cat([own, null]), self.guidance).log_softmax(dim=1)


def null_condition(features: Tensor, excitation: Tensor, n_global: int) -> tuple[Tensor, Tensor]:
    """The null condition in place of a batch's notes, as `NullConditioning` makes it for a crop.

    Args:
        features: [B, F + G, N].
        excitation: [B, E, T].
        n_global: G, the number of global features, which stay.
    """
    null = torch.full_like(features, NULL_FEATURE)
    first_global = features.shape[1] - n_global
    null[:, first_global:] = features[:, first_global:]
    return null, torch.zeros_like(excitation)


def divergence(teacher: Tensor, params: Tensor) -> Tensor:
    """Kullback-Leibler divergence of the student's distributions from the teacher's.

    Args:
        teacher: Log-probabilities of the teacher, float32 [B, 256, T].
        params: Logits of the student [B, 256, T].

    Returns:
        Mean over the samples of each crop in nats, float32 [B].
    """
    student = params.float().log_softmax(dim=1)
    return (teacher.exp() * (teacher - student)).sum(dim=1).mean(dim=1)


def load_teacher(config: Config, device: torch.device) -> GuidedTeacher | None:
    """The teacher of a run.

    Args:
        config: The config of the run.
        device: Where the run's model is.

    Returns:
        None if the config names none.

    Raises:
        InputError: There is no such model, it has no guidance, or crops of this run are not made for it.
    """
    source, guidance = config.train_config.teacher_filename, config.train_config.teacher_guidance
    if not source:
        return None
    model, teacher_config, _ = checkpoint.load_model(source, device)
    if wrong := checkpoint.differences(config, teacher_config):
        raise InputError(f"train_config.teacher_filename = {source} is another model: {'; '.join(wrong)}")
    if model.decoder.mixture:
        raise InputError(
            f"train_config.teacher_filename = {source}: expected a model with wavenet_config.output = categorical; a "
            "mixture's divergence has no closed form"
        )
    if not teacher_config.data_config.conditioning_dropout:
        raise InputError(
            f"train_config.teacher_filename = {source} has no null condition: it was trained without "
            "data_config.conditioning_dropout"
        )
    return GuidedTeacher(model.requires_grad_(False), guidance, n_global_features(teacher_config.data_config))
