"""Measured limits of the machine, which other benchmarks compare with.

python -m benchmarks.limits
"""

import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from midi2wave.utils.cli import choose_device, make_plain_parser, run

if TYPE_CHECKING:
    import torch


def seconds_per_call(function: Callable[[], object], device: "torch.device", min_seconds: float = 0.5) -> float:
    """Time of one call, the best of three repetitions, after two calls to warm up.

    Args:
        function: What is measured.
        device: The device on which it runs.
        min_seconds: Minimum duration of a repetition.
    """
    from midi2wave.training.hardware import synchronize

    for _ in range(2):
        function()
    synchronize(device)
    best = float("inf")
    for _ in range(3):
        start, calls = time.perf_counter(), 0
        while (elapsed := time.perf_counter() - start) < min_seconds or not calls:
            function()
            synchronize(device)
            calls += 1
        best = min(best, elapsed / calls)
    return best


def matrix_product_rate(dtype: "torch.dtype", device: "torch.device") -> float:
    """Floating-point operations per second of a large matrix product; a multiply-add counts as two."""
    import torch

    n = 8192 if device.type == "cuda" else 2048
    a, b = torch.randn(n, n, device=device).to(dtype), torch.randn(n, n, device=device).to(dtype)
    return 2 * n**3 / seconds_per_call(lambda: a @ b, device)


def copy_bandwidth(device: "torch.device") -> float:
    """Bytes per second that a copy much larger than the caches reads and writes."""
    import torch

    a = torch.zeros(2**28 if device.type == "cuda" else 2**26, device=device)
    b = torch.empty_like(a)
    return 2 * a.numel() * a.element_size() / seconds_per_call(lambda: b.copy_(a), device)


def processor_name() -> str:
    """The name of the processor: that of Linux, elsewhere what Python knows."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    names = {line.split(":")[1].strip() for line in lines if line.startswith("model name")}
    return ", ".join(sorted(names)) or platform.processor()


def processor(device: "torch.device") -> str:
    """The name of the processor or GPU."""
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{processor_name()}, {torch.get_num_threads()} threads"


def main() -> int:
    """Measure and print; returns the exit code."""
    make_plain_parser(__doc__).parse_args()
    # PyTorch takes a second or two to import, for which neither --help nor a wrong argument should wait.
    import torch

    device = choose_device("auto")
    print(processor(device))
    for kind in (torch.float32, torch.bfloat16):
        print(f"matrix products in {kind}: {matrix_product_rate(kind, device) / 1e9:.0f} GFLOP/s")
    print(f"copy: {copy_bandwidth(device) / 1e9:.0f} GB/s")
    return 0


if __name__ == "__main__":
    run(main)
