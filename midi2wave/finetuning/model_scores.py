"""Scores of a model on clips of the user's piano, as `evaluate.py` makes them, and their values by clip."""

import math
from pathlib import Path
from typing import Any

import numpy as np

from midi2wave.checkpoint import load_checkpoint
from midi2wave.config import EvaluateConfig
from midi2wave.evaluation.clips import scorable_clips
from midi2wave.evaluation.evaluation_folder import evaluate_clips
from midi2wave.evaluation.transcription import Transcriber
from midi2wave.finetuning.play_settings import play_settings

EVALUATION_NAME = "evaluation"
# Less F1 (or chroma correlation) than this is no loss.
MAX_NOTE_LOSS = 0.05
# With a lower part of that of the recordings, a model plays no notes. Wrong notes have less than 0.1 of it.
MIN_TOPLINE_SHARE = 0.25


def evaluate_model(
    model: str, name: str, out: Path, clips: Path, transcriber: Transcriber | None, device: str = "auto"
) -> dict[str, Any]:
    """Generate the clips by a model and score them, in a folder of its own; what is there already stays.

    Args:
        model: Weights file or run folder.
        name: Name of the folder in `out`/evaluation.
        out: The output folder.
        clips: The folder of the clips.
        transcriber: It detects the notes; None: no F1.
        device: As in evaluate_config.

    Returns:
        The scores, as evaluate.py writes them.
    """
    loaded = load_checkpoint(model, device)
    data = loaded.config.data_config
    settings = EvaluateConfig(
        model_filename=model,
        test_dir=str(clips),
        output_dir=str(out / EVALUATION_NAME / name),
        counterfactuals=False,
        second_transcriber=False,
        device=device,
    )
    usable, _ = scorable_clips(settings, data)
    return evaluate_clips(loaded, play_settings(data).apply(settings), usable, [], (transcriber, None))


def clip_values(scores: dict[str, Any], name: str) -> np.ndarray:
    """A measure of each clip, [N]; NaN where it has none.

    Args:
        scores: As of `evaluate_model`.
        name: f1, chroma, mrstft, noise_excess_db (mean of the octaves' 10th percentiles), nll or gap.
    """
    values = []
    for clip in scores["per_clip"]:
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


def topline_values(scores: dict[str, Any], name: str) -> np.ndarray:
    """What the recordings themselves reach by a measure, of each clip, [N]; NaN where that is unknown."""
    toplines = (clip[name].get("topline") if name in clip else None for clip in scores["per_clip"])
    return np.array([math.nan if value is None else value for value in toplines], dtype=float)


def note_measure(scores: dict[str, Any]) -> str:
    """The measure of the notes: f1, or chroma where there was no transcriber."""
    return "f1" if any("f1" in clip for clip in scores["per_clip"]) else "chroma"
