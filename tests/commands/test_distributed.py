"""Two processes train as one does: the same gradients from the same crops, and a run that resumes after a kill."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest
import torch

from midi2wave import checkpoint, checkpoint_folders
from midi2wave.config import DistConfig
from midi2wave.training.distributed import SINGLE_PROCESS, init_distributed, local_device
from midi2wave.utils.errors import InputError
from tests.helpers.paths import ROOT
from tests.helpers.pipeline import settings
from tests.helpers.training import checkpoint_tensors, same_tensors

TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")


def start(*command):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([*map(str, command)], cwd=ROOT.parent, env=environment, text=True, **pipes)


def worker_pids(running, folder):
    """The process numbers of torchrun's two workers, once they have saved a checkpoint."""
    while not checkpoint.step_folders(folder):
        assert running.poll() is None, running.communicate()
        time.sleep(0.05)
    children = subprocess.run(["ps", "-o", "pid=,args=", "--ppid", str(running.pid)], capture_output=True, text=True)
    return [int(line.split()[0]) for line in children.stdout.splitlines() if "train.py" in line]


def train_arguments(pipeline, folder, *options):
    """Arguments of a run in this folder, with options of train_config."""
    overrides = [f"train_config.{option}" for option in (f"output_directory={folder}", *options)]
    return ["-c", pipeline.config, *settings(*overrides)]


def run_to_end(*command):
    process = start(*command)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return out, err


def test_process_without_torchrun_is_alone(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    with init_distributed(DistConfig(), torch.device("cpu")) as world:
        assert world == SINGLE_PROCESS and world.is_main_process
        model, values = torch.nn.Linear(1, 1), torch.ones(2)
        assert world.wrap(model, torch.device("cpu")) is model and world.all_reduce_sum(values) is values


def test_each_process_uses_the_device_of_its_rank(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [local_device(name) for name in ("auto", "cuda", "cuda:3", "cpu")] == ["cuda:1", "cuda:1", "cuda:3", "cpu"]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(InputError, match="process 1 finds 1 CUDA devices"):
        local_device("auto")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert local_device("auto") == "auto"


@pytest.mark.slow
def test_two_processes_have_the_gradients_of_one(pipeline, tmp_path):
    options = ["batch_size=8", "micro_batch_size=2", "precision=float32", "gradient_clip=1e9", "validation_crops=7"]
    results = []
    for name, interpreter in (("one", [sys.executable]), ("two", TORCHRUN)):
        script = [*interpreter, ROOT / "tests/helpers/one_step.py", tmp_path / f"{name}.pt"]
        run_to_end(*script, *train_arguments(pipeline, tmp_path / name, *options))
        results.append(torch.load(tmp_path / f"{name}.pt", weights_only=True))
    one, two = results
    assert (one["gradient"] - two["gradient"]).abs().max() < 1e-6 < one["gradient"].abs().max()
    for name in ("loss", "validation_nll", "validation_nll_shuffled", "validation_gap", "validation_gap_crop_error"):
        assert float(two[name]) == pytest.approx(float(one[name]), rel=1e-6, abs=1e-6), name


@pytest.mark.slow
def test_run_of_two_processes_resumes_after_a_kill(pipeline, tmp_path):
    def command(folder):
        options = ["steps=200", "batch_size=4", "iters_per_checkpoint=3", "iters_per_validation=100"]
        return *TORCHRUN, ROOT / "train.py", "--json", *train_arguments(pipeline, folder, *options)

    out, err = run_to_end(*command(tmp_path / "whole"))
    assert json.loads(out)["step"] == 200 and "2 processes" in err
    running = start(*command(tmp_path / "parts"))
    os.kill(worker_pids(running, tmp_path / "parts")[1], signal.SIGKILL)  # torchrun then ends the others.
    running.communicate(timeout=120)
    assert running.returncode != 0
    assert checkpoint_folders.step_of(checkpoint.step_folders(tmp_path / "parts")[-1]) < 200
    out, err = run_to_end(*command(tmp_path / "parts"))
    assert "going on from step" in err
    assert same_tensors(checkpoint_tensors(tmp_path / "parts"), checkpoint_tensors(tmp_path / "whole"))


@pytest.mark.slow
def test_two_processes_stop_after_the_same_step(pipeline, tmp_path):
    """One of them receives the signal; torchrun reports that they have not trained to the end."""
    folder = tmp_path / "run"
    options = ["steps=100000", "batch_size=4", "iters_per_checkpoint=5", "validation_crops=2"]
    running = start(*TORCHRUN, ROOT / "train.py", *train_arguments(pipeline, folder, *options))
    # Twice, as the signal of a process group that torchrun hands on.
    for pid in worker_pids(running, folder)[:1] * 2:
        os.kill(pid, signal.SIGTERM)
    out, err = running.communicate(timeout=120)
    assert running.returncode == 1 and "exitcode  : 143" in err, err
    assert "the same command goes on from there" in err and "step " in out
    assert "Error: " not in err.split("stopped at step")[0]


def agents(port, *command):
    """The command lines of two nodes with a process each; they meet at a port of the first one."""
    common = ["--nnodes=2", "--nproc_per_node=1", "--rdzv_backend=c10d", f"--rdzv_endpoint=127.0.0.1:{port}"]
    common += ["--rdzv_id=test", "--local_addr=127.0.0.1", "--max_restarts=0"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", *common]
    return [[*torchrun, f"--rdzv_conf=is_host={is_host}", *command] for is_host in ("true", "false")]


def assert_success(nodes):
    """Wait for all nodes; if one fails, torchrun would let the others wait for it for five minutes."""
    while any(node.poll() is None for node in nodes):
        if any(node.poll() for node in nodes):
            for node in nodes:
                node.kill()
        time.sleep(0.05)
    errors = "\n".join(node.communicate()[1] for node in nodes)
    assert not any(node.returncode for node in nodes), errors


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.slow
def test_two_nodes_have_the_gradients_of_one_process(pipeline, tmp_path):
    options = ["batch_size=8", "micro_batch_size=2", "precision=float32", "gradient_clip=1e9", "validation_crops=7"]
    script = ROOT / "tests/helpers/one_step.py"
    run_to_end(sys.executable, script, tmp_path / "one.pt", *train_arguments(pipeline, tmp_path / "one", *options))
    arguments = [script, tmp_path / "two.pt", *train_arguments(pipeline, tmp_path / "two", *options)]
    assert_success([start(*node) for node in agents(free_port(), *arguments)])
    one, two = (torch.load(tmp_path / f"{name}.pt", weights_only=True) for name in ("one", "two"))
    assert (one["gradient"] - two["gradient"]).abs().max() < 1e-6 < one["gradient"].abs().max()
    for name in ("loss", "validation_nll", "validation_gap"):
        assert float(two[name]) == pytest.approx(float(one[name]), rel=1e-6, abs=1e-6), name


@pytest.mark.slow
def test_two_nodes_go_on_after_one_was_killed(pipeline, tmp_path):
    """The other node ends, too; started again, both reach the weights of a run that nothing interrupted."""
    options = ["steps=120", "batch_size=4", "iters_per_checkpoint=3", "iters_per_validation=100"]

    def nodes(name):
        arguments = train_arguments(pipeline, tmp_path / name, *options)
        return [start(*node) for node in agents(free_port(), ROOT / "train.py", *arguments)]

    assert_success(nodes("whole"))
    staying, killed = nodes("parts")
    while not checkpoint.step_folders(tmp_path / "parts"):
        assert staying.poll() is None and killed.poll() is None, (staying.communicate(), killed.communicate())
        time.sleep(0.05)
    pids = subprocess.run(["ps", "-o", "pid=", "--ppid", str(killed.pid)], capture_output=True, text=True).stdout
    killed.kill()
    for pid in pids.split():  # A machine that fails takes its processes with it.
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)
    killed.communicate()
    staying.communicate(timeout=120)
    assert staying.returncode != 0
    assert checkpoint_folders.step_of(checkpoint.step_folders(tmp_path / "parts")[-1]) < 120
    assert_success(nodes("parts"))
    assert same_tensors(checkpoint_tensors(tmp_path / "parts"), checkpoint_tensors(tmp_path / "whole"))
