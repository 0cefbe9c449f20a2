"""Step 1: make any audio mono at one rate.

    python resample_audio.py -d maestro-v3.0.0                  # what the metadata lists -> 2008/NAME_16000.wav
    python resample_audio.py -d maestro-v3.0.0 -s test -j 4     # one split, four processes
    python resample_audio.py -d recordings --out_dir mono       # no metadata: every audio file below, same tree
    python resample_audio.py -d maestro-v3.0.0 --shard 2/8      # one of eight jobs of a batch scheduler

Originals are never touched. What is done is noted in resampled_16000.json (`manifest.py`): the same command goes on
after an interruption, makes again what has changed since, and leaves the rest alone.
"""

import argparse
import contextlib
import re
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from midi2wave.audio.io import AUDIO_SUFFIXES, RESAMPLERS, Resampled, resample_file
from midi2wave.data import resample_manifest
from midi2wave.data.maestro import SPLITS, find_metadata, inside, read_metadata, resampled_name, select_split
from midi2wave.data.resample_manifest import Entry, Manifest
from midi2wave.utils import parallel
from midi2wave.utils.atomic_files import remove_leftovers
from midi2wave.utils.cli import Failure, format_error, log, make_parser, progress_in_hours, report_and_exit_code, run
from midi2wave.utils.errors import InputError
from midi2wave.utils.folder_lock import only_run


@dataclass(frozen=True)
class Job:
    """One file to do; names are relative to the folders that the user gave."""

    name: str
    source: Path
    target: Path
    audio_hz: int
    resampler: str
    replace: bool = False  # what exists; otherwise it must come out the same
    size: int = 0  # bytes of the source


def main(argv: Sequence[str] | None = None) -> int:
    """Resample a folder; returns the exit code. InputError where nothing can be done."""
    args = _arguments(argv)
    out_dir = args.out_dir or args.dir
    names = _listed_files(args.dir, args.split, args.hz)
    # The names are dealt, whatever lies there: shards that start while files come and go must agree who does which.
    planned = parallel.select_shard(_plan(names, args.dir, out_dir, args.hz, args.resampler), args.shard)
    jobs = [item for item in planned if isinstance(item, Job)]
    failures = [item for item in planned if isinstance(item, Failure)]
    started = time.monotonic()
    done: dict[str, Entry] = {}
    products: defaultdict[Path, set[str]] = defaultdict(set)
    with only_run(out_dir, parallel.shard_name(args.shard)):
        shard = parallel.shard_name(args.shard)
        record = Manifest(out_dir, args.hz, args.resampler, shard=shard, force=args.force)
        for path in (record.path, *(job.target for job in jobs)):
            products[path.parent].add(path.name)
        for folder, ours in products.items():  # another shard may be writing a file of the same name elsewhere
            remove_leftovers(folder, ours)
        pending, skipped = _split_off_done(jobs, record, force=args.force, verify=args.verify)
        outcomes = parallel.parallel_map(_resample_one, pending, n_jobs=args.jobs, backend=args.backend)
        try:
            for job, outcome in _with_progress(outcomes, pending):
                if isinstance(outcome, str):
                    failures.append(Failure(job.name, outcome))
                    continue
                done[job.name] = outcome
                record.add(job.name, outcome)
                if outcome.n_clipped:
                    peak = f"(peak {outcome.peak:.3f})"
                    log(f"clipped: {job.name}: {outcome.n_clipped} samples above full scale {peak}")
        finally:  # also for who interrupts
            failures += _save(record)
    result = _result(done, skipped, time.monotonic() - started, args.hz)
    return report_and_exit_code(_summary(result), result, failures, len(done) + skipped, as_json=args.as_json)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    made = make_parser(__doc__)
    made.add_argument("-d", "--dir", type=Path, required=True, help="a MAESTRO folder, or any folder with audio")
    made.add_argument("--out_dir", type=Path, help="write the same tree here instead of beside the originals")
    made.add_argument("--hz", type=int, default=16000, help="sample rate to make (default 16000)")
    made.add_argument(
        "-s", "--split", choices=(*SPLITS, "all"), default="all", help="part of MAESTRO to do (default all)"
    )
    made.add_argument(
        "-r", "--resampler", choices=RESAMPLERS, default="soxr_hq", help="soxr_* stream, kaiser_* hold a whole file"
    )
    made.add_argument("--verify", action="store_true", help="compare the checksums of all that is done already")
    parallel.add_arguments(made)
    args = made.parse_args(argv)
    if not 1000 <= args.hz <= 384000:
        raise InputError(f"--hz is {args.hz}, expected 1000 to 384000")
    parallel.check_arguments(args)
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
    results = _noted_results(folder)
    sources = [path for path in audio if not path.stem.endswith(f"_{audio_hz}")]
    names = [path.as_posix() for path in sources if path not in results]
    if not names:
        n_ours = sum(path in results for path in sources)
        outputs = f" but {len(audio) - n_ours} that end in _{audio_hz}" if len(audio) > n_ours else ""
        outputs += f"{' and' if outputs else ' but'} {n_ours} that a manifest lists" if n_ours else ""
        outputs += ", taken for results of this command" if outputs else ""
        raise InputError(f"{folder} holds no audio files{outputs}; looked for {' '.join(AUDIO_SUFFIXES)}")
    if len(names) < len(sources):
        log(f"left out: {len(sources) - len(names)} files that were made here at another rate, say the manifests")
    return names


def _noted_results(folder: Path) -> set[Path]:
    """What was made, at any rate, of the files below `folder` and lies there too, relative to it."""
    results = set()
    for path in folder.rglob("resampled_*.json"):
        audio_hz = re.match(r"resampled_(\d+)\.", path.name)
        with contextlib.suppress(InputError, OSError):  # the one that counts for this run is read again, with words
            for name in resample_manifest.read(path) if audio_hz else ():
                if _is_file(folder / name):
                    results.add(path.parent.relative_to(folder) / resampled_name(name, int(audio_hz[1])))
    return results


def _plan(names: list[str], folder: Path, out_dir: Path, audio_hz: int, resampler: str) -> list[Job | Failure]:
    """For each name its job, or why it cannot be done as it lies."""
    first: dict[Path, str] = {}
    planned: list[Job | Failure] = []
    originals = {(folder / name).resolve() for name in names if _is_file(folder / name)}
    for name in names:
        words = ""
        try:
            source, target = inside(folder, name), inside(out_dir, resampled_name(name, audio_hz))
            if target in first:
                words = f"would give the same {target.name} as {first[target]}; rename one of them"
            elif target.resolve() in originals:
                words = f"would become {target.name}, which is an original; use --out_dir"
            elif not source.is_file():
                words = f"no such file in {folder}; download it, or choose another split with -s"
            first.setdefault(target, name)
        except (InputError, OSError) as error:
            words = format_error(error)
        planned.append(Failure(name, words) if words else Job(name, source, target, audio_hz, resampler))
    return planned


def _is_file(path: Path) -> bool:
    with contextlib.suppress(OSError, ValueError):  # a name that is too long, or that no file can have
        return path.is_file()
    return False


def _split_off_done(jobs: list[Job], record: Manifest, *, force: bool, verify: bool) -> tuple[list[Job], int]:
    """Jobs still to do, and how many are done. An output that no entry fits must come out the same again."""
    pending, skipped = [], 0
    for job in jobs:
        job = replace(job, size=job.source.stat().st_size)
        standing = (
            record.status(job.name, job.source, job.target, verify=verify) if not force else resample_manifest.CHANGED
        )
        if standing == resample_manifest.CHANGED:
            pending.append(replace(job, replace=True))
        elif standing == resample_manifest.DONE:
            skipped += 1
        else:
            pending.append(job)
    pending.sort(key=lambda job: -job.size)  # the longest first, so that no process is left with one at the end
    return pending, skipped


def _save(record: Manifest) -> list[Failure]:
    try:
        record.save()
    except OSError as error:
        return [Failure(str(record.path), format_error(error))]
    return []


def _with_progress(outcomes: Iterable[tuple[Job, Entry | str]], jobs: list[Job]) -> Iterable[tuple[Job, Entry | str]]:
    return progress_in_hours(
        outcomes,
        total=sum(job.size for job in jobs),
        share=lambda outcome: outcome[0].size,
        seconds=lambda outcome: 0.0 if isinstance(outcome[1], str) else outcome[1].seconds,
    )


def _resample_one(job: Job) -> tuple[Job, Entry | str]:
    """Do one job; returns it with its entry for the manifest, or with the reason why there is none."""
    try:
        state = resample_manifest.state(job.source)
        made: Resampled = resample_file(job.source, job.target, job.audio_hz, job.resampler, replace=job.replace)
        return job, resample_manifest.entry(job.target, made, state, job.resampler)
    except (InputError, OSError) as error:
        return job, format_error(error)


def _result(resampled: dict[str, Entry], skipped: int, elapsed_seconds: float, audio_hz: int) -> dict:
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
