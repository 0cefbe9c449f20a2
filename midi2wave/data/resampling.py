"""Resampling of a folder: which files are sources, which of them are done, and the work on one file."""

import contextlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from midi2wave.audio.io import AUDIO_SUFFIXES, UNREAD_AUDIO, resample_file
from midi2wave.data import resample_manifest
from midi2wave.data.maestro import (
    find_metadata,
    inside,
    metadata_hint,
    read_metadata,
    require_no_nested_metadata,
    resampled_name,
    select_split,
)
from midi2wave.data.resample_manifest import Manifest, ManifestEntry
from midi2wave.utils import parallel
from midi2wave.utils.cli import Failure, count_of, format_error, item_failure, log, progress_in_hours
from midi2wave.utils.errors import InputError
from midi2wave.utils.file_search import FileTree, walk_folder


@dataclass(frozen=True)
class ResampleJob:
    """One file to resample.

    Attributes:
        name: The source relative to the folder that the user named.
        source: The file to read.
        target: The file to write.
        audio_hz: The sample rate of the target.
        resampler: One of `audio.io.RESAMPLERS`.
        replace: Whether an existing target is replaced; otherwise the result must be equal to it.
        size: Bytes of the source.
    """

    name: str
    source: Path
    target: Path
    audio_hz: int
    resampler: str
    replace: bool = False
    size: int = 0


@dataclass(frozen=True)
class Sources:
    """The files to resample.

    Attributes:
        names: Names relative to the folder.
        are_listed: Whether they are those of the metadata, which need not exist.
        failures: Folders and links that cannot be opened.
        left_out: Names of audio files that libsndfile does not read.
    """

    names: list[str]
    are_listed: bool = False
    failures: tuple[Failure, ...] = ()
    left_out: tuple[str, ...] = ()


def list_sources(folder: Path, split: str, audio_hz: int) -> Sources:
    """The files to resample: the audio that the metadata list, or without metadata all audio files below the folder.

    Folders that are symbolic links are followed.

    Args:
        folder: A MAESTRO folder, or any folder with audio.
        split: A split of MAESTRO, or "all".
        audio_hz: The sample rate of the results; files that are results already are left out.

    Raises:
        InputError: There are none, there is no such split, or the metadata lie in a folder below.
    """
    if find_metadata(folder):
        names = [recording.audio_filename for recording in select_split(read_metadata(folder), split)]
        if not names:
            raise InputError(f"the metadata in {folder} lists no recordings of the {split} split")
        return Sources(names, are_listed=True)
    if split != "all":
        hint = metadata_hint(folder) or "; leave -s away"
        raise InputError(f"{folder} has no maestro-v*.csv or .json, so it has no {split} split{hint}")
    require_no_nested_metadata(folder)
    tree = walk_folder(folder)
    audio = tree.select(AUDIO_SUFFIXES)
    left_out = tree.log_left_out(UNREAD_AUDIO)
    results = _listed_results(tree)
    candidates = [path for path in audio if not path.stem.endswith(f"_{audio_hz}")]
    names = [path.as_posix() for path in candidates if path not in results]
    failures = tree.failures_of(AUDIO_SUFFIXES)
    if not names and not failures:
        raise _no_sources(folder, audio_hz, len(audio) - len(candidates), len(candidates))
    if len(names) < len(candidates):
        log(f"left out: {count_of(len(candidates) - len(names), 'file')} made here at another rate, say the manifests")
    return Sources(names, failures=tuple(failures), left_out=tuple(path.as_posix() for path in left_out))


def _no_sources(folder: Path, audio_hz: int, n_with_suffix: int, n_listed: int) -> InputError:
    """The error for a folder without sources, which names the files that were taken for results."""
    results = [f"{n_with_suffix} that end in _{audio_hz}"] if n_with_suffix else []
    results += [f"{n_listed} that a manifest lists"] if n_listed else []
    exceptions = f" but {' and '.join(results)}, taken for results of this command" if results else ""
    return InputError(f"{folder} holds no audio files{exceptions}; looked for {' '.join(AUDIO_SUFFIXES)}")


def _listed_results(tree: FileTree) -> set[Path]:
    """The results in a tree, at any rate, whose source lies there too, relative to its folder."""
    results = set()
    for path in tree.select((".json",)):
        match = re.match(r"resampled_(\d+)\.", path.name)
        if match is None:
            continue
        # The manifest of this run's own rate is read again later, where errors are reported.
        with contextlib.suppress(InputError, OSError):
            for name in resample_manifest.read(tree.folder / path):
                if _is_file(tree.folder / name):
                    results.add(path.parent / resampled_name(name, int(match[1])))
    return results


def plan_jobs(
    sources: Sources, folder: Path, out_dir: Path, audio_hz: int, resampler: str
) -> list[ResampleJob | Failure]:
    """For each source its job, or the reason why it cannot be done.

    Args:
        sources: The files to resample.
        folder: Where the sources lie.
        out_dir: Where the same tree is written.
        audio_hz: The sample rate of the results.
        resampler: One of `audio.io.RESAMPLERS`.
    """
    sources_by_target: dict[Path, str] = {}
    planned: list[ResampleJob | Failure] = []
    # The names of files that are there need no check: they may look like those of a drive.
    locate = inside if sources.are_listed else Path
    originals = {(folder / name).resolve() for name in sources.names if _is_file(folder / name)}
    for name in sources.names:
        reason = ""
        try:
            source = locate(folder, name)
            target = locate(out_dir, resampled_name(name, audio_hz))
            if target in sources_by_target:
                reason = f"would give the same {target.name} as {sources_by_target[target]}; rename one of them"
            elif target.resolve() in originals:
                reason = f"would become {target.name}, which is an original; use --out_dir"
            elif not source.is_file():
                reason = f"no such file in {folder}; download it, or choose another split with -s"
            sources_by_target.setdefault(target, name)
        except (InputError, OSError) as error:
            reason = format_error(error)
        planned.append(Failure(name, reason) if reason else ResampleJob(name, source, target, audio_hz, resampler))
    return planned


def _is_file(path: Path) -> bool:
    with contextlib.suppress(OSError, ValueError):  # The name is too long, or no file can have it.
        return path.is_file()
    return False


def select_pending(
    jobs: list[ResampleJob], manifest: Manifest, *, force: bool, verify: bool
) -> tuple[list[ResampleJob], int, list[Failure]]:
    """The jobs that are not done, the largest sources first, the number of those that are, and what cannot be opened.

    Args:
        jobs: All jobs.
        manifest: What has been done.
        force: Whether all are done again.
        verify: Whether the checksums of finished targets are compared.

    Returns:
        Jobs, a count and failures. A target that no entry fits is not replaced: the result must be equal to it.
    """
    pending: list[ResampleJob] = []
    failures: list[Failure] = []
    n_done = 0
    for job in jobs:
        status = resample_manifest.CHANGED
        try:
            job = replace(job, size=job.source.stat().st_size)
            if not force:
                status = manifest.status(job.name, job.source, job.target, verify=verify)
        except OSError as error:
            failures.append(item_failure(job.name, error))
            continue
        if status == resample_manifest.CHANGED:
            pending.append(replace(job, replace=True))
        elif status == resample_manifest.DONE:
            n_done += 1
        else:
            pending.append(job)
    # No process should be left with a long file at the end.
    pending.sort(key=lambda job: -job.size)
    return pending, n_done, failures


def resample_one(job: ResampleJob) -> tuple[ResampleJob, ManifestEntry | str]:
    """Do one job; worker processes import this function by its name.

    Returns:
        The job with its entry for the manifest, or with the reason why there is none.
    """
    try:
        source_state = resample_manifest.state(job.source)
        resampled = resample_file(job.source, job.target, job.audio_hz, job.resampler, replace=job.replace)
        return job, resample_manifest.make_entry(job.target, resampled, source_state, job.resampler)
    except (InputError, OSError) as error:
        return job, format_error(error)


def resample_pending(
    pending: list[ResampleJob], manifest: Manifest, *, n_jobs: int = 1, backend: str = "loky"
) -> tuple[dict[str, ManifestEntry], list[Failure]]:
    """Do the jobs and list them in the manifest, which is saved also if this is interrupted.

    Args:
        pending: The jobs, with progress in hours of audio.
        manifest: The manifest of their folder.
        n_jobs: Files at once.
        backend: One of `parallel.BACKENDS`.

    Returns:
        The entries of the files that were made, by the name of the source, and those that failed.
    """
    entries: dict[str, ManifestEntry] = {}
    failures: list[Failure] = []
    outcomes = parallel.parallel_map(resample_one, pending, n_jobs=n_jobs, backend=backend)
    try:
        for job, outcome in _with_progress(outcomes, pending):
            if isinstance(outcome, str):
                failures.append(Failure(job.name, outcome))
                continue
            entries[job.name] = outcome
            manifest.add(job.name, outcome)
            if outcome.n_clipped:
                peak = f"(peak {outcome.peak:.3f})"
                log(f"clipped: {job.name}: {outcome.n_clipped} samples above full scale {peak}")
    finally:
        try:
            manifest.save()
        except OSError as error:
            failures.append(Failure(str(manifest.path), format_error(error)))
    return entries, failures


def _with_progress(
    outcomes: Iterable[tuple[ResampleJob, ManifestEntry | str]], jobs: list[ResampleJob]
) -> Iterable[tuple[ResampleJob, ManifestEntry | str]]:
    return progress_in_hours(
        outcomes,
        total=sum(job.size for job in jobs),
        share=lambda outcome: outcome[0].size,
        seconds=lambda outcome: 0.0 if isinstance(outcome[1], str) else outcome[1].seconds,
    )
