"""Evaluate a model: checkpoint + test clips -> scores of how well the model follows its MIDI.

    python evaluate.py -c config_evaluate.json
    python evaluate.py -c config_evaluate.json --json > scores.json

Teacher-forced: the likelihood of the recordings with their own MIDI, another clip's and none, for the same samples.
Free-running: clips generated from their MIDI alone. Each score stands beside that of the recording itself (the topline)
and that against another clip (the baseline). The F1 of the notes needs a transcriber: see requirements-transcribe.txt.
With drift_dir, long clips are generated too. Clips of an earlier run are not generated again.
"""

import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from midi2wave import checkpoint
from midi2wave.config import Config, DataConfig, EvaluateConfig, load_config
from midi2wave.data.pairing import mismatched_pairs
from midi2wave.data.test_clips import clip_source
from midi2wave.evaluation import drift
from midi2wave.evaluation.conditioning_ratios import clip_conditioning_ratios
from midi2wave.evaluation.counterfactual import counterfactuals
from midi2wave.evaluation.likelihood import paired_likelihood
from midi2wave.evaluation.metrics import chroma_similarity, multi_resolution_stft, onset_agreement
from midi2wave.evaluation.report import clip_picture, summary_figure, table
from midi2wave.evaluation.results import ClipResult, Score, summarize
from midi2wave.evaluation.synthesizer import Synthesizer, generate_pieces
from midi2wave.evaluation.transcription import INSTALL, Notes, Transcriber, note_f1, played_notes
from midi2wave.plotting.figures import clip_figure, save_figure
from midi2wave.plotting.listening_page import ListeningClip, write_listening_page
from midi2wave.sampling.pieces import Piece, clip_pieces, prompt_frames
from midi2wave.sampling.synthesis import encode
from midi2wave.utils.atomic_files import acquire_output_dir, write_text
from midi2wave.utils.cli import Failure, log, make_parser, progress, report_and_exit_code, run
from midi2wave.utils.errors import InputError

RECORD_NAME = "evaluate.json"
RESULT_NAME = "scores.json"
SUMMARY_NAME = "summary.png"
PAGE_NAME = "index.html"
# Folder of the long clips, in the output folder.
DRIFT_NAME = "drift"
PRODUCTS = ("*.wav", "*.png", RESULT_NAME, PAGE_NAME)
OPTIONS_NOT_AFFECTING_AUDIO = (
    "test_dir",
    "output_dir",
    "batch_size",
    "device",
    "sampler_threads",
    "counterfactuals",
    "drift_dir",
)


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    args = make_parser(__doc__, config="config_evaluate.json").parse_args(argv)
    config = load_config(args.config, ("evaluate_config",), args.overrides)
    settings = config.evaluate_config
    loaded = checkpoint.load_for_generation(settings, config, args.config)
    model, data = loaded.model, loaded.config.data_config
    if not data.conditional:
        raise InputError(
            f"{settings.model_filename} is an unconditional model: there is no MIDI that it could follow; its "
            "likelihood: inference.py with inference_config.mode=teacher_forced"
        )
    pieces, failures = _test_pieces(settings, data)
    long_pieces: list[Piece] = []
    if settings.drift_dir:
        long_pieces, long_failures = clip_pieces(settings.drift_dir, data, settings.global_values)
        failures += long_failures
    transcriber = _load_transcriber()
    folder = Path(settings.output_dir)
    for out_dir, of_folder in ((folder, pieces), (folder / DRIFT_NAME, long_pieces)):
        if of_folder:
            acquire_output_dir(out_dir, RECORD_NAME, _record(settings, loaded, of_folder), PRODUCTS, force=args.force)

    synthesizer = Synthesizer(model, data, settings)
    outputs = generate_pieces(synthesizer, pieces, folder, prompt_frames(settings, data))
    clips = list(progress(_score_clips(synthesizer, pieces, outputs, transcriber), len(pieces), "clip"))
    labels = data.global_values
    effects = counterfactuals(synthesizer, data.audio_hz, labels=labels) if settings.counterfactuals else None
    drifts = _measure_drifts(synthesizer, long_pieces, folder / DRIFT_NAME, transcriber)

    result = summarize(clips, effects, drifts, transcriber.name if transcriber else None)
    result |= {"model": str(settings.model_filename), "step": loaded.step, "mode": settings.mode}
    result |= {"output_dir": str(folder)}
    blocks = {name: getattr(loaded.config, name) for name in checkpoint.MODEL_BLOCKS}
    resolved = Config(**blocks, evaluate_config=settings).as_dict()
    write_text(folder / RESULT_NAME, json.dumps({**result, "config": resolved}, indent=2) + "\n")
    _write_pictures(folder, clips, result, settings, data)
    listen = f"\nlisten and look: {folder / PAGE_NAME}; {folder / SUMMARY_NAME}; all numbers: {folder / RESULT_NAME}"
    return report_and_exit_code(table(result) + listen, result, failures, len(clips), as_json=args.as_json)


def _test_pieces(settings: EvaluateConfig, data: DataConfig) -> tuple[list[Piece], list[Failure]]:
    """The test clips that can be scored; unreadable clips and those not longer than the prompt are failures."""
    pieces, failures = clip_pieces(settings.test_dir, data, settings.global_values)
    n_prompt = prompt_frames(settings, data)
    why = f"is not longer than teacher_length = {settings.teacher_length:g} s; lower evaluate_config.teacher_length"
    failures += [Failure(piece.name, why) for piece in pieces if piece.n_frames <= n_prompt]
    pieces = [piece for piece in pieces if piece.n_frames > n_prompt]
    if len(pieces) < 2:
        raise InputError(
            f"{settings.test_dir} holds {len(pieces)} usable clips, expected two or more (each is also scored with "
            "another's MIDI); cut more with preprocess_audio.py"
        )
    return pieces, failures


def _load_transcriber() -> Transcriber | None:
    try:
        return Transcriber()
    except ImportError as error:
        log(f"no transcriber ({error}), so no F1; to have it: {INSTALL}")
        return None


def _record(settings: EvaluateConfig, loaded: checkpoint.LoadedCheckpoint, pieces: list[Piece]) -> dict[str, Any]:
    """Everything that the generated audio depends on: it identifies the results in a folder."""
    clips = {}
    for piece in pieces:  # Clips that were cut again may have the same names.
        notes = piece.performance
        events = (notes.onset, notes.offset, notes.pitch, notes.velocity, *notes.pedals.values())
        labels = "".join(notes.global_labels).encode()
        digest = hashlib.sha256(b"".join(array.tobytes() for array in (piece.truth, *events)) + labels)
        clips[piece.name] = digest.hexdigest()
    options = {name: value for name, value in vars(settings).items() if name not in OPTIONS_NOT_AFFECTING_AUDIO}
    return {
        "evaluate_config": options,
        "model": loaded.config.as_dict(),
        "step": loaded.step,
        "weights_sha256": loaded.sha256,
        "clips": clips,
    }


def _score_clips(
    synthesizer: Synthesizer, pieces: list[Piece], outputs: list[np.ndarray], transcriber: Transcriber | None
) -> Iterator[ClipResult]:
    """Likelihoods and scores of each clip."""
    model, data = synthesizer.model, synthesizer.data
    start = prompt_frames(synthesizer.settings, data) / data.midi_hz
    pairs = mismatched_pairs([clip_source(piece.name) for piece in pieces])
    for piece, output, k in zip(pieces, outputs, pairs, strict=True):
        other = pieces[k]
        everywhere, at_onsets = paired_likelihood(model, piece.truth, piece.performance, other.performance, data)
        scores = _audio_scores(output, piece, other, start, data.audio_hz)
        transcription = None
        if transcriber is not None:
            transcription, f1 = _note_scores(output, piece, other, start, data.audio_hz, transcriber)
            scores |= f1
        ratios = clip_conditioning_ratios(model, piece.truth, piece.performance, data)
        counts, n_codes = None, model.n_codes
        if n_codes:
            codes = encode(model, piece.performance, piece.n_frames, data)
            counts = np.bincount(codes.frames(0, piece.n_frames), minlength=n_codes)
        yield ClipResult(piece, output, everywhere, at_onsets, ratios, scores, transcription, counts)


def _audio_scores(output: np.ndarray, piece: Piece, other: Piece, start: float, hz: int) -> dict[str, Score]:
    """The scores of the audio from `start` seconds on, after the prompt."""
    own, truth, wrong = (pcm[round(start * hz) :] for pcm in (output, piece.truth, other.truth))
    pairs = ((own, truth), (truth, truth), (own, wrong))
    return {
        "chroma": Score(*(chroma_similarity(*pair, hz) for pair in pairs)),
        "onsets": Score(*(onset_agreement(*pair, hz) for pair in pairs)),
        "mrstft": Score(*(multi_resolution_stft(*pair) for pair in pairs)),
    }


def _note_scores(
    output: np.ndarray, piece: Piece, other: Piece, start: float, hz: int, transcriber: Transcriber
) -> tuple[Notes, dict[str, Score]]:
    """The transcribed notes of the output from `start` seconds on, and the F1 scores."""
    end = len(piece.truth) / hz
    notes, wrong = (played_notes(one.performance, start, end) for one in (piece, other))
    transcription, of_truth = (transcriber.notes(pcm, hz).between(start, end) for pcm in (output, piece.truth))
    pairs = ((notes, transcription), (notes, of_truth), (wrong, transcription))
    return transcription, {
        "f1": Score(*(note_f1(*pair) for pair in pairs)),
        "f1_offsets": Score(*(note_f1(*pair, with_offsets=True) for pair in pairs)),
    }


def _measure_drifts(
    synthesizer: Synthesizer, pieces: list[Piece], folder: Path, transcriber: Transcriber | None
) -> dict[str, drift.Drift]:
    """Generate each long clip and some seconds beyond its end, and measure its drift."""
    hz, midi_hz, drifts = synthesizer.data.audio_hz, synthesizer.data.midi_hz, {}
    n_tail = math.ceil(drift.TAIL_SECONDS * midi_hz)
    stopped = [drift.truncate(piece.performance, piece.n_frames / midi_hz) for piece in pieces]
    extended = [
        replace(piece, performance=notes, n_frames=piece.n_frames + n_tail)
        for piece, notes in zip(pieces, stopped, strict=True)
    ]
    for piece, pcm in zip(extended, generate_pieces(synthesizer, extended, folder, 0), strict=True):
        drifts[piece.name] = drift.measure_drift(pcm, piece.truth, piece.performance, hz, transcriber)
        figure = clip_figure(piece.performance, piece.n_frames / midi_hz, hz, piece.truth, pcm, title=piece.name)
        save_figure(folder / f"{piece.name}.png", figure)
    return drifts


def _write_pictures(
    folder: Path, clips: list[ClipResult], result: dict[str, Any], settings: EvaluateConfig, data: DataConfig
) -> None:
    """A picture of each clip, the summary figure, and the page with players."""
    entries, start = [], prompt_frames(settings, data) / data.midi_hz
    for clip in clips:
        name, seconds = clip.piece.name, len(clip.piece.truth) / data.audio_hz
        notes = played_notes(clip.piece.performance, start, seconds)
        scores = f"chroma {clip.scores['chroma'].value:.2f}"
        if f1 := clip.scores.get("f1"):
            scores = f"F1 {f1.value:.2f} (recording {f1.topline:.2f}), {scores}"
        figure = clip_picture(
            clip.piece,
            data.audio_hz,
            clip.output,
            notes,
            clip.transcription,
            title=f"{name}: {scores}",
            prompt_end_seconds=start or None,
        )
        save_figure(folder / f"{name}.png", figure)
        players = [("output", f"{name}.wav"), ("recording", f"{name}_truth.wav")]
        remark = f"{scores}; gap {clip.everywhere.gap:.3f} nats per sample"
        entries.append(ListeningClip(name, f"{name}.png", players, remark))
    save_figure(folder / SUMMARY_NAME, summary_figure(result))
    facts = {
        "model": f"{result['model']}, step {result['step']}",
        "mode": settings.mode,
        "seed": str(settings.seed),
        "temperature": f"{settings.temperature:g}",
        "guidance": f"{settings.guidance:g}",
        "transcriber": result["transcriber"] or "none",
    }
    write_listening_page(folder / PAGE_NAME, "midi2wave: evaluation", entries, facts)


if __name__ == "__main__":
    run(main)
