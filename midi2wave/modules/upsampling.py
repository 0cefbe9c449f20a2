"""Upsampling of the context from conditioning frames to samples."""

import torch
from torch import Tensor, nn


class Upsampling(nn.Module):
    """Upsamples the context from the frame rate to the sample rate by repetition, interpolation or a learned window.

    Args:
        kind: "repeat" (each frame's value for all its samples), "linear" (interpolation between a frame and the next
            one) or "transposed" (a transposed convolution over two frames, which starts as linear interpolation).
        hop: Samples per frame.
        n_channels: Channels of the context, C.

    Attributes:
        left: Frames that are needed before the first frame of the output.
        right: Frames that are needed after the last frame of the output.
        commutes: Whether it commutes with a projection of the channels; the decoder then projects at the frame rate.
    """

    def __init__(self, kind: str, hop: int, n_channels: int) -> None:
        super().__init__()
        self.kind = kind
        self.hop = hop
        self.left, self.right = {"repeat": (0, 0), "linear": (0, 1), "transposed": (1, 0)}[kind]
        self.commutes = kind != "transposed"
        if kind == "transposed":
            self.window = nn.ConvTranspose1d(n_channels, n_channels, 2 * hop, stride=hop)
            if not self.window.weight.is_meta:  # There only shapes are wanted (`wavenet.parameter_shapes`).
                self._init_window()

    @torch.no_grad()
    def _init_window(self) -> None:
        """Start as linear interpolation of every channel by itself."""
        self.window.weight.zero_()
        ramp = torch.arange(self.hop) / self.hop
        for channel in range(self.window.in_channels):
            self.window.weight[channel, channel] = torch.cat([ramp, 1 - ramp])

    def forward(self, frames: Tensor) -> Tensor:
        """Upsample frames.

        Args:
            frames: Context of the frames that are upsampled and of `left` and `right` more, [left + N + right, B, C].

        Returns:
            The context of each sample, [N * hop, B, C].
        """
        if self.kind == "transposed":
            out = self.window(frames.permute(1, 2, 0))  # [B, C, (N + 2) * hop]
            return out[..., self.hop : -self.hop].permute(2, 0, 1)
        if self.kind == "repeat":
            return frames.repeat_interleave(self.hop, dim=0)
        start = frames[:-1].unsqueeze(1)
        difference = (frames[1:] - frames[:-1]).unsqueeze(1)
        return torch.addcmul(start, difference, self.ramp(frames).view(1, -1, 1, 1)).flatten(0, 1)

    def ramp(self, like: Tensor) -> Tensor:
        """The weight of the next frame in each sample of a frame, [hop]; 0 unless the kind is "linear".

        Args:
            like: A tensor of the device and type of the result.
        """
        ramp = torch.arange(self.hop, device=like.device, dtype=like.dtype) / self.hop
        return ramp if self.kind == "linear" else torch.zeros_like(ramp)
