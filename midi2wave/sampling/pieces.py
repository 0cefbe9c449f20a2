"""What is to be generated: pieces from MIDI files, codes or test clips, for every command that generates."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from midi2wave.audio.io import read_beginning, require_wav_length
from midi2wave.conditioning.global_conditioning import resolve_labels, unknown_columns, validate_labels
from midi2wave.conditioning.note_conditioning import NullPerformance
from midi2wave.config import DataConfig, EvaluateConfig, InferenceConfig
from midi2wave.data.test_clips import clip_paths, read_clip
from midi2wave.midi.performance import Performance, last_sound_seconds
from midi2wave.midi.reader import MIDI_SUFFIXES, SCORES, read_performance
from midi2wave.sampling.code_files import Codes, load_codes
from midi2wave.sampling.folding import Fold
from midi2wave.utils.cli import Failure, count_of, item_failure, log
from midi2wave.utils.errors import InputError
from midi2wave.utils.file_names import file_name_key, fit_stem
from midi2wave.utils.file_search import expand_folders


@dataclass(frozen=True, eq=False)
class AudioPrompt:
    """The beginning of some recording, which the model continues."""

    name: str
    seconds: float
    pcm: np.ndarray  # int16 [P * hop]


@dataclass(frozen=True)
class Piece:
    """One piece to generate.

    A piece from a clip has its true audio. One without notes (`timed_pieces`) that continues a clip may be longer.

    Attributes:
        name: Stem of its files.
        stream: Number of its source of randomness.
        performance: Its notes; None: it is played under the null condition, or by an unconditional model.
        n_frames: Length in conditioning frames.
        truth: True audio, int16 [n_frames * hop], if there is any.
        global_labels: Labels of the recording, as in `Performance`.
        prompt: Audio up to the piece's time 0; None: silence.
        fold: The parts in which it is generated; None: in one.
        codes: Argmax codes, in place of the notes.
    """

    name: str
    stream: int
    performance: Performance | None
    n_frames: int
    truth: np.ndarray | None = None
    global_labels: tuple[str, ...] = ()
    prompt: AudioPrompt | None = None
    fold: Fold | None = None
    codes: Codes | None = None

    @property
    def conditioning_source(self) -> Performance | NullPerformance:
        """The notes, or the null condition with the piece's global labels."""
        return self.performance or NullPerformance(self.global_labels)


def performance_seconds(performance: Performance, tail_seconds: float) -> float:
    """How long a performance sounds, with `tail_seconds` after its last sound."""
    return last_sound_seconds(performance) + tail_seconds


def performance_frames(seconds: float, midi_hz: int) -> int:
    """The conditioning frames that a performance of this length takes. Raises InputError if it is empty."""
    # Rounding noise must not add a frame.
    n_frames = math.ceil(seconds * midi_hz - 1e-6)
    if n_frames < 1:
        raise InputError("ends as it begins; raise inference_config.tail_seconds")
    return n_frames


def midi_pieces(
    paths: list[Path], settings: InferenceConfig, data: DataConfig, max_seconds: float = math.inf
) -> tuple[list[Piece], list[Failure]]:
    """A piece for each MIDI file, up to tail_seconds after its last sound; unusable files as failures.

    Of a folder, all MIDI files below it are taken.

    Raises:
        InputError: If settings.global_values are not among the model's.
    """
    validate_labels(settings.global_values, data.global_values)

    def read(path: Path, number: int) -> Piece:
        performance = read_performance(path)
        seconds = performance_seconds(performance, settings.tail_seconds)
        _check_length(path.stem, seconds, max_seconds, data.audio_hz)
        return Piece(fit_stem(path.stem), number, performance, performance_frames(seconds, data.midi_hz))

    paths, failures = expand_folders(paths, MIDI_SUFFIXES, SCORES)
    pieces, unusable = _read_pieces(paths, read)
    return with_labels(pieces, settings.global_values, data), failures + unusable


def read_audio_prompt(path: Path, seconds: float, data: DataConfig) -> AudioPrompt:
    """The first seconds of any audio file, in whole frames. Raises InputError if there are not so many."""
    if not (math.isfinite(seconds) and seconds > 0):
        raise InputError(f"--prompt_seconds {seconds:g}: expected more than 0")
    n_frames = max(1, round(seconds * data.midi_hz))
    pcm = read_beginning(path, data.audio_hz, n_frames * (data.audio_hz // data.midi_hz))
    return AudioPrompt(path.name, n_frames / data.midi_hz, pcm)


def code_pieces(
    paths: list[Path], settings: InferenceConfig, data: DataConfig, n_codes: int
) -> tuple[list[Piece], list[Failure]]:
    """A piece without notes for each file of codes; files that a model of n_codes can't play as failures."""
    validate_labels(settings.global_values, data.global_values)

    def read(path: Path, number: int) -> Piece:
        codes = load_codes(path)
        if (codes.n_codes, codes.midi_hz) != (n_codes, data.midi_hz):
            raise InputError(
                f"holds one of {codes.n_codes} codes {codes.midi_hz} times a second, the model has {n_codes}, "
                f"{data.midi_hz} times a second; play it by the model that wrote it"
            )
        name = fit_stem(path.name.removesuffix(".npz").removesuffix(".codes"))
        _check_length(name, codes.n_frames / data.midi_hz, settings.max_seconds, data.audio_hz)
        return Piece(name, number, None, codes.n_frames, codes=codes)

    return _read_pieces(paths, read)


def _read_pieces(
    paths: Sequence[Path], read: Callable[[Path, int], Piece], item: Callable[[Path], str] = str
) -> tuple[list[Piece], list[Failure]]:
    """One piece from each file; files that cannot be read, or whose name another one has, as failures.

    Args:
        paths: The files.
        read: The piece in a file that has this number. Raises InputError or OSError.
        item: What a file is called in a failure.
    """
    pieces: list[Piece] = []
    failures = []
    for number, path in enumerate(paths):
        try:
            piece = read(path, number)
            _check_name(piece.name, pieces)
            pieces.append(piece)
        except (InputError, OSError) as error:
            failures.append(item_failure(item(path), error))
    return pieces, failures


def _check_name(name: str, pieces: list[Piece]) -> None:
    """Refuse a name that another piece has, or whose file would be that of another piece."""
    same = [piece.name for piece in pieces if file_name_key(piece.name) == file_name_key(name)]
    if same:
        raise InputError(f"another file of the name {same[0]} stands before it; rename one of them")


def _check_length(name: str, seconds: float, max_seconds: float, audio_hz: int) -> None:
    """Refuse a piece that is too long."""
    if seconds > max_seconds:
        raise InputError(f"lasts {seconds:.0f} s; raise inference_config.max_seconds to play it all the same")
    require_wav_length(name, round(seconds * audio_hz), audio_hz)


def prompt_frames(settings: InferenceConfig | EvaluateConfig, data: DataConfig) -> int:
    """How many frames of its own true audio the model continues in mode prompted; 0 in other modes."""
    return max(1, round(settings.teacher_length * data.midi_hz)) if settings.mode == "prompted" else 0


def clip_pieces(folder: str | Path, data: DataConfig, labels: Sequence[str] = ()) -> tuple[list[Piece], list[Failure]]:
    """A piece for each test clip of a folder, as long as its whole frames; unusable clips as failures.

    Args:
        folder: Folder of test clips.
        data: The model's data_config.
        labels: Global labels that replace the clips' own ones.

    Raises:
        InputError: If a label is not among the model's, or there are no clips.
    """
    validate_labels(labels, data.global_values)
    hop = data.audio_hz // data.midi_hz

    def read(path: Path, number: int) -> Piece:
        clip = read_clip(path, data.audio_hz)
        n_frames = len(clip.pcm) // hop
        if not n_frames:
            raise InputError("has less than a conditioning frame; cut longer clips")
        return Piece(fit_stem(clip.name), number, clip.performance, n_frames, clip.pcm[: n_frames * hop])

    pieces, failures = _read_pieces(clip_paths(folder), read, item=lambda path: path.stem)
    return with_labels(pieces, labels, data), failures


def timed_pieces(
    seconds: float, n_pieces: int, settings: InferenceConfig, data: DataConfig
) -> tuple[list[Piece], list[Failure]]:
    """Pieces without notes, of that length: from silence, or in mode prompted each from the beginning of another clip.

    Clips that are too short are failures.

    Raises:
        InputError: If the length or the number is impossible, or there are no clips.
    """
    validate_labels(settings.global_values, data.global_values)
    n_prompt = prompt_frames(settings, data)
    n_frames = _timed_frames(seconds, n_prompt, settings, data)
    if n_pieces < 1:
        raise InputError(f"--n_pieces {n_pieces}: expected 1 or more")
    if not n_prompt:
        pieces = [Piece(f"piece_{number:03d}", number, None, n_frames) for number in range(n_pieces)]
        return with_labels(pieces, settings.global_values, data), []
    clips, failures = clip_pieces(settings.test_dir, data, settings.global_values)
    why = f"is shorter than teacher_length = {settings.teacher_length:g} s; lower inference_config.teacher_length"
    failures += [Failure(clip.name, why) for clip in clips if clip.n_frames < n_prompt]
    clips = [clip for clip in clips if clip.n_frames >= n_prompt]
    pieces = []
    for number in range(n_pieces if clips else 0):
        clip = clips[number % len(clips)]
        labels = clip.conditioning_source.global_labels
        name = fit_stem(f"piece_{number:03d}_{clip.name}")
        pieces.append(Piece(name, number, None, n_frames, clip.truth, global_labels=labels))
    return pieces, failures


def _timed_frames(seconds: float, n_prompt: int, settings: InferenceConfig, data: DataConfig) -> int:
    """The frames of pieces that last --seconds, of which n_prompt are their prompts. Raises InputError."""
    n_frames = round(seconds * data.midi_hz) if math.isfinite(seconds) else 0
    if settings.mode == "teacher_forced":
        raise InputError("--seconds: mode teacher_forced takes as long as its clips; set inference_config.mode=free")
    if n_frames <= n_prompt:
        after = f" after teacher_length = {settings.teacher_length:g} s" if n_prompt else ""
        raise InputError(f"--seconds {seconds:g}: expected at least one conditioning frame{after}")
    if seconds > settings.max_seconds:
        raise InputError(f"--seconds {seconds:g}: expected at most inference_config.max_seconds; raise it")
    require_wav_length(f"--seconds {seconds:g}", n_frames * (data.audio_hz // data.midi_hz), data.audio_hz)
    return n_frames


def with_labels(pieces: list[Piece], labels: Sequence[str], data: DataConfig) -> list[Piece]:
    """The pieces with their global labels resolved; logs how many have a column without a label.

    Args:
        pieces: The pieces.
        labels: COLUMN=VALUE labels that replace the pieces' own ones.
        data: The model's data_config, with the labels that it was trained with.
    """
    result = []
    for piece in pieces:
        resolved = resolve_labels(piece.conditioning_source.global_labels, labels, data.global_values)
        notes = piece.performance and replace(piece.performance, global_labels=resolved)
        result.append(replace(piece, performance=notes, global_labels=resolved))
    if n_vague := sum(bool(unknown_columns(piece.global_labels, data.global_values)) for piece in result):
        log(
            f"{n_vague} of {count_of(len(result), 'piece')} without a label of some column; the model's labels are "
            f"{', '.join(data.global_values)} (see docs/global_conditioning.md)"
        )
    return result
