"""Validation: mismatched pairs, shares of several processes, the conditioning gap and the conditioning ratios."""

import pytest
import torch

import train
from midi2wave.config import load_config
from midi2wave.data.pairing import mismatched_pairs
from midi2wave.data.processed_folder import ProcessedFolder
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
    monkeypatch.setattr(validation, "crop_nll", count_notes)
    result = validation.validate(state.model, state.validation, 4, state.device)
    notes, gap = notes_and_gap(state.validation)
    assert abs(gap.mean()) > 1
    assert result["validation_nll"] == pytest.approx(notes.mean().item())
    assert result["validation_gap"] == pytest.approx(gap.mean().item(), abs=1e-3)


def test_error_of_the_gap_is_over_recordings(pipeline, tmp_path, monkeypatch):
    """The cluster-robust error: residuals are added up within a recording before they are squared."""
    of_two = f"data_config.validation_path={pipeline.folder}/train"
    state = start_run(pipeline, tmp_path, "train_config.validation_crops=6", of_two)
    monkeypatch.setattr(validation, "crop_nll", count_notes)
    result = validation.validate(state.model, state.validation, 4, state.device)
    assert (state.validation.n_recordings, sorted(set(state.validation.recordings.tolist()))) == (2, [0, 1])
    _, gap = notes_and_gap(state.validation)
    residuals = [(gap - gap.mean())[state.validation.recordings == one].sum().item() for one in (0, 1)]
    assert result["validation_gap_error"] == pytest.approx((2 * sum(r**2 for r in residuals)) ** 0.5 / 6, rel=1e-4)
    assert "validation_gap_crop_error" not in result


def test_one_recording_has_an_error_over_its_crops_only(pipeline, tmp_path, monkeypatch, capsys):
    state = start_run(pipeline, tmp_path, "train_config.validation_crops=6")
    assert "the validation crops are of one recording" in capsys.readouterr().err
    monkeypatch.setattr(validation, "crop_nll", count_notes)
    result = validation.validate(state.model, state.validation, 4, state.device)
    _, gap = notes_and_gap(state.validation)
    assert result["validation_gap_crop_error"] == pytest.approx(gap.std().item() / 6**0.5, rel=1e-4)
    assert "validation_gap_error" not in result
    assert not validation.lacks_conditioning_gap(result | {"validation_gap": 3 * result["validation_gap_crop_error"]})
    assert validation.lacks_conditioning_gap(result | {"validation_gap": result["validation_gap_crop_error"]})


def count_notes(_model, batch, *_):
    """In the place of the likelihood: it depends on the crop and its notes jointly.

    Of the notes alone the mean would be the same for the mismatched ones, which are those of the same crops.
    """
    return batch["features"].sum((1, 2)) * (1 + batch["index"])


def notes_and_gap(crops):
    """The value of each crop with its own notes, and how much larger it is with those of its mismatched crop."""
    own, mismatched = (batch["features"].sum(dim=(1, 2)) for batch in (crops.batch, crops.mismatched))
    return own * (1 + crops.batch["index"]), (mismatched - own) * (1 + crops.batch["index"])


def test_validation_crops_do_not_overlap(pipeline, capsys):
    """Where there is no room for all, there are fewer."""
    options = ["train_config.validation_crops=1000", f"data_config.validation_path={pipeline.folder}/train"]
    config = load_config(pipeline.config, train.NEEDS, options)
    whole = validation.load_validation(config, build_model(config))
    n = len(whole)
    assert 4 < n < 1000 and f"has room for {n} crops without overlap" in capsys.readouterr().err
    scored = [crop[whole.warmup_samples :] for crop in whole.batch["samples"].numpy()]
    assert len({crop.tobytes() for crop in scored}) == n
    assert sum(map(len, scored)) <= sum(row.n_samples for row in ProcessedFolder(pipeline.folder / "train").rows)


def test_too_little_music_to_validate_on_is_refused(pipeline):
    """A crop of a whole recording has no other crop to be compared with."""
    seconds = ProcessedFolder(pipeline.folder / "validation").rows[0].duration
    config = load_config(pipeline.config, train.NEEDS, [f"data_config.segment_length={seconds - 0.1}"])
    with pytest.raises(InputError, match="has room for 1 crop without overlap, expected two or more"):
        validation.load_validation(config, build_model(config))


def test_validation_scores_nothing_of_the_warm_up(pipeline, tmp_path, monkeypatch):
    """Neither with the crops' own MIDI nor with mismatched MIDI."""
    state = start_run(pipeline, tmp_path)
    warmups = []

    def spy(_model, batch, _device, _precision, warmup_samples):
        warmups.append(warmup_samples)
        return batch["features"].sum((1, 2))

    monkeypatch.setattr(validation, "crop_nll", spy)
    validation.validate(state.model, state.validation, 4, state.device)
    assert len(warmups) == 2 and set(warmups) == {state.validation.warmup_samples}
    assert state.validation.warmup_samples >= state.model.decoder.receptive_field
