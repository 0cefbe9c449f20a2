"""Which recordings of a folder can be trained on; the checks are those of `problems.py`."""

import hashlib
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from midi2wave.audio.io import read_resampled
from midi2wave.audio.pcm import level_db
from midi2wave.audio.source import open_audio
from midi2wave.data.maestro import find_metadata, inside, read_metadata, require_no_nested_metadata
from midi2wave.midi.performance import PEDAL_DOWN, SUSTAIN, Performance
from midi2wave.midi.reader import read_midi, read_parts
from midi2wave.recordings.levels import LevelMeter
from midi2wave.recordings.pairs import FolderPairs, MatchedFiles, find_pairs
from midi2wave.recordings.problems import ANALYSIS_HZ, Agreement, audio_problems, check_contents
from midi2wave.utils.cli import format_error, log, progress
from midi2wave.utils.errors import InputError
from midi2wave.utils.parallel import parallel_map
from midi2wave.utils.text import with_remedy

# Length of the stretch that the report shows, and the part of a recording in which it is chosen.
EXCERPT_SECONDS = 8.0
EXCERPT_SEARCH_SECONDS = 120.0


@dataclass(frozen=True)
class CheckedPair:
    """A recording and its MIDI file, with what was found.

    Attributes:
        audio: The audio file.
        midi: The MIDI file.
        name: The audio file relative to the folder, without suffix.
        seconds: Length of the audio; 0 if it cannot be read.
        offset_seconds: By how much the sound comes after the notes: to be added to the times of the MIDI file. Measured
            also where it is small; 0 where nothing is known.
        problems: What is wrong, each one line with its remedy. A usable pair can have some.
        usable: Whether the pair can be trained on.
        audio_hz: Sample rate of the file.
        n_channels: Number of its channels.
        level_db: RMS level in dB relative to full scale.
        peak_db: Peak level in dB relative to full scale.
        n_notes: Number of notes.
        pitch_range: Lowest and highest MIDI pitch; None without notes.
        pedal_share: Part of the time from the first to the last note for which the sustain pedal is down.
        agreement: How well notes and sound agree; None if that was not measured.
        excerpt_seconds: Beginning of a dense stretch of EXCERPT_SECONDS, by the clock of the audio.
        notes_sha256: Checksum of pitches and velocities in their order, by which copies of a recording are found; "" if
            the MIDI file cannot be read.
    """

    audio: Path
    midi: Path
    name: str
    seconds: float = 0.0
    offset_seconds: float = 0.0
    problems: list[str] = field(default_factory=list)
    usable: bool = False
    audio_hz: int = 0
    n_channels: int = 0
    level_db: float = 0.0
    peak_db: float = 0.0
    n_notes: int = 0
    pitch_range: tuple[int, int] | None = None
    pedal_share: float = 0.0
    agreement: Agreement | None = None
    excerpt_seconds: float = 0.0
    notes_sha256: str = ""


@dataclass(frozen=True)
class CheckedRecordings:
    """What a folder holds.

    Attributes:
        pairs: All pairs.
        unmatched: The audio and MIDI files without a partner.
        unread: Audio and scores in formats that are not read, and what cannot be opened, each with the reason.
    """

    pairs: list[CheckedPair]
    unmatched: list[Path] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)


def check_recordings(folder: Path, *, jobs: int = 1) -> CheckedRecordings:
    """Find the pairs of audio and MIDI in a folder and check each.

    In a MAESTRO folder the metadata name the pairs, in any other `find_pairs` finds them.

    Args:
        folder: The folder.
        jobs: Pairs that are checked at once, in processes.

    Returns:
        The pairs in the order of the audio files; one that cannot be read is among them, with the reason.

    Raises:
        InputError: There is no such folder, or there are no pairs in it.
    """
    if find_metadata(folder):
        listing = FolderPairs(folder, _metadata_pairs(folder))
    else:
        require_no_nested_metadata(folder)
        listing = find_pairs(folder, ANALYSIS_HZ, prefer_originals=True)
        for failure in listing.failures:
            log(f"left out: {failure.item} {failure.reason}")
        listing.require_pairs()
        listing.log_left_out()
    pairs = sorted(listing.pairs, key=lambda pair: pair.audio)
    checked = parallel_map(partial(_check_pair, folder), pairs, n_jobs=jobs, backend="loky")
    by_files = {(pair.audio, pair.midi): pair for pair in progress(checked, len(pairs), "recording")}
    unread = [*listing.unread, *(f"{failure.item}: {failure.reason}" for failure in listing.failures)]
    return CheckedRecordings([by_files[pair] for pair in pairs], listing.unmatched, unread)


def _metadata_pairs(folder: Path) -> list[MatchedFiles]:
    recordings = read_metadata(folder)
    return [MatchedFiles(inside(folder, one.audio_filename), inside(folder, one.midi_filename)) for one in recordings]


def _check_pair(folder: Path, paths: MatchedFiles) -> CheckedPair:
    """Read and check one pair; worker processes import this function by its name."""
    audio, midi = paths
    pair = partial(CheckedPair, audio, midi, audio.relative_to(folder).with_suffix("").as_posix())
    try:
        with open_audio(audio) as source:
            audio_hz, n_channels = source.samplerate, source.channels
        meter = LevelMeter()
        pcm = read_resampled(audio, ANALYSIS_HZ, meter.add)
    except (InputError, OSError) as error:
        return pair(problems=[_reading_problem(error)])
    pair = partial(
        pair,
        seconds=meter.n_frames / audio_hz,
        audio_hz=audio_hz,
        n_channels=n_channels,
        level_db=level_db(pcm),
        peak_db=meter.peak_db,
    )
    try:
        performance = read_midi(midi)
        parts = read_parts(midi)
    except (InputError, OSError) as error:
        problems = audio_problems(pcm, meter)
        return pair(problems=[*(problem.text for problem in problems), _reading_problem(error)])
    problems, agreement = check_contents(pcm, meter, performance, parts)
    # What forbids a pair often causes the rest.
    problems = [problem for problem in problems if problem.is_fatal] or problems
    offset = agreement.offset_seconds if agreement else 0.0
    return pair(
        offset_seconds=offset,
        problems=[problem.text for problem in problems],
        usable=not any(problem.is_fatal for problem in problems),
        n_notes=len(performance.onset),
        pitch_range=(int(performance.pitch.min()), int(performance.pitch.max())),
        pedal_share=_pedal_share(performance),
        agreement=agreement,
        excerpt_seconds=_excerpt_start(performance.onset + offset, len(pcm) / ANALYSIS_HZ),
        notes_sha256=hashlib.sha256(performance.pitch.tobytes() + performance.velocity.tobytes()).hexdigest(),
    )


def _reading_problem(error: InputError | OSError) -> str:
    """Why a file cannot be read, with a remedy."""
    return with_remedy(format_error(error).rstrip("."), "copy or export it again")


def _pedal_share(performance: Performance) -> float:
    events = performance.pedals[SUSTAIN]
    first, last = float(performance.onset[0]), float(performance.offset.max())
    times = np.concatenate([[first], events[:, 0].clip(first, last), [last]])
    is_down = np.concatenate([[False], events[:, 1] >= PEDAL_DOWN])
    return float(np.diff(times)[is_down].sum() / max(last - first, 1e-9))


def _excerpt_start(onset: np.ndarray, seconds: float) -> float:
    """Where most notes begin within EXCERPT_SECONDS, near the beginning."""
    starts = np.arange(0.0, max(0.0, min(EXCERPT_SEARCH_SECONDS, seconds) - EXCERPT_SECONDS) + 1.0)
    counts = np.searchsorted(onset, starts + EXCERPT_SECONDS) - np.searchsorted(onset, starts)
    return float(starts[counts.argmax()])
