"""Weights between those of the base model and those of the training.

A training on few recordings improves the likelihood of their sound, but what the model generates from silence gets
noisier and loses notes. The mean of the weights before and after it keeps more of what the base plays (weight-space
ensembles: Wortsman et al., arXiv 2109.01903). With ten minutes of recordings or more, three quarters of the trained
weights were nearer to the recordings than half of them, and kept more notes than all (docs/own_piano.md). A few
validation clips are too few to choose between neighbouring shares, but they show where three quarters are wrong.
"""

import functools
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from midi2wave import checkpoint
from midi2wave.checkpoint import LoadedCheckpoint
from midi2wave.evaluation.metrics import mean
from midi2wave.finetuning.model_scores import (
    MAX_NOTE_LOSS,
    MIN_TOPLINE_SHARE,
    clip_values,
    note_measure,
    topline_values,
)
from midi2wave.utils.atomic_files import atomic_file
from midi2wave.utils.cli import log

BLENDED_NAME = "blended.safetensors"
# Folder of the weights of each share, while they are compared.
SHARES_NAME = "shares"
DEFAULT_SHARE = 0.75
# Where the default will not do.
SMALLER_SHARES = (0.5, 0.25)
# Above this ratio of the distance of the default share to that of all trained weights, the base sounds so different
# that a quarter of it is too much.
MAX_DISTANCE_RATIO = 1.25
# On a few validation clips F1 is uncertain by about MAX_NOTE_LOSS.
MAX_NOTE_LOSS_ON_VALIDATION = 2 * MAX_NOTE_LOSS
# Of the base, the default share and all trained weights; for the forecast of the duration.
N_USUAL_EVALUATIONS = 3


class Scores(NamedTuple):
    """Means over the validation clips.

    Attributes:
        distance: Multi-resolution STFT distance to the recordings.
        notes: F1 of the transcribed notes, or without a transcriber chroma correlation; NaN if no clip has notes.
    """

    distance: float
    notes: float


def blend(base: Mapping[str, Tensor], trained: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
    """Interpolate between two state dicts of one architecture.

    Args:
        base: The weights before the training.
        trained: The weights after it.
        share: 0: those before; 1: those after it.
    """
    return {name: base[name].lerp(after, share) if share < 1 else after for name, after in trained.items()}


def select_share(score: Callable[[float], Scores], base: Scores, recordings: Scores) -> float:
    """Three quarters of the trained weights, unless the scores show that another share is needed.

    A share will do if it sounds nearer to the recordings than the base and does not lose many notes. All of the
    trained weights are taken if they will do, and three quarters will not or sound much further away; else the
    largest share that will do; if there is none, of those that keep the notes the nearest. Small shares can be
    further away than the base, since they have the measured partials, but hardly the weights that were trained with
    them.

    Args:
        score: Returns the scores of a share; called only for those that are needed.
        base: Those of the base, with its own partials.
        recordings: Those of the recordings.
    """
    fewest_notes = max(
        min(base.notes, recordings.notes) - MAX_NOTE_LOSS_ON_VALIDATION, MIN_TOPLINE_SHARE * recordings.notes
    )

    def keeps_notes(share: float) -> bool:
        # Without a note in the clips, which makes their score NaN, there is nothing to lose.
        return not score(share).notes < fewest_notes

    def will_do(share: float) -> bool:
        return score(share).distance < base.distance and keeps_notes(share)

    is_far = score(DEFAULT_SHARE).distance > MAX_DISTANCE_RATIO * score(1.0).distance
    if (is_far or not will_do(DEFAULT_SHARE)) and will_do(1.0):
        return 1.0
    for share in (DEFAULT_SHARE, *SMALLER_SHARES):
        if will_do(share):
            return share
    played = (1.0, DEFAULT_SHARE, *SMALLER_SHARES)
    if keeping := [share for share in played if keeps_notes(share)]:
        return min(keeping, key=lambda share: score(share).distance)
    return max(played, key=lambda share: score(share).notes)


def choose_share(base: str, trained: Path, out: Path, evaluate: Callable[[str, str], dict[str, Any]]) -> dict[str, Any]:
    """Play validation clips with shares of the trained weights, and write the weights of the one that is selected.

    Args:
        base: The weights that the training began with.
        trained: Its checkpoint.
        out: The output folder, in which the weights are written.
        evaluate: The scores of a weights file on the validation clips; its second argument is a name for them.

    Returns:
        As JSON values: `share`, and the `scores` of the base, the recordings, and each share that was played.

    Raises:
        OSError: The disk is full.
    """
    old, new = (checkpoint.load_checkpoint(path, "cpu") for path in (base, trained))
    before = evaluate(base, "base")
    measure = note_measure(before)
    scores = {"base": _scores(before, measure), "recordings": Scores(0.0, mean(topline_values(before, measure)))}

    @functools.cache
    def score(share: float) -> Scores:
        path = out / SHARES_NAME / f"{share:g}.safetensors"
        # The folder of its clips accepts no other file, and one that is written again can have another checksum.
        if not path.is_file():
            write_blended(path, old, new, share)
        one = _scores(evaluate(str(path), f"share_{share:g}"), measure)
        scores[f"{share:g}"] = one
        return one

    best = select_share(score, scores["base"], scores["recordings"])
    write_blended(out / BLENDED_NAME, old, new, best)
    measured = "F1" if measure == "f1" else measure
    listed = "; ".join(
        f"{name} {one.distance:.3f}, {'no notes' if math.isnan(one.notes) else f'{one.notes:.3f}'}"
        for name, one in scores.items()
    )
    log(f"share of the trained weights: {best:g}, the rest is the base (STFT distance and {measured}: {listed})")
    return {"share": best, "scores": {name: _json_values(one) for name, one in scores.items()}}


def _scores(evaluation: dict[str, Any], measure: str) -> Scores:
    return Scores(*(mean(clip_values(evaluation, name)) for name in ("mrstft", measure)))


def _json_values(scores: Scores) -> dict[str, float | None]:
    return {name: None if math.isnan(value) else value for name, value in scores._asdict().items()}


def write_blended(path: Path, base: LoadedCheckpoint, trained: LoadedCheckpoint, share: float) -> None:
    """Write the weights between two models.

    Args:
        path: The file.
        base: The model before the training.
        trained: The model after it.
        share: As of `blend`.

    Raises:
        OSError: The disk is full.
    """
    weights = blend(base.model.state_dict(), trained.model.state_dict(), share)
    path.parent.mkdir(exist_ok=True)
    with atomic_file(path) as tmp_path:
        checkpoint.write_weights(tmp_path, weights, trained.config, trained.step)
