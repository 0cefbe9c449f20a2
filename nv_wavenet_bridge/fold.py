"""A model's decoder as the tensors of nv-wavenet's `NVWaveNet(**weights)`, and the reasons why some cannot be exported.

nv-wavenet has kernels for a few sizes (R, S, A) of residual, skip and output channels. A smaller model is widened with
zeros: channels that nobody writes to stay zero. What nv-wavenet has no place for is computed into what it has: the
input layer becomes two tables, the conditioning's projections and the excitation become the conditioning itself, the
temperature a factor of the last layer, and biases of the output layers the weights of two constant channels.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from midi2wave.audio.mu_law import MU
from midi2wave.config import WavenetConfig
from nv_wavenet_bridge.emulator import dilation_cycle

if TYPE_CHECKING:
    import torch

    from wavenet import WaveNet

# The (R, S, A) that nv-wavenet has kernels for.
SIZES = ((32, 128, 256), (64, 128, 256), (64, 256, 256), (128, 256, 256))
MAX_R, MAX_S, MAX_A = SIZES[-1]
# nv-wavenet counts the values of its buffers in 32 bits.
MAX_INDEX = 2**31 - 1
# The largest number of multiprocessors of a GPU (RTX PRO 6000).
MAX_MULTIPROCESSORS = 188


def obstacles(config: WavenetConfig) -> list[str]:
    """Every reason why models of this config can't be exported, each with the change that removes it."""
    reasons = []
    if config.output != "categorical":
        reasons.append(
            f"output = {config.output}: nv-wavenet draws one of {MU + 1} codes and feeds it back through a table, "
            "parameters of a mixture have no place there; set output = categorical"
        )
    if config.kernel_size != 2:
        reasons.append(f"kernel_size = {config.kernel_size}: nv-wavenet's layers have two taps; set kernel_size = 2")
    if config.output_conditioning:
        reasons.append(
            "output_conditioning = true: nv-wavenet conditions its layers only, nothing is added to the skip sum; set "
            "output_conditioning = false"
        )
    sizes = {"n_residual_channels": MAX_R, "n_skip_channels": MAX_S, "n_out_channels": MAX_A}
    for name, largest in sizes.items():
        if (value := getattr(config, name)) > largest:
            reasons.append(f"{name} = {value}: nv-wavenet's kernels have at most {largest}; set {name} = {largest}")
    full = [name for name in ("n_skip_channels", "n_out_channels") if getattr(config, name) >= sizes[name]]
    if config.output_bias and full:
        reasons.append(
            "output_bias = true: nv-wavenet's output layers have no biases, and to fold them takes a spare skip and a "
            f"spare output channel; set output_bias = false, or {' and '.join(f'{n} = {sizes[n] - 1}' for n in full)}"
        )
    max_layers = (MAX_MULTIPROCESSORS - persistent_blocks(0, MAX_R, MAX_S, MAX_A, 1)) // 3
    if config.n_residual_channels > 64 and config.n_layers > max_layers:
        reasons.append(
            f"n_layers = {config.n_layers}: beyond 64 residual channels nv-wavenet has the persistent kernel only, "
            f"which keeps three blocks a layer on the GPU; set n_layers = {max_layers} at most, or "
            "n_residual_channels = 64"
        )
    return [f"wavenet_config.{reason}" for reason in reasons]


def kernel_size(config: WavenetConfig) -> tuple[int, int, int]:
    """The smallest (R, S, A) that nv-wavenet has kernels for and that holds a model without obstacles."""
    spare = int(config.output_bias)
    return next(
        (r, s, a) for r, s, a in SIZES if r >= config.n_residual_channels and s >= config.n_skip_channels + spare
    )


def persistent_blocks(n_layers: int, r: int, s: int, a: int, batch_size: int) -> int:
    """Thread blocks of the persistent kernel, all of which must be on the GPU at once."""
    return 3 * n_layers + max(1, a // (4 * r)) * (s // r + a // r) + min(4, batch_size)


def max_samples(n_layers: int, r: int, batch_size: int) -> int:
    """How many samples of conditioning nv-wavenet can index, for each piece of a batch."""
    return MAX_INDEX // (n_layers * batch_size * 2 * r)


def history_fits(n_layers: int, max_dilation: int, r: int, batch_size: int) -> bool:
    """Whether nv-wavenet can index its buffer of the layers' past inputs."""
    return (max_dilation + 1) * (n_layers + 1) * r * batch_size <= MAX_INDEX


def longest_dilation(config: WavenetConfig) -> int:
    """The max_dilation to export: nv-wavenet's history grows with it, so no more than the layers reach."""
    return max(dilation_cycle(config.n_layers, config.max_dilation))


def fold(model: "WaveNet", temperature: float = 1.0) -> dict[str, Any]:
    """The arguments of NVWaveNet for a model without obstacles: float32 arrays, lists of them, an int and a bool."""
    decoder, config = model.decoder, model.decoder.config
    wide, skip, codes = kernel_size(config)
    n_layers, n_residual = config.n_layers, config.n_residual_channels
    prev, curr = np.split(_array(decoder.input.weight).T, 2)  # the older tap's columns come first
    skips = np.split(_array(decoder.skip.weight), n_layers, axis=1)
    skip_biases = [_widened(_array(decoder.skip.bias), skip)] + [np.zeros(skip) for _ in range(n_layers - 1)]
    dilated = [_array(layer.dilated.weight).reshape(2 * n_residual, 2, n_residual) for layer in decoder.layers]
    residuals = [layer.residual for layer in decoder.layers if layer.residual is not None]
    conv_out, conv_end = _head(model, temperature, skip_biases[0], codes)
    weights: dict[str, Any] = {
        "embedding_prev": _widened(prev, codes, wide),
        "embedding_curr": _widened(curr + _array(decoder.input.bias), codes, wide),
        "conv_out_weight": conv_out,
        "conv_end_weight": conv_end,
        "dilate_weights": [_widened(widen_halves(w, wide), 2 * wide, 2, wide).transpose(0, 2, 1) for w in dilated],
        "dilate_biases": [np.zeros(2 * wide) for _ in range(n_layers)],  # the layers' biases are in the conditioning
        "res_weights": [_widened(_array(linear.weight), wide, wide) for linear in residuals],
        "res_biases": [_widened(_array(linear.bias), wide) for linear in residuals],
        "skip_weights": [_widened(w, skip, wide) for w in skips],
        "skip_biases": skip_biases,
    }
    single: dict[str, Any] = {
        name: [_single(v) for v in value] if isinstance(value, list) else _single(value)
        for name, value in weights.items()
    }
    return {**single, "max_dilation": longest_dilation(config), "use_embed_tanh": False}


def _head(
    model: "WaveNet", temperature: float, first_skip_bias: np.ndarray, codes: int
) -> tuple[np.ndarray, np.ndarray]:
    """conv_out [A, S] and conv_end [A, A]; with biases, also writes the constant skip channel into the skip bias [S].

    That channel is 1 at the skip sum, carries the first bias, and stays 1 as an output channel that carries the second.
    """
    hidden, output = model.decoder.hidden, model.decoder.output
    conv_out = _widened(_array(hidden.weight), codes, len(first_skip_bias))
    conv_end = _widened(_array(output.weight), codes, codes)
    if hidden.bias is not None:
        n_hidden, one = hidden.weight.shape
        first_skip_bias[one] = 1
        conv_out[:n_hidden, one] = _array(hidden.bias)
        conv_out[n_hidden, one] = 1
        conv_end[:, n_hidden] = _array(output.bias)
    return conv_out, conv_end / temperature


def widen_halves(values: np.ndarray, wide: int) -> np.ndarray:
    """[2r, ...] -> [2 * wide, ...], the tanh and the sigmoid half each followed by zeros."""
    halves = np.split(values, 2)
    return np.concatenate([_widened(half, wide, *half.shape[1:]) for half in halves])


def _widened(values: np.ndarray, *shape: int) -> np.ndarray:
    out = np.zeros(shape, dtype=values.dtype)
    out[tuple(slice(n) for n in values.shape)] = values
    return out


def _array(tensor: "torch.Tensor") -> np.ndarray:
    return tensor.detach().cpu().numpy().astype(np.float64)


def _single(values: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(values, dtype=np.float32)
