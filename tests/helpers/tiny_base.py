"""Weights of a model so small that it is trained further and evaluated in seconds."""

from pathlib import Path

import torch

from midi2wave import checkpoint
from midi2wave.config import config_from_dict
from tests.helpers.pipeline import TINY_MODEL
from wavenet import build_model


def write_tiny_base(path: Path, seed: int = 0, **data: object) -> Path:
    """Write random weights with the data options of the shipped models; `data` are other options of data_config."""
    options = {"preemphasis": 0.9, "excitation": True, "conditioning_dropout": 0.1, **data}
    blocks = {**TINY_MODEL, "data_config": options}
    blocks["wavenet_config"] = {**TINY_MODEL["wavenet_config"], "output": "categorical"}
    config = config_from_dict(blocks, "the tiny base")
    torch.manual_seed(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    checkpoint.write_weights(path, build_model(config).state_dict(), config, 0, {"licence": "CC BY-SA 4.0"})
    return path
