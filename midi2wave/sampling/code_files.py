"""Files of argmax codes: the codes from which a piece's context is made, to be inspected, changed and played.

NAME.codes.npz, made and read without pickle, holds arrays:

    format          "midi2wave codes 1"
    codes           int16 [M], each 0..n_codes-1: of the frames first, first + 1, ...
    first           0, or less: upsampling may look at a frame before the piece's first one (and at one after its last)
    n_frames        of the piece; codes must reach to the last one
    n_codes         the number of codes of the model
    midi_hz         frames per second
    weights_sha256  of the weights that made them; "": unknown
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from midi2wave.utils.array_files import load_arrays, required_array
from midi2wave.utils.atomic_files import atomic_file
from midi2wave.utils.errors import InputError

FORMAT = "midi2wave codes 1"


@dataclass(frozen=True, eq=False)
class Codes:
    """The argmax codes of a piece (see the module)."""

    codes: np.ndarray  # int16 [M]
    first: int
    n_frames: int
    n_codes: int
    midi_hz: int
    weights_sha256: str = ""

    def frames(self, first: int, n: int) -> np.ndarray:
        """The codes of the frames first..first+n-1, int64 [n]; beyond both ends the first and the last one go on."""
        at = np.arange(first, first + n) - self.first
        return self.codes[np.clip(at, 0, len(self.codes) - 1)].astype(np.int64)

    def same_as(self, other: "Codes") -> bool:
        """Whether the other one plays the same."""
        numbers = ((one.first, one.n_frames, one.n_codes, one.midi_hz) for one in (self, other))
        return next(numbers) == next(numbers) and np.array_equal(self.codes, other.codes)


def save_codes(path: str | Path, codes: Codes) -> None:
    """Write codes to an .npz file, atomically. Raises OSError if that is not possible."""
    with atomic_file(path) as tmp_path, open(tmp_path, "wb") as handle:
        np.savez(handle, format=np.array(FORMAT), **vars(codes))


def load_codes(path: str | Path) -> Codes:
    """Read what `save_codes` wrote. Raises InputError for a missing, truncated or foreign file."""
    try:
        return _codes_from(load_arrays(path))
    except (FileNotFoundError, IsADirectoryError):
        raise InputError(f"{path}: no such file of codes; inference.py writes them beside its wavs") from None
    except InputError as error:
        raise InputError(f"{path}: not a whole file of codes ({error}); write it again with inference.py") from error


def _codes_from(arrays: dict[str, np.ndarray]) -> Codes:
    """The codes in the arrays of an .npz file. Raises InputError, without the file's name, if they are none."""
    if str(required_array(arrays, "format")) != FORMAT:
        raise InputError(f"its format is not {FORMAT!r}")
    values = required_array(arrays, "codes")
    first, n_frames, n_codes, midi_hz = (
        _whole(required_array(arrays, name), name) for name in ("first", "n_frames", "n_codes", "midi_hz")
    )
    source = str(required_array(arrays, "weights_sha256"))
    if values.ndim != 1 or values.dtype.kind not in "iu":
        raise InputError(f"its codes are {values.dtype} {list(values.shape)}, expected whole numbers in a row")
    if n_frames < 1 or first > 0 or first + len(values) < n_frames:
        raise InputError(f"{len(values)} codes from frame {first} on are not those of {n_frames} frames")
    if values.min() < 0 or values.max() >= n_codes:
        raise InputError(f"its codes go from {values.min()} to {values.max()}, expected 0 to {n_codes - 1}")
    return Codes(values.astype(np.int16), first, n_frames, n_codes, midi_hz, source)


def _whole(array: np.ndarray, name: str) -> int:
    if array.shape != () or array.dtype.kind not in "iu":
        raise InputError(f"its {name} is not one whole number")
    return int(array)
