"""The weights that a fine-tuning starts from: of the shipped ones, those that find the user's recordings most likely.

Each model is scored on a few seconds of some recordings by its mean negative log-likelihood (NLL) with their own notes,
teacher-forced: it is low where the model knows the sound of the piano and how it depends on the notes. A model that
distinguishes microphones or rooms by the year (global conditioning) is scored with each of its years, of which the new
recordings get the best.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from midi2wave.audio.io import read_pcm
from midi2wave.checkpoint import LoadedCheckpoint, load_checkpoint
from midi2wave.checkpoint_folders import PROJECT_FOLDER, find_weights
from midi2wave.config import Config, label_columns
from midi2wave.data.maestro import inside, resampled_name
from midi2wave.data.preprocessing import Stretch, cut_stretch
from midi2wave.finetuning.pieces import Piece
from midi2wave.finetuning.preparation import AUDIO_NAME
from midi2wave.midi.performance import CLIP_MARGIN_SECONDS, Performance
from midi2wave.midi.reader import read_performance
from midi2wave.sampling.synthesis import negative_log_likelihood
from midi2wave.utils.cli import log
from midi2wave.utils.errors import InputError

SHIPPED_FOLDER = PROJECT_FOLDER / "pretrained"
# The column whose labels a fine-tuning can give to new recordings.
LABEL_COLUMN = "year"
MAX_SCORED_PIECES = 4
SCORED_SECONDS = 2.0


def load_candidates(base: str) -> dict[str, LoadedCheckpoint]:
    """The models to choose from: that of the user, or all shipped ones with the units of the first.

    Args:
        base: A weights file or a run folder; "" for the shipped ones.

    Returns:
        The models by the paths of their weights: relative to the project's folder if they lie in it, which
        `find_weights` finds from anywhere, else absolute.

    Raises:
        InputError: There is none, or the user's cannot be trained on new recordings.
    """
    if base:
        loaded = load_checkpoint(base, "cpu")
        if problem := _problem(loaded.config):
            raise InputError(f"--base {base}: {problem}; choose other weights")
        return {_lasting_path(base): loaded}
    paths = sorted(SHIPPED_FOLDER.glob("*.safetensors"))
    candidates: dict[str, LoadedCheckpoint] = {}
    for path in paths:
        loaded = load_checkpoint(path, "cpu")
        first = next(iter(candidates.values()), loaded)
        problem = _problem(loaded.config)
        if not problem and _units(loaded.config) != _units(first.config):
            problem = "its likelihoods have other units"
        if problem:
            log(f"{path} is no candidate: {problem}")
        else:
            candidates[_lasting_path(path)] = loaded
    if not candidates:
        raise InputError(f"{SHIPPED_FOLDER} holds no weights to start from; name some with --base")
    return candidates


def _lasting_path(path: str | Path) -> str:
    weights_path = find_weights(path).resolve()
    project = PROJECT_FOLDER.resolve()
    return weights_path.relative_to(project).as_posix() if weights_path.is_relative_to(project) else str(weights_path)


def _problem(config: Config) -> str:
    """Why a model cannot be trained on recordings that have no labels; "" if it can."""
    data = config.data_config
    if not data.conditional:
        return "it is an unconditional model, which plays no MIDI"
    columns = label_columns(data.global_values)
    if columns not in ((), (LABEL_COLUMN,)):
        return f"it distinguishes recordings by {', '.join(columns)}, which only {LABEL_COLUMN} may be"
    return ""


def _units(config: Config) -> tuple[object, ...]:
    """What likelihoods must share to be comparable."""
    data = config.data_config
    return data.audio_hz, data.preemphasis, config.wavenet_config.output


def score_candidates(
    candidates: dict[str, LoadedCheckpoint], folder: Path, pieces: Sequence[Piece], out: Path
) -> dict[tuple[str, str], float]:
    """The NLL of some training pieces under each model, and each of its labels.

    Args:
        candidates: The models by their paths.
        folder: The user's folder, with the MIDI files.
        pieces: All pieces.
        out: The output folder, with the resampled audio.

    Returns:
        Nats per sample by path and label ("" for a model without labels).
    """
    training = [piece for piece in pieces if piece.recording.split == "train"]
    selected = [training[i] for i in np.unique(np.linspace(0, len(training) - 1, MAX_SCORED_PIECES).astype(int))]
    scores: dict[tuple[str, str], float] = {}
    for path, loaded in candidates.items():
        data, hop = loaded.config.data_config, loaded.model.hop
        excerpts = [_excerpt(folder, piece, out, data.audio_hz, hop) for piece in selected]
        for label in data.global_values or [""]:
            scores[path, label] = float(
                np.mean(
                    [
                        negative_log_likelihood(
                            loaded.model, replace(notes, global_labels=(label,) if label else ()), pcm, data
                        )
                        for pcm, notes in excerpts
                    ]
                )
            )
    return scores


def _excerpt(folder: Path, piece: Piece, out: Path, audio_hz: int, hop: int) -> tuple[np.ndarray, Performance]:
    """Some seconds around a piece's median note: whole frames int16 [N * hop], and their notes."""
    one = piece.recording
    pcm = read_pcm(inside(out / AUDIO_NAME, resampled_name(one.audio_filename, audio_hz)), audio_hz)
    whole = piece.stretch
    length = min(SCORED_SECONDS, whole.end - whole.start)
    performance = read_performance(inside(folder, one.midi_filename))
    onset = performance.onset + whole.late_seconds
    inside_piece = onset[(onset >= whole.start) & (onset < whole.end)]
    if not len(inside_piece):
        raise InputError(f"{one.audio_filename}: no note begins in the part to train on; leave the recording out")
    start = float(np.clip(np.median(inside_piece) - length / 2, whole.start, whole.end - length))
    part = Stretch(start, start + length, whole.late_seconds)
    samples, notes = cut_stretch(pcm, performance, part, audio_hz, CLIP_MARGIN_SECONDS)
    return samples[: len(samples) // hop * hop], notes


def with_label(pieces: Sequence[Piece], label: str, global_values: Sequence[str]) -> list[Piece]:
    """The pieces with a label that the model knows: their own, or else the chosen one.

    Args:
        pieces: The pieces.
        label: The label that fits best, as year=VALUE; "" for a model without labels.
        global_values: The labels that the model distinguishes.
    """
    if not label:
        return list(pieces)
    year = int(label.partition("=")[2])
    return [
        piece
        if f"{LABEL_COLUMN}={piece.recording.year}" in global_values
        else replace(piece, recording=replace(piece.recording, year=year))
        for piece in pieces
    ]
