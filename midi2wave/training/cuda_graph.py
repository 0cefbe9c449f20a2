"""A training pass as a CUDA graph: recorded once, then replayed with one call of the host.

A pass of a small model is a thousand short kernels, and the host needs longer to launch them than the GPU to run them.
The batches of a run all have one shape, and nothing in a pass depends on what the host would have to look at: what was
launched once can be launched again as a whole (CUDA programming guide, "CUDA graphs").
"""

from collections.abc import Callable

import torch
from torch import Tensor

PASSES_BEFORE = 3  # with which libraries choose their kernels and take their memory: not to be recorded


class GraphedPass:
    """`run` of batches of one shape: adds to the gradients what it added while it was recorded.

    run: batch on the device -> Tensor. The gradients of the parameters must stay the tensors that they are: zeroed,
    never set to None. Those that the recording itself leaves are to be zeroed, too. Raises RuntimeError where something
    in `run` can't be recorded.
    """

    def __init__(
        self, run: Callable[[dict[str, Tensor]], Tensor], batch: dict[str, Tensor], device: torch.device
    ) -> None:
        self.device = device
        with torch.cuda.device(device):  # streams and graphs are those of the current one
            self.given = {name: value.to(device, copy=True) for name, value in batch.items()}
            aside = torch.cuda.Stream()
            aside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(aside):
                for _ in range(PASSES_BEFORE):
                    run(self.given)
            torch.cuda.current_stream().wait_stream(aside)
            self.graph = torch.cuda.CUDAGraph()
            # Of this thread's calls only: the loader's thread takes pinned memory meanwhile, which else breaks it off.
            with torch.cuda.graph(self.graph, stream=aside, capture_error_mode="thread_local"):
                self.result = run(self.given)

    def __call__(self, batch: dict[str, Tensor]) -> Tensor:
        """What `run` returns for this batch; the next call writes over it."""
        with torch.cuda.device(self.device):
            for name, value in self.given.items():
                value.copy_(batch[name], non_blocking=True)
            self.graph.replay()
        return self.result
