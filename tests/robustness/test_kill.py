"""After a kill at a random moment, or another accident, a rerun of resampling and preprocessing completes the work."""

import contextlib
import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import preprocess_maestro
import resample_audio
from midi2wave.data import maestro
from midi2wave.utils import folder_lock, parallel
from midi2wave.utils.errors import InputError
from tests.helpers.paths import ROOT
from tests.helpers.pipeline import (
    assert_refused,
    call,
    command,
    melody,
    modification_times,
    read_files,
    settings,
    write_audio,
    write_midi,
)

fcntl = pytest.importorskip("fcntl")

N_FILES, SECONDS, KILLS = 10, 12.0, 20


def write_data(folder: Path, n_files: int = N_FILES, seconds: float = SECONDS) -> Path:
    """A MAESTRO folder that takes some tenths of a second to do."""
    lines = [",".join(maestro.COLUMNS)]
    for i in range(n_files):
        notes = melody(i, seconds)
        write_midi(folder / f"2004/{i}.midi", notes)
        write_audio(folder / f"2004/{i}.wav", notes, 48000, 2, seconds=seconds)
        lines.append(f"Bach,Fuge,{('train', 'validation')[i % 2]},2004,2004/{i}.midi,2004/{i}.wav,{seconds}")
    (folder / "maestro-v2.0.0.csv").write_text("\n".join(lines), encoding="utf-8")
    return folder


def command_lines(tmp_path: Path) -> dict[str, tuple[str, ...]]:
    maestro_dir = tmp_path / "maestro"
    values = {
        "maestro_dir": maestro_dir,
        "resampled_dir": tmp_path / "audio",
        "out_dir": tmp_path / "data",
        "split": "all",
    }
    overrides = settings(*(f"preprocess_config.{key}={value}" for key, value in values.items()))
    return {
        "audio": ("resample_audio.py", "-d", str(maestro_dir), "--out_dir", str(tmp_path / "audio")),
        "data": ("preprocess_maestro.py", *overrides),
    }


def kill_after(seconds: float, script: str, *arguments: str) -> tuple[int, int]:
    """Start a command in a process group of its own, and kill it, not its workers, after a while.

    Returns:
        Its exit code, negative if it was killed in time, and its process group.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, ROOT / script, *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment,
        start_new_session=True,
    )
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    return process.wait(), process.pid


def end_workers(group: int) -> None:
    """End what is left of a process group, so that nothing writes to its folder any more."""
    patience = time.monotonic() + 10
    with contextlib.suppress(ProcessLookupError):
        while time.monotonic() < patience:  # Until the last one has been reaped.
            os.killpg(group, signal.SIGKILL)
            time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["audio", "data"])
def test_rerun_after_a_kill_gives_the_same_bytes(tmp_path, name):
    write_data(tmp_path / "maestro")
    run = command_lines(tmp_path)
    run["data"] += tuple(settings("preprocess_config.split=train"))  # one card to draw is enough
    assert command(*run["audio"]).code == 0
    out = tmp_path / name
    if name == "audio":
        shutil.rmtree(out)
    started = time.monotonic()
    assert command(*run[name]).code == 0
    duration, whole = time.monotonic() - started, read_files(out)
    rng, killed, halfway = np.random.default_rng(0), 0, 0
    while killed < KILLS:
        shutil.rmtree(out)
        jobs = ("-j", "2") if killed % 5 == 4 else ()
        code, group = kill_after(duration * rng.uniform(0.3, 1), *run[name], *jobs)
        if code != -signal.SIGKILL:
            duration *= 0.9  # it had ended: the first run was slower than they are now
            continue
        killed += 1
        halfway += out.is_dir() and read_files(out) != whole
        assert command(*run[name]).code == 0
        # Elsewhere than on Linux, workers outlive a killed parent until the file that they are at is whole.
        patience = time.monotonic() + 10
        while any(out.rglob("*.partial")) and time.monotonic() < patience:
            time.sleep(0.05)
        assert read_files(out) == whole
        end_workers(group)
    assert halfway >= 2, "only ever killed before or after the work: nothing was tried"


@pytest.mark.slow
def test_kill_while_changed_sources_are_resampled(tmp_path):
    """Some results are of the new sources by then, and the manifest tells of the old ones only."""
    source, out = write_data(tmp_path / "maestro", 8, 3.0), tmp_path / "audio"
    run = command_lines(tmp_path)["audio"]
    assert command(*run).code == 0
    shutil.copytree(out, tmp_path / "old")
    old = read_files(out)
    write_data(source, 8, 6.0)
    assert command(*run).code == 0
    whole = read_files(out)
    halfway = 0
    for n_done in (1, 2, 3, 5):
        shutil.rmtree(out)
        shutil.copytree(tmp_path / "old", out)
        before = modification_times(out)
        process = subprocess.Popen([sys.executable, ROOT / run[0], *run[1:]], stderr=subprocess.DEVNULL)
        while process.poll() is None and sum((out / n).stat().st_mtime_ns != before[n] for n in before) < n_done:
            time.sleep(0.001)
        process.kill()
        killed, now, record = process.wait() == -signal.SIGKILL, read_files(out), "resampled_16000.json"
        halfway += killed and now[record] == old[record] and now != old
        assert command(*run).code == 0
        assert read_files(out) == whole
    assert halfway >= 2, "only ever killed before or after the work: nothing was tried"


def test_partial_files_of_a_killed_run_are_removed(tmp_path):
    """Partial files of others stay."""
    write_data(tmp_path / "maestro", 1, 0.2)
    run = command_lines(tmp_path)
    leftovers = [
        "audio/2004/.0_16000.wav.123-0123abcd.partial",
        "data/train/.0.npy.77-0123abcd.partial",
        "data/train/.0.json.77-0123abcd.partial",
    ]
    foreign = ["audio/2004/.9_16000.wav.123-0123abcd.partial", "audio/2004/.0_16000.wav.partial"]
    for name in [*leftovers, *foreign]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"half")
    for module, name in ((resample_audio, "audio"), (preprocess_maestro, "data")):
        assert call(module, *run[name][1:]).code == 0
    assert not [name for name in leftovers if (tmp_path / name).exists()]
    assert all((tmp_path / name).exists() for name in foreign)


# ---- two runs at once


def test_second_run_is_refused_and_shards_are_not(tmp_path):
    write_data(tmp_path / "maestro", 4, 0.2)
    run = command_lines(tmp_path)
    calls = (
        (resample_audio, run["audio"][1:], [tmp_path / "audio"]),
        (preprocess_maestro, run["data"][1:], [tmp_path / "data/train"]),
    )
    for module, arguments, (folder,) in calls:
        with folder_lock.lock_folder(folder):
            assert_refused(call(module, *arguments), "another run is working on", str(folder), "wait")
            assert_refused(call(module, *arguments, "--shard", "1/2"), "another run is working on")
        with folder_lock.lock_folder(folder, "shard-1-of-2"):
            assert_refused(call(module, *arguments), "another run is working on")
            assert_refused(call(module, *arguments, "--shard", "1/2"), "another run is working on")
            assert call(module, *arguments, "--shard", "2/2").code == 0
        assert call(module, *arguments).code == 0


def test_folder_without_locks_is_used_with_a_message(tmp_path, monkeypatch, capsys):
    def no_locks(*_):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    for shard in ("", "shard-1-of-2"):
        with folder_lock.lock_folder(tmp_path / "new", shard):
            assert "cannot be locked (No locks available); do not start a second run" in capsys.readouterr().err


def test_file_system_without_flock_is_used_with_a_message(tmp_path, monkeypatch, capsys):
    """No file is left that a later run would take for a lock."""

    def no_flock(*_):
        raise OSError(errno.ENOSYS, "Function not implemented")

    with monkeypatch.context() as patched:
        patched.setattr(fcntl, "flock", no_flock)
        with folder_lock.lock_folder(tmp_path):
            assert "cannot be locked (Function not implemented)" in capsys.readouterr().err
    with folder_lock.lock_folder(tmp_path):
        assert capsys.readouterr().err == ""


def test_a_lock_ends_with_its_process_not_its_workers(tmp_path):
    """Forked workers may live on for a while after a kill."""
    code = (
        "import os, pathlib, sys, time\n"
        "from midi2wave.utils.folder_lock import lock_folder\n"
        "with lock_folder(pathlib.Path(sys.argv[1]), sys.argv[2]):\n"
        "    if not os.fork():\n"
        "        print(os.getpid(), flush=True)\n"  # By the worker: its copy of the lock has been dropped by now.
        "    time.sleep(60)\n"
    )
    for shard in ("", "shard-1-of-2"):
        arguments = [sys.executable, "-c", code, tmp_path, shard]
        process = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        worker = int(process.stdout.readline())
        try:
            with pytest.raises(InputError, match="another run is working"), folder_lock.lock_folder(tmp_path):
                pass
            process.kill()
            process.wait()
            os.kill(worker, 0)  # It is alive.
            with folder_lock.lock_folder(tmp_path):
                pass
        finally:
            os.kill(worker, signal.SIGKILL)
            process.stdout.close()


def test_shards_that_start_together_do_not_refuse_each_other(tmp_path):
    code = (
        "import pathlib, sys, time\n"
        "from midi2wave.utils.folder_lock import lock_folder\n"
        "time.sleep(max(0, float(sys.argv[3]) - time.time()))\n"
        "with lock_folder(pathlib.Path(sys.argv[1]), sys.argv[2]):\n"
        "    time.sleep(0.2)\n"
    )
    start = str(time.time() + 1.5)
    shards = [
        subprocess.Popen([sys.executable, "-c", code, tmp_path, f"shard-{i}-of-8", start], cwd=ROOT) for i in range(8)
    ]
    assert [process.wait() for process in shards] == [0] * 8


def test_shards_together_equal_one_run(tmp_path):
    write_data(tmp_path / "maestro", 5, 0.2)
    run = command_lines(tmp_path)
    modules = {"audio": resample_audio, "data": preprocess_maestro}
    whole = {}
    for name, module in modules.items():
        assert call(module, *run[name][1:]).code == 0
        whole[name] = read_files(tmp_path / name)
    for name, module in reversed(modules.items()):  # the data first: they are made from the audio as it is
        shutil.rmtree(tmp_path / name)
        for shard in ("2/3", "3/3", "1/3"):
            assert call(module, *run[name][1:], "--shard", shard).code == 0
        made = {file: content for file, content in read_files(tmp_path / name).items() if "shard" not in file}
        expected = {file: content for file, content in whole[name].items() if file != "resampled_16000.json"}
        assert made == expected
        again = call(module, *run[name][1:], "--json")
        assert again.code == 0 and again.result.get("already_done", 5) == 5, again
    assert_refused(call(preprocess_maestro, *run["data"][1:], "--shard", "1/3", "--force"), "--force with --shard")


def test_shard_keeps_partial_files_of_another_shard(tmp_path):
    """d2/01 belongs to shard 2; that shard 1 makes a d1/01 of its own does not make it a leftover."""
    for name in ("d1/01", "d1/02", "d1/03", "d2/01", "d2/02", "d2/03"):
        write_audio(tmp_path / f"{name}.wav", [], seconds=0.1, audio_hz=44100)
    running, left = (
        tmp_path / name for name in ("d2/.01_16000.wav.4242-0123abcd.partial", "d2/.02_16000.wav.4242-0123abcd.partial")
    )
    for path in (running, left):
        path.write_bytes(b"half")
    assert call(resample_audio, "-d", tmp_path, "--shard", "1/2").code == 0
    assert running.exists() and not left.exists()


def test_shards_agree_while_files_are_added(tmp_path):
    """A file that appears between the starts of two shards moves no other from one to the other."""
    late = write_data(tmp_path / "maestro", 4, 0.2) / "2004/0.wav"
    late.rename(tmp_path / "0.wav")
    run = command_lines(tmp_path)["audio"][1:]
    first = call(resample_audio, *run, "--shard", "1/2", "--json").result
    assert [failure["item"] for failure in first["failures"]] == ["2004/0.wav"]
    (tmp_path / "0.wav").rename(late)
    assert call(resample_audio, *run, "--shard", "2/2").code == 0
    assert {path.name for path in (tmp_path / "audio/2004").iterdir()} == {f"{i}_16000.wav" for i in (1, 2, 3)}


@pytest.mark.parametrize("shard", ["0/2", "3/2", "1", "a/b", "1/2/3", "-1/2"])
def test_impossible_shards(tmp_path, shard):
    assert_refused(call(resample_audio, "-d", tmp_path, f"--shard={shard}"), f"--shard is {shard}", "expected I/N")


# ---- workers


def _die(job: int) -> int:
    if job == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return job


def test_killed_worker_is_reported_in_one_line():
    with pytest.raises(InputError, match="a worker process was killed, perhaps for lack of memory"):
        list(parallel.parallel_map(_die, range(8), n_jobs=2, backend="loky"))


JOBS = """
import os, sys, time
from midi2wave.utils import parallel
def wait(job):
    os.write(1, f"{os.getpid()}\\n".encode())  # At once: two workers write here.
    time.sleep(60)
list(parallel.parallel_map(wait, range(8), n_jobs=2, backend="loky"))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs prctl")
def test_workers_end_with_a_killed_command(tmp_path):
    """joblib's own would wait five minutes for more work."""
    (tmp_path / "jobs.py").write_text(JOBS)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, tmp_path / "jobs.py"], stdout=subprocess.PIPE, env=environment)
    workers = {int(process.stdout.readline()) for _ in range(2)}
    process.kill()
    process.wait(timeout=30)
    deadline = time.monotonic() + 10
    while subprocess.run(["ps", "-o", "pid=", "-p", ",".join(map(str, workers))], capture_output=True).stdout:
        assert len(workers) == 2 and time.monotonic() < deadline, "they still run"
        time.sleep(0.05)
    process.stdout.close()


def test_more_jobs_than_cores_are_reduced_with_a_message(tmp_path, monkeypatch):
    write_audio(tmp_path / "a.wav", [], seconds=0.1, audio_hz=44100)
    monkeypatch.setattr(parallel, "usable_cores", lambda: 3)
    assert "--jobs" not in call(resample_audio, "-d", tmp_path, "-j", "3").err
    assert (
        "--jobs 4 is more than the cores there are; 3 files at once"
        in call(resample_audio, "-d", tmp_path, "-j", "4").err
    )


def test_a_backend_that_is_not_installed(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    write_audio(tmp_path / "a.wav", [], seconds=0.1, audio_hz=44100)
    assert_refused(call(resample_audio, "-d", tmp_path, "--backend", "dask"), "pip install distributed")


# ---- folders that may not be written


def test_a_read_only_source(tmp_path):
    """Mounted read-only where that is possible: root may write to any folder."""
    source = write_data(tmp_path / "maestro", 2, 0.2)
    run = command_lines(tmp_path)
    bind = ["mount", "--bind", "-o", "ro", str(source), str(source)]
    mounted = shutil.which("mount") and not subprocess.run(bind, capture_output=True, check=False).returncode
    if not mounted and os.geteuid() == 0:
        pytest.skip("root, and nothing can be mounted")
    if not mounted:
        for folder in (source / "2004", source):
            folder.chmod(0o555)
    try:
        before = read_files(source)
        assert call(resample_audio, *run["audio"][1:]).code == 0
        assert call(preprocess_maestro, *run["data"][1:]).code == 0
        beside = call(resample_audio, "-d", source, "--json")
        assert beside.code == 2 and "cannot be locked" in beside.err
        assert all(("Read-only" in f["reason"] or "permission" in f["reason"]) for f in beside.result["failures"])
        assert read_files(source) == before
    finally:
        if mounted:
            subprocess.run(["umount", str(source)], check=True)
        else:
            for folder in (source, source / "2004"):
                folder.chmod(0o755)


def test_links_and_names_in_any_script(tmp_path):
    """Year folders on another disk are linked to, and a target's link is replaced, not followed."""
    disk = write_data(tmp_path / "disk", 1, 0.2)
    source = tmp_path / "maestro"
    source.mkdir()
    (source / "2004").symlink_to(disk / "2004")
    for suffix in ("wav", "midi"):
        (disk / f"2004/0.{suffix}").rename(disk / f"2004/Прелюдия №1 🎹 月光.{suffix}")
    rows = (disk / "maestro-v2.0.0.csv").read_text(encoding="utf-8").replace("2004/0.", "2004/Прелюдия №1 🎹 月光.")
    (source / "maestro-v2.0.0.csv").write_text(rows, encoding="utf-8")
    elsewhere = tmp_path / "precious.wav"
    elsewhere.write_bytes(b"precious")
    (disk / "2004/Прелюдия №1 🎹 月光_16000.wav").symlink_to(elsewhere)
    assert call(resample_audio, "-d", source, "--force").code == 0
    assert elsewhere.read_bytes() == b"precious"
    overrides = settings(f"preprocess_config.maestro_dir={source}", f"preprocess_config.out_dir={tmp_path}/données")
    assert call(preprocess_maestro, *overrides).code == 0
    assert (tmp_path / "données/0.npy").is_file()


def test_names_in_no_encoding(tmp_path):
    folder = os.fsencode(tmp_path) + b"/in"
    os.mkdir(folder)
    write_audio(tmp_path / "a.wav", [], seconds=0.1, audio_hz=44100)
    shutil.copy(tmp_path / "a.wav", folder + b"/caf\xe9.wav")
    for n_done in (1, 0):
        done = command("resample_audio.py", "-d", tmp_path / "in", "--json")
        assert done.code == 0 and done.result["files"] == n_done, done.err
    assert os.path.isfile(folder + b"/caf\xe9_16000.wav")
