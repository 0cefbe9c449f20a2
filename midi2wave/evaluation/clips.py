"""Test clips of an evaluation: notes and recording."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from midi2wave.config import DataConfig, EvaluateConfig
from midi2wave.midi.performance import Performance
from midi2wave.sampling.pieces import clip_pieces, prompt_frames
from midi2wave.utils.cli import Failure, count_of
from midi2wave.utils.errors import InputError


@dataclass(frozen=True)
class ReferenceClip:
    """A recording with its notes.

    Attributes:
        name: Name of the clip.
        stream: Number of its random stream.
        performance: Its notes.
        n_frames: Its length in conditioning frames.
        truth: The recording, int16 [n_frames * hop].
    """

    name: str
    stream: int
    performance: Performance
    n_frames: int
    truth: np.ndarray


def load_clips(
    folder: str | Path, data: DataConfig, global_labels: Sequence[str] = ()
) -> tuple[list[ReferenceClip], list[Failure]]:
    """Read a folder of test clips.

    Args:
        folder: The folder.
        data: The data config of the model.
        global_labels: Labels that override those of the clips.

    Returns:
        The clips, and those that cannot be used.

    Raises:
        InputError: The model does not know the labels, or there are no clips.
    """
    pieces, failures = clip_pieces(folder, data, global_labels)
    clips = []
    for piece in pieces:
        assert piece.performance is not None and piece.truth is not None, "a test clip has notes and a recording"
        clips.append(ReferenceClip(piece.name, piece.stream, piece.performance, piece.n_frames, piece.truth))
    return clips, failures


def scorable_clips(settings: EvaluateConfig, data: DataConfig) -> tuple[list[ReferenceClip], list[Failure]]:
    """Read the test clips of an evaluation.

    Args:
        settings: The settings of the evaluation.
        data: The data config of the model.

    Returns:
        The clips; unreadable clips and those not longer than the prompt are failures.

    Raises:
        InputError: Fewer than two are usable.
    """
    clips, failures = load_clips(settings.test_dir, data, settings.global_values)
    n_prompt = prompt_frames(settings, data)
    why = f"is not longer than teacher_length = {settings.teacher_length:g} s; lower evaluate_config.teacher_length"
    failures += [Failure(clip.name, why) for clip in clips if clip.n_frames <= n_prompt]
    clips = [clip for clip in clips if clip.n_frames > n_prompt]
    if len(clips) < 2:
        others = f"; of the others, {failures[0].item}: {failures[0].reason}" if failures else ""
        raise InputError(
            f"{settings.test_dir} holds {count_of(len(clips), 'usable clip')}, expected two or more (each is also "
            f"scored with another's MIDI); cut more with preprocess_audio.py{others}"
        )
    return clips, failures
