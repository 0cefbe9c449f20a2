"""The options of all commands: every option with its type, unit, limits, default and meaning.

    python -m midi2wave.config > docs/configs.md        # the page of all options

A config file is one JSON object of blocks (`midi2wave/utils/typed_config.py` reads and checks it).
"""

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from midi2wave.utils.typed_config import Schema, option

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
MAX_SEED = 2**63 - 1  # The largest that both NumPy's and PyTorch's generators take.
N_KEYS = 88
N_PARTIALS = 16  # of each key
# Smallest and largest value of the four partial_* options.
PARTIAL_LIMITS = {"hz": (1.0, 1e6), "level": (0.0, 1e6), "decay": (0.01, 1e3), "phase": (-10.0, 10.0)}


def label_columns(labels: Sequence[str]) -> tuple[str, ...]:
    """The columns of labels COLUMN=VALUE, each once."""
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
    out_dir: str = option(
        "processed folder to write (preprocess_maestro.py); with split all, the parent folder of three", ""
    )
    resampled_dir: str = option("--out_dir of resample_audio.py; empty: resampled files lie beside the originals", "")
    audio_dir: str = option("folder of audio + MIDI pairs with equal stems, instead of maestro_dir", "")
    audio_hz: int = option("sample rate in Hz", 16000, ge=1000, le=192000)
    midi_hz: int = option("conditioning frames per second; audio_hz must be a multiple of it", 250, ge=10, le=2000)
    test_segment_length: float = option("length of a test clip in seconds (preprocess_audio.py)", 4.0, gt=0)
    n_clips: int = option("number of test clips (preprocess_audio.py)", 8, ge=1)
    seed: int = option("seed of the clips' positions", 0, ge=0, le=MAX_SEED)

    def check(self) -> None:
        """Raise ValueError for options that contradict each other."""
        _check_rates(self.audio_hz, self.midi_hz)


@dataclass
class DataConfig:
    """The model's data: crops of audio and the conditioning computed from the note events."""

    dataset_path: str = option("processed folder to train on", "")
    validation_path: str = option("processed folder to validate on; empty: no validation", "")
    segment_length: float = option("length of a crop in seconds", 0.5, gt=0)
    audio_hz: int = option("sample rate in Hz of the processed folder", 16000, ge=1000, le=192000)
    midi_hz: int = option("conditioning frames per second; audio_hz must be a multiple of it", 250, ge=10, le=2000)
    features: list[str] = option(
        "frame-rate features of the notes: names (onset, held_velocity, onset_age, release_age, pedals) or one preset: "
        "note_state (all of them), paper_v1 (held_velocity), paper_v5 (onset); [] with excitation = false: an "
        "unconditional model without MIDI input and context stack",
        ["note_state"],
        choices=(*FEATURES, *FEATURE_PRESETS),
    )
    sustain_extends_notes: bool = option(
        "in features and excitation, a note that a sustain or sostenuto pedal holds lasts until its damper falls; "
        "false: it ends when its key is released, and only the feature pedals describes the pedals",
        True,
    )
    preemphasis: float = option(
        "coefficient a of the pre-emphasis x[t] - a x[t-1]: the model receives and predicts the pre-emphasised signal, "
        "so that the noise of the samples falls towards high frequencies as the spectrum of music does; 0: none",
        0.0,
        ge=0,
        le=0.99,
    )
    excitation: bool = option("add the note-synchronous excitation at audio rate to the conditioning", True)
    excitation_quadrature: bool = option(
        "give each channel of the excitation twice, a quarter of a period apart: a linear combination of the two has "
        "any phase",
        False,
    )
    partial_hz: list[float] = option(
        "frequencies in Hz of the 16 partials of each of the 88 keys in the excitation, key after key "
        "(measure_partials.py); or as many for each label of global_values, if all are of one column, for recordings "
        "of pianos or tunings that differ; empty: the default partials of a tuned piano",
        [],
    )
    partial_level: list[float] = option("likewise: amplitudes at the onset of a note of velocity 127", [])
    partial_decay: list[float] = option("likewise: decay rates in 1/s", [])
    partial_phase: list[float] = option("likewise: phases at the onset in radians", [])
    velocity_exponent: float = option("the excitation's amplitude is proportional to velocity to this power", 1.5, ge=0)
    damping_seconds: float = option(
        "time constant in seconds of the excitation's decay after a release (to 1/e)", 0.04, gt=0
    )
    conditioning_dropout: float = option(
        "fraction of the training crops whose MIDI is replaced by the null condition; guidance requires it",
        0.0,
        ge=0,
        le=1,
    )
    global_values: list[str] = option(
        "global conditioning: the labels COLUMN=VALUE that the model distinguishes, such as year=2008, with whole "
        "numbers of columns of filenames.csv. Training refuses recordings with other values; empty: none",
        [],
    )
    max_silence: float = option(
        "largest fraction of a crop that may be silent (20 ms below -60 dBFS); a crop with more is replaced; 1: any",
        1.0,
        ge=0,
        le=1,
    )
    n_workers: int = option("processes that read crops; 0: none", 1, ge=0, le=256)

    def check(self) -> None:
        """Raise ValueError for options that contradict each other."""
        _check_rates(self.audio_hz, self.midi_hz)
        self._check_partials()
        self._check_global_values()
        if len(set(self.features)) < len(self.features):
            raise ValueError(f"features = {self.features}: expected different names")
        if not self.features and (self.excitation or self.conditioning_dropout):
            raise ValueError(
                "features = []: expected one or more different names, or for an unconditional model also excitation = "
                "false and conditioning_dropout = 0"
            )

    def _check_partials(self) -> None:
        n = N_KEYS * N_PARTIALS
        n_sets = len(self.global_values) if len(label_columns(self.global_values)) == 1 else 1
        expected = sorted({n, n * n_sets})
        for name, (low, high) in PARTIAL_LIMITS.items():
            values = getattr(self, f"partial_{name}")
            wrong_number = len(values) not in {0, *expected} or len(values) != len(self.partial_hz)
            if wrong_number or not all(low <= value <= high for value in values):
                raise ValueError(
                    f"partial_{name}: expected 88 x 16 numbers from {low:g} to {high:g} (or as many for each of "
                    f"global_values of one column), {' or '.join(map(str, expected))} in all, and as many in the other "
                    f"three of partial_{', partial_'.join(PARTIAL_LIMITS)}, or none in any; it has {len(values)}"
                )

    def _check_global_values(self) -> None:
        if wrong := [value for value in self.global_values if not GLOBAL_VALUE.fullmatch(value)]:
            raise ValueError(f"global_values: {wrong[0]!r}: expected COLUMN=VALUE with a whole number, e.g. year=2008")
        if len(set(self.global_values)) < len(self.global_values):
            raise ValueError(f"global_values = {self.global_values}: expected different ones")
        if self.global_values and not self.features:
            raise ValueError("global_values: an unconditional model (features = []) has none; expected []")

    @property
    def conditional(self) -> bool:
        """Whether the model receives any MIDI."""
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
    n_cond_channels: int = option("channels of the context, the context stack's output", 64, ge=1)
    conditioned_layers: str = option(
        "layers whose gates receive the conditioning: all, or only the first (to measure what the others contribute)",
        "all",
        choices=("all", "first"),
    )
    output_conditioning: bool = option(
        "add the conditioning also to the skip sum, after the layers (nv-wavenet cannot do this)", False
    )
    output_bias: bool = option(
        "biases in the two output layers; with false, nv-wavenet runs a categorical model without spare channels", True
    )

    def check(self) -> None:
        """Raise ValueError for options that contradict each other."""
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
        "how much of the MIDI after a sample the context depends on, in milliseconds, at most the receptive field; 0: "
        "causal",
        248.0,
        ge=0,
    )
    upsampling: str = option(
        "from frames to samples: repeat, linear (needs one more frame of look-ahead) or transposed (learned window)",
        "linear",
        choices=("repeat", "linear", "transposed"),
    )
    n_mels: int = option(
        "bands of an auxiliary head, which predicts the log-mel spectrum of the audio from the context alone; 0: none",
        0,
        ge=0,
        le=256,
    )
    n_codes: int = option(
        "argmax autoencoder: each frame of the context becomes one of this many codes (docs/argmax_autoencoder.md); "
        "0: none",
        0,
        ge=0,
        le=4096,
    )
    code_scale: float = option(
        "length of a code's one-hot vector, from which the decoder's context is projected", 1.0, gt=0
    )

    def check(self) -> None:
        """Raise ValueError for options that contradict each other."""
        if self.n_codes == 1:
            raise ValueError("n_codes = 1: expected two or more, or 0 for a context without codes")


@dataclass
class TrainConfig:
    """train.py."""

    output_directory: str = option("run folder: checkpoints, metrics.jsonl, TensorBoard events, config")
    steps: int = option("optimiser steps", 350_000, ge=1)
    batch_size: int = option("crops per step, of all processes together", 16, ge=1)
    micro_batch_size: int = option(
        "crops that a process passes through the model at once, accumulating the gradients of its part of batch_size. "
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
        "white noise on the past samples that the decoder receives, at the start: largest level relative to the crop's "
        "RMS. It makes the decoder depend on the MIDI and on longer stretches of the past, and robust to its own "
        "errors",
        0.3,
        ge=0,
        le=10,
    )
    final_history_noise: float = option("the same at the last step; in between it falls linearly", 0.03, ge=0, le=10)
    history_mixing: float = option(
        "audio of another crop, mixed into the past samples that the decoder receives: largest level relative to the "
        "crop's RMS. The decoder learns to end sounds that are not in the MIDI instead of continuing them",
        0.0,
        ge=0,
        le=10,
    )
    final_history_mixing: float = option(
        "the same at the last step; in between it changes linearly; -1: constant", -1.0, ge=-1, le=10
    )
    history_dropout: float = option(
        "fraction of the crops whose past samples are replaced by noise, so that only the MIDI determines what is "
        "predicted",
        0.0,
        ge=0,
        le=1,
    )
    scheduled_sampling_passes: int = option(
        "scheduled sampling: forward passes before each step, which generate the samples of the model that replace "
        "some of the past samples; with more passes these are more consistent with one another. 0: off",
        0,
        ge=0,
        le=100,
    )
    scheduled_sampling: float = option(
        "probability at the last step that a past sample is the model's own (with scheduled_sampling_passes)",
        0.5,
        ge=0,
        le=1,
    )
    scheduled_sampling_start_step: int = option(
        "step at which that probability begins to grow from 0, linearly up to the last step", 0, ge=0
    )
    mel_loss_weight: float = option("weight of the auxiliary head's loss (cond_wavenet_config.n_mels)", 0.3, ge=0)
    diversity_loss_weight: float = option(
        "weight of the loss that makes the codes equally frequent (cond_wavenet_config.n_codes) in the crops that a "
        "process passes through the model at once",
        1.0,
        ge=0,
    )
    context_learning_rate: float = option(
        "learning rate of the context stack, as a factor of the learning rate", 1.0, gt=0
    )
    ema_decay: float = option(
        "decay per step of the exponential moving average of the weights, which is validated and saved; 0: none",
        0.9995,
        ge=0,
        le=1,
    )
    seed: int = option("seed of weights and crops", 0, ge=0, le=MAX_SEED)
    checkpoint_path: str = option("start from the weights of this checkpoint (a new run, step 0); empty: random", "")
    iters_per_checkpoint: int = option("steps between checkpoints", 2000, ge=1)
    keep_checkpoints: int = option("number of newest checkpoints kept; the best by validation is kept too", 3, ge=1)
    keep_every: int = option("checkpoints at multiples of this step are kept too; 0: none", 0, ge=0)
    iters_per_log: int = option("steps between log lines", 50, ge=1)
    iters_per_validation: int = option("steps between validations", 1000, ge=1)
    validation_crops: int = option("crops per validation, always the same ones", 128, ge=2)
    iters_per_sample: int = option("steps between logged audio and pictures; 0: never", 10_000, ge=0)
    device: str = option("auto, cpu, cuda or cuda:N", "auto")
    precision: str = option(
        "number format of the matrix products; weights, optimiser and likelihood are always float32. auto: bfloat16 "
        "where the processor multiplies it faster (CUDA from Ampere on; CPUs with AVX512-BF16 or AMX), else float32",
        "auto",
        choices=("auto", "float32", "bfloat16"),
    )
    compile: bool = option(
        "fuse the gates by torch.compile, if there is a compiler: faster after some seconds of compilation", True
    )
    cuda_graph: bool = option(
        "capture a forward and backward pass as a CUDA graph and replay it, on one CUDA GPU: less work for the CPU",
        True,
    )
    activation_checkpointing: bool = option(
        "compute the layers' pre-activations again in the backward pass instead of storing them: about half the "
        "memory, a little slower",
        False,
    )

    def check(self) -> None:
        """Raise ValueError for options that contradict each other."""
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
    timeout_minutes: float = option("minutes that a process waits for the others before it fails", 30.0, gt=0)


@dataclass(kw_only=True)
class SamplingConfig:
    """The options that inference.py and evaluate.py have in common."""

    model_filename: str = option("checkpoint: a run folder, a step folder or a .safetensors file")
    test_dir: str = option("folder of test clips made by preprocess_audio.py", "test")
    teacher_length: float = option(
        "length in seconds of the beginning of the recording that the model continues in mode prompted", 2.0, gt=0
    )
    temperature: float = option("1: the model's own distribution; less: less noise, less variety", 1.0, gt=0, le=10)
    guidance: float = option(
        "classifier-free guidance: 1: the model with its MIDI; 0: with the null condition; more than 1: an "
        "extrapolation away from the null condition. Values other than 1 double the work and need a model trained "
        "with conditioning_dropout",
        1.0,
        ge=0,
        le=100,
    )
    global_values: list[str] = option(
        "global labels COLUMN=VALUE that replace those of the test clips; each must be in the model's "
        "data_config.global_values",
        [],
    )
    seed: int = option("seed of the random numbers that samples are drawn with", 0, ge=0, le=MAX_SEED)
    batch_size: int = option("clips generated side by side", 8, ge=1)
    sampler: str = option(
        "engine: torch (the reference), numba (the fastest on a CPU), cuda (a CUDA graph; slower than numba for one "
        "piece); auto: numba",
        "auto",
        choices=SAMPLERS,
    )
    sampler_threads: int = option(
        "threads of sampler numba, at most the number of cores (0: as many as make it faster); torch and cuda ignore "
        "it",
        0,
        ge=0,
        le=1024,
    )
    sampler_weights: str = option(
        "number format of the weights in sampler numba; bfloat16 is up to twice as fast, but its samples are not "
        "exactly the reference's",
        "float32",
        choices=SAMPLER_WEIGHTS,
    )
    device: str = option("auto, cpu, cuda or cuda:N", "auto")


@dataclass(kw_only=True)
class InferenceConfig(SamplingConfig):
    """inference.py."""

    output_dir: str = option("output folder for wavs, pictures and the listening page", "output")
    mode: str = option(
        "teacher_forced (one parallel pass), prompted (teacher_length of the recording, then autoregressive) or free "
        "(from silence)",
        "prompted",
        choices=("teacher_forced", "prompted", "free"),
    )
    tail_seconds: float = option("seconds of audio after the last note of a MIDI file (--midi)", 2.0, ge=0)
    max_seconds: float = option("longest accepted duration of a MIDI file in seconds (--midi)", 3600.0, gt=0)
    fold_seconds: float = option(
        "in mode free, cut a piece into parts of this length in seconds, generate them side by side and cross-fade "
        "them (docs/folding.md): faster, but not exactly the output of one stream, and with memory for the whole "
        "piece; 0: one stream",
        0.0,
        ge=0,
    )
    fold_overlap_seconds: float = option(
        "length of the cross-fades between parts in seconds, at most fold_seconds", 0.1, gt=0
    )
    fold_warmup_seconds: float = option(
        "seconds that each part is generated, from silence, before it is used; at least the decoder's receptive "
        "field, so that neighbouring parts agree",
        1.0,
        ge=0,
    )

    def check(self) -> None:
        """Raise ValueError for options that contradict each other."""
        if 0 < self.fold_seconds < self.fold_overlap_seconds:
            raise ValueError(
                f"fold_seconds = {self.fold_seconds:g}: expected at least fold_overlap_seconds = "
                f"{self.fold_overlap_seconds:g}, or 0"
            )


@dataclass(kw_only=True)
class EvaluateConfig(SamplingConfig):
    """evaluate.py."""

    output_dir: str = option("output folder for scores, wavs, pictures and the listening page", "evaluation")
    mode: str = option(
        "free (from silence) or prompted (teacher_length of the recording, then autoregressive; only what follows is "
        "scored)",
        "free",
        choices=("free", "prompted"),
    )
    counterfactuals: bool = option("also change one thing of a phrase at a time: pitch, velocity, pedal", True)
    drift_dir: str = option("folder of long test clips (60 s) for the measurement of drift; empty: none", "")


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


# Former names of options that are still accepted: (block, former name) -> name.
DEPRECATED_OPTIONS = {
    ("train_config", "history_interference"): "history_mixing",
    ("train_config", "final_history_interference"): "final_history_mixing",
    ("train_config", "scheduled_sampling_patience"): "scheduled_sampling_start_step",
}
# Former values that are still accepted: (block, option, former value) -> value.
DEPRECATED_VALUES = {
    ("inference_config", "mode", "primed"): "prompted",
    ("evaluate_config", "mode", "primed"): "prompted",
}
BLOCKS: dict[str, Any] = {f.name: f.type for f in fields(Config)}
SCHEMA = Schema(BLOCKS, CONFIG_FOLDER, DEPRECATED_OPTIONS, DEPRECATED_VALUES)


def migrate_record(record: dict[str, Any]) -> dict[str, Any]:
    """Translate a record of generated results that an earlier version wrote.

    Args:
        record: What inference.py and evaluate.py write into their output folders: blocks of options, the blocks of the
            model under "model", and values.

    Returns:
        The record with today's names.
    """
    blocks = {name: value for name, value in record.items() if name in BLOCKS and isinstance(value, dict)}
    result = {**record, **SCHEMA.migrate(blocks, "")[0]}
    model = record.get("model")
    if isinstance(model, dict) and all(isinstance(block, dict) for block in model.values()):
        result["model"] = SCHEMA.migrate(model, "")[0]
    if "prime_sha256" in result:
        result["prompt_sha256"] = result.pop("prime_sha256")
    if result.get("mode") == "primed":
        result["mode"] = "prompted"
    return result


def _check_rates(audio_hz: int, midi_hz: int) -> None:
    if audio_hz % midi_hz:
        divisors = [hz for hz in range(midi_hz // 2, midi_hz * 2) if audio_hz % hz == 0]
        divisors.sort(key=lambda hz: abs(hz - midi_hz))
        hint = f"; midi_hz = {divisors[0]} would do" if divisors else ""
        raise ValueError(f"audio_hz = {audio_hz} is not a whole multiple of midi_hz = {midi_hz}{hint}")


def load_config(path: str | Path, needs: tuple[str, ...], overrides: list[str] | None = None) -> Config:
    """Read a config file, apply overrides and check everything.

    Args:
        path: The file, or its name in configs/.
        needs: Blocks that the caller uses; where the file does not have them, they are made of defaults.
        overrides: Texts `block.option=value`; a later one counts more.

    Raises:
        InputError: The file cannot be read, or an option is unknown, missing or impossible.
    """
    raw, source = SCHEMA.read(path, overrides or [])
    for name in needs:
        raw.setdefault(name, {})
    return config_from_dict(raw, source)


def config_from_dict(raw: dict[str, Any], source: str, *, quiet: bool = False) -> Config:
    """Build and check a config from plain values.

    Args:
        raw: Blocks of options, as JSON has them.
        source: Where they are from, for messages.
        quiet: Whether nothing is logged about former names of options: of a config that is stored in a checkpoint.

    Raises:
        InputError: An option is unknown, missing or impossible.
    """
    return Config(**SCHEMA.build(raw, source, quiet=quiet))


def table() -> str:
    """The page of all options, docs/configs.md."""
    preamble = (
        "A config file is one JSON object of blocks, each an object of options; `--set block.option=value` overrides "
        "an option.\nThis page is made by `python -m midi2wave.config > docs/configs.md`."
    )
    return SCHEMA.markdown("Config options", preamble)


if __name__ == "__main__":
    print(table())
