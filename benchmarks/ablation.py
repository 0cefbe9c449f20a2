"""Ablation: the contribution of each regulariser and feature, trained with and without it.

    python demo.py                                            # makes the demo's data set, and the config of its model
    python -m benchmarks.ablation --out ablation --jobs 2
    python -m benchmarks.ablation --out ablation --only "all on" "all off" --seeds 0
    python -m benchmarks.ablation --out ablation --only --report docs/experiments.md     # finished runs only

Each variant is the config with some options changed, trained for the same number of steps on the same crops with one
thread: the budget in samples does not depend on the load of the machine. The CPU seconds are in the table (those of the
last part, scaled up, if a training was resumed). A variant with another pre-emphasis has its partials measured again in
the pre-emphasised signal. Then evaluate.py scores the test clips. Finished runs are not repeated, stopped ones resume,
failed ones are listed at the end. The F1 needs the transcriber (requirements-transcribe.txt). OUT/NAME_SEED/ has the
run, the generated audio, the logs of the commands and scores.json.
"""

import functools
import json
import math
import os
import subprocess
import sys
from argparse import Namespace
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import train
from benchmarks.ablation_report import (
    FORMER_VARIANTS,
    PICTURE_NAME,
    SCORES_NAME,
    VARIANTS,
    gap_figure,
    load_scores,
    run_folder,
    stem,
    table,
)
from benchmarks.markdown import insert_lines, split_at_marks
from midi2wave.checkpoint_folders import step_folders, step_of
from midi2wave.config import Config, config_from_dict, load_config
from midi2wave.plotting.pictures import save_picture
from midi2wave.utils.atomic_files import remove, write_text
from midi2wave.utils.cli import Failure, format_error, log, make_parser, report_and_exit_code, run
from midi2wave.utils.errors import InputError
from midi2wave.utils.output_folder import acquire_output_dir, require_own_dir

ROOT = Path(__file__).resolve().parents[1]
# Written by demo.py.
DEMO_CONFIG = "demo/config_train_partials.json"
RECORD_NAME = "ablation.json"
TRAINED_NAME = "trained.json"
PRODUCTS = r"[^/]+/run/config\.json"
FORCE_EFFECT = "removes all runs in it"
BEGIN = "<!-- ablation -->"
END = "<!-- /ablation -->"
# Validations of each training: the points of its curve.
N_VALIDATIONS = 15


def main(argv: list[str] | None = None) -> int:
    """Train and score missing runs, then report on all finished ones; returns the exit code."""
    args = parse_arguments(argv)
    if args.report:
        # Mistakes in the page are reported before hours have passed.
        split_at_marks(args.report, BEGIN, END)
    acquire_folder(args)

    failures = do_runs(args)
    runs = load_scores(args.out)
    picture, lines = args.out / "gap.png", table(runs)
    draw = functools.partial(gap_figure, args.out, runs)
    save_picture(picture, draw)
    if args.report:
        picture = args.report.with_name(PICTURE_NAME)
        save_picture(picture, draw)
        image = f"![Validation gap by training step and variant]({picture.name})"
        insert_lines(args.report, [*lines, "", image], BEGIN, END)
    summary = "\n".join([*lines, "", f"picture: {picture}"])
    return report_and_exit_code(summary, {"runs": runs}, failures, len(runs), as_json=args.as_json)


def parse_arguments(argv: list[str] | None) -> Namespace:
    """The command line.

    Raises:
        InputError: Something on it is impossible.
    """
    arguments = make_parser(__doc__, config=DEMO_CONFIG, force=FORCE_EFFECT)
    arguments.add_argument("--evaluate", default="demo/config_evaluate.json", help="config of evaluate.py")
    arguments.add_argument("--out", type=Path, required=True, help="folder of the runs and their scores")
    arguments.add_argument("--steps", type=int, default=2400, help="of every run (default 2400)")
    arguments.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    only_help = "variants to train; none: only report on finished runs"
    arguments.add_argument("--only", nargs="*", metavar="NAME", default=list(VARIANTS), help=only_help)
    arguments.add_argument("--jobs", type=int, default=1, help="runs side by side")
    arguments.add_argument("--report", type=Path, help="Markdown file to put table and picture into, between its marks")
    args = arguments.parse_args(argv)
    if unknown := [name for name in args.only if name not in VARIANTS]:
        raise InputError(f"no variant {unknown[0]!r}; there are: {', '.join(VARIANTS)}")
    if args.config == DEMO_CONFIG and not Path(DEMO_CONFIG).is_file():
        raise InputError(f"{DEMO_CONFIG} is not there; run demo.py in this folder first, or name a config with -c")
    if args.steps < 1 or args.jobs < 1:
        raise InputError(f"--steps {args.steps} --jobs {args.jobs}: expected 1 or more of both")
    return args


def acquire_folder(args: Namespace) -> None:
    """Acquire the output folder for this ablation; with --force, remove the runs of another one.

    Raises:
        InputError: The config is impossible for a variant, or the folder has another ablation or other files.
    """
    configs = {name: variant_config(args, name).as_dict() for name in dict.fromkeys(["all on", *args.only])}
    # Each run has its own model; this one only completes the config.
    options = [*overrides_of(args, evaluating=True), "evaluate_config.model_filename=run"]
    evaluation = load_config(args.evaluate, ("evaluate_config",), options).as_dict()
    require_own_dir(args.out, RECORD_NAME)
    if args.force:
        prefixes = {stem(name, 0).rpartition("_")[0] for name in (*VARIANTS, *FORMER_VARIANTS)}
        for log_path in args.out.glob("*/train.log"):
            if log_path.parent.name.rpartition("_")[0] in prefixes:
                remove(log_path.parent)
    record = {"config": configs["all on"], "evaluate": evaluation, "steps": args.steps}
    record = former_record_if_equal(args.out / RECORD_NAME, record)
    acquire_output_dir(args.out, RECORD_NAME, record, PRODUCTS, force=args.force, force_effect=FORCE_EFFECT)


def former_record_if_equal(path: Path, record: dict[str, Any]) -> dict[str, Any]:
    """The stored record of an earlier version if it means the same with the present option names, else `record`."""
    if not path.is_file():
        return record
    stored = json.loads(path.read_text(encoding="utf-8"))
    try:
        configs = {
            name: config_from_dict(stored[name], str(path), quiet=True).as_dict() for name in stored.keys() - {"steps"}
        }
    except InputError:
        return record
    return stored if {**stored, **configs} == record else record


def overrides_of(args: Namespace, *, evaluating: bool) -> list[str]:
    """The options of --set that belong to evaluate.py, or to train.py."""
    return [option for option in args.overrides if option.startswith("evaluate_config.") == evaluating]


def variant_overrides(args: Namespace, name: str) -> list[str]:
    """A variant as block.option=value over the config; short trainings have a short warm-up."""
    overrides = overrides_of(args, evaluating=False)
    warmup = load_config(args.config, train.NEEDS, overrides).train_config.warmup_steps
    options = {
        "train_config.steps": args.steps,
        "train_config.warmup_steps": min(warmup, args.steps // 10),
        "train_config.iters_per_validation": math.ceil(args.steps / N_VALIDATIONS),
        **VARIANTS[name],
    }
    return [*overrides, *(f"{option}={value}" for option, value in options.items())]


def variant_config(args: Namespace, name: str) -> Config:
    """The resolved config of a variant, but for its seed and folder. Raises InputError."""
    return load_config(args.config, train.NEEDS, variant_overrides(args, name))


def do_runs(args: Namespace) -> list[Failure]:
    """Do all runs, those of the first seed first; returns the failed ones."""
    failures = []
    with ThreadPoolExecutor(args.jobs) as pool:
        futures = {
            (name, seed): pool.submit(train_and_evaluate, args, name, seed) for seed in args.seeds for name in args.only
        }
        try:
            for (name, seed), future in futures.items():
                try:
                    future.result()
                except (InputError, OSError) as error:
                    failures.append(Failure(f"{name}, seed {seed}", format_error(error)))
        except KeyboardInterrupt:
            # The running commands were interrupted, too: runs in the queue must not start.
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return failures


def train_and_evaluate(args: Namespace, name: str, seed: int) -> None:
    """Do one run, unless its scores exist, which are written last.

    Raises:
        InputError: The run failed or was stopped.
    """
    folder = run_folder(args.out, name, seed)
    if (folder / SCORES_NAME).is_file():
        return
    folder.mkdir(exist_ok=True)
    if not (folder / TRAINED_NAME).is_file():
        log(f"{name}, seed {seed}: training")
        train_variant(args, name, seed, folder)
    trained = json.loads((folder / TRAINED_NAME).read_text(encoding="utf-8"))
    log(f"{name}, seed {seed}: evaluating")
    options = {"model_filename": folder / "run", "output_dir": folder / "played", "counterfactuals": "false"}
    overrides = [f"evaluate_config.{option}={value}" for option, value in options.items()]
    overrides = [*overrides_of(args, evaluating=True), *overrides]
    # Forced, since a stopped evaluation may have left wav files.
    scores, _ = run_command("evaluate.py", args.evaluate, overrides, folder, "--force")
    write_text(folder / SCORES_NAME, json.dumps({"variant": name, "seed": seed, **trained, **scores}) + "\n")


def train_variant(args: Namespace, name: str, seed: int, folder: Path) -> None:
    """Train, or resume. Raises InputError unless the training reaches its last step."""
    overrides = [f"train_config.seed={seed}", f"train_config.output_directory={folder / 'run'}"]
    overrides = [*variant_overrides(args, name), *overrides]
    first_step = max((step_of(one) for one in step_folders(folder / "run")), default=0)
    result, seconds = run_command("train.py", config_with_partials(args, name, folder), overrides, folder)
    steps = result["step"]
    if steps < args.steps:
        # The exit code is 0 all the same: the training was asked to stop, and has saved its state.
        raise InputError(f"stopped at step {steps} of {args.steps}; the same command resumes there")
    cpu_seconds = seconds * steps / (steps - first_step) if first_step < steps else None
    trained = {"steps": steps, "cpu_seconds": cpu_seconds, "resumed_at": first_step}
    write_text(folder / TRAINED_NAME, json.dumps(trained) + "\n")


def config_with_partials(args: Namespace, name: str, folder: Path) -> str:
    """The config to train a variant from.

    If the pre-emphasis differs from that of the ablation's config, partials are measured again, into the run's folder.
    Raises InputError.
    """
    default, variant = (variant_config(args, which).data_config for which in ("all on", name))
    if not variant.partial_hz or not variant.excitation or variant.preemphasis == default.preemphasis:
        return args.config
    path = str(folder / "config_partials.json")
    options = ("-d", variant.dataset_path, "-o", path, "--force")
    run_command("measure_partials.py", args.config, variant_overrides(args, name), folder, *options)
    return path


def run_command(
    script: str, config: str, overrides: list[str], folder: Path, *options: str
) -> tuple[dict[str, Any], float]:
    """Run a command of the pipeline with one thread; its log goes to a file.

    Args:
        script: Name of the command.
        config: Its config file.
        overrides: Options for --set.
        folder: Folder of the log file.
        options: Further options.

    Returns:
        Its result, and the CPU seconds of the process and its workers.

    Raises:
        InputError: It failed; the message has the last line of its log.
    """
    line = [sys.executable, str(ROOT / script), "-c", config, "--json", *options]
    line += [word for pair in overrides for word in ("--set", pair)]
    threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
    path = folder / f"{Path(script).stem}.log"
    with (
        open(path, "a", encoding="utf-8") as log_file,
        subprocess.Popen(line, stdout=subprocess.PIPE, stderr=log_file, env=os.environ | threads, text=True) as process,
    ):
        assert process.stdout is not None
        output = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        lines = path.read_text(encoding="utf-8", errors="replace").strip().splitlines() or ["no message"]
        raise InputError(f"{script} ended with exit code {process.returncode} ({path}): {lines[-1]}")
    return json.loads(output.splitlines()[-1]), usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    run(main)
