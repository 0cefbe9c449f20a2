"""Losses of the plain and of the fast implementation, from the same weights on the same crops.

    python -m benchmarks.loss_curves -c config_train.json --steps 200 --out docs/loss_curves.png

Needs the processed folder of the config. Prints the mean loss of the last fifth of the steps for each.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import train
from midi2wave.config import Config, load_config
from midi2wave.plotting.pictures import save_picture
from midi2wave.utils.cli import choose_device, log, make_parser, print_result, run

if TYPE_CHECKING:
    import torch
    from matplotlib.figure import Figure


def main() -> int:
    """Train twice and draw both curves; returns the exit code."""
    arguments = make_parser(__doc__, config="config_train.json")
    arguments.add_argument("--steps", type=int, default=200)
    arguments.add_argument("--out", type=Path, default=Path("docs/loss_curves.png"))
    args = arguments.parse_args()
    overrides = ["train_config.warmup_steps=20", *args.overrides, f"train_config.steps={args.steps}"]
    config = load_config(args.config, train.NEEDS, overrides)
    # PyTorch takes a second or two to import, for which neither --help nor a wrong argument should wait.
    from midi2wave.training.hardware import choose_precision, keep_freed_memory

    device = choose_device(config.train_config.device)
    keep_freed_memory()
    precision = choose_precision("auto", device)
    fast = f"{str(precision).removeprefix('torch.')}, own backward pass, compiled gates"
    curves = {"Conv1d, float32": training_curve(config, device, None), fast: training_curve(config, device, precision)}
    save_picture(args.out, lambda: curves_figure(curves))
    last = max(1, args.steps // 5)
    result = {name: sum(losses[-last:]) / last for name, losses in curves.items()}
    lines = [f"{name}: {loss:.4f}" for name, loss in result.items()]
    print_result("\n".join(lines), result, as_json=args.as_json)
    return 0


def curves_figure(curves: dict[str, list[float]]) -> "Figure":
    """The training losses by step."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 5), dpi=100, layout="constrained")
    ax = figure.subplots()
    for (name, losses), color in zip(curves.items(), ("#d95f02", "#007878"), strict=True):
        ax.plot(range(1, len(losses) + 1), losses, color=color, linewidth=1, label=name)
    ax.set(xlabel="step", ylabel="training loss, nats per sample")
    ax.legend(frameon=False)
    ax.grid(color="0.9")
    return figure


def training_curve(config: Config, device: "torch.device", precision: "torch.dtype | None") -> list[float]:
    """The loss of each step.

    Args:
        config: The training config.
        device: The device.
        precision: Number format of the fast implementation; None: the plain implementation.
    """
    import torch

    from benchmarks.plain import plain_train_step
    from midi2wave.modules.residual_stack import GateKernels, compile_gate_kernels
    from midi2wave.training.data_loader import (
        MicroBatches,
        batches,
        crops_for_model,
        limit_workers,
        micro_batch_indices,
    )
    from midi2wave.training.run_state import make_unsaved_run
    from midi2wave.training.step import train_step

    settings, data = config.train_config, config.data_config
    state = make_unsaved_run(config, device, precision or torch.float32)
    crops = crops_for_model(data.dataset_path, data, state.model, settings.seed)
    if precision:
        state.model.decoder.gates = compile_gate_kernels(device) or GateKernels()
    indices = micro_batch_indices(range(settings.steps), settings.batch_size, state.micro_batch_size, 0, 1)
    loader = batches(crops, indices, limit_workers(data.n_workers))
    losses: list[float] = []
    for _ in range(settings.steps):
        micro_batches = MicroBatches(loader, settings.batch_size // state.micro_batch_size)
        plain = precision is None
        losses.append(plain_train_step(state, micro_batches) if plain else train_step(state, micro_batches)[0].item())
        state.step += 1
        if state.step % 20 == 0:
            log(f"step {state.step}: {losses[-1]:.3f}")
    return losses


if __name__ == "__main__":
    run(main)
