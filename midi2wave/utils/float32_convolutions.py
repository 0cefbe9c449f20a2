"""Convolutions in float32 on a GPU, where cuDNN by default rounds float32 operands to 11 bits (TF32)."""

import contextlib
import threading
from collections.abc import Iterator
from typing import Any, cast

import torch

PRECISION = "ieee"
CONVOLUTIONS = cast(Any, torch.backends.cudnn).conv  # PyTorch declares no type for it.


class _SharedSetting:
    """PyTorch's setting, which all threads share: the first user changes it, and the last one restores it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._n_users = 0
        self._before = PRECISION

    def enter(self) -> None:
        with self._lock:
            if self._n_users == 0:
                self._before = CONVOLUTIONS.fp32_precision
                CONVOLUTIONS.fp32_precision = PRECISION
            self._n_users += 1

    def leave(self) -> None:
        with self._lock:
            self._n_users -= 1
            if self._n_users == 0:
                CONVOLUTIONS.fp32_precision = self._before


_SETTING = _SharedSetting()


@contextlib.contextmanager
def float32_convolutions() -> Iterator[None]:
    """Context manager and decorator: convolutions of float32 tensors are computed in float32.

    The engines promise the same samples on every device, up to rounding of float32. Outside, in training for example,
    the user's setting holds. Not for generators: they would keep the setting while they are suspended.
    """
    _SETTING.enter()
    try:
        yield
    finally:
        _SETTING.leave()
