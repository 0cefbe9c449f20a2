"""Losses of training and validation: which samples count, and how the losses are added up."""

import pytest
import torch

from midi2wave.training.losses import crop_nll, total_loss, training_losses
from tests.helpers.training import make_train_config
from tests.helpers.wavenet_models import HOP, make_conditioning, make_model, random_samples

CPU = torch.device("cpu")
N_FRAMES = 12


def make_batch(model):
    """Two crops of random samples with the conditioning of the right frames, and the model's parameters for them."""
    samples = random_samples(model)
    left, right = model.context_frames
    conditioning = make_conditioning()
    batch = {
        "samples": samples,
        "history": model.decoder.prepend_silence(samples),
        "features": conditioning.features(-left, left + N_FRAMES + right),
        "excitation": conditioning.excitation(0, N_FRAMES),
    }
    return batch, model(batch["history"], batch["features"], batch["excitation"]).params


@pytest.mark.parametrize("warmup_samples", [0, 3 * HOP, 7 * HOP + 5])
def test_samples_of_the_warm_up_do_not_count(warmup_samples):
    model = make_model()
    batch, params = make_batch(model)
    nll = crop_nll(model, batch, CPU, warmup_samples=warmup_samples)
    expected = -model.log_likelihood(params, batch["samples"])
    assert torch.allclose(nll, expected[:, warmup_samples:].mean(dim=1))
    assert not warmup_samples or not torch.allclose(nll, expected.mean(dim=1))


def test_training_counts_every_sample():
    model = make_model()
    batch, params = make_batch(model)
    losses = training_losses(model, batch, CPU, torch.float32)
    assert torch.allclose(losses.samples, -model.log_likelihood(params, batch["samples"]).mean(dim=1))
    assert not losses.mel.any() and not losses.diversity.any()


def test_total_loss_is_weighted():
    settings = make_train_config(mel_loss_weight=0.5, diversity_loss_weight=0.25)
    nll, mel, diversity = torch.tensor([1.0, 10.0, 100.0]).unbind()
    assert total_loss(nll, mel, diversity, settings).item() == 1 + 5 + 25
