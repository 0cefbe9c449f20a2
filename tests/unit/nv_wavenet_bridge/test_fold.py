"""Every tensor that nv-wavenet gets, one by one, and every reason for which a model is refused.

The models' weights are random, asymmetric and of different sizes in every dimension that can differ.
"""

import json

import numpy as np
import pytest
import torch

from midi2wave.conditioning.excitation import N_EXCITATION
from midi2wave.conditioning.features import n_features
from midi2wave.config import CONFIG_FOLDER, CondWavenetConfig, Config, DataConfig, WavenetConfig
from midi2wave.modules.residual_layer import dilations
from midi2wave.sampling.uniforms import seeded_uniforms
from nv_wavenet_bridge import bundle, fold
from nv_wavenet_bridge.emulator import dilation_cycle, emulate
from nv_wavenet_bridge.export import conditioning_blocks
from wavenet import Conditioning, build_model, generate

HOP, N_FRAMES, BATCH = 16, 19, 3  # frames: not a multiple of the block


def make_model(upsampling="linear", excitation=True, **overrides):
    """An untrained model, in float64, whose every weight and bias is random and matters."""
    options = {
        "n_layers": 5,
        "max_dilation": 4,
        "n_residual_channels": 7,
        "n_skip_channels": 11,
        "n_out_channels": 13,
        "n_cond_channels": 6,
        "output": "categorical",
        **overrides,
    }
    config = Config(
        data_config=DataConfig(audio_hz=250 * HOP, midi_hz=250, excitation=excitation),
        wavenet_config=WavenetConfig(**options),
        cond_wavenet_config=CondWavenetConfig(
            n_layers=2,
            max_dilation=2,
            n_residual_channels=8,
            n_skip_channels=9,
            lookahead_ms=8.0,
            upsampling=upsampling,
        ),
    )
    torch.manual_seed(1)
    model = build_model(config).double().eval()
    with torch.no_grad():
        for name, parameter in model.decoder.named_parameters():
            scale = 0.5 if parameter.ndim == 1 else 1.5 / parameter.shape[1] ** 0.5
            parameter.normal_(std=1.0 if name == "input.weight" else scale)
    return model


def make_conditioning(model, seed=2):
    rng = np.random.default_rng(seed)
    left, right = model.context_frames
    n_inputs = n_features(["note_state"])
    features = torch.from_numpy(rng.normal(size=(BATCH, n_inputs, left + N_FRAMES + right)))
    excitation = torch.from_numpy(rng.normal(size=(BATCH, N_EXCITATION, N_FRAMES * HOP)))
    excitation = excitation[:, : model.decoder.layers[0].excitation.in_features]
    return Conditioning(
        lambda first, n: features[..., first + left :][..., :n],
        lambda first, n: excitation[..., first * HOP : (first + n) * HOP],
    )


def folded(model, temperature=1.0):
    """The weights, checked for shape and kind, and cond_input [2R, B, L, T] of a model."""
    weights = fold.fold(model, temperature)
    bundle.unflatten(bundle.flatten(weights), "the model")
    wide = weights["embedding_curr"].shape[1]
    blocks = conditioning_blocks(model, make_conditioning(model), N_FRAMES)
    return weights, np.concatenate([fold.widen_halves(block, wide) for block in blocks], axis=-1)


CASES = {
    "no output bias": {"output_bias": False},
    "output bias": {},
    "a full kernel size": {
        "n_residual_channels": 32,
        "n_skip_channels": 128,
        "n_out_channels": 256,
        "output_bias": False,
    },
    "bias in one spare channel": {"n_residual_channels": 32, "n_skip_channels": 127, "n_out_channels": 255},
    "a width between two sizes": {"n_residual_channels": 33, "n_skip_channels": 129},
    "the widest": {"n_residual_channels": 65, "n_layers": 3},
    "repeat": {"upsampling": "repeat"},
    "learned window": {"upsampling": "transposed"},
    "no excitation": {"excitation": False},
    "one layer": {"n_layers": 1},
    "history beyond the layers": {"n_layers": 3, "max_dilation": 512},
    "max_dilation no power of two": {"n_layers": 6, "max_dilation": 6},
}


@pytest.mark.parametrize(("case", "temperature"), [("output bias", 1.0), *((case, 0.7) for case in CASES)])
def test_our_sampler_and_the_emulator_draw_the_same(case, temperature):
    """Float32 weights against the float64 model: logits agree to rounding, samples exactly."""
    model = make_model(**CASES[case])
    weights, cond_input = folded(model, temperature)
    draws = seeded_uniforms(3, [0, 1, 5], 1)
    model_rows = torch.cat(
        list(generate(model, make_conditioning(model), draws, BATCH, N_FRAMES, temperature=temperature)), 1
    )
    uniforms = draws(0, N_FRAMES * HOP)[..., 0].numpy()
    steps = list(emulate(weights, cond_input, uniforms))
    np.testing.assert_array_equal(np.stack([own_samples for own_samples, _ in steps], axis=1), model_rows)
    assert len(np.unique(model_rows)) > 50  # the choice is wide: a wrong tensor shows
    with torch.inference_mode():
        context, excitation = make_conditioning(model).block(model, 0, N_FRAMES)
        logits = model.decoder(model.decoder.prepend_silence(model_rows), context, excitation).numpy() / temperature
    emulated = np.stack([logits for _, logits in steps], axis=-1)
    np.testing.assert_allclose(emulated, logits, rtol=0, atol=2e-5)


@pytest.fixture(scope="module")
def one():
    model = make_model()
    return model.decoder, *folded(model)


def numpy(tensor):
    return tensor.detach().numpy().astype(np.float32)


def only(array, *index):
    """Whether everything outside an index is zero."""
    rest = array.copy()
    rest[index] = 0
    return not rest.any()


def test_layout_of_the_embeddings(one):
    decoder, weights, _ = one
    for code in (0, 128, 255):
        older, newer = torch.zeros(512, dtype=torch.float64), torch.zeros(512, dtype=torch.float64)
        older[code], newer[256 + code] = 1, 1
        prev, curr = weights["embedding_prev"][code], weights["embedding_curr"][code]
        np.testing.assert_array_equal(prev[:7], numpy(decoder.input.weight @ older))
        embedded = torch.nn.functional.linear(newer, decoder.input.weight, decoder.input.bias)
        np.testing.assert_array_equal(curr[:7], numpy(embedded))
        assert not prev[7:].any() and not curr[7:].any()


def test_layout_of_the_dilated_layers(one):
    decoder, weights, _ = one
    for layer, array in zip(decoder.layers, weights["dilate_weights"], strict=True):
        assert array.shape == (64, 32, 2)
        halves = ((slice(0, 7), slice(0, 7)), (slice(32, 39), slice(7, 14)))  # tanh, sigmoid: theirs, ours
        for exported_rows, model_rows in halves:
            np.testing.assert_array_equal(
                array[exported_rows, :7, 0], numpy(layer.dilated.weight[model_rows, :7])
            )  # t - d
            np.testing.assert_array_equal(array[exported_rows, :7, 1], numpy(layer.dilated.weight[model_rows, 7:]))  # t
        assert only(array, np.r_[0:7, 32:39], slice(0, 7))
    assert not any(bias.any() for bias in weights["dilate_biases"])


def test_layout_of_the_residual_layers(one):
    decoder, weights, _ = one
    assert len(weights["res_weights"]) == len(weights["res_biases"]) == 4
    for layer, weight, bias in zip(decoder.layers[:4], weights["res_weights"], weights["res_biases"], strict=True):
        np.testing.assert_array_equal(weight[:7, :7], numpy(layer.residual.weight))
        np.testing.assert_array_equal(bias[:7], numpy(layer.residual.bias))
        assert only(weight, slice(0, 7), slice(0, 7)) and only(bias, slice(0, 7))


def test_layout_of_the_skip_layers(one):
    decoder, weights, _ = one
    for i, weight in enumerate(weights["skip_weights"]):
        np.testing.assert_array_equal(weight[:11, :7], numpy(decoder.skip.weight[:, 7 * i : 7 * i + 7]))
        assert only(weight, slice(0, 11), slice(0, 7))
    np.testing.assert_array_equal(weights["skip_biases"][0][:11], numpy(decoder.skip.bias))
    assert weights["skip_biases"][0][11] == 1 and only(weights["skip_biases"][0], slice(0, 12))
    assert not any(bias.any() for bias in weights["skip_biases"][1:])


def test_layout_of_the_output_layers(one):
    decoder, weights, _ = one
    conv_out, conv_end = weights["conv_out_weight"], weights["conv_end_weight"]
    assert conv_out.shape == (256, 128) and conv_end.shape == (256, 256)
    np.testing.assert_array_equal(conv_out[:13, :11], numpy(decoder.hidden.weight))
    np.testing.assert_array_equal(conv_out[:13, 11], numpy(decoder.hidden.bias))
    assert conv_out[13, 11] == 1 and not conv_out[13, :11].any() and only(conv_out, slice(0, 14), slice(0, 12))
    np.testing.assert_array_equal(conv_end[:, :13], numpy(decoder.output.weight))
    np.testing.assert_array_equal(conv_end[:, 13], numpy(decoder.output.bias))
    assert only(conv_end, slice(None), slice(0, 14))


def test_layout_of_the_conditioning(one):
    """One sample of one piece in one layer at a time, from the layers' own projections."""
    decoder, _, cond_input = one
    model = make_model()
    context, excitation = make_conditioning(model).block(model, 0, N_FRAMES)
    for piece, layer, t in [(0, 0, 0), (2, 4, 37), (1, 3, N_FRAMES * HOP - 1)]:
        frame, phase = divmod(t, HOP)
        blended = torch.lerp(context[piece, :, frame], context[piece, :, frame + 1], phase / HOP)
        own = decoder.layers[layer]
        expected = (own.cond(blended) + own.excitation(excitation[piece, :, t])).detach().numpy()
        got = cond_input[:, piece, layer, t]
        np.testing.assert_allclose(np.r_[got[:7], got[32:39]], expected, rtol=0, atol=1e-12)
        assert only(got, np.r_[0:7, 32:39])
    assert cond_input.shape == (64, BATCH, 5, N_FRAMES * HOP)


def test_temperature_divides_the_last_layer_and_its_bias():
    cold, warm = fold.fold(make_model(), 0.5), fold.fold(make_model(), 1.0)
    np.testing.assert_array_equal(cold.pop("conv_end_weight"), 2 * warm.pop("conv_end_weight"))
    for name, array in bundle.flatten(warm).items():
        np.testing.assert_array_equal(bundle.flatten(cold)[name], array)


@pytest.mark.parametrize(("n_layers", "max_dilation"), [(1, 1), (5, 1), (22, 2048), (20, 512), (9, 100), (4, 3)])
def test_dilations_are_those_of_nv_wavenet(n_layers, max_dilation):
    assert dilation_cycle(n_layers, max_dilation) == dilations(n_layers, max_dilation)
    config = WavenetConfig(n_layers=n_layers, max_dilation=max_dilation)
    assert dilation_cycle(n_layers, fold.longest_dilation(config)) == dilations(n_layers, max_dilation)


GOOD = {"output": "categorical", "output_bias": False}


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"output": "logistic_mixture"}, ["wavenet_config.output = logistic_mixture", "set output = categorical"]),
        ({"kernel_size": 3}, ["wavenet_config.kernel_size = 3", "set kernel_size = 2"]),
        ({"output_conditioning": True}, ["output_conditioning = true", "set output_conditioning = false"]),
        ({"n_residual_channels": 129}, ["n_residual_channels = 129", "at most 128"]),
        ({"n_skip_channels": 257}, ["n_skip_channels = 257", "at most 256"]),
        ({"n_out_channels": 257}, ["n_out_channels = 257", "at most 256"]),
        ({"output_bias": True}, ["output_bias = true", "set output_bias = false", "n_skip_channels = 255 and n_out"]),
        ({"output_bias": True, "n_out_channels": 255}, ["output_bias = true", "or n_skip_channels = 255"]),
        ({"output_bias": True, "n_skip_channels": 255}, ["output_bias = true", "or n_out_channels = 255"]),
        (
            {"n_residual_channels": 128, "n_layers": 62},
            ["n_layers = 62", "set n_layers = 61", "residual_channels = 64"],
        ),
    ],
)
def test_each_obstacle_is_named_with_its_remedy(overrides, words):
    config = WavenetConfig(**GOOD)
    vars(config).update(overrides)  # Unchecked: some of them contradict the others.
    (reason,) = fold.obstacles(config)
    assert all(word in reason for word in words), reason


def test_all_obstacles_are_named_at_once():
    config = WavenetConfig(
        kernel_size=3, n_residual_channels=512, n_layers=100, n_skip_channels=512, n_out_channels=300
    )
    assert len(fold.obstacles(config)) == 7


@pytest.mark.parametrize(
    ("overrides", "size"),
    [
        ({"n_residual_channels": 1, "n_skip_channels": 1}, (32, 128, 256)),
        ({"n_residual_channels": 32, "n_skip_channels": 128}, (32, 128, 256)),
        ({"n_residual_channels": 32, "n_skip_channels": 128, "output_bias": True}, (64, 256, 256)),
        ({"n_residual_channels": 33, "n_skip_channels": 128}, (64, 128, 256)),
        ({"n_residual_channels": 32, "n_skip_channels": 129}, (64, 256, 256)),
        ({"n_residual_channels": 65, "n_skip_channels": 16}, (128, 256, 256)),
        ({"n_layers": 200}, (64, 256, 256)),
    ],
)
def test_the_smallest_kernel_that_holds_the_model(overrides, size):
    config = WavenetConfig(**{**GOOD, "n_out_channels": 200, **overrides})
    assert not fold.obstacles(config) and fold.kernel_size(config) == size


def test_limits_of_the_contract():
    assert [fold.max_samples(*case) for case in [(20, 64, 1), (22, 32, 1), (20, 128, 1)]] == [838860, 1525201, 419430]
    assert fold.max_samples(20, 64, 4) == 209715
    blocks = [fold.persistent_blocks(20, r, s, 256, 4) for r, s in [(64, 256), (32, 128), (128, 256)]]
    assert blocks == [72, 88, 68]
    assert fold.history_fits(20, 512, 64, 8) and not fold.history_fits(200, 65536, 64, 8)


def test_preset_can_be_exported():
    """The preset can be exported; output_bias = false is refused with a mixture."""
    blocks = json.loads((CONFIG_FOLDER / "config_train_nv_wavenet.json").read_text())
    config = WavenetConfig(**blocks["wavenet_config"])
    assert fold.obstacles(config) == [] and fold.kernel_size(config) == (64, 256, 256)
    with pytest.raises(ValueError, match="output_bias = false"):
        WavenetConfig(output_bias=False).check()
