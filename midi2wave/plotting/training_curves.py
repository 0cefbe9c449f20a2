"""Figure of a training run: losses, conditioning gap and learning rate over the steps."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from midi2wave.plotting.figures import DPI, ORANGE, TEAL, WIDTH_INCHES

MIN_VALUES_TO_CROP = 50  # With more values than this, the highest 2 % (the first steps) may lie outside the axis.
SMOOTHING_WINDOWS = 50  # The training loss is averaged over this part of its points.


def training_curves_figure(metrics: list[dict[str, Any]]) -> Figure:
    """Draw the losses of a training run above its learning rate.

    Args:
        metrics: Rows of metrics.jsonl. Read are `step`, `loss`, `validation_nll`, `validation_nll_shuffled` (nats per
            sample; shuffled: with mismatched MIDI) and `learning_rate`; a row may lack any of them. The area between
            the two validation curves is the conditioning gap.
    """
    figure = Figure(figsize=(WIDTH_INCHES, 6), dpi=DPI, layout="constrained")
    loss_ax, rate_ax = figure.subplots(2, 1, sharex=True, height_ratios=[4, 1])
    training = _curve(metrics, "loss")
    validation = _curve(metrics, "validation_nll")
    mismatched = _curve(metrics, "validation_nll_shuffled")
    _draw_training_loss(loss_ax, *training)
    _draw_validation(loss_ax, validation, mismatched)
    values = np.concatenate([training[1], validation[1], mismatched[1]])
    if len(values) > MIN_VALUES_TO_CROP:
        bottom, top = values.min(), np.percentile(values, 98)
        loss_ax.set_ylim(bottom - 0.05 * (top - bottom) - 1e-3, top + 0.05 * (top - bottom) + 1e-3)
    if len(values):
        loss_ax.legend(frameon=False)
    rate_ax.plot(*_curve(metrics, "learning_rate"), color="0.35")
    loss_ax.set(ylabel="nats per sample")
    rate_ax.set(xlabel="step", ylabel="learning rate")
    loss_ax.grid(color="0.9")
    rate_ax.grid(color="0.9")
    return figure


def _curve(metrics: list[dict[str, Any]], name: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and finite values of one metric, ascending by step, [N] each."""
    # A resumed run logs some steps twice; in a dictionary the last value of a step remains.
    by_step = {row["step"]: row[name] for row in metrics if row.get("step") is not None and row.get(name) is not None}
    points = np.array(sorted(by_step.items()), dtype=float).reshape(-1, 2)
    points = points[np.isfinite(points[:, 1])]
    return points[:, 0], points[:, 1]


def _draw_training_loss(ax: Axes, step: np.ndarray, loss: np.ndarray) -> None:
    """Draw the training loss pale, and its moving average over it."""
    ax.plot(step, loss, color="0.8", linewidth=0.8)
    if n := len(loss):
        ones = np.ones(max(1, n // SMOOTHING_WINDOWS))
        # Near the ends the average is over fewer points, so that it is not bent towards 0.
        smoothed = np.convolve(loss, ones, "same") / np.convolve(np.ones(n), ones, "same")
        ax.plot(step, smoothed, "0.35", label="training")


def _draw_validation(
    ax: Axes, validation: tuple[np.ndarray, np.ndarray], mismatched: tuple[np.ndarray, np.ndarray]
) -> None:
    """Draw both validation curves, each (steps, values), and the conditioning gap between them."""
    (step, nll), (mismatched_step, mismatched_nll) = validation, mismatched
    both, i, j = np.intersect1d(step, mismatched_step, return_indices=True)
    if len(both):
        label = f"conditioning gap: {mismatched_nll[j][-1] - nll[i][-1]:+.3f}"
        ax.fill_between(both, nll[i], mismatched_nll[j], color="#00a5a5", alpha=0.18, linewidth=0, label=label)
    if len(mismatched_nll):
        label = f"validation, mismatched MIDI: {mismatched_nll[-1]:.3f}"
        ax.plot(mismatched_step, mismatched_nll, ".-", color=ORANGE, label=label)
    if len(nll):
        ax.plot(step, nll, ".-", color=TEAL, label=f"validation: {nll[-1]:.3f}")
