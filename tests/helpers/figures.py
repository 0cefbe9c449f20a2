"""Performances, and what a rendered figure shows."""

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from midi2wave.midi.performance import PEDALS, SUSTAIN, Performance


def make_performance(notes=(), sustain=()) -> Performance:
    """A performance from (onset, offset, pitch, velocity) and sustain events (seconds, value)."""
    rows = np.array(sorted(notes, key=lambda n: (n[0], n[2])), np.float64).reshape(-1, 4)
    pedals = {c: np.empty((0, 2)) for c in PEDALS} | {SUSTAIN: np.array(sustain, np.float64).reshape(-1, 2)}
    return Performance(rows[:, 0], rows[:, 1], rows[:, 2].astype(np.int64), rows[:, 3].astype(np.int64), pedals)


def pixels(figure: Figure) -> np.ndarray:
    """The rendered figure, uint8 [rows from the top, columns, RGBA]."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())
