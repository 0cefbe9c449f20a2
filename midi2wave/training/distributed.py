"""One process of several that train together: who it is, and what all of them must agree on.

torchrun starts the processes and tells each one its place; torch's own engine does the rest: DistributedDataParallel
averages gradients (arXiv 2006.15704), over gloo on CPUs and NCCL on CUDA. A process that is alone has no process group,
and everything here is then free of cost.
"""

import contextlib
import datetime
import os
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from midi2wave.config import DistConfig
from midi2wave.utils.errors import InputError


@dataclass(frozen=True)
class World:
    """All processes that train together, and this one's place among them."""

    rank: int = 0
    size: int = 1

    @property
    def is_main_process(self) -> bool:
        """Whether this is the process that writes files and speaks for all."""
        return self.rank == 0

    def wrap(self, model: nn.Module, device: torch.device) -> nn.Module:
        """The model as it must be called for its gradients to become the mean over all processes."""
        if self.size == 1:
            return model
        devices = [device] if device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(model, device_ids=devices, broadcast_buffers=False)

    def all_reduce_sum(self, values: Tensor) -> Tensor:
        """The sum over all processes, on each of them; on CUDA the host does not wait for it."""
        if self.size > 1:
            values = values.clone()
            dist.all_reduce(values)
        return values

    def all_gather(self, value: object) -> list:
        """The values that all processes give, in the order of their ranks, on each of them."""
        if self.size == 1:
            return [value]
        values = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def barrier(self) -> None:
        """Go on when all processes have come here."""
        if self.size > 1:
            dist.barrier()


SINGLE_PROCESS = World()


def local_device(device: str) -> str:
    """The device name of this process: with several of them on one machine, each takes the CUDA device of its place.

    Raises InputError if there is none left for it.
    """
    place, there = os.environ.get("LOCAL_RANK"), torch.cuda.device_count()
    if not place or device not in ("auto", "cuda") or not there:
        return device
    if int(place) >= there:
        raise InputError(f"process {place} finds {there} CUDA devices; start at most as many with --nproc_per_node")
    return f"cuda:{place}"


@contextlib.contextmanager
def init_distributed(config: DistConfig, device: torch.device) -> Iterator[World]:
    """The processes that torchrun has started, connected for as long as the context lasts; this one alone without it.

    Raises InputError where they can't be connected.
    """
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        yield SINGLE_PROCESS
        return
    world = World(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]))
    backend = config.backend if config.backend != "auto" else "nccl" if device.type == "cuda" else "gloo"
    if device.type == "cuda":
        torch.cuda.set_device(device)
    try:
        timeout = datetime.timedelta(minutes=config.timeout_minutes)
        dist.init_process_group(backend, rank=world.rank, world_size=world.size, timeout=timeout)
    except (ValueError, RuntimeError) as error:
        raise InputError(f"process {world.rank} of {world.size} could not join the others by {backend} "
                         f"({str(error).splitlines()[0]}); see dist_config.backend") from error  # fmt: skip
    try:
        yield world
        world.barrier()  # nobody takes the connections down while another one still uses them
    except RuntimeError as error:
        if not any(word in str(error) for word in ("Connection closed by peer", "Connection reset", "NCCL")):
            raise
        raise InputError(
            f"process {world.rank} lost the others; the message of the one that ended first says why"
        ) from error
    finally:
        dist.destroy_process_group()
