"""How a data set's piano sounds, string by string: what makes the excitation's sinusoids meet its partials.

    python measure_partials.py -d data/train -c config_train.json -o my_config_train.json

Of every key that is struck often enough its 16 partials are measured: frequency, amplitude, decay and phase at the
onset, in the sound as the model hears it (with pre-emphasis), and how the amplitude grows with velocity. The config
comes out with all of them (data_config.partial_hz and so on). Where labels and sound agree to a fraction of a period,
strokes of a key are added up before they are measured, and what else sounds averages out; where they do not, phases say
nothing and are left at 0 (`align_labels.py` then puts the labels right). Keys and partials that are not heard get what
lies between their neighbours. With data_config.global_values of one column, such as years, each value's recordings are
measured by themselves: they may be of another piano, or of another tuning and microphones.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from midi2wave.audio.pcm import FULL_SCALE
from midi2wave.audio.pre_emphasis import emphasize
from midi2wave.conditioning.partials import (
    MIN_WINDOW_SECONDS,
    PARTIAL_CHANNEL,
    PianoPartials,
    default_partials,
    window_seconds,
)
from midi2wave.config import load_config
from midi2wave.data.processed_folder import ProcessedFolder
from midi2wave.midi.performance import LOWEST_PITCH, N_PITCHES, sounding_offset
from midi2wave.utils.atomic_files import write_text
from midi2wave.utils.cli import make_parser, progress, run
from midi2wave.utils.errors import InputError

N_PARTIALS = len(PARTIAL_CHANNEL)
SKIPPED_SECONDS, WINDOW_SECONDS = 0.03, 0.4  # of the spectra: after the hammer's noise, while the tone is strong
SEARCH_CENTS = 45.0  # around where an ordinary piano's partial lies
SPREAD_CENTS = 5.0  # between the quartiles: what spreads more is another string's partial
STROKES_PER_RECORDING, LEAST_STROKES = 250, 8
FIRST_SECONDS, STEP_SECONDS, N_WINDOWS = 0.02, 0.02, 18  # of the windows in which partials are followed
LEAST_COHERENCE = 0.3  # of the power that remains when strokes are added up: below, their phases do not agree
DECAYS = (0.1, 40.0)  # 1/s; what is measured beyond is no decay
ROUNDS = 2  # of following the partials, each with the frequencies that the one before has found
SEED = 0


@dataclass(frozen=True)
class Followed:
    """Partials of strokes by windows, complex amplitudes [..., W] turned back to the onset: means over the strokes of
    each key [88, 16, W], the same of their powers, and how many strokes [88]."""

    mean: np.ndarray
    power: np.ndarray
    n_strokes: np.ndarray


def main(argv: list[str] | None = None) -> int:
    """Run the step; returns the exit code."""
    arguments = make_parser(__doc__, config="config_train.json")
    arguments.add_argument("-d", "--data", type=Path, required=True, help="processed folder to measure")
    arguments.add_argument("-o", "--out", type=Path, required=True, help="where to write the completed config")
    args = arguments.parse_args(argv)
    config = load_config(args.config, ("data_config",), args.overrides)
    if args.out.exists() and not args.force:
        raise InputError(f"{args.out} is there already; choose another name, or use --force")
    folder, data = ProcessedFolder(args.data), config.data_config
    if not data.excitation:
        raise InputError(f"{args.config}: data_config.excitation = false: there is nothing to measure for")
    folder.check_rate(data.audio_hz)
    parts = folder.parts(data.global_values)
    if lacking := [value for value in data.global_values if "" not in parts and value not in parts]:
        raise InputError(f"{args.data} has no recording of {lacking[0]}; leave it out of data_config.global_values")
    strings, exponents, heard = zip(*(measured(part, data.preemphasis) for part in parts.values()), strict=True)
    exponent, written = float(np.mean(exponents)), config.as_dict()
    written["data_config"] |= {
        "partial_hz": _rounded([one.hz for one in strings], 7),
        "partial_level": _rounded([one.level for one in strings], 4),
        "partial_decay": _rounded([one.decay for one in strings], 4),
        "partial_phase": _rounded([one.phase for one in strings], 4),
        "velocity_exponent": round(exponent, 2),
    }
    write_text(args.out, json.dumps({name: block for name, block in written.items() if block}, indent=4) + "\n")
    n_keys, n_partials = int(np.any(heard, axis=(0, 2)).sum()), int(np.any(heard, axis=0).sum())
    result = {"keys_measured": n_keys, "partials_measured": n_partials, "velocity_exponent": exponent}
    said = f"{n_partials} partials of {n_keys} keys measured, amplitude ~ velocity^{exponent:.2f}; written: {args.out}"
    print(json.dumps(result | {"config": str(args.out)}) if args.as_json else said)
    return 0


def measured(folder: ProcessedFolder, preemphasis: float) -> tuple[PianoPartials, float, np.ndarray]:
    """The strings of a folder's piano, the power of the velocity that its amplitudes grow with, and which partials were
    measured, bool [88, 16]. Raises InputError if none was."""
    hz = _by_spectra(folder)
    exponent = _velocity_exponent(folder, hz, preemphasis)
    for _ in range(ROUNDS):
        found = follow(folder, hz, preemphasis, exponent)
        turn = (found.mean[..., 1:] * found.mean[..., :-1].conj()).sum(axis=-1)
        coherence = (np.abs(found.mean) ** 2).sum(axis=-1) / np.maximum(found.power.sum(axis=-1), 1e-20)
        often = (found.n_strokes >= LEAST_STROKES)[:, None] & (hz < 0.45 * folder.audio_hz)
        coherent = often & (coherence > LEAST_COHERENCE)
        off_hz = np.where(coherent, np.angle(turn) / (2 * np.pi * STEP_SECONDS), 0.0)
        hz = hz + off_hz
    if not often.any():
        raise InputError(
            f"no key is struck {LEAST_STROKES} times or more for long enough: the data set is too small to be measured"
        )
    middle = window_seconds(hz) / 2 + FIRST_SECONDS + STEP_SECONDS * np.arange(N_WINDOWS)[:, None]  # [W, 88]
    at = middle.T[:, None, :]
    mean = found.mean * np.exp(-2j * np.pi * off_hz[..., None] * at)
    amplitude = np.where(coherent[..., None], np.abs(mean), np.sqrt(found.power))
    decay = _decay(amplitude, at)
    # what does not decay, or at once, is what else sounds
    known = often & (decay > DECAYS[0]) & (decay < DECAYS[1])
    fading = np.exp(-decay[..., None] * at)
    start = (np.where(coherent[..., None], mean, amplitude) * fading).sum(axis=-1) / (fading**2).sum(axis=-1)
    level, decay = _completed(np.abs(start), known), _completed(decay, known)
    # what is followed is a cosine, the excitation's first channels are sines
    phase = np.where(coherent & known, np.angle(start) + np.pi / 2, 0.0)
    return PianoPartials(hz, level * _channel_gain(level), decay, phase), exponent, known


def _strokes(folder: ProcessedFolder, seconds: float) -> Iterator[tuple[int, np.ndarray, np.ndarray, np.ndarray]]:
    """Of each recording strokes that are at least as loud as half of all and last so long: (position, onsets, keys,
    velocities)."""
    rng = np.random.default_rng(SEED)
    for position in progress(range(len(folder.rows)), len(folder.rows), "recording"):
        played = folder.performance(position)
        lasts = sounding_offset(played) - played.onset > seconds
        chosen = np.flatnonzero(lasts & (played.velocity >= np.median(played.velocity)) & (played.onset >= 0))
        chosen = np.sort(rng.permutation(chosen)[:STROKES_PER_RECORDING])
        yield position, played.onset[chosen], played.pitch[chosen] - LOWEST_PITCH, played.velocity[chosen]


def _by_spectra(folder: ProcessedFolder) -> np.ndarray:
    """Frequencies of all partials, Hz [88, 16], by the peaks of strokes' spectra around an ordinary piano's."""
    usual, rate = default_partials().hz, folder.audio_hz
    length, size = round(WINDOW_SECONDS * rate), 2 ** int(np.ceil(np.log2(8 * WINDOW_SECONDS * rate)))
    found: dict[tuple[int, int], list[float]] = {}
    for position, onsets, keys, _ in _strokes(folder, SKIPPED_SECONDS + WINDOW_SECONDS):
        pcm = folder.pcm(position)
        for onset, key in zip(onsets, keys, strict=True):
            first = round((onset + SKIPPED_SECONDS) * rate)
            if first + length > len(pcm):
                continue
            spectrum = np.abs(np.fft.rfft(pcm[first : first + length] * np.hanning(length), size))
            for n in np.flatnonzero(usual[key] < 0.45 * rate):
                if (cents := _peak_cents(spectrum, usual[key, n], rate / size)) is not None:
                    found.setdefault((key, n), []).append(cents)
    cents = np.full(usual.shape, np.nan)
    for (key, n), values in found.items():
        if len(values) >= LEAST_STROKES and np.subtract(*np.percentile(values, [75, 25])) < SPREAD_CENTS:
            cents[key, n] = np.median(values)
    known = np.isfinite(cents)
    return usual * 2 ** (_completed(np.where(known, cents, 0.0), known, logarithmic=False) / 1200)


def _peak_cents(spectrum: np.ndarray, usual_hz: float, line_hz: float) -> float | None:
    """Where the highest line around a frequency lies, in cents above it; None if that is the edge of the search."""
    low, high = (usual_hz * 2 ** (side * SEARCH_CENTS / 1200) / line_hz for side in (-1, 1))
    first, last = int(low), int(high) + 2
    peak = first + int(np.argmax(spectrum[first:last]))
    if peak in (first, last - 1):
        return None
    # the top of the parabola through the peak and its neighbours
    below, at, above = np.log(np.maximum(spectrum[peak - 1 : peak + 2], 1e-9))
    top = peak + 0.5 * (below - above) / min(below - 2 * at + above, -1e-9)
    return float(1200 * np.log2(top * line_hz / usual_hz))


def _partials(
    folder: ProcessedFolder, hz: np.ndarray, preemphasis: float
) -> Iterator[tuple[int, int, np.ndarray, np.ndarray]]:
    """Of each stroke (key, velocity, which partials can be heard [16], these as complex amplitudes [P, W])."""
    rate = folder.audio_hz
    lengths = np.rint(window_seconds(hz) * rate).astype(int)
    seconds = FIRST_SECONDS + STEP_SECONDS * N_WINDOWS + MIN_WINDOW_SECONDS
    for position, onsets, keys, velocities in _strokes(folder, seconds):
        sound = emphasize(np.array(folder.pcm(position)), preemphasis) / FULL_SCALE
        for onset, key, velocity in zip(onsets, keys, velocities, strict=True):
            length = lengths[key]
            starts = np.rint((onset + FIRST_SECONDS + STEP_SECONDS * np.arange(N_WINDOWS)) * rate).astype(int)
            if starts[-1] + length > len(sound):
                continue
            heard, window = hz[key] < 0.45 * rate, np.hanning(length)
            pieces = np.lib.stride_tricks.sliding_window_view(sound, length)[starts] * window
            turning = np.exp(-2j * np.pi * np.outer(np.arange(length) / rate, hz[key, heard]))
            turned_back = np.exp(-2j * np.pi * np.outer(starts / rate - onset, hz[key, heard]))
            yield int(key), int(velocity), heard, (pieces @ turning * turned_back * (2 / window.sum())).T


def follow(folder: ProcessedFolder, hz: np.ndarray, preemphasis: float, exponent: float) -> Followed:
    """The partials of these frequencies in the strokes, as they would be at velocity 127."""
    mean = np.zeros((N_PITCHES, N_PARTIALS, N_WINDOWS), dtype=complex)
    power, n_strokes = np.zeros(mean.shape), np.zeros(N_PITCHES, dtype=int)
    for key, velocity, heard, amplitudes in _partials(folder, hz, preemphasis):
        scaled = amplitudes / (velocity / 127) ** exponent
        mean[key, heard] += scaled
        power[key, heard] += np.abs(scaled) ** 2
        n_strokes[key] += 1
    count = np.maximum(n_strokes, 1)[:, None, None]
    return Followed(mean / count, power / count, n_strokes)


def _velocity_exponent(folder: ProcessedFolder, hz: np.ndarray, preemphasis: float) -> float:
    """The slope of log amplitude over log velocity, of each key's loudest partial in the first window, all keys taken
    around their own means."""
    keys, x, y = [], [], []
    for key, velocity, _, amplitudes in _partials(folder, hz, preemphasis):
        keys.append(key)
        x.append(np.log(velocity))
        y.append(np.log(np.abs(amplitudes[:, 0]).max() + 1e-9))
    if not keys:
        return 1.5
    of_key = np.bincount(keys, minlength=N_PITCHES)[keys]
    x, y = (np.array(v) - (np.bincount(keys, v, N_PITCHES)[keys] / of_key) for v in (x, y))
    spread = float(x @ x)
    return float(np.clip(x @ y / spread, 0.5, 4.0)) if spread > 0 else 1.5


def _decay(amplitude: np.ndarray, at: np.ndarray) -> np.ndarray:
    """1/s [88, 16] of amplitudes [88, 16, W] at the times [88, 1, W], by a line through their logarithms."""
    weight = amplitude**2 + 1e-20
    weight = weight / weight.sum(axis=-1, keepdims=True)
    level = np.log(amplitude + 1e-10)
    time = at - (weight * at).sum(axis=-1, keepdims=True)
    level = level - (weight * level).sum(axis=-1, keepdims=True)
    return np.clip(-(weight * time * level).sum(axis=-1) / (weight * time**2).sum(axis=-1), *DECAYS)


def _completed(values: np.ndarray, known: np.ndarray, *, logarithmic: bool = True) -> np.ndarray:
    """Values [88, 16] with those that are not known taken from the keys around, partial by partial; of a partial that
    no key has, from the one below it."""
    known_values = np.log(np.maximum(values, 1e-12)) if logarithmic else values
    completed = np.zeros(values.shape)
    for n in range(N_PARTIALS):
        keys = np.flatnonzero(known[:, n])
        if len(keys):
            completed[:, n] = np.interp(range(N_PITCHES), keys, known_values[keys, n])
        elif n:
            completed[:, n] = completed[:, n - 1]
    return np.exp(completed) if logarithmic else completed


def _channel_gain(level: np.ndarray) -> np.ndarray:
    """What makes a channel of the excitation as loud as 1 in its loudest tenth of the keys, [16]."""
    power = np.stack([(level[:, c == PARTIAL_CHANNEL] ** 2).sum(axis=1) for c in range(PARTIAL_CHANNEL.max() + 1)])
    return (1 / np.maximum(np.sqrt(np.percentile(power, 90, axis=1)), 1e-9))[PARTIAL_CHANNEL]


def _rounded(sets: Sequence[np.ndarray], digits: int) -> list[float]:
    return [float(f"{value:.{digits}g}") for value in np.ravel(sets)]


if __name__ == "__main__":
    run(main)
