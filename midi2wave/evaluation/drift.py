"""Drift of long generations: the level relative to the recording, the silence after the last note, and the last notes.

An autoregressive model is conditioned on its own errors. Slow changes do not show in a clip of four seconds.
"""

from dataclasses import dataclass, replace

import numpy as np

from midi2wave.audio.pcm import level_db
from midi2wave.evaluation.transcription import Notes, Transcriber, note_f1, played_notes
from midi2wave.midi.performance import Performance, sounding_offset

WINDOW_SECONDS = 10.0
# Windows of the recording below this level are not compared.
MIN_WINDOW_DB = -60.0
# The output counts as silent below this level.
SILENT_DB = -50.0
# How long after the last note it should be silent.
SILENCE_SECONDS = 5.0
# How much is generated beyond the end of a clip.
TAIL_SECONDS = SILENCE_SECONDS + 1.0
TAIL_WINDOW_SECONDS = 0.25


@dataclass(frozen=True)
class Drift:
    """Drift of one long generation; the F1 are None without a transcriber.

    Attributes:
        level_difference_db: RMS level relative to the recording.
        worst_window_db: The same in the 10 s window in which its absolute value is largest.
        tail_db: RMS level of the sixth second after the last note, in dB relative to full scale.
        silent_after_seconds: When the level has finally fallen below -50 dBFS; None: not within the tail.
        f1_first: F1 of the notes that begin in the first 10 s.
        f1_last: F1 of the notes that begin in the last 10 s.
        f1_first_topline: The same F1 of the recording, since passages differ in difficulty.
        f1_last_topline: The same of its last 10 s.
    """

    level_difference_db: float
    worst_window_db: float
    tail_db: float
    silent_after_seconds: float | None
    f1_first: float | None
    f1_last: float | None
    f1_first_topline: float | None
    f1_last_topline: float | None


def truncate(performance: Performance, seconds: float) -> Performance:
    """A performance that stops at `seconds`: no note begins later; from then on all piano keys and pedals are up."""
    before_end = performance.onset < seconds
    pedals = {}
    for controller, events in performance.pedals.items():
        before = events[events[:, 0] < seconds]
        pedals[controller] = np.vstack([before, [seconds, 0.0]]) if len(before) else before
    return replace(
        performance,
        onset=performance.onset[before_end],
        offset=np.minimum(performance.offset[before_end], seconds),
        pitch=performance.pitch[before_end],
        velocity=performance.velocity[before_end],
        pedals=pedals,
    )


def measure_drift(
    output: np.ndarray, truth: np.ndarray, performance: Performance, audio_hz: int, transcriber: Transcriber | None
) -> Drift:
    """Compare a long generation with its recording.

    Args:
        output: Audio generated from `truncate(performance, length of truth)` and TAIL_SECONDS more, int16 [T'].
        truth: The recording, int16 [T].
        performance: Its notes.
        audio_hz: Sample rate of both.
        transcriber: The transcriber for the F1, if there is one.
    """
    seconds = len(truth) / audio_hz
    body = output[: len(truth)]
    last_offset = min(float(sounding_offset(truncate(performance, seconds)).max(initial=0.0)), seconds)
    tail = output[round(last_offset * audio_hz) :]
    late = round(SILENCE_SECONDS * audio_hz)
    first_part = (0.0, min(WINDOW_SECONDS, seconds))
    last_part = (max(0.0, seconds - WINDOW_SECONDS), seconds)
    f1: list[float | None] = [None] * 4
    if transcriber is not None:
        transcriptions = transcriber.notes(body, audio_hz), transcriber.notes(truth, audio_hz)
        f1 = [_f1(performance, notes, *part) for notes in transcriptions for part in (first_part, last_part)]
    return Drift(
        level_difference_db=level_db(body) - level_db(truth),
        worst_window_db=_worst_window_db(body, truth, audio_hz),
        tail_db=level_db(tail[late : late + audio_hz]),
        silent_after_seconds=_silent_after(tail, audio_hz),
        f1_first=f1[0],
        f1_last=f1[1],
        f1_first_topline=f1[2],
        f1_last_topline=f1[3],
    )


def _worst_window_db(body: np.ndarray, truth: np.ndarray, audio_hz: int) -> float:
    """The level difference that is largest by absolute value, of all windows in which the recording is audible."""
    size = round(WINDOW_SECONDS * audio_hz)
    windows = [slice(start, start + size) for start in range(0, len(truth), size)]
    audible = [window for window in windows if level_db(truth[window]) > MIN_WINDOW_DB]
    differences = [level_db(body[window]) - level_db(truth[window]) for window in audible]
    return max(differences, key=abs, default=float("nan"))


def _f1(performance: Performance, transcription: Notes, start: float, end: float) -> float:
    return note_f1(played_notes(performance, start, end), transcription.between(start, end))


def _silent_after(tail: np.ndarray, audio_hz: int) -> float | None:
    """When the level has finally fallen below SILENT_DB, in multiples of TAIL_WINDOW_SECONDS; None if it has not."""
    size = round(TAIL_WINDOW_SECONDS * audio_hz)
    loud = [level_db(tail[i : i + size]) >= SILENT_DB for i in range(0, len(tail) - size + 1, size)]
    first_silent = max((i + 1 for i, is_loud in enumerate(loud) if is_loud), default=0)
    return first_silent * TAIL_WINDOW_SECONDS if first_silent < len(loud) else None
