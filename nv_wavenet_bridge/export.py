"""Export a trained model and some pieces to a bundle that nv-wavenet plays (README.md in this folder).

    python -m nv_wavenet_bridge.export -c config_inference.json --checkpoint runs/maestro --midi song.mid --out bundle
    python -m nv_wavenet_bridge.export -c config_inference.json --checkpoint runs/maestro --clips test --out bundle
    python -m nv_wavenet_bridge.export -c config_inference.json --checkpoint runs/no_midi --seconds 10 --out bundle

Pieces are played free, from silence, with the seed, temperature and history_level of inference_config. inference.py
plays the same.
"""

if __name__ == "__main__":
    from midi2wave.utils import signals

    signals.exit_on_interrupt()  # Ctrl-C during the imports below needs no traceback.

import argparse
import json
import math
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from midi2wave.config import Config, DataConfig, InferenceConfig, load_config
from midi2wave.sampling.pieces import Piece, clip_pieces, midi_pieces, timed_pieces
from midi2wave.utils.atomic_files import atomic_folder
from midi2wave.utils.cli import (
    choose_device,
    count_of,
    log,
    make_parser,
    path_argument,
    progress,
    report_and_exit_code,
    run,
)
from midi2wave.utils.errors import InputError
from midi2wave.utils.folder_lock import lock_output
from nv_wavenet_bridge import bundle, fold

if TYPE_CHECKING:
    from wavenet import Conditioning, WaveNet

BLOCK_FRAMES = 16


def main(argv: list[str] | None = None) -> int:
    """Run the export; returns the exit code."""
    args = _parser().parse_args(argv)
    if sum(option is not None for option in (args.midi, args.clips, args.seconds)) > 1:
        raise InputError("--midi and --clips exclude each other, and --seconds both; make two bundles")
    settings = load_config(args.config, ("inference_config",), args.overrides).inference_config
    _check_settings(settings)
    source = args.checkpoint or settings.model_filename
    _check_target(args.out, args.force)
    # PyTorch takes a second or two to import, for which neither --help nor a wrong argument should wait.
    from midi2wave import checkpoint

    model, config, step = checkpoint.load_model(source, choose_device(settings.device))
    _check_model(source, config, has_seconds=args.seconds is not None)
    data = config.data_config
    if args.seconds is not None:
        pieces, failures = timed_pieces(args.seconds, 1, replace(settings, mode="free"), data)
    elif args.midi:
        pieces, failures = midi_pieces(args.midi, settings, data)
    else:
        pieces, failures = clip_pieces(args.clips or settings.test_dir, data, settings.global_values)
    pieces = _cut(pieces, args.max_seconds, data.midi_hz)
    if pieces:
        _check_sizes(model, pieces, data)
        about = {
            "checkpoint": str(source),
            "step": step,
            "seed": settings.seed,
            "temperature": settings.temperature,
            "history_level": settings.history_level,
            "audio_hz": data.audio_hz,
            "preemphasis": data.preemphasis,
            "model": config.as_dict(),
        }
        with lock_output(args.out.resolve()):  # A symbolic link is kept.
            _write(args.out, model, pieces, data, about)
    result = {"bundle": str(args.out), "pieces": [piece.name for piece in pieces]}
    summary = (
        f"{count_of(len(pieces), 'piece')} in {args.out}; check them: python -m nv_wavenet_bridge.check {args.out}"
    )
    if not pieces:
        summary = "nothing was made"
    return report_and_exit_code(summary, result, failures, len(pieces), as_json=args.as_json)


def _check_settings(settings: InferenceConfig) -> None:
    """Raise InputError for options of sampling that nv-wavenet does not have."""
    if settings.guidance != 1:
        raise InputError(
            f"inference_config.guidance = {settings.guidance:g}: with guidance every stream passes twice through the "
            "decoder, nv-wavenet has one pass; set guidance = 1"
        )
    if settings.sampling != "random":
        raise InputError(
            f"inference_config.sampling = {settings.sampling}: nv-wavenet draws every sample at random; "
            "set sampling = random"
        )


def _parser() -> argparse.ArgumentParser:
    parser = make_parser(__doc__, config="config_inference.json", force="replace the bundle at --out")
    add = parser.add_argument
    add("--checkpoint", help="what to export, instead of inference_config.model_filename")
    add("--midi", nargs="+", type=path_argument, metavar="FILE", help="pieces: these MIDI files")
    add("--clips", help="pieces: the test clips in this folder, instead of inference_config.test_dir")
    add("--seconds", type=float, help="of an unconditional model: one piece of that length")
    add("--out", type=path_argument, required=True, help="the bundle: a folder to make")
    add("--max_seconds", type=float, help="cut longer pieces")
    return parser


def _check_model(source: str, config: Config, *, has_seconds: bool) -> None:
    """Refuse a model that nv-wavenet has no place for, or that cannot play what is asked for."""
    if reasons := fold.obstacles(config.wavenet_config):
        listed = "; ".join(f"({i}) {why}" for i, why in enumerate(reasons, start=1))
        raise InputError(f"{source} can't be exported to nv-wavenet, train another: {listed}")
    if config.data_config.conditional and has_seconds:
        raise InputError(f"{source} plays MIDI; give --midi or --clips instead of --seconds")
    if not config.data_config.conditional and not has_seconds:
        raise InputError(f"{source} is an unconditional model; give --seconds N instead of --midi or --clips")


def _check_target(folder: Path, force: bool) -> None:
    if folder.is_file():
        raise InputError(f"{folder} is a file, expected a folder")
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    if not (folder / bundle.BUNDLE_NAME).is_file():
        raise InputError(f"{folder} exists and is not a bundle (no {bundle.BUNDLE_NAME}); choose another folder")
    if not force:
        raise InputError(
            f"{folder} holds a bundle; choose another folder, or use --force, which replaces the files of the bundle"
        )
    if others := sorted(
        path.name for path in folder.iterdir() if path.name not in bundle.FILE_NAMES and path.name[0] != "."
    ):
        raise InputError(
            f"{folder} holds {others[0]} beside the bundle, which --force would remove with it; move it elsewhere, or "
            "choose another folder"
        )


def _cut(pieces: list[Piece], seconds: float | None, midi_hz: int) -> list[Piece]:
    if seconds is None:
        return pieces
    if not seconds * midi_hz >= 1 or math.isinf(seconds):
        raise InputError(f"--max_seconds {seconds:g}: expected at least a conditioning frame, {1 / midi_hz:g} s")
    max_frames = int(seconds * midi_hz + 1e-6)
    for piece in pieces:
        if piece.n_frames > max_frames:
            log(f"{piece.name}: cut from {piece.n_frames / midi_hz:g} to {max_frames / midi_hz:g} s")
    return [replace(piece, n_frames=min(piece.n_frames, max_frames)) for piece in pieces]


def _check_sizes(model: "WaveNet", pieces: list[Piece], data: DataConfig) -> None:
    """Refuse what nv-wavenet can't index, and log the size of the conditioning."""
    config, batch_size = model.decoder.config, len(pieces)
    wide = fold.kernel_size(config)[0]
    longest = max(pieces, key=lambda piece: piece.n_frames)
    seconds = longest.n_frames / data.midi_hz
    max_seconds = fold.max_samples(config.n_layers, wide, batch_size) // model.hop / data.midi_hz
    if seconds > max_seconds:
        raise InputError(
            f"{longest.name} lasts {seconds:.1f} s; nv-wavenet's 32-bit index reaches {max_seconds:.1f} s of "
            f"conditioning of this model for {batch_size} pieces side by side; "
            f"use --max_seconds {math.floor(max_seconds * 10) / 10:g}"
            + (", or export fewer at once" if batch_size > 1 else "")
        )
    if not fold.history_fits(config.n_layers, fold.longest_dilation(config), wide, batch_size):
        raise InputError(
            f"the layers' history of {batch_size} pieces is beyond nv-wavenet's 32-bit index; export fewer at once"
        )
    n_bytes = 4 * 2 * wide * batch_size * config.n_layers * longest.n_frames * model.hop
    log(
        f"{bundle.COND_NAME} takes {n_bytes / 1e9:.2f} GB: {batch_size} x {seconds:g} s, {config.n_layers} layers of "
        f"2 x {wide} values a sample; on the GPU as much again"
    )


def _write(folder: Path, model: "WaveNet", pieces: list[Piece], data: DataConfig, about: dict[str, Any]) -> None:
    """Write a bundle atomically."""
    from midi2wave.sampling.synthesis import conditioning
    from midi2wave.sampling.uniforms import seeded_uniforms
    from wavenet import generate

    n_frames = max(piece.n_frames for piece in pieces)
    device = next(model.parameters()).device
    sources = [piece.conditioning_source for piece in pieces]
    cond = conditioning(sources, data, device, history_level=about["history_level"])
    uniforms = seeded_uniforms(about["seed"], [piece.stream for piece in pieces], 1, device)
    weights = fold.fold(model, about["temperature"])
    bundle.unflatten(bundle.flatten(weights), "the folded model")
    size, n_samples = bundle.sizes(weights), n_frames * model.hop
    shape = (len(pieces), n_samples)
    target = folder.resolve()
    with atomic_folder(target) as tmp_path:
        bundle.write_weights(tmp_path, weights)
        projected = conditioning_blocks(model, cond, n_frames)
        bundle.write_array(
            tmp_path / bundle.COND_NAME,
            (2 * size["R"], len(pieces), size["L"], n_samples),
            "<f4",
            (fold.widen_halves(block, size["R"]) for block in projected),
        )
        options = {"temperature": about["temperature"], "block_frames": BLOCK_FRAMES}
        blocks = generate(model, cond, uniforms, len(pieces), n_frames, **options)
        codes = (block.cpu().numpy() for block in progress(blocks, math.ceil(n_frames / BLOCK_FRAMES), "block"))
        bundle.write_array(tmp_path / bundle.EXPECTED_NAME, shape, "<i4", codes)
        bundle.write_array(
            tmp_path / bundle.UNIFORMS_NAME, shape, "<f4", [uniforms(0, n_samples)[..., 0].cpu().numpy()]
        )
        text = json.dumps(_about(folder, weights, pieces, about, n_samples, model.hop), indent=2)
        (tmp_path / bundle.BUNDLE_NAME).write_text(text + "\n", encoding="utf-8", newline="\n")
        if target.exists():
            shutil.rmtree(target)


def conditioning_blocks(model: "WaveNet", cond: "Conditioning", n_frames: int) -> Iterator[np.ndarray]:
    """The conditioning that is added before each layer's gate, float32 [2r, B, L, n], block by block."""
    import torch

    from midi2wave.utils.float32_convolutions import float32_convolutions

    decoder = model.decoder
    for first in range(0, n_frames, BLOCK_FRAMES):
        with torch.inference_mode(), float32_convolutions():
            inputs = decoder.prepare(*cond.block(model, first, min(BLOCK_FRAMES, n_frames - first)))
            layers = torch.stack([decoder.layer_conditioning(layer, *inputs) for layer in decoder.layers])
        yield layers.permute(3, 2, 0, 1).cpu().numpy()


def _about(
    folder: Path, weights: dict[str, Any], pieces: list[Piece], about: dict[str, Any], n_samples: int, hop: int
) -> dict[str, Any]:
    size = bundle.sizes(weights)
    return {
        "format": bundle.FORMAT,
        **about,
        "nv_wavenet": {
            **size,
            "max_dilation": weights["max_dilation"],
            "use_embed_tanh": weights["use_embed_tanh"],
            "implementations": ["persistent"] if size["R"] > 64 else ["auto", "single", "dual", "persistent"],
        },
        "commands": {
            "check without a GPU": f"python -m nv_wavenet_bridge.check {folder}",
            "play": f"python -m nv_wavenet_bridge.run {folder} --nv_wavenet PATH",
        },
        "pieces": [{"name": piece.name, "n_samples": piece.n_frames * hop} for piece in pieces],
        "tensors": bundle.describe(weights, len(pieces), n_samples),
    }


if __name__ == "__main__":
    run(main)
