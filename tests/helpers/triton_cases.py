"""Runs the Triton engine in another process, which `tests/unit/sampling/test_triton.py` starts; prints JSON.

    TRITON_INTERPRET=1 python -m tests.helpers.triton_cases interpret GROUP
    python -m tests.helpers.triton_cases compile CAPABILITY

Whether Triton interprets or compiles is decided when it is imported, and PyTorch may have imported it before a test.
"""

import json
import sys
from typing import Any

import torch

from midi2wave.config import CondWavenetConfig, SamplingMethod, WavenetConfig
from midi2wave.sampling import engines
from midi2wave.sampling.engines import triton as triton_engine
from midi2wave.sampling.options import SamplingOptions
from tests.helpers.sampler_models import (
    build,
    concatenate,
    make_sources,
    parallel_params,
    random_prefix,
    with_null,
)
from wavenet import Conditioning, WaveNet, generate

# The first block has one frame, the second one two.
N_FRAMES = 3
CATEGORICAL = {
    "kernel 2, prefix, linear": dict(prefix_frames=2),
    "kernel 3, guidance, transposed": dict(kernel_size=3, upsampling="transposed", n_excitation=0, guidance=2.0),
    "17 streams, output conditioned": dict(n_streams=17, upsampling="repeat", output_conditioning=True),
    "temperature": dict(n_streams=2, temperature=0.6, output_bias=False),
    "mean": dict(n_streams=2, temperature=0.6, sampling="mean", guidance=2.0),
}
MIXTURE = {
    "kernel 2, guidance, prefix": dict(n_streams=9, guidance=1.5, prefix_frames=2),
    "kernel 3, output conditioned": dict(kernel_size=3, upsampling="repeat", output_conditioning=True, n_excitation=0),
    "little guidance, temperature": dict(guidance=0.3, temperature=0.7, upsampling="transposed"),
    "mean": dict(n_streams=2, temperature=0.7, sampling="mean"),
}


def make_model(
    output: str, kernel_size: int = 2, upsampling: str = "linear", n_excitation: int = 3, **options: Any
) -> WaveNet:
    """A model of three layers with three samples a frame: the interpreter takes a tenth of a second for a sample."""
    sizes = {"n_residual_channels": 10, "n_skip_channels": 20, "n_out_channels": 18, "n_cond_channels": 7}
    sizes |= {"n_layers": 3, "max_dilation": 2, "n_mixtures": 3}
    config = WavenetConfig(output=output, kernel_size=kernel_size, **(sizes | options))
    context = CondWavenetConfig(
        n_layers=2, max_dilation=2, n_residual_channels=6, n_skip_channels=6, lookahead_ms=4.0, upsampling=upsampling
    )
    return build(config, context, n_excitation, audio_hz=750)


def play(
    output: str,
    n_streams: int = 1,
    prefix_frames: int = 0,
    temperature: float = 1.0,
    sampling: SamplingMethod = "random",
    guidance: float = 1.0,
    **model: Any,
) -> dict[str, Any]:
    """The reference's and the engine's samples after the prefix."""
    model = make_model(output, **model)
    conditioning, uniforms = make_sources(model, n_streams)
    if guidance != 1:
        conditioning = with_null(conditioning)
    prefix = random_prefix(model, n_streams, prefix_frames)
    arguments = (model, conditioning, uniforms, n_streams, prefix_frames + N_FRAMES)
    how = {"temperature": temperature, "sampling": sampling, "guidance": guidance}
    expected = concatenate(generate(*arguments, prefix=prefix, **how))
    options = SamplingOptions(**how, sampler="triton")
    blocks = list(engines.generate(*arguments, options, prefix=prefix))
    first = prefix_frames * model.hop
    return {
        "expected": expected[:, first:].tolist(),
        "played": concatenate(blocks)[:, first:].tolist(),
        "prefix_is_first": prefix is None or torch.equal(concatenate(blocks)[:, :first], prefix),
        "block_frames": [block.shape[1] // model.hop for block in blocks],
    }


def replay(output: str, weights: str) -> dict[str, Any]:
    """The engine's parameters along the reference's samples, beside those of the parallel pass."""
    model = make_model(output, n_excitation=2)
    conditioning, uniforms = make_sources(model, 2)
    samples = concatenate(generate(model, conditioning, uniforms, 2, N_FRAMES))
    options = SamplingOptions(sampler="triton", weights=weights)
    own_samples, params = triton_engine.replay(model, conditioning, uniforms, samples, options)
    reference = parallel_params(model, samples, conditioning)
    return {
        "error": ((params - reference).abs().max() / reference.abs().max()).item(),
        "same": (own_samples == samples).float().mean().item(),
    }


def interpret(group: str) -> dict[str, Any]:
    """The results of a group of cases by name."""
    if group == "replay":
        outputs = ("categorical", "logistic_mixture")
        return {
            f"{output} {weights}": replay(output, weights) for output in outputs for weights in ("float32", "float16")
        }
    cases = CATEGORICAL if group == "categorical" else MIXTURE
    return {name: play(group, **case) for name, case in cases.items()}


def compile_kernel(model: WaveNet, options: SamplingOptions, launch: triton_engine.Launch, n_streams: int) -> Any:
    """The kernel that the engine would launch for these streams, compiled for the driver's target."""
    from midi2wave.sampling.engines import triton_kernel

    compiled = []

    class Compiler:
        """Compiles where the engine would launch."""

        def __getitem__(self, grid: tuple[int]) -> Any:
            return lambda *arguments, **how: compiled.append(function.warmup(*arguments, grid=grid, **how))

    function, triton_kernel.generate_block = triton_kernel.generate_block, Compiler()
    n_rows = n_streams * (1 if options.guidance == 1 else 2)
    n_features, n_excitation = model.context.input.in_channels, model.decoder.layers[0].excitation.in_features
    conditioning = Conditioning(
        lambda first, n: torch.zeros(n_rows, n_features, n),
        lambda first, n: torch.zeros(n_rows, n_excitation, n * model.hop),
    )
    uniforms = torch.full((n_streams, model.hop, model.uniforms_per_sample), 0.5)
    try:
        next(
            triton_engine.generate(model, conditioning, lambda first, n: uniforms, n_streams, 1, options, launch=launch)
        )
    finally:
        triton_kernel.generate_block = function
    return compiled[0]


def compile_all(capability: int) -> dict[str, Any]:
    """What the compiler makes of the kernel for GPUs of this compute capability, of which none is needed."""
    from triton.backends.compiler import GPUTarget
    from triton.runtime import driver

    from midi2wave.config import load_config
    from wavenet import build_model

    class Driver:
        """Names the target; there is no device."""

        def get_current_target(self) -> GPUTarget:
            return GPUTarget("cuda", capability, 32)

        def get_current_device(self) -> int:
            return 0

        def get_current_stream(self, device: int) -> int:
            return 0

    driver.set_active(Driver())
    results = {}
    for name, config, weights, guidance in (
        ("reference", "config_train_nv_wavenet.json", "bfloat16", 1.0),
        ("default", "config_train.json", "float32", 3.0),
    ):
        model = build_model(load_config(config, ())).eval()
        options = SamplingOptions(sampler="triton", weights=weights, guidance=guidance)
        kernel = compile_kernel(model, options, triton_engine.Launch(), 16)
        ptx = kernel.asm["ptx"]
        results[name] = {
            "binary_bytes": len(kernel.asm["cubin"]),
            "shared_bytes": kernel.metadata.shared,
            "n_tensor_core_products": ptx.count("mma.sync"),
            # Of the kernel itself: the compiler adds many others, for its exchanges between threads.
            "n_barriers": sum("barrier" in line for line in kernel.asm["ttir"].splitlines()),
        }
    return results


if __name__ == "__main__":
    mode, argument = sys.argv[1:]
    print(json.dumps(interpret(argument) if mode == "interpret" else compile_all(int(argument))))
