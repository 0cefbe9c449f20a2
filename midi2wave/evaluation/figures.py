"""Figures of an evaluation: a picture of each clip, and a summary of all clips from the values of scores.json."""

import functools
import math
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from midi2wave.evaluation.clips import ReferenceClip
from midi2wave.evaluation.report import SCORES, clips_and_recordings, format_number
from midi2wave.evaluation.transcription import Notes, matched
from midi2wave.plotting.figures import DPI, ORANGE, TEAL, WIDTH_INCHES, clip_figure, octave_ticks, set_title

GREY = "0.6"
# Scores for which the summary figure has no room; the table has them.
NOT_DRAWN = ("f1_offsets", "transkun_f1_offsets", "transkun_pedal_f1")
SCORES_PER_ROW = 3
NOISE_PERCENTILES = (("percentile_10", "quietest tenth of the bins"), ("median", "median of the bins"))


def clip_picture(
    clip: ReferenceClip,
    audio_hz: int,
    output: np.ndarray,
    reference: Notes,
    transcription: Notes | None,
    *,
    title: str,
    prompt_end_seconds: float | None = None,
) -> Figure:
    """`clip_figure` of a clip, and below it the transcribed notes: correct, missing and invented ones.

    Args:
        clip: The clip.
        audio_hz: Sample rate.
        output: Generated audio, int16 [T].
        reference: The notes of the MIDI.
        transcription: The transcribed notes; None: no such row.
        title: Title of the figure.
        prompt_end_seconds: Where the prompt ends, if there is one.
    """
    seconds = len(clip.truth) / audio_hz
    extra = None
    if transcription is not None:
        extra = functools.partial(_draw_transcription, reference=reference, estimate=transcription, seconds=seconds)
    return clip_figure(
        clip.performance,
        seconds,
        audio_hz,
        clip.truth,
        output,
        title=title,
        prompt_end_seconds=prompt_end_seconds,
        extra=extra,
    )


def _draw_transcription(ax: Axes, reference: Notes, estimate: Notes, seconds: float) -> None:
    """One row of a clip's picture: the notes of the MIDI that were detected, those that were not, and wrong ones."""
    detected, correct = matched(reference, estimate)
    kinds = (
        (reference, ~detected, GREY, f"not detected: {np.sum(~detected)}"),
        (estimate, ~correct, ORANGE, f"not in the MIDI: {np.sum(~correct)}"),
        (estimate, correct, TEAL, f"correct: {np.sum(correct)}"),
    )
    for notes, mask, colour, label in kinds:
        ends = np.minimum(np.maximum(notes.offset, notes.onset + seconds / 200), seconds)
        points = np.stack([notes.onset, notes.pitch, ends, notes.pitch], axis=1)[mask].reshape(-1, 2, 2)
        ax.add_collection(LineCollection(points, colors=colour, linewidths=3, label=label))
    pitches = np.concatenate([reference.pitch, estimate.pitch, [60]])
    low, high = pitches.min() - 2, pitches.max() + 2
    ax.set_yticks(*octave_ticks(low, high))
    ax.grid(axis="y", color="0.9")
    ax.set(ylim=(low, high + (high - low) / 5), ylabel="transcribed")  # The margin is room for the legend.
    ax.legend(loc="upper right", fontsize=8, ncols=3, framealpha=0.8)


def summary_figure(result: dict[str, Any]) -> Figure:
    """All clips of an evaluation: likelihoods, conditioning ratios, noise, scores between baseline and topline.

    Args:
        result: The values of scores.json.
    """
    shown = [(key, name) for key, name in SCORES if key not in NOT_DRAWN and result[key] is not None]
    n_rows = max(1, math.ceil(len(shown) / SCORES_PER_ROW))
    figure = Figure(figsize=(WIDTH_INCHES, 7.0 + 3.5 * n_rows), dpi=DPI, layout="constrained")
    top, middle, bottom = figure.subfigures(3, 1, squeeze=False, height_ratios=[1, 1, n_rows])[:, 0]
    likelihood_ax, layer_ax = top.subplots(1, 2, width_ratios=[3, 2])
    _draw_likelihoods(likelihood_ax, result)
    _draw_layers(layer_ax, result["conditioning_ratios"])
    for ax, (key, name) in zip(middle.subplots(1, 2), NOISE_PERCENTILES, strict=True):
        _draw_noise(ax, result["noise_excess_db"], key, name)
    axes = bottom.subplots(n_rows, SCORES_PER_ROW, squeeze=False).ravel()
    for ax in axes[len(shown) :]:
        ax.set_axis_off()
    for ax, (key, name) in zip(axes, shown, strict=False):
        _draw_score(ax, result, key, name)
    set_title(figure, f"step {result['step']} of {result['model']}, {result['mode']}, {clips_and_recordings(result)}")
    return figure


def _draw_noise(ax: Axes, octaves: list[dict[str, Any]], key: str, name: str) -> None:
    """The noise excess of each octave with its interval, and that of the rounding alone."""
    x = np.arange(len(octaves))

    def numbers(field: str) -> np.ndarray:
        return np.array([np.nan if one[field] is None else one[field] for one in octaves], dtype=float)

    low, high = np.array([one[f"{key}_interval"] for one in octaves], dtype=float).T
    ax.vlines(x, low, high, color="0.85", linewidth=6)
    ax.plot(x, numbers(key), "o", color=TEAL, markersize=5, label="model")
    ax.plot(x, numbers(f"{key}_quantized"), "_", color="0.2", markersize=9, label="rounding of the samples alone")
    ax.axhline(0, color="0.2", linewidth=0.8)
    ax.set_xticks(x, [str(one["low_hz"]) for one in octaves])
    ax.margins(y=0.25)  # Room for the legend.
    ax.set(xlabel="octave from, Hz", ylabel="dB above the recording", title=f"Noise excess, {name}")
    ax.legend(frameon=False, fontsize=9)


def _draw_likelihoods(ax: Axes, result: dict[str, Any]) -> None:
    """The conditioning gap of each clip, of all samples and after onsets, and the means."""
    clips = result["per_clip"]
    bars = (
        (-0.15, "likelihood", TEAL, "all samples"),
        (0.15, "likelihood_onsets", ORANGE, "50 ms after onsets"),
    )
    for offset, key, colour, label in bars:
        values = [c[key]["shuffled"] - c[key]["true"] if c[key]["true"] is not None else np.nan for c in clips]
        name = "gap" if key == "likelihood" else "gap_onsets"
        ax.bar(
            np.arange(len(clips)) + offset, values, 0.28, color=colour, label=f"{label}: {format_number(result[name])}"
        )
    ax.axhline(0, color="0.2", linewidth=0.8)
    ax.set_xticks(range(len(clips)), [str(i + 1) for i in range(len(clips))])
    ax.set(xlabel="clip", ylabel="nats per sample", title="Gap: another clip's MIDI against its own")
    ax.legend(frameon=False, fontsize=9)


def _draw_layers(ax: Axes, ratios: list[float]) -> None:
    ax.plot(range(1, len(ratios) + 1), ratios, ".-", color=TEAL)
    ax.set(xlabel="layer", title="Conditioning / past samples in the gates")
    ax.set_ylim(0)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))


def _draw_score(ax: Axes, result: dict[str, Any], key: str, name: str) -> None:
    """One measure of each clip between its baseline and its topline."""
    scores = [clip[key] for clip in result["per_clip"]]
    x = np.arange(len(scores)) + 1
    value, topline, baseline = (
        np.array([score[kind] if score[kind] is not None else np.nan for score in scores], dtype=float)
        for kind in ("value", "topline", "baseline")
    )
    ax.vlines(x, baseline, topline, color="0.85", linewidth=6)
    topline_label = f"topline {format_number(result[f'{key}_topline'], 2)}"
    baseline_label = f"baseline {format_number(result[f'{key}_baseline'], 2)}"
    ax.plot(x, topline, "_", color="0.2", markersize=9, label=topline_label)
    ax.plot(x, baseline, "_", color=ORANGE, markersize=9, label=baseline_label)
    ax.plot(x, value, "o", color=TEAL, markersize=5, label=f"model {format_number(result[key], 2)}")
    ax.set(xlabel="clip", title=name)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.title.set_fontsize(10)
    if key != "mrstft":
        ax.set_ylim(min(-0.02, np.nanmin([*value, *baseline, 0]) - 0.05), 1.05)
    ax.legend(fontsize=8, framealpha=0.8)
