"""numba's code is kept on disk where it can be, and made for the one process elsewhere."""

import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from midi2wave.utils import numba_cache
from midi2wave.utils.numba_cache import cached_njit
from tests.helpers.paths import ROOT


def _double(values):
    for i in range(len(values)):
        values[i] *= 2


def test_unwritable_cache_is_reported_and_code_works(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("numba.core.config.CACHE_DIR", str(tmp_path))
    double = cached_njit(_double)
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device", "x.nbc")))
    for values in (np.ones(3), np.ones(3, np.int64)):
        double(values)
        assert np.array_equal(values, [2, 2, 2])
    assert capsys.readouterr().err.count("compiled code could not be kept (the disk is full") == 1


def test_compiled_code_is_cached(monkeypatch, tmp_path):
    monkeypatch.setattr("numba.core.config.CACHE_DIR", str(tmp_path))
    for hits in (0, 1):
        double = cached_njit(_double)
        double(np.ones(3))
        assert sum(double.dispatcher.stats.cache_hits.values()) == hits


@pytest.fixture(autouse=True)
def said_nothing_yet():
    numba_cache._log_first.cache_clear()


def test_compiling_for_long_is_announced_once(monkeypatch, tmp_path, capsys):
    """A first call that takes long says why; one that does not, and later ones, say nothing."""
    monkeypatch.setattr("numba.core.config.CACHE_DIR", str(tmp_path))
    monkeypatch.setattr("midi2wave.utils.numba_cache.SECONDS_BEFORE_MESSAGE", 0.01)
    slow = cached_njit(_double)
    monkeypatch.setattr(slow, "dispatcher", lambda values: time.sleep(0.3))
    slow(np.ones(3))
    assert capsys.readouterr().err.count("compiling for this processor") == 1
    slow(np.ones(3))
    monkeypatch.setattr("midi2wave.utils.numba_cache.SECONDS_BEFORE_MESSAGE", 60)
    cached_njit(_double)(np.ones(3))
    assert "compiling" not in capsys.readouterr().err


def test_threads_that_compile_at_once_say_it_once(monkeypatch, capsys):
    monkeypatch.setattr("midi2wave.utils.numba_cache.SECONDS_BEFORE_MESSAGE", 0.05)
    slow, other = cached_njit(_double), cached_njit(_double)
    for function in (slow, other):
        monkeypatch.setattr(function, "dispatcher", lambda values: time.sleep(0.5))
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda function: function(np.ones(3)), [slow, slow, other]))
    assert capsys.readouterr().err.count("compiling for this processor") == 1


def test_threads_that_meet_a_full_disk_at_once_all_work(monkeypatch, capsys):
    """Each of them fails with the cache before one of them has left it."""
    double, both_failed = cached_njit(_double), threading.Barrier(2)

    def dispatcher(values):
        both_failed.wait(30)
        raise OSError(5, "Input/output error", "x.nbi")

    monkeypatch.setattr(double, "dispatcher", dispatcher)
    arrays = np.ones(3), np.ones(3)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(double, arrays))
    assert all(np.array_equal(values, [2, 2, 2]) for values in arrays)
    assert capsys.readouterr().err.count("compiled code could not be kept") == 1


IMPORT = """
import sys
sys.path.insert(0, sys.argv[1])
import numpy as np
from numba.core import caching
for locator in caching.CacheImpl._locator_classes:  # no folder can be written to
    locator.from_function = classmethod(lambda cls, function, path: None)
from midi2wave.conditioning.features import add_levels
rows = np.zeros((88, 4), np.float32)
one = np.array([2])
add_levels(rows, 0, one, one, one + 1, np.ones(1, np.float32))
print(rows.sum())
"""


@pytest.mark.slow
def test_conditioning_works_without_a_writable_folder():
    done = subprocess.run(
        [sys.executable, "-c", IMPORT, str(ROOT)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        timeout=120,
    )
    assert (done.returncode, done.stdout.strip()) == (0, "1.0"), done.stderr
