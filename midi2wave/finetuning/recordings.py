"""The recordings of a user: pairs of audio and MIDI in a folder, and what of them can be trained on.

The checks are those of `recording_checks.py`; each problem is one line that ends with its remedy.
"""

import hashlib
from collections import defaultdict
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from midi2wave.audio.io import AUDIO_SUFFIXES, UNREAD_AUDIO, read_resampled
from midi2wave.audio.pcm import level_db
from midi2wave.audio.source import open_audio
from midi2wave.data.audio_beside_midi import audio_with_stem
from midi2wave.data.maestro import find_metadata, inside, read_metadata, require_no_nested_metadata
from midi2wave.finetuning import recording_checks
from midi2wave.finetuning.levels import LevelMeter
from midi2wave.finetuning.recording_checks import ANALYSIS_HZ, Agreement
from midi2wave.midi.performance import PEDAL_DOWN, SUSTAIN, Performance
from midi2wave.midi.reader import MIDI_SUFFIXES, SCORES, read_midi, read_parts
from midi2wave.utils.cli import count_of, format_error, log, progress
from midi2wave.utils.errors import InputError
from midi2wave.utils.file_search import FileTree, walk_folder
from midi2wave.utils.parallel import parallel_map
from midi2wave.utils.text import join_names, with_remedy

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

    In a MAESTRO folder the metadata name the pairs. In any other, files with equal stems belong together: those of one
    folder, or, if each has only one such partner, those of different folders (`audio/a.wav`, `midi/a.mid`).

    Args:
        folder: The folder.
        jobs: Pairs that are checked at once, in processes.

    Returns:
        The pairs in the order of their names; one that cannot be read is among them, with the reason.

    Raises:
        InputError: There is no such folder, or there are no pairs in it.
    """
    unmatched: list[Path] = []
    unread: list[str] = []
    if find_metadata(folder):
        pairs = _metadata_pairs(folder)
    else:
        pairs, unmatched, unread = _folder_pairs(folder)
    checked = parallel_map(partial(_check_pair, folder), pairs, n_jobs=jobs, backend="loky")
    by_files = {(pair.audio, pair.midi): pair for pair in progress(checked, len(pairs), "recording")}
    return CheckedRecordings([by_files[pair] for pair in pairs], unmatched, unread)


def _metadata_pairs(folder: Path) -> list[tuple[Path, Path]]:
    recordings = read_metadata(folder)
    return [(inside(folder, one.audio_filename), inside(folder, one.midi_filename)) for one in recordings]


def _folder_pairs(folder: Path) -> tuple[list[tuple[Path, Path]], list[Path], list[str]]:
    """The pairs below a folder, the files without a partner, and what is not read, each with the reason.

    Raises:
        InputError: There are no pairs.
    """
    require_no_nested_metadata(folder)
    tree = walk_folder(folder)
    unread = [
        f"{name.as_posix()}: {kind.kind}; {kind.remedy}"
        for kind in (UNREAD_AUDIO, SCORES)
        for name in tree.log_left_out(kind)
    ]
    for failure in tree.failures_of((*MIDI_SUFFIXES, *AUDIO_SUFFIXES)):
        log(f"left out: {failure.item} {failure.reason}")
        unread.append(f"{failure.item}: {failure.reason}")
    by_audio: dict[Path, Path] = {}
    midi_left = []
    for name in tree.select(MIDI_SUFFIXES):
        audio = audio_with_stem((folder / name).with_suffix(""), ANALYSIS_HZ)
        # Of a.mid and a.midi, the first counts: a recording must not be trained on and held out at once.
        if audio and audio not in by_audio:
            by_audio[audio] = folder / name
        else:
            midi_left.append(folder / name)
    pairs = list(by_audio.items())
    audio_left = _audio_without_midi(tree, pairs)
    far_pairs = _pairs_of_unique_stems(audio_left, midi_left)
    pairs += far_pairs
    paired = {path for pair in far_pairs for path in pair}
    unmatched = sorted(path for path in (*audio_left, *midi_left) if path not in paired)
    if not pairs:
        raise _no_pairs(folder, unmatched, unread)
    return sorted(pairs), unmatched, unread


def _audio_without_midi(tree: FileTree, pairs: list[tuple[Path, Path]]) -> list[Path]:
    """The audio files that are neither in a pair nor another form of one that is."""
    stems = {midi.with_suffix("") for _, midi in pairs}
    resampled = {audio for audio, _ in pairs}
    files = (tree.folder / name for name in tree.select(AUDIO_SUFFIXES))
    return [path for path in files if path.with_suffix("") not in stems and path not in resampled]


def _pairs_of_unique_stems(audio: list[Path], midi: list[Path]) -> list[tuple[Path, Path]]:
    """Pairs of equal stems in different folders, where no other file has the stem."""
    by_stem: dict[str, tuple[list[Path], list[Path]]] = defaultdict(lambda: ([], []))
    for number, paths in enumerate((audio, midi)):
        for path in paths:
            by_stem[path.stem][number].append(path)
    return [(sounds[0], notes[0]) for sounds, notes in by_stem.values() if len(sounds) == len(notes) == 1]


def _no_pairs(folder: Path, unmatched: list[Path], unread: list[str]) -> InputError:
    names = join_names(path.relative_to(folder).as_posix() for path in unmatched)
    has_audio = any(path.suffix.lower() in AUDIO_SUFFIXES for path in unmatched)
    if unread and not has_audio:
        return InputError(f"{folder} holds no audio that can be read: {unread[0]}")
    if unmatched:
        return InputError(
            f"{folder} holds {count_of(len(unmatched), 'audio or MIDI file')} ({names}), but no pair of audio "
            "and MIDI with equal names; rename them as NAME.wav and NAME.mid"
        )
    return InputError(f"{folder} holds no audio and no MIDI files; put pairs NAME.wav and NAME.mid into it")


def _check_pair(folder: Path, paths: tuple[Path, Path]) -> CheckedPair:
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
        problems = recording_checks.audio_problems(pcm, meter)
        return pair(problems=[*(problem.text for problem in problems), _reading_problem(error)])
    problems, agreement = recording_checks.check_contents(pcm, meter, performance, parts)
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
