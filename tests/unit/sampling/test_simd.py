"""The vector building blocks against NumPy: products of any shape, and the stated errors of the nonlinearities."""

from typing import NamedTuple

import numpy as np
import pytest
from numba import njit

from midi2wave.sampling.engines.cpu_weights import aligned, from_bfloat16, pack, to_bfloat16
from midi2wave.sampling.engines.simd import as_pointers, has_bfloat16, multiply
from midi2wave.sampling.engines.simd_elementwise import exp16, gate16, max16, sum16


class Arrays(NamedTuple):
    """Output, weights and input of a function under test."""

    y: np.ndarray
    w: np.ndarray
    x: np.ndarray


@njit
def run_multiply(arrays, rows, inputs, columns):
    p = as_pointers(arrays)
    multiply(p.y, 0, rows, p.w, 0, rows // 16, inputs, p.x, 0, inputs, columns)


@njit
def run_functions(arrays, n, shift):
    p = as_pointers(arrays)
    total, largest = 0.0, -np.inf
    for c in range(0, n, 16):
        gate16(p.y, c, p.w, c, n + c)
        exp16(p.x, c, p.w, c, shift)
        total += sum16(p.w, c)
        largest = max(largest, max16(p.w, c))
    return total, largest


@pytest.mark.parametrize("form", ["float32", "bfloat16", "bfloat16 native"])
@pytest.mark.parametrize(("rows", "inputs"), [(16, 2), (112, 34), (128, 64), (48, 16)])
def test_products(form, rows, inputs):
    native = form == "bfloat16 native"
    if native and not has_bfloat16():
        pytest.skip("this processor has no AVX512-BF16")
    rng = np.random.default_rng(0)
    matrix = rng.standard_normal((rows, inputs)).astype(np.float32)
    start = rng.standard_normal((7, rows)).astype(np.float32)
    x = rng.standard_normal((7, inputs)).astype(np.float32)
    used = matrix if form == "float32" else from_bfloat16(to_bfloat16(matrix))
    rounded_x = from_bfloat16(to_bfloat16(x)) if native else x
    for columns in (1, 2, 3, 7):
        y = start[:columns].copy()
        packed = pack(matrix, bfloat16=form != "float32")
        columns_of_x = to_bfloat16(x[:columns]) if native else x[:columns]
        run_multiply(Arrays(y, aligned(packed), columns_of_x), rows, inputs, columns)
        np.testing.assert_allclose(y, start[:columns] + rounded_x[:columns] @ used.T, atol=2e-5)


def test_documented_errors_of_gate_and_exponential():
    """The errors of gate and exponential are the stated ones."""
    n = 1 << 16
    a = np.concatenate([np.linspace(-30, 30, n // 2), np.geomspace(1e-9, 100, n // 2)]).astype(np.float32)
    b = np.random.default_rng(0).uniform(-50, 50, n).astype(np.float32)
    b[: n // 4] /= 20
    out = Arrays(np.zeros(n, np.float32), np.concatenate([a, b]), np.zeros(n, np.float32))
    run_functions(out, n, np.float32(0))
    wide_a, wide_b = a.astype(np.float64), b.astype(np.float64)
    assert np.abs(out.y - np.tanh(wide_a) / (1 + np.exp(-wide_b))).max() < 3e-7
    inside = np.abs(a) < 87
    assert np.abs(out.x[inside] / np.exp(wide_a[inside]) - 1).max() < 2e-7
    edge = Arrays(np.zeros(16, np.float32), np.full(32, -1e30, np.float32), np.zeros(16, np.float32))
    run_functions(edge, 16, np.float32(0))
    assert np.all(np.abs(edge.y) < 1e-17) and np.all(edge.x < 1e-37)


def test_sums_and_maxima():
    values = np.random.default_rng(0).standard_normal(128).astype(np.float32)
    arrays = Arrays(np.zeros(64, np.float32), values, np.zeros(64, np.float32))
    total, largest = run_functions(arrays, 64, np.float32(1))
    assert total == pytest.approx(values[:64].astype(np.float64).sum(), rel=1e-12) and largest == values[:64].max()


def test_bfloat16_rounds_to_nearest_even():
    values = np.array([1.0, 1.00390625, 1.01171875, -3.14159, 0.0, 1e-30], np.float32)  # the 2nd and 3rd are ties
    rounded = from_bfloat16(to_bfloat16(values))
    np.testing.assert_array_equal(rounded[:3], np.array([1.0, 1.0, 1.015625], np.float32))
    assert np.all(np.abs(rounded - values) <= np.abs(values) / 256)
    assert aligned(values).ctypes.data % 64 == 0 and np.array_equal(aligned(values), values)


def test_panels_do_not_cross_the_cuts():
    matrix = np.arange(80 * 2, dtype=np.float32).reshape(80, 2)
    parts = pack(matrix, np.array([0, 1, 5]))
    assert np.array_equal(parts[:32], pack(matrix[:16])) and np.array_equal(parts[32:], pack(matrix[16:]))
