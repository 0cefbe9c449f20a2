"""Weights between those of the base model and those of the training.

A training on few recordings improves the likelihood of their sound, but what the model generates from silence gets
noisier and loses notes. The mean of the weights before and after it keeps more of what the base plays (weight-space
ensembles: Wortsman et al., arXiv 2109.01903). The share of the trained weights is chosen by what the models play of
validation clips.
"""

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
SHARES = (0.25, 0.5, 0.75, 1.0)


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


def select_share(scores: Mapping[float, Scores], base: Scores, reference: float) -> float:
    """The share with the lowest distance of those that lose no notes; of shares that all do, the one with most notes.

    Shares that are no nearer to the recordings than the base do not count, if others are: small ones can be further
    away, since they have the measured partials, but hardly the weights that were trained with them.

    Args:
        scores: The scores by share.
        base: Those of the base, with its own partials.
        reference: The score of the notes that none may fall below by more than MAX_LOSS; NaN if there are no notes.
    """
    nearer = [share for share, one in scores.items() if one.distance < base.distance] or list(scores)
    # Without a note in the validation clips there is nothing to lose.
    keeping = [share for share in nearer if not scores[share].notes < reference - MAX_LOSS]
    if not keeping:
        return max(nearer, key=lambda share: scores[share].notes)
    return min(keeping, key=lambda share: scores[share].distance)


def choose_share(base: str, trained: Path, out: Path, evaluate: Callable[[str, str], dict[str, Any]]) -> dict[str, Any]:
    """Play validation clips with each share of the trained weights, and write the best weights.

    Args:
        base: The weights that the training began with.
        trained: Its checkpoint.
        out: The output folder, in which the weights are written.
        evaluate: The scores of a weights file on the validation clips; its second argument is a name for them.

    Returns:
        As JSON values: `share`, and the `scores` of the base, the recordings, and each share.

    Raises:
        OSError: The disk is full.
    """
    old, new = (checkpoint.load_checkpoint(path, "cpu") for path in (base, trained))
    before = evaluate(base, "base")
    measure = note_measure(before)
    recordings = Scores(0.0, mean(topline_values(before, measure)))
    base_scores = _scores(before, measure)
    scores: dict[float, Scores] = {}
    for share in SHARES:
        path = out / SHARES_NAME / f"{share:g}.safetensors"
        # The folder of its clips accepts no other file, and one that is written again can have another checksum.
        if not path.is_file():
            _write(path, old, new, share)
        scores[share] = _scores(evaluate(str(path), f"share_{share:g}"), measure)
    best = select_share(scores, base_scores, min(base_scores.notes, recordings.notes))
    _write(out / BLENDED_NAME, old, new, best)
    named = {"base": base_scores, "recordings": recordings} | {f"{share:g}": one for share, one in scores.items()}
    listed = "; ".join(f"{name} {one.distance:.3f}, {one.notes:.3f}" for name, one in named.items())
    log(
        f"share of the trained weights: {best:g}, the rest is the base (STFT distance and "
        f"{'F1' if measure == 'f1' else measure} by share: {listed})"
    )
    return {"share": best, "scores": {name: one._asdict() for name, one in named.items()}}


def _scores(evaluation: dict[str, Any], measure: str) -> Scores:
    return Scores(*(mean(clip_values(evaluation, name)) for name in ("mrstft", measure)))


def _write(path: Path, base: LoadedCheckpoint, trained: LoadedCheckpoint, share: float) -> None:
    weights = blend(base.model.state_dict(), trained.model.state_dict(), share)
    path.parent.mkdir(exist_ok=True)
    with atomic_file(path) as tmp_path:
        checkpoint.write_weights(tmp_path, weights, trained.config, trained.step)
