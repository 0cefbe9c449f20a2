"""What all commands share: exit codes, one line for an error, results on stdout and all else on stderr."""

import errno
import io
import json
import math
import os
import subprocess
import sys

import pytest
import torch

import align_labels
import inference
import measure_partials
import preprocess_audio
import render_midi
import resample_audio
from midi2wave.utils import cli
from midi2wave.utils.cli import Failure
from midi2wave.utils.errors import InputError
from tests.helpers.paths import ROOT


def raising(error):
    def command():
        raise error

    return command


@pytest.mark.parametrize("code", [0, 1, 2])
def test_command_exits_with_its_code(code, capsys):
    with pytest.raises(SystemExit) as left:
        cli.run(lambda: code)
    assert left.value.code == code and capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (InputError("x.mid: not a\n  MIDI file"), "error: x.mid: not a MIDI file"),
        (PermissionError(errno.EACCES, "denied", "a/b"), "error: no permission for a/b"),
        (OSError(errno.EROFS, "Read-only file system", "a/b"), "error: Read-only file system: 'a/b'; check the path"),
        (OSError(errno.ENOSPC, "No space left on device", "a/b"), "error: the disk is full (a/b); free some space"),
        (OSError(errno.ENOSPC, "No space left on device"), "error: the disk is full (while writing); free some"),
        (OSError(errno.EDQUOT, "Disk quota exceeded", "a/b"), "error: the disk quota is used up (a/b); free"),
        (UnicodeEncodeError("latin-1", "夜.wav", 0, 1, "ordinal not in range"), "latin-1; set PYTHONUTF8=1"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "a/b"), "No such file or directory: 'a/b'"),
    ],
)
def test_user_mistakes_are_one_line_and_exit_2(error, line, capsys):
    with pytest.raises(SystemExit) as left:
        cli.run(raising(error))
    out, err = capsys.readouterr()
    assert left.value.code == 2 and out == "" and line in err and err.count("\n") == 1


def test_bugs_keep_their_traceback():
    with pytest.raises(ZeroDivisionError):
        cli.run(raising(ZeroDivisionError()))


def test_interrupt_prints_no_traceback(capsys):
    with pytest.raises(SystemExit) as left:
        cli.run(raising(KeyboardInterrupt()))
    assert left.value.code == 130 and capsys.readouterr().err.startswith("interrupted")


@pytest.mark.parametrize("arguments", [["--jsn"], ["--set"], ["two\nlines"]])
def test_wrong_arguments_are_one_line_and_exit_2(arguments, capsys):
    with pytest.raises(SystemExit) as left:
        cli.make_parser("what", config="c.json").parse_args(arguments)
    out, err = capsys.readouterr()
    assert left.value.code == 2 and out == "" and err.count("\n") == 1
    assert err.startswith("error: ") and err.endswith(" --help\n")


@pytest.mark.parametrize(("number", "words"), [(0, "0 usable clips"), (1, "1 usable clip"), (2, "2 usable clips")])
def test_counts_have_a_singular(number, words):
    assert cli.count_of(number, "usable clip") == words


def test_formatted_error_is_never_empty():
    assert cli.format_error(InputError()) == "InputError"


@pytest.mark.parametrize(("n_failed", "done", "code"), [(0, 3, 0), (0, 0, 0), (1, 2, 1), (2, 0, 2)])
def test_exit_code_of_many_items(n_failed, done, code, capsys):
    failures = [Failure(f"{i}.mid", "damaged") for i in range(n_failed)]
    assert cli.report_and_exit_code("all in words", {"n": 1}, failures, done, as_json=False) == code
    out, err = capsys.readouterr()
    assert out == "all in words\n" and err.count("failed: ") == n_failed
    assert (f"{n_failed} of {n_failed + done} items failed" in err) == bool(n_failed)


def test_json_is_one_object_on_stdout(capsys):
    cli.report_and_exit_code("words", {"n": 1}, [Failure("é.mid", "damaged")], 1, as_json=True)
    out = capsys.readouterr().out
    assert json.loads(out) == {"n": 1, "failures": [{"item": "é.mid", "reason": "damaged"}]} and out.count("\n") == 1


def test_json_has_no_number_that_json_does_not_know(capsys):
    cli.print_result("words", {"é": [math.nan, math.inf, 1.5], "loss": {"mean": -math.inf}}, as_json=True)
    out = capsys.readouterr().out
    assert out.isascii() and json.loads(out) == {"é": [None, None, 1.5], "loss": {"mean": None}}
    assert "NaN" not in out and "Infinity" not in out


def test_words_fit_into_every_encoding(monkeypatch):
    """A title that stdout's encoding does not have is printed, and does not end the command."""
    stdout = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr("sys.stdout", stdout)
    with pytest.raises(SystemExit) as left:
        cli.run(lambda: cli.report_and_exit_code("夜想曲: 1 clip", {}, [], 1, as_json=False))
    assert left.value.code == 0 and stdout.buffer.getvalue() == b"\\u591c\\u60f3\\u66f2: 1 clip\n"


def test_a_full_disk_under_stdout_is_one_line(monkeypatch, capsys):
    """Python would notice it only at its end, with a traceback."""

    class FullDisk(io.StringIO):
        def flush(self):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("sys.stdout", FullDisk())
    with pytest.raises(SystemExit) as left:
        cli.run(lambda: print("result") or 0)
    assert left.value.code == 2 and capsys.readouterr().err.startswith("error: the disk is full")


def test_shared_options():
    args = cli.make_parser("what", config="c.json").parse_args(["--set", "a.b=1", "--set", "a.c=2", "--json"])
    assert (args.config, args.overrides, args.as_json, args.force) == ("c.json", ["a.b=1", "a.c=2"], True, False)
    assert cli.make_parser("what", config="c.json").parse_args([]).overrides == []
    with pytest.raises(SystemExit) as left:
        cli.make_parser("what").parse_args(["-c", "x"])
    assert left.value.code == 2


def test_progress_yields_all_items_and_logs_periodically(capsys, monkeypatch):
    assert list(cli.progress([1, 2, 3], 3, "clip")) == [1, 2, 3]
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr(cli, "SECONDS_BETWEEN_MESSAGES", -1)
    assert list(cli.progress([1, 2], 2, "clip")) == [1, 2]
    assert capsys.readouterr() == ("", "1 of 2 clips\n2 of 2 clips\n")


def test_devices():
    assert cli.choose_device("cpu").type == "cpu"
    assert cli.choose_device("auto").type in ("cpu", "cuda")
    for name in ("gpu", "cuda:99", ""):
        with pytest.raises(InputError, match=r"cannot be used .*set it to auto or cpu"):
            cli.choose_device(name)


def test_torch_threads_respect_the_cpu_quota(monkeypatch):
    """A quota of 2 cores on a host of 64, unless the user set a number of threads."""
    selected: list[int] = []
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    monkeypatch.setattr(torch, "set_num_threads", selected.append)
    monkeypatch.setattr(cli, "usable_cores", lambda: 2)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    for quota, threads in ((None, []), (2.5, [2])):
        monkeypatch.setattr(cli, "cpu_quota", lambda quota=quota: quota)
        cli.choose_device("cpu")
        assert selected == threads
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    cli.choose_device("cpu")
    assert selected == [2]


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        (inference, ["--midi", ""]),
        (inference, ["--midi", "song.mid", "--out", ""]),
        (resample_audio, ["-d", ""]),
        (render_midi, ["-d", "midi", "-o", ""]),
        (align_labels, ["-d", "data", "-o", ""]),
        (measure_partials, ["-d", "", "-o", "x.json"]),
        (preprocess_audio, ["-d", ""]),
    ],
)
def test_an_empty_path_is_refused(monkeypatch, tmp_path, capsys, command, arguments):
    """As an unset variable of a shell gives it: it is not the current folder, where much may lie."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="2"):
        command.main(arguments)
    assert "it is empty, expected a path" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_process_of_torchrun_ends_without_finalization():
    """PyTorch's threads may abort it while Python ends; what it printed is there all the same."""
    script = "import atexit; from midi2wave.utils.cli import run; atexit.register(print, 'ends')\n"
    script += "run(lambda: print('result') or 3)"
    for environment, output in (({}, "result\nends\n"), ({"TORCHELASTIC_RUN_ID": "0"}, "result\n")):
        command = [sys.executable, "-c", script]
        process = subprocess.run(command, env=os.environ | environment, cwd=ROOT, capture_output=True, text=True)
        assert (process.returncode, process.stdout) == (3, output), process.stderr
