"""The emulator: NVIDIA's own samples, the rule for drawing, and what a bundle check tolerates and what not."""

import numpy as np
import pytest
import torch

from logistic_mixture import from_cumulative
from midi2wave.config import WavenetConfig
from midi2wave.modules.upsampling import Upsampling
from nv_wavenet_bridge import bundle, check
from nv_wavenet_bridge.emulator import draw, emulate
from tests.helpers.paths import SHARED
from tests.helpers.pipeline import assert_failed, assert_refused, call
from wavenet import Caches, Decoder

FILES = sorted((SHARED / "nv_wavenet" / "golden").glob("*.npz"))
golden = pytest.mark.skipif(not FILES, reason="NVIDIA's samples are not at hand (../shared/nv_wavenet/golden)")


@golden
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_nvidias_reference_drew_the_same(path):
    outcome = call(check, "--golden", path, "--json")
    assert outcome.code == 0, outcome.err
    (line,) = outcome.result["right"].values()
    n_samples = np.load(path)["samples"].size
    assert line.startswith(f"{n_samples} of {n_samples} samples equal, last logits within ")
    assert float(line.split()[-1]) < 1e-5


@golden
@pytest.mark.parametrize("path", [p for p in FILES if "tanh" not in p.stem], ids=lambda path: path.stem)
def test_our_sampler_drew_the_same(path):
    """NVIDIA's weights in our own decoder, which has no tanh after its input; the first 600 samples."""
    weights, cond_input, stored = check.read_golden(path)
    size, n_samples = bundle.sizes(weights), 600
    config = WavenetConfig(
        output="categorical",
        output_bias=False,
        n_layers=size["L"],
        n_skip_channels=size["S"],
        max_dilation=weights["max_dilation"],
        n_residual_channels=size["R"],
        n_out_channels=size["A"],
    )
    decoder = Decoder(config, 0, Upsampling("repeat", 1, config.n_cond_channels)).double()
    w = {
        name: [torch.from_numpy(a).double() for a in value] if isinstance(value, list) else value
        for name, value in weights.items()
    }
    with torch.no_grad():
        tables = np.concatenate([weights["embedding_prev"], weights["embedding_curr"]])
        decoder.input.weight.copy_(torch.from_numpy(tables.T))
        decoder.input.bias.zero_()
        for i, layer in enumerate(decoder.layers):
            layer.dilated.weight.copy_(torch.cat([w["dilate_weights"][i][..., 0], w["dilate_weights"][i][..., 1]], 1))
            if layer.residual is not None:
                layer.residual.weight.copy_(w["res_weights"][i])
                layer.residual.bias.copy_(w["res_biases"][i])
        decoder.skip.weight.copy_(torch.cat(w["skip_weights"], 1))
        decoder.skip.bias.copy_(sum(w["skip_biases"]))
        decoder.hidden.weight.copy_(torch.from_numpy(weights["conv_out_weight"]))
        decoder.output.weight.copy_(torch.from_numpy(weights["conv_end_weight"]))
    cond = torch.from_numpy(cond_input[..., :n_samples]).double().permute(3, 2, 1, 0)  # [T, L, B, 2R]
    cond = cond + torch.stack(w["dilate_biases"])[:, None]
    uniforms, caches = torch.from_numpy(stored["uniforms"]), Caches(decoder, len(stored["uniforms"]))
    own_samples = []
    with torch.inference_mode():
        for t in range(n_samples):
            params = caches.step(decoder, t, cond[t]).unsqueeze(-1)
            own_samples.append(from_cumulative(params, uniforms[:, t : t + 1])[:, 0])
            caches.push(own_samples[-1])
    np.testing.assert_array_equal(torch.stack(own_samples, 1), stored["samples"][:, :n_samples])


MUTATIONS = [
    "embedding_prev",
    "embedding_curr",
    "conv_out_weight",
    "conv_end_weight",
    "dilate_weights.1",
    "dilate_biases.1",
    "res_weights.1",
    "res_biases.1",
    "skip_weights.1",
    "skip_biases.1",
    "cond_frames",
    "max_dilation",
    "use_embed_tanh",
    "uniforms",
    "samples",
]


@golden
@pytest.mark.parametrize("name", MUTATIONS)
def test_a_golden_file_with_one_wrong_tensor_fails(tmp_path, name):
    stored = dict(np.load(FILES[1]))
    array = stored[name]
    if name in ("res_weights.1", "conv_end_weight"):
        stored[name] = array.T
    elif name == "dilate_weights.1":
        stored[name] = array[..., ::-1]
    elif name == "use_embed_tanh":
        stored[name] = ~array
    elif name == "max_dilation":
        stored[name] = array // 2
    elif name == "samples":
        stored[name] = array.copy()
        stored[name][1, 17] += 1
    else:
        stored[name] = array[::-1]
    np.savez(tmp_path / "wrong.npz", **stored)
    assert_failed(call(check, "--golden", tmp_path / "wrong.npz", "--json"), 2, wrong="samples equal")


def test_files_that_are_no_golden_files(tmp_path):
    (tmp_path / "text.npz").write_text("a letter")
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    outcome = call(check, "--golden", tmp_path / "text.npz", tmp_path / "other.npz", tmp_path / "gone.npz", "--json")
    assert_failed(outcome, 2, text="not a golden file", other="not a golden file", gone="no such file")
    assert_refused(call(check), "nothing to check", "--golden")


@golden
def test_one_good_file_among_bad_ones(tmp_path):
    assert_failed(call(check, "--golden", FILES[1], tmp_path / "gone.npz", "--json"), 1, gone="no such file")


def test_draw_inverts_the_cumulative_mass():
    """The first code whose cumulative mass reaches the uniform is drawn."""
    logits = np.log([[1.0, 2.0, 0.0 + 1e-300, 1.0]])
    cases = {1e-9: 0, 0.25: 0, 0.2500001: 1, 0.75: 1, 0.7500001: 3, 1.0: 3}
    for uniform, code in cases.items():
        assert draw(logits, np.array([uniform])) == code, uniform
    np.testing.assert_array_equal(draw(np.repeat(logits, 2, 0), np.array([0.1, 0.9])), [0, 3])
    assert draw(np.full((1, 4), np.nan), np.array([0.5])) == 128  # no code is reached: silence


def small(batch_size=2, n_samples=60, seed=0):
    """Random weights of the smallest kind, not one of them symmetric, with conditioning and uniforms."""
    rng = np.random.default_rng(seed)
    wide, skip, codes, layers = 4, 8, 256, 3

    def make(*shape):
        return (rng.normal(size=shape) / np.sqrt(shape[-1])).astype(np.float32)

    weights = {
        "embedding_prev": make(codes, wide),
        "embedding_curr": make(codes, wide),
        "conv_out_weight": make(codes, skip),
        "conv_end_weight": make(codes, codes),
        "dilate_weights": [make(2 * wide, wide, 2) for _ in range(layers)],
        "dilate_biases": [make(2 * wide) for _ in range(layers)],
        "res_weights": [make(wide, wide) for _ in range(layers - 1)],
        "res_biases": [make(wide) for _ in range(layers - 1)],
        "skip_weights": [make(skip, wide) for _ in range(layers)],
        "skip_biases": [make(skip) for _ in range(layers)],
        "max_dilation": 2,
        "use_embed_tanh": True,
    }
    return weights, make(2 * wide, batch_size, layers, n_samples), rng.uniform(size=(batch_size, n_samples))


def codes_of(weights, cond_input, uniforms, teacher_codes=None):
    return np.stack([codes for codes, _ in emulate(weights, cond_input, uniforms, teacher_codes)], axis=1)


def test_the_first_step_is_the_contract_written_out():
    weights, cond_input, uniforms = small(batch_size=1)
    _, logits = next(emulate(weights, cond_input, uniforms))
    x, total = np.tanh(weights["embedding_prev"][128] + weights["embedding_curr"][128]), 0
    for i in range(3):
        gate = weights["dilate_weights"][i][:, :, 1] @ x + weights["dilate_biases"][i] + cond_input[:, 0, i, 0]
        hidden = np.tanh(gate[:4]) / (1 + np.exp(-gate[4:]))
        total = total + weights["skip_weights"][i] @ hidden + weights["skip_biases"][i]
        x = x + weights["res_weights"][i] @ hidden + weights["res_biases"][i] if i < 2 else None
    expected = weights["conv_end_weight"] @ np.maximum(weights["conv_out_weight"] @ np.maximum(total, 0), 0)
    np.testing.assert_allclose(logits[0], expected, rtol=0, atol=1e-6)


def test_pieces_are_independent_and_causal():
    """Pieces depend neither on their neighbours nor on the future."""
    weights, cond_input, uniforms = small()
    both = codes_of(weights, cond_input, uniforms)
    for piece in range(2):
        alone = codes_of(weights, cond_input[:, piece : piece + 1], uniforms[piece : piece + 1])
        np.testing.assert_array_equal(alone[0], both[piece])
    np.testing.assert_array_equal(codes_of(weights, cond_input[..., :30], uniforms[:, :30]), both[:, :30])


def test_teacher_forcing_with_own_samples_changes_nothing():
    case = small()
    free = codes_of(*case)
    np.testing.assert_array_equal(codes_of(*case, teacher_codes=free), free)
    assert (codes_of(*case, teacher_codes=np.full_like(free, 3)) != free).any()


def test_uniform_on_the_edge_of_a_bin():
    """A uniform on the edge of a bin may fall to either side and nowhere else."""
    weights, cond_input, uniforms = small()
    codes = codes_of(weights, cond_input, uniforms)
    assert check.compare(weights, cond_input, uniforms, codes) == check.Comparison(codes.size, 0, 0, None)
    *_, (_, logits) = emulate(weights, cond_input, uniforms)
    last = check.cumulative(logits)[1, codes[1, -1]]  # the upper edge of the bin that the last step drew
    for distance, on_edge, wrong in [(1e-7, 1, 0), (1e-3, 0, 1)]:
        moved = uniforms.copy()
        moved[1, -1] = last - distance
        neighbour = codes.copy()
        neighbour[1, -1] += 1
        comparison = check.compare(weights, cond_input, moved, neighbour)
        assert (comparison.on_edge, comparison.wrong) == (on_edge, wrong)
        assert comparison.first == ((1, codes.shape[1] - 1) if wrong else None)
