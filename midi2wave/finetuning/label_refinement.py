"""Measured partials and aligned labels of the user's piano, where there are enough notes for them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from midi2wave.conditioning.excitation import n_excitation
from midi2wave.conditioning.global_conditioning import one_hot
from midi2wave.conditioning.partials import partials_for
from midi2wave.config import N_PARTIALS, Config, DataConfig, config_from_dict
from midi2wave.data.label_alignment import align_folder
from midi2wave.data.maestro import SPLITS
from midi2wave.data.partial_tracking import PartialMeasurement, measure_partials, partial_options
from midi2wave.data.processed_folder import ProcessedFolder
from midi2wave.finetuning.preparation import split_folder
from midi2wave.midi.performance import N_PITCHES
from midi2wave.utils.cli import format_error
from midi2wave.utils.errors import InputError

# With fewer piano keys that could be measured, most partials would be interpolated.
MIN_KEYS = 12
UNMEASURED = np.zeros((N_PITCHES, N_PARTIALS), dtype=bool)
ALIGNED_NAME = "aligned"
MEASURED_SOURCE = "the measured config"


def refine(config: Config, out: Path) -> dict[str, Any]:
    """Measure the partials, align the labels of all splits but the test split, and measure the partials again.

    Args:
        config: The config of the training; its paths are not used.
        out: The output folder, with the processed folders.

    Returns:
        As JSON values: `partials` (options of data_config; empty if they stay those of the base), `data` (the folders
        to train and to validate on, relative to `out`) and `remark` (what was done, in words).
    """
    data = config.data_config
    train, validation, _ = (split_folder(out, split) for split in SPLITS)
    result: dict[str, Any] = {"partials": {}, "data": _paths(train, validation, out)}
    if not n_excitation(data):
        return result | {"remark": "the base model uses no partials: none are measured, and no labels aligned"}
    try:
        measured, n_keys = _measured(ProcessedFolder(train), data)
    except InputError as error:
        return result | {"remark": f"the partials stay those of the base model: {format_error(error)}"}
    if n_keys < MIN_KEYS:
        remark = (
            f"partials of only {n_keys} piano keys could be measured, expected {MIN_KEYS} or more: they stay those of "
            "the base model, and the labels as they are"
        )
        return result | {"remark": remark}
    result["partials"] = measured
    data = _with_partials(config, measured)
    aligned = {path: out / ALIGNED_NAME / path.name for path in (train, validation)}
    try:
        # A killed call may have left finished folders, which are made again.
        for path, like in ((train, None), (validation, aligned[train])):
            # The lags are corrected. A stretch of a recording is often too short to measure what is left of its lag.
            align_folder(path, aligned[path], data, like=like, source=MEASURED_SOURCE, force=True, fallback_lag=0.0)
    except InputError as error:
        remark = f"partials of {n_keys} piano keys measured; the labels stay as they are: {format_error(error)}"
        return result | {"remark": remark}
    result["partials"], n_keys = _measured(ProcessedFolder(aligned[train]), data)
    result["data"] = _paths(aligned[train], aligned[validation], out)
    return result | {"remark": f"partials of {n_keys} piano keys measured, labels aligned with the sound"}


def _paths(train: Path, validation: Path, out: Path) -> dict[str, str]:
    """The options of data_config for two folders below `out`, relative to it, so that it can be moved."""
    return {
        "dataset_path": train.relative_to(out).as_posix(),
        "validation_path": validation.relative_to(out).as_posix(),
    }


def _measured(folder: ProcessedFolder, data: DataConfig) -> tuple[dict[str, Any], int]:
    """The options of the measured partials, and the number of piano keys that have any.

    A label without recordings keeps the partials of the base model.
    """
    parts = folder.split_by_label(data.global_values)
    measurements = {value: measure_partials(part, data.preemphasis) for value, part in parts.items()}
    n_keys = int(np.any([one.is_measured.any(axis=1) for one in measurements.values()], axis=0).sum())
    exponent = float(np.mean([one.velocity_exponent for one in measurements.values()]))
    sets = [
        measurements.get(value)
        or PartialMeasurement(partials_for(data, one_hot([value], data.global_values)), exponent, UNMEASURED)
        for value in (data.global_values if "" not in measurements else [""])
    ]
    return partial_options(sets), n_keys


def _with_partials(config: Config, options: dict[str, Any]) -> DataConfig:
    blocks = config.as_dict()
    blocks["data_config"] |= options
    return config_from_dict(blocks, "measured partials").data_config


def with_refinement(config: Config, refinement: dict[str, Any], out: Path) -> Config:
    """The config with the partials of `refine` and its folders below `out`."""
    data = _with_partials(config, refinement["partials"])
    return with_folders(replace(config, data_config=data), refinement, out)


def with_folders(config: Config, refinement: dict[str, Any], out: Path) -> Config:
    """The config with the folders of `refine` below `out`."""
    folders: dict[str, Any] = {option: str(out / name) for option, name in refinement["data"].items()}
    return replace(config, data_config=replace(config.data_config, **folders))
