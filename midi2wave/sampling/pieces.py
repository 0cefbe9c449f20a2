"""What is to be generated: pieces from MIDI files, codes or test clips, for every command that generates."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from midi2wave.audio.io import read_beginning
from midi2wave.conditioning.global_conditioning import resolve_labels, unknown_columns, validate_labels
from midi2wave.conditioning.note_conditioning import NullPerformance
from midi2wave.config import DataConfig, EvaluateConfig, InferenceConfig
from midi2wave.data.test_clips import clip_paths, read_clip
from midi2wave.midi.performance import Performance, sounding_offset
from midi2wave.midi.reader import read_midi
from midi2wave.sampling.code_files import Codes, load_codes
from midi2wave.sampling.folding import Fold
from midi2wave.utils.cli import Failure, format_error, log
from midi2wave.utils.errors import InputError


@dataclass(frozen=True)
class AudioPrompt:
    """The beginning of some recording, for a model to go on from."""

    name: str
    seconds: float
    pcm: np.ndarray  # int16 [P * hop]


@dataclass(frozen=True)
class Piece:
    """One piece to generate; `stream` numbers its source of randomness.

    Of a clip there is the truth. A piece without notes (`timed_pieces`) that goes on from a clip may be longer than it.
    """

    name: str
    stream: int
    performance: Performance | None  # None: played under the null condition, or without any
    n_frames: int
    truth: np.ndarray | None = None  # int16 [n_frames * hop]
    global_labels: tuple[str, ...] = ()  # what is known of it, as of `Performance`
    prime: AudioPrompt | None = None  # what sounds up to its time 0; None: silence
    fold: Fold | None = None  # the parts that it is generated in; None: in one
    codes: Codes | None = None  # in place of the notes

    @property
    def heard(self) -> Performance | NullPerformance:
        """What the model is told of it: its notes, or nothing about them."""
        return self.performance or NullPerformance(self.global_labels)


def midi_pieces(
    paths: list[Path], settings: InferenceConfig, data: DataConfig, max_seconds: float = math.inf
) -> tuple[list[Piece], list[Failure]]:
    """A piece per MIDI file, up to tail_seconds after its last sound; files that can't be played as failures.

    Raises InputError for settings.global_values that the model does not know.
    """
    pieces, failures = [], []
    validate_labels(settings.global_values, data.global_values)
    for number, path in enumerate(paths):
        try:
            performance = read_midi(path)
            for dropped in performance.dropped:
                log(f"{path}: {dropped}")
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
            failures.append(Failure(str(path), format_error(error)))
    return _told(pieces, settings.global_values, data), failures


def read_audio_prompt(path: Path, seconds: float, data: DataConfig) -> AudioPrompt:
    """The first seconds of any audio file, in whole frames. Raises InputError if there are not so many."""
    if not (math.isfinite(seconds) and seconds > 0):
        raise InputError(f"--prime_seconds {seconds:g}: expected more than 0")
    n_frames = max(1, round(seconds * data.midi_hz))
    pcm = read_beginning(path, data.audio_hz, n_frames * (data.audio_hz // data.midi_hz))
    return AudioPrompt(path.name, n_frames / data.midi_hz, pcm)


def code_pieces(
    paths: list[Path], settings: InferenceConfig, data: DataConfig, n_codes: int
) -> tuple[list[Piece], list[Failure]]:
    """A piece without notes per file of codes; files that a model of n_codes can't play as failures."""
    validate_labels(settings.global_values, data.global_values)
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
            pieces.append(Piece(name, number, None, codes.n_frames, codes=codes))
        except InputError as error:
            failures.append(Failure(str(path), format_error(error)))
    return pieces, failures


def _check(name: str, seconds: float, pieces: list[Piece], max_seconds: float) -> None:
    if seconds > max_seconds:
        raise InputError(f"lasts {seconds:.0f} s; raise inference_config.max_seconds to play it all the same")
    if name in {piece.name for piece in pieces}:
        raise InputError(f"another file of the name {name} stands before it; rename one of them")


def prompt_frames(settings: InferenceConfig | EvaluateConfig, data: DataConfig) -> int:
    """How many frames of a clip the model is given in mode prompted; what follows is its own."""
    return max(1, round(settings.teacher_length * data.midi_hz)) if settings.mode == "prompted" else 0


def clip_pieces(folder: str | Path, data: DataConfig, given: Sequence[str] = ()) -> tuple[list[Piece], list[Failure]]:
    """A piece per test clip of a folder, as long as its whole frames; clips that can't be used as failures.

    given: global values, instead of what the clips say of their recordings. Raises InputError if the model does not
    know them, or if there are no clips at all.
    """
    validate_labels(given, data.global_values)
    hop, pieces, failures = data.audio_hz // data.midi_hz, [], []
    for number, path in enumerate(clip_paths(folder)):
        try:
            clip = read_clip(path, data.audio_hz)
            n_frames = len(clip.pcm) // hop
            if not n_frames:
                raise InputError("has less than a conditioning frame; cut longer clips")
            pieces.append(Piece(clip.name, number, clip.performance, n_frames, clip.pcm[: n_frames * hop]))
        except InputError as error:
            failures.append(Failure(path.stem, format_error(error)))
    return _told(pieces, given, data), failures


def timed_pieces(
    seconds: float, n_pieces: int, settings: InferenceConfig, data: DataConfig
) -> tuple[list[Piece], list[Failure]]:
    """Pieces without notes, of that length: from silence, or in mode prompted each from the beginning of another clip.

    Raises InputError for an impossible length or number, and if there are no clips; those too short are failures.
    """
    validate_labels(settings.global_values, data.global_values)
    n_frames, prompted = round(seconds * data.midi_hz) if math.isfinite(seconds) else 0, prompt_frames(settings, data)
    if settings.mode == "teacher_forced":
        raise InputError("--seconds: mode teacher_forced takes as long as its clips; set inference_config.mode=free")
    if n_frames <= prompted:
        given = f" after teacher_length = {settings.teacher_length:g} s" if prompted else ""
        raise InputError(f"--seconds {seconds:g}: expected at least one conditioning frame{given}")
    if seconds > settings.max_seconds:
        raise InputError(f"--seconds {seconds:g}: expected at most inference_config.max_seconds; raise it")
    if n_pieces < 1:
        raise InputError(f"--n_pieces {n_pieces}: expected 1 or more")
    if not prompted:
        pieces = [Piece(f"piece_{number:03d}", number, None, n_frames) for number in range(n_pieces)]
        return _told(pieces, settings.global_values, data), []
    clips, failures = clip_pieces(settings.test_dir, data, settings.global_values)
    why = f"is shorter than teacher_length = {settings.teacher_length:g} s; lower inference_config.teacher_length"
    failures += [Failure(clip.name, why) for clip in clips if clip.n_frames < prompted]
    if not (clips := [clip for clip in clips if clip.n_frames >= prompted]):
        return [], failures
    chosen = [clips[number % len(clips)] for number in range(n_pieces)]
    return [
        Piece(
            f"piece_{number:03d}_{clip.name}",
            number,
            None,
            n_frames,
            clip.truth,
            global_labels=clip.heard.global_labels,
        )
        for number, clip in enumerate(chosen)
    ], failures


def _told(pieces: list[Piece], given: Sequence[str], data: DataConfig) -> list[Piece]:
    """The pieces with what the model is told of their recordings; says so where that is less than it could be."""
    known, result = data.global_values, []
    for piece in pieces:
        labels = resolve_labels(piece.heard.global_labels, given, known)
        notes = piece.performance and replace(piece.performance, global_labels=labels)
        result.append(replace(piece, performance=notes, global_labels=labels))
    if vague := sum(bool(unknown_columns(piece.global_labels, known)) for piece in result):
        log(f"of {vague} of {len(result)} pieces the model is not told all it could be ({', '.join(known)}; see "
             "docs/global_conditioning.md)")  # fmt: skip
    return result
