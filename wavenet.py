"""The model: a context stack over MIDI frames, an autoregressive decoder over samples, and the cached sampler.

    features [B, F, frames] -> ContextStack -> [B, C, frames] -> Upsampling -> every layer of the Decoder
    samples < t, conditioning up to the look-ahead -> Decoder -> parameters of sample t's distribution [B, P, T]

WaveNet: arXiv 1609.03499. Conditioning on MIDI through a context stack: arXiv 1810.12247, section 4. Cached sampling:
arXiv 1611.09482. Inside the decoder tensors are time-first, [T, B, R]: a dilated tap is then a view and every layer a
plain matrix product.

    python wavenet.py -c config_train.json      # what the model of a config costs (cost.py)
"""

import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import logistic_mixture
from midi2wave.audio.pcm import FULL_SCALE
from midi2wave.conditioning.excitation import n_excitation
from midi2wave.conditioning.features import n_features
from midi2wave.config import CondWavenetConfig, Config, WavenetConfig
from midi2wave.modules.argmax_bottleneck import INPUT_WEIGHT_GAIN, ArgmaxBottleneck, codes_of, init_codebook
from midi2wave.modules.residual_stack import GateKernels, LayerWeights, residual_stack, run_layers, upsampled
from midi2wave.modules.upsampling import Upsampling
from midi2wave.utils.errors import InputError

N_CODES = 256
SILENT_CODE = 128
QUIET_LOG_AMPLITUDE = -5.0  # where the auxiliary head starts: natural logarithm of a band's usual amplitude
ALIGNED_COLUMNS = 8  # of bfloat16: 16 bytes
MEAN_UNIT = 0.05  # amplitude by which a mixture's mean moves for an output of 1


def dilations(n_layers: int, max_dilation: int) -> list[int]:
    """1, 2, 4, ... doubling; once beyond max_dilation it starts again at 1."""
    result, dilation = [], 1
    for _ in range(n_layers):
        result.append(dilation)
        dilation = dilation * 2 if dilation * 2 <= max_dilation else 1
    return result


class ContextStack(nn.Module):
    """Dilated gated convolutions over conditioning frames, without padding.

    It takes `left` frames before and `right` frames after the ones it returns, computed from the note events like any
    others, so that a crop gives exactly the same context as the whole piece. The look-ahead only says how the receptive
    field lies around a frame.

    Global conditioning (WaveNet, section 2.5): the last G rows of the features say what recording it is as a whole; all
    zero: unknown. Their linear embedding is added to what the stack gives, and so enters every layer of the decoder.
    The stack itself hears them too: how a spectrum dies away depends on note and room together, which no sum can say.
    """

    def __init__(
        self, config: CondWavenetConfig, n_features: int, n_out: int, lookahead_frames: int, n_global: int = 0
    ) -> None:
        super().__init__()
        residual, skip = config.n_residual_channels, config.n_skip_channels
        self.input = nn.Conv1d(n_features + n_global, residual, 1)
        self.dilated, self.mix = nn.ModuleList(), nn.ModuleList()
        for dilation in dilations(config.n_layers, config.max_dilation):
            self.dilated.append(nn.Conv1d(residual, 2 * residual, config.kernel_size, dilation=dilation))
            self.mix.append(nn.Conv1d(residual, residual + skip, 1))
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
                f"the context stack sees {reach + 1} frames, so a look-ahead of {lookahead_frames} is not possible; "
                "lower cond_wavenet_config.lookahead_ms or give the stack more layers"
            )
        self.left, self.right = reach - lookahead_frames, lookahead_frames

    def forward(self, features: Tensor) -> Tensor:
        """[B, F + G, left + N + right] -> [B, C, N]."""
        return self.with_diversity(features)[0]

    def with_diversity(self, features: Tensor) -> tuple[Tensor, Tensor | None]:
        """What `forward` gives, and the loss of the codes' use (None without codes): see `ArgmaxBottleneck.forward`."""
        out = self.output(self._hidden(features))
        if self.global_embedding is not None:
            n_global, n_frames = self.global_embedding.in_channels, out.shape[-1]
            out = out + self.global_embedding(features[:, -n_global:, self.left : self.left + n_frames])
        return (out, None) if self.bottleneck is None else self.bottleneck(out)

    def codes(self, features: Tensor) -> Tensor:
        """[B, F, left + N + right] -> the code of each frame, int64 [B, N]."""
        return codes_of(self.output(self._hidden(features)))

    @torch.no_grad()
    def init_codebook_from_features(self, features: Tensor) -> None:
        """Begin with codes that lie as the frames of these features do, [B, F, left + N + right]."""
        frames = self._hidden(features).transpose(1, 2).flatten(0, 1)
        weight, bias = init_codebook(frames, self.bottleneck.n_codes)
        self.output.weight.copy_(weight.unsqueeze(-1))
        self.output.bias.copy_(bias)

    def _hidden(self, features: Tensor) -> Tensor:
        """[B, F, left + N + right] -> what the output is made of, [B, S, N]."""
        x = self.input(features)
        n_frames = features.shape[-1] - self.left - self.right
        total = 0.0
        for dilated, mix in zip(self.dilated, self.mix, strict=True):
            tanh_half, sigmoid_half = dilated(x).chunk(2, dim=1)
            hidden = torch.tanh(tanh_half) * torch.sigmoid(sigmoid_half)
            residual, skip = mix(hidden).split(self.split, dim=1)
            x = x[..., -hidden.shape[-1] :] + residual
            total = total + skip[..., -n_frames:]
        return torch.relu(total)


class NoContext(nn.Module):
    """The context stack of an unconditional model: zero channels in, zero channels out."""

    left = right = 0

    def forward(self, features: Tensor) -> Tensor:
        """Features [B, 0, N] as the context [B, 0, N]."""
        return features

    def with_diversity(self, features: Tensor) -> tuple[Tensor, None]:
        """The context [B, 0, N], and no loss of the codes' use."""
        return features, None


class EmptyLinear(nn.Module):
    """A linear layer of zero inputs without bias, whose output is 0.

    Its weight is no parameter: neither the state dict nor the optimiser has an entry for it.
    """

    weight: Tensor

    def __init__(self, n_out: int) -> None:
        super().__init__()
        self.in_features = 0
        self.register_buffer("weight", torch.zeros(n_out, 0), persistent=False)

    def forward(self, inputs: Tensor) -> Tensor:
        """Zeros [..., n_out] for inputs [..., 0]."""
        return F.linear(inputs, self.weight)


def unbiased_linear(n_in: int, n_out: int) -> nn.Linear | EmptyLinear:
    """A linear layer without bias, also of zero inputs."""
    return nn.Linear(n_in, n_out, bias=False) if n_in else EmptyLinear(n_out)


class ResidualLayer(nn.Module):
    """One gated layer; its products are Linear, oldest tap first, so that parallel and cached paths share them."""

    def __init__(self, config: WavenetConfig, n_excitation: int, dilation: int, *, last: bool) -> None:
        super().__init__()
        residual = config.n_residual_channels
        self.dilation, self.taps = dilation, config.kernel_size
        self.dilated = nn.Linear(config.kernel_size * residual, 2 * residual, bias=False)
        with warnings.catch_warnings():
            # of an unconditional model, whose conditioning has no channels: the bias is then all there is of it
            warnings.filterwarnings("ignore", "Initializing zero-element tensors")
            self.cond = nn.Linear(config.n_cond_channels, 2 * residual)  # has the bias of both
        self.excitation = unbiased_linear(n_excitation, 2 * residual)
        # The last layer's residual output would be used by nobody.
        self.residual = None if last else nn.Linear(residual, residual)

    @property
    def history(self) -> int:
        """Steps of this layer's input that must be remembered."""
        return self.dilation * (self.taps - 1)

    def weights(self, aux_weight: Tensor) -> LayerWeights:
        """The layer's parameters as `residual_stack` takes them, with the weight [2R, Q] of its auxiliary inputs."""
        if self.residual is None:
            return LayerWeights(self.dilation, self.dilated.weight, aux_weight, None, None)
        return LayerWeights(self.dilation, self.dilated.weight, aux_weight, self.residual.weight, self.residual.bias)

    def gate(self, taps: Tensor, cond: Tensor) -> Tensor:
        """taps [..., K * R], cond [..., 2R] -> hidden [..., R]."""
        summed = torch.addmm(cond.flatten(0, -2), taps.flatten(0, -2), self.dilated.weight.t())
        tanh_half, sigmoid_half = summed.chunk(2, dim=-1)
        return (torch.tanh(tanh_half) * torch.sigmoid(sigmoid_half)).unflatten(0, taps.shape[:-1])


class Decoder(nn.Module):
    """The autoregressive part. The output at t depends on samples < t; before the first sample stands silence."""

    def __init__(self, config: WavenetConfig, n_excitation: int, upsampling: Upsampling) -> None:
        super().__init__()
        self.config, self.upsampling, self.taps = config, upsampling, config.kernel_size
        self.gates = GateKernels()  # how the parallel pass computes them; training may choose otherwise
        self.mixture = config.output == "logistic_mixture"
        residual = config.n_residual_channels
        per_tap = 2 if self.mixture else N_CODES
        self.input = nn.Linear(self.taps * per_tap, residual)
        steps = dilations(config.n_layers, config.max_dilation)
        self.layers = nn.ModuleList(
            ResidualLayer(config, n_excitation, d, last=i == len(steps) - 1) for i, d in enumerate(steps)
        )
        self.skip = nn.Linear(config.n_layers * residual, config.n_skip_channels)  # all layers' skip outputs, summed
        self.hidden = nn.Linear(config.n_skip_channels, config.n_out_channels, config.output_bias)
        n_params = 3 * config.n_mixtures if self.mixture else N_CODES
        self.output = nn.Linear(config.n_out_channels, n_params, config.output_bias)
        self.output_cond = self.output_excitation = None
        if config.output_conditioning:
            self.output_cond = nn.Linear(config.n_cond_channels, config.n_skip_channels, bias=False)
            self.output_excitation = unbiased_linear(n_excitation, config.n_skip_channels)
        if config.conditioned_layers == "first":
            for layer in self.layers[1:]:
                for disabled_projection in (layer.cond, layer.excitation):
                    disabled_projection.weight.requires_grad_(False).zero_()
        if self.mixture:
            self._start_mixture(config.n_mixtures)

    def _start_mixture(self, n: int) -> None:
        """Spread the components over the amplitudes of ordinary piano, and give the means a unit of that size.

        Means err by thousandths of full scale, logits and log-scales by ones: without a common size of step the
        optimiser learns one or the other.
        """
        units = torch.cat([torch.ones(n), torch.full((n,), MEAN_UNIT), torch.ones(n)])
        self.register_buffer("units", units, persistent=False)
        with torch.no_grad():
            self.output.weight.mul_(0.1)
            self.output.bias.copy_(torch.cat([torch.zeros(n), torch.linspace(-1, 1, n), torch.full((n,), -4.0)]))

    @property
    def receptive_field(self) -> int:
        """How many past samples an output depends on."""
        return sum(layer.history for layer in self.layers) + self.taps

    @property
    def silence(self) -> int:
        """The sample value that stands before the first sample."""
        return 0 if self.mixture else SILENT_CODE

    @staticmethod
    def aligned(device: torch.device) -> bool:
        """Whether the parallel pass pads its rows to multiples of ALIGNED_COLUMNS."""
        return device.type == "cuda"

    def embed(self, samples: Tensor) -> Tensor:
        """Sample values [..., K], oldest first, -> input of the first layer [..., R]."""
        if not self.mixture:  # a table look-up per tap: the product of a one-hot vector
            tables = self.input.weight.t().split(N_CODES)
            return sum(F.embedding(samples[..., k], tables[k]) for k in range(self.taps)) + self.input.bias
        # Quiet passages live in a thousandth of the range: beside the amplitude goes its mu-law companded value, in
        # which they are as wide as loud ones (WaveNet, section 2.2).
        amplitude = samples.to(self.input.weight.dtype) / FULL_SCALE
        companded = torch.sign(amplitude) * torch.log1p(255 * amplitude.abs()) / math.log(256)
        return self.input(torch.stack([amplitude, companded], dim=-1).flatten(-2))

    def amplitudes(self, samples: Tensor) -> Tensor:
        """Sample values -> float32 of the same shape, full scale 1 (codes as `audio.mu_law_decode`)."""
        if self.mixture:
            return samples.float() / FULL_SCALE
        companded = 2 * samples.float() / (N_CODES - 1) - 1
        return companded.sign() * torch.expm1(companded.abs() * math.log(N_CODES)) / (N_CODES - 1)

    def layer_conditioning(self, layer: ResidualLayer, context: Tensor, excitation: Tensor) -> Tensor:
        """What one layer adds before its gate: [T, B, 2R], from `prepare`'s context and excitation [T, B, E]."""
        cond = layer.cond(context)
        if self.upsampling.commutes:
            cond = self.upsampling(cond)
        return cond + layer.excitation(excitation)

    def output_conditioning(self, context: Tensor, excitation: Tensor) -> Tensor | None:
        """What is added to the skip sum: [T, B, S], from `prepare`'s context and excitation; None: nothing."""
        if self.output_cond is None:
            return None
        cond = self.output_cond(context)
        if self.upsampling.commutes:
            cond = self.upsampling(cond)
        return cond + self.output_excitation(excitation)

    def prepare(self, context: Tensor, excitation: Tensor) -> tuple[Tensor, Tensor]:
        """[B, C, left + N + right] and [B, E, T] -> time-first, upsampled here if it can't be done after projecting."""
        context = context.permute(2, 0, 1)
        if not self.upsampling.commutes:
            context = self.upsampling(context)
        return context, excitation.permute(2, 0, 1)

    def head(self, hidden: Tensor, cond: Tensor | None = None) -> Tensor:
        """What the layers' gates let through, [..., L * R], and the output's conditioning [..., S], if there is one,
        -> distribution parameters [..., P]."""
        skip = self.skip(hidden) if cond is None else self.skip(hidden) + cond
        last = torch.relu(self.hidden(torch.relu(skip)))
        if not self.mixture:
            return self.output(last)
        with torch.autocast(last.device.type, enabled=False):  # means need more than bfloat16's eight bits
            return self.output(last.to(self.units.dtype)) * self.units

    def prepend_silence(self, samples: Tensor) -> Tensor:
        """The history of samples that nothing precedes: samples [B, T] after K silent ones, [B, K + T]."""
        return torch.cat([samples.new_full((len(samples), self.taps), self.silence), samples], dim=1)

    def forward(self, history: Tensor, context: Tensor, excitation: Tensor) -> Tensor:
        """Distribution parameters of every sample, in one parallel pass.

        Args:
            history: The K samples before the first one (`prepend_silence`: none), then the samples themselves, 16-bit
                values or mu-law codes, [B, K + T] with T = N * hop. The output at t is no function of sample t.
            context: Context of the frames, [B, C, left + N + right].
            excitation: Excitation of the samples, [B, E, T].

        Returns:
            Parameters [B, P, T].
        """
        context, excitation = self.prepare(context, excitation)
        x, frames, ramp, layers = self.stack_inputs(history, context, excitation)
        hidden = residual_stack(x, frames, ramp, layers, self.gates)
        cond = self.output_conditioning(context, excitation)
        params = self.head(hidden.flatten(1), None if cond is None else cond.flatten(0, 1))
        return params.unflatten(0, (history.shape[1] - self.taps, len(history))).permute(1, 2, 0)

    def fill(self, caches: "Caches", history: Tensor, context: Tensor, excitation: Tensor) -> None:
        """Write into empty caches what the cached sampler needs to go on after a history.

        Args:
            caches: New caches of as many rows as the history.
            history: As in `forward`, [B, K + T].
            context: As in `forward`.
            excitation: As in `forward`.
        """
        caches.recent = history[:, -self.taps :].clone()
        n_samples = history.shape[1] - self.taps
        for i, (x, _, _) in enumerate(run_layers(*self.stack_inputs(history, *self.prepare(context, excitation)))):
            caches.fill(i, x[:, : self.config.n_residual_channels].unflatten(0, (n_samples, len(history))))

    def gate_contributions(
        self, history: Tensor, context: Tensor, excitation: Tensor
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """For each layer, what the conditioning and the past samples add to its gate: float32 [T * B, 2R] each.

        Args: as of `forward`. Without gradients.
        """
        x, frames, ramp, layers = self.stack_inputs(history, *self.prepare(context, excitation))
        n_channels = self.config.n_residual_channels
        for i, (inputs, pre_activations, _) in enumerate(run_layers(x, frames, ramp, layers)):
            audio_rate = F.linear(inputs[:, n_channels:], layers[i].aux_inputs.to(inputs.dtype)).float()
            frame_rate = upsampled(frames[:, :, i], ramp).flatten(0, 2).float()
            yield frame_rate + audio_rate, pre_activations.float() - audio_rate

    def stack_inputs(
        self, history: Tensor, context: Tensor, excitation: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, list[LayerWeights]]:
        """The arguments of `residual_stack` and `run_layers`.

        Args:
            history: As in `forward`, [B, K + T].
            context: Context as `prepare` returns it.
            excitation: Excitation as `prepare` returns it, [T, B, E].

        Returns:
            The first layer's input with the auxiliary inputs, the conditioning at frame rate, the ramp of its
            interpolation, and the layers' weights.
        """
        history = history.t()  # [K + T, B]
        n_frames = (len(history) - self.taps) // self.upsampling.hop
        aux_inputs, weights = [excitation], [layer.excitation.weight for layer in self.layers]
        biases = torch.cat([layer.cond.bias for layer in self.layers])
        if self.upsampling.commutes:
            frames = F.linear(context, torch.cat([layer.cond.weight for layer in self.layers]), biases)
            frames = torch.cat([frames, frames[-1:]])[: n_frames + 1]  # repetition needs no frame after the last
        else:  # The context is at audio rate already; only the biases are left at frame rate.
            aux_inputs.insert(0, context)
            weights = [torch.cat([layer.cond.weight, layer.excitation.weight], dim=1) for layer in self.layers]
            frames = biases.to(context.dtype).expand(n_frames + 1, history.shape[1], -1)
        with torch.autocast(history.device.type, enabled=False):  # a product of 4, whose inputs have 16 bits
            x = self.embed(history[:-1].unfold(0, self.taps, 1))  # [T, B, R]
        columns = [values.to(frames.dtype) for values in (x, *aux_inputs)]
        # Rows that begin at multiples of 16 bytes: else a GPU's products take kernels of half the speed.
        spare = -(x.shape[-1] + weights[0].shape[1]) % ALIGNED_COLUMNS
        if spare and self.aligned(history.device):
            columns.append(columns[0].new_zeros(*x.shape[:2], spare))
            weights = [F.pad(weight, (0, spare)) for weight in weights]
        layers = [layer.weights(aux) for layer, aux in zip(self.layers, weights, strict=True)]
        x = torch.cat(columns, dim=-1).flatten(0, 1)
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
    """

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
        lookahead_frames = round(cond_config.lookahead_ms * midi_hz / 1000)
        if n_global and cond_config.n_codes:
            raise ValueError(
                "cond_wavenet_config.n_codes and data_config.global_values exclude each other: what is known of a "
                "recording stands beside its codes, in no file of them; expected one of the two"
            )
        if n_features:
            upsampling = Upsampling(cond_config.upsampling, self.hop, config.n_cond_channels)
            self.context = ContextStack(cond_config, n_features, config.n_cond_channels, lookahead_frames, n_global)
        elif cond_config.n_mels or cond_config.n_codes or config.output_conditioning:
            raise ValueError(
                "an unconditional model (data_config.features = []) has no context: expected "
                "cond_wavenet_config.n_mels = 0, n_codes = 0 and wavenet_config.output_conditioning = false"
            )
        else:
            config = replace(config, n_cond_channels=0)
            upsampling, self.context = Upsampling("repeat", self.hop, 0), NoContext()
        self.decoder = Decoder(config, n_excitation, upsampling)
        self.mel_head = None  # used in training only
        if cond_config.n_mels:
            self.mel_head = nn.Conv1d(config.n_cond_channels, cond_config.n_mels, 1)
            nn.init.constant_(self.mel_head.bias, QUIET_LOG_AMPLITUDE)

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
        """params [B, P, T], samples [B, T] -> log-probability of each sample in nats, [B, T], float32."""
        if self.decoder.mixture:
            return logistic_mixture.log_likelihood(params, samples)
        logits = params if params.dtype == torch.float64 else params.float()
        by_time = logits.permute(2, 0, 1).flatten(0, 1)  # as the decoder left them: classes side by side
        return -F.cross_entropy(by_time, samples.t().flatten(), reduction="none").unflatten(0, samples.shape[::-1]).t()

    def draw(self, params: Tensor, uniforms: Tensor, temperature: float = 1.0) -> Tensor:
        """params [B, P, T], uniforms [B, T, U] -> samples, int64 [B, T] (16-bit values or codes)."""
        if self.decoder.mixture:
            return logistic_mixture.sample(params, uniforms, temperature)
        return logistic_mixture.from_cumulative(params / temperature, uniforms[..., 0])

    def guide(self, params: Tensor, guidance: float) -> Tensor:
        """Classifier-free guidance: parameters [2B, P, ...] of streams given their notes, then none, ->
        combined ones [B, P, ...]. At guidance = 1 there are only the former, which stay as they are.

        0 is the null condition, 1 the notes, more goes beyond: the 1 + w of arXiv 2207.12598, equation 6. Of codes the
        logits are combined, and normalised where they are used; of a mixture, see `logistic_mixture.guided`.
        """
        if guidance == 1:
            return params
        own, null = params.chunk(2)
        return logistic_mixture.guided(own, null, guidance) if self.decoder.mixture else null.lerp(own, guidance)

    @property
    def uniforms_per_sample(self) -> int:
        """U: two for a mixture (component, quantile), one for a categorical."""
        return 2 if self.decoder.mixture else 1


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
            n_global=len(data.global_values),
        )
    except ValueError as error:
        raise InputError(str(error)) from error


class Caches:
    """Ring buffers of every layer's past inputs, [(K - 1) * dilation, B, R], and the K most recent samples [B, K].

    Row t % length holds the input at time t. Before the first sample the buffers are zero and the samples silent, as in
    the parallel pass.
    """

    def __init__(self, decoder: Decoder, batch_size: int) -> None:
        like = decoder.input.weight
        residual = decoder.config.n_residual_channels
        self.layers = [like.new_zeros(layer.history, batch_size, residual) for layer in decoder.layers]
        shape = (batch_size, decoder.taps)
        self.recent = torch.full(shape, decoder.silence, dtype=torch.long, device=like.device)

    def fill(self, index: int, x: Tensor) -> None:
        """Remember the end of one layer's input [T, B, R] of a parallel pass over the samples 0..T-1."""
        ring = self.layers[index]
        first = max(0, len(x) - len(ring))
        rows = torch.arange(first, len(x), device=x.device) % len(ring)
        ring[rows] = x[first:]

    def step(self, decoder: Decoder, time: int, cond: Tensor, output_cond: Tensor | None = None) -> Tensor:
        """Distribution parameters [B, P] of sample `time`, from cond [L, B, 2R] and output_cond [B, S]; remembers the
        layers' inputs."""
        x, hidden = decoder.embed(self.recent), []
        for layer, ring, layer_cond in zip(decoder.layers, self.layers, cond, strict=True):
            # The row written a whole ring ago, (K - 1) * d steps back, is read before it is written over.
            rows = [ring[(time + k * layer.dilation) % len(ring)] for k in range(layer.taps - 1)]
            hidden.append(layer.gate(torch.cat([*rows, x], dim=-1), layer_cond))
            ring[time % len(ring)] = x
            if layer.residual is not None:
                x = x + layer.residual(hidden[-1])
        return decoder.head(torch.cat(hidden, dim=-1), output_cond)

    def push(self, samples: Tensor) -> None:
        """Append the newest samples [B]."""
        self.recent = torch.cat([self.recent[:, 1:], samples.unsqueeze(1)], dim=1)


@dataclass(frozen=True)
class Conditioning:
    """Conditioning on demand, so that a piece of any length takes the same memory.

    features(first_frame, n_frames) -> [B, F + G, n_frames], for any frame, also before the start;
    excitation(first_frame, n_frames) -> [B, E, n_frames * hop], E >= 0;
    codes(first_frame, n_frames) -> int64 [B, n_frames], which the features are then not asked for.
    """

    features: Callable[[int, int], Tensor]
    excitation: Callable[[int, int], Tensor]
    codes: Callable[[int, int], Tensor] | None = None

    def block(self, model: WaveNet, first: int, n_frames: int) -> tuple[Tensor, Tensor]:
        """Context [B, C, left + n + right] and excitation [B, E, n * hop] of a range of frames."""
        if self.codes is not None:
            up = model.decoder.upsampling
            codes = self.codes(first - up.left, up.left + n_frames + up.right)
            return model.context.bottleneck.context(codes), self.excitation(first, n_frames)
        left, right = model.context_frames
        features = self.features(first - left, left + n_frames + right)
        return model.context(features), self.excitation(first, n_frames)


def rows_per_stream(guidance: float) -> int:
    """How often a stream passes through the decoder: with its notes, and for guidance under the null condition too."""
    return 1 if guidance == 1 else 2


@torch.inference_mode()
def prefill(
    model: WaveNet,
    conditioning: Conditioning,
    n_streams: int,
    n_frames: int,
    prefix: Tensor | None,
    guidance: float = 1.0,
) -> tuple[Caches, int]:
    """What a cached sampler starts from: caches that have heard the prefix, and the first frame to generate.

    With guidance the caches have twice the rows, as conditioning has (`generate`). Raises ValueError for a prefix that
    is not [B, P * hop] with 0 < P <= n_frames.
    """
    n_rows = rows_per_stream(guidance)
    caches, first = Caches(model.decoder, n_rows * n_streams), 0
    if prefix is not None:
        first = prefix.shape[1] // model.hop
        if prefix.shape[1] != first * model.hop or not 0 < first <= n_frames:
            raise ValueError(f"a prefix of {prefix.shape[1]} samples is not a whole number of frames up to {n_frames}")
        # What lies further back than the receptive field is not heard any more.
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
    guidance: float = 1.0,
    block_frames: int = 16,
) -> Iterator[Tensor]:
    """Generate n_frames * hop samples for each stream, block by block: the reference for every faster engine.

    uniforms(first, n) -> [B, n, U] for the samples first..first+n-1 (`sampling.uniforms`); prefix: [B, P * hop] samples
    that are taken as given (teacher-forced) before the model goes on by itself. guidance: see `WaveNet.guide`; if it is
    not 1, conditioning has 2B rows, the streams' own, then as many of the null condition. Both hear the same samples.
    Yields int64 blocks [B, n] (16-bit values or codes), the prefix first.
    """
    decoder, n_rows = model.decoder, rows_per_stream(guidance)
    caches, first = prefill(model, conditioning, n_streams, n_frames, prefix, guidance)
    if prefix is not None:
        yield prefix
    while first < n_frames:
        count = min(block_frames, n_frames - first)
        context, excitation = decoder.prepare(*conditioning.block(model, first, count))
        cond = torch.stack([decoder.layer_conditioning(layer, context, excitation) for layer in decoder.layers], dim=1)
        of_output = decoder.output_conditioning(context, excitation)
        draws = uniforms(first * model.hop, count * model.hop)
        block = torch.empty(draws.shape[:2], dtype=torch.long, device=draws.device)
        for i in range(block.shape[1]):
            output_cond = None if of_output is None else of_output[i]
            params = model.guide(caches.step(decoder, first * model.hop + i, cond[i], output_cond), guidance)
            block[:, i] = model.draw(params.unsqueeze(-1), draws[:, i : i + 1], temperature)[:, 0]
            caches.push(block[:, i].repeat(n_rows))
        yield block
        first += count


if __name__ == "__main__":  # what the model of a config costs
    from benchmarks import model_speed as cost  # it stands on this module, which otherwise knows nothing of it

    cost.run(cost.main)
