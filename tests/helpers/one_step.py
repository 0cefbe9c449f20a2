"""One step of a training by as many processes as there are; the first one saves the gradients and what was validated.

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
from midi2wave.training.run_state import create_or_resume_run
from midi2wave.training.step import train_step
from midi2wave.training.validation import validate
from midi2wave.utils.cli import make_parser


def doubled(batch):
    """Its floating-point tensors in float64, lest rounding hide a mistake."""
    return {name: value.double() if value.is_floating_point() else value for name, value in batch.items()}


def main(output: str, *given: str) -> None:
    """Save {"gradient", "loss", validation results} to `output`."""
    args = make_parser(None, config="").parse_args(given)
    config = load_config(args.config, train.NEEDS, args.overrides)
    settings = config.train_config
    with init_distributed(config.dist_config, torch.device("cpu")) as world:
        state = create_or_resume_run(config, force=True, world=world)
        state.model.double()
        state.__post_init__()  # the wrapped model's buffers are made for one dtype
        crops = crops_for_model(config.data_config.dataset_path, config.data_config, state.model, settings.seed)
        mine = micro_batch_indices(range(1), settings.batch_size, state.micro_batch_size, world.rank, world.size)
        loss = train_step(state, [doubled(batch) for batch in batches(crops, mine, 0)])[0]
        found = validate(state.ema_model, state.validation, 2, state.device, world=world)
        if world.is_main_process:
            gradient = torch.cat([p.grad.flatten() for p in state.model.parameters()])
            torch.save({"gradient": gradient, "loss": loss, **found}, output)


if __name__ == "__main__":
    main(*sys.argv[1:])
