"""What the look-ahead of a model is worth in live playing: F1 of the notes with all of it, some of it, and none.

    python -m benchmarks.live_lookahead
    python -m benchmarks.live_lookahead --model pretrained/disklavier.safetensors --seconds 20

The first seconds of the example pieces are played live: every event becomes known to the model a lead before it takes
effect. With the whole look-ahead the samples are those of offline generation; no lead is what "Response: immediate" of
play.py does. The weights are the same in all rows, and were trained with all of it. The F1 is that of the notes that
basic-pitch detects (requirements-transcribe.txt), over all pieces and seeds.
"""

import argparse
from pathlib import Path

import numpy as np

from midi2wave.evaluation.transcription import Transcriber, note_f1, played_notes
from midi2wave.live.messages import Settings
from midi2wave.live.models import LiveModel, load_models
from midi2wave.live.pieces import labels_of, sampling_options
from midi2wave.live.stream import LiveStream
from midi2wave.midi.performance import Performance
from midi2wave.midi.reader import read_midi
from midi2wave.utils.cli import log, make_plain_parser, print_result, run

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
PIECES = ("bach_prelude", "fur_elise", "gymnopedie")
# Of the lead, below the model's own look-ahead.
LEADS_MS = (48, 16, 0)
# Events are at most so many frames late: the first frame of a block is the earliest at which one can take effect.
BLOCK_FRAMES = 2


def events_of(performance: Performance, midi_hz: int) -> list[tuple[int, str, tuple[int, ...]]]:
    """Frame, method of `LiveStream` and arguments of every event, in order."""
    events: list[tuple[int, str, tuple[int, ...]]] = [
        (round(seconds * midi_hz), "move_pedal", (pedal, int(value)))
        for pedal, rows in performance.pedals.items()
        for seconds, value in rows.tolist()
    ]
    columns = (performance.onset, performance.offset, performance.pitch, performance.velocity)
    for onset, offset, pitch, velocity in zip(*(column.tolist() for column in columns), strict=True):
        events.append((round(onset * midi_hz), "press", (pitch, velocity)))
        events.append((round(offset * midi_hz), "release", (pitch,)))
    # A key that is struck again in the frame of its release is released first.
    return sorted(events, key=lambda event: (event[0], event[1] == "press"))


def play_live(
    model: LiveModel, performance: Performance, seconds: float, lead_ms: float | None, seed: int
) -> np.ndarray:
    """Play the beginning of a performance live, int16 [T]; `lead_ms` None: the model's look-ahead."""
    midi_hz = model.checkpoint.config.data_config.midi_hz
    settings = Settings(
        temperature=model.temperature, guidance=model.guidance, seed=seed, labels=list(model.global_labels)
    )
    options = sampling_options(model, settings, threads=0, block_frames=BLOCK_FRAMES)
    lead_frames = None if lead_ms is None else round(lead_ms * midi_hz / 1000)
    stream = LiveStream(model.checkpoint, options, global_labels=labels_of(model, settings), lead_frames=lead_frames)
    events, blocks = events_of(performance, midi_hz), []
    while stream.n_frames < seconds * midi_hz:
        while events and events[0][0] <= stream.horizon:
            _, method, arguments = events.pop(0)
            getattr(stream, method)(*arguments)
        blocks.append(stream.next_block())
    stream.close()
    return np.concatenate(blocks)


def _parser() -> argparse.ArgumentParser:
    parser = make_plain_parser(__doc__)
    parser.add_argument("--model", default="pretrained/rendered.safetensors", help="the model to play")
    parser.add_argument("--seconds", type=float, default=15.0, help="how much of each piece is played")
    parser.add_argument("--seeds", type=int, default=1, help="how often, with other random numbers")
    parser.add_argument("--json", dest="as_json", action="store_true", help="print the rows as one JSON list")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Measure and print; returns the exit code."""
    args = _parser().parse_args(argv)
    transcriber = Transcriber()
    (model,) = load_models([args.model], "cpu")
    audio_hz = model.checkpoint.config.data_config.audio_hz
    own_ms = model.describe()["lookahead_ms"]
    rows = []
    for lead_ms in (None, *(lead for lead in LEADS_MS if lead < own_ms)):
        scores = []
        for name in PIECES:
            performance = read_midi(EXAMPLES / f"{name}.mid")
            reference = played_notes(performance, 0.0, args.seconds)
            for seed in range(args.seeds):
                pcm = play_live(model, performance, args.seconds, lead_ms, seed)
                scores.append(note_f1(reference, transcriber.notes(pcm, audio_hz)))
        rows.append({"lead_ms": own_ms if lead_ms is None else lead_ms, "f1": round(float(np.mean(scores)), 3)})
        log(f"{rows[-1]}, of the pieces: {', '.join(f'{score:.3f}' for score in scores)}")
    lines = ["| lead, ms | F1 |", "|---|---|", *(f"| {row['lead_ms']:g} | {row['f1']:.3f} |" for row in rows)]
    print_result("\n".join(lines), rows, as_json=args.as_json)
    return 0


if __name__ == "__main__":
    run(main)
