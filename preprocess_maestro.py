"""Turn a MAESTRO folder and a split into a processed folder, which training reads.

    python preprocess_maestro.py -c config_makeTrain.json
    python preprocess_maestro.py -c config_makeValidation.json
    python preprocess_maestro.py -c config_makeAll.json -j 4   # data/train, data/validation and data/test at once

Run resample_audio.py first. A finished recording is skipped unless its files have changed, so the same command resumes
after an interruption; one that cannot be read is listed at the end and left out. dataset_card.json and dataset_card.png
describe what the folder holds, with a warning for each recording that looks wrong (a MIDI file that does not fit the
sound, or that is longer).
"""

if __name__ == "__main__":
    from midi2wave.utils import signals

    signals.exit_on_interrupt()  # Ctrl-C during the imports below needs no traceback.

import contextlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from midi2wave.config import Config, PreprocessConfig, load_config
from midi2wave.data.preprocessing import (
    Outcomes,
    PreprocessJob,
    finish_processed_folder,
    plan_jobs,
    process_pending,
    read_processed,
)
from midi2wave.data.processed_folder import CARD_NAME, RECORD_NAME, begin_folder, product_names
from midi2wave.utils import parallel
from midi2wave.utils.atomic_files import remove_partial_files
from midi2wave.utils.cli import Failure, count_of, log, make_parser, report_and_exit_code, run
from midi2wave.utils.errors import InputError
from midi2wave.utils.folder_lock import lock_own_folder


def main(argv: list[str] | None = None) -> int:
    """Preprocess one split or all; returns the exit code. InputError where nothing can be done."""
    parser = make_parser(__doc__, config="config_makeTrain.json", force="make all recordings anew")
    parallel.add_arguments(parser)
    args = parser.parse_args(argv)
    parallel.check_arguments(args)
    if args.force and args.shard:
        raise InputError("--force with --shard: every shard would remove what the others made; run it once without")
    config = load_config(args.config, ("preprocess_config",), args.overrides).preprocess_config
    for name in ("maestro_dir", "out_dir"):
        if not getattr(config, name):
            raise InputError(f"{args.config}: preprocess_config.{name} is empty; say where that is")
    jobs = plan_jobs(config)
    configs = {job.folder: job.config for job in jobs}
    with contextlib.ExitStack() as locks:
        for folder, made_from in configs.items():
            locks.enter_context(lock_own_folder(folder, RECORD_NAME, parallel.shard_name(args.shard)))
            begin_folder(folder, Config(preprocess_config=made_from).as_dict(), force=args.force)
        outcomes: Outcomes = {job.id: read_processed(job) for job in jobs}  # It may refuse, before any work.
        pending = [job for job in parallel.select_shard(jobs, args.shard) if not outcomes[job.id]]
        if args.shard:  # Of its own files only, since other shards may be writing.
            _remove_partial_files(pending, configs)
        failures = process_pending(pending, outcomes, n_jobs=args.jobs, backend=args.backend)
        if args.backend == "dask":  # A worker that was killed does not end the run, and may have left some.
            _remove_partial_files(pending, configs)
        if args.shard:  # Other shards have finished recordings meanwhile.
            outcomes |= {job.id: read_processed(job) for job in jobs if not outcomes[job.id]}
        if args.shard and sum(map(bool, outcomes.values())) + len(failures) < len(jobs):
            log("other shards are not done: the table and the card are written by the last one, or without --shard")
        else:
            _finish(jobs, outcomes, configs)
    return _report(config, configs, outcomes, failures, as_json=args.as_json)


def _remove_partial_files(pending: list[PreprocessJob], folders: Iterable[Path]) -> None:
    for folder in folders:
        indices = [job.recording.index for job in pending if job.folder == folder]
        remove_partial_files(folder, product_names(indices))


def _finish(jobs: list[PreprocessJob], outcomes: Outcomes, configs: dict[Path, PreprocessConfig]) -> None:
    for folder, config in configs.items():
        in_folder = [outcomes[job.id] for job in jobs if job.folder == folder]
        processed = [outcome for outcome in in_folder if outcome]
        finish_processed_folder(folder, processed, config, len(in_folder) - len(processed))


def _report(
    config: PreprocessConfig,
    configs: dict[Path, PreprocessConfig],
    outcomes: Outcomes,
    failures: list[Failure],
    *,
    as_json: bool,
) -> int:
    """Print the outcome and return the exit code."""
    processed = [(folder, *outcome) for (folder, _), outcome in outcomes.items() if outcome]
    splits: dict[str, dict[str, Any]] = {}
    for folder, made_from in configs.items():
        rows = [row for row_folder, row, _ in processed if row_folder == folder]
        hours = sum(row.duration for row in rows) / 3600
        numbers = {"recordings": len(rows), "hours": hours, "notes": sum(row.n_notes for row in rows)}
        splits[made_from.split] = {"out_dir": str(folder), **numbers}
    warnings = {row.audio_filename: facts.warnings for _, row, facts in processed if facts.warnings}
    total = {name: sum(split[name] for split in splits.values()) for name in ("recordings", "hours", "notes")}
    result = {"out_dir": config.out_dir, **total, "splits": splits, "warnings": warnings}
    lines = [
        f"{s['out_dir']}: {count_of(s['recordings'], 'recording')}, {s['hours']:.2f} h, {count_of(s['notes'], 'note')}"
        for s in splits.values()
    ]
    if warnings:
        lines.append(f"{count_of(len(warnings), 'recording')} with warnings, see {CARD_NAME}")
    return report_and_exit_code("\n".join(lines), result, failures, len(processed), as_json=as_json)


if __name__ == "__main__":
    run(main)
