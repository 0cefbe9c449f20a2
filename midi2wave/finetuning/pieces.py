"""The pieces of a fine-tuning: which recordings, or stretches of them, are trained on and which are held out."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from midi2wave.data import midi_alignment
from midi2wave.data.maestro import SPLITS, Recording, find_metadata, read_metadata
from midi2wave.data.preprocessing import Stretch
from midi2wave.utils.cli import log
from midi2wave.utils.errors import InputError

# Less teaches nothing that can be measured.
MIN_SECONDS = 60.0
# With fewer recordings, the middle of each is held out instead of whole recordings.
MIN_RECORDINGS = 10
# Pieces with less room than this do not decide how long all clips are.
MIN_COMMON_CLIP_SECONDS = 3.0
# The sound of smaller lags agrees with the notes as far as the check can tell; aligned labels correct them.
MAX_UNCORRECTED_SECONDS = midi_alignment.WARN_SECONDS
MIN_HOLD_OUT, MAX_HOLD_OUT = 0.02, 0.4
HELD_OUT = ("test", "validation")


class Pair(NamedTuple):
    """A usable pair of audio and MIDI.

    Attributes:
        audio: The audio file, relative to the user's folder.
        midi: The MIDI file, relative to the user's folder.
        seconds: Length of the audio.
        late_seconds: By how much the sound comes after the notes.
    """

    audio: str
    midi: str
    seconds: float
    late_seconds: float


@dataclass(frozen=True)
class Piece:
    """A recording, or a stretch of one, that belongs to a split.

    Attributes:
        recording: Its files, relative to the user's folder, its split and its length in seconds.
        stretch: The part of the recording, and the lag of its sound; None: all of it, without correction.
    """

    recording: Recording
    stretch: Stretch | None = None

    @property
    def name(self) -> str:
        """A name of the recording that no other one has."""
        return str(Path(self.recording.audio_filename).with_suffix("")).replace("/", "_")


def plan_pieces(folder: Path, pairs: Sequence[Pair], hold_out: float, seed: int) -> list[Piece]:
    """Divide the recordings into those to train on, to validate on and to test on.

    A MAESTRO folder keeps its split. Otherwise whole recordings are held out, or of few recordings the middle of each.

    Args:
        folder: The user's folder.
        pairs: The usable recordings.
        hold_out: Part of the seconds that is held out, once for validation and once for testing.
        seed: Seed of the choice.

    Returns:
        The pieces of all splits, each with an index of its own.

    Raises:
        InputError: There is too little.
    """
    seconds = sum(pair.seconds for pair in pairs)
    if seconds < MIN_SECONDS:
        raise InputError(
            f"{folder} holds {seconds:.0f} s of usable recordings, expected at least {MIN_SECONDS:.0f}; add more of "
            "them (docs/own_piano.md says how much helps)"
        )
    pieces = []
    for index, pair in enumerate(pairs):
        recording = Recording(index, "", Path(pair.audio).stem, "train", 0, pair.midi, pair.audio, pair.seconds)
        is_late = abs(pair.late_seconds) > MAX_UNCORRECTED_SECONDS
        pieces.append(Piece(recording, Stretch(0.0, pair.seconds, pair.late_seconds) if is_late else None))
    if in_maestro := _with_metadata(folder, pieces):
        return in_maestro
    return _stretches(pieces, hold_out) if len(pieces) < MIN_RECORDINGS else _held_out(pieces, hold_out, seed)


def _with_metadata(folder: Path, pieces: list[Piece]) -> list[Piece]:
    """The pieces with split and year of the metadata; none without metadata, or if a split of them is empty."""
    if not find_metadata(folder):
        return []
    listed = {one.audio_filename: one for one in read_metadata(folder)}
    labelled = []
    for piece in pieces:
        own = piece.recording
        if own.audio_filename in listed:
            metadata = replace(listed[own.audio_filename], index=own.index, duration=own.duration)
            labelled.append(replace(piece, recording=metadata))
    if {piece.recording.split for piece in labelled} != set(SPLITS):
        log(f"the metadata in {folder} leave a split without usable recordings: another split is made")
        return []
    return labelled


def _held_out(pieces: list[Piece], hold_out: float, seed: int) -> list[Piece]:
    """Whole recordings for each split: at least one, and about the part `hold_out` of the seconds."""
    wanted = hold_out * sum(one.recording.duration for one in pieces)
    waiting = [pieces[i] for i in np.random.default_rng(seed).permutation(len(pieces))]
    divided: list[Piece] = []
    for split in HELD_OUT:
        taken = 0.0
        while not taken or taken + waiting[-1].recording.duration / 2 < wanted:
            piece = waiting.pop()
            taken += piece.recording.duration
            divided.append(replace(piece, recording=replace(piece.recording, split=split)))
    return sorted([*divided, *waiting], key=lambda piece: piece.recording.index)


def _stretches(pieces: list[Piece], hold_out: float) -> list[Piece]:
    """Of each recording the middle for validation and testing, what is before and after it for training.

    The end often has no notes.
    """
    divided: list[Piece] = []
    for piece in pieces:
        end = piece.recording.duration
        late_seconds = piece.stretch.late_seconds if piece.stretch else 0.0
        bounds = (0.0, end * (0.5 - hold_out), end * 0.5, end * (0.5 + hold_out), end)
        for number, split in enumerate(("train", *HELD_OUT, "train")):
            stretch = Stretch(bounds[number], bounds[number + 1], late_seconds)
            length = stretch.end - stretch.start
            part = replace(piece.recording, index=len(divided), split=split, duration=length)
            divided.append(Piece(part, stretch))
    return divided


def holds_out_middles(pieces: Sequence[Piece]) -> bool:
    """Whether the held-out pieces are the middles of recordings instead of whole ones."""
    return len({piece.recording.audio_filename for piece in pieces}) < len(pieces)


def remaining_lags(pieces: Sequence[Piece], pairs: Sequence[Pair]) -> dict[int, float]:
    """By how many seconds the sound of each piece comes after its notes as processed, by the piece's index.

    Args:
        pieces: The pieces.
        pairs: The recordings that they are of, with their lags.
    """
    late_seconds = {pair.audio: pair.late_seconds for pair in pairs}
    return {
        piece.recording.index: late_seconds[piece.recording.audio_filename]
        - (piece.stretch.late_seconds if piece.stretch else 0.0)
        for piece in pieces
    }


def clip_seconds(pieces: Sequence[Piece], split: str, longest: float) -> float:
    """Length of a split's clips, of which one fits into each of its pieces, or two or more into all if some are short.

    Args:
        pieces: All pieces.
        split: test or validation.
        longest: The longest length that is wanted, in seconds.

    Raises:
        InputError: The pieces of the split are shorter than a second.
    """
    durations = sorted((one.recording.duration for one in pieces if one.recording.split == split), reverse=True)
    if len(durations) == 1:
        room = durations[0] / 3  # Wherever the first clip begins, a second one fits beside it.
    else:
        room = durations[-1] if durations[-1] >= MIN_COMMON_CLIP_SECONDS else durations[1]
    seconds = min(longest, math.floor(10 * room) / 10)
    if seconds < 1:
        raise InputError(
            f"the recordings that are held out have room for clips of {room:.1f} s, expected a second or more; raise "
            "--hold_out, or add recordings"
        )
    return seconds
