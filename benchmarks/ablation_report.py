"""Variants of the ablation, and the report on its finished runs: table and figure."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SCORES_NAME = "scores.json"
# The figure beside the report.
PICTURE_NAME = "conditioning_gap.png"
CLEAN_HISTORY = {
    "train_config.history_noise": 0,
    "train_config.final_history_noise": 0,
    "train_config.history_mixing": 0,
    "train_config.history_dropout": 0,
}
ONSETS_ONLY = {"data_config.features": '["paper_v5"]'}
NO_EXCITATION = {"data_config.excitation": "false"}
CAUSAL = {"cond_wavenet_config.lookahead_ms": 0, "cond_wavenet_config.upsampling": "repeat"}
NO_MEL_HEAD = {"cond_wavenet_config.n_mels": 0}
NO_CONDITIONING_DROPOUT = {"data_config.conditioning_dropout": 0}
NO_PREEMPHASIS = {"data_config.preemphasis": 0}
DEFAULT_PARTIALS = {
    "data_config.partial_hz": "[]",
    "data_config.partial_level": "[]",
    "data_config.partial_decay": "[]",
    "data_config.partial_phase": "[]",
    "data_config.velocity_exponent": 1.5,
}
ALL_OFF = (
    ONSETS_ONLY
    | NO_EXCITATION
    | DEFAULT_PARTIALS
    | NO_PREEMPHASIS
    | CAUSAL
    | NO_MEL_HEAD
    | CLEAN_HISTORY
    | NO_CONDITIONING_DROPOUT
)
VARIANTS: dict[str, dict[str, Any]] = {
    "all on": {},
    "features: onsets only": ONSETS_ONLY,
    "no excitation": NO_EXCITATION,
    "excitation without quadrature": {"data_config.excitation_quadrature": "false"},
    "default partials": DEFAULT_PARTIALS,
    "no pre-emphasis": NO_PREEMPHASIS,
    "no look-ahead": CAUSAL,
    "no mel head": NO_MEL_HEAD,
    "clean history": CLEAN_HISTORY,
    "no history mixing": {"train_config.history_mixing": 0},
    "no noise on the history": {"train_config.history_noise": 0, "train_config.final_history_noise": 0},
    "history never dropped": {"train_config.history_dropout": 0},
    "scheduled sampling": {"train_config.scheduled_sampling_passes": 1},
    "conditioning never dropped": NO_CONDITIONING_DROPOUT,
    "conditioning in the first layer only": {"wavenet_config.conditioned_layers": "first"},
    "conditioning at the output too": {"wavenet_config.output_conditioning": "true"},
    "context stack learns 3 x as fast": {"train_config.context_learning_rate": 3},
    "all off": ALL_OFF,
}
# Names of variants in the results of earlier versions -> the present ones.
FORMER_VARIANTS = {
    "ordinary strings": "default partials",
    "no interference on the history": "no history mixing",
}
COLUMNS = {
    "nll_true": "NLL",
    "gap": "gap",
    "gap_onsets": "gap at onsets",
    "f1": "F1",
    "chroma": "chroma",
    "onsets": "onsets",
    "mrstft": "STFT distance",
}
REFERENCES = ("f1_topline", "f1_baseline", "chroma_baseline")


def run_folder(folder: Path, name: str, seed: int) -> Path:
    """The folder of a run; that of a variant's former name, if there is one already."""
    former_names = [former for former, present in FORMER_VARIANTS.items() if present == name]
    paths = [folder / stem(one, seed) for one in (name, *former_names)]
    return next((path for path in paths if path.is_dir()), paths[0])


def stem(name: str, seed: int) -> str:
    """The name of a run's folder."""
    return f"{''.join(letter if letter.isalnum() else '_' for letter in name)}_{seed}"


def load_scores(folder: Path) -> list[dict[str, Any]]:
    """The scores of all finished runs, in the order of VARIANTS, then of the seeds; of earlier versions, too."""
    from midi2wave.evaluation.results import with_present_keys  # It imports PyTorch, for which --help should not wait.

    stored = [json.loads(path.read_text(encoding="utf-8")) for path in folder.glob(f"*/{SCORES_NAME}")]
    runs = [with_present_keys(run) for run in stored]
    for run in runs:
        run["variant"] = FORMER_VARIANTS.get(run["variant"], run["variant"])
    names = list(VARIANTS)
    runs = [run for run in runs if run["variant"] in VARIANTS]
    return sorted(runs, key=lambda run: (names.index(run["variant"]), run["seed"]))


def table(runs: list[dict[str, Any]]) -> list[str]:
    """Markdown: of each variant and score the mean over the seeds and, in brackets, the value of each seed."""
    lines = [
        f"| variant | seeds | steps | CPU minutes | {' | '.join(COLUMNS.values())} |",
        f"|---|---|---|---|{'---|' * len(COLUMNS)}",
    ]
    for name in VARIANTS:
        of_variant = [run for run in runs if run["variant"] == name]
        if not of_variant:
            continue
        minutes = [None if run["cpu_seconds"] is None else run["cpu_seconds"] / 60 for run in of_variant]
        seeds, steps = (", ".join(dict.fromkeys(str(run[key]) for run in of_variant)) for key in ("seed", "steps"))
        scores = [mean_and_each([run[key] for run in of_variant], 3) for key in COLUMNS]
        lines.append(f"| {' | '.join([name, seeds, steps, mean_and_each(minutes, 1), *scores])} |")
    if runs:
        topline, f1, chroma = (mean_and_each([mean([run[key] for run in runs])], 3) for key in REFERENCES)
        baselines = f"F1 {f1}, chroma {chroma}"
        lines += [
            "",
            f"Topline, the F1 of the recordings themselves: {topline}. Baseline, against another clip: {baselines}. "
            "NLL and gaps in nats per sample.",
        ]
    return lines


def mean(values: Sequence[float | None]) -> float | None:
    """The mean of the values that are not None; None if there are none."""
    numbers = [value for value in values if value is not None]
    return sum(numbers) / len(numbers) if numbers else None


def mean_and_each(values: Sequence[float | None], digits: int) -> str:
    """Mean and values as in 0.52 (0.50, 0.54), with a dash for None."""
    first, *each = ("-" if value is None else f"{value:.{digits}f}" for value in (mean(values), *values))
    return first if len(each) == 1 or first == "-" else f"{first} ({', '.join(each)})"


def gap_figure(folder: Path, runs: list[dict[str, Any]]) -> "Figure":
    """The validation gap by training step: a line for each variant, the mean of its seeds."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 6), dpi=100, layout="constrained")
    ax = figure.subplots()
    styles: dict[str, dict[str, Any]] = {
        "all on": {"color": "black", "linewidth": 3},
        "all off": {"color": "black", "linestyle": "--"},
    }
    for number, name in enumerate(VARIANTS):
        gaps: dict[int, list[float]] = {}
        for run in (run for run in runs if run["variant"] == name):
            path = run_folder(folder, name, run["seed"]) / "run" / "metrics.jsonl"
            for row in map(json.loads, path.read_text(encoding="utf-8").splitlines()):
                if "validation_gap" in row:
                    gaps.setdefault(row["step"], []).append(row["validation_gap"])
        style = styles.get(name, {"color": colormaps["tab20"](number), "linewidth": 1.3})
        if gaps:
            ax.plot(list(gaps), [sum(values) / len(values) for values in gaps.values()], label=name, **style)
    ax.set(xlabel="step", ylabel="validation gap, nats per sample")
    ax.grid(color="0.9")
    if ax.lines:
        ax.legend(frameon=False, fontsize=9, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure
