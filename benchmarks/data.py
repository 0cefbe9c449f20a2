"""How fast the data pipeline is, beside the earlier way (librosa), sox and ffmpeg on the same files, all in one run.

    python -m benchmarks.data            words; about two minutes and 3 GB of disk
    python -m benchmarks.data --json     nine numbers as one JSON object, the rest on stderr
    python -m benchmarks.data --dir /data/tmp     on another disk

Rates are seconds of audio done per second ("x real time"), reading from the page cache, writing and syncing to the
disk. Each is the best of several, taken in turns with what it is compared to. librosa comes with
requirements-bench.txt; what is not installed is left out, with a word. hours_200_* are extrapolations: the minutes
that 200 hours take at the rate measured here with one process per core.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import joblib
import numpy as np
import soundfile

from midi2wave.audio import io as audio_io
from midi2wave.conditioning.note_conditioning import NoteConditioning
from midi2wave.config import Config, DataConfig, PreprocessConfig
from midi2wave.data.crops import Crops
from midi2wave.data.maestro import COLUMNS, read_metadata
from midi2wave.data.preprocessing import PreprocessJob, process_one
from midi2wave.data.processed_folder import ProcessedFolder, begin_folder, finish_folder
from midi2wave.data.resampling import ResampleJob, resample_one
from midi2wave.midi import reader as midi_reader
from midi2wave.midi.performance import Performance
from midi2wave.utils import parallel
from midi2wave.utils.cli import log

HZ = 16000
FILE_SECONDS, N_FILES = 300, 16  # eight each of 44.1 and 48 kHz: 80 minutes
YARDSTICK_FILES = 2  # one of each rate for those that take longer
NOTES_PER_SECOND, PEDALS_PER_SECOND = 10, 16  # of MAESTRO: 36,400 notes and 58,900 pedal events per hour
HOURS = 200


def write_recordings(folder: Path) -> list[Path]:
    """Stereo PCM of decaying noise at onsets, with MIDI of MAESTRO's density, in MAESTRO's layout."""
    lines, paths = [",".join(COLUMNS)], []
    (folder / "2004").mkdir(parents=True)
    for i in range(N_FILES):
        hz, rng = (44100, 48000)[i % 2], np.random.default_rng(i)
        minute = rng.standard_normal((60 * hz, 2)).astype(np.float32)
        minute *= 0.2 * np.exp(-3 * (np.arange(60 * hz) % (hz // NOTES_PER_SECOND)) / hz)[:, None]
        path = folder / f"2004/{i}.wav"
        soundfile.write(path, np.tile(minute, (FILE_SECONDS // 60, 1)), hz, subtype="PCM_16")
        write_midi(path.with_suffix(".midi"), rng)
        lines.append(f"Bach,Fuge,train,2004,2004/{i}.midi,2004/{i}.wav,{FILE_SECONDS}")
        paths.append(path)
    (folder / "maestro-v3.0.0.csv").write_text("\n".join(lines), encoding="utf-8")
    return paths


def write_midi(path: Path, rng: np.random.Generator) -> None:
    """A performance of FILE_SECONDS with a note and its pedals at every tenth of a second, 1 ms a tick."""
    events = [(100 * i, bytes([0x90, int(rng.integers(21, 109)), int(rng.integers(1, 128))]))
              for i in range(NOTES_PER_SECOND * FILE_SECONDS)]  # fmt: skip
    events += [(tick + 90, message[:2] + b"\0") for tick, message in events]
    n_pedals = PEDALS_PER_SECOND * FILE_SECONDS
    events += [(i * 1000 // PEDALS_PER_SECOND, bytes([0xB0, 64, int(rng.integers(0, 128))])) for i in range(n_pedals)]
    body, before = b"\x00\xff\x51\x03\x07\xa1\x20", 0
    for tick, message in sorted(events):
        delta, before = tick - before, tick
        body += (bytes([delta >> 7 | 0x80]) if delta > 127 else b"") + bytes([delta & 0x7F]) + message
    body += b"\x00\xff\x2f\x00"
    path.write_bytes(b"MThd\0\0\0\6\0\0\0\1\1\xf4MTrk" + len(body).to_bytes(4, "big") + body)


def seconds_of(*works: Callable[[], object], times: int = 3) -> list[float]:
    """The least time that each takes, in turns, after one round that does not count."""
    best = [float("inf")] * len(works)
    for round_ in range(times + 1):
        for i, work in enumerate(works):
            started = time.perf_counter()
            work()
            best[i] = min(best[i], time.perf_counter() - started if round_ else float("inf"))
    return best


def yardsticks(paths: list[Path], folder: Path) -> dict[str, float]:
    """x real time of one process on a file of each rate: ours, librosa as it was used before, sox and ffmpeg."""
    out, few = folder / "yardstick.wav", paths[:YARDSTICK_FILES]
    works: dict[str, Callable[[Path], object]] = {"ours": lambda path: audio_io.resample_file(path, out, HZ)}
    try:
        import librosa
    except ImportError:
        log("librosa is not installed (pip install -r requirements-bench.txt): no comparison with the earlier way")
    else:

        def earlier(path: Path, res_type: str) -> None:
            sound, _ = librosa.load(path, sr=HZ, mono=True, res_type=res_type)
            soundfile.write(out, sound, HZ, subtype="PCM_16")

        works["librosa kaiser_fast"] = lambda path: earlier(path, "kaiser_fast")
        works["librosa soxr_hq"] = lambda path: earlier(path, "soxr_hq")
    commands = {
        "sox": lambda path: ["sox", path, "-r", HZ, "-c", 1, "-b", 16, out],
        "ffmpeg": lambda path: ["ffmpeg", "-y", "-i", path, "-ac", 1, "-ar", HZ, "-threads", 1, out],
    }
    for name, arguments in commands.items():
        if shutil.which(name) is None:
            log(f"{name} is not installed: left out")
            continue
        works[name] = lambda path, of=arguments: subprocess.run(
            list(map(str, of(path))), check=True, capture_output=True
        )
    rounds = [lambda work=work: [work(path) for path in few] for work in works.values()]
    rates = {}
    for name, seconds in zip(works, seconds_of(*rounds, times=2), strict=True):
        rates[name] = len(few) * FILE_SECONDS / seconds
        log(f"  {name}: {rates[name]:.0f} x real time")
    return rates


def peak_megabytes(folder: Path, seconds: int = 3600) -> float:
    """Memory of a process that resamples an hour of 48 kHz stereo, or less; NaN where the system does not tell it."""
    hour = folder / "hour/hour.wav"
    hour.parent.mkdir()
    with soundfile.SoundFile(hour, "w", 48000, 2, "PCM_16") as target:
        for _ in range(seconds):
            target.write(np.zeros((48000, 2), dtype=np.int16))
    # its own high-water mark: the one in rusage begins with that of the process that it was forked from
    code = "import sys, resample_audio; resample_audio.main(sys.argv[1:]); print(open('/proc/self/status').read())"
    done = subprocess.run([sys.executable, "-c", code, "-d", hour.parent], capture_output=True, text=True, check=False)
    shutil.rmtree(hour.parent)
    kilobytes = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("VmHWM")]
    return int(kilobytes[0]) / 1024 if kilobytes else float("nan")


def resample_seconds(paths: list[Path], folder: Path, n_jobs: int) -> float:
    """Seconds for all files in processes that are running already."""
    shutil.rmtree(folder, ignore_errors=True)
    jobs = [ResampleJob(p.name, p, folder / p.name, HZ, "soxr_hq", replace=True) for p in paths]
    started = time.perf_counter()
    for _, outcome in parallel.parallel_map(resample_one, jobs, n_jobs=n_jobs, backend="loky"):
        assert not isinstance(outcome, str), outcome
    return time.perf_counter() - started


def preprocess_seconds(maestro: Path, resampled: Path, out: Path, n_jobs: int) -> float:
    """Seconds for all recordings in processes that are running already; the folder is complete afterwards."""
    shutil.rmtree(out, ignore_errors=True)
    config = PreprocessConfig(maestro_dir=str(maestro), resampled_dir=str(resampled), out_dir=str(out))
    begin_folder(out, Config(preprocess_config=config).as_dict(), force=False)
    jobs = [PreprocessJob(recording, config) for recording in read_metadata(maestro)]
    started, rows = time.perf_counter(), []
    for _, outcome in parallel.parallel_map(process_one, jobs, n_jobs=n_jobs, backend="loky"):
        assert not isinstance(outcome, str), outcome
        rows.append(outcome[0])
    elapsed = time.perf_counter() - started
    finish_folder(out, sorted(rows, key=lambda row: row.index))
    return elapsed


def crops_per_second(folder: Path) -> float:
    """Crops of the default config (0.5 s, note features and excitation), one process, notes in memory."""
    crops = Crops(ProcessedFolder(folder), DataConfig(), context_frames=(63, 64), n_previous=1024, codes=False, seed=0)
    (seconds,) = seconds_of(lambda: [crops[i] for i in range(400)], times=2)
    return 400 / seconds


def features_milliseconds(performance: Performance) -> float:
    """Milliseconds to compute the note features of a second of audio, in crops of half a second."""
    notes = NoteConditioning(performance, DataConfig(audio_hz=HZ, midi_hz=250, features=["note_state"]))
    starts = np.random.default_rng(0).integers(0, (FILE_SECONDS - 1) * 250, 500)
    (seconds,) = seconds_of(lambda: [notes.features(int(first), 125) for first in starts])
    return 1000 * seconds / (500 * 0.5)


def disk_rates(folder: Path, megabytes: int = 1024) -> tuple[float, float]:
    """MB/s of writing a gigabyte, or less, with a sync at the end, and of reading it again from the disk."""
    path, block = folder / "gigabyte", os.urandom(1 << 20)
    started = time.perf_counter()
    with open(path, "wb") as handle:
        for _ in range(megabytes):
            handle.write(block)
        handle.flush()
        os.fsync(handle.fileno())
        written = megabytes / (time.perf_counter() - started)
        if hasattr(os, "posix_fadvise"):  # out of the page cache
            os.posix_fadvise(handle.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    started = time.perf_counter()
    with open(path, "rb", buffering=0) as handle:
        while handle.read(1 << 20):
            pass
    read = megabytes / (time.perf_counter() - started)
    path.unlink()
    return written, read


def measure(folder: Path) -> dict[str, float]:
    """Everything, in a folder of its own; remarks on stderr."""
    cores = joblib.cpu_count()
    log(f"writing {N_FILES * FILE_SECONDS / 60:.0f} minutes of 44.1 and 48 kHz stereo ...")
    paths = write_recordings(folder / "maestro")
    length = N_FILES * FILE_SECONDS
    written, read = disk_rates(folder)
    log(f"disk: writes {written:.0f} MB/s, reads {read:.0f} MB/s")
    rates = yardsticks(paths, folder)
    alone, together = seconds_of(
        lambda: resample_seconds(paths, folder / "audio/2004", 1),
        lambda: resample_seconds(paths, folder / "audio/2004", cores),
    )
    for path in paths:
        os.replace(folder / "audio/2004" / path.name, folder / f"audio/2004/{path.stem}_{HZ}.wav")
    one, all_ = seconds_of(
        lambda: preprocess_seconds(folder / "maestro", folder / "audio", folder / "data", 1),
        lambda: preprocess_seconds(folder / "maestro", folder / "audio", folder / "data", cores),
        times=2,
    )
    log(f"resampling: {length / alone:.0f} x with one process, {length / together:.0f} x with {cores}")
    log(f"preprocessing: {length / one:.0f} x with one process, {length / all_:.0f} x with {cores}")
    if "librosa soxr_hq" in rates:
        log(f"librosa's own soxr_hq: ours is {rates['ours'] / rates['librosa soxr_hq']:.1f} times as fast")
    gigabytes = HOURS * 3600 * HZ * 2 / 1e9
    log(f"{HOURS} h of MAESTRO: {103 / read * 1000 / 60:.1f} min to read 103 GB from this disk, and "
         f"{gigabytes / written * 1000 / 60:.1f} min to write {gigabytes:.0f} GB")  # fmt: skip
    performance = midi_reader.read_midi(paths[0].with_suffix(".midi"))
    return {
        "resample_realtime_per_core": round(rates["ours"], 1),
        "resample_vs_earlier": round(rates["ours"] / rates.get("librosa kaiser_fast", float("nan")), 2),
        "resample_peak_mb": round(peak_megabytes(folder), 1),
        "parallel_efficiency": round(alone / together / cores, 3),
        "preprocess_realtime": round(length / one, 1),
        "crops_per_second": round(crops_per_second(folder / "data"), 1),
        "features_ms_per_second": round(features_milliseconds(performance), 4),
        "hours_200_resample": round(HOURS * 60 * together / length, 2),
        "hours_200_preprocess": round(HOURS * 60 * all_ / length, 2),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print the numbers as one JSON object")
    parser.add_argument("--dir", type=Path, default=None, help="where the files go meanwhile")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.dir) as folder:
        numbers = measure(Path(folder))
    if args.json:
        print(json.dumps({name: None if value != value else value for name, value in numbers.items()}))
        return
    for name, value in numbers.items():
        print(f"{name:28} {value:g}")


if __name__ == "__main__":
    main()
