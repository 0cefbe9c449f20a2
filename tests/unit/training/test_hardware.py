"""Errors of the training machine."""

import pytest
import torch

from midi2wave.training.hardware import friendly_oom_errors
from midi2wave.utils.errors import InputError


def test_failed_allocation_says_what_to_lower():
    remedies = r"micro_batch_size.*segment_length.*activation_checkpointing"
    with pytest.raises(InputError, match=remedies), friendly_oom_errors():
        torch.empty(2**60, dtype=torch.uint8)
    with pytest.raises(RuntimeError, match="another"), friendly_oom_errors():
        raise RuntimeError("another")
