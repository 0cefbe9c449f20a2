"""The fine-tuned model beside its base, on the same held-out clips: scores, differences, and a verdict in words."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from midi2wave.checkpoint import load_checkpoint
from midi2wave.config import EvaluateConfig
from midi2wave.data.test_clips import clip_source
from midi2wave.evaluation.clips import scorable_clips
from midi2wave.evaluation.evaluation_folder import evaluate_clips
from midi2wave.evaluation.metrics import bootstrap_interval
from midi2wave.evaluation.transcription import Transcriber
from midi2wave.finetuning.blending import MAX_LOSS
from midi2wave.finetuning.play_settings import play_settings
from midi2wave.utils.cli import count_of, log

EVALUATION_NAME = "evaluation"
BASE_NAME, TUNED_NAME = "base", "fine_tuned"


@dataclass(frozen=True)
class Measure:
    """A measure by which the two models are compared.

    Attributes:
        name: Its key.
        words: What it is called.
        digits: Digits after the point.
        sign: 1 where more is better, -1 where less is.
    """

    name: str
    words: str
    digits: int
    sign: int


MEASURES = (
    Measure("f1", "F1 of the notes", 3, 1),
    Measure("mrstft", "STFT distance", 3, -1),
    Measure("noise_excess_db", "noise excess in dB", 1, -1),
    Measure("chroma", "chroma correlation", 3, 1),
    Measure("nll", "NLL in nats per sample", 3, -1),
    Measure("gap", "conditioning gap in nats per sample", 3, 1),
)


def evaluate_model(
    model: str, name: str, out: Path, clips: Path, transcriber: Transcriber | None, device: str = "auto"
) -> dict[str, Any]:
    """Generate the clips by a model and score them, in a folder of its own.

    Args:
        model: Weights file or run folder.
        name: Name of the folder in `out`/evaluation.
        out: The output folder.
        clips: The folder of the test clips.
        transcriber: It detects the notes; None: no F1.
        device: As in evaluate_config.

    Returns:
        The scores, as evaluate.py writes them.
    """
    log(f"the {name.replace('_', '-')} model plays the test clips and is scored: {model}")
    loaded = load_checkpoint(model, device)
    data = loaded.config.data_config
    settings = EvaluateConfig(
        model_filename=model,
        test_dir=str(clips),
        output_dir=str(out / EVALUATION_NAME / name),
        counterfactuals=False,
        second_transcriber=False,
        sampler_weights="auto",
        device=device,
    )
    usable, _ = scorable_clips(settings, data)
    return evaluate_clips(loaded, play_settings(data).apply(settings), usable, [], (transcriber, None))


def compare(base: dict[str, Any], tuned: dict[str, Any]) -> dict[str, Any]:
    """The scores of both models and their difference, clip by clip.

    Args:
        base: Scores of the base model.
        tuned: Scores of the fine-tuned model, of the same clips.

    Returns:
        As JSON values: for each measure that both have `base`, `fine_tuned`, `difference`, its `interval` by bootstrap
        over the recordings (None for one recording) and, where it has them, `topline` and `baseline`; `notes`, as of
        `_compare_notes`; and the number of `clips` and `recordings`.
    """
    names = [clip["clip"] for clip in tuned["per_clip"]]
    recordings = [clip_source(name) for name in names]
    measures = {}
    for measure in MEASURES:
        before, after = (_values(result, measure.name) for result in (base, tuned))
        if not np.isfinite(after - before).any():
            continue
        values = {"base": float(np.nanmean(before)), "fine_tuned": float(np.nanmean(after))}
        values |= _difference(after, before, recordings)
        for end in ("topline", "baseline"):
            if f"{measure.name}_{end}" in tuned:
                values[end] = tuned[f"{measure.name}_{end}"]
        measures[measure.name] = values
    notes = _compare_notes(base, tuned, "f1" if "f1" in measures else "chroma", recordings)
    return {"clips": len(names), "recordings": len(set(recordings)), "measures": measures, "notes": notes}


def _difference(after: np.ndarray, before: np.ndarray, recordings: list[str]) -> dict[str, Any]:
    interval = bootstrap_interval(after - before, recordings)
    return {
        "difference": float(np.nanmean(after - before)),
        "interval": None if math.isnan(interval[0]) else list(interval),
    }


def _compare_notes(base: dict[str, Any], tuned: dict[str, Any], name: str, recordings: list[str]) -> dict[str, Any]:
    """How recognisable the notes are, against the base or the recordings, whichever have less.

    The notes of a base that knows another room can be easier to detect than those of the recordings. A model that
    sounds like the recordings cannot keep that advantage.

    Returns:
        As JSON values: `measure`, `reference` ("base" or "recordings"), `difference` and its `interval`.
    """
    after, before = _values(tuned, name), _values(base, name)
    topline = np.array([clip[name].get("topline", math.nan) for clip in tuned["per_clip"]], dtype=float)
    has_topline = np.isfinite(topline).any()
    reference = "recordings" if has_topline and np.nanmean(topline) < np.nanmean(before) else "base"
    difference = _difference(after, topline if reference == "recordings" else before, recordings)
    return {"measure": name, "reference": reference, **difference}


def _values(result: dict[str, Any], name: str) -> np.ndarray:
    """A measure of each clip, [N]; NaN where it has none."""
    values = []
    for clip in result["per_clip"]:
        if name == "nll":
            value = clip["likelihood"]["true"]
        elif name == "gap":
            value = clip["likelihood"]["shuffled"] - clip["likelihood"]["true"]
        elif name == "noise_excess_db":
            octaves = [one for one in clip[name]["output"]["percentile_10"] if one is not None]
            value = float(np.mean(octaves)) if octaves else None
        else:
            value = clip[name]["value"] if name in clip else None
        values.append(math.nan if value is None else value)
    return np.array(values)


def verdict(comparison: dict[str, Any]) -> str:
    """Whether the fine-tuning worked, in words: by the notes, by the STFT distance, and by the noise."""
    measures = comparison["measures"]
    notes = _outcome_of_notes(comparison["notes"])
    sound, noise = _outcome(measures["mrstft"], _measure("mrstft")), _outcome_of_noise(measures["noise_excess_db"])
    scope = f"on {count_of(comparison['clips'], 'held-out clip')} of {count_of(comparison['recordings'], 'recording')}"
    reference = "in the recordings" if comparison["notes"]["reference"] == "recordings" else "those of its base"
    remarks = {
        "kept": f"the notes are as recognisable as {reference}",
        "lost": f"the notes are less recognisable than {reference}",
        "unclear": f"the clips do not show whether the notes are as recognisable as {reference}",
    }[notes]
    remarks += {
        "better": ", and there is less noise",
        "within": ", and there is no more noise than in the recordings",
        "worse": ", and there is more noise",
        "unclear": "",
    }[noise]
    nearer = f"{scope} the fine-tuned model sounds more like your piano than its base"
    no_nearer = f"{scope} the fine-tuned model does not sound more like your piano than its base"
    if sound == "better" and notes == "kept" and noise != "worse":
        text = f"It worked: {nearer}, and {remarks}."
    elif sound == "better" and notes == "kept":
        text = f"It worked in part: {nearer}, but there is more noise; the notes are as recognisable as {reference}."
    elif sound == "better":
        text = f"It worked in part: {nearer}, but {remarks}."
    elif sound == "worse" or notes == "lost":
        text = f"It did not work: {no_nearer}; {remarks}. Play the base instead."
    else:
        unclear = "the interval does not show whether the fine-tuned model sounds more like your piano than its base"
        text = f"Not clear: {scope} {unclear}; {remarks}."
    if not text.startswith("It worked:"):
        text += " More minutes, or more recordings, may help."
    if comparison["recordings"] < 2:
        text += " All clips are of one recording, so that there are no intervals: listen."
    return text


def describe(comparison: dict[str, Any]) -> list[str]:
    """A line for each measure: base, fine-tuned, difference with interval, topline."""
    lines = []
    for name, values in comparison["measures"].items():
        measure = _measure(name)
        text = f"{measure.words}: {values['fine_tuned']:.{measure.digits}f}, base {values['base']:.{measure.digits}f}"
        text += f", difference {_format_difference(values, measure.digits)}"
        if values.get("topline") is not None:
            text += f"; the recordings themselves {values['topline']:.{measure.digits}f}"
            notes = comparison["notes"]
            if (name, notes["reference"]) == (notes["measure"], "recordings"):
                text += f", difference from them {_format_difference(notes, measure.digits)}"
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
    """Whether the fine-tuned model is better, worse, or the interval of the difference holds 0."""
    low, high = values["interval"] or (values["difference"], values["difference"])
    if min(measure.sign * low, measure.sign * high) > 0:
        return "better"
    return "worse" if max(measure.sign * low, measure.sign * high) < 0 else "unclear"


def _outcome_of_noise(values: dict[str, Any]) -> str:
    """As `_outcome`; more noise than that of the base is no fault ("within") where the recordings have as much."""
    outcome = _outcome(values, _measure("noise_excess_db"))
    return "within" if outcome == "worse" and values["fine_tuned"] <= 0 else outcome


def _outcome_of_notes(notes: dict[str, Any]) -> str:
    """Whether no more than MAX_LOSS can have been lost, or something was lost, or the interval shows neither."""
    low, high = notes["interval"] or (notes["difference"], notes["difference"])
    if low >= -MAX_LOSS:
        return "kept"
    return "lost" if high < 0 else "unclear"
