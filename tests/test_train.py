"""The training loop's own rules: schedules, skipped steps, what it refuses to begin with."""

import errno
import itertools
import math

import pytest
import torch

import train
from config import TrainConfig
from errors import InputError


def settings(**changes):
    return TrainConfig(**{"output_directory": "run", "steps": 100, "batch_size": 4, "warmup_steps": 10, **changes})


def test_the_learning_rate_warms_up_and_falls_along_a_cosine():
    config = settings(learning_rate=1.0, final_learning_rate=0.1)
    rates = [train.learning_rate(step, config) for step in range(101)]
    assert rates[0] == pytest.approx(0.1) and rates[9] == rates[10] == 1.0
    assert rates[55] == pytest.approx(0.55) and rates[100] == pytest.approx(0.1)
    assert all(a > b for a, b in itertools.pairwise(rates[10:]))


def test_the_history_noise_falls_along_a_line_over_the_crops():
    config = settings(history_noise=0.3, final_history_noise=0.1)
    assert [train.history_noise(config, index) for index in (0, 200, 400)] == pytest.approx([0.3, 0.2, 0.1])


def make_state(tmp_path):
    """A run whose model is one weight."""
    model = torch.nn.Linear(1, 1, bias=False)
    average = torch.nn.Linear(1, 1, bias=False)
    average.load_state_dict(model.state_dict())
    config = train.Config(train_config=settings(learning_rate=0.1, warmup_steps=0, ema_decay=0.5))
    return train.Run(config, tmp_path, torch.device("cpu"), model, average, torch.optim.SGD(model.parameters(), lr=0.1))


def test_a_step_without_a_finite_gradient_changes_nothing(tmp_path, monkeypatch):
    state = make_state(tmp_path)
    before = state.model.weight.detach().clone()
    monkeypatch.setattr(train, "negative_log_likelihood", lambda model, *_: model.weight.sum(dim=1) * math.nan)
    loss, norm = train.update(state, {})
    assert not math.isfinite(loss) and not math.isfinite(norm)
    assert torch.equal(state.model.weight, before) and torch.equal(state.average.weight, before)
    monkeypatch.setattr(train, "negative_log_likelihood", lambda model, *_: model.weight.sum(dim=1))
    train.update(state, {})
    assert not torch.equal(state.model.weight, before)


def test_the_average_follows_the_weights(tmp_path, monkeypatch):
    state = make_state(tmp_path)
    state.step = 1000  # past the quick start of the average
    start = state.average.weight.item()
    monkeypatch.setattr(train, "negative_log_likelihood", lambda model, *_: model.weight.sum(dim=1))
    train.update(state, {})
    assert state.average.weight.item() == pytest.approx((start + state.model.weight.item()) / 2)


def test_weights_that_are_not_finite_are_not_saved(tmp_path):
    state = make_state(tmp_path)
    with torch.no_grad():
        state.model.weight.fill_(math.nan)
    with pytest.raises(InputError, match="not finite"):
        train.save(state)
    assert list(tmp_path.iterdir()) == []


def test_a_step_on_damaged_audio_is_skipped_and_its_crops_are_named(road, tmp_path, monkeypatch, capsys):
    config = train.load_config(road.config, train.NEEDS, [f"train_config.output_directory={tmp_path}"])
    state, original, losses = train.begin(config, force=False), train.negative_log_likelihood, iter(range(100))
    monkeypatch.setattr(
        train,
        "negative_log_likelihood",
        lambda *given: original(*given) * (math.nan if given[0] is state.model and next(losses) == 1 else 1),
    )
    with train.SummaryWriter(str(tmp_path)) as board:
        train.train(state, board)
    said = [line for line in capsys.readouterr().err.splitlines() if "was skipped" in line]
    assert len(said) == 1 and said[0].startswith("step 1 was skipped")
    assert said[0].count(".wav at ") == 2  # both crops of the batch
    assert state.step == state.saved_step == 4


def test_the_curves_end_with_the_last_validation(road, tmp_path, monkeypatch):
    config, drawn = train.load_config(road.config, train.NEEDS, [f"train_config.output_directory={tmp_path}"]), []
    original = train.curves_figure
    monkeypatch.setattr(train, "curves_figure", lambda metrics: drawn.append(metrics) or original(metrics))
    state = train.begin(config, force=False)
    with train.SummaryWriter(str(tmp_path)) as board:
        train.train(state, board)
    assert drawn[-1][-1]["step"] == 4 and "validation_nll" in drawn[-1][-1]
    assert (tmp_path / "curves.png").is_file()


def test_ten_skipped_steps_in_a_row_end_the_run(road, tmp_path, monkeypatch):
    overrides = [f"train_config.output_directory={tmp_path}", "train_config.steps=20"]
    state = train.begin(train.load_config(road.config, train.NEEDS, overrides), force=False)
    monkeypatch.setattr(train, "update", lambda *_: (math.nan, 1.0))
    with train.SummaryWriter(str(tmp_path)) as board, pytest.raises(InputError, match="ten steps in a row"):
        train.train(state, board)
    assert state.step == 9


def test_a_full_disk_at_a_checkpoint_does_not_end_the_run(road, tmp_path, monkeypatch, capsys):
    config = train.load_config(road.config, train.NEEDS, [f"train_config.output_directory={tmp_path}"])
    state, original, full = train.begin(config, force=False), train.checkpoint.save, [True, False]

    def save(*arguments):
        if full.pop(0):
            raise OSError(errno.ENOSPC, "No space left on device", "weights.safetensors")
        return original(*arguments)

    monkeypatch.setattr(train.checkpoint, "save", save)
    with train.SummaryWriter(str(tmp_path)) as board:
        train.train(state, board)
    assert "step 2 could not be saved: the disk is full" in capsys.readouterr().err
    assert [folder.name for folder in train.checkpoint.step_folders(tmp_path)] == ["step_00000004"]

    full[:] = [True, True, True]
    more = train.begin(
        train.load_config(
            road.config, train.NEEDS, [f"train_config.output_directory={tmp_path}", "train_config.steps=5"]
        ),
        force=False,
    )
    with train.SummaryWriter(str(tmp_path)) as board, pytest.raises(InputError, match="step 5 is not saved"):
        train.train(more, board)


def test_only_a_run_s_folder_is_taken(tmp_path):
    (tmp_path / "diary.txt").write_text("mine")
    with pytest.raises(InputError, match="not the folder of a run"):
        train._claim_run(tmp_path, force=True)
    with pytest.raises(InputError, match="is a file"):
        train._claim_run(tmp_path / "diary.txt", force=False)


def test_a_validation_crop_s_partner_is_of_another_recording_where_there_is_one(road):
    config = train.load_config(road.config, train.NEEDS, ["train_config.validation_crops=12"])
    for path, several in ((road.folder / "train", True), (road.folder / "validation", False)):
        config.data_config.validation_path = str(path)
        model = train.checkpoint.build_model(config)
        validation = train.load_validation(config, model)
        crops = train._crops(config, model, str(path), train.VALIDATION_SEED, range(12))
        recording = [crops.where(i)[0] for i in range(12)]
        assert (len(set(recording)) > 1) == several
        for i, k in enumerate(validation.partner.tolist()):
            assert recording[k] != recording[i] if several else k != i
        assert validation.warmup_samples >= model.decoder.receptive_field


def test_the_gap_is_that_of_the_partner_s_midi(road, monkeypatch):
    """With a likelihood that only counts the notes in the features, the gap is the difference of the counts."""
    config = train.load_config(road.config, train.NEEDS, ["train_config.validation_crops=6"])
    state = train.begin(config, force=False)
    monkeypatch.setattr(train, "negative_log_likelihood", lambda model, batch, *_: batch["features"].sum(dim=(1, 2)))
    result = train.validate(state)
    notes = state.validation.crops["features"].sum(dim=(1, 2))
    gap = notes[state.validation.partner] - notes
    assert result["validation_nll"] == pytest.approx(notes.mean().item())
    assert result["validation_gap"] == pytest.approx(gap.mean().item(), abs=1e-3)
    assert result["validation_gap_error"] == pytest.approx(gap.std().item() / 6**0.5, rel=1e-4)
