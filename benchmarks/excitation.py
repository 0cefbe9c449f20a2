"""How much of a data set's sound the excitation holds: what is left of it, by frequency, when its channels are fitted.

    python -m benchmarks.excitation -d data/rendered/validation -c measured.json

The channels of every stretch get the weights that fit it best (least squares), which a decoder can do at least as well;
of a perfect excitation nothing would be left, of none 0 dB. The sound is as the model hears it, with pre-emphasis.
"""

import json
from itertools import pairwise
from pathlib import Path

import numpy as np

from midi2wave.audio.pcm import FULL_SCALE
from midi2wave.audio.pre_emphasis import emphasize
from midi2wave.conditioning.excitation import n_excitation
from midi2wave.conditioning.note_conditioning import conditioning_for
from midi2wave.config import load_config
from midi2wave.data.processed_folder import ProcessedFolder
from midi2wave.utils.cli import make_parser, run
from midi2wave.utils.errors import InputError

SECONDS = 10.0  # of a stretch
STRETCHES = 4  # of each recording, evenly placed
EDGES_HZ = (0, 250, 500, 1000, 2000, 4000)


def main(argv: list[str] | None = None) -> int:
    """Measure a folder; returns the exit code."""
    arguments = make_parser(__doc__, config="config_train.json")
    arguments.add_argument("-d", "--data", type=Path, required=True, help="processed folder to measure")
    args = arguments.parse_args(argv)
    data = load_config(args.config, ("data_config",), args.overrides).data_config
    if not n_excitation(data):
        raise InputError(f"{args.config}: data_config.excitation is false: there is nothing to measure")
    folder = ProcessedFolder(args.data)
    folder.check_rate(data.audio_hz)
    edges = [*(edge for edge in EDGES_HZ if edge < folder.audio_hz / 2), folder.audio_hz / 2]
    whole, left = np.zeros(len(edges) - 1), np.zeros(len(edges) - 1)
    for position in range(len(folder.rows)):
        sound = emphasize(np.array(folder.pcm(position)), data.preemphasis) / FULL_SCALE
        notes, n_frames = conditioning_for(folder.performance(position), data), round(SECONDS * data.midi_hz)
        hop, last = folder.audio_hz // data.midi_hz, len(sound) * data.midi_hz // folder.audio_hz - n_frames
        for first in np.linspace(0, last, STRETCHES).astype(int) if last >= 0 else ():
            here = sound[first * hop : (first + n_frames) * hop]
            channels = notes.excitation(int(first), n_frames).astype(np.float64).T
            residue = here - channels @ np.linalg.lstsq(channels, here, rcond=None)[0]
            whole += _powers(here, folder.audio_hz, edges)
            left += _powers(residue, folder.audio_hz, edges)
    if not whole.sum():
        raise InputError(f"{args.data}: no recording has {SECONDS:g} s of sound")
    left_db = 10 * np.log10(np.maximum([left.sum() / whole.sum(), *(left / whole)], 1e-12))
    names = ["all", *(f"{low:g} to {high:g} Hz" for low, high in pairwise(edges))]
    result = {name: round(float(db), 2) for name, db in zip(names, left_db, strict=True)}
    print(
        json.dumps(result) if args.as_json else "\n".join(f"{name}: {db:+.1f} dB left" for name, db in result.items())
    )
    return 0


def _powers(sound: np.ndarray, hz: int, edges: list[float]) -> np.ndarray:
    """The power of a sound between neighbouring edges, in Hz."""
    spectrum = np.abs(np.fft.rfft(sound)) ** 2
    line = np.searchsorted(np.fft.rfftfreq(len(sound), 1 / hz), edges)
    line[-1] = len(spectrum)
    return np.add.reduceat(spectrum, line[:-1])


if __name__ == "__main__":
    run(main)
