"""The options of all commands: every option with its type, unit, limits, default and meaning.

    python -m midi2wave.config > docs/configs.md                    # the page of all options
    python -m midi2wave.config --schema > configs/schema.json       # the JSON schema, for editors

A config file is one JSON object of blocks (`midi2wave/utils/typed_config.py` reads it). A block is a pydantic
dataclass; the text below an option is its documentation.
"""

if __name__ == "__main__":
    from midi2wave.utils import signals

    signals.exit_on_interrupt()  # Ctrl-C during the imports below needs no traceback.

import contextlib
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, fields
from dataclasses import dataclass as plain_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass

from midi2wave.midi.keyboard import N_PITCHES
from midi2wave.utils.cli import make_plain_parser, run
from midi2wave.utils.errors import InputError
from midi2wave.utils.typed_config import BLOCK, Schema, text_as_list

Feature = Literal["onset", "held_velocity", "onset_age", "release_age", "pedals"]
FeaturePreset = Literal["note_state", "paper_v1", "paper_v5"]
FeatureName = Literal[Feature, FeaturePreset]
SamplingMethod = Literal["random", "mean"]
Sampler = Literal["auto", "torch", "numba", "cuda", "triton"]
SamplerWeights = Literal["float32", "bfloat16", "auto", "float16"]
FEATURES: tuple[Feature, ...] = get_args(Feature)
FEATURE_PRESETS: dict[str, tuple[Feature, ...]] = {
    "note_state": FEATURES,
    "paper_v1": ("held_velocity",),  # arXiv 1810.12247v1: the velocity for as long as key or pedal hold the note
    "paper_v5": ("onset",),  # arXiv 1810.12247v5: the velocity in the frame of the onset only
}
SAMPLING_METHODS: tuple[SamplingMethod, ...] = get_args(SamplingMethod)
SAMPLERS: tuple[Sampler, ...] = get_args(Sampler)
SAMPLER_WEIGHTS: tuple[SamplerWeights, ...] = get_args(SamplerWeights)
GLOBAL_VALUE = re.compile(r"[^=\s]+=(0|-?[1-9][0-9]{0,17})")  # COLUMN=VALUE
# The config that finetune.py writes beside its weights.
FINETUNED_CONFIG = "play.json"
CONFIG_FOLDER = Path(__file__).resolve().parents[1] / "configs"
MAX_SEED = 2**63 - 1  # The largest that both NumPy's and PyTorch's generators take.
VALIDATION_SEED = 2**40  # No run may have it: the validation crops are the same in every run.
# Upper limits beyond every use, for configs from elsewhere: memory and time of what they describe stay finite.
MAX_PIECE_SECONDS = 86_400
MAX_STEPS = 1_000_000_000
MAX_BATCH_SIZE = 65_536
MAX_LABELS = 4096
# Receptive fields: 65 s of samples at 16 kHz, 8.7 minutes of conditioning frames at 250 Hz.
MAX_RECEPTIVE_SAMPLES = 2**20
MAX_RECEPTIVE_FRAMES = 2**17
# Partials of each key in the excitation.
N_PARTIALS = 16
# Limits of the options of sampling.
MAX_TEMPERATURE = 10
MAX_GUIDANCE = 100
# Level of the disturbance of the past samples in dB relative to its maximum: the smallest, and that of generation.
MIN_HISTORY_LEVEL, DEFAULT_HISTORY_LEVEL = -60.0, -40.0
# Smallest and largest value of the four partial_* options.
PARTIAL_LIMITS = {"hz": (1.0, 1e6), "level": (0.0, 1e6), "decay": (0.01, 1e3), "phase": (-10.0, 10.0)}


def label_columns(labels: Sequence[str]) -> tuple[str, ...]:
    """The columns of labels COLUMN=VALUE, each once."""
    return tuple(dict.fromkeys(label.partition("=")[0] for label in labels))


@dataclass(config=BLOCK)
class PreprocessConfig:
    """preprocess_maestro.py and preprocess_audio.py."""

    maestro_dir: str = ""
    """folder with the MAESTRO metadata file and the year folders"""
    split: Literal["train", "validation", "test", "all"] = "train"
    """split to process; all: out_dir/train, out_dir/validation and out_dir/test (preprocess_audio.py: clips of any)"""
    out_dir: str = ""
    """processed folder to write (preprocess_maestro.py); with split all, the parent folder of three"""
    resampled_dir: str = ""
    """--out_dir of resample_audio.py; empty: resampled files lie beside the originals"""
    audio_dir: str = ""
    """folder of audio + MIDI pairs with equal names up to the suffix, instead of maestro_dir"""
    audio_hz: int = Field(default=16000, ge=1000, le=192000)
    """sample rate in Hz"""
    midi_hz: int = Field(default=250, ge=10, le=2000)
    """conditioning frames per second; audio_hz must be a multiple of it"""
    test_segment_length: float = Field(default=4.0, gt=0, le=MAX_PIECE_SECONDS)
    """length of a test clip in seconds (preprocess_audio.py)"""
    n_clips: int = Field(default=8, ge=1, le=100_000)
    """number of test clips (preprocess_audio.py); they do not overlap, so that short recordings may give fewer"""
    seed: int = Field(default=0, ge=0, le=MAX_SEED)
    """seed of the clips' positions"""

    @model_validator(mode="after")
    def check(self) -> Self:
        """Raise ValueError for options that contradict each other."""
        _check_rates(self.audio_hz, self.midi_hz)
        return self


@dataclass(config=BLOCK)
class DataConfig:
    """The model's data: crops of audio and the conditioning computed from the note events."""

    dataset_path: str = ""
    """processed folder to train on"""
    validation_path: str = ""
    """processed folder to validate on; empty: no validation"""
    segment_length: float = Field(default=0.5, gt=0, le=3600)
    """length of a crop in seconds"""
    audio_hz: int = Field(default=16000, ge=1000, le=192000)
    """sample rate in Hz of the processed folder"""
    midi_hz: int = Field(default=250, ge=10, le=2000)
    """conditioning frames per second; audio_hz must be a multiple of it"""
    features: Annotated[list[FeatureName], text_as_list(FeatureName)] = Field(default=["note_state"])
    """frame-rate features of the notes: names (onset, held_velocity, onset_age, release_age, pedals) or one preset:
    note_state (all of them), paper_v1 (held_velocity), paper_v5 (onset); [] with excitation = false: an
    unconditional model without MIDI input and context stack
    """
    sustain_extends_notes: bool = True
    """in features and excitation, a note that a sustain or sostenuto pedal holds lasts until its damper falls;
    false: it ends when its key is released, and only the feature pedals describes the pedals
    """
    preemphasis: float = Field(default=0.0, ge=0, le=0.99)
    """coefficient a of the pre-emphasis x[t] - a x[t-1]: the model receives and predicts the pre-emphasised signal,
    so that the noise of the samples falls towards high frequencies as the spectrum of music does; 0: none
    """
    excitation: bool = True
    """add the note-synchronous excitation at audio rate to the conditioning"""
    excitation_quadrature: bool = False
    """give each channel of the excitation twice, a quarter of a period apart: a linear combination of the two has
    any phase
    """
    partial_hz: list[float] = Field(default=[])
    """frequencies in Hz of the 16 partials of each of the 88 keys in the excitation, key after key
    (measure_partials.py); or as many for each label of global_values, if all are of one column, for recordings of
    pianos or tunings that differ; empty: the default partials of a tuned piano
    """
    partial_level: list[float] = Field(default=[])
    """likewise: amplitudes at the onset of a note of velocity 127"""
    partial_decay: list[float] = Field(default=[])
    """likewise: decay rates in 1/s"""
    partial_phase: list[float] = Field(default=[])
    """likewise: phases at the onset in radians"""
    velocity_exponent: float = Field(default=1.5, ge=0, le=10)
    """the excitation's amplitude is proportional to velocity to this power"""
    damping_seconds: float = Field(default=0.04, gt=0, le=100)
    """time constant in seconds of the excitation's decay after a release (to 1/e)"""
    conditioning_dropout: float = Field(default=0.0, ge=0, le=1)
    """fraction of the training crops whose MIDI is replaced by the null condition; guidance requires it"""
    global_values: Annotated[list[str], text_as_list(str)] = Field(default=[], max_length=MAX_LABELS)
    """global conditioning: the labels COLUMN=VALUE that the model distinguishes, such as year=2008, with whole
    numbers of columns of filenames.csv. Training refuses recordings with other values; empty: none
    """
    history_level_input: bool = False
    """condition the model on how disturbed its past samples are: in training by a level that is drawn for each crop,
    from -60 to 0 dB relative to history_noise and history_mixing of train_config; in generation by history_level of
    inference_config
    """
    max_silence: float = Field(default=1.0, ge=0, le=1)
    """largest fraction of a crop that may be silent (20 ms below -60 dBFS); a crop with more is replaced; 1: any"""
    n_workers: int = Field(default=1, ge=0, le=256)
    """processes that read crops; 0: none"""

    @model_validator(mode="after")
    def check(self) -> Self:
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
        return self

    def _check_partials(self) -> None:
        n = N_PITCHES * N_PARTIALS
        n_sets = len(self.global_values) if len(label_columns(self.global_values)) == 1 else 1
        expected = sorted({n, n * n_sets})
        for name, (low, high) in PARTIAL_LIMITS.items():
            values = getattr(self, f"partial_{name}")
            wrong_number = len(values) not in {0, *expected} or len(values) != len(self.partial_hz)
            if wrong_number or not all(low <= value <= high for value in values):
                raise ValueError(
                    f"partial_{name}: expected {N_PITCHES} x {N_PARTIALS} numbers from {low:g} to {high:g} (or as "
                    f"many for each of global_values of one column), {' or '.join(map(str, expected))} in all, and as "
                    f"many in the other three of partial_{', partial_'.join(PARTIAL_LIMITS)}, or none in any; it has "
                    f"{len(values)}"
                )

    def _check_global_values(self) -> None:
        if wrong := [value for value in self.global_values if not GLOBAL_VALUE.fullmatch(value)]:
            raise ValueError(f"global_values: {wrong[0]!r}: expected COLUMN=VALUE with a whole number, e.g. year=2008")
        if len(set(self.global_values)) < len(self.global_values):
            raise ValueError(f"global_values = {self.global_values}: expected different ones")
        if self.global_values and not self.features:
            raise ValueError("global_values: an unconditional model (features = []) has none; expected []")
        if self.history_level_input and not self.features:
            raise ValueError("history_level_input: an unconditional model (features = []) has none; expected false")

    @property
    def conditional(self) -> bool:
        """Whether the model receives any MIDI."""
        return bool(self.features)


@dataclass(config=BLOCK)
class WavenetConfig:
    """The autoregressive decoder (arXiv 1609.03499)."""

    output: Literal["logistic_mixture", "categorical"] = "logistic_mixture"
    """output distribution: logistic_mixture over 16-bit samples, or categorical over 256 mu-law codes"""
    n_mixtures: int = Field(default=10, ge=1, le=100)
    """components of the logistic mixture"""
    n_layers: int = Field(default=20, ge=1, le=200)
    """gated residual layers"""
    max_dilation: int = Field(default=512, ge=1, le=65536)
    """dilations double from 1 up to this, then start again at 1"""
    kernel_size: Literal[2, 3] = 2
    """taps of the dilated convolutions and of the input layer"""
    n_residual_channels: int = Field(default=64, ge=1, le=4096)
    """channels of the residual path"""
    n_skip_channels: int = Field(default=256, ge=1, le=4096)
    """channels of the skip sum"""
    n_out_channels: int = Field(default=256, ge=1, le=4096)
    """channels between the two output layers"""
    n_cond_channels: int = Field(default=64, ge=1, le=4096)
    """channels of the context, the context stack's output"""
    conditioned_layers: Literal["all", "first"] = "all"
    """layers whose gates receive the conditioning: all, or only the first (to measure what the others contribute)"""
    output_conditioning: bool = False
    """add the conditioning also to the skip sum, after the layers (nv-wavenet cannot do this)"""
    output_bias: bool = True
    """biases in the two output layers; with false, nv-wavenet runs a categorical model without spare channels"""

    @model_validator(mode="after")
    def check(self) -> Self:
        """Raise ValueError for options that contradict each other."""
        if self.output == "logistic_mixture" and not self.output_bias:
            raise ValueError("output_bias = false: expected true with a logistic mixture, whose means start at a bias")
        _check_receptive_field(self, MAX_RECEPTIVE_SAMPLES, "samples")
        return self


@dataclass(config=BLOCK)
class CondWavenetConfig:
    """The context stack: dilated gated convolutions over conditioning frames (arXiv 1810.12247, section 4)."""

    n_layers: int = Field(default=12, ge=1, le=200)
    """gated residual layers; the paper's 2 x 6"""
    max_dilation: int = Field(default=32, ge=1, le=65536)
    """dilations double from 1 up to this, then start again at 1"""
    kernel_size: int = Field(default=2, ge=2, le=15)
    """taps of the dilated convolutions"""
    n_residual_channels: int = Field(default=64, ge=1, le=4096)
    """channels of the residual path"""
    n_skip_channels: int = Field(default=128, ge=1, le=4096)
    """channels of the skip sum"""
    lookahead_ms: float = Field(default=248.0, ge=0, le=600_000)
    """how much of the MIDI after a sample the context depends on, in milliseconds, at most the receptive field; 0:
    causal
    """
    upsampling: Literal["repeat", "linear", "transposed"] = "linear"
    """from frames to samples: repeat, linear (needs one more frame of look-ahead) or transposed (learned window)"""
    n_mels: int = Field(default=0, ge=0, le=256)
    """bands of an auxiliary head, which predicts the log-mel spectrum of the audio from the context alone; 0: none"""
    n_codes: int = Field(default=0, ge=0, le=4096)
    """argmax autoencoder: each frame of the context becomes one of this many codes (docs/argmax_autoencoder.md); 0:
    none
    """
    code_scale: float = Field(default=1.0, gt=0, le=1000)
    """length of a code's one-hot vector, from which the decoder's context is projected"""

    @model_validator(mode="after")
    def check(self) -> Self:
        """Raise ValueError for options that contradict each other."""
        if self.n_codes == 1:
            raise ValueError("n_codes = 1: expected two or more, or 0 for a context without codes")
        _check_receptive_field(self, MAX_RECEPTIVE_FRAMES, "frames")
        return self


@dataclass(config=BLOCK)
class TrainConfig:
    """train.py."""

    output_directory: str
    """run folder: checkpoints, metrics.jsonl, TensorBoard events, config"""
    steps: int = Field(default=350_000, ge=1, le=MAX_STEPS)
    """optimiser steps"""
    batch_size: int = Field(default=16, ge=1, le=MAX_BATCH_SIZE)
    """crops per step, of all processes together"""
    micro_batch_size: int = Field(default=0, ge=0, le=MAX_BATCH_SIZE)
    """crops that a process passes through the model at once, accumulating the gradients of its part of batch_size.
    0: all of them on CUDA, as many as fit the caches on a CPU
    """
    learning_rate: float = Field(default=5e-4, gt=0, le=10)
    """peak learning rate of AdamW"""
    final_learning_rate: float = Field(default=1e-5, ge=0, le=10)
    """learning rate at the last step, reached by a cosine"""
    warmup_steps: int = Field(default=1000, ge=0, le=MAX_STEPS)
    """steps of linear warm-up"""
    weight_decay: float = Field(default=0.01, ge=0, le=100)
    """decoupled weight decay of the matrices"""
    gradient_clip: float = Field(default=1.0, gt=0, le=1e12)
    """largest norm of the gradient"""
    history_noise: float = Field(default=0.3, ge=0, le=10)
    """white noise on the past samples that the decoder receives, at the start: largest level relative to the crop's
    RMS. It makes the decoder depend on the MIDI and on longer stretches of the past, and robust to its own errors
    """
    final_history_noise: float = Field(default=0.03, ge=0, le=10)
    """the same at the last step; in between it falls linearly"""
    history_mixing: float = Field(default=0.0, ge=0, le=10)
    """audio of another crop, mixed into the past samples that the decoder receives: largest level relative to the
    crop's RMS. The decoder learns to end sounds that are not in the MIDI instead of continuing them
    """
    final_history_mixing: float = Field(default=-1.0, ge=-1, le=10)
    """the same at the last step; in between it changes linearly; -1: constant"""
    history_dropout: float = Field(default=0.0, ge=0, le=1)
    """fraction of the crops whose past samples are replaced by noise, so that only the MIDI determines what is
    predicted
    """
    scheduled_sampling_passes: int = Field(default=0, ge=0, le=100)
    """scheduled sampling: forward passes before each step, which generate the samples of the model that replace
    some of the past samples; with more passes these are more consistent with one another. 0: off
    """
    scheduled_sampling: float = Field(default=0.5, ge=0, le=1)
    """probability at the last step that a past sample is the model's own (with scheduled_sampling_passes)"""
    scheduled_sampling_start_step: int = Field(default=0, ge=0, le=MAX_STEPS)
    """step at which that probability begins to grow from 0, linearly up to the last step"""
    mel_loss_weight: float = Field(default=0.3, ge=0, le=1e6)
    """weight of the auxiliary head's loss (cond_wavenet_config.n_mels)"""
    diversity_loss_weight: float = Field(default=1.0, ge=0, le=1e6)
    """weight of the loss that makes the codes equally frequent (cond_wavenet_config.n_codes) in the crops that a
    process passes through the model at once
    """
    context_learning_rate: float = Field(default=1.0, gt=0, le=1000)
    """learning rate of the context stack, as a factor of the learning rate"""
    ema_decay: float = Field(default=0.9995, ge=0, le=1)
    """decay per step of the exponential moving average of the weights, which is validated and saved; 0: none"""
    seed: int = Field(default=0, ge=0, le=MAX_SEED)
    """seed of weights and crops"""
    checkpoint_path: str = ""
    """start from the weights of this checkpoint (a new run, step 0); empty: random"""
    teacher_filename: str = ""
    """guidance distillation: the checkpoint of a teacher, whose guided distribution the model learns to predict in one
    pass; it has the same data_config and architecture. Empty: the model learns from the recordings
    """
    teacher_guidance: float = Field(default=3.0, ge=0, le=MAX_GUIDANCE)
    """scale of the teacher's guidance"""
    iters_per_checkpoint: int = Field(default=2000, ge=1, le=MAX_STEPS)
    """steps between checkpoints"""
    keep_checkpoints: int = Field(default=3, ge=1, le=MAX_STEPS)
    """number of newest checkpoints kept; the best by validation is kept too"""
    keep_every: int = Field(default=0, ge=0, le=MAX_STEPS)
    """checkpoints at multiples of this step are kept too; 0: none"""
    iters_per_log: int = Field(default=50, ge=1, le=MAX_STEPS)
    """steps between log lines"""
    iters_per_validation: int = Field(default=1000, ge=1, le=MAX_STEPS)
    """steps between validations"""
    validation_crops: int = Field(default=128, ge=2, le=1_000_000)
    """crops per validation, always the same ones, without overlap; fewer where there is no room"""
    iters_per_sample: int = Field(default=10_000, ge=0, le=MAX_STEPS)
    """steps between logged audio and pictures; 0: never"""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N"""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """number format of the matrix products; weights, optimiser and likelihood are always float32. auto: bfloat16
    where the processor multiplies it faster (CUDA from Ampere on; CPUs with AVX512-BF16 or AMX), else float32
    """
    compile: bool = True
    """fuse the gates by torch.compile, if there is a compiler: faster after some seconds of compilation"""
    cuda_graph: bool = True
    """capture a forward and backward pass as a CUDA graph and replay it, on one CUDA GPU: less work for the CPU"""
    activation_checkpointing: bool = False
    """compute the layers' pre-activations again in the backward pass instead of storing them: about half the
    memory, a little slower
    """

    @model_validator(mode="after")
    def check(self) -> Self:
        """Raise ValueError for options that contradict each other."""
        if -1 < self.final_history_mixing < 0:
            raise ValueError(f"final_history_mixing = {self.final_history_mixing:g}: expected -1, or 0 and more")
        if self.warmup_steps >= self.steps:
            raise ValueError(f"warmup_steps = {self.warmup_steps}: expected less than steps = {self.steps}")
        if self.seed == VALIDATION_SEED:
            raise ValueError(f"seed = {self.seed}: expected another one, since this is that of the validation crops")
        if self.ema_decay >= 1:
            raise ValueError(f"ema_decay = {self.ema_decay}: expected less than 1")
        if self.scheduled_sampling_passes and self.scheduled_sampling_start_step >= self.steps:
            raise ValueError(
                f"scheduled_sampling_start_step = {self.scheduled_sampling_start_step}: expected less than steps = "
                f"{self.steps}"
            )
        return self


@dataclass(config=BLOCK)
class DistConfig:
    """Training by several processes, started by torchrun."""

    backend: Literal["auto", "gloo", "nccl"] = "auto"
    """auto (nccl on CUDA, gloo on CPUs), gloo or nccl"""
    timeout_minutes: float = Field(default=30.0, gt=0, le=100_000)
    """minutes that a process waits for the others before it fails"""


@dataclass(kw_only=True, config=BLOCK)
class SamplingConfig:
    """The options that inference.py and evaluate.py have in common."""

    model_filename: str
    """checkpoint: a run folder, a step folder or a .safetensors file; one beside the config file comes first"""
    test_dir: str = "test"
    """folder of test clips made by preprocess_audio.py"""
    teacher_length: float = Field(default=2.0, gt=0, le=MAX_PIECE_SECONDS)
    """length in seconds of the beginning of the recording that the model continues in mode prompted"""
    temperature: float = Field(default=1.0, gt=0, le=MAX_TEMPERATURE)
    """1: the model's own distribution; less: less noise, less variety"""
    sampling: SamplingMethod = "random"
    """random: a sample is drawn from the predicted distribution; mean: it is the mean of that distribution, which has
    much less noise and does not depend on the seed
    """
    guidance: float = Field(default=1.0, ge=0, le=MAX_GUIDANCE)
    """classifier-free guidance: 1: the model with its MIDI; 0: with the null condition; more than 1: an
    extrapolation away from the null condition. Values other than 1 double the work and need a model trained with
    conditioning_dropout
    """
    global_values: Annotated[list[str], text_as_list(str)] = Field(default=[], max_length=MAX_LABELS)
    """global labels COLUMN=VALUE that replace those of the test clips; each must be in the model's
    data_config.global_values
    """
    history_level: float = Field(default=DEFAULT_HISTORY_LEVEL, ge=MIN_HISTORY_LEVEL, le=0)
    """how disturbed the model takes its own past samples to be, in dB relative to the most of its training. Lower: less
    noise; higher: fewer wrong and missing notes. Models without data_config.history_level_input ignore it
    """
    seed: int = Field(default=0, ge=0, le=MAX_SEED)
    """seed of the random numbers that samples are drawn with; the mean (sampling) has none"""
    batch_size: int = Field(default=8, ge=1, le=MAX_BATCH_SIZE)
    """clips generated side by side"""
    sampler: Sampler = "auto"
    """engine: torch (the reference), numba (the fastest on a CPU), cuda (a CUDA graph; slower than numba for one
    piece), triton (one kernel for many pieces on a GPU, not yet run on one); auto: numba
    """
    sampler_threads: int = Field(default=0, ge=0, le=1024)
    """threads of sampler numba, at most the number of cores (0: as many as make it faster); others ignore it"""
    sampler_weights: SamplerWeights = "float32"
    """number format of the weights in samplers numba and triton; bfloat16 is up to twice as fast in numba, but its
    samples are not exactly the reference's; float16: triton only; auto: bfloat16 where it is faster on this machine,
    else float32
    """
    device: str = "auto"
    """auto, cpu, cuda or cuda:N"""


@dataclass(kw_only=True, config=BLOCK)
class InferenceConfig(SamplingConfig):
    """inference.py."""

    fast_model_filename: str = ""
    """a smaller model that inference.py plays where model_filename would not play in real time on this machine (empty:
    none; see --quality)
    """
    output_dir: str = "output"
    """output folder for wavs, pictures and the listening page"""
    mode: Literal["teacher_forced", "prompted", "free"] = "prompted"
    """teacher_forced (one parallel pass), prompted (teacher_length of the recording, then autoregressive) or free
    (from silence)
    """
    tail_seconds: float = Field(default=2.0, ge=0, le=MAX_PIECE_SECONDS)
    """seconds of audio after the last note of a MIDI file (--midi)"""
    max_seconds: float = Field(default=3600.0, gt=0, le=MAX_PIECE_SECONDS)
    """longest accepted duration of a MIDI file in seconds (--midi)"""
    fold_seconds: float = Field(default=0.0, ge=0, le=MAX_PIECE_SECONDS)
    """in mode free, cut a piece into parts of this length in seconds, generate them side by side and cross-fade
    them (docs/folding.md): faster, but not exactly the output of one stream, and with memory for the whole piece;
    0: one stream
    """
    fold_overlap_seconds: float = Field(default=0.1, gt=0, le=3600)
    """length of the cross-fades between parts in seconds, at most fold_seconds"""
    fold_warmup_seconds: float = Field(default=1.0, ge=0, le=3600)
    """seconds that each part is generated, from silence, before it is used; at least the decoder's receptive field,
    so that neighbouring parts agree
    """

    @model_validator(mode="after")
    def check(self) -> Self:
        """Raise ValueError for options that contradict each other."""
        if 0 < self.fold_seconds < self.fold_overlap_seconds:
            raise ValueError(
                f"fold_seconds = {self.fold_seconds:g}: expected at least fold_overlap_seconds = "
                f"{self.fold_overlap_seconds:g}, or 0"
            )
        return self


@dataclass(kw_only=True, config=BLOCK)
class EvaluateConfig(SamplingConfig):
    """evaluate.py."""

    output_dir: str = "evaluation"
    """output folder for scores, wavs, pictures and the listening page"""
    mode: Literal["free", "prompted"] = "free"
    """free (from silence) or prompted (teacher_length of the recording, then autoregressive; only what follows is
    scored)
    """
    counterfactuals: bool = True
    """also change one thing of a phrase at a time: pitch, velocity, pedal"""
    drift_dir: str = ""
    """folder of long test clips (60 s) for the measurement of drift; empty: none"""
    second_transcriber: bool = True
    """also score with Transkun, if it is installed: some seconds of a CPU core for each clip and each recording"""


_ABSENT: Any = None  # A block that the config file does not have.


@plain_dataclass
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

# Options of sampling that records of earlier versions do not have, with the value that has the effect of that version.
NEW_SAMPLING_OPTIONS = {"history_level": DEFAULT_HISTORY_LEVEL, "sampling": "random"}


def migrate_record(record: dict[str, Any]) -> dict[str, Any]:
    """Translate a record of generated results that an earlier version wrote.

    Args:
        record: What inference.py and evaluate.py write into their output folders: blocks of options, the blocks of the
            model under "model", and values.

    Returns:
        The record with today's names, and with the defaults of options that are new since then.
    """
    blocks = {name: value for name, value in record.items() if name in BLOCKS and isinstance(value, dict)}
    result = {**record, **SCHEMA.migrate(blocks, "")[0]}
    for name in ("inference_config", "evaluate_config"):
        if isinstance(result.get(name), dict):
            result[name] = NEW_SAMPLING_OPTIONS | result[name]
    model = record.get("model")
    if isinstance(model, dict) and all(isinstance(block, dict) for block in model.values()):
        with contextlib.suppress(InputError):  # What is no config of a model cannot be equal to one.
            result["model"] = config_from_dict(model, "", quiet=True).as_dict()
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


def _check_receptive_field(stack: WavenetConfig | CondWavenetConfig, limit: int, unit: str) -> None:
    n_doublings = stack.max_dilation.bit_length()  # Dilations 1, 2, 4, ... up to max_dilation, then again.
    reach = sum(2 ** (i % n_doublings) for i in range(stack.n_layers)) * (stack.kernel_size - 1)
    if reach >= limit:
        raise ValueError(
            f"n_layers = {stack.n_layers}, max_dilation = {stack.max_dilation} and kernel_size = {stack.kernel_size} "
            f"have a receptive field of {reach + 1} {unit}, expected at most {limit}"
        )


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
    _find_beside(raw, source, overrides or [])
    for name in needs:
        raw.setdefault(name, {})
    return Config(**SCHEMA.build(raw, source, overrides=overrides or []))


def _find_beside(raw: dict[str, Any], source: str, overrides: list[str]) -> None:
    """Let a config name weights that lie in its own folder, which can then be moved, whatever the working folder is."""
    for block_name, block in raw.items():
        for option in ("model_filename", "fast_model_filename"):
            weights = block.get(option)
            is_overridden = any(text.startswith(f"{block_name}.{option}=") for text in overrides)
            if isinstance(weights, str) and weights and not is_overridden:
                beside = Path(source).parent / weights
                if beside.exists():
                    block[option] = str(beside)


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


def json_schema() -> str:
    """The JSON schema of config files, configs/schema.json."""
    return json.dumps(SCHEMA.json_schema("midi2wave config"), indent=1)


def main() -> int:
    """Print the page of all options, or the JSON schema; returns the exit code."""
    parser = make_plain_parser("Print the page of all options, or the JSON schema of config files.")
    parser.add_argument("--schema", action="store_true", help="print the JSON schema instead of the page")
    print(json_schema() if parser.parse_args().schema else table())
    return 0


if __name__ == "__main__":
    run(main)
