"""The ablation: what each remedy against a decoder that ignores its MIDI is worth, trained with and without it.

    python demo.py                                            # makes the demo's data set, and the config of its model
    python -m benchmarks.ablation --out ablation --jobs 2
    python -m benchmarks.ablation --out ablation --only "all on" "all off" --seeds 0
    python -m benchmarks.ablation --out ablation --only --report docs/experiments.md     # of what is there

Every variant is the config with some keys changed, trained for the same number of steps on the same crops, each run
with one thread: the same budget in samples, whatever else the machine does; the CPU seconds that it took stand in the
table (of a training that was stopped and went on, those of its last part, scaled up). A variant whose pre-emphasis is
another has its strings measured again, in the sound as it hears it. Then evaluate.py plays the test clips. A finished
run is not done again, a stopped one goes on, a failed one is told of at the end. Needs the transcriber
(requirements-transcribe.txt) for the F1. OUT/NAME_SEED/ holds the run, what it played, what the commands said and
scores.json.
"""

import json
import math
import os
import subprocess
import sys
from argparse import Namespace
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from matplotlib import colormaps
from matplotlib.figure import Figure

import train
from midi2wave.checkpoint import step_folders, step_of
from midi2wave.config import Config, load_config
from midi2wave.plotting.figures import save_figure
from midi2wave.utils.atomic_files import acquire_output_dir, remove, require_own_dir, write_text
from midi2wave.utils.cli import Failure, format_error, log, make_parser, report_and_exit_code, run
from midi2wave.utils.errors import InputError

ROOT = Path(__file__).resolve().parents[1]
DEMO_CONFIG = "demo/config_train_partials.json"  # as demo.py leaves it
RECORD_NAME, TRAINED_NAME, SCORES_NAME = "ablation.json", "trained.json", "scores.json"
BEGIN, END = "<!-- ablation -->", "<!-- /ablation -->"
PICTURE_NAME = "conditioning_gap.png"  # beside the report
VALIDATIONS = 15  # of every training: the points of its curve
CLEAN = {"train_config.history_noise": 0, "train_config.final_history_noise": 0,
         "train_config.history_mixing": 0, "train_config.history_dropout": 0}  # fmt: skip
ONSETS = {"data_config.features": '["paper_v5"]'}
NO_EXCITATION = {"data_config.excitation": "false"}
CAUSAL = {"cond_wavenet_config.lookahead_ms": 0, "cond_wavenet_config.upsampling": "repeat"}
NO_MEL = {"cond_wavenet_config.n_mels": 0}
ALWAYS = {"data_config.conditioning_dropout": 0}
NO_PREEMPHASIS = {"data_config.preemphasis": 0}
ORDINARY = {"data_config.partial_hz": "[]", "data_config.partial_level": "[]", "data_config.partial_decay": "[]",
            "data_config.partial_phase": "[]", "data_config.velocity_exponent": 1.5}  # fmt: skip
VARIANTS = {
    "all on": {},
    "features: onsets only": ONSETS,
    "no excitation": NO_EXCITATION,
    "excitation without quadrature": {"data_config.excitation_quadrature": "false"},
    "default partials": ORDINARY,
    "no pre-emphasis": NO_PREEMPHASIS,
    "no look-ahead": CAUSAL,
    "no mel head": NO_MEL,
    "clean history": CLEAN,
    "no history mixing": {"train_config.history_mixing": 0},
    "no noise on the history": {"train_config.history_noise": 0, "train_config.final_history_noise": 0},
    "history never dropped": {"train_config.history_dropout": 0},
    "scheduled sampling": {"train_config.scheduled_sampling_passes": 1},
    "conditioning never dropped": ALWAYS,
    "conditioning in the first layer only": {"wavenet_config.conditioned_layers": "first"},
    "conditioning at the output too": {"wavenet_config.output_conditioning": "true"},
    "context stack learns 3 x as fast": {"train_config.context_learning_rate": 3},
    "all off": ONSETS | NO_EXCITATION | ORDINARY | NO_PREEMPHASIS | CAUSAL | NO_MEL | CLEAN | ALWAYS,
}
COLUMNS = {"nll_true": "NLL", "gap": "gap", "gap_onsets": "gap at onsets", "f1": "F1", "chroma": "chroma",
           "onsets": "onsets", "mrstft": "STFT distance"}  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    """Train and play what is missing, then report on what is there; returns the exit code."""
    arguments = make_parser(__doc__, config=DEMO_CONFIG)
    arguments.add_argument("--evaluate", default="demo/config_evaluate.json", help="config of evaluate.py")
    arguments.add_argument("--out", type=Path, required=True, help="folder of the runs and their scores")
    arguments.add_argument("--steps", type=int, default=2400, help="of every run (default 2400)")
    arguments.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    arguments.add_argument("--only", nargs="*", metavar="NAME", default=list(VARIANTS),
                           help="variants to train; none: only report on what is there")  # fmt: skip
    arguments.add_argument("--jobs", type=int, default=1, help="runs side by side")
    arguments.add_argument("--report", type=Path, help="Markdown file to put table and picture into, between its marks")
    args = arguments.parse_args(argv)
    if unknown := [name for name in args.only if name not in VARIANTS]:
        raise InputError(f"no variant {unknown[0]!r}; there are: {', '.join(VARIANTS)}")
    if args.config == DEMO_CONFIG and not Path(DEMO_CONFIG).is_file():
        raise InputError(f"{DEMO_CONFIG} is not there; run demo.py in this folder first, or name a config with -c")
    if args.steps < 1 or args.jobs < 1:
        raise InputError(f"--steps {args.steps} --jobs {args.jobs}: expected 1 or more of both")
    if args.report:
        parts(args.report)  # says what is wrong with it before hours have passed
    own(args)

    failures = do_all(args)
    found = results(args.out)
    picture, lines = args.out / "gap.png", table(found)
    save_figure(picture, gap_figure(args.out, found))
    if args.report:
        picture = args.report.with_name(PICTURE_NAME)
        save_figure(picture, gap_figure(args.out, found))
        put(args.report, [*lines, "", f"![Validation gap by training step and variant]({picture.name})"])
    summary = "\n".join([*lines, "", f"picture: {picture}"])
    return report_and_exit_code(summary, {"runs": found}, failures, len(found), as_json=args.as_json)


def own(args: Namespace) -> None:
    """Make the folder that of this ablation. Raises InputError for a config that any variant makes impossible, and for
    a folder of another ablation; `--force` removes the runs there."""
    configs = {name: config_of(args, name).as_dict() for name in dict.fromkeys(["all on", *args.only])}
    given = [*overrides(args, evaluating=True), "evaluate_config.model_filename=run"]  # every run's own, later
    evaluation = load_config(args.evaluate, ("evaluate_config",), given).as_dict()
    require_own_dir(args.out, RECORD_NAME)
    if args.force:
        for said in args.out.glob("*/train.log"):
            remove(said.parent)
    record = {"config": configs["all on"], "evaluate": evaluation, "steps": args.steps}
    acquire_output_dir(args.out, RECORD_NAME, record, ("*/run/config.json",), force=args.force)


def overrides(args: Namespace, *, evaluating: bool) -> list[str]:
    """What --set gave, for evaluate.py or for train.py."""
    return [one for one in args.overrides if one.startswith("evaluate_config.") == evaluating]


def changes(args: Namespace, name: str) -> list[str]:
    """A variant, as block.option=value over the config; short trainings have a short warm-up."""
    given = overrides(args, evaluating=False)
    warmup = load_config(args.config, train.NEEDS, given).train_config.warmup_steps
    keys = {"train_config.steps": args.steps, "train_config.warmup_steps": min(warmup, args.steps // 10),
            "train_config.iters_per_validation": math.ceil(args.steps / VALIDATIONS), **VARIANTS[name]}  # fmt: skip
    return [*given, *(f"{key}={value}" for key, value in keys.items())]


def config_of(args: Namespace, name: str) -> Config:
    """The whole config of a variant, but for its seed and folder. Raises InputError."""
    return load_config(args.config, train.NEEDS, changes(args, name))


def do_all(args: Namespace) -> list[Failure]:
    """Do the runs, the first seed's first; returns what became of those that failed."""
    failures = []
    with ThreadPoolExecutor(args.jobs) as pool:
        waiting = {(name, seed): pool.submit(train_and_play, args, name, seed)
                   for seed in args.seeds for name in args.only}  # fmt: skip
        try:
            for (name, seed), one in waiting.items():
                try:
                    one.result()
                except (InputError, OSError) as error:
                    failures.append(Failure(f"{name}, seed {seed}", format_error(error)))
        except KeyboardInterrupt:  # the commands that run were interrupted too: what waits must not begin
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return failures


def stem(name: str, seed: int) -> str:
    """The name of a run's folder."""
    return f"{''.join(letter if letter.isalnum() else '_' for letter in name)}_{seed}"


def train_and_play(args: Namespace, name: str, seed: int) -> None:
    """One run, unless its scores are there; they are written last. Raises InputError if it failed or was stopped."""
    folder = args.out / stem(name, seed)
    if (folder / SCORES_NAME).is_file():
        return
    folder.mkdir(exist_ok=True)
    if not (folder / TRAINED_NAME).is_file():
        log(f"{name}, seed {seed}: training")
        learn(args, name, seed, folder)
    trained = json.loads((folder / TRAINED_NAME).read_text(encoding="utf-8"))
    log(f"{name}, seed {seed}: playing")
    keys = {"model_filename": folder / "run", "output_dir": folder / "played", "counterfactuals": "false"}
    given = [*overrides(args, evaluating=True), *(f"evaluate_config.{key}={value}" for key, value in keys.items())]
    # Forced, since a stopped evaluation may have left wavs.
    played, _ = command("evaluate.py", args.evaluate, given, folder, "--force")
    about = {"variant": name, "seed": seed, **trained}
    write_text(folder / SCORES_NAME, json.dumps(about | played) + "\n")


def learn(args: Namespace, name: str, seed: int, folder: Path) -> None:
    """Train, or go on. Raises InputError unless it comes to its last step."""
    given = [*changes(args, name), f"train_config.seed={seed}", f"train_config.output_directory={folder / 'run'}"]
    begun = max((step_of(one) for one in step_folders(folder / "run")), default=0)
    result, seconds = command("train.py", measured(args, name, folder), given, folder)
    steps = result["step"]
    if steps < args.steps:  # exit code 0 all the same: it was asked to stop, and has saved what it had
        raise InputError(f"stopped at step {steps} of {args.steps}; the same command goes on from there")
    whole = seconds * steps / (steps - begun) if begun < steps else None
    write_text(folder / TRAINED_NAME, json.dumps({"steps": steps, "cpu_seconds": whole, "resumed_at": begun}) + "\n")


def measured(args: Namespace, name: str, folder: Path) -> str:
    """The config to train a variant from: where its pre-emphasis is not that of the ablation's config, strings are
    measured again into its folder. Raises InputError."""
    usual, changed = (config_of(args, which).data_config for which in ("all on", name))
    if not changed.partial_hz or not changed.excitation or changed.preemphasis == usual.preemphasis:
        return args.config
    path, given = folder / "config_strings.json", changes(args, name)
    command("measure_partials.py", args.config, given, folder, "-d", changed.dataset_path, "-o", str(path), "--force")
    return str(path)


def command(script: str, config: str, given: list[str], folder: Path, *options: str) -> tuple[dict[str, Any], float]:
    """Run one step with one thread; returns its result and the CPU seconds that it and its workers took.

    What it says goes to a file in `folder`. Raises InputError with its last line if it fails.
    """
    line = [sys.executable, str(ROOT / script), "-c", config, "--json", *options]
    line += [word for pair in given for word in ("--set", pair)]
    threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
    path = folder / f"{Path(script).stem}.log"
    with (
        open(path, "a", encoding="utf-8") as log_file,
        subprocess.Popen(line, stdout=subprocess.PIPE, stderr=log_file, env=os.environ | threads, text=True) as process,
    ):
        printed = process.stdout.read()
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        said = path.read_text(encoding="utf-8", errors="replace").strip().splitlines() or ["nothing said"]
        raise InputError(f"{script} ended with exit code {process.returncode} ({path}): {said[-1]}")
    return json.loads(printed.splitlines()[-1]), used.ru_utime + used.ru_stime


def results(folder: Path) -> list[dict[str, Any]]:
    """The scores of all finished runs, in the order of VARIANTS, then of the seeds."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in folder.glob(f"*/{SCORES_NAME}")]
    names = list(VARIANTS)
    return sorted((one for one in found if one["variant"] in VARIANTS),
                  key=lambda one: (names.index(one["variant"]), one["seed"]))  # fmt: skip


def table(found: list[dict[str, Any]]) -> list[str]:
    """Markdown: of every variant and score the mean of the seeds and, in brackets, each seed's."""
    lines = [f"| variant | seeds | steps | CPU minutes | {' | '.join(COLUMNS.values())} |",
             f"|---|---|---|---|{'---|' * len(COLUMNS)}"]  # fmt: skip
    for name in VARIANTS:
        runs = [one for one in found if one["variant"] == name]
        if not runs:
            continue
        minutes = [None if one["cpu_seconds"] is None else one["cpu_seconds"] / 60 for one in runs]
        seeds, steps = (", ".join(dict.fromkeys(str(one[key]) for one in runs)) for key in ("seed", "steps"))
        scores = [mean_and_each([one[key] for one in runs], 3) for key in COLUMNS]
        cells = [name, seeds, steps, mean_and_each(minutes, 1), *scores]
        lines.append(f"| {' | '.join(cells)} |")
    if found:
        ceiling, floor, chroma_floor = (mean_and_each([mean([one[key] for one in found])], 3)
                                        for key in ("f1_ceiling", "f1_floor", "chroma_floor"))  # fmt: skip
        lines += ["", f"Topline, the F1 of the recordings themselves: {ceiling}. Baseline, against another clip: F1 "
                      f"{floor}, chroma {chroma_floor}. NLL and gaps in nats per sample."]  # fmt: skip
    return lines


def mean(values: list[float | None]) -> float | None:
    """The mean of what is known; None of nothing."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def mean_and_each(values: list[float | None], digits: int) -> str:
    """As in 0.52 (0.50, 0.54), with a dash for what is not known."""
    average, *each = ("-" if value is None else f"{value:.{digits}f}" for value in (mean(values), *values))
    return average if len(each) == 1 or average == "-" else f"{average} ({', '.join(each)})"


def parts(path: Path, begin: str = BEGIN, end: str = END) -> tuple[str, str]:
    """What stands before and behind the marks of a Markdown file. Raises InputError unless they are there once each."""
    text = path.read_text(encoding="utf-8")
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(end) < text.index(begin):
        raise InputError(f"{path}: expected the lines {begin} and {end} once each, in this order")
    return text.split(begin)[0], text.split(end)[1]


def put(path: Path, lines: list[str], begin: str = BEGIN, end: str = END) -> None:
    """Replace what stands between the marks of a Markdown file."""
    before, after = parts(path, begin, end)
    write_text(path, "\n".join([before + begin, "", *lines, "", end + after]))


def gap_figure(folder: Path, found: list[dict[str, Any]]) -> Figure:
    """The validation gap over the steps: a line for every variant, the mean of its seeds."""
    figure = Figure(figsize=(12, 6), dpi=100, layout="constrained")
    ax = figure.subplots()
    special = {"all on": {"color": "black", "linewidth": 3}, "all off": {"color": "black", "linestyle": "--"}}
    for number, name in enumerate(VARIANTS):
        gaps: dict[int, list[float]] = {}
        for one in (one for one in found if one["variant"] == name):
            path = folder / stem(name, one["seed"]) / "run" / "metrics.jsonl"
            for row in map(json.loads, path.read_text(encoding="utf-8").splitlines()):
                if "validation_gap" in row:
                    gaps.setdefault(row["step"], []).append(row["validation_gap"])
        style = special.get(name, {"color": colormaps["tab20"](number), "linewidth": 1.3})
        if gaps:
            ax.plot(list(gaps), [sum(values) / len(values) for values in gaps.values()], label=name, **style)
    ax.set(xlabel="step", ylabel="validation gap, nats per sample")
    ax.grid(color="0.9")
    if ax.lines:
        ax.legend(frameon=False, fontsize=9, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


if __name__ == "__main__":
    run(main)
