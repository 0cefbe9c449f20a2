"""The data of a fine-tuning: resampled audio, processed folders and test clips, below the output folder."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from midi2wave.conditioning.global_conditioning import integer_columns
from midi2wave.config import Config, DataConfig, PreprocessConfig
from midi2wave.data.clip_cutting import SourceRecording, cut_clips
from midi2wave.data.maestro import SPLITS, inside, resampled_name
from midi2wave.data.preprocessing import (
    Outcomes,
    PreprocessJob,
    finish_processed_folder,
    process_pending,
    read_processed,
)
from midi2wave.data.processed_folder import begin_folder
from midi2wave.data.resample_manifest import Manifest
from midi2wave.data.resampling import ResampleJob, Sources, plan_jobs, resample_pending, select_pending
from midi2wave.data.test_clips import begin_clips, finish_clips
from midi2wave.finetuning.pieces import Piece
from midi2wave.utils.cli import Failure, log
from midi2wave.utils.errors import InputError
from midi2wave.utils.text import with_remedy

AUDIO_NAME = "audio"
DATA_NAME = "data"
CLIPS_NAMES = {"test": "clips", "validation": "validation_clips"}
RESAMPLER = "soxr_hq"
HeldOut = Literal["test", "validation"]


def resample(folder: Path, pieces: Sequence[Piece], audio_hz: int, out: Path, n_jobs: int) -> None:
    """Resample the recordings of all pieces to mono files in `out`/audio; what is done already stays.

    Raises:
        InputError: A recording cannot be read.
        OSError: The disk is full.
    """
    audio_dir = out / AUDIO_NAME
    names = list(dict.fromkeys(piece.recording.audio_filename for piece in pieces))
    planned = plan_jobs(Sources(names), folder, audio_dir, audio_hz, RESAMPLER)
    jobs = [item for item in planned if isinstance(item, ResampleJob)]
    failures = [item for item in planned if isinstance(item, Failure)]
    manifest = Manifest(audio_dir, audio_hz, RESAMPLER)
    pending, _, unusable = select_pending(jobs, manifest, force=False, verify=False)
    failures += [*unusable, *resample_pending(pending, manifest, n_jobs=n_jobs)[1]]
    _require_none(failures)


def process(folder: Path, pieces: Sequence[Piece], data: DataConfig, out: Path, n_jobs: int) -> dict[str, Any]:
    """Write a processed folder for each split below `out`/data.

    Args:
        folder: The user's folder, with the MIDI files.
        pieces: All pieces.
        data: The rates.
        out: The output folder, with the resampled audio.
        n_jobs: Recordings at once.

    Returns:
        Recordings, seconds and notes of each split, as JSON values.

    Raises:
        InputError: A split has no recording that can be read.
    """
    configs: dict[str, PreprocessConfig] = {split: _preprocess_config(folder, split, data, out) for split in SPLITS}
    jobs = [PreprocessJob(one.recording, configs[one.recording.split], one.stretch) for one in pieces]
    for config in configs.values():
        begin_folder(Path(config.out_dir), Config(preprocess_config=_portable(config, out)).as_dict(), force=False)
    outcomes: Outcomes = {job.id: read_processed(job) for job in jobs}
    for failure in process_pending([job for job in jobs if not outcomes[job.id]], outcomes, n_jobs=n_jobs):
        log(f"left out: {failure.item}: {failure.reason}")
    result: dict[str, Any] = {}
    for split, config in configs.items():
        processed = [one for job in jobs if job.config.split == split and (one := outcomes[job.id])]
        if not processed:
            raise InputError(f"{folder} has nothing usable for the {split} split; add recordings")
        finish_processed_folder(Path(config.out_dir), processed, _portable(config, out), 0)
        rows = [row for row, _ in processed]
        notes, seconds = sum(row.n_notes for row in rows), sum(row.duration for row in rows)
        result[split] = {"recordings": len(rows), "seconds": seconds, "notes": notes}
    return result


def cut_split_clips(
    folder: Path, pieces: Sequence[Piece], data: DataConfig, out: Path, split: HeldOut, clips: tuple[int, float]
) -> list[str]:
    """Cut clips of the pieces that are held out for a split into its folder below `out`.

    Args:
        folder: The user's folder, with the MIDI files.
        pieces: All pieces.
        data: The rates.
        out: The output folder, with the resampled audio.
        split: test or validation.
        clips: Number and length in seconds of the clips.

    Returns:
        The names of the clips.

    Raises:
        InputError: A recording cannot be read, or fewer than two clips can be cut.
    """
    n_clips, seconds = clips
    config = replace(
        _preprocess_config(folder, split, data, out), out_dir="", n_clips=n_clips, test_segment_length=seconds
    )
    sources = []
    for piece in pieces:
        one = piece.recording
        if one.split == split:
            audio = inside(out / AUDIO_NAME, resampled_name(one.audio_filename, data.audio_hz))
            labels = integer_columns(vars(one))
            sources.append(SourceRecording(piece.name, audio, inside(folder, one.midi_filename), labels, piece.stretch))
    failures: list[Failure] = []
    made_from = Config(preprocess_config=_portable(config, out)).as_dict()
    output = begin_clips(clips_folder(out, split), made_from, force=False)
    names = list(cut_clips(sources, config, output, failures))
    for failure in failures:
        log(f"no {split} clip of {failure.item}: {failure.reason}")
    if len(names) < 2:
        raise InputError(
            f"{len(names)} {split} clips could be cut, expected two or more; raise --hold_out, or add recordings"
        )
    finish_clips(output, names)
    return names


def clips_folder(out: Path, split: HeldOut) -> Path:
    """The folder of a split's clips."""
    return out / CLIPS_NAMES[split]


def split_folder(out: Path, split: str) -> Path:
    """The processed folder of a split."""
    return out / DATA_NAME / split


def _preprocess_config(folder: Path, split: Any, data: DataConfig, out: Path) -> PreprocessConfig:
    return PreprocessConfig(
        maestro_dir=str(folder),
        resampled_dir=str(out / AUDIO_NAME),
        split=split,
        out_dir=str(split_folder(out, split)),
        audio_hz=data.audio_hz,
        midi_hz=data.midi_hz,
    )


def _portable(config: PreprocessConfig, out: Path) -> PreprocessConfig:
    """The config for the records, relative to `out`: it may be moved, and the working folder be another one.

    The user's folder is in the record of the whole fine-tuning.
    """
    out_dir = Path(config.out_dir).relative_to(out).as_posix() if config.out_dir else ""
    return replace(config, maestro_dir="", resampled_dir=AUDIO_NAME, out_dir=out_dir)


def _require_none(failures: list[Failure]) -> None:
    """Raise InputError if a recording failed that the check took for usable."""
    if failures:
        reason = with_remedy(failures[0].reason, "mend the file or move it elsewhere")
        raise InputError(f"{failures[0].item}: {reason}")
