"""Step 1: make any audio mono at one rate.

    python resample_audio.py -d maestro-v3.0.0                  # what the metadata lists -> 2008/NAME_16000.wav
    python resample_audio.py -d maestro-v3.0.0 -s test -j 4     # one split, four processes
    python resample_audio.py -d recordings --out_dir mono       # no metadata: every audio file below, same tree

Originals are never touched. A file that is done is not done again, so the same command goes on after an interruption.
"""

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import joblib

from audio import AUDIO_SUFFIXES, RESAMPLERS, Resampled, resample_file
from cli import Failure, finish, note, parser, progress, reason, run
from errors import InputError
from maestro import SPLITS, find_metadata, inside, read_metadata, resampled_name, select_split


@dataclass(frozen=True)
class Job:
    """One file to do; names are relative to the folders that the user gave."""

    name: str
    source: Path
    target: Path


def main(argv: Sequence[str] | None = None) -> int:
    """Resample a folder; returns the exit code. InputError where nothing can be done."""
    args = _arguments(argv)
    names = _listed_files(args.dir, args.split, args.hz)
    jobs, failures = _plan(names, args.dir, args.out_dir or args.dir, args.hz)
    pending, skipped, stale = _split_off_done(jobs, force=args.force)
    failures += stale

    started = time.monotonic()
    resampled: dict[str, Resampled] = {}
    for job, outcome in _resample(pending, args.hz, args.resampler, args.jobs):
        if isinstance(outcome, str):
            failures.append(Failure(job.name, outcome))
            continue
        resampled[job.name] = outcome
        if outcome.n_clipped:
            note(f"clipped: {job.name}: {outcome.n_clipped} samples above full scale (peak {outcome.peak:.3f})")

    result = _result(resampled, skipped, time.monotonic() - started, args.hz)
    return finish(_summary(result), result, failures, len(resampled) + skipped, as_json=args.as_json)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    made = parser(__doc__)
    made.add_argument("-d", "--dir", type=Path, required=True, help="a MAESTRO folder, or any folder with audio")
    made.add_argument("--out_dir", type=Path, help="write the same tree here instead of beside the originals")
    made.add_argument("--hz", type=int, default=16000, help="sample rate to make (default 16000)")
    made.add_argument(
        "-s", "--split", choices=(*SPLITS, "all"), default="all", help="part of MAESTRO to do (default all)"
    )
    made.add_argument(
        "-r", "--resampler", choices=RESAMPLERS, default="soxr_hq", help="soxr_* stream, kaiser_* hold a whole file"
    )
    made.add_argument("-j", "--jobs", type=int, default=1, help="files at once, at most one per core (default 1)")
    args = made.parse_args(argv)
    if not 1000 <= args.hz <= 384000:
        raise InputError(f"--hz is {args.hz}, expected 1000 to 384000")
    if args.jobs < 1:
        raise InputError(f"--jobs is {args.jobs}, expected 1 or more")
    args.jobs = min(args.jobs, joblib.cpu_count())
    return args


def _listed_files(folder: Path, split: str, audio_hz: int) -> list[str]:
    """What to resample, relative to `folder`: the metadata's audio, or without metadata all audio files below."""
    if find_metadata(folder):
        names = [recording.audio_filename for recording in select_split(read_metadata(folder), split)]
        if not names:
            raise InputError(f"the metadata in {folder} lists no recordings of the {split} split")
        return names
    if split != "all":
        raise InputError(f"{folder} has no maestro-v*.csv or .json, so it has no {split} split; leave -s away")
    audio = sorted(
        path.relative_to(folder)
        for path in folder.rglob("*")
        # hidden files are half-written ones, or the resource forks that macOS strews beside real files
        if path.suffix.lower() in AUDIO_SUFFIXES and not path.name.startswith(".") and path.is_file()
    )
    names = [path.as_posix() for path in audio if not path.stem.endswith(f"_{audio_hz}")]
    if not names:
        outputs = f" but {len(audio)} that end in _{audio_hz}, taken for results of this command" if audio else ""
        raise InputError(f"{folder} holds no audio files{outputs}; looked for {' '.join(AUDIO_SUFFIXES)}")
    return names


def _plan(names: list[str], folder: Path, out_dir: Path, audio_hz: int) -> tuple[list[Job], list[Failure]]:
    """One job per file, and the files that cannot be done as they lie."""
    originals = {(folder / name).resolve() for name in names}
    jobs: dict[Path, Job] = {}
    failures = []
    for name in names:
        try:
            job = Job(name, inside(folder, name), inside(out_dir, resampled_name(name, audio_hz)))
        except InputError as error:
            failures.append(Failure(name, reason(error)))
            continue
        if not job.source.is_file():
            failures.append(Failure(name, f"no such file in {folder}; download it, or choose another split with -s"))
        elif job.target.resolve() in originals:
            failures.append(Failure(name, f"would become {job.target.name}, which is an original; use --out_dir"))
        elif (first := jobs.setdefault(job.target, job)) is not job:
            failures.append(Failure(name, f"would give the same {job.target.name} as {first.name}; rename one of them"))
    return list(jobs.values()), failures


def _split_off_done(jobs: list[Job], *, force: bool) -> tuple[list[Job], int, list[Failure]]:
    """Jobs still to do, how many are done, and those whose result is older than the original."""
    if force:
        return jobs, 0, []
    pending = [job for job in jobs if not job.target.exists()]
    existing = [job for job in jobs if job.target.exists()]
    stale = [job for job in existing if job.target.stat().st_mtime < job.source.stat().st_mtime]
    remedy = "exists and is older than the original; make it again with --force"
    return pending, len(existing) - len(stale), [Failure(job.name, f"{job.target} {remedy}") for job in stale]


def _resample(jobs: list[Job], audio_hz: int, resampler: str, n_jobs: int) -> list[tuple[Job, Resampled | str]]:
    """Do the jobs, in parallel, with progress on stderr; for each the outcome or the reason why there is none."""
    parallel = joblib.Parallel(n_jobs=min(n_jobs, max(len(jobs), 1)), return_as="generator_unordered")
    outcomes = parallel(joblib.delayed(_resample_one)(job, audio_hz, resampler) for job in jobs)
    return list(progress(outcomes, len(jobs), "file"))


def _resample_one(job: Job, audio_hz: int, resampler: str) -> tuple[Job, Resampled | str]:
    try:
        return job, resample_file(job.source, job.target, audio_hz, resampler)
    except (InputError, OSError) as error:
        return job, reason(error)


def _result(resampled: dict[str, Resampled], skipped: int, elapsed_seconds: float, audio_hz: int) -> dict:
    seconds = sum(outcome.seconds for outcome in resampled.values())
    return {
        "audio_hz": audio_hz,
        "files": len(resampled),
        "already_done": skipped,
        "hours": seconds / 3600,
        "elapsed_seconds": elapsed_seconds,
        "times_real_time": seconds / elapsed_seconds if elapsed_seconds else 0.0,
        "clipped_samples": {name: outcome.n_clipped for name, outcome in resampled.items() if outcome.n_clipped},
    }


def _summary(result: dict) -> str:
    words = f"{result['files']} files, {result['hours']:.2f} h, resampled to {result['audio_hz']} Hz"
    words += f" in {result['elapsed_seconds']:.1f} s ({result['times_real_time']:.0f} x real time)"
    if result["already_done"]:
        words += f"; {result['already_done']} were done before"
    if result["clipped_samples"]:
        words += f"; {len(result['clipped_samples'])} clipped ({sum(result['clipped_samples'].values())} samples)"
    return words


if __name__ == "__main__":
    run(main)
