"""The user's settings of matplotlib change no picture and end no command; a picture that fails is a remark."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from midi2wave.plotting import figures
from midi2wave.plotting.pictures import default_settings, save_picture
from tests.helpers import drawing_commands
from tests.helpers.paths import ROOT
from tests.helpers.pipeline import read_files, write_config, write_maestro

# LaTeX is not needed for any figure; with these settings every figure would look different.
ODD_SETTINGS = """
backend: Qt4Agg
text.usetex: True
font.size: 30
font.family: a font that nobody has
savefig.bbox: tight
savefig.dpi: 37
savefig.format: pdf
savefig.transparent: True
figure.facecolor: black
figure.constrained_layout.use: True
axes.prop_cycle: cycler("color", ["k"])
axes.formatter.use_locale: True
lines.linewidth: 20
path.simplify: False
no.such.setting: 1
"""
DRAW = """
import json, os, sys
from pathlib import Path
import midi2wave
from midi2wave.plotting.pictures import save_picture
folder = Path(sys.argv[1])
early = "matplotlib" in sys.modules
def clip():
    from midi2wave.midi.performance import empty_performance
    from midi2wave.plotting.figures import clip_figure
    return clip_figure(empty_performance(), 1.0, 4000, title="a $ and a 曲")
def curves():
    from midi2wave.plotting.training_curves import training_curves_figure
    return training_curves_figure([{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}])
save_picture(folder / "clip.png", clip)
save_picture(folder / "curves.png", curves)
import matplotlib
state = dict.get(matplotlib.rcParams, "backend"), matplotlib.rcParams["text.usetex"], matplotlib.rcParams["font.size"]
print(json.dumps([early, "matplotlib.pyplot" in sys.modules, *map(str, state)]))
"""


def draw(folder: Path, backend: str = "", settings: bytes = b"") -> tuple[list, str]:
    """Two pictures drawn by a new process under these settings; returns its state of matplotlib, and its messages."""
    folder.mkdir()
    (folder / "matplotlibrc").write_bytes(settings)
    environment = {**os.environ, "MPLBACKEND": backend, "MATPLOTLIBRC": str(folder)}
    done = subprocess.run(
        [sys.executable, "-c", DRAW, folder], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60
    )
    assert "Traceback" not in done.stderr or not done.stdout, done.stderr
    return json.loads(done.stdout or "[]"), done.stderr


def raising(error: BaseException) -> Callable[..., None]:
    """A function that raises an exception."""

    def fail(*_, **__):
        raise error

    return fail


def pictures(folder: Path) -> dict[str, bytes]:
    return {name: content for name, content in read_files(folder).items() if name.endswith(".png")}


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """The pictures that the default settings give."""
    folder = tmp_path_factory.mktemp("plain") / "folder"
    draw(folder)
    assert pictures(folder).keys() == {"clip.png", "curves.png"}
    return pictures(folder)


@pytest.mark.parametrize("backend", ["module://matplotlib_inline.backend_inline", "Qt4Agg", "nonsense", "TkAgg", "svg"])
def test_settings_of_the_user_change_no_picture(tmp_path, plain, backend):
    state, _ = draw(tmp_path / "folder", backend, ODD_SETTINGS.encode())
    early, uses_pyplot, backend_after, usetex, font_size = state
    assert pictures(tmp_path / "folder") == plain
    assert not early, "importing the library imports matplotlib"
    assert not uses_pyplot
    # Afterwards whoever draws has the user's settings.
    assert (usetex, font_size) == ("True", "30.0")
    assert backend_after == backend if backend in ("TkAgg", "svg") else backend_after.startswith("<object")


def test_unreadable_settings_are_a_remark(tmp_path):
    """matplotlib cannot be imported with a matplotlibrc that is not UTF-8."""
    folder = tmp_path / "folder"
    _, messages = draw(folder, settings=b"font.family: \xff\n")
    assert not pictures(folder)
    assert f"{folder / 'clip.png'} could not be drawn, the rest goes on: " in messages
    assert f"{folder / 'curves.png'} could not be drawn, the rest goes on: " in messages


def test_all_commands_ignore_the_settings(tmp_path):
    write_maestro(tmp_path / "maestro")
    write_config(tmp_path)
    (tmp_path / "matplotlibrc").write_text(ODD_SETTINGS)
    backend = "module://matplotlib_inline.backend_inline"
    environment = {**os.environ, "MPLBACKEND": backend, "MATPLOTLIBRC": str(tmp_path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.helpers.drawing_commands", tmp_path],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    result = json.loads(done.stdout)
    assert result["codes"] == dict.fromkeys(result["codes"], 0), result["messages"]
    assert not [line for lines in result["messages"].values() for line in lines if "could not be" in line]
    assert result["usetex"] and not result["uses_pyplot"] and result["MPLBACKEND"] == backend
    made = pictures(tmp_path)
    for folder, n_pictures in {"train": 1, "validation": 1, "test": 2, "run": 2, "output": 2, "evaluation": 3}.items():
        assert len([name for name in made if name.startswith(f"{folder}/")]) == n_pictures, made.keys()


def test_failed_picture_ends_no_command(tmp_path, monkeypatch):
    """All commands finish their work, and each says in one line what was not drawn; a rerun draws it."""

    failure = RuntimeError("Failed to process string with tex because\nlatex could not be found")
    write_maestro(tmp_path / "maestro")
    write_config(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(figures, "save_figure", raising(failure))
        result = drawing_commands.main(tmp_path)
    assert result["codes"] == dict.fromkeys(result["codes"], 0), result["messages"]
    assert not pictures(tmp_path)
    for name, lines in result["messages"].items():
        remarks = [line for line in lines if line.endswith("because latex could not be found")]
        assert remarks and all(".png could not be drawn, the rest goes on: " in line for line in remarks), name
        assert "Traceback" not in "".join(lines)
    for made in ("train/filenames.csv", "test/clips.json", "output/index.html", "evaluation/scores.json"):
        assert (tmp_path / made).is_file(), made
    wavs = {p: p.stat().st_mtime_ns for p in (tmp_path / "output").glob("*.wav")}
    drawing_commands.main(tmp_path)
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "output").glob("*.wav")} == wavs
    assert len(list((tmp_path / "output").glob("*.png"))) == 2


def test_remark_of_a_full_disk_has_its_words(tmp_path, capsys):
    save_picture(tmp_path / "a.png", raising(OSError(28, "No space left on device", "a.png")))
    assert "a.png could not be written: the disk is full" in capsys.readouterr().err


def test_interruption_is_no_failed_picture(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        save_picture(tmp_path / "a.png", raising(KeyboardInterrupt()))


def test_settings_are_restored_after_a_failure():
    import matplotlib

    before = dict(matplotlib.rcParams.copy())
    with pytest.raises(ZeroDivisionError), matplotlib.rc_context({"font.size": 31}), default_settings():
        assert matplotlib.rcParams["font.size"] == 10
        matplotlib.rcParams["lines.linewidth"] = 9
        raise ZeroDivisionError
    assert dict(matplotlib.rcParams.copy()) == before
