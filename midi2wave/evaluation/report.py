"""Report of evaluate.py: a table of all numbers, a picture of each clip and a summary figure.

Table and summary figure are made from the values of scores.json, also later from the file.
"""

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from midi2wave.evaluation.clips import ReferenceClip
from midi2wave.evaluation.transcription import Notes, matched
from midi2wave.plotting.figures import DPI, ORANGE, TEAL, WIDTH_INCHES, clip_figure, octave_ticks, set_title
from midi2wave.utils.cli import count_of

LIKELIHOODS = (
    ("nll_true", "NLL, own MIDI"),
    ("nll_shuffled", "NLL, another clip's MIDI"),
    ("nll_null", "NLL, no MIDI"),
    ("gap", "gap: another's - own"),
    ("gap_null", "gap: none - own"),
    ("gap_onsets", "gap, 50 ms after onsets"),
    ("gap_null_onsets", "gap to none, 50 ms after onsets"),
)
SCORES = (
    ("f1", "F1 of the transcribed notes"),
    ("f1_offsets", "F1, ends of notes too"),
    ("chroma", "chroma similarity"),
    ("onsets", "onset agreement"),
    ("mrstft", "STFT distance (less is better)"),
)
GREY = "0.6"


def table(result: dict[str, Any]) -> str:
    """All numbers of a result as text, one measure per line.

    Args:
        result: The values of scores.json.
    """
    lines = [f"{count_of(result['clips'], 'clip')}, {result['mode']}, step {result['step']} of {result['model']}", ""]
    lines.append(f"{'nats per sample':34}{'mean':>9}   95 % interval")
    for key, name in LIKELIHOODS:
        lines.append(f"{name:34}{_number(result[key], 4):>9}   {_interval(result[f'{key}_interval'], 4)}")
    lines += ["", f"{'generated audio':34}{'mean':>9}   {'95 % interval':20}{'topline':>9}{'baseline':>9}"]
    for key, name in SCORES:
        if key.startswith("f1") and result["transcriber"] is None:
            continue
        row = f"{name:34}{_number(result[key]):>9}   {_interval(result[f'{key}_interval']):20}"
        lines.append(f"{row}{_number(result[f'{key}_topline']):>9}{_number(result[f'{key}_baseline']):>9}")
    transcriber = result["transcriber"]
    source = f"transcribed by {transcriber}" if transcriber else "no transcriber is installed: no F1"
    lines += [f"(topline: the recordings themselves; baseline: against another clip; {source})", ""]
    ratios = result["conditioning_ratios"]
    spread = f"{min(ratios):.3f} .. {max(ratios):.3f} over {len(ratios)} layers"
    lines.append(f"{'conditioning / past in the gates':34}{_number(float(np.median(ratios))):>9}   {spread}")
    if result.get("n_codes"):
        usage = f"{result['code_usage']:.0%} of {result['n_codes']} codes used"
        lines.append(f"{'perplexity of the codes':34}{_number(result['code_perplexity'], 1):>9}   {usage}")
    return "\n".join([*lines, *_counterfactual_lines(result["counterfactuals"]), *_drift_lines(result["drift"])])


def _counterfactual_lines(effects: dict[str, Any] | None) -> Iterator[str]:
    if effects is None:
        return
    yield ""
    yield f"{'one thing changed, dB':34}{'mean':>9}   {'worst':>8}   right direction"
    names = {
        "semitone": "note moved by a semitone",
        "velocity": "velocity 110 against 30",
        "pedal": "after release: pedal",
    }
    for key, name in names.items():
        effect = effects[key]
        yield f"{name:34}{effect['db']:>9.1f}   {effect['lowest_db']:>8.1f}   {effect['right']:.0%}"
    yield f"{'elsewhere, when a note is moved':34}{effects['elsewhere_db']:>9.1f}"
    if effects["decays"]:
        yield ""
        yield f"{'global value changed, after release':36}{'decay, dB/s':>12}   {'level, dB':>9}"
    for value, decay in effects["decays"].items():
        yield f"{value:36}{_number(decay['db_per_second'], 1):>12}   {_number(decay['level_db'], 1):>9}"


def _drift_lines(drifts: dict[str, dict[str, Any]]) -> Iterator[str]:
    for name, one in drifts.items():
        silent = one["silent_after_seconds"]
        ends = "not silent" if silent is None else f"silent {silent:g} s"
        yield ""
        yield f"long clip {name}"
        level = f"level {one['level_difference_db']:+.1f} dB (worst 10 s {one['worst_window_db']:+.1f} dB)"
        yield f"  {level}; {ends} after the last note, {one['tail_db']:.0f} dBFS in the sixth second"
        if one["f1_first"] is not None:
            f1 = f"{_number(one['f1_first'])}, {_number(one['f1_last'])}"
            toplines = f"{_number(one['f1_first_topline'])}, {_number(one['f1_last_topline'])}"
            yield f"  F1 of the first and last 10 s: {f1} (toplines {toplines})"


def _number(value: float | None, digits: int = 3) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _interval(interval: list[float | None], digits: int = 3) -> str:
    low, high = interval
    return "-" if low is None else f"{low:.{digits}f} .. {high:.{digits}f}"


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
    """All clips of an evaluation: likelihoods, scores between baseline and topline, and conditioning ratios.

    Args:
        result: The values of scores.json.
    """
    figure = Figure(figsize=(WIDTH_INCHES, 7.5), dpi=DPI, layout="constrained")
    top, bottom = figure.subfigures(2, 1, squeeze=False)[:, 0]
    likelihood_ax, layer_ax = top.subplots(1, 2, width_ratios=[3, 2])
    _draw_likelihoods(likelihood_ax, result)
    _draw_layers(layer_ax, result["conditioning_ratios"])
    shown = [(key, name) for key, name in SCORES if result[key] is not None and key != "f1_offsets"]
    for ax, (key, name) in zip(np.atleast_1d(bottom.subplots(1, len(shown))), shown, strict=True):
        _draw_score(ax, result, key, name)
    set_title(
        figure, f"step {result['step']} of {result['model']}, {result['mode']}, {count_of(result['clips'], 'clip')}"
    )
    return figure


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
        ax.bar(np.arange(len(clips)) + offset, values, 0.28, color=colour, label=f"{label}: {_number(result[name])}")
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
    topline_label = f"topline {_number(result[f'{key}_topline'], 2)}"
    baseline_label = f"baseline {_number(result[f'{key}_baseline'], 2)}"
    ax.plot(x, topline, "_", color="0.2", markersize=9, label=topline_label)
    ax.plot(x, baseline, "_", color=ORANGE, markersize=9, label=baseline_label)
    ax.plot(x, value, "o", color=TEAL, markersize=5, label=f"model {_number(result[key], 2)}")
    ax.set(xlabel="clip", title=name)
    ax.title.set_fontsize(10)
    if key != "mrstft":
        ax.set_ylim(min(-0.02, np.nanmin([*value, *baseline, 0]) - 0.05), 1.05)
    ax.legend(fontsize=8, framealpha=0.8)
