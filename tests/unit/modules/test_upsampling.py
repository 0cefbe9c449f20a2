"""Upsampling of frames: interpolation, repetition, and the window that starts as interpolation."""

import torch

from midi2wave.modules.upsampling import Upsampling

HOP = 16


def test_linear_upsampling_reaches_each_frame_at_its_start():
    upsampling = Upsampling("linear", HOP, 1)
    frames = torch.tensor([0.0, 1.0, 3.0]).view(3, 1, 1)
    expected = torch.cat([torch.arange(HOP) / HOP, 1 + 2 * torch.arange(HOP) / HOP])
    torch.testing.assert_close(upsampling(frames).flatten(), expected)


def test_a_new_window_is_linear_interpolation():
    frames = torch.rand(4, 2, 3, generator=torch.Generator().manual_seed(0))
    linear, window = Upsampling("linear", HOP, 3), Upsampling("transposed", HOP, 3)
    with torch.no_grad():
        window.window.bias.zero_()
        # It needs a frame before the first one, interpolation one after the last one.
        torch.testing.assert_close(window(frames), linear(frames))
    assert (linear.left, linear.right, window.left, window.right) == (0, 1, 1, 0)


def test_repetition_repeats_every_frame():
    frames = torch.rand(3, 2, 3, generator=torch.Generator().manual_seed(0))
    repeated = Upsampling("repeat", HOP, 3)(frames)
    assert torch.equal(repeated.view(3, HOP, 2, 3), frames.unsqueeze(1).expand(-1, HOP, -1, -1))
