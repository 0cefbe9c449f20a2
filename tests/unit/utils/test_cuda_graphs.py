"""What a capture does around the function that it captures, without a GPU."""

import contextlib

import torch

from midi2wave.utils import cuda_graphs


class FakeStream:
    def __init__(self, log=None):
        self.log = [] if log is None else log

    def wait_stream(self, other):
        self.log.append("wait")


def test_runs_warm_up_before_the_capture(monkeypatch):
    log = []
    stream = FakeStream(log)

    @contextlib.contextmanager
    def block(name):
        log.append(name)
        yield
        log.append(f"end of {name}")

    monkeypatch.setattr(torch.cuda, "device", lambda device: block(f"device {device}"))
    monkeypatch.setattr(torch.cuda, "Stream", lambda: stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: block("side stream"))
    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: "graph")
    monkeypatch.setattr(torch.cuda, "graph", lambda graph, **options: block(f"capture into {graph}"))

    def run():
        log.append("run")
        return log.count("run")

    graph, result = cuda_graphs.capture_graph(run, torch.device("cuda:1"))
    assert graph == "graph" and result == cuda_graphs.N_WARMUP_RUNS + 1
    warm_up = ["wait", "side stream", *["run"] * cuda_graphs.N_WARMUP_RUNS, "end of side stream", "wait"]
    capture = ["capture into graph", "run", "end of capture into graph"]
    assert log == ["device cuda:1", *warm_up, *capture, "end of device cuda:1"]
