"""Many jobs at once."""

import argparse
import os

from midi2wave.utils.parallel import add_arguments, check_arguments, parallel_map


def test_threads_of_this_process():
    """Jobs that wait for other programs need no process of their own."""
    results = parallel_map(lambda job: (job, os.getpid()), range(3), n_jobs=2, backend="threading")
    assert sorted(results) == [(job, os.getpid()) for job in range(3)]


def test_jobs_have_no_effect_on_a_cluster(capsys):
    """The command says so; without -j there is nothing to say."""
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    for options, is_said in (
        (["-j", "1", "--backend", "dask"], True),
        (["--backend", "dask"], False),
        (["-j", "1"], False),
        ([], False),
    ):
        args = parser.parse_args(options)
        check_arguments(args)
        assert args.jobs == 1 and ("--jobs 1 has no effect" in capsys.readouterr().err) == is_said
