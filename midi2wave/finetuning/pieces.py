"""The pieces of a fine-tuning: which recordings, or stretches of them, are trained on and which are held out."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from midi2wave.data.maestro import SPLITS, Recording, find_metadata, read_metadata
from midi2wave.data.preprocessing import Stretch
from midi2wave.utils.cli import log
from midi2wave.utils.errors import InputError
from midi2wave.utils.text import join_names

# Less teaches nothing that can be measured.
MIN_SECONDS = 60.0
# With fewer recordings, the middle of each is held out instead of whole recordings.
MIN_RECORDINGS = 10
# Pieces with less room than this do not decide how long all clips are.
MIN_COMMON_CLIP_SECONDS = 3.0
MIN_HOLD_OUT, MAX_HOLD_OUT = 0.02, 0.4
HELD_OUT = ("test", "validation")
# Whole recordings are held out up to this multiple of the part that is wanted; where none is that short, up to a part
# of all. Where those are longer too, the middles are held out.
MAX_EXCESS = 1.2
MAX_HELD_OUT_RECORDING = 0.15


class UsablePair(NamedTuple):
    """A usable pair of audio and MIDI.

    Attributes:
        audio: The audio file, relative to the user's folder.
        midi: The MIDI file, relative to the user's folder.
        seconds: Length of the audio.
        late_seconds: By how much the sound comes after the notes.
        notes_sha256: Checksum of the notes, equal for recordings of the same ones.
    """

    audio: str
    midi: str
    seconds: float
    late_seconds: float
    notes_sha256: str


@dataclass(frozen=True)
class Piece:
    """A recording, or a stretch of one, that belongs to a split.

    Attributes:
        recording: Its files, relative to the user's folder, its split and its length in seconds.
        stretch: The part of the recording, and the lag of its sound, which is corrected.
        name: A name of the recording that no other one has.
        notes_sha256: As of its pair.
    """

    recording: Recording
    stretch: Stretch
    name: str
    notes_sha256: str

    def in_split(self, split: str) -> "Piece":
        """The piece in another split."""
        return replace(self, recording=replace(self.recording, split=split))


def piece_from(values: dict[str, Any]) -> Piece:
    """A piece from its values as JSON, as of `dataclasses.asdict`."""
    return Piece(**{**values, "recording": Recording(**values["recording"]), "stretch": Stretch(**values["stretch"])})


def plan_pieces(folder: Path, pairs: Sequence[UsablePair], hold_out: float, seed: int) -> list[Piece]:
    """Divide the recordings into those to train on, to validate on and to test on.

    A MAESTRO folder keeps its split. Otherwise whole recordings are held out, or of few recordings, or very unequal
    ones, the middle of each. Recordings of the same notes are kept in one split.

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
    names = _unique_names([pair.audio for pair in pairs])
    for index, (pair, name) in enumerate(zip(pairs, names, strict=True)):
        recording = Recording(index, "", Path(pair.audio).stem, "train", 0, pair.midi, pair.audio, pair.seconds)
        pieces.append(Piece(recording, Stretch(0.0, pair.seconds, pair.late_seconds), name, pair.notes_sha256))
    if in_maestro := _with_metadata(folder, pieces):
        _warn_of_copies(in_maestro)
        return in_maestro
    whole = _held_out(pieces, hold_out, seed) if len(pieces) >= MIN_RECORDINGS else []
    return whole or _stretches(pieces, hold_out)


def _unique_names(paths: Sequence[str]) -> list[str]:
    """The paths without suffixes and slashes; where two become equal, with their numbers."""
    names = [str(Path(path).with_suffix("")).replace("/", "_") for path in paths]
    return [f"{name}_{i}" if names.count(name) > 1 else name for i, name in enumerate(names)]


def _by_notes(pieces: Sequence[Piece]) -> list[list[Piece]]:
    """The pieces in groups of the same notes."""
    groups: dict[str, list[Piece]] = {}
    for piece in pieces:
        groups.setdefault(piece.notes_sha256, []).append(piece)
    return list(groups.values())


def _warn_of_copies(pieces: Sequence[Piece]) -> None:
    for group in _by_notes(pieces):
        if len({piece.recording.split for piece in group}) > 1:
            names = join_names(piece.recording.audio_filename for piece in group)
            log(f"the metadata have recordings of the same notes in different splits, which raises the scores: {names}")


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
    """About the part `hold_out` of the seconds for each split, in whole recordings; none if they are too long."""
    total = sum(one.recording.duration for one in pieces)
    wanted = hold_out * total
    groups = _by_notes(pieces)
    waiting = {int(i): sum(one.recording.duration for one in groups[i]) for i in range(len(groups))}
    taken: dict[str, list[int]] = {split: [] for split in HELD_OUT}
    seconds = dict.fromkeys(HELD_OUT, 0.0)

    def take(split: str, i: int) -> None:
        taken[split].append(i)
        seconds[split] += waiting.pop(i)

    for i in map(int, np.random.default_rng(seed).permutation(len(groups))):
        split = min(HELD_OUT, key=lambda one: seconds[one])
        if seconds[split] + waiting[i] / 2 < wanted and seconds[split] + waiting[i] <= MAX_EXCESS * wanted:
            take(split, i)
    for split in HELD_OUT:
        if not taken[split] and waiting:
            shortest = min(waiting, key=lambda one: waiting[one])
            if waiting[shortest] <= MAX_HELD_OUT_RECORDING * total:
                take(split, shortest)
    if not waiting or not all(taken.values()):
        return []
    divided = [one for i in waiting for one in groups[i]]
    divided += [one.in_split(split) for split in HELD_OUT for i in taken[split] for one in groups[i]]
    return sorted(divided, key=lambda piece: piece.recording.index)


def _stretches(pieces: list[Piece], hold_out: float) -> list[Piece]:
    """Of each recording the middle for validation and testing, what is before and after it for training.

    The end often has no notes.
    """
    divided: list[Piece] = []
    for piece in pieces:
        end = piece.recording.duration
        bounds = (0.0, end * (0.5 - hold_out), end * 0.5, end * (0.5 + hold_out), end)
        for number, split in enumerate(("train", *HELD_OUT, "train")):
            stretch = replace(piece.stretch, start=bounds[number], end=bounds[number + 1])
            length = stretch.end - stretch.start
            part = replace(piece.recording, index=len(divided), split=split, duration=length)
            divided.append(replace(piece, recording=part, stretch=stretch))
    return divided


def holds_out_middles(pieces: Sequence[Piece]) -> bool:
    """Whether the held-out pieces are the middles of recordings instead of whole ones."""
    return len({piece.recording.audio_filename for piece in pieces}) < len(pieces)


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
