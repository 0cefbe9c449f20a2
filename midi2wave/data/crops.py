"""Training crops of a processed folder, and the augmentations of their history."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from midi2wave.audio.mu_law import mu_law_encode
from midi2wave.audio.pcm import FULL_SCALE, silent_blocks, to_pcm
from midi2wave.audio.pre_emphasis import emphasize
from midi2wave.conditioning.global_conditioning import require_known_labels
from midi2wave.conditioning.history_level import level_amplitude, set_level
from midi2wave.conditioning.note_conditioning import NoteConditioning, NullConditioning, conditioning_for
from midi2wave.config import MIN_HISTORY_LEVEL, DataConfig
from midi2wave.data.processed_folder import ProcessedFolder
from midi2wave.utils.cli import count_of
from midi2wave.utils.errors import InputError
from midi2wave.utils.text import join_names

# A process keeps the notes of so many recordings: about 200 MB of MAESTRO, where each takes 2 ms to read.
CACHED_RECORDINGS = 500
# After so many silent crops in a row, one is taken as it is.
MAX_SILENT_REDRAWS = 100
# A message names so many recordings.
MAX_LISTED_ROWS = 3
# Number of the draw of a history that is mixed in, which is no attempt of `locate_crop`.
MIXING_DRAW = MAX_SILENT_REDRAWS
# Number of the draw among what is left, if all attempts overlap earlier crops.
REMAINING_DRAW = MAX_SILENT_REDRAWS + 1

# Each purpose for which a crop draws random numbers has its own stream of them.
NOISE_STREAM = 1
HISTORY_DROPOUT_STREAM = 2
CONDITIONING_DROPOUT_STREAM = 3
HISTORY_LEVEL_STREAM = 4
SILENT_HISTORY_STREAM = 5

# Share of the dropped histories that are silent at any level, for models that are conditioned on the level: without
# them a model that takes its past to be clean remains silent once it is.
SILENT_SHARE = 0.5


@dataclass(frozen=True)
class CropAugmentation:
    """Random changes of what the decoder receives as input; the samples that it is to predict stay as they are.

    Attributes:
        history_noise: Index of a crop -> largest level of white noise on its history, relative to the crop's RMS.
        history_mixing: Index of a crop -> largest level of a second crop that is mixed into its history, likewise.
        history_dropout: Probability that noise alone takes the place of the history.
        conditioning_dropout: Probability that the null condition takes the place of the notes.
    """

    history_noise: Callable[[int], float] | None = None
    history_mixing: Callable[[int], float] | None = None
    history_dropout: float = 0.0
    conditioning_dropout: float = 0.0


NO_AUGMENTATION = CropAugmentation()


class Crops(Dataset[dict[str, torch.Tensor]]):
    """Crops of a processed folder, without end. Which crop an index means is a pure function of (seed, index).

    Recordings are chosen by length, so that every frame of the data set is as likely as any other. A crop may be
    preceded by `warmup_frames`, which are there for the decoder's receptive field and are not to be scored.
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
        augmentation: CropAugmentation = NO_AUGMENTATION,
    ) -> None:
        """Check the folder against the config.

        Args:
            folder: Where the recordings are read from.
            config: Rates, features and length of a crop.
            context_frames: Frames of features before and after a crop.
            n_previous: Samples of history before a crop.
            codes: Whether samples are mu-law codes instead of 16-bit PCM.
            seed: Seed of positions and augmentations.
            warmup_frames: Frames in front of each crop.
            augmentation: What happens to the decoder's input.

        Raises:
            InputError: The folder is at another rate, has labels that the config does not list, or holds no recording
                that is as long as a crop.
        """
        folder.check_rate(config.audio_hz)
        for row, labels in zip(folder.rows, folder.global_labels, strict=True):
            require_known_labels(labels, config.global_values, f"{folder.path}: {row.audio_filename}")
        self.folder = folder
        self.config = config
        self.context_frames = context_frames
        self.n_previous = n_previous
        self.codes = codes
        self.seed = seed
        self.augmentation = augmentation
        self.hop = config.audio_hz // config.midi_hz
        self.n_scored_frames = max(1, round(config.segment_length * config.midi_hz))
        self.n_frames = warmup_frames + self.n_scored_frames
        self._conditionings: dict[int, NoteConditioning | NullConditioning] = {}
        n_starts = [row.n_samples // self.hop - self.n_frames + 1 for row in folder.rows]
        if max(n_starts) <= 0:
            longest = max(row.duration for row in folder.rows)
            raise InputError(
                f"no recording in {folder.path} is as long as a crop of {self.n_frames / config.midi_hz:g} s "
                f"(the longest has {longest:.2f} s); lower data_config.segment_length"
            )
        self.cumulative_starts = np.cumsum(np.maximum(n_starts, 0))

    def describe_unused(self) -> str:
        """In words, which recordings are not used because they are shorter than a crop; empty if there are none."""
        n_starts = np.diff(self.cumulative_starts, prepend=0)
        unused = [row for row, n in zip(self.folder.rows, n_starts, strict=True) if not n]
        if not unused:
            return ""
        by_length = sorted(unused, key=lambda row: -row.duration)
        names = join_names((f"{row.audio_filename} ({row.duration:.2f} s)" for row in by_length), MAX_LISTED_ROWS)
        warmup = " with the samples before it" if self.n_frames > self.n_scored_frames else ""
        return (
            f"{self.folder.path}: {len(by_length)} of {count_of(len(self.folder.rows), 'recording')}, "
            f"{sum(row.duration for row in by_length):.1f} s, not used: shorter than a crop of "
            f"{self.n_frames / self.config.midi_hz:g} s{warmup}: {names}; lower "
            "data_config.segment_length to use them"
        )

    def locate_crop(self, index: int) -> tuple[int, int]:
        """The position in `folder.rows` and the first frame of a crop: the first draw that is not too silent."""
        for attempt in range(MAX_SILENT_REDRAWS):
            position, frame = self._draw_position(index, attempt)
            if self._is_audible(position, frame):
                break
        return position, frame

    def locate_distinct_crops(self, n: int) -> list[tuple[int, int]]:
        """The positions in `folder.rows` and the first frames of n crops whose scored parts do not overlap.

        A crop is where `locate_crop` has it, unless it would overlap one before it. Of more crops the first n are the
        same.

        Returns:
            Fewer than n places where there is no room for more.
        """
        places: list[tuple[int, int]] = []
        for index in range(n):
            draws = (self._draw_position(index, attempt) for attempt in range(MAX_SILENT_REDRAWS))
            place = next((one for one in draws if not self._overlaps(one, places) and self._is_audible(*one)), None)
            if place is None and (place := self._draw_remaining(index, places)) is None:
                break
            places.append(place)
        return places

    def _overlaps(self, place: tuple[int, int], others: list[tuple[int, int]]) -> bool:
        position, frame = place
        return any(position == there and abs(frame - begin) < self.n_scored_frames for there, begin in others)

    def _draw_remaining(self, index: int, places: list[tuple[int, int]]) -> tuple[int, int] | None:
        """Draw one of all places at which a crop overlaps none of `places`; None if there is none."""
        free = np.ones(self.cumulative_starts[-1], dtype=bool)
        for position, frame in places:
            first = self.cumulative_starts[position - 1] if position else 0
            begin, end = frame - self.n_scored_frames + 1, frame + self.n_scored_frames
            free[max(first, first + begin) : min(first + end, self.cumulative_starts[position])] = False
        remaining = np.flatnonzero(free)
        return self._place(int(self._draw(index, REMAINING_DRAW).choice(remaining))) if len(remaining) else None

    def _is_audible(self, position: int, frame: int) -> bool:
        return self.config.max_silence >= 1 or self._silent_fraction(position, frame) <= self.config.max_silence

    def _draw(self, index: int, attempt: int) -> np.random.Generator:
        return np.random.Generator(np.random.Philox(key=[self.seed, 0], counter=[index, 0, 0, attempt]))

    def __getstate__(self) -> dict[str, Any]:
        """What a worker process receives: it reads the notes itself."""
        return self.__dict__ | {"_conditionings": {}}

    def _draw_position(self, index: int, attempt: int) -> tuple[int, int]:
        return self._place(int(self._draw(index, attempt).integers(self.cumulative_starts[-1])))

    def _place(self, start: int) -> tuple[int, int]:
        """Position and first frame of a crop, from its number among all possible ones."""
        position = int(np.searchsorted(self.cumulative_starts, start, side="right"))
        return position, start - int(self.cumulative_starts[position - 1]) if position else start

    def _silent_fraction(self, position: int, frame: int) -> float:
        """The silent part of the crop that begins there, in 0..1."""
        crop = self.folder.pcm(position)[frame * self.hop : (frame + self.n_frames) * self.hop]
        silent = silent_blocks(crop, self.config.audio_hz)
        return float(silent.mean()) if len(silent) else 0.0

    def conditioning(self, position: int) -> NoteConditioning | NullConditioning:
        """The conditioning of a whole recording, from which ranges of frames can be taken."""
        if position not in self._conditionings:
            if len(self._conditionings) == CACHED_RECORDINGS:
                del self._conditionings[next(iter(self._conditionings))]
            performance = self.folder.performance(position) if self.config.conditional else None
            self._conditionings[position] = conditioning_for(performance, self.config)
        return self._conditionings[position]

    def _emphasized(self, position: int, first: int, stop: int) -> np.ndarray:
        """What a recording has of the pre-emphasised samples first..stop-1: int16 [at most stop - first]."""
        begin = max(0, first)
        n_before = min(1, begin)  # The first sample's difference is taken from the sample before it.
        return emphasize(self.folder.pcm(position)[begin - n_before : stop], self.config.preemphasis)[n_before:]

    def _as_model_input(self, pcm: np.ndarray) -> torch.Tensor:
        """int16 [T] -> int64 [T]: the samples or their mu-law codes."""
        return torch.from_numpy((mu_law_encode(pcm) if self.codes else pcm).astype(np.int64))

    def augment_history(self, pcm: np.ndarray, index: int) -> np.ndarray:
        """The history of a crop as the decoder receives it.

        White noise and a second crop are mixed in at levels that are drawn for every crop, or at the level that is
        part of the crop's condition. A dropped history is noise alone, at most as loud as the crop, or silent.

        Args:
            pcm: Pre-emphasised samples, int16 [T].
            index: Index of the crop.

        Returns:
            int16 [T].
        """
        augmentation = self.augmentation
        dropped = self._is_dropped(index)
        if dropped and self._is_silent(index):
            return np.zeros_like(pcm)
        # The level that is a condition of the crop is exact; it is drawn log-uniformly, since nearly clean histories
        # would be rare otherwise.
        conditioned = self.config.history_level_input
        factor = level_amplitude(self.history_level(index)) if conditioned else 1.0
        max_noise = factor * augmentation.history_noise(index) if augmentation.history_noise else 0.0
        if dropped:
            max_noise = 1.0
        max_mixing = factor * augmentation.history_mixing(index) if augmentation.history_mixing else 0.0
        if not max_noise and not max_mixing:
            return pcm
        rng = self._random(index, NOISE_STREAM)
        amplitude = pcm.astype(np.float32) / FULL_SCALE
        level = _rms(amplitude)
        augmented = rng.uniform(0, max_noise) * level * rng.standard_normal(len(pcm), dtype=np.float32)
        if not dropped:
            augmented += amplitude
            if max_mixing:
                mixing = max_mixing if conditioned else rng.uniform(0, max_mixing)
                augmented += mixing * level * self._other_crop(index, len(pcm))
        return to_pcm(augmented)[0]

    def history_level(self, index: int) -> float:
        """Level of the disturbance of a crop's history as a condition, in dB relative to the maximum."""
        augmentation = self.augmentation
        if not augmentation.history_noise and not augmentation.history_mixing:
            return MIN_HISTORY_LEVEL
        if self._is_dropped(index) and not self._is_silent(index):
            return 0.0
        return float(self._random(index, HISTORY_LEVEL_STREAM).uniform(MIN_HISTORY_LEVEL, 0))

    def _is_dropped(self, index: int) -> bool:
        return self._bernoulli(index, HISTORY_DROPOUT_STREAM, self.augmentation.history_dropout)

    def _is_silent(self, index: int) -> bool:
        """Whether a dropped history is silent."""
        return self.config.history_level_input and self._bernoulli(index, SILENT_HISTORY_STREAM, SILENT_SHARE)

    def _other_crop(self, index: int, n_samples: int) -> np.ndarray:
        """A second crop, float32 [n_samples] with an RMS of 1, or silence."""
        position, frame = self._draw_position(index, MIXING_DRAW)
        samples = self._emphasized(position, frame * self.hop, frame * self.hop + n_samples)
        other = np.zeros(n_samples, dtype=np.float32)
        other[: len(samples)] = samples
        return other / max(_rms(other), 1.0)  # The samples are integers of 16 bits: 1 is the smallest level.

    def _random(self, index: int, stream: int) -> np.random.Generator:
        # The lowest word of the counter runs on while numbers are drawn: every crop has it for itself.
        return np.random.Generator(np.random.Philox(key=[self.seed, 0], counter=[0, index, stream, 0]))

    def _bernoulli(self, index: int, stream: int, probability: float) -> bool:
        return probability > 0 and self._random(index, stream).random() < probability

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        """One crop; see `crop_at`."""
        return self.crop_at(*self.locate_crop(index), index)

    def crop_at(self, position: int, frame: int, index: int) -> dict[str, torch.Tensor]:
        """The crop at a place.

        Args:
            position: Position of the recording in `folder.rows`.
            frame: Its first frame.
            index: Its index, by which the random numbers of the augmentations are drawn.

        Returns:
            "index": int64 []. "samples": what is to be predicted, int64 [T]. "history": what the decoder receives, with
            M samples before the crop, int64 [M + T]. "features": float32 [F + G, left + N + right]. "excitation":
            float32 [E, T].
        """
        first = frame * self.hop
        n_samples = self.n_frames * self.hop
        samples = self._emphasized(position, first - self.n_previous, first + n_samples)
        pcm = np.zeros(self.n_previous + n_samples, dtype=np.int16)  # Silence stands before the first sample.
        pcm[len(pcm) - len(samples) :] = samples
        conditioning = self.conditioning(position)
        left, right = self.context_frames
        if self._bernoulli(index, CONDITIONING_DROPOUT_STREAM, self.augmentation.conditioning_dropout):
            conditioning = NullConditioning(self.config, conditioning.global_features.tolist())
        features = conditioning.features(frame - left, left + self.n_frames + right)
        if self.config.history_level_input:
            set_level(features, self.history_level(index))
        return {
            "index": torch.tensor(index),
            "samples": self._as_model_input(pcm[self.n_previous :]),
            "history": self._as_model_input(self.augment_history(pcm, index)),
            "features": torch.from_numpy(features),
            "excitation": torch.from_numpy(conditioning.excitation(frame, self.n_frames)),
        }


def _rms(sound: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(sound), dtype=np.float64)))
