"""Reading of .npz files that may be damaged."""

from pathlib import Path

import numpy as np

from midi2wave.utils.errors import DAMAGED_ARRAY_ERRORS, RESOURCE_ERRNOS, InputError


def load_arrays(path: str | Path) -> dict[str, np.ndarray]:
    """Read all arrays of an .npz file, without pickle.

    Raises:
        InputError: The file is damaged, or no .npz file. The message says why, without the file's name.
        FileNotFoundError: There is no such file.
        IsADirectoryError: It is a folder.
        OSError: Too many files are open, or the memory is exhausted.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            # NumPy gives the bytes of a member that is no array.
            return {name: np.asarray(stored[name]) for name in stored.files}
    except (FileNotFoundError, IsADirectoryError):
        raise
    except DAMAGED_ARRAY_ERRORS as error:
        if getattr(error, "errno", None) in RESOURCE_ERRNOS:
            raise
        raise InputError(" ".join(str(error).split())) from error


def required_array(arrays: dict[str, np.ndarray], name: str) -> np.ndarray:
    """One of the arrays. Raises InputError, without the file's name, if it is not there."""
    if name not in arrays:
        raise InputError(f"it has no {name}")
    return arrays[name]
