"""What a worker of a cluster does with one piece of inference.py."""

import errno
from pathlib import Path
from types import SimpleNamespace

import pytest

from midi2wave.config import InferenceConfig
from midi2wave.sampling import cluster_render
from midi2wave.utils.errors import InputError


@pytest.fixture
def weights(monkeypatch):
    """The checksum of the weights in the model's file, which the tests change; rendering does nothing."""
    in_file = SimpleNamespace(sha256="old", n_loaded=0)

    def load_checkpoint(path: str, device: str) -> SimpleNamespace:
        in_file.n_loaded += 1
        return SimpleNamespace(sha256=in_file.sha256)

    monkeypatch.setattr(cluster_render, "load_checkpoint", load_checkpoint)
    monkeypatch.setattr(cluster_render, "render", lambda job, pieces: None)
    cluster_render._load.cache_clear()
    yield in_file
    cluster_render._load.cache_clear()


def render(sha256: str):
    settings = InferenceConfig(model_filename="model.safetensors", device="cpu")
    piece = SimpleNamespace(name="song")
    return cluster_render.render_on_worker(cluster_render.WorkerJob(settings, Path("out"), sha256, piece))


def test_a_worker_loads_a_model_once_until_its_weights_change(weights):
    """A worker outlives a command: after more training the same name means other weights."""
    assert render("old") == render("old") == ("song", None) and weights.n_loaded == 1
    weights.sha256 = "new"
    assert render("new") == ("song", None) and weights.n_loaded == 2


def test_other_weights_than_the_callers_are_refused_each_time(weights):
    for _ in range(2):
        with pytest.raises(InputError, match=r"model\.safetensors has other weights on this worker"):
            render("new")
    weights.sha256 = "new"
    assert render("new") == ("song", None)


def test_a_piece_that_cannot_be_written_is_a_failure(weights, monkeypatch):
    """The other pieces are done; not so on a full disk, where they would fail, too."""
    error = OSError(errno.EACCES, "Permission denied", "out/song.wav")

    def fail(job, pieces):
        raise error

    monkeypatch.setattr(cluster_render, "render", fail)
    name, failure = render("old")
    assert name == failure.item == "song" and "out/song.wav" in failure.reason
    error.errno = errno.ENOSPC
    with pytest.raises(OSError, match="Permission denied"):
        render("old")
