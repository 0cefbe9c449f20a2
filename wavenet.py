"""The model: a context stack over MIDI frames, an autoregressive decoder over samples, and the cached sampler.

    features [B, F, frames] -> ContextStack -> [B, C, frames] -> Upsampling -> every layer of the Decoder
    samples < t, conditioning up to the look-ahead -> Decoder -> parameters of sample t's distribution [B, P, T]

WaveNet: arXiv 1609.03499. Conditioning on MIDI through a context stack: arXiv 1810.12247, section 4. Discretized
mixture of logistics: `logistic_mixture.py`. Cached sampling: arXiv 1611.09482. Inside the decoder tensors are
time-first, [T, B, R]: a dilated tap is then a view and every layer a plain matrix product.

    python wavenet.py -c config_train.json      # parameters, receptive field, multiply-adds and memory of a config
"""

import runpy

if __name__ == "__main__":
    from midi2wave.utils import signals

    signals.exit_on_interrupt()  # Ctrl-C during imports needs no traceback.
    # The cost of a config's model. That command imports this module once more, by its name, and only if it needs it.
    runpy.run_module("benchmarks.model_speed", run_name="__main__")

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import logistic_mixture
from midi2wave.conditioning.excitation import n_excitation
from midi2wave.conditioning.features import n_features
from midi2wave.conditioning.global_conditioning import n_global_features
from midi2wave.config import CondWavenetConfig, Config, SamplingMethod, WavenetConfig
from midi2wave.modules.argmax_bottleneck import INPUT_WEIGHT_GAIN, ArgmaxBottleneck, codes_of, init_codebook
from midi2wave.modules.residual_layer import (
    EmptyLinear,
    ResidualLayer,
    dilations,
    frame_rate_conditioning,
    join_inputs,
    unbiased_linear,
)
from midi2wave.modules.residual_stack import GateKernels, LayerWeights, residual_stack, run_layers, upsampled
from midi2wave.modules.sample_embedding import N_CODES, SampleEmbedding
from midi2wave.modules.upsampling import Upsampling
from midi2wave.utils.errors import InputError
from midi2wave.utils.float32_convolutions import float32_convolutions

INITIAL_LOG_AMPLITUDE = -5.0  # of the auxiliary head: natural logarithm of a band's usual amplitude
INITIAL_LOG_SCALE = -4.0  # of a mixture's components
MEAN_UNIT = 0.05  # amplitude by which a mixture's mean moves for an output of 1


class ContextStack(nn.Module):
    """Dilated gated convolutions over conditioning frames, without padding (arXiv 1810.12247, section 4).

    It takes `left` frames before and `right` frames after the ones it returns, computed from the note events like any
    others, so that a crop gives exactly the same context as the whole piece. The look-ahead only determines how the
    receptive field lies around a frame.

    Global conditioning (WaveNet, section 2.5): the last G rows of the features are the global features, constant over
    time. Their linear embedding is added to the context, and so enters every layer of the decoder. They are also inputs
    of the stack, since the decay of a spectrum depends on note and recording jointly, which no sum can model.

    Args:
        config: Config of the stack.
        n_features: Rows of the notes' features, F.
        n_out: Channels of the context, C.
        lookahead_frames: Frames after a frame that its context depends on.
        n_global: Rows of the global features, G.

    Raises:
        ValueError: The receptive field is shorter than the look-ahead.
    """

    dilated: Sequence[nn.Conv1d]
    mix: Sequence[nn.Conv1d]
    global_embedding: nn.Conv1d | None
    bottleneck: ArgmaxBottleneck | None

    def __init__(
        self, config: CondWavenetConfig, n_features: int, n_out: int, lookahead_frames: int, n_global: int = 0
    ) -> None:
        super().__init__()
        residual, skip = config.n_residual_channels, config.n_skip_channels
        self.input = nn.Conv1d(n_features + n_global, residual, 1)
        dilated, mix = nn.ModuleList(), nn.ModuleList()
        for dilation in dilations(config.n_layers, config.max_dilation):
            dilated.append(nn.Conv1d(residual, 2 * residual, config.kernel_size, dilation=dilation))
            mix.append(nn.Conv1d(residual, residual + skip, 1))
        self.dilated, self.mix = cast(Sequence[nn.Conv1d], dilated), cast(Sequence[nn.Conv1d], mix)
        self.output = nn.Conv1d(skip, config.n_codes or n_out, 1)
        self.global_embedding = nn.Conv1d(n_global, n_out, 1, bias=False) if n_global else None
        self.bottleneck = None
        if config.n_codes:
            self.bottleneck = ArgmaxBottleneck(config.n_codes, n_out, config.code_scale)
            self.input.weight.data.mul_(INPUT_WEIGHT_GAIN)
        self.split = (residual, skip)
        reach = sum(conv.dilation[0] * (config.kernel_size - 1) for conv in self.dilated)
        if lookahead_frames > reach:
            raise ValueError(
                f"the receptive field of the context stack is {reach + 1} frames, so a look-ahead of "
                f"{lookahead_frames} is not possible; lower cond_wavenet_config.lookahead_ms or give the stack more "
                "layers"
            )
        self.left, self.right = reach - lookahead_frames, lookahead_frames

    def forward(self, features: Tensor) -> Tensor:
        """The context [B, C, N] of features [B, F + G, left + N + right]."""
        return self.with_diversity(features)[0]

    def with_diversity(self, features: Tensor) -> tuple[Tensor, Tensor | None]:
        """The context as of `forward`, and `ArgmaxBottleneck.forward`'s loss of the codes' use, None without codes."""
        out = self.output(self.hidden(features))
        if self.global_embedding is not None:
            n_global, n_frames = self.global_embedding.in_channels, out.shape[-1]
            out = out + self.global_embedding(features[:, -n_global:, self.left : self.left + n_frames])
        return (out, None) if self.bottleneck is None else self.bottleneck(out)

    def codes(self, features: Tensor) -> Tensor:
        """The code of each frame, int64 [B, N], of features [B, F, left + N + right]."""
        return codes_of(self.output(self.hidden(features)))

    @torch.no_grad()
    def init_codebook_from_features(self, features: Tensor) -> None:
        """Initialise the codes from the frames of these features, [B, F, left + N + right]."""
        frames = self.hidden(features).transpose(1, 2).flatten(0, 1)
        weight, bias = init_codebook(frames, self.output.out_channels)
        self.output.weight.copy_(weight.unsqueeze(-1))
        cast(Tensor, self.output.bias).copy_(bias)

    def hidden(self, features: Tensor) -> Tensor:
        """The input of the output layer, [B, S, N], for features [B, F + G, left + N + right]."""
        x = self.input(features)
        n_frames = features.shape[-1] - self.left - self.right
        skip_sum = x.new_zeros(())
        for dilated, mix in zip(self.dilated, self.mix, strict=True):
            tanh_half, sigmoid_half = dilated(x).chunk(2, dim=1)
            z = torch.tanh(tanh_half) * torch.sigmoid(sigmoid_half)
            residual, skip = mix(z).split(self.split, dim=1)
            x = x[..., -z.shape[-1] :] + residual
            skip_sum = skip_sum + skip[..., -n_frames:]
        return torch.relu(skip_sum)


class NoContext(ContextStack):
    """The context stack of an unconditional model: zero channels in, zero channels out."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.global_embedding = self.bottleneck = None
        self.left = self.right = 0

    def with_diversity(self, features: Tensor) -> tuple[Tensor, None]:
        """The context [B, 0, N] of features [B, 0, N], and no loss of the codes' use."""
        return features, None


class Decoder(nn.Module):
    """The autoregressive part. The output at t depends on samples < t; before the first sample stands silence.

    Args:
        config: Config of the decoder.
        n_excitation: Channels of the excitation, E.
        upsampling: Upsampling of the context.

    Attributes:
        gates: How the parallel pass computes the gates; training may choose otherwise.
        receptive_field: How many past samples an output depends on.
    """

    layers: Sequence[ResidualLayer]
    output_cond: nn.Linear | None
    output_excitation: nn.Linear | EmptyLinear | None
    units: Tensor

    def __init__(self, config: WavenetConfig, n_excitation: int, upsampling: Upsampling) -> None:
        super().__init__()
        self.config, self.upsampling, self.taps = config, upsampling, config.kernel_size
        self.gates = GateKernels()
        self.mixture = config.output == "logistic_mixture"
        residual = config.n_residual_channels
        self.input = SampleEmbedding(self.taps, residual, mixture=self.mixture)
        cycle = dilations(config.n_layers, config.max_dilation)
        layers = [ResidualLayer(config, n_excitation, d, last=i == len(cycle) - 1) for i, d in enumerate(cycle)]
        self.layers = cast(Sequence[ResidualLayer], nn.ModuleList(layers))
        self.receptive_field = sum(layer.history for layer in layers) + self.taps
        self.skip = nn.Linear(config.n_layers * residual, config.n_skip_channels)  # the sum of all layers' skip outputs
        self.hidden = nn.Linear(config.n_skip_channels, config.n_out_channels, config.output_bias)
        n_params = 3 * config.n_mixtures if self.mixture else N_CODES
        self.output = nn.Linear(config.n_out_channels, n_params, config.output_bias)
        self.output_cond = self.output_excitation = None
        if config.output_conditioning:
            self.output_cond = nn.Linear(config.n_cond_channels, config.n_skip_channels, bias=False)
            self.output_excitation = unbiased_linear(n_excitation, config.n_skip_channels)
        if config.conditioned_layers == "first":
            for layer in layers[1:]:
                for disabled_projection in (layer.cond, layer.excitation):
                    disabled_projection.weight.requires_grad_(False).zero_()
        # On the meta device only shapes are wanted; for values there PyTorch would import its compiler: two seconds.
        if self.mixture and not self.output.weight.is_meta:
            self._init_mixture(config.n_mixtures)

    def _init_mixture(self, n: int) -> None:
        """Spread the components over the amplitudes of ordinary piano, and give the means a unit of that size.

        Errors of means are thousandths of full scale, those of logits and log-scales are ones: without a common unit
        the optimiser learns only one or the other.
        """
        units = torch.cat([torch.ones(n), torch.full((n,), MEAN_UNIT), torch.ones(n)])
        self.register_buffer("units", units, persistent=False)
        means, log_scales = torch.linspace(-1, 1, n), torch.full((n,), INITIAL_LOG_SCALE)
        with torch.no_grad():
            self.output.weight.mul_(0.1)
            self.output.bias.copy_(torch.cat([torch.zeros(n), means, log_scales]))

    @staticmethod
    def aligned(device: torch.device) -> bool:
        """Whether the parallel pass pads its rows (see `join_inputs`)."""
        return device.type == "cuda"

    def prepend_silence(self, samples: Tensor) -> Tensor:
        """The history [B, K + T] of samples [B, T] that nothing precedes: K silent ones, then the samples."""
        return torch.cat([samples.new_full((len(samples), self.taps), self.input.silence), samples], dim=1)

    def prepare(self, context: Tensor, excitation: Tensor) -> tuple[Tensor, Tensor]:
        """Context [B, C, left + N + right] and excitation [B, E, T], time-first.

        The context is upsampled here if that does not commute with projections.
        """
        context = context.permute(2, 0, 1)
        if not self.upsampling.commutes:
            context = self.upsampling(context)
        return context, excitation.permute(2, 0, 1)

    def layer_conditioning(self, layer: ResidualLayer, context: Tensor, excitation: Tensor) -> Tensor:
        """What is added to one layer's pre-activations, [T, B, 2R], from `prepare`'s context and excitation."""
        cond = layer.cond(context)
        if self.upsampling.commutes:
            cond = self.upsampling(cond)
        return cond + layer.excitation(excitation)

    def output_conditioning(self, context: Tensor, excitation: Tensor) -> Tensor | None:
        """What is added to the skip sum, [T, B, S], from `prepare`'s context and excitation; None: nothing."""
        if self.output_cond is None or self.output_excitation is None:
            return None
        cond = self.output_cond(context)
        if self.upsampling.commutes:
            cond = self.upsampling(cond)
        return cond + self.output_excitation(excitation)

    def head(self, z: Tensor, cond: Tensor | None = None) -> Tensor:
        """Distribution parameters [..., P] of all layers' gated activations [..., L * R].

        Args:
            z: The gated activations.
            cond: `output_conditioning`, [..., S].
        """
        skip = self.skip(z) if cond is None else self.skip(z) + cond
        last = torch.relu(self.hidden(torch.relu(skip)))
        if not self.mixture:
            return self.output(last)
        with torch.autocast(last.device.type, enabled=False):  # means need more than bfloat16's eight bits
            return self.output(last.to(self.units.dtype)) * self.units

    def forward(self, history: Tensor, context: Tensor, excitation: Tensor) -> Tensor:
        """Distribution parameters of every sample, in one parallel pass.

        Args:
            history: The K samples before the first one (`prepend_silence`: none), then the samples themselves, 16-bit
                values or mu-law codes, [B, K + T] with T = N * hop. The output at t does not depend on sample t.
            context: Context of the frames, [B, C, left + N + right].
            excitation: Excitation of the samples, [B, E, T].

        Returns:
            Parameters [B, P, T].
        """
        context, excitation = self.prepare(context, excitation)
        x, frames, ramp, layers = self._stack_inputs(history, context, excitation)
        z = residual_stack(x, frames, ramp, layers, self.gates)
        cond = self.output_conditioning(context, excitation)
        params = self.head(z.flatten(1), None if cond is None else cond.flatten(0, 1))
        return params.unflatten(0, (history.shape[1] - self.taps, len(history))).permute(1, 2, 0)

    def fill(self, caches: "Caches", history: Tensor, context: Tensor, excitation: Tensor) -> None:
        """Write into empty caches what the cached sampler needs to continue a history; arguments as in `forward`."""
        caches.recent = history[:, -self.taps :].to(torch.float32, copy=True)
        n_samples = history.shape[1] - self.taps
        for i, (x, _, _) in enumerate(run_layers(*self._stack_inputs(history, *self.prepare(context, excitation)))):
            caches.fill(i, x[:, : self.config.n_residual_channels].unflatten(0, (n_samples, len(history))))

    def gate_contributions(
        self, history: Tensor, context: Tensor, excitation: Tensor
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """For each layer, the parts of its pre-activations from the conditioning and from past samples.

        Arguments are as in `forward`; there are no gradients. Both parts are float32 [T * B, 2R].
        """
        x, frames, ramp, layers = self._stack_inputs(history, *self.prepare(context, excitation))
        n_channels = self.config.n_residual_channels
        for i, (inputs, pre_activations, _) in enumerate(run_layers(x, frames, ramp, layers)):
            audio_rate = F.linear(inputs[:, n_channels:], layers[i].aux_inputs.to(inputs.dtype)).float()
            frame_rate = upsampled(frames[:, :, i], ramp).flatten(0, 2).float()
            yield frame_rate + audio_rate, pre_activations.float() - audio_rate

    def _stack_inputs(
        self, history: Tensor, context: Tensor, excitation: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, list[LayerWeights]]:
        """The arguments of `residual_stack`, from `prepare`'s context and excitation."""
        by_time = history.t()
        n_frames, commutes = (len(by_time) - self.taps) // self.upsampling.hop, self.upsampling.commutes
        frames, weights = frame_rate_conditioning(self.layers, context, n_frames, project=commutes)
        with torch.autocast(history.device.type, enabled=False):  # a product of 4, whose inputs have 16 bits
            x = self.input(by_time[:-1].unfold(0, self.taps, 1))  # [T, B, R]
        inputs = [x, excitation] if commutes else [x, context, excitation]
        inputs = [values.to(frames.dtype) for values in inputs]
        x, weights = join_inputs(inputs, weights, align=self.aligned(history.device))
        layers = [layer.weights(aux) for layer, aux in zip(self.layers, weights, strict=True)]
        return x, frames.unflatten(-1, (len(layers), -1)), self.upsampling.ramp(frames), layers


@dataclass(frozen=True, eq=False)
class WaveNetOutput:
    """The result of a parallel pass.

    Attributes:
        params: Distribution parameters of every sample, [B, P, T].
        mel_prediction: Log-mel spectrum that the auxiliary head predicts from the context alone, [B, n_mels, N] (see
            `training.log_mel`); None without a head.
        diversity_loss: Loss of an uneven use of the codes, a number (see `ArgmaxBottleneck.forward`); None without
            codes.
    """

    params: Tensor
    mel_prediction: Tensor | None = None
    diversity_loss: Tensor | None = None


class WaveNet(nn.Module):
    """Context stack and decoder together: the model that is trained, saved and sampled.

    Without features it is unconditional: a decoder alone, whose conditioning has no channels.

    Args:
        config: Config of the decoder.
        cond_config: Config of the context stack.
        n_features: Rows of the notes' features, F.
        n_excitation: Channels of the excitation, E.
        audio_hz: Sample rate.
        midi_hz: Frames per second.
        n_global: Rows of the global features, G.

    Raises:
        ValueError: The parts do not fit together.
    """

    context: ContextStack
    mel_head: nn.Conv1d | None

    def __init__(
        self,
        config: WavenetConfig,
        cond_config: CondWavenetConfig,
        *,
        n_features: int,
        n_excitation: int,
        audio_hz: int,
        midi_hz: int,
        n_global: int = 0,
    ) -> None:
        super().__init__()
        self.audio_hz, self.hop, self.n_codes = audio_hz, audio_hz // midi_hz, cond_config.n_codes
        if n_global and cond_config.n_codes:
            raise ValueError(
                "cond_wavenet_config.n_codes excludes data_config.global_values and history_level_input, which files "
                "of codes do not have; expected n_codes = 0, or the other two unset"
            )
        if n_features:
            lookahead_frames = round(cond_config.lookahead_ms * midi_hz / 1000)
            upsampling = Upsampling(cond_config.upsampling, self.hop, config.n_cond_channels)
            self.context = ContextStack(cond_config, n_features, config.n_cond_channels, lookahead_frames, n_global)
        elif cond_config.n_mels or cond_config.n_codes or config.output_conditioning:
            raise ValueError(
                "an unconditional model (data_config.features = []) has no context: expected "
                "cond_wavenet_config.n_mels = 0, n_codes = 0 and wavenet_config.output_conditioning = false"
            )
        else:
            config = copy.copy(config)
            config.n_cond_channels = 0  # which no config file may have
            upsampling, self.context = Upsampling("repeat", self.hop, 0), NoContext()
        self.decoder = Decoder(config, n_excitation, upsampling)
        self.mel_head = None  # used in training only
        if cond_config.n_mels:
            self.mel_head = nn.Conv1d(config.n_cond_channels, cond_config.n_mels, 1)
            nn.init.constant_(cast(Tensor, self.mel_head.bias), INITIAL_LOG_AMPLITUDE)

    @property
    def context_frames(self) -> tuple[int, int]:
        """Frames of features needed before and after the frames that are generated."""
        up = self.decoder.upsampling
        return self.context.left + up.left, self.context.right + up.right

    def forward(self, history: Tensor, features: Tensor, excitation: Tensor) -> WaveNetOutput:
        """A parallel pass over samples and their conditioning.

        Args:
            history: The K samples before the first one, then the samples, [B, K + T] with T = N * hop (see
                `Decoder.forward`).
            features: Features of the notes, then the global features, [B, F + G, left + N + right].
            excitation: Excitation of the samples, [B, E, T].
        """
        context, diversity_loss = self.context.with_diversity(features)
        params = self.decoder(history, context, excitation)
        if self.mel_head is None:
            return WaveNetOutput(params, None, diversity_loss)
        begin, n_frames = self.decoder.upsampling.left, params.shape[-1] // self.hop
        return WaveNetOutput(params, self.mel_head(context[..., begin : begin + n_frames]), diversity_loss)

    def log_likelihood(self, params: Tensor, samples: Tensor) -> Tensor:
        """Log-probability of each sample in nats, float32 [B, T], for params [B, P, T] and samples [B, T]."""
        if self.decoder.mixture:
            return logistic_mixture.log_likelihood(params, samples)
        logits = params if params.dtype == torch.float64 else params.float()
        by_time = logits.permute(2, 0, 1).flatten(0, 1)  # as the decoder returns them: classes side by side
        return -F.cross_entropy(by_time, samples.t().flatten(), reduction="none").unflatten(0, samples.shape[::-1]).t()

    def draw(
        self, params: Tensor, uniforms: Tensor, temperature: float = 1.0, sampling: SamplingMethod = "random"
    ) -> Tensor:
        """Samples of the predicted distributions.

        Args:
            params: Parameters of the distributions, [B, P, T].
            uniforms: In (0, 1), [B, T, U].
            temperature: Below 1 the distributions are sharper.
            sampling: random: a sample of each distribution; mean: its mean (of codes the mean code), which is not
                rounded and does not depend on the uniforms.

        Returns:
            16-bit values or codes [B, T]: int64, means float32 (`sample_dtype`).
        """
        if self.decoder.mixture:
            if sampling == "mean":
                return logistic_mixture.mean_sample(params, temperature)
            return logistic_mixture.sample(params, uniforms, temperature)
        if sampling == "mean":
            return logistic_mixture.mean_class(params / temperature)
        return logistic_mixture.from_cumulative(params / temperature, uniforms[..., 0])

    def guide(self, params: Tensor, guidance: float) -> Tensor:
        """Classifier-free guidance.

        Logits of codes are combined, and normalised where they are used; of a mixture, see `logistic_mixture.guided`.

        Args:
            params: Parameters [2B, P, ...]: of streams with their notes, then of the same streams under the null
                condition. At guidance 1 only the former, which are returned as they are.
            guidance: 0: the null condition; 1: the notes; more: an extrapolation, the 1 + w of arXiv 2207.12598,
                equation 6.

        Returns:
            Combined parameters [B, P, ...].
        """
        if guidance == 1:
            return params
        own, null = params.chunk(2)
        return logistic_mixture.guided(own, null, guidance) if self.decoder.mixture else null.lerp(own, guidance)

    @property
    def uniforms_per_sample(self) -> int:
        """U: two for a mixture (component, quantile), one for a categorical."""
        return 2 if self.decoder.mixture else 1


def parameter_shapes(config: Config) -> dict[str, torch.Size]:
    """The shapes in the state dict of `build_model`'s model, without memory for it; it raises the same errors."""
    with torch.device("meta"):
        return {name: tensor.shape for name, tensor in build_model(config).state_dict().items()}


def build_model(config: Config) -> WaveNet:
    """The untrained model that a config describes.

    Args:
        config: A config with the blocks data_config, wavenet_config and cond_wavenet_config.

    Raises:
        InputError: For parts that do not fit together.
    """
    data = config.data_config
    try:
        return WaveNet(
            config.wavenet_config,
            config.cond_wavenet_config,
            n_features=n_features(data.features),
            n_excitation=n_excitation(data),
            audio_hz=data.audio_hz,
            midi_hz=data.midi_hz,
            n_global=n_global_features(data),
        )
    except ValueError as error:
        raise InputError(str(error)) from error


def sample_dtype(sampling: SamplingMethod) -> torch.dtype:
    """The type of samples: means have fractions, others are integers."""
    return torch.float32 if sampling == "mean" else torch.long


class Caches:
    """Ring buffers of every layer's past inputs, [(K - 1) * dilation, B, R], and the K most recent samples [B, K].

    The samples are float32, in which 16-bit values and codes are exact and means keep their fractions. Row t % length
    holds the input at time t. Before the first sample the buffers are zero and the samples silent, as in the parallel
    pass.

    Args:
        decoder: The decoder.
        batch_size: Streams, B.
    """

    def __init__(self, decoder: Decoder, batch_size: int) -> None:
        like = decoder.input.weight
        residual = decoder.config.n_residual_channels
        self.layers = [like.new_zeros(layer.history, batch_size, residual) for layer in decoder.layers]
        shape = (batch_size, decoder.taps)
        self.recent = torch.full(shape, float(decoder.input.silence), dtype=torch.float32, device=like.device)

    def fill(self, index: int, x: Tensor) -> None:
        """Store the end of one layer's input [T, B, R] of a parallel pass over the samples 0..T-1."""
        ring = self.layers[index]
        first = max(0, len(x) - len(ring))
        rows = torch.arange(first, len(x), device=x.device) % len(ring)
        ring[rows] = x[first:]

    def step(self, decoder: Decoder, time: int, cond: Tensor, output_cond: Tensor | None = None) -> Tensor:
        """Distribution parameters [B, P] of sample `time`; stores the layers' inputs.

        Args:
            decoder: The decoder.
            time: Number of the sample.
            cond: `Decoder.layer_conditioning` of the sample, [L, B, 2R].
            output_cond: `Decoder.output_conditioning` of the sample, [B, S].
        """
        x, gated = decoder.input(self.recent), []
        for layer, ring, layer_cond in zip(decoder.layers, self.layers, cond, strict=True):
            # The oldest row, written (K - 1) * dilation samples ago, is read before it is overwritten.
            rows = [ring[(time + k * layer.dilation) % len(ring)] for k in range(layer.taps - 1)]
            gated.append(layer.gate(torch.cat([*rows, x], dim=-1), layer_cond))
            ring[time % len(ring)] = x
            if layer.residual is not None:
                x = x + layer.residual(gated[-1])
        return decoder.head(torch.cat(gated, dim=-1), output_cond)

    def push(self, samples: Tensor) -> None:
        """Append the newest samples [B]."""
        self.recent = torch.cat([self.recent[:, 1:], samples.unsqueeze(1).float()], dim=1)


@dataclass(frozen=True)
class Conditioning:
    """Conditioning on demand, so that a piece of any length takes the same memory.

    Attributes:
        features: features(first_frame, n_frames) -> [B, F + G, n_frames], for any frame, also before the start.
        excitation: excitation(first_frame, n_frames) -> [B, E, n_frames * hop], E >= 0.
        codes: codes(first_frame, n_frames) -> int64 [B, n_frames], which take the place of the features.
    """

    features: Callable[[int, int], Tensor]
    excitation: Callable[[int, int], Tensor]
    codes: Callable[[int, int], Tensor] | None = None

    @float32_convolutions()
    def block(self, model: WaveNet, first: int, n_frames: int) -> tuple[Tensor, Tensor]:
        """Context [B, C, left + n + right] and excitation [B, E, n * hop] of a range of frames."""
        if self.codes is not None and model.context.bottleneck is not None:
            up = model.decoder.upsampling
            codes = self.codes(first - up.left, up.left + n_frames + up.right)
            return model.context.bottleneck.context(codes), self.excitation(first, n_frames)
        left, right = model.context_frames
        features = self.features(first - left, left + n_frames + right)
        return model.context(features), self.excitation(first, n_frames)


def rows_per_stream(guidance: float) -> int:
    """Rows of the decoder's batch for a stream: its notes, and with guidance also the null condition."""
    return 1 if guidance == 1 else 2


@torch.inference_mode()
@float32_convolutions()
def prefill(
    model: WaveNet,
    conditioning: Conditioning,
    n_streams: int,
    n_frames: int,
    prefix: Tensor | None,
    guidance: float = 1.0,
) -> tuple[Caches, int]:
    """Prepare the caches of a sampler by a parallel pass over the prefix; arguments as of `generate`.

    Returns:
        The caches, with twice the rows under guidance, and the first frame to generate.

    Raises:
        ValueError: The prefix is not [B, P * hop] with 0 < P <= n_frames.
    """
    n_rows = rows_per_stream(guidance)
    caches, first = Caches(model.decoder, n_rows * n_streams), 0
    if prefix is not None:
        first = prefix.shape[1] // model.hop
        if prefix.shape[1] != first * model.hop or not 0 < first <= n_frames:
            raise ValueError(f"a prefix of {prefix.shape[1]} samples is not a whole number of frames up to {n_frames}")
        # Samples before the receptive field have no influence.
        begin = max(0, first - -(-(model.decoder.receptive_field + model.decoder.taps) // model.hop))
        context, excitation = conditioning.block(model, begin, first - begin)
        history = model.decoder.prepend_silence(prefix[:, begin * model.hop :].repeat(n_rows, 1))
        model.decoder.fill(caches, history, context, excitation)
        caches.layers = [ring.roll(begin * model.hop, dims=0) for ring in caches.layers]  # to rows of absolute time
    return caches, first


@torch.inference_mode()
def generate(
    model: WaveNet,
    conditioning: Conditioning,
    uniforms: Callable[[int, int], Tensor],
    n_streams: int,
    n_frames: int,
    *,
    prefix: Tensor | None = None,
    temperature: float = 1.0,
    sampling: SamplingMethod = "random",
    guidance: float = 1.0,
    block_frames: int = 16,
) -> Iterator[Tensor]:
    """Generate n_frames * hop samples for each stream, block by block: the reference for every faster engine.

    Args:
        model: The model.
        conditioning: Conditioning of the B streams; with guidance of 2B rows: the streams' own, then as many of the
            null condition, which receive the same samples.
        uniforms: uniforms(first, n) -> [B, n, U] for the samples first..first+n-1 (`sampling.uniforms`).
        n_streams: B.
        n_frames: Frames to generate, those of the prefix included.
        prefix: Samples [B, P * hop] that precede the generated ones (teacher-forced).
        temperature: See `WaveNet.draw`.
        sampling: See `WaveNet.draw`.
        guidance: See `WaveNet.guide`.
        block_frames: Frames of a block; the samples do not depend on it.

    Yields:
        Blocks [B, n] of 16-bit values or codes, the prefix first; int64, means float32 (`sample_dtype`).
    """
    decoder, n_rows = model.decoder, rows_per_stream(guidance)
    caches, first = prefill(model, conditioning, n_streams, n_frames, prefix, guidance)
    if prefix is not None:
        yield prefix
    while first < n_frames:
        count = min(block_frames, n_frames - first)
        with float32_convolutions():
            context, excitation = decoder.prepare(*conditioning.block(model, first, count))
        cond = torch.stack([decoder.layer_conditioning(layer, context, excitation) for layer in decoder.layers], dim=1)
        output_cond = decoder.output_conditioning(context, excitation)
        draws = uniforms(first * model.hop, count * model.hop)
        block = torch.empty(draws.shape[:2], dtype=sample_dtype(sampling), device=draws.device)
        for i in range(block.shape[1]):
            time, sample_output_cond = first * model.hop + i, None if output_cond is None else output_cond[i]
            params = model.guide(caches.step(decoder, time, cond[i], sample_output_cond), guidance)
            block[:, i] = model.draw(params.unsqueeze(-1), draws[:, i : i + 1], temperature, sampling)[:, 0]
            caches.push(block[:, i].repeat(n_rows))
        yield block
        first += count
