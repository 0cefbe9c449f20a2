"""The MAESTRO dataset's metadata, versions 1 to 3, as one list of recordings (Hawthorne et al., arXiv:1810.12247).

The CSV is the same in every version. The JSON is a list of rows in versions 1 and 2 and an object of columns in 3.
"""

import csv
import io
import itertools
import json
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, Literal, get_args

from midi2wave.utils.errors import InputError
from midi2wave.utils.file_names import MAX_NAME_BYTES, fit_name
from midi2wave.utils.text import excerpt, join_names

# Bytes of a path inside the folder, which leaves room for the folder's own path.
MAX_PATH_BYTES = 2000
Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
COLUMNS = ("canonical_composer", "canonical_title", "split", "year", "midi_filename", "audio_filename", "duration")


@dataclass(frozen=True)
class Recording:
    """One performance. `index` is its row in the metadata (from 0), whichever split is selected."""

    index: int
    composer: str
    title: str
    split: str
    year: int
    midi_filename: str
    audio_filename: str
    duration: float  # seconds


def find_metadata(maestro_dir: str | Path) -> Path | None:
    """The metadata file of a folder, CSV before JSON; None if there is none.

    Raises:
        InputError: There is no such folder, or it holds several versions.
    """
    folder = Path(maestro_dir)
    if not folder.is_dir():
        relative_to = "" if folder.is_absolute() else f" (seen from {Path.cwd()})"
        problem = "a file, expected a folder" if folder.exists() else "no such folder"
        raise InputError(f"{folder}: {problem}{relative_to}")
    paths = sorted(path for suffix in ("csv", "json") for path in folder.glob(f"maestro-v*.{suffix}"))
    if len({path.stem for path in paths}) > 1:
        names = ", ".join(path.name for path in paths)
        raise InputError(f"{folder} holds several versions of the metadata ({names}); keep the one of this audio")
    return paths[0] if paths else None  # Of two, the CSV is sorted before the JSON.


def _folders_with_metadata(folder: Path) -> list[Path]:
    """The folders one and two levels below a folder that hold metadata."""
    files = itertools.chain(folder.glob("*/maestro-v*"), folder.glob("*/*/maestro-v*"))
    return sorted({file.parent for file in files if file.suffix in (".csv", ".json")})


def metadata_hint(folder: Path) -> str:
    """Where metadata lie near a folder that has none, as the end of a message; "" if nowhere."""
    near = _folders_with_metadata(folder)
    if not near and find_metadata(folder.resolve().parent):
        near = [folder.resolve().parent]
    return f"; they are in {join_names(near)}: name that folder instead" if near else ""


def require_no_nested_metadata(folder: Path) -> None:
    """Refuse a folder that is to be taken for one without metadata, but holds a data set with metadata.

    Raises:
        InputError: A folder below holds metadata, as after unpacking an archive into a folder of its own.
    """
    if near := _folders_with_metadata(folder):
        raise InputError(
            f"{folder} has no maestro-v*.csv or .json; they are in {join_names(near)}: name that folder instead"
        )


def read_metadata(maestro_dir: str | Path) -> list[Recording]:
    """All recordings that the metadata of a folder list, in their order.

    Raises:
        InputError: The folder is missing or empty, there are no metadata or several, the CSV or JSON is broken, a
            column is missing, or a value is impossible (the error names its row).
    """
    path = find_metadata(maestro_dir)
    if path is None:
        problem = "the folder is empty" if not any(Path(maestro_dir).iterdir()) else "no such file there"
        hint = metadata_hint(Path(maestro_dir))
        raise InputError(f"{maestro_dir}: looked for maestro-v*.csv and maestro-v*.json, {problem}{hint}")
    try:
        text = path.read_text(encoding="utf-8-sig")  # Excel writes a byte order mark.
        _check_text(text)
        rows = _csv_rows(text) if path.suffix == ".csv" else _json_rows(json.loads(text))
    except (ValueError, RecursionError, csv.Error, InputError) as error:
        raise InputError(f"{path} is broken: {error}; download it again") from error
    if not rows:
        raise InputError(f"{path} lists no recordings; download it again")
    for row in rows:
        _replace_backslashes(Path(maestro_dir), row)
    return [_recording(path, index, row) for index, row in enumerate(rows)]


def _check_text(text: str) -> None:
    """Raise InputError for what is downloaded in the place of a file, or left of it by a crash."""
    beginning = text.lstrip()[:200].lower()
    if beginning.startswith(("<!doctype", "<html", "<?xml")):
        raise InputError("it is a web page, perhaps with an error message, not the file itself")
    if beginning.startswith("version https://git-lfs"):
        raise InputError("it is a git-lfs pointer (run `git lfs pull`)")
    if "\0" in text:
        raise InputError(f"it has {text.count(chr(0))} zero bytes among its {len(text)} characters")


def _replace_backslashes(folder: Path, row: dict[str, Any]) -> None:
    """Write the file names of a row with slashes where it has those of Windows, and no file has that name."""
    for column in ("midi_filename", "audio_filename"):
        name = row.get(column)
        if isinstance(name, str) and "\\" in name and "\0" not in name and not os.path.exists(folder / name):
            row[column] = name.replace("\\", "/")


def select_split(recordings: list[Recording], split: str) -> list[Recording]:
    """The recordings of one split, or all of them for "all".

    Raises:
        InputError: There is no split of that name.
    """
    if split == "all":
        return list(recordings)
    if split not in SPLITS:
        raise InputError(f"unknown split {split!r}; expected one of {', '.join(SPLITS)}, all")
    return [recording for recording in recordings if recording.split == split]


def resampled_name(audio_filename: str, audio_hz: int) -> str:
    """The path of the resampled audio of a file: "2008/x.flac" at 16000 Hz -> "2008/x_16000.wav".

    Raises:
        InputError: It is no file name.
    """
    path = PurePosixPath(audio_filename)
    if not path.name:
        raise InputError(f"{audio_filename!r} in the metadata does not name a file")
    return str(path.with_name(fit_name(path.stem, f"_{audio_hz}.wav")))


def inside(maestro_dir: str | Path, filename: str) -> Path:
    """The path of a file that the metadata name.

    Only the name is checked: the folders of the years may be links to another disk. A name that begins with a letter
    and a colon is one of a drive on Windows only.

    Raises:
        InputError: The name leads out of the folder, or no file can have it.
    """
    posix, windows = PurePosixPath(filename), PureWindowsPath(filename)
    has_drive = windows.anchor if os.name == "nt" else windows.root
    escapes = posix.is_absolute() or has_drive or ".." in windows.parts
    if escapes or not posix.name or "\0" in filename or not _is_possible_path(posix):
        raise InputError(f"{excerpt(filename)} in the metadata does not name a file inside {maestro_dir}")
    return Path(maestro_dir) / posix


def _is_possible_path(path: PurePosixPath) -> bool:
    try:
        names_fit = all(len(os.fsencode(part)) <= MAX_NAME_BYTES for part in path.parts)
        return names_fit and len(os.fsencode(path)) <= MAX_PATH_BYTES
    except UnicodeEncodeError:
        return False


def _is_text(text: str) -> bool:
    """Whether it can be written to a file: JSON can contain halves of characters, which have no encoding."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _csv_rows(text: str) -> list[dict[str, Any]]:
    header = text.partition("\n")[0].split(",")
    # Some programs write a space after each comma, which then belongs to the names of the columns.
    spaced = any(name[:1] == " " and name.strip().strip('"') in COLUMNS for name in header)
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True, skipinitialspace=spaced)
    _require_columns(reader.fieldnames or ())
    rows = []
    for row in reader:
        if None in row or None in row.values():  # DictReader marks too many and too few fields.
            raise InputError(f"line {reader.line_num} does not have {len(reader.fieldnames or ())} fields")
        rows.append(row)
    return rows


def _json_rows(data: Any) -> list[dict[str, Any]]:
    """Rows from either JSON form: [{column: value}] or {column: {"0": value, "1": value}}."""
    if isinstance(data, dict):
        return _rows_of_columns(data)
    if not isinstance(data, list):
        raise InputError("expected a list of rows or an object of columns")
    if not all(isinstance(row, dict) for row in data):
        raise InputError("expected a list of objects, one per recording")
    for row in data:
        _require_columns(row)
    return data


def _rows_of_columns(data: dict[str, Any]) -> list[dict[str, Any]]:
    _require_columns(data)
    columns = {name: data[name] for name in COLUMNS}
    row_numbers = columns[COLUMNS[0]].keys() if isinstance(columns[COLUMNS[0]], dict) else None
    for name, column in columns.items():
        valid = isinstance(column, dict) and column.keys() == row_numbers
        if not valid or not all(number.isdecimal() for number in column):
            raise InputError(f"column {name} is not an object of row numbers, the same as in {COLUMNS[0]}")
    return [{name: columns[name][number] for name in COLUMNS} for number in sorted(row_numbers or (), key=int)]


def _require_columns(columns: Iterable[str]) -> None:
    missing = [name for name in COLUMNS if name not in columns]
    if missing:
        names = list(map(str, columns))
        listed = join_names(map(excerpt, names), 2 * len(COLUMNS)) or "none"
        separator = next((mark for mark in (";", "\t") if len(names) == 1 and mark in names[0]), "")
        remedy = f"; its columns are separated by {separator!r}, save it with commas" if separator else ""
        raise InputError(f"missing columns {', '.join(missing)} (found: {listed}){remedy}")


def _recording(path: Path, index: int, row: Mapping[str, Any]) -> Recording:
    """A row of the metadata as a recording. Raises InputError for an impossible value."""

    def value_error(column: str, expected: str) -> InputError:
        return InputError(f"{path}, recording {index}: {column} is {excerpt(row[column])}, expected {expected}")

    for column in ("canonical_composer", "canonical_title", "midi_filename", "audio_filename"):
        if not isinstance(row[column], str) or not _is_text(row[column]):
            raise value_error(column, "text")
        if column.endswith("filename") and not row[column].strip():
            raise value_error(column, "a file name")
    if row["split"] not in SPLITS:
        raise value_error("split", f"one of {', '.join(SPLITS)}")
    try:
        year = int(row["year"])
    except (TypeError, ValueError, OverflowError):
        raise value_error("year", "a whole number") from None
    try:
        duration = float(row["duration"])
    except (TypeError, ValueError, OverflowError):
        duration = math.nan
    if not 0 < duration < math.inf:
        raise value_error("duration", "seconds above 0")
    return Recording(
        index=index,
        composer=row["canonical_composer"],
        title=row["canonical_title"],
        split=row["split"],
        year=year,
        midi_filename=row["midi_filename"],
        audio_filename=row["audio_filename"],
        duration=duration,
    )
