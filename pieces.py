"""What is to be generated: pieces from MIDI files, codes or test clips, for every command that generates."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cli import Failure, note, reason
from code_files import Codes, load_codes
from config import DataConfig, EvaluateConfig, InferenceConfig
from dataset import clip_paths, read_clip
from errors import InputError
from midi import Performance, no_notes, read_midi, sounding_offset


@dataclass(frozen=True)
class Piece:
    """One piece to generate; `stream` numbers its source of randomness."""

    name: str
    stream: int
    performance: Performance
    n_frames: int
    truth: np.ndarray | None = None  # int16 [n_frames * hop] where it is a clip
    codes: Codes | None = None  # in place of the notes


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
            _check(path.stem, seconds, pieces, max_seconds)
            # Rounding noise must not add a frame.
            n_frames = math.ceil(seconds * data.midi_hz - 1e-6)
            if n_frames < 1:
                raise InputError("ends as it begins; raise inference_config.tail_seconds to hear it")
            pieces.append(Piece(path.stem, number, performance, n_frames))
        except InputError as error:
            failures.append(Failure(str(path), reason(error)))
    return pieces, failures


def code_pieces(
    paths: list[Path], settings: InferenceConfig, data: DataConfig, n_codes: int
) -> tuple[list[Piece], list[Failure]]:
    """A piece without notes per file of codes; files that a model of n_codes can't play as failures."""
    pieces, failures = [], []
    for number, path in enumerate(paths):
        try:
            codes = load_codes(path)
            if (codes.n_codes, codes.midi_hz) != (n_codes, data.midi_hz):
                raise InputError(
                    f"holds one of {codes.n_codes} codes {codes.midi_hz} times a second, the model has {n_codes}, "
                    f"{data.midi_hz} times a second; play it by the model that wrote it"
                )
            name = path.name.removesuffix(".npz").removesuffix(".codes")
            _check(name, codes.n_frames / data.midi_hz, pieces, settings.max_seconds)
            pieces.append(Piece(name, number, no_notes(), codes.n_frames, codes=codes))
        except InputError as error:
            failures.append(Failure(str(path), reason(error)))
    return pieces, failures


def _check(name: str, seconds: float, pieces: list[Piece], max_seconds: float) -> None:
    if seconds > max_seconds:
        raise InputError(f"lasts {seconds:.0f} s; raise inference_config.max_seconds to play it all the same")
    if name in {piece.name for piece in pieces}:
        raise InputError(f"another file of the name {name} stands before it; rename one of them")


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
