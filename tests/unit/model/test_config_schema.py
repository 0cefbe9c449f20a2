"""configs/schema.json: what it says to editors about config files, and the shipped configs that name it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from midi2wave.config import BLOCKS, DEPRECATED_OPTIONS, config_from_dict, load_config
from midi2wave.utils.errors import InputError
from tests.helpers.paths import CONFIG_SCHEMA, SHIPPED_CONFIGS

SCHEMA = json.loads(CONFIG_SCHEMA.read_text(encoding="utf-8"))
TRAIN = {"train_config": {"output_directory": "run"}}


def option_schema(block: str, name: str) -> dict:
    return SCHEMA["properties"][block]["properties"][name]


def check_schema(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """The outcome of check-jsonschema, which needs no network for a local schema."""
    command = [sys.executable, "-m", "check_jsonschema", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_every_shipped_config_is_valid():
    """And the schema itself is a valid JSON schema."""
    done = check_schema("--schemafile", CONFIG_SCHEMA, *SHIPPED_CONFIGS)
    assert done.returncode == 0, done.stdout
    done = check_schema("--check-metaschema", CONFIG_SCHEMA)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", SHIPPED_CONFIGS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_every_shipped_config_names_the_schema(path):
    """First, and by a path relative to the file, as editors read it."""
    members = list(json.loads(path.read_text(encoding="utf-8")).items())
    assert members[0] == ("$schema", Path(os.path.relpath(CONFIG_SCHEMA, path.parent)).as_posix())


@pytest.mark.parametrize(
    ("blocks", "words"),
    [
        ({"train_confg": {}}, "'train_confg' was unexpected"),
        ({"data_config": {"n_wokers": 1}}, "'n_wokers' was unexpected"),
        ({"train_config": {}}, "'output_directory' is a required property"),
        ({"data_config": {"n_workers": 257}}, "257 is greater than the maximum of 256"),
        ({"data_config": {"segment_length": 0}}, "0 is less than or equal to the minimum of 0"),
        ({"data_config": {"excitation": 1}}, "1 is not of type 'boolean'"),
        ({"wavenet_config": {"kernel_size": 4}}, "4 is not one of [2, 3]"),
        ({"data_config": {"features": ["pedal"]}}, "is not valid under any of the given schemas"),
    ],
)
def test_the_schema_refuses_what_the_loader_refuses(tmp_path, blocks, words):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({"$schema": str(CONFIG_SCHEMA), **blocks}), encoding="utf-8")
    done = check_schema("--schemafile", CONFIG_SCHEMA, path)
    assert done.returncode == 1 and words in done.stdout, done.stdout
    with pytest.raises(InputError):
        load_config(path, ())


def test_former_names_are_accepted_and_marked(tmp_path):
    blocks = {
        "train_config": {"output_directory": "run", "history_interference": 0.5},
        "inference_config": {"model_filename": "run", "mode": "primed"},
    }
    (tmp_path / "mine.json").write_text(json.dumps(blocks), encoding="utf-8")
    done = check_schema("--schemafile", CONFIG_SCHEMA, tmp_path / "mine.json")
    assert done.returncode == 0, done.stdout
    for block, former in DEPRECATED_OPTIONS:
        assert option_schema(block, former)["deprecated"] is True
    for block in ("inference_config", "evaluate_config"):
        assert next(one for one in option_schema(block, "mode")["anyOf"] if one.get("deprecated"))["const"] == "primed"


def test_the_schema_tells_meaning_default_and_limits():
    for block in BLOCKS:
        options = SCHEMA["properties"][block]["properties"]
        assert all(option["description"] for option in options.values())
        assert set(SCHEMA["properties"][block].get("required", ())) == {
            name for name, option in options.items() if "default" not in option and not option.get("deprecated")
        }
    segment_length, split = option_schema("data_config", "segment_length"), option_schema("preprocess_config", "split")
    assert (segment_length["default"], segment_length["exclusiveMinimum"]) == (0.5, 0)
    assert split["enum"] == ["train", "validation", "test", "all"]
    n_workers = option_schema("data_config", "n_workers")
    assert (n_workers["minimum"], n_workers["maximum"], n_workers["type"]) == (0, 256, "integer")


def test_the_member_that_names_the_schema_is_ignored(tmp_path):
    """Run folders do not have it, so that former versions can read their configs."""
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({"$schema": "anywhere.json", **TRAIN}), encoding="utf-8")
    loaded = load_config(path, (), ["train_config.steps=2000"])
    assert loaded == config_from_dict({"$schema": "anywhere.json", "train_config": vars(loaded.train_config)}, "again")
    assert list(loaded.as_dict()) == ["train_config"] and loaded.train_config.steps == 2000
