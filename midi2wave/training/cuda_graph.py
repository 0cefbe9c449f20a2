"""A training pass as a CUDA graph: captured once, then replayed with one call of the host.

A pass of a small model is a thousand short kernels, and the host needs longer to launch them than the GPU to run them.
The batches of a run all have one shape, and nothing in a pass depends on values that the host would have to read: what
was launched once can be launched again as a whole (CUDA programming guide, "CUDA graphs").
"""

from collections.abc import Callable

import torch
from torch import Tensor

N_WARMUP_PASSES = 3  # In these, libraries choose their kernels and allocate memory, which must not be captured.


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
        with torch.cuda.device(device):  # Streams and graphs belong to the current device.
            self.static_batch = {name: value.to(device, copy=True) for name, value in batch.items()}
            side_stream = torch.cuda.Stream()
            side_stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side_stream):
                for _ in range(N_WARMUP_PASSES):
                    run(self.static_batch)
            torch.cuda.current_stream().wait_stream(side_stream)
            self.graph = torch.cuda.CUDAGraph()
            # Only this thread's calls are checked: the loader's thread allocates pinned memory at the same time, which
            # would otherwise abort the capture.
            with torch.cuda.graph(self.graph, stream=side_stream, capture_error_mode="thread_local"):
                self.result = run(self.static_batch)

    def __call__(self, batch: dict[str, Tensor]) -> Tensor:
        """Return what `run` returns for this batch; the next call overwrites it."""
        with torch.cuda.device(self.device):
            for name, value in self.static_batch.items():
                value.copy_(batch[name], non_blocking=True)
            self.graph.replay()
        return self.result
