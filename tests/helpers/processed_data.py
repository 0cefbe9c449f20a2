"""A small processed folder of noise, and crops of it."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from midi2wave.config import DataConfig
from midi2wave.data import processed_folder
from midi2wave.data.crops import NO_AUGMENTATION, CropAugmentation, Crops
from midi2wave.data.processed_folder import ProcessedFolder, Row
from midi2wave.midi.performance import Performance

AUDIO_HZ = 4000
MIDI_HZ = 250
HOP = 16
MADE_FROM = {"preprocess_config": {"audio_hz": AUDIO_HZ}}
CONTEXT_FRAMES = (3, 2)
N_NOTES = 12


def make_performance(seed: int, seconds: float) -> Performance:
    """Random notes within so many seconds."""
    rng = np.random.default_rng(seed)
    onset = np.sort(rng.uniform(0, seconds, 12))
    return Performance(
        onset=onset,
        offset=onset + 0.1,
        pitch=rng.integers(40, 80, 12),
        velocity=rng.integers(1, 128, 12),
        pedals={64: np.array([[0.0, 127.0], [0.1, 0.0]]), 66: np.zeros((0, 2)), 67: np.zeros((0, 2))},
    )


def write_folder(folder: Path, lengths: list[int]) -> list[np.ndarray]:
    """A processed folder with recordings of these many samples; returns their audio."""
    processed_folder.begin_folder(folder, MADE_FROM, force=False)
    rows, sounds = [], []
    for index, n_samples in enumerate(lengths):
        pcm = np.random.default_rng(index).integers(-20000, 20000, n_samples).astype(np.int16)
        seconds = n_samples / AUDIO_HZ
        row = Row(
            index, f"2004/é {index}.wav", f"{index}.midi", "train", 2004, seconds, n_samples, 12, 'A "B", C', "D\nE"
        )
        processed_folder.write_recording(folder, row, pcm, make_performance(index, seconds))
        rows.append(row)
        sounds.append(pcm)
    processed_folder.finish_folder(folder, rows)
    return sounds


def make_crops(
    folder: Path,
    *,
    seed: int = 1,
    n_previous: int = 10,
    codes: bool = False,
    warmup_frames: int = 0,
    augmentation: CropAugmentation = NO_AUGMENTATION,
    **options: Any,
) -> Crops:
    """Crops of 0.2 s; `options` are those of DataConfig."""
    config = DataConfig(**{"audio_hz": AUDIO_HZ, "midi_hz": MIDI_HZ, "segment_length": 0.2, **options})
    opened = ProcessedFolder(folder)
    return Crops(
        opened,
        config,
        context_frames=CONTEXT_FRAMES,
        n_previous=n_previous,
        codes=codes,
        seed=seed,
        warmup_frames=warmup_frames,
        augmentation=augmentation,
    )


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    """Whether two crops have the same tensors."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
