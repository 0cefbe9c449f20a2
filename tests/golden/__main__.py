"""Golden references: prove that a change of the code changes no number.

    python -m tests.golden --check                       # within the tolerances for other processors
    python -m tests.golden --check --exact               # bit for bit: on the machine that wrote the results
    python -m tests.golden --check --exact --only crops training
    python -m tests.golden --write --only samples        # only where numbers are meant to change

Run it from the top level of the repository. It prints one line for each item and exits with 1 if one differs.
"""

import argparse
import json
import os
import sys
import tempfile
import time
import traceback
from pathlib import Path

# Sums are taken in another order by several threads; libraries read these variables when they are imported.
for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"

import torch  # noqa: E402

from tests.golden.comparison import compare, record  # noqa: E402
from tests.golden.items import ITEMS  # noqa: E402
from tests.golden.workspace import Workspace  # noqa: E402

RESULTS = Path(__file__).resolve().parent / "results"
MAX_PRINTED_DIFFERENCES = 8


def check(space: Workspace, name: str, *, exact: bool) -> tuple[bool, str]:
    """Compute one item and compare it with its stored results.

    Returns:
        Whether it passes, and a text that says how far it is off.
    """
    item = ITEMS[name]
    if reason := item.needs():
        return True, f"skipped: {reason}"
    if item.exact_only and not exact:
        return True, "skipped: bits are compared with --exact only"
    try:
        computed = record(item.compute(space))
    except Exception:  # The other items may still be checked.
        return False, f"FAILED\n{traceback.format_exc()}"
    path = RESULTS / f"{item.stored_in or name}.json"
    if not path.is_file():
        return False, f"no stored results at {path}; write them with --write --only {name}"
    stored = json.loads(path.read_text(encoding="utf-8"))
    if item.stored_in:
        stored = {key: stored[key] for key in computed}
    verdict = compare(stored, json.loads(json.dumps(computed)), item.tolerance)
    if verdict.identical:
        return True, f"identical ({len(stored)} values)"
    if not verdict.differences:
        text = f"within tolerance (maximum deviation {verdict.deviation:.3g})"
        return not exact, f"DIFFERENT in bits, {text}" if exact else text
    lines = verdict.differences[:MAX_PRINTED_DIFFERENCES]
    more = len(verdict.differences) - len(lines)
    lines += [f"and {more} more"] if more else []
    return False, "\n    ".join(["DIFFERENT", *lines])


def write(space: Workspace, name: str) -> str:
    """Compute one item and store its results; returns what was done."""
    if ITEMS[name].stored_in:
        return f"nothing to write: compared with {ITEMS[name].stored_in}"
    values = record(ITEMS[name].compute(space))
    RESULTS.mkdir(exist_ok=True)
    lines = [f"{json.dumps(key)}: {json.dumps(values[key])}" for key in sorted(values)]
    (RESULTS / f"{name}.json").write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    return f"{len(values)} values written"


def main(argv: list[str] | None = None) -> int:
    """Check or write the items; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.golden", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--check", action="store_true", help="compare with the stored results")
    action.add_argument("--write", action="store_true", help="replace the stored results")
    parser.add_argument("--exact", action="store_true", help="with --check: demand equal bits")
    parser.add_argument("--only", nargs="+", choices=sorted(ITEMS), metavar="NAME", help=", ".join(ITEMS))
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    failed = False
    with tempfile.TemporaryDirectory() as folder, Workspace(Path(folder)).entered() as space:
        for name in args.only or ITEMS:
            began = time.monotonic()
            passed, text = (True, write(space, name)) if args.write else check(space, name, exact=args.exact)
            failed |= not passed
            print(f"{name}: {text} [{time.monotonic() - began:.1f} s]", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
