"""A training pass as a CUDA graph: captured once, then replayed with one call of the host.

A pass of a small model is a thousand short kernels, and the host needs longer to launch them than the GPU to run them.
The batches of a run all have one shape, and nothing in a pass depends on values that the host would have to read: what
was launched once can be launched again as a whole (CUDA programming guide, "CUDA graphs").
"""

from collections.abc import Callable

import torch
from torch import Tensor

from midi2wave.utils.cuda_graphs import capture_graph


class GraphedPass:
    """A captured forward and backward pass over batches of one shape.

    The gradients of the parameters must stay the same tensors: zeroed, never set to None. The gradients that the
    capture itself leaves must be zeroed, too.

    Args:
        run: The pass: batch on the device -> Tensor; adds to the gradients.
        batch: A batch with the shape of all later ones.
        device: The CUDA device.

    Raises:
        RuntimeError: Something in `run` can't be captured.
    """

    def __init__(
        self, run: Callable[[dict[str, Tensor]], Tensor], batch: dict[str, Tensor], device: torch.device
    ) -> None:
        self.device = device
        self.static_batch = {name: value.to(device, copy=True) for name, value in batch.items()}
        self.graph, self.result = capture_graph(lambda: run(self.static_batch), device)

    def __call__(self, batch: dict[str, Tensor]) -> Tensor:
        """Return what `run` returns for this batch; the next call overwrites it."""
        with torch.cuda.device(self.device):
            for name, value in self.static_batch.items():
                value.copy_(batch[name], non_blocking=True)
            self.graph.replay()
        return self.result
