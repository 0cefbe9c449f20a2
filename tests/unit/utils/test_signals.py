"""Signals that stop a command: which exception, which exit code, and which are left alone."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from midi2wave.utils import cli, signals
from tests.helpers.paths import ROOT

STOPS = [number for number in signals.STOP_SIGNALS if number != signal.SIGINT]


def send(number):
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", signals.STOP_SIGNALS)
def test_exit_code_is_that_of_the_signal(number, capsys):
    with pytest.raises(SystemExit) as left:
        cli.run(lambda: send(number))
    assert left.value.code == 128 + number
    line = capsys.readouterr().err
    assert line.startswith("interrupted") and line.count("\n") == 1
    assert (signal.Signals(number).name in line) == (number != signal.SIGINT)
    assert all(signal.getsignal(one) is signal.SIG_DFL for one in STOPS)


@pytest.mark.parametrize("number", STOPS)
def test_cleaning_up_is_not_interrupted(number):
    cleaned = []
    with pytest.raises(signals.Interrupted), signals.raise_interrupted():
        try:
            send(number)
        finally:
            for again in STOPS:
                send(again)
            cleaned.append(True)
    assert cleaned


def require_sighup():
    if not hasattr(signal, "SIGHUP"):
        pytest.skip("Windows has no SIGHUP")


def test_ignored_signals_stay_ignored():
    """As under nohup."""
    require_sighup()
    former = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with signals.raise_interrupted():
            send(signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, former)


def test_a_command_runs_in_any_thread():
    codes = []

    def target():
        try:
            cli.run(lambda: 0)
        except SystemExit as left:
            codes.append(left.code)

    thread = threading.Thread(target=target)
    thread.start()
    thread.join()
    assert codes == [0]


def test_a_closed_terminal_does_not_end_the_work(monkeypatch):
    """After SIGHUP, messages about what is kept have nowhere to go."""
    require_sighup()

    def no_terminal(*_, **__):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("builtins.print", no_terminal)
    with pytest.raises(SystemExit) as left:
        cli.run(lambda: send(signal.SIGHUP))
    assert left.value.code == 129


CHILD = """
import pathlib, signal, sys, time
def save(*_):
    time.sleep(0.8)  # Longer than subprocess.run would wait.
    pathlib.Path(sys.argv[1], "saved").touch()
    sys.exit(7)
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, save)
pathlib.Path(sys.argv[1], "ready").touch()
time.sleep(60)
"""
PARENT = """
import signal, sys
from midi2wave.utils import cli, signals
signal.signal(signal.SIGINT, signal.default_int_handler)
cli.run(lambda: signals.run_command([sys.executable, "-c", sys.argv[1], sys.argv[2]])[0])
"""


@pytest.mark.parametrize("number", signals.STOP_SIGNALS)
def test_a_command_that_another_runs_saves_before_both_end(tmp_path, number):
    """As demo.py and its training: a batch scheduler's signal reaches only the first, those of a terminal both."""
    command = [sys.executable, "-c", PARENT, CHILD, tmp_path]
    process = subprocess.Popen(command, cwd=ROOT, start_new_session=True, stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not (tmp_path / "ready").exists():
        time.sleep(0.02)
    (os.kill if number == signal.SIGTERM else os.killpg)(process.pid, number)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 128 + number, err
    assert (tmp_path / "saved").exists() and err.startswith("interrupted")


MANY_FILES = """
import pathlib, signal, sys, time
from midi2wave.utils import cli, parallel
signal.signal(signal.SIGINT, signal.default_int_handler)
def do_all():
    for _ in parallel.parallel_map(time.sleep, [0.0, 60.0, 60.0], n_jobs=2, backend="loky"):
        pathlib.Path(sys.argv[1], "ready").touch()
cli.run(do_all)
"""


@pytest.mark.parametrize("number", signals.STOP_SIGNALS)
def test_a_signal_to_a_command_and_its_workers_is_one_line(tmp_path, number):
    """As a terminal sends it that is closed, or a batch scheduler: to all processes of the job."""
    command = [sys.executable, "-c", MANY_FILES, tmp_path]
    process = subprocess.Popen(command, cwd=ROOT, start_new_session=True, stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not (tmp_path / "ready").exists():
        time.sleep(0.02)
    os.killpg(process.pid, number)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 128 + number, err
    assert err.startswith("interrupted") and err.count("\n") == 1


ORPHAN = """
import os, pathlib, sys, time
from midi2wave.utils import signals

parent = os.getpid()
if os.fork():
    os._exit(0)
while os.getppid() == parent:
    time.sleep(0.01)
pathlib.Path(sys.argv[1]).write_text("began")
signals.end_with_parent("SIGKILL", parent)
pathlib.Path(sys.argv[1]).write_text("went on")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent has ended")
def test_a_process_whose_parent_has_already_ended_is_ended(tmp_path):
    path = tmp_path / "progress"
    # Its standard output is open until the orphan, too, has ended.
    subprocess.run([sys.executable, "-c", ORPHAN, path], cwd=ROOT, stdout=subprocess.PIPE, check=True, timeout=60)
    assert path.read_text() == "began"
