"""Which files an output folder of inference.py holds of each piece, and what they were made from."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from midi2wave.midi.performance import Performance, load_events
from midi2wave.sampling.code_files import Codes, load_codes
from midi2wave.sampling.pieces import Piece
from midi2wave.utils.errors import InputError
from midi2wave.utils.output_folder import Product

CODES_SUFFIX = ".codes.npz"
TRUTH_SUFFIX = "_truth.wav"
SEAMS_SUFFIX = "_seams.json"
INTERRUPTED_SUFFIX = ".interrupted.wav"
SUFFIXES = (".wav", ".png", ".npz", ".json", CODES_SUFFIX, TRUTH_SUFFIX, SEAMS_SUFFIX, INTERRUPTED_SUFFIX)


def product_of(piece: Piece, mode: str, *, has_codes: bool) -> Product:
    """The files of a piece, and the checksums of its notes, codes and true audio.

    Args:
        piece: The piece.
        mode: The mode in which it is rendered.
        has_codes: Whether the model has codes.
    """
    written = {
        ".wav": True,
        ".png": True,
        INTERRUPTED_SUFFIX: True,
        ".npz": piece.performance is not None,
        CODES_SUFFIX: has_codes,
        TRUTH_SUFFIX: piece.truth is not None,
        ".json": mode == "teacher_forced",
        SEAMS_SUFFIX: piece.fold is not None,
    }
    made_from = {}
    if piece.performance is not None:
        made_from["notes"] = _notes_checksum(piece.performance)
    if piece.codes is not None:
        made_from["codes"] = _codes_checksum(piece.codes)
    if piece.truth is not None:
        made_from["audio"] = _checksum(piece.truth)
    return Product(tuple(f"{piece.name}{suffix}" for suffix, is_written in written.items() if is_written), made_from)


def former_products(folder: Path, _record: dict[str, Any]) -> dict[str, Product]:
    """The pieces in a folder of an earlier version, whose record does not list them.

    A wav of the user has neither picture nor notes beside it.
    """
    names = {path.name.removesuffix(CODES_SUFFIX).removesuffix(".npz") for path in folder.glob("*.npz")}
    names |= {path.stem for path in folder.glob("*.png") if path.with_suffix(".wav").is_file()}
    return {name: Product(_existing_files(folder, name), _sources_beside(folder, name)) for name in sorted(names)}


def _existing_files(folder: Path, name: str) -> tuple[str, ...]:
    files = [f"{name}{suffix}" for suffix in SUFFIXES]
    return (files[0], *(file for file in files[1:] if (folder / file).is_file()))


def _sources_beside(folder: Path, name: str) -> dict[str, str]:
    """The checksums of the notes and codes in a folder, by kind; "" for a damaged file."""
    made_from = {}
    if (folder / f"{name}.npz").is_file():
        try:
            made_from["notes"] = _notes_checksum(load_events(folder / f"{name}.npz"))
        except InputError:
            made_from["notes"] = ""
    if (folder / f"{name}{CODES_SUFFIX}").is_file():
        try:
            made_from["codes"] = _codes_checksum(load_codes(folder / f"{name}{CODES_SUFFIX}"))
        except InputError:
            made_from["codes"] = ""
    return made_from


def _notes_checksum(performance: Performance) -> str:
    pedals = (performance.pedals[pedal] for pedal in sorted(performance.pedals))
    arrays = (performance.onset, performance.offset, performance.pitch, performance.velocity, *pedals)
    return _checksum(*(np.asarray(array, np.float64) for array in arrays), labels=performance.global_labels)


def _codes_checksum(codes: Codes) -> str:
    numbers = np.array([codes.first, codes.n_frames, codes.n_codes, codes.midi_hz])
    return _checksum(codes.codes.astype(np.int16), numbers)


def _checksum(*arrays: np.ndarray, labels: tuple[str, ...] = ()) -> str:
    """The SHA-256 of arrays and their lengths, and of labels."""
    digest = hashlib.sha256("\0".join(labels).encode())
    for array in arrays:
        digest.update(f"{array.shape}".encode() + array.tobytes())
    return digest.hexdigest()
