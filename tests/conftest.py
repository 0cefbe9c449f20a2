"""Fixtures that several test files share."""

import os
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

import preprocess_maestro
from tests.helpers.pipeline import Pipeline, call, command, settings, write_config, write_maestro


def pytest_configure() -> None:
    """Let signals reach the tests and the processes that they start.

    A shell makes its background jobs, and theirs, ignore Ctrl-C; nohup makes a command ignore SIGHUP.
    """
    for name, handler in (("SIGINT", signal.default_int_handler), ("SIGHUP", signal.SIG_DFL)):
        number = getattr(signal, name, None)  # Windows has no SIGHUP.
        if number is not None and signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)


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


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip tests of symbolic links where there are none."""
    if not config.pluginmanager.has_plugin("tests.helpers.windows") and _can_link():
        return
    for item in items:
        if item.get_closest_marker("links"):
            item.add_marker(pytest.mark.skip(reason="no symbolic links here"))


def _can_link() -> bool:
    with tempfile.TemporaryDirectory() as folder:
        try:
            os.symlink("target", Path(folder) / "link")
        except OSError:
            return False
    return True


@pytest.fixture
def limit_file_size() -> Callable[[int], AbstractContextManager[None]]:
    """A context in which no file grows beyond a number of bytes, as on a full disk; for child processes too."""
    resource = pytest.importorskip("resource", reason="file sizes can be limited on POSIX systems only")

    @contextmanager
    def limit(n_bytes: int) -> Iterator[None]:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))  # Python ignores the signal SIGXFSZ.
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    return limit
