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
# Every command in these folders: the modules with a main function.
MODULE_COMMANDS = [
    f"-m {folder}.{path.stem}"
    for folder in ("benchmarks", "nv_wavenet_bridge")
    for path in sorted((ROOT / folder).glob("*.py"))
    if '__name__ == "__main__":\n    run(main)' in path.read_text(encoding="utf-8").replace("cli.run", "run")
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


@pytest.mark.parametrize("command", MODULE_COMMANDS)
def test_modules_parse_their_arguments_before_they_import_torch(command):
    name = command.removeprefix("-m ")
    code = (
        "import atexit, runpy, sys; atexit.register(lambda: print('torch' in sys.modules, file=sys.stderr)); "
        f"sys.argv = ['{name}', '--help']; runpy.run_module('{name}', run_name='__main__')"
    )
    done = python("-c", code, capture_output=True, text=True)
    assert done.returncode == 0 and "--help" in done.stdout and done.stderr == "False\n"


def test_all_commands_of_the_folders_are_known():
    assert {"-m benchmarks.sampling", "-m benchmarks.full_size", "-m nv_wavenet_bridge.run"} <= set(MODULE_COMMANDS)
    assert len(MODULE_COMMANDS) >= 20


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
