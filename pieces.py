"""What is to be generated: pieces from MIDI files or from test clips, for every command that generates."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from audio import read_beginning
from cli import Failure, note, reason
from config import DataConfig, EvaluateConfig, InferenceConfig
from dataset import clip_paths, read_clip
from errors import InputError
from folding import Fold
from midi import Performance, read_midi, sounding_offset


@dataclass(frozen=True)
class Prime:
    """The beginning of some recording, for a model to go on from."""

    name: str
    seconds: float
    pcm: np.ndarray  # int16 [P * hop]


@dataclass(frozen=True)
class Piece:
    """One piece to generate; `stream` numbers its source of randomness."""

    name: str
    stream: int
    performance: Performance
    n_frames: int
    truth: np.ndarray | None = None  # int16 [n_frames * hop] where it is a clip
    prime: Prime | None = None  # what sounds up to its time 0; None: silence
    fold: Fold | None = None  # the parts that it is generated in; None: in one


def midi_pieces(
    paths: list[Path], settings: InferenceConfig, data: DataConfig, max_seconds: float = math.inf
) -> tuple[list[Piece], list[Failure]]:
    """A piece per MIDI file, up to tail_seconds after its last sound; files that can't be played as failures."""
    pieces, failures = [], []
    for number, path in enumerate(paths):
        try:
            performance = read_midi(path)
            for dropped in performance.dropped:
                note(f"{path}: {dropped}")
            # A pedal that is never released would hold the last notes for ever: the keys' release ends the piece then.
            ends = sounding_offset(performance)
            last = float(np.where(np.isfinite(ends), ends, performance.offset).max())
            seconds = last + settings.tail_seconds
            if seconds > max_seconds:
                raise InputError(f"lasts {seconds:.0f} s; raise inference_config.max_seconds to play it all the same")
            if path.stem in {piece.name for piece in pieces}:
                raise InputError(f"another file of the name {path.stem} stands before it; rename one of them")
            # Rounding noise must not add a frame.
            n_frames = math.ceil(seconds * data.midi_hz - 1e-6)
            if n_frames < 1:
                raise InputError("ends as it begins; raise inference_config.tail_seconds to hear it")
            pieces.append(Piece(path.stem, number, performance, n_frames))
        except InputError as error:
            failures.append(Failure(str(path), reason(error)))
    return pieces, failures


def read_prime(path: Path, seconds: float, data: DataConfig) -> Prime:
    """The first seconds of any audio file, in whole frames. Raises InputError if there are not so many."""
    if not (math.isfinite(seconds) and seconds > 0):
        raise InputError(f"--prime_seconds {seconds:g}: expected more than 0")
    n_frames = max(1, round(seconds * data.midi_hz))
    pcm = read_beginning(path, data.audio_hz, n_frames * (data.audio_hz // data.midi_hz))
    return Prime(path.name, n_frames / data.midi_hz, pcm)


def primed_frames(settings: InferenceConfig | EvaluateConfig, data: DataConfig) -> int:
    """How many frames of a clip the model is given in mode primed; what follows is its own."""
    return max(1, round(settings.teacher_length * data.midi_hz)) if settings.mode == "primed" else 0


def clip_pieces(folder: str | Path, data: DataConfig) -> tuple[list[Piece], list[Failure]]:
    """A piece per test clip of a folder, as long as its whole frames; clips that can't be used as failures.

    Raises InputError if there are no clips at all.
    """
    hop, pieces, failures = data.audio_hz // data.midi_hz, [], []
    for number, path in enumerate(clip_paths(folder)):
        try:
            clip = read_clip(path, data.audio_hz)
            n_frames = len(clip.pcm) // hop
            if not n_frames:
                raise InputError("has less than a conditioning frame; cut longer clips")
            pieces.append(Piece(clip.name, number, clip.performance, n_frames, clip.pcm[: n_frames * hop]))
        except InputError as error:
            failures.append(Failure(path.stem, reason(error)))
    return pieces, failures
