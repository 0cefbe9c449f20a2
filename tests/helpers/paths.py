"""Where the repository and the optional real data lie."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CONFIG_SCHEMA = ROOT / "configs" / "schema.json"
SHIPPED_CONFIGS = sorted(path for path in (ROOT / "configs").rglob("*.json") if path != CONFIG_SCHEMA)

# Real data; tests that need them are skipped where they are absent.
SHARED = ROOT.parent / "shared"
DATA = SHARED / "data"
MAESTRO_CLIP = DATA / "maestro-clip"
DISKLAVIER = DATA / "disklavier-maestro-layout"
