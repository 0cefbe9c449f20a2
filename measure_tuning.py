"""How a data set's piano is tuned: what makes the excitation's sinusoids meet its strings.

    python measure_tuning.py -d data/train -c config_train.json -o my_config_train.json

Of every key that is heard often enough, the frequencies of its partials are read from the spectra of strokes, and the
stiff string that fits them (Fletcher 1964): its tuning in cents and its inharmonicity. The config comes out with
both (data_config.tuning_cents and stiffness). Keys that are not heard get what lies between their neighbours.
"""

import json
from pathlib import Path

import numpy as np

from atomic import write_text
from cli import parser, progress, run
from conditioning import USUAL_STIFFNESS, partial_hz
from config import load_config
from errors import InputError
from midi import LOWEST_PITCH, N_PITCHES, sounding_offset
from processed_folder import ProcessedFolder

PARTIALS = (1, 2, 3, 4, 6, 8)
SKIPPED_SECONDS, WINDOW_SECONDS = 0.03, 0.4  # after the hammer's noise, while the tone is strong
SEARCH_CENTS = 45.0  # around where an ordinary piano's partial lies
STROKES_PER_RECORDING, LEAST_STROKES = 400, 8
SPREAD_CENTS = 5.0  # between the quartiles: what spreads more is another string's partial
SEED = 0


def main(argv: list[str] | None = None) -> int:
    """Run the step; returns the exit code."""
    arguments = parser(__doc__, config="config_train.json")
    arguments.add_argument("-d", "--data", type=Path, required=True, help="processed folder to measure")
    arguments.add_argument("-o", "--out", type=Path, required=True, help="where to write the completed config")
    args = arguments.parse_args(argv)
    config = load_config(args.config, ("data_config",), args.overrides).as_dict()
    if args.out.exists() and not args.force:
        raise InputError(f"{args.out} is there already; choose another name, or use --force")
    cents, stiffness, n_heard = fitted(deviations(ProcessedFolder(args.data)))
    config["data_config"] |= {"tuning_cents": cents, "stiffness": stiffness}
    write_text(args.out, json.dumps({name: block for name, block in config.items() if block}, indent=4) + "\n")
    result = {"keys_measured": n_heard, "tuning_cents": cents, "stiffness": stiffness, "config": str(args.out)}
    said = f"{n_heard} of {N_PITCHES} keys measured, {min(cents):+.1f} to {max(cents):+.1f} cents; written: {args.out}"
    print(json.dumps(result) if args.as_json else said)
    return 0


def deviations(folder: ProcessedFolder) -> dict[tuple[int, int], list[float]]:
    """(key, partial) -> how far each stroke's spectral peak lies above an ordinary piano's partial, in cents."""
    found: dict[tuple[int, int], list[float]] = {}
    rng, hz = np.random.default_rng(SEED), folder.audio_hz
    length, size = round(WINDOW_SECONDS * hz), 2 ** int(np.ceil(np.log2(8 * WINDOW_SECONDS * hz)))
    for position in progress(range(len(folder.rows)), len(folder.rows), "recording"):
        played, pcm = folder.performance(position), folder.pcm(position)
        long_enough = sounding_offset(played) - played.onset > SKIPPED_SECONDS + WINDOW_SECONDS
        chosen = np.flatnonzero(long_enough & (played.velocity > np.median(played.velocity)))
        for i in rng.permutation(chosen)[:STROKES_PER_RECORDING]:
            first = round((played.onset[i] + SKIPPED_SECONDS) * hz)
            if first < 0 or first + length > len(pcm):
                continue
            spectrum = np.abs(np.fft.rfft(pcm[first : first + length] * np.hanning(length), size))
            key = int(played.pitch[i]) - LOWEST_PITCH
            usual = partial_hz(key, 0.0, USUAL_STIFFNESS[key])
            for n in PARTIALS:
                if usual[n - 1] < 0.45 * hz and (cents := _peak_cents(spectrum, usual[n - 1], hz / size)) is not None:
                    found.setdefault((key, n), []).append(cents)
    return found


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


def fitted(found: dict[tuple[int, int], list[float]]) -> tuple[list[float], list[float], int]:
    """Cents and stiffness of all keys, and how many of them were measured.

    (f_n / n f)^2 = a + a B n^2 is a line over n^2: it is fitted to the medians of the partials whose strokes agree.
    """
    keys, cents, stiffness = [], [], []
    for key in range(N_PITCHES):
        squares, ratios = [], []
        for n in PARTIALS:
            values = found.get((key, n), [])
            if len(values) < LEAST_STROKES or np.subtract(*np.percentile(values, [75, 25])) > SPREAD_CENTS:
                continue
            usual = 2 ** (np.median(values) / 600) * (1 + USUAL_STIFFNESS[key] * n**2)
            squares.append(n**2)
            ratios.append(usual)
        if not squares:
            continue
        if len(squares) == 1:  # one partial tells the tuning of an ordinary string
            offset = ratios[0] / (1 + USUAL_STIFFNESS[key] * squares[0])
            slope = offset * USUAL_STIFFNESS[key]
        else:
            slope, offset = np.polyfit(squares, ratios, 1, w=1 / np.sqrt(squares))
        keys.append(key)
        cents.append(600 * np.log2(offset))
        stiffness.append(max(slope / offset, 0.0))
    if not keys:
        raise InputError(
            f"no key is heard clearly in {LEAST_STROKES} strokes or more: the data set is too small to be measured"
        )
    # far outside what was measured the usual stiffness says more than the nearest key
    ratio = np.interp(range(N_PITCHES), keys, np.array(stiffness) / np.array(USUAL_STIFFNESS)[keys])
    every = np.interp(range(N_PITCHES), keys, cents)
    return [round(float(c), 3) for c in every], [float(f"{b:.4g}") for b in ratio * USUAL_STIFFNESS], len(keys)


if __name__ == "__main__":
    run(main)
