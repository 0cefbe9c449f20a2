"""Many jobs at once."""

import os

from midi2wave.utils.parallel import parallel_map


def test_threads_of_this_process():
    """Jobs that wait for other programs need no process of their own."""
    results = parallel_map(lambda job: (job, os.getpid()), range(3), n_jobs=2, backend="threading")
    assert sorted(results) == [(job, os.getpid()) for job in range(3)]
