"""Errors of the training machine."""

import platform
import subprocess
import sys

import pytest
import torch

from midi2wave.modules.residual_stack import GateKernels
from midi2wave.training import hardware
from midi2wave.training.hardware import friendly_oom_errors, training_bytes
from midi2wave.training.optimizer import make_optimizer
from midi2wave.utils.errors import InputError
from tests.helpers.paths import ROOT
from tests.helpers.training import make_train_config
from tests.helpers.wavenet_models import N_FRAMES, make_conditioning, make_model, random_samples


def test_failed_allocation_says_what_to_lower():
    remedies = r"micro_batch_size.*segment_length.*activation_checkpointing"
    with pytest.raises(InputError, match=remedies), friendly_oom_errors():
        torch.empty(2**60, dtype=torch.uint8)
    with pytest.raises(RuntimeError, match="another"), friendly_oom_errors():
        raise RuntimeError("another")


class FakeLibc:
    """A C library whose mallopt accepts memory-map thresholds up to a limit, and notes what was accepted."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.accepted: dict[int, int] = {}

    def mallopt(self, option: int, value: int) -> int:
        """1 if the value was accepted, otherwise 0."""
        if option == hardware.M_MMAP_THRESHOLD and value > self.limit:
            return 0
        self.accepted[option] = value
        return 1


@pytest.mark.parametrize(("limit", "threshold"), [(2**31 - 1, 2**30), (32 * 2**20, 32 * 2**20)])
def test_memory_threshold_is_one_that_glibc_accepts(monkeypatch, limit, threshold):
    """glibc before 2.35 refuses what exceeds the documented maximum."""
    libc = FakeLibc(limit)
    monkeypatch.setattr(hardware.ctypes, "CDLL", lambda _: libc)
    hardware.keep_freed_memory()
    expected = {hardware.M_MMAP_THRESHOLD: threshold, hardware.M_TRIM_THRESHOLD: 2**31 - 1}
    assert libc.accepted == expected
    hardware.keep_freed_memory(keep=False)
    assert set(libc.accepted.values()) == {128 * 1024}


def test_refused_memory_threshold_changes_nothing(monkeypatch):
    """The trim threshold alone would freeze the other one at 128 KiB."""
    libc = FakeLibc(limit=1024)
    monkeypatch.setattr(hardware.ctypes, "CDLL", lambda _: libc)
    hardware.keep_freed_memory()
    assert libc.accepted == {}


@pytest.mark.parametrize("error", [OSError, TypeError])
def test_memory_setting_needs_no_c_library(monkeypatch, error):
    """As on Windows."""

    def refuse(_: None) -> None:
        raise error

    monkeypatch.setattr(hardware.ctypes, "CDLL", refuse)
    hardware.keep_freed_memory()
    monkeypatch.setattr(hardware.ctypes, "CDLL", lambda _: object())  # A library without mallopt.
    hardware.keep_freed_memory()


FAULTS = """
import resource, torch
from midi2wave.training.hardware import keep_freed_memory
keep_freed_memory()
for _ in range(2):
    blocks = [torch.ones(2**21) for _ in range(4)]
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    del blocks
    blocks = [torch.ones(2**21) for _ in range(4)]
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_freed_memory_is_used_again_without_page_faults():
    """Without the setting each of the 40 blocks of 8 MiB would have 2,048 of them."""
    command = [sys.executable, "-c", FAULTS]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT, timeout=60)
    assert int(done.stdout) < 4096


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize(("output", "low", "high"), [("logistic_mixture", 0.5, 2), ("categorical", 1, 4)])
def test_estimate_of_memory_is_near_the_memory(output, low, high, recompute):
    """Weights with all that goes with them, and the tensors that are saved for the backward pass.

    The estimate includes those that the likelihood of 256 classes needs for a moment only.
    """
    model = make_model(output, dtype=torch.float32)
    model.decoder.gates = GateKernels(recompute=recompute)
    conditioning, samples = make_conditioning(dtype=torch.float32), random_samples(model)
    left, right = model.context_frames
    saved: dict[int, int] = {}

    def keep(tensor):
        if not isinstance(tensor, torch.nn.Parameter):
            saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        features = conditioning.features(-left, left + N_FRAMES + right)
        params = model(model.decoder.prepend_silence(samples), features, conditioning.excitation(0, N_FRAMES)).params
        loss = -model.log_likelihood(params, samples).mean()
    loss.backward()
    optimizer = make_optimizer(model, make_train_config())
    optimizer.step()
    parameters = list(model.parameters())
    of_weights = sum(p.nbytes for p in parameters) * 2  # The weights and their average.
    of_weights += sum(p.grad.nbytes for p in parameters if p.grad is not None) * 2  # And a copy while they are clipped.
    of_weights += sum(value.nbytes for state in optimizer.state.values() for value in state.values())
    estimated = training_bytes(model, 0, torch.float32, recompute=recompute)
    assert estimated == pytest.approx(of_weights, rel=0.05)
    of_samples = training_bytes(model, samples.numel(), torch.float32, recompute=recompute) - estimated
    assert low < of_samples / sum(saved.values()) < high, (of_samples, sum(saved.values()))
