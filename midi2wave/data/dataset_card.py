"""The dataset card: a summary of a processed folder in numbers; `plotting/dataset_card.py` makes a picture of them.

Every recording has its own facts (`Facts`, stored in its {index}.json), so that the card of 200 hours is made without
reading them again. But for the versions of libraries it depends on the data alone: the same data give the same card.
"""

import math
import platform
import re
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from midi2wave.audio.pcm import FULL_SCALE, SILENCE_SECONDS, SILENCE_THRESHOLD_DB, silent_blocks
from midi2wave.data import midi_alignment
from midi2wave.data.maestro import Recording
from midi2wave.data.processed_folder import FORMAT, MAX_COUNT, MAX_SECONDS, Row
from midi2wave.midi.performance import (
    MIN_PITCH,
    N_PITCHES,
    PEDALS,
    SILENT_START_SECONDS,
    Performance,
    silent_start,
)
from midi2wave.utils.cli import count_of

# Seconds between the duration in the metadata and that of the audio.
DURATION_TOLERANCE = 0.05
LONG_SILENCE_SECONDS = 10.0
# The histogram of peak levels has so many bins, the last one up to full scale.
PEAK_BINS = 10
PEAK_BIN_DB = 3.0
N_VELOCITIES = 128


@dataclass(frozen=True)
class Facts:
    """What preprocessing measures of one recording. Counts are of the notes that begin within the audio."""

    pitches: list[int]  # notes of each key, [88]
    velocities: list[int]  # notes of each velocity, [128]
    pedal_events: int
    peak: float  # largest |amplitude|; 1 is full scale
    silent_seconds: float
    longest_silence_seconds: float
    late_ms: list[float]  # by how much the sound comes after the notes, in each window of `midi_alignment`
    midi_outlasts_seconds: float  # by how much the last event of the MIDI comes after the audio's end; 0: it does not
    dropped: list[str]  # what the MIDI reader left out
    warnings: list[str] = field(default_factory=list)


def measure_facts(recording: Recording, pcm: np.ndarray, performance: Performance, audio_hz: int) -> Facts:
    """Measure a recording and compare it with its metadata.

    Args:
        recording: Its metadata.
        pcm: Its samples, int16 [T].
        performance: Its notes and pedals.
        audio_hz: Its sample rate.
    """
    seconds = len(pcm) / audio_hz
    within = performance.onset < seconds
    alignments = midi_alignment.measure_alignments(pcm, performance, audio_hz)
    silent = silent_blocks(pcm, audio_hz)
    longest_silence = _longest_run(silent) * SILENCE_SECONDS
    pedal_ends = (float(performance.pedals[c][:, 0].max(initial=0.0)) for c in PEDALS)
    last_event = max(float(performance.offset.max()), *pedal_ends)
    warnings = []
    if abs(seconds - recording.duration) > DURATION_TOLERANCE:
        warnings.append(f"lasts {seconds:.2f} s, but {recording.duration:.2f} s according to the metadata")
    if not within.all():
        warnings.append(f"{np.count_nonzero(~within)} of its notes begin after the audio's end at {seconds:.1f} s")
    for warning in (midi_alignment.alignment_warning(alignments), midi_alignment.unchecked_warning(alignments)):
        if warning:
            warnings.append(warning)
    if performance.onset[0] > SILENT_START_SECONDS:
        warnings.append(silent_start(performance))
    if longest_silence > LONG_SILENCE_SECONDS and longest_silence > 0.5 * seconds:
        warnings.append(f"is silent for {longest_silence:.0f} of its {seconds:.0f} s")
    return Facts(
        pitches=np.bincount(performance.pitch[within] - MIN_PITCH, minlength=N_PITCHES).tolist(),
        velocities=np.bincount(performance.velocity[within], minlength=N_VELOCITIES).tolist(),
        pedal_events=sum(len(performance.pedals[c]) for c in PEDALS),
        peak=max(int(pcm.max()), -int(pcm.min())) / FULL_SCALE,
        silent_seconds=round(float(silent.sum()) * SILENCE_SECONDS, 3),
        longest_silence_seconds=round(longest_silence, 3),
        late_ms=[round(1000 * alignment.seconds, 1) for alignment in alignments],
        midi_outlasts_seconds=round(max(0.0, last_event - seconds), 3),
        dropped=list(performance.dropped),
        warnings=warnings,
    )


def _longest_run(flags: np.ndarray) -> int:
    """Length of the longest run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]])))
    return int((edges[1::2] - edges[0::2]).max(initial=0))


def make_card(rows: list[Row], facts: list[Facts], made_from: dict[str, Any], n_failed: int) -> dict[str, Any]:
    """The card of a processed folder.

    Args:
        rows: Its recordings.
        facts: The facts of each.
        made_from: The resolved config.
        n_failed: How many recordings of the split are missing.

    Returns:
        JSON values.
    """
    durations = np.array([row.duration for row in rows])
    peaks_db = [20 * math.log10(max(f.peak, 1 / FULL_SCALE)) for f in facts]
    lags_ms = [lag for f in facts for lag in f.late_ms]
    bins = np.clip(np.floor(np.array(peaks_db) / PEAK_BIN_DB).astype(int) + PEAK_BINS, 0, PEAK_BINS - 1)
    return {
        "recordings": len(rows),
        "recordings_left_out": n_failed,
        "hours": round(float(durations.sum()) / 3600, 4),
        "seconds_of_a_recording": _spread(durations),
        "composers": len({row.composer for row in rows}),
        "years": dict(sorted(Counter(str(row.year) for row in rows).items())),
        "notes": sum(row.n_notes for row in rows),
        "pedal_events": sum(f.pedal_events for f in facts),
        "pitch_histogram": {"lowest_pitch": MIN_PITCH, "notes": np.sum([f.pitches for f in facts], 0).tolist()},
        "velocity_histogram": np.sum([f.velocities for f in facts], 0).tolist(),
        "peak_dbfs": _spread(peaks_db),
        "peak_histogram": {"bin_db": PEAK_BIN_DB, "recordings": np.bincount(bins, minlength=PEAK_BINS).tolist()},
        "silence": {
            "below_dbfs": SILENCE_THRESHOLD_DB,
            "hours": round(sum(f.silent_seconds for f in facts) / 3600, 4),
            "longest_seconds": max(f.longest_silence_seconds for f in facts),
        },
        "sound_after_notes_ms": _spread(lags_ms) if lags_ms else None,
        "midi_outlasts_audio": {
            "recordings": sum(f.midi_outlasts_seconds > 0 for f in facts),
            "longest_seconds": max(f.midi_outlasts_seconds for f in facts),
        },
        "left_out_of_the_midi": _sum_dropped(facts),
        "warnings": {row.audio_filename: f.warnings for row, f in zip(rows, facts, strict=True) if f.warnings},
        "made_from": made_from,
        "versions": {
            "format": FORMAT,
            "python": platform.python_version(),
            "numpy": np.__version__,
            "soundfile": soundfile.__version__,
            "libsndfile": soundfile.__libsndfile_version__,
        },
    }


def _sum_dropped(facts: list[Facts]) -> dict[str, int]:
    """What the MIDI reader left out of all recordings, by kind."""
    counts: Counter[str] = Counter()
    for line in (line for f in facts for line in f.dropped):
        kind, _, count = line.rpartition(": ")
        counts[kind] += int(count)
    return dict(sorted(counts.items()))


def _spread(values: Any) -> dict[str, float]:
    low, median, high = np.percentile(np.asarray(values, dtype=np.float64), [0, 50, 100])
    return {"lowest": round(float(low), 2), "median": round(float(median), 2), "highest": round(float(high), 2)}


def facts_from(stored: dict[str, Any]) -> Facts:
    """Facts from what was stored of them (`dataclasses.asdict`).

    Raises:
        TypeError: They have other fields or types.
        ValueError: A value is impossible.
    """
    facts = Facts(**stored)
    lists = (facts.pitches, facts.velocities, facts.late_ms, facts.dropped, facts.warnings)
    if not all(isinstance(values, list) for values in lists) or stored.keys() != asdict(facts).keys():
        raise TypeError("not the facts of a recording")
    if not (_numbers_are_valid(facts) and _texts_are_valid(facts)):
        raise ValueError("not the facts of a recording")
    return facts


def _numbers_are_valid(facts: Facts) -> bool:
    counts = [*facts.pitches, *facts.velocities, facts.pedal_events]
    positive = [facts.silent_seconds, facts.longest_silence_seconds, facts.midi_outlasts_seconds, facts.peak]
    valid = len(facts.pitches) == N_PITCHES and len(facts.velocities) == N_VELOCITIES
    valid &= all(type(count) is int and 0 <= count < MAX_COUNT for count in counts)
    valid &= all(type(value) in (int, float) and 0 <= value < MAX_SECONDS for value in positive)
    return valid and all(type(lag) in (int, float) and abs(lag) < MAX_SECONDS for lag in facts.late_ms)


def _texts_are_valid(facts: Facts) -> bool:
    if not all(isinstance(line, str) for line in (*facts.dropped, *facts.warnings)):
        return False
    return all(re.fullmatch(r".+: [0-9]{1,12}", line) for line in facts.dropped)


def title(folder: Path, card: dict[str, Any]) -> str:
    """One line above the picture of a card."""
    recordings, notes = count_of(card["recordings"], "recording"), count_of(card["notes"], "note")
    return f"{folder.name}: {recordings}, {card['hours']:.2f} h, {notes}"
