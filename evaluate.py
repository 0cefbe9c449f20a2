"""Step 6: a checkpoint and test clips -> how far the model obeys its MIDI, in numbers between a floor and a ceiling.

    python evaluate.py -c config_evaluate.json
    python evaluate.py -c config_evaluate.json --json > scores.json

Teacher-forced: the likelihood of the recordings with their own MIDI, another clip's and none, from paired passes.
Free-running: clips generated from their MIDI alone, scored beside the recordings themselves (the ceiling) and against
another clip (the floor). The F1 of the notes heard needs a transcriber: see requirements-transcribe.txt. With
drift_dir, also a minute at a time. Clips that an earlier run generated are not generated again.
"""

import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from midi2wave import checkpoint
from midi2wave.audio.io import read_pcm, write_wav
from midi2wave.conditioning.global_conditioning import default_labels, resolve_labels
from midi2wave.config import Config, DataConfig, EvaluateConfig, load_config
from midi2wave.data.pairing import mismatched_pairs
from midi2wave.data.test_clips import clip_source
from midi2wave.evaluation import drift
from midi2wave.evaluation.conditioning_ratios import clip_conditioning_ratios
from midi2wave.evaluation.counterfactual import Counterfactuals, counterfactuals
from midi2wave.evaluation.likelihood import Paired, paired_likelihood
from midi2wave.evaluation.metrics import (
    bootstrap_interval,
    chroma_similarity,
    mean,
    multi_resolution_stft,
    onset_agreement,
)
from midi2wave.evaluation.report import clip_picture, summary_figure, table
from midi2wave.evaluation.transcription import INSTALL, Notes, Transcriber, note_f1, played_notes
from midi2wave.midi.performance import Performance
from midi2wave.modules.argmax_bottleneck import codebook_usage
from midi2wave.plotting.figures import clip_figure, save_figure
from midi2wave.plotting.listening_page import ListeningClip, write_listening_page
from midi2wave.sampling.options import SamplingOptions
from midi2wave.sampling.pieces import Piece, clip_pieces, prompt_frames
from midi2wave.sampling.synthesis import encode, synthesize
from midi2wave.utils.atomic_files import acquire_output_dir, write_text
from midi2wave.utils.cli import Failure, log, make_parser, progress, report_and_exit_code, run
from midi2wave.utils.errors import InputError
from wavenet import WaveNet

RECORD_NAME, RESULT_NAME, SUMMARY_NAME, PAGE_NAME = "evaluate.json", "scores.json", "summary.png", "index.html"
DRIFT_NAME = "drift"  # the folder of the long clips, in the output folder
PRODUCTS = ("*.wav", "*.png", RESULT_NAME, PAGE_NAME)
NOT_HEARD = ("test_dir", "output_dir", "batch_size", "device", "sampler_threads", "counterfactuals", "drift_dir")


@dataclass(frozen=True)
class Score:
    """One measure of one clip: the model's, the recording's own, and the model's against another clip."""

    value: float
    ceiling: float
    floor: float


@dataclass(frozen=True)
class Scored:
    """All that is known of one clip; `heard` is None without a transcriber."""

    piece: Piece
    output: np.ndarray  # int16 [T]
    everywhere: Paired
    at_onsets: Paired
    ratios: list[float]  # of conditioning to past samples, per layer
    measures: dict[str, Score]
    heard: Notes | None
    code_counts: np.ndarray | None  # how many frames have each code, [K], of a model with codes


def main(argv: list[str] | None = None) -> int:
    """Run the step; returns the exit code."""
    args = make_parser(__doc__, config="config_evaluate.json").parse_args(argv)
    config = load_config(args.config, ("evaluate_config",), args.overrides)
    settings = config.evaluate_config
    loaded = checkpoint.load_for_generation(settings, config, args.config)
    model, theirs, step = loaded.model, loaded.config, loaded.step
    data = theirs.data_config
    if not data.conditional:
        raise InputError(
            f"{settings.model_filename} is an unconditional model: there is no MIDI that it could obey; its "
            "likelihood: inference.py with inference_config.mode=teacher_forced"
        )
    pieces, failures = _clips(settings, data)
    long_pieces, long_failures = ([], [])
    if settings.drift_dir:
        long_pieces, long_failures = clip_pieces(settings.drift_dir, data, settings.global_values)
    transcriber = _transcriber()
    folder = Path(settings.output_dir)
    for where, given in ((folder, pieces), (folder / DRIFT_NAME, long_pieces)):
        if given:
            acquire_output_dir(where, RECORD_NAME, _record(settings, loaded, given), PRODUCTS, force=args.force)

    player = _Player(model, data, settings)
    outputs = _outputs(player, pieces, folder, prompt_frames(settings, data))
    scored = list(progress(_scores(model, data, pieces, outputs, transcriber, settings), len(pieces), "clip"))
    changes = counterfactuals(player, data.audio_hz, values=data.global_values) if settings.counterfactuals else None
    drifts = _drifts(player, long_pieces, folder / DRIFT_NAME, transcriber)

    result = _result(scored, changes, drifts, transcriber)
    result |= {"model": str(settings.model_filename), "step": step, "mode": settings.mode, "output_dir": str(folder)}
    whole = Config(**{name: getattr(theirs, name) for name in checkpoint.MODEL_BLOCKS}, evaluate_config=settings)
    write_text(folder / RESULT_NAME, json.dumps({**result, "config": whole.as_dict()}, indent=2) + "\n")
    _write_pictures(folder, scored, result, settings, data)
    listen = f"\nlisten and look: {folder / PAGE_NAME}; {folder / SUMMARY_NAME}; all numbers: {folder / RESULT_NAME}"
    failures += long_failures
    return report_and_exit_code(table(result) + listen, result, failures, len(scored), as_json=args.as_json)


def _clips(settings: EvaluateConfig, data: DataConfig) -> tuple[list[Piece], list[Failure]]:
    """The test clips that can be scored; those that teacher_length leaves nothing of as failures."""
    pieces, failures = clip_pieces(settings.test_dir, data, settings.global_values)
    prompted = prompt_frames(settings, data)
    short = [piece for piece in pieces if piece.n_frames <= prompted]
    why = f"is not longer than teacher_length = {settings.teacher_length:g} s; lower evaluate_config.teacher_length"
    failures += [Failure(piece.name, why) for piece in short]
    pieces = [piece for piece in pieces if piece.n_frames > prompted]
    if len(pieces) < 2:
        raise InputError(
            f"{settings.test_dir} holds {len(pieces)} usable clips, expected two or more (each is also given another's "
            "MIDI); cut more with preprocess_audio.py"
        )
    return pieces, failures


def _transcriber() -> Transcriber | None:
    try:
        return Transcriber()
    except ImportError as error:
        log(f"no transcriber ({error}), so no F1; to have it: {INSTALL}")
        return None


def _record(settings: EvaluateConfig, loaded: checkpoint.LoadedCheckpoint, pieces: list[Piece]) -> dict[str, Any]:
    """All that the samples depend on: it tells whose results a folder holds."""
    clips = {}
    for piece in pieces:  # clips cut anew may have the same names
        played = piece.performance
        events = (played.onset, played.offset, played.pitch, played.velocity, *played.pedals.values())
        recording = "".join(played.global_labels).encode()
        digest = hashlib.sha256(b"".join(array.tobytes() for array in (piece.truth, *events)) + recording)
        clips[piece.name] = digest.hexdigest()
    return {
        "evaluate_config": {name: value for name, value in vars(settings).items() if name not in NOT_HEARD},
        "model": loaded.config.as_dict(),
        "step": loaded.step,
        "weights_sha256": loaded.sha256,
        "clips": clips,
    }


class _Player:
    """The model as something that turns performances into audio, with the settings of this evaluation."""

    def __init__(self, model: WaveNet, data: DataConfig, settings: EvaluateConfig) -> None:
        self.model, self.data, self.settings = model, data, settings
        self.usual = resolve_labels(default_labels(data.global_values), settings.global_values, data.global_values)

    def __call__(self, performances: list[Performance], seconds: float) -> np.ndarray:
        """int16 [B, T], free-running. All use the same uniforms, so that they differ by their notes alone, and by what
        they say of the recording; where they say nothing, it is the usual one."""
        log(f"generating {len(performances)} phrases of {seconds:g} s")
        values = self.data.global_values
        performances = [
            replace(one, global_labels=resolve_labels(self.usual, one.global_labels, values)) for one in performances
        ]
        return self.generate(performances, round(seconds * self.data.midi_hz), [0] * len(performances))

    def generate(
        self, performances: list[Performance], n_frames: int, streams: list[int], prefix: np.ndarray | None = None
    ) -> np.ndarray:
        """int16 [B, n_frames * hop], in batches; prefix: int16 [B, P * hop] that is taken as given."""
        size, sounds = self.settings.batch_size, []
        for first in range(0, len(performances), size):
            part = slice(first, first + size)
            blocks = synthesize(
                self.model,
                performances[part],
                n_frames,
                self.data,
                SamplingOptions.from_config(self.settings),
                streams=streams[part],
                prefix=None if prefix is None else prefix[part],
            )
            sounds.append(np.concatenate(list(blocks), axis=1))
        return np.concatenate(sounds)


def _outputs(player: _Player, pieces: list[Piece], folder: Path, n_given: int) -> list[np.ndarray]:
    """What the model makes of every piece, int16 [n_frames * hop]; from its wav where an earlier run wrote that."""
    hop, hz, size = player.model.hop, player.data.audio_hz, player.settings.batch_size
    todo = [piece for piece in pieces if not (folder / f"{piece.name}.wav").is_file()]
    todo.sort(key=lambda piece: piece.n_frames)  # a batch lasts as long as its longest piece
    for first in range(0, len(todo), size):
        batch = todo[first : first + size]
        log(f"generating {len(batch)} of {len(pieces)} pieces, {batch[-1].n_frames / player.data.midi_hz:g} s each")
        prefix = np.stack([piece.truth[: n_given * hop] for piece in batch]) if n_given else None
        sounds = player.generate([piece.performance for piece in batch], batch[-1].n_frames,
                                 [piece.stream for piece in batch], prefix)  # fmt: skip
        for piece, sound in zip(batch, sounds, strict=True):
            write_wav(folder / f"{piece.name}_truth.wav", piece.truth, hz)
            write_wav(folder / f"{piece.name}.wav", sound[: piece.n_frames * hop], hz)
    return [read_pcm(folder / f"{piece.name}.wav", hz) for piece in pieces]


def _scores(
    model: WaveNet, data: DataConfig, pieces: list[Piece], outputs: list[np.ndarray], transcriber: Transcriber | None,
    settings: EvaluateConfig,
) -> Iterator[Scored]:  # fmt: skip
    """Likelihoods and scores of every clip."""
    start, hz = prompt_frames(settings, data) / data.midi_hz, data.audio_hz
    for piece, output, k in zip(
        pieces, outputs, mismatched_pairs([clip_source(piece.name) for piece in pieces]), strict=True
    ):
        other = pieces[k]
        own, at_onsets = paired_likelihood(model, piece.truth, piece.performance, other.performance, data)
        sound, truth, wrong = (pcm[round(start * hz) :] for pcm in (output, piece.truth, other.truth))
        pairs = ((sound, truth), (truth, truth), (sound, wrong))
        measures = {
            "chroma": Score(*(chroma_similarity(*pair, hz) for pair in pairs)),
            "onsets": Score(*(onset_agreement(*pair, hz) for pair in pairs)),
            "mrstft": Score(*(multi_resolution_stft(*pair) for pair in pairs)),
        }
        heard = None
        if transcriber is not None:
            end = len(piece.truth) / hz
            notes, others = (played_notes(one.performance, start, end) for one in (piece, other))
            heard = transcriber.notes(output, hz).between(start, end)
            ceiling = transcriber.notes(piece.truth, hz).between(start, end)
            pairs = ((notes, heard), (notes, ceiling), (others, heard))
            measures["f1"] = Score(*(note_f1(*pair) for pair in pairs))
            measures["f1_offsets"] = Score(*(note_f1(*pair, with_offsets=True) for pair in pairs))
        ratios = clip_conditioning_ratios(model, piece.truth, piece.performance, data)
        counts, n_codes = None, model.n_codes
        if n_codes:
            codes = encode(model, piece.performance, piece.n_frames, data)
            counts = np.bincount(codes.frames(0, piece.n_frames), minlength=n_codes)
        yield Scored(piece, output, own, at_onsets, ratios, measures, heard, counts)


def _drifts(
    player: _Player, pieces: list[Piece], folder: Path, transcriber: Transcriber | None
) -> dict[str, drift.Drift]:
    """Generate every long clip, and some seconds beyond its end, and measure what has become of it."""
    hz, midi_hz, found = player.data.audio_hz, player.data.midi_hz, {}
    tail_frames = math.ceil(drift.TAIL_SECONDS * midi_hz)
    stretched = [
        replace(piece, performance=drift.ending(piece.performance, piece.n_frames / midi_hz),
                n_frames=piece.n_frames + tail_frames) for piece in pieces
    ]  # fmt: skip
    for piece, sound in zip(stretched, _outputs(player, stretched, folder, 0), strict=True):
        found[piece.name] = drift.measure(sound, piece.truth, piece.performance, hz, transcriber)
        figure = clip_figure(piece.performance, piece.n_frames / midi_hz, hz, piece.truth, sound, title=piece.name)
        save_figure(folder / f"{piece.name}.png", figure)
    return found


def _result(
    scored: list[Scored], changes: Counterfactuals | None, drifts: dict[str, drift.Drift],
    transcriber: Transcriber | None,
) -> dict[str, Any]:  # fmt: skip
    """Means over the clips with their intervals, and every clip's own numbers, as plain JSON values."""
    result: dict[str, Any] = {"clips": len(scored), "transcriber": transcriber.name if transcriber else None}
    for suffix, parts in (("", [one.everywhere for one in scored]), ("_onsets", [one.at_onsets for one in scored])):
        weights = np.array([part.n_samples for part in parts])
        for name in ("true", "shuffled", "null", "gap", "gap_null"):
            key = name + suffix if name.startswith("gap") else f"nll_{name}{suffix}"
            values = np.array([getattr(part, name) for part in parts])
            result[key], result[f"{key}_interval"] = mean(values, weights), bootstrap_interval(values, weights)
    for name in ("f1", "f1_offsets", "chroma", "onsets", "mrstft"):
        scores = [one.measures[name] for one in scored if name in one.measures]
        result[name] = mean([score.value for score in scores])
        result[f"{name}_interval"] = bootstrap_interval([score.value for score in scores])
        result[f"{name}_ceiling"] = mean([score.ceiling for score in scores])
        result[f"{name}_floor"] = mean([score.floor for score in scores])
    result["conditioning_ratios"] = [mean(same) for same in zip(*(one.ratios for one in scored), strict=True)]
    counts = [one.code_counts for one in scored if one.code_counts is not None]
    result["n_codes"] = len(counts[0]) if counts else 0
    result |= codebook_usage(np.sum(counts, axis=0)) if counts else {"code_usage": None, "code_perplexity": None}
    result["counterfactuals"] = asdict(changes) if changes else None
    result["drift"] = {name: asdict(one) for name, one in drifts.items()}
    result["per_clip"] = [_clip_result(one) for one in scored]
    return _plain(result)


def _clip_result(one: Scored) -> dict[str, Any]:
    values = {"clip": one.piece.name, "likelihood": asdict(one.everywhere), "likelihood_onsets": asdict(one.at_onsets)}
    return values | {name: asdict(score) for name, score in one.measures.items()}


def _plain(value: Any) -> Any:
    """Tuples as lists and nan as null: JSON has no word for what is not known."""
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _write_pictures(
    folder: Path, scored: list[Scored], result: dict[str, Any], settings: EvaluateConfig, data: DataConfig
) -> None:
    """A picture per clip, one of all, and the page to listen to."""
    entries, start = [], prompt_frames(settings, data) / data.midi_hz
    for one in scored:
        name, seconds = one.piece.name, len(one.piece.truth) / data.audio_hz
        notes = played_notes(one.piece.performance, start, seconds)
        words = f"chroma {one.measures['chroma'].value:.2f}"
        if f1 := one.measures.get("f1"):
            words = f"F1 {f1.value:.2f} (recording {f1.ceiling:.2f}), {words}"
        figure = clip_picture(one.piece.performance, data.audio_hz, one.piece.truth, one.output, notes, one.heard,
                              title=f"{name}: {words}", prompt_end_seconds=start or None)  # fmt: skip
        save_figure(folder / f"{name}.png", figure)
        sounds = [("output", f"{name}.wav"), ("recording", f"{name}_truth.wav")]
        entries.append(
            ListeningClip(name, f"{name}.png", sounds, f"{words}; gap {one.everywhere.gap:.3f} nats per sample")
        )
    save_figure(folder / SUMMARY_NAME, summary_figure(result))
    facts = {"model": f"{result['model']}, step {result['step']}", "mode": settings.mode, "seed": str(settings.seed),
             "temperature": f"{settings.temperature:g}", "guidance": f"{settings.guidance:g}",
             "transcriber": result["transcriber"] or "none"}  # fmt: skip
    write_listening_page(folder / PAGE_NAME, "midi2wave: evaluation", entries, facts)


if __name__ == "__main__":
    run(main)
