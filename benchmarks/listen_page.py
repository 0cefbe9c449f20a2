"""The listening page of the documentation: its HTML and the pictures of its sounds.

Spectrograms are bitmaps without axes; piano rolls and all labels are part of the page. So they keep a readable size on
phones, follow the colours of the reader's system, and need few bytes.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.listen_list import ClipList, ListedClip
from midi2wave.midi.keyboard import MAX_VELOCITY
from midi2wave.midi.performance import PEDAL_DOWN, SUSTAIN, Performance, sounding_offset
from midi2wave.midi.reader import read_performance
from midi2wave.plotting.listening_page import render_page
from midi2wave.plotting.pictures import default_settings
from midi2wave.utils.atomic_files import atomic_file, write_text
from midi2wave.utils.errors import InputError

PAGE_NAME = "listen.html"
AUDIO_FOLDER = "audio"
TEMPLATE_PATH = Path(__file__).with_name("listen.html")
# Every page of this command has this text of the template, and no page of another one.
GENERATOR = '<meta name="generator" content="python -m benchmarks.listen">'
# More than half of the page's width in pixels, for dense screens.
PICTURE_COLUMNS = 900
PICTURE_QUALITY = 70
SECONDS_PER_TICK = 2
# Opacities of the softest and of the loudest note.
NOTE_OPACITY = (0.35, 1.0)


@dataclass(frozen=True)
class Rectangle:
    """A note, or a time with the pedal down, in a piano roll: x in seconds, y in piano keys from the top."""

    x: float
    y: float
    width: float
    height: float
    opacity: float


@dataclass(frozen=True)
class PianoRoll:
    """What the page draws of a performance.

    Attributes:
        n_keys: The height.
        key_down: Notes while their keys are down.
        sounding: Notes until their dampers fall.
        pedal: The times with the sustain pedal down.
        octaves: The C keys: y of their middle, and their names.
    """

    n_keys: int
    key_down: list[Rectangle]
    sounding: list[Rectangle]
    pedal: list[Rectangle]
    octaves: list[tuple[float, str]]


def require_own_page(path: Path) -> None:
    """Raise InputError if there is another file in the place of the page."""
    if path.is_file() and GENERATOR.encode() not in path.read_bytes():
        raise InputError(f"{path} is there and this command did not make it; rename it, or choose another --out")


def draw_spectrogram(path: Path, pcm: np.ndarray, audio_hz: int, reference: float | None) -> float:
    """Write the spectrogram of a sound as a WebP picture without axes.

    Args:
        path: The picture.
        pcm: The sound, int16 [T].
        audio_hz: Sample rate.
        reference: The power at 0 dB; None: the loudest point of this sound.

    Returns:
        The power at 0 dB.

    Raises:
        OSError: The picture cannot be written.
    """
    with default_settings():
        from matplotlib import colormaps, image

        from midi2wave.plotting import figures

        power = figures.spectrogram(pcm, audio_hz, PICTURE_COLUMNS)
        reference = reference or float(power.max()) or 1.0
        decibels = 10 * np.log10((power / reference).clip(10 ** (figures.MIN_DB / 10), 1))
        colours = colormaps["magma"](1 - decibels[::-1] / figures.MIN_DB)
        with atomic_file(path) as tmp_path:
            image.imsave(tmp_path, colours, format="webp", pil_kwargs={"quality": PICTURE_QUALITY, "method": 6})
    return reference


def piano_roll(performance: Performance, seconds: float) -> PianoRoll:
    """The notes and the sustain pedal of the first seconds of a performance.

    Args:
        performance: Notes and pedals.
        seconds: Length.
    """
    from midi2wave.plotting.figures import octave_ticks, pitch_range

    is_shown = performance.onset < seconds
    low, high = pitch_range(performance.pitch[is_shown])
    columns = (performance.onset, performance.offset, sounding_offset(performance).clip(max=seconds))
    key_down: list[Rectangle] = []
    sounding: list[Rectangle] = []
    for onset, offset, damped, pitch, velocity in zip(
        *(column[is_shown].tolist() for column in (*columns, performance.pitch, performance.velocity)), strict=True
    ):
        opacity = NOTE_OPACITY[0] + (NOTE_OPACITY[1] - NOTE_OPACITY[0]) * velocity / MAX_VELOCITY
        for rectangles, end in ((key_down, min(offset, seconds)), (sounding, damped)):
            rectangles.append(Rectangle(onset, high - pitch, end - onset, 1, opacity))
    pitches, names = octave_ticks(low, high)
    octaves = [(high - pitch + 0.5, name) for pitch, name in zip(pitches, names, strict=True)]
    return PianoRoll(high - low + 1, key_down, sounding, _pedal(performance, seconds), octaves)


def _pedal(performance: Performance, seconds: float) -> list[Rectangle]:
    events = performance.pedals.get(SUSTAIN, np.empty((0, 2)))
    ends = np.append(events[1:, 0], seconds)[: len(events)].clip(max=seconds)
    return [
        Rectangle(start, 0, end - start, 1, 1)
        for start, end, value in zip(events[:, 0].tolist(), ends.tolist(), events[:, 1].tolist(), strict=True)
        if value >= PEDAL_DOWN and end > start
    ]


def write_page(out: Path, clips: ClipList, facts: dict[str, dict[str, Any]]) -> None:
    """Write the page; it works without a server and loads nothing but the files in its folder of sounds.

    Args:
        out: The folder of the page.
        clips: The list.
        facts: Of each clip by its name: `audio_hz`, `seconds`, `gain_db`, and the scores where there is a truth.

    Raises:
        InputError: A MIDI file cannot be read.
        OSError: The page cannot be written.
    """
    entries = [_entry(name, clip, clips, facts[name]) for name, clip in clips.clips.items()]
    from midi2wave.plotting.figures import MIN_DB, MIN_HZ

    page = render_page(TEMPLATE_PATH, entries=entries, min_hz=MIN_HZ, range_db=-MIN_DB)
    write_text(out / PAGE_NAME, page)


def report_lines(report: Path, out: Path, clips: ClipList) -> list[str]:
    """The table of a Markdown page with links to all sounds.

    Args:
        report: The Markdown page.
        out: The folder of the listening page.
        clips: The list.
    """

    def link(text: str, file: str) -> str:
        return f"[`{text}`]({Path(os.path.relpath(out / AUDIO_FOLDER / file, report.parent)).as_posix()})"

    lines = ["| piece | truth | model |", "|---|---|---|"]
    for name, clip in clips.clips.items():
        truth = "-" if clip.piano is None else link(clip.piano, f"{name}_truth.mp3")
        lines.append(f"| {clips.pieces[clip.piece].title} | {truth} | {link(clip.model, f'{name}_model.mp3')} |")
    return lines


def _entry(name: str, clip: ListedClip, clips: ClipList, facts: dict[str, Any]) -> dict[str, Any]:
    """What the template needs of one clip."""
    seconds = facts["seconds"]
    model, piece = clips.models[clip.model], clips.pieces[clip.piece]
    sounds = [{"kind": "model", "heading": "Model", "source": model}]
    if clip.piano is not None:
        sounds.insert(0, {"kind": "truth", "heading": "Truth", "source": clips.pianos[clip.piano]})
    for sound in sounds:
        sound["file"] = f"{AUDIO_FOLDER}/{name}_{sound['kind']}"
    return {
        "name": name,
        "clip": clip,
        "piece": piece,
        "model": model,
        "model_name": clip.model,
        "in_training": clip.piece in model.training_pieces,
        "sounds": sounds,
        "facts": facts,
        "roll": piano_roll(read_performance(piece.file), seconds),
        "seconds": seconds,
        "time_ticks": [(100 * t / seconds, t) for t in range(0, int(seconds) + 1, SECONDS_PER_TICK)],
        "frequency_ticks": _frequency_ticks(facts["audio_hz"]),
    }


def _frequency_ticks(audio_hz: int) -> list[tuple[float, str]]:
    """Height in percent and name of the frequencies beside a spectrogram."""
    from midi2wave.plotting.figures import FREQUENCY_TICKS, MIN_HZ

    octaves = np.log2(audio_hz / 2 / MIN_HZ)
    return [
        (float(100 * np.log2(hz / MIN_HZ) / octaves), f"{hz // 1000}k" if hz >= 1000 else str(hz))
        for hz in FREQUENCY_TICKS
        if MIN_HZ < hz < audio_hz / 2
    ]
