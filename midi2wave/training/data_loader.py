"""Crops for a model, and batches of them in the order of training, read ahead by worker processes."""

import functools
import itertools
from collections.abc import Generator, Iterable, Iterator

from torch.utils.data import DataLoader

from midi2wave.config import Config, DataConfig
from midi2wave.data.crops import NO_AUGMENTATION, CropAugmentation, Crops
from midi2wave.data.processed_folder import ProcessedFolder
from midi2wave.training import worker_processes
from midi2wave.training.losses import Batch
from midi2wave.training.schedules import history_mixing, history_noise
from midi2wave.utils.cli import count_of, log
from midi2wave.utils.cores import usable_cores
from midi2wave.utils.errors import InputError
from wavenet import WaveNet

PREFETCHED_BATCHES = 4  # By each worker.


def crops_for_model(
    path: str,
    data: DataConfig,
    model: WaveNet,
    seed: int,
    *,
    warmup_frames: int = 0,
    augmentation: CropAugmentation = NO_AUGMENTATION,
) -> Crops:
    """Open a processed folder as the crops that a model is trained on.

    Args:
        path: The processed folder.
        data: Config of the crops.
        model: The model, which determines context frames, previous samples and the kind of samples.
        seed: Seed of positions and augmentations.
        warmup_frames: Frames in front of each crop that are not scored.
        augmentation: Random changes of the decoder's input.

    Raises:
        InputError: The folder is no processed folder, or does not fit the config.
    """
    return Crops(
        ProcessedFolder(path),
        data,
        context_frames=model.context_frames,
        n_previous=model.decoder.taps,
        codes=not model.decoder.mixture,
        seed=seed,
        warmup_frames=warmup_frames,
        augmentation=augmentation,
    )


def crop_samples(data: DataConfig) -> int:
    """Number of samples of a crop."""
    return max(1, round(data.segment_length * data.midi_hz)) * (data.audio_hz // data.midi_hz)


def training_crops(config: Config, model: WaveNet) -> Crops:
    """Open the training data of a config, with the augmentations that it sets."""
    settings, data = config.train_config, config.data_config
    augmentation = CropAugmentation(
        history_noise=functools.partial(history_noise, settings),
        history_mixing=functools.partial(history_mixing, settings),
        history_dropout=settings.history_dropout,
        conditioning_dropout=data.conditioning_dropout,
    )
    return crops_for_model(data.dataset_path, data, model, settings.seed, augmentation=augmentation)


def micro_batch_indices(
    steps: range, batch_size: int, micro_batch_size: int, rank: int, size: int
) -> Iterator[list[int]]:
    """The indices of the crops of one process, in the order in which it passes them through the model.

    Step s consists of the crops [s * batch_size, (s + 1) * batch_size), however many processes there are; each takes an
    equal contiguous part of them.

    Args:
        steps: Optimiser steps.
        batch_size: Crops in a step, of all processes together.
        micro_batch_size: Crops in one forward and backward pass.
        rank: Number of this process.
        size: Number of processes.

    Yields:
        The indices of one micro-batch.
    """
    share = batch_size // size
    for step in steps:
        first = step * batch_size + rank * share
        for begin in range(first, first + share, micro_batch_size):
            yield list(range(begin, begin + micro_batch_size))


def limit_workers(n_workers: int, *, quiet: bool = False) -> int:
    """The number of worker processes, at most one per core; unless `quiet`, a message says where that is fewer."""
    n_cores = usable_cores()
    if n_workers > n_cores and not quiet:
        log(f"data_config.n_workers = {n_workers} is more than the cores there are; {count_of(n_cores, 'worker')}")
    return min(n_workers, n_cores)


def batches(
    crops: Crops, indices: Iterable[list[int]], n_workers: int, *, pin_memory: bool = False
) -> Generator[Batch]:
    """Batches of the crops of these indices, read ahead by worker processes.

    The workers ignore the signals that ask a training to stop: the process that they work for handles them. They end
    with the iterator: close it.

    Args:
        crops: Where the crops come from.
        indices: The indices of each batch.
        n_workers: Number of worker processes; 0 reads in this process.
        pin_memory: Whether batches lie in page-locked memory, from where copies to a GPU are asynchronous.

    Yields:
        What `Crops.__getitem__` returns, with a first axis of crops.

    Raises:
        InputError: A recording turns out to be damaged, or a worker fails.
    """
    loader = DataLoader(
        crops,
        batch_sampler=indices,
        num_workers=n_workers,
        pin_memory=pin_memory,
        worker_init_fn=worker_processes.init_worker,
        prefetch_factor=PREFETCHED_BATCHES if n_workers else None,
        persistent_workers=False,
    )
    try:
        with worker_processes.iterate(loader) as iterator:
            yield from iterator
    except InputError as error:
        # A worker's error arrives with the traceback before its message.
        message = worker_processes.last_line(error).removeprefix(f"{InputError.__module__}.InputError: ")
        raise InputError(message) from None


class MicroBatches:
    """The micro-batches of one step, each taken from the loader when its turn comes.

    All at once would take the memory of the whole batch, and as many open files as it has tensors.
    """

    def __init__(self, loader: Iterator[Batch], count: int) -> None:
        """Take them from a loader.

        Args:
            loader: It yields the micro-batches of all steps.
            count: How many belong to the step.
        """
        self._loader = loader
        self._count = count

    def __len__(self) -> int:
        """How many there are."""
        return self._count

    def __iter__(self) -> Iterator[Batch]:
        """Iterate over them once."""
        return itertools.islice(self._loader, self._count)
