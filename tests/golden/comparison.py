"""Compact records of results, and their comparison bit for bit or within a tolerance.

Bits may differ between processors: sums of floating-point numbers are taken in another order there, and where a sample
lies between two values the rounding falls to the other side now and then. A generated sample is an input of all later
ones, so that single samples differ although the code is the same; the tolerance is therefore on the root mean square
of the difference. On one machine a change of the code that changes no number changes no bit: `--exact` checks that.
"""

import hashlib
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from tests.golden import project

Value = np.ndarray | float | int | str | None
MAX_STORED_VALUES = 64


@dataclass(frozen=True)
class Tolerance:
    """How far results of another processor may lie from the stored ones.

    Attributes:
        numbers: Largest relative difference of single numbers.
        arrays: Largest root mean square of an array's difference, relative to the array's own.
    """

    numbers: float = 1e-4
    arrays: float = 1e-4


@dataclass(frozen=True)
class Verdict:
    """The outcome of a comparison.

    Attributes:
        identical: Whether all bits are equal.
        deviation: The largest relative difference.
        differences: One line for each value outside the tolerance.
    """

    identical: bool
    deviation: float
    differences: list[str]


def flatten(values: Any, prefix: str = "") -> dict[str, Value]:
    """Nested dictionaries and lists as one dictionary with dotted names; lists of numbers become arrays."""
    if isinstance(values, dict):
        items = values.items()
    elif isinstance(values, list) and not _is_numeric(values):
        items = enumerate(values)
    else:
        return {prefix: np.asarray(values) if isinstance(values, list) else values}
    flat: dict[str, Value] = {}
    for name, value in items:
        flat |= flatten(value, f"{prefix}.{name}" if prefix else str(name))
    return flat


def _is_numeric(values: list[Any]) -> bool:
    return bool(values) and all(isinstance(value, int | float) for value in values)


def record(values: dict[str, Value]) -> dict[str, Any]:
    """Results as plain JSON values: arrays by hash, size and up to 64 evenly spaced values."""
    return {name: _value_record(value) for name, value in values.items()}


def _value_record(value: Value) -> Any:
    if not isinstance(value, np.ndarray):
        return value
    return _array_record(value) if value.dtype.kind in "fiub" else str(value.tolist())


def _array_record(array: np.ndarray) -> dict[str, Any]:
    array = np.ascontiguousarray(array)
    flat = array.reshape(-1)
    positions = np.unique(np.linspace(0, max(0, flat.size - 1), min(flat.size, MAX_STORED_VALUES)).astype(np.int64))
    numbers = flat.astype(np.float64)
    return {
        "sha256": hashlib.sha256(array.tobytes()).hexdigest(),
        "dtype": str(array.dtype),
        "shape": list(array.shape),
        "rms": float(np.sqrt(np.mean(np.square(numbers)))) if flat.size else 0.0,
        "values": [float(f"{value:.8g}") for value in numbers[positions].tolist()],
    }


def translated(stored: dict[str, Any]) -> dict[str, Any]:
    """A record with its names as today's code has them."""
    result = {}
    for name, value in stored.items():
        for old, new in (project.RENAMED_KEYS | project.RENAMED_TENSORS).items():
            name = name.replace(old, new)
        result[name] = value
    return result


def compare(stored: dict[str, Any], computed: dict[str, Any], tolerance: Tolerance) -> Verdict:
    """Compare two records made by `record`."""
    stored, computed = translated(stored), translated(computed)
    differences = [f"{name}: only in the stored results" for name in sorted(stored.keys() - computed.keys())]
    differences += [f"{name}: only in the new results" for name in sorted(computed.keys() - stored.keys())]
    identical, largest = not differences, 0.0
    for name in sorted(stored.keys() & computed.keys()):
        old, new = stored[name], computed[name]
        same = old["sha256"] == new["sha256"] if _are_arrays(old, new) else old == new or _are_nan(old, new)
        if same:
            continue
        identical = False
        deviation, limit = _deviation(old, new, tolerance, smallest=1.0 if "_db" in name else 1e-2)
        largest = max(largest, deviation)
        if not deviation <= limit:
            differences.append(f"{name}: {_short(old)} -> {_short(new)} (deviation {deviation:.3g}, limit {limit:g})")
    return Verdict(identical, largest, differences)


def _are_arrays(old: Any, new: Any) -> bool:
    return isinstance(old, dict) and isinstance(new, dict)


def _are_nan(old: Any, new: Any) -> bool:
    return all(isinstance(value, float) and math.isnan(value) for value in (old, new))


def _deviation(old: Any, new: Any, tolerance: Tolerance, *, smallest: float) -> tuple[float, float]:
    """The difference of two values that are not equal, relative to the old one, and its limit.

    Numbers below `smallest` count as that: 0 dB is no small level, so that levels are compared to a part of a decibel.
    """
    if _are_arrays(old, new):
        if old["shape"] != new["shape"] or old["dtype"] != new["dtype"]:
            return math.inf, tolerance.arrays
        difference = np.subtract(old["values"], new["values"])
        size = max(old["rms"], 1e-12)
        return float(np.sqrt(np.mean(np.square(difference)))) / size, tolerance.arrays
    if isinstance(old, int | float) and isinstance(new, int | float) and float in (type(old), type(new)):
        return abs(old - new) / max(abs(old), smallest), tolerance.numbers
    return math.inf, 0.0


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return f"{value['dtype']} {value['shape']} {value['sha256'][:8]}"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
