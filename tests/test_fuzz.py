"""A fixed part of the fuzz (`python -m tests.fuzz`): 2,400 mutated files, each read or refused with a reason."""

import fuzz
import pytest

N_CASES = 2400
TARGETS = fuzz.targets()


def test_the_parts_make_up_the_whole():
    assert sum(round(N_CASES * target.share) for target in TARGETS.values()) == N_CASES


@pytest.mark.parametrize("name", TARGETS)
def test_mutated_files_are_read_or_refused(name):
    counts = fuzz.run(TARGETS[name], round(N_CASES * TARGETS[name].share), seed=None)
    assert counts["read"] and counts["refused"], "a fuzz that always ends the same way tests nothing"
