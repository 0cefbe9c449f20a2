"""Resample any audio to mono at one rate: the first command of the training pipeline.

    python resample_audio.py -d maestro-v3.0.0                  # what the metadata lists -> 2008/NAME_16000.wav
    python resample_audio.py -d maestro-v3.0.0 -s test -j 4     # one split, four processes
    python resample_audio.py -d recordings --out_dir mono       # no metadata: every audio file below, same tree
    python resample_audio.py -d maestro-v3.0.0 --shard 2/8      # one of eight jobs of a batch scheduler

Originals are never touched. Finished files are listed in resampled_16000.json (`resample_manifest.py`): the same
command resumes after an interruption, makes again what has changed since, and leaves the rest alone.
"""

if __name__ == "__main__":
    from midi2wave.utils import signals

    signals.exit_on_interrupt()  # Ctrl-C during the imports below needs no traceback.

import argparse
import contextlib
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from midi2wave.audio.io import RESAMPLERS
from midi2wave.data.maestro import SPLITS
from midi2wave.data.resample_manifest import Manifest, ManifestEntry
from midi2wave.data.resampling import ResampleJob, list_sources, plan_jobs, resample_pending, select_pending
from midi2wave.utils import parallel
from midi2wave.utils.atomic_files import remove_partial_files
from midi2wave.utils.cli import (
    Failure,
    count_of,
    make_parser,
    path_argument,
    report_and_exit_code,
    run,
)
from midi2wave.utils.errors import InputError
from midi2wave.utils.folder_lock import lock_folder

MIN_HZ = 1000
MAX_HZ = 384000


def main(argv: Sequence[str] | None = None) -> int:
    """Resample a folder; returns the exit code. InputError where nothing can be done."""
    args = _arguments(argv)
    out_dir = args.out_dir or args.dir
    sources = list_sources(args.dir, args.split, args.hz)
    # Shards are chosen by name alone, so that shards which start while files are added agree on who does which.
    planned = parallel.select_shard(plan_jobs(sources, args.dir, out_dir, args.hz, args.resampler), args.shard)
    jobs = [item for item in planned if isinstance(item, ResampleJob)]
    failures = [*sources.failures, *(item for item in planned if isinstance(item, Failure))]
    started = time.monotonic()
    shard = parallel.shard_name(args.shard)
    with lock_folder(out_dir, shard):
        manifest = Manifest(out_dir, args.hz, args.resampler, shard=shard, force=args.force)
        written = [manifest.path, *(job.target for job in jobs)]
        _remove_partial_files(written)
        pending, n_done_before, unusable = select_pending(jobs, manifest, force=args.force, verify=args.verify)
        entries, new_failures = resample_pending(pending, manifest, n_jobs=args.jobs, backend=args.backend)
        if args.backend == "dask":  # A worker that was killed does not end the run, and may have left some.
            _remove_partial_files(written)
    failures += unusable + new_failures
    result = _result(entries, n_done_before, time.monotonic() - started, args.hz)
    result["left_out"] = list(sources.left_out)
    n_usable = len(entries) + n_done_before
    return report_and_exit_code(_summary(result), result, failures, n_usable, as_json=args.as_json)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = make_parser(__doc__, force="make all outputs of this call again")
    parser.add_argument(
        "-d", "--dir", type=path_argument, required=True, help="a MAESTRO folder, or any folder with audio"
    )
    parser.add_argument(
        "--out_dir", type=path_argument, help="write the same tree here instead of beside the originals"
    )
    parser.add_argument("--hz", type=int, default=16000, help="sample rate to make (default 16000)")
    parser.add_argument(
        "-s", "--split", choices=(*SPLITS, "all"), default="all", help="part of MAESTRO to do (default all)"
    )
    parser.add_argument(
        "-r", "--resampler", choices=RESAMPLERS, default="soxr_hq", help="soxr_* stream, kaiser_* hold a whole file"
    )
    parser.add_argument("--verify", action="store_true", help="compare the checksums of all that is done already")
    parallel.add_arguments(parser)
    args = parser.parse_args(argv)
    if not MIN_HZ <= args.hz <= MAX_HZ:
        raise InputError(f"--hz is {args.hz}, expected {MIN_HZ} to {MAX_HZ}")
    parallel.check_arguments(args)
    return args


def _remove_partial_files(targets: list[Path]) -> None:
    names_by_folder: defaultdict[Path, set[str]] = defaultdict(set)
    for path in targets:
        names_by_folder[path.parent].add(path.name)
    # Folder by folder: another shard may be writing a file of the same name in another folder.
    for folder, names in names_by_folder.items():
        with contextlib.suppress(PermissionError):  # It is reported for each file that cannot be written there.
            remove_partial_files(folder, names)


def _result(
    entries: dict[str, ManifestEntry], n_done_before: int, elapsed_seconds: float, audio_hz: int
) -> dict[str, Any]:
    seconds = sum(entry.seconds for entry in entries.values())
    return {
        "audio_hz": audio_hz,
        "files": len(entries),
        "already_done": n_done_before,
        "hours": seconds / 3600,
        "elapsed_seconds": elapsed_seconds,
        "times_real_time": seconds / elapsed_seconds if elapsed_seconds else 0.0,
        "clipped_samples": {name: entry.n_clipped for name, entry in entries.items() if entry.n_clipped},
    }


def _summary(result: dict[str, Any]) -> str:
    text = f"{count_of(result['files'], 'file')}, {result['hours']:.2f} h, resampled to {result['audio_hz']} Hz"
    text += f" in {result['elapsed_seconds']:.1f} s ({result['times_real_time']:.0f} x real time)"
    if result["already_done"]:
        text += f"; {result['already_done']} were done before"
    if result["clipped_samples"]:
        text += f"; {len(result['clipped_samples'])} clipped ({sum(result['clipped_samples'].values())} samples)"
    return text


if __name__ == "__main__":
    run(main)
