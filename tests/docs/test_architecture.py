"""The rules of docs/ARCHITECTURE.md hold: layers, cycles, sizes and words; pages are complete and their links valid."""

import ast
import graphlib
import re
from collections.abc import Iterator

import pytest

from midi2wave import config
from tests.docs import vocabulary
from tests.helpers.paths import CONFIG_SCHEMA, ROOT

# Modules of one layer may import each other and every earlier layer.
LAYERS = (
    "midi2wave.utils",
    "midi2wave.audio midi2wave.midi midi2wave.config",
    "midi2wave.conditioning midi2wave.modules midi2wave.plotting",
    "midi2wave.data midi2wave.recordings midi2wave.demo_dataset wavenet logistic_mixture",
    "midi2wave.sampling midi2wave.checkpoint midi2wave.checkpoint_folders midi2wave.weight_files",
    "midi2wave.training midi2wave.evaluation midi2wave.live nv_wavenet_bridge",
    "midi2wave.finetuning",
    "midi2wave midi2wave.api COMMANDS benchmarks",
)
LIBRARY_AT_TOP_LEVEL = ("wavenet", "logistic_mixture")
MAX_TOP_LEVEL_FILES = 14
MAX_MODULE_LINES = 450
MAX_FUNCTION_LINES = 50
MAX_PARAMETERS = 8
MAX_TEST_NAME_LENGTH = 60

# Exceptions from the limits, each with its reason.
LONG_MODULES = {
    "midi2wave/config.py": "declarative: every option with its default and documentation",
    "wavenet.py": "the whole model on one page: context stack, decoder, likelihood and cached sampler",
}
LONG_FUNCTIONS: dict[str, str] = {}
KERNEL_REASON = "compiled: numbers are passed in registers, an object would be read from memory"
MANY_PARAMETERS: dict[str, str] = {
    "midi2wave/api.py:finetune": "keyword-only: the options of the command, as a function",
    "wavenet.py:generate": "the reference sampler: SamplingOptions belong to a later layer",
    "midi2wave/sampling/engines/cpu_kernel.py:_add_rows": KERNEL_REASON,
    "midi2wave/sampling/engines/simd.py:_four_columns": KERNEL_REASON,
    "midi2wave/sampling/engines/simd.py:_one_column": KERNEL_REASON,
    "midi2wave/sampling/engines/simd.py:_panel": KERNEL_REASON,
    "midi2wave/sampling/engines/simd.py:_two_columns": KERNEL_REASON,
    "midi2wave/sampling/engines/simd.py:multiply": KERNEL_REASON,
}


def module_name(path: str) -> str:
    """The dotted name of a module: midi2wave/data/crops.py -> midi2wave.data.crops."""
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


SOURCES = {
    module_name(path): path for path in vocabulary.tracked("*.py") if not path.startswith(("tests/", "examples/"))
}
PYTHON_FILES = vocabulary.tracked("*.py")


def without_ignored_blocks(tree: ast.Module) -> ast.Module:
    """A module without what runs only as a command, and without imports for type checkers."""
    ignored = ("if __name__ == '__main__':", "if TYPE_CHECKING:", "if typing.TYPE_CHECKING:")
    tree.body = [node for node in tree.body if not ast.unparse(node).startswith(ignored)]
    return tree


def imports(module: str) -> set[str]:
    """The project's modules that a module imports anywhere, in functions too."""
    tree = without_ignored_blocks(ast.parse((ROOT / SOURCES[module]).read_text(encoding="utf-8")))
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            imported |= {name if name in SOURCES else node.module for name in names}
    return imported & SOURCES.keys() - {module}


def layer_of(module: str) -> int:
    """The number of a module's layer: that of the longest name in LAYERS that it begins with; commands are the last."""
    names = {name: number for number, layer in enumerate(LAYERS) for name in layer.split()}
    matching = [name for name in names if f"{module}.".startswith(f"{name}.")]
    if module.startswith("midi2wave.") and matching == ["midi2wave"]:
        raise ValueError(f"{module} is in no layer")
    return names[max(matching, key=len)] if matching else names["COMMANDS"]


def test_imports_run_one_way():
    wrong = [
        f"{module} (layer {layer_of(module)}) imports {other} (layer {layer_of(other)})"
        for module in SOURCES
        for other in imports(module)
        if layer_of(other) > layer_of(module)
    ]
    assert wrong == []


def test_commands_do_not_import_each_other():
    commands = {name for name in SOURCES if "." not in name and name not in (*LIBRARY_AT_TOP_LEVEL, "midi2wave")}
    commands -= {"benchmarks", "nv_wavenet_bridge"}
    library = [name for name in SOURCES if not name.startswith("benchmarks.") and name != "demo"]
    assert {name: imports(name) & commands for name in library if imports(name) & commands} == {}


def test_only_benchmarks_import_the_bridge():
    importers = {name for name in SOURCES for other in imports(name) if other.startswith("nv_wavenet_bridge")}
    assert {name for name in importers if not name.startswith(("nv_wavenet_bridge", "benchmarks"))} == set()


def test_no_import_cycles():
    graphlib.TopologicalSorter({module: imports(module) for module in SOURCES}).prepare()


def test_the_top_level_is_short():
    names = sorted(path.name for path in ROOT.glob("*.py"))
    assert len(names) <= MAX_TOP_LEVEL_FILES, names


def described_modules(text: str) -> set[str]:
    """The paths of the modules in the tables of docs/ARCHITECTURE.md, each below the folder that is named last."""
    folder, described = "", set()
    for line in text.splitlines():
        if line.startswith("## ") and not line.startswith("## The package"):
            folder = ""
        if match := re.search(r"(?:^#+ .*|^)`((?:midi2wave|benchmarks|nv_wavenet_bridge)/[\w/]*)`", line):
            folder = match[1]
        if match := re.match(r"\| `(\w+\.py)` \|", line):
            described.add(folder + match[1])
    return described


def test_the_architecture_names_every_module():
    text = (ROOT / "docs" / "ARCHITECTURE.md").read_text(encoding="utf-8")
    modules = {path for path in SOURCES.values() if not path.endswith("__init__.py")}
    described = described_modules(text)
    assert sorted(modules - described) == [], "missing in docs/ARCHITECTURE.md"
    assert sorted(described - modules) == [], "in docs/ARCHITECTURE.md, but no such module"


def test_the_table_of_config_options_is_up_to_date():
    written = (ROOT / "docs" / "configs.md").read_text(encoding="utf-8")
    assert written == config.table() + "\n", "run: python -m midi2wave.config > docs/configs.md"


def test_the_schema_of_config_files_is_up_to_date():
    written = CONFIG_SCHEMA.read_text(encoding="utf-8")
    assert written == config.json_schema() + "\n", "run: python -m midi2wave.config --schema > configs/schema.json"


@pytest.mark.parametrize("page", ["README.md", *(p.relative_to(ROOT).as_posix() for p in sorted(ROOT.glob("*/*.md")))])
def test_links_lead_somewhere(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    links = [link.split("#")[0] for link in re.findall(r"\]\(([^)]+)\)", text) if "://" not in link]
    assert [link for link in links if link and not (ROOT / page).parent.joinpath(link).exists()] == []
    assert not re.search(r"\b[A-Z]+_(TABLE|TEXT|ROWS|MINUTES|SPEED)\b", text)


def functions() -> Iterator[tuple[str, ast.FunctionDef]]:
    """All functions and methods of the repository, each as FILE:NAME and its syntax tree."""
    for path in PYTHON_FILES:
        for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef):
                yield f"{path}:{node.name}", node


def n_parameters(function: ast.FunctionDef) -> int:
    """The parameters of a function, without the object or class of a method."""
    arguments = function.args
    names = [one.arg for one in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
    return len([name for name in names if name not in ("self", "cls")])


def test_no_module_is_too_long():
    lengths = {path: len((ROOT / path).read_text(encoding="utf-8").splitlines()) for path in PYTHON_FILES}
    assert {path: n for path, n in lengths.items() if n > MAX_MODULE_LINES and path not in LONG_MODULES} == {}


def test_no_function_is_too_long():
    lengths = {name: node.end_lineno - node.lineno + 1 for name, node in functions()}
    assert {name: n for name, n in lengths.items() if n > MAX_FUNCTION_LINES and name not in LONG_FUNCTIONS} == {}


def test_no_function_has_too_many_parameters():
    counts = {name: n_parameters(node) for name, node in functions()}
    assert {name: n for name, n in counts.items() if n > MAX_PARAMETERS and name not in MANY_PARAMETERS} == {}


def test_exceptions_from_the_limits_are_needed():
    """An exception whose function or module is gone is removed here, too."""
    names = {name for name, _ in functions()}
    assert set(LONG_MODULES) <= set(PYTHON_FILES)
    assert set(LONG_FUNCTIONS) | set(MANY_PARAMETERS) <= names


def test_everything_is_formatted():
    marks = re.compile(r"#\s*fmt:\s*(skip|off)")
    texts = {path: (ROOT / path).read_text(encoding="utf-8") for path in PYTHON_FILES}
    assert {path: len(marks.findall(text)) for path, text in texts.items() if marks.search(text)} == {}


def test_names_of_tests_are_short():
    names = {name.split(":")[1] for name, _ in functions()}
    assert sorted(name for name in names if name.startswith("test_") and len(name) > MAX_TEST_NAME_LENGTH) == []


def test_words_are_those_of_the_field():
    assert [str(hit) for hit in vocabulary.all_hits()] == [], "see tests/docs/vocabulary.py"


@pytest.mark.parametrize("path", sorted(vocabulary.ALLOWED))
def test_exceptions_from_the_vocabulary_are_needed(path, monkeypatch):
    """Every word that is allowed in a file stands there."""
    allowed = vocabulary.ALLOWED[path]
    monkeypatch.setattr(vocabulary, "ALLOWED", {})
    assert set(allowed) <= {hit.word.strip("_") for hit in vocabulary.hits_of(path)}


def test_the_vocabulary_finds_private_words():
    """Forbidden identifiers and prose are hits; ordinary English and the field's terms are not."""
    bound = dict(vocabulary.bound_names(ast.parse("found = heard_notes = f(n_given=1)\nself.kept: int = 1\n")))
    assert [name for name in bound if vocabulary.judge_identifier(name)] == ["found", "heard_notes", "kept"]
    assert vocabulary.judge_identifier("LEAST_NOTES") == "MIN_..." and vocabulary.judge_identifier("at_least") is None
    for text, expected in (
        ("The decoder hears its notes", ["hears"]),
        ("no checkpoint found in this folder", []),
        ("the noise floor of the recording", []),
        ("between the floor and the ceiling", ["ceiling", "floor"]),
    ):
        assert sorted(hit.word for hit in vocabulary.prose_hits("page.md", 1, text)) == expected
