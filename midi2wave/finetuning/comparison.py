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
from midi2wave.utils.cli import count_of, log

EVALUATION_NAME = "evaluation"
BASE_NAME, TUNED_NAME = "base", "fine_tuned"
TEMPERATURE, GUIDANCE = 0.8, 1.0


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
    Measure("noise_excess_db", "noise excess in dB", 1, -1),
    Measure("chroma", "chroma correlation", 3, 1),
    Measure("nll", "NLL in nats per sample", 3, -1),
    Measure("gap", "conditioning gap in nats per sample", 3, 1),
)


def evaluate_model(model: str, name: str, out: Path, clips: Path, transcriber: Transcriber | None) -> dict[str, Any]:
    """Generate the clips by a model and score them, in a folder of its own.

    Args:
        model: Weights file or run folder.
        name: Name of the folder in `out`/evaluation.
        out: The output folder.
        clips: The folder of the test clips.
        transcriber: It detects the notes; None: no F1.

    Returns:
        The scores, as evaluate.py writes them.
    """
    settings = EvaluateConfig(
        model_filename=model,
        test_dir=str(clips),
        output_dir=str(out / EVALUATION_NAME / name),
        temperature=TEMPERATURE,
        guidance=GUIDANCE,
        counterfactuals=False,
        second_transcriber=False,
    )
    log(f"the {name.replace('_', '-')} model plays the test clips and is scored: {model}")
    loaded = load_checkpoint(model, settings.device)
    usable, _ = scorable_clips(settings, loaded.config.data_config)
    return evaluate_clips(loaded, settings, usable, [], (transcriber, None))


def compare(base: dict[str, Any], tuned: dict[str, Any]) -> dict[str, Any]:
    """The scores of both models and their difference, clip by clip.

    Args:
        base: Scores of the base model.
        tuned: Scores of the fine-tuned model, of the same clips.

    Returns:
        As JSON values: for each measure that both have `base`, `fine_tuned`, `difference`, its `interval` by bootstrap
        over the recordings (None for one recording) and, where it has them, `topline` and `baseline`; and the number
        of `clips` and `recordings`.
    """
    names = [clip["clip"] for clip in tuned["per_clip"]]
    recordings = [clip_source(name) for name in names]
    measures = {}
    for measure in MEASURES:
        before, after = (_values(result, measure.name) for result in (base, tuned))
        difference = after - before
        if not np.isfinite(difference).any():
            continue
        interval = bootstrap_interval(difference, recordings)
        values: dict[str, Any] = {
            "base": float(np.nanmean(before)),
            "fine_tuned": float(np.nanmean(after)),
            "difference": float(np.nanmean(difference)),
            "interval": None if math.isnan(interval[0]) else list(interval),
        }
        for end in ("topline", "baseline"):
            if f"{measure.name}_{end}" in tuned:
                values[end] = tuned[f"{measure.name}_{end}"]
        measures[measure.name] = values
    return {"clips": len(names), "recordings": len(set(recordings)), "measures": measures}


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
    """Whether the fine-tuning worked, in words: by the F1 of the notes (or without it by chroma), and by the noise."""
    measures = comparison["measures"]
    decisive = ["f1" if "f1" in measures else "chroma", "noise_excess_db"]
    outcomes = [_outcome(measures[name], _measure(name)) for name in decisive if name in measures]
    scope = f"on {count_of(comparison['clips'], 'held-out clip')} of {count_of(comparison['recordings'], 'recording')}"
    if all(outcome == "better" for outcome in outcomes):
        beginning = f"It worked: {scope} the fine-tuned model is better than its base by both measures."
    elif all(outcome in ("worse", "unclear") for outcome in outcomes) and "worse" in outcomes:
        beginning = f"It did not work: {scope} the fine-tuned model is no better than its base. Play the base instead."
    elif "worse" in outcomes:
        beginning = f"It worked in part: {scope} one measure is better, and another worse."
    elif "better" in outcomes:
        beginning = f"It worked in part: {scope} one measure is better; of the other these clips show no difference."
    else:
        beginning = f"Not clear: {scope} the difference is no larger than that between recordings."
    remedy = "" if all(outcome == "better" for outcome in outcomes) else " More minutes, or more recordings, may help."
    if comparison["recordings"] < 2:
        remedy += " All clips are of one recording, so that there are no intervals: listen."
    return beginning + remedy


def describe(comparison: dict[str, Any]) -> list[str]:
    """A line for each measure: base, fine-tuned, difference with interval, topline."""
    lines = []
    for name, values in comparison["measures"].items():
        measure = _measure(name)
        text = f"{measure.words}: {values['fine_tuned']:.{measure.digits}f}, base {values['base']:.{measure.digits}f}"
        text += f", difference {values['difference']:+.{measure.digits}f}"
        if values["interval"]:
            low, high = values["interval"]
            text += f" ({low:+.{measure.digits}f} .. {high:+.{measure.digits}f})"
        if values.get("topline") is not None:
            text += f"; the recordings themselves {values['topline']:.{measure.digits}f}"
        lines.append(text)
    return lines


def _measure(name: str) -> Measure:
    return next(measure for measure in MEASURES if measure.name == name)


def _outcome(values: dict[str, Any], measure: Measure) -> str:
    """Whether the fine-tuned model is better, worse, or the interval of the difference holds 0."""
    low, high = values["interval"] or (values["difference"], values["difference"])
    if min(measure.sign * low, measure.sign * high) > 0:
        return "better"
    return "worse" if max(measure.sign * low, measure.sign * high) < 0 else "unclear"
