"""Test clips: pairs of clip_{number}_{source}_{start}s.wav and .npz in a folder with a clips.json."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from midi2wave.audio import io as audio_io
from midi2wave.midi.performance import Performance, load_events, save_events
from midi2wave.utils.errors import InputError
from midi2wave.utils.file_names import fit_name
from midi2wave.utils.output_folder import OutputFolder, Product, Record, require_own_record

CLIPS_RECORD_NAME = "clips.json"
FORCE_EFFECT = "removes the clips that an earlier call made in it and cuts new ones"
CLIP_SUFFIXES = (".wav", ".npz", ".png")
# Bytes of a recording's name in the name of a clip, which inference.py makes longer by its mode and a number.
MAX_SOURCE_BYTES = 180
# A draw is uniform over the possible positions, of which a recording has far fewer.
N_DRAWS = 2**32
# The names of clips that an earlier version made, whose record does not list them.
FORMER_NAME = re.compile(r"clip_\d{3,}_.*_\d+\.\d{3}s", re.DOTALL)


@dataclass(frozen=True)
class Clip:
    """A test clip: the notes of a part of a recording, and its sound."""

    name: str
    performance: Performance
    pcm: np.ndarray  # int16 [T]


def begin_clips(folder: Path, made_from: dict[str, Any], *, force: bool) -> OutputFolder:
    """Acquire a folder for test clips; removes clips of another config, and with `force` all that it lists.

    Args:
        folder: The folder; made if need be.
        made_from: The resolved config.
        force: Whether clips of another config are removed.

    Returns:
        The folder, with the clips that are in it.

    Raises:
        InputError: The folder holds something else (see `OutputFolder`).
    """
    require_own_record(folder / CLIPS_RECORD_NAME, "preprocess_config")
    output = OutputFolder(
        folder, CLIPS_RECORD_NAME, made_from, force=force, force_effect=FORCE_EFFECT, former=_former_clips
    )
    output.remove_outdated()
    return output


def _former_clips(folder: Path, _record: Record) -> dict[str, Product]:
    names = sorted(path.stem for path in folder.glob("clip_*.wav") if FORMER_NAME.fullmatch(path.stem))
    return {name: clip_files(name) for name in names}


def clip_files(name: str) -> Product:
    """The files of a clip."""
    return Product(tuple(f"{name}{suffix}" for suffix in CLIP_SUFFIXES))


def clip_name(number: int, source: str, start: float) -> str:
    """The name of a clip: its number, the name of its recording (cut if it is long), its beginning there in seconds."""
    return f"clip_{number:03d}_{fit_name(source, '', MAX_SOURCE_BYTES)}_{start:.3f}s"


def write_clip(folder: Path, name: str, pcm: np.ndarray, performance: Performance, audio_hz: int) -> None:
    """Write one test clip as a wav and its events.

    Args:
        folder: Where to.
        name: Its name (see `clip_name`).
        pcm: Its samples, int16 [T].
        performance: Its notes, in seconds from its beginning.
        audio_hz: Its sample rate.
    """
    audio_io.write_wav(folder / f"{name}.wav", pcm, audio_hz)
    save_events(folder / f"{name}.npz", performance)


def choose_start(
    starts: np.ndarray, other_starts: Sequence[float], length: float, draw: int, rng: np.random.Generator
) -> float | None:
    """The beginning of a clip that overlaps no other, each possible one as likely as any other.

    Args:
        starts: Where a clip of this recording may begin, in seconds, [N] with N > 0.
        other_starts: The beginnings of its other clips.
        length: Length of every clip in seconds.
        draw: A random number below `N_DRAWS`, which chooses among all starts.
        rng: Chooses among those that are left, where the first choice overlaps another clip.

    Returns:
        One of `starts`; None if every clip would overlap another.
    """
    # The first choice is among all positions: the clips of former versions stay, unless they overlap.
    start = starts[draw % len(starts)]
    free = starts
    for other in other_starts:
        # A clip may begin where another ends; the differences have rounding errors.
        free = free[np.abs(free - other) >= length - 1e-6]
    if not len(free):
        return None
    return float(start if start in free else rng.choice(free))


def finish_clips(output: OutputFolder, names: list[str]) -> None:
    """Remove the clips of an earlier run that are not among `names`.

    Numbers shift if a recording that could not be read in the earlier run can be read now.
    """
    output.remove([name for name in output.products if name not in names])


def clip_source(name: str) -> str:
    """The recording that a clip of this name was cut from (see `clip_name`)."""
    return name.split("_", 2)[-1].rpartition("_")[0]


def clip_paths(folder: str | Path) -> list[Path]:
    """The wavs of all test clips of a folder, sorted by name.

    Raises:
        InputError: There are none.
    """
    folder = Path(folder)
    paths = sorted(folder.glob("clip_*.wav"))
    if not paths:
        raise InputError(f"{folder} holds no test clips; make some with preprocess_audio.py -d {folder}")
    return paths


def read_clip(path: Path, audio_hz: int) -> Clip:
    """One test clip.

    Args:
        path: Its wav, as in `clip_paths`.
        audio_hz: The sample rate that is expected.

    Raises:
        InputError: It is damaged or at another rate.
    """
    return Clip(path.stem, load_events(path.with_suffix(".npz")), audio_io.read_pcm(path, audio_hz))
