"""The floors of docs/ARCHITECTURE.md hold: who may import whom."""

import ast
import graphlib
import re

import pytest

from midi2wave import config
from tests.helpers.paths import ROOT

STEPS = {"render_midi", "resample_audio", "preprocess_maestro", "preprocess_audio", "train", "inference", "evaluate"}
STEPS |= {"demo", "cost", "measure_partials", "align_labels"}
MODEL = {"wavenet", "residual_stack", "logistic_mixture", "argmax_bottleneck"}
ON_THE_MODEL = {"checkpoint", "hardware", "likelihood", "synthesis", "training_log", "training_state", "validation"}
ON_THE_MODEL |= {"scheduled_sampling"}
MODULES = {path.stem for path in ROOT.glob("*.py")}
SHARED = MODULES - STEPS - MODEL - ON_THE_MODEL


def imports(module, among=MODULES):
    tree = ast.parse((ROOT / f"{module}.py").read_text(encoding="utf-8"))
    # Run as a command, a module may hand over to one that stands on it: `python wavenet.py` does, to cost.py.
    tree.body = [node for node in tree.body if not ast.unparse(node).startswith("if __name__ == '__main__':")]
    named = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    named |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    return {name.split(".")[0] for name in named if name} & among


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_keep_to_the_floors(module):
    allowed = {
        **dict.fromkeys(STEPS, MODULES - STEPS),
        **dict.fromkeys(MODEL, MODEL | {"config"}),
        **dict.fromkeys(ON_THE_MODEL, SHARED | MODEL | ON_THE_MODEL),
    }.get(module, SHARED)
    assert imports(module) <= allowed


def test_the_bridge_stands_on_the_model_and_nothing_stands_on_it():
    rooms = [path.stem for path in (ROOT / "nv_wavenet_bridge").glob("*.py")]
    assert all(imports(f"nv_wavenet_bridge/{room}") <= SHARED | MODEL | ON_THE_MODEL for room in rooms)
    assert not any(imports(module, {"nv_wavenet_bridge"}) for module in MODULES)


def test_the_samplers_stand_on_the_model_and_the_model_not_on_them():
    for room in (ROOT / "samplers").glob("*.py"):
        assert imports(f"samplers/{room.stem}") <= SHARED | MODEL
    assert not any(imports(module, {"samplers"}) for module in SHARED | MODEL)


def test_the_table_of_config_keys_is_up_to_date():
    written = (ROOT / "docs" / "configs.md").read_text(encoding="utf-8")
    assert written == config.table() + "\n", "run: python config.py > docs/configs.md"


def test_there_are_no_circles():
    graphlib.TopologicalSorter({module: imports(module) for module in MODULES}).prepare()


def test_the_architecture_names_every_module():
    text = (ROOT / "docs" / "ARCHITECTURE.md").read_text(encoding="utf-8")
    assert [module for module in sorted(MODULES) if f"{module}.py" not in text] == []


@pytest.mark.parametrize("page", ["README.md", *(p.relative_to(ROOT).as_posix() for p in sorted(ROOT.glob("*/*.md")))])
def test_the_links_of_the_pages_lead_somewhere(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    links = [link.split("#")[0] for link in re.findall(r"\]\(([^)]+)\)", text) if "://" not in link]
    assert [link for link in links if link and not (ROOT / page).parent.joinpath(link).exists()] == []
    assert not re.search(r"\b[A-Z]+_(TABLE|TEXT|ROWS|MINUTES|SPEED)\b", text)
