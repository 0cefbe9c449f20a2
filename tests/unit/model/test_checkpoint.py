"""Checkpoints come back exactly, damaged ones are refused or passed over, and a full disk leaves nothing behind."""

import errno
import json
import signal

import pytest
import torch
from safetensors.torch import save_file

from midi2wave import checkpoint
from midi2wave.checkpoint import (
    TRAINING_NAME,
    WEIGHTS_NAME,
    describe_difference,
    load_model,
    load_training,
    load_weights,
    save,
    step_folders,
)
from midi2wave.config import CondWavenetConfig, Config, DataConfig, TrainConfig, WavenetConfig, load_config
from midi2wave.utils.errors import InputError
from wavenet import build_model


def make_config(**wavenet) -> Config:
    small = {
        "n_mixtures": 2,
        "n_layers": 2,
        "max_dilation": 2,
        "n_residual_channels": 4,
        "n_skip_channels": 4,
        "n_out_channels": 4,
        "n_cond_channels": 4,
    }
    return Config(
        data_config=DataConfig(features=["pedals"], audio_hz=4000),
        wavenet_config=WavenetConfig(**{**small, **wavenet}),
        cond_wavenet_config=CondWavenetConfig(
            n_layers=2, max_dilation=2, n_residual_channels=4, n_skip_channels=4, lookahead_ms=4.0
        ),
        train_config=TrainConfig(output_directory="run"),
    )


CONFIG = make_config()


def make_model(seed: int = 0, config: Config = CONFIG):
    torch.manual_seed(seed)
    return build_model(config)


def save_step(run, step: int, keep: int = 9):
    """A checkpoint whose weights are made from its step."""
    weights = make_model(step).state_dict()
    return save(run, step, weights, {"model": weights, "rng": torch.tensor([step])}, CONFIG, keep)


def steps(run) -> list[int]:
    return [int(folder.name[5:]) for folder in step_folders(run)]


def cut(path, size):
    path.write_bytes(path.read_bytes()[:size])


def test_a_checkpoint_comes_back_exactly(tmp_path):
    folder = save_step(tmp_path, 7)
    assert {p.name for p in folder.iterdir()} == {WEIGHTS_NAME, TRAINING_NAME}
    for path in (tmp_path, folder, folder / WEIGHTS_NAME, str(folder)):
        weights, config, step = load_weights(path)
        assert (config, step) == (CONFIG, 7)
        assert weights.keys() == make_model(7).state_dict().keys()
        assert all(torch.equal(weights[name], tensor) for name, tensor in make_model(7).state_dict().items())
    training, config = load_training(tmp_path)
    assert training["step"] == 7 and training["rng"].tolist() == [7] and config == CONFIG
    assert all(torch.equal(training["model"][name], tensor) for name, tensor in weights.items())


def test_weights_alone_are_a_complete_model(tmp_path):
    alone = (save_step(tmp_path, 7) / WEIGHTS_NAME).rename(tmp_path / "piano.safetensors")
    model, config, step = load_model(alone, torch.device("cpu"))
    assert (config, step, model.training) == (CONFIG, 7, False)
    history = model.decoder.prepend_silence(torch.arange(32)[None] * 100)
    features = torch.rand(1, 3, sum(model.context_frames) + 2)
    excitation = torch.rand(1, 6, 32)
    with torch.no_grad():
        expected = make_model(7)(history, features, excitation).params
        assert torch.equal(model(history, features, excitation).params, expected)


def test_non_contiguous_weights_are_saved(tmp_path):
    save(tmp_path, 1, {"w": torch.arange(6.0).view(2, 3).t()}, {}, CONFIG, 1)
    assert load_weights(tmp_path)[0]["w"].tolist() == [[0, 3], [1, 4], [2, 5]]


def test_the_newest_are_kept(tmp_path):
    for step in (1, 2, 10, 100_000_000, 100_000_001):
        save_step(tmp_path, step, keep=3)
    assert steps(tmp_path) == [10, 100_000_000, 100_000_001]
    (tmp_path / "step_last").mkdir()
    (tmp_path / ".step_00000011.1-0123abcd.partial").mkdir()
    assert steps(tmp_path) == [10, 100_000_000, 100_000_001] and load_weights(tmp_path)[2] == 100_000_001
    assert step_folders(tmp_path / "nowhere") == []


@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EPERM])
def test_old_checkpoints_go_where_no_links_are_possible(tmp_path, monkeypatch, capsys, number):
    def refuse(*_arguments, **_options):
        raise OSError(number, "no links")

    monkeypatch.setattr("os.symlink", refuse)
    for step in range(1, 6):
        save_step(tmp_path, step, keep=2)
    assert steps(tmp_path) == [4, 5]
    assert capsys.readouterr().err.count("latest cannot be a link here") == 1


def test_a_step_can_be_saved_again(tmp_path):
    save_step(tmp_path, 5)
    save(tmp_path, 5, make_model(6).state_dict(), {"again": True}, CONFIG, 1)
    assert load_training(tmp_path)[0]["again"] and steps(tmp_path) == [5]


def test_a_damaged_later_checkpoint_is_removed_on_saving(tmp_path):
    """After resuming from the checkpoint before it, a damaged one is not taken for the newest."""
    for step in (10, 20):
        save_step(tmp_path, step)
    cut(tmp_path / "step_00000020" / WEIGHTS_NAME, 100)
    assert load_training(tmp_path)[0]["step"] == 10
    save_step(tmp_path, 15, keep=1)
    assert steps(tmp_path) == [15] and load_weights(tmp_path)[2] == 15


@pytest.mark.links
@pytest.mark.parametrize("name", [WEIGHTS_NAME, TRAINING_NAME])
def test_a_truncated_checkpoint_is_skipped(tmp_path, name, capsys):
    save_step(tmp_path, 1)
    path = save_step(tmp_path, 2) / name
    whole = path.read_bytes()
    for size in (0, 1, 8, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        training, config = load_training(tmp_path)
        assert training["step"] == 1 and config == CONFIG
        message = capsys.readouterr().err
        assert "step_00000002 cannot be used" in message and message.count("\n") == 1
    path.unlink()
    assert load_training(tmp_path)[0]["step"] == 1


def test_a_run_with_only_damaged_checkpoints_is_refused(tmp_path):
    """It is not started again either."""
    assert load_training(tmp_path) is None
    cut(save_step(tmp_path, 1) / WEIGHTS_NAME, 50)
    with pytest.raises(InputError, match="can be used; begin anew with --force"):
        load_training(tmp_path)


def test_truncated_weights_are_refused(tmp_path):
    path = save_step(tmp_path, 1) / WEIGHTS_NAME
    whole = path.read_bytes()
    for size in (0, 1, 8, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(InputError, match="is damaged or truncated"):
            load_weights(tmp_path)


METADATA = {"format": checkpoint.FORMAT, "step": "1", "config": json.dumps(CONFIG.as_dict())}


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        (None, "is not a midi2wave checkpoint"),
        ({"format": "pt"}, r"is not a midi2wave checkpoint \(its metadata says 'pt'\)"),
        ({**METADATA, "step": "many"}, "damaged"),
        ({**METADATA, "config": "{"}, "damaged"),
        ({**METADATA, "config": "[1]"}, "expected an object of blocks"),
        ({**METADATA, "config": '{"data_config": 3}'}, "expected an object of blocks"),
        ({"format": checkpoint.FORMAT}, "damaged"),
        ({**METADATA, "config": '{"wavenet_config": {"n_layer": 3}}'}, "did you mean 'n_layers'"),
        ({**METADATA, "config": '{"wavenet_config": {}}'}, "has no data_config, cond_wavenet_config"),
    ],
)
def test_foreign_safetensors_are_refused(tmp_path, metadata, words):
    save_file({"w": torch.zeros(2)}, tmp_path / "x.safetensors", metadata)
    with pytest.raises(InputError, match=words) as caught:
        load_model(tmp_path / "x.safetensors", torch.device("cpu"))
    assert str(tmp_path / "x.safetensors") in str(caught.value)


def test_a_path_without_a_checkpoint(tmp_path):
    for path in (tmp_path, tmp_path / "nowhere", tmp_path / "x.safetensors"):
        with pytest.raises(InputError, match=r"no checkpoint at .*; give a run folder"):
            load_weights(path)


def test_another_architecture_is_refused_with_what_differs(tmp_path):
    path = save_step(tmp_path, 1)
    weights, _, _ = load_weights(path)
    model = make_model(config=make_config(n_skip_channels=6))
    with pytest.raises(InputError, match=r"another architecture: decoder.hidden.weight is \[4, 4\], expected \[4, 6\]"):
        checkpoint.fit_weights(model, weights, path)
    deeper = make_model(config=make_config(n_layers=3))
    with pytest.raises(InputError, match=r"decoder.layers.1.residual.bias is missing; .* and \d+ more"):
        checkpoint.fit_weights(deeper, weights, path)
    extra = {**weights, "more": torch.zeros(1)}
    del extra["decoder.hidden.bias"]
    with pytest.raises(InputError, match=r"decoder\.hidden\.bias is missing; more has no place$"):
        checkpoint.fit_weights(make_model(), extra, path)


def test_weights_that_do_not_fit_their_config_are_refused(tmp_path):
    weights = make_model(1).state_dict()
    save(tmp_path, 1, weights, {}, make_config(n_out_channels=8), 1)
    with pytest.raises(InputError, match="another architecture"):
        load_model(tmp_path, torch.device("cpu"))


def test_differences_name_block_and_option():
    assert checkpoint.differences(CONFIG, make_config()) == []
    assert checkpoint.differences(CONFIG, make_config(n_layers=3, kernel_size=3)) == [
        "wavenet_config.n_layers = 2 instead of 3",
        "wavenet_config.kernel_size = 2 instead of 3",
    ]


def test_long_values_are_cut_in_their_middle():
    text = describe_difference("data_config.dataset_path", f"/{'a' * 200}/train", "b")
    assert len(text) < 150 and text.endswith("a/train' instead of 'b'")


def test_paths_are_no_difference_but_features_are():
    """The data may lie anywhere; what the model receives of it must be the same."""
    moved, other = make_config(), make_config()
    moved.data_config = DataConfig(**{**vars(CONFIG.data_config), "dataset_path": "/moved", "n_workers": 7})
    other.data_config = DataConfig(**{**vars(CONFIG.data_config), "features": ["onset"]})
    assert checkpoint.differences(moved, CONFIG) == []
    (difference,) = checkpoint.differences(other, CONFIG)
    assert difference.startswith("data_config.features = ['onset'] instead of")


def test_impossible_parts_are_refused():
    config = make_config()
    config.cond_wavenet_config.lookahead_ms = 500.0
    with pytest.raises(InputError, match=r"lower cond_wavenet_config\.lookahead_ms"):
        build_model(config)


class Trap:
    """Runs code when it is unpickled the careless way."""

    def __reduce__(self):
        return (exec, ("raise SystemExit('code in a checkpoint was run')",))


@pytest.mark.links
def test_nothing_in_a_checkpoint_is_executed(tmp_path, capsys):
    save_step(tmp_path, 1)
    torch.save({"step": Trap()}, save_step(tmp_path, 2) / TRAINING_NAME)
    assert load_training(tmp_path)[0]["step"] == 1
    message = capsys.readouterr().err
    assert "step_00000002 cannot be used" in message and message.count("\n") == 1


@pytest.mark.links
@pytest.mark.parametrize("broken", ["serialize", "torch"])
def test_a_full_disk_leaves_the_earlier_checkpoints(tmp_path, monkeypatch, broken):
    save_step(tmp_path, 1)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(*((checkpoint, "serialize") if broken == "serialize" else (checkpoint.torch, "save")), full)
        for step in (1, 2):
            with pytest.raises(OSError, match="No space left"):
                save_step(tmp_path, step, keep=1)
    assert {p.name for p in tmp_path.iterdir()} == {"step_00000001", "latest"} and load_training(tmp_path)[0][
        "step"
    ] == 1


@pytest.mark.parametrize("n_bytes", [1000, 30_000])  # the weights do not fit; only the training state does not
def test_a_write_that_the_system_refuses_is_an_os_error(tmp_path, n_bytes):
    """A file size limit stands for the full disk: safetensors and PyTorch answer with errors of their own."""
    resource = pytest.importorskip("resource")
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    weights = make_model(1).state_dict()
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, limits[1]))
        with pytest.raises(OSError) as caught:
            save(tmp_path, 1, weights, {"moments": torch.zeros(100_000)}, CONFIG, 1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert caught.value.errno == errno.EFBIG
    assert not any(tmp_path.iterdir())


def test_removed_options_are_ignored_where_they_are_empty(tmp_path):
    step = save_step(tmp_path, 3)
    weights = load_weights(step)[0]

    def stored_with(**keys):
        config = CONFIG.as_dict()
        config["data_config"] |= keys
        metadata = {"format": checkpoint.FORMAT, "step": "3", "config": json.dumps(config)}
        save_file(weights, step / WEIGHTS_NAME, metadata)

    stored_with(tuning_cents=[], stiffness=[])
    assert load_weights(step)[1] == CONFIG
    stored_with(tuning_cents=[1.0] * 88)
    with pytest.raises(InputError, match=r"was trained with data_config\.tuning_cents"):
        load_weights(step)


def test_the_config_of_a_checkpoint_is_printed(pipeline, tmp_path, capsys):
    """As a file with which train.py trains the same model, from that checkpoint for example."""
    weights = checkpoint.find_weights(pipeline.folder / "run")
    assert checkpoint.main([str(weights)]) == 0
    (tmp_path / "config.json").write_text(capsys.readouterr().out)
    printed = load_config(tmp_path / "config.json", ("train_config", *checkpoint.MODEL_BLOCKS))
    assert printed == checkpoint.load_weights(weights)[1]
