"""Weights between those of the base and those of the training."""

import math
import signal
from pathlib import Path

import pytest
import torch

from midi2wave.checkpoint import load_weights
from midi2wave.finetuning.blending import BLENDED_NAME, Scores, blend, choose_share, select_share
from midi2wave.utils.signals import Interrupted
from tests.helpers.tiny_base import write_tiny_base


def test_weights_are_interpolated():
    base, trained = {"a": torch.tensor([0.0, 2.0])}, {"a": torch.tensor([1.0, 4.0])}
    assert blend(base, trained, 0.25)["a"].tolist() == [0.25, 2.5]
    assert blend(base, trained, 1.0)["a"].tolist() == [1.0, 4.0]


BASE, RECORDINGS = Scores(1.8, 0.82), Scores(0.0, 0.8)


def _select(scores: dict[float, Scores], base: Scores = BASE, recordings: Scores = RECORDINGS) -> float:
    return select_share(scores.__getitem__, base, recordings)


def test_small_differences_do_not_change_the_share():
    """Neither those of the sound nor those of the notes: further shares are not even played."""
    for whole in (Scores(1.6, 0.8), Scores(1.37, 0.8), Scores(1.6, 0.6), Scores(1.9, 0.6)):
        assert _select({0.75: Scores(1.7, 0.71), 1.0: whole}) == 0.75


def test_less_is_taken_where_the_sound_is_no_nearer():
    scores = {1.0: Scores(2.3, 0.4), 0.75: Scores(1.9, 0.8), 0.5: Scores(1.79, 0.8)}
    assert _select(scores) == 0.5
    assert _select({**scores, 0.5: Scores(1.9, 0.8), 0.25: Scores(1.79, 0.8)}) == 0.25


def test_less_is_taken_where_many_notes_are_lost():
    scores = {1.0: Scores(1.5, 0.5), 0.75: Scores(1.6, 0.69), 0.5: Scores(1.7, 0.75)}
    assert _select(scores) == 0.5
    assert _select(scores, base=Scores(1.8, 0.75)) == 0.75
    assert _select({**scores, 0.5: Scores(1.7, 0.69), 0.25: Scores(1.75, 0.8)}) == 0.25


def test_where_no_share_will_do_the_notes_are_kept():
    """The nearest of the shares that keep them; if none does, the one with most of them."""
    scores = {1.0: Scores(1.85, 0.5), 0.75: Scores(1.9, 0.8), 0.5: Scores(1.95, 0.8), 0.25: Scores(1.92, 0.8)}
    assert _select(scores) == 0.75
    lost = {share: Scores(1.6, notes) for share, notes in ((1.0, 0.6), (0.75, 0.61), (0.5, 0.65), (0.25, 0.63))}
    assert _select(lost) == 0.5


def test_all_is_taken_where_the_base_sounds_too_different():
    assert _select({1.0: Scores(1.35, 0.75), 0.75: Scores(1.7, 0.8)}) == 1.0
    # Not where notes are lost.
    assert _select({1.0: Scores(1.35, 0.6), 0.75: Scores(1.7, 0.8)}) == 0.75


@pytest.mark.parametrize("middle", [Scores(2.0, 0.1), Scores(5.0, 0.7)])
def test_all_is_taken_where_three_quarters_will_not_do(middle):
    """Three quarters play hardly any of the notes, or sound further away than the base."""
    assert _select({1.0: Scores(1.7, 0.7), 0.75: middle}, base=Scores(4.9, 0.0)) == 1.0


def test_without_notes_the_sound_decides():
    silent = {share: Scores(distance, math.nan) for share, distance in ((1.0, 1.8), (0.75, 1.7), (0.5, 1.6))}
    assert _select(silent, Scores(1.8, math.nan), Scores(0.0, math.nan)) == 0.75
    assert _select(silent, Scores(1.65, math.nan), Scores(0.0, math.nan)) == 0.5


def test_only_the_shares_that_are_needed_are_played(tmp_path):
    """An interrupted choice goes on with the same weights files, and records the shares that were played."""
    base, trained = (write_tiny_base(tmp_path / f"{seed}.safetensors", seed) for seed in (1, 2))
    distances = {"base": 1.8, "share_0.75": 1.9, "share_1": 2.0, "share_0.5": 1.7}
    played = []

    def evaluate(model, name):
        if name == interrupted:
            raise Interrupted(signal.SIGINT)
        played.append((model, name, Path(model).stat().st_mtime_ns))
        clip = {"clip": "clip_000_a_1.000s", "mrstft": {"value": distances[name]}}
        return {"per_clip": [clip | {"chroma": {"value": math.nan, "topline": math.nan}}]}

    interrupted = "share_0.5"
    with pytest.raises(Interrupted):
        choose_share(str(base), trained, tmp_path, evaluate)
    first, interrupted = list(played), ""
    played.clear()
    result = choose_share(str(base), trained, tmp_path, evaluate)
    assert played[:-1] == first and [name for _, name, _ in played] == list(distances)
    assert result["share"] == 0.5
    expected = {"base": 1.8, "recordings": 0.0, "0.75": 1.9, "1": 2.0, "0.5": 1.7}
    assert result["scores"] == {name: {"distance": one, "notes": None} for name, one in expected.items()}
    half = blend(*(load_weights(path)[0] for path in (base, trained)), 0.5)
    blended = load_weights(tmp_path / BLENDED_NAME)[0]
    assert all(torch.equal(blended[name], one) for name, one in half.items())
