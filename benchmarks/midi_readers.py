"""The project's MIDI reader beside pretty_midi's, on all MIDI files of some folders: the table of docs/midi.md.

    python -m benchmarks.midi_readers ../shared/data                    # the table, and every file that differs
    python -m benchmarks.midi_readers ../shared/data --page docs/midi.md     # the table also between the page's marks

Both give a `Performance`, so that what is compared is one piano: `read_midi(path)` and
`Performance.from_pretty_midi(PrettyMIDI(path))`. Each file counts under the first of the KINDS that its bytes and its
performance have, or under the name of its folder if it has none.
"""

import argparse
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from benchmarks.markdown import insert_lines
from midi2wave.midi.performance import Performance
from midi2wave.midi.reader import MIDI_SUFFIXES, read_midi
from midi2wave.utils.cli import log, make_plain_parser, progress, run
from midi2wave.utils.errors import InputError
from midi2wave.utils.file_search import walk_folder

# Onsets and offsets that are further apart count as different.
TOLERANCE_SECONDS = 1e-3
BEGIN = "<!-- benchmarks.midi_readers: begin -->"
END = "<!-- benchmarks.midi_readers: end -->"
# Pairs of numbers are ours / pretty_midi's.
HEADER = "| files | number | read | notes | which the other lacks | other offsets, velocities, pedal events | right |"
EQUAL = "both"


@dataclass(frozen=True)
class MidiFile:
    """A file as both readers see it.

    Attributes:
        path: The file.
        data: Its bytes.
        ours: What the project reads, or why it does not.
        peer: What pretty_midi reads, or why it does not.
        warned: Whether pretty_midi warns of tempo changes on later tracks.
    """

    path: Path
    data: bytes
    ours: Performance | str
    peer: Performance | str
    warned: bool

    def header(self, start: int, size: int = 2) -> int:
        """A number of the MIDI header, -1 without one."""
        position = self.data.find(b"MThd")
        return int.from_bytes(self.data[position + start : position + start + size], "big") if position >= 0 else -1

    def has(self, omission: str) -> bool:
        """Whether the project's reader has left out or repaired something of this description."""
        return isinstance(self.ours, Performance) and any(omission in line for line in self.ours.dropped)


@dataclass(frozen=True)
class Kind:
    """A kind of file: how it is recognised, and which reader is right about it, and why."""

    name: str
    applies: Callable[[MidiFile], bool]
    right: str


def _has_empty_notes(file: MidiFile) -> bool:
    return isinstance(file.ours, Performance) and bool(np.any(file.ours.offset == file.ours.onset))


KINDS = (
    Kind("text, such as a git-lfs pointer", lambda file: b"MThd" not in file.data[:4096], "both refuse"),
    Kind("no piano notes", lambda file: isinstance(file.ours, str) and "no piano notes" in file.ours, "both refuse"),
    Kind("no usable time base, or no track", lambda file: isinstance(file.ours, str), "both refuse"),
    Kind("in a RIFF wrapper", lambda file: file.data.startswith(b"RIFF"), "ours: the file inside is whole"),
    Kind("SMPTE time", lambda file: file.header(12) >= 0x8000, "ours: pretty_midi takes frames for beats, and refuses"),
    Kind("broken off or damaged", lambda file: file.has("broken off"), "ours: what precedes the damage is kept"),
    Kind(
        "wrong lengths of chunks or meta events, wrong number of tracks",
        lambda file: file.has("promised by the header") or isinstance(file.peer, str),
        "ours: the events are whole",
    ),
    Kind(
        "type 2",
        lambda file: file.header(8) == 2,
        "ours: its tracks are independent (RP-001), pretty_midi plays them at once",
    ),
    Kind(
        "tempo changes on a track other than the first",
        lambda file: file.warned,
        "ours: pretty_midi uses those of the first track only",
    ),
    Kind(
        "keys released in the tick of their press",
        _has_empty_notes,
        "ours: these notes sound (with the pedal, for long), pretty_midi drops them",
    ),
    Kind(
        "keys struck by several tracks or channels",
        lambda file: file.has("merged") or file.has("cut where"),
        EQUAL,
    ),
)


@dataclass
class Difference:
    """How the readers differ: in one file, or summed over files of a kind."""

    files: int = 0
    read: list[int] = field(default_factory=lambda: [0, 0])
    notes: list[int] = field(default_factory=lambda: [0, 0])
    unmatched: list[int] = field(default_factory=lambda: [0, 0])  # notes that the other reader does not have
    offsets: int = 0
    velocities: int = 0
    pedals: int = 0

    def add(self, other: "Difference") -> None:
        """Add the numbers of further files."""
        self.files += other.files
        for mine, more in ((self.read, other.read), (self.notes, other.notes), (self.unmatched, other.unmatched)):
            mine[:] = [a + b for a, b in zip(mine, more, strict=True)]
        self.offsets += other.offsets
        self.velocities += other.velocities
        self.pedals += other.pedals

    def is_none(self) -> bool:
        """Whether both read the same, or neither reads anything."""
        return self.read[0] == self.read[1] and not any((*self.unmatched, self.offsets, self.velocities, self.pedals))

    def row(self, kind: str, right: str) -> str:
        """The row of the table."""
        cells = [kind, str(self.files), *(f"{a} / {b}" for a, b in (self.read, self.notes, self.unmatched))]
        return "| " + " | ".join([*cells, f"{self.offsets}, {self.velocities}, {self.pedals}", right]) + " |"


def read_both(path: Path) -> MidiFile:
    """Read a file with both readers."""
    import pretty_midi

    ours: Performance | str
    peer: Performance | str
    try:
        ours = read_midi(path)
    except InputError as error:
        ours = str(error)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            peer = Performance.from_pretty_midi(pretty_midi.PrettyMIDI(str(path)))
        except Exception as error:  # mido and pretty_midi raise whatever their code meets.
            peer = f"{type(error).__name__} {error}".strip()
    warned = any("non-zero tracks" in str(warning.message) for warning in caught)
    return MidiFile(path, path.read_bytes(), ours, peer, warned)


def compare(file: MidiFile) -> Difference:
    """How the two performances of a file differ."""
    ours, peer = file.ours, file.peer
    performances = [piece if isinstance(piece, Performance) else None for piece in (ours, peer)]
    difference = Difference(1, [int(piece is not None) for piece in performances])
    difference.notes = [len(piece.onset) if piece else 0 for piece in performances]
    if isinstance(ours, str) or isinstance(peer, str):
        return difference
    index, is_match = match_notes(ours, peer)
    matched = index[is_match]
    difference.unmatched = [int((~is_match).sum()), len(peer.onset) - len(np.unique(matched))]
    apart = np.abs(ours.offset[is_match] - peer.offset[matched])
    difference.offsets = int((apart > TOLERANCE_SECONDS).sum())
    difference.velocities = int((ours.velocity[is_match] != peer.velocity[matched]).sum())
    difference.pedals = sum(_pedal_difference(ours.pedals[pedal], peer.pedals[pedal]) for pedal in ours.pedals)
    return difference


def match_notes(ours: Performance, peer: Performance) -> tuple[np.ndarray, np.ndarray]:
    """For each of our notes the nearest of peer on the same key, int [N], and whether it is near enough, bool [N]."""
    index = np.zeros(len(ours.onset), np.int64)
    is_match = np.zeros(len(ours.onset), bool)
    for pitch in np.unique(ours.pitch):
        mine = np.flatnonzero(ours.pitch == pitch)
        other = np.flatnonzero(peer.pitch == pitch)
        if not len(other):
            continue
        edges = (peer.onset[other][1:] + peer.onset[other][:-1]) / 2
        index[mine] = other[np.searchsorted(edges, ours.onset[mine])]
        is_match[mine] = np.abs(peer.onset[index[mine]] - ours.onset[mine]) <= TOLERANCE_SECONDS
    return index, is_match


def _pedal_difference(ours: np.ndarray, peer: np.ndarray) -> int:
    """Events [K, 2] of one pedal that are missing, or at another time, or of another value."""
    if len(ours) != len(peer):
        return abs(len(ours) - len(peer))
    differs = (np.abs(ours[:, 0] - peer[:, 0]) > TOLERANCE_SECONDS) | (ours[:, 1] != peer[:, 1])
    return int(differs.sum())


def kind_of(file: MidiFile, folder: Path) -> Kind:
    """The first of KINDS that applies, or the name of the file's folder below `folder`."""
    for kind in KINDS:
        if kind.applies(file):
            return kind
    parts = file.path.relative_to(folder).parts
    return Kind(f"ordinary, {parts[0] if len(parts) > 1 else folder.name}", lambda _: True, EQUAL)


def table(rows: dict[str, tuple[Kind, Difference]]) -> list[str]:
    """The lines of the Markdown table, ordinary files first."""
    lines = [HEADER, "|---" * (HEADER.count("|") - 1) + "|"]
    ordered = sorted(rows.values(), key=lambda row: (row[0] in KINDS, KINDS.index(row[0]) if row[0] in KINDS else 0))
    return lines + [difference.row(kind.name, kind.right) for kind, difference in ordered]


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark; returns the exit code."""
    parser = make_plain_parser(__doc__)
    parser.add_argument("folders", nargs="+", type=Path, help="folders with MIDI files")
    parser.add_argument("--page", type=Path, help="a Markdown page, between whose marks the table is written")
    args = parser.parse_args(argv)
    paths = _midi_paths(args)
    rows: dict[str, tuple[Kind, Difference]] = {}
    for folder, path in progress(iter(paths), len(paths), "file"):
        file = read_both(path)
        kind, difference = kind_of(file, folder), compare(file)
        rows.setdefault(kind.name, (kind, Difference()))[1].add(difference)
        if not difference.is_none():
            reason = f" pretty_midi: {file.peer}" if isinstance(file.peer, str) else ""
            log(f"{path}: {difference.row(kind.name, kind.right)}{reason}")
    print("\n".join(table(rows)))
    if args.page:
        insert_lines(args.page, table(rows), BEGIN, END)
    return 0


def _midi_paths(args: argparse.Namespace) -> list[tuple[Path, Path]]:
    """The MIDI files of the folders, each with its folder."""
    paths = []
    for folder in args.folders:
        if not folder.is_dir():
            raise InputError(f"{folder}: no such folder; give folders with MIDI files")
        paths += [(folder, folder / name) for name in walk_folder(folder).select(MIDI_SUFFIXES)]
    if not paths:
        raise InputError(f"no MIDI files ({', '.join(MIDI_SUFFIXES)}) in {', '.join(map(str, args.folders))}")
    return paths


if __name__ == "__main__":
    run(main)
