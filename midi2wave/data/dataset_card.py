"""The dataset card: what a processed folder holds, in numbers, and a picture of them (`plotting.dataset_card`).

Every recording brings its own facts (`Facts`, kept in its {index}.json), so that the card of 200 hours is made without
reading them again. It holds nothing of the moment or the machine but the versions: the same data give the same card.
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
from midi2wave.data.processed_folder import FORMAT, LONGEST_SECONDS, MOST_COUNTED, Row
from midi2wave.midi.performance import MIN_PITCH, N_PITCHES, PEDALS, Performance

DURATION_TOLERANCE = 0.05  # seconds between the metadata and the audio
LONG_SILENCE_SECONDS = 10.0
PEAK_BINS = 10  # of the histogram of peak levels, each 3 dB wide, the last one up to full scale
PEAK_BIN_DB = 3.0


@dataclass(frozen=True)
class Facts:
    """What preprocessing found out about one recording. Counts are of the notes that begin within the audio."""

    pitches: list[int]  # notes of each key, [88]
    velocities: list[int]  # notes of each velocity, [128]
    pedal_events: int
    peak: float  # largest |amplitude|; 1 is full scale
    silent_seconds: float
    longest_silence_seconds: float
    late_ms: list[float]  # by how much the sound comes after the notes, in each window that `alignment` looked at
    midi_outlasts_seconds: float  # by how much the last event of the MIDI comes after the audio's end; 0: it does not
    dropped: list[str]  # what the MIDI reader left out
    warnings: list[str] = field(default_factory=list)


def measure_facts(recording: Recording, pcm: np.ndarray, performance: Performance, audio_hz: int) -> Facts:
    """Measure a recording: pcm int16 [T] and its performance, against its metadata."""
    seconds = len(pcm) / audio_hz
    played = performance.onset < seconds
    found = midi_alignment.alignments(pcm, performance, audio_hz)
    silent = silent_blocks(pcm, audio_hz)
    longest = _longest_run(silent) * SILENCE_SECONDS
    last_event = max(
        float(performance.offset.max()), *(float(performance.pedals[c][:, 0].max(initial=0.0)) for c in PEDALS)
    )
    warnings = []
    if abs(seconds - recording.duration) > DURATION_TOLERANCE:
        warnings.append(f"lasts {seconds:.2f} s, but {recording.duration:.2f} s according to the metadata")
    if not played.all():
        warnings.append(f"{np.count_nonzero(~played)} of its notes begin after the audio's end at {seconds:.1f} s")
    if words := midi_alignment.verdict(found):
        warnings.append(words)
    if longest > LONG_SILENCE_SECONDS and longest > 0.5 * seconds:
        warnings.append(f"is silent for {longest:.0f} of its {seconds:.0f} s")
    return Facts(
        pitches=np.bincount(performance.pitch[played] - MIN_PITCH, minlength=N_PITCHES).tolist(),
        velocities=np.bincount(performance.velocity[played], minlength=128).tolist(),
        pedal_events=sum(len(performance.pedals[c]) for c in PEDALS),
        peak=max(int(pcm.max()), -int(pcm.min())) / FULL_SCALE,
        silent_seconds=round(float(silent.sum()) * SILENCE_SECONDS, 3),
        longest_silence_seconds=round(longest, 3),
        late_ms=[round(1000 * a.seconds, 1) for a in found],
        midi_outlasts_seconds=round(max(0.0, last_event - seconds), 3),
        dropped=list(performance.dropped),
        warnings=warnings,
    )


def _longest_run(flags: np.ndarray) -> int:
    """Length of the longest run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]])))
    return int((edges[1::2] - edges[0::2]).max(initial=0))


def make_card(rows: list[Row], all_facts: list[Facts], made_from: dict[str, Any], failed: int) -> dict[str, Any]:
    """The card of a processed folder, as plain JSON values."""
    durations = np.array([row.duration for row in rows])
    peaks_db = [20 * math.log10(max(f.peak, 1 / FULL_SCALE)) for f in all_facts]
    late = [lag for f in all_facts for lag in f.late_ms]
    dropped: Counter[str] = Counter()
    for line in (line for f in all_facts for line in f.dropped):
        what, _, count = line.rpartition(": ")
        dropped[what] += int(count)
    bins = np.clip(np.floor(np.array(peaks_db) / PEAK_BIN_DB).astype(int) + PEAK_BINS, 0, PEAK_BINS - 1)
    return {
        "recordings": len(rows),
        "recordings_left_out": failed,
        "hours": round(float(durations.sum()) / 3600, 4),
        "seconds_of_a_recording": _spread(durations),
        "composers": len({row.composer for row in rows}),
        "years": dict(sorted(Counter(str(row.year) for row in rows).items())),
        "notes": sum(row.n_notes for row in rows),
        "pedal_events": sum(f.pedal_events for f in all_facts),
        "pitch_histogram": {"lowest_pitch": MIN_PITCH, "notes": np.sum([f.pitches for f in all_facts], 0).tolist()},
        "velocity_histogram": np.sum([f.velocities for f in all_facts], 0).tolist(),
        "peak_dbfs": _spread(peaks_db),
        "peak_histogram": {"bin_db": PEAK_BIN_DB, "recordings": np.bincount(bins, minlength=PEAK_BINS).tolist()},
        "silence": {
            "below_dbfs": SILENCE_THRESHOLD_DB,
            "hours": round(sum(f.silent_seconds for f in all_facts) / 3600, 4),
            "longest_seconds": max(f.longest_silence_seconds for f in all_facts),
        },
        "sound_after_notes_ms": _spread(late) if late else None,
        "midi_outlasts_audio": {
            "recordings": sum(f.midi_outlasts_seconds > 0 for f in all_facts),
            "longest_seconds": max(f.midi_outlasts_seconds for f in all_facts),
        },
        "left_out_of_the_midi": dict(sorted(dropped.items())),
        "warnings": {row.audio_filename: f.warnings for row, f in zip(rows, all_facts, strict=True) if f.warnings},
        "made_from": made_from,
        "versions": {
            "format": FORMAT,
            "python": platform.python_version(),
            "numpy": np.__version__,
            "soundfile": soundfile.__version__,
            "libsndfile": soundfile.__libsndfile_version__,
        },
    }


def _spread(values: Any) -> dict[str, float]:
    low, median, high = np.percentile(np.asarray(values, dtype=np.float64), [0, 50, 100])
    return {"lowest": round(float(low), 2), "median": round(float(median), 2), "highest": round(float(high), 2)}


def facts_from(stored: dict[str, Any]) -> Facts:
    """Facts as they were stored (`dataclasses.asdict`). Raises TypeError or ValueError if they are none."""
    made = Facts(**stored)
    lists = (made.pitches, made.velocities, made.late_ms, made.dropped, made.warnings)
    if not all(isinstance(values, list) for values in lists) or stored.keys() != asdict(made).keys():
        raise TypeError("not the facts of a recording")
    counts = [*made.pitches, *made.velocities, made.pedal_events]
    seconds = [made.silent_seconds, made.longest_silence_seconds, made.midi_outlasts_seconds]
    right = len(made.pitches) == N_PITCHES and len(made.velocities) == 128
    right &= all(type(count) is int and 0 <= count < MOST_COUNTED for count in counts)
    right &= all(type(each) in (int, float) and 0 <= each < LONGEST_SECONDS for each in (*seconds, made.peak))
    right &= all(type(lag) in (int, float) and abs(lag) < LONGEST_SECONDS for lag in made.late_ms)
    right &= all(isinstance(line, str) for line in (*made.dropped, *made.warnings))
    if not (right and all(re.fullmatch(r".+: [0-9]{1,12}", line) for line in made.dropped)):
        raise ValueError("not the facts of a recording")
    return made


def title(folder: Path, numbers: dict[str, Any]) -> str:
    """One line for the picture."""
    return f"{folder.name}: {numbers['recordings']} recordings, {numbers['hours']:.2f} h, {numbers['notes']} notes"
