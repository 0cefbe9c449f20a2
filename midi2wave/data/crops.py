"""Test clips, and the crops of a processed folder (`processed_folder.py`) that training is fed with.

Test clips are pairs of clip_{number}_{source}_{start}s.wav and .npz in a folder with a clips.json.
"""

import signal
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from midi2wave.audio import io as audio_io
from midi2wave.audio.mu_law import mu_law_encode
from midi2wave.audio.pcm import FULL_SCALE, silence, to_pcm
from midi2wave.audio.pre_emphasis import emphasize
from midi2wave.conditioning.global_conditioning import check_known
from midi2wave.conditioning.note_conditioning import NoteConditioning, NullConditioning, conditioning_of
from midi2wave.config import DataConfig
from midi2wave.data.processed_folder import ProcessedFolder
from midi2wave.midi.performance import Performance, load_events, save_events
from midi2wave.utils.atomic_files import acquire_output_dir
from midi2wave.utils.errors import InputError

CLIPS_RECORD_NAME = "clips.json"
CACHED_RECORDINGS = 500  # whose notes a process keeps: about 200 MB of MAESTRO, where each takes 2 ms to read
LEAST_HEARD_DRAWS = 100  # after so many silent crops in a row one is taken as it is
CLIP_FILES = ("clip_*.wav", "clip_*.npz", "clip_*.png")


@dataclass(frozen=True)
class Clip:
    """A test clip: what was played and what it sounded like."""

    name: str
    performance: Performance
    pcm: np.ndarray  # int16 [T]


def begin_clips(folder: Path, made_from: dict[str, Any], *, force: bool) -> None:
    """Claim a folder for test clips. Raises InputError if it holds something else (see `atomic.claim`)."""
    acquire_output_dir(folder, CLIPS_RECORD_NAME, made_from, CLIP_FILES, force=force)


def write_clip(
    folder: Path, number: int, source: str, start: float, pcm: np.ndarray, performance: Performance, audio_hz: int
) -> str:
    """Write one test clip as a wav and its events; returns its name, which tells where it was cut."""
    name = f"clip_{number:03d}_{source}_{start:.3f}s"
    audio_io.write_wav(folder / f"{name}.wav", pcm, audio_hz)
    save_events(folder / f"{name}.npz", performance)
    return name


def finish_clips(folder: Path, names: list[str]) -> None:
    """Remove clips that an earlier run cut and this one did not: one that failed then has shifted the numbers since."""
    for path in (path for pattern in CLIP_FILES for path in folder.glob(pattern)):
        if path.stem not in names:
            path.unlink()


def clip_source(name: str) -> str:
    """The recording that a clip of this name was cut from (see `write_clip`)."""
    return name.split("_", 2)[-1].rpartition("_")[0]


def clip_paths(folder: str | Path) -> list[Path]:
    """The wavs of all test clips of a folder, by name. Raises InputError if there are none."""
    folder = Path(folder)
    paths = sorted(folder.glob("clip_*.wav"))
    if not paths:
        raise InputError(f"{folder} holds no test clips; make some with preprocess_audio.py -d {folder}")
    return paths


def read_clip(path: Path, audio_hz: int) -> Clip:
    """One test clip. Raises InputError if it is damaged or at another rate."""
    return Clip(path.stem, load_events(path.with_suffix(".npz")), audio_io.read_pcm(path, audio_hz))


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
        context_frames: tuple[int, int],
        n_previous: int,
        codes: bool,
        seed: int,
        warmup_frames: int = 0,
        history_noise: Callable[[int], float] | None = None,
        history_mixing: Callable[[int], float] | None = None,
        history_dropout: float = 0.0,
        conditioning_dropout: float = 0.0,
    ) -> None:
        folder.check_rate(config.audio_hz)
        for row, recording in zip(folder.rows, folder.recordings, strict=True):
            check_known(recording, config.global_values, f"{folder.path}: {row.audio_filename}")
        self.folder, self.config = folder, config
        self.context_frames, self.n_previous, self.codes = context_frames, n_previous, codes
        self.seed, self.history_noise = seed, history_noise
        self.history_mixing = history_mixing
        self.history_dropout, self.conditioning_dropout = history_dropout, conditioning_dropout
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
        """The position in `folder.rows` and the first frame of a crop: the first draw that is not too silent."""
        for attempt in range(LEAST_HEARD_DRAWS):
            position, frame = self._draw(index, attempt)
            if self.config.max_silence >= 1 or self._silence(position, frame) <= self.config.max_silence:
                break
        return position, frame

    def _draw(self, index: int, attempt: int) -> tuple[int, int]:
        draw = np.random.Generator(np.random.Philox(key=[self.seed, 0], counter=[index, 0, 0, attempt]))
        at = int(draw.integers(self.cumulative[-1]))
        position = int(np.searchsorted(self.cumulative, at, side="right"))
        return position, at - int(self.cumulative[position - 1]) if position else at

    def _silence(self, position: int, frame: int) -> float:
        """The silent part of the crop that begins there, in 0..1."""
        crop = self.folder.pcm(position)[frame * self.hop : (frame + self.n_frames) * self.hop]
        silent = silence(crop, self.config.audio_hz)
        return float(silent.mean()) if len(silent) else 0.0

    def conditioning(self, position: int) -> NoteConditioning | NullConditioning:
        """The conditioning of a whole recording, to be asked for ranges of frames."""
        if position not in self._notes:
            if len(self._notes) == CACHED_RECORDINGS:
                del self._notes[next(iter(self._notes))]
            performance = self.folder.performance(position) if self.config.conditional else None
            self._notes[position] = conditioning_of(performance, self.config)
        return self._notes[position]

    def _emphasized(self, position: int, first: int, stop: int) -> np.ndarray:
        """What a recording has of the samples first..stop-1, as the model hears them: int16 [at most stop - first]."""
        begin = max(0, first)
        before = min(1, begin)  # the change from it is the first sample's
        return emphasize(self.folder.pcm(position)[begin - before : stop], self.config.preemphasis)[before:]

    def _samples(self, pcm: np.ndarray) -> torch.Tensor:
        return torch.from_numpy((mu_law_encode(pcm) if self.codes else pcm).astype(np.int64))

    def _corrupted(self, pcm: np.ndarray, index: int) -> np.ndarray:
        """The crop as the decoder is shown it: with white noise and another crop's sound, of levels drawn anew for
        every crop; or noise alone, up to as loud as the crop."""
        dropped = self._chosen(index, 2, self.history_dropout)
        largest = 1.0 if dropped else self.history_noise(index) if self.history_noise else 0.0
        largest_other = self.history_mixing(index) if self.history_mixing else 0.0
        if not largest and not largest_other:
            return pcm
        rng = self._random(index, 1)
        amplitude = pcm.astype(np.float32) / FULL_SCALE
        loudness = _rms(amplitude)
        shown = rng.uniform(0, largest) * loudness * rng.standard_normal(len(pcm), dtype=np.float32)
        if not dropped:
            shown += amplitude
            if largest_other:
                shown += rng.uniform(0, largest_other) * loudness * self._interference(index, len(pcm))
        return to_pcm(shown)[0]

    def _interference(self, index: int, n_samples: int) -> np.ndarray:
        """The sound of another crop, float32 [n_samples] with an RMS of 1, or silence."""
        position, frame = self._draw(index, LEAST_HEARD_DRAWS)  # one that `where` never takes
        other = np.zeros(n_samples, dtype=np.float32)
        known = self._emphasized(position, frame * self.hop, frame * self.hop + n_samples)
        other[: len(known)] = known
        return other / max(_rms(other), 1.0)  # in steps of 16 bits

    def _random(self, index: int, purpose: int) -> np.random.Generator:
        # The lowest word of the counter runs on while numbers are drawn: every crop has it for itself.
        return np.random.Generator(np.random.Philox(key=[self.seed, 0], counter=[0, index, purpose, 0]))

    def _chosen(self, index: int, purpose: int, share: float) -> bool:
        """Whether this crop is one of a share of all of them."""
        return share > 0 and self._random(index, purpose).random() < share

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        """One crop: samples [T], history [M + T] (what the decoder sees, with M samples before the crop), features
        [F + G, left + N + right], excitation [E, T]."""
        position, frame = self.where(index)
        first, n_samples = frame * self.hop, self.n_frames * self.hop
        pcm = np.zeros(self.n_previous + n_samples, dtype=np.int16)  # before a recording's first sample stands silence
        known = self._emphasized(position, first - self.n_previous, first + n_samples)
        pcm[len(pcm) - len(known) :] = known
        notes, (left, right) = self.conditioning(position), self.context_frames
        if self._chosen(index, 3, self.conditioning_dropout):
            notes = NullConditioning(self.config, notes.of_recording)
        crop = {
            "samples": self._samples(pcm[self.n_previous :]),
            "history": self._samples(self._corrupted(pcm, index)),
            "features": torch.from_numpy(notes.features(frame - left, left + self.n_frames + right)),
        }
        if self.config.excitation:
            crop["excitation"] = torch.from_numpy(notes.excitation(frame, self.n_frames))
        return crop


def _rms(sound: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(sound), dtype=np.float64)))


def _ignore_interrupts(_worker: int) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


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

    The workers leave SIGINT and SIGTERM to the process that they work for. Raises InputError where a recording turns
    out to be damaged.
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
