"""The folder of an evaluation: generated clips, scores, pictures, page (`evaluate.py`)."""

import contextlib
import functools
import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from midi2wave.checkpoint import MODEL_BLOCKS, LoadedCheckpoint
from midi2wave.config import Config, DataConfig, EvaluateConfig, migrate_record
from midi2wave.evaluation.clips import ReferenceClip
from midi2wave.evaluation.counterfactual import counterfactuals
from midi2wave.evaluation.results import ClipResult, summarize
from midi2wave.evaluation.scoring import measure_drifts, score_clips
from midi2wave.evaluation.synthesizer import Synthesizer, generate_clips
from midi2wave.evaluation.transcription import Notes, Transcriber, played_notes
from midi2wave.evaluation.transkun_transcriber import TranskunTranscriber
from midi2wave.plotting.listening_page import ListeningClip, write_listening_page
from midi2wave.plotting.pictures import save_picture
from midi2wave.sampling.pieces import prompt_frames
from midi2wave.utils.atomic_files import require_writable, write_text
from midi2wave.utils.cli import progress
from midi2wave.utils.errors import InputError
from midi2wave.utils.folder_lock import lock_own_folder
from midi2wave.utils.output_folder import OutputFolder, Product

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RECORD_NAME = "evaluate.json"
RESULT_NAME = "scores.json"
SUMMARY_NAME = "summary.png"
PAGE_NAME = "index.html"
# Folder of the long clips, in the output folder.
DRIFT_NAME = "drift"
SHARED_NAMES = (RESULT_NAME, SUMMARY_NAME, PAGE_NAME)
# The weights are identified by their checksum, wherever they lie.
OPTIONS_NOT_AFFECTING_AUDIO = (
    "model_filename",
    "test_dir",
    "output_dir",
    "batch_size",
    "device",
    "sampler_threads",
    "counterfactuals",
    "drift_dir",
    "second_transcriber",
)


def evaluate_clips(
    loaded: LoadedCheckpoint,
    settings: EvaluateConfig,
    clips: list[ReferenceClip],
    long_clips: list[ReferenceClip],
    transcribers: tuple[Transcriber | None, TranskunTranscriber | None],
    *,
    force: bool = False,
) -> dict[str, Any]:
    """Generate and score clips in `settings.output_dir`; those of an earlier call are not generated again.

    Args:
        loaded: The model.
        settings: The settings of the evaluation.
        clips: The test clips, two or more.
        long_clips: The clips whose drift is measured.
        transcribers: The first and the second one, None where it is not installed.
        force: Whether results of other settings in the folder are replaced.

    Returns:
        The scores, as written to scores.json.

    Raises:
        InputError: The folder holds something else.
        OSError: A result cannot be written, which is checked first.
    """
    folder = Path(settings.output_dir)
    with contextlib.ExitStack() as locks:
        for out_dir, of_folder in ((folder, clips), (folder / DRIFT_NAME, long_clips)):
            if of_folder:
                locks.enter_context(lock_own_folder(out_dir, RECORD_NAME))
                _acquire(out_dir, _record(settings, loaded, of_folder), of_folder, force=force)
        return _evaluate(loaded, settings, clips, long_clips, transcribers)


def _acquire(folder: Path, record: dict[str, Any], clips: list[ReferenceClip], *, force: bool) -> None:
    """Make a folder the place of the clips.

    Raises:
        InputError: It is refused.
        OSError: A result cannot be written.
    """
    output = OutputFolder(
        folder,
        RECORD_NAME,
        record,
        force=force,
        force_effect="evaluates anew and removes no files but those of its clips",
        shared=SHARED_NAMES,
        migrate=_migrate,
        former=_former_clips,
    )
    if refused := output.begin({clip.name: _clip_files(clip.name) for clip in clips}):
        raise InputError(next(iter(refused.values())))
    require_writable(folder, [*SHARED_NAMES, *(file for clip in clips for file in _clip_files(clip.name).files)])


def _migrate(record: dict[str, Any]) -> dict[str, Any]:
    """A record of an earlier version, whose options can include some that do not affect the audio."""
    record = migrate_record(record)
    options = record.get("evaluate_config")
    if isinstance(options, dict):
        record["evaluate_config"] = _affecting_audio(options)
    return record


def _affecting_audio(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name not in OPTIONS_NOT_AFFECTING_AUDIO}


def _clip_files(name: str) -> Product:
    return Product((f"{name}.wav", f"{name}_truth.wav", f"{name}.png"))


def _former_clips(_folder: Path, record: dict[str, Any]) -> dict[str, Product]:
    """The clips of an evaluation by an earlier version, whose record names them but not their files."""
    clips = record.get("clips")
    return {name: _clip_files(name) for name in clips} if isinstance(clips, dict) else {}


def _evaluate(
    loaded: LoadedCheckpoint,
    settings: EvaluateConfig,
    clips: list[ReferenceClip],
    long_clips: list[ReferenceClip],
    transcribers: tuple[Transcriber | None, TranskunTranscriber | None],
) -> dict[str, Any]:
    """Generate and score the clips, and write scores, pictures and page; returns the scores."""
    model, data, folder = loaded.model, loaded.config.data_config, Path(settings.output_dir)
    transcriber, second = transcribers
    synthesizer = Synthesizer(model, data, settings)
    outputs = generate_clips(synthesizer, clips, folder, prompt_frames(settings, data))
    clip_results = list(progress(score_clips(synthesizer, clips, outputs, transcriber, second), len(clips), "clip"))
    labels = data.global_values
    effects = counterfactuals(synthesizer, data.audio_hz, labels=labels) if settings.counterfactuals else None
    drifts = measure_drifts(synthesizer, long_clips, folder / DRIFT_NAME, transcriber)

    names = [one.name if one else None for one in transcribers]
    result = summarize(clip_results, effects, drifts, names[0], names[1])
    result |= {"model": str(settings.model_filename), "step": loaded.step, "mode": settings.mode}
    result |= {"output_dir": str(folder)}
    _write_scores(folder, result, loaded.config, settings)
    _write_pictures(folder, clip_results, result, settings, data)
    return result


def _write_scores(folder: Path, result: dict[str, Any], model_config: Config, settings: EvaluateConfig) -> None:
    """Write the result with the config of the model and of the evaluation."""
    blocks = {name: getattr(model_config, name) for name in MODEL_BLOCKS}
    resolved = Config(**blocks, evaluate_config=settings).as_dict()
    write_text(folder / RESULT_NAME, json.dumps({**result, "config": resolved}, indent=2) + "\n")


def _record(settings: EvaluateConfig, loaded: LoadedCheckpoint, clips: list[ReferenceClip]) -> dict[str, Any]:
    """Everything that the generated audio depends on: it identifies the results in a folder."""
    hashes = {}
    for clip in clips:  # Clips that were cut again may have the same names.
        notes = clip.performance
        events = (notes.onset, notes.offset, notes.pitch, notes.velocity, *notes.pedals.values())
        labels = "".join(notes.global_labels).encode()
        digest = hashlib.sha256(b"".join(array.tobytes() for array in (clip.truth, *events)) + labels)
        hashes[clip.name] = digest.hexdigest()
    return {
        "evaluate_config": _affecting_audio(vars(settings)),
        "model": loaded.config.as_dict(),
        "step": loaded.step,
        "weights_sha256": loaded.sha256,
        "clips": hashes,
    }


def _write_pictures(
    folder: Path, clip_results: list[ClipResult], result: dict[str, Any], settings: EvaluateConfig, data: DataConfig
) -> None:
    """A picture of each clip, the summary figure, and the page with players."""
    entries, start = [], prompt_frames(settings, data) / data.midi_hz
    for clip_result in clip_results:
        clip = clip_result.clip
        notes = played_notes(clip.performance, start, len(clip.truth) / data.audio_hz)
        scores = f"chroma {clip_result.scores['chroma'].value:.2f}"
        if f1 := clip_result.scores.get("f1"):
            scores = f"F1 {f1.value:.2f} (recording {f1.topline:.2f}), {scores}"
        title = f"{clip.name}: {scores}"
        save_picture(folder / f"{clip.name}.png", functools.partial(_draw_clip, clip_result, notes, title, start, data))
        players = [("output", f"{clip.name}.wav"), ("recording", f"{clip.name}_truth.wav")]
        remark = f"{scores}; gap {clip_result.everywhere.gap:.3f} nats per sample"
        entries.append(ListeningClip(clip.name, f"{clip.name}.png", players, remark))
    save_picture(folder / SUMMARY_NAME, functools.partial(_draw_summary, result))
    facts = {
        "model": f"{result['model']}, step {result['step']}",
        "mode": settings.mode,
        "seed": str(settings.seed),
        "temperature": f"{settings.temperature:g}",
        "sampling": settings.sampling,
        "guidance": f"{settings.guidance:g}",
        "transcriber": result["transcriber"] or "none",
        "second transcriber": result["second_transcriber"] or "none",
    }
    write_listening_page(folder / PAGE_NAME, "midi2wave: evaluation", entries, facts)


def _draw_clip(clip_result: ClipResult, notes: Notes, title: str, start: float, data: DataConfig) -> "Figure":
    from midi2wave.evaluation.figures import clip_picture

    return clip_picture(
        clip_result.clip,
        data.audio_hz,
        clip_result.output,
        notes,
        clip_result.transcription,
        title=title,
        prompt_end_seconds=start or None,
    )


def _draw_summary(result: dict[str, Any]) -> "Figure":
    from midi2wave.evaluation.figures import summary_figure

    return summary_figure(result)
