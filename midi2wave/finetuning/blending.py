"""Weights between those of the base model and those of the training.

A training on few recordings improves the likelihood of their sound, but what the model generates from silence gets
noisier and loses notes. The mean of the weights before and after it keeps more of what the base plays (weight-space
ensembles: Wortsman et al., arXiv 2109.01903). Three quarters of the trained weights were best or nearly so in all
trainings of docs/own_piano.md with ten minutes of recordings or more. A few validation clips are too few to choose
between neighbouring shares, but show where three quarters do not do.
"""

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from midi2wave import checkpoint
from midi2wave.checkpoint import LoadedCheckpoint
from midi2wave.evaluation.metrics import mean
from midi2wave.finetuning.model_scores import MAX_LOSS, clip_values, note_measure, topline_values
from midi2wave.utils.atomic_files import atomic_file
from midi2wave.utils.cli import log

BLENDED_NAME = "blended.safetensors"
# Folder of the weights of each share, while they are compared.
SHARES_NAME = "shares"
# In the order in which they are tried.
SHARES = (0.75, 0.5, 0.25)
# All of the trained weights are tried first where the distance of three quarters is this many times as large: then the
# base sounds so different that a quarter of it is too much.
FAR = 1.25
# On a few validation clips F1 is uncertain by about MAX_LOSS.
MAX_VALIDATION_LOSS = 2 * MAX_LOSS
# The base, three quarters and all: further shares are seldom tried.
USUAL_EVALUATIONS = 3


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

    All of them where three quarters sound much further from the recordings. Less of them where the sound is no nearer
    than that of the base, or many notes are lost; small shares can be further away than the base, since they have the
    measured partials, but hardly the weights that were trained with them.

    Args:
        score: The scores of a share.
        base: Those of the base, with its own partials.
        recordings: Those of the recordings; a share has lost notes if it has fewer than they and the base.
    """
    fewest_notes = min(base.notes, recordings.notes) - MAX_VALIDATION_LOSS
    base_is_far = score(SHARES[0]).distance > FAR * score(1.0).distance
    order = (1.0, *SHARES) if base_is_far else SHARES
    for share in order:
        one = score(share)
        if one.distance < base.distance and not one.notes < fewest_notes:
            return share
    return order[-1]


def choose_share(base: str, trained: Path, out: Path, evaluate: Callable[[str, str], dict[str, Any]]) -> dict[str, Any]:
    """Play validation clips with shares of the trained weights, and write the weights of the one that is selected.

    Args:
        base: The weights that the training began with.
        trained: Its checkpoint.
        out: The output folder, in which the weights are written.
        evaluate: The scores of a weights file on the validation clips; its second argument is a name for them.

    Returns:
        As JSON values: `share`, and the `scores` of the base, the recordings, and each share that was tried.

    Raises:
        OSError: The disk is full.
    """
    old, new = (checkpoint.load_checkpoint(path, "cpu") for path in (base, trained))
    before = evaluate(base, "base")
    measure = note_measure(before)
    named = {"base": _scores(before, measure), "recordings": Scores(0.0, mean(topline_values(before, measure)))}

    @functools.cache
    def score(share: float) -> Scores:
        path = out / SHARES_NAME / f"{share:g}.safetensors"
        # The folder of its clips accepts no other file, and one that is written again can have another checksum.
        if not path.is_file():
            write_blended(path, old, new, share)
        one = _scores(evaluate(str(path), f"share_{share:g}"), measure)
        named[f"{share:g}"] = one
        return one

    best = select_share(score, named["base"], named["recordings"])
    write_blended(out / BLENDED_NAME, old, new, best)
    listed = "; ".join(f"{name} {one.distance:.3f}, {one.notes:.3f}" for name, one in named.items())
    log(
        f"share of the trained weights: {best:g}, the rest is the base (STFT distance and "
        f"{'F1' if measure == 'f1' else measure} by share: {listed})"
    )
    return {"share": best, "scores": {name: one._asdict() for name, one in named.items()}}


def _scores(evaluation: dict[str, Any], measure: str) -> Scores:
    return Scores(*(mean(clip_values(evaluation, name)) for name in ("mrstft", measure)))


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
