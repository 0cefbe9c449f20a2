"""The manifest of resampling: what each output was made from, so that a rerun knows what is done and what has changed.

    resampled_16000.json                    in the folder of the outputs; one for each rate
    resampled_16000.shard-2-of-8.json       what a run with --shard 2/8 wrote; all of them count as one

Where several of them speak of one output, an older run's entry is recognised by its not fitting what lies there.

It is written every few seconds and at the end. What a killed run had finished after that has no entry that fits: it is
made again and must come out the same, so that nothing is ever taken for done, or replaced, on the strength of its name.
"""

import contextlib
import hashlib
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from midi2wave.audio.io import Resampled
from midi2wave.utils.atomic_files import write_text
from midi2wave.utils.errors import InputError

FORMAT = 2
SECONDS_BETWEEN_SAVES = 5.0
DONE, CHANGED, UNKNOWN, MISSING = "done", "changed", "unknown", "missing"


@dataclass(frozen=True)
class Entry:
    """One output: the state of its source when it was made, what became of it, and how to recognise it."""

    source_bytes: int
    source_mtime_ns: int
    resampler: str
    source_hz: int
    channels: int
    seconds: float
    peak: float  # largest |amplitude| before clipping; 1 is full scale
    n_clipped: int
    bytes: int
    sha256: str


def entry(target: Path, resampled: Resampled, source_state: tuple[int, int], resampler: str) -> Entry:
    """The entry of a finished output. `source_state` is `state(source)` from before it was read."""
    return Entry(*source_state, resampler, resampled.source_hz, resampled.channels, resampled.seconds, resampled.peak,
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
        """Read what is there. InputError: damaged, or all made with another resampler (both give way to `force`)."""
        self.path = folder / f"resampled_{audio_hz}{'.' * bool(shard)}{shard}.json"
        self.resampler, self._saved = resampler, time.monotonic()
        self._own: dict[str, Entry] = {}
        self._others: list[dict[str, Entry]] = []
        for path in sorted(folder.glob(f"resampled_{audio_hz}*.json")):
            if path == self.path or path.name.startswith(f"resampled_{audio_hz}."):
                entries = {} if force and not _readable(path) else read(path)
                if path == self.path:
                    self._own = entries
                else:
                    self._others.append(entries)
        self._written = self._text() if self.path.is_file() else None
        made_with = {made.resampler for entries in (self._own, *self._others) for made in entries.values()}
        if made_with and resampler not in made_with and not force:
            raise InputError(self._refusal(", ".join(sorted(made_with))))

    def status(self, name: str, source: Path, target: Path, *, verify: bool = False) -> str:
        """How an output stands: MISSING; UNKNOWN (exists, but no entry fits it); CHANGED (ours, but the source has
        changed since); DONE. `verify` compares its checksum too. InputError if it was made with another resampler.
        """
        if not target.exists():
            return MISSING
        n_bytes, now = target.stat().st_size, state(source)
        entries = [made[name] for made in (self._own, *self._others) if name in made]
        known = [made for made in entries if made.bytes == n_bytes]
        changed = not any(_source_state(made) == now for made in known)
        # Before it is replaced, on demand, and to tell entries apart, every byte is compared; else its size will do.
        several = len({made.sha256 for made in known}) > 1 or any(made.resampler != self.resampler for made in known)
        if known and (changed or verify or several):
            digest = sha256(target)
            known = [made for made in known if made.sha256 == digest]
        if not known:
            return UNKNOWN
        if all(made.resampler != self.resampler for made in known):
            raise InputError(self._refusal(known[0].resampler))
        return DONE if any(_source_state(made) == now for made in known) else CHANGED

    def _refusal(self, made_with: str) -> str:
        return (
            f"the outputs there were made with -r {made_with} ({self.path}); use that one again, another --out_dir, or "
            "--force to make them again"
        )

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
        record = {"format": FORMAT, "files": files}
        return json.dumps(record, indent=1) + "\n"  # in ASCII: a file name need not be text in any encoding


def _source_state(made: Entry) -> tuple[int, int]:
    return made.source_bytes, made.source_mtime_ns


def _readable(path: Path) -> bool:
    try:
        read(path)
    except InputError:
        return False
    return True


def read(path: Path) -> dict[str, Entry]:
    """The entries of one manifest by the names of their sources. Raises InputError if it is damaged."""
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if record["format"] != FORMAT:
            raise ValueError(f"format {record['format']} instead of {FORMAT}")
        kinds = {name: field.type for name, field in Entry.__dataclass_fields__.items()}
        entries = {}
        for name, values in record["files"].items():
            if values.keys() != kinds.keys() or any(type(value) is not kinds[k] for k, value in values.items()):
                raise ValueError(f"the entry of {name} is not one")
            entries[name] = Entry(**values)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{path} is damaged ({error}); make everything again with --force, or remove it") from error
    return entries
