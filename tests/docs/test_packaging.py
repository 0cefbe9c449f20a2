"""`pip install .` gives a library that works outside the checkout, with the examples of the documents."""

import re
import shutil
import site
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.helpers.paths import ROOT
from tests.helpers.pipeline import melody, write_midi

SOURCES = (
    "pyproject.toml",
    "README.md",
    "LICENSE",
    "wavenet.py",
    "logistic_mixture.py",
    "midi2wave",
    "nv_wavenet_bridge",
)
TIMEOUT_SECONDS = 300


def run(*command: str | Path, cwd: Path) -> str:
    """Run a command; returns its standard output."""
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, capture_output=True, text=True, check=False, timeout=TIMEOUT_SECONDS
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


def python_blocks(page: str) -> list[str]:
    """The ```python blocks of a page."""
    return re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(encoding="utf-8"), flags=re.M | re.S)


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a fresh environment with the library installed from a copy of its sources.

    The dependencies are those of the environment that runs the tests: they are not downloaded a second time.
    """
    folder = tmp_path_factory.mktemp("installation")
    for name in SOURCES:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, folder / name)
    venv.create(folder / "venv", with_pip=True)
    python = folder / "venv" / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    (packages,) = run(python, "-c", "import site; print(site.getsitepackages()[0])", cwd=folder).split()
    (Path(packages) / "dependencies.pth").write_text("\n".join(site.getsitepackages()) + "\n")
    # Python 3.11 puts an old setuptools into a new environment, in front of the pinned one.
    run(python, "-m", "pip", "uninstall", "--yes", "setuptools", cwd=folder)
    run(python, "-m", "pip", "install", "--no-deps", "--no-build-isolation", "--no-index", folder, cwd=folder)
    return python


@pytest.mark.slow
@pytest.mark.parametrize("page", ["README.md", "docs/api.md", "docs/midi.md"])
def test_the_python_examples_run_outside_the_checkout(installation: Path, tmp_path: Path, page: str):
    """The examples of the pages run as they stand, on short MIDI files of the names that they use."""
    (tmp_path / "pretrained").symlink_to(ROOT / "pretrained")
    for name in ("scale", "bach_prelude"):
        write_midi(tmp_path / f"examples/{name}.mid", melody(0, 0.2))
    blocks = python_blocks(page)
    assert blocks
    for block in blocks:
        print_locations = "import midi2wave, wavenet\nprint(midi2wave.__file__, wavenet.__file__)\n"
        printed = run(installation, "-c", print_locations + block, cwd=tmp_path).split()
        assert all(Path(file).is_relative_to(installation.parents[1]) for file in printed[:2]), printed
        assert float(printed[-1]) > 0  # The negative log-likelihood is the last thing that they print.
    assert list(tmp_path.glob("*.wav"))


@pytest.mark.slow
def test_an_installation_holds_the_library_and_no_commands(installation: Path, tmp_path: Path):
    """Flat scripts named train or evaluate would collide with others in an environment."""
    code = "import importlib.util as u; print(*(bool(u.find_spec(n)) for n in {!r}))"
    names = ("midi2wave.sampling.engines.cpu", "nv_wavenet_bridge.export", "train", "evaluate", "benchmarks", "tests")
    printed = run(installation, "-I", "-c", code.format(names), cwd=tmp_path)
    assert printed.split() == ["True", "True", "False", "False", "False", "False"]


@pytest.mark.slow
def test_an_installation_writes_a_listening_page(installation: Path, tmp_path: Path):
    """Its template is a file of the package."""
    code = "from midi2wave.plotting.listening_page import *; write_listening_page('index.html', 'a page', [], {})"
    run(installation, "-I", "-c", code, cwd=tmp_path)
    assert "<h1>a page</h1>" in (tmp_path / "index.html").read_text(encoding="utf-8")


def test_the_pinned_versions_lie_in_the_declared_ranges():
    """requirements*.txt and pyproject.toml name the same packages, and each pin is allowed."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    for name, declared in (("", project["dependencies"]), *((f"-{extra}", extras[extra]) for extra in extras)):
        lines = (ROOT / f"requirements{name}.txt").read_text(encoding="utf-8").splitlines()
        pinned = [Requirement(line.split("#")[0].strip()) for line in lines if re.match(r"\w", line)]
        pins = {requirement.name: str(requirement.specifier).removeprefix("==") for requirement in pinned}
        ranges = {requirement.name: requirement.specifier for requirement in map(Requirement, declared)}
        assert pins.keys() == ranges.keys() - {"pre-commit"}, name
        assert all(ranges[package].contains(version) for package, version in pins.items()), name


def test_every_pin_says_what_it_is_for():
    for path in ROOT.glob("requirements*.txt"):
        pins = [line for line in path.read_text(encoding="utf-8").splitlines() if re.match(r"\w", line)]
        assert pins and all(re.search(r"==[^\s;]+(;[^#]+)? +# \w", line) for line in pins), path


def test_the_six_packages_of_the_design_stand_first():
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    names = [line.split("==")[0] for line in lines if re.match(r"\w", line)]
    assert names[:6] == ["torch", "librosa", "pretty_midi", "numpy", "scipy", "matplotlib"]
