"""Figure of a dataset card: histograms of pitches, velocities and peak levels."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from midi2wave.plotting.figures import BLACK_KEYS, DPI, ORANGE, TEAL, WIDTH_INCHES, octave_ticks, set_title


def dataset_card_figure(card: dict[str, Any], title: str = "") -> Figure:
    """Draw the histograms of a dataset card: notes per key and per velocity, recordings per peak level.

    Args:
        card: A card as `midi2wave.data.dataset_card` makes it.
        title: Title of the figure.
    """
    figure = Figure(figsize=(WIDTH_INCHES, 6), dpi=DPI, layout="constrained")
    axes = figure.subplot_mosaic([["pitch", "pitch"], ["velocity", "peak"]])
    low, counts = card["pitch_histogram"]["lowest_pitch"], card["pitch_histogram"]["notes"]
    pitches = np.arange(low, low + len(counts))
    is_black = np.isin(pitches % 12, BLACK_KEYS)
    axes["pitch"].bar(pitches, counts, width=0.9, color=np.where(is_black, "0.35", TEAL))
    axes["pitch"].set_xticks(*octave_ticks(low, low + len(counts) - 1))
    axes["pitch"].set(xlabel="key", ylabel="notes", xlim=(low - 1, low + len(counts)))
    velocities = card["velocity_histogram"]
    axes["velocity"].bar(np.arange(len(velocities)), velocities, width=1.0, color=TEAL)
    axes["velocity"].set(xlabel="velocity", ylabel="notes", xlim=(0, len(velocities)))
    width, recordings = card["peak_histogram"]["bin_db"], card["peak_histogram"]["recordings"]
    edges = width * (np.arange(len(recordings)) - len(recordings))
    axes["peak"].bar(edges, recordings, width=0.9 * width, align="edge", color=ORANGE)
    axes["peak"].set(xlabel="peak level in dBFS (first bar: this and all lower levels)", ylabel="recordings")
    axes["peak"].yaxis.set_major_locator(MaxNLocator(integer=True))
    set_title(figure, title)
    return figure
