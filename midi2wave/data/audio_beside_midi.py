"""The audio file of a MIDI file: that with the same stem, in the same folder."""

import os
from pathlib import Path

from midi2wave.audio.io import AUDIO_SUFFIXES
from midi2wave.data.maestro import resampled_name


def audio_with_stem(stem: Path, audio_hz: int) -> Path | None:
    """The audio file of a stem: a resampled NAME_16000.wav before NAME, then by the order of AUDIO_SUFFIXES.

    Args:
        stem: Folder and name without suffix.
        audio_hz: The sample rate of the resampled file.
    """
    suffixes = [*AUDIO_SUFFIXES, *map(str.upper, AUDIO_SUFFIXES)]
    names = [resampled_name(f"{stem.name}.wav", audio_hz), *(stem.name + suffix for suffix in suffixes)]
    return next((path for path in map(stem.with_name, names) if os.path.isfile(path)), None)
