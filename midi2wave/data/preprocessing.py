"""Preprocessing of MAESTRO: the recordings of a split as jobs, the work on one recording, table and dataset card."""

import contextlib
import functools
import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from midi2wave.audio.io import read_pcm
from midi2wave.config import Config, PreprocessConfig
from midi2wave.data import dataset_card
from midi2wave.data.dataset_card import Facts
from midi2wave.data.maestro import SPLITS, Recording, inside, read_metadata, resampled_name, select_split
from midi2wave.data.processed_folder import (
    CARD_NAME,
    CARD_PICTURE_NAME,
    Row,
    finish_folder,
    read_finished,
    write_recording,
)
from midi2wave.data.resample_manifest import state
from midi2wave.midi.performance import Performance, clip
from midi2wave.midi.reader import read_midi
from midi2wave.plotting.pictures import save_picture
from midi2wave.utils import parallel
from midi2wave.utils.atomic_files import write_text
from midi2wave.utils.cli import Failure, format_error, log, progress_in_hours
from midi2wave.utils.errors import DISK_FULL_ERRNOS, InputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Processed = tuple[Row, Facts]
# By the id of its job, the outcome of each recording; None until it is done.
Outcomes = dict[tuple[Path, int], Processed | None]


@dataclass(frozen=True)
class Stretch:
    """A part of a recording.

    Attributes:
        start: Its begin in seconds of the audio.
        end: Its end.
        late_seconds: By how much the sound comes after the notes of the MIDI file, whose times are corrected.
    """

    start: float
    end: float
    late_seconds: float = 0.0


@dataclass(frozen=True)
class PreprocessJob:
    """One recording to preprocess, with the config of its split.

    Attributes:
        recording: Its row of the metadata.
        config: The config of its split.
        stretch: The part that is taken; None: all of it.
    """

    recording: Recording
    config: PreprocessConfig
    stretch: Stretch | None = None

    @property
    def folder(self) -> Path:
        """The processed folder."""
        return Path(self.config.out_dir)

    @property
    def id(self) -> tuple[Path, int]:
        """A dictionary key of the job, equal for the copy that a worker process returns."""
        return self.folder, self.recording.index


def plan_jobs(config: PreprocessConfig) -> list[PreprocessJob]:
    """The recordings of the split; split "all" is three folders, each as if its split had been named alone.

    Raises:
        InputError: The metadata cannot be read or list no recordings of the split.
    """
    recordings = read_metadata(config.maestro_dir)
    jobs = []
    configs = [config]
    if config.split == "all":
        configs = [replace(config, split=split, out_dir=f"{config.out_dir}/{split}") for split in SPLITS]
    for own_config in configs:
        jobs += [PreprocessJob(recording, own_config) for recording in select_split(recordings, own_config.split)]
    if not jobs:
        raise InputError(f"the metadata in {config.maestro_dir} lists no recordings of split {config.split!r}")
    return jobs


def _source_paths(job: PreprocessJob) -> tuple[Path, Path]:
    """Where the audio and the MIDI lie. Raises InputError for a name that leads out of the folder."""
    config = job.config
    audio_dir = config.resampled_dir or config.maestro_dir
    audio_path = inside(audio_dir, resampled_name(job.recording.audio_filename, config.audio_hz))
    return audio_path, inside(config.maestro_dir, job.recording.midi_filename)


def read_processed(job: PreprocessJob) -> Processed | None:
    """The row and facts of a recording that is done, made from the files as they are now; else None.

    Raises:
        InputError: The folder holds another recording under the same index.
    """
    sources: dict[str, list[int]] = {}
    paths: tuple[Path, ...] = ()
    with contextlib.suppress(InputError):
        paths = _source_paths(job)
    for name, path in zip(("audio", "midi"), paths, strict=False):
        with contextlib.suppress(OSError):
            sources[name] = list(state(path))
    stored = read_finished(job.folder, job.recording, sources)
    with contextlib.suppress(TypeError, ValueError):
        return (stored[0], dataset_card.facts_from(stored[1])) if stored else None
    return None


def process_one(job: PreprocessJob) -> tuple[PreprocessJob, Processed | str]:
    """Do one job; worker processes import this function by its name.

    Returns:
        The job with its row and facts, or with the reason why there are none.

    Raises:
        OSError: The disk is full.
    """
    try:
        return job, _process(job)
    except OSError as error:
        if error.errno in DISK_FULL_ERRNOS:
            raise
        return job, format_error(error)
    except InputError as error:
        return job, format_error(error)


def _process(job: PreprocessJob) -> Processed:
    """Read, check and write one recording."""
    config = job.config
    recording = job.recording
    audio_path, midi_path = _source_paths(job)
    if not audio_path.is_file():
        raise InputError(f"{audio_path} is missing; run resample_audio.py --hz {config.audio_hz} first")
    sources = {"audio": list(state(audio_path))}
    pcm = read_pcm(audio_path, config.audio_hz)
    performance = read_midi(midi_path)
    if job.stretch:
        pcm, performance = cut_stretch(pcm, performance, job.stretch, config.audio_hz)
    sources["midi"] = list(state(midi_path))
    facts = dataset_card.measure_facts(recording, pcm, performance, config.audio_hz)
    if job.stretch:  # Warnings are about whole recordings: a stretch may be too short to be compared with its notes.
        facts = replace(facts, warnings=[])
    row = Row(
        index=recording.index,
        audio_filename=recording.audio_filename,
        midi_filename=recording.midi_filename,
        split=recording.split,
        year=recording.year,
        duration=len(pcm) / config.audio_hz,
        n_samples=len(pcm),
        n_notes=sum(facts.pitches),
        composer=recording.composer,
        title=recording.title,
    )
    write_recording(job.folder, row, pcm, performance, asdict(facts), sources)
    return row, facts


def cut_stretch(
    pcm: np.ndarray, performance: Performance, stretch: Stretch, audio_hz: int, margin: float = 0.0
) -> tuple[np.ndarray, Performance]:
    """Cut a stretch out of a recording.

    Args:
        pcm: The samples, int16 [T].
        performance: The notes. Those that sound when the stretch begins get negative times.
        stretch: The part.
        audio_hz: The sample rate.
        margin: Seconds on both sides of which the notes remain too.

    Raises:
        InputError: No note begins in it.
    """
    start, end = stretch.start, stretch.end
    notes = clip(performance, start - stretch.late_seconds, end - stretch.late_seconds, margin)
    if not ((notes.onset >= 0) & (notes.onset < end - start)).any():
        raise InputError(f"no note begins between {start:.1f} and {end:.1f} s")
    return pcm[round(start * audio_hz) : round(end * audio_hz)], notes


def process_pending(
    pending: list[PreprocessJob], outcomes: Outcomes, *, n_jobs: int = 1, backend: str = "loky"
) -> list[Failure]:
    """Do the jobs, with progress in hours of audio and a line for each remark.

    Args:
        pending: The jobs.
        outcomes: What they yield is entered here.
        n_jobs: Recordings at once.
        backend: One of `parallel.BACKENDS`.

    Returns:
        Those that failed, sorted.
    """
    failures = []
    results = parallel.parallel_map(process_one, pending, n_jobs=n_jobs, backend=backend)
    for job, outcome in _with_progress(results, pending):
        if isinstance(outcome, str):
            failures.append(Failure(job.recording.audio_filename, outcome))
            continue
        outcomes[job.id] = outcome
        facts = outcome[1]
        for remark in (*facts.dropped, *facts.warnings):
            log(f"{job.recording.audio_filename}: {remark}")
    return sorted(failures, key=lambda failure: failure.item)


def _with_progress(
    results: Iterable[tuple[PreprocessJob, Processed | str]], pending: list[PreprocessJob]
) -> Iterable[tuple[PreprocessJob, Processed | str]]:
    return progress_in_hours(
        results,
        total=sum(job.recording.duration for job in pending),
        share=lambda result: result[0].recording.duration,
        seconds=lambda result: 0.0 if isinstance(result[1], str) else result[1][0].duration,
    )


def finish_processed_folder(folder: Path, processed: list[Processed], config: PreprocessConfig, n_failed: int) -> None:
    """Write the table, the dataset card and its picture, if the folder holds any recording.

    Args:
        folder: The processed folder.
        processed: Its recordings in the order of the metadata.
        config: The config that it was made from.
        n_failed: How many recordings of the split are missing.
    """
    if not processed:
        return
    rows = [row for row, _ in processed]
    facts = [facts for _, facts in processed]
    card = dataset_card.make_card(rows, facts, Config(preprocess_config=config).as_dict(), n_failed)
    text = json.dumps(card, indent=1, ensure_ascii=False) + "\n"
    # A histogram stands on one line.
    text = re.sub(r"\[[\d\s.,-]*\]", lambda counts: " ".join(counts[0].split()), text)
    card_path = folder / CARD_NAME
    picture_path = folder / CARD_PICTURE_NAME
    unchanged = card_path.is_file() and picture_path.is_file() and card_path.read_bytes() == text.encode()
    if not unchanged:
        picture_path.unlink(missing_ok=True)  # It shows the former card, and drawing the new one may fail.
        save_picture(picture_path, functools.partial(_draw_card, card, dataset_card.title(folder, card)))
        write_text(card_path, text)
    finish_folder(folder, rows)


def _draw_card(card: dict[str, Any], title: str) -> "Figure":
    from midi2wave.plotting.dataset_card import dataset_card_figure

    return dataset_card_figure(card, title)
