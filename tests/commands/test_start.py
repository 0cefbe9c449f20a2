"""How every command starts and prints: what it imports; stdout without a reader, and in other encodings."""

import fcntl
import json
import os
import re
import signal
import subprocess
import sys

import pytest

from tests.helpers.paths import ROOT

COMMANDS = [
    "resample_audio.py",
    "preprocess_maestro.py",
    "train.py",
    "preprocess_audio.py",
    "inference.py",
    "play.py",
    "evaluate.py",
    "finetune.py",
    "measure_partials.py",
    "align_labels.py",
    "render_midi.py",
    "demo.py",
    "wavenet.py",
    "-m midi2wave.config",
]
# Libraries whose imports take a tenth of a second and more.
HEAVY = {"torch", "librosa", "matplotlib", "scipy", "numba", "starlette", "uvicorn", "websockets"}
BUFFERED = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}


def python(*arguments: str, **options) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, check=False, timeout=60, **options)


def imported_libraries(import_times: str) -> set[str]:
    """The packages that `python -X importtime` lists."""
    return set(re.findall(r"^import time:.*\|\s*(\w+)$", import_times, re.MULTILINE))


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(("option", "code"), [("--help", 0), ("--no_such_option", 2)])
def test_arguments_are_parsed_before_heavy_imports(command, option, code):
    done = python("-X", "importtime", *command.split(), option, capture_output=True, text=True)
    libraries = imported_libraries(done.stderr)
    assert done.returncode == code and "argparse" in libraries
    assert libraries & HEAVY == set()


def test_heavy_imports_are_noticed():
    """The test above would see one."""
    times = python("-X", "importtime", "-c", "import scipy", capture_output=True, text=True).stderr
    assert imported_libraries(times) & HEAVY == {"scipy"}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_reader_that_has_ended_is_no_traceback(command):
    """As with `--help | head -1`."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = python(*command.split(), "--help", stdout=writer, stderr=subprocess.PIPE, text=True, env=BUFFERED)
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.parametrize("env", [BUFFERED, {**os.environ, "PYTHONUNBUFFERED": "1"}], ids=["buffered", "unbuffered"])
def test_a_reader_that_ends_early_is_no_traceback(env):
    """More than a pipe holds: the write itself fails."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    command = [sys.executable, "-m", "midi2wave.config", "--schema"]
    with subprocess.Popen(command, cwd=ROOT, stdout=writer, stderr=subprocess.PIPE, env=env) as process:
        os.close(writer)
        assert os.read(reader, 1) == b"{"
        os.close(reader)
        assert process.stderr.read() == b""
    assert process.returncode == 141


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_json_is_ascii_in_every_encoding_of_stdout(encoding, tmp_path):
    names = ["Étude.wav", "夜想曲.wav"]
    for name in names:
        (tmp_path / name).write_bytes(b"damaged")
    done = python(
        "resample_audio.py",
        "-d",
        str(tmp_path),
        "--json",
        capture_output=True,
        env=BUFFERED | {"PYTHONIOENCODING": encoding},
    )
    assert done.returncode == 2 and done.stdout.isascii()
    assert sorted(failure["item"] for failure in json.loads(done.stdout)["failures"]) == sorted(names)
    assert b"Traceback" not in done.stderr and done.stderr.count(b"failed: ") == 2


@pytest.mark.parametrize(
    ("command", "library"),
    [
        *((command, "tqdm") for command in COMMANDS),
        ("train.py --set train_config.output_directory=unused --set data_config.dataset_path=unused", "torch"),
        ("inference.py", "torch"),
        ("evaluate.py", "torch"),
        ("wavenet.py", "torch"),
    ],
)
def test_ctrl_c_during_imports_is_no_traceback(command, library, tmp_path):
    (tmp_path / f"{library}.py").write_text("import time\nprint('importing', flush=True)\ntime.sleep(60)\n")
    with subprocess.Popen(
        [sys.executable, *command.split()],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
    ) as process:
        assert process.stdout.readline() == "importing\n"
        process.send_signal(signal.SIGINT)
        message = process.stderr.read()
    assert process.returncode == 130 and message.startswith("interrupted") and message.count("\n") == 1
