"""What works on macOS and Windows as on Linux: tried on Linux with system calls that act as there."""

import ast
import multiprocessing
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from midi2wave.sampling import pieces
from midi2wave.training.data_loader import batches, training_crops
from midi2wave.utils import atomic_files, file_names
from midi2wave.utils.cli import format_error
from midi2wave.utils.errors import InputError
from tests.helpers import drawing_commands
from tests.helpers.paths import ROOT
from tests.helpers.pipeline import assert_no_partial_files, read_files, write_config, write_maestro
from tests.helpers.training import start_run
from tests.helpers.windows import act_as_windows

FILE_WRITING_TESTS = (
    "tests/unit/utils/test_atomic_files.py",
    "tests/unit/utils/test_output_folder.py",
    "tests/unit/data/test_processed_folder.py",
    "tests/unit/model/test_checkpoint.py",
    "tests/commands/test_resample_audio.py",
)
TEXT_SUFFIXES = (".csv", ".json", ".html")
# Modules and attributes that Windows lacks; macOS lacks some of them.
POSIX_MODULES = ("fcntl", "grp", "pwd", "resource", "termios")
POSIX_ATTRIBUTES = {
    "os": (
        *("fork", "geteuid", "getloadavg", "getuid", "killpg", "link", "mkfifo", "nice", "posix_fadvise"),
        *("register_at_fork", "sched_getaffinity", "setsid", "statvfs", "sysconf", "uname", "wait4"),
    ),
    "select": ("epoll", "kqueue", "poll"),
    "signal": ("SIGALRM", "SIGCHLD", "SIGHUP", "SIGKILL", "SIGXFSZ", "pthread_sigmask"),
}
# A function that uses one of them asks whether it is there.
GUARDS = ("hasattr(", "sys.platform", "suppress(ImportError)", "AttributeError")
# Benchmarks of Linux use them inside functions, so that all modules can be imported.
LINUX_ONLY = {
    ("benchmarks/ablation.py", "wait4"),
    ("benchmarks/full_size.py", "link"),
    ("benchmarks/full_size.py", "resource"),
    ("benchmarks/playing.py", "resource"),
    ("benchmarks/training_memory.py", "resource"),
}
IMPORT_ALL = """
import importlib, os, select, signal, sys
import filelock, joblib, librosa, matplotlib.figure, numba, scipy.signal, tensorboard, torch, torch.utils.tensorboard
for name in {modules}:
    sys.modules[name] = None
for module, names in ((os, {os_names}), (select, {select_names}), (signal, {signal_names})):
    for name in names:
        vars(module).pop(name, None)
for name in {product}:
    importlib.import_module(name)
"""


def product_files() -> list[Path]:
    """The library, the commands, the bridge and the benchmarks."""
    folders = ("midi2wave", "nv_wavenet_bridge", "benchmarks", "examples")
    return sorted([*ROOT.glob("*.py"), *(path for folder in folders for path in (ROOT / folder).rglob("*.py"))])


def product_calls() -> list[tuple[str, str, ast.Call]]:
    """Each call in the product: where it is, the name of what is called, the call."""
    calls = []
    for path in product_files():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
                calls.append((f"{path.relative_to(ROOT)}:{node.lineno}", name, node))
    return calls


def mode_of(call: ast.Call) -> str:
    """The mode of a call of open, as a function or as a method of a path; "r" by default."""
    named = [keyword.value for keyword in call.keywords if keyword.arg == "mode"]
    values = named or call.args[1 if isinstance(call.func, ast.Name) else 0 :][:1]
    return values[0].value if values and isinstance(values[0], ast.Constant) else "r"


def is_file_access(name: str, call: ast.Call) -> bool:
    """Whether a call opens, reads or writes a text file."""
    if name in ("read_text", "write_text"):
        return isinstance(call.func, ast.Attribute)
    return (
        name == "open"
        and not ast.unparse(call.func).startswith(("os.", "wave.", "tarfile."))
        and "b" not in mode_of(call)
    )


def test_text_files_name_their_encoding():
    """Windows reads and writes another encoding by default, in which a title with an accent is another one."""
    texts = [(place, call) for place, name, call in product_calls() if is_file_access(name, call)]
    assert len(texts) > 30
    without = [place for place, call in texts if "encoding" not in {keyword.arg for keyword in call.keywords}]
    assert without == []


def test_a_text_file_without_encoding_is_found():
    calls = ("open(a)", "path.open('w')", "open(a, 'wb')", "os.open(a, os.O_RDONLY)", "wave.open(a)")
    accesses = [is_file_access("open", ast.parse(call).body[0].value) for call in calls]
    assert accesses == [True, True, False, False, False]
    assert mode_of(ast.parse("path.open('ab')").body[0].value) == "ab"


def posix_names(tree: ast.AST) -> set[str]:
    """The POSIX-only names that a tree uses."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            names |= {node.attr} & set(POSIX_ATTRIBUTES.get(node.value.id, ()))
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names} & set(POSIX_MODULES)
    return names


def unguarded(source: str) -> set[str]:
    """The POSIX-only names outside functions, or in functions that do not ask whether they are there."""
    tree = ast.parse(source)
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    names = set().union(*(posix_names(one) for one in functions if not any(g in ast.unparse(one) for g in GUARDS)))
    of_functions = set().union(*map(posix_names, functions))
    return names | (posix_names(tree) - of_functions)


def test_posix_calls_are_guarded():
    used = {
        (path.relative_to(ROOT).as_posix(), name)
        for path in product_files()
        for name in unguarded(path.read_text(encoding="utf-8"))
    }
    assert used == LINUX_ONLY


def test_unguarded_posix_calls_are_noticed():
    assert unguarded("import fcntl") == {"fcntl"}
    assert unguarded("def f():\n    return os.fork(), signal.SIGKILL") == {"fork", "SIGKILL"}
    assert unguarded("def f():\n    return os.fork() if hasattr(os, 'fork') else 0") == set()


def test_every_module_is_imported_without_posix():
    modules = [path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".") for path in product_files()]
    product = [name.removesuffix(".__init__") for name in modules if not name.startswith("examples")]
    names = {f"{module}_names": POSIX_ATTRIBUTES[module] for module in POSIX_ATTRIBUTES}
    code = IMPORT_ALL.format(modules=POSIX_MODULES, product=product, **names)
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_commands_run_as_on_windows(tmp_path, monkeypatch):
    """All files are written, with line ends as elsewhere, and a second run recognises its own records."""
    write_maestro(tmp_path / "maestro")
    write_config(tmp_path)
    act_as_windows(monkeypatch)
    result = drawing_commands.main(tmp_path)
    assert result["codes"] == dict.fromkeys(result["codes"], 0), result["messages"]
    files = read_files(tmp_path)
    made = {name: content for name, content in files.items() if not name.startswith(("maestro/", "config"))}
    texts = {name: content for name, content in made.items() if name.endswith(TEXT_SUFFIXES)}
    assert len(texts) > 12 and not [name for name, content in texts.items() if b"\r" in content]
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "output").glob("*.wav")}
    again = drawing_commands.main(tmp_path)
    assert again["codes"] == result["codes"], again["messages"]
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "output").glob("*.wav")} == times
    assert_no_partial_files(tmp_path)


@pytest.mark.parametrize(
    "files", [FILE_WRITING_TESTS[:3], pytest.param(FILE_WRITING_TESTS[3:], marks=pytest.mark.slow)], ids=["unit", "all"]
)
def test_file_writing_tests_pass_as_on_windows(files):
    options = ("-q", "-p", "tests.helpers.windows", "-p", "no:cacheprovider", "-m", "not slow")
    command = [sys.executable, "-m", "pytest", *options, *files]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and " passed" in done.stdout, done.stdout[-3000:]


def test_windows_calls_fail_as_there(tmp_path, monkeypatch):
    """The substitutes do refuse: otherwise the tests above would prove nothing."""
    path = tmp_path / "a"
    path.write_bytes(np.arange(4096, dtype=np.int16).tobytes())
    act_as_windows(monkeypatch)
    with path.open("rb") as handle, pytest.raises(OSError, match="Bad file descriptor"):
        os.fsync(handle.fileno())
    mapped = np.memmap(path, np.int16, mode="r")
    for refused in (path.unlink, lambda: os.replace(tmp_path / "b", path), lambda: tmp_path.rename(tmp_path / "c")):
        with pytest.raises(PermissionError, match="used by another process"):
            refused()
    with pytest.raises(OSError, match="Invalid argument"):
        (tmp_path / "a: b?.txt").write_text("")
    with pytest.raises(OSError, match="privilege"):
        (tmp_path / "link").symlink_to("a")
    (tmp_path / "text").write_text("é\n")
    assert (tmp_path / "text").read_bytes() == b"\xe9\r\n"
    del mapped
    path.unlink()


def test_workers_that_are_started_read_the_crops(pipeline, tmp_path):
    """macOS and Windows start workers instead of forking them, so that all they need is pickled."""
    state = start_run(pipeline, tmp_path)
    crops = training_crops(state.config, state.model)
    indices = [[0, 1], [2, 3]]
    expected = list(batches(crops, indices, 0))
    method = multiprocessing.get_start_method()
    multiprocessing.set_start_method("spawn", force=True)
    try:
        read = list(batches(crops, indices, 1))
    finally:
        multiprocessing.set_start_method(method, force=True)
    assert len(read) == len(expected)
    for batch, reference in zip(read, expected, strict=True):
        assert batch.keys() == reference.keys()
        assert all(torch.equal(batch[name], reference[name]) for name in reference)


def test_workers_receive_no_audio(pipeline, tmp_path):
    """A mapped array is pickled with its samples: 20 GB of MAESTRO, for each worker."""
    state = start_run(pipeline, tmp_path)
    crops = training_crops(state.config, state.model)
    before = len(pickle.dumps(crops))
    for index in range(8):
        crops[index]
    assert crops.folder._mapped and crops._conditionings
    assert len(pickle.dumps(crops)) == before < sum(pcm.nbytes for pcm in crops.folder._mapped.values())


def test_rename_waits_for_another_program(tmp_path, monkeypatch):
    (tmp_path / "a").write_text("new")
    refusals, original = [PermissionError("in use")] * 3, os.replace

    def refuse(*paths):
        if refusals:
            raise refusals.pop()
        original(*paths)

    monkeypatch.setattr(atomic_files.os, "replace", refuse)
    monkeypatch.setattr(atomic_files.time, "sleep", lambda _: None)
    with pytest.raises(PermissionError):
        atomic_files.replace(tmp_path / "a", tmp_path / "b")
    monkeypatch.setattr(atomic_files, "WINDOWS", True)
    atomic_files.replace(tmp_path / "a", tmp_path / "b")
    assert not refusals and (tmp_path / "b").read_text() == "new"
    refusals += [PermissionError("in use")] * 10
    with pytest.raises(PermissionError):
        atomic_files.replace(tmp_path / "b", tmp_path / "c")


def test_message_of_a_file_in_use(monkeypatch):
    error = PermissionError(13, "Permission denied", "a.csv")
    assert format_error(error) == "no permission for a.csv"
    monkeypatch.setattr("midi2wave.utils.cli.sys.platform", "win32")
    assert format_error(error) == "no permission for a.csv, or another program has it open"


def test_names_that_are_one_file_are_refused(monkeypatch):
    """macOS and Windows would write both pieces to the same wav."""
    taken = [pieces.Piece("Prélude", 0, None, 10)]
    pieces._check_name("prélude", taken)
    monkeypatch.setattr(file_names, "CASE_INSENSITIVE", True)
    for name in ("prélude", "Pre\u0301lude"):
        with pytest.raises(InputError, match="another file of the name Prélude stands before it"):
            pieces._check_name(name, taken)
