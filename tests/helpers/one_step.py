"""One step of a distributed training; the main process saves gradients, loss and validation metrics.

torchrun --standalone --nproc_per_node=2 tests/helpers/one_step.py OUTPUT -c CONFIG [--set ...]
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch

import train
from midi2wave.config import load_config
from midi2wave.training.data_loader import batches, crops_for_model, micro_batch_indices
from midi2wave.training.distributed import init_distributed
from midi2wave.training.losses import Batch
from midi2wave.training.run_state import create_or_resume_run
from midi2wave.training.step import train_step
from midi2wave.training.validation import validate
from midi2wave.utils.cli import make_parser, run


def to_float64(batch: Batch) -> Batch:
    """The batch with its floating-point tensors in float64, so that rounding hides no mistake."""
    return {name: value.double() if value.is_floating_point() else value for name, value in batch.items()}


def main(output: str, *arguments: str) -> int:
    """Take the step.

    Args:
        output: File to write: {"gradient", "loss", validation metrics}.
        *arguments: Arguments of train.py.
    """
    args = make_parser(None, config="").parse_args(arguments)
    config = load_config(args.config, train.NEEDS, args.overrides)
    settings = config.train_config
    with init_distributed(config.dist_config, torch.device("cpu")) as world:
        state = create_or_resume_run(config, force=True, world=world)
        state.model.double()
        state.__post_init__()  # The wrapped model's buffers are made for one dtype.
        crops = crops_for_model(config.data_config.dataset_path, config.data_config, state.model, settings.seed)
        indices = micro_batch_indices(range(1), settings.batch_size, state.micro_batch_size, world.rank, world.size)
        loss = train_step(state, [to_float64(batch) for batch in batches(crops, indices, 0)])[0]
        metrics = validate(state.ema_model, state.validation, 2, state.device, world=world)
        if world.is_main_process:
            gradient = torch.cat([p.grad.flatten() for p in state.model.parameters()])
            torch.save({"gradient": gradient, "loss": loss, **metrics}, output)
    return 0


if __name__ == "__main__":
    run(lambda: main(*sys.argv[1:]))
