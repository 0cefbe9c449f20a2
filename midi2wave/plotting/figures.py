"""What a person looks at and listens to: pictures of clips and of the training, and a page to hear the clips on.

Figures are matplotlib's own objects, drawn by Agg: nothing here touches pyplot's global state or needs a display.
"""

import html
import os
import urllib.parse
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import FuncFormatter, MaxNLocator

from midi2wave.midi.performance import HIGHEST_PITCH, LOWEST_PITCH, SUSTAIN, Performance, sounding_offset
from midi2wave.utils.atomic_files import atomic_file, write_text

WIDTH_INCHES, DPI = 12, 100
VELOCITY_RANGE = (16, 112)  # of the colours; what lies outside is rare
FLOOR_DB = -80
LOWEST_HZ = 50
N_BANDS = 320
WINDOW_SECONDS = 0.08  # parts the fundamentals of neighbouring keys from C4 upwards, and still shows an attack
COLUMN_SECONDS = 0.004
MAX_COLUMNS = 2000  # more than the picture has pixels
# Soft is blue, loud is red. The darkened middle, green and yellow, would glare on white.
VELOCITY_COLOURS = ListedColormap(colormaps["turbo"](np.linspace(0.04, 0.94, 128)) * [0.88, 0.82, 0.88, 1])


@dataclass(frozen=True)
class Entry:
    """One clip on the listening page; file names are relative to the page."""

    name: str
    picture: str
    sounds: list[tuple[str, str]]  # (label, wav file name)
    remark: str = ""  # stands above the players


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
    """The notes of a clip above the spectrograms of its recording and of the model's output, on one time axis.

    `truth` and `output` are int16 [T]; one that is None has no row. Decibels are relative to the loudest point of
    the truth (of the output if there is no truth or only silence), the same for both. `prompt_end_seconds` marks where
    the model stops hearing the recording. `extra` draws one more row at the bottom.
    """
    given = (("recording", truth), ("model output", output))
    sounds = {name: x if len(x) else np.zeros(1, np.int16) for name, x in given if x is not None}
    heights = [2.9, 0.32] + [2.4] * len(sounds) + [2.0] * (extra is not None)
    figure = Figure(figsize=(WIDTH_INCHES, 0.58 + sum(heights)), dpi=DPI, layout="constrained")
    axes = list(figure.subplots(len(heights), 1, sharex=True, height_ratios=heights))
    bar = {"pad": 0.012, "fraction": 0.02, "aspect": 24}
    notes = _draw_roll(axes[0], performance, seconds)
    figure.colorbar(notes, ax=axes[0], label="velocity", ticks=range(16, 113, 16), extend="both", **bar)
    _draw_pedal(axes[1], performance, seconds)

    powers = {name: _spectrogram(x[: max(1, round(seconds * audio_hz))], audio_hz) for name, x in sounds.items()}
    reference = next((power.max() for power in powers.values() if power.max() > 0), 1.0)
    spectra = axes[2 : 2 + len(sounds)]
    for ax, (name, power) in zip(spectra, powers.items(), strict=True):
        image = _draw_spectrogram(ax, power / reference, min(seconds, len(sounds[name]) / audio_hz), audio_hz, name)
    if sounds:
        of = "recording" if truth is not None and powers["recording"].max() > 0 else "output"
        figure.colorbar(
            image, ax=spectra, label=f"dB relative to the {of}'s peak", **bar | {"aspect": 24 * len(sounds)}
        )

    if extra is not None:
        extra(axes[-1])
    if prompt_end_seconds is not None:
        _mark_handover(axes[: 2 + len(sounds)], prompt_end_seconds, seconds)
    _finish_time_axis(axes, seconds)
    figure.align_ylabels([axes[0], *axes[2:]])
    # A title is often a file name, where a dollar sign starts no formula.
    figure.suptitle(_printable(title), x=0.01, ha="left", fontsize=13, weight="bold", parse_math=False)
    return figure


def roll_figure(performance: Performance, seconds: float, title: str = "") -> Figure:
    """The notes and the sustain pedal of the first `seconds` of a performance."""
    return clip_figure(performance, seconds, audio_hz=1, title=title)  # without audio its rate is nothing


def _printable(text: str) -> str:
    """A file name that is no UTF-8 reaches us with surrogates, which neither a font nor a page can hold."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _bars(start: np.ndarray, stop: np.ndarray, pitch: np.ndarray, height: float) -> np.ndarray:
    """Corners of rectangles, [N, 4, 2], around each pitch."""
    low, high = pitch - height / 2, pitch + height / 2
    return np.stack([np.stack([start, start, stop, stop]), np.stack([low, high, high, low])], axis=-1).swapaxes(0, 1)


def _draw_roll(ax: Axes, performance: Performance, seconds: float) -> PolyCollection:
    """Each note solid until its key comes up and pale until its damper falls; returns what carries the colours."""
    sounding = sounding_offset(performance)
    shown = (performance.onset < seconds) & ((performance.onset >= 0) | (sounding > 0))
    onset, offset, damped = performance.onset[shown], performance.offset[shown], sounding[shown].clip(0, seconds)
    pitch, velocity = performance.pitch[shown], performance.velocity[shown]
    # Every key stroke is at least about a pixel wide, however long the piece.
    release = np.maximum(offset, onset + seconds / 1000).clip(0, seconds)
    start = onset.clip(0)
    low, high = (int(pitch.min()), int(pitch.max())) if len(pitch) else (60, 60)
    margin = max(2, (25 - (high - low)) // 2)  # two octaves at least: a single note is no thick beam
    low, high = max(LOWEST_PITCH, low - margin), min(HIGHEST_PITCH, high + margin)

    black = np.array([p for p in range(low, high + 1) if p % 12 in (1, 3, 6, 8, 10)], dtype=float)
    keys = _bars(np.zeros(len(black)), np.full(len(black), seconds), black, 1.0)
    ax.add_collection(PolyCollection(keys, facecolor="0.955", linewidth=0, zorder=0))
    colours = {"array": velocity.astype(float), "cmap": VELOCITY_COLOURS, "norm": Normalize(*VELOCITY_RANGE)}
    ax.add_collection(
        PolyCollection(_bars(start, damped, pitch, 0.55), alpha=0.28, linewidth=0, label="sounding", **colours)
    )
    notes = PolyCollection(_bars(start, release, pitch, 0.9), linewidth=0, label="held", **colours)
    ax.add_collection(notes)
    cs = [p for p in range(low, high + 1) if p % 12 == 0]
    ax.set_yticks(cs, [f"C{p // 12 - 1}" for p in cs])
    ax.grid(axis="y", color="0.8", linewidth=0.6)
    ax.set_axisbelow(True)
    ax.set(ylim=(low - 0.5, high + 0.5), ylabel="pitch")
    return notes


def _draw_pedal(ax: Axes, performance: Performance, seconds: float) -> None:
    """The sustain pedal's depth as a step function, held from its last event before 0 and to the end."""
    events = performance.pedals.get(SUSTAIN, np.empty((0, 2)))
    steps = np.vstack([[events[:1, 0].min(initial=0.0), 0.0], events])
    steps = np.vstack([steps, [steps[-1:, 0].max(initial=seconds), steps[-1, 1]]])
    ax.fill_between(*steps.T, step="post", color="0.35", linewidth=0)
    ax.set(ylim=(0, 127), yticks=[])
    ax.set_ylabel("sustain", rotation=0, ha="right", va="center")


def _spectrogram(samples: np.ndarray, audio_hz: int) -> np.ndarray:
    """Power in bands of equal width in octaves from LOWEST_HZ to Nyquist: [N_BANDS, at most MAX_COLUMNS]."""
    window = np.hanning(max(8, round(WINDOW_SECONDS * audio_hz)) + 1)[:-1]
    n_fft = 4 * len(window)  # padded, so that the narrow bands at the bottom are not steps of one bin
    edges = np.geomspace(LOWEST_HZ, audio_hz / 2, N_BANDS + 1)[:, None] * n_fft / audio_hz
    bins = np.arange(n_fft // 2 + 1)
    overlap = np.minimum(edges[1:], bins + 0.5) - np.maximum(edges[:-1], bins - 0.5)
    # A tone has the same level in every band: wide bands add up, those within the window's main lobe take its mean.
    to_bands = overlap.clip(0) / np.diff(edges, axis=0).clip(max=1.5 * n_fft / len(window))

    n_columns = min(MAX_COLUMNS, int(np.ceil(len(samples) / (COLUMN_SECONDS * audio_hz))))
    centre = ((np.arange(n_columns) + 0.5) * len(samples) / n_columns).astype(np.int64)
    power = np.empty((N_BANDS, n_columns))
    for first in range(0, n_columns, 256):  # in blocks: the spectra of all columns at once would be 100s of MB
        index = centre[first : first + 256, None] + np.arange(len(window)) - len(window) // 2
        inside = (index >= 0) & (index < len(samples))
        frames = np.where(inside, samples.take(index, mode="clip"), 0) * window
        power[:, first : first + 256] = to_bands @ (np.abs(np.fft.rfft(frames, n_fft)) ** 2).T
    return power


def _draw_spectrogram(ax: Axes, power: np.ndarray, seconds: float, audio_hz: int, name: str) -> AxesImage:
    """`power` [N_BANDS, columns], 1 being 0 dB, over 0..`seconds`; the axis stays grey where the audio has ended."""
    decibels = 10 * np.log10(power.clip(10.0 ** (FLOOR_DB / 10)))
    # The axis counts octaves: the bands are equal on it, while imshow on an axis with log scale would warp them again.
    bottom, top = np.log2([LOWEST_HZ, audio_hz / 2])
    extent = (0, seconds, bottom, top)
    image = ax.imshow(decibels, extent=extent, origin="lower", aspect="auto", cmap="magma", vmin=FLOOR_DB, vmax=0)
    ticks = [hz for hz in (50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000) if hz <= audio_hz / 2]
    ax.set_yticks(np.log2(ticks), [f"{hz // 1000}k" if hz >= 1000 else str(hz) for hz in ticks])
    ax.set(ylim=(bottom, top), ylabel="Hz", facecolor="0.85")
    box = {"facecolor": "black", "alpha": 0.55, "linewidth": 0, "pad": 4}
    ax.text(0.992, 0.955, name, transform=ax.transAxes, color="white", ha="right", va="top", fontsize=11, bbox=box)
    return image


def _mark_handover(axes: list[Axes], prompt_end_seconds: float, seconds: float) -> None:
    at = min(max(prompt_end_seconds, 0.0), seconds)
    for row, ax in enumerate(axes):
        ax.axvline(at, color="white" if row > 1 else "black", linewidth=1.5, linestyle="--")
    words = (("teacher-forced", at > 0, "right", -6), ("autoregressive", at < seconds, "left", 6))
    for text, applies, side, gap in words:
        if applies:
            place = {"xy": (at, 1), "xycoords": axes[0].get_xaxis_transform(), "xytext": (gap, 4)}
            axes[0].annotate(text, **place, textcoords="offset points", ha=side, fontsize=10)


def _finish_time_axis(axes: list[Axes], seconds: float) -> None:
    axes[0].set_xlim(0, seconds)
    for ax in axes[:-1]:
        ax.tick_params(labelbottom=False, bottom=False)
    if seconds > 120:
        axes[-1].xaxis.set_major_locator(MaxNLocator(12, steps=[1, 3, 6, 10]))
        axes[-1].xaxis.set_major_formatter(FuncFormatter(lambda s, _: f"{round(s) // 60}:{round(s) % 60:02d}"))
    axes[-1].set_xlabel("minutes" if seconds > 120 else "seconds")


def curves_figure(metrics: list[dict]) -> Figure:
    """The course of a training from rows of metrics.jsonl: losses above, learning rate below.

    Read are `step`, `loss`, `validation_nll`, `validation_nll_shuffled` (nats per sample) and `learning_rate`; a row
    may lack any of them. Between the two validation curves lies what the model owes to the notes.
    """

    def curve(key: str) -> tuple[np.ndarray, np.ndarray]:
        # A dictionary, since a run that was resumed logs some steps twice: the last one counts.
        by_step = {row["step"]: row[key] for row in metrics if row.get("step") is not None and row.get(key) is not None}
        rows = np.array(sorted(by_step.items()), dtype=float).reshape(-1, 2)
        return tuple(rows[np.isfinite(rows[:, 1])].T)

    figure = Figure(figsize=(WIDTH_INCHES, 6), dpi=DPI, layout="constrained")
    ax, rate_ax = figure.subplots(2, 1, sharex=True, height_ratios=[4, 1])
    (step, loss), (at, nll), (at_shuffled, shuffled) = map(curve, ("loss", "validation_nll", "validation_nll_shuffled"))
    ax.plot(step, loss, color="0.8", linewidth=0.8)
    if n := len(loss):
        ones = np.ones(max(1, n // 50))
        ax.plot(step, np.convolve(loss, ones, "same") / np.convolve(np.ones(n), ones, "same"), "0.35", label="training")
    both, i, j = np.intersect1d(at, at_shuffled, return_indices=True)
    if len(both):
        label = f"owed to the notes: {shuffled[j][-1] - nll[i][-1]:+.3f}"
        ax.fill_between(both, nll[i], shuffled[j], color="#00a5a5", alpha=0.18, linewidth=0, label=label)
    if len(shuffled):
        ax.plot(
            at_shuffled, shuffled, ".-", color="#d95f02", label=f"validation, notes of another clip: {shuffled[-1]:.3f}"
        )
    if len(nll):
        ax.plot(at, nll, ".-", color="#007878", label=f"validation: {nll[-1]:.3f}")
    values = np.concatenate([loss, nll, shuffled])
    if len(values) > 50:  # the first steps lie far above all that is of interest
        bottom, top = values.min(), np.percentile(values, 98)
        ax.set_ylim(bottom - 0.05 * (top - bottom) - 1e-3, top + 0.05 * (top - bottom) + 1e-3)
    if len(values):
        ax.legend(frameon=False)
    rate_ax.plot(*curve("learning_rate"), color="0.35")
    ax.set(ylabel="nats per sample")
    rate_ax.set(xlabel="step", ylabel="learning rate")
    ax.grid(color="0.9")
    rate_ax.grid(color="0.9")
    return figure


def card_figure(card: dict, title: str = "") -> Figure:
    """The histograms of a dataset card (`dataset_card.card`): notes per key and velocity, recordings per peak level."""
    figure = Figure(figsize=(WIDTH_INCHES, 6), dpi=DPI, layout="constrained")
    axes = figure.subplot_mosaic([["pitch", "pitch"], ["velocity", "peak"]])
    low, counts = card["pitch_histogram"]["lowest_pitch"], card["pitch_histogram"]["notes"]
    keys = np.arange(low, low + len(counts))
    black = np.isin(keys % 12, (1, 3, 6, 8, 10))
    axes["pitch"].bar(keys, counts, width=0.9, color=np.where(black, "0.35", "#007878"))
    cs = [key for key in keys if key % 12 == 0]
    axes["pitch"].set_xticks(cs, [f"C{key // 12 - 1}" for key in cs])
    axes["pitch"].set(xlabel="key", ylabel="notes", xlim=(low - 1, low + len(counts)))
    velocities = card["velocity_histogram"]
    axes["velocity"].bar(np.arange(len(velocities)), velocities, width=1.0, color="#007878")
    axes["velocity"].set(xlabel="velocity", ylabel="notes", xlim=(0, len(velocities)))
    width, recordings = card["peak_histogram"]["bin_db"], card["peak_histogram"]["recordings"]
    edges = width * (np.arange(len(recordings)) - len(recordings))
    axes["peak"].bar(edges, recordings, width=0.9 * width, align="edge", color="#d95f02")
    axes["peak"].set(xlabel="peak level in dBFS (lowest bar: and less)", ylabel="recordings")
    axes["peak"].yaxis.set_major_locator(MaxNLocator(integer=True))
    figure.suptitle(_printable(title), x=0.01, ha="left", fontsize=13, weight="bold", parse_math=False)
    return figure


def save_figure(path: str | Path, figure: Figure) -> None:
    """Write a figure as PNG, 1200 pixels wide, atomically. Raises OSError (full disk, no permission)."""
    with atomic_file(path) as aside, warnings.catch_warnings():
        # A file name in a script that the font lacks shows as boxes; that is nothing to warn a user about.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.savefig(aside, format="png")


_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 1200px; margin: 2rem auto; padding: 0 1rem; color: #222 }}
h2, td {{ overflow-wrap: anywhere }}
th {{ text-align: left; font-weight: normal; color: #666; padding-right: 2rem; vertical-align: top }}
section {{ border-top: 1px solid #ddd; margin-top: 2rem }}
.sounds {{ display: flex; flex-wrap: wrap; gap: .5rem 2rem; margin-bottom: 1rem }}
label, audio {{ display: block }}
img {{ width: 100% }}
</style>
<h1>{title}</h1>
<table>
{facts}
</table>
{entries}
<script>
document.addEventListener("play", event => document.querySelectorAll("audio").forEach(
  audio => audio === event.target || audio.pause()), true);
</script>
</html>
"""


def _text(text: str) -> str:
    return html.escape(_printable(text))


def _link(file_name: str) -> str:
    return html.escape(urllib.parse.quote(os.fsencode(file_name)))


def listening_page(path: str | Path, title: str, entries: list[Entry], facts: dict[str, str]) -> None:
    """Write one HTML page with picture and players for each entry, atomically; it needs no server and no network."""
    sections = []
    for entry in entries:
        name, remark = _text(entry.name), f"<p>{_text(entry.remark)}</p>\n" if entry.remark else ""
        players = "\n".join(
            f'<label>{_text(label)}<audio controls preload="metadata" src="{_link(wav)}"></audio></label>'
            for label, wav in entry.sounds
        )
        image = f'<img src="{_link(entry.picture)}" alt="Notes and spectrograms of {name}" loading="lazy">'
        sections.append(
            f'<section>\n<h2>{name}</h2>\n{remark}<div class="sounds">\n{players}\n</div>\n{image}\n</section>'
        )
    rows = [f"<tr><th>{_text(key)}</th><td>{_text(value)}</td></tr>" for key, value in facts.items()]
    write_text(path, _PAGE.format(title=_text(title), facts="\n".join(rows), entries="\n".join(sections)))
