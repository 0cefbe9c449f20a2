"""Figures of clips: piano roll and spectrograms on one time axis.

Figures are matplotlib objects drawn by Agg; nothing here uses pyplot's global state or needs a display.
"""

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PolyCollection
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import FuncFormatter, MaxNLocator

from midi2wave.midi.performance import MAX_PITCH, MIN_PITCH, SUSTAIN, Performance, sounding_offset
from midi2wave.utils.atomic_files import atomic_file
from midi2wave.utils.text import printable

WIDTH_INCHES = 12
DPI = 100
VELOCITY_RANGE = (16, 112)  # The range of the colour scale; velocities beyond it are rare.
MIN_DB = -80
MIN_HZ = 50
N_BANDS = 320
WINDOW_SECONDS = 0.08  # Long enough to separate neighbouring fundamentals from C4 upwards, short enough for attacks.
COLUMN_SECONDS = 0.004
MAX_COLUMNS = 2000  # More than the picture has pixels.
COLUMNS_PER_BLOCK = 256  # The spectra of all columns at once would take hundreds of MB.
FREQUENCY_TICKS = (50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000)
BLACK_KEYS = (1, 3, 6, 8, 10)  # As semitones above C.
TEAL = "#007878"
ORANGE = "#d95f02"
COLOUR_BAR: dict[str, Any] = {"pad": 0.012, "fraction": 0.02, "aspect": 24}
# Soft is blue, loud is red. Green and yellow in the middle are darkened, since they have little contrast with white.
VELOCITY_COLOURS = ListedColormap(colormaps["turbo"](np.linspace(0.04, 0.94, 128)) * [0.88, 0.82, 0.88, 1])


def clip_figure(
    performance: Performance,
    seconds: float,
    audio_hz: int,
    truth: np.ndarray | None = None,
    output: np.ndarray | None = None,
    *,
    title: str = "",
    prompt_end_seconds: float | None = None,
    extra: Callable[[Axes], None] | None = None,
) -> Figure:
    """Draw the piano roll of a clip above the spectrograms of its recording and of the model's output.

    Decibels are relative to the loudest point of the recording, for both spectrograms (of the output if there is no
    recording, or only silence).

    Args:
        performance: The notes and pedals.
        seconds: The length of the time axis.
        audio_hz: Sampling rate of `truth` and `output`.
        truth: The recording, int16 [T]; None for no such row.
        output: The model's output, int16 [T]; None for no such row.
        title: Title of the figure.
        prompt_end_seconds: Where `output` is no longer the recording and the model continues it; marked in all rows.
        extra: Draws one more row at the bottom.
    """
    optional = {"recording": truth, "model output": output}
    sounds = {name: x if len(x) else np.zeros(1, np.int16) for name, x in optional.items() if x is not None}
    heights = [2.9, 0.32] + [2.4] * len(sounds) + [2.0] * (extra is not None)
    figure = Figure(figsize=(WIDTH_INCHES, 0.58 + sum(heights)), dpi=DPI, layout="constrained")
    axes: list[Axes] = list(figure.subplots(len(heights), 1, sharex=True, height_ratios=heights))
    notes = _draw_piano_roll(axes[0], performance, seconds)
    figure.colorbar(notes, ax=axes[0], label="velocity", ticks=range(16, 113, 16), extend="both", **COLOUR_BAR)
    _draw_pedal(axes[1], performance, seconds)
    if sounds:
        _draw_spectrograms(figure, axes[2 : 2 + len(sounds)], sounds, seconds, audio_hz)
    if extra is not None:
        extra(axes[-1])
    if prompt_end_seconds is not None:
        _mark_prompt_end(axes[: 2 + len(sounds)], prompt_end_seconds, seconds)
    _label_time_axis(axes, seconds)
    figure.align_ylabels([axes[0], *axes[2:]])
    set_title(figure, title)
    return figure


def piano_roll_figure(performance: Performance, seconds: float, title: str = "") -> Figure:
    """Draw the notes and the sustain pedal of the first `seconds` of a performance."""
    return clip_figure(performance, seconds, audio_hz=1, title=title)  # The sampling rate is not used without audio.


def save_figure(path: str | Path, figure: Figure) -> None:
    """Write a figure as PNG, 1200 pixels wide, atomically.

    Raises:
        OSError: The file cannot be written (full disk, no permission).
    """
    with atomic_file(path) as tmp_path, warnings.catch_warnings():
        # A file name in a script that the font lacks shows as boxes; users need no warning about that.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.savefig(tmp_path, format="png")


def pixels(figure: Figure) -> np.ndarray:
    """Draw a figure: uint8 [rows from the top, columns, RGB]."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[:, :, :3]


def set_title(figure: Figure, title: str) -> None:
    """Set a figure's title at the top left; a dollar sign in it starts no formula, since it is often a file name."""
    figure.suptitle(printable(title), x=0.01, ha="left", fontsize=13, weight="bold", parse_math=False)


def octave_ticks(low: int, high: int) -> tuple[list[int], list[str]]:
    """The pitches named C between two MIDI pitches, and their names for an axis."""
    pitches = [pitch for pitch in range(low, high + 1) if pitch % 12 == 0]
    return pitches, [f"C{pitch // 12 - 1}" for pitch in pitches]


def _rectangles(start: np.ndarray, stop: np.ndarray, pitch: np.ndarray, height: float, **style: Any) -> PolyCollection:
    """Rectangles around each pitch, from `start` to `stop` in seconds, [N] each."""
    low, high = pitch - height / 2, pitch + height / 2
    corners = np.stack([np.stack([start, start, stop, stop]), np.stack([low, high, high, low])], axis=-1)
    # The annotations of matplotlib omit arrays [N, 4, 2], which it draws much faster than a list of polygons.
    return PolyCollection(corners.swapaxes(0, 1), **style)  # type: ignore[arg-type]


def _draw_piano_roll(ax: Axes, performance: Performance, seconds: float) -> PolyCollection:
    """Draw each note solid until its key is released, pale until its damper falls; return the coloured collection."""
    sounding = sounding_offset(performance)
    shown = (performance.onset < seconds) & ((performance.onset >= 0) | (sounding > 0))
    onset, offset, damped = performance.onset[shown], performance.offset[shown], sounding[shown].clip(0, seconds)
    pitch, velocity = performance.pitch[shown], performance.velocity[shown]
    # Every note is at least about a pixel wide, however long the piece.
    release = np.maximum(offset, onset + seconds / 1000).clip(0, seconds)
    start = onset.clip(0)
    low, high = pitch_range(pitch)
    black = np.array([p for p in range(low, high + 1) if p % 12 in BLACK_KEYS], dtype=float)
    whole = np.zeros(len(black)), np.full(len(black), seconds)
    ax.add_collection(_rectangles(*whole, black, 1.0, facecolor="0.955", linewidth=0, zorder=0))

    colours: dict[str, Any] = {
        "array": velocity.astype(float),
        "cmap": VELOCITY_COLOURS,
        "norm": Normalize(*VELOCITY_RANGE),
        "linewidth": 0,
    }
    ax.add_collection(_rectangles(start, damped, pitch, 0.55, alpha=0.28, label="sounding", **colours))
    notes = _rectangles(start, release, pitch, 0.9, label="held", **colours)
    ax.add_collection(notes)
    ax.set_yticks(*octave_ticks(low, high))
    ax.grid(axis="y", color="0.8", linewidth=0.6)
    ax.set_axisbelow(True)
    ax.set(ylim=(low - 0.5, high + 0.5), ylabel="pitch")
    return notes


def pitch_range(pitch: np.ndarray) -> tuple[int, int]:
    """The lowest and highest pitch of an axis, two octaves at least, so that a single note is no thick bar.

    Args:
        pitch: The MIDI pitches that are shown, [N].
    """
    low, high = (int(pitch.min()), int(pitch.max())) if len(pitch) else (60, 60)
    margin = max(2, (25 - (high - low)) // 2)
    return max(MIN_PITCH, low - margin), min(MAX_PITCH, high + margin)


def _draw_pedal(ax: Axes, performance: Performance, seconds: float) -> None:
    """Draw the sustain pedal's value as a step function, from its last event before 0 to the end."""
    events = performance.pedals.get(SUSTAIN, np.empty((0, 2)))
    levels = np.vstack([[events[:1, 0].min(initial=0.0), 0.0], events])
    levels = np.vstack([levels, [levels[-1:, 0].max(initial=seconds), levels[-1, 1]]])
    ax.fill_between(levels[:, 0], levels[:, 1], step="post", color="0.35", linewidth=0)
    ax.set(ylim=(0, 127), yticks=[])
    ax.set_ylabel("sustain", rotation=0, ha="right", va="center")


def _draw_spectrograms(
    figure: Figure, axes: Sequence[Axes], sounds: dict[str, np.ndarray], seconds: float, audio_hz: int
) -> None:
    """Draw one row for each named sound, int16 [T], and their common colour bar."""
    powers = {name: spectrogram(x[: max(1, round(seconds * audio_hz))], audio_hz) for name, x in sounds.items()}
    reference = next((power.max() for power in powers.values() if power.max() > 0), 1.0)
    for ax, (name, power) in zip(axes, powers.items(), strict=True):
        shown_seconds = min(seconds, len(sounds[name]) / audio_hz)
        image = _draw_spectrogram(ax, power / reference, shown_seconds, audio_hz, name)
    has_recording = "recording" in powers and powers["recording"].max() > 0
    label = f"dB relative to the {'recording' if has_recording else 'output'}'s peak"
    figure.colorbar(image, ax=axes, label=label, **COLOUR_BAR | {"aspect": 24 * len(sounds)})


def spectrogram(samples: np.ndarray, audio_hz: int, max_columns: int = MAX_COLUMNS) -> np.ndarray:
    """Power in bands of equal width in octaves from MIN_HZ to the Nyquist frequency.

    Args:
        samples: Audio, int16 [T].
        audio_hz: Sample rate.
        max_columns: The columns are COLUMN_SECONDS apart, or further, if there would be more of them than this.

    Returns:
        float64 [N_BANDS, columns], the lowest band first.
    """
    import librosa  # Here, since it takes a second, and most commands draw nothing.

    n_window = max(8, round(WINDOW_SECONDS * audio_hz))
    n_fft = 4 * n_window  # Zero padding gives the narrow bands at the bottom several bins each.
    edges = np.geomspace(MIN_HZ, audio_hz / 2, N_BANDS + 1)[:, None] * n_fft / audio_hz
    bins = np.arange(n_fft // 2 + 1)
    overlap = np.minimum(edges[1:], bins + 0.5) - np.maximum(edges[:-1], bins - 0.5)
    # A tone has the same level in every band: wide bands are summed, those within the window's main lobe averaged.
    to_bands = overlap.clip(0) / np.diff(edges, axis=0).clip(max=1.5 * n_fft / n_window)

    hop = max(round(COLUMN_SECONDS * audio_hz), -(-len(samples) // max_columns), 1)
    n_columns = -(-len(samples) // hop)
    power = np.empty((N_BANDS, n_columns))
    for first in range(0, n_columns, COLUMNS_PER_BLOCK):
        block = power[:, first : first + COLUMNS_PER_BLOCK]
        start = first * hop + hop // 2 - n_fft // 2  # Of the first frame; each is centred on its column.
        stop = start + (block.shape[1] - 1) * hop + n_fft
        audio = np.pad(samples[max(0, start) : stop].astype(np.float32), (max(0, -start), 0))
        audio = librosa.util.fix_length(audio, size=stop - start)  # Silence follows the end.
        spectra = librosa.stft(audio, n_fft=n_fft, hop_length=hop, win_length=n_window, center=False)
        block[:] = to_bands @ np.abs(spectra) ** 2
    return power


def _draw_spectrogram(ax: Axes, power: np.ndarray, seconds: float, audio_hz: int, name: str) -> AxesImage:
    """Draw `power` [N_BANDS, columns], relative to 0 dB, over 0..`seconds`; the axis is grey where the audio ends."""
    decibels = 10 * np.log10(power.clip(10.0 ** (MIN_DB / 10)))
    # The axis counts octaves: the bands are equal on it, while imshow on an axis with log scale would warp them again.
    bottom, top = np.log2([MIN_HZ, audio_hz / 2])
    extent = (0, seconds, bottom, top)
    image = ax.imshow(decibels, extent=extent, origin="lower", aspect="auto", cmap="magma", vmin=MIN_DB, vmax=0)
    ticks = [hz for hz in FREQUENCY_TICKS if hz <= audio_hz / 2]
    ax.set_yticks(np.log2(ticks), [f"{hz // 1000}k" if hz >= 1000 else str(hz) for hz in ticks])
    ax.set(ylim=(bottom, top), ylabel="Hz", facecolor="0.85")
    box = {"facecolor": "black", "alpha": 0.55, "linewidth": 0, "pad": 4}
    ax.text(0.992, 0.955, name, transform=ax.transAxes, color="white", ha="right", va="top", fontsize=11, bbox=box)
    return image


def _mark_prompt_end(axes: Sequence[Axes], prompt_end_seconds: float, seconds: float) -> None:
    """Draw a line through all rows where the prompt, a recording, ends, and name both sides of it."""
    x = min(max(prompt_end_seconds, 0.0), seconds)
    for row, ax in enumerate(axes):
        ax.axvline(x, color="white" if row > 1 else "black", linewidth=1.5, linestyle="--")
    labels = (("prompt", x > 0, "right", -6), ("generated", x < seconds, "left", 6))
    for text, applies, side, gap in labels:
        if applies:
            place: dict[str, Any] = {"xy": (x, 1), "xycoords": axes[0].get_xaxis_transform(), "xytext": (gap, 4)}
            axes[0].annotate(text, **place, textcoords="offset points", ha=side, fontsize=10)


def _label_time_axis(axes: Sequence[Axes], seconds: float) -> None:
    """Label the time axis below the last row only, in minutes where it is long."""
    axes[0].set_xlim(0, seconds)
    for ax in axes[:-1]:
        ax.tick_params(labelbottom=False, bottom=False)
    if seconds > 120:
        axes[-1].xaxis.set_major_locator(MaxNLocator(12, steps=[1, 3, 6, 10]))
        axes[-1].xaxis.set_major_formatter(FuncFormatter(lambda s, _: f"{round(s) // 60}:{round(s) % 60:02d}"))
    axes[-1].set_xlabel("minutes" if seconds > 120 else "seconds")
