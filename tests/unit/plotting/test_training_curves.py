"""Training curves: any subset of metrics is drawn, and what the curves show."""

import warnings

import numpy as np
import pytest
from matplotlib.collections import FillBetweenPolyCollection

from midi2wave.plotting import training_curves
from midi2wave.plotting.figures import pixels


def curves(figure) -> dict[str, np.ndarray]:
    return {line.get_label(): line.get_xydata() for line in figure.axes[0].lines}


@pytest.mark.parametrize(
    ("metrics", "labels", "rates"),
    [
        ([], [], []),
        ([{}, {"step": 1}, {"loss": 3.0}], [], []),
        ([{"step": 1, "loss": 3.0}], ["training"], []),
        ([{"step": 1, "loss": float("nan")}, {"step": 2, "loss": None}], [], []),
        ([{"step": 1, "validation_nll": 3.0}], ["validation: 3.000"], []),
        (
            [{"step": 1, "validation_nll_shuffled": 3.0, "learning_rate": 1e-3}],
            ["validation, mismatched MIDI: 3.000"],
            [[1, 1e-3]],
        ),
        ([{"step": s, "loss": 1.0} for s in range(200)], ["training"], []),
    ],
)
def test_any_subset_of_metrics_is_drawn(metrics, labels, rates):
    """With the curves of what there is, and no others."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = training_curves.training_curves_figure(metrics)
        assert pixels(figure).std() > 0
    legend = figure.axes[0].get_legend()
    assert [text.get_text() for text in legend.get_texts()] == labels if legend else not labels
    assert figure.axes[1].lines[0].get_xydata().tolist() == rates


def test_curves_follow_the_last_row_of_each_step():
    metrics = [
        {"step": 10, "loss": 5.0},
        {"step": 20, "loss": 9.0},
        {"step": 20, "loss": 4.0},
        {"step": 5, "loss": 6.0},
    ]
    curve = curves(training_curves.training_curves_figure(metrics))["training"]
    np.testing.assert_allclose(curve, [[5, 6], [10, 5], [20, 4]])


def test_the_smoothed_loss_keeps_its_ends():
    metrics = [{"step": s, "loss": 2.0 + (-1) ** s} for s in range(200)]
    curve = curves(training_curves.training_curves_figure(metrics))["training"][:, 1]
    np.testing.assert_allclose(curve, 2.0, atol=0.34)


def test_the_conditioning_gap_is_shaded():
    """The area between both validation curves is shaded at the steps that both have."""
    metrics = [{"step": s, "validation_nll": 5.0 - s / 100, "validation_nll_shuffled": 5.5} for s in (10, 20, 30)]
    metrics.append({"step": 40, "validation_nll": 1.0})
    figure = training_curves.training_curves_figure(metrics)
    (shade,) = [c for c in figure.axes[0].collections if isinstance(c, FillBetweenPolyCollection)]
    assert shade.get_label().endswith("+0.800")
    vertices = shade.get_paths()[0].vertices
    assert vertices.min(axis=0).tolist() == [10, 4.7]
    assert vertices.max(axis=0).tolist() == [30, 5.5]
