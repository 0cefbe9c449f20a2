"""The processed folder: its format, its writer and its reader.

    dataset.json        format version, the config it was made from
    filenames.csv       one row per recording, in the order of the metadata
    {index}.npy         int16 PCM, mono, memory-mapped when read
    {index}.npz         note and pedal events in seconds
    {index}.json        the recording's row, its facts, the states of its source files and of the two files above;
                        written last, so that its presence means: this recording is complete
    dataset_card.json   summary of all recordings, dataset_card.png its picture (`dataset_card.py`)

Audio is stored once as 16-bit PCM and MIDI as events: features, crop length and output can change without
preprocessing again.
"""

import copy
import csv
import functools
import io
import json
import zlib
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import compress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from midi2wave.conditioning.global_conditioning import integer_columns, require_known_labels
from midi2wave.config import label_columns
from midi2wave.data.maestro import Recording
from midi2wave.midi.performance import Performance, load_events, save_events
from midi2wave.utils.array_files import map_array
from midi2wave.utils.atomic_files import atomic_file, write_text
from midi2wave.utils.cli import log
from midi2wave.utils.errors import InputError, is_system_error
from midi2wave.utils.output_folder import acquire_output_dir, check_output_dir, require_own_dir, require_own_record

FORMAT = 1
INDEX_NAME = "filenames.csv"
RECORD_NAME = "dataset.json"
CARD_NAME = "dataset_card.json"
CARD_PICTURE_NAME = "dataset_card.png"
# The names of the files of recordings, and of those about all of them.
PRODUCTS = r"[0-9]+\.(npy|npz|json)|filenames\.csv|dataset_card\.(json|png)"
FORCE_EFFECT = "removes all recordings in it and makes those of this call anew"
# What is missing in a folder is made by the command that made the folder.
REMEDY = "remove it and run the command that made the folder again: it makes only what is missing"

# No recording has more; sums of these are finite.
MAX_SECONDS = 1e9
MAX_COUNT = 2**40

# The header of an .npy file with one axis, whatever its length.
HEADER_BYTES = 128
# Each memory-mapped recording takes a file descriptor: a process has 1,024 on many systems, 256 on some.
MAPPED_RECORDINGS = 128
# Where a file system cannot map files, recordings are read: of MAESTRO up to 80 MB each.
READ_RECORDINGS = 16

# "audio" and "midi" -> size in bytes and modification time in ns.
Sources = Mapping[str, list[int]]


@dataclass(frozen=True)
class Row:
    """A recording's row of filenames.csv."""

    index: int
    audio_filename: str
    midi_filename: str
    split: str
    year: int
    duration: float  # seconds of audio
    n_samples: int
    n_notes: int  # those that begin within the audio
    composer: str
    title: str


class StoredRecording(NamedTuple):
    """The contents of {index}.json."""

    row: Row
    facts: dict[str, Any]
    sources: dict[str, list[int]]
    file_states: dict[str, int] | None


def begin_folder(folder: Path, made_from: dict[str, Any], *, force: bool) -> None:
    """Acquire a folder for writing recordings.

    Args:
        folder: The folder; made if need be.
        made_from: The resolved config.
        force: Whether recordings of another config are removed.

    Raises:
        InputError: The folder holds something else (see `output_folder.acquire_output_dir`).
    """
    record = _make_record(made_from)
    require_own_record(folder / RECORD_NAME, "made_from")
    acquire_output_dir(folder, RECORD_NAME, record, PRODUCTS, force=force, force_effect=FORCE_EFFECT)


def check_output_folder(folder: Path, made_from: dict[str, Any], command: str, *, force: bool) -> None:
    """Check before long work that `begin_folder` will accept a folder, and that it is no other command's.

    An unfinished folder of the same command and config is accepted: the work resumes.

    Args:
        folder: The folder.
        made_from: The resolved config, with an entry named `command`.
        command: The entry that every record of this command has.
        force: Whether recordings of the same command may be removed.

    Raises:
        InputError: The folder is refused; one of another command also with `force`.
    """
    require_own_dir(folder, RECORD_NAME)
    if not (folder / RECORD_NAME).is_file():
        return
    if command not in _read_record(folder)["made_from"]:
        raise InputError(f"{folder} was made by another command; choose another name")
    if (folder / INDEX_NAME).exists() and not force:
        raise InputError(f"{folder} is there already; choose another name, or use --force, which {FORCE_EFFECT}")
    record = _make_record(made_from)
    check_output_dir(folder, RECORD_NAME, record, PRODUCTS, force=force, force_effect=FORCE_EFFECT)


def _make_record(made_from: dict[str, Any]) -> dict[str, Any]:
    return {"format": FORMAT, "made_from": made_from}


def _read_record(folder: Path) -> dict[str, Any]:
    """A folder's record. Raises InputError if it is damaged, or of another format."""
    try:
        record = json.loads((folder / RECORD_NAME).read_text(encoding="utf-8"))
        if record["format"] != FORMAT:
            raise InputError(f"{folder} has format {record['format']}, expected {FORMAT}; preprocess it again")
        int(record["made_from"]["preprocess_config"]["audio_hz"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise _damaged(folder / RECORD_NAME, error, f"preprocess again with --force, which {FORCE_EFFECT}") from error
    return record


def _damaged(path: Path, error: Exception, remedy: str = REMEDY) -> InputError:
    """The error for a file that cannot be read. Raises `error` itself if no file causes it."""
    if is_system_error(error):
        raise error
    return InputError(f"{path} is damaged ({' '.join(str(error).split())}); {remedy}")


def product_names(indices: list[int]) -> set[str]:
    """The names of the files of some recordings."""
    return {f"{index}.{suffix}" for index in indices for suffix in ("npy", "npz", "json")}


def read_finished(folder: Path, recording: Recording, sources: Sources) -> tuple[Row, dict[str, Any]] | None:
    """The row and facts of a recording that is complete in the folder and up to date.

    Args:
        folder: The processed folder.
        recording: The recording in the metadata.
        sources: The states of its source files, of those that exist.

    Returns:
        None if the recording is missing, incomplete, or was made from other sources.

    Raises:
        InputError: The folder holds another recording under its index, since the metadata have changed.
    """
    try:
        text = (folder / f"{recording.index}.json").read_text(encoding="utf-8")
        stored = _parse_stored(json.loads(text))
        row = stored.row
        if row.index != recording.index:
            return None
        complete = _is_complete(folder, row, stored.file_states)
    except (OSError, ValueError, TypeError, KeyError, RecursionError, InputError):
        return None
    for name in ("audio_filename", "midi_filename", "split"):
        actual = getattr(row, name)
        expected = getattr(recording, name)
        if actual != expected:
            raise InputError(
                f"{folder} holds another recording under index {recording.index} "
                f"({name} {actual!r} instead of {expected!r}); choose another folder, or use --force, which "
                f"{FORCE_EFFECT}"
            )
    # Sources that were removed since, to save space perhaps, have not changed.
    unchanged = stored.sources == {**stored.sources, **sources}
    return (row, stored.facts) if complete and unchanged else None


def _file_states(folder: Path, index: int) -> dict[str, int]:
    """Sizes of audio and notes, and the checksum of the notes, by which a rerun recognises what was written.

    A checksum of the audio would make a rerun read all of it again: 23 GB of MAESTRO.
    """
    events = (folder / f"{index}.npz").read_bytes()
    audio_bytes = (folder / f"{index}.npy").stat().st_size
    return {"npy_bytes": audio_bytes, "npz_bytes": len(events), "npz_crc32": zlib.crc32(events)}


def _is_complete(folder: Path, row: Row, file_states: dict[str, int] | None) -> bool:
    """Whether audio and notes are as they were written. Raises OSError or InputError where they cannot be read."""
    if file_states is None:  # Written before states were stored.
        load_events(folder / f"{row.index}.npz")
    elif file_states != _file_states(folder, row.index):
        return False
    return (folder / f"{row.index}.npy").stat().st_size == HEADER_BYTES + 2 * row.n_samples


def _parse_stored(stored: Any) -> StoredRecording:
    """The contents of {index}.json, checked but for the facts, which `dataset_card.facts_from` checks.

    Raises TypeError, ValueError or KeyError if they are not what `write_recording` writes.
    """
    json.dumps(stored, ensure_ascii=False).encode()  # JSON can contain halves of characters, which no file can.
    if not isinstance(stored, dict):
        raise TypeError("not what was stored of a recording")
    facts = stored.pop("facts")
    sources = stored.pop("sources")
    file_states = stored.pop("files", None)
    row = Row(**stored)
    types = {name: field.type for name, field in Row.__dataclass_fields__.items()}
    valid = all(type(getattr(row, name)) is type_ for name, type_ in types.items())
    if not (valid and isinstance(facts, dict) and isinstance(sources, dict)):
        raise TypeError("not what was stored of a recording")
    if not (0 < row.duration < MAX_SECONDS and row.n_samples > 0 and 0 <= row.n_notes < MAX_COUNT):
        raise ValueError("not the numbers of a recording")
    return StoredRecording(row, facts, sources, file_states)


def write_recording(
    folder: Path,
    row: Row,
    pcm: np.ndarray,
    performance: Performance,
    facts: dict[str, Any] | None = None,
    sources: Sources | None = None,
) -> None:
    """Write one recording: its audio, its events, and last its row and facts.

    Where it replaces one, filenames.csv is removed first: the folder cannot be opened until `finish_folder`.

    Args:
        folder: The processed folder.
        row: The recording's row.
        pcm: Its samples, int16 [T].
        performance: Its notes and pedals.
        facts: JSON values about it.
        sources: The states of its source files.

    Raises:
        OSError: The disk is full or there is no permission.
        TypeError: The samples are not int16.
    """
    samples = np.ascontiguousarray(pcm.astype(np.int16, casting="safe", copy=False))
    # Until all are written anew, audio and notes may not belong together.
    if (folder / f"{row.index}.npy").exists():
        (folder / INDEX_NAME).unlink(missing_ok=True)
    # The recording that is being replaced must not look complete.
    (folder / f"{row.index}.json").unlink(missing_ok=True)
    with atomic_file(folder / f"{row.index}.npy") as tmp_path, open(tmp_path, "wb") as handle:
        # The same bytes as np.save writes, but by Python's write, whose OSErrors say that the disk is full.
        np.lib.format.write_array_header_1_0(handle, np.lib.format.header_data_from_array_1_0(samples))
        handle.write(samples.data)
    save_events(folder / f"{row.index}.npz", performance)
    file_states = _file_states(folder, row.index)
    stored = {**asdict(row), "sources": sources or {}, "files": file_states, "facts": facts or {}}
    write_text(folder / f"{row.index}.json", json.dumps(stored, ensure_ascii=False))


def finish_folder(folder: Path, rows: list[Row], added_columns: Sequence[dict[str, str]] = ()) -> None:
    """Write filenames.csv: from now on the folder can be opened, until `write_recording` replaces a recording.

    Args:
        folder: The processed folder.
        rows: The rows of its recordings.
        added_columns: For each row the columns that the user has added
            (`ProcessedFolder.added_columns`).
    """
    table = io.StringIO()
    added_columns = added_columns or [{}] * len(rows)
    names = [*Row.__dataclass_fields__, *(name for columns in added_columns for name in columns)]
    writer = csv.DictWriter(table, list(dict.fromkeys(names)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) | columns for row, columns in zip(rows, added_columns, strict=True))
    write_text(folder / INDEX_NAME, table.getvalue())


class ProcessedFolder:
    """A processed folder, opened for reading.

    Attributes:
        path: The folder.
        made_from: The resolved config that it was made from.
        audio_hz: Its sample rate.
        rows: The rows of filenames.csv.
        global_labels: For each row all columns that hold whole numbers, as COLUMN=VALUE, also added ones.
        added_columns: For each row the columns that the user has added.
    """

    def __init__(self, path: str | Path) -> None:
        """Read filenames.csv.

        Raises:
            InputError: It is not a processed folder, or it is damaged, or holds no recordings.
        """
        self.path = Path(path)
        self._mapped: OrderedDict[int, np.ndarray] = OrderedDict()  # The least recently used one first.
        if not (self.path / INDEX_NAME).is_file():
            raise InputError(
                f"{self.path} is not a processed folder (no {INDEX_NAME}); run preprocess_maestro.py first"
            )
        self.made_from = _read_record(self.path)["made_from"]
        self.audio_hz = int(self.made_from["preprocess_config"]["audio_hz"])
        try:
            with open(self.path / INDEX_NAME, encoding="utf-8", newline="") as handle:
                lines = list(csv.DictReader(handle))
            if any(None in line for line in lines):
                raise ValueError(f"{INDEX_NAME} has a line with too many fields")
            self.rows = [_parse_row(line) for line in lines]
            self.global_labels = [integer_columns(line) for line in lines]
        except (OSError, ValueError, KeyError, TypeError, RecursionError, csv.Error) as error:
            raise _damaged(self.path / INDEX_NAME, error) from error
        row_names = Row.__dataclass_fields__
        self.added_columns = [{name: line[name] for name in line if name not in row_names} for line in lines]
        if not self.rows:
            raise InputError(f"{self.path} holds no recordings; make it again, of a split that has some")

    def __getstate__(self) -> dict[str, Any]:
        """What another process receives: it maps the audio itself, since a mapped array is pickled with all samples."""
        return self.__dict__ | {"_mapped": OrderedDict()}

    def check_rate(self, audio_hz: int) -> None:
        """Raise InputError unless the folder is at the rate of data_config."""
        if self.audio_hz != audio_hz:
            raise InputError(
                f"{self.path} is at {self.audio_hz} Hz, but data_config.audio_hz = {audio_hz}; "
                "set it, or preprocess again at that rate"
            )

    def split_by_label(self, values: Sequence[str]) -> dict[str, "ProcessedFolder"]:
        """The recordings of each label as a folder of their own.

        Args:
            values: Labels COLUMN=VALUE (`global_conditioning.py`).

        Returns:
            For each label that a recording has, its recordings. All recordings under "" if there are fewer than two
            labels, or labels of several columns, of which a recording has several.

        Raises:
            InputError: A recording has none of the labels.
        """
        if len(values) < 2 or len(label_columns(values)) > 1:
            return {"": self}
        for row, labels in zip(self.rows, self.global_labels, strict=True):
            require_known_labels(labels, values, f"{self.path}: {row.audio_filename}")
        parts = {}
        for value in values:
            selected = [value in labels for labels in self.global_labels]
            if not any(selected):
                continue
            part = copy.copy(self)
            part.rows = list(compress(self.rows, selected))
            part.global_labels = list(compress(self.global_labels, selected))
            part.added_columns = list(compress(self.added_columns, selected))
            part._mapped = OrderedDict()
            parts[value] = part
        return parts

    def pcm(self, position: int) -> np.ndarray:
        """The audio of the recording at this position of `rows`: int16 [T], memory-mapped.

        Raises:
            InputError: It is damaged.
            OSError: The system cannot read it.
        """
        if position in self._mapped:
            self._mapped.move_to_end(position)
            return self._mapped[position]
        row = self.rows[position]
        path = self.path / f"{row.index}.npy"
        try:
            pcm = map_array(path)
        except InputError as error:
            raise InputError(f"{path} is missing or damaged ({error}); {REMEDY}") from error
        if pcm.dtype != np.int16 or pcm.shape != (row.n_samples,):
            raise InputError(f"{path} does not hold the {row.n_samples} samples that {INDEX_NAME} states; {REMEDY}")
        mapped = isinstance(pcm, np.memmap)
        if not mapped:
            _log_unmapped(self.path)
        self._mapped[position] = pcm
        if len(self._mapped) > (MAPPED_RECORDINGS if mapped else READ_RECORDINGS):
            self._mapped.popitem(last=False)
        return pcm

    def performance(self, position: int) -> Performance:
        """The note and pedal events of the recording at this position of `rows`, with its labels.

        Raises:
            InputError: They are damaged.
        """
        events = load_events(self.path / f"{self.rows[position].index}.npz")
        return replace(events, global_labels=self.global_labels[position])

    def facts(self, position: int) -> dict[str, Any]:
        """The facts of the recording at this position of `rows`, as `write_recording` stored them.

        Raises:
            InputError: They are missing or damaged.
        """
        path = self.path / f"{self.rows[position].index}.json"
        try:
            return _parse_stored(json.loads(path.read_text(encoding="utf-8"))).facts
        except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
            raise _damaged(path, error) from error


@functools.cache  # Once, not at every recording.
def _log_unmapped(folder: Path) -> None:
    log(f"the file system of {folder} cannot map files into memory; recordings are read whole, which is slower")


def _parse_row(line: Mapping[str, str]) -> Row:
    """A line of filenames.csv. Raises ValueError, KeyError or TypeError."""
    return Row(
        index=int(line["index"]),
        audio_filename=str(line["audio_filename"]),
        midi_filename=str(line["midi_filename"]),
        split=str(line["split"]),
        year=int(line["year"]),
        duration=float(line["duration"]),
        n_samples=int(line["n_samples"]),
        n_notes=int(line["n_notes"]),
        composer=str(line["composer"]),
        title=str(line["title"]),
    )
