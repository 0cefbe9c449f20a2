"""Rendering of MIDI files with FluidSynth: which pieces, in which splits, and the work on one piece."""

import csv
import io
import math
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from midi2wave.audio.pcm import FULL_SCALE
from midi2wave.data.maestro import COLUMNS, find_metadata, inside, read_metadata
from midi2wave.midi.reader import read_midi
from midi2wave.midi.writer import TICKS_PER_SECOND, to_midi_file
from midi2wave.utils.atomic_files import atomic_file
from midi2wave.utils.cli import Failure, format_error, log
from midi2wave.utils.errors import InputError

MIDI_SUFFIXES = (".mid", ".midi")
# The year of pieces without metadata: in this data set it means the instrument, and there is one.
YEAR = 2000
# FluidSynth begins a note with a block of 64 samples, at whole milliseconds of its clock. At this rate, and with labels
# in whole milliseconds, a block is one, and every note begins as long after its label as every other, to the sample.
AUDIO_HZ = 64 * TICKS_PER_SECOND
# The RMS of a whole file below which the soundfont has no such program.
SILENT_DB = -80.0
MIN_POWER = 1e-12
SOUNDFONTS = ("sf2/FluidR3_GM.sf2", "sf3/MuseScore_General.sf3", "sf3/MuseScore_General_Lite.sf3", "sf2/default-GM.sf2")
SOUNDFONT_FOLDERS = ("/usr/share/sounds", "/usr/share/soundfonts", "/usr/local/share/soundfonts")


@dataclass(frozen=True)
class FluidSynthJob:
    """One file to render; `stem` is its path in the data set without the suffix."""

    source: Path
    stem: str
    composer: str
    title: str
    split: str
    year: int


@dataclass(frozen=True)
class Instrument:
    """FluidSynth's program and soundfont, the General MIDI program, the gain, and whether reverb and chorus are on."""

    fluidsynth: str
    soundfont: Path
    program: int
    gain: float
    effects: bool


@dataclass(frozen=True)
class Rendered:
    """Length and level of a rendered piece, in dB relative to full scale."""

    seconds: float
    peak_db: float
    level_db: float  # RMS


def find_instrument(soundfont: Path | None, program: int, gain: float, effects: bool) -> Instrument:
    """FluidSynth with a soundfont.

    Args:
        soundfont: An .sf2 or .sf3 file; None: the first one of `SOUNDFONTS` that is installed.
        program: General MIDI program, 0 to 127.
        gain: FluidSynth's gain.
        effects: Whether reverb and chorus are on.

    Raises:
        InputError: FluidSynth or the soundfont is missing, or the file is no soundfont.
        OSError: The soundfont cannot be read.
    """
    fluidsynth = shutil.which("fluidsynth")
    if fluidsynth is None:
        raise InputError(
            "the program fluidsynth is not installed; on Debian and Ubuntu: apt-get install fluidsynth "
            "fluid-soundfont-gm, on macOS: brew install fluid-synth"
        )
    candidates = [Path(folder) / name for name in SOUNDFONTS for folder in SOUNDFONT_FOLDERS]
    path = soundfont or next((candidate for candidate in candidates if candidate.is_file()), None)
    if path is None:
        raise InputError("no soundfont found; apt-get install fluid-soundfont-gm, or name a file with --soundfont")
    with path.open("rb") as handle:
        head = handle.read(12)
    if head[:4] != b"RIFF" or head[8:] != b"sfbk":
        raise InputError(f"{path} is not a soundfont (.sf2 or .sf3); download it again, or name another --soundfont")
    return Instrument(fluidsynth, path, program, gain, effects)


def plan_jobs(folder: Path, seed: int, split_shares: dict[str, float]) -> tuple[list[FluidSynthJob], list[Failure]]:
    """The pieces to render, each with its split.

    Args:
        folder: A MAESTRO folder, whose splits are kept, or any folder with MIDI files.
        seed: Chooses the pieces that are held out.
        split_shares: For each split but "train" its share of the music, in 0..1.

    Returns:
        The jobs, and as failures the files that do not exist and the stems that collide.

    Raises:
        InputError: There is no such folder, or it holds no MIDI files.
    """
    jobs = _maestro_jobs(folder) if find_metadata(folder) else _folder_jobs(folder, seed, split_shares)
    failures: list[Failure] = []
    jobs_by_stem: dict[str, FluidSynthJob] = {}
    for job in jobs:
        if not job.source.is_file():
            failures.append(Failure(str(job.source), "no such file; download it"))
        elif jobs_by_stem.setdefault(job.stem, job) is not job:
            reason = f"would be written over {jobs_by_stem[job.stem].source}; rename one of them"
            failures.append(Failure(str(job.source), reason))
    return list(jobs_by_stem.values()), failures


def _maestro_jobs(folder: Path) -> list[FluidSynthJob]:
    return [
        FluidSynthJob(
            source=inside(folder, recording.midi_filename),
            stem=f"{recording.year}/{Path(recording.midi_filename).stem}",
            composer=recording.composer,
            title=recording.title,
            split=recording.split,
            year=recording.year,
        )
        for recording in read_metadata(folder)
    ]


def _folder_jobs(folder: Path, seed: int, split_shares: dict[str, float]) -> list[FluidSynthJob]:
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in MIDI_SUFFIXES and not p.name.startswith("."))
    if not paths:
        raise InputError(f"{folder} holds no MIDI files ({', '.join(MIDI_SUFFIXES)})")
    titles = [piece_title(path.stem) for path in paths]
    split_by_title = _choose_splits(titles, [path.stat().st_size for path in paths], seed, split_shares)
    return [
        FluidSynthJob(path, f"{YEAR}/{path.stem}", composer, title, split_by_title[composer, title], YEAR)
        for path, (composer, title) in zip(paths, titles, strict=True)
    ]


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


def render_one(job: FluidSynthJob, folder: Path, instrument: Instrument) -> tuple[FluidSynthJob, Rendered | str]:
    """Write the labels and the audio of one piece, unless they are there already.

    Returns:
        The job with the length and level of its audio, or with the reason why there is none.
    """
    midi_path = folder / f"{job.stem}.midi"
    audio_path = folder / f"{job.stem}.flac"
    try:
        performance = read_midi(job.source)
        for omission in performance.dropped:
            log(f"{job.source}: {omission}")
        file, seconds = to_midi_file(performance, instrument.program)
        labels = io.BytesIO()
        file.save(file=labels)
        # The labels are written last: audio with the same labels beside it is complete, and of these notes.
        done = midi_path.is_file() and midi_path.read_bytes() == labels.getvalue() and audio_path.is_file()
        if not done:
            midi_path.unlink(missing_ok=True)
            audio = play(labels.getvalue(), instrument)[: round(seconds * AUDIO_HZ)]
            with atomic_file(audio_path) as tmp_path:
                soundfile.write(tmp_path, audio, AUDIO_HZ, format="FLAC", subtype="PCM_16")
            with atomic_file(midi_path) as tmp_path:
                tmp_path.write_bytes(labels.getvalue())
        return job, _measure_level(audio_path)
    except (InputError, OSError, soundfile.LibsndfileError) as error:
        return job, format_error(error)


def play(midi: bytes, instrument: Instrument) -> np.ndarray:
    """A MIDI file as FluidSynth plays it: float32 [T, 2] at AUDIO_HZ.

    Raises:
        InputError: FluidSynth reports an error.
    """
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "piece.mid"
        target = Path(folder) / "piece.wav"
        source.write_bytes(midi)
        effects = str(int(instrument.effects))
        command = [instrument.fluidsynth, "-ni", "-q"]
        command += ["-F", str(target), "-T", "wav", "-O", "float", "-r", str(AUDIO_HZ)]
        command += ["-g", f"{instrument.gain:g}", "-R", effects, "-C", effects]
        # By default FluidSynth ends notes early where the pedal holds many.
        command += ["-o", "synth.polyphony=2048"]
        command += [str(instrument.soundfont), str(source)]
        process = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        if process.returncode or not target.is_file():
            reason = " ".join(process.stderr.split()) or f"exit code {process.returncode}"
            raise InputError(f"FluidSynth did not play it: {reason}")
        return soundfile.read(target, dtype="float32", always_2d=True)[0]


def _measure_level(path: Path) -> Rendered:
    """Length and level of a rendered file. Raises InputError if it is silent or clips: training needs neither."""
    peak = 0.0
    power = 0.0
    n_frames = 0
    with soundfile.SoundFile(path) as file:
        for block in file.blocks(2**20, dtype="float32", always_2d=True):
            peak = max(peak, float(np.abs(block).max()))
            power += float(np.square(block.mean(axis=1), dtype=np.float64).sum())
            n_frames += len(block)
    level_db = 10 * math.log10(max(power / max(n_frames, 1), MIN_POWER))
    if level_db < SILENT_DB:
        raise InputError("FluidSynth played only silence; choose another --program or --soundfont")
    if peak >= 1 - 2 / FULL_SCALE:
        raise InputError("clips; lower --gain (a value for all files) and use --force")
    return Rendered(n_frames / AUDIO_HZ, 20 * math.log10(peak), level_db)


def metadata_csv(jobs: list[FluidSynthJob], rendered: dict[str, Rendered]) -> str:
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
