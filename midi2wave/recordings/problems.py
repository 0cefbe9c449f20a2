"""What can be wrong with a recording and its MIDI file, by measures whose limits lie between right and wrong pairs.

`python -m benchmarks.recording_checks` counts the right pairs that they refuse and the wrong ones that they miss.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from midi2wave.audio.pcm import level_db, silent_blocks
from midi2wave.data import midi_alignment
from midi2wave.midi.keyboard import DRUM_NOTES
from midi2wave.midi.performance import Performance, last_sound_seconds
from midi2wave.midi.reader import Part
from midi2wave.recordings import pitch_matching
from midi2wave.recordings.levels import N_BINS, LevelMeter
from midi2wave.recordings.onset_lag import measure_onset_lag
from midi2wave.recordings.pitch_matching import WindowMatch
from midi2wave.utils.cli import count_of
from midi2wave.utils.text import join_names

# The rate at which recordings are checked: nothing above 8 kHz is needed.
ANALYSIS_HZ = 16000
MIN_SECONDS = 20.0

SILENT_PEAK_DB = -60.0
QUIET_PEAK_DB = -30.0
MAX_SILENT_SHARE = 0.95
# The mean of channels without any relation has 1; of a channel and its inverse, 0.
MIN_CANCELLATION = 0.1
# Clipped samples pile up at the peak: so many times as many as in a range below that is equally wide.
CLIPPING_RATIO = 3.0
CLIPPING_TOP = 0.97
CLIPPING_BELOW = (0.91, 0.94)
MIN_CLIPPED_SAMPLES = 40
# Where more are clipped, distortion is audible throughout.
MAX_CLIPPED_SHARE = 1e-3

# Right pairs have 0.45 or more, excerpts of 20 s of them 0.24; wrong ones up to 0.16.
MIN_CORRELATION = 0.2
# Right pairs are above, those with a second performance in the sound or in the notes below.
FULL_CORRELATION = 0.4
# Another transposition has to be better by this factor: octaves agree with each other to some degree.
TRANSPOSITION_FACTOR = 1.1
# Passages of 64 notes have 0.23 or more in their own sound and 0.08 or less in that of another piece; of 16 notes, the
# ranges overlap (`python -m benchmarks.recording_checks`).
MIN_PART_NOTES = 64
MIN_PART_CORRELATION = 0.12
SEMITONES = (-24, *range(-12, 13), 24)
# Offsets up to this are corrected.
MAX_OFFSET_SECONDS = 60.0
WINDOW_SECONDS = 16.0
WINDOW_SEARCH_SECONDS = 1.5
MIN_WINDOW_CORRELATION = 0.25
# In a window with fewer onsets, most of the sound is decay, which all harmonies share.
MIN_WINDOW_ONSETS = 12
CHORD_SECONDS = 0.03
# Lags of windows are uncertain by some 20 ms, and wrong by 100 ms here and there; their slope is that uncertain, too.
MIN_WINDOW_DRIFT_SECONDS = 0.12
MAX_WINDOW_DEVIATION_SECONDS = 0.15
# Tempi at which a pair that does not agree is tried again: steps of half a percent, and ratios of sample rates.
STRETCH_RATIOS = tuple(sorted({*np.arange(0.85, 1.15, 0.005).round(3).tolist(), 44.1 / 48, 48 / 44.1, 0.5, 2.0}))
STRETCH_SECONDS = 24.0
# Tempi that differ by less count as the same: the lag shows them.
NEAR_TEMPO = 0.01
STRETCH_FACTOR = 1.3
MIN_STRETCHED_CORRELATION = 0.25

MAX_MIDI_OVERHANG_SECONDS = 5.0
MAX_SOUND_OVERHANG_SECONDS = 10.0
# The sound after the last note counts if it is louder than this, relative to the music.
OVERHANG_DB = -30.0
MAX_FOREIGN_SHARE = 0.02
PIANO_PROGRAMS = range(8)


class Problem(NamedTuple):
    """A problem in one line, with its remedy, and whether it forbids training on the pair."""

    text: str
    is_fatal: bool


@dataclass(frozen=True)
class Agreement:
    """How well notes and sound agree.

    Attributes:
        correlation: Pearson's correlation of the spectra of the sound and of the notes: 0 by chance, about 0.5 for a
            piano and its MIDI.
        offset_seconds: By how much the sound comes after the notes; 0 if they do not agree.
        semitones: By how much the sound is higher than the notes.
        tempo_ratio: How many seconds of the sound a second of the notes takes.
        drift_seconds: By how much the lag grows from the first to the last note.
        foreign_parts: Names of the parts of the MIDI file that are not in the sound.
        mismatched_seconds: Stretches of the sound (beginning and end) that do not agree although the rest does.
    """

    correlation: float
    offset_seconds: float = 0.0
    semitones: int = 0
    tempo_ratio: float = 1.0
    drift_seconds: float = 0.0
    foreign_parts: tuple[str, ...] = ()
    mismatched_seconds: tuple[tuple[float, float], ...] = ()

    @property
    def is_good(self) -> bool:
        """Whether the notes are those of the sound."""
        return self.correlation >= MIN_CORRELATION


def check_contents(
    pcm: np.ndarray, meter: LevelMeter, performance: Performance, parts: list[Part]
) -> tuple[list[Problem], Agreement | None]:
    """All problems of a pair that could be read, and the agreement of its notes with its sound.

    Args:
        pcm: The mean of the channels at ANALYSIS_HZ, int16 [T].
        meter: What was measured of the audio file.
        performance: The notes.
        parts: The same notes by track and channel.

    Returns:
        The problems; and the agreement, None if the sound cannot be compared.
    """
    problems = audio_problems(pcm, meter)
    agreement = None
    if not any(problem.is_fatal for problem in problems):
        agreement = measure_agreement(pcm, performance, parts)
        problems += agreement_problems(agreement)
        problems += length_problems(pcm, performance, agreement)
    return problems + midi_problems(performance, parts), agreement


def audio_problems(pcm: np.ndarray, meter: LevelMeter) -> list[Problem]:
    """Problems of a recording by itself.

    Args:
        pcm: The mean of its channels at ANALYSIS_HZ, int16 [T].
        meter: What was measured of the file.
    """
    problems = []
    seconds = len(pcm) / ANALYSIS_HZ
    if seconds < MIN_SECONDS:
        text = f"it has {seconds:.1f} s, too short to be checked and trained on; give {MIN_SECONDS:.0f} s or more"
        problems.append(Problem(text, is_fatal=True))
    silent_share = float(silent_blocks(pcm, ANALYSIS_HZ).mean()) if seconds > 1 else 0.0
    if meter.peak_db < SILENT_PEAK_DB:
        text = f"it is silent (peak {meter.peak_db:.0f} dBFS); check cable, input and export, and record again"
        problems.append(Problem(text, is_fatal=True))
    elif meter.n_channels > 1 and meter.cancellation < MIN_CANCELLATION:
        text = "its channels cancel each other out in the mean; invert the polarity of one, or export one channel"
        problems.append(Problem(text, is_fatal=True))
    elif meter.peak_db < QUIET_PEAK_DB:
        text = f"its peak is at {meter.peak_db:.0f} dBFS, very low; amplify all recordings by the same gain"
        problems.append(Problem(text, is_fatal=False))
    elif silent_share > MAX_SILENT_SHARE:
        text = f"it is silent for {100 * silent_share:.0f} % of its time; cut the silence off, or record again"
        problems.append(Problem(text, is_fatal=True))
    if meter.n_above and meter.n_above > MAX_CLIPPED_SHARE * meter.counts.sum():
        excess = f"{meter.n_above} samples are above full scale, at most by {meter.peak_db:.1f} dB"
        text = f"{excess}; export all recordings with {math.ceil(meter.peak_db)} dB less gain"
        problems.append(Problem(text, is_fatal=True))
    elif n_clipped := count_clipped(meter):
        text = f"it is clipped: {n_clipped} samples lie at its peak; record again with less gain"
        problems.append(Problem(text, is_fatal=n_clipped > MAX_CLIPPED_SHARE * meter.counts.sum()))
    return problems


def count_clipped(meter: LevelMeter) -> int:
    """The number of samples at the peak, if they pile up there, else 0."""
    if meter.peak_db < QUIET_PEAK_DB:  # The counts are too coarse.
        return 0
    peak = meter.peak * N_BINS
    n_top = int(meter.counts[int(peak * CLIPPING_TOP) :].sum())
    low, high = (int(peak * part) for part in CLIPPING_BELOW)
    n_below = int(meter.counts[low:high].sum())
    return n_top if n_top >= MIN_CLIPPED_SAMPLES and n_top > CLIPPING_RATIO * n_below else 0


def measure_agreement(pcm: np.ndarray, performance: Performance, parts: list[Part]) -> Agreement:
    """Compare a recording with its notes.

    Args:
        pcm: The recording at ANALYSIS_HZ, int16 [T].
        performance: The notes.
        parts: The same notes by track and channel.
    """
    sound = pitch_matching.sound_spectrogram(pcm, ANALYSIS_HZ)
    notes_seconds = last_sound_seconds(performance) + 1.0
    notes = pitch_matching.note_spectrogram(performance, notes_seconds)
    match = pitch_matching.best_match(sound, notes, SEMITONES)
    semitones = match.semitones if match.correlation > TRANSPOSITION_FACTOR * match.untransposed else 0
    if semitones != match.semitones:
        match = pitch_matching.best_match(sound, notes)
    if match.correlation < FULL_CORRELATION and (stretched := _stretched_agreement(sound, notes)):
        return stretched
    if match.correlation < MIN_CORRELATION:
        return Agreement(match.correlation)
    if semitones:
        return Agreement(match.correlation, match.lag_seconds, semitones)
    windows = pitch_matching.window_matches(sound, notes, match.lag_seconds, WINDOW_SECONDS, WINDOW_SEARCH_SECONDS)
    onset = performance.onset + match.lag_seconds
    windows = [window for window in windows if _n_onsets(onset, window) >= MIN_WINDOW_ONSETS]
    good = [window for window in windows if window.correlation >= MIN_WINDOW_CORRELATION]
    offset, drift = measure_onset_lag(pcm, performance, match.lag_seconds, ANALYSIS_HZ)
    if abs(drift) <= midi_alignment.WARN_SECONDS:  # A large one is beyond the search of the onsets.
        drift = _drift(good)
    return Agreement(
        match.correlation,
        offset,
        drift_seconds=drift,
        foreign_parts=_foreign_parts(sound, parts, notes_seconds, match.lag_seconds),
        mismatched_seconds=_mismatched(windows, match.lag_seconds, drift),
    )


def _stretched_agreement(sound: np.ndarray, notes: np.ndarray) -> Agreement | None:
    """The agreement at another tempo, if it is clearly better there."""
    n_frames = round(STRETCH_SECONDS * pitch_matching.FRAME_HZ)
    start = max(0, len(sound) // 2 - n_frames // 2)
    by_ratio = pitch_matching.stretched_matches(sound[start : start + n_frames], notes, STRETCH_RATIOS)
    ratio = max(by_ratio, key=lambda ratio: by_ratio[ratio].correlation)
    best = by_ratio[ratio]
    near = max(match.correlation for other, match in by_ratio.items() if abs(other - 1) <= NEAR_TEMPO)
    if abs(ratio - 1) <= NEAR_TEMPO or best.correlation < max(STRETCH_FACTOR * near, MIN_STRETCHED_CORRELATION):
        return None
    return Agreement(best.correlation, 0.0, best.semitones, ratio)


def _n_onsets(onset: np.ndarray, window: WindowMatch) -> int:
    """The number of different onsets in a window; those of a chord are one."""
    ends = window.centre_seconds - WINDOW_SECONDS / 2, window.centre_seconds + WINDOW_SECONDS / 2
    first, last = np.searchsorted(onset, ends)
    return int(np.count_nonzero(np.diff(onset[first:last], prepend=-np.inf) > CHORD_SECONDS))


def _drift(windows: list[WindowMatch]) -> float:
    """By how much the lag grows from the first to the last window, by the median slope; 0 if that is uncertain."""
    from scipy.stats import theilslopes

    if len(windows) < 3:
        return 0.0
    centres = [window.centre_seconds for window in windows]
    slope = theilslopes([window.lag_seconds for window in windows], centres)[0]
    drift = float(slope * (centres[-1] - centres[0]))
    return drift if abs(drift) > MIN_WINDOW_DRIFT_SECONDS else 0.0


def _mismatched(windows: list[WindowMatch], lag_seconds: float, drift: float) -> tuple[tuple[float, float], ...]:
    """The stretches in which the notes are not those of the sound, or are at another lag."""
    half = WINDOW_SECONDS / 2
    limit = MAX_WINDOW_DEVIATION_SECONDS + abs(drift)
    stretches: list[tuple[float, float]] = []
    for window in windows:
        is_good = window.correlation >= MIN_CORRELATION and abs(window.lag_seconds - lag_seconds) <= limit
        if is_good:
            continue
        start, end = window.centre_seconds - half, window.centre_seconds + half
        if stretches and stretches[-1][1] >= start:
            stretches[-1] = stretches[-1][0], end
        else:
            stretches.append((start, end))
    return tuple(stretches)


def _foreign_parts(sound: np.ndarray, parts: list[Part], seconds: float, lag_seconds: float) -> tuple[str, ...]:
    """The parts whose notes do not sound. Those with few notes within the sound are not judged."""
    if len(parts) < 2:
        return ()
    lag = round(lag_seconds * pitch_matching.FRAME_HZ)
    foreign = []
    for part in parts:
        times = part.performance.onset + lag_seconds
        n_notes = np.count_nonzero((times >= 0) & (times < len(sound) / pitch_matching.FRAME_HZ))
        if n_notes >= MIN_PART_NOTES:
            correlation = pitch_matching.correlation_of_part(sound, part.performance, seconds, lag)
            if correlation < MIN_PART_CORRELATION:
                foreign.append(part_name(part))
    return tuple(foreign)


def part_name(part: Part) -> str:
    """A part in words: track and channel as users count them, and the number of notes."""
    notes = count_of(len(part.performance.onset), "note")
    return f"track {part.track + 1}, channel {part.channel + 1} ({notes})"


def agreement_problems(agreement: Agreement) -> list[Problem]:
    """Problems of the notes with the sound."""
    if not agreement.is_good:
        text = f"its notes are not those of the sound (agreement {agreement.correlation:.2f}, expected 0.4 or more)"
        return [Problem(f"{text}; give the MIDI file of this recording", is_fatal=True)]
    if agreement.tempo_ratio != 1:
        return [_tempo_problem(agreement)]
    if agreement.semitones:
        return [_transposition_problem(agreement.semitones)]
    problems = []
    if agreement.foreign_parts:
        parts = join_names(agreement.foreign_parts)
        text = f"notes that are not in the sound: {parts}; remove them from the MIDI file"
        problems.append(Problem(text, is_fatal=True))
    elif agreement.correlation < FULL_CORRELATION:
        text = (
            f"notes and sound agree only in part ({agreement.correlation:.2f}, expected 0.4 or more); listen whether "
            "other instruments are in the sound, or notes of another performance in the MIDI file"
        )
        problems.append(Problem(text, is_fatal=False))
    problems += _time_problems(agreement)
    return problems


def _transposition_problem(semitones: int) -> Problem:
    distance = "an octave" if abs(semitones) == 12 else count_of(abs(semitones), "semitone")
    direction = "lower" if semitones > 0 else "higher"
    return Problem(
        f"its notes are {distance} {direction} than the sound; transpose the MIDI file by {semitones:+d} semitones",
        is_fatal=True,
    )


def _tempo_problem(agreement: Agreement) -> Problem:
    ratio = agreement.tempo_ratio
    text = f"the sound is about {100 * abs(ratio - 1):.0f} % {'slower' if ratio > 1 else 'faster'} than the notes"
    if agreement.semitones:
        remedy = "its sample rate is stated wrongly, or the tape ran at another speed: correct the audio file"
    else:
        remedy = "give the MIDI file that was recorded with this sound, not one with another tempo"
    return Problem(f"{text}; {remedy}", is_fatal=True)


def _time_problems(agreement: Agreement) -> list[Problem]:
    """Problems of offset, drift and stretches that do not agree."""
    problems = []
    offset = agreement.offset_seconds
    if abs(offset) > midi_alignment.WARN_SECONDS:
        amount = f"{1000 * abs(offset):.0f} ms" if abs(offset) < 10 else f"{abs(offset):.0f} s"
        text = f"the sound is {amount} {'after' if offset > 0 else 'before'} the notes"
        is_fatal = abs(offset) > MAX_OFFSET_SECONDS
        remedy = "cut the beginning of the longer file off" if is_fatal else "this is corrected, nothing is to be done"
        problems.append(Problem(f"{text}; {remedy}", is_fatal))
    if abs(agreement.drift_seconds) > midi_alignment.WARN_SECONDS:
        text = (
            f"the lag of the sound changes by {1000 * agreement.drift_seconds:+.0f} ms from first to last note; "
            "record sound and MIDI with one clock, stretch one of them, or cut both where one of them has a gap"
        )
        problems.append(Problem(text, is_fatal=True))
    elif agreement.mismatched_seconds:
        stretches = join_names(f"{start:.0f} to {end:.0f} s" for start, end in agreement.mismatched_seconds)
        text = f"notes and sound do not agree from {stretches}; cut this out of both, or give the MIDI of this take"
        problems.append(Problem(text, is_fatal=True))
    return problems


def length_problems(pcm: np.ndarray, performance: Performance, agreement: Agreement) -> list[Problem]:
    """Problems of notes without sound and sound without notes.

    Args:
        pcm: The recording at ANALYSIS_HZ, int16 [T].
        performance: The notes.
        agreement: Of both.
    """
    if not agreement.is_good or agreement.tempo_ratio != 1:
        return []
    seconds, offset = len(pcm) / ANALYSIS_HZ, agreement.offset_seconds
    problems = []
    late = performance.onset + offset > seconds
    if late.any() and (overhang := float(performance.onset[-1]) + offset - seconds) > MAX_MIDI_OVERHANG_SECONDS:
        text = f"the MIDI file is {overhang:.0f} s longer than the sound ({count_of(int(late.sum()), 'note')})"
        problems.append(Problem(f"{text}; those notes are left out, unless you give the whole recording", False))
    early = performance.onset + offset < -midi_alignment.WARN_SECONDS
    if early.any():
        text = f"before the sound begins, the MIDI file has {count_of(int(early.sum()), 'note')}"
        problems.append(Problem(f"{text}; give the whole recording, or cut that off", False))
    first, last = float(performance.onset[0]) + offset, last_sound_seconds(performance) + offset
    inside = pcm[max(0, round(first * ANALYSIS_HZ)) : round(last * ANALYSIS_HZ)]
    before = pcm[: max(0, round((first - 1) * ANALYSIS_HZ))]
    after = pcm[round((last + 2) * ANALYSIS_HZ) :]
    for name, part in (("before the first", before), ("after the last", after)):
        if len(part) > MAX_SOUND_OVERHANG_SECONDS * ANALYSIS_HZ and level_db(part) > level_db(inside) + OVERHANG_DB:
            text = f"the sound goes on for {len(part) / ANALYSIS_HZ:.0f} s {name} note of the MIDI file"
            problems.append(Problem(f"{text}; cut it off, or give the MIDI file of the whole", is_fatal=True))
    return problems


def midi_problems(performance: Performance, parts: list[Part]) -> list[Problem]:
    """Problems of the notes by themselves: drums and other instruments."""
    problems = []
    n_notes = len(performance.onset)
    n_drums = next((int(line.rpartition(": ")[2]) for line in performance.dropped if line.startswith(DRUM_NOTES)), 0)
    if n_drums > MAX_FOREIGN_SHARE * n_notes:
        text = (
            f"{count_of(n_drums, 'note')} of drums beside {n_notes} of the piano; give a recording of the piano alone"
        )
        problems.append(Problem(text, is_fatal=True))
    others = [part for part in parts if part.program not in PIANO_PROGRAMS]
    n_others = sum(len(part.performance.onset) for part in others)
    if n_others > MAX_FOREIGN_SHARE * n_notes:
        import pretty_midi

        names = join_names(dict.fromkeys(pretty_midi.program_to_instrument_name(part.program) for part in others))
        text = f"{count_of(n_others, 'note')} of {n_notes} are of other instruments ({names})"
        is_mixed = len(others) < len(parts)
        remedy = "give a recording of the piano alone" if is_mixed else "if it is a piano, nothing is to be done"
        problems.append(Problem(f"{text}; {remedy}", is_fatal=is_mixed))
    return problems
