"""Step 2: a MAESTRO folder and a split -> a processed folder that training reads.

    python preprocess_maestro.py -c config_makeTrain.json
    python preprocess_maestro.py -c config_makeValidation.json

Run resample_audio.py first. A recording that is done is not done again, so the same command goes on after an
interruption; one that cannot be read is listed at the end and left out.
"""

from pathlib import Path

from audio import read_pcm
from cli import Failure, finish, note, parser, progress, reason, run
from config import Config, PreprocessConfig, load_config
from dataset import Row, begin_folder, finish_folder, finished, write_recording
from errors import InputError
from maestro import Recording, inside, read_metadata, resampled_name, select_split
from midi import read_midi


def main(argv: list[str] | None = None) -> int:
    """Run the step; returns the exit code."""
    args = parser(__doc__, config="config_makeTrain.json").parse_args(argv)
    full = load_config(args.config, ("preprocess_config",), args.overrides)
    config = full.preprocess_config
    for name in ("maestro_dir", "out_dir"):
        if not getattr(config, name):
            raise InputError(f"{args.config}: preprocess_config.{name} is empty; say where that is")
    recordings = select_split(read_metadata(config.maestro_dir), config.split)
    if not recordings:
        raise InputError(f"the metadata in {config.maestro_dir} lists no recordings of split {config.split!r}")
    folder = Path(config.out_dir)
    begin_folder(folder, Config(preprocess_config=config).as_dict(), force=args.force)

    done = {recording.index: finished(folder, recording) for recording in recordings}  # may refuse: before any work
    rows, failures = [], []
    for recording in progress(recordings, len(recordings), "recording"):
        try:
            rows.append(done[recording.index] or _process(recording, config, folder))
        except InputError as error:
            failures.append(Failure(recording.audio_filename, reason(error)))
    if rows:
        finish_folder(folder, rows)
    hours, n_notes = sum(row.duration for row in rows) / 3600, sum(row.n_notes for row in rows)
    result = {"out_dir": str(folder), "recordings": len(rows), "hours": hours, "notes": n_notes}
    summary = f"{folder}: {len(rows)} recordings, {hours:.2f} h, {n_notes} notes"
    return finish(summary, result, failures, len(rows), as_json=args.as_json)


def _process(recording: Recording, config: PreprocessConfig, folder: Path) -> Row:
    """Read, check and write one recording."""
    audio_dir = config.resampled_dir or config.maestro_dir
    audio_path = inside(audio_dir, resampled_name(recording.audio_filename, config.audio_hz))
    if not audio_path.is_file():
        raise InputError(f"{audio_path} is missing; run resample_audio.py --hz {config.audio_hz} first")
    pcm = read_pcm(audio_path, config.audio_hz)
    performance = read_midi(inside(config.maestro_dir, recording.midi_filename))
    for dropped in performance.dropped:
        note(f"{recording.midi_filename}: {dropped}")
    seconds = len(pcm) / config.audio_hz
    n_notes = int((performance.onset < seconds).sum())
    if n_notes < len(performance.onset):
        late = len(performance.onset) - n_notes
        note(f"{recording.midi_filename}: {late} of its notes begin after the audio's end at {seconds:.1f} s")
    row = Row(
        index=recording.index,
        audio_filename=recording.audio_filename,
        midi_filename=recording.midi_filename,
        split=recording.split,
        year=recording.year,
        duration=seconds,
        n_samples=len(pcm),
        n_notes=n_notes,
        composer=recording.composer,
        title=recording.title,
    )
    write_recording(folder, row, pcm, performance)
    return row


if __name__ == "__main__":
    run(main)
