"""Reading of .npz files that may be damaged."""

from pathlib import Path
from typing import Literal

import numpy as np

from midi2wave.utils.errors import DAMAGED_ARRAY_ERRORS, InputError, is_system_error


def load_arrays(path: str | Path) -> dict[str, np.ndarray]:
    """Read all arrays of an .npz file, without pickle.

    Raises:
        InputError: The file is damaged, or no .npz file. The message says why, without the file's name.
        FileNotFoundError: There is no such file.
        IsADirectoryError: It is a folder.
        OSError: The system cannot read it (`is_system_error`).
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            # NumPy gives the bytes of a member that is no array.
            return {name: np.asarray(stored[name]) for name in stored.files}
    except (FileNotFoundError, IsADirectoryError):
        raise
    except DAMAGED_ARRAY_ERRORS as error:
        if is_system_error(error):
            raise
        raise InputError(" ".join(str(error).split())) from error


def required_array(arrays: dict[str, np.ndarray], name: str) -> np.ndarray:
    """One of the arrays. Raises InputError, without the file's name, if it is not there."""
    if name not in arrays:
        raise InputError(f"it has no {name}")
    return arrays[name]


def map_array(path: str | Path, mode: Literal["r", "c"] = "r") -> np.ndarray:
    """The array of an .npy file, mapped into memory, or read where the file system cannot map files.

    Args:
        path: The file.
        mode: "r": the array cannot be written to; "c": the file does not change with it.

    Raises:
        InputError: The file is damaged, missing, or no .npy file. The message says why, without the file's name.
        OSError: The system cannot read it (`is_system_error`).
    """
    try:
        try:
            return np.lib.format.open_memmap(path, mode=mode)
        except OSError:  # Of the mapping, or of the file itself; then reading raises it again.
            array: np.ndarray = np.load(path, allow_pickle=False)
    except DAMAGED_ARRAY_ERRORS as error:
        if is_system_error(error):
            raise
        raise InputError(" ".join(str(error).split())) from error
    array.flags.writeable = mode != "r"
    return array
