"""Checkpoints: weights that carry their config, the optimiser's state beside them, saved so that a crash loses neither.

    step_00002000/
        weights.safetensors   the weights to use (the moving average, if one is kept), with step and config as metadata
        training.pt           raw weights, optimiser state and step, to resume from; loadable with weights_only=True
    latest, best              links to the newest one and to the one with the lowest validation loss, where the file
                              system has links

A .safetensors file alone is a complete model: nothing in it is executed when it is loaded. Files of earlier versions
load too: `RENAMED_TENSORS` and `migrate_config` know their names.

    python -m midi2wave.checkpoint pretrained/rendered.safetensors > config.json    # the config of a checkpoint
"""

import hashlib
import json
import pickle
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save as serialize

from midi2wave.checkpoint_folders import (
    CHECKPOINT_NAMES,
    TRAINING_NAME,
    WEIGHTS_NAME,
    find_weights,
    step_folders,
    step_name,
    tidy,
)
from midi2wave.config import Config, SamplingConfig, config_from_dict
from midi2wave.utils.atomic_files import atomic_folder, remove, replace
from midi2wave.utils.cli import choose_device, format_error, log, make_plain_parser, run
from midi2wave.utils.errors import InputError, is_system_error
from midi2wave.utils.text import excerpt
from midi2wave.weight_files import check_shapes, check_values, open_weights
from wavenet import WaveNet, build_model, parameter_shapes

# Names of licences in the metadata: of the weights, and of the weights that they began as.
LICENCE, BASE_LICENCE = "licence", "base_licence"
FORMAT = "midi2wave checkpoint 1"

# The blocks of a config that describe a model.
MODEL_BLOCKS = ("data_config", "wavenet_config", "cond_wavenet_config")
# Options of data_config that decide the shapes of a model's weights.
SHAPE_OPTIONS = (
    "audio_hz",
    "midi_hz",
    "features",
    "excitation",
    "excitation_quadrature",
    "global_values",
    "history_level_input",
)
# Options of data_config that describe the partials of the excitation that a model was trained with.
PARTIAL_OPTIONS = (
    "partial_hz",
    "partial_level",
    "partial_decay",
    "partial_phase",
    "velocity_exponent",
    "damping_seconds",
)
MODEL_DATA_OPTIONS = (*SHAPE_OPTIONS, *PARTIAL_OPTIONS, "sustain_extends_notes", "preemphasis")

# How the name of a tensor begins in files of earlier versions -> how it begins today.
RENAMED_TENSORS = {"context.of_recording.": "context.global_embedding."}
# State dicts in training.pt.
STATE_DICTS = {"model", "average"}
# What torch.load raises for damaged bytes.
DAMAGED_PICKLE_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
    pickle.UnpicklingError,
)
# Options of data_config that no longer exist; measure_partials.py took their place.
REMOVED_DATA_OPTIONS = ("tuning_cents", "stiffness")
MAX_VALUE_CHARS = 80


def save(
    run_folder: Path,
    step: int,
    weights: dict[str, torch.Tensor],
    training: dict[str, Any],
    config: Config,
    keep: int,
    *,
    keep_every: int = 0,
    best_step: int = -1,
) -> Path:
    """Save one checkpoint atomically, then point `latest` and `best` to theirs and remove those that are not kept.

    Checkpoints of later steps are removed too: a run saves an earlier step only if it could not resume from them.

    Args:
        run_folder: The run's folder.
        step: Optimiser steps done.
        weights: State dict of the weights to use.
        training: What resuming takes; it must be loadable with weights_only=True.
        config: Config of the run.
        keep: How many of the newest checkpoints are kept.
        keep_every: Checkpoints of every so many steps are kept too; 0: none.
        best_step: Step of the best checkpoint, which is kept too.

    Returns:
        The folder of the checkpoint.

    Raises:
        OSError: The disk is full, or the folder cannot be written.
    """
    folder = run_folder / step_name(step)
    replaced = run_folder / f".{folder.name}.replaced.partial"
    with atomic_folder(folder) as tmp_path:
        write_weights(tmp_path / WEIGHTS_NAME, weights, config, step)
        _write_training(tmp_path / TRAINING_NAME, {**training, "step": step})
        if folder.exists():
            replace(folder, replaced)
    try:
        for path in replaced.glob("[!.]*"):
            if path.name not in CHECKPOINT_NAMES:  # The user's.
                replace(path, folder / path.name)
        tidy(run_folder, folder, keep, keep_every, best_step)
        remove(replaced)
    except OSError as error:
        log(f"{folder} is saved, but {run_folder} could not be tidied up: {format_error(error)}")
    return folder


def write_weights(
    path: Path, weights: dict[str, torch.Tensor], config: Config, step: int, notes: Mapping[str, str] | None = None
) -> None:
    """Write a .safetensors file that is a complete model.

    Args:
        path: The file.
        weights: State dict.
        config: Config of the training.
        step: Optimiser steps done.
        notes: Further texts of the file, such as its licence.

    Raises:
        OSError: It cannot be written.
    """
    metadata = {**(notes or {}), "format": FORMAT, "step": str(step), "config": json.dumps(config.as_dict())}
    path.write_bytes(serialize({k: v.contiguous() for k, v in weights.items()}, metadata))


def _write_training(path: Path, training: dict[str, Any]) -> None:
    try:
        with open(path, "wb") as handle:
            torch.save(training, handle)
    except RuntimeError as error:  # torch puts a failed check of its own before the reason, such as a full disk
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise


def stored_licences(path: str | Path) -> list[str]:
    """The licences that a weights file states: its own, and that of the weights that it began as; none if it has none.

    Args:
        path: As of `find_weights`.

    Raises:
        InputError: There is no checkpoint.
        OSError: It cannot be read.
    """
    with open_weights(find_weights(path)) as stored:
        metadata = stored.metadata() or {}
    return [metadata[name] for name in (LICENCE, BASE_LICENCE) if metadata.get(name)]


def load_weights(path: str | Path) -> tuple[dict[str, torch.Tensor], Config, int]:
    """Weights, config and step of a checkpoint, also of one that an earlier version wrote.

    Args:
        path: As of `find_weights`.

    Raises:
        InputError: It is truncated or no checkpoint of this project, or holds values that are not finite.
        OSError: It cannot be read, which says nothing about what it holds.
    """
    path = find_weights(path)
    try:
        with open_weights(path) as stored:
            metadata = stored.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise InputError(
                    f"{path} is not a midi2wave checkpoint (its metadata says {metadata.get('format')!r}); "
                    "give a run folder, or a .safetensors file that train.py wrote"
                )
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 - not a dictionary
        stored_config = migrate_config(json.loads(metadata["config"]), path)
        config = config_from_dict(stored_config, str(path), quiet=True)
        step = int(metadata["step"])
    except (SafetensorError, ValueError, KeyError, RecursionError) as error:
        raise InputError(f"{path} is damaged or truncated ({error}); get the file again") from error
    if missing := [name for name in MODEL_BLOCKS if getattr(config, name) is None]:
        raise InputError(f"{path} is damaged (its config has no {', '.join(missing)}); get the file again")
    check_values(tensors, path)
    return rename_tensors(tensors), config, step


def rename_tensors(state_dict: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A state dict with today's names, from one of any version."""
    result = {}
    for name, tensor in state_dict.items():
        for former, current in RENAMED_TENSORS.items():
            name = current + name.removeprefix(former) if name.startswith(former) else name
        result[name] = tensor
    return result


def migrate_config(config: Any, path: Path) -> Any:
    """A stored config without the options that no longer exist.

    Former names of options stay here; `config_from_dict` replaces them.

    Raises:
        InputError: One of those options was in use, so that this version cannot play the model.
    """
    data = config.get("data_config") if isinstance(config, dict) else None
    for option in REMOVED_DATA_OPTIONS:
        if isinstance(data, dict) and data.pop(option, None):
            raise InputError(
                f"{path} was trained with data_config.{option}, whose place measure_partials.py has taken; play it by "
                "the version that made it, or train anew"
            )
    return config


def load_model(path: str | Path, device: torch.device) -> tuple[WaveNet, Config, int]:
    """The trained model of a checkpoint, ready to generate, with its config and step.

    Raises:
        InputError: There is no checkpoint that can be used.
    """
    weights, config, step = load_weights(path)
    try:
        # Before memory is taken for the model: the config need not be that of the weights.
        check_shapes(parameter_shapes(config), weights, path)
        model = build_model(config)
    except InputError as error:
        raise InputError(str(error) if str(path) in str(error) else f"{path}: {error}") from error
    model.load_state_dict(weights)
    return model.to(device).eval(), config, step


@dataclass(frozen=True)
class LoadedCheckpoint:
    """A trained model that is to generate, and what identifies it.

    Attributes:
        model: The model, in evaluation mode.
        config: Config of its training.
        step: Optimiser steps of its training.
        sha256: Hash of the weights' file: a model that was trained again has the same config and step.
    """

    model: WaveNet
    config: Config
    step: int
    sha256: str


def load_checkpoint(path: str | Path, device: str) -> LoadedCheckpoint:
    """The model of a run folder, a step folder or a .safetensors file, ready to generate.

    Args:
        path: As in `find_weights`.
        device: As in `choose_device`.

    Raises:
        InputError: There is no such model, or the device cannot be used.
    """
    weights = find_weights(path)  # Once: a training that runs may add a checkpoint.
    model, config, step = load_model(weights, choose_device(device))
    with open(weights, "rb") as handle:
        return LoadedCheckpoint(model, config, step, hashlib.file_digest(handle, "sha256").hexdigest())


def load_for_generation(settings: SamplingConfig, command_config: Config, source: str) -> LoadedCheckpoint:
    """The model that a command's settings name.

    Args:
        settings: The command's block of the config.
        command_config: The command's whole config. It may repeat blocks of the model's config, but not contradict them.
        source: The file of that config, for messages.

    Raises:
        InputError: There is no such model, the configs contradict each other, or the model has no guidance.
    """
    loaded = load_checkpoint(settings.model_filename, settings.device)
    for block in MODEL_BLOCKS:
        if getattr(command_config, block) and (wrong := differences(command_config, loaded.config, (block,))):
            raise InputError(
                f"{source} and the checkpoint {settings.model_filename} differ: {'; '.join(wrong)}; "
                f"leave {block} out of the config, since the checkpoint has its own, or name another checkpoint"
            )
    if settings.guidance != 1:
        check_guidance(settings.guidance, settings.model_filename, loaded.config)
    return loaded


def check_guidance(guidance: float, source: str, config: Config) -> None:
    """Check that a model can be guided; logs if it was not trained for that.

    Args:
        guidance: The scale of the guidance, not 1.
        source: The model's name, for messages.
        config: The model's config.

    Raises:
        InputError: The model is unconditional.
    """
    if not config.data_config.conditional:
        raise InputError(
            f"guidance = {guidance:g}: {source} is an unconditional model, which has no MIDI "
            "to be guided by; set guidance = 1"
        )
    if not config.data_config.conditioning_dropout:
        log("the model was trained without data_config.conditioning_dropout: for guidance, silence stands for no MIDI")


def fit_weights(model: WaveNet, weights: dict[str, torch.Tensor], path: str | Path) -> None:
    """Put weights into a model.

    Raises:
        InputError: Names or shapes differ; the message says which.
    """
    check_shapes({name: tensor.shape for name, tensor in model.state_dict().items()}, weights, path)
    model.load_state_dict(weights)


def load_training(run_folder: Path, *, quiet: bool = False) -> tuple[dict[str, Any], Config] | None:
    """State and config of the newest whole checkpoint of a run; damaged ones are skipped.

    Args:
        run_folder: The run's folder.
        quiet: Whether nothing is logged about damaged checkpoints.

    Returns:
        What training.pt holds, with today's names of the tensors, and the config; None if the run is new.

    Raises:
        InputError: There are checkpoints, but all are damaged: starting again is for the user to decide.
        OSError: One cannot be read. It may be whole, and the run would remove it if it resumed from one before.
    """
    for folder in reversed(step_folders(run_folder)):
        try:
            return _load_step(folder)
        except InputError as error:
            if not quiet:
                log(f"checkpoint {folder} cannot be used ({format_error(error)}); trying the one before")
    if step_folders(run_folder):
        raise InputError(
            f"no checkpoint in {run_folder} can be used; begin anew with --force, which removes them all, or elsewhere"
        )
    return None


def _load_step(folder: Path) -> tuple[dict[str, Any], Config]:
    """Training state and config of one checkpoint. Raises InputError if it is damaged, not finite or of two models."""
    weights, config, _ = load_weights(folder)
    path = folder / TRAINING_NAME
    try:
        training = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, *DAMAGED_PICKLE_ERRORS) as error:
        if is_system_error(error):
            raise
        if "can't allocate memory" in str(error):
            raise MemoryError(str(error)) from error
        raise InputError(f"{path} is damaged or missing ({format_error(error)})") from error
    if not isinstance(training, dict) or not isinstance(training.get("step"), int) or training["step"] < 0:
        raise InputError(f"{path} is damaged (it holds no step)")
    shapes = {name: tensor.shape for name, tensor in weights.items()}
    for name in STATE_DICTS & training.keys():
        if not isinstance(training[name], dict):
            raise InputError(f"{path} is damaged ({name} is no state dict)")
        training[name] = rename_tensors(training[name])
        check_values(training[name], path)
        check_shapes(shapes, training[name], path)
    return training, config


def differences(
    ours: Config,
    others: Config,
    blocks: tuple[str, ...] = MODEL_BLOCKS,
    data_options: tuple[str, ...] = MODEL_DATA_OPTIONS,
) -> list[str]:
    """The options in which two configs' models differ, as "block.option = ours instead of others".

    Where the data lies and how it is read may differ: folders are moved, and training may continue on other data.

    Args:
        ours: One config.
        others: The other one.
        blocks: The blocks that are compared.
        data_options: The options of data_config that are compared.
    """
    result = []
    for block in blocks:
        a, b = asdict(getattr(ours, block)), asdict(getattr(others, block))
        options = data_options if block == "data_config" else tuple(a)
        result += [
            describe_difference(f"{block}.{option}", a[option], b[option])
            for option in options
            if a[option] != b[option]
        ]
    return result


def describe_difference(option: str, ours: Any, others: Any) -> str:
    """An option of two configs as "option = ours instead of others"."""
    ours, others = (excerpt(value, MAX_VALUE_CHARS) for value in (ours, others))
    return f"{option} = {ours} instead of {others}"


def main(argv: list[str] | None = None) -> int:
    """Print the config that a checkpoint carries, as a config file for train.py; returns the exit code."""
    parser = make_plain_parser("Print the config of a checkpoint, with which train.py trains the same model.")
    parser.add_argument("checkpoint", help="a run folder, a step folder or a .safetensors file")
    _, config, _ = load_weights(parser.parse_args(argv).checkpoint)
    print(json.dumps(config.as_dict(), indent=2))
    return 0


if __name__ == "__main__":
    run(main)
