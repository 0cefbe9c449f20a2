"""The samples of an instrument: reading, and where in a file the attack lies and how loud it is."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from midi2wave.audio.pcm import FULL_SCALE
from midi2wave.audio.source import open_audio
from midi2wave.utils.errors import InputError

# How much of a file is looked at for its attack.
ANALYSIS_SECONDS = 0.5
# Length of the window over which the envelope is averaged.
ENVELOPE_SECONDS = 0.001
# The attack is where the envelope comes within this of its maximum shortly after. Over the 16 layers of the Salamander
# piano the waveforms then agree best: nearer the maximum the beats of low notes matter, further from it the noise of
# the action before the hammer reaches the string.
ATTACK_DB = -12.0
# The envelope comes within COARSE_ATTACK_DB of the maximum of what is looked at, and that maximum is then taken over
# PEAK_SECONDS only, since low notes may become louder much later.
COARSE_ATTACK_DB = -20.0
PEAK_SECONDS = 0.1
# The level of a note is the RMS of this much from its attack on.
LEVEL_SECONDS = 0.2
SILENT_DB = -100.0
MIN_POWER = 1e-15


@dataclass(frozen=True)
class Sample:
    """What is measured of an audio file.

    Attributes:
        path: The file.
        audio_hz: Its sample rate.
        n_frames: Its length.
        attack: The frame of its attack.
        level_db: RMS after the attack, in dB relative to full scale.
    """

    path: Path
    audio_hz: int
    n_frames: int
    attack: int
    level_db: float


def read_frames(path: Path, end: int | None = None) -> tuple[np.ndarray, int]:
    """The beginning of an audio file.

    Args:
        path: Mono or stereo.
        end: How many frames; None: all.

    Returns:
        float32 [T, 2], shorter where the file ends earlier, and the sample rate.

    Raises:
        InputError: The file is missing, damaged, truncated, or has more than two channels.
        OSError: It cannot be read.
    """
    blocks: list[np.ndarray] = []
    n_read = 0
    with open_audio(path) as source:
        if source.channels > 2:
            raise InputError(f"{path} has {source.channels} channels, expected 1 or 2")
        for block in source.blocks():
            scale = np.float32(FULL_SCALE if block.dtype == np.int16 else 1)
            blocks.append(block.astype(np.float32) / scale)
            n_read += len(block)
            if end is not None and n_read >= end:
                break
        audio_hz = source.samplerate
    audio = np.concatenate(blocks)[:end]
    return np.broadcast_to(audio, (len(audio), 2)), audio_hz


def measure_sample(path: Path) -> Sample:
    """Attack and level of a sample. Raises InputError and OSError as `read_frames`; and InputError for silence."""
    with open_audio(path) as source:
        audio_hz = source.samplerate
        n_frames = source.n_frames
    if n_frames is None:
        raise InputError(f"{path} does not state its length; convert it to wav or flac")
    audio, _ = read_frames(path, round(ANALYSIS_SECONDS * audio_hz))
    attack = find_attack(audio, audio_hz)
    stretch = audio[attack : attack + round(LEVEL_SECONDS * audio_hz)]
    level_db = 10 * np.log10(max(float(np.square(stretch, dtype=np.float64).mean()), MIN_POWER))
    if level_db < SILENT_DB:
        raise InputError(f"{path} is silent for its first {ANALYSIS_SECONDS:g} s, expected a note; get it again")
    return Sample(path, audio_hz, n_frames, attack, level_db)


def find_attack(audio: np.ndarray, audio_hz: int) -> int:
    """The frame at which a note's envelope comes within ATTACK_DB of its maximum.

    Args:
        audio: float32 [T, channels], the beginning of a note.
        audio_hz: Sample rate.
    """
    power = np.square(audio, dtype=np.float64).mean(axis=1)
    # The window ends at its frame: a sudden attack is reported a sixteenth of its length late, and never early.
    width = max(1, round(ENVELOPE_SECONDS * audio_hz))
    total = np.concatenate([np.zeros(width), np.cumsum(power)])
    envelope = total[width:] - total[:-width]
    coarse = int(np.argmax(envelope >= envelope.max() * 10 ** (COARSE_ATTACK_DB / 10)))
    peak = envelope[coarse : coarse + round(PEAK_SECONDS * audio_hz)].max()
    return int(np.argmax(envelope >= peak * 10 ** (ATTACK_DB / 10)))
