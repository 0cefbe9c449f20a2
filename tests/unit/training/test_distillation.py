"""Guidance distillation: the null condition, the divergence, what is refused, and that a student comes nearer."""

import math

import pytest
import torch

from midi2wave import checkpoint
from midi2wave.conditioning.note_conditioning import NullConditioning
from midi2wave.config import DataConfig
from midi2wave.training.distillation import GuidedTeacher, divergence, load_teacher, null_condition
from midi2wave.training.run_state import save_checkpoint
from midi2wave.training.validation import validate
from midi2wave.utils.errors import InputError
from tests.helpers.training import pipeline_config, start_run, train_to_end

CATEGORICAL = "wavenet_config.output=categorical"
DROPOUT = "data_config.conditioning_dropout=0.5"
STUDENT = ("data_config.conditioning_dropout=0", "train_config.mel_loss_weight=0", "train_config.history_noise=0.03")


@pytest.fixture(scope="module")
def teacher_folder(pipeline, tmp_path_factory):
    """A checkpoint whose distributions depend strongly on its conditioning, as after a long training."""
    folder = tmp_path_factory.mktemp("teacher")
    state = start_run(pipeline, folder, CATEGORICAL, DROPOUT)
    with torch.no_grad():
        for layer in state.ema_model.decoder.layers:
            layer.cond.weight.mul_(10)
        state.ema_model.decoder.output.weight.mul_(10)
    assert save_checkpoint(state) is None
    return folder


def student_options(teacher_folder, *options):
    own = (CATEGORICAL, *STUDENT, f"train_config.teacher_filename={teacher_folder}")
    return (*own, f"train_config.checkpoint_path={teacher_folder}", "train_config.learning_rate=0.002", *options)


def test_null_condition_is_that_of_a_dropped_crop():
    config = DataConfig(audio_hz=16000, midi_hz=250, features=["note_state"], excitation=True, conditioning_dropout=0.1)
    null = NullConditioning(config, [1.0, 0.0])
    expected = [torch.from_numpy(null.features(0, 5))[None], torch.from_numpy(null.excitation(0, 5))[None]]
    features, excitation = torch.rand_like(expected[0]), torch.rand_like(expected[1])
    features[:, -2:] = torch.tensor([1.0, 0.0])[:, None]
    assert all(torch.equal(a, b) for a, b in zip(null_condition(features, excitation, 2), expected, strict=True))


def test_divergence_is_that_of_the_definition():
    """Two distributions over three codes, at the second of two samples; at the first one both are equal."""
    teacher, student = torch.tensor([0.5, 0.25, 0.25]), torch.tensor([0.1, 0.6, 0.3])
    expected = 0.5 * math.log(5) + 0.25 * math.log(0.25 / 0.6) + 0.25 * math.log(0.25 / 0.3)
    log_teacher, log_student = (torch.stack([teacher, one], dim=-1)[None].log() for one in (teacher, student))
    logits = log_student + 3  # They need not be normalised.
    assert divergence(log_teacher, logits).item() == pytest.approx(expected / 2, abs=1e-6)


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_distributions_of_the_teacher_are_the_guided_ones(pipeline, teacher_folder, tmp_path, guidance):
    """Those of the sampler: at guidance 1 the model's own, otherwise an extrapolation away from the null condition."""
    state = start_run(pipeline, tmp_path, CATEGORICAL, DROPOUT)
    model, _, _ = checkpoint.load_model(teacher_folder, state.device)
    batch = {name: value[:2] for name, value in state.validation.batch.items()}
    guided = GuidedTeacher(model, guidance, 0).log_probabilities(batch, torch.float32)
    with torch.no_grad():
        own = model(batch["history"], batch["features"], batch["excitation"]).params
        nulls = null_condition(batch["features"], batch["excitation"], 0)
        null = model(batch["history"], *nulls).params
    assert torch.allclose(guided, (null + guidance * (own - null)).log_softmax(dim=1), atol=1e-5)
    assert guided.exp().sum(dim=1).allclose(torch.ones(()), atol=1e-5) and not torch.allclose(own, null, atol=0.1)


def test_validation_applies_the_student_once_a_conditioning(pipeline, teacher_folder, tmp_path):
    """With its own and with mismatched MIDI; the likelihoods are those of a validation without a teacher."""
    state = start_run(pipeline, tmp_path, *student_options(teacher_folder, "train_config.validation_crops=4"))
    n_rows = []
    with state.model.register_forward_hook(lambda _model, inputs, _output: n_rows.append(len(inputs[0]))):
        metrics = validate(state.model, state.validation, 2, state.device, teacher=state.teacher)
    assert n_rows == [2, 2, 2, 2]
    divergence_alone = metrics.pop("validation_divergence")
    assert metrics == validate(state.model, state.validation, 2, state.device)
    batch = state.validation.batch
    with torch.no_grad():
        params = state.model(batch["history"], batch["features"], batch["excitation"]).params
        expected = divergence(state.teacher.log_probabilities(batch, torch.float32), params).mean().item()
    assert divergence_alone == pytest.approx(expected, rel=1e-4)


def test_student_comes_nearer_to_the_guided_teacher(pipeline, teacher_folder, tmp_path):
    """From the teacher's own weights; the best checkpoint is the one with the least divergence."""
    state = start_run(pipeline, tmp_path, *student_options(teacher_folder, "train_config.steps=60"))
    first = validate(state.model, state.validation, 4, state.device, teacher=state.teacher)["validation_divergence"]
    weights = {name: value.clone() for name, value in state.teacher.model.state_dict().items()}
    log = train_to_end(state)
    last = log.latest_metrics["validation_divergence"]
    assert 0 < last < 0.7 * first
    assert state.best[0] <= last and all(
        torch.equal(state.teacher.model.state_dict()[n], v) for n, v in weights.items()
    )
    assert log.latest_metrics["loss"] < first  # It is the divergence, too, not a likelihood.


def test_teachers_that_cannot_teach_are_refused(pipeline, teacher_folder, tmp_path):
    def refuses(message, folder, *options):
        config = pipeline_config(pipeline, tmp_path, f"train_config.teacher_filename={folder}", *options)
        with pytest.raises(InputError, match=message):
            load_teacher(config, torch.device("cpu"))

    narrow = "wavenet_config.n_residual_channels=12"
    refuses("is another model: wavenet_config.n_residual_channels = 12", teacher_folder, CATEGORICAL, narrow)
    refuses("no checkpoint at .*nothing", tmp_path / "nothing", CATEGORICAL)
    train_to_end(start_run(pipeline, tmp_path / "mixture", DROPOUT, "train_config.steps=21"))
    refuses("expected a model with wavenet_config.output = categorical", tmp_path / "mixture", DROPOUT)
    train_to_end(start_run(pipeline, tmp_path / "undropped", CATEGORICAL, "train_config.steps=21"))
    refuses("has no null condition", tmp_path / "undropped", CATEGORICAL)
