"""Whose a run folder is, and whether a run may go on in it with the config of today."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from midi2wave import checkpoint, checkpoint_folders
from midi2wave.config import Config, config_from_dict
from midi2wave.data.processed_folder import ProcessedFolder
from midi2wave.training.log import METRICS_NAME
from midi2wave.utils.atomic_files import write_text
from midi2wave.utils.cli import count_of, log
from midi2wave.utils.errors import InputError
from midi2wave.utils.output_folder import require_own_dir

CONFIG_NAME = "config.json"
# The blocks of a run's config.json, in files of every version.
RUN_BLOCKS = ("data_config", "wavenet_config", "cond_wavenet_config", "train_config", "dist_config")
# The blocks that a run may resume with other options of; those of the model may not change at all.
TRAINING_BLOCKS = ("data_config", "train_config", "dist_config")
# Which crops a step consists of depends on these, and on the recordings.
CROP_OPTIONS = (
    "train_config.seed",
    "train_config.batch_size",
    "data_config.segment_length",
    "data_config.max_silence",
)

Fingerprint = dict[str, Any]


def require_run_folder(folder: Path) -> None:
    """Check that a folder is absent or empty, or the folder of a run, and that nothing in it is in the way of one.

    Raises:
        InputError: It is neither, or something has the name of a link or of the metrics.
    """
    require_own_dir(folder, CONFIG_NAME)
    path = folder / CONFIG_NAME
    if path.is_file() and not _is_run(folder, path.read_bytes()):
        raise InputError(
            f"{path} is not the config of a run, which train.py writes there; choose another "
            "train_config.output_directory"
        )
    if (folder / METRICS_NAME).is_dir():
        raise InputError(f"{folder / METRICS_NAME} is a folder, expected the metrics of a run; rename it")
    checkpoint_folders.find_link_copies(folder)


def _is_run(folder: Path, content: bytes) -> bool:
    """Whether a folder is that of a run, by its config.json and what else it holds."""
    has_checkpoints = bool(checkpoint_folders.step_folders(folder))
    try:
        stored = json.loads(content)
    except (ValueError, RecursionError):
        return has_checkpoints  # Damaged.
    if not isinstance(stored, dict) or any(not isinstance(stored.get(block), dict) for block in RUN_BLOCKS):
        return False
    if has_checkpoints or (folder / METRICS_NAME).exists():
        return True
    # A run that ended before its first step. A config that the user has written looks otherwise.
    try:
        return content.decode() == _config_text(config_from_dict(stored, str(folder), quiet=True))
    except (InputError, UnicodeDecodeError):
        return False


def begin_run(folder: Path, config: Config) -> None:
    """Write the resolved config of a run that begins or resumes, and make room for its links."""
    checkpoint_folders.remove_link_copies(folder)
    write_text(folder / CONFIG_NAME, _config_text(config))


def _config_text(config: Config) -> str:
    return json.dumps(config.as_dict(), indent=2) + "\n"


def recordings_fingerprint(folder: ProcessedFolder) -> Fingerprint:
    """What identifies the recordings of a processed folder, wherever it lies, as JSON values."""
    rows = [[row.index, row.audio_filename, row.midi_filename, row.n_samples] for row in folder.rows]
    digest = hashlib.sha256(json.dumps(rows).encode(errors="surrogatepass")).hexdigest()
    return {"recordings": len(rows), "samples": sum(row.n_samples for row in folder.rows), "sha256": digest}


def check_resume(
    config: Config, recordings: Fingerprint, stored_config: Config, stored: dict[str, Any], folder: Path
) -> list[str]:
    """Compare a config with that of the run that it is to resume.

    Args:
        config: The config of today.
        recordings: Its recordings, of `recordings_fingerprint`.
        stored_config: The config in the run's newest checkpoint.
        stored: Training state in that checkpoint; "recordings" are those of the run, which checkpoints of earlier
            versions do not have.
        folder: The run folder.

    Returns:
        The options that have changed and may, as "block.option = new instead of old".

    Raises:
        InputError: It describes another model, or other crops: the run would repeat some and leave out others.
    """
    if wrong := checkpoint.differences(config, stored_config):
        raise InputError(
            f"{folder} holds a run with another model: {'; '.join(wrong)}; choose another output_directory"
        )
    changed = _changed_options(config, stored_config)
    wrong = [text for option, text in changed.items() if option in CROP_OPTIONS]
    if (before := stored.get("recordings")) and before != recordings:
        wrong.append(
            f"data_config.dataset_path = {config.data_config.dataset_path} holds {_describe(recordings)} instead of "
            f"{_describe(before)}"
        )
    if wrong:
        raise InputError(
            f"{folder} holds a run on other crops: {'; '.join(wrong)}; to train its weights on these, choose another "
            f"output_directory and set train_config.checkpoint_path={folder} (--force removes its checkpoints)"
        )
    return list(changed.values())


def _describe(recordings: Any) -> str:
    """Recordings in words, of a stored value too, which may be anything."""
    if not (isinstance(recordings, dict) and {"recordings", "samples", "sha256"} <= recordings.keys()):
        return "unknown recordings"
    name = str(recordings["sha256"])[:8]
    return f"{count_of(recordings['recordings'], 'recording')} of {recordings['samples']} samples ({name})"


def _changed_options(config: Config, stored_config: Config) -> dict[str, str]:
    """What is different about each option "block.option" that differs, but where the run's folder lies."""
    changed = {}
    for block in TRAINING_BLOCKS:
        if getattr(stored_config, block) is None:
            continue
        new, old = asdict(getattr(config, block)), asdict(getattr(stored_config, block))
        for option in new:
            if new[option] != old[option] and option != "output_directory":
                name = f"{block}.{option}"
                changed[name] = checkpoint.describe_difference(name, new[option], old[option])
    return changed


def log_changes(changed: list[str]) -> None:
    """Say which options of a run have changed since its checkpoint was saved."""
    if changed:
        log(f"the run goes on with other options: {'; '.join(changed)}")
