"""Fixtures that several test files share."""

import pytest

import preprocess_maestro
from tests.helpers.pipeline import Pipeline, call, command, settings, write_config, write_maestro


@pytest.fixture(scope="session")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    """Every command run once, one after the other, as a user would; tests do not write into it."""
    folder = tmp_path_factory.mktemp("pipeline")
    write_maestro(folder / "maestro", audio_hz=44100, channels=2)
    config = write_config(folder)
    validation = settings("preprocess_config.split=validation", f"preprocess_config.out_dir={folder}/validation")
    test = settings("preprocess_config.split=test")
    commands = {
        "resample": command("resample_audio.py", "-d", folder / "maestro", "--json"),
        "train": command("preprocess_maestro.py", "-c", config, "--json"),
        "validation": call(preprocess_maestro, "-c", config, *validation, "--json"),
        "test": command("preprocess_audio.py", "-d", folder / "test", "-c", config, *test, "--json"),
        "run": command("train.py", "-c", config, "--json"),
        "output": command("inference.py", "-c", config, "--json"),
    }
    for name, outcome in commands.items():
        assert outcome.code == 0, f"{name}: {outcome.err}"
    return Pipeline(folder, commands)
