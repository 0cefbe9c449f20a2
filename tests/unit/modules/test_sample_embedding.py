"""The decoder's input layer."""

import torch

from midi2wave.modules.sample_embedding import SampleEmbedding


def test_between_two_codes_their_vectors_are_interpolated():
    torch.manual_seed(0)
    layer = SampleEmbedding(2, 16, mixture=False)
    codes = torch.tensor([[3, 200], [255, 0]])
    torch.testing.assert_close(layer(codes.float()), layer(codes), rtol=0, atol=0)
    expected = 0.75 * layer(torch.tensor([7, 200])) + 0.25 * layer(torch.tensor([8, 200]))
    torch.testing.assert_close(layer(torch.tensor([7.25, 200.0])), expected)


def test_a_mixture_reads_fractions_of_16_bit_samples():
    torch.manual_seed(0)
    layer = SampleEmbedding(1, 16, mixture=True)
    at, between, after = (layer(torch.tensor([value])) for value in (20000.0, 20000.5, 20001.0))
    torch.testing.assert_close(layer(torch.tensor([20000])), at, rtol=0, atol=0)
    torch.testing.assert_close(between, (at + after) / 2)
