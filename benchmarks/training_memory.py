"""Predicted (`hardware.training_bytes`) and measured memory of a training step, taken in a fresh process.

python -m benchmarks.training_memory --config reference --crops 16
python -m benchmarks.training_memory --config paper --crops 1 --activation_checkpointing
"""

import argparse

import train
from benchmarks.configs import CONFIGS
from midi2wave.config import load_config
from midi2wave.utils.cli import make_plain_parser, run


def main() -> int:
    """Take one step and print both numbers; returns the exit code."""
    arguments = make_plain_parser(__doc__)
    arguments.add_argument("--config", choices=CONFIGS, default="reference")
    arguments.add_argument("--crops", type=int, default=16, help="crops in one pass (default 16)")
    arguments.add_argument("--precision", choices=("float32", "bfloat16"), default="bfloat16")
    arguments.add_argument("--activation_checkpointing", action="store_true")
    args = arguments.parse_args()
    print(measure(args))
    return 0


def measure(args: argparse.Namespace) -> str:
    """Take one step; returns both numbers."""
    import resource  # Windows has none.

    import torch  # --help should not wait for it.

    from benchmarks.speed_measurement import noise_crops
    from midi2wave.modules.residual_stack import GateKernels
    from midi2wave.training.data_loader import crop_samples
    from midi2wave.training.hardware import GIB, training_bytes
    from midi2wave.training.run_state import make_unsaved_run
    from midi2wave.training.step import train_step

    overrides = [f"train_config.{name}={args.crops}" for name in ("batch_size", "micro_batch_size")]
    config = load_config(CONFIGS[args.config], train.NEEDS, overrides)
    precision, recompute = getattr(torch, args.precision), args.activation_checkpointing
    n_samples = crop_samples(config.data_config)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    state = make_unsaved_run(config, torch.device("cpu"), precision)
    state.model.decoder.gates = GateKernels(recompute=recompute)
    train_step(state, [noise_crops(state.model, state.config.data_config, args.crops, n_samples)])
    measured = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    predicted = training_bytes(state.model, args.crops * n_samples, precision, recompute=recompute)
    return f"measured {measured / GIB:.2f} GiB, predicted {predicted / GIB:.2f} GiB"


if __name__ == "__main__":
    run(main)
