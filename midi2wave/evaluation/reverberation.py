"""How a sound dies away: the room, as far as it was recorded.

    python reverberation.py data/real/train                   # the recordings, by their year (--column: by another)
    python reverberation.py close/song.wav ambient/song.wav   # the same MIDI, played for two years

Two measures. Of music of any kind, how fast the level of its higher octaves falls where it falls fast: the further away
the microphones stood, the more of the room they heard, and the slower. (The distribution of sub-band decay rates, as of
Wen, Habets and Naylor, ICASSP 2008; in the lower octaves strings ring longer than a room.) Of one note, how the sound
dies away after its release; for that `counterfactual.py` plays phrases under each value of a model's global
conditioning.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from midi2wave.audio.io import read_pcm, sample_rate
from midi2wave.audio.pcm import FULL_SCALE, level_db
from midi2wave.config import label_columns
from midi2wave.data.processed_folder import ProcessedFolder
from midi2wave.utils.cli import make_parser, run
from midi2wave.utils.errors import InputError

FRAME_SECONDS, FALL_FRAMES, FALL_PERCENTILE = 0.02, 5, 90
OCTAVES_HZ = (2000.0, 4000.0)  # their middles
FILTER_ORDER = 6  # of the Butterworth response by which an octave is cut out, there and back
AUDIBLE_DB = 30.0  # frames further than this below the loudest one are not looked at
SILENT_DB = -110.0  # of an octave: below a 16-bit recording's rounding noise
STEP_SECONDS = 0.005
RANGE_DB = 10.0  # of the early decay time of ISO 3382-1: how reverberant it sounds, and still above a model's hiss
FLOOR_SHARE = 0.1  # the end of a tail, whose power is taken for the noise
BEFORE_SECONDS, AFTER_SECONDS = 0.2, (0.2, 0.7)  # whose levels are compared, from the release on


@dataclass(frozen=True)
class Decay:
    """How a sound dies away after a release; nan where it cannot be told."""

    db_per_second: float  # the slope of the decay: 60 / it is the (early) decay time in seconds
    level_db: float  # level of 0.2 to 0.7 s after the release against the 0.2 s before it


def fall_rate(pcm: np.ndarray, audio_hz: int) -> float:
    """How fast the level of int16 [T] falls in the octaves around 2 and 4 kHz, in dB/s: of all falls over 100 ms that
    begin within 30 dB of an octave's loudest frame, 90 % are slower; the geometric mean of those octaves that audio_hz
    has room for. nan for silence, for less than 120 ms, and where there is no such octave, or one does not fall.

    It depends on the music and on how it is played: to be compared for the same notes, or over many pieces.
    """
    rates = [_octave_fall_rate(pcm, audio_hz, hz) for hz in OCTAVES_HZ if hz * math.sqrt(2) < audio_hz / 2]
    return float(np.exp(np.mean(np.log(rates)))) if rates and min(rates) > 0 else float("nan")


def _octave_fall_rate(pcm: np.ndarray, audio_hz: int, middle: float) -> float:
    frame = round(FRAME_SECONDS * audio_hz)
    level = 10 * np.log10(_powers(octave(pcm, audio_hz, middle), frame) + 10 ** (SILENT_DB / 10))
    if len(level) <= FALL_FRAMES or level.max() < SILENT_DB + 1:
        return float("nan")
    begins, falls = level[:-FALL_FRAMES], level[:-FALL_FRAMES] - level[FALL_FRAMES:]
    heard = falls[begins > level.max() - AUDIBLE_DB]
    return float(np.percentile(heard, FALL_PERCENTILE) / (FALL_FRAMES * FRAME_SECONDS)) if len(heard) else float("nan")


def octave(pcm: np.ndarray, audio_hz: int, middle: float) -> np.ndarray:
    """The octave around a frequency in Hz, cut out of int16 [T] without delay, -6 dB at its edges: float64 [T]."""
    n = len(pcm) + audio_hz // 10  # silence behind it, so that its end does not come round to its beginning
    hz = np.fft.rfftfreq(n, 1 / audio_hz)
    with np.errstate(divide="ignore"):
        off = (hz**2 - middle**2) / (hz * middle * (math.sqrt(2) - math.sqrt(0.5)))
    return np.fft.irfft(np.fft.rfft(pcm, n) / (1 + off**FILTER_ORDER), n)[: len(pcm)]


def decay(pcm: np.ndarray, audio_hz: int, release: float) -> Decay:
    """Of int16 [T], in which nothing is played from `release` (seconds) to the end.

    The slope is that of the energy that is yet to come (Schroeder 1965) until it has fallen by 10 dB, without the
    noise's share: the mean power of the last tenth.
    """
    power = _powers(pcm[round(release * audio_hz) :], round(STEP_SECONDS * audio_hz))
    noise = power[-max(1, round(FLOOR_SHARE * len(power))) :].mean() if len(power) else 0.0
    to_come = np.cumsum((power - noise)[::-1])[::-1]
    to_come = to_come[: np.argmin(np.append(to_come, -1.0) > 0)]  # beyond, noise alone
    fallen = -10 * np.log10(to_come / to_come[0]) if len(to_come) else np.empty(0)
    used = fallen <= RANGE_DB
    known = used.sum() > 2 and not used.all()  # else it is over within two steps, or lasts longer than the tail
    slope = np.polyfit(np.flatnonzero(used) * STEP_SECONDS, fallen[used], 1)[0] if known else np.nan
    before = level_db(pcm[round((release - BEFORE_SECONDS) * audio_hz) : round(release * audio_hz)])
    after = level_db(pcm[slice(*(round((release + at) * audio_hz) for at in AFTER_SECONDS))])
    return Decay(float(slope), after - before)


def mean_decay(decays: Sequence[Decay]) -> Decay:
    """The mean of several, those left out that cannot be told."""
    return Decay(*(_mean([getattr(one, name) for one in decays]) for name in Decay.__dataclass_fields__))


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if np.isfinite(value)]
    return float(np.mean(known)) if known else float("nan")


def _powers(pcm: np.ndarray, n: int) -> np.ndarray:
    """Mean power of every n samples, full scale 1."""
    return np.square(pcm[: len(pcm) // n * n] / FULL_SCALE).reshape(-1, n).mean(axis=1)


def fall_rates(folder: ProcessedFolder, column: str) -> dict[str, list[float]]:
    """The fall rate of each recording of a processed folder, by its value in a column."""
    found: dict[str, list[float]] = {}
    for position, labels in enumerate(folder.global_labels):
        own = [value for value in labels if label_columns([value]) == (column,)]
        if not own:
            where, there = folder.rows[position].audio_filename, ", ".join(label_columns(labels))
            raise InputError(f"{folder.path}: {where} has no whole number in a column {column!r}; it has {there}")
        found.setdefault(own[0], []).append(fall_rate(folder.pcm(position), folder.audio_hz))
    return dict(sorted(found.items()))


def main(argv: list[str] | None = None) -> int:
    """Print the fall rate of audio files, and its means over the recordings of folders; returns the exit code."""
    arguments = make_parser(__doc__)
    arguments.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="audio file or processed folder")
    arguments.add_argument("--column", default="year", help="integer column of a folder's filenames.csv (default year)")
    args = arguments.parse_args(argv)
    result: dict[str, dict[str, float | int]] = {}
    for path in args.paths:
        if path.is_dir():
            for value, rates in fall_rates(ProcessedFolder(path), args.column).items():
                told = int(np.isfinite(rates).sum())
                result[f"{path} {value}"] = {"recordings": told, "fall_db_per_second": _mean(rates)}
        else:
            audio_hz = sample_rate(path)
            result[str(path)] = {"recordings": 1, "fall_db_per_second": fall_rate(read_pcm(path, audio_hz), audio_hz)}
    if args.as_json:
        print(json.dumps(result).replace("NaN", "null"))
    for name, one in result.items() if not args.as_json else ():
        print(f"{name}: {one['recordings']} recordings, falling at {one['fall_db_per_second']:.1f} dB/s")
    return 0


if __name__ == "__main__":
    run(main)
