"""How well `hardware.training_bytes` foretells the memory of a training step: one step in a fresh process.

python -m benchmarks.training_memory --config reference --crops 16
python -m benchmarks.training_memory --config paper --crops 1 --activation_checkpointing
"""

import argparse
import resource

import torch

import train
from benchmarks.model_speed import noise_crops
from benchmarks.training import CONFIGS
from midi2wave.config import load_config
from midi2wave.modules.residual_stack import GateKernels
from midi2wave.training.data_loader import crop_samples
from midi2wave.training.hardware import GIB, training_bytes
from midi2wave.training.run_state import make_unsaved_run
from midi2wave.training.step import train_step


def main() -> None:
    """Take the step and print both figures."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--config", choices=CONFIGS, default="reference")
    arguments.add_argument("--crops", type=int, default=16, help="crops in one pass (default 16)")
    arguments.add_argument("--precision", choices=("float32", "bfloat16"), default="bfloat16")
    arguments.add_argument("--activation_checkpointing", action="store_true")
    args = arguments.parse_args()
    given = [f"train_config.{name}={args.crops}" for name in ("batch_size", "micro_batch_size")]
    config, precision = load_config(CONFIGS[args.config], train.NEEDS, given), getattr(torch, args.precision)
    data, recompute = config.data_config, args.activation_checkpointing
    n_samples = crop_samples(data)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    state = make_unsaved_run(config, torch.device("cpu"), precision)
    state.model.decoder.gates = GateKernels(recompute=recompute)
    train_step(state, [noise_crops(state.model, state.config.data_config, args.crops, n_samples)])
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    stated = training_bytes(state.model, args.crops * n_samples, precision, recompute=recompute)
    print(f"measured {grown / GIB:.2f} GiB, stated {stated / GIB:.2f} GiB")


if __name__ == "__main__":
    main()
