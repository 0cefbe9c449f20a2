"""Step 5: a checkpoint and test clips, or any MIDI files -> wavs, pictures and a page to listen to.

    python inference.py -c config_inference.json
    python inference.py -c config_inference.json --midi song.mid --out songs
    python inference.py -c config_inference.json --midi song.mid --out songs --global year=2009
    python inference.py -c config_inference.json --midi song.mid --out songs --prime recording.flac --prime_seconds 2
    python inference.py -c config_inference.json --codes songs/song.codes.npz --out played
    python inference.py -c config_inference.json --seconds 10 --n_pieces 4 --out dreams     # of an unconditional model
    python inference.py -c config_inference.json --null --seconds 10 --out dreams           # of any, told no notes

mode teacher_forced: one parallel pass, every sample sampled given the true ones. prompted: teacher_length seconds
of truth, then the model goes on by itself. free: from silence. MIDI files are always played free, or from --prime. With
--seconds a piece has no notes: an unconditional model (data_config.features = []) knows none, one that was trained with
conditioning_dropout plays its null condition (--null). In mode prompted each piece goes on from a clip of test_dir.
--global: what a model with global conditioning (data_config.global_values) is to take the recording for.

--prime lets the model go on from the first seconds of any audio file, in the place of silence or of a clip's truth. It
hears them before the piece, as the seconds up to its time 0: time 0 of the MIDI is still the first sample of the wav,
which holds the whole piece and nothing of the prime. What sounds at the prime's end is in no MIDI: it is to die away.

inference_config.fold_seconds cuts what is played free into parts that are generated side by side (`folding.py`), each
piece for itself; what its seams are like is printed.
A model with codes (docs/argmax_autoencoder.md) writes those of every piece beside its wav; played from all of them in
the same order (--codes), free, it gives the same.
"""

import functools
import hashlib
import json
import sys
import time
from argparse import Namespace
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from tqdm import tqdm

from midi2wave import checkpoint
from midi2wave.audio.io import map_wav, wav_stream, write_wav
from midi2wave.conditioning.excitation import n_excitation
from midi2wave.config import DataConfig, InferenceConfig, load_config
from midi2wave.midi.performance import empty_performance, load_events, save_events
from midi2wave.plotting.figures import clip_figure, save_figure
from midi2wave.plotting.listening_page import ListeningClip, write_listening_page
from midi2wave.sampling import folding
from midi2wave.sampling.code_files import Codes, load_codes, save_codes
from midi2wave.sampling.options import SamplingOptions
from midi2wave.sampling.pieces import (
    AudioPrompt,
    Piece,
    clip_pieces,
    code_pieces,
    midi_pieces,
    prompt_frames,
    read_audio_prompt,
    timed_pieces,
)
from midi2wave.sampling.synthesis import CodedPerformance, encode, synthesize, teacher_forced
from midi2wave.utils.atomic_files import acquire_output_dir, write_text
from midi2wave.utils.cli import SECONDS_BETWEEN_MESSAGES, Failure, log, make_parser, report_and_exit_code, run
from midi2wave.utils.errors import InputError
from wavenet import WaveNet

RECORD_NAME, PAGE_NAME = "inference.json", "index.html"
PRODUCTS = ("*.wav", "*.png", "*.npz", "*_teacher_forced.json", "*_seams.json", PAGE_NAME)
# settings that leave the samples as they are
KEYS_NOT_AFFECTING_AUDIO = ("output_dir", "batch_size", "device", "max_seconds", "sampler_threads")


def main(argv: list[str] | None = None) -> int:
    """Run the step; returns the exit code."""
    arguments = make_parser(__doc__, config="config_inference.json")
    arguments.add_argument("--midi", nargs="+", type=Path, metavar="FILE", help="play these MIDI files")
    arguments.add_argument("--codes", nargs="+", type=Path, metavar="FILE", help="play these files of codes")
    arguments.add_argument("--seconds", type=float, help="play that long without notes, free or prompted by clips")
    arguments.add_argument("--n_pieces", type=int, help="how many pieces of --seconds; default 1")
    arguments.add_argument("--null", action="store_true", help="of a model that plays MIDI: without saying which notes")
    arguments.add_argument("--out", help="where the results go, instead of inference_config.output_dir")
    arguments.add_argument("--global", nargs="+", dest="global_values", metavar="COLUMN=VALUE",
                           help="what the recording is, instead of inference_config.global_values")  # fmt: skip
    arguments.add_argument(
        "--prime", type=Path, metavar="FILE", help="audio that the model hears up to the time 0 of every piece"
    )
    arguments.add_argument(
        "--prime_seconds", type=float, metavar="S", help="how much of the beginning of --prime it hears (default 2)"
    )
    args = arguments.parse_args(argv)
    config = load_config(args.config, ("inference_config",), args.overrides)
    settings = config.inference_config
    if args.out:
        settings.output_dir = args.out
    if args.global_values:
        settings.global_values = args.global_values
    player = checkpoint.load_for_generation(settings, config, args.config)
    data, step = player.config.data_config, player.step
    _check_request(args, settings, data)
    mode, prime, given = "free" if args.midi or args.codes else settings.mode, None, settings
    if args.prime:
        prime = read_audio_prompt(args.prime, 2.0 if args.prime_seconds is None else args.prime_seconds, data)
        given = replace(settings, mode="free")  # of a clip's truth nothing is heard
        settings.mode = mode = "prompted"
    folder = Path(settings.output_dir)
    if args.codes:
        pieces, failures = _code_pieces(args.codes, settings, player)
    elif args.seconds is not None:
        pieces, failures = timed_pieces(args.seconds, 1 if args.n_pieces is None else args.n_pieces, given, data)
    elif args.midi:
        pieces, failures = midi_pieces(args.midi, settings, data, settings.max_seconds)
    else:
        pieces, failures = _clip_pieces(settings, data, prompt_frames(given, data))
    field = player.model.decoder.receptive_field
    pieces = [
        replace(piece, prime=prime, fold=folding.fold_of(piece.n_frames, settings, data, field)) for piece in pieces
    ]
    if pieces:
        record = _record(settings, player, mode, prime)
        if args.seconds is not None:
            record["seconds"] = args.seconds
        acquire_output_dir(folder, RECORD_NAME, record, PRODUCTS, force=args.force)
        taken = {piece.name for piece in pieces if _is_taken(folder, piece)}
        remedy = "choose another folder, or use --force"
        failures += [Failure(name, f"{folder} holds {name}.wav of other notes; {remedy}") for name in sorted(taken)]
        pieces = [piece for piece in pieces if piece.name not in taken]
    todo = [piece for piece in pieces if not _is_done(folder, piece, mode)]
    for batch in _batches(todo, settings.batch_size):
        _generate(player, batch, mode, settings, folder)
    nll = {piece.name: _read_nll(folder, piece.name) for piece in pieces} if mode == "teacher_forced" else {}
    mean_nll = float(np.average(list(nll.values()), weights=[piece.n_frames for piece in pieces])) if nll else None
    seams = {piece.name: _read(folder / f"{piece.name}_seams.json") for piece in pieces if piece.fold}
    if pieces:
        _write_page(folder, pieces, nll, mode, settings, step)
    result = {"output_dir": str(folder), "mode": mode, "step": step, "wavs": [f"{piece.name}.wav" for piece in pieces],
              "nll": nll, "mean_nll": mean_nll, "seams": seams}  # fmt: skip
    lines = [f"{name}: {folding.words(measured)}" for name, measured in seams.items()]
    summary = "\n".join([*lines, _summary(folder, len(pieces), len(pieces) - len(todo), mean_nll)])
    return report_and_exit_code(summary, result, failures, len(pieces), as_json=args.as_json)


def _check_request(args: Namespace, settings: InferenceConfig, data: DataConfig) -> None:
    """Refuse what the model cannot play, and options that say nothing together."""
    timed, source = args.seconds is not None, settings.model_filename
    if args.prime_seconds is not None and not args.prime:
        raise InputError("--prime_seconds says how much of --prime FILE is heard; give that file too")
    if args.prime and settings.mode == "teacher_forced" and not args.midi:
        raise InputError("--prime: mode teacher_forced hears the truth alone; set inference_config.mode=prompted")
    if settings.fold_seconds and (args.prime or args.codes or timed or (settings.mode != "free" and not args.midi)):
        raise InputError(
            "inference_config.fold_seconds: only MIDI files and, in mode free, clips can be folded, without --prime; "
            "set it to 0"
        )
    if timed and args.midi:
        raise InputError("--midi and --seconds exclude each other: a MIDI file has its length")
    for option, given in (("--midi", args.midi), ("--seconds", timed), ("--prime", args.prime)):
        if args.codes and given:
            raise InputError(f"--codes and {option} exclude each other; call twice")
    for path in [*(args.codes or ()), *((args.prime,) if args.prime else ())]:
        if path.resolve().parent == Path(settings.output_dir).resolve():
            raise InputError(
                f"{path} lies in {settings.output_dir}, where results go; choose another folder with --out"
            )
    if not timed and (args.null or args.n_pieces is not None):
        raise InputError(f"{'--null' if args.null else '--n_pieces'}: expected --seconds N beside it")
    if not data.conditional:
        if args.midi:
            raise InputError(f"--midi: {source} is an unconditional model and plays no MIDI; give --seconds N instead")
        if args.null:
            raise InputError(f"--null: {source} is an unconditional model; --seconds alone is enough")
    elif timed and not args.null:
        raise InputError(f"--seconds: {source} plays MIDI; give --midi FILE, or --null for what it plays without")
    elif args.null and not data.conditioning_dropout:
        raise InputError(
            f"--null: {source} knows no null condition, as it was trained without data_config.conditioning_dropout; "
            "give --midi FILE"
        )
    elif args.null and settings.guidance != 1:
        raise InputError(f"--null: guidance = {settings.guidance:g} leads away from nothing; set guidance = 1")


def _record(
    settings: InferenceConfig, player: checkpoint.LoadedCheckpoint, mode: str, prime: AudioPrompt | None
) -> dict[str, Any]:
    """All that the samples depend on, besides the clips and MIDI files: it tells whose results a folder holds."""
    heard = {name: value for name, value in vars(settings).items() if name not in KEYS_NOT_AFFECTING_AUDIO}
    of_prime = {"prime_sha256": hashlib.sha256(prime.pcm).hexdigest()} if prime else {}
    return of_prime | {
        "inference_config": heard,
        "model": player.config.as_dict(),
        "step": player.step,
        "weights_sha256": player.sha256,
        "mode": mode,
    }


def _summary(folder: Path, n_wavs: int, n_already: int, mean_nll: float | None) -> str:
    if not n_wavs:
        return "nothing was made"
    already = f" ({n_already} were there already)" if n_already else ""
    nll = f"; mean NLL {mean_nll:.4f} nats per sample" if mean_nll is not None else ""
    return f"{n_wavs} wavs in {folder}{already}{nll}; listen: {folder / PAGE_NAME}"


def _clip_pieces(settings: InferenceConfig, data: DataConfig, prompted: int) -> tuple[list[Piece], list[Failure]]:
    """The test clips, named by the mode; those that so many frames of truth leave nothing of as failures."""
    pieces, failures = clip_pieces(settings.test_dir, data, settings.global_values)
    remedy = f"after teacher_length = {settings.teacher_length:g} s; lower inference_config.teacher_length"
    for piece in pieces:
        if prompted >= piece.n_frames:
            seconds = len(piece.truth) / data.audio_hz
            failures.append(Failure(piece.name, f"has {seconds:g} s, nothing is left {remedy}"))
    kept = [piece for piece in pieces if prompted < piece.n_frames]
    return [replace(piece, name=f"{piece.name}_{settings.mode}") for piece in kept], failures


def _batches(pieces: list[Piece], size: int) -> Iterator[list[Piece]]:
    """What is generated side by side: pieces of about equal length, as a batch lasts as long as its longest one; a
    folded piece is a batch by itself."""
    by_length = sorted(pieces, key=lambda piece: piece.n_frames)
    whole = [piece for piece in by_length if not piece.fold]
    yield from (whole[start : start + size] for start in range(0, len(whole), size))
    yield from ([piece] for piece in by_length if piece.fold)


def _code_pieces(
    paths: list[Path], settings: InferenceConfig, player: checkpoint.LoadedCheckpoint
) -> tuple[list[Piece], list[Failure]]:
    """The pieces of these files of codes. Raises InputError if this model plays no codes."""
    n_codes, data = player.model.n_codes, player.config.data_config
    if not n_codes:
        raise InputError(f"{settings.model_filename} has no codes to be played; train one with "
                         "cond_wavenet_config.n_codes, or use --midi")  # fmt: skip
    if n_excitation(data):
        raise InputError(f"{settings.model_filename} hears notes beside its codes, which files of codes do not hold "
                         "(data_config.excitation = true); train one with false, or use --midi")  # fmt: skip
    pieces, failures = code_pieces(paths, settings, data, n_codes)
    for piece in pieces:
        if piece.codes.weights_sha256 not in ("", player.sha256):
            log(f"{piece.name}: other weights wrote these codes; what they mean to these is another matter")
    return pieces, failures


def _is_taken(folder: Path, piece: Piece) -> bool:
    """Whether a result of this name was made of other notes or for another recording: of another MIDI file, or before
    this one was edited; or of other codes."""
    path, codes = folder / f"{piece.name}.npz", folder / f"{piece.name}.codes.npz"
    if piece.codes is not None:
        return codes.is_file() and not load_codes(codes).same_as(piece.codes)
    if piece.performance is None:
        return False
    if not path.is_file():
        return codes.is_file()  # made from codes
    then, now = load_events(path), piece.performance
    same = all(
        np.array_equal(getattr(then, name), getattr(now, name)) for name in ("onset", "offset", "pitch", "velocity")
    )
    same = same and then.global_labels == now.global_labels
    return not same or any(not np.array_equal(events, now.pedals[pedal]) for pedal, events in then.pedals.items())


def _is_done(folder: Path, piece: Piece, mode: str) -> bool:
    """Whether an earlier run finished this piece: the picture is written last."""
    scored = mode != "teacher_forced" or _read_nll(folder, piece.name) is not None
    scored = scored and (not piece.fold or _read(folder / f"{piece.name}_seams.json") is not None)
    return scored and (folder / f"{piece.name}.png").is_file()


def _read_nll(folder: Path, name: str) -> float | None:
    """The mean negative log-likelihood of a clip in nats per sample, as `_generate` left it; None if it did not."""
    try:
        return float(_read(folder / f"{name}.json")["nll"])
    except (ValueError, TypeError, KeyError):
        return None


def _read(path: Path) -> dict[str, Any] | None:
    """What an earlier run, or this one, said of a piece in a file of its own; None if it did not."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None


def _generate(
    player: checkpoint.LoadedCheckpoint, pieces: list[Piece], mode: str, settings: InferenceConfig, folder: Path
) -> None:
    """Generate one batch and write its wavs and pictures, and in mode teacher_forced the likelihoods."""
    model, data, handover = player.model, player.config.data_config, None
    for piece in pieces:
        if piece.performance is not None:
            save_events(folder / f"{piece.name}.npz", piece.performance)
    if model.n_codes:
        pieces = [replace(piece, codes=_codes(player, piece)) for piece in pieces]
        for piece in pieces:
            save_codes(folder / f"{piece.name}.codes.npz", piece.codes)
    if mode == "teacher_forced":
        for piece in pieces:  # one by one: the clips may differ in length, and a parallel pass needs no company
            output, nll = teacher_forced(model, [piece.performance], piece.truth[None], data, 
                                         SamplingOptions.from_config(settings), streams=[piece.stream])  # fmt: skip
            write_text(folder / f"{piece.name}.json", json.dumps({"nll": nll}) + "\n")
            write_wav(folder / f"{piece.name}.wav", output[0], data.audio_hz)
    elif pieces[0].fold:
        _fold(model, pieces[0], settings, data, folder)
    else:
        handover = _stream(model, pieces, mode, settings, data, folder)
    for piece in pieces:
        if piece.truth is not None:
            write_wav(folder / f"{piece.name}_truth.wav", piece.truth, data.audio_hz)
        output = map_wav(folder / f"{piece.name}.wav")
        extra = functools.partial(_draw_codes, piece, data.midi_hz) if piece.codes else None
        figure = clip_figure(
            piece.performance or empty_performance(),
            piece.n_frames / data.midi_hz,
            data.audio_hz,
            piece.truth,
            output,
            title=piece.name,
            prompt_end_seconds=handover,
            extra=extra,
        )
        save_figure(folder / f"{piece.name}.png", figure)


def _codes(player: checkpoint.LoadedCheckpoint, piece: Piece) -> Codes:
    """The codes to play a piece from: given ones, or those of its notes."""
    if piece.codes is not None:
        return piece.codes
    made = encode(player.model, piece.performance, piece.n_frames, player.config.data_config)
    return replace(made, weights_sha256=player.sha256)


def _draw_codes(piece: Piece, midi_hz: int, ax: Axes) -> None:
    """One row of a piece's picture: the code of every frame."""
    ax.plot(np.arange(piece.n_frames) / midi_hz, piece.codes.frames(0, piece.n_frames), ",", color="#007878")
    ax.set(ylabel="code", ylim=(-1, piece.codes.n_codes))


def _stream(
    model: WaveNet, pieces: list[Piece], mode: str, settings: InferenceConfig, data: DataConfig, folder: Path
) -> float | None:
    """Generate one batch into its wavs, block by block; returns the seconds of truth before the model's own, if any.

    Stopped by Ctrl-C, it keeps what there is of every piece in NAME.interrupted.wav, which no rerun takes for finished.
    """
    n_frames, prime = max(piece.n_frames for piece in pieces), pieces[0].prime
    before = len(prime.pcm) // model.hop if prime else 0  # frames that the model hears before frame 0
    prefix_frames = prompt_frames(settings, data) if mode == "prompted" and not prime else 0
    prefix = np.stack([piece.truth[: prefix_frames * model.hop] for piece in pieces]) if prefix_frames else None
    sources = [piece.heard for piece in pieces]
    if model.n_codes and not prime:
        sources = [CodedPerformance(piece.heard, piece.codes) for piece in pieces]
    blocks = synthesize(model, sources, before + n_frames, data, SamplingOptions.from_config(settings),
                        streams=[piece.stream for piece in pieces],
                        prefix=np.stack([prime.pcm] * len(pieces)) if prime else prefix,
                        first_frames=[-before] * len(pieces))  # fmt: skip
    unfinished, done = [folder / f"{piece.name}.interrupted.wav" for piece in pieces], 0
    try:
        with ExitStack() as files:
            files.callback(blocks.close)
            if prime:
                next(blocks)  # the prime itself
            wavs = [
                files.enter_context(wav_stream(folder / f"{piece.name}.wav", data.audio_hz, left))
                for piece, left in zip(pieces, unfinished, strict=True)
            ]
            total = (n_frames - prefix_frames) * model.hop * len(pieces)
            for block in _with_speed(blocks, total, len(pieces), data.audio_hz, has_prefix=prefix is not None):
                for piece, append, row in zip(pieces, wavs, block, strict=True):
                    append(row[: max(0, piece.n_frames * model.hop - done)])
                done += block.shape[1]
    except KeyboardInterrupt:
        for path in unfinished:
            if path.is_file():
                log(f"kept {len(map_wav(path)) / data.audio_hz:.2f} s in {path}")
        raise
    for path in unfinished:
        path.unlink(missing_ok=True)
    return prefix_frames / data.midi_hz if prefix_frames else None


def _fold(model: WaveNet, piece: Piece, settings: InferenceConfig, data: DataConfig, folder: Path) -> None:
    """Generate the parts of a piece side by side and write it, and what its seams are like."""
    fold = piece.fold
    n_parts, n_frames = len(fold.cuts), fold.stream_frames
    # The same stream of uniforms for all of them: neighbours are to fall in step.
    blocks = synthesize(model, [piece.heard] * n_parts, n_frames, data, SamplingOptions.from_config(settings),
                        streams=[piece.stream] * n_parts, first_frames=fold.begins)  # fmt: skip
    total = n_parts * n_frames * model.hop
    with closing(blocks):
        made = list(_with_speed(blocks, total, n_parts, data.audio_hz, has_prefix=False))
    pcm, agreements = folding.join(np.concatenate(made, axis=1), fold, model.hop)
    write_wav(folder / f"{piece.name}.wav", pcm, data.audio_hz)
    write_text(folder / f"{piece.name}_seams.json", json.dumps(folding.seams(pcm, fold, data, agreements)) + "\n")


def _with_speed(
    blocks: Iterator[np.ndarray], total: int, n_streams: int, audio_hz: int, *, has_prefix: bool
) -> Iterator[np.ndarray]:
    """Pass blocks on under a bar that counts samples of all streams, or with a line now and then off a terminal.

    total: samples to be generated; a prefix, the first block, was not and does not count.
    """
    if has_prefix:
        yield next(blocks)
    on_terminal, started, done = sys.stderr.isatty(), time.monotonic(), 0
    noted = started
    with tqdm(total=total, unit="sample", unit_scale=True, dynamic_ncols=True, mininterval=1,
              disable=not on_terminal) as bar:  # fmt: skip
        for block in blocks:
            yield block
            done += block.size
            now = time.monotonic()
            rate = done / (now - started)
            bar.set_postfix_str(f"{rate / audio_hz:.2f} x real time", refresh=False)
            bar.update(block.size)
            if not on_terminal and now - noted > SECONDS_BETWEEN_MESSAGES:
                noted = now
                share = f"{done / total:.0%} of {n_streams} streams"
                log(f"{share}, {rate:,.0f} samples/s, {rate / audio_hz:.2f} x real time")


def _write_page(
    folder: Path, pieces: list[Piece], nll: dict[str, float], mode: str, settings: InferenceConfig, step: int
) -> None:
    entries = []
    for piece in pieces:
        wavs = [("output", f"{piece.name}.wav")]
        if piece.truth is not None:
            wavs.append(("truth", f"{piece.name}_truth.wav"))
        remark = f"NLL of the truth: {nll[piece.name]:.4f} nats per sample" if piece.name in nll else ""
        entries.append(ListeningClip(piece.name, f"{piece.name}.png", wavs, remark))
    facts = {"model": f"{settings.model_filename}, step {step}", "mode": mode, "seed": str(settings.seed),
             "temperature": f"{settings.temperature:g}", "guidance": f"{settings.guidance:g}"}  # fmt: skip
    if prime := pieces[0].prime:
        facts["prime"] = f"{prime.seconds:g} s of {prime.name}, heard before each piece"
    elif mode == "prompted":
        facts["teacher_length"] = f"{settings.teacher_length:g} s"
    write_listening_page(folder / PAGE_NAME, "midi2wave", entries, facts)


if __name__ == "__main__":
    run(main)
