"""What a config's model costs, before anything is trained: `python wavenet.py` prints it.

    python wavenet.py -c config_train.json
    python wavenet.py -c config_train_paper.json --measure      # also how fast it is here

Counted, not measured: multiply-adds are those of the matrix products that drawing a sample takes (guidance takes them
twice; additions, nonlinearities and a look-up of a mu-law code count nothing); the activations of training are what
`hardware.training_bytes` counts besides weights and optimiser: layers' inputs, sums and outputs kept for the backward
pass, the outputs' gradient there, and the steps of the likelihood; a sampler's caches are the ring buffers of
`wavenet.Caches`. --measure takes a few training steps on noise (`train.py`'s step, before scheduled sampling
begins) and plays some notes with every engine that this machine has, each with random weights.
"""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import Tensor, nn

import wavenet
from midi2wave.conditioning.excitation import n_excitation
from midi2wave.conditioning.features import n_features
from midi2wave.config import Config, DataConfig, load_config
from midi2wave.midi.performance import Performance
from midi2wave.modules.residual_stack import GateKernels, compile_gate_kernels
from midi2wave.sampling import engines
from midi2wave.sampling.options import SamplingOptions
from midi2wave.sampling.synthesis import conditioning
from midi2wave.sampling.uniforms import seeded_uniforms
from midi2wave.training.data_loader import crop_samples
from midi2wave.training.hardware import choose_precision, keep_freed_memory, synchronize, training_bytes
from midi2wave.training.run_state import make_unsaved_run
from midi2wave.training.step import train_step
from midi2wave.utils.cli import choose_device, log, make_parser, run
from wavenet import Caches, WaveNet, build_model

NEEDS = ("train_config", "data_config", "wavenet_config", "cond_wavenet_config")
MIB = 2**20
REPEATS = 3  # the best counts: whatever else runs here only makes it slower
SAMPLING_SECONDS, TRAINING_SECONDS = 1.0, 1.0  # of measuring per repetition
NOTES_SECONDS = 600  # longer than any engine plays in that time


@dataclass(frozen=True)
class Cost:
    """What a model costs; memory in bytes."""

    decoder_parameters: int
    context_parameters: int
    mel_head_parameters: int  # used in training only
    receptive_field_ms: float  # of the decoder over past samples
    context_field_ms: float  # of the MIDI that bears on a sample, before and after it
    lookahead_ms: float  # how much of that lies in its future
    multiply_adds_per_sample: float
    conditioning_multiply_adds: float  # those of them that are made once a frame, for all its samples
    activation_bytes: int  # that a second of audio takes in training, with float32 products
    activation_bytes_bfloat16: int
    cache_bytes: int  # of one stream

    @property
    def parameters(self) -> int:
        """All that are trained."""
        return self.decoder_parameters + self.context_parameters + self.mel_head_parameters

    def as_dict(self) -> dict[str, float]:
        """All figures, as --json gives them."""
        return {"parameters": self.parameters, **asdict(self)}


def main(argv: list[str] | None = None) -> int:
    """Print the cost of one config; returns the exit code."""
    arguments = make_parser(__doc__, config="config_train.json")
    arguments.add_argument("--measure", action="store_true", help="measure speeds on this machine too: a minute or so")
    args = arguments.parse_args(argv)
    config = load_config(args.config, NEEDS, args.overrides)
    cost = count(config)
    speeds = measure(config) if args.measure else {}
    if args.as_json:
        print(json.dumps({"config": args.config, **cost.as_dict(), **speeds}))
    else:
        print("\n".join(words(cost, speeds)))
    return 0


def count(config: Config) -> Cost:
    """The cost of a config's model. Raises InputError for parts that do not fit together."""
    with torch.device("meta"):  # nothing is computed, and of the largest model nothing stored
        model = build_model(config)
        cache_bytes = sum(ring.nbytes for ring in Caches(model.decoder, 1).layers)
    data, (left, right) = config.data_config, model.context_frames
    at_audio_rate, at_frame_rate = multiply_adds(model)
    recompute = config.train_config.activation_checkpointing

    def activations(precision: torch.dtype) -> int:
        whole, weights = (training_bytes(model, n, precision, recompute=recompute) for n in (data.audio_hz, 0))
        return whole - weights

    return Cost(
        decoder_parameters=sum(p.numel() for p in model.decoder.parameters()),
        context_parameters=sum(p.numel() for p in model.context.parameters()),
        mel_head_parameters=sum(p.numel() for p in model.mel_head.parameters()) if model.mel_head else 0,
        receptive_field_ms=1000 * model.decoder.receptive_field / data.audio_hz,
        context_field_ms=1000 * (left + 1 + right) / data.midi_hz if data.conditional else 0.0,
        lookahead_ms=1000 * right / data.midi_hz,
        multiply_adds_per_sample=at_audio_rate + at_frame_rate / model.hop,
        conditioning_multiply_adds=at_frame_rate / model.hop,
        activation_bytes=activations(torch.float32),
        activation_bytes_bfloat16=activations(torch.bfloat16),
        cache_bytes=cache_bytes,
    )


def multiply_adds(model: WaveNet) -> tuple[int, int]:
    """Multiply-adds of the matrix products of one sample, and of those that are made once a frame."""
    decoder, audio_rate, frame_rate = model.decoder, 0, 0
    once_a_frame = {id(module) for part in (model.context, decoder.upsampling) for module in part.modules()}
    if decoder.upsampling.commutes:
        projections = [layer.cond for layer in decoder.layers] + [decoder.output_cond]
        once_a_frame |= {id(module) for module in projections}
    for module in model.modules():
        looked_up = module is decoder.input and not decoder.mixture
        if isinstance(module, (nn.Linear, nn.Conv1d, nn.ConvTranspose1d)) and module is not model.mel_head:
            if id(module) in once_a_frame:
                frame_rate += module.weight.numel()
            elif not looked_up:
                audio_rate += module.weight.numel()
    return audio_rate, frame_rate


def words(cost: Cost, speeds: dict[str, float]) -> list[str]:
    """The cost as lines to read."""
    sampling = cost.multiply_adds_per_sample
    lines = [
        f"parameters           {cost.parameters:,}: decoder {cost.decoder_parameters:,}, context stack "
        f"{cost.context_parameters:,}, auxiliary head {cost.mel_head_parameters:,}",
        f"receptive field      {cost.receptive_field_ms:.0f} ms of samples, {cost.context_field_ms:.0f} ms of MIDI",
        f"look-ahead           {cost.lookahead_ms:.0f} ms",
        f"multiply-adds        {sampling:,.0f} a sample, {cost.conditioning_multiply_adds:,.0f} of them conditioning",
        f"training memory      {cost.activation_bytes / MIB:,.0f} MiB of activations a second of audio "
        f"({cost.activation_bytes_bfloat16 / MIB:,.0f} MiB in bfloat16)",
        f"sampler's caches     {cost.cache_bytes / MIB:.2f} MiB a stream",
    ]
    return lines + [f"{name.replace('_', ' '):20} {speed:,.0f} samples/s here" for name, speed in speeds.items()]


def measure(config: Config) -> dict[str, float]:
    """Samples per second of training, and of one stream by every engine that runs here."""
    device = choose_device(config.train_config.device)
    speeds = {"training": training_speed(config, device)}
    for engine in ("torch", "numba", *(["cuda"] if device.type == "cuda" else [])):
        speeds[f"sampling_{engine}"] = sampling_speed(
            config, device if engine == "cuda" else torch.device("cpu"), engine
        )
    return speeds


def training_speed(config: Config, device: torch.device) -> float:
    """Samples per second of training: steps of one pass each, as many crops as train.py would pass at once."""
    settings, data = config.train_config, config.data_config
    keep_freed_memory()
    state = make_unsaved_run(config, device, choose_precision(settings.precision, device))
    recompute = settings.activation_checkpointing
    compiled = compile_gate_kernels(device, recompute=recompute) if settings.compile else None
    state.model.decoder.gates = compiled or GateKernels(recompute=recompute)
    n_crops, n_samples = state.micro_batch_size, crop_samples(data)
    format_name = str(state.precision).removeprefix("torch.")
    log(f"training: {n_crops} crops of {data.segment_length:g} s in {format_name} on {device}, "
         f"gates {'compiled' if compiled else 'not compiled'}, {torch.get_num_threads()} threads")  # fmt: skip
    batch = noise_crops(state.model, data, n_crops, n_samples)

    def step() -> int:
        train_step(state, [batch])
        synchronize(device)
        return n_crops * n_samples

    step()
    return rate(step, TRAINING_SECONDS)


def noise_crops(model: WaveNet, data: DataConfig, n_crops: int, n_samples: int) -> dict[str, Tensor]:
    """Crops of noise, as `dataset.Crops` gives them: how long a step takes does not depend on what they hold.

    They lie where the model is: for a loader's batches, in pinned memory, the host does not wait either.
    """
    generator, (low, high) = torch.Generator().manual_seed(0), (-3000, 3000) if model.decoder.mixture else (0, 256)
    history = torch.randint(low, high, (n_crops, model.decoder.taps + n_samples), generator=generator)
    frames = sum(model.context_frames) + n_samples // model.hop
    n_rows = n_features(data.features) + len(data.global_values)
    batch = {
        "history": history,
        "samples": history[:, model.decoder.taps :].clone(),
        "features": torch.rand(n_crops, n_rows, frames, generator=generator),
        "excitation": torch.randn(n_crops, n_excitation(data), n_samples, generator=generator),
    }
    return {name: value.to(model.decoder.input.weight.device) for name, value in batch.items()}


def sampling_speed(config: Config, device: torch.device, engine: str) -> float:
    """Samples per second of one stream, conditioning included."""
    torch.manual_seed(0)
    model, data = build_model(config).to(device).eval(), config.data_config
    rng = np.random.default_rng(0)
    onset = np.sort(rng.uniform(0, NOTES_SECONDS, 10 * NOTES_SECONDS))  # ten notes a second all over the keyboard
    pitch, velocity = rng.integers(21, 109, len(onset)), rng.integers(30, 110, len(onset))
    given = conditioning([Performance(onset, onset + 0.4, pitch, velocity, {})], data, device)
    uniforms = seeded_uniforms(0, [0], model.uniforms_per_sample, device)
    arguments = (model, given, uniforms, 1, NOTES_SECONDS * data.midi_hz)
    if engine == "torch":  # its usual blocks take seconds
        blocks = wavenet.generate(*arguments, block_frames=2)
    else:
        blocks = engines.generate(*arguments, options=SamplingOptions(sampler=engine))
    next(blocks)  # compiles
    try:
        return rate(lambda: next(blocks).numel(), SAMPLING_SECONDS)
    finally:
        blocks.close()


def rate(step: Callable[[], int], seconds: float) -> float:
    """How many samples a second a step makes, which returns how many it made: the best of some stretches."""
    best = 0.0
    for _ in range(REPEATS):
        began, done = time.perf_counter(), 0
        while (elapsed := time.perf_counter() - began) < seconds or not done:
            done += step()
        best = max(best, done / elapsed)
    return best


if __name__ == "__main__":
    run(main)
