"""Evaluate a model: checkpoint + test clips -> scores of how well the model follows its MIDI.

    python evaluate.py -c config_evaluate.json
    python evaluate.py -c config_evaluate.json --json > scores.json

Teacher-forced: the likelihood of the recordings with their own MIDI, another clip's and none, for the same samples.
Free-running: clips generated from their MIDI alone. Each score stands beside that of the recording itself (the topline)
and that against another clip (the baseline). The F1 of the notes needs a transcriber, of which two are known: see
requirements-transcribe.txt.
With drift_dir, long clips are generated too. Clips of an earlier run are not generated again.
"""

if __name__ == "__main__":
    from midi2wave.utils import signals

    signals.exit_on_interrupt()  # Ctrl-C during the imports below needs no traceback.

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from midi2wave.config import DataConfig, EvaluateConfig, load_config
from midi2wave.evaluation.clips import ReferenceClip, load_clips, scorable_clips
from midi2wave.evaluation.report import table
from midi2wave.evaluation.transcription import INSTALL, load_transcriber
from midi2wave.utils.cli import Failure, log, make_parser, report_and_exit_code, run
from midi2wave.utils.errors import InputError

if TYPE_CHECKING:
    from midi2wave.evaluation.transkun_transcriber import TranskunTranscriber


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    args = make_parser(__doc__, config="config_evaluate.json", force="evaluate anew").parse_args(argv)
    config = load_config(args.config, ("evaluate_config",), args.overrides)
    settings = config.evaluate_config
    # PyTorch takes a second or two to import, for which neither --help nor a wrong argument should wait.
    from midi2wave.checkpoint import load_for_generation
    from midi2wave.evaluation.evaluation_folder import PAGE_NAME, RESULT_NAME, SUMMARY_NAME, evaluate_clips
    from midi2wave.sampling.engines import choose_weights

    loaded = load_for_generation(settings, config, args.config)
    weights = choose_weights(settings.sampler_weights, settings.sampler, loaded.model.decoder)
    settings = replace(settings, sampler_weights=weights)
    data = loaded.config.data_config
    if not data.conditional:
        raise InputError(
            f"{settings.model_filename} is an unconditional model: there is no MIDI that it could follow; its "
            "likelihood: inference.py with inference_config.mode=teacher_forced"
        )
    clips, failures = scorable_clips(settings, data)
    long_clips, long_failures = _long_clips(settings, data)
    failures += long_failures
    transcribers = load_transcriber(), _load_second_transcriber(settings)
    folder = Path(settings.output_dir)
    result = evaluate_clips(loaded, settings, clips, long_clips, transcribers, force=args.force)
    listen = f"\nlisten and look: {folder / PAGE_NAME}; {folder / SUMMARY_NAME}; all numbers: {folder / RESULT_NAME}"
    return report_and_exit_code(table(result) + listen, result, failures, len(clips), as_json=args.as_json)


def _long_clips(settings: EvaluateConfig, data: DataConfig) -> tuple[list[ReferenceClip], list[Failure]]:
    """The clips whose drift is measured, and those that cannot be read."""
    return load_clips(settings.drift_dir, data, settings.global_values) if settings.drift_dir else ([], [])


def _load_second_transcriber(settings: EvaluateConfig) -> "TranskunTranscriber | None":
    if not settings.second_transcriber:
        return None
    from midi2wave.evaluation.transkun_transcriber import TranskunTranscriber

    try:
        return TranskunTranscriber()
    except ImportError as error:
        log(f"no second transcriber ({error}), so none of its scores; to have it: {INSTALL}")
        return None


if __name__ == "__main__":
    run(main)
