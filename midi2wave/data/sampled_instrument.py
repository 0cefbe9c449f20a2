"""Sampled instruments: an SFZ file with the attacks and levels of its samples, and the gain of every velocity.

Where an instrument has several velocity layers, a note's level is a smooth function of its velocity: a line through
the measured levels of the layers, made monotone and smoothed. The gain of a sample is the difference between that line
and its own level, so that the level has no step at the border between two layers.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from midi2wave.data.layer_alignment import align_layers
from midi2wave.data.resample_manifest import sha256
from midi2wave.data.sample_analysis import Sample, measure_sample
from midi2wave.data.sfz import Region, read_sfz
from midi2wave.midi.keyboard import MAX_PITCH, MAX_VELOCITY, MIN_PITCH
from midi2wave.utils.errors import InputError

SALAMANDER = "salamander"
# Where `python -m midi2wave.data.salamander` puts it.
SALAMANDER_PATH = Path("data/instruments/salamander/salamander.sfz")
FETCH = f"python -m midi2wave.data.{SALAMANDER}"
# By how much a note is at least louder than with a velocity that is lower by 1.
MIN_SLOPE_DB = 0.02
# Standard deviation, in velocities, of the Gaussian that smooths the level.
SMOOTHING = 5.0
# Beyond this many velocities the Gaussian is 0.
SMOOTHING_REACH = 20
MIN_GAIN = 1e-6


@dataclass(frozen=True)
class SampledInstrument:
    """An SFZ instrument, ready to play.

    Attributes:
        path: The SFZ file.
        regions: Its regions.
        samples: The measured sample of each region that a key starts, in the order of the regions; None for others.
        gain: Linear, the same for all notes.
        samples_sha256: A checksum of all its samples.
        program: The General MIDI program that the labels name: a grand piano.
    """

    path: Path
    regions: tuple[Region, ...]
    samples: tuple[Sample | None, ...]
    gain: float
    samples_sha256: str
    program: int = 0

    @cached_property
    def gains_db(self) -> dict[int, dict[int, np.ndarray]]:
        """For each MIDI pitch of a piano the indices of its regions, and the gain at every velocity, float64 [128]."""
        return {pitch: _gains_db(self, pitch) for pitch in range(MIN_PITCH, MAX_PITCH + 1)}

    def gains_of_note(self, pitch: int, velocity: int, *, on_release: bool) -> dict[int, float]:
        """The indices of the regions that play a note, and their gains in dB.

        Args:
            pitch: MIDI pitch, 21..108.
            velocity: MIDI velocity, 1..127.
            on_release: Those that sound when the damper falls, in the place of those that a key starts.
        """
        return {
            number: float(gains[velocity])
            for number, gains in self.gains_db[pitch].items()
            if self.regions[number].on_release == on_release
            and self.regions[number].velocities[0] <= velocity <= self.regions[number].velocities[1]
        }


def load_instrument(path: Path, gain: float) -> SampledInstrument:
    """Read an SFZ file and measure its samples.

    Args:
        path: The file.
        gain: Linear, the same for all notes.

    Raises:
        InputError: A file is missing or damaged, or there are keys of the piano that no sample plays.
        OSError: A file cannot be read.
    """
    if not path.is_file():
        remedy = f"fetch it with {FETCH}" if path == SALAMANDER_PATH else "check --instrument"
        raise InputError(f"{path}: no such SFZ instrument; {remedy}")
    regions = tuple(read_sfz(path))
    for region in regions:
        if not region.sample.is_file():
            reason = f"the sample {region.sample} is missing; get the instrument again"
            raise InputError(f"{path.parent / region.line}: {reason}")
    measured = {
        sample: measure_sample(sample) for sample in dict.fromkeys(r.sample for r in regions if not r.on_release)
    }
    measured = align_layers(regions, measured)
    samples = tuple(None if region.on_release else measured[region.sample] for region in regions)
    return SampledInstrument(path, regions, samples, gain, _checksum({region.sample for region in regions}, path))


def _checksum(samples: Iterable[Path], sfz: Path) -> str:
    """One checksum of all samples, by their names relative to the SFZ file."""
    digest = hashlib.sha256()
    for sample in sorted(samples):
        digest.update(f"{sha256(sample)}  {sample.relative_to(sfz.parent).as_posix()}\n".encode())
    return digest.hexdigest()


def _file_gain_db(region: Region, velocity: np.ndarray) -> np.ndarray:
    """The gain that the SFZ file asks for: `volume`, and the velocity by `amp_veltrack`."""
    power = np.square(velocity / MAX_VELOCITY)
    change = 1 - power if region.veltrack >= 0 else power
    return region.volume_db + 20 * np.log10(np.maximum(1 - abs(region.veltrack) * change, MIN_GAIN))


def _gains_db(instrument: SampledInstrument, pitch: int) -> dict[int, np.ndarray]:
    """The gains of the regions of a key at all velocities, each float64 [128]."""
    velocities = np.arange(MAX_VELOCITY + 1)
    regions = {n: one for n, one in enumerate(instrument.regions) if one.keys[0] <= pitch <= one.keys[1]}
    gains = {number: _file_gain_db(region, velocities) for number, region in regions.items()}
    layers = sorted((one.velocities, number) for number, one in regions.items() if not one.on_release)
    # Layers that sound together, as those of several microphones, are mixed as the file says.
    overlap = any(low <= high for ((low, _), _), ((_, high), _) in zip(layers[1:], layers, strict=False))
    if len(layers) < 2 or overlap:
        return gains
    centres, own_levels, levels = [], [], []
    for (low, high), number in layers:
        sample = instrument.samples[number]
        centres.append((max(low, 1) + high) / 2)
        own_levels.append(sample.level_db if sample else 0.0)
        levels.append(own_levels[-1] + float(_file_gain_db(regions[number], np.array(centres[-1]))))
    smooth = smooth_levels(np.array(centres), np.array(levels))
    return gains | {number: smooth - own for (_, number), own in zip(layers, own_levels, strict=True)}


def smooth_levels(centres: np.ndarray, levels_db: np.ndarray) -> np.ndarray:
    """The level of every velocity from those of some layers: strictly monotone and smooth.

    Args:
        centres: The middle velocity of each layer, increasing, float64 [layers].
        levels_db: The levels there, float64 [layers].

    Returns:
        float64 [128].
    """
    from scipy.optimize import isotonic_regression  # Half a second, for which --help should not wait.

    line = MIN_SLOPE_DB * centres
    monotone = isotonic_regression(levels_db - line).x + line
    reach = np.arange(-SMOOTHING_REACH, MAX_VELOCITY + 1 + SMOOTHING_REACH)
    interpolated = np.interp(reach, centres, monotone)
    # Beyond the outermost layers the level goes on as between the outermost two.
    for end, neighbour, outside in ((0, 1, reach < centres[0]), (-1, -2, reach > centres[-1])):
        slope = (monotone[end] - monotone[neighbour]) / (centres[end] - centres[neighbour])
        interpolated[outside] = monotone[end] + slope * (reach[outside] - centres[end])
    window = np.exp(-0.5 * np.square(np.arange(-SMOOTHING_REACH, SMOOTHING_REACH + 1) / SMOOTHING))
    return np.convolve(interpolated, window / window.sum(), "valid")
