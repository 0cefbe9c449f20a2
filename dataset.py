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
import io
import json
import signal
from collections.abc import Callable, Iterable, Iterator
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
from maestro import Recording
from midi import Performance, load_events, save_events

FORMAT = 1
INDEX_NAME, RECORD_NAME, CLIPS_RECORD_NAME = "filenames.csv", "dataset.json", "clips.json"
CLIP_FILES = ("clip_*.wav", "clip_*.npz", "clip_*.png")


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
    claim(folder, RECORD_NAME, record, ("[0-9]*.npy", "[0-9]*.npz", "[0-9]*.json", INDEX_NAME), force=force)


def finished(folder: Path, recording: Recording) -> Row | None:
    """The row of a recording that is whole in the folder already, else None.

    Raises InputError if another recording stands under its index: the metadata have changed since that was written.
    """
    try:
        row = Row(**json.loads((folder / f"{recording.index}.json").read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError, TypeError):
        return None
    for name in ("audio_filename", "midi_filename", "split"):
        there, expected = getattr(row, name), getattr(recording, name)
        if there != expected:
            raise InputError(
                f"{folder} holds another recording under index {recording.index} "
                f"({name} {there!r} instead of {expected!r}); use --force or another folder"
            )
    return row


def write_recording(folder: Path, row: Row, pcm: np.ndarray, performance: Performance) -> None:
    """Write one recording: pcm int16 [T], its events, and last its row."""
    samples = np.ascontiguousarray(pcm.astype(np.int16, casting="safe"))
    with atomic_file(folder / f"{row.index}.npy") as aside, open(aside, "wb") as handle:
        # What np.save does, but by Python's write, whose OSErrors say that the disk is full.
        np.lib.format.write_array_header_1_0(handle, np.lib.format.header_data_from_array_1_0(samples))
        handle.write(samples.data)
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
    claim(folder, CLIPS_RECORD_NAME, made_from, CLIP_FILES, force=force)


def write_clip(
    folder: Path, number: int, source: str, start: float, pcm: np.ndarray, performance: Performance, audio_hz: int
) -> str:
    """Write one test clip as a wav and its events; returns its name, which tells where it was cut."""
    name = f"clip_{number:03d}_{source}_{start:.3f}s"
    audio.write_wav(folder / f"{name}.wav", pcm, audio_hz)
    save_events(folder / f"{name}.npz", performance)
    return name


def finish_clips(folder: Path, names: list[str]) -> None:
    """Remove clips that an earlier run cut and this one did not: one that failed then has shifted the numbers since."""
    for path in (path for pattern in CLIP_FILES for path in folder.glob(pattern)):
        if path.stem not in names:
            path.unlink()


def clip_paths(folder: str | Path) -> list[Path]:
    """The wavs of all test clips of a folder, by name. Raises InputError if there are none."""
    folder = Path(folder)
    paths = sorted(folder.glob("clip_*.wav"))
    if not paths:
        raise InputError(f"{folder} holds no test clips; make some with preprocess_audio.py -d {folder}")
    return paths


def read_clip(path: Path, audio_hz: int) -> Clip:
    """One test clip. Raises InputError if it is damaged or at another rate."""
    return Clip(path.stem, load_events(path.with_suffix(".npz")), audio.read_pcm(path, audio_hz))


class ProcessedFolder:
    """A processed folder opened for reading. Raises InputError if it is not one, or not whole."""

    def __init__(self, path: str | Path) -> None:
        self.path, self._pcm = Path(path), {}
        if not (self.path / INDEX_NAME).is_file():
            raise InputError(
                f"{self.path} is not a processed folder (no {INDEX_NAME}); run preprocess_maestro.py first"
            )
        try:
            record = json.loads((self.path / RECORD_NAME).read_text(encoding="utf-8"))
            if record["format"] != FORMAT:
                raise InputError(f"{self.path} has format {record['format']}, expected {FORMAT}; preprocess it again")
            self.audio_hz = int(record["made_from"]["preprocess_config"]["audio_hz"])
            with open(self.path / INDEX_NAME, encoding="utf-8", newline="") as handle:
                kinds = {name: field.type for name, field in Row.__dataclass_fields__.items()}
                self.rows = [Row(**{k: kinds[k](v) for k, v in line.items()}) for line in csv.DictReader(handle)]
        except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
            raise InputError(f"{self.path} is damaged ({error}); preprocess it again with --force") from error
        if not self.rows:
            raise InputError(f"{self.path} holds no recordings")

    def pcm(self, position: int) -> np.ndarray:
        """The audio of the recording at this position of `rows`: int16 [T], memory-mapped."""
        if position in self._pcm:
            return self._pcm[position]
        row = self.rows[position]
        path = self.path / f"{row.index}.npy"
        try:
            pcm = np.lib.format.open_memmap(path, mode="r")
        except (OSError, ValueError) as error:
            raise InputError(f"{path} is missing or damaged ({error}); preprocess it again with --force") from error
        if pcm.dtype != np.int16 or pcm.shape != (row.n_samples,):
            raise InputError(f"{path} does not hold the {row.n_samples} samples that {INDEX_NAME} states")
        self._pcm[position] = pcm
        return pcm

    def performance(self, position: int) -> Performance:
        """The note and pedal events of the recording at this position of `rows`."""
        return load_events(self.path / f"{self.rows[position].index}.npz")


class Crops(Dataset):
    """Crops of a processed folder, without end. Which crop an index means is a pure function of (seed, index).

    Recordings are chosen by length, so that every frame of the data set is as likely as any other. In front of a crop
    may stand `warmup_frames` more, which are there for the decoder's receptive field and are not to be scored.
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
        warmup_frames: int = 0,
        history_noise: Callable[[int], float] | None = None,
    ) -> None:
        if folder.audio_hz != config.audio_hz:
            raise InputError(
                f"{folder.path} is at {folder.audio_hz} Hz, but data_config.audio_hz = {config.audio_hz}; "
                "set it, or preprocess again at that rate"
            )
        self.folder, self.config = folder, config
        self.margins, self.n_previous, self.codes = margins, n_previous, codes
        self.seed, self.history_noise = seed, history_noise
        self.hop, self._notes = config.audio_hz // config.midi_hz, {}
        self.n_frames = warmup_frames + max(1, round(config.segment_length * config.midi_hz))
        starts = [row.n_samples // self.hop - self.n_frames + 1 for row in folder.rows]
        if max(starts) <= 0:
            longest = max(row.duration for row in folder.rows)
            raise InputError(
                f"no recording in {folder.path} is as long as a crop of {self.n_frames / config.midi_hz:g} s "
                f"(the longest has {longest:.2f} s); lower data_config.segment_length"
            )
        self.cumulative = np.cumsum(np.maximum(starts, 0))

    def where(self, index: int) -> tuple[int, int]:
        """The position in `folder.rows` and the first frame of a crop."""
        draw = np.random.Generator(np.random.Philox(key=[self.seed, 0], counter=[index, 0, 0, 0]))
        at = int(draw.integers(self.cumulative[-1]))
        position = int(np.searchsorted(self.cumulative, at, side="right"))
        return position, at - int(self.cumulative[position - 1]) if position else at

    def conditioning(self, position: int) -> NoteConditioning:
        """The conditioning of a whole recording, to be asked for ranges of frames."""
        if position not in self._notes:
            performance, config = self.folder.performance(position), self.config
            self._notes[position] = NoteConditioning(
                performance, config.features, audio_hz=config.audio_hz, midi_hz=config.midi_hz
            )
        return self._notes[position]

    def _samples(self, pcm: np.ndarray) -> torch.Tensor:
        return torch.from_numpy((audio.mu_law_encode(pcm) if self.codes else pcm).astype(np.int64))

    def _corrupted(self, pcm: np.ndarray, index: int) -> np.ndarray:
        """The crop as the decoder is shown it: with white noise, of a level drawn anew for every crop."""
        largest = self.history_noise(index) if self.history_noise else 0.0
        if not largest:
            return pcm
        # The lowest word of the counter runs on while numbers are drawn: every crop has it for itself.
        rng = np.random.Generator(np.random.Philox(key=[self.seed, 0], counter=[0, index, 1, 0]))
        amplitude = pcm.astype(np.float32) / audio.FULL_SCALE
        level = rng.uniform(0, largest) * np.sqrt(np.mean(amplitude**2))
        return audio.to_pcm(amplitude + level * rng.standard_normal(len(pcm), dtype=np.float32))[0]

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        """One crop: samples [T], history [M + T] (what the decoder sees, with M samples before the crop), features
        [F, left + N + right], excitation [E, T]."""
        position, frame = self.where(index)
        first, n_samples = frame * self.hop, self.n_frames * self.hop
        pcm = np.zeros(self.n_previous + n_samples, dtype=np.int16)  # before a recording's first sample stands silence
        known = self.folder.pcm(position)[max(0, first - self.n_previous) : first + n_samples]
        pcm[len(pcm) - len(known) :] = known
        notes, (left, right) = self.conditioning(position), self.margins
        crop = {
            "samples": self._samples(pcm[self.n_previous :]),
            "history": self._samples(self._corrupted(pcm, index)),
            "features": torch.from_numpy(notes.features(frame - left, left + self.n_frames + right)),
        }
        if self.config.excitation:
            crop["excitation"] = torch.from_numpy(notes.excitation(frame, self.n_frames))
        return crop


def _ignore_interrupts(_worker: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def micro_batches(steps: range, batch_size: int, micro_batch_size: int, rank: int, size: int) -> Iterator[list[int]]:
    """The crops of one of `size` processes, in the order in which it passes them through the model.

    Step s is made of the crops [s * batch_size, (s + 1) * batch_size), however many processes there are; each takes an
    equal stretch of them.
    """
    share = batch_size // size
    for step in steps:
        first = step * batch_size + rank * share
        for begin in range(first, first + share, micro_batch_size):
            yield list(range(begin, begin + micro_batch_size))


def batches(
    crops: Crops, indices: Iterable[list[int]], n_workers: int, *, pin_memory: bool = False
) -> Iterator[dict[str, torch.Tensor]]:
    """Batches of the crops of these indices, read ahead by worker processes.

    The workers leave SIGINT to the process that they work for. Raises InputError where a recording turns out to be
    damaged.
    """
    loader = DataLoader(
        crops,
        batch_sampler=indices,
        num_workers=n_workers,
        pin_memory=pin_memory,
        worker_init_fn=_ignore_interrupts,
        prefetch_factor=4 if n_workers else None,
        persistent_workers=False,
    )
    try:
        yield from loader
    except InputError as error:  # a worker's arrives with the traceback before its message
        message = str(error).strip().splitlines()[-1].removeprefix(f"{InputError.__module__}.InputError: ")
        error.__traceback__ = None  # its frames hold the workers, which are slow to stop if left to the collector
        raise InputError(message) from None
