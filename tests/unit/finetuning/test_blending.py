"""Weights between those of the base and those of the training."""

import math

import torch

from midi2wave.finetuning.blending import Scores, blend, select_share


def test_weights_are_interpolated():
    base, trained = {"a": torch.tensor([0.0, 2.0])}, {"a": torch.tensor([1.0, 4.0])}
    assert blend(base, trained, 0.25)["a"].tolist() == [0.25, 2.5]
    assert blend(base, trained, 1.0)["a"].tolist() == [1.0, 4.0]


BASE, RECORDINGS = Scores(1.8, 0.82), Scores(0.0, 0.8)


def _select(scores: dict[float, Scores], base: Scores = BASE, recordings: Scores = RECORDINGS) -> float:
    return select_share(scores.__getitem__, base, recordings)


def test_small_differences_do_not_change_the_share():
    """Neither those of the sound nor those of the notes: further shares are not even tried."""
    for whole in (Scores(1.6, 0.8), Scores(1.6, 0.6), Scores(1.9, 0.6)):
        assert _select({0.75: Scores(1.7, 0.71), 1.0: whole}) == 0.75


def test_less_is_taken_where_the_sound_is_no_nearer():
    scores = {1.0: Scores(2.3, 0.4), 0.75: Scores(1.9, 0.8), 0.5: Scores(1.79, 0.8)}
    assert _select(scores) == 0.5
    assert _select({**scores, 0.5: Scores(1.9, 0.8), 0.25: Scores(1.9, 0.8)}) == 0.25


def test_less_is_taken_where_many_notes_are_lost():
    scores = {1.0: Scores(1.5, 0.5), 0.75: Scores(1.6, 0.69), 0.5: Scores(1.7, 0.75)}
    assert _select(scores) == 0.5
    assert _select(scores, base=Scores(1.8, 0.75)) == 0.75


def test_all_is_taken_where_the_base_sounds_too_different():
    scores = {1.0: Scores(1.6, 0.75), 0.75: Scores(2.4, 0.8)}
    assert _select(scores, base=Scores(4.9, 0.2)) == 1.0
    assert _select({**scores, 0.75: Scores(1.7, 0.8), 1.0: Scores(1.3, 0.6)}) == 0.75


def test_without_notes_the_sound_decides():
    silent = {share: Scores(distance, math.nan) for share, distance in ((1.0, 1.6), (0.75, 1.7), (0.5, 1.6))}
    assert _select(silent, Scores(1.8, math.nan), Scores(0.0, math.nan)) == 0.75
    assert _select(silent, Scores(1.65, math.nan), Scores(0.0, math.nan)) == 0.5
