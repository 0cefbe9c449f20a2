"""Speed of data preparation, beside librosa, sox and ffmpeg on the same files, all in one run.

    python -m benchmarks.data            a table; about two minutes and 3 GB of disk
    python -m benchmarks.data --json     nine numbers as one JSON object, the rest on stderr
    python -m benchmarks.data --dir /data/tmp     on another disk

Rates are seconds of audio processed per second ("x real time"), read from the page cache, written and synced to the
disk. Each is the best of several repetitions, which alternate with those of its competitors. Programs that are not
installed are skipped with a message. hours_200_* are extrapolations: the minutes that 200 hours take at the measured
rate with one process per core.
"""

import functools
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import soundfile

from midi2wave.audio import io as audio_io
from midi2wave.conditioning.note_conditioning import NoteConditioning
from midi2wave.config import Config, DataConfig, PreprocessConfig
from midi2wave.data.maestro import COLUMNS, read_metadata
from midi2wave.data.preprocessing import PreprocessJob, process_one
from midi2wave.data.processed_folder import ProcessedFolder, begin_folder, finish_folder
from midi2wave.data.resampling import ResampleJob, resample_one
from midi2wave.midi import reader as midi_reader
from midi2wave.midi.performance import Performance
from midi2wave.utils import parallel
from midi2wave.utils.cli import log, make_plain_parser, print_result, run
from midi2wave.utils.cores import usable_cores

HZ = 16000
# Eight files each of 44.1 and 48 kHz: 80 minutes.
FILE_SECONDS = 300
N_FILES = 16
# One file of each sample rate for the comparison with slower programs.
N_COMPARED_FILES = 2
# The densities of MAESTRO: 36,400 notes and 58,900 pedal events per hour.
NOTES_PER_SECOND = 10
PEDALS_PER_SECOND = 16
# Duration of MAESTRO.
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
    """A performance of FILE_SECONDS with a note and its pedals every tenth of a second; a tick is 1 ms."""
    onsets = range(0, 100 * NOTES_PER_SECOND * FILE_SECONDS, 100)
    events = [(tick, bytes([0x90, int(rng.integers(21, 109)), int(rng.integers(1, 128))])) for tick in onsets]
    events += [(tick + 90, message[:2] + b"\0") for tick, message in events]
    n_pedals = PEDALS_PER_SECOND * FILE_SECONDS
    events += [(i * 1000 // PEDALS_PER_SECOND, bytes([0xB0, 64, int(rng.integers(0, 128))])) for i in range(n_pedals)]
    body, before = b"\x00\xff\x51\x03\x07\xa1\x20", 0
    for tick, message in sorted(events):
        delta, before = tick - before, tick
        body += (bytes([delta >> 7 | 0x80]) if delta > 127 else b"") + bytes([delta & 0x7F]) + message
    body += b"\x00\xff\x2f\x00"
    path.write_bytes(b"MThd\0\0\0\6\0\0\0\1\1\xf4MTrk" + len(body).to_bytes(4, "big") + body)


def best_seconds(*functions: Callable[[], object], repeats: int = 3) -> list[float]:
    """The shortest time of each function, which are called in turns, after one round that does not count."""
    best = [float("inf")] * len(functions)
    for repeat in range(repeats + 1):
        for i, function in enumerate(functions):
            start = time.perf_counter()
            function()
            best[i] = min(best[i], time.perf_counter() - start if repeat else float("inf"))
    return best


def compare_resamplers(paths: list[Path], folder: Path) -> dict[str, float]:
    """Speed, as a multiple of real time, of one process on a file of each sample rate: ours, librosa, sox and ffmpeg.

    Args:
        paths: Wav files.
        folder: Folder of the output file.
    """
    out, compared = folder / "resampled.wav", paths[:N_COMPARED_FILES]
    programs: dict[str, Callable[[Path], object]] = {"ours": lambda path: audio_io.resample_file(path, out, HZ)}
    programs |= _librosa_programs(out) | _external_programs(out)

    def run_on_all(program: Callable[[Path], object]) -> None:
        for path in compared:
            program(path)

    calls = [functools.partial(run_on_all, program) for program in programs.values()]
    rates = {}
    for name, seconds in zip(programs, best_seconds(*calls, repeats=2), strict=True):
        rates[name] = len(compared) * FILE_SECONDS / seconds
        log(f"  {name}: {rates[name]:.0f} x real time")
    return rates


def _librosa_programs(out: Path) -> dict[str, Callable[[Path], object]]:
    import librosa

    def resample(path: Path, res_type: str) -> None:
        audio, _ = librosa.load(path, sr=HZ, mono=True, res_type=res_type)
        soundfile.write(out, audio, HZ, subtype="PCM_16")

    return {f"librosa {kind}": functools.partial(resample, res_type=kind) for kind in ("kaiser_fast", "soxr_hq")}


def _external_programs(out: Path) -> dict[str, Callable[[Path], object]]:
    programs: dict[str, Callable[[Path], object]] = {}
    for name, before, after in (
        ("sox", ["sox"], ["-r", HZ, "-c", 1, "-b", 16, out]),
        ("ffmpeg", ["ffmpeg", "-y", "-i"], ["-ac", 1, "-ar", HZ, "-threads", 1, out]),
    ):
        if shutil.which(name) is None:
            log(f"{name} is not installed: skipped")
            continue
        programs[name] = functools.partial(_run_program, before, after)
    return programs


def _run_program(before: Sequence[object], after: Sequence[object], path: Path) -> None:
    subprocess.run([str(word) for word in (*before, path, *after)], check=True, capture_output=True)


def peak_megabytes(folder: Path, seconds: int = 3600) -> float:
    """Peak memory of a process that resamples an hour of 48 kHz stereo, or less; NaN where it is not available."""
    hour = folder / "hour/hour.wav"
    hour.parent.mkdir()
    with soundfile.SoundFile(hour, "w", 48000, 2, "PCM_16") as target:
        for _ in range(seconds):
            target.write(np.zeros((48000, 2), dtype=np.int16))
    # VmHWM belongs to the process itself; the value in rusage starts with that of its parent.
    code = "import sys, resample_audio; resample_audio.main(sys.argv[1:]); print(open('/proc/self/status').read())"
    done = subprocess.run([sys.executable, "-c", code, "-d", hour.parent], capture_output=True, text=True, check=False)
    shutil.rmtree(hour.parent)
    kilobytes = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("VmHWM")]
    return int(kilobytes[0]) / 1024 if kilobytes else float("nan")


def resample_seconds(paths: list[Path], folder: Path, n_jobs: int) -> float:
    """Seconds for all files in worker processes that already run."""
    shutil.rmtree(folder, ignore_errors=True)
    jobs = [ResampleJob(p.name, p, folder / p.name, HZ, "soxr_hq", replace=True) for p in paths]
    start = time.perf_counter()
    for _, outcome in parallel.parallel_map(resample_one, jobs, n_jobs=n_jobs, backend="loky"):
        assert not isinstance(outcome, str), outcome
    return time.perf_counter() - start


def preprocess_seconds(maestro: Path, resampled: Path, out: Path, n_jobs: int) -> float:
    """Seconds for all recordings in worker processes that already run; afterwards the folder is complete."""
    shutil.rmtree(out, ignore_errors=True)
    config = PreprocessConfig(maestro_dir=str(maestro), resampled_dir=str(resampled), out_dir=str(out))
    begin_folder(out, Config(preprocess_config=config).as_dict(), force=False)
    jobs = [PreprocessJob(recording, config) for recording in read_metadata(maestro)]
    start, rows = time.perf_counter(), []
    for _, outcome in parallel.parallel_map(process_one, jobs, n_jobs=n_jobs, backend="loky"):
        assert not isinstance(outcome, str), outcome
        rows.append(outcome[0])
    elapsed = time.perf_counter() - start
    finish_folder(out, sorted(rows, key=lambda row: row.index))
    return elapsed


def crops_per_second(folder: Path) -> float:
    """Crops of the default config (0.5 s, note features and excitation), one process, notes in memory."""
    from midi2wave.data.crops import Crops  # It imports PyTorch, for which --help should not wait.

    crops = Crops(ProcessedFolder(folder), DataConfig(), context_frames=(63, 64), n_previous=1024, codes=False, seed=0)
    (seconds,) = best_seconds(lambda: [crops[i] for i in range(400)], repeats=2)
    return 400 / seconds


def features_milliseconds(performance: Performance) -> float:
    """Milliseconds to compute the note features of a second of audio, in crops of half a second."""
    notes = NoteConditioning(performance, DataConfig(audio_hz=HZ, midi_hz=250, features=["note_state"]))
    starts = np.random.default_rng(0).integers(0, (FILE_SECONDS - 1) * 250, 500)
    (seconds,) = best_seconds(lambda: [notes.features(int(first), 125) for first in starts])
    return 1000 * seconds / (500 * 0.5)


def disk_rates(folder: Path, megabytes: int = 1024) -> tuple[float, float]:
    """MB/s of writing a gigabyte, or less, with a sync at the end, and of reading it again from the disk."""
    path, block = folder / "gigabyte", os.urandom(1 << 20)
    start = time.perf_counter()
    with open(path, "wb") as handle:
        for _ in range(megabytes):
            handle.write(block)
        handle.flush()
        os.fsync(handle.fileno())
        written = megabytes / (time.perf_counter() - start)
        if hasattr(os, "posix_fadvise"):
            # Remove the file from the page cache.
            os.posix_fadvise(handle.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    start = time.perf_counter()
    with open(path, "rb", buffering=0) as handle:
        while handle.read(1 << 20):
            pass
    read = megabytes / (time.perf_counter() - start)
    path.unlink()
    return written, read


def measure(folder: Path) -> dict[str, float]:
    """All numbers, measured in an empty folder; remarks go to stderr."""
    cores = usable_cores()
    log(f"writing {N_FILES * FILE_SECONDS / 60:.0f} minutes of 44.1 and 48 kHz stereo ...")
    paths = write_recordings(folder / "maestro")
    length = N_FILES * FILE_SECONDS
    written, read = disk_rates(folder)
    log(f"disk: writes {written:.0f} MB/s, reads {read:.0f} MB/s")
    rates = compare_resamplers(paths, folder)
    resampled = folder / "audio/2004"
    resample_one_core, resample_all = best_seconds(
        lambda: resample_seconds(paths, resampled, 1),
        lambda: resample_seconds(paths, resampled, cores),
    )
    for path in paths:
        os.replace(resampled / path.name, resampled / f"{path.stem}_{HZ}.wav")
    preprocess_one_core, preprocess_all = best_seconds(
        lambda: preprocess_seconds(folder / "maestro", folder / "audio", folder / "data", 1),
        lambda: preprocess_seconds(folder / "maestro", folder / "audio", folder / "data", cores),
        repeats=2,
    )
    for name, one, all_cores in (
        ("resampling", resample_one_core, resample_all),
        ("preprocessing", preprocess_one_core, preprocess_all),
    ):
        log(f"{name}: {length / one:.0f} x with one process, {length / all_cores:.0f} x with {cores}")
    if "librosa soxr_hq" in rates:
        log(f"librosa's own soxr_hq: ours is {rates['ours'] / rates['librosa soxr_hq']:.1f} times as fast")
    log_maestro_on_disk(written, read)
    performance = midi_reader.read_midi(paths[0].with_suffix(".midi"))
    return {
        "resample_realtime_per_core": round(rates["ours"], 1),
        "resample_vs_earlier": round(rates["ours"] / rates.get("librosa kaiser_fast", float("nan")), 2),
        "resample_peak_mb": round(peak_megabytes(folder), 1),
        "parallel_efficiency": round(resample_one_core / resample_all / cores, 3),
        "preprocess_realtime": round(length / preprocess_one_core, 1),
        "crops_per_second": round(crops_per_second(folder / "data"), 1),
        "features_ms_per_second": round(features_milliseconds(performance), 4),
        "hours_200_resample": round(HOURS * 60 * resample_all / length, 2),
        "hours_200_preprocess": round(HOURS * 60 * preprocess_all / length, 2),
    }


def log_maestro_on_disk(written: float, read: float) -> None:
    """Log how long the disk alone takes for MAESTRO, at rates in MB/s."""
    gigabytes = HOURS * 3600 * HZ * 2 / 1e9
    reading = f"{103 / read * 1000 / 60:.1f} min to read 103 GB from this disk"
    writing = f"{gigabytes / written * 1000 / 60:.1f} min to write {gigabytes:.0f} GB"
    log(f"{HOURS} h of MAESTRO: {reading}, and {writing}")


def main() -> int:
    """Measure and print; returns the exit code."""
    parser = make_plain_parser(__doc__)
    parser.add_argument("--json", action="store_true", help="print the numbers as one JSON object")
    parser.add_argument("--dir", type=Path, default=None, help="folder for the temporary files")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.dir) as folder:
        numbers = measure(Path(folder))
    lines = [f"{name:28} {value:g}" for name, value in numbers.items()]
    print_result("\n".join(lines), numbers, as_json=args.json)
    return 0


if __name__ == "__main__":
    run(main)
