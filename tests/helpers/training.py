"""Training runs for tests: configs, a run whose model is one weight, and comparison of checkpoints."""

import contextlib
import multiprocessing.process
from pathlib import Path
from typing import Any

import pytest
import torch

import train
from midi2wave import checkpoint
from midi2wave.config import Config, TrainConfig, load_config
from midi2wave.training import loop, step
from midi2wave.training.log import TrainingLog
from midi2wave.training.losses import TrainingLosses
from midi2wave.training.optimizer import make_optimizer
from midi2wave.training.run_state import Run, create_or_resume_run
from tests.helpers.pipeline import Pipeline


def make_train_config(**options: Any) -> TrainConfig:
    """The defaults of a run of 100 steps, with other options."""
    return TrainConfig(**{"output_directory": "run", "steps": 100, "batch_size": 4, "warmup_steps": 10, **options})


def pipeline_config(pipeline: Pipeline, folder: Path, *overrides: str) -> Config:
    """The config of the tiny pipeline, with a run folder of its own and gates that need no compiler."""
    own = [f"train_config.output_directory={folder}", "train_config.compile=false"]
    return load_config(pipeline.config, train.NEEDS, [*own, *overrides])


def start_run(pipeline: Pipeline, folder: Path, *overrides: str) -> Run:
    """A run of the tiny pipeline, new or resumed from the newest checkpoint of the folder."""
    return create_or_resume_run(pipeline_config(pipeline, folder, *overrides), force=False)


def train_to_end(state: Run) -> TrainingLog:
    """Train up to the last step of the config."""
    with contextlib.closing(TrainingLog(state.folder, state.step)) as log:
        loop.train(state, log)
    return log


def make_state(folder: Path) -> Run:
    """A run whose model is one weight, and whose average is that weight + 1."""
    model = torch.nn.Linear(1, 1, bias=False)
    ema_model = torch.nn.Linear(1, 1, bias=False)
    ema_model.load_state_dict({"weight": model.weight + 1})
    settings = make_train_config(learning_rate=0.1, warmup_steps=0, ema_decay=0.5)
    optimizer = make_optimizer(model, settings)
    return Run(Config(train_config=settings), folder, torch.device("cpu"), model, ema_model, optimizer)


def use_weight_as_loss(monkeypatch: pytest.MonkeyPatch, factor: float = 1.0) -> None:
    """Let the loss of `make_state`'s model be its weight, times a factor."""

    def losses(model: torch.nn.Linear, *_: Any) -> TrainingLosses:
        nll = model.weight.sum(dim=1) * factor
        return TrainingLosses(nll, torch.zeros_like(nll), torch.zeros_like(nll))

    monkeypatch.setattr(step, "training_losses", losses)


def checkpoint_tensors(folder: Path) -> dict[str, torch.Tensor]:
    """All that the newest checkpoint of a run holds, as a flat dictionary."""
    stored, _ = checkpoint.load_training(folder)
    flat = {f"{part}.{name}": value for part in ("model", "average") for name, value in stored[part].items()}
    for number, parameter_state in stored["optimizer"]["state"].items():
        flat |= {f"optimizer.{number}.{name}": value for name, value in parameter_state.items()}
    return {**flat, "step": torch.tensor(stored["step"]), "best": torch.tensor(stored["best"])}


def same_tensors(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    """Whether two dictionaries hold equal tensors under equal names."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def data_workers() -> list[multiprocessing.process.BaseProcess]:
    """The worker processes of DataLoader; those of joblib stay after other tests of this process, for its next call."""
    return [process for process in multiprocessing.active_children() if type(process).__name__ != "LokyProcess"]
