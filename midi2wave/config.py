"""Typed config blocks from JSON: every key with its type, unit, limits and default stands here and nowhere else.

A config file is one JSON object of blocks. Unknown blocks and keys, wrong types and impossible values are refused in
one line that names file, block, key and what was expected. `python config.py` prints the table of all keys.
"""

import difflib
import json
import math
import re
import types
import typing
from collections.abc import Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from midi2wave.utils.cli import log
from midi2wave.utils.errors import InputError

FEATURES = ("onset", "held_velocity", "onset_age", "release_age", "pedals")
FEATURE_PRESETS = {
    "note_state": FEATURES,
    "paper_v1": ("held_velocity",),  # arXiv 1810.12247v1: the velocity for as long as key or pedal hold the note
    "paper_v5": ("onset",),  # arXiv 1810.12247v5: the velocity in the frame of the onset only
}
SAMPLERS = ("auto", "torch", "numba", "cuda")
SAMPLER_WEIGHTS = ("float32", "bfloat16")
GLOBAL_VALUE = re.compile(r"[^=\s]+=(0|-?[1-9][0-9]{0,17})")  # COLUMN=VALUE
CONFIG_FOLDER = Path(__file__).resolve().parents[1] / "configs"
MAX_SEED = 2**63 - 1  # what NumPy's and PyTorch's generators both take


def option(
    doc: str, default: Any = MISSING, *, ge: float | None = None, gt: float | None = None, le=None, choices=None
):
    """A config key: what it means, its default (none: the key must be given) and which values are possible.

    `ge` and `le` are inclusive limits, `gt` an exclusive one, `choices` the tuple of allowed values (of a list: of its
    items).
    """
    metadata = {"doc": doc, "ge": ge, "gt": gt, "le": le, "choices": choices}
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def label_columns(labels: Sequence[str]) -> tuple[str, ...]:
    """The columns that labels are of, each once."""
    return tuple(dict.fromkeys(label.partition("=")[0] for label in labels))


@dataclass
class PreprocessConfig:
    """preprocess_maestro.py and preprocess_audio.py."""

    maestro_dir: str = option("folder with the MAESTRO metadata file and the year folders", "")
    split: str = option(
        "split to process; all: out_dir/train, out_dir/validation and out_dir/test (preprocess_audio.py: clips of any)",
        "train",
        choices=("train", "validation", "test", "all"),
    )
    out_dir: str = option("processed folder to write (preprocess_maestro.py); with split all the parent of three", "")
    resampled_dir: str = option("where resample_audio.py --out_dir wrote; empty: beside the originals", "")
    audio_dir: str = option("folder of audio + MIDI pairs with equal stems, instead of maestro_dir", "")
    audio_hz: int = option("sample rate in Hz", 16000, ge=1000, le=192000)
    midi_hz: int = option("conditioning frames per second; audio_hz must be a multiple of it", 250, ge=10, le=2000)
    test_segment_length: float = option("length of a test clip in seconds (preprocess_audio.py)", 4.0, gt=0)
    n_clips: int = option("how many test clips to cut (preprocess_audio.py)", 8, ge=1)
    seed: int = option("seed of the clip positions", 0, ge=0, le=MAX_SEED)

    def check(self) -> None:
        _check_rates(self.audio_hz, self.midi_hz)


@dataclass
class DataConfig:
    """What the model is shown: crops of audio and the conditioning computed from the note events."""

    dataset_path: str = option("processed folder to train on", "")
    validation_path: str = option("processed folder to validate on; empty: no validation", "")
    segment_length: float = option("crop length in seconds", 0.5, gt=0)
    audio_hz: int = option("sample rate in Hz of the processed folder", 16000, ge=1000, le=192000)
    midi_hz: int = option("conditioning frames per second; audio_hz must be a multiple of it", 250, ge=10, le=2000)
    features: list[str] = option(
        "frame-rate features of the notes: names (onset, held_velocity, onset_age, release_age, pedals) or one preset: "
        "note_state (all of them), paper_v1 (held_velocity), paper_v5 (onset); [] with excitation false: an "
        "unconditional model, which hears no MIDI and has no context stack",
        ["note_state"],
        choices=(*FEATURES, *FEATURE_PRESETS),
    )
    sustain_extends_notes: bool = option(
        "a note that a pedal holds, sustain or sostenuto, goes on in features and excitation until its damper falls; "
        "false: it ends with its key, and without the feature pedals the model hears of no pedal at all",
        True,
    )
    preemphasis: float = option(
        "a of the pre-emphasis x[t] - a x[t-1] that the model hears and predicts in the place of the samples x[t]: the "
        "noise of what it draws then falls off towards high frequencies as the music does; 0: none",
        0.0,
        ge=0,
        le=0.99,
    )
    excitation: bool = option("add the note-synchronous excitation at audio rate to the conditioning", True)
    excitation_quadrature: bool = option(
        "give each channel of the excitation twice, a quarter of a period apart: any phase is then a blend of the two",
        False,
    )
    partial_hz: list[float] = option(
        "of the excitation's strings: frequencies of the 16 partials of each of the 88 keys, key after key "
        "(measure_partials.py), or as many for each of global_values of one column, whose pianos or tunings differ; "
        "empty: as of an ordinary piano",
        [],
    )
    partial_level: list[float] = option("the same: amplitudes at the onset, for velocity 127", [])
    partial_decay: list[float] = option("the same: how fast they decay, in 1/s", [])
    partial_phase: list[float] = option("the same: phases at the onset, in radians", [])
    velocity_exponent: float = option("the power of the velocity that the excitation's amplitude grows with", 1.5, ge=0)
    damping_seconds: float = option("in which a string under its damper falls to 1/e in the excitation", 0.04, gt=0)
    conditioning_dropout: float = option(
        "share of the training crops that are shown the null condition instead of their MIDI: what guidance needs",
        0.0,
        ge=0,
        le=1,
    )
    global_values: list[str] = option(
        "global conditioning: the values of integer columns of filenames.csv that the model tells apart, each as "
        "COLUMN=VALUE, such as year=2008. Training refuses recordings with others; empty: no global conditioning",
        [],
    )
    max_silence: float = option(
        "largest part of a crop that may be silent (20 ms below -60 dBFS); others are drawn again; 1: any",
        1.0,
        ge=0,
        le=1,
    )
    n_workers: int = option("processes that read crops; 0: none", 1, ge=0, le=256)

    def check(self) -> None:
        _check_rates(self.audio_hz, self.midi_hz)
        limits = {"hz": (1.0, 1e6), "level": (0.0, 1e6), "decay": (0.01, 1e3), "phase": (-10.0, 10.0)}
        n = 88 * 16
        expected = sorted({n, n * len(self.global_values) if len(label_columns(self.global_values)) == 1 else n})
        for name, (low, high) in limits.items():
            values = getattr(self, f"partial_{name}")
            wrong = len(values) not in {0, *expected} or len(values) != len(self.partial_hz)
            if wrong or not all(low <= value <= high for value in values):
                raise ValueError(
                    f"partial_{name}: expected 88 x 16 numbers from {low:g} to {high:g} (or as many for each of "
                    f"global_values of one column), {' or '.join(map(str, expected))} in all, and as many in the other "
                    f"three of partial_{', partial_'.join(limits)}, or none in any; {len(values)} are given"
                )
        if wrong := [value for value in self.global_values if not GLOBAL_VALUE.fullmatch(value)]:
            raise ValueError(f"global_values: {wrong[0]!r}: expected COLUMN=VALUE with a whole number, e.g. year=2008")
        if len(set(self.global_values)) < len(self.global_values):
            raise ValueError(f"global_values = {self.global_values}: expected different ones")
        if self.global_values and not self.features:
            raise ValueError("global_values: an unconditional model (features = []) can't be told any; expected []")
        if len(set(self.features)) < len(self.features):
            raise ValueError(f"features = {self.features}: expected different names")
        if not self.features and (self.excitation or self.conditioning_dropout):
            raise ValueError(
                "features = []: expected one or more different names, or for an unconditional model also excitation = "
                "false and conditioning_dropout = 0"
            )

    @property
    def conditional(self) -> bool:
        """Whether the model is shown any MIDI."""
        return bool(self.features)


@dataclass
class WavenetConfig:
    """The autoregressive decoder (arXiv 1609.03499)."""

    output: str = option(
        "output distribution: logistic_mixture over 16-bit samples, or categorical over 256 mu-law codes",
        "logistic_mixture",
        choices=("logistic_mixture", "categorical"),
    )
    n_mixtures: int = option("components of the logistic mixture", 10, ge=1, le=100)
    n_layers: int = option("gated residual layers", 20, ge=1, le=200)
    max_dilation: int = option("dilations double from 1 up to this, then start again at 1", 512, ge=1, le=65536)
    kernel_size: int = option("taps of the dilated convolutions and of the input layer", 2, choices=(2, 3))
    n_residual_channels: int = option("channels of the residual path", 64, ge=1, le=4096)
    n_skip_channels: int = option("channels of the skip sum", 256, ge=1, le=4096)
    n_out_channels: int = option("channels between the two output layers", 256, ge=1, le=4096)
    n_cond_channels: int = option("channels of the conditioning that the context stack gives the decoder", 64, ge=1)
    conditioned_layers: str = option(
        "which layers' gates hear the conditioning: all, or the first alone (to see what the others are worth)",
        "all",
        choices=("all", "first"),
    )
    output_conditioning: bool = option(
        "add the conditioning to the skip sum too, behind the layers (nv-wavenet has no place for it)", False
    )
    output_bias: bool = option(
        "biases on the two output layers; false lets nv-wavenet have a categorical model without spare channels",
        True,
    )

    def check(self) -> None:
        if self.output == "logistic_mixture" and not self.output_bias:
            raise ValueError("output_bias = false: expected true with a logistic mixture, whose means start at a bias")


@dataclass
class CondWavenetConfig:
    """The context stack: dilated gated convolutions over conditioning frames (arXiv 1810.12247, section 4)."""

    n_layers: int = option("gated residual layers; the paper's 2 x 6", 12, ge=1, le=200)
    max_dilation: int = option("dilations double from 1 up to this, then start again at 1", 32, ge=1, le=65536)
    kernel_size: int = option("taps of the dilated convolutions", 2, ge=2, le=15)
    n_residual_channels: int = option("channels of the residual path", 64, ge=1, le=4096)
    n_skip_channels: int = option("channels of the skip sum", 128, ge=1, le=4096)
    lookahead_ms: float = option(
        "how far the context sees into the MIDI's future; 0: causal. At most its receptive field", 248.0, ge=0
    )
    upsampling: str = option(
        "from frames to samples: repeat, linear (looks one frame further ahead) or transposed (learned window)",
        "linear",
        choices=("repeat", "linear", "transposed"),
    )
    n_mels: int = option(
        "bands of an auxiliary head: from the context alone, the log-mel spectrum of the audio must be told; 0: none",
        0,
        ge=0,
        le=256,
    )
    n_codes: int = option(
        "argmax autoencoder: each frame of the context becomes one of so many codes (docs/argmax_autoencoder.md); "
        "0: none",
        0,
        ge=0,
        le=4096,
    )
    code_scale: float = option("length of a code's one-hot vector, from which the decoder's context is made", 1.0, gt=0)

    def check(self) -> None:
        if self.n_codes == 1:
            raise ValueError("n_codes = 1: expected two or more, or 0 for a context without codes")


@dataclass
class TrainConfig:
    """train.py."""

    output_directory: str = option("run folder: checkpoints, metrics.jsonl, TensorBoard events, config")
    steps: int = option("optimiser steps", 350_000, ge=1)
    batch_size: int = option("crops per step, of all processes together", 16, ge=1)
    micro_batch_size: int = option(
        "crops that a process passes through the model at once; it adds up the gradients of its share of batch_size. "
        "0: all of them on CUDA, as many as fit the caches on a CPU",
        0,
        ge=0,
    )
    learning_rate: float = option("peak learning rate of AdamW", 5e-4, gt=0)
    final_learning_rate: float = option("learning rate at the last step, reached by a cosine", 1e-5, ge=0)
    warmup_steps: int = option("steps of linear warm-up", 1000, ge=0)
    weight_decay: float = option("decoupled weight decay of the matrices", 0.01, ge=0)
    gradient_clip: float = option("largest norm of the gradient", 1.0, gt=0)
    history_noise: float = option(
        "noise on the samples that the decoder is shown as the past, at the start: largest level relative to the "
        "crop's RMS; it must then listen to the MIDI and to longer stretches, and learns to mend its own errors",
        0.3,
        ge=0,
        le=10,
    )
    final_history_noise: float = option("the same at the last step; in between it falls linearly", 0.03, ge=0, le=10)
    history_mixing: float = option(
        "sound of another crop on the samples shown as the past: largest level relative to the crop's RMS. What sounds "
        "there and is not in the MIDI must be ended: alone, a decoder that only continues tones rings for ever",
        0.0,
        ge=0,
        le=10,
    )
    final_history_mixing: float = option(
        "the same at the last step, along a line in between; -1: as at the first",
        -1.0,
        ge=-1,
        le=10,
    )
    history_dropout: float = option(
        "share of the crops whose history is nothing but noise: what is to be played stands in the MIDI alone",
        0.0,
        ge=0,
        le=1,
    )
    scheduled_sampling_passes: int = option(
        "scheduled sampling: forward passes before each step, from which the model's own samples are drawn that take "
        "the place of some of those shown as the past; more passes: they go better with one another. 0: off",
        0,
        ge=0,
        le=100,
    )
    scheduled_sampling: float = option(
        "share of the past that is the model's own at the last step (with scheduled_sampling_passes)",
        0.5,
        ge=0,
        le=1,
    )
    scheduled_sampling_start_step: int = option(
        "steps before that share begins to grow from 0, along a line up to the last step", 0, ge=0
    )
    mel_loss_weight: float = option("weight of the auxiliary head's loss (cond_wavenet_config.n_mels)", 0.3, ge=0)
    diversity_loss_weight: float = option(
        "weight of the loss that asks for all codes to be used alike (cond_wavenet_config.n_codes) in the crops that "
        "a process passes through the model at once",
        1.0,
        ge=0,
    )
    context_learning_rate: float = option("of the context stack, as a factor of the learning rate", 1.0, gt=0)
    ema_decay: float = option("decay of the weight average that is validated and shipped; 0: none", 0.9995, ge=0, le=1)
    seed: int = option("seed of weights and crops", 0, ge=0, le=MAX_SEED)
    checkpoint_path: str = option("start from the weights of this checkpoint (a new run, step 0); empty: random", "")
    iters_per_checkpoint: int = option("steps between checkpoints", 2000, ge=1)
    keep_checkpoints: int = option("newest checkpoints kept; the best by validation is kept beside them", 3, ge=1)
    keep_every: int = option("keep the checkpoints of every so many steps for good; 0: none", 0, ge=0)
    iters_per_log: int = option("steps between log lines", 50, ge=1)
    iters_per_validation: int = option("steps between validations", 1000, ge=1)
    validation_crops: int = option("crops per validation, always the same ones", 128, ge=2)
    iters_per_sample: int = option("steps between logged audio and pictures; 0: never", 10_000, ge=0)
    device: str = option("auto, cpu, cuda or cuda:N", "auto")
    precision: str = option(
        "of the matrix products; weights, optimiser and likelihood are float32 always. auto: bfloat16 where the "
        "processor multiplies it faster (CUDA from Ampere on; CPUs with AVX512-BF16 or AMX), float32 elsewhere",
        "auto",
        choices=("auto", "float32", "bfloat16"),
    )
    compile: bool = option(
        "fuse the gates by torch.compile, where it finds a compiler: faster after some seconds", True
    )
    cuda_graph: bool = option("record a pass once and replay it, on one CUDA GPU: the host launches it at once", True)
    activation_checkpointing: bool = option(
        "compute the layers' sums twice instead of keeping them: about half the memory, a little slower", False
    )

    def check(self) -> None:
        if -1 < self.final_history_mixing < 0:
            raise ValueError(f"final_history_mixing = {self.final_history_mixing:g}: expected -1, or 0 and more")
        if self.warmup_steps >= self.steps:
            raise ValueError(f"warmup_steps = {self.warmup_steps}: expected less than steps = {self.steps}")
        if self.ema_decay >= 1:
            raise ValueError(f"ema_decay = {self.ema_decay}: expected less than 1")
        if self.scheduled_sampling_passes and self.scheduled_sampling_start_step >= self.steps:
            raise ValueError(
                f"scheduled_sampling_start_step = {self.scheduled_sampling_start_step}: expected less than steps = "
                f"{self.steps}"
            )


@dataclass
class DistConfig:
    """Training by several processes, started by torchrun."""

    backend: str = option("auto (nccl on CUDA, gloo on CPUs), gloo or nccl", "auto", choices=("auto", "gloo", "nccl"))
    timeout_minutes: float = option("how long a process waits for the others before it gives up", 30.0, gt=0)


@dataclass(kw_only=True)
class SamplingConfig:
    """What every block says of sampling."""

    model_filename: str = option("checkpoint: a run folder, a step folder or a .safetensors file")
    test_dir: str = option("folder of test clips made by preprocess_audio.py", "test")
    teacher_length: float = option("seconds of truth before the model takes over in mode prompted", 2.0, gt=0)
    temperature: float = option("1: the model's own distribution; less: less noise, less variety", 1.0, gt=0, le=10)
    guidance: float = option(
        "classifier-free guidance: 1: the model given its MIDI; more: further away from what it plays without; 0: "
        "without. All but 1 take twice the work, and a model that was trained with conditioning_dropout",
        1.0,
        ge=0,
        le=100,
    )
    global_values: list[str] = option(
        "what the model is told of the recording as a whole, each as COLUMN=VALUE, instead of what a test clip says; "
        "some of its data_config.global_values",
        [],
    )
    seed: int = option("seed of the uniforms that the samples are drawn with", 0, ge=0, le=MAX_SEED)
    batch_size: int = option("clips generated side by side", 8, ge=1)
    sampler: str = option(
        "engine: torch (the reference), numba (the fast one on a CPU), cuda (a CUDA graph; of one piece "
        "slower than numba on a CPU); auto: numba",
        "auto",
        choices=SAMPLERS,
    )
    sampler_threads: int = option(
        "threads of sampler numba, no more than there are cores (0: as many as help); torch and cuda ignore it",
        0,
        ge=0,
        le=1024,
    )
    sampler_weights: str = option(
        "bfloat16 makes sampler numba up to twice as fast; the samples are then near the reference's, not the same",
        "float32",
        choices=SAMPLER_WEIGHTS,
    )
    device: str = option("auto, cpu, cuda or cuda:N", "auto")


@dataclass(kw_only=True)
class InferenceConfig(SamplingConfig):
    """inference.py."""

    output_dir: str = option("where wavs, pictures and the listening page go", "output")
    mode: str = option(
        "teacher_forced (one parallel pass), prompted (teacher_length of the truth, then autoregressive) or free "
        "(from silence)",
        "prompted",
        choices=("teacher_forced", "prompted", "free"),
    )
    tail_seconds: float = option("sound after the last note of a MIDI file (--midi)", 2.0, ge=0)
    max_seconds: float = option("refuse MIDI files that would sound longer than this (--midi)", 3600.0, gt=0)
    fold_seconds: float = option(
        "cut what is played free into parts of this length, generated side by side and cross-faded (folding.py): "
        "faster, but not quite what one stream gives, and in the memory of the whole piece; 0: one stream",
        0.0,
        ge=0,
    )
    fold_overlap_seconds: float = option("length of the cross-fades between parts; at most fold_seconds", 0.1, gt=0)
    fold_warmup_seconds: float = option(
        "how much earlier, from silence, each part begins than it is heard; the decoder's receptive field at least. "
        "Neighbours then fall in step",
        1.0,
        ge=0,
    )

    def check(self) -> None:
        if 0 < self.fold_seconds < self.fold_overlap_seconds:
            raise ValueError(
                f"fold_seconds = {self.fold_seconds:g}: expected at least fold_overlap_seconds = "
                f"{self.fold_overlap_seconds:g}, or 0"
            )


@dataclass(kw_only=True)
class EvaluateConfig(SamplingConfig):
    """evaluate.py."""

    output_dir: str = option("where scores, wavs, pictures and the listening page go", "evaluation")
    mode: str = option(
        "free (from silence) or prompted (teacher_length of the recording, then autoregressive; only what follows is "
        "scored)",
        "free",
        choices=("free", "prompted"),
    )
    counterfactuals: bool = option("also change one thing of a phrase at a time: pitch, velocity, pedal", True)
    drift_dir: str = option("folder of long test clips (60 s) to look for drift in; empty: none", "")


_ABSENT: Any = None  # A block that the config file does not have.


@dataclass
class Config:
    """All blocks of one config file.

    A block that is absent and not needed is None. The types do not say so: a command names the blocks that it needs
    (`load_config`) and uses no others.
    """

    preprocess_config: PreprocessConfig = _ABSENT
    data_config: DataConfig = _ABSENT
    wavenet_config: WavenetConfig = _ABSENT
    cond_wavenet_config: CondWavenetConfig = _ABSENT
    train_config: TrainConfig = _ABSENT
    dist_config: DistConfig = _ABSENT
    inference_config: InferenceConfig = _ABSENT
    evaluate_config: EvaluateConfig = _ABSENT

    def as_dict(self) -> dict[str, Any]:
        """The resolved config as plain JSON values, absent blocks left out."""
        return {name: block for name, block in asdict(self).items() if block is not None}


# Former names of options and of their values, still accepted: (block, former name) -> name, and for values
# (block, option, former value) -> value.
DEPRECATED_OPTIONS = {
    ("train_config", "history_interference"): "history_mixing",
    ("train_config", "final_history_interference"): "final_history_mixing",
    ("train_config", "scheduled_sampling_patience"): "scheduled_sampling_start_step",
}
DEPRECATED_VALUES = {
    ("inference_config", "mode", "primed"): "prompted",
    ("evaluate_config", "mode", "primed"): "prompted",
}

BLOCKS: dict[str, Any] = {f.name: f.type for f in fields(Config)}


def _check_rates(audio_hz: int, midi_hz: int) -> None:
    if audio_hz % midi_hz:
        near = [hz for hz in range(midi_hz // 2, midi_hz * 2) if audio_hz % hz == 0]
        near.sort(key=lambda hz: abs(hz - midi_hz))
        hint = f"; midi_hz = {near[0]} would do" if near else ""
        raise ValueError(f"audio_hz = {audio_hz} is not a whole multiple of midi_hz = {midi_hz}{hint}")


def load_config(path: str | Path, needs: tuple[str, ...], overrides: list[str] | None = None) -> Config:
    """Read a config file, apply `block.key=value` overrides and check everything.

    `needs` names the blocks that the caller uses: absent ones are made of defaults. Raises InputError.
    """
    path = _find(Path(path))
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not valid JSON: {error}") from error
    _check_shape(raw, str(path))
    for override in overrides or []:
        _override(raw, override)
    for name in needs:
        raw.setdefault(name, {})
    return config_from_dict(raw, str(path))


def config_from_dict(raw: dict[str, Any], source: str, *, quiet: bool = False) -> Config:
    """Build and check a Config from plain values; `source` names the file in error messages."""
    _check_shape(raw, source)
    _known(raw, list(BLOCKS), f"{source}: block")
    raw = _rename_deprecated(raw, source, quiet)
    return Config(**{name: _block(BLOCKS[name], values, f"{source}: {name}") for name, values in raw.items()})


def _rename_deprecated(raw: dict[str, Any], source: str, quiet: bool) -> dict[str, Any]:
    """The config with former option names replaced; logs one line for each."""
    result = {name: dict(values) for name, values in raw.items()}
    for (block, former), name in DEPRECATED_OPTIONS.items():
        if former in result.get(block, {}):
            if not quiet:
                log(f"{source}: {block}.{former} is deprecated; write {block}.{name}")
            result[block].setdefault(name, result[block].pop(former))
            result[block].pop(former, None)
    for (block, name, former), value in DEPRECATED_VALUES.items():
        if result.get(block, {}).get(name) == former:
            if not quiet:
                log(f"{source}: {block}.{name} = {json.dumps(former)} is deprecated; write {json.dumps(value)}")
            result[block][name] = value
    return result


def _check_shape(raw: Any, source: str) -> None:
    if not isinstance(raw, dict) or not all(isinstance(block, dict) for block in raw.values()):
        raise InputError(f"{source}: expected an object of blocks, each an object of keys")


def _find(path: Path) -> Path:
    for candidate in (path, CONFIG_FOLDER / path, CONFIG_FOLDER / f"{path}.json"):
        if candidate.is_file():
            return candidate
    there = sorted(str(p.relative_to(CONFIG_FOLDER)) for p in CONFIG_FOLDER.rglob("*.json"))
    near = difflib.get_close_matches(path.name, there, n=1, cutoff=0.5)
    raise InputError(
        f"config {path} not found, neither as a path nor in {CONFIG_FOLDER}"
        + (f"; did you mean {near[0]}?" if near else "")
    )


def _known(given: typing.Iterable[str], valid: list[str], where: str) -> None:
    for name in given:
        if name not in valid:
            near = difflib.get_close_matches(name, valid, n=1, cutoff=0.4)
            hint = f"did you mean {near[0]!r}?" if near else f"expected one of {', '.join(valid)}"
            raise InputError(f"{where} {name!r} is unknown; {hint}")


def _override(raw: dict[str, Any], text: str) -> None:
    target, equals, value = text.partition("=")
    block, dot, name = target.partition(".")
    if not (equals and dot and block and name):
        raise InputError(f"--set {text}: expected block.key=value, e.g. train_config.batch_size=4")
    _known([block], list(BLOCKS), "--set: block")
    name = DEPRECATED_OPTIONS.get((block, name), name)
    _known([name], [f.name for f in fields(BLOCKS[block])], f"--set: {block} key")
    if {f.name: f.type for f in fields(BLOCKS[block])}[name] is str:
        parsed = value
    else:
        try:
            parsed = json.loads(value)
        except ValueError:
            parsed = value  # the type check below says what was expected
    raw.setdefault(block, {})[name] = parsed


def _block(kind: type, values: dict[str, Any], where: str) -> Any:
    _known(values, [f.name for f in fields(kind)], f"{where}: key")
    typed = {}
    for f in fields(kind):
        if f.name in values:
            typed[f.name] = _value(f, values[f.name], f"{where}.{f.name}")
        elif f.default is MISSING and f.default_factory is MISSING:
            other = "" if values else "; is this the config of another command?"
            raise InputError(f"{where}: key {f.name!r} is missing: {f.metadata['doc']}{other}")
    block = kind(**typed)
    if hasattr(block, "check"):
        try:
            block.check()
        except ValueError as error:
            raise InputError(f"{where}: {error}") from error
    return block


def _value(f, value: Any, where: str) -> Any:
    """Check one value against its key's type and limits; whole numbers pass as floats."""
    is_list = isinstance(f.type, types.GenericAlias)
    expected = f"list of {typing.get_args(f.type)[0].__name__}" if is_list else f.type.__name__
    expected = "finite float" if f.type is float else expected
    if f.type is float and type(value) is int and abs(value) < 2**53:  # beyond, not every whole number is a float
        value = float(value)
    if is_list and isinstance(value, str):
        value = [value]
    right = (
        isinstance(value, list) and all(type(v) is typing.get_args(f.type)[0] for v in value)
        if is_list
        else (type(value) is f.type and (f.type is not float or math.isfinite(value)))
    )
    if not right:
        raise InputError(f"{where} = {json.dumps(value)}: expected {expected}")
    limits = f.metadata
    if limits["choices"] is not None:
        for item in value if is_list else [value]:
            if item not in limits["choices"]:
                near = difflib.get_close_matches(str(item), [str(v) for v in limits["choices"]], n=1, cutoff=0.5)
                hint = f" (did you mean {near[0]!r}?)" if near else ""
                raise InputError(
                    f"{where} = {json.dumps(item)}: expected one of {', '.join(map(str, limits['choices']))}{hint}"
                )
    for name, ok, word in (
        ("ge", lambda v, x: v >= x, "at least"),
        ("gt", lambda v, x: v > x, "more than"),
        ("le", lambda v, x: v <= x, "at most"),
    ):
        if limits[name] is not None and not ok(value, limits[name]):
            raise InputError(f"{where} = {json.dumps(value)}: expected {word} {limits[name]}")
    return value


def table() -> str:
    """All blocks and keys as Markdown, for docs/configs.md."""
    lines = ["# Config keys", "", "Made by `python config.py > docs/configs.md`.", ""]
    for name, kind in BLOCKS.items():
        lines += [f"## `{name}`", "", kind.__doc__, "", "| key | default | meaning |", "|---|---|---|"]
        for f in fields(kind):
            default = f.default if f.default is not MISSING else None
            if f.default_factory is not MISSING:
                default = f.default_factory()
            required = f.default is MISSING and f.default_factory is MISSING
            lines.append(
                f"| `{f.name}` | {'required' if required else f'`{json.dumps(default)}`'} | {f.metadata['doc']} |"
            )
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
