"""Rendering on the workers of a cluster: `inference.py --backend dask`."""

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from midi2wave.checkpoint import LoadedCheckpoint, load_checkpoint
from midi2wave.config import InferenceConfig
from midi2wave.sampling.pieces import Piece
from midi2wave.sampling.render import RenderJob, render
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


def render_on_cluster(job: RenderJob, pieces: list[Piece], backend: str) -> Iterator[str]:
    """Render each piece on some worker of a cluster. Samples do not depend on the pieces beside one.

    Args:
        job: What the pieces have in common.
        pieces: The pieces.
        backend: One of `parallel.BACKENDS`.

    Yields:
        The names of the pieces, in the order in which they are done.

    Raises:
        InputError: As `parallel_map`, or a worker has other weights under that name.
    """
    jobs = [WorkerJob(job.settings, job.folder, job.loaded.sha256, piece) for piece in pieces]
    yield from parallel_map(render_on_worker, jobs, n_jobs=1, backend=backend)


def render_on_worker(job: WorkerJob) -> str:
    """Render one piece in this process; returns its name."""
    loaded = _load(job.settings.model_filename, job.settings.device)
    if loaded.sha256 != job.sha256:
        raise InputError(f"{job.settings.model_filename} has other weights on this worker than where the command runs")
    render(RenderJob(loaded, job.settings, job.folder), [job.piece])
    return job.piece.name


@functools.lru_cache(maxsize=1)
def _load(path: str, device: str) -> LoadedCheckpoint:
    return load_checkpoint(path, device)
