"""Models with global conditioning, performances with labels, and a processed folder with them."""

import csv
from dataclasses import replace

import numpy as np
import torch

from midi2wave.config import Config, TrainConfig
from midi2wave.data import processed_folder
from midi2wave.midi.performance import Performance
from midi2wave.sampling.options import SamplingOptions
from midi2wave.sampling.synthesis import synthesize
from tests.helpers import synthesis_models
from tests.helpers.processed_data import write_folder
from tests.helpers.synthesis_models import N_FRAMES, make_performance

VALUES = ["year=2008", "year=2009"]


def make_config(*args, **data) -> Config:
    """As `synthesis_models.make_config`, with two labels and a block for training."""
    data = {"global_values": VALUES, "conditioning_dropout": 0.1, "features": ["paper_v1"]} | data
    training = TrainConfig(output_directory="run", validation_crops=4)
    return replace(synthesis_models.make_config(*args, **data), train_config=training)


def make(*args, **data):
    """A model of `make_config` whose output is sensitive to its conditioning, and its data config."""
    config = make_config(*args, **data)
    model = synthesis_models.build(config)
    torch.nn.init.normal_(model.context.global_embedding.weight, std=3.0)
    return model, config.data_config


def of(value: str, seed=0) -> Performance:
    """A performance with a label; without any for the empty string."""
    return replace(make_performance(seed), global_labels=(value, "index=3") if value else ())


def play(model, data, performances, **options) -> np.ndarray:
    """Free-running audio of performances with the same random numbers, int16 [B, T]."""
    streams, sampling = [0] * len(performances), SamplingOptions(seed=5, **options)
    blocks = synthesize(model, performances, N_FRAMES, data, options=sampling, streams=streams)
    return np.concatenate(list(blocks), axis=1)


def write_years(folder, years, lengths=(1700, 900)):
    """`write_folder` with these years and a column of its own."""
    write_folder(folder, list(lengths))
    path = folder / processed_folder.INDEX_NAME
    with open(path, encoding="utf-8", newline="") as handle:
        rows = list(csv.DictReader(handle))
    for row, year in zip(rows, years, strict=True):
        row |= {"year": year, "piano": 3}
    with open(path, "w", encoding="utf-8", newline="") as handle:
        writer = csv.DictWriter(handle, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return folder
