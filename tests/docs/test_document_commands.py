"""The commands of the documents: their options are parsed, their configs are loaded, the important ones are run."""

import argparse
import importlib
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from midi2wave.config import BLOCKS, load_config
from midi2wave.data.maestro import SPLITS
from tests.docs import document_commands
from tests.docs.document_commands import NOT_RUN_COMMANDS, RUN, TESTED_BY, DocumentCommand
from tests.helpers.paths import ROOT
from tests.helpers.pipeline import melody, write_maestro, write_midi

COMMANDS = list(document_commands.document_commands())
OWN = [command for command in COMMANDS if document_commands.reason_not_run(command) is None]
TIMEOUT_SECONDS = 300


class OptionsParsedError(Exception):
    """Stops a command once its options have been parsed."""

    def __init__(self, options: argparse.Namespace) -> None:
        super().__init__("options parsed")
        self.options = options


def stop_after_parsing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every argument parser raise OptionsParsedError with what it has parsed."""
    parse = argparse.ArgumentParser.parse_args

    def parse_and_stop(parser, args=None, namespace=None):
        raise OptionsParsedError(parse(parser, args, namespace))

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_and_stop)


def test_the_documents_show_commands():
    assert len(OWN) > 50
    assert {command.line for command in COMMANDS} >= RUN.keys() - {
        "python -m benchmarks.model_speed -c config_train.json"
    }


@pytest.mark.parametrize("command", OWN, ids=lambda command: f"{command.page}: {command.line[:80]}")
def test_a_command_is_known_and_its_script_exists(command: DocumentCommand):
    """It runs a script or module of this project, and a test runs that, or its reason for not being run is listed."""
    target = command.python_target
    assert target is not None, f"{command.page}: {command.line}: neither a Python command nor in NOT_RUN_LINES"
    assert (target in TESTED_BY) != (target in NOT_RUN_COMMANDS), target
    if target in TESTED_BY:
        text = (ROOT / TESTED_BY[target]).read_text(encoding="utf-8")
        assert re.search(rf"\b{re.escape(target.removesuffix('.py').split('.')[-1].split('/')[-1])}\b", text)
    if target != "pytest":
        assert document_commands.script_path(target).is_file()


@pytest.mark.parametrize("command", OWN, ids=lambda command: f"{command.page}: {command.line[:80]}")
def test_the_options_of_a_command_are_parsed(command: DocumentCommand, monkeypatch):
    """The parser of the command takes the options, and its config and --set options load."""
    target = command.python_target
    if target in ("pytest", "midi2wave.config", "tests.helpers.odd_midi"):
        return  # other parsers, or none
    module = importlib.import_module(target.removesuffix(".py").replace("/", "."))
    module = importlib.import_module("benchmarks.model_speed") if target == "wavenet.py" else module
    options = [option.replace("$Y", 'data_config.global_values=["year=2004"]') for option in command.options]
    stop_after_parsing(monkeypatch)
    monkeypatch.setattr(sys, "argv", [target, *options])
    with pytest.raises(OptionsParsedError) as parsed:
        module.main(options) if module.main.__code__.co_argcount else module.main()
    config = getattr(parsed.value.options, "config", None)
    overrides = getattr(parsed.value.options, "overrides", None) or []
    assert all(override.split(".")[0] in BLOCKS for override in overrides)
    if isinstance(config, str) and (ROOT / "configs" / config).is_file():  # other commands write the others
        load_config(config, (), overrides)


@pytest.mark.slow
def test_the_commands_for_maestro_run_in_their_order(tmp_path: Path):
    """The README's commands on a tiny MAESTRO folder, as they stand but for options that make them short."""
    write_maestro(tmp_path / "maestro-v3.0.0", (*SPLITS, "test"), audio_hz=44100, channels=2)
    write_midi(tmp_path / "song.mid", melody(9, 0.5))
    for name in ("examples", "pretrained"):
        (tmp_path / name).symlink_to(ROOT / name)
    for line, overrides in RUN.items():
        words = shlex.split(line)
        script = ["-m", words[2]] if words[1] == "-m" else [str(ROOT / words[1])]
        further = [part for override in overrides.split() for part in ("--set", override)]
        done = subprocess.run(
            [sys.executable, *script, *words[1 + len(script) :], *further],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
            timeout=TIMEOUT_SECONDS,
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
    assert list((tmp_path / "output").glob("*.wav"))
    assert list((tmp_path / "songs").glob("song*.wav"))
    assert list((tmp_path / "played").glob("scale*.wav"))
