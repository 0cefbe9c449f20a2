"""The stored golden references are what today's code computes, within the tolerances for other processors."""

import subprocess
import sys

import pytest

from tests.golden import project
from tests.golden.items import ITEMS

TIMEOUT_SECONDS = 600


@pytest.mark.slow
def test_numbers_are_those_stored():
    """No bits are compared: sums and roundings of another processor differ (see `comparison.py`)."""
    command = [sys.executable, "-m", "tests.golden", "--check"]
    done = subprocess.run(
        command, cwd=project.ROOT, capture_output=True, text=True, check=False, timeout=TIMEOUT_SECONDS
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(done.stdout.splitlines()) >= len(ITEMS)


def test_a_changed_number_is_different():
    """A value outside the tolerance, a missing value and a new one are each reported."""
    import numpy as np

    from tests.golden.comparison import Tolerance, compare, record

    stored = record({"loss": 2.0, "samples": np.arange(1000, dtype=np.int16), "old": 1})
    same = compare(stored, stored, Tolerance())
    assert same.identical and not same.differences
    near = compare(stored, stored | {"loss": 2.00001}, Tolerance())
    assert not near.identical and not near.differences
    changed = record({"loss": 2.1, "samples": np.arange(1000, dtype=np.int16)[::-1], "new": 1})
    assert len(compare(stored, changed, Tolerance()).differences) == 4
