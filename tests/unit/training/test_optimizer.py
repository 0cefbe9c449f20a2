"""The optimiser: which parameters decay, and how fast."""

import pytest
import torch

from midi2wave.training.optimizer import BETAS, make_optimizer
from tests.helpers.training import make_train_config


class TwoParts(torch.nn.Module):
    """A model with a decoder and a context stack of one linear layer each."""

    def __init__(self) -> None:
        super().__init__()
        self.decoder = torch.nn.Linear(3, 2)
        self.context = torch.nn.Linear(3, 2)


def test_weight_decay_shrinks_the_matrices_only():
    """A step without gradients multiplies a matrix by 1 - learning rate * decay."""
    model = TwoParts()
    settings = make_train_config(learning_rate=0.1, weight_decay=0.5, context_learning_rate=3)
    optimizer = make_optimizer(model, settings)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, parameter in model.named_parameters():
        factor = 1 - 0.1 * 0.5 if name.endswith("weight") else 1
        torch.testing.assert_close(parameter.detach(), factor * before[name])


def test_groups_have_the_factors_of_their_parts():
    model = TwoParts()
    optimizer = make_optimizer(model, make_train_config(context_learning_rate=3))
    factors = {id(p): group["factor"] for group in optimizer.param_groups for p in group["params"]}
    assert factors[id(model.context.weight)] == factors[id(model.context.bias)] == 3
    assert factors[id(model.decoder.weight)] == factors[id(model.decoder.bias)] == 1
    assert len(factors) == 4
    assert [group["betas"] for group in optimizer.param_groups] == [BETAS] * 4


@pytest.mark.parametrize("gradient", [1.0, -1.0])
def test_a_step_goes_against_the_gradient(gradient):
    """AdamW's first step is as long as the learning rate."""
    model = TwoParts()
    optimizer = make_optimizer(model, make_train_config(learning_rate=0.1, weight_decay=0.0))
    before = model.decoder.weight.detach().clone()
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, gradient)
    optimizer.step()
    torch.testing.assert_close(model.decoder.weight.detach(), before - 0.1 * gradient)
