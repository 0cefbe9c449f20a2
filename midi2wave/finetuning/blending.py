"""Weights between those of the base model and those of the training.

A training on few recordings improves the likelihood of their sound, but what the model generates from silence gets
noisier and loses notes. The mean of the weights before and after it keeps more of what the base plays (weight-space
ensembles: Wortsman et al., arXiv 2109.01903). The share of the trained weights is chosen by what the models play of
validation clips.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from midi2wave import checkpoint
from midi2wave.checkpoint import LoadedCheckpoint
from midi2wave.config import EvaluateConfig
from midi2wave.evaluation.clips import ReferenceClip, scorable_clips
from midi2wave.evaluation.metrics import chroma_similarity, mean, multi_resolution_stft
from midi2wave.evaluation.synthesizer import Synthesizer
from midi2wave.evaluation.transcription import Transcriber, note_f1, played_notes
from midi2wave.finetuning.play_settings import play_settings
from midi2wave.utils.atomic_files import atomic_file
from midi2wave.utils.cli import log

BLENDED_NAME = "blended.safetensors"
SHARES = (0.25, 0.5, 0.75, 1.0)
# Less F1 (or chroma correlation) than this is no loss.
MAX_LOSS = 0.05


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


def select_share(scores: Mapping[float, Scores], reference: float) -> float:
    """The share with the lowest distance of those that lose no notes; of shares that all do, the one with most notes.

    Args:
        scores: The scores by share.
        reference: The score of the notes that none may fall below by more than MAX_LOSS; NaN if there are no notes.
    """
    # Without a note in the validation clips there is nothing to lose.
    keeping = [share for share, one in scores.items() if not one.notes < reference - MAX_LOSS]
    if not keeping:
        return max(scores, key=lambda share: scores[share].notes)
    return min(keeping, key=lambda share: scores[share].distance)


def choose_share(
    base: str, trained: Path, clips: Path, out: Path, transcriber: Transcriber | None, device: str
) -> dict[str, Any]:
    """Play validation clips with each share of the trained weights, and write the best weights.

    Args:
        base: The weights that the training began with.
        trained: Its checkpoint.
        clips: The folder of the validation clips.
        out: The output folder, in which the weights are written.
        transcriber: It detects the notes; None: chroma takes its place.
        device: As in train_config.

    Returns:
        As JSON values: `share`, and the `scores` of the base, the recordings, and each share.

    Raises:
        OSError: The disk is full.
    """
    before, loaded = checkpoint.load_checkpoint(base, device), checkpoint.load_checkpoint(trained, device)
    settings = EvaluateConfig(model_filename=str(trained), test_dir=str(clips), device=device)
    usable, _ = scorable_clips(settings, loaded.config.data_config)
    truth = [clip.truth for clip in usable]
    recordings = _score(truth, usable, loaded, transcriber)
    base_scores = _score(_play(before, usable, settings), usable, loaded, transcriber)
    old, new = ({name: one.cpu().clone() for name, one in part.model.state_dict().items()} for part in (before, loaded))
    scores: dict[float, Scores] = {}
    for share in SHARES:
        loaded.model.load_state_dict(blend(old, new, share))
        scores[share] = _score(_play(loaded, usable, settings), usable, loaded, transcriber)
    best = select_share(scores, min(base_scores.notes, recordings.notes))
    with atomic_file(out / BLENDED_NAME) as tmp_path:
        checkpoint.write_weights(tmp_path, blend(old, new, best), loaded.config, loaded.step)
    named = {"base": base_scores, "recordings": recordings} | {f"{share:g}": one for share, one in scores.items()}
    measure = "F1" if transcriber else "chroma"
    listed = "; ".join(f"{name} {one.distance:.3f}, {one.notes:.3f}" for name, one in named.items())
    log(
        f"share of the trained weights: {best:g}, the rest is the base (STFT distance and {measure} by share: {listed})"
    )
    return {"share": best, "scores": {name: one._asdict() for name, one in named.items()}}


def _play(loaded: LoadedCheckpoint, clips: Sequence[ReferenceClip], settings: EvaluateConfig) -> list[np.ndarray]:
    """What a model generates for each clip from silence, int16 [T] each."""
    data = loaded.config.data_config
    synthesizer = Synthesizer(loaded.model, data, play_settings(data).apply(replace(settings, sampler_weights="auto")))
    return [synthesizer.generate([clip.performance], clip.n_frames, [clip.stream])[0] for clip in clips]


def _score(
    outputs: Sequence[np.ndarray],
    clips: Sequence[ReferenceClip],
    loaded: LoadedCheckpoint,
    transcriber: Transcriber | None,
) -> Scores:
    hz = loaded.config.data_config.audio_hz
    distances, notes = [], []
    for output, clip in zip(outputs, clips, strict=True):
        distances.append(multi_resolution_stft(output, clip.truth))
        if transcriber:
            end = len(clip.truth) / hz
            detected = transcriber.notes(output, hz).between(0, end)
            notes.append(note_f1(played_notes(clip.performance, 0, end), detected))
        else:
            notes.append(chroma_similarity(output, clip.truth, hz))
    return Scores(mean(distances), mean(notes))
