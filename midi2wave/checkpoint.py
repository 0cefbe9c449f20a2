"""Checkpoints: weights that carry their config, the optimiser's state beside them, saved so that a crash loses neither.

    step_00002000/
        weights.safetensors   the weights to use (the average, if one is kept), with step and config in the metadata
        training.pt           raw weights, optimiser state and step, for going on; loadable with weights_only=True
    latest, best              links to the newest one and to the one with the lowest validation loss

A .safetensors file alone is a complete model: nothing in it is executed when it is loaded.
"""

import hashlib
import json
import os
import pickle
import re
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialize

from midi2wave.config import Config, SamplingConfig, config_from_dict
from midi2wave.utils.atomic_files import atomic_folder, remove, update_symlink
from midi2wave.utils.cli import choose_device, format_error, log
from midi2wave.utils.errors import InputError
from wavenet import WaveNet, build_model

FORMAT = "midi2wave checkpoint 1"
PROJECT_FOLDER = Path(__file__).resolve().parents[1]
WEIGHTS_NAME, TRAINING_NAME = "weights.safetensors", "training.pt"
LATEST_NAME, BEST_NAME = "latest", "best"
STEP_FOLDER = re.compile(r"step_\d{8,}")
MODEL_BLOCKS = ("data_config", "wavenet_config", "cond_wavenet_config")
# of data_config, those that shape the model, and those that it has learned to hear
SHAPE_KEYS = ("audio_hz", "midi_hz", "features", "excitation", "excitation_quadrature", "global_values")
STRING_KEYS = ("partial_hz", "partial_level", "partial_decay", "partial_phase", "velocity_exponent", "damping_seconds")
MODEL_DATA_KEYS = (*SHAPE_KEYS, *STRING_KEYS, "sustain_extends_notes", "preemphasis")


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
    """Save one checkpoint atomically, point `latest` and `best` to theirs. Raises OSError (full disk).

    Removed are then all but the newest `keep`, those of every `keep_every` steps (0: none) and the best one.
    Checkpoints of later steps go too: a run saves before one only if it could not go on from there.
    """
    folder = run_folder / f"step_{step:08d}"
    replaced = run_folder / f".{folder.name}.replaced.partial"
    with atomic_folder(folder) as tmp_path:
        metadata = {"format": FORMAT, "step": str(step), "config": json.dumps(config.as_dict())}
        (tmp_path / WEIGHTS_NAME).write_bytes(serialize({k: v.contiguous() for k, v in weights.items()}, metadata))
        _write_training(tmp_path / TRAINING_NAME, {**training, "step": step})
        if folder.exists():
            os.replace(folder, replaced)
    try:
        _tidy(run_folder, folder, keep, keep_every, best_step)
        remove(replaced)
    except OSError as error:
        log(f"{folder} is saved, but {run_folder} could not be tidied up: {format_error(error)}")
    return folder


def _tidy(run_folder: Path, folder: Path, keep: int, keep_every: int, best_step: int) -> None:
    """Links to the newest and the best checkpoint; removes what is not to be kept."""
    best = run_folder / f"step_{best_step:08d}"
    for name, target in ((LATEST_NAME, folder), (BEST_NAME, best)):
        if target.is_dir():
            update_symlink(run_folder / name, target)
    found = step_folders(run_folder)
    newer = found.index(folder) + 1
    for other in found[: max(0, newer - keep)]:
        if other != best and not (keep_every and step_of(other) % keep_every == 0):
            shutil.rmtree(other)
    for other in found[newer:]:
        shutil.rmtree(other)


def _write_training(path: Path, training: dict[str, Any]) -> None:
    try:
        with open(path, "wb") as handle:
            torch.save(training, handle)
    except RuntimeError as error:  # torch puts a failed check of its own before the reason, such as a full disk
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise


def step_folders(run_folder: Path) -> list[Path]:
    """The checkpoints of a run, oldest first."""
    found = [p for p in run_folder.glob("step_*") if STEP_FOLDER.fullmatch(p.name)] if run_folder.is_dir() else []
    return sorted(found, key=step_of)


def step_of(folder: Path) -> int:
    """The step of a checkpoint's folder, by its name."""
    return int(folder.name.removeprefix("step_"))


def find_weights(path: str | Path) -> Path:
    """The weights file that a user means by a run folder, a step folder or a file, here or, as the shipped ones
    (pretrained/), in the project's folder. Raises InputError."""
    path = Path(path)
    if not path.exists() and (PROJECT_FOLDER / path).exists():
        path = PROJECT_FOLDER / path
    if path.is_dir():
        steps = step_folders(path)
        path = (steps[-1] if steps else path) / WEIGHTS_NAME
    if not path.is_file() or path.suffix != ".safetensors":
        raise InputError(f"no checkpoint at {path}; give a run folder, a step folder or a .safetensors file")
    return path


def load_weights(path: str | Path) -> tuple[dict[str, torch.Tensor], Config, int]:
    """Weights, config and step of a checkpoint. Raises InputError if it is truncated or not one of ours."""
    path = find_weights(path)
    try:
        with safe_open(path, framework="pt") as stored:
            metadata = stored.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise InputError(f"{path} is not a midi2wave checkpoint (its metadata says {metadata.get('format')!r})")
            weights = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 - not a dictionary
            stored_config = migrate_config(json.loads(metadata["config"]), path)
            config, step = config_from_dict(stored_config, str(path)), int(metadata["step"])
    except PermissionError:  # no damage
        raise
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise InputError(f"{path} is damaged or truncated ({error})") from error
    if missing := [name for name in MODEL_BLOCKS if getattr(config, name) is None]:
        raise InputError(f"{path} is damaged (its config has no {', '.join(missing)})")
    return weights, config, step


def migrate_config(config: Any, path: Path) -> Any:
    """A stored config without keys that are gone. Raises InputError where they said something."""
    data = config.get("data_config") if isinstance(config, dict) else None
    for key in ("tuning_cents", "stiffness"):
        if isinstance(data, dict) and data.pop(key, None):
            raise InputError(
                f"{path} was trained with data_config.{key}, whose place measure_partials.py has taken; play it by the "
                "version that made it, or train anew"
            )
    return config


def load_model(path: str | Path, device: torch.device) -> tuple[WaveNet, Config, int]:
    """The trained model of a checkpoint, ready to generate, with its config and step. Raises InputError."""
    weights, config, step = load_weights(path)
    model = build_model(config)
    fit_weights(model, weights, path)
    return model.to(device).eval(), config, step


@dataclass(frozen=True)
class LoadedCheckpoint:
    """A trained model that is to generate, and what tells whose results are its own."""

    model: WaveNet
    config: Config  # that of its training
    step: int
    sha256: str  # of the weights' file: a model trained anew has the same config and step


def load_for_generation(settings: SamplingConfig, given: Config, source: str) -> LoadedCheckpoint:
    """The model that a command's settings name. Raises InputError where the command's config `given`, of the file
    `source`, contradicts the model's: it may repeat its blocks, no more."""
    weights = find_weights(settings.model_filename)  # once: a training that runs may add a checkpoint
    model, config, step = load_model(weights, choose_device(settings.device))
    for block in MODEL_BLOCKS:
        if getattr(given, block) and (wrong := differences(given, config, (block,))):
            raise InputError(f"{source} and the checkpoint {settings.model_filename} differ: {'; '.join(wrong)}")
    if settings.guidance != 1 and not config.data_config.conditional:
        raise InputError(
            f"guidance = {settings.guidance:g}: {settings.model_filename} is an unconditional model, which has no MIDI "
            "to be guided by; set guidance = 1"
        )
    if settings.guidance != 1 and not config.data_config.conditioning_dropout:
        log("the model was trained without data_config.conditioning_dropout: for guidance, silence stands for no MIDI")
    with open(weights, "rb") as handle:
        return LoadedCheckpoint(model, config, step, hashlib.file_digest(handle, "sha256").hexdigest())


def fit_weights(model: WaveNet, weights: dict[str, torch.Tensor], path: str | Path) -> None:
    """Put weights into a model, or raise InputError that names what differs."""
    own = model.state_dict()
    wrong = [f"{k} is {list(weights[k].shape)}, expected {list(own[k].shape)}" for k in own.keys() & weights.keys()
             if weights[k].shape != own[k].shape]  # fmt: skip
    wrong += [f"{k} is missing" for k in sorted(own.keys() - weights.keys())]
    wrong += [f"{k} has no place" for k in sorted(weights.keys() - own.keys())]
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise InputError(f"{path} is of another architecture: {'; '.join(sorted(wrong)[:3])}{more}")
    model.load_state_dict(weights)


def load_training(run_folder: Path, *, quiet: bool = False) -> tuple[dict[str, Any], Config] | None:
    """State and config of the newest whole checkpoint of a run, None if the run is new; damaged ones are skipped.

    It says so unless it is `quiet`. Raises InputError if there are checkpoints, but all damaged: starting anew is for
    the user to decide.
    """
    for folder in reversed(step_folders(run_folder)):
        try:
            _, config, _ = load_weights(folder)
            return torch.load(folder / TRAINING_NAME, map_location="cpu", weights_only=True), config
        except PermissionError:  # no damage
            raise
        except (InputError, OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
            if not quiet:
                log(f"checkpoint {folder} cannot be used ({format_error(error)}); trying the one before")
    if step_folders(run_folder):
        raise InputError(f"no checkpoint in {run_folder} can be used; begin anew with --force, or elsewhere")
    return None


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:60]}... ({len(value)} values)"


def differences(
    ours: Config,
    theirs: Config,
    blocks: tuple[str, ...] = MODEL_BLOCKS,
    data_keys: tuple[str, ...] = MODEL_DATA_KEYS,
) -> list[str]:
    """The keys in which two configs' models differ, as "block.key = ours instead of theirs".

    Where the data lies and how it is read may differ: folders are moved, and models are trained on with other data.
    """
    found = []
    for name in blocks:
        a, b = asdict(getattr(ours, name)), asdict(getattr(theirs, name))
        keys = data_keys if name == "data_config" else a
        found += [f"{name}.{key} = {_short(a[key])} instead of {_short(b[key])}" for key in keys if a[key] != b[key]]
    return found
