"""The fine-tuned model beside its base, on the same held-out clips: scores, differences, and a verdict in words."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from midi2wave.data.test_clips import clip_source
from midi2wave.evaluation.metrics import bootstrap_interval, mean
from midi2wave.finetuning.model_scores import (
    MAX_NOTE_LOSS,
    MIN_TOPLINE_SHARE,
    clip_values,
    note_measure,
    topline_values,
)
from midi2wave.utils.cli import count_of

# Names of both models.
BASE_NAME, TUNED_NAME = "base", "fine_tuned"
# By chance alone, all differences of n recordings have one sign in 2 of 2^n cases, and then the interval leaves out 0.
FEW_RECORDINGS = 6
# Outcomes, as messages and tables name them.
WORKED, IN_PART, NOT_CLEAR, FAILED = "It worked", "It worked in part", "Not clear", "It did not work"


@dataclass(frozen=True)
class Measure:
    """A measure by which the two models are compared.

    Attributes:
        name: Its key.
        words: What it is called, and which direction is better.
        digits: Digits after the point.
        sign: 1 where more is better, -1 where less is.
    """

    name: str
    words: str
    digits: int
    sign: int


MEASURES = (
    Measure("f1", "F1 of the notes (more is better)", 3, 1),
    Measure("mrstft", "STFT distance (less is nearer)", 3, -1),
    Measure("noise_excess_db", "noise excess in dB (less is better)", 1, -1),
    Measure("chroma", "chroma correlation (more is nearer)", 3, 1),
    Measure("nll", "NLL in nats per sample (less is better)", 3, -1),
    Measure("gap", "conditioning gap in nats per sample (more is better)", 3, 1),
)


def compare(base: dict[str, Any], tuned: dict[str, Any]) -> dict[str, Any]:
    """The scores of both models and their difference, clip by clip.

    Args:
        base: Scores of the base model.
        tuned: Scores of the fine-tuned model, of the same clips.

    Returns:
        As JSON values: for each measure that both have `base`, `fine_tuned`, `difference`, its `interval` by bootstrap
        over the recordings (over the clips if there is one recording) and, where it has them, `topline` and
        `baseline`; `notes`, as of `_compare_notes`; and the number of `clips` and `recordings`.
    """
    names = [clip["clip"] for clip in tuned["per_clip"]]
    recordings = [clip_source(name) for name in names]
    n_recordings = len(set(recordings))
    clusters = recordings if n_recordings > 1 else names
    measures = {}
    for measure in MEASURES:
        before, after = (clip_values(scores, measure.name) for scores in (base, tuned))
        if not np.isfinite(after - before).any():
            continue
        values = {"base": mean(before), "fine_tuned": mean(after)} | _difference(after, before, clusters)
        for end in ("topline", "baseline"):
            if f"{measure.name}_{end}" in tuned:
                values[end] = tuned[f"{measure.name}_{end}"]
        measures[measure.name] = values
    notes = _compare_notes(base, tuned, clusters)
    return {"clips": len(names), "recordings": n_recordings, "measures": measures, "notes": notes}


def _difference(after: np.ndarray, before: np.ndarray, clusters: list[str]) -> dict[str, Any]:
    interval = bootstrap_interval(after - before, clusters)
    return {
        "difference": mean(after - before),
        "interval": None if math.isnan(interval[0]) else list(interval),
    }


def _compare_notes(base: dict[str, Any], tuned: dict[str, Any], clusters: list[str]) -> dict[str, Any] | None:
    """How recognisable the notes are, against the base or the recordings, whichever have less.

    The notes of a base that knows another room can be easier to detect than those of the recordings. A model that
    sounds like the recordings cannot keep that advantage.

    Returns:
        As JSON values: `measure`, `has_notes` (whether the model plays notes at all), `reference` ("base" or
        "recordings"), `difference` and its `interval`; None if no clip has notes.
    """
    name = note_measure(tuned)
    before, topline = clip_values(base, name), topline_values(tuned, name)
    has_notes = name != "f1" or mean(clip_values(tuned, name)) > MIN_TOPLINE_SHARE * mean(topline)
    reference = "recordings" if mean(topline) < mean(before) else "base"
    difference = clip_values(tuned, name) - (topline if reference == "recordings" else before)
    if not np.isfinite(difference).any():
        return None
    compared = _difference(difference, np.zeros_like(difference), clusters)
    return {"measure": name, "has_notes": has_notes, "reference": reference, **compared}


def outcome(comparison: dict[str, Any]) -> str:
    """WORKED, IN_PART, NOT_CLEAR or FAILED: by the notes, by the STFT distance, and by the noise."""
    notes, noise = _outcome_of_notes(comparison["notes"]), _outcome_of_noise(comparison["measures"])
    sound = _outcome(comparison["measures"]["mrstft"], _measure("mrstft"))
    if notes == "no notes":
        return FAILED
    if sound == "better":
        return WORKED if notes == "kept" and noise != "worse" else IN_PART
    return FAILED if sound == "worse" or notes == "lost" else NOT_CLEAR


def verdict(comparison: dict[str, Any]) -> str:
    """Whether the fine-tuning worked, in words: the outcome, and the reasons for it."""
    result, notes = outcome(comparison), _outcome_of_notes(comparison["notes"])
    noise = _outcome_of_noise(comparison["measures"])
    reference = "those of its base"
    if comparison["notes"] and comparison["notes"]["reference"] == "recordings":
        reference = "in the recordings"
    remarks = {
        "kept": f"the notes are as recognisable as {reference}",
        "lost": f"the notes are less recognisable than {reference}",
        "unclear": f"the clips do not show whether the notes are as recognisable as {reference}",
        "none": "the clips have no notes that could be compared",
        "no notes": "",
    }[notes]
    remarks += {
        "better": ", and there is less noise",
        "within": ", and there is no more noise than in the recordings",
        "worse": ", and there is more noise",
        "unclear": "",
    }[noise]
    scope = f"on {count_of(comparison['clips'], 'held-out clip')} of {count_of(comparison['recordings'], 'recording')}"
    nearer = "the fine-tuned model sounds more like your piano than its base"
    no_nearer = "the fine-tuned model does not sound more like your piano than its base"
    if notes == "no notes":
        reasons = f"{scope} hardly any note of the fine-tuned model can be recognised."
    elif result == WORKED:
        reasons = f"{scope} {nearer}, and {remarks}."
    elif result == IN_PART and notes == "kept":
        reasons = f"{scope} {nearer}, but there is more noise; the notes are as recognisable as {reference}."
    elif result == IN_PART:
        reasons = f"{scope} {nearer}, but {remarks}."
    elif result == FAILED:
        reasons = f"{scope} {no_nearer}; {remarks}. Play the base instead."
    else:
        reasons = f"{scope} the interval does not show whether {nearer}; {remarks}."
    text = f"{result}: {reasons}"
    if result != WORKED:
        text += " More minutes, or more recordings, may help."
    if comparison["recordings"] < FEW_RECORDINGS:
        text += f" Intervals of {count_of(comparison['recordings'], 'recording')} are too narrow: listen."
    return text


def describe(comparison: dict[str, Any]) -> list[str]:
    """A line for each measure: fine-tuned, base, difference with interval, topline, baseline."""
    lines = []
    for name, values in comparison["measures"].items():
        measure = _measure(name)
        text = f"{measure.words}: {values['fine_tuned']:.{measure.digits}f}, base {values['base']:.{measure.digits}f}"
        text += f", difference {_format_difference(values, measure.digits)}"
        if values.get("topline") is not None:
            text += f"; the recordings themselves {values['topline']:.{measure.digits}f}"
            notes = comparison["notes"]
            if notes and (name, notes["reference"]) == (notes["measure"], "recordings"):
                text += f", difference from them {_format_difference(notes, measure.digits)}"
        if values.get("baseline") is not None:
            text += f"; against another clip {values['baseline']:.{measure.digits}f}"
        lines.append(text)
    return lines


def _format_difference(values: dict[str, Any], digits: int) -> str:
    """A difference, with its interval in brackets if it has one."""
    text = f"{values['difference']:+.{digits}f}"
    if values["interval"]:
        low, high = values["interval"]
        text += f" ({low:+.{digits}f} .. {high:+.{digits}f})"
    return text


def _measure(name: str) -> Measure:
    return next(measure for measure in MEASURES if measure.name == name)


def _outcome(values: dict[str, Any], measure: Measure) -> str:
    """Whether the fine-tuned model is better, worse, or the interval of the difference holds 0, or it rounds to 0."""
    low, high = _ends(values)
    if not round(values["difference"], measure.digits):
        return "unclear"
    if min(measure.sign * low, measure.sign * high) > 0:
        return "better"
    return "worse" if max(measure.sign * low, measure.sign * high) < 0 else "unclear"


def _outcome_of_noise(measures: dict[str, Any]) -> str:
    """As `_outcome`; more noise than that of the base is no fault ("within") where the recordings have as much.

    Quiet clips, and short ones, have no value.
    """
    values = measures.get("noise_excess_db")
    if values is None:
        return "unclear"
    compared = _outcome(values, _measure("noise_excess_db"))
    return "within" if compared == "worse" and values["fine_tuned"] <= 0 else compared


def _outcome_of_notes(notes: dict[str, Any] | None) -> str:
    """Whether no more than MAX_NOTE_LOSS can have been lost, or something was lost, or the interval shows neither."""
    if notes is None:
        return "none"
    if not notes["has_notes"]:
        return "no notes"
    low, high = _ends(notes)
    if low >= -MAX_NOTE_LOSS:
        return "kept"
    return "lost" if high < 0 else "unclear"


def _ends(values: dict[str, Any]) -> tuple[float, float]:
    """The interval of a difference; from the lowest to the highest number where one clip alone has a value."""
    return tuple(values["interval"]) if values["interval"] else (-math.inf, math.inf)
