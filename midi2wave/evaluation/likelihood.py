"""What a model owes to its MIDI, by teacher forcing: the likelihood of a recording with its own notes, with those of
another one and with none, and how much the notes move each layer's gate.

The three likelihoods are of the very same samples, so that their differences are paired. They tell whether the decoder
listens, not whether it plays: that is heard only when it runs freely (scores.py, transcription.py).
"""

import math
from dataclasses import dataclass, replace

import numpy as np
import torch

from midi2wave.conditioning.note_conditioning import NullPerformance
from midi2wave.config import DataConfig
from midi2wave.midi.performance import Performance
from midi2wave.sampling.synthesis import conditioning, to_samples
from wavenet import WaveNet

BLOCK_SECONDS = 0.5  # of audio in one parallel pass: memory does not grow with a clip's length
ONSET_SECONDS = 0.05


@dataclass(frozen=True)
class Paired:
    """Mean negative log-likelihood of the same samples under three conditions, in nats per sample."""

    n_samples: int
    true: float
    shuffled: float  # given the notes of another clip
    null: float  # given the null condition

    @property
    def gap(self) -> float:
        """What the right notes are worth against wrong ones."""
        return self.shuffled - self.true

    @property
    def gap_null(self) -> float:
        """What the right notes are worth against none."""
        return self.null - self.true


@torch.inference_mode()
def paired_likelihood(
    model: WaveNet, pcm: np.ndarray, own: Performance, other: Performance, data: DataConfig
) -> tuple[Paired, Paired]:
    """The likelihoods of a clip, int16 [N * hop]: over all its samples, and over the first 50 ms after each onset.

    Onsets are those of the clip's own notes. The first receptive field is not scored (of a clip shorter than two, the
    first half): there the decoder sees silence where the recording has had a past. Without an onset in what is scored
    the second one has no samples, and nan.
    """
    device, hop = next(model.parameters()).device, model.hop
    n_frames, warmup = len(pcm) // hop, math.ceil(model.decoder.receptive_field / hop)
    other = replace(other, global_labels=own.global_labels)  # what is compared are the notes
    given = conditioning([own, other, NullPerformance(own.global_labels)], data, device)
    history = model.decoder.prepend_silence(to_samples(model, pcm[None], data).to(device))
    after_onset = torch.from_numpy(_after_onsets(own, len(pcm), data.audio_hz))
    sums, counts = np.zeros((2, 3)), np.zeros(2, dtype=int)
    first, block = min(warmup, n_frames // 2), max(warmup, round(BLOCK_SECONDS * data.midi_hz))
    for start in range(first, n_frames, block):
        stop, begin = min(start + block, n_frames), max(0, start - warmup)
        context, excitation = given.block(model, begin, stop - begin)
        block_history = history[:, begin * hop : stop * hop + model.decoder.taps].expand(3, -1)
        params = model.decoder(block_history, context, excitation)
        samples = block_history[:, model.decoder.taps :]
        nll = -model.log_likelihood(params, samples)[:, (start - begin) * hop :].double().cpu()  # [3, T]
        mask = after_onset[start * hop : stop * hop]
        sums += torch.stack([nll.sum(dim=1), nll[:, mask].sum(dim=1)]).numpy()
        counts += [nll.shape[1], int(mask.sum())]
    means = sums / np.where(counts, counts, np.nan)[:, None]
    everywhere, at_onsets = (Paired(int(n), *map(float, row)) for n, row in zip(counts, means, strict=True))
    return everywhere, at_onsets


def _after_onsets(performance: Performance, n_samples: int, audio_hz: int) -> np.ndarray:
    """Which samples lie within ONSET_SECONDS after a note's onset: bool [n_samples]."""
    marked, reach = np.zeros(n_samples, dtype=bool), round(ONSET_SECONDS * audio_hz)
    for first in np.rint(performance.onset * audio_hz).astype(int):
        marked[max(0, first) : max(0, first + reach)] = True
    return marked
