"""The manifest of resampling: what each output was made from, so that a rerun knows what is done and what has changed.

    resampled_16000.json                    in the folder of the outputs; one for each rate
    resampled_16000.shard-2-of-8.json       what a run with --shard 2/8 wrote; all of them count as one

Where several of them list the same output, the entry of an older run does not fit the file that lies there.

A manifest is written every few seconds and at the end. What a killed run finished after that has no entry that fits: it
is made again and must come out the same, so that no file is taken for done, or replaced, because of its name alone.
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

# The states of an output.
DONE = "done"
CHANGED = "changed"
UNKNOWN = "unknown"
MISSING = "missing"


@dataclass(frozen=True)
class ManifestEntry:
    """One output: the state of its source when it was made, its properties, and how to recognise it."""

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

    @property
    def source_state(self) -> tuple[int, int]:
        """Size and modification time of the source, as `state` returns them."""
        return self.source_bytes, self.source_mtime_ns


def make_entry(target: Path, resampled: Resampled, source_state: tuple[int, int], resampler: str) -> ManifestEntry:
    """The entry of a finished output.

    Args:
        target: The output.
        resampled: What `resample_file` returned.
        source_state: `state(source)` from before the source was read.
        resampler: Name of the resampler.

    Raises:
        OSError: The output cannot be read.
    """
    source_bytes, source_mtime_ns = source_state
    return ManifestEntry(
        source_bytes=source_bytes,
        source_mtime_ns=source_mtime_ns,
        resampler=resampler,
        source_hz=resampled.source_hz,
        channels=resampled.channels,
        seconds=resampled.seconds,
        peak=resampled.peak,
        n_clipped=resampled.n_clipped,
        bytes=target.stat().st_size,
        sha256=sha256(target),
    )


def state(source: Path) -> tuple[int, int]:
    """Size in bytes and modification time in ns: another pair means that the file was changed. Raises OSError."""
    stat = source.stat()
    return stat.st_size, stat.st_mtime_ns


def sha256(path: Path) -> str:
    """The checksum of a file, as `sha256sum` prints it. Raises OSError."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


class Manifest:
    """The manifests of one folder and rate, open for one run, which writes only its own."""

    def __init__(self, folder: Path, audio_hz: int, resampler: str, *, shard: str = "", force: bool = False) -> None:
        """Read the manifests that exist.

        Args:
            folder: Folder of the outputs.
            audio_hz: Their sample rate.
            resampler: Name of this run's resampler.
            shard: Name of this run's shard (`parallel.shard_name`).
            force: Whether this run may replace all outputs.

        Raises:
            InputError: A manifest is damaged, or all outputs were made with another resampler; both unless `force`.
        """
        self.path = folder / f"resampled_{audio_hz}{'.' * bool(shard)}{shard}.json"
        self.resampler = resampler
        self._last_save = time.monotonic()
        self._own: dict[str, ManifestEntry] = {}
        self._others: list[dict[str, ManifestEntry]] = []
        for path in sorted(folder.glob(f"resampled_{audio_hz}*.json")):
            if path == self.path or path.name.startswith(f"resampled_{audio_hz}."):
                entries = {} if force and not _readable(path) else read(path)
                if path == self.path:
                    self._own = entries
                else:
                    self._others.append(entries)
        self._written_text = self._text() if self.path.is_file() else None
        resamplers = {entry.resampler for entries in (self._own, *self._others) for entry in entries.values()}
        if resamplers and resampler not in resamplers and not force:
            raise self._other_resampler(", ".join(sorted(resamplers)))

    def status(self, name: str, source: Path, target: Path, *, verify: bool = False) -> str:
        """The state of an output.

        Args:
            name: Name of the source in the manifest.
            source: The source.
            target: The output.
            verify: Whether the checksum of the output is always compared.

        Returns:
            MISSING: it does not exist. UNKNOWN: it exists, but no entry fits it. CHANGED: an entry fits it, but the
            source has changed since. DONE: an entry fits it and the source.

        Raises:
            InputError: It was made with another resampler.
        """
        if not target.exists():
            return MISSING
        n_bytes = target.stat().st_size
        source_state = state(source)
        entries = [entries[name] for entries in (self._own, *self._others) if name in entries]
        matching = [entry for entry in entries if entry.bytes == n_bytes]
        changed = not any(entry.source_state == source_state for entry in matching)
        # All bytes are compared before an output is replaced, on demand, and to tell entries apart; else the size will
        # do.
        ambiguous = len({entry.sha256 for entry in matching}) > 1
        ambiguous = ambiguous or any(entry.resampler != self.resampler for entry in matching)
        if matching and (changed or verify or ambiguous):
            digest = sha256(target)
            matching = [entry for entry in matching if entry.sha256 == digest]
        if not matching:
            return UNKNOWN
        if all(entry.resampler != self.resampler for entry in matching):
            raise self._other_resampler(matching[0].resampler)
        return DONE if any(entry.source_state == source_state for entry in matching) else CHANGED

    def _other_resampler(self, names: str) -> InputError:
        return InputError(
            f"the outputs there were made with -r {names} ({self.path}); use that one again, another --out_dir, or "
            "--force, which makes all outputs of this call again"
        )

    def add(self, name: str, entry: ManifestEntry) -> None:
        """Add a finished output, and write the manifest if the last time is some seconds ago."""
        self._own[name] = entry
        if time.monotonic() - self._last_save > SECONDS_BETWEEN_SAVES:
            with contextlib.suppress(OSError):  # A full disk is reported by the save at the end.
                self.save()

    def save(self) -> None:
        """Write the manifest if it has changed. Raises OSError."""
        self._last_save = time.monotonic()
        text = self._text()
        if text != self._written_text and self._own:
            write_text(self.path, text)
            self._written_text = text

    def _text(self) -> str:
        files = {name: asdict(self._own[name]) for name in sorted(self._own)}
        # In ASCII: the bytes of a file name need not be text in any encoding.
        return json.dumps({"format": FORMAT, "files": files}, indent=1) + "\n"


def _readable(path: Path) -> bool:
    try:
        read(path)
    except InputError:
        return False
    return True


def read(path: Path) -> dict[str, ManifestEntry]:
    """The entries of one manifest by the names of their sources.

    Raises:
        InputError: It is damaged.
    """
    try:
        stored: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if stored["format"] != FORMAT:
            raise ValueError(f"format {stored['format']} instead of {FORMAT}")
        types = {name: field.type for name, field in ManifestEntry.__dataclass_fields__.items()}
        entries = {}
        for name, values in stored["files"].items():
            if values.keys() != types.keys() or any(type(value) is not types[k] for k, value in values.items()):
                raise ValueError(f"the entry of {name} is not one")
            entries[name] = ManifestEntry(**values)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(
            f"{path} is damaged ({error}); remove it, or use --force: both make all outputs again"
        ) from error
    return entries
