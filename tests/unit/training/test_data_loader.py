"""Batches of crops: who takes which, with and without worker processes."""

import multiprocessing
from pathlib import Path

import pytest
import torch

from midi2wave.training import data_loader
from midi2wave.training.data_loader import batches, limit_workers, micro_batch_indices
from midi2wave.utils.errors import InputError
from tests.helpers.processed_data import equal, make_crops, write_folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A processed folder of three recordings."""
    write_folder(tmp_path / "data", [500, 4000, 1603])
    return tmp_path / "data"


@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize("micro_batch_size", [1, 2])
def test_processes_split_the_crops_of_a_step(size, micro_batch_size):
    by_process = [list(micro_batch_indices(range(3, 6), 8, micro_batch_size, rank, size)) for rank in range(size)]
    assert all(len(batch) == micro_batch_size for own_batches in by_process for batch in own_batches)
    n_batches = 8 // size // micro_batch_size
    for i, step in enumerate(range(3, 6)):
        taken = [
            index
            for own_batches in by_process
            for batch in own_batches[i * n_batches : (i + 1) * n_batches]
            for index in batch
        ]
        assert taken == list(range(step * 8, (step + 1) * 8))  # each once, the same ones whatever the number


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_batches_are_the_same_with_and_without_workers(folder):
    crops, indices = make_crops(folder), [[7, 1, 2, 3], [4, 5, 6, 0], [8, 9]]
    alone, helped = (list(batches(crops, indices, n_workers)) for n_workers in (0, 2))
    assert [len(batch["samples"]) for batch in alone] == [4, 4, 2]
    assert all(equal(a, b) for a, b in zip(alone, helped, strict=True))
    assert torch.equal(alone[1]["samples"][2], crops[6]["samples"])


def test_workers_are_limited_to_the_cores(monkeypatch, capsys):
    monkeypatch.setattr(data_loader, "usable_cores", lambda: 1)
    assert [limit_workers(n_workers) for n_workers in (0, 1)] == [0, 1] and capsys.readouterr().err == ""
    assert limit_workers(4, quiet=True) == 1 and capsys.readouterr().err == ""
    assert limit_workers(4) == 1
    message = "data_config.n_workers = 4 is more than the cores there are; 1 worker\n"
    assert capsys.readouterr().err == message


@pytest.mark.parametrize("n_workers", [0, 1])
def test_damage_is_reported_in_one_line_by_workers_too(folder, n_workers):
    """An error of a worker process has the same message as one of this process."""
    for index in range(3):
        (folder / f"{index}.npy").write_bytes(b"")
    before = multiprocessing.active_children()
    with pytest.raises(InputError) as caught:
        list(batches(make_crops(folder), [list(range(40))], n_workers))
    message = str(caught.value)
    assert message.startswith(str(folder)) and "missing or damaged" in message and "\n" not in message
    del caught
    assert set(multiprocessing.active_children()) <= set(before)  # no worker is left to be waited for
