"""The Triton engine: its kernel in Triton's interpreter, compiled for a GPU that is not there, and what it refuses."""

import importlib.util
import json
import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from midi2wave.sampling import engines
from midi2wave.sampling.engines import triton as triton_engine
from midi2wave.sampling.engines import triton_weights
from midi2wave.sampling.options import SamplingOptions
from midi2wave.utils.errors import InputError
from tests.helpers.paths import ROOT
from tests.helpers.sampler_models import make_model, make_sources
from wavenet import Caches

needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="the package triton is needed (requirements-dev.txt)"
)
# Of a multiprocessor of compute capability 9.0, for one program.
SHARED_BYTES = 227 * 1024


def run_cases(folder, *arguments, interpret):
    """What `tests.helpers.triton_cases` prints."""
    environment = os.environ | {"TRITON_INTERPRET": str(int(interpret)), "TRITON_CACHE_DIR": str(folder)}
    command = [sys.executable, "-m", "tests.helpers.triton_cases", *arguments]
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


@needs_triton
def test_interpreter_draws_the_reference_codes(tmp_path):
    results = run_cases(tmp_path, "interpret", "categorical", interpret=True)
    assert len(results) == 5
    for name, result in results.items():
        # Means are not rounded, so that differences of float32 sums remain.
        tolerance = 1e-3 if name == "mean" else 0
        np.testing.assert_allclose(result["played"], result["expected"], rtol=0, atol=tolerance, err_msg=name)
        assert result["prefix_is_first"], name
        assert result["block_frames"][-2:] == [1, 2], name
        # The prefix is a block, too.
        assert len(result["block_frames"]) == (3 if "prefix" in name else 2), name


@needs_triton
def test_interpreter_draws_the_reference_amplitudes(tmp_path):
    """Rounding to a sample may fall either way; the histories part there."""
    results = run_cases(tmp_path, "interpret", "logistic_mixture", interpret=True)
    assert len(results) == 4
    for name, result in results.items():
        expected, played = np.array(result["expected"]), np.array(result["played"])
        assert played.shape == expected.shape and len(np.unique(expected)) > 5, name
        if name == "mean":
            np.testing.assert_allclose(played, expected, rtol=0, atol=3e-3)
            continue
        is_before_first_difference = np.cumprod(played == expected, axis=1)
        first_difference = is_before_first_difference.sum(axis=1)
        for stream in np.flatnonzero(first_difference < expected.shape[1]):
            at = first_difference[stream]
            assert abs(played[stream, at] - expected[stream, at]) <= 1, name
        assert is_before_first_difference.mean() > 0.9, name


@needs_triton
def test_interpreter_has_the_reference_parameters(tmp_path):
    results = run_cases(tmp_path, "interpret", "replay", interpret=True)
    for output in ("categorical", "logistic_mixture"):
        exact, rounded = results[f"{output} float32"], results[f"{output} float16"]
        assert exact["error"] < 1e-5 and exact["same"] > 0.99
        assert 1e-5 < rounded["error"] < 0.03


@needs_triton
@pytest.mark.skipif(sys.platform != "linux", reason="Triton's compiler for CUDA is in its Linux wheels")
def test_kernel_compiles_for_a_gpu(tmp_path):
    """To machine code of compute capability 9.0, at full size; a GPU would be needed to run it."""
    results = run_cases(tmp_path, "compile", "90", interpret=False)
    for result in results.values():
        assert result["binary_bytes"] > 10_000
        assert result["shared_bytes"] <= SHARED_BYTES
        assert result["n_barriers"] == 3  # After the inputs of the last two products, and after a sample.
    assert results["reference"]["n_tensor_core_products"] > 0
    assert results["default"]["n_tensor_core_products"] == 0  # These round float32 operands.


@pytest.mark.parametrize(
    ("interpreted", "sizes", "words"),
    [
        ("0", {}, "needs the model on a CUDA device; set device to cuda, or choose numba"),
        ("1", {}, "needs the package triton"),
        ("1", {"n_residual_channels": 129}, "n_residual_channels = 129, expected at most 128"),
        ("1", {"n_skip_channels": 513}, "n_skip_channels = 513, expected at most 512"),
        ("1", {"n_out_channels": 513}, "n_out_channels = 513, expected at most 512"),
    ],
)
def test_what_does_not_fit_is_refused(monkeypatch, interpreted, sizes, words):
    monkeypatch.setenv("TRITON_INTERPRET", interpreted)
    # None: importing it fails, as where it is not installed.
    monkeypatch.setitem(sys.modules, "triton", sys if sizes else None)
    model = make_model(**sizes)
    with pytest.raises(InputError, match=f"sampler triton.*{words}"):
        engines.generate(model, *make_sources(model, 1), 1, 4, SamplingOptions(sampler="triton"))


def test_an_older_gpu_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    weight = SimpleNamespace(device=torch.device("cuda"))
    model = SimpleNamespace(decoder=SimpleNamespace(input=SimpleNamespace(weight=weight)))
    with pytest.raises(InputError, match=r"compute capability 8\.0 or more; choose cuda or numba"):
        triton_engine.require_available(model)


@pytest.mark.parametrize("sampler", ["auto", "numba", "cuda", "torch"])
def test_float16_is_for_triton_only(sampler):
    with pytest.raises(InputError, match="choose triton or float32"):
        SamplingOptions(sampler=sampler, weights="float16")
    for weights in ("float32", "bfloat16", "float16", "auto"):
        assert SamplingOptions(sampler="triton", weights=weights).weights == weights


def test_launch_grows_with_the_number_of_rows(monkeypatch):
    """The fewest rows with which every program has a multiprocessor of its own."""
    properties = type("Properties", (), {"multi_processor_count": 132})
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    device = torch.device("cuda")
    rows = [triton_engine.choose_launch(n, device).n_rows for n in (1, 2112, 2113, 4224, 4225, 10**6)]
    assert rows == [16, 16, 32, 32, 64, 64]
    assert triton_engine.choose_launch(10**6, torch.device("cpu")).n_rows == 16


@pytest.mark.parametrize("kernel_size", [2, 3])
def test_rings_hold_the_caches_by_time(kernel_size):
    """One row longer than the caches, whatever the time at which they were filled."""
    decoder = make_model(kernel_size=kernel_size).decoder
    for first in (0, 5, 12, 1000):
        caches = Caches(decoder, 3)
        for ring, layer in zip(caches.layers, decoder.layers, strict=True):
            for time in range(max(0, first - layer.history), first):
                ring[time % layer.history] = time + 1
        rings = triton_weights.pack_rings(decoder, caches, first, torch.float32)
        start, n = 0, decoder.config.n_residual_channels
        for layer in decoder.layers:
            ring = rings[start : start + layer.history + 1]
            assert not ring[..., n:].any()
            for time in range(first - layer.history, first):
                assert torch.all(ring[time % len(ring), :, :n] == max(0, time + 1))
            start += len(ring)
        assert start == len(rings)


class FakeKernel:
    """Needs more memory than there is, unless it is compiled with few enough stages."""

    def __init__(self, fits):
        self.fits = fits
        self.stages = []

    def __getitem__(self, grid):
        return self.launch

    def launch(self, *arguments, num_warps, num_stages):
        from triton.runtime.errors import OutOfResources

        self.stages.append(num_stages)
        if num_stages > self.fits:
            raise OutOfResources(300_000, 232_448, "shared memory")


@needs_triton
@pytest.mark.parametrize("fits", [0, 1, 2])
def test_too_little_memory_on_the_chip(monkeypatch, fits):
    from midi2wave.sampling.engines import triton_kernel

    kernel = FakeKernel(fits)
    monkeypatch.setattr(triton_kernel, "generate_block", kernel)
    model = make_model()
    blocks = triton_engine.generate(model, *make_sources(model, 1), 1, 2)
    if not fits:
        with pytest.raises(InputError, match=r"does not fit a multiprocessor.*300000.*sampler_weights to bfloat16"):
            next(blocks)
    else:
        next(blocks)
    assert kernel.stages == ([2] if fits == 2 else [2, 1])


@needs_triton
@pytest.mark.parametrize(
    ("error", "expected", "words"),
    [
        (RuntimeError("Failed to find C compiler."), InputError, "sampler triton.*find C compiler.*install a C"),
        (subprocess.CalledProcessError(1, ["gcc"]), InputError, "sampler triton.*gcc.*headers of this Python"),
        (RuntimeError("CUDA error"), RuntimeError, "^CUDA error$"),
    ],
)
def test_a_launcher_that_cannot_be_compiled(monkeypatch, error, expected, words):
    from midi2wave.sampling.engines import triton_kernel

    def launch(*_, **__):
        raise error

    monkeypatch.setattr(triton_kernel, "generate_block", {(1,): launch})
    model = make_model()
    with pytest.raises(expected, match=words):
        next(triton_engine.generate(model, *make_sources(model, 1), 1, 2))


@pytest.mark.parametrize(("n", "expected"), [(1, 16), (16, 16), (17, 32), (64, 64), (65, 128), (256, 256)])
def test_channels_are_padded_to_powers_of_two(n, expected):
    assert triton_weights.padded(n) == expected
