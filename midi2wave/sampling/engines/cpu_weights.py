"""The decoder's weights as the contiguous arrays that the CPU engine reads; only this module defines their layout.

Every matrix is cut into blocks of 16 output rows, one per lane, and these into panels of up to four blocks; a panel
holds its inputs one after the other, so that the inner loop of `simd.multiply` reads memory sequentially. Channels
are padded with zeros to multiples of 16, which adds nothing to any sum.
"""

import itertools
from typing import NamedTuple

import numpy as np
import torch

from midi2wave.modules.residual_layer import EmptyLinear
from midi2wave.sampling.engines.llvm_vectors import LANES
from midi2wave.sampling.engines.simd import PANEL_BLOCKS
from wavenet import Decoder

# In bytes.
CACHE_LINE = 64
# The largest number of samples whose products with the past are computed together.
MAX_AHEAD = 16


class Weights(NamedTuple):
    """The arrays; `matrices` are float32, or bfloat16 as uint16. Lengths in channels are padded ones.

    Attributes:
        chain: Per layer the gate's newest tap [2R, R], then the residual product [R, R]: samples wait for both.
        past: Per layer the gate's older taps, oldest first, each [2R, R].
        aux_inputs: Per layer the products with the audio-rate inputs [2R, E], always float32.
        skip: Per layer [S, R].
        hidden: [A, S].
        output: [P, A].
    """

    embedding: np.ndarray  # [K * (256 or 2), R], float32, not cut
    embedding_bias: np.ndarray  # [R]
    chain: np.ndarray
    past: np.ndarray
    aux_inputs: np.ndarray
    residual_bias: np.ndarray  # [L, R]
    skip: np.ndarray
    skip_bias: np.ndarray  # [S]
    skip_aux_inputs: np.ndarray  # [S, E], float32: of the audio-rate inputs, if the output is conditioned
    hidden: np.ndarray
    hidden_bias: np.ndarray  # [A]
    output: np.ndarray
    output_bias: np.ndarray  # [P]
    dilations: np.ndarray  # [L], int64
    ahead: np.ndarray  # [L], int64: samples whose products with the past can be taken together
    phase: np.ndarray  # [L], int64: where their stretches begin, not all at once
    ring_start: np.ndarray  # [L], int64: where each layer's ring begins, in rows
    ring_rows: np.ndarray  # [L], int64
    skip_cuts: np.ndarray  # [threads + 1], int64: which row blocks of the skip product each thread takes
    hidden_cuts: np.ndarray
    output_cuts: np.ndarray
    n_layers: int
    n_taps: int
    n_residual: int  # R
    n_skip: int  # S
    n_middle: int  # A
    n_aux_inputs: int  # E
    n_outputs: int  # P
    n_params: int  # P without padding
    n_mixtures: int  # 0: categorical
    # Whether the skip sum begins with `Block.output_frames` and the products with aux_inputs, not with skip_bias.
    is_output_conditioned: bool


def padded(n: int) -> int:
    """Round n up to whole lanes."""
    return -(-n // LANES) * LANES


def to_bfloat16(values: np.ndarray) -> np.ndarray:
    """float32 -> bfloat16 bits as uint16, rounded to nearest, ties to even."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def from_bfloat16(bits: np.ndarray) -> np.ndarray:
    """bfloat16 bits as uint16 -> float32."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def aligned(array: np.ndarray) -> np.ndarray:
    """A copy that begins at a cache line: loading a register that straddles two lines takes twice as long."""
    raw = np.empty(array.nbytes + CACHE_LINE, np.uint8)
    start = -raw.ctypes.data % CACHE_LINE
    result = raw[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    result[...] = array
    return result


def pack(matrix: np.ndarray, cuts: np.ndarray | None = None, *, bfloat16: bool = False) -> np.ndarray:
    """Pack a matrix for `simd.multiply`, panel after panel.

    Args:
        matrix: float32 [rows, inputs], both multiples of 16.
        cuts: Bounds in row blocks that no panel crosses, so that each thread's rows lie together.
        bfloat16: Whether the weights are rounded to bfloat16, whose inputs go in pairs.

    Returns:
        One flat array: float32, or bfloat16 as uint16.
    """
    inputs = matrix.shape[1]
    bounds = [0, len(matrix) // LANES] if cuts is None else cuts.tolist()
    panels = []
    for begin, end in itertools.pairwise(bounds):
        block = begin
        while block < end:
            left = end - block
            wide = PANEL_BLOCKS if left >= PANEL_BLOCKS else 2 if left >= 2 else 1
            rows = matrix[block * LANES : (block + wide) * LANES]
            # bfloat16 inputs go in pairs, as the processor multiplies them
            panels.append(rows.reshape(len(rows), inputs // 2, 2).swapaxes(0, 1) if bfloat16 else rows.T)
            block += wide
    flat = np.concatenate([np.ascontiguousarray(panel).reshape(-1) for panel in panels])
    return to_bfloat16(flat) if bfloat16 else flat


def _array(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().to("cpu", torch.float32).numpy()


def _pad(matrix: np.ndarray, rows: int, columns: int) -> np.ndarray:
    result = np.zeros((rows, columns), dtype=np.float32)
    result[: matrix.shape[0], : matrix.shape[1]] = matrix
    return result


def _pad_bias(bias: torch.Tensor | None, n: int) -> np.ndarray:
    return np.zeros(n, dtype=np.float32) if bias is None else _pad(_array(bias)[None], 1, n)[0]


def _gate_rows(weight: np.ndarray, columns: int) -> np.ndarray:
    """[2R, n] -> [2R, n] padded: the tanh half and the sigmoid half each to whole lanes."""
    return np.concatenate([_pad(half, padded(len(half)), columns) for half in np.split(weight, 2)])


def conditioning_layer(decoder: Decoder) -> tuple[torch.Tensor, torch.Tensor]:
    """The layers' conditioning products as one: weight [L * 2R, C] and bias [L * 2R], gate halves padded.

    If the output is conditioned, the S padded rows of that product follow, with the bias of the skip sum.
    """
    weights = [_gate_rows(_array(layer.cond.weight), layer.cond.in_features) for layer in decoder.layers]
    biases = [_gate_rows(_array(layer.cond.bias)[:, None], 1)[:, 0] for layer in decoder.layers]
    if decoder.output_cond is not None:
        skip = padded(decoder.config.n_skip_channels)
        weights.append(_pad(_array(decoder.output_cond.weight), skip, decoder.output_cond.in_features))
        biases.append(_pad_bias(decoder.skip.bias, skip))
    return torch.from_numpy(np.concatenate(weights)), torch.from_numpy(np.concatenate(biases))


def n_aux_inputs(decoder: Decoder) -> int:
    """Audio-rate inputs of every gate: the excitation, and the context if it is upsampled before projecting."""
    layer = decoder.layers[0]
    return layer.excitation.in_features + (0 if decoder.upsampling.commutes else layer.cond.in_features)


def _aux_weights(cond: torch.nn.Linear, excitation: torch.nn.Linear | EmptyLinear, commutes: bool) -> np.ndarray:
    """The weights of the audio-rate inputs in the order of `n_aux_inputs`: [rows, E]."""
    parts = [_array(excitation.weight)]
    parts += [] if commutes else [_array(cond.weight)]
    return np.concatenate(parts, axis=1)


def _packed_aux_weights(decoder: Decoder, skip_cuts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`Weights.aux_inputs` and `skip_aux_inputs`, packed; empty where there is nothing to multiply."""
    inputs, commutes = n_aux_inputs(decoder), decoder.upsampling.commutes
    nothing = np.zeros(0, np.float32)
    if not inputs:
        return nothing, nothing
    layers = [pack(_gate_rows(_aux_weights(one.cond, one.excitation, commutes), inputs)) for one in decoder.layers]
    if decoder.output_cond is None or decoder.output_excitation is None:
        return np.concatenate(layers), nothing
    output = _aux_weights(decoder.output_cond, decoder.output_excitation, commutes)
    return np.concatenate(layers), pack(_pad(output, padded(len(output)), inputs), skip_cuts)


def _split_blocks(n_blocks: int, fractions: list[float]) -> np.ndarray:
    """Bounds that split n_blocks row blocks in proportion to the fractions, [len(fractions) + 1]."""
    return np.rint(np.cumsum([0.0, *fractions]) / sum(fractions) * n_blocks).astype(np.int64)


def _cuts(skip: int, middle: int, outputs: int, n_threads: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which rows of the skip, middle and output product each thread of a group takes.

    The first thread has the chain of layers to itself and prepares the next samples: the skip product is the others'.
    Few outputs are not worth an exchange between cores.
    """
    followers = [1.0] * (n_threads - 1)
    few = outputs // LANES < 2 * n_threads + 2
    return (
        _split_blocks(skip // LANES, [0.0 if followers else 1.0, *followers]),
        _split_blocks(middle // LANES, [1.0, *followers]),
        _split_blocks(outputs // LANES, [1.0] + [0.0] * len(followers) if few else [1.0, *followers]),
    )


def _layer_matrices(decoder: Decoder) -> tuple[list[np.ndarray], list[np.ndarray], list[np.ndarray]]:
    """The matrices of `Weights.chain`, `past` and `skip`, padded, layer after layer."""
    n = decoder.config.n_residual_channels
    residual, skip = padded(n), padded(decoder.config.n_skip_channels)
    chain, past, skips = [], [], []
    for i, layer in enumerate(decoder.layers):
        taps = np.split(_array(layer.dilated.weight), layer.taps, axis=1)
        # The last layer has no residual product.
        product = np.zeros((0, 0)) if layer.residual is None else _array(layer.residual.weight)
        chain += [_gate_rows(taps[-1], residual), _pad(product, residual, residual)]
        past += [_gate_rows(weight, residual) for weight in taps[:-1]]
        skips.append(_pad(_array(decoder.skip.weight)[:, i * n : (i + 1) * n], skip, residual))
    return chain, past, skips


def _output_layer(decoder: Decoder) -> tuple[np.ndarray, np.ndarray]:
    """Weight [P, A] and bias [P] of the last product, the means' unit (`wavenet.MEAN_UNIT`) included."""
    n_params = decoder.output.out_features
    units = _array(decoder.units) if decoder.mixture else np.ones(n_params, np.float32)
    weight, bias = _array(decoder.output.weight) * units[:, None], _pad_bias(decoder.output.bias, n_params) * units
    return _pad(weight, padded(n_params), padded(weight.shape[1])), _pad(bias[None], 1, padded(n_params))[0]


def _loop_arrays(decoder: Decoder) -> dict[str, np.ndarray]:
    """The fields of `Weights` that say where each layer's ring and its precomputed gates are."""
    dilations = np.array([layer.dilation for layer in decoder.layers], np.int64)
    ring_rows = dilations * (decoder.taps - 1)
    # Layers with the shortest dilations begin a range of samples wherever their rings begin anew: they need no phase.
    phase = np.where(dilations > MAX_AHEAD, 5 * np.arange(len(dilations)) % MAX_AHEAD, 0)
    return {
        "dilations": dilations,
        "ahead": np.minimum(dilations, MAX_AHEAD),
        "phase": phase,
        "ring_start": np.cumsum(ring_rows) - ring_rows,
        "ring_rows": ring_rows,
    }


def pack_decoder(decoder: Decoder, n_threads: int, *, bfloat16: bool) -> Weights:
    """All arrays of a decoder for a group of n_threads threads."""
    config, layers = decoder.config, decoder.layers
    residual, skip, middle = map(padded, (config.n_residual_channels, config.n_skip_channels, config.n_out_channels))
    output, output_bias = _output_layer(decoder)
    skip_cuts, hidden_cuts, output_cuts = _cuts(skip, middle, len(output), n_threads)

    def flat(matrices: list[np.ndarray], cuts: np.ndarray | None = None) -> np.ndarray:
        return np.concatenate([pack(matrix, cuts, bfloat16=bfloat16) for matrix in matrices])

    chain, past, skips = _layer_matrices(decoder)
    aux_inputs, skip_aux_inputs = _packed_aux_weights(decoder, skip_cuts)
    residual_biases = [None if layer.residual is None else layer.residual.bias for layer in layers]
    arrays = dict(
        embedding=_pad(_array(decoder.input.weight).T, decoder.input.in_features, residual),
        embedding_bias=_pad_bias(decoder.input.bias, residual),
        chain=flat(chain),
        past=flat(past),
        aux_inputs=aux_inputs,
        residual_bias=np.stack([_pad_bias(bias, residual) for bias in residual_biases]),
        skip=flat(skips, skip_cuts),
        skip_bias=_pad_bias(decoder.skip.bias, skip),
        skip_aux_inputs=skip_aux_inputs,
        hidden=flat([_pad(_array(decoder.hidden.weight), middle, skip)], hidden_cuts),
        hidden_bias=_pad_bias(decoder.hidden.bias, middle),
        output=flat([output], output_cuts),
        output_bias=output_bias,
        skip_cuts=skip_cuts,
        hidden_cuts=hidden_cuts,
        output_cuts=output_cuts,
        **_loop_arrays(decoder),
    )
    return Weights(
        **{name: aligned(array) for name, array in arrays.items()},
        n_layers=len(layers),
        n_taps=decoder.taps,
        n_residual=residual,
        n_skip=skip,
        n_middle=middle,
        n_aux_inputs=n_aux_inputs(decoder),
        n_outputs=len(output),
        n_params=decoder.output.out_features,
        n_mixtures=config.n_mixtures if decoder.mixture else 0,
        is_output_conditioned=decoder.output_cond is not None,
    )
