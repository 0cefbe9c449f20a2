"""Confirm without a GPU that bundles are right, or that the emulator is (README.md in this folder).

    python -m nv_wavenet_bridge.check bundle
    python -m nv_wavenet_bridge.check --golden golden/*.npz

A bundle is right if the emulator of nv-wavenet, given the bundle and nothing else, draws every sample of expected.npy.
A golden file holds what NVIDIA's own CPU reference drew. Exit 0 only if every sample of every item is equal.
"""

if __name__ == "__main__":
    from midi2wave.utils import signals

    signals.exit_on_interrupt()  # Ctrl-C during the imports below needs no traceback.

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from midi2wave.utils.cli import Failure, format_error, make_parser, progress, report_and_exit_code, run
from midi2wave.utils.errors import InputError, is_system_error
from nv_wavenet_bridge import bundle
from nv_wavenet_bridge.emulator import cumulative, emulate

# Float32 moves the edges of the bins by a few units in the last place of sums over 256 codes. A uniform so close to an
# edge may fall to either side, and the weights do not decide to which.
EDGE_TOLERANCE = 3e-6


@dataclass(frozen=True)
class Comparison:
    """Comparison of codes with the emulator's, which is teacher-forced by them."""

    n_samples: int
    on_edge: int  # They differ, but the uniform lies on the edge of the code's bin.
    wrong: int
    first: tuple[int, int] | None  # Piece and sample of the first wrong one.

    def __str__(self) -> str:
        equal = self.n_samples - self.on_edge - self.wrong
        words = f"{equal} of {self.n_samples} samples equal"
        if self.on_edge:
            words += f", {self.on_edge} with a uniform within {EDGE_TOLERANCE:g} of the bin's edge"
        if self.first:
            words += f", {self.wrong} differ, the first at sample {self.first[1]} of piece {self.first[0]}"
        return words


def main(argv: list[str] | None = None) -> int:
    """Run the check; returns the exit code."""
    arguments = make_parser(__doc__)
    arguments.add_argument("bundles", nargs="*", type=Path, metavar="BUNDLE")
    arguments.add_argument("--golden", nargs="+", type=Path, default=[], metavar="FILE.npz")
    args = arguments.parse_args(argv)
    if not args.bundles and not args.golden:
        raise InputError("nothing to check; give a bundle, or --golden with files")
    items = [(path, check_bundle) for path in args.bundles] + [(path, check_golden) for path in args.golden]
    right, failures = {}, []
    for path, check in items:
        try:
            ok, words = check(path)
            if not ok:
                raise InputError(words)
            right[str(path)] = words
        except InputError as error:
            failures.append(Failure(str(path), format_error(error)))
    summary = "\n".join(f"{path}: {words}" for path, words in right.items()) or "nothing checks out"
    return report_and_exit_code(summary, {"right": right}, failures, len(right), as_json=args.as_json)


def check_bundle(path: Path) -> tuple[bool, str]:
    """Whether a bundle's expected.npy is what nv-wavenet would draw, and a line that says so."""
    read = bundle.read(path)
    comparison = compare(read.weights, read.cond_input, read.uniforms, read.expected)
    return not comparison.wrong, str(comparison)


def compare(weights: dict[str, Any], cond_input: np.ndarray, uniforms: np.ndarray, codes: np.ndarray) -> Comparison:
    """Compare codes [B, T] with the emulator's.

    The emulator is teacher-forced by the codes, so that one difference does not make all later codes differ. If there
    is none, it would draw the same codes free-running.
    """
    on_edge, wrong = 0, 0
    first: tuple[int, int] | None = None
    steps = progress(emulate(weights, cond_input, uniforms, codes), uniforms.shape[1], "sample")
    for t, (own_codes, logits) in enumerate(steps):
        for piece in np.flatnonzero(own_codes != codes[:, t]):
            edges, code = np.concatenate([[0], cumulative(logits[piece : piece + 1])[0]]), codes[piece, t]
            if edges[code] - EDGE_TOLERANCE <= uniforms[piece, t] <= edges[code + 1] + EDGE_TOLERANCE:
                on_edge += 1
            else:
                wrong, first = wrong + 1, first or (int(piece), t)
    return Comparison(codes.size, on_edge, wrong, first)


def check_golden(path: Path) -> tuple[bool, str]:
    """Whether the emulator draws by itself all samples of a golden file, and a line that says so."""
    weights, cond_input, stored = read_golden(path)
    steps = list(emulate(weights, cond_input, stored["uniforms"]))
    samples = np.stack([codes for codes, _ in steps], axis=1)
    error = max(
        np.abs(logits - stored["logits_last"][:, i]).max()
        for i, (_, logits) in enumerate(steps[-stored["logits_last"].shape[1] :])
    )
    equal = int(np.count_nonzero(samples == stored["samples"]))
    return equal == samples.size, f"{equal} of {samples.size} samples equal, last logits within {error:.0e}"


def read_golden(path: Path) -> tuple[dict[str, Any], np.ndarray, dict[str, np.ndarray]]:
    """Weights, cond_input [2R, B, L, T] and all arrays of a golden file. Raises InputError."""
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        with np.load(path) as opened:
            stored = {name: opened[name] for name in opened.files}
        n_samples = stored["uniforms"].shape[1]
        cond_input = np.repeat(stored["cond_frames"], int(stored["hop"]), axis=3)[..., :n_samples]
        weights = bundle.unflatten(stored, str(path))
        size = bundle.sizes(weights)
        shape = (2 * size["R"], len(stored["uniforms"]), size["L"], n_samples)
        if cond_input.shape != shape or stored["samples"].shape != shape[1::2] or stored["logits_last"].ndim != 3:
            raise ValueError("its arrays do not fit together")
    except (OSError, ValueError, KeyError, IndexError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        if is_system_error(error):
            raise
        raise InputError(f"{path} is not a golden file ({format_error(error)})") from error
    return weights, cond_input, stored


if __name__ == "__main__":
    run(main)
