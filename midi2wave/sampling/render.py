"""Render pieces into a folder: wavs, note events, pictures, and what is measured on the way (inference.py).

The files of a piece are written as it is generated, the wav after those that its input gives: a piece with a wav is
finished. Its picture can be drawn from the files at any time.
"""

import functools
import json
import sys
import time
from collections.abc import Generator, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from midi2wave.audio.io import map_wav, wav_stream, write_wav
from midi2wave.checkpoint import LoadedCheckpoint
from midi2wave.config import InferenceConfig
from midi2wave.midi.performance import empty_performance, load_events, save_events
from midi2wave.plotting.pictures import save_picture
from midi2wave.sampling import folding
from midi2wave.sampling.code_files import Codes, load_codes, save_codes
from midi2wave.sampling.options import SamplingOptions
from midi2wave.sampling.output_files import CODES_SUFFIX, INTERRUPTED_SUFFIX, SEAMS_SUFFIX, TRUTH_SUFFIX
from midi2wave.sampling.pieces import Piece, prompt_frames
from midi2wave.sampling.synthesis import CodedPerformance, ConditioningSource, encode, synthesize, teacher_forced
from midi2wave.utils.atomic_files import write_text
from midi2wave.utils.cli import SECONDS_BETWEEN_MESSAGES, count_of, log
from midi2wave.utils.errors import InputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Blocks = Generator[np.ndarray, None, None]


@dataclass(frozen=True)
class RenderJob:
    """Everything that all pieces of one call have in common.

    Attributes:
        loaded: The model.
        settings: The resolved settings; their mode is the one in which the pieces are rendered.
        folder: Where the files go.
    """

    loaded: LoadedCheckpoint
    settings: InferenceConfig
    folder: Path

    @property
    def options(self) -> SamplingOptions:
        """How samples are drawn, and by which engine."""
        return SamplingOptions.from_config(self.settings)

    @property
    def audio_hz(self) -> int:
        """Sample rate of the model."""
        return self.loaded.config.data_config.audio_hz


def is_done(job: RenderJob, piece: Piece) -> bool:
    """Whether an earlier run finished this piece, be it without its picture."""
    if job.settings.mode == "teacher_forced" and read_nll(job.folder, piece.name) is None:
        return False
    if piece.fold and read_seams(job.folder, piece.name) is None:
        return False
    if piece.truth is not None and not (job.folder / f"{piece.name}{TRUTH_SUFFIX}").is_file():
        return False
    return (job.folder / f"{piece.name}.wav").is_file()


def read_nll(folder: Path, name: str) -> float | None:
    """The mean negative log-likelihood of a rendered clip in nats per sample; None if there is none."""
    try:
        return float(_read_json(folder / f"{name}.json")["nll"])
    except (ValueError, TypeError, KeyError):
        return None


def read_seams(folder: Path, name: str) -> Any:
    """The measurements of a folded piece's seams (`folding.measure_seams`); None if there are none."""
    return _read_json(folder / f"{name}{SEAMS_SUFFIX}")


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None


def batches(pieces: list[Piece], size: int) -> Iterator[list[Piece]]:
    """The pieces that are generated side by side; a folded piece is a batch by itself.

    Pieces of a batch are of about equal length, since a batch takes as long as its longest piece.
    """
    by_length = sorted(pieces, key=lambda piece: piece.n_frames)
    whole = [piece for piece in by_length if not piece.fold]
    yield from (whole[start : start + size] for start in range(0, len(whole), size))
    yield from ([piece] for piece in by_length if piece.fold)


def render(job: RenderJob, pieces: list[Piece]) -> None:
    """Generate one batch, and write all its files."""
    pieces = [_write_sources(job, piece) for piece in pieces]
    if job.settings.mode == "teacher_forced":
        for piece in pieces:  # One by one: clips may differ in length, and a parallel pass gains nothing from a batch.
            _render_teacher_forced(job, piece)
    elif fold := pieces[0].fold:
        _render_folded(job, pieces[0], fold)
    else:
        _render_batch(job, pieces)
    for piece in pieces:
        draw_piece(job, piece)


def _write_sources(job: RenderJob, piece: Piece) -> Piece:
    """Write the notes, true audio and codes of a piece beside its wav; returns the piece with its codes."""
    if piece.performance is not None:
        save_events(job.folder / f"{piece.name}.npz", piece.performance)
    if piece.truth is not None:
        write_wav(job.folder / f"{piece.name}{TRUTH_SUFFIX}", piece.truth, job.audio_hz)
    if not job.loaded.model.n_codes:
        return piece
    codes = _codes(job.loaded, piece)
    save_codes(job.folder / f"{piece.name}{CODES_SUFFIX}", codes)
    return replace(piece, codes=codes)


def mend_sources(job: RenderJob, piece: Piece) -> None:
    """Write the notes and the codes of a finished piece again if a file of them is damaged."""
    for suffix, read in ((".npz", load_events), (CODES_SUFFIX, load_codes)):
        path = job.folder / f"{piece.name}{suffix}"
        try:
            if path.is_file():
                read(path)
        except InputError:
            log(f"{path} was damaged and is written again; {piece.name}.wav stays as it is")
            _write_sources(job, piece)


def _codes(loaded: LoadedCheckpoint, piece: Piece) -> Codes:
    """The argmax codes of a piece: its own ones, or those of its notes."""
    if piece.codes is not None:
        return piece.codes
    codes = encode(loaded.model, piece.performance, piece.n_frames, loaded.config.data_config)
    return replace(codes, weights_sha256=loaded.sha256)


def _truth(piece: Piece) -> np.ndarray:
    """The true audio of a piece that has it, int16 [n_frames * hop]."""
    if piece.truth is None:
        raise ValueError(f"{piece.name} has no true audio")
    return piece.truth


def draw_piece(job: RenderJob, piece: Piece) -> None:
    """Draw the picture of a finished piece, or say why it cannot be drawn."""
    midi_hz = job.loaded.config.data_config.midi_hz
    prefix_frames = _prefix_frames(job, piece)
    path_of_codes = job.folder / f"{piece.name}{CODES_SUFFIX}"
    codes = load_codes(path_of_codes) if path_of_codes.is_file() else None
    output = map_wav(job.folder / f"{piece.name}.wav")

    def draw() -> "Figure":
        from midi2wave.plotting.figures import clip_figure

        return clip_figure(
            piece.performance or empty_performance(),
            piece.n_frames / midi_hz,
            job.audio_hz,
            piece.truth,
            output,
            title=piece.name,
            prompt_end_seconds=prefix_frames / midi_hz if prefix_frames else None,
            extra=functools.partial(_plot_codes, codes, midi_hz) if codes else None,
        )

    save_picture(job.folder / f"{piece.name}.png", draw)


def draw_missing_pictures(job: RenderJob, pieces: list[Piece]) -> None:
    """Draw the pictures that an earlier run could not draw."""
    for piece in pieces:
        if is_done(job, piece) and not (job.folder / f"{piece.name}.png").is_file():
            draw_piece(job, piece)


def _prefix_frames(job: RenderJob, piece: Piece) -> int:
    """How many frames of its own true audio a piece begins with."""
    return 0 if piece.prompt else prompt_frames(job.settings, job.loaded.config.data_config)


def _plot_codes(codes: Codes, midi_hz: int, ax: "Axes") -> None:
    """One row of a piece's picture: the argmax code of every frame."""
    from midi2wave.plotting.figures import TEAL

    ax.plot(np.arange(codes.n_frames) / midi_hz, codes.frames(0, codes.n_frames), ",", color=TEAL)
    ax.set(ylabel="code", ylim=(-1, codes.n_codes))


def _render_teacher_forced(job: RenderJob, piece: Piece) -> None:
    """Draw every sample of a clip given the true ones before it; writes the clip's likelihood too."""
    output, nll = teacher_forced(
        job.loaded.model,
        [piece.performance],
        _truth(piece)[None],
        job.loaded.config.data_config,
        job.options,
        streams=[piece.stream],
    )
    write_text(job.folder / f"{piece.name}.json", json.dumps({"nll": nll}) + "\n")
    write_wav(job.folder / f"{piece.name}.wav", output[0], job.audio_hz)


def _batch_blocks(job: RenderJob, pieces: list[Piece], n_frames: int, prefix_frames: int) -> Blocks:
    """The blocks of a batch, int16 [B, n], from time 0 of the pieces; the first prefix_frames are the clips' truth."""
    model, data, prompt = job.loaded.model, job.loaded.config.data_config, pieces[0].prompt
    sources: list[ConditioningSource] = [piece.conditioning_source for piece in pieces]
    if model.n_codes and not prompt:
        sources = [CodedPerformance(piece.conditioning_source, _codes(job.loaded, piece)) for piece in pieces]
    before, prefix = 0, None
    if prompt:
        before, prefix = len(prompt.pcm) // model.hop, np.stack([prompt.pcm] * len(pieces))
    elif prefix_frames:
        prefix = np.stack([_truth(piece)[: prefix_frames * model.hop] for piece in pieces])
    blocks = synthesize(
        model,
        sources,
        before + n_frames,
        data,
        job.options,
        streams=[piece.stream for piece in pieces],
        prefix=prefix,
        first_frames=[-before] * len(pieces),
    )
    with closing(blocks):
        if prompt:
            next(blocks)  # The prompt itself.
        yield from blocks


def _render_batch(job: RenderJob, pieces: list[Piece]) -> None:
    """Generate one batch into its wavs, block by block.

    If it is interrupted, NAME.interrupted.wav holds what there is of every piece; a rerun does not use it.
    """
    data, hop = job.loaded.config.data_config, job.loaded.model.hop
    n_frames = max(piece.n_frames for piece in pieces)
    prefix_frames = _prefix_frames(job, pieces[0])
    unfinished, n_done = [job.folder / f"{piece.name}{INTERRUPTED_SUFFIX}" for piece in pieces], 0
    try:
        with ExitStack() as files:
            blocks = files.enter_context(closing(_batch_blocks(job, pieces, n_frames, prefix_frames)))
            wavs = [
                files.enter_context(wav_stream(job.folder / f"{piece.name}.wav", data.audio_hz, path))
                for piece, path in zip(pieces, unfinished, strict=True)
            ]
            total = (n_frames - prefix_frames) * hop * len(pieces)
            for block in _with_speed(blocks, total, len(pieces), data.audio_hz, has_prefix=prefix_frames > 0):
                for piece, append, row in zip(pieces, wavs, block, strict=True):
                    append(row[: max(0, piece.n_frames * hop - n_done)])
                n_done += block.shape[1]
    except KeyboardInterrupt:
        for path in unfinished:
            if path.is_file():
                log(f"kept {len(map_wav(path)) / data.audio_hz:.2f} s in {path}")
        raise
    for path in unfinished:
        path.unlink(missing_ok=True)


def _render_folded(job: RenderJob, piece: Piece, fold: folding.Fold) -> None:
    """Generate the parts of a piece side by side, and write it and the measurements of its seams."""
    model, data = job.loaded.model, job.loaded.config.data_config
    n_parts, n_frames = len(fold.cuts), fold.stream_frames
    # All parts use the same stream of uniforms, so that neighbours converge to the same samples.
    blocks = synthesize(
        model,
        [piece.conditioning_source] * n_parts,
        n_frames,
        data,
        job.options,
        streams=[piece.stream] * n_parts,
        first_frames=fold.begins,
    )
    total = n_parts * n_frames * model.hop
    with closing(blocks):
        parts = list(_with_speed(blocks, total, n_parts, data.audio_hz, has_prefix=False))
    pcm, seam_correlations = folding.crossfade_parts(np.concatenate(parts, axis=1), fold, model.hop)
    write_wav(job.folder / f"{piece.name}.wav", pcm, data.audio_hz)
    seams = folding.measure_seams(pcm, fold, data, seam_correlations)
    write_text(job.folder / f"{piece.name}{SEAMS_SUFFIX}", json.dumps(seams) + "\n")


def _with_speed(blocks: Iterator[np.ndarray], total: int, n_streams: int, audio_hz: int, *, has_prefix: bool) -> Blocks:
    """Pass blocks on, with a progress bar that counts samples of all streams; without a terminal, with log lines.

    Args:
        blocks: [B, n] each.
        total: Samples to be generated, of all streams.
        n_streams: B.
        audio_hz: Sample rate.
        has_prefix: Whether the first block is a prefix, which is not generated and does not count.
    """
    if has_prefix:
        yield next(blocks)
    on_terminal, started, done = sys.stderr.isatty(), time.monotonic(), 0
    logged = started
    options = {"unit": "sample", "unit_scale": True, "dynamic_ncols": True, "mininterval": 1}
    with tqdm(total=total, disable=not on_terminal, **options) as bar:
        for block in blocks:
            yield block
            done += block.size
            now = time.monotonic()
            rate = done / (now - started)
            bar.set_postfix_str(f"{rate / audio_hz:.2f} x real time", refresh=False)
            bar.update(block.size)
            if not on_terminal and now - logged > SECONDS_BETWEEN_MESSAGES:
                logged = now
                fraction = f"{done / total:.0%} of {count_of(n_streams, 'stream')}"
                log(f"{fraction}, {rate:,.0f} samples/s, {rate / audio_hz:.2f} x real time")
