"""The discretized mixture of logistics over 16-bit samples: log-likelihood and sampling.

PixelCNN++ (arXiv 1701.05517, section 2.1), applied to audio by Parallel WaveNet (arXiv 1711.10433, section 2.1).
A 16-bit sample s stands for the amplitude s / 32768; its bin reaches half a step to either side, and the two edge bins
reach to infinity, so that the probabilities of all 65,536 bins sum to 1.

Parameters come as [B, 3K, T]: K component logits, K means (amplitudes), K log-scales (of amplitudes).
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from midi2wave.audio.pcm import FULL_SCALE

HALF_BIN = 0.5 / FULL_SCALE
# This scale (6e-6, a fifth of a bin) puts all mass into one bin; smaller ones gain nothing and overflow.
MIN_LOG_SCALE = -12.0


def split(params: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Component logits, means and log-scales, each [B, K, ...] and at least float32, of params [B, 3K, ...]."""
    params = params if params.dtype == torch.float64 else params.float()
    logits, means, log_scales = params.chunk(3, dim=1)
    return logits, means, log_scales.clamp(min=MIN_LOG_SCALE)


def log_likelihood(params: Tensor, samples: Tensor) -> Tensor:
    """Log-probability in nats of 16-bit samples; computed in float32 also under autocast.

    Args:
        params: [B, 3K, T].
        samples: Integers in -32768..32767, [B, T].

    Returns:
        [B, T].
    """
    with torch.autocast(params.device.type, enabled=False):
        logits, means, log_scales = split(params)
        samples = samples.unsqueeze(1)  # [B, 1, T]
        inverse_scales = torch.exp(-log_scales)
        centred = samples.to(means.dtype) / FULL_SCALE - means
        upper = (centred + HALF_BIN) * inverse_scales
        lower = (centred - HALF_BIN) * inverse_scales
        # With s the sigmoid, s(u) - s(l) = s(u) s(-l) (1 - exp(l - u)) holds exactly. The width u - l is known without
        # subtracting, so that no bin, however far out or narrow, loses digits, and no branch is needed.
        width = 2 * HALF_BIN * inverse_scales
        log_below_upper = F.logsigmoid(upper)
        log_above_lower = F.logsigmoid(-lower)
        inner = log_below_upper + log_above_lower + torch.log(-torch.expm1(-width))
        log_bins = torch.where(samples == -FULL_SCALE, log_below_upper, inner)
        log_bins = torch.where(samples == FULL_SCALE - 1, log_above_lower, log_bins)
        return torch.logsumexp(F.log_softmax(logits, dim=1) + log_bins, dim=1)


def sample(params: Tensor, uniforms: Tensor, temperature: float = 1.0) -> Tensor:
    """Draw 16-bit samples: the first uniform selects the component, the second is the logistic's quantile.

    Args:
        params: [B, 3K, T].
        uniforms: In (0, 1), [B, T, 2].
        temperature: It divides the component logits and multiplies the scales: below 1 the selection is sharper and
            the components are narrower.

    Returns:
        int64 [B, T].
    """
    logits, means, log_scales = split(params)
    component = from_cumulative(logits / temperature, uniforms[..., 0]).unsqueeze(1)  # [B, 1, T]
    mean = means.gather(1, component).squeeze(1)
    log_scale = log_scales.gather(1, component).squeeze(1) + math.log(temperature)
    quantile = torch.logit(uniforms[..., 1].to(mean.dtype))
    amplitude = mean + torch.exp(log_scale) * quantile
    # Rounding to the nearest bin centre makes the drawn bins follow the likelihood above, edges included.
    return torch.floor(amplitude * FULL_SCALE + 0.5).clamp(-FULL_SCALE, FULL_SCALE - 1).long()


def mean_sample(params: Tensor, temperature: float = 1.0) -> Tensor:
    """The mean of the mixture in units of 16-bit samples, not rounded.

    Args:
        params: [B, 3K, T].
        temperature: It divides the component logits.

    Returns:
        float32 [B, T].
    """
    logits, means, _ = split(params)
    logits = logits / temperature
    mass = torch.exp(logits - logits.amax(dim=1, keepdim=True)).double()  # As exactly as the faster engines.
    amplitude = (mass * means.double()).sum(dim=1) / mass.sum(dim=1)
    return (amplitude * FULL_SCALE).clamp(-FULL_SCALE, FULL_SCALE - 1).float()


def mean_class(logits: Tensor) -> Tensor:
    """The mean of a distribution over ordered classes, a class with a fraction.

    Args:
        logits: [B, A, T].

    Returns:
        float32 [B, T].
    """
    mass = torch.exp(logits - logits.amax(dim=1, keepdim=True)).double()  # As exactly as the faster engines.
    classes = torch.arange(mass.shape[1], dtype=mass.dtype, device=mass.device).unsqueeze(1)
    return ((mass * classes).sum(dim=1) / mass.sum(dim=1)).float()


def guided(own: Tensor, null: Tensor, guidance: float) -> Tensor:
    """Classifier-free guidance of mixtures: the difference between `own` and `null`, scaled by `guidance`.

    The distribution that guidance means, p_own^g p_null^(1-g) (arXiv 2207.12598), is no mixture of logistics, and is
    far too wide where the notes make the model less certain: tails of scales s are like
    exp(-|x| (g / s_own - (g - 1) / s_null)). Instead, component k of the one is taken to be component k of the other,
    as the same weights computed them, and with v = min(g, 1)

        logits     = null + g (own - null)
        log-scales = null + v (own - null)              between the two: guidance adds no noise
        means      = null + v (own - null) + (g - v) m  where m = sum_k softmax(own logits)_k (own mean_k - null mean_k)

    Of two components of one width the power law makes just this shift (exactly, if they are Gaussian). Beyond 1 all
    components move together: the means of components with little weight are not trained, and each by itself would move
    far away.

    Args:
        own: Parameters with the notes, [B, 3K, ...].
        null: Parameters under the null condition, [B, 3K, ...].
        guidance: g, 0 or more.

    Returns:
        [B, 3K, ...]: exactly `null` at g = 0 and `own` at g = 1.
    """
    own_logits, own_means, own_scales = own.chunk(3, dim=1)
    null_logits, null_means, null_scales = null.chunk(3, dim=1)
    within = min(guidance, 1.0)
    logits, means = torch.lerp(null_logits, own_logits, guidance), torch.lerp(null_means, own_means, within)
    if guidance > 1:
        moved = (torch.softmax(own_logits, dim=1) * (own_means - null_means)).sum(dim=1, keepdim=True)
        means = means + (guidance - 1) * moved
    return torch.cat([logits, means, torch.lerp(null_scales, own_scales, within)], dim=1)


def from_cumulative(logits: Tensor, uniforms: Tensor) -> Tensor:
    """Inverse of the cumulative distribution, in class order: the first class whose cumulative mass exceeds u.

    Args:
        logits: [B, A, T].
        uniforms: u in (0, 1), [B, T].

    Returns:
        int64 [B, T].
    """
    mass = torch.exp(logits - logits.amax(dim=1, keepdim=True)).cumsum(dim=1)
    threshold = uniforms.to(mass.dtype).unsqueeze(1) * mass[:, -1:]
    return (mass <= threshold).sum(dim=1).clamp(max=logits.shape[1] - 1)
