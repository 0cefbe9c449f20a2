"""How much of the audio of a data set the excitation explains, by frequency.

    python -m benchmarks.excitation -d data/rendered/validation -c measured.json

For each stretch the channels of the excitation are fitted to the pre-emphasised audio (least squares), which a decoder
can do at least as well. The result is the level of the residue relative to the audio: 0 dB without an excitation.
"""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np

from midi2wave.audio.pcm import FULL_SCALE
from midi2wave.audio.pre_emphasis import emphasize
from midi2wave.conditioning.excitation import n_excitation
from midi2wave.conditioning.note_conditioning import conditioning_for
from midi2wave.config import DataConfig, load_config
from midi2wave.data.processed_folder import ProcessedFolder
from midi2wave.utils.cli import make_parser, print_result, run
from midi2wave.utils.errors import InputError

# Length of a stretch.
SECONDS = 10.0
# Stretches of each recording, evenly spaced.
N_STRETCHES = 4
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
    total, residual = np.zeros(len(edges) - 1), np.zeros(len(edges) - 1)
    for position in range(len(folder.rows)):
        for audio, residue in _fitted_stretches(folder, position, data):
            total += _powers(audio, folder.audio_hz, edges)
            residual += _powers(residue, folder.audio_hz, edges)
    if not total.sum():
        raise InputError(f"{args.data}: no recording has {SECONDS:g} s of sound")
    ratios = np.maximum([residual.sum() / total.sum(), *(residual / total)], 1e-12)
    names = ["all", *(f"{low:g} to {high:g} Hz" for low, high in pairwise(edges))]
    result = {name: round(float(db), 2) for name, db in zip(names, 10 * np.log10(ratios), strict=True)}
    text = "\n".join(f"{name}: {db:+.1f} dB left" for name, db in result.items())
    print_result(text, result, as_json=args.as_json)
    return 0


def _fitted_stretches(
    folder: ProcessedFolder, position: int, data: DataConfig
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The pre-emphasised audio of each stretch of a recording, and what remains after the fit: float64 [T] both."""
    recording = emphasize(np.array(folder.pcm(position)), data.preemphasis) / FULL_SCALE
    notes, n_frames = conditioning_for(folder.performance(position), data), round(SECONDS * data.midi_hz)
    hop = folder.audio_hz // data.midi_hz
    last = len(recording) * data.midi_hz // folder.audio_hz - n_frames
    for first in np.linspace(0, last, N_STRETCHES).astype(int) if last >= 0 else ():
        audio = recording[first * hop : (first + n_frames) * hop]
        channels = notes.excitation(int(first), n_frames).astype(np.float64).T
        yield audio, audio - channels @ np.linalg.lstsq(channels, audio, rcond=None)[0]


def _powers(audio: np.ndarray, hz: int, edges: list[float]) -> np.ndarray:
    """The power of a signal between neighbouring edges, in Hz."""
    spectrum = np.abs(np.fft.rfft(audio)) ** 2
    bins = np.searchsorted(np.fft.rfftfreq(len(audio), 1 / hz), edges)
    bins[-1] = len(spectrum)
    return np.add.reduceat(spectrum, bins[:-1])


if __name__ == "__main__":
    run(main)
