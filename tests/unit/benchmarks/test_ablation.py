"""The ablation: variants change the options that they name, runs can be stopped, the report has all results."""

import json

import pytest

import train
from benchmarks import ablation, ablation_report, markdown
from midi2wave.conditioning.partials import default_partials
from midi2wave.config import load_config
from tests.helpers.paths import ROOT
from tests.helpers.pipeline import assert_refused, call, settings
from wavenet import build_model

DOCUMENT = f"before\n{ablation.BEGIN}\nold\n{ablation.END}\nafter\n"


@pytest.fixture
def commands(monkeypatch):
    """Replaces the commands: a list of their calls, and results that identify the runs."""
    calls = []
    results = {"stop_at": None, "fails": None, "configs": []}

    def run_command(script, config, overrides, folder, *options):
        keys = dict(one.split("=", 1) for one in overrides)
        calls.append((script, folder.name, keys, options))
        results["configs"].append((script, folder.name, str(config)))
        (folder / f"{script.removesuffix('.py')}.log").touch()
        if results["fails"] == (script, folder.name):
            raise ablation.InputError(f"{script} fails")
        if script == "measure_partials.py":
            return {}, 1.0
        if script == "evaluate.py":
            return dict.fromkeys([*ablation_report.COLUMNS, *ablation_report.REFERENCES], 0.5), 1.0
        steps = results["stop_at"] or int(keys["train_config.steps"])
        (folder / "run").mkdir(exist_ok=True)
        (folder / "run" / "config.json").write_text("{}")
        rows = [{"step": step, "validation_gap": step / 10} for step in (1, 2)] + [{"step": 2, "loss": 3.0}]
        (folder / "run" / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (folder / "run" / f"step_{steps:08d}").mkdir(exist_ok=True)
        (folder / "run" / f"step_{steps:08d}" / "weights.safetensors").touch()
        return {"step": steps}, 60.0

    monkeypatch.setattr(ablation, "run_command", run_command)
    return calls, results


@pytest.fixture(scope="module")
def partials_config(tmp_path_factory):
    """The demo's config with the options that measure_partials.py adds."""
    partials = default_partials()
    config = load_config("demo/config_train.json", train.NEEDS).as_dict()
    for name in ("hz", "level", "decay", "phase"):
        config["data_config"][f"partial_{name}"] = getattr(partials, name).ravel().tolist()
    config["data_config"]["velocity_exponent"] = 1.61
    path = tmp_path_factory.mktemp("partials") / "config.json"
    path.write_text(json.dumps(config))
    return path


def ablate(folder, *arguments, config="demo/config_train.json", only=("all on", "all off"), seeds=(0,)):
    # One job, so that the order of the calls is known.
    return call(
        ablation, "-c", config, "--out", folder, "--steps", 8, *arguments, "--json", "--seeds", *seeds, "--only", *only
    )


@pytest.mark.parametrize("name", ablation_report.VARIANTS)
def test_a_variant_changes_its_own_options(name, partials_config):
    plain = load_config(partials_config, train.NEEDS)
    overrides = [f"{key}={value}" for key, value in ablation_report.VARIANTS[name].items()]
    changed = load_config(partials_config, train.NEEDS, overrides)
    values = {f"{block}.{key}": value for block, options in plain.as_dict().items() for key, value in options.items()}
    options = changed.as_dict()
    differing = {key for key, value in values.items() if options[key.split(".")[0]][key.split(".")[1]] != value}
    assert differing == set(ablation_report.VARIANTS[name])  # And each to a new value.
    build_model(changed)


def test_all_off_is_the_sum_of_single_variants():
    alone = (
        "features: onsets only",
        "no excitation",
        "default partials",
        "no pre-emphasis",
        "no look-ahead",
        "no mel head",
        "clean history",
        "conditioning never dropped",
    )
    together = {key: value for name in alone for key, value in ablation_report.VARIANTS[name].items()}
    assert ablation_report.VARIANTS["all off"] == together


def test_runs_have_the_same_budget_and_their_own_seed(tmp_path, commands):
    assert ablate(tmp_path / "out", seeds=(0, 3)).code == 0
    trainings = [keys for script, _, keys, _ in commands[0] if script == "train.py"]
    assert [keys["train_config.seed"] for keys in trainings] == ["0", "0", "3", "3"]
    assert len({keys["train_config.output_directory"] for keys in trainings}) == 4
    assert {keys["train_config.steps"] for keys in trainings} == {"8"}
    assert {keys["train_config.warmup_steps"] for keys in trainings} == {"0"}  # a tenth of the steps at most


def test_overrides_go_to_their_command(tmp_path, commands):
    overrides = settings("data_config.n_workers=0", "evaluate_config.seed=5")
    assert ablate(tmp_path / "out", *overrides, only=["all on"]).code == 0
    (_, _, training, _), (_, _, evaluation, _) = commands[0]
    assert training["data_config.n_workers"] == "0" and "evaluate_config.seed" not in training
    assert evaluation["evaluate_config.seed"] == "5" and "data_config.n_workers" not in evaluation


def test_partials_are_measured_again_for_another_preemphasis(tmp_path, commands, partials_config):
    only = ["no pre-emphasis", "default partials", "all off"]
    assert ablate(tmp_path / "out", config=partials_config, only=only).code == 0
    measured = tmp_path / "out" / "no_pre_emphasis_0" / "config_partials.json"
    assert [one for one in commands[1]["configs"] if one[0] != "evaluate.py"] == [
        ("measure_partials.py", "no_pre_emphasis_0", str(partials_config)),
        ("train.py", "no_pre_emphasis_0", str(measured)),
        ("train.py", "default_partials_0", str(partials_config)),
        ("train.py", "all_off_0", str(partials_config)),
    ]


def test_finished_runs_are_not_repeated(tmp_path, commands):
    first = ablate(tmp_path / "out")
    assert first.code == 0 and len(commands[0]) == 4
    again = ablate(tmp_path / "out")
    assert again.result["runs"] == first.result["runs"] and len(commands[0]) == 4
    assert ablate(tmp_path / "out", only=()).result["runs"] == first.result["runs"]  # the report alone


def test_a_stopped_training_resumes_before_it_is_scored(tmp_path, commands):
    calls, results = commands
    results["stop_at"] = 6
    stopped = ablate(tmp_path / "out", only=["all on"])
    assert stopped.code == 2 and "stopped at step 6 of 8" in stopped.err
    assert [script for script, *_ in calls] == ["train.py"]
    results["stop_at"] = None
    done = ablate(tmp_path / "out", only=["all on"])
    (run,) = done.result["runs"]
    assert (run["steps"], run["resumed_at"]) == (8, 6)
    assert run["cpu_seconds"] == 240  # 60 s for a quarter of the steps


def test_a_failed_evaluation_is_repeated_alone(tmp_path, commands):
    calls, results = commands
    results["fails"] = ("evaluate.py", "all_on_0")
    failed = ablate(tmp_path / "out")
    assert failed.code == 1 and "failed: all on, seed 0: evaluate.py fails" in failed.err
    assert [run["variant"] for run in failed.result["runs"]] == ["all off"]  # the others went on
    results["fails"] = None
    calls.clear()
    assert ablate(tmp_path / "out").code == 0
    assert [(script, name, options) for script, name, _, options in calls] == [
        ("evaluate.py", "all_on_0", ("--force",))
    ]


def test_runs_of_another_config_are_refused(tmp_path, commands):
    assert ablate(tmp_path / "out", only=["all on"]).code == 0
    other = settings("train_config.batch_size=4")
    assert_refused(ablate(tmp_path / "out", *other, only=["all off"]), "holds results of another config")
    done = ablate(tmp_path / "out", *other, "--force", only=["all off"])
    assert [run["variant"] for run in done.result["runs"]] == ["all off"]


def test_mistakes_are_reported_before_the_first_training(tmp_path, commands):
    assert_refused(ablate(tmp_path / "out", only=["all of"]), "no variant 'all of'", "all off")
    assert_refused(ablate(tmp_path / "out", *settings("train_config.batchsize=4")), "batch_size")
    document = tmp_path / "page.md"
    document.write_text("no marks")
    assert_refused(ablate(tmp_path / "out", "--report", document), ablation.BEGIN, "once each")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "letter.txt").write_text("mine")
    assert_refused(ablate(tmp_path / "foreign", "--force"), "did not make it")
    assert (tmp_path / "foreign" / "letter.txt").is_file() and commands[0] == []


def test_the_report_is_inserted_between_the_marks(tmp_path, commands):
    document = tmp_path / "page.md"
    document.write_text(DOCUMENT)
    assert ablate(tmp_path / "out", "--report", document).code == 0
    text = document.read_text()
    assert text.startswith(f"before\n{ablation.BEGIN}\n") and text.endswith(f"\n{ablation.END}\nafter\n")
    assert "old" not in text and "| all on | 0 | 8 | 1.0 |" in text and "(conditioning_gap.png)" in text
    assert (tmp_path / "conditioning_gap.png").is_file()
    assert ablate(tmp_path / "out", "--report", document).code == 0
    assert document.read_text() == text


def test_the_table_has_mean_and_values_of_the_seeds():
    scores = dict.fromkeys([*ablation_report.COLUMNS, *ablation_report.REFERENCES], 0.25)
    one = {"variant": "no mel head", "seed": 0, "steps": 9, "cpu_seconds": 600, **scores, "gap": 0.1}
    other = one | {"seed": 1, "cpu_seconds": None, "gap": 0.3, "f1": None}
    row = ablation_report.table([one, other])[2]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[:4] == ["no mel head", "0, 1", "9", "10.0 (10.0, -)"]
    assert cells[4 + list(ablation_report.COLUMNS).index("gap")] == "0.200 (0.100, 0.300)"
    assert cells[4 + list(ablation_report.COLUMNS).index("f1")] == "0.250 (0.250, -)"
    without = dict.fromkeys(("f1", "f1_topline", "f1_baseline"))  # no transcriber
    assert ablation_report.table([one | without])[2].split("|")[8].strip() == "-"


def test_the_curve_is_the_mean_of_the_seeds(tmp_path):
    for seed, gaps in ((0, (0.1, 0.2)), (1, (0.3, 0.6))):
        run = tmp_path / ablation_report.stem("all on", seed) / "run"
        run.mkdir(parents=True)
        rows = [{"step": 10 * (i + 1), "validation_gap": gap} for i, gap in enumerate(gaps)]
        (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    runs = [{"variant": "all on", "seed": seed} for seed in (0, 1)]
    (line,) = ablation_report.gap_figure(tmp_path, runs).axes[0].lines
    assert line.get_label() == "all on"
    assert line.get_xdata().tolist() == [10, 20] and line.get_ydata().tolist() == pytest.approx([0.2, 0.4])


def test_a_failed_command_is_reported_with_its_message(tmp_path):
    with pytest.raises(ablation.InputError, match=r"preprocess_maestro\.py ended with exit code 2 .*no_such\.json"):
        ablation.run_command("preprocess_maestro.py", "no_such.json", [], tmp_path)
    assert "no_such.json" in (tmp_path / "preprocess_maestro.log").read_text()


def test_the_page_has_the_marks():
    before, after = markdown.split_at_marks(ROOT / "docs" / "experiments.md", ablation.BEGIN, ablation.END)
    assert " ".join(before.split()).endswith("generated and were scored on that CPU.")  # however its lines are broken
    assert after.lstrip().startswith("### Findings of the ablation")


def test_results_of_earlier_versions_are_read(tmp_path):
    """Scores with former keys, runs with former names of variants, and a record with former option names."""
    folder = tmp_path / ablation_report.stem("ordinary strings", 1)
    (folder / "run").mkdir(parents=True)
    (folder / "run" / "metrics.jsonl").write_text(json.dumps({"step": 3, "validation_gap": 0.5}) + "\n")
    former = dict.fromkeys([*ablation_report.COLUMNS, "f1_ceiling", "f1_floor", "chroma_floor"], 0.25)
    former |= {
        "variant": "ordinary strings",
        "seed": 1,
        "steps": 3,
        "cpu_seconds": 60,
        "drift": {"a": {"f1_last_ceiling": 1}},
    }
    (folder / "scores.json").write_text(json.dumps(former))
    (run,) = ablation_report.load_scores(tmp_path)
    assert run["variant"] == "default partials" and run["f1_topline"] == run["chroma_baseline"] == 0.25
    assert run["drift"] == {"a": {"f1_last_topline": 1}} and not any("ceiling" in key for key in run)
    assert ablation_report.run_folder(tmp_path, "default partials", 1) == folder
    (line,) = ablation_report.gap_figure(tmp_path, [run]).axes[0].lines
    assert line.get_label() == "default partials" and line.get_ydata().tolist() == [0.5]


def test_a_folder_of_an_earlier_version_is_accepted(tmp_path, commands):
    """Its record has former option names."""
    assert ablate(tmp_path / "out", only=["all on"]).code == 0
    path = tmp_path / "out" / ablation.RECORD_NAME
    path.write_text(path.read_text().replace('"history_mixing"', '"history_interference"'))
    assert "history_interference" in path.read_text()
    assert ablate(tmp_path / "out", only=["all on"]).code == 0
    assert_refused(ablate(tmp_path / "out", *settings("train_config.batch_size=4")), "holds results of another config")


@pytest.mark.slow
def test_a_run_from_training_to_table(pipeline, tmp_path):
    evaluation = tmp_path / "evaluate.json"  # without the model's blocks, which differ from run to run
    keys = {"model_filename": "run", "test_dir": f"{pipeline.folder}/test", "device": "cpu"}
    keys["second_transcriber"] = False  # It takes seconds a clip.
    evaluation.write_text(json.dumps({"evaluate_config": keys}))
    done = call(
        ablation,
        "-c",
        pipeline.config,
        "--evaluate",
        evaluation,
        "--out",
        tmp_path / "out",
        "--steps",
        4,
        "--seeds",
        0,
        "--only",
        "all off",
        "--json",
    )
    assert done.code == 0, done.err
    (run,) = done.result["runs"]
    assert run["variant"] == "all off" and run["steps"] == 4 and run["cpu_seconds"] > 0
    assert run["nll_true"] > 0 and run["gap"] is not None
    written = json.loads((tmp_path / "out/all_off_0/run/config.json").read_text())
    assert written["data_config"]["features"] == ["paper_v5"] and not written["data_config"]["excitation"]
    assert (tmp_path / "out/gap.png").is_file()
