"""Distributed training: this process's rank, and communication with the other processes.

torchrun starts the processes and sets the rank of each; DistributedDataParallel averages gradients (arXiv 2006.15704),
over gloo on CPUs and NCCL on CUDA. A single process has no process group, and everything here then costs nothing.
"""

import contextlib
import datetime
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from midi2wave.config import DistConfig
from midi2wave.utils.errors import InputError
from midi2wave.utils.signals import end_with_parent


@dataclass(frozen=True)
class World:
    """The processes that train together.

    Attributes:
        rank: Number of this process.
        size: Number of processes.
    """

    rank: int = 0
    size: int = 1

    @property
    def is_main_process(self) -> bool:
        """Whether this is the process that writes files and prints messages."""
        return self.rank == 0

    def wrap(self, model: nn.Module, device: torch.device) -> nn.Module:
        """Wrap a model so that its gradients become the mean over all processes."""
        if self.size == 1:
            return model
        devices = [device] if device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(model, device_ids=devices, broadcast_buffers=False)

    def all_reduce_sum(self, values: Tensor) -> Tensor:
        """Return the sum over all processes, on each of them; on CUDA the host does not wait for it."""
        if self.size > 1:
            values = values.clone()
            dist.all_reduce(values)
        return values

    def all_gather(self, value: Any) -> list[Any]:
        """Return the values of all processes, in the order of their ranks, on each of them."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def barrier(self) -> None:
        """Wait until all processes have called this."""
        if self.size > 1:
            dist.barrier()


SINGLE_PROCESS = World()


def local_device(device: str) -> str:
    """Choose the device of this process: the CUDA device of its rank on this machine.

    Args:
        device: The device of the config; one other than `auto` and `cuda` is returned as it is.

    Raises:
        InputError: There are fewer devices than processes.
    """
    local_rank, n_devices = os.environ.get("LOCAL_RANK"), torch.cuda.device_count()
    if not local_rank or device not in ("auto", "cuda") or not n_devices:
        return device
    if int(local_rank) >= n_devices:
        raise InputError(
            f"process {local_rank} finds {n_devices} CUDA devices; start at most as many with --nproc_per_node"
        )
    return f"cuda:{local_rank}"


@contextlib.contextmanager
def init_distributed(config: DistConfig, device: torch.device) -> Iterator[World]:
    """Connect the processes that torchrun has started, for as long as the context lasts.

    Args:
        config: Backend and timeout.
        device: The device of this process.

    Yields:
        The processes; `SINGLE_PROCESS` without torchrun.

    Raises:
        InputError: They can't be connected, or another one has ended.
    """
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        yield SINGLE_PROCESS
        return
    # Otherwise the processes of a torchrun that was killed would go on by themselves.
    end_with_parent("SIGTERM")
    world = World(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]))
    backend = config.backend if config.backend != "auto" else "nccl" if device.type == "cuda" else "gloo"
    if device.type == "cuda":
        torch.cuda.set_device(device)
    try:
        timeout = datetime.timedelta(minutes=config.timeout_minutes)
        dist.init_process_group(backend, rank=world.rank, world_size=world.size, timeout=timeout)
    except (ValueError, RuntimeError) as error:
        raise InputError(
            f"process {world.rank} of {world.size} could not join the others by {backend} "
            f"({str(error).splitlines()[0]}); see dist_config.backend"
        ) from error
    try:
        yield world
        world.barrier()  # No process closes the connections while another one still uses them.
    except RuntimeError as error:
        if not any(word in str(error) for word in ("Connection closed by peer", "Connection reset", "NCCL")):
            raise
        raise InputError(
            f"process {world.rank} lost the others; the message of the one that ended first says why"
        ) from error
    finally:
        dist.destroy_process_group()
