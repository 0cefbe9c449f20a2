"""Test clips of an evaluation: notes and recording."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from midi2wave.config import DataConfig
from midi2wave.midi.performance import Performance
from midi2wave.sampling.pieces import clip_pieces
from midi2wave.utils.cli import Failure


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
