"""The ablation's variants change what they say, its runs can be stopped, and its report holds what was measured."""

import json

import pytest

import train
from benchmarks import ablation
from midi2wave.conditioning.partials import default_partials
from midi2wave.config import load_config
from tests.helpers.pipeline import ROOT, assert_refused, call, settings
from wavenet import build_model

DOCUMENT = f"before\n{ablation.BEGIN}\nold\n{ablation.END}\nafter\n"


@pytest.fixture
def commands(monkeypatch):
    """In place of train.py and evaluate.py: what they were called with, and results that tell the runs apart."""
    called = []
    results = {"stop_at": None, "fails": None, "configs": []}

    def command(script, config, given, folder, *options):
        keys = dict(one.split("=", 1) for one in given)
        called.append((script, folder.name, keys, options))
        results["configs"].append((script, folder.name, str(config)))
        (folder / f"{script.removesuffix('.py')}.log").touch()
        if results["fails"] == (script, folder.name):
            raise ablation.InputError(f"{script} fails")
        if script == "measure_partials.py":
            return {}, 1.0
        if script == "evaluate.py":
            return dict.fromkeys([*ablation.COLUMNS, "f1_ceiling", "f1_floor", "chroma_floor"], 0.5), 1.0
        steps = results["stop_at"] or int(keys["train_config.steps"])
        (folder / "run").mkdir(exist_ok=True)
        (folder / "run" / "config.json").write_text("{}")
        rows = [{"step": step, "validation_gap": step / 10} for step in (1, 2)] + [{"step": 2, "loss": 3.0}]
        (folder / "run" / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (folder / "run" / f"step_{steps:08d}").mkdir(exist_ok=True)
        return {"step": steps}, 60.0

    monkeypatch.setattr(ablation, "command", command)
    return called, results


@pytest.fixture(scope="module")
def strings_config(tmp_path_factory):
    """The demo's config with the keys that measure_partials.py gives it."""
    strings = default_partials()
    config = load_config("demo/config_train.json", train.NEEDS).as_dict()
    for name in ("hz", "level", "decay", "phase"):
        config["data_config"][f"partial_{name}"] = getattr(strings, name).ravel().tolist()
    config["data_config"]["velocity_exponent"] = 1.61
    path = tmp_path_factory.mktemp("strings") / "config.json"
    path.write_text(json.dumps(config))
    return path


def ablate(folder, *arguments, config="demo/config_train.json", only=("all on", "all off"), seeds=(0,)):
    # One job, so that the order of the calls is known.
    return call(
        ablation, "-c", config, "--out", folder, "--steps", 8, *arguments, "--json", "--seeds", *seeds, "--only", *only
    )


@pytest.mark.parametrize("name", ablation.VARIANTS)
def test_a_variant_changes_its_own_keys_and_nothing_else(name, strings_config):
    plain = load_config(strings_config, train.NEEDS)
    changed = load_config(strings_config, train.NEEDS,
                          [f"{key}={value}" for key, value in ablation.VARIANTS[name].items()])  # fmt: skip
    differing = {f"{block}.{key}" for block, values in plain.as_dict().items() for key, value in values.items()
                 if changed.as_dict()[block][key] != value}  # fmt: skip
    assert differing == set(ablation.VARIANTS[name])  # none that the config has already
    build_model(changed)


def test_all_off_is_every_remedy_of_the_config_off():
    alone = ("features: onsets only", "no excitation", "default partials", "no pre-emphasis", "no look-ahead",
             "no mel head", "clean history", "conditioning never dropped")  # fmt: skip
    together = {key: value for name in alone for key, value in ablation.VARIANTS[name].items()}
    assert ablation.VARIANTS["all off"] == together


def test_every_run_has_the_same_budget_and_its_own_seed(tmp_path, commands):
    assert ablate(tmp_path / "out", seeds=(0, 3)).code == 0
    trainings = [keys for script, _, keys, _ in commands[0] if script == "train.py"]
    assert [keys["train_config.seed"] for keys in trainings] == ["0", "0", "3", "3"]
    assert len({keys["train_config.output_directory"] for keys in trainings}) == 4
    assert {keys["train_config.steps"] for keys in trainings} == {"8"}
    assert {keys["train_config.warmup_steps"] for keys in trainings} == {"0"}  # a tenth of the steps at most


def test_what_is_set_goes_to_the_step_whose_it_is(tmp_path, commands):
    given = settings("data_config.n_workers=0", "evaluate_config.seed=5")
    assert ablate(tmp_path / "out", *given, only=["all on"]).code == 0
    (_, _, trained, _), (_, _, played, _) = commands[0]
    assert trained["data_config.n_workers"] == "0" and "evaluate_config.seed" not in trained
    assert played["evaluate_config.seed"] == "5" and "data_config.n_workers" not in played


def test_strings_are_measured_again_in_the_sound_that_a_variant_hears(tmp_path, commands, strings_config):
    only = ["no pre-emphasis", "default partials", "all off"]
    assert ablate(tmp_path / "out", config=strings_config, only=only).code == 0
    measured = tmp_path / "out" / "no_pre_emphasis_0" / "config_strings.json"
    assert [one for one in commands[1]["configs"] if one[0] != "evaluate.py"] == [
        ("measure_partials.py", "no_pre_emphasis_0", str(strings_config)),
        ("train.py", "no_pre_emphasis_0", str(measured)),
        ("train.py", "default_partials_0", str(strings_config)),
        ("train.py", "all_off_0", str(strings_config)),
    ]


def test_finished_runs_are_not_done_again(tmp_path, commands):
    first = ablate(tmp_path / "out")
    assert first.code == 0 and len(commands[0]) == 4
    again = ablate(tmp_path / "out")
    assert again.result["runs"] == first.result["runs"] and len(commands[0]) == 4
    assert ablate(tmp_path / "out", only=()).result["runs"] == first.result["runs"]  # the report alone


def test_a_training_that_was_stopped_is_not_scored_and_goes_on(tmp_path, commands):
    called, results = commands
    results["stop_at"] = 6
    stopped = ablate(tmp_path / "out", only=["all on"])
    assert stopped.code == 2 and "stopped at step 6 of 8" in stopped.err
    assert [script for script, *_ in called] == ["train.py"]
    results["stop_at"] = None
    done = ablate(tmp_path / "out", only=["all on"])
    (run,) = done.result["runs"]
    assert (run["steps"], run["resumed_at"]) == (8, 6)
    assert run["cpu_seconds"] == 240  # 60 s for a quarter of the steps


def test_an_evaluation_that_failed_is_done_again_without_its_training(tmp_path, commands):
    called, results = commands
    results["fails"] = ("evaluate.py", "all_on_0")
    failed = ablate(tmp_path / "out")
    assert failed.code == 1 and "failed: all on, seed 0: evaluate.py fails" in failed.err
    assert [run["variant"] for run in failed.result["runs"]] == ["all off"]  # the others went on
    results["fails"] = None
    called.clear()
    assert ablate(tmp_path / "out").code == 0
    assert [(script, name, options) for script, name, _, options in called] == [
        ("evaluate.py", "all_on_0", ("--force",))
    ]


def test_runs_of_another_config_are_not_mixed_in(tmp_path, commands):
    assert ablate(tmp_path / "out", only=["all on"]).code == 0
    other = settings("train_config.batch_size=4")
    assert_refused(ablate(tmp_path / "out", *other, only=["all off"]), "holds results of another config")
    done = ablate(tmp_path / "out", *other, "--force", only=["all off"])
    assert [run["variant"] for run in done.result["runs"]] == ["all off"]


def test_mistakes_are_told_before_anything_is_trained(tmp_path, commands):
    assert_refused(ablate(tmp_path / "out", only=["all of"]), "no variant 'all of'", "all off")
    assert_refused(ablate(tmp_path / "out", *settings("train_config.batchsize=4")), "batch_size")
    document = tmp_path / "page.md"
    document.write_text("no marks")
    assert_refused(ablate(tmp_path / "out", "--report", document), ablation.BEGIN, "once each")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "letter.txt").write_text("mine")
    assert_refused(ablate(tmp_path / "foreign", "--force"), "did not make it")
    assert (tmp_path / "foreign" / "letter.txt").is_file() and commands[0] == []


def test_the_report_takes_the_place_between_the_marks_and_has_its_picture_beside_it(tmp_path, commands):
    document = tmp_path / "page.md"
    document.write_text(DOCUMENT)
    assert ablate(tmp_path / "out", "--report", document).code == 0
    text = document.read_text()
    assert text.startswith(f"before\n{ablation.BEGIN}\n") and text.endswith(f"\n{ablation.END}\nafter\n")
    assert "old" not in text and "| all on | 0 | 8 | 1.0 |" in text and "(conditioning_gap.png)" in text
    assert (tmp_path / "conditioning_gap.png").is_file()
    assert ablate(tmp_path / "out", "--report", document).code == 0
    assert document.read_text() == text


def test_the_table_gives_the_mean_and_every_seed_s_value():
    scores = dict.fromkeys([*ablation.COLUMNS, "f1_ceiling", "f1_floor", "chroma_floor"], 0.25)
    one = {"variant": "no mel head", "seed": 0, "steps": 9, "cpu_seconds": 600, **scores, "gap": 0.1}
    other = one | {"seed": 1, "cpu_seconds": None, "gap": 0.3, "f1": None}
    row = ablation.table([one, other])[2]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[:4] == ["no mel head", "0, 1", "9", "10.0 (10.0, -)"]
    assert cells[4 + list(ablation.COLUMNS).index("gap")] == "0.200 (0.100, 0.300)"
    assert cells[4 + list(ablation.COLUMNS).index("f1")] == "0.250 (0.250, -)"
    without = dict.fromkeys(("f1", "f1_ceiling", "f1_floor"))  # no transcriber
    assert ablation.table([one | without])[2].split("|")[8].strip() == "-"


def test_the_curve_is_the_mean_of_the_seeds(tmp_path):
    for seed, gaps in ((0, (0.1, 0.2)), (1, (0.3, 0.6))):
        run = tmp_path / ablation.stem("all on", seed) / "run"
        run.mkdir(parents=True)
        rows = [{"step": 10 * (i + 1), "validation_gap": gap} for i, gap in enumerate(gaps)]
        (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = [{"variant": "all on", "seed": seed} for seed in (0, 1)]
    (line,) = ablation.gap_figure(tmp_path, found).axes[0].lines
    assert line.get_label() == "all on"
    assert line.get_xdata().tolist() == [10, 20] and line.get_ydata().tolist() == pytest.approx([0.2, 0.4])


def test_a_command_that_fails_says_why_with_its_own_words(tmp_path):
    with pytest.raises(ablation.InputError, match=r"preprocess_maestro\.py ended with exit code 2 .*no_such\.json"):
        ablation.command("preprocess_maestro.py", "no_such.json", [], tmp_path)
    assert "no_such.json" in (tmp_path / "preprocess_maestro.log").read_text()


def test_the_page_has_the_marks():
    before, after = ablation.parts(ROOT / "docs" / "experiments.md")
    assert " ".join(before.split()).endswith("generated and were scored on that CPU.")  # however its lines are broken
    assert after.lstrip().startswith("### Findings of the ablation")


@pytest.mark.slow
def test_a_run_from_training_to_table(pipeline, tmp_path):
    evaluation = tmp_path / "evaluate.json"  # without the model's blocks, which differ from run to run
    keys = {"model_filename": "run", "test_dir": f"{pipeline.folder}/test", "device": "cpu"}
    evaluation.write_text(json.dumps({"evaluate_config": keys}))
    done = call(ablation, "-c", pipeline.config, "--evaluate", evaluation, "--out", tmp_path / "out", "--steps", 4,
                "--seeds", 0, "--only", "all off", "--json")  # fmt: skip
    assert done.code == 0, done.err
    (run,) = done.result["runs"]
    assert run["variant"] == "all off" and run["steps"] == 4 and run["cpu_seconds"] > 0
    assert run["nll_true"] > 0 and run["gap"] is not None
    written = json.loads((tmp_path / "out/all_off_0/run/config.json").read_text())
    assert written["data_config"]["features"] == ["paper_v5"] and not written["data_config"]["excitation"]
    assert (tmp_path / "out/gap.png").is_file()
