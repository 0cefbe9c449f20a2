"""Whether a long generation stays on its path: its level against the recording's, its end, and its last notes.

An autoregressive model hears its own errors. What goes wrong by and by does not show in a clip of four seconds.
"""

from dataclasses import dataclass, replace

import numpy as np

from midi2wave.audio.pcm import level_db
from midi2wave.evaluation.transcription import Notes, Transcriber, note_f1, played_notes
from midi2wave.midi.performance import Performance, sounding_offset

WINDOW_SECONDS = 10.0
AUDIBLE_DB = -60.0  # quieter stretches of the recording have no level that could be kept
SILENT_DB = -50.0
SILENCE_SECONDS = 5.0  # by when after the last note it should be silent
TAIL_SECONDS = SILENCE_SECONDS + 1.0  # to generate beyond a clip's end
TAIL_STEP_SECONDS = 0.25


@dataclass(frozen=True)
class Drift:
    """How one long generation went; None where there is no transcriber."""

    level_difference_db: float  # RMS of the whole against the recording's
    worst_window_db: float  # the same of the 10 s window in which it is largest, by absolute value
    tail_db: float  # RMS of the sixth second after the last note
    silent_after_seconds: float | None  # when it has fallen below -50 dBFS for good; None: not within the tail
    f1_first: float | None
    f1_last: float | None  # of the notes that begin in the last 10 s
    f1_first_ceiling: float | None  # the recording's own, since passages differ in difficulty
    f1_last_ceiling: float | None


def ending(performance: Performance, seconds: float) -> Performance:
    """A performance that stops at `seconds`: no note begins later, all keys and pedals are up from then on."""
    kept = performance.onset < seconds
    pedals = {}
    for controller, events in performance.pedals.items():
        before = events[events[:, 0] < seconds]
        pedals[controller] = np.vstack([before, [seconds, 0.0]]) if len(before) else before
    return replace(
        performance,
        onset=performance.onset[kept],
        offset=np.minimum(performance.offset[kept], seconds),
        pitch=performance.pitch[kept],
        velocity=performance.velocity[kept],
        pedals=pedals,
    )


def measure(
    output: np.ndarray, truth: np.ndarray, performance: Performance, audio_hz: int, transcriber: Transcriber | None
) -> Drift:
    """output: what was generated from `ending(performance, seconds of truth)` and TAIL_SECONDS more, int16 [T']; truth:
    the recording, int16 [T]."""
    seconds = len(truth) / audio_hz
    body, stopped = output[: len(truth)], ending(performance, seconds)
    differences = []
    for start in range(0, len(truth), round(WINDOW_SECONDS * audio_hz)):
        part = slice(start, start + round(WINDOW_SECONDS * audio_hz))
        if level_db(truth[part]) > AUDIBLE_DB:
            differences.append(level_db(body[part]) - level_db(truth[part]))
    last = min(float(sounding_offset(stopped).max(initial=0.0)), seconds)
    tail = output[round(last * audio_hz) :]
    after = round(SILENCE_SECONDS * audio_hz)
    f1 = [None] * 4
    if transcriber is not None:
        heard, ceiling = transcriber.notes(body, audio_hz), transcriber.notes(truth, audio_hz)
        f1 = [_f1(performance, sound, *part) for sound in (heard, ceiling) for part in _ends(seconds)]
    return Drift(
        level_difference_db=level_db(body) - level_db(truth),
        worst_window_db=max(differences, key=abs, default=float("nan")),
        tail_db=level_db(tail[after : after + audio_hz]),
        silent_after_seconds=_silent_after(tail, audio_hz),
        f1_first=f1[0],
        f1_last=f1[1],
        f1_first_ceiling=f1[2],
        f1_last_ceiling=f1[3],
    )


def _ends(seconds: float) -> tuple[tuple[float, float], tuple[float, float]]:
    return (0.0, min(WINDOW_SECONDS, seconds)), (max(0.0, seconds - WINDOW_SECONDS), seconds)


def _f1(performance: Performance, heard: Notes, start: float, end: float) -> float:
    return note_f1(played_notes(performance, start, end), heard.between(start, end))


def _silent_after(tail: np.ndarray, audio_hz: int) -> float | None:
    """When the level has fallen below SILENT_DB for good, in steps of TAIL_STEP_SECONDS; None if it has not."""
    step = round(TAIL_STEP_SECONDS * audio_hz)
    loud = [level_db(tail[i : i + step]) >= SILENT_DB for i in range(0, len(tail) - step + 1, step)]
    still = max((i + 1 for i, is_loud in enumerate(loud) if is_loud), default=0)
    return still * TAIL_STEP_SECONDS if still < len(loud) else None
