"""Results of an evaluation: the scores of each clip, and their means and intervals as plain JSON values."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from midi2wave.data.test_clips import clip_source
from midi2wave.evaluation.clips import ReferenceClip
from midi2wave.evaluation.counterfactual import Counterfactuals
from midi2wave.evaluation.drift import Drift
from midi2wave.evaluation.frechet import summarize_features
from midi2wave.evaluation.likelihood import PairedLikelihood
from midi2wave.evaluation.metrics import bootstrap_interval, mean
from midi2wave.evaluation.noise_excess import NoiseExcess, summarize_noise
from midi2wave.evaluation.transcription import Notes
from midi2wave.modules.argmax_bottleneck import codebook_usage

TRANSKUN_NAMES = ("transkun_f1", "transkun_f1_offsets", "transkun_velocity", "transkun_pedal_f1")
SCORE_NAMES = ("f1", "f1_offsets", *TRANSKUN_NAMES, "chroma", "onsets", "mrstft")
LIKELIHOOD_NAMES = ("true", "shuffled", "null", "linear_prediction", "gap", "gap_null")
# Ends of JSON keys in files of earlier versions -> the present ones.
FORMER_KEYS = {"ceiling": "topline", "floor": "baseline"}


@dataclass(frozen=True)
class Score:
    """One measure of one clip.

    Attributes:
        value: Score of the generated audio.
        topline: Score of the recording itself.
        baseline: Score of the generated audio against another clip.
    """

    value: float
    topline: float
    baseline: float


@dataclass(frozen=True)
class ClipResult:
    """Everything that was measured of one clip.

    Attributes:
        clip: The clip.
        output: Generated audio, int16 [T].
        everywhere: Likelihoods of all samples.
        at_onsets: Likelihoods of the samples after onsets.
        ratios: Conditioning ratio of each layer.
        scores: The scores by name; without a transcriber its scores are missing.
        noise: How much louder than the recording the quiet parts of the spectrum are.
        features: Hidden features of the generated audio and of the recording; None without the second transcriber.
        transcription: Transcribed notes of the generated audio; None without a transcriber.
        code_counts: How many frames have each argmax code, [K]; None for a model without codes.
    """

    clip: ReferenceClip
    output: np.ndarray
    everywhere: PairedLikelihood
    at_onsets: PairedLikelihood
    ratios: list[float]
    scores: dict[str, Score]
    noise: NoiseExcess
    features: tuple[np.ndarray, np.ndarray] | None
    transcription: Notes | None
    code_counts: np.ndarray | None


def summarize(
    clips: Sequence[ClipResult],
    effects: Counterfactuals | None,
    drifts: dict[str, Drift],
    transcriber_name: str | None,
    second_transcriber_name: str | None,
) -> dict[str, Any]:
    """Means over the clips with their intervals by bootstrap over the recordings, and the values of each clip.

    Args:
        clips: The results of all clips.
        effects: The counterfactuals, if there are any.
        drifts: Drift of each long clip, by name.
        transcriber_name: Name of the transcriber, if there is one.
        second_transcriber_name: Name of the second one, if there is one.

    Returns:
        Plain JSON values, without NaN: the content of scores.json.
    """
    recordings = [clip_source(clip.clip.name) for clip in clips]
    result: dict[str, Any] = {"clips": len(clips), "recordings": len(set(recordings)), "transcriber": transcriber_name}
    result["second_transcriber"] = second_transcriber_name
    result |= _mean_likelihoods([clip.everywhere for clip in clips], recordings, "")
    result |= _mean_likelihoods([clip.at_onsets for clip in clips], recordings, "_onsets")
    for name in SCORE_NAMES:
        measured = [
            (clip.scores[name], source) for clip, source in zip(clips, recordings, strict=True) if name in clip.scores
        ]
        result |= _mean_scores(name, [score for score, _ in measured], [source for _, source in measured])
    result["noise_excess_db"] = summarize_noise([clip.noise for clip in clips], recordings)
    features = [clip.features for clip in clips if clip.features is not None]
    outputs, truths = [output for output, _ in features], [truth for _, truth in features]
    result["frechet_distance"] = summarize_features(outputs, truths, recordings) if features else None
    result["conditioning_ratios"] = [mean(layer) for layer in zip(*(clip.ratios for clip in clips), strict=True)]
    counts = [clip.code_counts for clip in clips if clip.code_counts is not None]
    result["n_codes"] = len(counts[0]) if counts else 0
    result |= codebook_usage(np.sum(counts, axis=0)) if counts else {"code_usage": None, "code_perplexity": None}
    result["counterfactuals"] = asdict(effects) if effects else None
    result["drift"] = {name: asdict(one) for name, one in drifts.items()}
    result["per_clip"] = [_clip_values(clip) for clip in clips]
    return _json_values(result)


def _mean_likelihoods(likelihoods: list[PairedLikelihood], recordings: list[str], suffix: str) -> dict[str, Any]:
    """Means weighted by the number of samples, and their intervals."""
    result: dict[str, Any] = {}
    weights = np.array([one.n_samples for one in likelihoods])
    for name in LIKELIHOOD_NAMES:
        key = name + suffix if name.startswith("gap") else f"nll_{name}{suffix}"
        values = np.array([getattr(one, name) for one in likelihoods])
        result[key] = mean(values, weights)
        result[f"{key}_interval"] = bootstrap_interval(values, recordings, weights)
    return result


def _mean_scores(name: str, scores: list[Score], recordings: list[str]) -> dict[str, Any]:
    values = [score.value for score in scores]
    return {
        name: mean(values),
        f"{name}_interval": bootstrap_interval(values, recordings),
        f"{name}_topline": mean([score.topline for score in scores]),
        f"{name}_baseline": mean([score.baseline for score in scores]),
    }


def _clip_values(result: ClipResult) -> dict[str, Any]:
    likelihoods = {"likelihood": asdict(result.everywhere), "likelihood_onsets": asdict(result.at_onsets)}
    scores = {name: asdict(score) for name, score in result.scores.items()}
    return {"clip": result.clip.name, **likelihoods, **scores, "noise_excess_db": asdict(result.noise)}


def _json_values(value: Any) -> Any:
    """Tuples as lists and NaN as null, which JSON has no other form for."""
    if isinstance(value, dict):
        return {name: _json_values(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_json_values(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def with_present_keys(values: Any) -> Any:
    """Values of a JSON file of any version, with the present names of all keys.

    Args:
        values: Objects, lists and numbers, as read from the file.
    """
    if isinstance(values, dict):
        return {_present_key(key): with_present_keys(value) for key, value in values.items()}
    return [with_present_keys(value) for value in values] if isinstance(values, list) else values


def _present_key(key: str) -> str:
    head, separator, end = key.rpartition("_")
    return head + separator + FORMER_KEYS.get(end, end)
