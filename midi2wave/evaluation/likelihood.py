"""Likelihood gain from the conditioning, by teacher forcing.

The likelihood of a recording is computed with its own MIDI, with the MIDI of another clip and with none. All three are
of the same samples, so that their differences are paired. They show whether the decoder uses its conditioning, not
whether it generates the right notes: for that, free-running audio is scored (`metrics.py`, `transcription.py`).

A fourth likelihood of these samples is that of linear prediction (`linear_prediction.py`), which uses no notes.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
import torch

from midi2wave.conditioning.note_conditioning import NullPerformance
from midi2wave.config import DataConfig
from midi2wave.evaluation.linear_prediction import negative_log_likelihood
from midi2wave.midi.performance import Performance
from midi2wave.sampling.synthesis import log_likelihood_blocks, to_samples
from wavenet import WaveNet

# Audio in one parallel pass, so that memory does not grow with the length of a clip.
BLOCK_SECONDS = 0.5
# How long after its onset a note counts as beginning.
ONSET_SECONDS = 0.05


@dataclass(frozen=True)
class PairedLikelihood:
    """Mean negative log-likelihood of the same samples, in nats per sample.

    Attributes:
        n_samples: The number of samples.
        true: With the clip's own notes.
        shuffled: With the notes of another clip.
        null: With the null condition.
        linear_prediction: By linear prediction instead of the model.
    """

    n_samples: int
    true: float
    shuffled: float
    null: float
    linear_prediction: float

    @property
    def gap(self) -> float:
        """The conditioning gap: NLL with mismatched MIDI minus NLL."""
        return self.shuffled - self.true

    @property
    def gap_null(self) -> float:
        """NLL without MIDI minus NLL."""
        return self.null - self.true


def paired_likelihood(
    model: WaveNet, pcm: np.ndarray, own: Performance, other: Performance, data: DataConfig
) -> tuple[PairedLikelihood, PairedLikelihood]:
    """The paired likelihoods of a clip.

    The first receptive field is not scored (the first half of a clip shorter than two receptive fields): there the past
    samples of the decoder are silence instead of the recording.

    Args:
        model: The model.
        pcm: The recording, int16 [N * hop].
        own: Its notes.
        other: The notes of another clip. The global labels are those of `own` in all three conditions.
        data: The data config of the model.

    Returns:
        The likelihoods of all scored samples, and of those within 50 ms after an onset of `own`. Without such samples
        the latter are NaN.
    """
    n_frames, warmup = len(pcm) // model.hop, math.ceil(model.decoder.receptive_field / model.hop)
    other = replace(other, global_labels=own.global_labels)
    after_onset = torch.from_numpy(_after_onsets(own, len(pcm), data.audio_hz))
    totals, counts = np.zeros((2, 4)), np.zeros(2, dtype=int)
    first_frame = min(warmup, n_frames // 2)
    of_filter = _by_linear_prediction(model, pcm[: n_frames * model.hop], data, first_frame * model.hop)
    blocks = log_likelihood_blocks(
        model,
        [own, other, NullPerformance(own.global_labels)],
        pcm,
        data,
        block_seconds=BLOCK_SECONDS,
        first_frame=first_frame,
    )
    for first, log_likelihood in blocks:
        end = first + log_likelihood.shape[1]
        nll = torch.cat([-log_likelihood.double().cpu(), of_filter[None, first:end]])  # [4, T]
        mask = after_onset[first:end]
        totals += torch.stack([nll.sum(dim=1), nll[:, mask].sum(dim=1)]).numpy()
        counts += [nll.shape[1], int(mask.sum())]
    means = totals / np.where(counts, counts, np.nan)[:, None]
    everywhere, at_onsets = (PairedLikelihood(int(n), *map(float, row)) for n, row in zip(counts, means, strict=True))
    return everywhere, at_onsets


def _by_linear_prediction(model: WaveNet, pcm: np.ndarray, data: DataConfig, first: int) -> torch.Tensor:
    """NLL of each sample by linear prediction, float64 [T]; those before `first` are not scored and NaN."""
    samples = to_samples(model, pcm[None], data)[0].numpy()
    scored = negative_log_likelihood(samples, data.audio_hz, codes=not model.decoder.mixture, first=first)
    return torch.from_numpy(np.concatenate([np.full(first, np.nan), scored]))


def _after_onsets(performance: Performance, n_samples: int, audio_hz: int) -> np.ndarray:
    """Which samples lie within ONSET_SECONDS after a note's onset: bool [n_samples]."""
    mask, length = np.zeros(n_samples, dtype=bool), round(ONSET_SECONDS * audio_hz)
    for first in np.rint(performance.onset * audio_hz).astype(int):
        mask[max(0, first) : max(0, first + length)] = True
    return mask
