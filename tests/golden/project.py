"""All that the golden references know of the project's modules, keys and layer names, in one place.

When a module moves or a public name changes, this is the only file of `tests/golden/` to be edited. Stored results and
the results of today's code are both translated by `RENAMED_KEYS` and `RENAMED_TENSORS` before they are compared, so
that results stored under an old name need not be written again.
"""

import contextlib
import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

# The commands, each the name of a module with `main(argv) -> exit code`.
COMMANDS = {
    "demo_data": "midi2wave.demo_dataset.generate",
    "resample": "resample_audio",
    "preprocess": "preprocess_maestro",
    "clips": "preprocess_audio",
    "train": "train",
    "inference": "inference",
    "evaluate": "evaluate",
    "measure_partials": "measure_partials",
    "align_labels": "align_labels",
    "export": "nv_wavenet_bridge.export",
}

# Part of a JSON key in stored results -> its name in the results of later code.
RENAMED_KEYS = {
    "ceiling": "topline",
    "floor": "baseline",
    "handover_seconds": "prompt_end_seconds",
    "history_interference": "history_mixing",
    "_primed": "_prompted",
    "scheduled_sampling_patience": "scheduled_sampling_start_step",
}

# Part of a state-dict key in stored results -> its name in the checkpoints of later code.
RENAMED_TENSORS = {"context.of_recording.": "context.global_embedding."}

# The mode in which the model continues a recording, as options name it.
PROMPTED_MODE = "prompted"

# The weights in a checkpoint folder.
WEIGHTS_FILE = "weights.safetensors"

_ABSENT = object()


def command(name: str) -> Callable[[list[str]], int]:
    """The `main` function of one of `COMMANDS`."""
    return importlib.import_module(COMMANDS[name]).main


def augmented_crops(folder: Path, config_path: Path, *, codes: bool, seed: int) -> Any:
    """A training data set with every augmentation on: `crops[i]` is a dictionary of tensors.

    Args:
        folder: A processed folder.
        config_path: A config file whose `data_config` block is used.
        codes: Whether samples are mu-law codes.
        seed: Seed of the crops.
    """
    from midi2wave.config import load_config
    from midi2wave.data.crops import CropAugmentation, Crops
    from midi2wave.data.processed_folder import ProcessedFolder

    data = load_config(config_path, ("data_config",), []).data_config
    return Crops(
        ProcessedFolder(folder),
        data,
        context_frames=(5, 7),
        n_previous=33,
        codes=codes,
        seed=seed,
        warmup_frames=3,
        augmentation=CropAugmentation(
            history_noise=lambda index: 0.5 / (1 + index),
            history_mixing=lambda index: 1.0 / (1 + index),
            history_dropout=0.3,
            conditioning_dropout=0.4,
        ),
    )


def uniforms(seed: int, streams: list[int], per_sample: int, first: int, n: int) -> np.ndarray:
    """The random numbers of `n` samples from sample `first` on, in the project's shape."""
    from midi2wave.sampling.uniforms import seeded_uniforms

    return seeded_uniforms(seed, streams, per_sample)(first, n).numpy()


def teacher_forced_losses(model_path: Path, clips: Path) -> dict[str, float]:
    """Mean negative log-likelihoods in nats per sample of the clips of a folder, by `paired_likelihood`.

    Every clip is scored with its own MIDI, with the next clip's, and with none.
    """
    import torch

    from midi2wave.checkpoint import load_model
    from midi2wave.evaluation.likelihood import paired_likelihood
    from midi2wave.sampling.pieces import clip_pieces

    model, config, _ = load_model(model_path, torch.device("cpu"))
    pieces, _ = clip_pieces(clips, config.data_config)
    losses = {}
    for number, piece in enumerate(pieces):
        other = pieces[(number + 1) % len(pieces)]
        everywhere, _ = paired_likelihood(model, piece.truth, piece.performance, other.performance, config.data_config)
        for name in ("true", "shuffled", "null"):
            losses[f"{piece.name}.{name}"] = getattr(everywhere, name)
    return losses


@contextlib.contextmanager
def without_transcriber() -> Iterator[None]:
    """Within it evaluate.py finds no transcriber, which takes minutes and is an optional dependency."""
    before = sys.modules.get("basic_pitch", _ABSENT)
    sys.modules["basic_pitch"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if before is _ABSENT:
            del sys.modules["basic_pitch"]
        else:
            sys.modules["basic_pitch"] = before
