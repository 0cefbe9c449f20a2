"""A fixed part of `python -m tests.helpers.fuzz`: 2,400 mutated files, each read or refused with a reason."""

import pytest

from midi2wave.utils.errors import InputError
from tests.helpers import fuzz

N_CASES = 2400
TARGETS = fuzz.targets()


def test_shares_sum_to_one():
    assert sum(round(N_CASES * target.share) for target in TARGETS.values()) == N_CASES


@pytest.mark.parametrize("name", TARGETS)
def test_mutated_files_are_read_or_refused(name):
    counts = fuzz.run(TARGETS[name], round(N_CASES * TARGETS[name].share), seed=None)
    # what is stored of a recording is next to never believed once it is changed
    assert counts["refused"] and (counts["read"] or name == "stored"), "a fuzz that always ends the same way"


def test_stored_recording_is_trusted_only_unchanged(tmp_path):
    """What is stored of a recording is used if it is unchanged, and made again if a value was changed."""
    whole = TARGETS["stored"].seeds[-1]
    fuzz.check_stored(whole, tmp_path)
    with pytest.raises(InputError, match="done again"):
        fuzz.check_stored(whole.replace(b'"n_samples": 800', b'"n_samples": 801'), tmp_path)
