"""Where the repository and the optional real data lie."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared"  # real data; tests that need it are skipped where it is absent
