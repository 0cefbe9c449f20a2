"""demo.py: its commands exist and fit together; what they do is tested with each of them."""

import importlib.util
import subprocess
import sys

import pytest

import demo
from midi2wave.config import load_config
from midi2wave.utils.errors import InputError


@pytest.fixture
def commands(monkeypatch):
    """The arguments of each script that the demo runs, without running it, in the order of the calls."""
    commands = {}

    def record(script, *arguments):
        commands.setdefault(script, list(map(str, arguments)))
        return {"wavs": [], "output_dir": "", "validation_nll": 8.0, "validation_gap": 2.0}

    monkeypatch.setattr(demo, "run_command", record)
    return commands


def test_it_trains_with_the_partials_of_its_own_piano(commands, capsys):
    assert demo.main([]) == 0 and "2.00 worse" in capsys.readouterr().out
    measured, trained = commands["measure_partials.py"], commands["train.py"]
    assert list(commands).index("preprocess_maestro.py") < list(commands).index("measure_partials.py")
    assert trained == ["-c", measured[measured.index("-o") + 1]]
    assert "--force" in measured  # the same command continues after an interruption
    data = load_config(measured[measured.index("-c") + 1], ("data_config",)).data_config
    assert data.dataset_path == measured[measured.index("-d") + 1] and data.preemphasis


def test_all_commands_exist(commands):
    demo.main([])
    for script in commands:
        if script.startswith("-m "):
            assert importlib.util.find_spec(script.removeprefix("-m "))
        else:
            assert (demo.PROJECT_FOLDER / script).is_file()


def test_commands_run_from_any_folder(tmp_path, monkeypatch, capsys):
    """Scripts and modules are found wherever the demo is started; a failed command ends it."""
    monkeypatch.chdir(tmp_path)
    result = demo.run_command(demo.DATA_COMMAND, "-o", "tiny", "--minutes", "0.05")
    assert result["pieces"] == 3 and (tmp_path / "tiny" / "maestro-v2.0.0.csv").is_file()
    assert demo.run_command("resample_audio.py", "-d", "tiny", "--hz", "8000")["failures"] == []
    with pytest.raises(InputError, match=r"resample_audio\.py ended with exit code 2; its own message stands above"):
        demo.run_command("resample_audio.py", "-d", "missing", "--hz", "8000")
    help_text = subprocess.run([sys.executable, demo.__file__, "--help"], capture_output=True, text=True, check=True)
    assert "pipeline" in help_text.stdout
