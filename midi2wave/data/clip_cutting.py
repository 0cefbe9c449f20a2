"""Test clips cut out of pairs of audio and MIDI (`preprocess_audio.py`)."""

import functools
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from midi2wave.audio.io import read_pcm
from midi2wave.config import PreprocessConfig
from midi2wave.data.preprocessing import Stretch, cut_stretch
from midi2wave.data.test_clips import N_DRAWS, choose_start, clip_files, clip_name, write_clip
from midi2wave.midi.performance import CLIP_MARGIN_SECONDS, Performance, clip
from midi2wave.midi.reader import read_performance
from midi2wave.plotting.pictures import save_picture
from midi2wave.utils.cli import Failure, count_of, item_failure, log
from midi2wave.utils.errors import InputError
from midi2wave.utils.output_folder import OutputFolder
from midi2wave.utils.text import join_names

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class SourceRecording:
    """Audio and MIDI of one performance.

    Attributes:
        name: The name of the recording.
        audio: The file of the audio.
        midi: The file of the MIDI.
        global_labels: The labels COLUMN=VALUE that the metadata contain of it.
        stretch: The part that clips are cut from; None: all of it.
    """

    name: str
    audio: Path
    midi: Path
    global_labels: tuple[str, ...] = ()
    stretch: Stretch | None = None


def cut_clips(
    recordings: list[SourceRecording], config: PreprocessConfig, output: OutputFolder, failures: list[Failure]
) -> Iterator[str]:
    """Cut a clip out of each recording in turn, until there are enough.

    Args:
        recordings: The recordings.
        config: Number and length of the clips, and the seed.
        output: Where the clips are written.
        failures: Recordings that cannot be used are added.

    Yields:
        The names of the clips.
    """
    read = functools.lru_cache(maxsize=1)(_read)  # A single recording is read once for all its clips.
    rng = np.random.default_rng(config.seed)
    waiting: deque[tuple[SourceRecording, list[float]]] = deque(
        (recordings[i], []) for i in rng.permutation(len(recordings))
    )
    n_clips, full = 0, []
    while waiting and n_clips < config.n_clips:
        recording, starts = waiting.popleft()
        draw = int(rng.integers(N_DRAWS))  # Also of a recording that fails: the others' clips do not depend on it.
        try:
            pcm, performance = read(recording, config.audio_hz)
            possible = _clip_starts(performance, len(pcm), config)
            start = choose_start(possible, starts, config.test_segment_length, draw, rng)
            if start is None:
                full.append(recording.name)
                continue
            name = _cut(recording, pcm, performance, start, config, output, n_clips)
        except (InputError, OSError) as error:
            failures.append(item_failure(str(recording.audio), error))
            continue
        yield name
        n_clips += 1
        waiting.append((recording, [*starts, start]))
    if full:
        log(
            f"no room for one more clip of {config.test_segment_length:g} s beside the others in "
            f"{count_of(len(full), 'recording')} ({join_names(full)}); {n_clips} of {count_of(config.n_clips, 'clip')}"
        )


def _read(recording: SourceRecording, audio_hz: int) -> tuple[np.ndarray, Performance]:
    """The samples and the notes of a recording."""
    pcm, performance = read_pcm(recording.audio, audio_hz), read_performance(recording.midi)
    if recording.stretch:
        pcm, performance = cut_stretch(pcm, performance, recording.stretch, audio_hz, CLIP_MARGIN_SECONDS)
    return pcm, replace(performance, global_labels=recording.global_labels)


def _cut(
    recording: SourceRecording,
    pcm: np.ndarray,
    performance: Performance,
    start: float,
    config: PreprocessConfig,
    output: OutputFolder,
    number: int,
) -> str:
    """Cut the clip that begins at `start` seconds out of a recording and write it; returns its name."""
    length = config.test_segment_length
    first = round(start * config.audio_hz)
    samples = pcm[first : first + round(length * config.audio_hz)]
    events = clip(performance, start, start + length, margin=CLIP_MARGIN_SECONDS)
    name = clip_name(number, recording.name, start)
    if refused := output.begin({name: clip_files(name)}):
        raise InputError(refused[name])
    write_clip(output.path, name, samples, events, config.audio_hz)
    title = f"{recording.name}, from {start:.1f} s"
    save_picture(output.path / f"{name}.png", functools.partial(_draw_clip, events, length, title))
    return name


def _draw_clip(events: Performance, length: float, title: str) -> "Figure":
    from midi2wave.plotting.figures import piano_roll_figure

    return piano_roll_figure(events, length, title)


def _clip_starts(performance: Performance, n_samples: int, config: PreprocessConfig) -> np.ndarray:
    """Every frame at which a clip may start, in seconds: it fits into the audio and notes begin in its second half.

    (The model generates the second half without the recording in mode prompted.)
    """
    length = config.test_segment_length
    if n_samples < round(length * config.audio_hz):
        raise InputError(
            f"{n_samples / config.audio_hz:.3f} s of audio, shorter than a clip of {length:g} s; lower "
            "preprocess_config.test_segment_length"
        )
    last_frame = max(0, int((n_samples / config.audio_hz - length) * config.midi_hz))
    starts = np.arange(last_frame + 1) / config.midi_hz
    n_before, n_until_end = np.searchsorted(performance.onset, [starts + length / 2, starts + length])
    starts = starts[n_until_end > n_before]
    if not len(starts):
        raise InputError("no notes begin where a clip could be cut: check that the MIDI is that of the audio")
    return starts
