"""The optimiser step: skipped steps, gradient accumulation, the weight average, CUDA graphs, parameter groups."""

import math

import pytest
import torch

from midi2wave.training import step as step_module
from midi2wave.training.data_loader import batches, crops_for_model, micro_batch_indices
from midi2wave.training.losses import training_losses
from midi2wave.training.metrics import StepMetrics
from midi2wave.training.run_state import create_or_resume_run
from midi2wave.training.schedules import learning_rate
from midi2wave.training.step import train_step
from tests.helpers.training import make_state, pipeline_config, start_run, use_weight_as_loss


@pytest.mark.parametrize("factor", [math.nan, math.inf])
def test_step_without_a_finite_gradient_changes_nothing(tmp_path, monkeypatch, factor):
    state = make_state(tmp_path)
    before, ema_weight = state.model.weight.detach().clone(), state.ema_model.weight.clone()
    use_weight_as_loss(monkeypatch, factor)
    metrics = StepMetrics(*train_step(state, [{}]).tolist())
    assert not metrics.finite
    assert torch.equal(state.model.weight, before) and torch.equal(state.ema_model.weight, ema_weight)
    assert not any(value.any() for value in state.optimizer.state[state.model.weight].values())
    use_weight_as_loss(monkeypatch)
    assert StepMetrics(*train_step(state, [{}]).tolist()).finite
    assert not torch.equal(state.model.weight, before)


def test_ema_follows_the_weights(tmp_path, monkeypatch):
    state = make_state(tmp_path)
    state.step = 1000  # Past the quick start of the average.
    start = state.ema_model.weight.item()
    use_weight_as_loss(monkeypatch)
    train_step(state, [{}])
    assert state.ema_model.weight.item() == pytest.approx((start + state.model.weight.item()) / 2)


def test_micro_batches_add_up_to_the_batch(pipeline, tmp_path):
    """In float64, so that rounding hides no mistake."""
    overrides = [f"train_config.{name}" for name in ("batch_size=4", "gradient_clip=1e9", "precision=float32")]
    config = pipeline_config(pipeline, tmp_path, *overrides)
    gradients, losses = [], []
    for size in (4, 2, 1):
        state = create_or_resume_run(config, force=True)
        state.model.double()
        crops = crops_for_model(config.data_config.dataset_path, config.data_config, state.model, 0)
        micro_batches = [
            {name: value.double() if value.is_floating_point() else value for name, value in batch.items()}
            for batch in batches(crops, micro_batch_indices(range(1), 4, size, 0, 1), 0)
        ]
        losses.append(train_step(state, micro_batches)[0].item())
        gradients.append(torch.cat([p.grad.flatten() for p in state.model.parameters()]))
    # The sum of the micro-batches' losses is kept in float32.
    assert losses[1:] == pytest.approx([losses[0]] * 2, abs=1e-7)
    assert all((g - gradients[0]).abs().max() < 1e-12 for g in gradients[1:])


class FakeGraphedPass:
    """Like a captured pass it leaves a gradient when it is made; then it runs the pass itself."""

    def __init__(self, run, batch, device):
        self.run = run
        run(batch)

    def __call__(self, batch):
        return self.run(batch)


def test_graphed_pass_takes_part_in_a_step(pipeline, tmp_path, monkeypatch):
    """In two steps of two micro-batches the weights are those of steps without it, the gradients the same tensors."""
    config = pipeline_config(pipeline, tmp_path, "train_config.batch_size=4", "train_config.precision=float32")
    weights = []
    monkeypatch.setattr(step_module, "GraphedPass", FakeGraphedPass)
    for capture in (False, True):
        state = create_or_resume_run(config, force=True)
        state.capture_pending = capture
        crops = crops_for_model(config.data_config.dataset_path, config.data_config, state.model, 0)
        addresses = []
        for step in range(2):
            indices = micro_batch_indices(range(step, step + 1), 4, 2, 0, 1)
            train_step(state, list(batches(crops, indices, 0)))
            state.step += 1
            addresses.append([p.grad.data_ptr() for p in state.model.parameters() if p.grad is not None])
        assert (state.graphed_pass is not None) == capture and not state.capture_pending
        weights.append(torch.cat([p.detach().flatten() for p in state.model.parameters()]))
    assert addresses[0] == addresses[1]
    assert torch.equal(*weights)


def test_training_goes_on_where_no_graph_can_be_captured(tmp_path, monkeypatch, capsys):
    def refuse(*_):
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(step_module, "GraphedPass", refuse)
    use_weight_as_loss(monkeypatch)
    state, usual = make_state(tmp_path), make_state(tmp_path)
    usual.model.load_state_dict(state.model.state_dict())
    state.capture_pending = True
    for _ in range(2):
        assert torch.equal(train_step(state, [{}]), train_step(usual, [{}]))
    assert torch.equal(state.model.weight, usual.model.weight)
    assert capsys.readouterr().err.count("could not be captured") == 1


def test_mel_loss_trains_only_the_context_stack(pipeline, tmp_path):
    """Without a loss of the decoder, only the context stack and its head get a gradient."""
    state = start_run(pipeline, tmp_path, "cond_wavenet_config.n_mels=8", "data_config.segment_length=0.1")
    batch = {name: value[:2] for name, value in state.validation.batch.items()}
    _, mel, _ = training_losses(state.model, batch, state.device, torch.float32, state.model)
    mel.sum().backward()
    with_gradient = [name for name, p in state.model.named_parameters() if p.grad is not None and p.grad.any()]
    assert {name.split(".")[0] for name in with_gradient} == {"context", "mel_head"}


def test_context_learning_rate_is_a_factor_of_the_schedule(pipeline, tmp_path):
    overrides = (
        "cond_wavenet_config.n_mels=8",
        "data_config.segment_length=0.1",
        "train_config.context_learning_rate=3",
    )
    state = start_run(pipeline, tmp_path, *overrides)
    rates = {}
    train_step(state, [{name: value[:2] for name, value in state.validation.batch.items()}])
    names = {id(p): name.split(".")[0] for name, p in state.model.named_parameters()}
    for group in state.optimizer.param_groups:
        rates.update({names[id(p)]: group["lr"] for p in group["params"]})
    plain = learning_rate(0, state.config.train_config)
    assert rates == {"context": 3 * plain, "mel_head": 3 * plain, "decoder": plain}
