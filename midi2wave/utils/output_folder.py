"""Output folders that are never overwritten by mistake.

A command writes a record into its output folder: all settings that the results depend on. The same settings resume,
others are refused without --force, and a folder with files of other origin is always refused.

`acquire_output_dir` is for folders whose results belong together, as a data set: --force replaces all of them.
`OutputFolder` is for folders with results of single pieces. Its record also lists the files of each piece, so that
--force removes only files of pieces that are made again, and never a file of the user.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from midi2wave.utils.atomic_files import write_text
from midi2wave.utils.errors import InputError

Record = dict[str, Any]
Migrate = Callable[[Record], Record]

# The key of a record under which the files of each piece are listed; it is no setting.
PRODUCTS_KEY = "products"


@dataclass(frozen=True)
class Product:
    """The files of one piece.

    Attributes:
        files: Their names in the folder, the result itself first; some may be missing.
        made_from: Checksums of what it was made from, besides the settings, by kind ("notes"); "" for a damaged file.
        other_settings: Whether it was made with other settings than those of the record, and stayed after --force.
    """

    files: tuple[str, ...]
    made_from: Mapping[str, str] = field(default_factory=dict)
    other_settings: bool = False


class OutputFolder:
    """A folder with results of single pieces, opened for one call of the command that makes them.

    Attributes:
        path: The folder.
        products: The files of every piece in it, by the name of the piece, in the order in which they were first made.
    """

    def __init__(
        self,
        path: Path,
        record_name: str,
        record: Record,
        *,
        force: bool,
        force_effect: str = "makes the pieces of this call again and removes nothing else",
        shared: tuple[str, ...] = (),
        migrate: Migrate | None = None,
        former: Callable[[Path, Record], dict[str, Product]] = lambda _path, _record: {},
    ) -> None:
        """Open a folder; changes nothing.

        Args:
            path: The folder; it need not exist.
            record_name: The file that holds the record.
            record: All that the results depend on, besides each piece's own sources.
            force: Whether results of this call's pieces may be replaced.
            force_effect: What --force does, in words.
            shared: Files about all pieces.
            migrate: Translates a record that an earlier version wrote into today's names.
            former: The files of each piece in a folder of an earlier version, whose record does not list them.

        Raises:
            InputError: The folder holds files of other origin, or without `force` results of other settings.
        """
        require_own_dir(path, record_name)
        self.path = path
        self._record_path = path / record_name
        self._record = record
        self._force = force
        self._force_effect = force_effect
        self._shared = shared
        stored = _read_record(self._record_path)
        self._is_new = not self._record_path.is_file()
        listed = None if stored is None else _listed_products(stored)
        self._lists_all = self._is_new or listed is not None
        self.products = former(path, stored or {}) if not self._lists_all else (listed or {})
        self._has_other_settings = not self._is_new and not _is_same(stored, record, migrate)
        if self._has_other_settings:
            self._leave_as_others()

    def _leave_as_others(self) -> None:
        """Mark what is there as made with other settings. Raises InputError without --force."""
        self.products = {
            name: replace(product, other_settings=True)
            for name, product in self.products.items()
            if self._existing(product.files)
        }
        if not self._force and (self.products or self._existing(self._shared)):
            raise InputError(
                f"{self.path} holds results of another config ({self._record_path}); choose another folder, or use "
                f"--force, which {self._force_effect}"
            )

    def _existing(self, files: Iterable[str]) -> list[str]:
        return [file for file in files if (self.path / file).exists()]

    def begin(self, products: Mapping[str, Product]) -> dict[str, str]:
        """Enter pieces that are to be made into the record; what was made of them stays if it is up to date.

        Otherwise it is removed, so that it is never taken for the new result.

        Args:
            products: The pieces.

        Returns:
            Of the pieces that must not be made, the reasons.

        Raises:
            OSError: The folder cannot be written to.
        """
        refused = {name: reason for name, product in products.items() if (reason := self._obstacle(name, product))}
        outdated = list(self._shared) if self._force or self._has_other_settings else []
        for name in products.keys() - refused.keys():
            if (there := self.products.get(name)) and self._is_outdated(there, products[name]):
                outdated += there.files
        for file in outdated:
            (self.path / file).unlink(missing_ok=True)
        for name, product in products.items():
            if name not in refused:
                there = self.products.get(name, product)
                keeps = () if self._is_outdated(there, product) else there.files
                files = dict.fromkeys((*product.files, *keeps))
                self.products[name] = replace(product, files=tuple(files))
        self._write_record()
        self._lists_all = True
        return refused

    def _is_outdated(self, there: Product, product: Product) -> bool:
        return self._force or there.other_settings or bool(_changed_sources(there, product))

    def _obstacle(self, name: str, product: Product) -> str:
        """Why a piece must not be made: it would take the place of another result, or of a file of the user."""
        there = self.products.get(name, Product(()))
        foreign = self._existing(file for file in product.files if file not in there.files)
        if foreign and self._lists_all:
            file = self.path / foreign[0]
            return f"{file} is there and this command did not make it; rename it, or choose another folder"
        # Without its first file it is not finished, and nothing is lost.
        if self._force or not there.files or not self._existing(there.files[:1]):
            return ""
        remedy = f"choose another folder, or use --force, which {self._force_effect}"
        holds = f"{self.path} holds {there.files[0]} of"
        if there.other_settings:
            return f"{holds} other settings; {remedy}"
        changed = _changed_sources(there, product)
        if damaged := [kind for kind in changed if not there.made_from.get(kind)]:
            return f"{holds} unknown {damaged[0]}: the file of its {damaged[0]} beside it is damaged; {remedy}"
        return f"{holds} other {' and '.join(changed)}; {remedy}" if changed else ""

    def remove_outdated(self) -> None:
        """Remove all pieces if they are of other settings, or with `force`: a set is made again as a whole."""
        self.remove(list(self.products) if self._force or self._has_other_settings else [])

    def remove(self, names: Iterable[str]) -> None:
        """Remove the files of pieces, and take them out of the record."""
        for name in names:
            for file in self.products.pop(name).files:
                (self.path / file).unlink(missing_ok=True)
        self._write_record()

    def _write_record(self) -> None:
        """Write the record, unless it is there already."""
        listed = [
            {"name": name, **{key: value for key, value in asdict(product).items() if value}}
            for name, product in self.products.items()
        ]
        text = _record_text({**self._record, PRODUCTS_KEY: listed})
        if not self._record_path.is_file() or self._record_path.read_bytes() != text.encode():
            write_text(self._record_path, text)


def _changed_sources(there: Product, product: Product) -> list[str]:
    """The kinds of sources in which a result differs from what is to be made, as far as both name them."""
    if there.made_from and product.made_from and there.made_from.keys().isdisjoint(product.made_from):
        return sorted(there.made_from)
    kinds = there.made_from.keys() & product.made_from.keys()
    return sorted(kind for kind in kinds if there.made_from[kind] != product.made_from[kind])


def _listed_products(stored: Record) -> dict[str, Product] | None:
    """The files of each piece that a record lists; None if it does not list any, or cannot be trusted."""
    try:
        products = {
            str(entry["name"]): Product(
                tuple(map(_own_file, entry["files"])),
                dict(entry.get("made_from", {})),
                entry.get("other_settings", False),
            )
            for entry in stored[PRODUCTS_KEY]
        }
    except (KeyError, TypeError, ValueError, AttributeError):
        return None
    return products


def _own_file(name: str) -> str:
    """The name of a file in a folder. Raises ValueError for one that leads out of it, which --force must not remove."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(f"{name} is not in the folder")
    return name


def require_own_dir(folder: Path, record_name: str) -> None:
    """Check that a folder is absent or empty, or was made by this command.

    Args:
        folder: The folder.
        record_name: The file that this command writes first.

    Raises:
        InputError: It is a file, or it holds files but no record.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file, expected a folder")
    # Listed before the record is looked for: another process that acquires the folder now writes the record first.
    has_files = folder.is_dir() and any(not p.name.startswith(".") for p in folder.iterdir())
    if has_files and not (folder / record_name).is_file():
        raise InputError(
            f"{folder} exists and is not empty, and this command did not make it (no {record_name}); "
            "choose another folder"
        )


def require_own_record(path: Path, member: str) -> None:
    """Raise InputError if a record is JSON without a member that every record of this command has.

    Other programs have files of such names, too. Of a damaged file nobody knows.
    """
    try:
        stored = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError, RecursionError):
        return
    if not isinstance(stored, dict) or member not in stored:
        raise InputError(f"{path} is a file of another program; choose another folder")


def check_output_dir(
    folder: Path, record_name: str, record: Record, products: str, *, force: bool, force_effect: str
) -> list[Path]:
    """Check that `acquire_output_dir` will accept a folder; changes nothing.

    Args:
        folder: The folder.
        record_name: The file that holds the record.
        record: All that the products depend on (the resolved config).
        products: A regular expression for the names of the files that are made from it, relative to the folder.
        force: Whether products may be removed.
        force_effect: What --force does, in words.

    Returns:
        The products that must be removed first.

    Raises:
        InputError: The folder holds files of others, or products of another record.
    """
    require_own_dir(folder, record_name)
    path = folder / record_name
    if not path.is_file() or (not force and _is_same(_read_record(path), record)):
        return []
    names = [file.relative_to(folder) for file in sorted(folder.rglob("*")) if not file.is_dir()]
    outdated = [folder / name for name in names if re.fullmatch(products, name.as_posix())]
    if outdated and not force:
        raise InputError(
            f"{folder} holds results of another config ({path}); choose another folder, or use --force, which "
            f"{force_effect}"
        )
    return outdated


def acquire_output_dir(
    folder: str | Path, record_name: str, record: Record, products: str, *, force: bool, force_effect: str
) -> None:
    """Make a folder the place of products that belong together and depend on `record`, or refuse.

    Work on a folder with the same record resumes: what is finished stays. A folder whose record is another one is
    accepted only if nothing was made from that, or with `force`; then its products are removed, so that a rerun never
    takes an old product for a finished one. A folder with files of others is always refused: `force` removes nothing
    but what the same command made before.

    Args:
        folder: The folder; made if need be.
        record_name: The file that holds the record.
        record: All that the products depend on (the resolved config).
        products: A regular expression for the names of the files that are made from it, relative to the folder.
        force: Whether products are removed.
        force_effect: What --force does, in words.

    Raises:
        InputError: The folder is refused.
        OSError: It cannot be written to.
    """
    folder = Path(folder)
    outdated = check_output_dir(folder, record_name, record, products, force=force, force_effect=force_effect)
    path = folder / record_name
    text = _record_text(record)
    if not force and path.is_file() and path.read_bytes() == text.encode():
        return
    for file in outdated:
        file.unlink()
    write_text(path, text)


def _read_record(path: Path) -> Record | None:
    """The record in a file; None if there is none, or it is damaged."""
    try:
        stored = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError, RecursionError):
        return None
    return stored if isinstance(stored, dict) else None


def _is_same(stored: Record | None, record: Record, migrate: Migrate | None = None) -> bool:
    """Whether a stored record has the same settings, be it in the names of an earlier version."""
    if stored is None:
        return False
    settings = {key: value for key, value in stored.items() if key != PRODUCTS_KEY}
    text = _record_text(record)
    return _record_text(settings) == text or (migrate is not None and _record_text(migrate(settings)) == text)


def _record_text(record: Record) -> str:
    return json.dumps(record, indent=2, sort_keys=True) + "\n"
