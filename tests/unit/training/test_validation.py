"""Validation: mismatched pairs, shares of several processes, the conditioning gap and the conditioning ratios."""

import pytest
import torch

import train
from midi2wave.config import load_config
from midi2wave.data.pairing import mismatched_pairs
from midi2wave.training import validation
from midi2wave.training.distributed import World
from midi2wave.utils.errors import InputError
from tests.helpers.training import start_run
from wavenet import build_model


def test_conditioning_ratio_is_zero_without_conditioning(pipeline, tmp_path):
    """In a layer whose projections of the MIDI are zero."""
    state = start_run(pipeline, tmp_path)
    with torch.no_grad():
        for layer in state.model.decoder.layers[:1]:
            layer.cond.weight.zero_()
            layer.excitation.weight.zero_()
    ratios = validation.first_crop_ratios(state.model, state.validation.batch, state.device)
    assert ratios[0] < 1e-6 < 1e-2 < ratios[1]


def test_fewer_validation_crops_than_processes_are_refused(pipeline):
    config = load_config(pipeline.config, train.NEEDS, ["train_config.validation_crops=2"])
    with pytest.raises(InputError, match="validation_crops = 2: expected at least one for each of 3 processes"):
        validation.load_validation(config, build_model(config), World(0, 3))


def test_mismatched_pairs_are_of_other_recordings():
    """Of the same one only where there is no other."""
    assert mismatched_pairs([0, 0, 1, 0]) == [2, 2, 3, 2]
    assert mismatched_pairs([4, 4, 4]) == [1, 2, 0]


def test_processes_share_the_validation_crops(pipeline):
    config = load_config(pipeline.config, train.NEEDS, ["train_config.validation_crops=7"])
    config.data_config.validation_path = str(pipeline.folder / "train")
    model = build_model(config)
    whole = validation.load_validation(config, model, World(0, 1))
    parts = [validation.load_validation(config, model, World(rank, 2)) for rank in range(2)]
    assert [len(whole), *map(len, parts)] == [7, 4, 3]
    assert whole.warmup_samples >= model.decoder.receptive_field
    for rank, part in enumerate(parts):
        assert all(torch.equal(part.batch[name], whole.batch[name][rank::2]) for name in whole.batch)
        assert all(torch.equal(part.mismatched[name], whole.mismatched[name][rank::2]) for name in whole.mismatched)


def test_gap_is_that_of_the_mismatched_midi(pipeline, tmp_path, monkeypatch):
    """With a likelihood that only counts the notes in the features, the gap is the difference of the counts."""
    state = start_run(pipeline, tmp_path, "train_config.validation_crops=6")
    monkeypatch.setattr(validation, "crop_nll", lambda model, batch, *_: batch["features"].sum((1, 2)))
    result = validation.validate(state.model, state.validation, 4, state.device)
    notes = state.validation.batch["features"].sum(dim=(1, 2))
    gap = state.validation.mismatched["features"].sum(dim=(1, 2)) - notes
    assert gap.abs().max() > 0
    assert result["validation_nll"] == pytest.approx(notes.mean().item())
    assert result["validation_gap"] == pytest.approx(gap.mean().item(), abs=1e-3)
    assert result["validation_gap_error"] == pytest.approx(gap.std().item() / 6**0.5, rel=1e-4)
