"""The data commands on a data set of the shape of MAESTRO, without its 100 GB: 1,276 recordings.

    python -m benchmarks.full_size                                        # synthetic metadata of that shape
    python -m benchmarks.full_size maestro-v3.0.0/maestro-v3.0.0.csv      # the official metadata
    python -m benchmarks.full_size --sparse_hours 20                      # also resample 20 hours of silence

It has three parts. (1) Each recording is a second of stereo with a few notes: resampling and preprocessing of all
splits, and both again. (2) A processed folder whose 1,276 recordings have their real lengths (23 GB of sparse files,
which take no disk space): time to open it, time per crop, and the memory of a process that may open 1,024 files and has
read 3,000 crops. (3) With --sparse_hours, sparse wav files of real length through resample_audio.py.
"""

import contextlib
import csv
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from benchmarks.data import write_midi
from midi2wave.config import Config, DataConfig, PreprocessConfig
from midi2wave.data import processed_folder
from midi2wave.data.maestro import COLUMNS, SPLITS
from midi2wave.data.processed_folder import ProcessedFolder, Row
from midi2wave.midi import reader as midi_reader
from midi2wave.midi.performance import save_events
from midi2wave.utils import cli
from midi2wave.utils.cli import log, make_plain_parser
from midi2wave.utils.cores import usable_cores

ROOT = Path(__file__).resolve().parents[1]
# Recordings of each split in MAESTRO v3.
COUNTS = dict(zip(SPLITS, (962, 137, 177), strict=True))
# Limit of open files per process on many systems.
MAX_OPEN_FILES = 1024
# 199 hours in 1,276 recordings.
MEAN_SECONDS = 561


def synthetic_metadata() -> list[dict[str, str]]:
    """Rows of the shape of version 3: its counts, similar lengths, ten years."""
    rng = np.random.default_rng(0)
    rows: list[dict[str, str]] = []
    for split, count in COUNTS.items():
        for seconds in rng.gamma(2.0, MEAN_SECONDS / 2, count) + 45:
            year, number = 2004 + len(rows) % 10, len(rows)
            rows.append(
                {
                    "canonical_composer": f"Composer {number % 60}",
                    "canonical_title": f"Piece {number}",
                    "split": split,
                    "year": str(year),
                    "midi_filename": f"{year}/made_{number}.midi",
                    "audio_filename": f"{year}/made_{number}.wav",
                    "duration": str(seconds),
                }
            )
    return rows


def write_metadata(folder: Path, rows: list[dict[str, str]]) -> None:
    """The metadata file of a MAESTRO folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "maestro-v3.0.0.csv", "w", encoding="utf-8", newline="") as handle:
        writer = csv.DictWriter(handle, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)


def write_tiny(folder: Path, rows: list[dict[str, str]]) -> None:
    """Each recording as one second of 44.1 kHz stereo and the beginning of a performance."""
    write_metadata(folder, [{**row, "duration": "1.0"} for row in rows])
    write_midi(folder / "one.midi", np.random.default_rng(0))
    midi = (folder / "one.midi").read_bytes()
    audio = np.random.default_rng(0).uniform(-0.3, 0.3, (44100, 2))
    for row in rows:
        (folder / row["audio_filename"]).parent.mkdir(exist_ok=True)
        (folder / row["midi_filename"]).write_bytes(midi)
        soundfile.write(folder / row["audio_filename"], audio, 44100, subtype="PCM_16")


def write_sparse_wavs(folder: Path, rows: list[dict[str, str]], hours: float) -> float:
    """Sparse wav files of real length, 44.1 and 48 kHz stereo; returns their hours."""
    total, written = 0.0, []
    for i, row in enumerate(rows):
        if total >= hours * 3600:
            break
        hz, seconds = (44100, 48000)[i % 2], float(row["duration"])
        path = folder / row["audio_filename"]
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, np.zeros((0, 2)), hz, subtype="PCM_16")
        size = round(seconds * hz) * 4
        header = bytearray(path.read_bytes())
        header[4:8], header[40:44] = (36 + size).to_bytes(4, "little"), size.to_bytes(4, "little")
        path.write_bytes(header)
        os.truncate(path, 44 + size)
        total += seconds
        written.append(row)
    write_metadata(folder, written)
    return total / 3600


def write_sparse_folder(folder: Path, rows: list[dict[str, str]], piece: Path) -> None:
    """A processed folder with sparse recordings of real length and the notes of one performance."""
    record = Config(preprocess_config=PreprocessConfig()).as_dict()
    processed_folder.begin_folder(folder, record, force=False)
    performance, table = midi_reader.read_midi(piece), []
    save_events(folder / "0.npz", performance)
    for i, row in enumerate(rows):
        n_samples = int(float(row["duration"]) * 16000)
        header = {"descr": "<i2", "fortran_order": False, "shape": (n_samples,)}
        with open(folder / f"{i}.npy", "wb") as handle:
            np.lib.format.write_array_header_1_0(handle, header)
            handle.truncate(handle.tell() + 2 * n_samples)
        if i:
            try:
                os.link(folder / "0.npz", folder / f"{i}.npz")
            except OSError:  # A file system without hard links.
                shutil.copy(folder / "0.npz", folder / f"{i}.npz")
        names = (row["audio_filename"], row["midi_filename"], row["split"], int(row["year"]))
        table.append(Row(i, *names, n_samples / 16000, n_samples, len(performance.onset), "", ""))
    processed_folder.finish_folder(folder, table)


def run(script: str, *arguments: object) -> tuple[float, dict[str, Any]]:
    """Run a command; returns its seconds and its result."""
    start = time.perf_counter()
    command = [sys.executable, str(ROOT / script), *map(str, arguments), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{script} ended with {done.returncode}: {done.stderr[-2000:]}")
    return time.perf_counter() - start, json.loads(done.stdout)


def measure_commands(folder: Path, rows: list[dict[str, str]], jobs: int) -> None:
    """Part 1: resampling and preprocessing."""
    write_tiny(folder / "maestro", rows)
    values = {"maestro_dir": folder / "maestro", "out_dir": folder / "data", "split": "all"}
    settings = [part for k, v in values.items() for part in ("--set", f"preprocess_config.{k}={v}")]
    for script, arguments in (("resample_audio.py", ("-d", folder / "maestro")), ("preprocess_maestro.py", settings)):
        first, result = run(script, *arguments, "-j", jobs)
        again, _ = run(script, *arguments, "-j", jobs)
        count = result.get("files", result.get("recordings"))
        assert count == len(rows) and not result["failures"], result
        print(f"{script} -j {jobs}: {count} recordings of 1 s in {first:.1f} s, again in {again:.1f} s")


@contextlib.contextmanager
def few_open_files() -> Iterator[None]:
    """Limit the process to MAX_OPEN_FILES open files."""
    import resource  # Windows has none.

    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (MAX_OPEN_FILES, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def measure_crops(folder: Path, rows: list[dict[str, str]], piece: Path) -> None:
    """Part 2: opening a processed folder, and reading its crops."""
    write_sparse_folder(folder / "sparse", rows, piece)
    import resource  # Windows has none.

    from midi2wave.data.crops import Crops  # It imports PyTorch, for which --help should not wait.

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    start = time.perf_counter()
    opened = ProcessedFolder(folder / "sparse")
    data = Crops(opened, DataConfig(), context_frames=(63, 64), n_previous=1024, codes=False, seed=0)
    opening = time.perf_counter() - start
    data[3000]  # The first crop compiles the kernels.
    start = time.perf_counter()
    for i in range(3000):
        data[i]
    each = (time.perf_counter() - start) / 3000
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    hours = sum(row.duration for row in opened.rows) / 3600
    rate = f"{1 / each:.0f} a second in one process, {after - before:.0f} MB more in memory"
    print(f"opening {len(rows)} recordings ({hours:.0f} h): {1000 * opening:.0f} ms")
    print(f"3,000 crops of 0.5 s from all over: {rate}")


def main() -> int:
    """Run all parts and print their times; returns the exit code."""
    parser = make_plain_parser(__doc__)
    parser.add_argument("metadata", nargs="?", type=Path, help="a MAESTRO csv; default: one of the same shape")
    parser.add_argument("--sparse_hours", type=float, default=0.0, help="hours of part 3 (default: none)")
    parser.add_argument("-j", "--jobs", type=int, default=usable_cores(), help="processes (default: cores)")
    parser.add_argument("--dir", type=Path, help="folder for the temporary files")
    args = parser.parse_args()
    rows = synthetic_metadata()
    if args.metadata:
        with open(args.metadata, encoding="utf-8", newline="") as handle:
            rows = list(csv.DictReader(handle))
    with tempfile.TemporaryDirectory(dir=args.dir) as name:
        folder = Path(name)
        log(f"{len(rows)} recordings, {sum(float(row['duration']) for row in rows) / 3600:.1f} h")
        measure_commands(folder, rows, args.jobs)
        with few_open_files():
            measure_crops(folder, rows, folder / "maestro/one.midi")
        if args.sparse_hours:
            hours = write_sparse_wavs(folder / "sparse_wavs", rows, args.sparse_hours)
            seconds, result = run("resample_audio.py", "-d", folder / "sparse_wavs", "-j", args.jobs)
            assert not result["failures"]
            rate = f"{hours:.1f} h in {seconds:.1f} s, {3600 * hours / seconds:.0f} x real time"
            print(f"resample_audio.py -j {args.jobs}: {rate}; 200 h would take {200 / hours * seconds / 60:.1f} min")
    return 0


if __name__ == "__main__":
    cli.run(main)
