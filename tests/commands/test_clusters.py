"""Commands on a dask cluster: a scheduler without this code, and two workers, each a process of its own."""

import json
import shutil
import signal
import subprocess
import sys
import time

import pytest

import inference
import preprocess_maestro
import resample_audio
from midi2wave.utils import cluster as cluster_module
from tests.helpers.dask_cluster import dask_cluster
from tests.helpers.paths import ROOT
from tests.helpers.pipeline import (
    assert_refused,
    call,
    melody,
    read_files,
    read_wavs,
    settings,
    write_audio,
    write_maestro,
    write_midi,
)

pytestmark = pytest.mark.slow
BACKEND = ("--backend", "dask")


@pytest.fixture(scope="module")
def shared_cluster(tmp_path_factory):
    """A cluster with two workers, for the tests that do not harm it."""
    with dask_cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        for _ in range(2):
            cluster.add_worker(ROOT)
        cluster.wait_for_workers(2)
        yield cluster


@pytest.fixture
def two_workers(shared_cluster, monkeypatch):
    monkeypatch.setenv(cluster_module.ADDRESS_VARIABLE, shared_cluster.address)
    return shared_cluster


@pytest.fixture
def scheduler(tmp_path, monkeypatch):
    """A scheduler of the test's own, without workers."""
    folder = tmp_path / "cluster"
    folder.mkdir()
    with dask_cluster(folder) as cluster:
        monkeypatch.setenv(cluster_module.ADDRESS_VARIABLE, cluster.address)
        yield cluster


def test_resampling_on_a_cluster(two_workers, tmp_path):
    write_maestro(tmp_path / "maestro", audio_hz=44100, channels=2)
    arguments = ("-d", tmp_path / "maestro", "--out_dir")
    assert call(resample_audio, *arguments, tmp_path / "local").code == 0
    made = call(resample_audio, *arguments, tmp_path / "remote", *BACKEND, "--json")
    assert made.code == 0 and "2 workers" in made.err
    assert read_wavs(tmp_path / "remote" / "2004").keys() == read_wavs(tmp_path / "local" / "2004").keys()
    for name, samples in read_wavs(tmp_path / "local" / "2004").items():
        assert (read_wavs(tmp_path / "remote" / "2004")[name] == samples).all()
    assert json.loads(call(resample_audio, *arguments, tmp_path / "remote", *BACKEND, "--json").out)["files"] == 0


def test_preprocessing_on_a_cluster(two_workers, tmp_path):
    write_maestro(tmp_path / "maestro", ("train", "train", "train"))
    options = (f"preprocess_config.maestro_dir={tmp_path / 'maestro'}", "preprocess_config.split=train")
    folders = {name: tmp_path / name for name in ("local", "remote")}
    for name, folder in folders.items():
        overrides = settings(*options, f"preprocess_config.out_dir={folder}")
        assert call(preprocess_maestro, *overrides, *(BACKEND if name == "remote" else ())).code == 0
    local, remote = (read_files(folder) for folder in folders.values())
    data = [name for name in local if name.endswith((".npy", ".npz", ".wav", ".csv", ".bin"))]
    assert data and local.keys() == remote.keys() and all(local[name] == remote[name] for name in data)


def test_inference_on_a_cluster(two_workers, pipeline, tmp_path):
    """Each piece is rendered by some worker; samples are those of one machine, and a rerun renders nothing."""
    songs = [write_midi(tmp_path / f"song{i}.mid", melody(i, 0.1 + 0.05 * i)) for i in range(3)]
    arguments = ("-c", pipeline.config, *settings("inference_config.tail_seconds=0"), "--midi", *songs, "--out")
    assert call(inference, *arguments, tmp_path / "local").code == 0
    made = call(inference, *arguments, tmp_path / "remote", *BACKEND)
    assert made.code == 0 and (tmp_path / "remote" / "index.html").is_file()
    local, remote = (read_wavs(tmp_path / name) for name in ("local", "remote"))
    assert local.keys() == remote.keys() == {"song0", "song1", "song2"}
    assert all((local[name] == remote[name]).all() for name in local)
    assert "3 were there already" in call(inference, *arguments, tmp_path / "remote", *BACKEND).out


def write_long_files(folder, n_files):
    for i in range(n_files):
        write_audio(folder / f"{i}.wav", melody(i, 6), 48000, 2, seconds=6)


def start_resampling(arguments, out, n_finished=2):
    """A process that resamples, and whose workers have finished so many files."""
    command = [sys.executable, ROOT / "resample_audio.py", *map(str, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(command, text=True, cwd=out.parent, **pipes)
    while process.poll() is None and len(list(out.glob("*.wav"))) < n_finished:
        time.sleep(0.002)
    return process


def test_a_killed_worker_loses_nothing(scheduler, tmp_path):
    """The other worker does what it leaves; results are noted as they come, and a rerun has nothing to do."""
    n_files, folder = 24, tmp_path / "audio"
    write_long_files(folder, n_files)
    first = scheduler.add_worker(ROOT)
    scheduler.add_worker(ROOT)
    scheduler.wait_for_workers(2)
    out = tmp_path / "out"
    arguments = ["-d", str(folder), "--out_dir", str(out), *BACKEND, "--json"]
    process = start_resampling(arguments, out)
    n_before = len(list(out.glob("*.wav")))
    first.send_signal(signal.SIGKILL)
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 0 and json.loads(output)["files"] == n_files and n_before < n_files
    assert call(resample_audio, "-d", folder, "--out_dir", tmp_path / "local").code == 0
    assert read_wavs(out).keys() == read_wavs(tmp_path / "local").keys()
    assert all((read_wavs(tmp_path / "local")[name] == samples).all() for name, samples in read_wavs(out).items())
    assert not list(out.glob(".*.partial"))
    assert json.loads(call(resample_audio, *arguments).out)["files"] == 0


def test_a_command_ends_with_its_scheduler(scheduler, tmp_path):
    """With one line, as after Ctrl-C; the next run knows the finished files."""
    write_long_files(tmp_path / "audio", 24)
    scheduler.add_worker(ROOT)
    scheduler.wait_for_workers(1)

    def run_until(end, out):
        # The command fetches results from the worker some time after the worker has written their files.
        process = start_resampling(["-d", tmp_path / "audio", "--out_dir", out, *BACKEND], out, n_finished=8)
        end(process)
        output, errors = process.communicate(timeout=120)
        assert not output and "Traceback" not in errors, errors
        return process.returncode, errors.splitlines()[-1]

    code, message = run_until(lambda process: process.send_signal(signal.SIGINT), tmp_path / "interrupted")
    assert code == 130 and message.startswith("interrupted;")
    code, message = run_until(lambda process: scheduler.scheduler.kill(), tmp_path / "out")
    assert code == 2 and message.startswith("error: --backend dask: the scheduler has ended"), message
    result = json.loads(call(resample_audio, "-d", tmp_path / "audio", "--out_dir", tmp_path / "out", "--json").out)
    assert result["already_done"] and result["files"] + result["already_done"] == 24


def test_a_worker_with_other_code_that_joins_later(scheduler, tmp_path):
    """It does no file, and is named once; the other worker does all."""
    write_long_files(tmp_path / "audio", 24)
    first = scheduler.add_worker(ROOT)
    scheduler.wait_for_workers(1)
    out, other = tmp_path / "out", tmp_path / "other"
    copy_code(other)
    (other / "wavenet.py").write_text((other / "wavenet.py").read_text() + "# another version\n")
    process = start_resampling(["-d", tmp_path / "audio", "--out_dir", out, *BACKEND], out)
    first.send_signal(signal.SIGSTOP)  # It must not do all files before the other one is there.
    scheduler.add_worker(other)
    scheduler.wait_for_workers(2)
    first.send_signal(signal.SIGCONT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0 and errors.count("has another version of midi2wave") == 1, errors
    assert len(read_wavs(out)) == 24 and "Traceback" not in errors


def copy_code(folder):
    shutil.copytree(ROOT / "midi2wave", folder / "midi2wave", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("wavenet.py", "logistic_mixture.py"):
        shutil.copy(ROOT / name, folder)


def test_workers_without_this_code_are_refused(scheduler, tmp_path):
    """Before any work: a worker that cannot import the package, then one that has another version of it."""
    write_audio(tmp_path / "audio" / "a.wav", [], seconds=0.1, audio_hz=44100)
    arguments = ("-d", tmp_path / "audio", "--out_dir", tmp_path / "out", *BACKEND)
    worker = scheduler.add_worker(None)
    scheduler.wait_for_workers(1)
    assert_refused(call(resample_audio, *arguments), "cannot import midi2wave", "PYTHONPATH")
    worker.kill()
    worker.wait()
    other = tmp_path / "other"
    copy_code(other)
    with (other / "midi2wave" / "__init__.py").open("a") as file:
        file.write("# another version\n")
    scheduler.add_worker(other)
    scheduler.wait_for_workers(1)
    assert_refused(call(resample_audio, *arguments), "another version of midi2wave")
    assert not list((tmp_path / "out").glob("*.wav"))


def test_a_cluster_that_is_not_there(scheduler, tmp_path, monkeypatch):
    """Neither a missing scheduler nor one without workers is waited for without end."""
    write_audio(tmp_path / "audio" / "a.wav", [], seconds=0.1, audio_hz=44100)
    arguments = ("-d", tmp_path / "audio", "--out_dir", tmp_path / "out", *BACKEND)
    monkeypatch.setattr(cluster_module, "WORKER_SECONDS", 1)
    monkeypatch.setattr(cluster_module, "CONNECT_SECONDS", 1)
    assert_refused(call(resample_audio, *arguments), "no worker for 1 s", "dask worker")
    monkeypatch.setenv(cluster_module.ADDRESS_VARIABLE, "tcp://127.0.0.1:9")
    assert_refused(call(resample_audio, *arguments), "no scheduler answers at tcp://127.0.0.1:9")
    monkeypatch.delenv(cluster_module.ADDRESS_VARIABLE)
    assert_refused(call(resample_audio, *arguments), f"set {cluster_module.ADDRESS_VARIABLE}")
