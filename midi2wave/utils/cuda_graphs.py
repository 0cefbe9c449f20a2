"""Capture of CUDA graphs: kernels that are launched again as a whole, with one call of the host."""

from collections.abc import Callable
from typing import TypeVar

import torch

Result = TypeVar("Result")

# In these, libraries choose their kernels and allocate memory, which must not be captured. The documentation of
# torch.cuda.graph requires some.
N_WARMUP_RUNS = 3


def capture_graph(run: Callable[[], Result], device: torch.device) -> tuple[torch.cuda.CUDAGraph, Result]:
    """Capture what a function launches as a CUDA graph.

    The warm-up runs before the capture change whatever the function changes; the capture itself computes nothing.

    Args:
        run: The function. It must not need a value from the device on the host.
        device: The CUDA device, which need not be the current one.

    Returns:
        The graph, and what the function returned during the capture: a replay overwrites its tensors.

    Raises:
        RuntimeError: Something in `run` can't be captured.
    """
    with torch.cuda.device(device):  # Streams and graphs belong to the current device.
        side_stream = torch.cuda.Stream()
        side_stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side_stream):
            for _ in range(N_WARMUP_RUNS):
                run()
        torch.cuda.current_stream().wait_stream(side_stream)
        graph = torch.cuda.CUDAGraph()
        # Only this thread's calls are checked: another thread may allocate pinned memory at the same time, which would
        # otherwise abort the capture.
        with torch.cuda.graph(graph, stream=side_stream, capture_error_mode="thread_local"):
            result = run()
    return graph, result
