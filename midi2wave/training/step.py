"""One optimiser step: gradients of all micro-batches, clipping, AdamW, and the moving average of the weights."""

import contextlib
import functools
import itertools
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from midi2wave.training.cuda_graph import GraphedPass
from midi2wave.training.data_loader import MicroBatches
from midi2wave.training.losses import Batch, total_loss, training_losses
from midi2wave.training.run_state import Run
from midi2wave.training.scheduled_sampling import apply_scheduled_sampling
from midi2wave.training.schedules import learning_rate, model_sample_probability
from midi2wave.utils.cli import format_error, log


def train_step(state: Run, micro_batches: Sequence[Batch] | MicroBatches, *, stopping: bool = False) -> Tensor:
    """Take one optimiser step; without a finite loss and gradient it changes nothing.

    The host reads no value from the device, and so does not wait for it.

    Args:
        state: The run; its weights, average and optimiser state are changed in place.
        micro_batches: This process's share of the batch, in batches of equal size, which are taken one by one.
        stopping: Whether this process was asked to stop.

    Returns:
        The values of `StepMetrics`, on the device.
    """
    settings = state.config.train_config
    parameters: list[Tensor] = list(state.model.parameters())
    for group in state.optimizer.param_groups:
        group["lr"] = learning_rate(state.step, settings) * group["factor"]
    n_micro_batches, batches = len(micro_batches), iter(micro_batches)
    if state.capture_pending:
        first = next(batches)
        _capture_graph(state, n_micro_batches, first)
        batches = itertools.chain([first], batches)
    state.optimizer.zero_grad(set_to_none=state.graphed_pass is None)
    local_losses = _accumulate_gradients(state, n_micro_batches, _mix_in_model_samples(state, batches))
    means = torch.cat([local_losses, local_losses.new_full((1,), stopping)]) / state.world.size
    loss, mel, diversity, stop_fraction = state.world.all_reduce_sum(means).unbind()
    norm = nn.utils.clip_grad_norm_(parameters, settings.gradient_clip)
    finite = torch.isfinite(loss + mel + diversity + norm).float()
    # A fused optimiser leaves the weights as they are where `found_inf` is 1.
    state.optimizer.found_inf = 1 - finite  # type: ignore[attr-defined]
    state.optimizer.grad_scale = None  # type: ignore[attr-defined]
    state.updating = True
    state.optimizer.step()
    # At the start the decay is small, so that the random initial weights soon have no influence on the average.
    decay = min(settings.ema_decay, (1 + state.step) / (10 + state.step))
    update_ema(list(state.ema_model.parameters()), parameters, finite * (1 - decay))
    state.updating = False
    return torch.stack([loss, norm, local_losses[0], stop_fraction, mel, diversity])


@torch.no_grad()
def update_ema(averages: list[Tensor], parameters: list[Tensor], rate: Tensor) -> None:
    """Move an exponential moving average towards the weights.

    Args:
        averages: The averaged weights, changed in place.
        parameters: The weights, in the same order.
        rate: 1 - decay, a scalar on their device; 0 leaves the average as it is.
    """
    differences = torch._foreach_sub(parameters, averages)
    torch._foreach_mul_(differences, rate)
    torch._foreach_add_(averages, differences)


def _mix_in_model_samples(state: Run, micro_batches: Iterator[Batch]) -> Iterator[Batch]:
    """Scheduled sampling, where it has begun."""
    settings = state.config.train_config
    probability = model_sample_probability(settings, state.step)
    if not probability:
        return micro_batches
    return (
        apply_scheduled_sampling(state.model, batch, probability, settings, state.device, state.precision)
        for batch in micro_batches
    )


def _accumulate_gradients(state: Run, n_micro_batches: int, micro_batches: Iterator[Batch]) -> Tensor:
    """Add the gradients of all micro-batches; returns this process's mean losses: samples, mel, diversity [3]."""
    losses = torch.zeros(3, device=state.device)
    for i, batch in enumerate(micro_batches):
        # Only the last backward pass of a step exchanges gradients with the other processes.
        more_follow = i < n_micro_batches - 1
        with _no_sync(state) if more_follow else contextlib.nullcontext():
            losses += state.graphed_pass(batch) if state.graphed_pass else _backward(state, n_micro_batches, batch)
    return losses


def _no_sync(state: Run) -> contextlib.AbstractContextManager[None]:
    """Within it a distributed model's backward pass exchanges no gradients."""
    if isinstance(state.ddp_model, nn.parallel.DistributedDataParallel):
        return state.ddp_model.no_sync()
    return contextlib.nullcontext()


def _backward(state: Run, n_micro_batches: int, batch: Batch) -> Tensor:
    """Forward and backward pass of one of a step's micro-batches: adds its gradients, returns its losses [3]."""
    losses = training_losses(state.model, batch, state.device, state.precision, state.ddp_model, state.teacher)
    samples, mel, diversity = (loss.mean() / n_micro_batches for loss in losses)
    total_loss(samples, mel, diversity, state.config.train_config).backward()
    return torch.stack([samples, mel, diversity]).detach()


def _capture_graph(state: Run, n_micro_batches: int, batch: Batch) -> None:
    """Capture a micro-batch's pass as a CUDA graph; where that is not possible, training goes on without one."""
    state.capture_pending = False
    run_pass = functools.partial(_backward, state, n_micro_batches)
    try:
        state.graphed_pass = GraphedPass(run_pass, batch, state.device)
    except RuntimeError as error:
        log(
            f"a pass could not be captured as a CUDA graph ({format_error(error)}): training goes on without one, "
            "slower (train_config.cuda_graph=false silences this)"
        )
