"""Generate audio: a checkpoint and test clips, or any MIDI files -> wavs, pictures and a page to listen to.

    python inference.py -c config_inference.json
    python inference.py -c config_inference.json --midi song.mid --out songs
    python inference.py -c config_inference.json --midi song.mid --out songs --global year=2009
    python inference.py -c config_inference.json --midi song.mid --out songs --prompt recording.flac --prompt_seconds 2
    python inference.py -c config_inference.json --codes songs/song.codes.npz --out played
    python inference.py -c config_inference.json --seconds 10 --n_pieces 4 --out dreams     # an unconditional model
    python inference.py -c config_inference.json --null --seconds 10 --out dreams           # any model, without notes

Modes: teacher_forced is one parallel pass in which every sample is drawn given the true ones before it. prompted: the
model continues teacher_length seconds of true audio. free: it begins from silence. MIDI files are always played free,
or from --prompt. With --seconds a piece has no notes: an unconditional model (data_config.features = []) has no MIDI
input, and one that was trained with conditioning_dropout plays its null condition (--null). In mode prompted each piece
then continues a clip of test_dir. --global: the labels of the recording, for a model with global conditioning
(data_config.global_values).

--prompt: the model continues the first seconds of any audio file instead of silence or a clip's true audio. The prompt
takes the seconds up to time 0 of the piece: time 0 of the MIDI is still the first sample of the wav, which holds the
whole piece and nothing of the prompt. Notes still sounding at the end of the prompt are absent from the MIDI and should
decay.

inference_config.fold_seconds cuts what is played free into parts that are generated side by side (`folding.py`), each
piece for itself; the quality of its seams is printed.
A model with codes (docs/argmax_autoencoder.md) writes those of every piece beside its wav; played from all of them in
the same order (--codes), free, it gives the same samples.
"""

if __name__ == "__main__":
    from midi2wave.utils import signals

    signals.exit_on_interrupt()  # Ctrl-C during the imports below needs no traceback.

import argparse
import hashlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from midi2wave.conditioning.excitation import n_excitation
from midi2wave.config import DataConfig, InferenceConfig, load_config, migrate_record
from midi2wave.plotting.listening_page import ListeningClip, write_listening_page
from midi2wave.sampling import folding
from midi2wave.sampling.output_files import TRUTH_SUFFIX, former_products, product_of
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
from midi2wave.utils.atomic_files import remove_partial_files
from midi2wave.utils.cli import (
    Failure,
    count_of,
    item_failure,
    log,
    make_parser,
    path_argument,
    progress,
    report_and_exit_code,
    run,
)
from midi2wave.utils.errors import InputError
from midi2wave.utils.file_names import fit_stem
from midi2wave.utils.folder_lock import lock_own_folder
from midi2wave.utils.output_folder import OutputFolder

if TYPE_CHECKING:
    from midi2wave.checkpoint import LoadedCheckpoint
    from midi2wave.sampling.render import RenderJob

RECORD_NAME = "inference.json"
PAGE_NAME = "index.html"
FORCE_HELP = "make the pieces of this call again, also with other settings than those of the folder"
# Options that do not change the samples.
OPTIONS_NOT_AFFECTING_AUDIO = (
    "output_dir",
    "fast_model_filename",
    "batch_size",
    "device",
    "max_seconds",
    "sampler_threads",
)
DEFAULT_PROMPT_SECONDS = 2.0


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    args = _parser().parse_args(argv)
    config = load_config(args.config, ("inference_config",), args.overrides)
    requested = _with_arguments(args, config.inference_config)
    # PyTorch takes a second or two to import, for which neither --help nor a wrong argument should wait.
    from midi2wave.sampling.engines import choose_weights
    from midi2wave.sampling.model_choice import load_chosen_model, named_model
    from midi2wave.sampling.render import RenderJob

    record_path = Path(requested.output_dir) / RECORD_NAME
    requested = named_model(requested, args.overrides or (), args.quality)
    requested, loaded = load_chosen_model(requested, config, args.config, args.quality, record_path)
    data = loaded.config.data_config
    _check_request(args, requested, data)
    prompt = None
    if args.prompt:
        seconds = DEFAULT_PROMPT_SECONDS if args.prompt_seconds is None else args.prompt_seconds
        prompt = read_audio_prompt(args.prompt, seconds, data)
    weights = choose_weights(requested.sampler_weights, requested.sampler, loaded.model.decoder)
    requested = replace(requested, sampler_weights=weights)
    settings = _with_mode(args, requested)
    job = RenderJob(loaded, settings, Path(settings.output_dir))
    pieces, failures = _find_pieces(args, requested, loaded)
    receptive_field = loaded.model.decoder.receptive_field
    folds = [folding.plan_fold(piece.n_frames, settings, data, receptive_field) for piece in pieces]
    pieces = [replace(piece, prompt=prompt, fold=fold) for piece, fold in zip(pieces, folds, strict=True)]
    if not pieces:
        return _report(args, job, [], 0, failures)
    with lock_own_folder(job.folder, RECORD_NAME):
        output = _open_output(args, job, _record(args, requested, job, prompt))
        has_codes = bool(loaded.model.n_codes)
        refused = output.begin({piece.name: product_of(piece, settings.mode, has_codes=has_codes) for piece in pieces})
        failures += [Failure(name, reason) for name, reason in refused.items()]
        pieces = [piece for piece in pieces if piece.name not in refused]
        n_already, unwritten = _render_missing(args, job, pieces, output)
        if args.backend:  # A worker that was killed does not end the run, and may have left some.
            remove_partial_files(job.folder)
        failures += unwritten
        pieces = [piece for piece in pieces if piece.name not in {failure.item for failure in unwritten}]
    return _report(args, job, pieces, n_already, failures)


def _open_output(args: argparse.Namespace, job: "RenderJob", record: dict[str, Any]) -> OutputFolder:
    """Open the output folder. Raises InputError if it holds results of other settings, or files of other origin."""
    return OutputFolder(
        job.folder,
        RECORD_NAME,
        record,
        force=args.force,
        shared=(PAGE_NAME,),
        migrate=migrate_record,
        former=former_products,
    )


def _render_missing(
    args: argparse.Namespace, job: "RenderJob", pieces: list[Piece], output: OutputFolder
) -> tuple[int, list[Failure]]:
    """Render the pieces that no earlier run finished, and write the page.

    Returns:
        How many pieces were there already, and those whose files cannot be written.
    """
    from midi2wave.sampling.cluster_render import render_on_cluster
    from midi2wave.sampling.render import batches, draw_missing_pictures, is_done, mend_sources

    done = [piece for piece in pieces if is_done(job, piece)]
    for piece in done:
        mend_sources(job, piece)
    draw_missing_pictures(job, done)
    todo = [piece for piece in pieces if not is_done(job, piece)]
    failures: list[Failure] = []
    try:
        if args.backend:
            for name, failure in progress(render_on_cluster(job, todo, args.backend), len(todo), "pieces"):
                failures += [failure] if failure else []
                log(f"{name} {'failed' if failure else 'is done'}")
        else:
            for batch in batches(todo, job.settings.batch_size):
                failures += _render_batch(job, batch)
    except KeyboardInterrupt:
        _write_page(job, pieces, output)  # Finished pieces can be listened to.
        raise
    unwritten = {failure.item for failure in failures}
    if rendered := [piece for piece in pieces if piece.name not in unwritten]:
        _write_page(job, rendered, output)
    return len(done), failures


def _render_batch(job: "RenderJob", pieces: list[Piece]) -> list[Failure]:
    """Render pieces side by side; those whose files cannot be written are failures, and the others are done.

    Raises:
        OSError: The disk is full.
    """
    from midi2wave.sampling.render import render

    try:
        render(job, pieces)
    except OSError as error:
        failure = item_failure(pieces[0].name, error)
        if len(pieces) == 1:
            return [failure]
        # A piece by itself has the same samples, so that the others need not fail with one of their batch.
        return [failure for piece in pieces for failure in _render_batch(job, [piece])]
    return []


class _FormerSpelling(argparse.Action):
    """Store the value of an option under its former spelling, and log the present one."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        log(f"{option_string} is deprecated; write --{self.dest}")
        setattr(namespace, self.dest, values)


def _parser() -> argparse.ArgumentParser:
    parser = make_parser(__doc__, config="config_inference.json", force=FORCE_HELP)
    add = parser.add_argument
    add("--midi", nargs="+", type=path_argument, metavar="FILE", help="play these MIDI files, and all below a folder")
    add("--codes", nargs="+", type=path_argument, metavar="FILE", help="play these files of codes")
    add("--seconds", type=float, help="play so long without notes, free or prompted by clips")
    add("--n_pieces", type=int, help="how many pieces of --seconds; default 1")
    add("--null", action="store_true", help="with --seconds, for a model that plays MIDI: use its null condition")
    add("--out", type=path_argument, help="where the results go, instead of inference_config.output_dir")
    global_help = "labels of the recording, instead of inference_config.global_values"
    add("--global", nargs="+", dest="global_values", metavar="COLUMN=VALUE", help=global_help)
    prompt_help = "audio that every piece continues: it ends at the piece's time 0"
    add("--prompt", type=path_argument, metavar="FILE", help=prompt_help)
    quality_help = (
        "with inference_config.fast_model_filename: auto (the better model if it plays in real time here), best, fast"
    )
    add("--quality", choices=("auto", "best", "fast"), default="auto", help=quality_help)
    backend_help = "render the pieces on the cluster that DASK_SCHEDULER_ADDRESS names (docs/clusters.md)"
    add("--backend", choices=("dask",), help=backend_help)
    seconds_help = f"how much of the beginning of --prompt is used (default {DEFAULT_PROMPT_SECONDS:g})"
    add("--prompt_seconds", type=float, metavar="S", help=seconds_help)
    add("--prime", dest="prompt", type=path_argument, action=_FormerSpelling, help=argparse.SUPPRESS)
    add("--prime_seconds", dest="prompt_seconds", type=float, action=_FormerSpelling, help=argparse.SUPPRESS)
    return parser


def _with_arguments(args: argparse.Namespace, settings: InferenceConfig) -> InferenceConfig:
    """The settings with those that the command line replaces."""
    return replace(
        settings,
        output_dir=str(args.out or settings.output_dir),
        global_values=args.global_values or settings.global_values,
    )


def _with_mode(args: argparse.Namespace, settings: InferenceConfig) -> InferenceConfig:
    """The settings with the mode in which the pieces are rendered."""
    if args.prompt:
        return replace(settings, mode="prompted")
    return replace(settings, mode="free") if args.midi or args.codes else settings


def _check_request(args: argparse.Namespace, settings: InferenceConfig, data: DataConfig) -> None:
    """Refuse combinations of options that have no meaning, and what the model cannot play."""
    has_seconds = args.seconds is not None
    if args.prompt_seconds is not None and not args.prompt:
        raise InputError("--prompt_seconds says how much of --prompt FILE is used; give that file too")
    if args.prompt and settings.mode == "teacher_forced" and not args.midi:
        raise InputError(
            "--prompt: mode teacher_forced is conditioned on the true audio alone; set inference_config.mode=prompted"
        )
    is_whole = args.prompt or args.codes or has_seconds or (settings.mode != "free" and not args.midi)
    if settings.fold_seconds and is_whole:
        raise InputError(
            "inference_config.fold_seconds: only MIDI files and, in mode free, clips can be folded, without --prompt; "
            "set it to 0"
        )
    if has_seconds and args.midi:
        raise InputError("--midi and --seconds exclude each other: a MIDI file has its length")
    for option, is_set in (("--midi", args.midi), ("--seconds", has_seconds), ("--prompt", args.prompt)):
        if args.codes and is_set:
            raise InputError(f"--codes and {option} exclude each other; call twice")
    for path in [*(args.codes or ()), *((args.prompt,) if args.prompt else ())]:
        if path.resolve().parent == Path(settings.output_dir).resolve():
            raise InputError(
                f"{path} lies in {settings.output_dir}, where results go; choose another folder with --out"
            )
    if not has_seconds and (args.null or args.n_pieces is not None):
        raise InputError(f"{'--null' if args.null else '--n_pieces'}: expected --seconds N beside it")
    _check_model(args, settings, data)


def _check_model(args: argparse.Namespace, settings: InferenceConfig, data: DataConfig) -> None:
    """Refuse what the model cannot play."""
    source = settings.model_filename
    if not data.conditional:
        if args.midi:
            raise InputError(f"--midi: {source} is an unconditional model and plays no MIDI; give --seconds N instead")
        if args.null:
            raise InputError(f"--null: {source} is an unconditional model; --seconds alone is enough")
    elif args.seconds is not None and not args.null:
        raise InputError(f"--seconds: {source} plays MIDI; give --midi FILE, or --null for what it plays without")
    elif args.null and not data.conditioning_dropout:
        raise InputError(
            f"--null: {source} has no null condition, as it was trained without data_config.conditioning_dropout; "
            "give --midi FILE"
        )
    elif args.null and settings.guidance != 1:
        raise InputError(f"--null: guidance = {settings.guidance:g} has no effect without notes; set guidance = 1")


def _find_pieces(
    args: argparse.Namespace, settings: InferenceConfig, loaded: "LoadedCheckpoint"
) -> tuple[list[Piece], list[Failure]]:
    """The pieces that the arguments ask for; those that cannot be played as failures."""
    data = loaded.config.data_config
    # Before the pieces stands --prompt, so that nothing of a clip's true audio is used.
    own_prompt = replace(settings, mode="free") if args.prompt else settings
    if args.codes:
        return _code_pieces(args.codes, settings, loaded)
    if args.seconds is not None:
        return timed_pieces(args.seconds, 1 if args.n_pieces is None else args.n_pieces, own_prompt, data)
    if args.midi:
        return midi_pieces(args.midi, settings, data, settings.max_seconds)
    mode = _with_mode(args, settings).mode
    return _clip_pieces(settings, data, mode, prompt_frames(own_prompt, data))


def _clip_pieces(
    settings: InferenceConfig, data: DataConfig, mode: str, n_prompt: int
) -> tuple[list[Piece], list[Failure]]:
    """The test clips, named by the mode; those that are not longer than n_prompt frames as failures."""
    if not any(Path(settings.test_dir).glob("clip_*.wav")):
        raise InputError(
            f"{settings.test_dir} holds no test clips; play MIDI files with --midi FILE, or make clips with "
            f"preprocess_audio.py -d {settings.test_dir}"
        )
    pieces, failures = clip_pieces(settings.test_dir, data, settings.global_values)
    remedy = f"after teacher_length = {settings.teacher_length:g} s; lower inference_config.teacher_length"
    for piece in pieces:
        if n_prompt >= piece.n_frames:
            seconds = piece.n_frames / data.midi_hz
            failures.append(Failure(piece.name, f"has {seconds:g} s, nothing is left {remedy}"))
    longer = [piece for piece in pieces if n_prompt < piece.n_frames]
    return [replace(piece, name=fit_stem(f"{piece.name}_{mode}")) for piece in longer], failures


def _code_pieces(
    paths: list[Path], settings: InferenceConfig, loaded: "LoadedCheckpoint"
) -> tuple[list[Piece], list[Failure]]:
    """The pieces of these files of codes. Raises InputError if this model plays no codes."""
    n_codes, data, source = loaded.model.n_codes, loaded.config.data_config, settings.model_filename
    if not n_codes:
        raise InputError(
            f"{source} has no codes to be played; train one with cond_wavenet_config.n_codes, or use --midi"
        )
    if n_excitation(data):
        raise InputError(
            f"{source} needs notes beside its codes, which files of codes do not hold (data_config.excitation = true); "
            "train one with false, or use --midi"
        )
    pieces, failures = code_pieces(paths, settings, data, n_codes)
    for piece in pieces:
        if piece.codes and piece.codes.weights_sha256 not in ("", loaded.sha256):
            log(f"{piece.name}: other weights wrote these codes; their meaning to these weights may differ")
    return pieces, failures


def _record(
    args: argparse.Namespace, requested: InferenceConfig, job: "RenderJob", prompt: AudioPrompt | None
) -> dict[str, Any]:
    """All that the samples depend on, besides clips and MIDI files: it identifies the results in a folder."""
    settings = job.settings if prompt else requested
    record: dict[str, Any] = {"prompt_sha256": hashlib.sha256(prompt.pcm.tobytes()).hexdigest()} if prompt else {}
    record |= {
        "inference_config": {k: v for k, v in vars(settings).items() if k not in OPTIONS_NOT_AFFECTING_AUDIO},
        "model": job.loaded.config.as_dict(),
        "step": job.loaded.step,
        "weights_sha256": job.loaded.sha256,
        "mode": job.settings.mode,
    }
    return record if args.seconds is None else record | {"seconds": args.seconds}


def _report(
    args: argparse.Namespace, job: "RenderJob", pieces: list[Piece], n_already: int, failures: list[Failure]
) -> int:
    """Write the page, print the result; returns the exit code."""
    from midi2wave.sampling.render import read_nll, read_seams

    folder, mode = job.folder, job.settings.mode
    nll = {piece.name: read_nll(folder, piece.name) for piece in pieces} if mode == "teacher_forced" else {}
    mean_nll = float(np.average(list(nll.values()), weights=[piece.n_frames for piece in pieces])) if nll else None
    seams = {piece.name: read_seams(folder, piece.name) for piece in pieces if piece.fold}
    result = {
        "output_dir": str(folder),
        "mode": mode,
        "step": job.loaded.step,
        "wavs": [f"{piece.name}.wav" for piece in pieces],
        "nll": nll,
        "mean_nll": mean_nll,
        "seams": seams,
    }
    lines = [f"{name}: {folding.format_seams(measured)}" for name, measured in seams.items()]
    summary = "\n".join([*lines, _summary(folder, len(pieces), n_already, mean_nll)])
    return report_and_exit_code(summary, result, failures, len(pieces), as_json=args.as_json)


def _summary(folder: Path, n_wavs: int, n_already: int, mean_nll: float | None) -> str:
    if not n_wavs:
        return "nothing was made"
    already = f" ({n_already} {'was' if n_already == 1 else 'were'} there already)" if n_already else ""
    nll = f"; mean NLL {mean_nll:.4f} nats per sample" if mean_nll is not None else ""
    return f"{count_of(n_wavs, 'wav')} in {folder}{already}{nll}; listen: {folder / PAGE_NAME}"


def _write_page(job: "RenderJob", pieces: list[Piece], output: OutputFolder) -> None:
    """Write the page to listen to all finished pieces of the folder."""
    from midi2wave.sampling.render import read_nll

    settings, clips = job.settings, []
    for name, product in output.products.items():
        wav, picture, truth = f"{name}.wav", f"{name}.png", f"{name}{TRUTH_SUFFIX}"
        if not (job.folder / wav).is_file():
            continue
        wavs = [("model output", wav)]
        if truth in product.files and (job.folder / truth).is_file():
            wavs.append(("recording", truth))
        remarks = ["made with other settings than the pieces of the table above"] if product.other_settings else []
        nll = read_nll(job.folder, name) if f"{name}.json" in product.files else None
        if nll is not None:
            remarks.append(f"NLL of the recording: {nll:.4f} nats per sample")
        picture = picture if (job.folder / picture).is_file() else ""
        clips.append(ListeningClip(name, picture, wavs, "; ".join(remarks)))
    facts = {
        "model": f"{settings.model_filename}, step {job.loaded.step}",
        "mode": settings.mode,
        "seed": str(settings.seed),
        "temperature": f"{settings.temperature:g}",
        "sampling": settings.sampling,
        "guidance": f"{settings.guidance:g}",
    }
    if prompt := pieces[0].prompt:
        facts["prompt"] = f"{prompt.seconds:g} s of {prompt.name}, before each piece"
    elif settings.mode == "prompted":
        facts["prompt"] = f"the first {settings.teacher_length:g} s of each recording"
    write_listening_page(job.folder / PAGE_NAME, "midi2wave", clips, facts)


if __name__ == "__main__":
    run(main)
