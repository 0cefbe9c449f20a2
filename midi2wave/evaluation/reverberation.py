"""Decay rates: how reverberant recordings and generated audio are.

    python -m midi2wave.evaluation.reverberation data/real/train                   # recordings by year (or --column)
    python -m midi2wave.evaluation.reverberation close/song.wav ambient/song.wav   # the same MIDI with two labels

There are two measures. The sub-band decay rate of any music: how fast the level of its upper octaves decreases where it
decreases fast. The further away the microphones, the more reverberation they record, and the lower the rate (after the
distribution of sub-band decay rates of Wen, Habets and Naylor, ICASSP 2008; in the lower octaves strings ring longer
than a room). And the decay of a note after its release, for which `counterfactual.py` generates phrases with each
global label.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from midi2wave.audio.io import read_pcm, sample_rate
from midi2wave.audio.pcm import FULL_SCALE, level_db
from midi2wave.config import label_columns
from midi2wave.data.processed_folder import ProcessedFolder
from midi2wave.utils.cli import count_of, make_parser, print_result, run
from midi2wave.utils.errors import InputError

FRAME_SECONDS = 0.02
# Decreases of the level are taken over this many frames.
DECAY_FRAMES = 5
# Which of these decreases is the decay rate.
DECAY_PERCENTILE = 90
# Centres of the octave bands.
OCTAVES_HZ = (2000.0, 4000.0)
# Order of the Butterworth band-pass of an octave, which filters forward and backward.
FILTER_ORDER = 4
# Frames further than this below the loudest one do not count.
DECAY_RANGE_DB = 30.0
# Level of silence in an octave band: below the rounding noise of a 16-bit recording.
SILENT_DB = -110.0
# Resolution of the energy decay curve after a release.
ENERGY_FRAME_SECONDS = 0.005
# The range of the early decay time of ISO 3382-1: perceived reverberance, and still above the hiss of a model.
EARLY_DECAY_DB = 10.0
# Share of a tail, at its end, whose power is taken for the noise.
NOISE_SHARE = 0.1
# Levels before and after a release are compared over these times relative to it.
BEFORE_SECONDS = 0.2
AFTER_SECONDS = (0.2, 0.7)


@dataclass(frozen=True)
class Decay:
    """Decay of the audio after a release; NaN where it cannot be measured.

    Attributes:
        db_per_second: Slope of the decay. 60 divided by it is the early decay time in seconds.
        level_db: Level 0.2 to 0.7 s after the release relative to the 0.2 s before it.
    """

    db_per_second: float
    level_db: float


def decay_rate(pcm: np.ndarray, audio_hz: int) -> float:
    """Sub-band decay rate in the octaves around 2 and 4 kHz, in dB/s.

    Of all decreases of the level over 100 ms that start within 30 dB of the loudest frame of an octave, the rate that
    90 % of them stay below; the geometric mean of the octaves below the Nyquist frequency. It depends on the music and
    the performance: compare the same notes, or many pieces.

    Args:
        pcm: Audio, int16 [T].
        audio_hz: Its sample rate.

    Returns:
        dB per second. NaN for silence, for less than 120 ms, for a sample rate too low for the octaves, and if the
        level of one of them does not decrease.
    """
    rates = [_octave_decay_rate(pcm, audio_hz, hz) for hz in OCTAVES_HZ if hz * math.sqrt(2) < audio_hz / 2]
    return float(np.exp(np.mean(np.log(rates)))) if rates and min(rates) > 0 else float("nan")


def _octave_decay_rate(pcm: np.ndarray, audio_hz: int, centre_hz: float) -> float:
    frame = round(FRAME_SECONDS * audio_hz)
    if len(pcm) // frame <= DECAY_FRAMES:
        return float("nan")
    level = 10 * np.log10(_powers(octave_band(pcm, audio_hz, centre_hz), frame) + 10 ** (SILENT_DB / 10))
    if level.max() < SILENT_DB + 1:
        return float("nan")
    starts, decreases = level[:-DECAY_FRAMES], level[:-DECAY_FRAMES] - level[DECAY_FRAMES:]
    audible = decreases[starts > level.max() - DECAY_RANGE_DB]
    if not len(audible):
        return float("nan")
    return float(np.percentile(audible, DECAY_PERCENTILE) / (DECAY_FRAMES * FRAME_SECONDS))


def octave_band(pcm: np.ndarray, audio_hz: int, centre_hz: float) -> np.ndarray:
    """Band-pass filter one octave wide, without delay, -6 dB at its edges.

    Args:
        pcm: Audio, int16 [T], T > 0.
        audio_hz: Its sample rate.
        centre_hz: Centre of the band in Hz.

    Returns:
        float64 [T].
    """
    from scipy.signal import butter, sosfiltfilt

    edges = centre_hz * math.sqrt(0.5), centre_hz * math.sqrt(2)
    sections = butter(FILTER_ORDER, edges, "bandpass", fs=audio_hz, output="sos")
    return sosfiltfilt(sections, pcm, padtype=None)


def measure_decay(pcm: np.ndarray, audio_hz: int, release: float) -> Decay:
    """Decay after the release of all notes.

    The slope is that of the backward-integrated energy (Schroeder 1965) until it has decreased by 10 dB, without the
    noise, whose power is the mean of the last tenth.

    Args:
        pcm: Audio, int16 [T], without notes between the release and the end.
        audio_hz: Its sample rate.
        release: Time of the release in seconds.
    """
    power = _powers(pcm[round(release * audio_hz) :], round(ENERGY_FRAME_SECONDS * audio_hz))
    noise = power[-max(1, round(NOISE_SHARE * len(power))) :].mean() if len(power) else 0.0
    energy = np.cumsum((power - noise)[::-1])[::-1]
    energy = energy[: np.argmin(np.append(energy, -1.0) > 0)]  # Beyond this point there is only noise.
    decrease = -10 * np.log10(energy / energy[0]) if len(energy) else np.empty(0)
    early = decrease <= EARLY_DECAY_DB
    # Otherwise the decay is over within two frames, or longer than the tail.
    measurable = early.sum() > 2 and not early.all()
    times = np.flatnonzero(early) * ENERGY_FRAME_SECONDS
    slope = np.polyfit(times, decrease[early], 1)[0] if measurable else np.nan
    before = level_db(pcm[round((release - BEFORE_SECONDS) * audio_hz) : round(release * audio_hz)])
    after = level_db(pcm[slice(*(round((release + seconds) * audio_hz) for seconds in AFTER_SECONDS))])
    return Decay(float(slope), after - before)


def mean_decay(decays: Sequence[Decay]) -> Decay:
    """The mean of each value of several decays, without NaN."""
    return Decay(*(_finite_mean([getattr(one, f.name) for one in decays]) for f in fields(Decay)))


def _finite_mean(values: Sequence[float]) -> float:
    finite = [value for value in values if np.isfinite(value)]
    return float(np.mean(finite)) if finite else float("nan")


def _powers(pcm: np.ndarray, n: int) -> np.ndarray:
    """Mean power of every n samples, full scale 1."""
    return np.square(pcm[: len(pcm) // n * n] / FULL_SCALE).reshape(-1, n).mean(axis=1)


def decay_rates(folder: ProcessedFolder, column: str) -> dict[str, list[float]]:
    """The decay rates of the recordings of a processed folder, by their label in a column.

    Args:
        folder: The processed folder.
        column: An integer column of its filenames.csv.

    Raises:
        InputError: A recording has no whole number in this column.
    """
    rates: dict[str, list[float]] = {}
    for position, labels in enumerate(folder.global_labels):
        matching = [label for label in labels if label_columns([label]) == (column,)]
        if not matching:
            name, columns = folder.rows[position].audio_filename, ", ".join(label_columns(labels))
            raise InputError(f"{folder.path}: {name} has no whole number in a column {column!r}; it has {columns}")
        rates.setdefault(matching[0], []).append(decay_rate(folder.pcm(position), folder.audio_hz))
    return dict(sorted(rates.items()))


def main(argv: list[str] | None = None) -> int:
    """Print the decay rates of audio files, and their means over the recordings of folders; returns the exit code."""
    arguments = make_parser(__doc__)
    arguments.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="audio file or processed folder")
    arguments.add_argument("--column", default="year", help="integer column of a folder's filenames.csv (default year)")
    args = arguments.parse_args(argv)
    result: dict[str, dict[str, float | int]] = {}
    for path in args.paths:
        if path.is_dir():
            for label, rates in decay_rates(ProcessedFolder(path), args.column).items():
                n_measured = int(np.isfinite(rates).sum())
                result[f"{path} {label}"] = {"recordings": n_measured, "decay_db_per_second": _finite_mean(rates)}
        else:
            audio_hz = sample_rate(path)
            rate = decay_rate(read_pcm(path, audio_hz), audio_hz)
            result[str(path)] = {"recordings": 1, "decay_db_per_second": rate}
    lines = [
        f"{name}: {count_of(int(one['recordings']), 'recording')}, decay rate {one['decay_db_per_second']:.1f} dB/s"
        for name, one in result.items()
    ]
    print_result("\n".join(lines), result, as_json=args.as_json)
    return 0


if __name__ == "__main__":
    run(main)
