"""The random numbers of the samplers: a pure function of seed, stream and time."""

import torch

from midi2wave.sampling.uniforms import seeded_uniforms


def test_uniforms_depend_on_seed_stream_and_time_only():
    whole = seeded_uniforms(3, [4, 9], 2)(0, 100)
    assert whole.dtype == torch.float32 and whole.shape == (2, 100, 2)
    for first, n in ((0, 1), (1, 5), (17, 40), (99, 1)):
        assert torch.equal(seeded_uniforms(3, [4, 9], 2)(first, n), whole[:, first : first + n])
    assert torch.equal(seeded_uniforms(3, [9], 2)(0, 100)[0], whole[1])
    assert not torch.equal(seeded_uniforms(4, [9], 2)(0, 100)[0], whole[1])
    many = seeded_uniforms(0, [0], 1)(0, 200_000)
    assert 0 < many.min() < 1e-4 and 1 - 1e-4 < many.max() < 1
    assert abs(many.mean() - 0.5) < 0.003
