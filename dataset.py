"""The processed folder and the test clips: their formats, writers and readers, and the crops that training is fed with.

    dataset.json        format version, the config it was made from
    filenames.csv       one row per recording, in the order of the metadata
    {index}.npy         int16 PCM, mono, memory-mapped when read
    {index}.npz         note and pedal events in seconds
    {index}.json        the recording's row; written last, so that its presence means: this recording is whole

Test clips are pairs of clip_{number}_{source}_{start}s.wav and .npz in a folder with a clips.json.

Audio is stored once as 16-bit PCM and MIDI as events: features, crop length and output can change without
preprocessing again.
"""

import csv
import functools
import io
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

import audio
from atomic import atomic_file, claim, write_text
from conditioning import NoteConditioning
from config import DataConfig
from errors import InputError
from midi import Performance, load_events, save_events

FORMAT = 1
INDEX_NAME, RECORD_NAME, CLIPS_RECORD_NAME = "filenames.csv", "dataset.json", "clips.json"


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
    n_notes: int
    composer: str
    title: str


def begin_folder(folder: Path, made_from: dict[str, Any], *, force: bool) -> None:
    """Claim a folder for writing. Raises InputError if it holds something else (see `atomic.claim`)."""
    record = {"format": FORMAT, "made_from": made_from}
    claim(folder, RECORD_NAME, record, ("[0-9]*.npy", "[0-9]*.npz", "[0-9]*.json", INDEX_NAME), force=force)


def finished(folder: Path, index: int) -> Row | None:
    """The row of a recording that is whole in the folder already, else None."""
    path = folder / f"{index}.json"
    return Row(**json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else None


def write_recording(folder: Path, row: Row, pcm: np.ndarray, performance: Performance) -> None:
    """Write one recording: pcm int16 [T], its events, and last its row."""
    with atomic_file(folder / f"{row.index}.npy") as aside, open(aside, "wb") as handle:
        np.save(handle, pcm.astype(np.int16, casting="safe"), allow_pickle=False)
    save_events(folder / f"{row.index}.npz", performance)
    write_text(folder / f"{row.index}.json", json.dumps(asdict(row), ensure_ascii=False))


def finish_folder(folder: Path, rows: list[Row]) -> None:
    """Write filenames.csv: from here on the folder can be opened."""
    table = io.StringIO()
    writer = csv.DictWriter(table, list(Row.__dataclass_fields__), lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    write_text(folder / INDEX_NAME, table.getvalue())


@dataclass(frozen=True)
class Clip:
    """A test clip: what was played and what it sounded like."""

    name: str
    performance: Performance
    pcm: np.ndarray  # int16 [T]


def begin_clips(folder: Path, made_from: dict[str, Any], *, force: bool) -> None:
    """Claim a folder for test clips. Raises InputError if it holds something else (see `atomic.claim`)."""
    claim(folder, CLIPS_RECORD_NAME, made_from, ("clip_*.wav", "clip_*.npz", "clip_*.png"), force=force)


def write_clip(
    folder: Path, number: int, source: str, start: float, pcm: np.ndarray, performance: Performance, audio_hz: int
) -> str:
    """Write one test clip as a wav and its events; returns its name, which tells where it was cut."""
    name = f"clip_{number:03d}_{source}_{start:.3f}s"
    audio.write_wav(folder / f"{name}.wav", pcm, audio_hz)
    save_events(folder / f"{name}.npz", performance)
    return name


def read_clips(folder: str | Path, audio_hz: int) -> list[Clip]:
    """All test clips of a folder, by name. Raises InputError if there are none, or one of them is damaged."""
    folder = Path(folder)
    paths = sorted(folder.glob("clip_*.wav"))
    if not paths:
        raise InputError(f"{folder} holds no test clips; make some with preprocess_audio.py -d {folder}")
    return [Clip(p.stem, load_events(p.with_suffix(".npz")), audio.read_pcm(p, audio_hz)) for p in paths]


class ProcessedFolder:
    """A processed folder opened for reading. Raises InputError if it is not one, or not whole."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not (self.path / INDEX_NAME).is_file():
            raise InputError(
                f"{self.path} is not a processed folder (no {INDEX_NAME}); run preprocess_maestro.py first"
            )
        try:
            record = json.loads((self.path / RECORD_NAME).read_text(encoding="utf-8"))
            self.audio_hz = int(record["made_from"]["preprocess_config"]["audio_hz"])
            with open(self.path / INDEX_NAME, encoding="utf-8", newline="") as handle:
                kinds = {name: field.type for name, field in Row.__dataclass_fields__.items()}
                self.rows = [Row(**{k: kinds[k](v) for k, v in line.items()}) for line in csv.DictReader(handle)]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{self.path} is damaged ({error}); preprocess it again with --force") from error
        if record["format"] != FORMAT:
            raise InputError(f"{self.path} has format {record['format']}, expected {FORMAT}; preprocess it again")
        if not self.rows:
            raise InputError(f"{self.path} holds no recordings")

    @functools.lru_cache(maxsize=64)  # noqa: B019 - one folder lives as long as its process
    def pcm(self, position: int) -> np.ndarray:
        """The audio of the recording at this position of `rows`: int16 [T], memory-mapped."""
        row = self.rows[position]
        path = self.path / f"{row.index}.npy"
        try:
            pcm = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise InputError(f"{path} is missing or damaged ({error}); preprocess it again with --force") from error
        if pcm.dtype != np.int16 or pcm.shape != (row.n_samples,):
            raise InputError(f"{path} does not hold the {row.n_samples} samples that {INDEX_NAME} states")
        return pcm

    def performance(self, position: int) -> Performance:
        """The note and pedal events of the recording at this position of `rows`."""
        return load_events(self.path / f"{self.rows[position].index}.npz")


class Crops(Dataset):
    """Crops of a processed folder. Which crop an index means is a pure function of (seed, rank, index).

    Recordings are chosen by length, so that every frame of the data set is as likely as any other.
    """

    def __init__(
        self,
        folder: ProcessedFolder,
        config: DataConfig,
        *,
        margins: tuple[int, int],
        n_previous: int,
        codes: bool,
        seed: int,
        indices: range,
        rank: int = 0,
    ) -> None:
        if folder.audio_hz != config.audio_hz:
            raise InputError(
                f"{folder.path} is at {folder.audio_hz} Hz, but data_config.audio_hz = {config.audio_hz}; "
                "set it, or preprocess again at that rate"
            )
        self.folder, self.config = folder, config
        self.margins, self.n_previous, self.codes = margins, n_previous, codes
        self.seed, self.indices, self.rank = seed, indices, rank
        self.hop = config.audio_hz // config.midi_hz
        self.n_frames = max(1, round(config.segment_length * config.midi_hz))
        starts = [row.n_samples // self.hop - self.n_frames + 1 for row in folder.rows]
        if max(starts) <= 0:
            longest = max(row.duration for row in folder.rows)
            raise InputError(
                f"no recording in {folder.path} is as long as a crop of {config.segment_length} s "
                f"(the longest has {longest:.2f} s); lower data_config.segment_length"
            )
        self.cumulative = np.cumsum(np.maximum(starts, 0))

    def __len__(self) -> int:
        return len(self.indices)

    def where(self, index: int) -> tuple[int, int]:
        """The position in `folder.rows` and the first frame of a crop."""
        draw = np.random.Generator(np.random.Philox(key=[self.seed, self.rank], counter=[index, 0, 0, 0]))
        at = int(draw.integers(self.cumulative[-1]))
        position = int(np.searchsorted(self.cumulative, at, side="right"))
        return position, at - int(self.cumulative[position - 1]) if position else at

    @functools.lru_cache(maxsize=64)  # noqa: B019 - one set of crops lives as long as its process
    def conditioning(self, position: int) -> NoteConditioning:
        """The conditioning of a whole recording, to be asked for ranges of frames."""
        performance = self.folder.performance(position)
        return NoteConditioning(
            performance, self.config.features, audio_hz=self.config.audio_hz, midi_hz=self.config.midi_hz
        )

    def __getitem__(self, item: int) -> dict[str, torch.Tensor]:
        """One crop: samples [T], previous [K] (what stands before it), features [F, ...], excitation [E, T]."""
        position, frame = self.where(self.indices[item])
        first, n_samples = frame * self.hop, self.n_frames * self.hop
        pcm = np.zeros(self.n_previous + n_samples, dtype=np.int16)  # before a recording's first sample stands silence
        known = self.folder.pcm(position)[max(0, first - self.n_previous) : first + n_samples]
        pcm[len(pcm) - len(known) :] = known
        samples = torch.from_numpy((audio.mu_law_encode(pcm) if self.codes else pcm).astype(np.int64))
        notes, (left, right) = self.conditioning(position), self.margins
        crop = {
            "previous": samples[: self.n_previous],
            "samples": samples[self.n_previous :],
            "features": torch.from_numpy(notes.features(frame - left, left + self.n_frames + right)),
        }
        if self.config.excitation:
            crop["excitation"] = torch.from_numpy(notes.excitation(frame, self.n_frames))
        return crop


def batches(crops: Crops, batch_size: int, n_workers: int) -> DataLoader:
    """Batches of crops in the order of their indices, read ahead by worker processes."""
    return DataLoader(
        crops,
        batch_size=batch_size,
        num_workers=n_workers,
        pin_memory=torch.cuda.is_available(),
        prefetch_factor=4 if n_workers else None,
        persistent_workers=False,
    )
