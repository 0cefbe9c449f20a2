"""The MAESTRO dataset's metadata, versions 1 to 3, as one list of recordings (Hawthorne et al., arXiv:1810.12247).

The CSV is the same in every version. The JSON is a list of rows in versions 1 and 2 and an object of columns in 3.
"""

import csv
import io
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from midi2wave.utils.errors import InputError

LONGEST_NAME, LONGEST_PATH = 255, 2000  # bytes; of common file systems, and with room for the folder in front
SPLITS = ("train", "validation", "test")
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
    """The metadata file of a folder, CSV before JSON, or None. InputError: no folder, or several versions in it."""
    folder = Path(maestro_dir)
    if not folder.is_dir():
        here = "" if folder.is_absolute() else f" (seen from {Path.cwd()})"
        raise InputError(f"{folder}: {'a file, expected a folder' if folder.exists() else 'no such folder'}{here}")
    found = sorted(path for suffix in ("csv", "json") for path in folder.glob(f"maestro-v*.{suffix}"))
    if len({path.stem for path in found}) > 1:
        names = ", ".join(path.name for path in found)
        raise InputError(f"{folder} holds several versions of the metadata ({names}); keep the one of this audio")
    return found[0] if found else None  # sorted: .csv stands before .json


def read_metadata(maestro_dir: str | Path) -> list[Recording]:
    """All recordings that the metadata in `maestro_dir` lists, in its order.

    Raises InputError: missing or empty folder, no metadata or several, broken CSV or JSON, missing columns, a value
    that cannot be (named with its row).
    """
    path = find_metadata(maestro_dir)
    if path is None:
        found = "the folder is empty" if not any(Path(maestro_dir).iterdir()) else "no such file there"
        raise InputError(f"{maestro_dir}: looked for maestro-v*.csv and maestro-v*.json, {found}")
    try:
        text = path.read_text(encoding="utf-8-sig")  # Excel puts a byte order mark before a CSV it has saved
        rows = _csv_rows(text) if path.suffix == ".csv" else _json_rows(json.loads(text))
    except (ValueError, RecursionError, csv.Error, InputError) as error:
        raise InputError(f"{path} is broken: {error}; download it again") from error
    if not rows:
        raise InputError(f"{path} lists no recordings; download it again")
    return [_recording(path, index, row) for index, row in enumerate(rows)]


def select_split(recordings: list[Recording], split: str) -> list[Recording]:
    """The recordings of one split, or of "all". InputError for any other name."""
    if split == "all":
        return list(recordings)
    if split not in SPLITS:
        raise InputError(f"unknown split {split!r}; expected one of {', '.join(SPLITS)}, all")
    return [recording for recording in recordings if recording.split == split]


def resampled_name(audio_filename: str, audio_hz: int) -> str:
    """Where the resampled audio of a file lies: "2008/x.flac" at 16000 Hz -> "2008/x_16000.wav"."""
    path = PurePosixPath(audio_filename)
    if not path.name:
        raise InputError(f"{audio_filename!r} in the metadata does not name a file")
    return str(path.with_name(f"{path.stem}_{audio_hz}.wav"))


def inside(maestro_dir: str | Path, filename: str) -> Path:
    """The path of a file that the metadata names. InputError for a name that leads out of the folder.

    Judged by the name alone: year folders may well be links to another disk.
    """
    posix, windows = PurePosixPath(filename), PureWindowsPath(filename)
    escapes = posix.is_absolute() or windows.anchor or ".." in windows.parts
    if escapes or not posix.name or "\0" in filename or not _can_be_a_name(posix):
        raise InputError(f"{filename!r} in the metadata does not name a file inside {maestro_dir}")
    return Path(maestro_dir) / posix


def _can_be_a_name(path: PurePosixPath) -> bool:
    try:
        return len(os.fsencode(path)) <= LONGEST_PATH and all(len(os.fsencode(p)) <= LONGEST_NAME for p in path.parts)
    except UnicodeEncodeError:
        return False


def _is_text(text: str) -> bool:
    """Whether it can be written to a file: JSON can hold halves of characters, which no encoding knows."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _csv_rows(text: str) -> list[dict[str, Any]]:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    _require_columns(reader.fieldnames or ())
    rows = []
    for row in reader:
        if None in row or None in row.values():  # DictReader's marks for too many and too few fields
            raise InputError(f"line {reader.line_num} does not have {len(reader.fieldnames or ())} fields")
        rows.append(row)
    return rows


def _json_rows(data: Any) -> list[dict[str, Any]]:
    """Rows from either JSON form: [{column: value}] or {column: {"0": value, "1": value}}."""
    if isinstance(data, list):
        if not all(isinstance(row, dict) for row in data):
            raise InputError("expected a list of objects, one per recording")
        for row in data:
            _require_columns(row)
        return data
    if not isinstance(data, dict):
        raise InputError("expected a list of rows or an object of columns")
    _require_columns(data)
    columns = {name: data[name] for name in COLUMNS}
    keys = columns[COLUMNS[0]].keys() if isinstance(columns[COLUMNS[0]], dict) else None
    for name, column in columns.items():
        if not isinstance(column, dict) or column.keys() != keys or not all(key.isdecimal() for key in column):
            raise InputError(f"column {name} is not an object of row numbers, the same as in {COLUMNS[0]}")
    return [{name: columns[name][key] for name in COLUMNS} for key in sorted(keys or (), key=int)]


def _require_columns(present: Any) -> None:
    missing = [name for name in COLUMNS if name not in present]
    if missing:
        raise InputError(f"missing columns {', '.join(missing)} (found: {', '.join(map(str, present)) or 'none'})")


def _recording(path: Path, index: int, row: Mapping[str, Any]) -> Recording:
    def refuse(column: str, expected: str) -> InputError:
        return InputError(f"{path}, recording {index}: {column} is {row[column]!r}, expected {expected}")

    for column in ("canonical_composer", "canonical_title", "midi_filename", "audio_filename"):
        if not isinstance(row[column], str) or not _is_text(row[column]):
            raise refuse(column, "text")
        if column.endswith("filename") and not row[column].strip():
            raise refuse(column, "a file name")
    if row["split"] not in SPLITS:
        raise refuse("split", f"one of {', '.join(SPLITS)}")
    try:
        year = int(row["year"])
    except (TypeError, ValueError, OverflowError):
        raise refuse("year", "a whole number") from None
    try:
        duration = float(row["duration"])
    except (TypeError, ValueError, OverflowError):
        duration = math.nan
    if not 0 < duration < math.inf:
        raise refuse("duration", "seconds above 0")
    return Recording(
        index,
        row["canonical_composer"],
        row["canonical_title"],
        row["split"],
        year,
        row["midi_filename"],
        row["audio_filename"],
        duration,
    )
