"""The training log: metrics, curves, and a full disk."""

import errno

from midi2wave.plotting import figures, training_curves
from midi2wave.training import log as log_module
from midi2wave.training.log import TrainingLog
from tests.helpers.training import start_run, train_to_end


def test_curves_end_with_the_last_validation(pipeline, tmp_path, monkeypatch):
    drawings, original = [], training_curves.training_curves_figure

    def spy(metrics):
        drawings.append(metrics)
        return original(metrics)

    monkeypatch.setattr(training_curves, "training_curves_figure", spy)
    train_to_end(start_run(pipeline, tmp_path))
    assert drawings[-1][-1]["step"] == 4 and "validation_nll" in drawings[-1][-1]
    assert (tmp_path / "curves.png").is_file()


def test_every_metric_is_logged(pipeline, tmp_path):
    log = train_to_end(start_run(pipeline, tmp_path))
    assert log.latest_metrics.keys() >= {
        "loss",
        "gradient_norm",
        "clip_rate",
        "learning_rate",
        "samples_per_second",
        "data_wait",
        "validation_nll",
        "validation_gap",
        "conditioning_ratio",
        "conditioning_ratio/layer_01",
    }
    assert 0 <= log.latest_metrics["data_wait"] <= 1 and 0 <= log.latest_metrics["clip_rate"] <= 1
    assert log.latest_metrics["conditioning_ratio/layer_00"] > 0


def test_full_disk_ends_neither_the_log_nor_the_run(pipeline, tmp_path, monkeypatch, capsys):
    """TensorBoard's writer raises the error at some later call, and can't be used from then on."""

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device", "events")

    monkeypatch.setattr(log_module.SummaryWriter, "add_scalar", full)
    monkeypatch.setattr(figures, "save_figure", full)
    state = start_run(pipeline, tmp_path)
    train_to_end(state)
    messages = capsys.readouterr().err
    assert state.saved_step == 4
    assert messages.count("TensorBoard's events could not be written, none follow: the disk is full") == 1
    assert "curves.png could not be written: the disk is full" in messages


def test_truncated_line_of_metrics_is_ignored(pipeline, tmp_path):
    train_to_end(start_run(pipeline, tmp_path, "train_config.steps=2"))
    with open(tmp_path / "metrics.jsonl", "a", encoding="utf-8") as handle:
        handle.write('{"step": 2, "lo')
    log = TrainingLog(tmp_path, 2)
    log.draw_curves()
    log.close()
    assert "loss" in log.latest_metrics and "lo" not in log.latest_metrics
