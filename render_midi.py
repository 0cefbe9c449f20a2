"""A data set in the MAESTRO layout from performance MIDI alone: every file played on a soundfont's piano by FluidSynth.

    apt-get install fluidsynth fluid-soundfont-gm             # or: brew install fluid-synth, and any .sf2 or .sf3
    python render_midi.py -d midi -o data/rendered/maestro -j 2

Read are all MIDI files below a folder, as one piano each (`midi.py`): what the labels say is what was played. A folder
with MAESTRO's metadata keeps its splits; elsewhere whole pieces are held out by the seed, and files that are named
COMPOSER__PIECE__PLAYER.mid are performances of one piece. Files that are done are not done again. What is made stands
under the licences of both the MIDI and the soundfont.
"""

import argparse
import csv
import hashlib
import io
import math
import re
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import soundfile

from midi2wave.data.maestro import COLUMNS, find_metadata, inside, read_metadata
from midi2wave.midi.reader import read_midi
from midi2wave.midi.writer import TICKS_PER_SECOND, to_midi_file
from midi2wave.utils.atomic_files import acquire_output_dir, atomic_file, write_text
from midi2wave.utils.cli import Failure, format_error, log, make_parser, progress, report_and_exit_code, run
from midi2wave.utils.errors import InputError

METADATA_NAME, RECORD_NAME = "maestro-v2.0.0.csv", "render.json"
PRODUCTS = ("*/*.midi", "*/*.flac", "*/*_[0-9]*.wav", METADATA_NAME)
MIDI_SUFFIXES = (".mid", ".midi")
YEAR = 2000  # where the MIDI tells none: in this data set the year means the instrument, and there is one
# FluidSynth begins a note with a block of 64 samples, at whole milliseconds of its clock. At this rate, and with labels
# in whole milliseconds, a block is one, and every note begins as long after its label as every other, to the sample.
AUDIO_HZ = 64 * TICKS_PER_SECOND
SILENT_DB = -80.0  # of a whole file: the soundfont has no such program
SOUNDFONTS = ("sf2/FluidR3_GM.sf2", "sf3/MuseScore_General.sf3", "sf3/MuseScore_General_Lite.sf3", "sf2/default-GM.sf2")
SOUNDFONT_FOLDERS = ("/usr/share/sounds", "/usr/share/soundfonts", "/usr/local/share/soundfonts")


@dataclass(frozen=True)
class Piece:
    """One file to render; `stem` is its path in the data set without the suffix."""

    source: Path
    stem: str
    composer: str
    title: str
    split: str
    year: int


@dataclass(frozen=True)
class Instrument:
    """What plays: the paths of FluidSynth and of the soundfont, its General MIDI program, and how it is set."""

    fluidsynth: str
    soundfont: Path
    program: int
    gain: float
    effects: bool


@dataclass(frozen=True)
class Rendered:
    """What became of a piece: how long and how loud it is, in dB relative to full scale."""

    seconds: float
    peak_db: float
    level_db: float  # RMS


def main(argv: list[str] | None = None) -> int:
    """Render a folder; returns the exit code. InputError where nothing can be done."""
    args = _arguments(argv)
    instrument = _instrument(args)
    shares = {"validation": args.validation, "test": args.test}
    pieces, failures = _plan(args.dir, args.seed, shares)
    acquire_output_dir(args.out, RECORD_NAME, _record(args, instrument), PRODUCTS, force=args.force)
    started = time.monotonic()
    rendered: dict[str, Rendered] = {}
    jobs = (joblib.delayed(_render)(piece, args.out, instrument) for piece in pieces)
    # Threads: the work is done by FluidSynth's own processes, one a job.
    outcomes = joblib.Parallel(n_jobs=args.jobs, prefer="threads", return_as="generator_unordered")(jobs)
    for piece, outcome in progress(outcomes, len(pieces), "piece"):
        if isinstance(outcome, Rendered):
            rendered[piece.stem] = outcome
        else:
            failures.append(Failure(str(piece.source), outcome))
    kept = [piece for piece in pieces if piece.stem in rendered]
    if kept:
        write_text(args.out / METADATA_NAME, _metadata(kept, rendered))
    result = _result(args.out, kept, rendered, time.monotonic() - started)
    return report_and_exit_code(_summary(result), result, failures, len(kept), as_json=args.as_json)


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    made = make_parser(__doc__)
    made.add_argument("-d", "--dir", type=Path, required=True, help="folder with MIDI files, or a MAESTRO folder")
    made.add_argument("-o", "--out", type=Path, required=True, help="where the data set goes")
    made.add_argument("--soundfont", type=Path, help="an .sf2 or .sf3 file (default: the first one found of Debian's)")
    made.add_argument("--program", type=int, default=0, help="General MIDI program (default 0: acoustic grand piano)")
    made.add_argument("--gain", type=float, default=0.7, help="FluidSynth's gain, the same for all (default 0.7)")
    made.add_argument("--effects", action="store_true", help="with FluidSynth's reverb and chorus")
    made.add_argument("--validation", type=float, default=0.06, help="share of the music to validate on (default 0.06)")
    made.add_argument("--test", type=float, default=0.1, help="share of the music to test on (default 0.1)")
    made.add_argument("--seed", type=int, default=0, help="which pieces are held out (default 0)")
    made.add_argument("-j", "--jobs", type=int, default=1, help="files at once, at most one per core (default 1)")
    args = made.parse_args(argv)
    for name, low, high in (("program", 0, 127), ("gain", 0.01, 10), ("validation", 0, 0.5), ("test", 0, 0.5)):
        if not low <= getattr(args, name) <= high:
            raise InputError(f"--{name} is {getattr(args, name):g}, expected {low:g} to {high:g}")
    if args.seed < 0 or args.jobs < 1:
        raise InputError(f"--seed is {args.seed} and --jobs {args.jobs}, expected 0 or more and 1 or more")
    if args.dir.resolve() in (args.out.resolve(), *args.out.resolve().parents):
        raise InputError(f"--out lies in the folder of the MIDI files, {args.dir}; choose another one")
    args.jobs = min(args.jobs, joblib.cpu_count())
    return args


def _instrument(args: argparse.Namespace) -> Instrument:
    fluidsynth = shutil.which("fluidsynth")
    if fluidsynth is None:
        raise InputError(
            "the program fluidsynth is not installed; on Debian and Ubuntu: apt-get install fluidsynth "
            "fluid-soundfont-gm, on macOS: brew install fluid-synth"
        )
    candidates = [Path(folder) / name for name in SOUNDFONTS for folder in SOUNDFONT_FOLDERS]
    found = args.soundfont or next((path for path in candidates if path.is_file()), None)
    if found is None:
        raise InputError("no soundfont found; apt-get install fluid-soundfont-gm, or name a file with --soundfont")
    with found.open("rb") as handle:  # OSError where it cannot be read
        head = handle.read(12)
    if head[:4] != b"RIFF" or head[8:] != b"sfbk":
        raise InputError(f"{found} is not a soundfont (.sf2 or .sf3); download it again, or name another --soundfont")
    return Instrument(fluidsynth, found, args.program, args.gain, args.effects)


def _record(args: argparse.Namespace, instrument: Instrument) -> dict[str, Any]:
    """All that the data set depends on, besides the MIDI files."""
    with instrument.soundfont.open("rb") as handle:
        sha256 = hashlib.file_digest(handle, "sha256").hexdigest()
    names = ("program", "gain", "effects", "validation", "test", "seed")
    return {name: getattr(args, name) for name in names} | {
        "soundfont": instrument.soundfont.name,
        "soundfont_sha256": sha256,
        "audio_hz": AUDIO_HZ,
    }


def _plan(folder: Path, seed: int, shares: dict[str, float]) -> tuple[list[Piece], list[Failure]]:
    """The pieces to render, each with its split; files that do not exist, and stems that collide, as failures."""
    if find_metadata(folder):  # InputError: no such folder
        pieces = [
            Piece(inside(folder, r.midi_filename), f"{r.year}/{Path(r.midi_filename).stem}", r.composer, r.title,
                  r.split, r.year) for r in read_metadata(folder)
        ]  # fmt: skip
    else:
        paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in MIDI_SUFFIXES and not p.name.startswith("."))
        if not paths:
            raise InputError(f"{folder} holds no MIDI files ({', '.join(MIDI_SUFFIXES)})")
        split = _splits(
            [piece_title(path.stem) for path in paths], [path.stat().st_size for path in paths], seed, shares
        )
        pieces = []
        for path in paths:
            composer, title = piece_title(path.stem)
            pieces.append(Piece(path, f"{YEAR}/{path.stem}", composer, title, split[composer, title], YEAR))
    failures, first = [], {}
    for piece in pieces:
        if not piece.source.is_file():
            failures.append(Failure(str(piece.source), "no such file; download it"))
        elif first.setdefault(piece.stem, piece) is not piece:
            why = f"would be written over {first[piece.stem].source}; rename one of them"
            failures.append(Failure(str(piece.source), why))
    return list(first.values()), failures


def piece_title(stem: str) -> tuple[str, str]:
    """(composer, piece) that a file name tells; all performances of a piece must give the same.

    COMPOSER__PIECE__PLAYER as in the ASAP data set, where a performance without the repeats is marked in the piece's
    name; any other name is a piece of its own.
    """
    parts = stem.split("__")
    if len(parts) < 3:
        return "unknown", stem
    return parts[0], re.sub(r"(_no)?(_first)?_repeats?$", "", "__".join(parts[1:-1]))


def _splits(
    titles: list[tuple[str, str]], weights: list[int], seed: int, shares: dict[str, float]
) -> dict[tuple[str, str], str]:
    """Hold out whole pieces, drawn by the seed, as far as they fit into a split's share of the weight (at least the
    smallest one). All else is for training."""
    weight: dict[tuple[str, str], float] = {}
    for title, one in zip(titles, weights, strict=True):
        weight[title] = weight.get(title, 0.0) + one
    order = sorted(weight)
    drawn = [order[i] for i in np.random.default_rng(seed).permutation(len(order))]
    split: dict[tuple[str, str], str] = {}
    for name, share in shares.items():
        free, room = [title for title in drawn if title not in split], share * sum(weight.values())
        if not share or len(free) < 2:  # something must be left to train on
            continue
        for title in free:
            if weight[title] <= room:
                split[title] = name
                room -= weight[title]
        if name not in split.values():
            split[min(free, key=weight.__getitem__)] = name
    return {title: split.get(title, "train") for title in drawn}


def _render(piece: Piece, folder: Path, instrument: Instrument) -> tuple[Piece, Rendered | str]:
    """Write the labels and the audio of one piece, or say why it could not be done."""
    midi_path, audio_path = folder / f"{piece.stem}.midi", folder / f"{piece.stem}.flac"
    try:
        performance = read_midi(piece.source)
        for dropped in performance.dropped:
            log(f"{piece.source}: {dropped}")
        file, seconds = to_midi_file(performance, instrument.program)
        labels = io.BytesIO()
        file.save(file=labels)
        # The labels are written last: with the same ones beside it the audio is whole, and of these notes.
        if not (midi_path.is_file() and midi_path.read_bytes() == labels.getvalue() and audio_path.is_file()):
            midi_path.unlink(missing_ok=True)
            audio = _play(labels.getvalue(), instrument)[: round(seconds * AUDIO_HZ)]
            with atomic_file(audio_path) as aside:
                soundfile.write(aside, audio, AUDIO_HZ, format="FLAC", subtype="PCM_16")
            with atomic_file(midi_path) as aside:
                aside.write_bytes(labels.getvalue())
        return piece, _loudness(audio_path)
    except (InputError, OSError, soundfile.LibsndfileError) as error:
        return piece, format_error(error)


def _play(midi: bytes, instrument: Instrument) -> np.ndarray:
    """Let FluidSynth play a MIDI file: float32 [T, 2] at AUDIO_HZ. Raises InputError with its words if it does not."""
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "piece.mid", Path(folder) / "piece.wav"
        source.write_bytes(midi)
        effects = str(int(instrument.effects))
        command = [
            instrument.fluidsynth, "-ni", "-q", "-F", target, "-T", "wav", "-O", "float", "-r", str(AUDIO_HZ),
            "-g", f"{instrument.gain:g}", "-R", effects, "-C", effects,
            "-o", "synth.polyphony=2048",  # by default notes are stolen where the pedal holds many
            instrument.soundfont, source,
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        if done.returncode or not target.is_file():
            words = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
            raise InputError(f"FluidSynth did not play it: {words}")
        return soundfile.read(target, dtype="float32", always_2d=True)[0]


def _loudness(path: Path) -> Rendered:
    """How long and loud a rendered file is. Raises InputError if it is silent or clips: it would teach nothing good."""
    peak = power = n_frames = 0.0
    with soundfile.SoundFile(path) as opened:
        for block in opened.blocks(2**20, dtype="float32", always_2d=True):
            peak = max(peak, float(np.abs(block).max()))
            power += float(np.square(block.mean(axis=1), dtype=np.float64).sum())
            n_frames += len(block)
    level_db = 10 * math.log10(max(power / max(n_frames, 1), 1e-12))
    if level_db < SILENT_DB:
        raise InputError("FluidSynth played only silence; choose another --program or --soundfont")
    if peak >= 1 - 2 / 32768:
        raise InputError("clips; lower --gain (a value for all files) and use --force")
    return Rendered(n_frames / AUDIO_HZ, 20 * math.log10(peak), level_db)


def _metadata(pieces: list[Piece], rendered: dict[str, Rendered]) -> str:
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(COLUMNS)
    for piece in pieces:
        files = (f"{piece.stem}.midi", f"{piece.stem}.flac")
        duration = round(rendered[piece.stem].seconds, 3)
        writer.writerow((piece.composer, piece.title, piece.split, piece.year, *files, duration))
    return table.getvalue()


def _result(folder: Path, pieces: list[Piece], rendered: dict[str, Rendered], elapsed_seconds: float) -> dict[str, Any]:
    hours = {split: 0.0 for split in ("train", "validation", "test")}
    for piece in pieces:
        hours[piece.split] += rendered[piece.stem].seconds / 3600
    return {
        "out": str(folder),
        "files": len(pieces),
        "hours": hours,
        "peak_db": max((one.peak_db for one in rendered.values()), default=None),
        "level_db": {stem: round(one.level_db, 2) for stem, one in sorted(rendered.items())},
        "elapsed_seconds": elapsed_seconds,
    }


def _summary(result: dict[str, Any]) -> str:
    if not result["files"]:
        return "nothing was rendered"
    hours = ", ".join(f"{split} {h:.2f} h" for split, h in result["hours"].items())
    levels = result["level_db"].values()
    return (
        f"{result['out']}: {result['files']} files ({hours}) in {result['elapsed_seconds']:.0f} s; "
        f"RMS {min(levels):.1f} to {max(levels):.1f} dBFS, highest peak {result['peak_db']:.1f} dBFS"
    )


if __name__ == "__main__":
    run(main)
