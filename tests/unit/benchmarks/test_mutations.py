"""The mutation run: its list fits the code, and it reports what survives."""

import pytest

from benchmarks import mutations
from benchmarks.mutations import Mutation
from tests.helpers.paths import ROOT
from tests.helpers.pipeline import call

MUTATIONS = mutations.load_mutations()
TEST = "tests/unit/audio/test_pcm.py"
QUICK = Mutation("clipped", "midi2wave/audio/pcm.py", "int(np.count_nonzero(scaled != clipped))", "0", (TEST,))


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name.replace(" ", "_"))
def test_mutation_fits_the_code(mutation):
    assert mutations.outdated(ROOT, mutation) is None
    assert mutation.replacement != mutation.text


def test_there_are_sixty_of_different_names():
    assert len(MUTATIONS) >= 60 == len({mutation.name for mutation in MUTATIONS[:60]})
    assert len({mutation.name for mutation in MUTATIONS}) == len(MUTATIONS)
    assert len({mutation.path for mutation in MUTATIONS}) > 25


def test_outdated_mutations_are_named():
    moved = Mutation("moved", "midi2wave/audio/pcm.py", "a text that is not there", "", (TEST,))
    assert "stands 0 times in the file" in mutations.outdated(ROOT, moved)
    untested = Mutation("untested", QUICK.path, QUICK.text, "0", (f"{TEST}::test_that_is_not_there",))
    assert "there is no test" in mutations.outdated(ROOT, untested)
    assert mutations.outdated(ROOT, Mutation("gone", "midi2wave/gone.py", "x", "", (TEST,))) is not None


def test_wrong_names_are_refused_and_the_list_is_printed():
    refused = call(mutations, "--only", "no mutation has this name")
    assert refused.code == 2 and "see --list" in refused.err
    listed = call(mutations, "--list", "--only", "mu-law")
    assert listed.code == 0 and "midi2wave/audio/mu_law.py: mu-law codes rounded down" in listed.out


@pytest.mark.slow
def test_survivors_are_reported_and_the_tree_is_left_alone(monkeypatch):
    before = (ROOT / QUICK.path).read_bytes()
    harmless = Mutation("harmless", QUICK.path, "def level_db(", "def level_db(  # no change\n    ", (TEST,))
    monkeypatch.setattr(mutations, "load_mutations", lambda: [QUICK, harmless])
    done = call(mutations, "--json")
    assert done.code == 1 and done.result["noticed"] == 1
    (failure,) = done.result["failures"]
    assert failure["item"].endswith("harmless") and failure["reason"].startswith("survives")
    assert (ROOT / QUICK.path).read_bytes() == before


@pytest.mark.slow
def test_mutations_of_the_losses_are_noticed():
    done = call(mutations, "--only", "midi2wave/training/losses.py")
    assert done.code == 0, done.err
