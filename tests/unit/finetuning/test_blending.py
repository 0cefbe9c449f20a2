"""Weights between those of the base and those of the training."""

import math

import pytest
import torch

from midi2wave.finetuning.blending import Scores, blend, select_share


def test_weights_are_interpolated():
    base, trained = {"a": torch.tensor([0.0, 2.0])}, {"a": torch.tensor([1.0, 4.0])}
    assert blend(base, trained, 0.25)["a"].tolist() == [0.25, 2.5]
    assert blend(base, trained, 1.0)["a"].tolist() == [1.0, 4.0]


BASE = Scores(1.8, 0.8)


@pytest.mark.parametrize(("reference", "share"), [(0.5, 1.0), (0.6, 0.5), (0.74, 0.25), (0.9, 0.25)])
def test_the_nearest_sound_that_keeps_the_notes_is_chosen(reference, share):
    scores = {0.25: Scores(1.7, 0.7), 0.5: Scores(1.6, 0.6), 1.0: Scores(1.5, 0.5)}
    assert select_share(scores, BASE, reference) == share


@pytest.mark.parametrize("reference", [0.5, 0.74, 0.9])
def test_a_share_is_nearer_than_the_base(reference):
    """Whatever its notes; of shares that are all further away than the base, those that keep the notes count."""
    scores = {0.25: Scores(1.9, 0.75), 0.5: Scores(1.79, 0.6), 1.0: Scores(1.78, 0.4)}
    assert select_share(scores, BASE, reference) == 0.5
    further = {share: one._replace(distance=one.distance + 0.1) for share, one in scores.items()}
    assert select_share(further, BASE, reference) == (0.5 if reference == 0.5 else 0.25)


def test_without_notes_the_nearest_sound_is_chosen():
    scores = {0.25: Scores(1.7, math.nan), 0.5: Scores(1.5, math.nan), 1.0: Scores(1.6, math.nan)}
    assert select_share(scores, Scores(1.6, math.nan), math.nan) == 0.5
