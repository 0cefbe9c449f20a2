"""nv-wavenet's arithmetic and sampling rule in NumPy, one step after the other, in float64.

With d_l the dilation of layer l and y the codes drawn so far (silence before the first one):

    x_0     = prev[y[t-2]] + curr[y[t-1]], then tanh if use_embed_tanh
    a_l     = W_l[..., 0] x_l[t - d_l] + W_l[..., 1] x_l[t] + bias_l + cond[:, b, l, t]
    h_l     = tanh(a_l[:R]) * sigmoid(a_l[R:])
    x_{l+1} = x_l + residual_l h_l
    logits  = conv_end relu(conv_out relu(sum of skip_l h_l))

NVIDIA's kernels compute in float32: where a uniform lies within their rounding of a bin's edge, they may draw its
neighbour.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

SILENT_CODE = 128  # nv-wavenet's own constant


def dilation_cycle(n_layers: int, max_dilation: int) -> list[int]:
    """The dilations that nv-wavenet uses: doubling from 1, and from 1 again where max_dilation would be exceeded."""
    length = max_dilation.bit_length()
    return [1 << layer % length for layer in range(n_layers)]


def emulate(
    weights: dict[str, Any], cond_input: np.ndarray, uniforms: np.ndarray, teacher_codes: np.ndarray | None = None
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Run the network sample by sample.

    Args:
        weights: The arguments of NVWaveNet, as arrays.
        cond_input: [2R, B, L, T].
        uniforms: [B, T].
        teacher_codes: Codes [B, T] that replace the drawn ones as the past; None: free-running.

    Yields:
        The drawn codes [B] and the logits [B, A] of every sample.
    """
    step = _network(weights, batch_size := uniforms.shape[0])
    before = last = np.full(batch_size, SILENT_CODE)
    for t in range(uniforms.shape[1]):
        logits = step(t, before, last, cond_input[..., t])
        codes = draw(logits, uniforms[:, t])
        yield codes, logits
        before, last = last, codes if teacher_codes is None else teacher_codes[:, t].astype(np.int64)


def draw(logits: np.ndarray, uniforms: np.ndarray) -> np.ndarray:
    """The first codes, in code order, whose cumulative mass reaches the uniforms; silence where none does.

    Args:
        logits: [B, A].
        uniforms: In (0, 1), [B].

    Returns:
        Codes, int64 [B].
    """
    mass = cumulative(logits)
    reached = uniforms.astype(np.float64)[:, None] <= mass
    return np.where(reached.any(axis=1), reached.argmax(axis=1), SILENT_CODE)


def cumulative(logits: np.ndarray) -> np.ndarray:
    """Map logits [B, A] -> the upper edges of the codes' bins [B, A]; the last one is 1."""
    mass = np.exp(logits - logits.max(axis=1, keepdims=True)).cumsum(axis=1)
    return mass / mass[:, -1:]


def _network(weights: dict[str, Any], batch_size: int) -> Callable[..., np.ndarray]:
    """The function (t, code before last [B], last code [B], cond [2R, B, L]) -> logits [B, A], with its history."""
    prev, curr = _double(weights["embedding_prev"]), _double(weights["embedding_curr"])
    n_layers, n_residual = len(weights["dilate_weights"]), prev.shape[1]
    # Products are taken with rows as vectors, [B, in] @ [in, out]; older tap above, current one below.
    taps = [_double(w).transpose(2, 1, 0).reshape(2 * n_residual, -1) for w in weights["dilate_weights"]]
    residual, skip = ([_double(w).T for w in weights[f"{name}_weights"]] for name in ("res", "skip"))
    biases, residual_biases, skip_biases = (
        [_double(b) for b in weights[f"{name}_biases"]] for name in ("dilate", "res", "skip")
    )
    conv_out, conv_end = _double(weights["conv_out_weight"]).T, _double(weights["conv_end_weight"]).T
    steps = dilation_cycle(n_layers, weights["max_dilation"])
    history = [np.zeros((dilation, batch_size, n_residual)) for dilation in steps]

    def step(t: int, before: np.ndarray, last: np.ndarray, cond: np.ndarray) -> np.ndarray:
        x = prev[before] + curr[last]
        if weights["use_embed_tanh"]:
            x = np.tanh(x)
        cond = _double(cond).transpose(2, 1, 0)  # [L, B, 2R]
        total = np.zeros((batch_size, conv_out.shape[0]))
        for layer in range(n_layers):
            ring, row = history[layer], t % steps[layer]
            gate = np.concatenate([ring[row], x], axis=1) @ taps[layer] + biases[layer] + cond[layer]
            ring[row] = x
            # The sigmoid by way of tanh, which does not overflow.
            hidden = np.tanh(gate[:, :n_residual]) * (0.5 + 0.5 * np.tanh(0.5 * gate[:, n_residual:]))
            total += hidden @ skip[layer] + skip_biases[layer]
            if layer < n_layers - 1:
                x = x + hidden @ residual[layer] + residual_biases[layer]
        return np.maximum(np.maximum(total, 0) @ conv_out, 0) @ conv_end

    return step


def _double(array: np.ndarray) -> np.ndarray:
    return np.asarray(array, dtype=np.float64)
