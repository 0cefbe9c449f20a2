"""Cut test clips of fixed length out of pairs of audio and MIDI, with their events and a picture.

    python preprocess_audio.py -d test -c config_makeTest.json

The pairs come from a split of MAESTRO (preprocess_config.maestro_dir) or from any folder (preprocess_config.audio_dir)
whose audio and MIDI files have equal names, side by side or in different folders (audio/a.wav, midi/a.mid); audio at
another rate is looked for as NAME_16000.wav. The seed chooses the positions among those where notes begin. Each
recording gives one clip, then each a second one, and so on; the clips of a recording do not overlap. With a larger
n_clips the first clips stay the same.
"""

if __name__ == "__main__":
    from midi2wave.utils import signals

    signals.exit_on_interrupt()  # Ctrl-C during the imports below needs no traceback.

from pathlib import Path

from midi2wave.conditioning.global_conditioning import integer_columns
from midi2wave.config import Config, PreprocessConfig, load_config
from midi2wave.data.clip_cutting import SourceRecording, cut_clips
from midi2wave.data.maestro import inside, read_metadata, resampled_name, select_split
from midi2wave.data.test_clips import CLIPS_RECORD_NAME, begin_clips, clip_source, finish_clips
from midi2wave.recordings.pairs import find_pairs
from midi2wave.utils.cli import (
    Failure,
    count_of,
    format_error,
    make_parser,
    path_argument,
    progress,
    report_and_exit_code,
    run,
)
from midi2wave.utils.errors import InputError
from midi2wave.utils.folder_lock import lock_own_folder


def main(argv: list[str] | None = None) -> int:
    """Cut the clips; returns the exit code. InputError where nothing can be done."""
    parser = make_parser(
        __doc__, config="config_makeTest.json", force="remove the clips in the folder and cut new ones"
    )
    parser.add_argument("-d", "--dir", type=path_argument, required=True, help="where the clips go")
    args = parser.parse_args(argv)
    config = load_config(args.config, ("preprocess_config",), args.overrides).preprocess_config
    failures: list[Failure] = []
    sources = _maestro_sources(config, failures) if config.maestro_dir else _folder_sources(config, failures)
    with lock_own_folder(args.dir, CLIPS_RECORD_NAME):
        output = begin_clips(args.dir, Config(preprocess_config=config).as_dict(), force=args.force)
        names = list(progress(cut_clips(sources, config, output, failures), config.n_clips, "clip"))
        if names:
            finish_clips(output, names)
    result = {"dir": str(args.dir), "clips": names}
    summary = (
        f"{args.dir}: {len(names)} of {count_of(config.n_clips, 'clip')} of {config.test_segment_length:g} s, from "
        f"{count_of(len(set(map(clip_source, names))), 'recording')}"
    )
    return report_and_exit_code(summary, result, failures, len(names), as_json=args.as_json)


def _maestro_sources(config: PreprocessConfig, failures: list[Failure]) -> list[SourceRecording]:
    """Audio and MIDI of a split; recordings whose names lead out of the folder are added to `failures`."""
    recordings = select_split(read_metadata(config.maestro_dir), config.split)
    if not recordings:
        raise InputError(f"the metadata in {config.maestro_dir} lists no recordings of split {config.split!r}")
    audio_dir = config.resampled_dir or config.maestro_dir
    sources = []
    for recording in recordings:
        try:
            audio_path = inside(audio_dir, resampled_name(recording.audio_filename, config.audio_hz))
            midi_path = inside(config.maestro_dir, recording.midi_filename)
            name = Path(recording.audio_filename).stem
            sources.append(SourceRecording(name, audio_path, midi_path, integer_columns(vars(recording))))
        except InputError as error:
            failures.append(Failure(recording.audio_filename, format_error(error)))
    return sources


def _folder_sources(config: PreprocessConfig, failures: list[Failure]) -> list[SourceRecording]:
    """Audio and MIDI with equal stems below audio_dir; a resampled NAME_16000.wav is preferred to NAME.

    Folders and links that cannot be opened are added to `failures`.
    """
    if not config.audio_dir:
        raise InputError("preprocess_config: give maestro_dir, or audio_dir with pairs of audio and MIDI")
    folder = Path(config.audio_dir)
    if not folder.is_dir():
        raise InputError(f"preprocess_config.audio_dir: {folder} is not a folder")
    resampled_dir = Path(config.resampled_dir) if config.resampled_dir else None
    if resampled_dir and not resampled_dir.is_dir():
        raise InputError(f"preprocess_config.resampled_dir: {resampled_dir} is not a folder")
    listing = find_pairs(folder, config.audio_hz, resampled_dir)
    failures += listing.failures
    if not failures:
        listing.require_pairs()
    listing.log_left_out()
    return [SourceRecording(midi.stem, audio, midi) for audio, midi in listing.pairs]


if __name__ == "__main__":
    run(main)
