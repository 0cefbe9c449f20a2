"""The golden references themselves: each item is a function of a workspace that returns named values."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.golden import project
from tests.golden.comparison import Tolerance, Value, flatten
from tests.golden.workspace import (
    AUDIO_HZ,
    SONG_TAIL_SECONDS,
    TINY_CONTEXT,
    TINY_MODEL,
    Workspace,
    overrides,
    read_file,
    read_folder,
    read_wav,
)

ENGINES = {
    "torch": {"sampler": "torch"},
    "numba": {"sampler": "numba", "sampler_threads": 1},
    "numba_bfloat16": {"sampler": "numba", "sampler_threads": 1, "sampler_weights": "bfloat16", "sampling": "mean"},
    "cuda": {"sampler": "cuda", "device": "cuda"},
}
CPU_ENGINES = ("torch", "numba", "numba_bfloat16")
# Settings of an argmax autoencoder, as `Workspace.train` takes them.
ARGMAX = {
    "data_config__excitation": False,
    "data_config__conditioning_dropout": 0.0,
    "cond_wavenet_config__n_codes": 6,
    "cond_wavenet_config__code_scale": 4.0,
    "train_config__context_learning_rate": 0.3,
    "train_config__diversity_loss_weight": 1.0,
}
# Metrics that differ from run to run.
TIMINGS = ("samples_per_second", "data_wait")
PRETRAINED = sorted(path.name for path in (project.ROOT / "pretrained").glob("*.safetensors"))


@dataclass(frozen=True)
class Item:
    """A named golden reference.

    Attributes:
        compute: Makes its values in a workspace.
        tolerance: What `--check` without `--exact` lets pass.
        needs: What must be there: returns the reason for which the item is skipped, or "".
        exact_only: Compared with `--exact` only: bytes of resampled audio differ between processors.
        stored_in: The item whose stored results serve, if not its own; those that it does not compute are left out.
    """

    compute: Callable[[Workspace], dict[str, Value]]
    tolerance: Tolerance = Tolerance()
    needs: Callable[[], str] = lambda: ""
    stored_in: str = ""
    exact_only: bool = False


def has_cuda() -> bool:
    """Whether the cuda engine can run."""
    import torch

    return torch.cuda.is_available()


def _play(space: Workspace, model: str, engine: str, out: str, **settings: object) -> Path:
    """Play the song from silence; returns the wav."""
    keys = {"model_filename": model, "mode": "free", "tail_seconds": SONG_TAIL_SECONDS, "seed": 3, "device": "cpu"}
    option_values = {f"inference_config.{name}": value for name, value in (keys | ENGINES[engine] | settings).items()}
    options = overrides(option_values)
    space.run("inference", "-c", "config_inference.json", "--midi", space.song(), "--out", out, *options)
    return Path(out) / "song.wav"


def samples(space: Workspace) -> dict[str, Value]:
    """0.25 s by every shipped model and engine of a CPU, from silence; with guidance 3 by one model."""
    return {
        f"{name}.{engine}": read_wav(_play(space, model, engine, f"played/{name}_{engine}", **settings))
        for name, (model, settings) in _played_models().items()
        for engine in CPU_ENGINES
    }


def _played_models() -> dict[str, tuple[str, dict[str, float]]]:
    models: dict[str, tuple[str, dict[str, float]]] = {name: (f"pretrained/{name}", {}) for name in PRETRAINED}
    return models | {"guidance": ("pretrained/rendered.safetensors", {"guidance": 3.0})}


def samples_cuda(space: Workspace) -> dict[str, Value]:
    """The same by the cuda engine, to be compared with the stored samples of the torch engine."""
    return {
        f"{name}.torch": read_wav(_play(space, model, "cuda", f"played/{name}_cuda", **settings))
        for name, (model, settings) in _played_models().items()
    }


def uniforms(_space: Workspace) -> dict[str, Value]:
    """The random numbers that samples are drawn with."""
    return {
        f"{per_sample} from {first}": project.uniforms(3, [0, 7], per_sample, first, 50)
        for per_sample in (1, 2)
        for first in (0, 12345)
    }


def likelihoods(space: Workspace) -> dict[str, Value]:
    """Of every shipped model: teacher-forced samples of two clips, and their likelihoods with three conditionings."""
    values: dict[str, Value] = {}
    clips = space.clips(16000)
    for model in PRETRAINED:
        settings = {
            "inference_config.model_filename": f"pretrained/{model}",
            "inference_config.mode": "teacher_forced",
            "inference_config.test_dir": str(clips),
            "inference_config.device": "cpu",
            "inference_config.global_values": ["year=2009"] if model == "disklavier.safetensors" else [],
        }
        out = f"teacher_forced/{model}"
        result = space.run("inference", "-c", "config_inference.json", "--out", out, *overrides(settings))
        values |= flatten({"nll": result["nll"], "mean_nll": result["mean_nll"]}, model)
        for wav in result["wavs"]:
            values[f"{model}.{wav}"] = read_wav(Path(out) / wav)
        if model != "disklavier.safetensors":  # Its recordings have years, which the clips do not.
            losses = project.teacher_forced_losses(project.ROOT / "pretrained" / model, clips)
            values |= flatten(losses, f"{model}.paired")
    return values


def _run_values(folder: Path) -> dict[str, Value]:
    """The metrics and the last weights of a run."""
    values = read_folder(folder, ("metrics.jsonl",), without=TIMINGS)
    newest = max(folder.glob("step_*"))
    return values | {f"weights:{name}": value for name, value in read_file(newest / project.WEIGHTS_FILE).items()}


def training(space: Workspace) -> dict[str, Value]:
    """Losses, validations and final weights of 20 steps of the demo's training, on smaller crops."""
    settings = {
        "train_config__steps": 20,
        "train_config__batch_size": 4,
        "train_config__warmup_steps": 5,
        "train_config__iters_per_checkpoint": 20,
        "train_config__iters_per_validation": 10,
        "train_config__validation_crops": 4,
        "data_config__segment_length": 0.1,
    }
    return _run_values(space.train("run_demo", space.measured_config(), **settings))


def _tiny(space: Workspace, name: str, audio_hz: int = AUDIO_HZ, *, context: bool = True, **settings: object) -> Path:
    """Four steps of a tiny model, or of as many as `settings` say."""
    sizes = TINY_MODEL | (TINY_CONTEXT if context else {})
    option_values = {key.replace(".", "__"): value for key, value in sizes.items()} | {
        "train_config__steps": 4,
        "train_config__batch_size": 2,
        "train_config__warmup_steps": 1,
        "train_config__iters_per_checkpoint": 2,
        "train_config__iters_per_validation": 2,
        "train_config__validation_crops": 2,
        "data_config__segment_length": 0.1,
    }
    config = "demo/config_train.json" if context else "demo/config_train_unconditional.json"
    return space.train(name, config, audio_hz, **(option_values | settings))


def variants(space: Workspace) -> dict[str, Value]:
    """Short trainings of the model's other kinds: mu-law, codes, global values, unconditional, other augmentations."""
    runs = {
        "categorical": {
            "wavenet_config__output": "categorical",
            "wavenet_config__output_conditioning": True,
            "data_config__preemphasis": 0.0,
            "data_config__features": ["paper_v1"],
            "cond_wavenet_config__upsampling": "transposed",
            "cond_wavenet_config__n_mels": 0,
            "train_config__ema_decay": 0.0,
        },
        "argmax": ARGMAX,
        "global": {"data_config__global_values": list(space.global_values())},
        "scheduled": {
            "train_config__scheduled_sampling_passes": 1,
            "train_config__micro_batch_size": 1,
            "train_config__activation_checkpointing": True,
            "wavenet_config__kernel_size": 3,
            "cond_wavenet_config__upsampling": "repeat",
        },
    }
    values: dict[str, Value] = {}
    for name, settings in runs.items():
        values |= {
            f"{name}.{key}": value for key, value in _run_values(_tiny(space, f"run_{name}", **settings)).items()
        }
    unconditional = _run_values(_tiny(space, "run_unconditional", context=False))
    return values | {f"unconditional.{key}": value for key, value in unconditional.items()}


def data(space: Workspace) -> dict[str, Value]:
    """Generated MAESTRO folder, resampled audio, processed folders and test clips, with the hashes of their bytes."""
    folders = {
        "maestro": (space.resampled(AUDIO_HZ), ("*.wav", "*.csv", "*.json")),
        "train": (space.processed("train"), ("*.npy", "*.npz", "*.json", "*.csv")),
        "validation": (space.processed("validation"), ("*.npy", "*.npz", "*.json", "*.csv")),
        "clips": (space.clips(), ("*.wav", "*.npz", "*.json")),
    }
    values: dict[str, Value] = {}
    for name, (folder, patterns) in folders.items():
        # What item `likelihoods` adds at another rate is no part of this one; checksums stand in the hashes below.
        contents = read_folder(folder, patterns, without=("sha256", "npz_crc32"))
        values |= {f"{name}/{key}": value for key, value in contents.items() if "_16000" not in key}
    for path in sorted(space.maestro().rglob("*.midi")):
        values[f"maestro/{path.name}"] = hashlib.sha256(path.read_bytes()).hexdigest()
    return values


def file_bytes(space: Workspace) -> dict[str, Value]:
    """Hashes of whole files that hold audio and notes: the bits of resampled audio are those of one processor."""
    files = [path for split in ("train", "validation") for path in space.processed(split).glob("*.np[yz]")]
    files += [*space.clips().glob("*.wav"), *space.clips().glob("*.npz")]
    files += space.resampled(AUDIO_HZ).rglob(f"*_{AUDIO_HZ}.wav")
    return {path.as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(files)}


def crops(space: Workspace) -> dict[str, Value]:
    """Training crops of a seed with all augmentations on, as 16-bit samples and as mu-law codes."""
    values: dict[str, Value] = {}
    for codes in (False, True):
        made = project.augmented_crops(space.processed("train"), space.measured_config(), codes=codes, seed=11)
        for index in (0, 1, 2, 3, 1000, 123456):
            for name, tensor in made[index].items():
                if name in ("samples", "history") or not (codes or name == "index"):
                    values[f"{'codes' if codes else 'pcm'}.{index}.{name}"] = tensor.numpy()
    return values


def evaluation(space: Workspace) -> dict[str, Value]:
    """The scores of two clips by a tiny model, in both modes, without a transcriber."""
    run = _tiny(space, "run_evaluated", data_config__global_values=list(space.global_values()))
    values: dict[str, Value] = {}
    for mode in ("free", project.PROMPTED_MODE):
        settings = {
            "evaluate_config.model_filename": str(run),
            "evaluate_config.test_dir": str(space.clips()),
            "evaluate_config.output_dir": f"evaluated_{len(values)}",
            "evaluate_config.mode": mode,
            "evaluate_config.teacher_length": 0.1,
            "evaluate_config.counterfactuals": mode == "free",
            "evaluate_config.second_transcriber": False,
            "evaluate_config.device": "cpu",
            "evaluate_config.sampler_threads": 1,
            "evaluate_config.global_values": [space.global_values()[0]],
        }
        with project.without_transcriber():
            result = space.run("evaluate", "-c", "demo/config_evaluate.json", *overrides(settings))
        text = ("output_dir", "mode", "model", "config")
        kept = {name: value for name, value in result.items() if name not in text}
        values |= flatten(kept, "free" if mode == "free" else "prompted")
    return values


def bundle(space: Workspace) -> dict[str, Value]:
    """Tensors and arrays of the nv-wavenet export of a tiny categorical model; of its JSON the numbers."""
    settings = {"wavenet_config__output": "categorical", "train_config__steps": 2}
    run = _tiny(space, "run_exported", **settings)
    out = Path("bundle")
    keys = {"seed": 6, "temperature": 0.8, "tail_seconds": 0.02, "device": "cpu"}
    option_values = overrides({f"inference_config.{name}": value for name, value in keys.items()})
    space.run(
        "export",
        "-c",
        "config_inference.json",
        "--checkpoint",
        run,
        "--midi",
        space.song(),
        "--out",
        out,
        *option_values,
    )
    return read_folder(out, ("*.npy", "*.safetensors"))


def partials(space: Workspace) -> dict[str, Value]:
    """The partials measured on the training split, and its labels after alignment by them."""
    import json

    measured = json.loads(space.measured_config().read_text(encoding="utf-8"))
    values = flatten(measured["data_config"])
    space.run("align_labels", "-d", space.processed("train"), "-c", space.measured_config(), "-o", "aligned")
    return values | read_folder(Path("aligned"), ("*.npz",))


def playing(space: Workspace) -> dict[str, Value]:
    """What inference.py plays by tiny models: prompted, folded, without notes, and by way of codes."""
    run, run_with_codes = _tiny(space, "run_played"), _tiny(space, "run_codes", **ARGMAX)
    folds = {"fold_seconds": 0.1, "fold_overlap_seconds": 0.02, "fold_warmup_seconds": 0.05, "tail_seconds": 0.1}
    calls = {
        "prompted": (run, {"mode": project.PROMPTED_MODE, "test_dir": str(space.clips()), "teacher_length": 0.1}, []),
        "folded": (run, {"mode": "free", **folds}, ["--midi", space.song()]),
        "null": (run, {"mode": "free"}, ["--seconds", "0.2", "--null", "--n_pieces", "2"]),
        "codes": (run_with_codes, {"mode": "free", "tail_seconds": SONG_TAIL_SECONDS}, ["--midi", space.song()]),
    }
    values: dict[str, Value] = {}
    for name, (model, settings, options) in calls.items():
        out = Path(f"output_{name}")
        keys = {"model_filename": str(model), "device": "cpu", "sampler_threads": 1} | settings
        option_values = overrides({f"inference_config.{key}": value for key, value in keys.items()})
        space.run("inference", "-c", "demo/config_inference.json", "--out", out, *options, *option_values)
        contents = read_folder(out, ("*.wav", "*.npz", "*_seams.json"), without=("weights_sha256",))
        values |= {f"{name}/{key}": value for key, value in contents.items()}
    return values


# Samples of another processor: one that falls to the other side of a rounding changes all later ones a little.
_SAMPLES = Tolerance(numbers=1e-3, arrays=0.1)
# Optimisation amplifies rounding errors from step to step; scores are functions of generated samples.
_TRAINING = Tolerance(numbers=2e-3, arrays=2e-2)
_SCORES = Tolerance(numbers=0.05, arrays=0.1)
_SAME_BYTES = Tolerance(numbers=0.0, arrays=0.0)

ITEMS = {
    "uniforms": Item(uniforms, _SAME_BYTES),
    "data": Item(data, Tolerance(arrays=1e-3)),
    "file_bytes": Item(file_bytes, _SAME_BYTES, exact_only=True),
    "crops": Item(crops, Tolerance(arrays=1e-3)),
    "partials": Item(partials, Tolerance(numbers=1e-3, arrays=1e-3)),
    "training": Item(training, _TRAINING),
    "variants": Item(variants, _TRAINING),
    "samples": Item(samples, _SAMPLES),
    "samples_cuda": Item(samples_cuda, _SAMPLES, lambda: "" if has_cuda() else "no GPU", stored_in="samples"),
    "likelihoods": Item(likelihoods, _SAMPLES),
    "playing": Item(playing, _SAMPLES),
    "evaluation": Item(evaluation, _SCORES),
    "bundle": Item(bundle, _SAMPLES),
}
