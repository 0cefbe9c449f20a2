"""What look-ahead is worth in live playing: F1 of the notes, and noise between them, for models and leads.

    python -m benchmarks.live_lookahead                                    shipped small model, example pieces, F1 only
    python -m benchmarks.live_lookahead --clips data/test                  F1 and noise, against recordings
    python -m benchmarks.live_lookahead --lead full --clips data/test --model pretrained/grand.safetensors \
        runs/lookahead_0 runs/lookahead_48 runs/lookahead_100       models that were trained with other look-ahead

The beginnings of pieces are played live: every event becomes known to the model a lead before it takes effect. With the
model's own look-ahead ("full") the samples are those of offline generation. Less is what "Response: fast" and
"immediate" of play.py do: the weights are the same, and were trained with all of their look-ahead. What look-ahead in
training is worth shows a comparison of models that differ in `cond_wavenet_config.lookahead_ms` only.

The F1 is that of the notes that basic-pitch detects (requirements-transcribe.txt). The noise is that of
docs/evaluation.md relative to the recordings, as mean over the octaves; it needs test clips (preprocess_audio.py).
Intervals are by bootstrap over the pieces or recordings.
"""

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from midi2wave.data.test_clips import clip_source
from midi2wave.evaluation.clips import load_clips
from midi2wave.evaluation.metrics import bootstrap_interval, mean
from midi2wave.evaluation.noise_excess import noise_excess
from midi2wave.evaluation.transcription import Transcriber, note_f1, played_notes
from midi2wave.midi.performance import Performance
from midi2wave.midi.reader import read_midi
from midi2wave.utils.cli import log, make_plain_parser, print_result, run
from midi2wave.utils.errors import InputError

if TYPE_CHECKING:
    from midi2wave.live.models import LiveModel

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
PIECES = ("bach_prelude", "fur_elise", "gymnopedie")
# Leads that are played where they are below the model's own look-ahead.
LEADS_MS = (48, 16, 0)
FULL = "full"
# An event takes effect at the first frame of a block at the earliest, and none shall be late.
BLOCK_FRAMES = 1
# Notes that sound when a clip begins are played before it, in so many seconds.
MAX_LEAD_IN_SECONDS = 5.0


@dataclass(frozen=True)
class LivePiece:
    """A piece to be played.

    Attributes:
        name: Its name.
        recording: What it was cut from, for the intervals.
        performance: Its notes.
        truth: The recording, int16 [T]; None where there is none.
    """

    name: str
    recording: str
    performance: Performance
    truth: np.ndarray | None


def pieces_of(clips: str | None, model: "LiveModel", limit: int) -> list[LivePiece]:
    """The example pieces, or the first test clips of a folder. Raises InputError if there are none."""
    if clips is None:
        return [LivePiece(name, name, read_midi(EXAMPLES / f"{name}.mid"), None) for name in PIECES]
    loaded, failures = load_clips(clips, model.checkpoint.config.data_config)
    for failure in failures:
        log(f"{failure.item} is left out: {failure.reason}")
    return [LivePiece(one.name, clip_source(one.name), one.performance, one.truth) for one in loaded[:limit]]


def events_of(performance: Performance, midi_hz: int, lead_in: int) -> list[tuple[int, str, tuple[int, ...]]]:
    """Frame, method of `LiveStream` and arguments of every event, in order; the piece begins at frame `lead_in`."""

    def frame(seconds: float) -> int:
        return max(0, lead_in + round(seconds * midi_hz))

    events: list[tuple[int, str, tuple[int, ...]]] = [
        (frame(seconds), "move_pedal", (pedal, int(value)))
        for pedal, rows in performance.pedals.items()
        for seconds, value in rows.tolist()
    ]
    columns = (performance.onset, performance.offset, performance.pitch, performance.velocity)
    for onset, offset, pitch, velocity in zip(*(column.tolist() for column in columns), strict=True):
        events.append((frame(onset), "press", (pitch, velocity)))
        if math.isfinite(offset):
            events.append((max(frame(offset), frame(onset) + 1), "release", (pitch,)))
    # A key that is struck again in the frame of its release is released first.
    return sorted(events, key=lambda event: (event[0], event[1] == "press"))


def lead_in_frames(performance: Performance, lookahead: int, midi_hz: int) -> int:
    """Frames before a piece: its first notes need the whole look-ahead, and notes may have begun before it."""
    earlier = min(max(0.0, -float(performance.onset.min(initial=0.0))), MAX_LEAD_IN_SECONDS)
    return lookahead + math.ceil(earlier * midi_hz)


def play_live(model: "LiveModel", piece: LivePiece, seconds: float, lead_ms: float | None, seed: int) -> np.ndarray:
    """Play the beginning of a piece live, int16 [T]; `lead_ms` None: the model's look-ahead."""
    from midi2wave.live.messages import Settings
    from midi2wave.live.pieces import labels_of, sampling_options
    from midi2wave.live.stream import LiveStream

    network, data = model.checkpoint.model, model.checkpoint.config.data_config
    settings = Settings(
        temperature=model.temperature,
        sampling=model.sampling,
        guidance=model.guidance,
        history_level=model.history_level,
        seed=seed,
        labels=list(model.global_labels),
    )
    stream = LiveStream(
        model.checkpoint,
        sampling_options(model, settings, threads=0, block_frames=BLOCK_FRAMES),
        global_labels=piece.performance.global_labels or labels_of(model, settings),
        lead_frames=None if lead_ms is None else round(lead_ms * data.midi_hz / 1000),
    )
    lead_in = lead_in_frames(piece.performance, network.context_frames[1], data.midi_hz)
    events, blocks = events_of(piece.performance, data.midi_hz, lead_in), []
    n_frames = lead_in + round(seconds * data.midi_hz)
    while stream.n_frames < n_frames:
        while events and events[0][0] <= stream.horizon:
            _, method, arguments = events.pop(0)
            getattr(stream, method)(*arguments)
        blocks.append(stream.next_block())
    stream.close()
    return np.concatenate(blocks)[lead_in * network.hop : n_frames * network.hop]


def noise_db(pcm: np.ndarray, truth: np.ndarray | None, audio_hz: int) -> tuple[float, float]:
    """10th percentile and median of the noise above the recording in dB, means over the octaves; NaN without one."""
    if truth is None:
        return math.nan, math.nan
    length = min(len(pcm), len(truth))
    octaves = noise_excess(pcm[:length], truth[:length], truth[:length], audio_hz).output
    return tuple(float(np.nanmean(octaves[name])) for name in ("percentile_10", "median"))  # type: ignore[return-value]


def measure(
    model: "LiveModel",
    pieces: Sequence[LivePiece],
    lead_ms: float | None,
    args: argparse.Namespace,
    listen: Transcriber,
) -> dict[str, Any]:
    """One row of the table: a model played with a lead."""
    data = model.checkpoint.config.data_config
    own_ms = model.describe()["lookahead_ms"]
    n_seeds = args.seeds if model.sampling == "random" else 1
    scores: list[tuple[float, float, float]] = []
    for piece in pieces:
        n_seconds = min(args.seconds, math.inf if piece.truth is None else len(piece.truth) / data.audio_hz)
        reference = played_notes(piece.performance, 0.0, n_seconds)
        for seed in range(n_seeds):
            pcm = play_live(model, piece, n_seconds, lead_ms, seed)
            f1 = note_f1(reference, listen.notes(pcm, data.audio_hz).between(0.0, n_seconds))
            scores.append((f1, *noise_db(pcm, piece.truth, data.audio_hz)))
    recordings = [piece.recording for piece in pieces for _ in range(n_seeds)]
    row: dict[str, Any] = {
        "model": model.path,
        "lookahead_ms": own_ms,
        "lead_ms": own_ms if lead_ms is None else lead_ms,
    }
    for name, values in zip(("f1", "noise_10_db", "noise_median_db"), zip(*scores, strict=True), strict=True):
        row[name] = mean(values)
        row[f"{name}_interval"] = bootstrap_interval(values, recordings)
    return row


def leads_of(model: "LiveModel", asked: Sequence[str]) -> list[float | None]:
    """The leads to play a model with: its own look-ahead as None, and those below it."""
    own_ms = model.describe()["lookahead_ms"]
    leads = [None if lead == FULL else float(lead) for lead in asked]
    return [lead for lead in leads if lead is None or lead < own_ms]


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as Markdown."""

    def cell(row: dict[str, Any], name: str, digits: int) -> str:
        value, (low, high) = row[name], row[f"{name}_interval"]
        if not math.isfinite(value):
            return "-"
        interval = f" ({low:.{digits}f} to {high:.{digits}f})" if math.isfinite(low) else ""
        return f"{value:.{digits}f}{interval}"

    titles = ("model", "look-ahead, ms", "lead, ms", "F1", "noise excess, 10th percentile, dB", "median, dB")
    lines = ["| " + " | ".join(titles) + " |", "|---" * len(titles) + "|"]
    for row in rows:
        cells = (cell(row, "f1", 3), cell(row, "noise_10_db", 1), cell(row, "noise_median_db", 1))
        lines.append(
            f"| {Path(row['model']).stem} | {row['lookahead_ms']:g} | {row['lead_ms']:g} | " + " | ".join(cells) + " |"
        )
    return "\n".join(lines)


def _lead(text: str) -> str:
    if text != FULL and not (text.replace(".", "", 1).isdecimal() and float(text) <= 60_000):
        raise argparse.ArgumentTypeError(f"{text!r}: expected {FULL} or milliseconds")
    return text


def _parser() -> argparse.ArgumentParser:
    parser = make_plain_parser(__doc__)
    add = parser.add_argument
    add("--model", nargs="+", default=["pretrained/rendered.safetensors"], help="the models to play")
    lead_help = f"leads in ms; {FULL}: the model's look-ahead; those that are not below it are left out"
    add("--lead", nargs="+", type=_lead, default=[FULL, *map(str, LEADS_MS)], metavar="MS", help=lead_help)
    add("--clips", metavar="FOLDER", help="test clips with their recordings in place of the example pieces")
    add("--max_clips", type=int, default=12, help="how many of them are played (default 12)")
    add("--seconds", type=float, default=15.0, help="how much of each piece is played")
    add(
        "--seeds",
        type=int,
        default=1,
        help="how often, with other random numbers; once for a model that plays the mean",
    )
    add("--json", dest="as_json", action="store_true", help="print the rows as one JSON list")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Measure and print; returns the exit code."""
    args = _parser().parse_args(argv)
    if args.seeds < 1 or args.max_clips < 1 or not 0 < args.seconds < math.inf:
        raise InputError("expected --seeds and --max_clips of 1 or more, and --seconds above 0")
    # PyTorch takes a second or two to import, for which neither --help nor a wrong argument should wait.
    from midi2wave.live.models import load_models

    models = load_models(args.model, "cpu")
    listen, rows = Transcriber(), []
    for model in models:
        pieces = pieces_of(args.clips, model, args.max_clips)
        for lead_ms in leads_of(model, args.lead):
            rows.append(measure(model, pieces, lead_ms, args, listen))
            log(table(rows[-1:]).splitlines()[-1])
    print_result(table(rows), rows, as_json=args.as_json)
    return 0


if __name__ == "__main__":
    run(main)
