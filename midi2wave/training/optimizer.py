"""The optimiser: AdamW, with a learning rate of its own for the context stack."""

import torch
from torch import nn

from midi2wave.config import TrainConfig

CONTEXT_PARTS = ("context.", "mel_head.")
BETAS = (0.9, 0.99)


def make_optimizer(model: nn.Module, settings: TrainConfig) -> torch.optim.AdamW:
    """Create AdamW with weight decay of the matrices only.

    It is fused, so that a step can be skipped without reading a value from the device. The `factor` of each parameter
    group multiplies the learning rate: 1, or `context_learning_rate` for the context stack and its auxiliary head.
    """
    groups = []
    for is_context, factor in ((False, 1.0), (True, settings.context_learning_rate)):
        names = [name for name, _ in model.named_parameters() if name.startswith(CONTEXT_PARTS) == is_context]
        parameters = [model.get_parameter(name) for name in names]
        matrices = [p for p in parameters if p.ndim > 1]
        vectors = [p for p in parameters if p.ndim <= 1]
        for decay, part in ((settings.weight_decay, matrices), (0.0, vectors)):
            groups.append({"params": part, "weight_decay": decay, "factor": factor})
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=BETAS, fused=True)
