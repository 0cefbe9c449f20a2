"""The processed folder: its format, its writer and its reader.

    dataset.json        format version, the config it was made from
    filenames.csv       one row per recording, in the order of the metadata
    {index}.npy         int16 PCM, mono, memory-mapped when read
    {index}.npz         note and pedal events in seconds
    {index}.json        the recording's row, the states of the files it was made from and of the two above, and what was
                        found out about it; written last, so that its presence means: this recording is whole
    dataset_card.json   what all of them hold, dataset_card.png its picture (`dataset_card.py`)

Audio is stored once as 16-bit PCM and MIDI as events: features, crop length and output can change without
preprocessing again.
"""

import copy
import csv
import io
import json
import zlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np

from midi2wave.conditioning.global_conditioning import integer_columns, require_known_labels
from midi2wave.config import label_columns
from midi2wave.data.maestro import Recording
from midi2wave.midi.performance import Performance, load_events, save_events
from midi2wave.utils.atomic_files import acquire_output_dir, atomic_file, require_own_dir, write_text
from midi2wave.utils.errors import DAMAGED_ARRAY_ERRORS, RESOURCE_ERRNOS, InputError

FORMAT = 1
INDEX_NAME, RECORD_NAME = "filenames.csv", "dataset.json"
CARD_NAME, CARD_PICTURE_NAME = "dataset_card.json", "dataset_card.png"
PRODUCTS = ("[0-9]*.npy", "[0-9]*.npz", "[0-9]*.json", INDEX_NAME, CARD_NAME, CARD_PICTURE_NAME)
LONGEST_SECONDS, MOST_COUNTED = 1e9, 2**40  # no recording has more; sums of these are numbers still
HEADER_BYTES = 128  # of an .npy with one axis, whatever its length
MAPPED_RECORDINGS = 128  # kept open at a time, each a file descriptor: a process has 1,024 on many systems, 256 on some

Sources = dict[str, list[int]]  # "audio" and "midi" -> size in bytes and time of change


@dataclass(frozen=True)
class Row:
    """What filenames.csv says of a recording."""

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


def begin_folder(folder: Path, made_from: dict[str, Any], *, force: bool) -> None:
    """Claim a folder for writing. Raises InputError if it holds something else (see `atomic.claim`)."""
    record = {"format": FORMAT, "made_from": made_from}
    acquire_output_dir(folder, RECORD_NAME, record, PRODUCTS, force=force)


def check_output_folder(folder: Path, made_from: dict[str, Any], step: str, *, force: bool) -> None:
    """Say before long work what `begin_folder` would say after it; and refuse, whatever `force` says, what another step
    has made: a folder whose record has nothing under the name of this one.

    A folder that the same step began from the same, and did not finish, is gone on with. Raises InputError.
    """
    require_own_dir(folder, RECORD_NAME)
    if not (folder / RECORD_NAME).is_file():
        return
    there = _record(folder)["made_from"]
    if step not in there:
        raise InputError(f"{folder} was made by another command; choose another name")
    if (folder / INDEX_NAME).exists() and not force:
        raise InputError(f"{folder} is there already; choose another name, or use --force")
    if there != made_from and not force:
        raise InputError(f"{folder} was begun with another config; choose another name, or use --force")


def _record(folder: Path) -> dict[str, Any]:
    """A folder's record. Raises InputError if it is damaged, or of another format."""
    try:
        record = json.loads((folder / RECORD_NAME).read_text(encoding="utf-8"))
        if record["format"] != FORMAT:
            raise InputError(f"{folder} has format {record['format']}, expected {FORMAT}; preprocess it again")
        int(record["made_from"]["preprocess_config"]["audio_hz"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise _damaged(folder, error) from error
    return record


def _damaged(path: Path, error: Exception) -> InputError:
    """What to say of a file or folder that cannot be read. Raises the error itself if no file is to blame for it."""
    if getattr(error, "errno", None) in RESOURCE_ERRNOS:
        raise error
    return InputError(f"{path} is damaged ({' '.join(str(error).split())}); preprocess it again with --force")


def product_names(indices: list[int], *, shared: bool) -> set[str]:
    """The names of the files that hold these recordings, and with `shared` of those about all of them."""
    recordings = {f"{index}.{suffix}" for index in indices for suffix in ("npy", "npz", "json")}
    return recordings | ({INDEX_NAME, RECORD_NAME, CARD_NAME, CARD_PICTURE_NAME} if shared else set())


def read_finished(folder: Path, recording: Recording, sources: Sources) -> tuple[Row, dict[str, Any]] | None:
    """Row and facts of a recording that is whole in the folder already, made from files as they are now; else None.

    Raises InputError if another recording stands under its index: the metadata have changed since that was written.
    """
    try:
        text = (folder / f"{recording.index}.json").read_text(encoding="utf-8")
        row, facts, made_from, files = _stored(json.loads(text))
        if row.index != recording.index:
            return None
        whole = _whole(folder, row, files)
    except (OSError, ValueError, TypeError, KeyError, RecursionError, InputError):
        return None
    for name in ("audio_filename", "midi_filename", "split"):
        there, expected = getattr(row, name), getattr(recording, name)
        if there != expected:
            raise InputError(
                f"{folder} holds another recording under index {recording.index} "
                f"({name} {there!r} instead of {expected!r}); use --force or another folder"
            )
    # sources that are gone since, to save space perhaps, have not changed
    return (row, facts) if whole and made_from == {**made_from, **sources} else None


def _file_states(folder: Path, index: int) -> dict[str, int]:
    """What tells whether audio and notes are those that were written: sizes, and of the notes a checksum too.

    A checksum of the audio would make a rerun read all of it again: 23 GB of MAESTRO.
    """
    events = (folder / f"{index}.npz").read_bytes()
    audio_bytes = (folder / f"{index}.npy").stat().st_size
    return {"npy_bytes": audio_bytes, "npz_bytes": len(events), "npz_crc32": zlib.crc32(events)}


def _whole(folder: Path, row: Row, files: dict[str, int] | None) -> bool:
    """Whether audio and notes are as they were written. Raises OSError or InputError where they cannot be read."""
    if files is None:  # the row is from before they were kept
        load_events(folder / f"{row.index}.npz")
    elif files != _file_states(folder, row.index):
        return False
    return (folder / f"{row.index}.npy").stat().st_size == HEADER_BYTES + 2 * row.n_samples


def _stored(stored: Any) -> tuple[Row, dict[str, Any], dict[str, Any], dict[str, int] | None]:
    """Row, facts, sources and states of files as `write_recording` stored them.

    Raises TypeError, ValueError or KeyError if they are none.
    What the facts must hold is `dataset_card.facts_from`'s to know.
    """
    json.dumps(stored, ensure_ascii=False).encode()  # JSON can hold halves of characters, which no file can
    if not isinstance(stored, dict):
        raise TypeError("not what was stored of a recording")
    facts, made_from, files = stored.pop("facts"), stored.pop("sources"), stored.pop("files", None)
    row = Row(**stored)
    kinds = {name: field.type for name, field in Row.__dataclass_fields__.items()}
    right = all(type(getattr(row, name)) is kind for name, kind in kinds.items())
    if not (right and isinstance(facts, dict) and isinstance(made_from, dict)):
        raise TypeError("not what was stored of a recording")
    if not (0 < row.duration < LONGEST_SECONDS and row.n_samples > 0 and 0 <= row.n_notes < MOST_COUNTED):
        raise ValueError("not the numbers of a recording")
    return row, facts, made_from, files


def write_recording(
    folder: Path,
    row: Row,
    pcm: np.ndarray,
    performance: Performance,
    facts: dict[str, Any] | None = None,
    sources: Sources | None = None,
) -> None:
    """Write one recording: pcm int16 [T], its events, and last its row with what else is known about it.

    Where it replaces one, filenames.csv goes first: the folder cannot be opened until `finish_folder`.
    """
    samples = np.ascontiguousarray(pcm.astype(np.int16, casting="safe", copy=False))
    if (folder / f"{row.index}.npy").exists():  # until all are written anew, audio and notes may not fit each other
        (folder / INDEX_NAME).unlink(missing_ok=True)
    (folder / f"{row.index}.json").unlink(missing_ok=True)  # of what is to be replaced nothing may look whole
    with atomic_file(folder / f"{row.index}.npy") as aside, open(aside, "wb") as handle:
        # What np.save does, but by Python's write, whose OSErrors say that the disk is full.
        np.lib.format.write_array_header_1_0(handle, np.lib.format.header_data_from_array_1_0(samples))
        handle.write(samples.data)
    save_events(folder / f"{row.index}.npz", performance)
    states = _file_states(folder, row.index)
    stored = {**asdict(row), "sources": sources or {}, "files": states, "facts": facts or {}}
    write_text(folder / f"{row.index}.json", json.dumps(stored, ensure_ascii=False))


def finish_folder(folder: Path, rows: list[Row], added: Sequence[dict[str, str]] = ()) -> None:
    """Write filenames.csv: from here on the folder can be opened, until `write_recording` replaces one.

    `added`: of each row the columns that the owner of the data has added (`ProcessedFolder.added`).
    """
    table, added = io.StringIO(), added or [{}] * len(rows)
    names = list(dict.fromkeys([*Row.__dataclass_fields__, *(name for more in added for name in more)]))
    writer = csv.DictWriter(table, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) | more for row, more in zip(rows, added, strict=True))
    write_text(folder / INDEX_NAME, table.getvalue())


class ProcessedFolder:
    """A processed folder opened for reading. Raises InputError if it is not one, or not whole."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._pcm: OrderedDict[int, np.ndarray] = OrderedDict()  # the least recently used first
        if not (self.path / INDEX_NAME).is_file():
            raise InputError(
                f"{self.path} is not a processed folder (no {INDEX_NAME}); run preprocess_maestro.py first"
            )
        self.made_from = _record(self.path)["made_from"]
        self.audio_hz = int(self.made_from["preprocess_config"]["audio_hz"])
        try:
            with open(self.path / INDEX_NAME, encoding="utf-8", newline="") as handle:
                kinds = {name: field.type for name, field in Row.__dataclass_fields__.items()}
                lines = list(csv.DictReader(handle))
            if any(None in line for line in lines):
                raise ValueError(f"{INDEX_NAME} has a line with too many fields")
            self.rows = [Row(**{name: kind(line[name]) for name, kind in kinds.items()}) for line in lines]
            self.global_labels = [integer_columns(line) for line in lines]  # columns that the user has added, too
            self.added = [{name: line[name] for name in line if name not in kinds} for line in lines]  # these alone
        except (OSError, ValueError, KeyError, TypeError, RecursionError, csv.Error) as error:
            raise _damaged(self.path, error) from error
        if not self.rows:
            raise InputError(f"{self.path} holds no recordings")

    def check_rate(self, audio_hz: int) -> None:
        """Raise InputError unless the folder is at the rate that data_config says."""
        if self.audio_hz != audio_hz:
            raise InputError(
                f"{self.path} is at {self.audio_hz} Hz, but data_config.audio_hz = {audio_hz}; "
                "set it, or preprocess again at that rate"
            )

    def parts(self, values: Sequence[str]) -> dict[str, "ProcessedFolder"]:
        """The recordings of each value (`global_values.py`) that some have, as a folder of their own; or all of them,
        under "", where values are of several columns, and recordings belong to several, or there are not two.

        Raises InputError if a recording has none of the values.
        """
        if len(values) < 2 or len(label_columns(values)) > 1:
            return {"": self}
        for row, labels in zip(self.rows, self.global_labels, strict=True):
            require_known_labels(labels, values, f"{self.path}: {row.audio_filename}")
        parts = {}
        for value in values:
            part, chosen = copy.copy(self), [value in labels for labels in self.global_labels]
            part.rows, part.global_labels = (
                list(compress(self.rows, chosen)),
                list(compress(self.global_labels, chosen)),
            )
            part.added, part._pcm = list(compress(self.added, chosen)), OrderedDict()
            if part.rows:
                parts[value] = part
        return parts

    def pcm(self, position: int) -> np.ndarray:
        """The audio of the recording at this position of `rows`: int16 [T], memory-mapped.

        Raises InputError if it is damaged, and OSError if the process may open no more files.
        """
        if position in self._pcm:
            self._pcm.move_to_end(position)
            return self._pcm[position]
        row = self.rows[position]
        path = self.path / f"{row.index}.npy"
        try:
            pcm = np.lib.format.open_memmap(path, mode="r")
        except DAMAGED_ARRAY_ERRORS as error:
            if getattr(error, "errno", None) in RESOURCE_ERRNOS:
                raise
            raise InputError(f"{path} is missing or damaged ({error}); preprocess it again with --force") from error
        if pcm.dtype != np.int16 or pcm.shape != (row.n_samples,):
            raise InputError(f"{path} does not hold the {row.n_samples} samples that {INDEX_NAME} states")
        self._pcm[position] = pcm
        if len(self._pcm) > MAPPED_RECORDINGS:
            self._pcm.popitem(last=False)
        return pcm

    def performance(self, position: int) -> Performance:
        """The note and pedal events of the recording at this position of `rows`, and what its row says of it."""
        events = load_events(self.path / f"{self.rows[position].index}.npz")
        return replace(events, global_labels=self.global_labels[position])

    def facts(self, position: int) -> dict[str, Any]:
        """What was found out about the recording at this position of `rows`, as `write_recording` stored it.

        Raises InputError if that is missing or damaged.
        """
        path = self.path / f"{self.rows[position].index}.json"
        try:
            return _stored(json.loads(path.read_text(encoding="utf-8")))[1]
        except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
            raise _damaged(path, error) from error
