"""The lag of a recording to milliseconds and its growth, by the onsets in windows of the whole recording."""

from dataclasses import replace

import numpy as np

from midi2wave.data import midi_alignment
from midi2wave.midi.performance import Performance

WINDOW_SECONDS = 16.0
# The largest lag by onsets beside that by pitch, whose frames have 40 ms. Regular rhythms agree at larger ones, too.
MAX_ONSET_LAG_SECONDS = 0.25
# With such windows none of 35 right pairs is taken to drift. Of those whose MIDI is made 0.1 % slower all are refused
# that are longer than 50 s (`python -m benchmarks.recording_checks`).
MIN_ONSET_AGREEMENT = 2.5
MIN_DRIFT_WINDOWS = 4


def measure_onset_lag(
    pcm: np.ndarray, performance: Performance, lag_seconds: float, audio_hz: int
) -> tuple[float, float]:
    """The lag to milliseconds by the onsets near that by pitch, and by how much it grows from begin to end.

    Args:
        pcm: The recording, int16 [T].
        performance: Its notes.
        lag_seconds: The lag by pitch.
        audio_hz: The sample rate.

    Returns:
        The lag; that by pitch where the onsets give none, or 0 where that is so small that its frames are too long to
        tell it from none. And the growth; 0 where the onsets show none.
    """
    is_inside = performance.onset + lag_seconds >= 0
    shifted = replace(
        performance,
        onset=performance.onset[is_inside] + lag_seconds,
        offset=performance.offset[is_inside] + lag_seconds,
        pitch=performance.pitch[is_inside],
        velocity=performance.velocity[is_inside],
    )
    windows = midi_alignment.window_lags(pcm, shifted, audio_hz, WINDOW_SECONDS, MAX_ONSET_LAG_SECONDS)
    windows = [window for window in windows if window.agreement >= MIN_ONSET_AGREEMENT]
    if not windows:
        return lag_seconds if abs(lag_seconds) > midi_alignment.WARN_SECONDS else 0.0, 0.0
    offset = lag_seconds + float(np.median([window.lag_seconds for window in windows]))
    return offset, _growth([(window.centre_seconds, window.lag_seconds) for window in windows], len(pcm) / audio_hz)


def _growth(lags: list[tuple[float, float]], seconds: float) -> float:
    """By how much lags grow over a recording by the median slope; 0 if its 95 % interval holds 0.

    Args:
        lags: Time and lag of each window.
        seconds: Length of the recording.
    """
    from scipy.stats import theilslopes

    if len(lags) < MIN_DRIFT_WINDOWS:
        return 0.0
    times, values = zip(*lags, strict=True)
    slope, _, low, high = theilslopes(values, times)
    return float(slope * seconds) if low * high > 0 else 0.0
