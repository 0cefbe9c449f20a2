"""Weights that are not finite, of other sizes or types, or that the system cannot read, are refused in one line."""

import errno
import json
import math
import os
import random

import pytest
import torch
from safetensors.torch import save_file

import evaluate
import inference
from midi2wave import checkpoint, weight_files
from midi2wave.checkpoint import TRAINING_NAME, WEIGHTS_NAME, load_model, load_training, load_weights
from midi2wave.training.run_state import create_or_resume_run
from midi2wave.utils.errors import InputError
from nv_wavenet_bridge import export
from tests.helpers.pipeline import assert_refused, call, settings
from tests.helpers.training import pipeline_config
from tests.unit.model.test_checkpoint import CONFIG, cut, make_model, save_step

CPU = torch.device("cpu")


def metadata(**blocks) -> dict[str, str]:
    """Metadata of a checkpoint whose config has other options."""
    config = CONFIG.as_dict()
    for block, options in blocks.items():
        config[block] = config[block] | options
    return {"format": checkpoint.FORMAT, "step": "1", "config": json.dumps(config)}


def spoil(path, value, name="decoder.hidden.weight"):
    """Put one value into the weights of a checkpoint's folder."""
    with weight_files.open_weights(path / WEIGHTS_NAME) as stored:
        tensors = {key: stored.get_tensor(key) for key in stored.keys()}  # noqa: SIM118 - not a dictionary
        texts = stored.metadata()
    tensors[name].view(-1)[1] = value
    save_file(tensors, path / WEIGHTS_NAME, texts)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_weights_that_are_not_finite_are_refused(tmp_path, value):
    spoil(save_step(tmp_path, 1), value)
    for load in (load_weights, lambda path: load_model(path, CPU)):
        with pytest.raises(InputError, match=r"weights\.safetensors holds NaN or infinity \(in decoder\.hidden"):
            load(tmp_path)


def test_no_command_uses_weights_that_are_not_finite(pipeline, tmp_path):
    config = pipeline_config(pipeline, tmp_path / "run")
    state = create_or_resume_run(config, force=False)
    folder = checkpoint.save(tmp_path / "run", 1, state.model.state_dict(), {}, config, 1)
    spoil(folder, math.nan)
    model = settings(f"inference_config.model_filename={folder}")
    words = ("weights.safetensors", "NaN or infinity")
    assert_refused(call(inference, "-c", pipeline.config, *model, "--out", tmp_path / "out"), *words)
    assert_refused(call(export, "-c", pipeline.config, *model, "--out", tmp_path / "bundle"), *words)
    scores = {"model_filename": folder, "test_dir": pipeline.folder / "test", "output_dir": tmp_path / "scores"}
    options = settings(*(f"evaluate_config.{name}={value}" for name, value in scores.items()))
    assert_refused(call(evaluate, "-c", pipeline.config, *options), *words)
    with pytest.raises(InputError, match="NaN or infinity"):
        create_or_resume_run(
            pipeline_config(pipeline, tmp_path / "new", f"train_config.checkpoint_path={folder}"), force=False
        )
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize("part", ["model", "average"])
def test_a_training_state_that_is_not_finite_is_skipped(tmp_path, capsys, part):
    save_step(tmp_path, 1)
    path = save_step(tmp_path, 2) / TRAINING_NAME
    stored = torch.load(path, weights_only=True)
    stored[part] = {name: tensor.clone().fill_(math.nan) for name, tensor in stored["model"].items()}
    torch.save(stored, path)
    assert load_training(tmp_path)[0]["step"] == 1
    assert "training.pt holds NaN or infinity" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("spoil_state", "words"),
    [
        (lambda stored: stored.pop("optimizer"), "it has no optimizer"),
        (lambda stored: stored.update(optimizer=[]), "state in its newest checkpoint is damaged"),
        (lambda stored: stored["optimizer"]["param_groups"].pop(), "state in its newest checkpoint is damaged"),
        (lambda stored: stored["optimizer"]["state"][0].update(exp_avg=torch.zeros(1, 2)), "of other parameters"),
        (lambda stored: stored["optimizer"]["state"][0]["exp_avg"].fill_(math.nan), "NaN or infinity"),
        (lambda stored: stored.update(step="2"), "can be used"),
        (lambda stored: stored.update(model=3), "can be used"),
        (lambda stored: stored["model"].popitem(), "can be used"),
        (lambda stored: stored["average"].update(more=torch.zeros(1)), "can be used"),
        (lambda stored: stored["model"].update({next(iter(stored["model"])): 3}), "can be used"),
    ],
)
def test_a_damaged_training_state_is_refused(pipeline, tmp_path, spoil_state, words):
    """With one line, whatever is in it."""
    config = pipeline_config(pipeline, tmp_path, "train_config.steps=9")
    stored, stored_config = load_training(pipeline.folder / "run")
    weights, _, _ = load_weights(pipeline.folder / "run")
    spoil_state(stored)
    checkpoint.save(tmp_path, 2, weights, stored, stored_config, 1)
    (tmp_path / "config.json").write_bytes((pipeline.folder / "run" / "config.json").read_bytes())
    if isinstance(stored["step"], str):  # `save` writes the step itself.
        torch.save(stored, tmp_path / "step_00000002" / TRAINING_NAME)
    with pytest.raises(InputError, match=words):
        create_or_resume_run(config, force=False)


HUGE = {
    "beyond the limits": {"wavenet_config": {"n_cond_channels": 10**12}},
    "within the limits": {"wavenet_config": {"n_layers": 200, "n_residual_channels": 4096, "n_skip_channels": 4096}},
    "stack": {"cond_wavenet_config": {"n_layers": 200, "n_residual_channels": 4096, "kernel_size": 15}},
    "window": {"wavenet_config": {"n_cond_channels": 4096}, "cond_wavenet_config": {"upsampling": "transposed"}},
    "receptive field": {"cond_wavenet_config": {"n_layers": 200, "max_dilation": 65536}},
    "look-ahead": {"cond_wavenet_config": {"lookahead_ms": 500_000.0}},
    "layers": {"wavenet_config": {"n_layers": -1}},
}


@pytest.mark.parametrize("blocks", HUGE.values(), ids=HUGE.keys())
def test_a_small_file_takes_little_memory(tmp_path, blocks, monkeypatch):
    """Whatever sizes its config has: they are compared with the tensors before a model is built."""
    save_file(make_model().state_dict(), tmp_path / "x.safetensors", metadata(**blocks))
    monkeypatch.setattr(checkpoint, "build_model", lambda _: pytest.fail("a model is built"))
    with pytest.raises(InputError) as caught:
        load_model(tmp_path / "x.safetensors", CPU)
    assert str(caught.value).startswith(f"{tmp_path}/x.safetensors") and "\n" not in str(caught.value)


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64, torch.float8_e4m3fn])
def test_weights_of_other_types_are_refused(tmp_path, dtype):
    weights = make_model().state_dict() | {"decoder.hidden.bias": torch.zeros(4).to(dtype)}
    save_file(weights, tmp_path / "x.safetensors", metadata())
    with pytest.raises(InputError, match=r"decoder\.hidden\.bias is of type .*, expected floats"):
        load_model(tmp_path / "x.safetensors", CPU)


def test_weights_of_other_precisions_are_used(tmp_path):
    weights = make_model(3).state_dict()
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        save_file({name: tensor.to(dtype) for name, tensor in weights.items()}, tmp_path / "x.safetensors", metadata())
        model, _, _ = load_model(tmp_path / "x.safetensors", CPU)
        assert torch.equal(model.decoder.hidden.weight, weights["decoder.hidden.weight"].to(dtype).float())
    huge = {name: torch.full_like(tensor.double(), 1e300) for name, tensor in weights.items()}
    save_file(huge, tmp_path / "x.safetensors", metadata())
    with pytest.raises(InputError, match="NaN or infinity"):  # In float32.
        load_model(tmp_path / "x.safetensors", CPU)


def test_mutated_checkpoints_are_loaded_or_refused(tmp_path):
    """Bytes and numbers of a checkpoint are changed; it takes no more memory than its size and the model's."""
    save_file(make_model().state_dict(), tmp_path / "x.safetensors", metadata())
    path, rng, outcomes = tmp_path / "x.safetensors", random.Random(5), set()
    whole = path.read_bytes()
    numbers = [i for i, byte in enumerate(whole[:8000]) if chr(byte).isdigit()]
    for case in range(300):
        content = bytearray(whole)
        for _ in range(rng.choice((1, 1, 3))):
            if case % 2:
                content[rng.choice(numbers)] = ord(rng.choice("0123456789"))
            else:
                content[rng.randrange(len(content))] = rng.randrange(256)
        path.write_bytes(content)
        try:
            load_model(path, CPU)
            outcomes.add("loaded")
        except InputError as error:
            assert str(error).startswith(str(path)) and "\n" not in str(error)
            outcomes.add("refused")
    assert outcomes == {"loaded", "refused"}


def fail(number):
    """A function that raises the OSError of an errno, as the system does."""

    def refuse(path, *_arguments, **_options):
        raise OSError(number, os.strerror(number), os.fspath(path))

    return refuse


def test_a_file_system_that_cannot_map_files_is_read(tmp_path, monkeypatch):
    """safetensors raises an OSError without errno there."""
    save_step(tmp_path, 1)
    expected, config, step = load_weights(tmp_path)

    def unmapped(*_arguments, **_options):
        raise OSError("No such device (os error 19)")

    monkeypatch.setattr(weight_files, "safe_open", unmapped)
    weights, *others = load_weights(tmp_path)
    assert others == [config, step] and weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], tensor) for name, tensor in expected.items())
    whole = (tmp_path / "step_00000001" / WEIGHTS_NAME).read_bytes()
    for size in (0, 7, 8, 100, len(whole) - 1):
        cut(tmp_path / "step_00000001" / WEIGHTS_NAME, size)
        with pytest.raises(InputError, match="is damaged or truncated"):
            load_weights(tmp_path)
        (tmp_path / "step_00000001" / WEIGHTS_NAME).write_bytes(whole)


@pytest.mark.parametrize("number", [errno.EIO, errno.EMFILE, errno.EACCES, errno.ENOMEM, errno.ESTALE])
@pytest.mark.parametrize("broken", [WEIGHTS_NAME, TRAINING_NAME])
def test_a_checkpoint_that_cannot_be_read_is_not_passed_over(tmp_path, monkeypatch, number, broken):
    """A run that resumed from the one before would remove it."""
    for step in (1, 2):
        save_step(tmp_path, step)
    if broken == WEIGHTS_NAME:
        monkeypatch.setattr(weight_files, "safe_open", fail(number))
        monkeypatch.setattr("pathlib.Path.read_bytes", fail(number))
    else:
        monkeypatch.setattr(checkpoint.torch, "load", fail(number))
    with pytest.raises(OSError) as caught:
        load_training(tmp_path)
    assert caught.value.errno == number


def test_the_memory_is_not_called_damage(tmp_path, monkeypatch):
    save_step(tmp_path, 1)

    def exhausted(*_arguments, **_options):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes")

    monkeypatch.setattr(checkpoint.torch, "load", exhausted)
    with pytest.raises(MemoryError):
        load_training(tmp_path)
