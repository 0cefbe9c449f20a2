"""Rendering of MIDI files by a synthesizer: which pieces, in which splits, and the work on one piece."""

import csv
import io
import math
import os
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from midi2wave.audio.io import write_amplitudes
from midi2wave.audio.pcm import FULL_SCALE
from midi2wave.data.maestro import COLUMNS, find_metadata, inside, read_metadata, require_no_nested_metadata
from midi2wave.data.sampled_instrument import SampledInstrument
from midi2wave.data.synthesizers import AUDIO_HZ, TICKS_PER_SECOND, Instrument, play
from midi2wave.midi.performance import Performance
from midi2wave.midi.reader import MIDI_SUFFIXES, SCORES, read_performance
from midi2wave.midi.writer import end_with_last_sound
from midi2wave.utils.atomic_files import atomic_file
from midi2wave.utils.cli import Failure, format_error, log
from midi2wave.utils.errors import InputError
from midi2wave.utils.file_names import fit_stem
from midi2wave.utils.file_search import walk_folder

# The year of pieces without metadata: in this data set it means the instrument, and there is one.
YEAR = 2000
# Between the fall of the last damper and the end of the audio.
TAIL_SECONDS = 2.0
# The RMS of a whole file below which the soundfont has no such program.
SILENT_DB = -80.0
MIN_POWER = 1e-12
MIN_PEAK = 1e-6
# A peak from here on is taken for clipped.
CLIPPED_DB = 20 * math.log10(1 - 2 / FULL_SCALE)


@dataclass(frozen=True)
class SoundfontJob:
    """One file to render; `stem` is its path in the data set without the suffix."""

    source: Path
    stem: str
    composer: str
    title: str
    split: str
    year: int


@dataclass(frozen=True)
class Rendered:
    """Length and level of a rendered piece, in dB relative to full scale."""

    seconds: float
    peak_db: float
    level_db: float  # RMS


def plan_jobs(folder: Path, seed: int, split_shares: dict[str, float]) -> tuple[list[SoundfontJob], list[Failure]]:
    """The pieces to render, each with its split.

    Args:
        folder: A MAESTRO folder, whose splits are kept, or any folder with MIDI files.
        seed: Chooses the pieces that are held out.
        split_shares: For each split but "train" its share of the music, in 0..1.

    Returns:
        The jobs, and as failures the files that do not exist and the stems that collide.

    Raises:
        InputError: There is no such folder, it holds no MIDI files, or the metadata lie in a folder below.
    """
    has_metadata = find_metadata(folder)
    jobs, failures = _maestro_jobs(folder) if has_metadata else _folder_jobs(folder, seed, split_shares)
    jobs_by_stem: dict[str, SoundfontJob] = {}
    for job in jobs:
        if not os.path.isfile(job.source):
            failures.append(Failure(str(job.source), "no such file; download it"))
        elif jobs_by_stem.setdefault(job.stem, job) is not job:
            reason = f"would be written over {jobs_by_stem[job.stem].source}; rename one of them"
            failures.append(Failure(str(job.source), reason))
    return list(jobs_by_stem.values()), failures


def _maestro_jobs(folder: Path) -> tuple[list[SoundfontJob], list[Failure]]:
    jobs: list[SoundfontJob] = []
    failures: list[Failure] = []
    for recording in read_metadata(folder):
        try:
            source = inside(folder, recording.midi_filename)
        except InputError as error:
            failures.append(Failure(recording.midi_filename, format_error(error)))
            continue
        job = SoundfontJob(
            source=source,
            stem=f"{recording.year}/{fit_stem(source.stem)}",
            composer=recording.composer,
            title=recording.title,
            split=recording.split,
            year=recording.year,
        )
        jobs.append(job)
    return jobs, failures


def _folder_jobs(folder: Path, seed: int, split_shares: dict[str, float]) -> tuple[list[SoundfontJob], list[Failure]]:
    require_no_nested_metadata(folder)
    tree = walk_folder(folder)
    paths = [folder / name for name in tree.select(MIDI_SUFFIXES)]
    tree.log_left_out(SCORES)
    failures = tree.failures_of(MIDI_SUFFIXES)
    if not paths and not failures:
        raise InputError(f"{folder} holds no MIDI files ({', '.join(MIDI_SUFFIXES)}); check the path")
    titles = [piece_title(path.stem) for path in paths]
    split_by_title = _choose_splits(titles, [path.stat().st_size for path in paths], seed, split_shares)
    jobs = [
        SoundfontJob(path, f"{YEAR}/{fit_stem(path.stem)}", composer, title, split_by_title[composer, title], YEAR)
        for path, (composer, title) in zip(paths, titles, strict=True)
    ]
    return jobs, failures


def piece_title(stem: str) -> tuple[str, str]:
    """The composer and the piece in a file name, equal for all performances of a piece.

    COMPOSER__PIECE__PLAYER as in the ASAP data set, where a performance without the repeats is marked in the piece's
    name; any other name is a piece of its own.
    """
    parts = stem.split("__")
    if len(parts) < 3:
        return "unknown", stem
    return parts[0], re.sub(r"(_no)?(_first)?_repeats?$", "", "__".join(parts[1:-1]))


def _choose_splits(
    titles: list[tuple[str, str]], weights: list[int], seed: int, split_shares: dict[str, float]
) -> dict[tuple[str, str], str]:
    """The split of each piece. Whole pieces are held out in an order that the seed chooses.

    A split takes the pieces that fit into its share of the weight, but at least the lightest one. All others are for
    training.
    """
    weight_by_title: dict[tuple[str, str], float] = {}
    for title, weight in zip(titles, weights, strict=True):
        weight_by_title[title] = weight_by_title.get(title, 0.0) + weight
    sorted_titles = sorted(weight_by_title)
    shuffled = [sorted_titles[i] for i in np.random.default_rng(seed).permutation(len(sorted_titles))]
    splits: dict[tuple[str, str], str] = {}
    for name, share in split_shares.items():
        candidates = [title for title in shuffled if title not in splits]
        if not share or len(candidates) < 2:  # Something must be left for training.
            continue
        room = share * sum(weight_by_title.values())
        for title in candidates:
            if weight_by_title[title] <= room:
                splits[title] = name
                room -= weight_by_title[title]
        if name not in splits.values():
            splits[min(candidates, key=weight_by_title.__getitem__)] = name
    return {title: splits.get(title, "train") for title in shuffled}


def render_one(
    job: SoundfontJob, folder: Path, instrument: Instrument | SampledInstrument
) -> tuple[SoundfontJob, Rendered | str]:
    """Write the labels and the audio of one piece, unless they are there already.

    Returns:
        The job with the length and level of its audio, or with the reason why there is none.
    """
    midi_path = folder / f"{job.stem}.midi"
    audio_path = folder / f"{job.stem}.flac"
    try:
        labels, seconds = _labels(read_performance(job.source), instrument.program)
        # The labels are written last: audio with the same labels beside it is of these notes.
        same_labels = midi_path.is_file() and midi_path.read_bytes() == labels
        rendered = _measure_if_whole(audio_path, seconds) if same_labels else None
        if rendered is None:
            midi_path.unlink(missing_ok=True)
            write_amplitudes(audio_path, play(labels, seconds, instrument), AUDIO_HZ, "FLAC")
            with atomic_file(midi_path) as tmp_path:
                tmp_path.write_bytes(labels)
            rendered = _measure_level(audio_path)
        _check_level(rendered)
        return job, rendered
    except (InputError, OSError, soundfile.LibsndfileError) as error:
        return job, format_error(error)


def _measure_if_whole(path: Path, seconds: float) -> Rendered | None:
    """Length and level of a file that an earlier run rendered; None if it is missing, damaged or cut.

    Earlier versions took what FluidSynth could write to a full disk for the whole piece.
    """
    if not path.is_file():
        return None
    try:
        rendered = _measure_level(path)
    except soundfile.LibsndfileError:
        log(f"{path} is damaged; rendered again")
        return None
    if rendered.seconds == round(seconds * AUDIO_HZ) / AUDIO_HZ:
        return rendered
    log(f"{path} has {rendered.seconds:.3f} of {seconds:.3f} s; rendered again")
    return None


def _labels(performance: Performance, program: int) -> tuple[bytes, float]:
    """The MIDI file of what is played, in whole milliseconds, and the length of its audio in seconds."""
    import pretty_midi

    performance, last = end_with_last_sound(performance)
    seconds = last + TAIL_SECONDS
    midi = performance.to_pretty_midi(program, TICKS_PER_SECOND)
    # FluidSynth plays up to the last event.
    midi.text_events.append(pretty_midi.Text("end", seconds))
    file = io.BytesIO()
    midi.write(file)
    return file.getvalue(), seconds


def _measure_level(path: Path) -> Rendered:
    """Length and level of a rendered file."""
    peak = 0.0
    power = 0.0
    n_frames = 0
    with soundfile.SoundFile(path) as file:
        for block in file.blocks(2**20, dtype="float32", always_2d=True):
            peak = max(peak, float(np.abs(block).max()))
            power += float(np.square(block.mean(axis=1), dtype=np.float64).sum())
            n_frames += len(block)
    peak_db = 20 * math.log10(max(peak, MIN_PEAK))
    return Rendered(n_frames / AUDIO_HZ, peak_db, 10 * math.log10(max(power / max(n_frames, 1), MIN_POWER)))


def _check_level(rendered: Rendered) -> None:
    """Raise InputError if a file is silent or clips: training needs neither."""
    if rendered.level_db < SILENT_DB:
        raise InputError("plays only silence; choose another --program, --soundfont or --instrument")
    if rendered.peak_db >= CLIPPED_DB:
        raise InputError("clips; lower --gain (a value for all files) and use --force, which renders all of them again")


def metadata_csv(jobs: list[SoundfontJob], rendered: dict[str, Rendered]) -> str:
    """The metadata of the rendered data set in MAESTRO's format.

    Args:
        jobs: Its pieces.
        rendered: Length and level of each by its stem.
    """
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(COLUMNS)
    for job in jobs:
        files = (f"{job.stem}.midi", f"{job.stem}.flac")
        duration = round(rendered[job.stem].seconds, 3)
        writer.writerow((job.composer, job.title, job.split, job.year, *files, duration))
    return table.getvalue()
