"""Log-mel spectrum: the target of the auxiliary head, predicted from the context alone (cond_wavenet_config.n_mels).

What the decoder learns by teacher forcing it can learn without the MIDI; this it cannot. The context stack thus gets a
gradient from the first step on, also while the decoder does not use its conditioning yet. Every MIDI-to-piano system
that works goes through something like it (arXiv 1811.00223, 2104.12292, 2211.13868).
"""

import functools
import warnings

import numpy as np
import torch
from torch import Tensor

WINDOW_SECONDS = 0.032
MIN_HZ = 30.0
MIN_AMPLITUDE = 1e-4  # Of a band, at full scale 1: what is below counts as silence.


def log_mel(audio: Tensor, audio_hz: int, hop: int, n_mels: int) -> tuple[Tensor, int]:
    """Compute a log-mel spectrum, frame by frame.

    The window of frame f is centred on the samples [f * hop, (f + 1) * hop). Only frames whose window lies in the crop
    are returned.

    Args:
        audio: Amplitudes [B, N * hop].
        audio_hz: Sample rate.
        hop: Samples per frame.
        n_mels: Number of bands.

    Returns:
        Natural logarithm of the bands' amplitudes [B, n_mels, M], M = 0 if the crop is shorter than a window; and the
        index of the first frame.
    """
    window = window_samples(audio_hz, hop)
    first = (window - hop) // (2 * hop)
    if audio.shape[1] < window:
        return audio.new_zeros(len(audio), n_mels, 0), first
    frames = audio.unfold(1, window, hop) * torch.hann_window(window, device=audio.device)
    amplitude = torch.fft.rfft(frames).abs() * (4 / window)  # A sine of amplitude 1 has a peak of 1.
    bands = mel_bands(audio_hz, window, n_mels, audio.device)
    return torch.log(amplitude.square() @ bands + MIN_AMPLITUDE**2).transpose(1, 2) / 2, first


def window_samples(audio_hz: int, hop: int) -> int:
    """Length of the window: about WINDOW_SECONDS, an odd number of frames, so that it is centred on a frame."""
    return hop * (2 * round((WINDOW_SECONDS * audio_hz / hop - 1) / 2) + 1)


@functools.lru_cache(maxsize=8)
def mel_bands(audio_hz: int, window: int, n_mels: int, device: torch.device) -> Tensor:
    """Triangular bands of peak 1, equally wide on the mel scale of HTK (O'Shaughnessy 1987).

    They are cached on the device: a copy in every step would make the host wait for all that it has launched.

    Returns:
        Weights [window // 2 + 1, n_mels].
    """
    import librosa  # Here, since only the first step of a training with an auxiliary head needs it.

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Empty filters")  # They are filled below.
        bands = librosa.filters.mel(
            sr=audio_hz, n_fft=window, n_mels=n_mels, fmin=MIN_HZ, htk=True, norm=None, dtype=np.float64
        )
    weights = np.ascontiguousarray(bands.T)
    # A band narrower than the spacing of the spectral lines takes the line nearest to its centre.
    empty = np.flatnonzero(weights.sum(axis=0) == 0)
    hz = librosa.fft_frequencies(sr=audio_hz, n_fft=window)
    centres = librosa.mel_frequencies(n_mels + 2, fmin=MIN_HZ, fmax=audio_hz / 2, htk=True)[1:-1]
    weights[np.abs(hz[:, None] - centres[empty]).argmin(axis=0), empty] = 1
    return torch.from_numpy(weights).float().to(device)
