"""Configs: what is refused and in which words, overrides, and the configs that come with the project."""

import json
import re
from dataclasses import fields

import pytest

from midi2wave import config
from midi2wave.config import BLOCKS, CONFIG_FOLDER, config_from_dict, load_config
from midi2wave.utils.errors import InputError
from tests.helpers.paths import SHIPPED_CONFIGS

TRAIN = {"train_config": {"output_directory": "run"}}


def write(folder, blocks):
    path = folder / "mine.json"
    path.write_text(blocks if isinstance(blocks, str) else json.dumps(blocks), encoding="utf-8")
    return path


def refusal(path, needs=(), overrides=None) -> str:
    with pytest.raises(InputError) as caught:
        load_config(path, needs, overrides)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("path", SHIPPED_CONFIGS, ids=lambda p: str(p.relative_to(CONFIG_FOLDER)))
def test_every_config_of_the_project_loads(path):
    loaded = load_config(path, ())
    assert loaded.as_dict() and config_from_dict(loaded.as_dict(), "again") == loaded


def test_bare_names_are_found_in_the_config_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    there = load_config(CONFIG_FOLDER / "config_train.json", ())
    assert load_config("config_train.json", ()) == load_config("config_train", ()) == there
    assert load_config("demo/config_train", ()) == load_config(CONFIG_FOLDER / "demo" / "config_train.json", ())
    (tmp_path / "config_train.json").write_text(json.dumps(TRAIN))
    assert load_config("config_train.json", ()).train_config.output_directory == "run"  # a path goes first


def test_a_config_that_is_not_there_gets_the_nearest_name():
    message = refusal("config_trian.json")
    assert "config config_trian.json not found" in message and "did you mean config_train.json?" in message


@pytest.mark.parametrize(
    ("blocks", "words"),
    [
        ({"train_confg": {}}, ["block 'train_confg' is unknown", "did you mean 'train_config'?"]),
        ({"zzz": {}}, ["block 'zzz' is unknown", "expected one of preprocess_config, data_config"]),
        ({"data_config": {"audio_hertz": 1}}, ["data_config: option 'audio_hertz' is unknown", "mean 'audio_hz'?"]),
        ({"data_config": {"n_wokers": 1}}, ["data_config: option 'n_wokers' is unknown", "did you mean 'n_workers'?"]),
        ({"train_config": {}}, ["train_config: option 'output_directory' is missing", "run folder"]),
    ],
)
def test_unknown_and_missing_names(tmp_path, blocks, words):
    path = write(tmp_path, blocks)
    message = refusal(path)
    assert message.startswith(str(path)) and all(word in message for word in words), message


@pytest.mark.parametrize(
    ("block", "key", "literal", "expected"),
    [
        ("wavenet_config", "n_layers", "true", "valid integer"),
        ("wavenet_config", "n_layers", "2.0", "valid integer"),
        ("wavenet_config", "n_layers", '"2"', "valid integer"),
        ("wavenet_config", "n_layers", "null", "valid integer"),
        ("wavenet_config", "output", "1", "'logistic_mixture' or 'categorical'"),
        ("data_config", "segment_length", '"0.5"', "valid number"),
        ("data_config", "segment_length", "true", "valid number"),
        ("data_config", "segment_length", "NaN", "finite number"),
        ("data_config", "segment_length", "Infinity", "finite number"),
        ("data_config", "segment_length", "1e999", "finite number"),
        ("data_config", "segment_length", "1" + 400 * "0", "valid number"),
        ("data_config", "excitation", "1", "valid boolean"),
        ("data_config", "features", "[1]", "'paper_v1' or 'paper_v5'"),
        ("data_config", "features", "3", "valid list"),
        ("data_config", "segment_length", "0", "greater than 0"),
        ("data_config", "n_workers", "-1", "greater than or equal to 0"),
        ("data_config", "n_workers", "257", "less than or equal to 256"),
        ("data_config", "global_values", "[1]", "valid string"),
        ("data_config", "partial_hz", '[1, "x"]', "valid number"),
        ("wavenet_config", "kernel_size", "4", "expected 2 or 3"),
        ("wavenet_config", "kernel_size", '"2"', "expected 2 or 3"),
        ("wavenet_config", "kernel_size", "true", "expected 2 or 3"),
        ("wavenet_config", "output", '"categorial"', "(did you mean 'categorical'?)"),
        ("data_config", "features", '["onset", "pedal"]', "(did you mean 'pedals'?)"),
        (
            "preprocess_config",
            "seed",
            str(2**63),
            f"less than or equal to {2**63 - 1}",
        ),  # NumPy and PyTorch would break off
    ],
)
def test_wrong_values_are_refused(tmp_path, block, key, literal, expected):
    """The message names file, block, option, value and expectation."""
    path = write(tmp_path, f'{{"{block}": {{"{key}": {literal}}}}}')
    message = refusal(path)
    assert message.startswith(f"{path}: {block}.{key} = "), message
    assert "expected" in message and message.endswith(expected), message


def test_every_number_has_limits():
    """So that no config from elsewhere describes something that takes all memory."""
    endless = []
    for block, schema in json.loads(config.json_schema())["properties"].items():
        for name, option in schema.get("properties", {}).items():
            lower = option.keys() & {"minimum", "exclusiveMinimum", "enum"}
            if option.get("type") in ("integer", "number") and not (lower and option.keys() & {"maximum", "enum"}):
                endless.append(f"{block}.{name}")
    assert endless == []


@pytest.mark.parametrize(
    ("block", "options", "words"),
    [
        ("wavenet_config", {"n_layers": 200, "max_dilation": 65536}, "samples, expected at most 1048576"),
        ("cond_wavenet_config", {"n_layers": 34, "max_dilation": 65536}, "frames, expected at most 131072"),
        ("cond_wavenet_config", {"n_layers": 200, "max_dilation": 256, "kernel_size": 15}, "kernel_size = 15 have a"),
    ],
)
def test_endless_receptive_fields_are_refused(tmp_path, block, options, words):
    assert words in refusal(write(tmp_path, {block: options}))


def test_the_limits_of_receptive_fields(tmp_path):
    """Dilations 1, 2, 4, ..., 2^(n-1) have a receptive field of 2^n."""
    config_from_dict({"cond_wavenet_config": {"n_layers": 17, "max_dilation": 65536, "kernel_size": 2}}, "")
    refusal(write(tmp_path, {"cond_wavenet_config": {"n_layers": 18, "max_dilation": 65536, "kernel_size": 2}}))


def test_the_seed_of_the_validation_crops_is_refused(tmp_path):
    """A run with it would train on crops at the positions of those that it is validated on."""
    for seed, allowed in ((2**40 - 1, True), (2**40, False), (2**40 + 1, True)):
        blocks = {"train_config": {"output_directory": "run", "seed": seed}}
        if allowed:
            assert load_config(write(tmp_path, blocks), ()).train_config.seed == seed
        else:
            assert "seed = 1099511627776: expected another one" in refusal(write(tmp_path, blocks))


def test_limits_themselves_are_allowed(tmp_path):
    blocks = {"data_config": {"n_workers": 256, "audio_hz": 1000}, "wavenet_config": {"n_layers": 1}}
    loaded = load_config(write(tmp_path, blocks), ())
    assert (loaded.data_config.n_workers, loaded.data_config.audio_hz, loaded.wavenet_config.n_layers) == (256, 1000, 1)


def test_whole_numbers_pass_as_floats_and_one_name_as_a_list(tmp_path):
    loaded = load_config(write(tmp_path, {"data_config": {"segment_length": 2, "features": "onset"}}), ())
    assert type(loaded.data_config.segment_length) is float
    assert loaded.data_config.features == ["onset"]


@pytest.mark.parametrize("block", ["data_config", "preprocess_config"])
def test_audio_hz_must_be_a_multiple_of_midi_hz(tmp_path, block):
    message = refusal(write(tmp_path, {block: {"audio_hz": 16000, "midi_hz": 300}}))
    assert f"{block}: audio_hz = 16000 is not a whole multiple of midi_hz = 300; midi_hz = 320 would do" in message


@pytest.mark.parametrize(
    ("blocks", "words"),
    [
        ({"data_config": {"features": []}}, "data_config: features = []: expected one or more"),
        ({"data_config": {"features": ["onset", "onset"]}}, "data_config: features = ['onset', 'onset']: expected"),
        ({"train_config": {"output_directory": "", "steps": 5, "warmup_steps": 5}}, "expected less than steps = 5"),
        ({"train_config": {"output_directory": "", "ema_decay": 1.0}}, "ema_decay = 1.0: expected less than 1"),
    ],
)
def test_values_that_do_not_fit_together(tmp_path, blocks, words):
    assert words in refusal(write(tmp_path, blocks))


@pytest.mark.parametrize("text", ["", "{", "[]", '{"data_config": 3}', "3", "[" * 100_000, "1" * 5000])
def test_files_that_are_no_config(tmp_path, text):
    path = write(tmp_path, text)
    assert refusal(path).startswith(str(path))


def test_a_binary_file_is_no_config(tmp_path):
    (tmp_path / "x.json").write_bytes(b"\xff\xfe\x00{")
    assert "is not valid JSON" in refusal(tmp_path / "x.json")


def test_needed_blocks_are_made_of_defaults(tmp_path):
    """Other blocks are absent."""
    path = write(tmp_path, "{}")
    loaded = load_config(path, ("data_config",))
    assert loaded.data_config == config.DataConfig()
    assert loaded.train_config is None and list(loaded.as_dict()) == ["data_config"]
    assert "train_config: option 'output_directory' is missing" in refusal(path, ("train_config",))


def test_lists_of_two_configs_are_two_lists():
    config.DataConfig().features.append("onset")
    assert config.DataConfig().features == ["note_state"]


def test_overrides_are_typed_and_the_last_one_counts(tmp_path):
    overrides = [
        "train_config.steps=5000",
        "train_config.steps=7000",
        "train_config.learning_rate=1e-3",
        "train_config.output_directory=123",  # a name that looks like a number stays a name
        "data_config.features=onset",
        "data_config.excitation=false",
        'preprocess_config.out_dir="a=b"',
    ]
    loaded = load_config(write(tmp_path, TRAIN), (), overrides)
    train = loaded.train_config
    assert (train.steps, train.learning_rate, train.output_directory) == (7000, 1e-3, "123")
    assert (loaded.data_config.features, loaded.data_config.excitation) == (["onset"], False)
    assert loaded.preprocess_config.out_dir == '"a=b"'
    listed = load_config(write(tmp_path, {}), (), ['data_config.features=["onset", "pedals"]'])
    assert listed.data_config.features == ["onset", "pedals"]


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("train_config.steps", "expected block.option=value"),
        ("steps=3", "expected block.option=value"),
        (".steps=3", "expected block.option=value"),
        ("train_config.=3", "expected block.option=value"),
        ("train_confi.steps=3", "did you mean 'train_config'?"),
        ("train_config.step=3", "did you mean 'steps'?"),
        ("train_config.steps=many", 'train_config.steps = "many": expected a valid integer'),
        ("train_config.steps=", 'train_config.steps = "": expected a valid integer'),
        ("train_config.steps=1e3", "train_config.steps = 1000.0: expected a valid integer"),
        ("train_config.learning_rate=NaN", "expected a finite number"),
        ("train_config.learning_rate=" + "9" * 5000, "expected a valid number"),
        ("data_config.excitation=yes", "expected a valid boolean"),
    ],
)
def test_wrong_overrides(tmp_path, override, words):
    """The message names --set, and not the file, which need not be wrong."""
    message = refusal(write(tmp_path, TRAIN), (), [override])
    assert words in message and message.startswith("--set")


def test_contradictions_name_the_overrides_that_take_part(tmp_path):
    """Not the file alone, whose values may agree."""
    path = write(tmp_path, '{"train_config": {"output_directory": "", "steps": 50, "warmup_steps": 10}}')
    with pytest.raises(InputError) as refused:
        config.load_config(path, (), ["train_config.seed=1", "train_config.steps=5"])
    words = "train_config: warmup_steps = 10: expected less than steps = 5"
    assert str(refused.value) == f"{path} with --set train_config.steps=5: {words}"
    with pytest.raises(InputError, match=f"^{re.escape(str(path))}: train_config.steps = 0"):
        config.load_config(write(tmp_path, '{"train_config": {"output_directory": "", "steps": 0}}'), (), [])


def test_wrong_override_of_a_block_that_the_file_lacks(tmp_path):
    message = refusal(write(tmp_path, {}), (), ["inference_config.guidance=two"])
    assert message == '--set: inference_config.guidance = "two": expected a valid number'


def test_suggestions_know_the_former_names(tmp_path):
    expected = "'history_interferance' is unknown; did you mean 'history_mixing' (formerly 'history_interference')?"
    path = write(tmp_path, {"train_config": {**TRAIN["train_config"], "history_interferance": 0.1}})
    assert refusal(path, ()).endswith(f"train_config: option {expected}")
    override = "train_config.history_interferance=0.1"
    assert refusal(write(tmp_path, TRAIN), (), [override]) == f"--set: train_config option {expected}"


def test_the_table_lists_every_option():
    table = config.table()
    for name, kind in BLOCKS.items():
        assert f"## `{name}`" in table
        assert all(f"| `{f.name}` |" in table for f in fields(kind))
    assert "| `output_directory` | required |" in table


def test_weights_beside_the_config_come_first(tmp_path):
    """So that a folder with both can be moved; what the command line names is relative to the working folder."""
    (tmp_path / "mine.safetensors").write_bytes(b"weights")
    path = tmp_path / "play.json"
    path.write_text(json.dumps({"inference_config": {"model_filename": "mine.safetensors"}}))
    needs = ("inference_config",)
    assert load_config(path, needs).inference_config.model_filename == str(tmp_path / "mine.safetensors")
    overridden = load_config(path, needs, ["inference_config.model_filename=mine.safetensors"])
    assert overridden.inference_config.model_filename == "mine.safetensors"
    (tmp_path / "mine.safetensors").unlink()
    assert load_config(path, needs).inference_config.model_filename == "mine.safetensors"
