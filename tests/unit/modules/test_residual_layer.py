"""Dilations of the layers, and layers of zero inputs."""

import torch

from midi2wave.modules.residual_layer import EmptyLinear, dilations, unbiased_linear


def test_dilations_double_and_start_again_after_the_largest():
    assert dilations(12, 512) == [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1, 2]
    assert dilations(9, 100) == [1, 2, 4, 8, 16, 32, 64, 1, 2]  # nv-wavenet's rule for odd limits
    assert dilations(3, 1) == [1, 1, 1]


def test_a_linear_layer_of_zero_inputs_has_no_parameters():
    layer = unbiased_linear(0, 5).double()
    assert isinstance(layer, EmptyLinear) and not layer.state_dict() and not list(layer.parameters())
    output = layer(torch.zeros(3, 2, 0, dtype=torch.float64))
    assert output.shape == (3, 2, 5) and output.dtype == torch.float64 and not output.any()
