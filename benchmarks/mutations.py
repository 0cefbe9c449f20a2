"""Changes the code in small ways that make results wrong, and reports which of them no test notices.

    python -m benchmarks.mutations                  # all, about ten minutes on one core
    python -m benchmarks.mutations --only sampler   # those whose name or file contains this
    python -m benchmarks.mutations --list

Each mutation of `benchmarks/mutations.toml` is made in a copy of the tree, and its tests run there. Exit 1 if one of
them survives, or if its text no longer stands exactly once in its file.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from dataclasses import dataclass
from pathlib import Path

from midi2wave.utils.cli import Failure, log, make_parser, report_and_exit_code, run
from midi2wave.utils.errors import InputError

ROOT = Path(__file__).resolve().parents[1]
LIST_NAME = "benchmarks/mutations.toml"
# What no test of a mutation needs, at the top level; most of it is large.
LEFT_OUT = {
    ".git",
    ".venv",
    "data",
    "demo",
    "runs",
    "test",
    "output",
    "build",
    ".mypy_cache",
    ".ruff_cache",
    ".hypothesis",
}
TIMEOUT_SECONDS = 300
# Exit codes of pytest.
TESTS_PASSED, TESTS_FAILED = 0, 1


@dataclass(frozen=True)
class Mutation:
    """One change of the code.

    Attributes:
        name: What is wrong with it; unique.
        path: The file, relative to the repository.
        text: A text that stands once in it.
        replacement: What takes its place.
        tests: Test files, or single tests as FILE::NAME.
    """

    name: str
    path: str
    text: str
    replacement: str
    tests: tuple[str, ...]


def load_mutations() -> list[Mutation]:
    """All mutations of the list."""
    rows = tomllib.loads((ROOT / LIST_NAME).read_text(encoding="utf-8"))["mutation"]
    return [Mutation(**row | {"tests": tuple(row["tests"])}) for row in rows]


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = make_parser(__doc__)
    parser.add_argument("--only", default="", metavar="TEXT", help="only mutations with this in their name or file")
    parser.add_argument("--list", action="store_true", dest="only_list", help="list them, and run no test")
    args = parser.parse_args(argv)
    selected = [one for one in load_mutations() if args.only in one.name or args.only in one.path]
    if not selected:
        raise InputError(f"--only {args.only}: no mutation has this in its name or file; see --list")
    if args.only_list:
        print("\n".join(f"{one.path}: {one.name}" for one in selected))
        return 0
    failures = []
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "tree"
        shutil.copytree(ROOT, copy, ignore=_left_out, symlinks=True)
        for mutation in selected:
            started = time.monotonic()
            reason = outdated(copy, mutation) or survival(copy, mutation)
            log(f"{time.monotonic() - started:5.1f} s  {mutation.name}: {reason or 'noticed'}")
            failures += [Failure(f"{mutation.path}: {mutation.name}", reason)] if reason else []
    n_noticed = len(selected) - len(failures)
    result = {"mutations": len(selected), "noticed": n_noticed}
    return report_and_exit_code(
        f"{n_noticed} of {len(selected)} mutations are noticed", result, failures, n_noticed, as_json=args.as_json
    )


def _left_out(folder: str, names: list[str]) -> set[str]:
    """The names of a folder that are not copied."""
    return {name for name in names if name == "__pycache__" or (Path(folder) == ROOT and name in LEFT_OUT)}


def outdated(root: Path, mutation: Mutation) -> str | None:
    """Why a mutation no longer fits the tree; None if it does."""
    path = root / mutation.path
    count = path.read_text(encoding="utf-8").count(mutation.text) if path.is_file() else 0
    if count != 1:
        return f"its text stands {count} times in the file, expected once; correct {LIST_NAME}"
    missing = [test for test in mutation.tests if not _test_exists(root, test)]
    return f"there is no test {', '.join(missing)}; correct {LIST_NAME}" if missing else None


def _test_exists(root: Path, test: str) -> bool:
    name, _, function = test.partition("::")
    path = root / name
    return path.is_file() and (not function or f"def {function}(" in path.read_text(encoding="utf-8"))


def survival(root: Path, mutation: Mutation) -> str | None:
    """Make a mutation, run its tests, and undo it.

    Args:
        root: A copy of the tree.
        mutation: A mutation that fits it.

    Returns:
        None if a test fails; otherwise what happened.
    """
    path = root / mutation.path
    original = path.read_text(encoding="utf-8")
    path.write_text(original.replace(mutation.text, mutation.replacement), encoding="utf-8", newline="\n")
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-m", "not slow", *mutation.tests]
    # The compiled code of the unchanged module must not be used, nor that of the changed one be kept.
    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run(
            command,
            cwd=root,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=TIMEOUT_SECONDS,
        )
    except subprocess.TimeoutExpired:  # A test that does not end is a test that fails.
        return None
    finally:
        path.write_text(original, encoding="utf-8", newline="\n")
    if done.returncode == TESTS_PASSED:
        return f"survives {' '.join(mutation.tests)}"
    if done.returncode != TESTS_FAILED:
        last = (done.stdout.decode("utf-8", "replace").strip().splitlines() or ["no output"])[-1]
        return f"its tests do not run (pytest exits with {done.returncode}: {last})"
    return None


if __name__ == "__main__":
    run(main)
