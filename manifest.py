"""The manifest of resampling: what each output was made from, so that a rerun knows what is done and what has changed.

    resampled_16000.json                    in the folder of the outputs; one for each rate
    resampled_16000.shard-2-of-8.json       what a run with --shard 2/8 wrote; all of them count as one

It is written every few seconds and at the end. What a killed run had finished after that has no entry: it is made again
and must come out the same, so that nothing is ever taken for done, or replaced, on the strength of its name.
"""

import contextlib
import hashlib
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from atomic import write_text
from audio import Resampled
from errors import InputError

FORMAT = 1
SECONDS_BETWEEN_SAVES = 5.0
DONE, CHANGED, UNKNOWN, MISSING, FOREIGN = "done", "changed", "unknown", "missing", "foreign"


@dataclass(frozen=True)
class Entry:
    """One output: the state of its source when it was made, what became of it, and how to recognise it."""

    source_bytes: int
    source_mtime_ns: int
    source_hz: int
    channels: int
    seconds: float
    peak: float  # largest |amplitude| before clipping; 1 is full scale
    n_clipped: int
    bytes: int
    sha256: str


def entry(target: Path, resampled: Resampled, source_state: tuple[int, int]) -> Entry:
    """The entry of a finished output. `source_state` is `state(source)` from before it was read."""
    return Entry(*source_state, resampled.source_hz, resampled.channels, resampled.seconds, resampled.peak,
                 resampled.n_clipped, target.stat().st_size, sha256(target))  # fmt: skip


def state(source: Path) -> tuple[int, int]:
    """Size and time of change: another one means that the file was changed. Raises OSError."""
    stat = source.stat()
    return stat.st_size, stat.st_mtime_ns


def sha256(path: Path) -> str:
    """The checksum of a file, as `sha256sum` prints it. Raises OSError."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


class Manifest:
    """The manifests of one folder and rate, open for one run, which writes its own only."""

    def __init__(self, folder: Path, audio_hz: int, resampler: str, *, shard: str = "", force: bool = False) -> None:
        """Read what is there. InputError: damaged, or made with another resampler (both give way to `force`)."""
        self.path = folder / f"resampled_{audio_hz}{'.' * bool(shard)}{shard}.json"
        self.resampler, self._saved = resampler, time.monotonic()
        self._own: dict[str, Entry] = {}
        self._others: dict[str, Entry] = {}
        for path in sorted(folder.glob(f"resampled_{audio_hz}*.json")):
            if path == self.path or path.name.startswith(f"resampled_{audio_hz}."):
                entries = {} if force and not _readable(path, resampler) else _read(path, resampler)
                (self._own if path == self.path else self._others).update(entries)
        self._written = self._text() if self.path.is_file() else None

    def __contains__(self, name: str) -> bool:
        return name in self._own or name in self._others

    def standing(self, name: str, source: Path, target: Path, *, verify: bool = False) -> str:
        """How an output stands: MISSING; UNKNOWN (exists without an entry); FOREIGN (exists, but is not what the entry
        says); CHANGED (ours, but the source has changed since); DONE. `verify` compares its checksum too.
        """
        if not target.exists():
            return MISSING
        known = self._own.get(name) or self._others.get(name)
        if known is None:
            return UNKNOWN
        changed = state(source) != (known.source_bytes, known.source_mtime_ns)
        # Before it is replaced, and on demand, every byte is compared; to be left alone, its size will do.
        suspect = target.stat().st_size != known.bytes or ((changed or verify) and sha256(target) != known.sha256)
        return FOREIGN if suspect else CHANGED if changed else DONE

    def add(self, name: str, made: Entry) -> None:
        """Enter a finished output, and write the manifest if that was not done lately."""
        self._own[name] = made
        if time.monotonic() - self._saved > SECONDS_BETWEEN_SAVES:
            with contextlib.suppress(OSError):  # a full disk is told by the save at the end
                self.save()

    def save(self) -> None:
        """Write the manifest, if there is anything new to be written. Raises OSError."""
        self._saved, text = time.monotonic(), self._text()
        if text != self._written and self._own:
            write_text(self.path, text)
            self._written = text

    def _text(self) -> str:
        files = {name: asdict(self._own[name]) for name in sorted(self._own)}
        record = {"format": FORMAT, "resampler": self.resampler, "files": files}
        return json.dumps(record, indent=1) + "\n"  # in ASCII: a file name need not be text in any encoding


def _readable(path: Path, resampler: str) -> bool:
    try:
        _read(path, resampler)
    except InputError:
        return False
    return True


def _read(path: Path, resampler: str) -> dict[str, Entry]:
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if record["format"] != FORMAT:
            raise ValueError(f"format {record['format']} instead of {FORMAT}")
        made_with, kinds = record["resampler"], {name: field.type for name, field in Entry.__dataclass_fields__.items()}
        entries = {}
        for name, values in record["files"].items():
            if values.keys() != kinds.keys() or any(type(value) is not kinds[k] for k, value in values.items()):
                raise ValueError(f"the entry of {name} is not one")
            entries[name] = Entry(**values)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{path} is damaged ({error}); make everything again with --force, or remove it") from error
    if made_with != resampler:
        raise InputError(
            f"the outputs there were made with -r {made_with} ({path}); use that one again, another --out_dir, or "
            "--force to make them again"
        )
    return entries
