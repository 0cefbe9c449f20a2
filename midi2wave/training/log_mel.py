"""The log-mel spectrum that the auxiliary head must tell from the context alone (cond_wavenet_config.n_mels).

What the decoder learns by teacher forcing it can learn without the MIDI; this it cannot. The context stack so gets a
gradient from the first step on, also while the decoder does not listen yet. Every MIDI-to-piano system that works goes
through something like it (arXiv 1811.00223, 2104.12292, 2211.13868).
"""

import functools
import math

import numpy as np
import torch
from torch import Tensor

WINDOW_SECONDS = 0.032
LOWEST_HZ = 30.0
FLOOR = 1e-4  # of a band's amplitude, at full scale 1: what is below is silence


def log_mel(audio: Tensor, audio_hz: int, hop: int, n_mels: int) -> tuple[Tensor, int]:
    """Amplitudes [B, N * hop] -> natural logarithm of the bands' amplitudes [B, n_mels, M], and the frame of the first.

    Frame f's window has its middle in that of the samples [f * hop, (f + 1) * hop). Only frames whose window lies in
    the crop are returned; M is 0 if it is shorter than a window.
    """
    window = window_samples(audio_hz, hop)
    first = (window - hop) // (2 * hop)
    if audio.shape[1] < window:
        return audio.new_zeros(len(audio), n_mels, 0), first
    frames = audio.unfold(1, window, hop) * torch.hann_window(window, device=audio.device)
    amplitude = torch.fft.rfft(frames).abs() * (4 / window)  # a sine of amplitude 1 has a peak of 1
    bands = mel_bands(audio_hz, window, n_mels, audio.device)
    return torch.log(amplitude.square() @ bands + FLOOR**2).transpose(1, 2) / 2, first


def window_samples(audio_hz: int, hop: int) -> int:
    """The window's length: about WINDOW_SECONDS, an odd number of frames, so that its middle is a frame's."""
    return hop * (2 * round((WINDOW_SECONDS * audio_hz / hop - 1) / 2) + 1)


@functools.lru_cache(maxsize=8)
def mel_bands(audio_hz: int, window: int, n_mels: int, device: torch.device) -> Tensor:
    """Triangular bands, equally wide on the mel scale (O'Shaughnessy 1987): weights [window // 2 + 1, n_mels].

    Kept on the device: to carry them there in every step would make the host wait for all that it has launched.
    """
    mels = np.linspace(_mel(LOWEST_HZ), _mel(audio_hz / 2), n_mels + 2)
    edges = 700 * (np.exp(mels / 1127) - 1)
    hz = np.arange(window // 2 + 1)[:, None] * audio_hz / window
    rising = (hz - edges[:-2]) / np.diff(edges)[:-1]
    falling = (edges[2:] - hz) / np.diff(edges)[1:]
    weights = np.maximum(0, np.minimum(rising, falling))
    # A band narrower than the spectrum's lines takes the line nearest to its middle.
    empty = np.flatnonzero(weights.sum(axis=0) == 0)
    weights[np.abs(hz - edges[1:-1]).argmin(axis=0)[empty], empty] = 1
    return torch.from_numpy(weights).float().to(device)


def _mel(hz: float) -> float:
    return 1127 * math.log1p(hz / 700)
