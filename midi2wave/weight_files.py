"""Reading of weights from files that may be damaged, foreign or crafted: sizes, types and values are checked."""

import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from safetensors import safe_open
from safetensors.torch import load as deserialize

from midi2wave.utils.errors import InputError

FLOAT_TYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
MAX_LISTED_DIFFERENCES = 3


class UnmappedFile:
    """A .safetensors file that is read instead of mapped into memory; it offers what is used here of `safe_open`."""

    def __init__(self, path: Path) -> None:
        content = path.read_bytes()
        self.tensors = deserialize(content)
        n_header_bytes = int.from_bytes(content[:8], "little")
        self.header = json.loads(content[8 : 8 + n_header_bytes])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Nothing is open."""

    def metadata(self) -> dict[str, str] | None:
        """The texts that the file holds beside its tensors."""
        return self.header.get("__metadata__")

    def keys(self) -> list[str]:
        """The names of the tensors."""
        return list(self.tensors)

    def get_tensor(self, name: str) -> torch.Tensor:
        """One tensor."""
        return self.tensors[name]


def open_weights(path: Path) -> Any:
    """Open a .safetensors file as of `safe_open`, also where the file system cannot map files into memory.

    Raises:
        SafetensorError: The file is damaged or of another format.
        OSError: It cannot be read.
    """
    try:
        return safe_open(path, framework="pt")
    except (FileNotFoundError, PermissionError):
        raise
    except OSError:  # Without errno and file name; reading says what is wrong, if more is wrong than the mapping.
        return UnmappedFile(path)


def check_values(tensors: Mapping[str, Any], path: str | Path) -> None:
    """Check that tensors hold finite numbers.

    Args:
        tensors: The tensors by name; values of a damaged file may be anything.
        path: Their file, for messages.

    Raises:
        InputError: One of them is no tensor of floats, or holds NaN or infinity, also after conversion to float32.
    """
    for name, tensor in tensors.items():
        if not isinstance(tensor, torch.Tensor) or tensor.dtype not in FLOAT_TYPES:
            actual = tensor.dtype if isinstance(tensor, torch.Tensor) else type(tensor).__name__
            raise InputError(f"{path} is damaged ({name} is of type {actual}, expected floats)")
        if not torch.isfinite(tensor.float()).all():
            raise InputError(f"{path} holds NaN or infinity (in {name}); use an earlier checkpoint or train anew")


def check_shapes(expected: Mapping[str, torch.Size], tensors: Mapping[str, Any], path: str | Path) -> None:
    """Check the names and shapes of tensors.

    Args:
        expected: Shape of each tensor.
        tensors: The tensors by name.
        path: Their file, for messages.

    Raises:
        InputError: Names or shapes differ; the message says which.
    """
    wrong = [
        f"{name} is {list(tensors[name].shape)}, expected {list(expected[name])}"
        for name in expected.keys() & tensors.keys()
        if tensors[name].shape != expected[name]
    ]
    wrong += [f"{name} is missing" for name in sorted(expected.keys() - tensors.keys())]
    wrong += [f"{name} has no place" for name in sorted(tensors.keys() - expected.keys())]
    if wrong:
        n_more = len(wrong) - MAX_LISTED_DIFFERENCES
        more = f" and {n_more} more" if n_more > 0 else ""
        listed = "; ".join(sorted(wrong)[:MAX_LISTED_DIFFERENCES])
        raise InputError(f"{path} is of another architecture: {listed}{more}")
