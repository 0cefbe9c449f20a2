"""Scoring of test clips: their likelihoods, the scores of the generated audio, and the drift of long clips."""

import functools
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from midi2wave.config import DataConfig
from midi2wave.data.pairing import mismatched_pairs
from midi2wave.data.test_clips import clip_source
from midi2wave.evaluation import drift
from midi2wave.evaluation.clips import ReferenceClip
from midi2wave.evaluation.conditioning_ratios import clip_conditioning_ratios
from midi2wave.evaluation.likelihood import paired_likelihood
from midi2wave.evaluation.metrics import chroma_similarity, multi_resolution_stft, onset_agreement
from midi2wave.evaluation.noise_excess import NoiseExcess, noise_excess, quantize
from midi2wave.evaluation.results import ClipResult, Score
from midi2wave.evaluation.synthesizer import Synthesizer, generate_clips
from midi2wave.evaluation.transcription import Notes, Transcriber, note_f1, played_notes
from midi2wave.evaluation.transkun_transcriber import (
    PlayedEvents,
    TranskunTranscriber,
    event_scores,
    performed_events,
)
from midi2wave.plotting.pictures import save_picture
from midi2wave.sampling.pieces import prompt_frames
from midi2wave.sampling.synthesis import encode

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def score_clips(
    synthesizer: Synthesizer,
    clips: list[ReferenceClip],
    outputs: list[np.ndarray],
    transcriber: Transcriber | None,
    second: TranskunTranscriber | None,
) -> Iterator[ClipResult]:
    """Likelihoods and scores of each clip."""
    model, data = synthesizer.model, synthesizer.data
    start = prompt_frames(synthesizer.settings, data) / data.midi_hz
    pairs = mismatched_pairs([clip_source(clip.name) for clip in clips])
    for clip, output, k in zip(clips, outputs, pairs, strict=True):
        other = clips[k]
        everywhere, at_onsets = paired_likelihood(model, clip.truth, clip.performance, other.performance, data)
        scores = _audio_scores(output, clip, other, start, data.audio_hz)
        transcription = None
        if transcriber is not None:
            transcription, f1 = _note_scores(output, clip, other, start, data.audio_hz, transcriber)
            scores |= f1
        features = None
        if second is not None:
            detected, features = _second_transcription(output, clip, start, data.audio_hz, second)
            scores |= _event_scores(detected, clip, other, start, data.audio_hz)
        noise = _noise(output, clip, start, data, codes=not model.decoder.mixture)
        ratios = clip_conditioning_ratios(model, clip.truth, clip.performance, data)
        counts, n_codes = None, model.n_codes
        if n_codes:
            codes = encode(model, clip.performance, clip.n_frames, data)
            counts = np.bincount(codes.frames(0, clip.n_frames), minlength=n_codes)
        yield ClipResult(clip, output, everywhere, at_onsets, ratios, scores, noise, features, transcription, counts)


def _audio_scores(
    output: np.ndarray, clip: ReferenceClip, other: ReferenceClip, start: float, hz: int
) -> dict[str, Score]:
    """The scores of the audio from `start` seconds on, after the prompt."""
    own, truth, wrong = (pcm[round(start * hz) :] for pcm in (output, clip.truth, other.truth))
    pairs = ((own, truth), (truth, truth), (own, wrong))
    return {
        "chroma": Score(*(chroma_similarity(*pair, hz) for pair in pairs)),
        "onsets": Score(*(onset_agreement(*pair, hz) for pair in pairs)),
        "mrstft": Score(*(multi_resolution_stft(*pair) for pair in pairs)),
    }


def _note_scores(
    output: np.ndarray, clip: ReferenceClip, other: ReferenceClip, start: float, hz: int, transcriber: Transcriber
) -> tuple[Notes, dict[str, Score]]:
    """The transcribed notes of the output from `start` seconds on, and the F1 scores."""
    end = len(clip.truth) / hz
    notes, wrong = (played_notes(one.performance, start, end) for one in (clip, other))
    transcription, truth = (transcriber.notes(pcm, hz).between(start, end) for pcm in (output, clip.truth))
    pairs = ((notes, transcription), (notes, truth), (wrong, transcription))
    return transcription, {
        "f1": Score(*(note_f1(*pair) for pair in pairs)),
        "f1_offsets": Score(*(note_f1(*pair, with_offsets=True) for pair in pairs)),
    }


def _second_transcription(
    output: np.ndarray, clip: ReferenceClip, start: float, hz: int, second: TranskunTranscriber
) -> tuple[tuple[PlayedEvents, PlayedEvents], tuple[np.ndarray, np.ndarray]]:
    """Events of the output and of the recording from `start` seconds on, and the hidden features of both."""
    end = len(clip.truth) / hz
    (detected, features), (truth, truth_features) = (second.analyse(pcm, hz) for pcm in (output, clip.truth))
    return (detected.between(start, end), truth.between(start, end)), (features, truth_features)


def _event_scores(
    transcriptions: tuple[PlayedEvents, PlayedEvents], clip: ReferenceClip, other: ReferenceClip, start: float, hz: int
) -> dict[str, Score]:
    """The scores of the second transcriber's events of the output and of the recording."""
    end = len(clip.truth) / hz
    own, wrong = (performed_events(one.performance, start, end) for one in (clip, other))
    detected, truth = transcriptions
    measured = [event_scores(*pair) for pair in ((own, detected), (own, truth), (wrong, detected))]
    return {f"transkun_{name}": Score(*(scores[name] for scores in measured)) for name in measured[0]}


def _noise(output: np.ndarray, clip: ReferenceClip, start: float, data: DataConfig, *, codes: bool) -> NoiseExcess:
    """The noise of the audio from `start` seconds on."""
    rounded = quantize(clip.truth, data.preemphasis, codes=codes)
    first = round(start * data.audio_hz)
    return noise_excess(output[first:], clip.truth[first:], rounded[first:], data.audio_hz)


def measure_drifts(
    synthesizer: Synthesizer, clips: list[ReferenceClip], folder: Path, transcriber: Transcriber | None
) -> dict[str, drift.Drift]:
    """Generate each long clip and some seconds beyond its end, and measure its drift."""
    hz, midi_hz = synthesizer.data.audio_hz, synthesizer.data.midi_hz
    drifts: dict[str, drift.Drift] = {}
    n_tail = math.ceil(drift.TAIL_SECONDS * midi_hz)
    stopped = [drift.truncate(clip.performance, clip.n_frames / midi_hz) for clip in clips]
    extended = [
        replace(clip, performance=notes, n_frames=clip.n_frames + n_tail)
        for clip, notes in zip(clips, stopped, strict=True)
    ]
    for clip, pcm in zip(extended, generate_clips(synthesizer, extended, folder, 0), strict=True):
        drifts[clip.name] = drift.measure_drift(pcm, clip.truth, clip.performance, hz, transcriber)
        save_picture(folder / f"{clip.name}.png", functools.partial(_draw_long_clip, clip, pcm, synthesizer.data))
    return drifts


def _draw_long_clip(clip: ReferenceClip, pcm: np.ndarray, data: DataConfig) -> "Figure":
    from midi2wave.plotting.figures import clip_figure

    seconds = clip.n_frames / data.midi_hz
    return clip_figure(clip.performance, seconds, data.audio_hz, clip.truth, pcm, title=clip.name)
