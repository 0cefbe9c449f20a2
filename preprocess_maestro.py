"""Step 2: a MAESTRO folder and a split -> a processed folder that training reads.

    python preprocess_maestro.py -c config_makeTrain.json
    python preprocess_maestro.py -c config_makeValidation.json
    python preprocess_maestro.py -c config_makeAll.json -j 4   # data/train, data/validation and data/test at once

Run resample_audio.py first. A recording that is done is not done again unless its files have changed, so the same
command goes on after an interruption; one that cannot be read is listed at the end and left out. What the folder holds
is said in its dataset_card.json and shown in dataset_card.png; what looks wrong (a MIDI that does not fit the sound, or
outlasts it) is told as a warning and noted there.
"""

import contextlib
import errno
import json
import re
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from midi2wave.audio.io import read_pcm
from midi2wave.config import Config, PreprocessConfig, load_config
from midi2wave.data import dataset_card
from midi2wave.data.dataset_card import Facts
from midi2wave.data.maestro import SPLITS, Recording, inside, read_metadata, resampled_name, select_split
from midi2wave.data.processed_folder import (
    CARD_NAME,
    CARD_PICTURE_NAME,
    RECORD_NAME,
    Row,
    begin_folder,
    finish_folder,
    finished,
    product_names,
    write_recording,
)
from midi2wave.data.resample_manifest import state
from midi2wave.midi.reader import read_midi
from midi2wave.utils import parallel
from midi2wave.utils.atomic_files import remove_leftovers, require_own_dir, write_text
from midi2wave.utils.cli import Failure, format_error, log, make_parser, progress_in_hours, report_and_exit_code, run
from midi2wave.utils.errors import InputError
from midi2wave.utils.folder_lock import only_run

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # the errno of an OSError that ends the run

Done = tuple[Row, Facts]


@dataclass(frozen=True)
class Job:
    """One recording to do, with the config of its split."""

    recording: Recording
    config: PreprocessConfig

    @property
    def folder(self) -> Path:
        return Path(self.config.out_dir)

    @property
    def key(self) -> tuple[Path, int]:
        """What tells it apart, also after a journey to another process."""
        return self.folder, self.recording.index


def main(argv: list[str] | None = None) -> int:
    """Run the step; returns the exit code."""
    options = make_parser(__doc__, config="config_makeTrain.json")
    parallel.add_arguments(options)
    args = options.parse_args(argv)
    parallel.check_arguments(args)
    if args.force and args.shard:
        raise InputError("--force with --shard: every shard would remove what the others made; run it once without")
    config = load_config(args.config, ("preprocess_config",), args.overrides).preprocess_config
    for name in ("maestro_dir", "out_dir"):
        if not getattr(config, name):
            raise InputError(f"{args.config}: preprocess_config.{name} is empty; say where that is")
    jobs = _jobs(config)
    folders = {job.folder: job.config for job in jobs}
    with contextlib.ExitStack() as locks:
        for folder, made_from in folders.items():
            require_own_dir(folder, RECORD_NAME)
            locks.enter_context(only_run(folder, parallel.shard_name(args.shard)))
            begin_folder(folder, Config(preprocess_config=made_from).as_dict(), force=args.force)
        known = {job.key: _finished(job) for job in jobs}  # may refuse: before any work
        pending = [job for job in parallel.select_shard(jobs, args.shard) if not known[job.key]]
        for folder in folders:
            indices = [job.recording.index for job in pending if job.folder == folder]
            remove_leftovers(folder, product_names(indices, shared=not args.shard))
        failures = []
        for job, outcome in _with_progress(
            parallel.parallel_map(_try, pending, n_jobs=args.jobs, backend=args.backend), pending
        ):
            if isinstance(outcome, str):
                failures.append(Failure(job.recording.audio_filename, outcome))
                continue
            known[job.key] = outcome
            for remark in (*outcome[1].dropped, *outcome[1].warnings):
                log(f"{job.recording.audio_filename}: {remark}")
        failures.sort(key=lambda failure: failure.item)
        if args.shard:  # other shards have gone on meanwhile
            known |= {job.key: _finished(job) for job in jobs if not known[job.key]}
        if args.shard and sum(map(bool, known.values())) + len(failures) < len(jobs):
            log("other shards are not done: the table and the card are written by the last one, or without --shard")
        else:
            for folder, made_from in folders.items():
                done = [known[job.key] for job in jobs if job.folder == folder and known[job.key]]
                _finish(folder, done, made_from, sum(job.folder == folder for job in jobs) - len(done))
    return _report(config, folders, known, failures, as_json=args.as_json)


def _jobs(config: PreprocessConfig) -> list[Job]:
    """The recordings of the split; split "all" is three folders, each as if its split had been asked for alone."""
    recordings, jobs = read_metadata(config.maestro_dir), []
    for split in SPLITS if config.split == "all" else [config.split]:
        own = config if config.split != "all" else replace(config, split=split, out_dir=f"{config.out_dir}/{split}")
        jobs += [Job(recording, own) for recording in select_split(recordings, split)]
    if not jobs:
        raise InputError(f"the metadata in {config.maestro_dir} lists no recordings of split {config.split!r}")
    return jobs


def _paths(job: Job) -> tuple[Path, Path]:
    """Where the audio and the MIDI lie. Raises InputError for a name that leads out of the folder."""
    config, recording = job.config, job.recording
    audio_dir = config.resampled_dir or config.maestro_dir
    audio_path = inside(audio_dir, resampled_name(recording.audio_filename, config.audio_hz))
    return audio_path, inside(config.maestro_dir, recording.midi_filename)


def _finished(job: Job) -> Done | None:
    """What is known of a recording that is done already, made from the files as they are now."""
    sources = {}
    for name, path in zip(("audio", "midi"), _paths_or_none(job), strict=False):
        with contextlib.suppress(OSError):
            sources[name] = list(state(path))
    stored = finished(job.folder, job.recording, sources)
    with contextlib.suppress(TypeError, ValueError):
        return (stored[0], dataset_card.facts_from(stored[1])) if stored else None
    return None


def _paths_or_none(job: Job) -> tuple[Path, ...]:
    try:
        return _paths(job)
    except InputError:
        return ()


def _with_progress(outcomes, pending: list[Job]):
    return progress_in_hours(
        outcomes,
        total=sum(job.recording.duration for job in pending),
        share=lambda outcome: outcome[0].recording.duration,
        seconds=lambda outcome: 0.0 if isinstance(outcome[1], str) else outcome[1][0].duration,
    )


def _try(job: Job) -> tuple[Job, Done | str]:
    """Do one recording; returns it with what came out, or with the reason why nothing did."""
    try:
        return job, _process(job)
    except OSError as error:
        if error.errno in NO_ROOM:  # nor for the recordings after it
            raise
        return job, format_error(error)
    except InputError as error:
        return job, format_error(error)


def _process(job: Job) -> Done:
    """Read, check and write one recording."""
    config, recording = job.config, job.recording
    audio_path, midi_path = _paths(job)
    if not audio_path.is_file():
        raise InputError(f"{audio_path} is missing; run resample_audio.py --hz {config.audio_hz} first")
    sources = {"audio": list(state(audio_path))}
    pcm = read_pcm(audio_path, config.audio_hz)
    performance = read_midi(midi_path)
    sources["midi"] = list(state(midi_path))
    facts = dataset_card.facts(recording, pcm, performance, config.audio_hz)
    row = Row(
        index=recording.index,
        audio_filename=recording.audio_filename,
        midi_filename=recording.midi_filename,
        split=recording.split,
        year=recording.year,
        duration=len(pcm) / config.audio_hz,
        n_samples=len(pcm),
        n_notes=sum(facts.pitches),
        composer=recording.composer,
        title=recording.title,
    )
    write_recording(job.folder, row, pcm, performance, asdict(facts), sources)
    return row, facts


def _finish(folder: Path, done: list[Done], made_from: PreprocessConfig, failed: int) -> None:
    """Write the table and the card of a folder, if it holds anything."""
    if not done:
        return
    rows, facts = [row for row, _ in done], [facts for _, facts in done]
    numbers = dataset_card.card(rows, facts, Config(preprocess_config=made_from).as_dict(), failed)
    text = json.dumps(numbers, indent=1, ensure_ascii=False) + "\n"
    text = re.sub(r"\[[\d\s.,-]*\]", lambda counts: " ".join(counts[0].split()), text)  # a histogram on one line
    card, picture = folder / CARD_NAME, folder / CARD_PICTURE_NAME
    same = card.is_file() and picture.is_file() and card.read_bytes() == text.encode()
    if not same:
        # Importing matplotlib takes half a second, which a rerun need not wait for.
        from midi2wave.plotting.dataset_card import dataset_card_figure
        from midi2wave.plotting.figures import save_figure

        save_figure(picture, dataset_card_figure(numbers, dataset_card.title(folder, numbers)))
        write_text(card, text)
    finish_folder(folder, rows)


def _report(
    config: PreprocessConfig,
    folders: dict[Path, Any],
    known: dict[tuple[Path, int], Done | None],
    failures: list[Failure],
    *,
    as_json: bool,
) -> int:
    """Print the outcome and return the exit code."""
    done = [(folder, *outcome) for (folder, _), outcome in known.items() if outcome]
    splits = {}
    for folder, made_from in folders.items():
        rows = [row for place, row, _ in done if place == folder]
        hours = sum(row.duration for row in rows) / 3600
        numbers = {"recordings": len(rows), "hours": hours, "notes": sum(row.n_notes for row in rows)}
        splits[made_from.split] = {"out_dir": str(folder), **numbers}
    warnings = {row.audio_filename: facts.warnings for _, row, facts in done if facts.warnings}
    total = {key: sum(split[key] for split in splits.values()) for key in ("recordings", "hours", "notes")}
    result = {"out_dir": config.out_dir, **total, "splits": splits, "warnings": warnings}
    lines = [
        f"{s['out_dir']}: {s['recordings']} recordings, {s['hours']:.2f} h, {s['notes']} notes" for s in splits.values()
    ]
    if warnings:
        lines.append(f"{len(warnings)} recordings with warnings, see {CARD_NAME}")
    return report_and_exit_code("\n".join(lines), result, failures, len(done), as_json=as_json)


if __name__ == "__main__":
    run(main)
