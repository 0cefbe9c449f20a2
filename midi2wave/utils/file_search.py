"""All files below a folder, through symbolic links to folders, and what of them cannot be opened."""

import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from midi2wave.utils.cli import Failure, count_of, format_error, log
from midi2wave.utils.text import join_names

# File systems keep these in their topmost folder; users may not open them.
SYSTEM_FOLDERS = ("lost+found", "System Volume Information", "$RECYCLE.BIN")


class UnreadFiles(NamedTuple):
    """Files that are recognised and not read."""

    suffixes: tuple[str, ...]
    kind: str  # in words, as in "audio that libsndfile does not read"
    remedy: str  # what the user can do


@dataclass
class FileTree:
    """The files below a folder.

    Attributes:
        folder: The folder.
        paths: All files but hidden ones, relative to `folder`, sorted.
        failures: Folders that cannot be opened, and links to what is not there, which may have been folders.
        unusable: Links to what is not there, and pipes, relative to `folder`, each with the reason.
    """

    folder: Path
    paths: list[Path] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    unusable: dict[Path, str] = field(default_factory=dict)

    def select(self, suffixes: tuple[str, ...]) -> list[Path]:
        """The files whose names end in one of these, in small or capital letters."""
        return [path for path in self.paths if path.suffix.lower() in suffixes]

    def log_left_out(self, unread: UnreadFiles) -> list[Path]:
        """Count and name the files of a kind that is not read, in one line; returns them."""
        if paths := self.select(unread.suffixes):
            counts = sorted(Counter(path.suffix.lower() for path in paths).items())
            kinds = ", ".join(f"{count} {suffix}" for suffix, count in counts)
            names = join_names(path.as_posix() for path in paths)
            log(f"left out: {count_of(len(paths), 'file')} of {unread.kind} ({kinds}): {names}; {unread.remedy}")
        return paths

    def failures_of(self, suffixes: tuple[str, ...]) -> list[Failure]:
        """The folders that cannot be opened, and what has one of these suffixes and is no file."""
        unusable = (item for item in sorted(self.unusable.items()) if item[0].suffix.lower() in suffixes)
        return [*self.failures, *(Failure(path.as_posix(), reason) for path, reason in unusable)]


def walk_folder(folder: Path) -> FileTree:
    """List the files below a folder.

    Symbolic links to folders are followed after all others. Each folder is entered once: a link to one that has been
    entered, or to one that holds the link itself, leads to nothing new.

    Args:
        folder: The folder.
    """
    tree = FileTree(folder)
    entered: set[tuple[int, int]] = set()
    folders = [folder]
    links: list[Path] = []
    while folders or links:
        current = folders.pop() if folders else links.pop(0)
        try:
            stat = current.stat()
            if (stat.st_dev, stat.st_ino) in entered or _holds_itself(current, folder):
                continue
            entered.add((stat.st_dev, stat.st_ino))
            with os.scandir(current) as entries:
                by_name = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            tree.failures.append(Failure(current.relative_to(folder).as_posix(), format_error(error)))
            continue
        for entry in by_name:
            try:
                _add_entry(entry, tree, folders, links)
            except OSError as error:  # A link to itself, or to where the user may not look.
                tree.unusable[Path(entry.path).relative_to(folder)] = format_error(error)
    tree.paths.sort()
    return tree


def _holds_itself(link: Path, folder: Path) -> bool:
    """Whether a link below `folder` leads to a folder that holds the link or `folder`."""
    if link == folder or not link.is_symlink():
        return False
    target = Path(os.path.realpath(link))
    places = (Path(os.path.realpath(link.parent)), Path(os.path.realpath(folder)))
    return any(target in (place, *place.parents) for place in places)


def _add_entry(entry: os.DirEntry[str], tree: FileTree, folders: list[Path], links: list[Path]) -> None:
    """Add one entry of a folder to the tree, or to the folders and links that are still to be entered."""
    path = Path(entry.path)
    if entry.is_dir():
        if entry.is_symlink():
            links.append(path)
        elif entry.name not in SYSTEM_FOLDERS:
            folders.append(path)
        return
    # Hidden files are partly written ones, or the resource forks that macOS puts beside real files.
    if entry.name.startswith("."):
        return
    name = path.relative_to(tree.folder)
    if entry.is_file():
        tree.paths.append(name)
    elif not entry.is_symlink():
        tree.unusable[name] = "is no file, but a pipe or a device; leave it out"
    elif path.suffix:
        tree.unusable[name] = _dead_link(path)
    else:  # Perhaps to a folder of another disk.
        tree.failures.append(Failure(name.as_posix(), _dead_link(path)))


def _dead_link(path: Path) -> str:
    return f"is a link to {os.readlink(path)}, which is not there; connect that disk, or remove the link"


def expand_folders(
    paths: list[Path], suffixes: tuple[str, ...], unread: UnreadFiles
) -> tuple[list[Path], list[Failure]]:
    """Replace the folders among some paths by the files below them.

    Args:
        paths: Files and folders.
        suffixes: The suffixes of the files that are taken of a folder.
        unread: What else is counted and named.

    Returns:
        The files, and what of the folders cannot be opened; a folder without such files.
    """
    files: list[Path] = []
    failures: list[Failure] = []
    for path in paths:
        if not os.path.isdir(path):
            files.append(path)
            continue
        tree = walk_folder(path)
        tree.log_left_out(unread)
        names, in_folder = tree.select(suffixes), tree.failures_of(suffixes)
        files += [path / name for name in names]
        failures += [Failure(str(path / failure.item), failure.reason) for failure in in_folder]
        if not names and not in_folder:
            failures.append(Failure(str(path), f"holds no files that end in {' '.join(suffixes)}"))
    return files, failures
