"""The training machine: number formats, memory, synchronisation with the device."""

import contextlib
import ctypes
import os
from collections.abc import Iterator

import torch

from midi2wave.utils.errors import NoMemoryError
from wavenet import WaveNet

GIB = 2**30
MAX_INT = 2**31 - 1

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # Of malloc.h.
# Blocks up to this size are kept. The documented maximum is 32 MiB, and glibc before 2.35 refuses more.
KEPT_BLOCK_BYTES = (GIB, 32 * 2**20)
DEFAULT_THRESHOLD_BYTES = 128 * 2**10


def choose_precision(name: str, device: torch.device) -> torch.dtype:
    """Choose the number format of matrix products.

    Args:
        name: A torch dtype by name, or `auto`: bfloat16 where the processor computes it fast, otherwise float32.
        device: Where they are computed.
    """
    if name != "auto":
        return getattr(torch, name)
    if device.type == "cuda":
        fast = torch.cuda.get_device_capability(device) >= (8, 0)  # Older ones emulate it.
    else:  # torch has no public functions for these.
        fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if fast else torch.float32


def keep_freed_memory(keep: bool = True) -> None:
    """Let glibc keep large freed blocks of memory for the next allocations.

    By default it returns each of them to the system and asks for fresh pages at the next allocation of the same size,
    which costs a training step on a CPU up to a third of its time. Without glibc this does nothing.

    Args:
        keep: False restores the default.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):  # musl and macOS have no mallopt; on Windows None is no library.
        return
    thresholds = KEPT_BLOCK_BYTES if keep else (DEFAULT_THRESHOLD_BYTES,)
    # Either threshold, once set, also stops glibc from adapting both to the program. Where it refuses the first one,
    # the second alone would leave the first at 128 KiB, with more system calls than without any of this.
    if any(mallopt(M_MMAP_THRESHOLD, n_bytes) == 1 for n_bytes in thresholds):
        mallopt(M_TRIM_THRESHOLD, MAX_INT if keep else DEFAULT_THRESHOLD_BYTES)


def training_bytes(model: WaveNet, n_samples: int, precision: torch.dtype, *, recompute: bool) -> int:
    """Estimate the memory that training takes.

    Args:
        model: The model.
        n_samples: Samples in one pass, B * T; 0: the weights' part alone.
        precision: Number format of the matrix products.
        recompute: Whether pre-activations are computed again in the backward pass instead of being kept.

    Returns:
        Bytes.
    """
    decoder, size = model.decoder, precision.itemsize
    n_layers, residual = len(decoder.layers), decoder.config.n_residual_channels
    aux_inputs = decoder.layers[0].excitation.in_features
    # Kept for the backward pass: each layer's input, its pre-activations unless they are computed again, and its gated
    # activation with that one's gradient. Then the head: skip sum and hidden layer before and after their ReLU.
    channels = n_layers * ((residual + aux_inputs) + (0 if recompute else 2 * residual) + 2 * residual)
    channels += 4 * (decoder.config.n_skip_channels + decoder.config.n_out_channels)
    n_params = decoder.output.out_features
    likelihood = 4 * (25 * n_params // 3 if decoder.mixture else 4 * n_params)  # Its float32 intermediates.
    weights = 4 * sum(p.numel() for p in model.parameters())
    # Weights, gradients, two moments and the average in float32, and the gradients' copy while they are clipped.
    return 6 * weights + n_samples * (channels * size + likelihood)


def available_bytes(device: torch.device) -> int | None:
    """Return the free memory of a device in bytes, None if that can't be determined."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    with contextlib.suppress(ValueError, OSError, AttributeError), open("/proc/meminfo", encoding="ascii") as lines:
        values = dict(line.split(":") for line in lines)
        return int(values["MemAvailable"].split()[0]) * 1024
    with contextlib.suppress(ValueError, OSError, AttributeError):
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None


def synchronize(device: torch.device) -> None:
    """Synchronise the device; call before reading a timer."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@contextlib.contextmanager
def friendly_oom_errors() -> Iterator[None]:
    """Turn a failed allocation into an error message that says what to lower.

    Raises:
        NoMemoryError: Memory ran out.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        is_allocation = isinstance(error, (torch.OutOfMemoryError, MemoryError))
        if not is_allocation and "can't allocate memory" not in str(error):
            raise
        raise NoMemoryError(
            "out of memory; lower train_config.micro_batch_size (the loss stays the same) or "
            "data_config.segment_length, or set train_config.activation_checkpointing=true (on a GPU also "
            "train_config.cuda_graph=false)"
        ) from error
