"""Pairs of audio and MIDI in a folder: files with equal names."""

import os
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from midi2wave.audio.io import AUDIO_SUFFIXES, UNREAD_AUDIO
from midi2wave.data.maestro import resampled_name
from midi2wave.midi.reader import MIDI_SUFFIXES, SCORES
from midi2wave.utils.cli import Failure, count_of, log
from midi2wave.utils.errors import InputError
from midi2wave.utils.file_search import walk_folder
from midi2wave.utils.text import join_names


@dataclass(frozen=True)
class FolderPairs:
    """What a folder holds.

    Attributes:
        folder: The folder.
        pairs: Audio and MIDI file of each pair, in the order of the MIDI files.
        unmatched: The audio and MIDI files without a partner, sorted.
        unread: Audio and scores in formats that are not read, each with what to do.
        failures: Files and folders that cannot be opened.
    """

    folder: Path
    pairs: list[tuple[Path, Path]]
    unmatched: list[Path]
    unread: list[str]
    failures: list[Failure]

    def require_pairs(self) -> None:
        """Raise InputError if there are none."""
        if self.pairs:
            return
        unread = [*self.unread, *(f"{failure.item}: {failure.reason}" for failure in self.failures)]
        has_audio = any(path.suffix.lower() in AUDIO_SUFFIXES for path in self.unmatched)
        if unread and not has_audio:
            raise InputError(f"{self.folder} holds no audio that can be read: {unread[0]}")
        if self.unmatched:
            raise InputError(
                f"{self.folder} holds {count_of(len(self.unmatched), 'audio or MIDI file')} "
                f"({_names(self.folder, self.unmatched)}), but no pair of audio and MIDI with equal names; rename them "
                "as NAME.wav and NAME.mid"
            )
        raise InputError(f"{self.folder} holds no audio and no MIDI files; put pairs NAME.wav and NAME.mid into it")


def find_pairs(folder: Path, audio_hz: int, resampled_dir: Path | None = None) -> FolderPairs:
    """Find the pairs of audio and MIDI at any depth of a folder.

    Files with equal stems belong together: those of one folder, or, if each has only one such partner, those of
    different folders (`audio/a.wav`, `midi/a.mid`). Formats that are not read are named in a line.

    Args:
        folder: The folder.
        audio_hz: A resampled NAME_16000.wav of this rate takes the place of NAME.
        resampled_dir: Where the audio lies, at the same places as in `folder`; None: in `folder`.
    """
    tree = walk_folder(folder)
    unread = [
        f"{name.as_posix()}: {kind.kind}; {kind.remedy}"
        for kind in (UNREAD_AUDIO, SCORES)
        for name in tree.log_left_out(kind)
    ]
    audio_dir = resampled_dir or folder
    by_audio: dict[Path, Path] = {}
    midi_left = []
    for name in tree.select(MIDI_SUFFIXES):
        audio = audio_with_stem((audio_dir / name).with_suffix(""), audio_hz)
        # Of a.mid and a.midi, the first counts: a recording must not be trained on and held out at once.
        if audio and audio not in by_audio:
            by_audio[audio] = folder / name
        else:
            midi_left.append(folder / name)
    audio_left = _audio_without_midi(folder, tree.select(AUDIO_SUFFIXES), list(by_audio.values()), audio_hz)
    paired = set()
    for original, midi in _pairs_of_unique_stems(audio_left, midi_left):
        if audio := audio_with_stem((audio_dir / original.relative_to(folder)).with_suffix(""), audio_hz):
            by_audio[audio] = midi
            paired |= {original, midi}
    unmatched = sorted(path for path in (*audio_left, *midi_left) if path not in paired)
    failures = tree.failures_of((*MIDI_SUFFIXES, *AUDIO_SUFFIXES))
    pairs = sorted(by_audio.items(), key=lambda pair: pair[1])
    return FolderPairs(folder, pairs, unmatched, unread, failures)


def audio_with_stem(stem: Path, audio_hz: int) -> Path | None:
    """The audio file of a stem: a resampled NAME_16000.wav before NAME, then by the order of AUDIO_SUFFIXES.

    Args:
        stem: Folder and name without suffix.
        audio_hz: The sample rate of the resampled file.
    """
    suffixes = [*AUDIO_SUFFIXES, *map(str.upper, AUDIO_SUFFIXES)]
    names = [_resampled(stem, audio_hz).name, *(stem.name + suffix for suffix in suffixes)]
    return next((path for path in map(stem.with_name, names) if os.path.isfile(path)), None)


def _resampled(stem: Path, audio_hz: int) -> Path:
    return stem.with_name(resampled_name(f"{stem.name}.wav", audio_hz))


def _audio_without_midi(folder: Path, names: list[Path], paired_midi: list[Path], audio_hz: int) -> list[Path]:
    """The audio files, but those of paired MIDI files; one for each stem, and none that is another one resampled."""
    taken = {midi.with_suffix("") for midi in paired_midi}
    by_stem: dict[Path, Path] = {}
    for name in names:
        by_stem.setdefault((folder / name).with_suffix(""), folder / name)
    stems = taken | by_stem.keys()
    resampled = {_resampled(stem, audio_hz).with_suffix("") for stem in stems}
    return [path for stem, path in by_stem.items() if stem not in taken and stem not in resampled]


def _pairs_of_unique_stems(audio: list[Path], midi: list[Path]) -> list[tuple[Path, Path]]:
    """Pairs of equal stems in different folders, where no other file has the stem."""
    by_stem: dict[str, tuple[list[Path], list[Path]]] = defaultdict(lambda: ([], []))
    for number, paths in enumerate((audio, midi)):
        for path in paths:
            by_stem[path.stem][number].append(path)
    return [(sounds[0], notes[0]) for sounds, notes in by_stem.values() if len(sounds) == len(notes) == 1]


def log_unmatched(folder: Path, unmatched: list[Path]) -> None:
    """Name the files without a partner, if there are any."""
    if unmatched:
        log(
            f"left out, without a partner of equal name: {_names(folder, unmatched)}; give audio and MIDI of a "
            "recording the same name"
        )


def _names(folder: Path, paths: list[Path]) -> str:
    return join_names(path.relative_to(folder).as_posix() for path in paths)
