"""Only a folder that a run made is taken for one, and a run resumes on the crops that it began with."""

import json
import shutil

import numpy as np
import pytest

from midi2wave import checkpoint, checkpoint_folders
from midi2wave.config import config_from_dict
from midi2wave.training import run_folder
from midi2wave.training.run_folder import require_run_folder
from midi2wave.training.run_state import create_or_resume_run
from midi2wave.utils.errors import InputError
from tests.helpers.pipeline import read_files
from tests.helpers.training import pipeline_config, start_run, train_to_end

FOREIGN_CONFIGS = {
    "Hugging Face": {"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "train_config": {}},
    "list": [1],
    "nothing": {},
}


@pytest.fixture
def finished(pipeline, tmp_path):
    """A copy of the pipeline's run of four steps."""
    return shutil.copytree(pipeline.folder / "run", tmp_path / "run", symlinks=True)


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("content", FOREIGN_CONFIGS.values(), ids=FOREIGN_CONFIGS.keys())
def test_a_foreign_config_is_no_run(pipeline, tmp_path, content, force):
    (tmp_path / "config.json").write_text(json.dumps(content))
    (tmp_path / "metrics.jsonl").write_text("{}")
    before = read_files(tmp_path)
    with pytest.raises(InputError, match=r"config\.json is not the config of a run"):
        create_or_resume_run(pipeline_config(pipeline, tmp_path), force=force)
    assert read_files(tmp_path) == before


def test_a_config_that_the_user_wrote_is_not_overwritten(pipeline, tmp_path):
    written = json.loads(pipeline.config.read_text()) | {"dist_config": {}}
    (tmp_path / "config.json").write_text(json.dumps(written, indent=2))
    with pytest.raises(InputError, match="is not the config of a run"):
        start_run(pipeline, tmp_path)
    run_folder.begin_run(tmp_path, config_from_dict(written, ""))  # As a run that ended before its first step.
    start_run(pipeline, tmp_path)


def test_a_run_with_a_damaged_config_is_still_one(pipeline, finished):
    (finished / "config.json").write_text('{"train_con')
    assert start_run(pipeline, finished).step == 4
    assert json.loads((finished / "config.json").read_text())["train_config"]["steps"] == 4


@pytest.mark.parametrize("name", ["best", "latest", "metrics.jsonl"])
@pytest.mark.parametrize("force", [False, True])
def test_a_folder_with_a_name_of_the_run_is_refused(pipeline, finished, name, force):
    path = finished / name
    path.unlink()
    path.mkdir()
    (path / "mine.txt").write_text("mine")
    before = read_files(finished)
    with pytest.raises(InputError, match=rf"{name} is .*rename it"):
        create_or_resume_run(pipeline_config(pipeline, finished), force=force)
    assert read_files(finished) == before


def test_a_file_with_the_name_of_a_link_is_refused(finished):
    (finished / "best").unlink()
    (finished / "best").write_text("mine")
    with pytest.raises(InputError, match="best is not a link"):
        require_run_folder(finished)


def test_copies_of_checkpoints_become_links_again(pipeline, finished, tmp_path):
    """As of a run that was copied by something that follows links."""
    copy = shutil.copytree(finished, tmp_path / "copy")
    assert not (copy / "latest").is_symlink()
    train_to_end(start_run(pipeline, copy, "train_config.steps=5"))
    assert (copy / "latest").is_symlink() and checkpoint.load_weights(copy / "latest")[2] == 5


def test_files_of_the_user_in_a_checkpoint_stay(pipeline, finished):
    oldest, newest = checkpoint.step_folders(finished)
    for folder in (oldest, newest):
        (folder / "song.wav").write_text("mine")
    one = ("train_config.keep_checkpoints=1", "train_config.iters_per_validation=100")
    train_to_end(start_run(pipeline, finished, "train_config.steps=6", *one))
    assert [checkpoint_folders.step_of(folder) for folder in checkpoint.step_folders(finished)][-1] == 6
    create_or_resume_run(pipeline_config(pipeline, finished), force=True)
    assert [path.name for folder in (oldest, newest) for path in folder.iterdir()] == 2 * ["song.wav"]
    train_to_end(start_run(pipeline, finished, *one))
    assert {path.name for path in newest.iterdir()} == {"song.wav", *checkpoint.CHECKPOINT_NAMES}


def shorten(folder):
    """The first recording becomes shorter."""
    lines = (folder / "filenames.csv").read_text().splitlines()
    names, values = lines[0].split(","), lines[1].split(",")
    values[names.index("n_samples")] = "47000"
    (folder / "filenames.csv").write_text("\n".join([lines[0], ",".join(values), *lines[2:]]) + "\n")
    np.save(folder / "0.npy", np.load(folder / "0.npy")[:47000])


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("train_config.seed=5", r"train_config\.seed = 5 instead of 0"),
        ("train_config.batch_size=4", r"train_config\.batch_size = 4 instead of 2"),
        ("data_config.segment_length=0.2", r"data_config\.segment_length = 0\.2 instead of 0\.1"),
        ("data_config.max_silence=0.5", r"data_config\.max_silence = 0\.5 instead of 1\.0"),
    ],
)
def test_other_crops_are_refused(pipeline, finished, override, words):
    before = read_files(finished)
    with pytest.raises(InputError, match=rf"a run on other crops: {words}; .*checkpoint_path="):
        start_run(pipeline, finished, "train_config.steps=6", override)
    after = read_files(finished)
    assert {name: after[name] for name in before} == before
    create_or_resume_run(pipeline_config(pipeline, finished, override), force=True)  # Begins anew.


def test_other_recordings_are_refused_and_moved_ones_are_not(pipeline, finished, tmp_path, capsys):
    moved = shutil.copytree(pipeline.folder / "train", tmp_path / "moved")
    override = f"data_config.dataset_path={moved}"
    assert start_run(pipeline, finished, override).step == 4
    assert f"goes on with other options: data_config.dataset_path = '{moved}' instead of" in capsys.readouterr().err
    shorten(moved)
    with pytest.raises(InputError, match=r"moved holds 2 recordings of 95000 samples .* instead of 2 recordings of 96"):
        start_run(pipeline, finished, override)


def test_changed_options_are_listed_once(pipeline, finished, capsys):
    overrides = ["data_config.conditioning_dropout=0.5", "train_config.micro_batch_size=1", "train_config.steps=6"]
    start_run(pipeline, finished, *overrides)
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "other options" in line]
    assert "data_config.conditioning_dropout = 0.5 instead of 0.0" in line
    assert "train_config.micro_batch_size = 1 instead of 0" in line and "train_config.steps = 6 instead of 4" in line
    assert "output_directory" not in line
    start_run(pipeline, finished)
    assert "other options" not in capsys.readouterr().err
