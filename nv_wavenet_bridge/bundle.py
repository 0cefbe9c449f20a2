"""The bundle: a folder with everything that nv-wavenet needs to play some pieces, and the samples it should draw.

    weights.safetensors   the tensors of NVWaveNet(**weights), lists numbered from 0 ("skip_weights.0")
    weights.pt            the same as the dictionary itself; loadable with weights_only=True
    cond_input.npy        float32 [2R, B, L, T], in Fortran order: nv-wavenet's own memory layout, [T][L][B][2R]
    uniforms.npy          float32 [B, T] in (0, 1): the random value of each step
    expected.npy          int32 [B, T]: the codes that this project's sampler draws from them
    bundle.json           describes all of it, and the pieces; written last

Pieces shorter than the longest of their batch go on after their end, and are cut when they are decoded.
"""

import json
import pickle
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as deserialize
from safetensors.numpy import save as serialize

from midi2wave.utils.array_files import map_array
from midi2wave.utils.errors import InputError, is_system_error

FORMAT = "midi2wave nv-wavenet bundle 1"
BUNDLE_NAME = "bundle.json"
WEIGHTS_NAME = "weights.safetensors"
PT_NAME = "weights.pt"
COND_NAME = "cond_input.npy"
UNIFORMS_NAME = "uniforms.npy"
EXPECTED_NAME = "expected.npy"
EXPORT_AGAIN = "export it again with --force, which replaces its files"
FILE_NAMES = (BUNDLE_NAME, WEIGHTS_NAME, PT_NAME, COND_NAME, UNIFORMS_NAME, EXPECTED_NAME)

# Name -> (shape, meaning, layout); the names are the arguments of NVWaveNet, those with a number of layers are lists.
TENSORS = {
    "embedding_prev": ("A R", "table of the code before the last one", "one row per code"),
    "embedding_curr": ("A R", "table of the last code, with the input layer's bias", "one row per code"),
    "conv_out_weight": ("A S", "first output layer", "[out, in]"),
    "conv_end_weight": ("A A", "second output layer, divided by the temperature", "[out, in]"),
    "dilate_weights": ("L 2R R 2", "a layer's gate", "[out (R tanh, R sigmoid), in, tap (t - dilation, t)]"),
    "dilate_biases": ("L 2R", "a layer's gate; zero, since the conditioning holds the biases", "[out]"),
    "res_weights": ("L-1 R R", "residual output of all layers but the last", "[out, in]"),
    "res_biases": ("L-1 R", "residual output of all layers but the last", "[out]"),
    "skip_weights": ("L S R", "a layer's skip output", "[out, in]"),
    "skip_biases": ("L S", "a layer's skip output; the first layer's holds all of it", "[out]"),
}
# The exceptions that reading a damaged bundle raises.
DAMAGE = (
    OSError,
    ValueError,
    KeyError,
    TypeError,
    EOFError,
    RuntimeError,
    SafetensorError,
    pickle.UnpicklingError,
)
LISTS = tuple(name for name, (shape, *_) in TENSORS.items() if shape.startswith("L"))


@dataclass(frozen=True)
class Bundle:
    """The content of a bundle; cond_input is memory-mapped."""

    about: dict[str, Any]
    weights: dict[str, Any]  # the arguments of NVWaveNet, as float32 arrays
    cond_input: np.ndarray  # [2R, B, L, T]
    uniforms: np.ndarray  # [B, T]
    expected: np.ndarray  # [B, T]


def sizes(weights: dict[str, Any]) -> dict[str, int]:
    """R, S, A and L of weights. Raises KeyError or ValueError if they are not there."""
    (codes, wide), (_, skip) = weights["embedding_curr"].shape, weights["conv_out_weight"].shape
    return {"R": wide, "S": skip, "A": codes, "L": len(weights["dilate_weights"])}


def expected_shape(form: str, size: dict[str, int]) -> tuple[int, ...]:
    """A shape of TENSORS, such as "L-1 R R", in numbers."""
    dimensions = {**size, "2R": 2 * size["R"], "L-1": size["L"] - 1, "2": 2}
    return tuple(dimensions[part] for part in form.split())


def flatten(weights: dict[str, Any]) -> dict[str, np.ndarray]:
    """The arguments of NVWaveNet as one level of named arrays."""
    flat: dict[str, np.ndarray] = {}
    for name, value in weights.items():
        if isinstance(value, list):
            flat |= {f"{name}.{i}": array for i, array in enumerate(value)}
        else:
            flat[name] = np.asarray(value)
    return flat


def unflatten(flat: dict[str, np.ndarray], source: str) -> dict[str, Any]:
    """The opposite of `flatten`. Raises InputError unless every tensor is there, finite float32 of the right shape."""
    try:
        counts = {name: sum(key.startswith(f"{name}.") for key in flat) for name in LISTS}
        weights: dict[str, Any] = {name: [flat[f"{name}.{i}"] for i in range(n)] for name, n in counts.items()}
        weights |= {name: flat[name] for name in TENSORS if name not in LISTS}
        weights |= {
            "max_dilation": int(flat["max_dilation"]),
            "use_embed_tanh": bool(flat["use_embed_tanh"]),
        }
        size = sizes(weights)
    except (KeyError, ValueError, TypeError) as error:
        raise InputError(f"{source} does not hold nv-wavenet's tensors ({error})") from error
    for name, (form, *_) in TENSORS.items():
        shape = expected_shape(form, size)
        arrays, each = (weights[name], shape[1:]) if name in LISTS else ([weights[name]], shape)
        if name in LISTS and len(arrays) != shape[0]:
            raise InputError(f"{source} has {len(arrays)} {name}, expected {shape[0]}")
        for array in arrays:
            if array.shape != each or array.dtype != np.float32 or not np.isfinite(array).all():
                raise InputError(
                    f"{source}: {name} is {array.dtype} {list(array.shape)}, expected finite float32 {list(each)}"
                )
    if weights["max_dilation"] < 1:
        raise InputError(f"{source}: max_dilation = {weights['max_dilation']}, expected at least 1")
    return weights


def as_torch(weights: dict[str, Any]) -> dict[str, Any]:
    """The arguments of NVWaveNet as contiguous torch tensors: nv-wavenet would silently misread strided biases."""
    import torch  # --help should not wait for it.

    return {
        name: [torch.from_numpy(np.ascontiguousarray(v)) for v in value]
        if isinstance(value, list)
        else (torch.from_numpy(np.ascontiguousarray(value)) if isinstance(value, np.ndarray) else value)
        for name, value in weights.items()
    }


def write_weights(folder: Path, weights: dict[str, Any]) -> None:
    """Write both weights files."""
    import torch

    (folder / WEIGHTS_NAME).write_bytes(serialize(flatten(weights), {"format": FORMAT}))
    with open(folder / PT_NAME, "wb") as handle:
        torch.save(as_torch(weights), handle)


def write_array(path: Path, shape: tuple[int, ...], dtype: str, blocks: Iterable[np.ndarray]) -> None:
    """Write a .npy in Fortran order from blocks along its last axis, in the memory of one of them.

    By Python's write, whose OSErrors say that the disk is full.
    """
    with open(path, "wb") as handle:
        np.lib.format.write_array_header_1_0(handle, {"descr": dtype, "fortran_order": True, "shape": shape})
        for block in blocks:
            handle.write(block.astype(dtype).tobytes(order="F"))


def describe(weights: dict[str, Any], batch_size: int, n_samples: int) -> list[dict[str, Any]]:
    """Every tensor of a bundle with its file, shape, layout and meaning, for bundle.json."""
    size, rows = sizes(weights), []
    for name, (form, meaning, layout) in TENSORS.items():
        shape = expected_shape(form, size)
        count = {"count": shape[0], "count_is": form.split()[0]} if name in LISTS else {}
        row = {"file": WEIGHTS_NAME, "name": f"{name}.0 ..." if name in LISTS else name, "dtype": "float32", **count}
        row |= {"shape": list(shape[1:] if name in LISTS else shape), "layout": layout, "meaning": meaning}
        rows.append(row)
    cond_layout = "[gate (R tanh, R sigmoid), piece, layer, sample], Fortran order in the file"
    cond_meaning = "added before the gate in the step that draws this sample; context, excitation and biases"
    cond_shape, shape = (2 * size["R"], batch_size, size["L"], n_samples), (batch_size, n_samples)
    piecewise = {
        COND_NAME: ("float32", cond_shape, cond_layout, cond_meaning),
        UNIFORMS_NAME: ("float32", shape, "[piece, sample]", "random value of the step, in (0, 1)"),
        EXPECTED_NAME: ("int32", shape, "[piece, sample]", "mu-law codes that are drawn"),
    }
    for file, (dtype, shape, layout, meaning) in piecewise.items():
        row = {"file": file, "name": file.partition(".")[0], "dtype": dtype, "shape": list(shape)}
        rows.append({**row, "layout": layout, "meaning": meaning})
    return rows


def read(folder: Path) -> Bundle:
    """Read a bundle, and check that its files are consistent. Raises InputError if it is damaged or incomplete."""
    if not (folder / BUNDLE_NAME).is_file():
        raise InputError(f"{folder} is not a bundle (no {BUNDLE_NAME}); make one with nv_wavenet_bridge.export")
    try:
        about = json.loads((folder / BUNDLE_NAME).read_text(encoding="utf-8"))
        if about["format"] != FORMAT:
            raise InputError(f"{folder} has format {about['format']!r}, expected {FORMAT!r}; export it again")
        _check_about(about)
        # Read, not mapped: not every file system can map files.
        weights = unflatten(deserialize((folder / WEIGHTS_NAME).read_bytes()), f"{folder}: {WEIGHTS_NAME}")
        _check_pt(folder / PT_NAME, weights)
        names = (COND_NAME, UNIFORMS_NAME, EXPECTED_NAME)
        arrays = {name: _map(folder / name) for name in names}
    except DAMAGE as error:
        if is_system_error(error):
            raise
        raise InputError(f"{folder} is damaged ({_line(error)}); {EXPORT_AGAIN}") from error
    size, pieces = sizes(weights), about["pieces"]
    n_samples = max(piece["n_samples"] for piece in pieces)
    for row in describe(weights, len(pieces), n_samples)[-len(arrays) :]:
        array = arrays[row["file"]]
        if list(array.shape) != row["shape"] or array.dtype != row["dtype"]:
            raise InputError(
                f"{folder}: {row['file']} is {array.dtype} {list(array.shape)}, "
                f"expected {row['dtype']} {row['shape']}; {EXPORT_AGAIN}"
            )
    uniforms, expected = np.array(arrays[UNIFORMS_NAME]), np.array(arrays[EXPECTED_NAME])
    if not ((uniforms > 0) & (uniforms < 1)).all():
        raise InputError(f"{folder}: {UNIFORMS_NAME} has values outside (0, 1); {EXPORT_AGAIN}")
    if not ((expected >= 0) & (expected < size["A"])).all():
        raise InputError(f"{folder}: {EXPECTED_NAME} has values that are no codes; {EXPORT_AGAIN}")
    return Bundle(about, weights, arrays[COND_NAME], uniforms, expected)


def _map(path: Path) -> np.ndarray:
    try:
        return map_array(path, "c")
    except InputError as error:
        raise ValueError(f"{path.name}: {error}") from error


def _check_about(about: dict[str, Any]) -> None:
    if not about["pieces"] or not all(
        Path(piece["name"]).name == piece["name"] and type(piece["n_samples"]) is int and piece["n_samples"] > 0
        for piece in about["pieces"]
    ):
        raise ValueError("no pieces are listed")
    if type(about["audio_hz"]) is not int or about["audio_hz"] < 1:
        raise ValueError(f"audio_hz = {about['audio_hz']}")
    preemphasis = about.setdefault("preemphasis", 0)  # Bundles of older versions have none.
    if type(preemphasis) not in (int, float) or not 0 <= preemphasis < 1:
        raise ValueError(f"preemphasis = {preemphasis}")


def _check_pt(path: Path, weights: dict[str, Any]) -> None:
    """Refuse a weights.pt that is not bit for bit equal to the checked weights."""
    import torch

    stored, expected = torch.load(path, weights_only=True), as_torch(weights)
    same = (
        isinstance(stored, dict)
        and stored.keys() == expected.keys()
        and all(
            len(stored[name]) == len(value) and all(map(_equal, stored[name], value))
            if isinstance(value, list)
            else _equal(stored[name], value)
            for name, value in expected.items()
        )
    )
    if not same:
        raise ValueError(f"{path.name} and {WEIGHTS_NAME} differ")


def _equal(a: Any, b: Any) -> bool:
    import torch

    if not isinstance(b, torch.Tensor):
        return type(a) is type(b) and a == b
    return isinstance(a, torch.Tensor) and a.dtype == b.dtype and a.is_contiguous() and torch.equal(a, b)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
