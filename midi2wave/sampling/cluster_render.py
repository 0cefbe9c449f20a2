"""Rendering on the workers of a cluster: `inference.py --backend dask`."""

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from midi2wave.checkpoint import LoadedCheckpoint, load_checkpoint
from midi2wave.config import InferenceConfig
from midi2wave.sampling.pieces import Piece
from midi2wave.sampling.render import RenderJob, render
from midi2wave.utils.cli import Failure, item_failure
from midi2wave.utils.errors import InputError
from midi2wave.utils.parallel import parallel_map


@dataclass(frozen=True)
class WorkerJob:
    """What a worker renders; it loads the model itself.

    Attributes:
        settings: Those of `RenderJob`.
        folder: Where the files go.
        sha256: The checksum of the weights that the caller uses.
        piece: The piece.
    """

    settings: InferenceConfig
    folder: Path
    sha256: str
    piece: Piece


def render_on_cluster(job: RenderJob, pieces: list[Piece], backend: str) -> Iterator[tuple[str, Failure | None]]:
    """Render each piece on some worker of a cluster. Samples do not depend on the pieces beside one.

    Args:
        job: What the pieces have in common.
        pieces: The pieces.
        backend: One of `parallel.BACKENDS`.

    Yields:
        The name of each piece, with its failure if its files cannot be written, in the order in which they are done.

    Raises:
        InputError: As `parallel_map`, or a worker has other weights under that name.
    """
    jobs = [WorkerJob(job.settings, job.folder, job.loaded.sha256, piece) for piece in pieces]
    yield from parallel_map(render_on_worker, jobs, n_jobs=1, backend=backend)


def render_on_worker(job: WorkerJob) -> tuple[str, Failure | None]:
    """Render one piece in this process.

    Returns:
        Its name, and why its files cannot be written if so.

    Raises:
        InputError: The weights under that name are not those of the caller.
        OSError: The disk is full.
    """
    loaded = _load(job.settings.model_filename, job.settings.device, job.sha256)
    try:
        render(RenderJob(loaded, job.settings, job.folder), [job.piece])
    except OSError as error:
        return job.piece.name, item_failure(job.piece.name, error)
    return job.piece.name, None


@functools.lru_cache(maxsize=1)
def _load(path: str, device: str, sha256: str) -> LoadedCheckpoint:
    """The model with these weights, kept for the next piece: another command may mean other weights by that name."""
    loaded = load_checkpoint(path, device)
    if loaded.sha256 != sha256:
        raise InputError(f"{path} has other weights on this worker than where the command runs; copy the file there")
    return loaded
