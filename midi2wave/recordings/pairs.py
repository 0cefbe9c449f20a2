"""Pairs of audio and MIDI in a folder: files with equal names."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from midi2wave.audio.io import AUDIO_SUFFIXES, UNREAD_AUDIO
from midi2wave.data.maestro import resampled_name
from midi2wave.midi.reader import MIDI_SUFFIXES, SCORES
from midi2wave.utils.cli import Failure, count_of, log
from midi2wave.utils.errors import InputError
from midi2wave.utils.file_search import FileTree, walk_folder
from midi2wave.utils.text import join_names


class MatchedFiles(NamedTuple):
    """The audio file of a recording and its MIDI file."""

    audio: Path
    midi: Path


@dataclass(frozen=True)
class FolderPairs:
    """What a folder holds.

    Attributes:
        folder: The folder.
        pairs: The pairs, in the order of the MIDI files.
        unmatched: The audio and MIDI files without a partner, sorted.
        not_resampled: Audio files that have a MIDI file, but no resampled copy where that is looked for, sorted.
        unread: Audio and scores in formats that are not read, each with what to do.
        failures: Files and folders that cannot be opened.
    """

    folder: Path
    pairs: list[MatchedFiles]
    unmatched: list[Path] = field(default_factory=list)
    not_resampled: list[Path] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)

    def require_pairs(self) -> None:
        """Raise InputError if there are none."""
        if self.pairs:
            return
        unread = [*self.unread, *(f"{failure.item}: {failure.reason}" for failure in self.failures)]
        has_audio = any(path.suffix.lower() in AUDIO_SUFFIXES for path in self.unmatched)
        if self.not_resampled:
            raise InputError(
                f"{self.folder} holds pairs of audio and MIDI, but of their audio no file is resampled: "
                f"{self._names(self.not_resampled)}; run resample_audio.py, or correct resampled_dir and audio_hz"
            )
        if unread and not has_audio:
            raise InputError(f"{self.folder} holds no audio that can be read: {unread[0]}")
        if self.unmatched:
            raise InputError(
                f"{self.folder} holds {count_of(len(self.unmatched), 'audio or MIDI file')} "
                f"({self._names(self.unmatched)}), but no pair of audio and MIDI with equal names; rename them as "
                "NAME.wav and NAME.mid"
            )
        raise InputError(f"{self.folder} holds no audio and no MIDI files; put pairs NAME.wav and NAME.mid into it")

    def log_left_out(self) -> None:
        """Name the files that are in no pair, with what to do."""
        if self.unmatched:
            log(
                f"left out, without a partner of equal name: {self._names(self.unmatched)}; give audio and MIDI of a "
                "recording the same name"
            )
        if self.not_resampled:
            log(f"left out, not resampled: {self._names(self.not_resampled)}; run resample_audio.py")

    def _names(self, paths: list[Path]) -> str:
        return join_names(path.relative_to(self.folder).as_posix() for path in paths)


def find_pairs(
    folder: Path, audio_hz: int, resampled_dir: Path | None = None, *, prefer_originals: bool = False
) -> FolderPairs:
    """Find the pairs of audio and MIDI at any depth of a folder.

    Files with equal stems belong together: those of one folder, or, if no other file has that stem, those of different
    folders (`audio/a.wav`, `midi/a.mid`). Formats that are not read are named in a line.

    Args:
        folder: The folder.
        audio_hz: The sample rate of resampled files; NAME_16000.wav is one of NAME.
        resampled_dir: Where the audio is taken from, at the same places as in `folder`; None: from `folder`.
        prefer_originals: Of NAME.wav and NAME_16000.wav, take the first; else the second.
    """
    tree = walk_folder(folder)
    unread = [
        f"{name.as_posix()}: {kind.kind}; {kind.remedy}"
        for kind in (UNREAD_AUDIO, SCORES)
        for name in tree.log_left_out(kind)
    ]
    failures = tree.failures_of((*MIDI_SUFFIXES, *AUDIO_SUFFIXES))
    midi_names = tree.select(MIDI_SUFFIXES)
    # Of a.mid and a.midi the first counts: a recording must not be trained on and held out at once.
    midi = {name.with_suffix(""): name for name in reversed(midi_names)}
    files = _audio_of_stems(tree, midi, audio_hz, resampled_dir, prefer_originals=prefer_originals)
    sources, root = files, folder
    if resampled_dir:
        resampled_tree = walk_folder(resampled_dir)
        sources = _audio_of_stems(resampled_tree, midi | files, audio_hz, None, prefer_originals=prefer_originals)
        failures += resampled_tree.failures_of(AUDIO_SUFFIXES)
        root = resampled_dir
    matches = _match_stems(files.keys() | sources.keys(), midi.keys())
    pairs = [MatchedFiles(root / sources[stem], folder / midi[own]) for stem, own in matches.items() if stem in sources]
    not_resampled = [folder / files[stem] for stem in matches if stem not in sources]
    unmatched = [folder / name for stem, name in files.items() if stem not in matches]
    used = {midi[own] for own in matches.values()}
    unmatched += [folder / name for name in midi_names if name not in used]
    in_order = sorted(pairs, key=lambda pair: pair.midi)
    return FolderPairs(folder, in_order, sorted(unmatched), sorted(not_resampled), unread, failures)


def _audio_of_stems(
    tree: FileTree, other_stems: Iterable[Path], audio_hz: int, left_out: Path | None, *, prefer_originals: bool
) -> dict[Path, Path]:
    """The audio file of each stem, both relative to the folder of `tree`; resampled files have that of their original.

    Args:
        tree: The files.
        other_stems: Stems of other files. One that ends like that of a resampled file is taken as it is.
        audio_hz: The sample rate of resampled files.
        left_out: A folder whose files do not count.
        prefer_originals: As in `find_pairs`.
    """
    other_stems = set(other_stems)
    names = [name for name in tree.select(AUDIO_SUFFIXES) if not (left_out and _lies_in(tree.folder / name, left_out))]
    # Names that are too long are cut: the stem of the original does not follow from them.
    originals = {
        Path(resampled_name(f"{stem.as_posix()}.wav", audio_hz)): stem
        for stem in other_stems.union(name.with_suffix("") for name in names)
    }
    by_stem: dict[Path, tuple[bool, int, Path]] = {}
    for name in names:
        stem = name.with_suffix("")
        is_resampled = stem not in other_stems and (name in originals or name.name.endswith(f"_{audio_hz}.wav"))
        if is_resampled:
            stem = originals.get(name) or stem.with_name(stem.name.removesuffix(f"_{audio_hz}"))
        candidate = (is_resampled == prefer_originals, AUDIO_SUFFIXES.index(name.suffix.lower()), name)
        by_stem[stem] = min(candidate, by_stem.get(stem, candidate))
    return {stem: name for stem, (_, _, name) in by_stem.items()}


def _lies_in(path: Path, folder: Path) -> bool:
    return path.resolve().is_relative_to(folder.resolve())


def _match_stems(audio: Iterable[Path], midi: Iterable[Path]) -> dict[Path, Path]:
    """The stem of the MIDI file for the stem of each audio file that has one."""
    audio, midi = set(audio), set(midi)
    matches = {stem: stem for stem in audio & midi}
    counts = [Counter(stem.name for stem in stems) for stems in (audio, midi)]
    by_name = {stem.name: stem for stem in midi}
    for stem in audio:
        if all(count[stem.name] == 1 for count in counts):
            matches[stem] = by_name[stem.name]
    return matches
