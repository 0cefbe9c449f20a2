"""The ablation: what each remedy against a decoder that ignores its MIDI is worth, trained with and without it.

    python demo.py                                            # makes the demo's data set
    python -m benchmarks.ablation --out ablation --jobs 2
    python -m benchmarks.ablation --out ablation --only "all on" "all off" --seeds 0
    python -m benchmarks.ablation --out ablation --report docs/obeying_the_midi.md

Every variant is the config with some keys changed, trained for the same number of steps on the same crops, each run
with one thread; the CPU seconds that it took stand in the table. Then evaluate.py plays the test clips. A finished run
is not done again, a stopped one goes on. Needs the transcriber (requirements-transcribe.txt) for the F1.
"""

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from matplotlib.figure import Figure

from atomic import write_text
from cli import note, run
from errors import InputError
from report import save_figure

ROOT = Path(__file__).resolve().parents[1]
BEGIN, END = "<!-- ablation -->", "<!-- /ablation -->"
CLEAN = {"train_config.history_noise": 0, "train_config.final_history_noise": 0,
         "train_config.history_interference": 0, "train_config.history_dropout": 0}  # fmt: skip
ONSETS = {"data_config.features": '["paper_v5"]'}
NO_EXCITATION = {"data_config.excitation": "false"}
CAUSAL = {"cond_wavenet_config.lookahead_ms": 0, "cond_wavenet_config.upsampling": "repeat"}
NO_MEL = {"cond_wavenet_config.n_mels": 0}
ALWAYS = {"data_config.conditioning_dropout": 0}
VARIANTS = {
    "all on": {},
    "features: onsets only": ONSETS,
    "no excitation": NO_EXCITATION,
    "excitation without quadrature": {"data_config.excitation_quadrature": "false"},
    "no look-ahead": CAUSAL,
    "no mel head": NO_MEL,
    "clean history": CLEAN,
    "no interference on the history": {"train_config.history_interference": 0},
    "no noise on the history": {"train_config.history_noise": 0, "train_config.final_history_noise": 0},
    "history never dropped": {"train_config.history_dropout": 0},
    "conditioning never dropped": ALWAYS,
    "conditioning in the first layer only": {"wavenet_config.conditioned_layers": "first"},
    "conditioning at the output too": {"wavenet_config.output_conditioning": "true"},
    "context stack learns 3 x as fast": {"train_config.context_learning_rate": 3},
    "all off": ONSETS | NO_EXCITATION | CAUSAL | NO_MEL | CLEAN | ALWAYS,
}
COLUMNS = {"nll_true": "NLL", "gap": "gap", "f1": "F1", "chroma": "chroma", "onsets": "onsets"}


def main(argv: list[str] | None = None) -> int:
    """Train and play what is missing, then report on what is there; returns the exit code."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("-c", "--config", default="demo/config_train.json", help="the config that has all on")
    arguments.add_argument("--evaluate", default="demo/config_evaluate.json", help="config of evaluate.py")
    arguments.add_argument("--out", type=Path, required=True, help="folder of the runs and their scores")
    arguments.add_argument("--steps", type=int, default=1500, help="of every run; default: ten CPU minutes on the demo")
    arguments.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    arguments.add_argument("--only", nargs="+", metavar="NAME", default=list(VARIANTS), help="variants to train")
    arguments.add_argument("--jobs", type=int, default=1, help="runs side by side")
    arguments.add_argument("--set", nargs="+", default=[], metavar="BLOCK.KEY=VALUE", help="for all variants")
    arguments.add_argument("--report", type=Path, help="file to put the table into, between its ablation marks")
    args = arguments.parse_args(argv)
    if unknown := [name for name in args.only if name not in VARIANTS]:
        raise InputError(f"no variant {unknown[0]!r}; there are: {', '.join(VARIANTS)}")
    args.out.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(args.jobs) as pool:
        waiting = [pool.submit(train_and_play, args, name, seed) for seed in args.seeds for name in args.only]
        for each in waiting:
            each.result()
    found = results(args.out)
    lines = table(found)
    print("\n".join(lines))
    if args.report:
        put(args.report, lines)
    save_figure(args.out / "gap.png", gap_figure(args.out, found))
    return 0


def stem(name: str, seed: int) -> str:
    """The name of a run's folder and files."""
    return f"{''.join(letter if letter.isalnum() else '_' for letter in name)}_{seed}"


def train_and_play(args: argparse.Namespace, name: str, seed: int) -> None:
    """One run, unless its scores are there; they are written last."""
    folder, scores = args.out / stem(name, seed), args.out / f"{stem(name, seed)}.json"
    if scores.is_file():
        return
    keys = {"train_config.output_directory": folder, "train_config.steps": args.steps, "train_config.seed": seed,
            "train_config.iters_per_validation": max(1, args.steps // 15), **VARIANTS[name]}  # fmt: skip
    note(f"{name}, seed {seed}: training")
    trained, seconds = command("train.py", args.config, *args.set, *(f"{key}={value}" for key, value in keys.items()))
    note(f"{name}, seed {seed}: playing")
    keys = {"model_filename": folder, "output_dir": f"{folder}_played", "counterfactuals": "false"}
    played, _ = command("evaluate.py", args.evaluate, *(f"evaluate_config.{key}={keys[key]}" for key in keys))
    kept = {key: played[key] for key in (*COLUMNS, "f1_ceiling", "f1_floor", "gap_onsets")}
    about = {"variant": name, "seed": seed, "steps": trained["step"], "cpu_seconds": seconds}
    write_text(scores, json.dumps(about | kept) + "\n")


def command(script: str, config: str, *overrides: str) -> tuple[dict, float]:
    """Run one step with one thread; returns its result and the CPU seconds that it and its workers took."""
    line = [sys.executable, str(ROOT / script), "-c", config, "--json"]
    line += [word for pair in overrides for word in ("--set", pair)]
    threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ | threads,
                          text=True) as process:  # fmt: skip
        drained = ThreadPoolExecutor(1).submit(process.stderr.read)  # lest it waits for a full pipe
        printed, said = process.stdout.read(), drained.result()
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise InputError(f"{script} ended with exit code {process.returncode}: {said.strip().splitlines()[-1:]}")
    return json.loads(printed.splitlines()[-1]), used.ru_utime + used.ru_stime


def results(folder: Path) -> list[dict]:
    """The scores of all finished runs, in the order of VARIANTS, then of the seeds."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("*.json")]
    names = list(VARIANTS)
    return sorted((one for one in found if one["variant"] in VARIANTS),
                  key=lambda one: (names.index(one["variant"]), one["seed"]))  # fmt: skip


def table(found: list[dict]) -> list[str]:
    """Markdown: of every variant the mean of its seeds, and each seed's F1."""
    lines = [f"| variant | seeds | steps | CPU minutes | {' | '.join(COLUMNS.values())} | F1 of each seed |",
             f"|---|---|---|---|{'---|' * len(COLUMNS)}---|"]  # fmt: skip
    for name in VARIANTS:
        runs = [one for one in found if one["variant"] == name]
        if not runs:
            continue
        means = [f"{mean([one[key] for one in runs]):.3f}" for key in COLUMNS]
        each = ", ".join("-" if one["f1"] is None else f"{one['f1']:.3f}" for one in runs)
        steps = ", ".join(sorted({str(one["steps"]) for one in runs}))
        minutes = mean([one["cpu_seconds"] / 60 for one in runs])
        lines.append(f"| {name} | {len(runs)} | {steps} | {minutes:.1f} | {' | '.join(means)} | {each} |")
    if found:
        ceiling, floor = (mean([one[key] for one in found]) for key in ("f1_ceiling", "f1_floor"))
        lines += ["", f"F1 of the recordings themselves: {ceiling:.3f}; against another clip: {floor:.3f}."]
    return lines


def mean(values: list[float | None]) -> float:
    """The mean of what is known; nan of nothing."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else float("nan")


def put(path: Path, lines: list[str]) -> None:
    """Replace what stands between the marks of a Markdown file."""
    text = path.read_text(encoding="utf-8")
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise InputError(f"{path}: expected the lines {BEGIN} and {END} once each")
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    write_text(path, "\n".join([before + BEGIN, "", *lines, "", END + after]))


def gap_figure(folder: Path, found: list[dict]) -> Figure:
    """The validation gap over the steps, a line for every variant's first seed."""
    figure = Figure(figsize=(12, 6), dpi=100, layout="constrained")
    ax = figure.subplots()
    drawn = {}
    for one in found:
        drawn.setdefault(one["variant"], one)
    for name, one in drawn.items():
        lines = (folder / stem(name, one["seed"]) / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        points = [(row["step"], row["validation_gap"]) for row in map(json.loads, lines) if "validation_gap" in row]
        whole = name in ("all on", "all off")
        ax.plot(*zip(*points, strict=True), label=name, linewidth=2.5 if whole else 1)
    ax.set(xlabel="step", ylabel="validation gap, nats per sample")
    ax.grid(color="0.9")
    ax.legend(frameon=False, fontsize=9)
    return figure


if __name__ == "__main__":
    run(main)
