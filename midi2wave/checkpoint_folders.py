"""The checkpoints in a run folder: where they are, which are kept, and the links to the newest and the best."""

import filecmp
import functools
import re
from pathlib import Path

from midi2wave.utils.atomic_files import remove, remove_own_files, update_symlink
from midi2wave.utils.cli import log
from midi2wave.utils.errors import InputError

PROJECT_FOLDER = Path(__file__).resolve().parents[1]
WEIGHTS_NAME = "weights.safetensors"
TRAINING_NAME = "training.pt"
LATEST_NAME = "latest"
BEST_NAME = "best"
CHECKPOINT_NAMES = (WEIGHTS_NAME, TRAINING_NAME)
STEP_FOLDER = re.compile(r"step_\d{8,}")


def step_folders(run_folder: Path) -> list[Path]:
    """The checkpoints of a run, oldest first; a folder without any file of a checkpoint is none."""
    if not run_folder.is_dir():
        return []
    folders = (path for path in run_folder.glob("step_*") if STEP_FOLDER.fullmatch(path.name))
    return sorted((path for path in folders if any((path / name).exists() for name in CHECKPOINT_NAMES)), key=step_of)


def step_name(step: int) -> str:
    """The name of a checkpoint's folder."""
    return f"step_{step:08d}"


def step_of(folder: Path) -> int:
    """The step of a checkpoint's folder, by its name."""
    return int(folder.name.removeprefix("step_"))


def find_weights(path: str | Path) -> Path:
    """The weights file that a path stands for.

    Args:
        path: A run folder (its newest checkpoint), a step folder or a .safetensors file; relative to the working
            directory or, as the files in pretrained/, to the project's folder.

    Raises:
        InputError: There is no checkpoint.
    """
    path = Path(path)
    if not path.exists() and (PROJECT_FOLDER / path).exists():
        path = PROJECT_FOLDER / path
    if path.is_dir():
        steps = step_folders(path)
        path = (steps[-1] if steps else path) / WEIGHTS_NAME
    if not path.is_file() or path.suffix != ".safetensors":
        raise InputError(
            f"no checkpoint at {path}; give a run folder, a step folder or a .safetensors file, such as those in "
            "pretrained/"
        )
    return path


def tidy(run_folder: Path, folder: Path, keep: int, keep_every: int, best_step: int) -> None:
    """Link the newest and the best checkpoint; remove those that are not kept."""
    best = run_folder / step_name(best_step)
    for name, target in ((LATEST_NAME, folder), (BEST_NAME, best)):
        if target.is_dir() and not update_symlink(run_folder / name, target):
            _log_missing_link(run_folder / name)
    folders = step_folders(run_folder)
    n_until_this = folders.index(folder) + 1
    for other in folders[: max(0, n_until_this - keep)]:
        if other != best and not (keep_every and step_of(other) % keep_every == 0):
            remove_own_files(other, CHECKPOINT_NAMES)
    for other in folders[n_until_this:]:
        remove_own_files(other, CHECKPOINT_NAMES)


@functools.cache  # Once, not at every checkpoint.
def _log_missing_link(link: Path) -> None:
    log(f"{link} cannot be a link here; the step folders are complete without it")


def find_link_copies(run_folder: Path) -> list[Path]:
    """What has the name of a link and is a copy of a checkpoint, as in a copy of a run by what follows links.

    Raises:
        InputError: Something else has such a name.
    """
    copies = [path for path in (run_folder / LATEST_NAME, run_folder / BEST_NAME) if _is_no_link(path)]
    for path in copies:
        if not any(_same_checkpoint(path, folder) for folder in step_folders(run_folder)):
            raise InputError(
                f"{path} is not a link; train.py needs the name for a link: rename it, or choose another "
                "train_config.output_directory"
            )
    return copies


def remove_link_copies(run_folder: Path) -> None:
    """Make room for the links where a copy of a run has copies of checkpoints."""
    for path in find_link_copies(run_folder):
        remove(path)


def _is_no_link(path: Path) -> bool:
    return path.exists() and not path.is_symlink()


def _same_checkpoint(copy: Path, folder: Path) -> bool:
    """Whether a folder holds nothing but a copy of a checkpoint."""
    names = [path.name for path in copy.iterdir()] if copy.is_dir() else []
    return sorted(names) == sorted(CHECKPOINT_NAMES) and all(
        (folder / name).is_file() and filecmp.cmp(copy / name, folder / name, shallow=False) for name in names
    )


def remove_checkpoints(run_folder: Path) -> None:
    """Remove all checkpoints of a run and the links to them."""
    remove_link_copies(run_folder)
    for folder in step_folders(run_folder):
        remove_own_files(folder, CHECKPOINT_NAMES)
    for name in (LATEST_NAME, BEST_NAME):
        if (run_folder / name).is_symlink():
            (run_folder / name).unlink()
