"""The Triton engine: one launch generates a block of samples of every stream (`triton_kernel.py`). For CUDA GPUs.

Each program of the kernel has 16 rows or more and a multiprocessor for itself, so that many streams should cost little
more than one (not measured). With TRITON_INTERPRET=1 in the environment, Triton's interpreter runs it on a CPU, slowly:
so tests do.

The products' operands are float32, bfloat16 or float16 (`SamplingOptions.weights`), the sums float32. The same uniforms
give the reference's samples, except where rounding decides a tie; means differ by the rounding of float32 sums only.
With 16-bit operands samples are close to its distribution, not equal.
"""

import itertools
import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from midi2wave.sampling.engines.triton_weights import (
    conditioning_layer,
    n_aux_inputs,
    pack_decoder,
    pack_rings,
    padded,
    require_fitting,
)
from midi2wave.sampling.options import DEFAULT_OPTIONS, SamplingOptions
from midi2wave.utils.cli import format_error
from midi2wave.utils.errors import InputError
from midi2wave.utils.float32_convolutions import float32_convolutions
from wavenet import Caches, Conditioning, WaveNet, prefill, rows_per_stream, sample_dtype

# Blocks are small at first, so that the first sound comes early.
FIRST_BLOCK_FRAMES = 1
MAX_BLOCK_FRAMES = 16
MIN_ROWS = 16
MAX_ROWS = 64
# Before compute capability 8.0 tensor cores have no bfloat16.
MIN_CAPABILITY = (8, 0)


@dataclass(frozen=True)
class Launch:
    """How the kernel is compiled and started; the samples do not depend on it.

    Attributes:
        n_rows: Rows of a program: 16, 32 or 64.
        n_warps: Warps of a program.
        n_stages: Layers whose weights are on their way at once; where they do not fit, it is 1.
        precision: Of float32 products: ieee, or tf32, which is faster and rounds the operands to 11 bits.
    """

    n_rows: int = MIN_ROWS
    n_warps: int = 8
    n_stages: int = 2
    precision: str = "ieee"


def is_interpreted() -> bool:
    """Whether Triton interprets kernels instead of compiling them."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def choose_launch(n_rows: int, device: torch.device) -> Launch:
    """The smallest programs with which all of them run at once, for this number of rows of all streams."""
    if device.type != "cuda":
        return Launch()
    n_multiprocessors = torch.cuda.get_device_properties(device).multi_processor_count
    rows = MIN_ROWS
    while rows < MAX_ROWS and rows * n_multiprocessors < n_rows:
        rows *= 2
    return Launch(rows)


def require_available(model: WaveNet) -> None:
    """Refuse what this engine cannot run.

    Raises:
        InputError: The model is not on a GPU that Triton compiles for, Triton is missing, or the model is too large.
    """
    device = model.decoder.input.weight.device
    if device.type != "cuda" and not is_interpreted():
        raise InputError("sampler triton needs the model on a CUDA device; set device to cuda, or choose numba")
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < MIN_CAPABILITY:
        raise InputError("sampler triton needs a GPU of compute capability 8.0 or more; choose cuda or numba")
    try:
        import triton  # noqa: F401
    except ImportError as error:
        raise InputError(
            "sampler triton needs the package triton, which PyTorch for CUDA installs on Linux; choose cuda or numba"
        ) from error
    require_fitting(model.decoder)


class _KernelConditioning:
    """Conditioning in the kernel's layout: projected for every layer at frame rate, never at audio rate."""

    def __init__(self, model: WaveNet, conditioning: Conditioning, operand: torch.dtype) -> None:
        self.model = model
        self.conditioning = conditioning
        self.operand = operand
        self.weight, self.bias = conditioning_layer(model.decoder)
        self.n_aux_inputs = n_aux_inputs(model.decoder)

    @float32_convolutions()
    def block(self, first: int, n_frames: int) -> tuple[Tensor, Tensor, Tensor]:
        """`Block.frames`, `output_frames` and `aux_inputs` of a range of frames."""
        decoder = self.model.decoder
        context, excitation = self.conditioning.block(self.model, first, n_frames)
        parts = [excitation.permute(2, 0, 1)]
        n_rows = len(context)
        if decoder.upsampling.commutes:
            frames = torch.addmm(self.bias, context.permute(2, 0, 1).flatten(0, 1).float(), self.weight)
            frames = frames.unflatten(0, (-1, n_rows))
        else:
            parts.append(decoder.prepare(context, excitation)[0])
            frames = self.bias.expand(1, n_rows, -1)
        n = padded(decoder.config.n_residual_channels)
        gates, output_frames = frames.to(self.operand).tensor_split([len(decoder.layers) * 2 * n], dim=-1)
        gates = gates.unflatten(-1, (len(decoder.layers), 2 * n)).transpose(1, 2).contiguous()
        channels = torch.cat(parts, dim=-1)
        if self.n_aux_inputs:
            channels = F.pad(channels, (0, padded(self.n_aux_inputs) - self.n_aux_inputs))
        return gates, output_frames.contiguous(), channels.to(self.operand).contiguous()


class BlockGenerator:
    """The kernel with a model's weights, and the state of its streams.

    Attributes:
        launch: How the kernel is started; after the first block, with the stages that fit the GPU.
    """

    @torch.inference_mode()
    def __init__(
        self, model: WaveNet, caches: Caches, time: int, options: SamplingOptions, launch: Launch | None = None
    ) -> None:
        """Bring weights and state into the kernel's layout.

        Args:
            model: The model.
            caches: Its caches up to `time`, of all rows.
            time: The first sample to generate.
            options: How samples are drawn; `weights` is the format of the products' operands.
            launch: How the kernel is started; None: as `choose_launch` says.
        """
        from midi2wave.sampling.engines import triton_kernel  # Triton need not be installed for other engines.

        self.kernel = triton_kernel
        self.model = model
        self.options = options
        self.time = time
        device, decoder = caches.recent.device, model.decoder
        self.rows_per_stream = rows_per_stream(options.guidance)
        self.n_streams = len(caches.recent) // self.rows_per_stream
        self.launch = launch or choose_launch(len(caches.recent), device)
        self.n_programs = -(-len(caches.recent) // self.launch.n_rows)
        operand = getattr(torch, options.weights)
        packed = pack_decoder(decoder, operand)
        self.weights = triton_kernel.Weights(*packed.tensors)
        rows = self.n_programs * self.launch.n_rows
        n_skip, n_hidden = padded(decoder.config.n_skip_channels), padded(decoder.config.n_out_channels)
        self.state = triton_kernel.State(
            pack_rings(decoder, caches, time, operand),
            torch.zeros(rows, n_skip, dtype=operand, device=device),
            torch.zeros(rows, n_hidden, dtype=packed.output.dtype, device=device),
        )
        self.recent = caches.recent[: self.n_streams].t()  # [K, D]

    def sizes(self, *, teacher_forcing: bool, keep_params: bool) -> Any:
        """The kernel's compile-time numbers."""
        import triton.language as tl

        decoder = self.model.decoder
        n_aux = n_aux_inputs(decoder)
        values = dict(
            n_rows=self.launch.n_rows,
            rows_per_stream=self.rows_per_stream,
            n_layers=len(decoder.layers),
            n_taps=decoder.taps,
            n_residual=padded(decoder.config.n_residual_channels),
            n_skip=padded(decoder.config.n_skip_channels),
            n_hidden=padded(decoder.config.n_out_channels),
            n_aux_inputs=padded(n_aux) if n_aux else 0,
            n_params=self.weights.output_bias.shape[1],
            n_mixtures=decoder.config.n_mixtures if decoder.mixture else 0,
            hop=self.model.hop,
            has_frames=decoder.upsampling.commutes,
            linear=decoder.upsampling.kind == "linear",
            is_output_conditioned=decoder.output_cond is not None,
            teacher_forcing=teacher_forcing,
            keep_params=keep_params,
            takes_mean=self.options.sampling == "mean",
            precision=self.launch.precision,
        )
        return self.kernel.Sizes(**{name: tl.constexpr(value) for name, value in values.items()})

    @torch.inference_mode()
    def blocks(
        self, conditioning: Conditioning, uniforms: Callable[[int, int], Tensor], n_frames: int
    ) -> Iterator[Tensor]:
        """Generate up to a frame; arguments as of `generate`.

        Yields:
            Blocks [B, n] as of `wavenet.generate`.
        """
        source, hop = (
            _KernelConditioning(self.model, conditioning, getattr(torch, self.options.weights)),
            self.model.hop,
        )
        first = self.time // hop
        for size in itertools.chain([FIRST_BLOCK_FRAMES, 2, 4, 8], itertools.repeat(MAX_BLOCK_FRAMES)):
            if first >= n_frames:
                return
            count = min(size, n_frames - first)
            samples, _ = self.run(source.block(first, count), uniforms(first * hop, count * hop))
            yield samples.t().to(sample_dtype(self.options.sampling))
            first += count

    def run(
        self, inputs: tuple[Tensor, Tensor, Tensor], uniforms: Tensor, teacher_samples: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Generate the next samples.

        Args:
            inputs: Their conditioning.
            uniforms: float32 [D, T, U].
            teacher_samples: [D, T], which take the place of the drawn samples as the past; None: free-running.

        Returns:
            Drawn samples, float32 [T, D], and with teacher samples the parameters, float32 [T, D, parts, P].
        """
        is_forced = teacher_samples is not None
        n_samples, device = uniforms.shape[1], self.recent.device
        own = torch.zeros(n_samples, self.n_streams, device=device)
        if teacher_samples is not None:
            own = teacher_samples.t().float()
        history = torch.cat([self.recent, own]).contiguous()
        n_parts, n_params = self.weights.output_bias.shape
        shape = (n_samples if is_forced else 1, self.n_streams)
        own_samples = torch.zeros(shape, device=device)
        params = torch.zeros(*shape, n_parts, n_params, device=device)
        block = self.kernel.Block(
            *inputs,
            uniforms.transpose(0, 1).contiguous().to(device),
            history,
            own_samples,
            params,
            float(self.options.temperature),
            float(self.options.guidance),
        )
        sizes = self.sizes(teacher_forcing=is_forced, keep_params=is_forced)
        self._start(block, sizes, n_samples)
        self.time += n_samples
        self.recent = history[-len(self.recent) :]
        return own_samples if is_forced else history[len(self.recent) :], params

    def _start(self, block: Any, sizes: Any, n_samples: int) -> None:
        """Launch the kernel.

        Raises:
            InputError: The GPU has not the memory on its chip that the model needs, or Triton finds no C compiler.
        """
        from triton.runtime.errors import OutOfResources

        launch, kernel = self.launch, cast(Any, self.kernel.generate_block)[(self.n_programs,)]
        arguments = (self.weights, self.state, block, sizes, self.time, n_samples, self.n_streams)
        try:
            # Triton launches on the current device, which need not be the model's.
            with torch.cuda.device_of(self.recent):
                kernel(*arguments, num_warps=launch.n_warps, num_stages=launch.n_stages)
        except OutOfResources as error:
            if launch.n_stages > 1:
                self.launch = replace(launch, n_stages=1)
                self._start(block, sizes, n_samples)
                return
            raise InputError(
                f"sampler triton: the model does not fit a multiprocessor of this GPU ({format_error(error)}); set "
                "sampler_weights to bfloat16, or choose sampler cuda or numba"
            ) from error
        except (RuntimeError, subprocess.CalledProcessError) as error:
            # Triton compiles the code that launches a kernel with the C compiler of the user's machine.
            if isinstance(error, RuntimeError) and "C compiler" not in str(error):
                raise
            raise InputError(
                f"sampler triton: Triton cannot compile its launcher ({format_error(error)}); install a C compiler and "
                "the headers of this Python, or choose sampler cuda or numba"
            ) from error


@torch.inference_mode()
def generate(
    model: WaveNet,
    conditioning: Conditioning,
    uniforms: Callable[[int, int], Tensor],
    n_streams: int,
    n_frames: int,
    options: SamplingOptions = DEFAULT_OPTIONS,
    *,
    prefix: Tensor | None = None,
    launch: Launch | None = None,
) -> Iterator[Tensor]:
    """`wavenet.generate` by this engine; see `engines.generate`.

    Args:
        model: The model.
        conditioning: Of the B streams; with guidance of 2B rows.
        uniforms: uniforms(first, n) -> [B, n, U].
        n_streams: B.
        n_frames: Frames to generate, the prefix included.
        options: How samples are drawn; `weights` is the format of the products' operands.
        prefix: Samples [B, P * hop] that come first.
        launch: How the kernel is started; None: as `choose_launch` says.
    """
    caches, first = prefill(model, conditioning, n_streams, n_frames, prefix, options.guidance)
    if prefix is not None:
        yield prefix
    generator = BlockGenerator(model, caches, first * model.hop, options, launch)
    yield from generator.blocks(conditioning, uniforms, n_frames)


@torch.inference_mode()
def replay(
    model: WaveNet,
    conditioning: Conditioning,
    uniforms: Callable[[int, int], Tensor],
    samples: Tensor,
    options: SamplingOptions = DEFAULT_OPTIONS,
    *,
    launch: Launch | None = None,
) -> tuple[Tensor, Tensor]:
    """Run the kernel teacher-forced over samples [B, N * hop], to compare engines sample by sample.

    Returns:
        The samples that would be drawn, [B, N * hop], and the (guided) distribution parameters [B, P, N * hop].
    """
    caches = Caches(model.decoder, rows_per_stream(options.guidance) * len(samples))
    generator = BlockGenerator(model, caches, 0, options, launch)
    source = _KernelConditioning(model, conditioning, getattr(torch, options.weights))
    n_parts = 3 if model.decoder.mixture else 1
    n_used = model.decoder.output.out_features // n_parts
    own_samples, params = [], []
    for start in range(0, samples.shape[1], MAX_BLOCK_FRAMES * model.hop):
        part = samples[:, start : start + MAX_BLOCK_FRAMES * model.hop]
        inputs = source.block(start // model.hop, part.shape[1] // model.hop)
        block_samples, block_params = generator.run(inputs, uniforms(start, part.shape[1]), part)
        own_samples.append(block_samples)
        params.append(block_params[..., :n_used].flatten(2))
    return torch.cat(own_samples).t().to(sample_dtype(options.sampling)), torch.cat(params).permute(1, 2, 0)
