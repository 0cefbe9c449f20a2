"""Words that the project does not use, each with the term to write instead, and a search for them.

    python -m tests.docs.vocabulary                 # all hits as FILE:LINE
    python -m tests.docs.vocabulary midi2wave/data  # of some files and folders

Identifiers are looked at where they are bound: assigned variables and attributes, parameters, fields, functions,
classes and import aliases. Prose is what Markdown files, comments, docstrings and other strings say, and the names of
tests. Ordinary English is not meant: "no checkpoint found" is a good message, `found` is a bad variable.
"""

import ast
import io
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from typing import NamedTuple

from tests.helpers.paths import ROOT

# Names of any variable, parameter, field, attribute, function or class (a leading underscore makes no difference).
IDENTIFIERS = {
    "found": "what it is: result, metrics, rows, labels ...",
    "given": "what it is: conditioning, inputs, overrides ...",
    "known": "what it is: valid, labels, finite ...",
    "kept": "what it is: selected, mask, saved ...",
    "drawn": "samples, sample_indices ...",
    "told": "what it is: labels, mel_prediction ...",
    "here": "block, batch_on_device ...",
    "held": "exit_stack, open_files ...",
    "theirs": "checkpoint_config ...",
    "gathered": "all_gather",
    "joined": "init_distributed",
    "ALONE": "SINGLE_PROCESS",
    "of_recording": "global_embedding (layer), global_features (array)",
    "of_output": "output_conditioning",
    "let_through": "z, the gated activation",
    "summed": "pre_activations",
    "sums": "pre_activations",
    "Gates": "GateKernels",
    "margins": "context_frames",
    "prime": "prefill, prompt",
    "Prime": "AudioPrompt",
    "primed": "prompted",
    "primed_frames": "prompt_frames",
    "handover_seconds": "prompt_end_seconds",
    "partners": "mismatched_pairs",
    "of_partners": "mismatched",
    "if_deaf": "ignored_conditioning_warning",
    "deaf_validations": "n_validations_without_gap",
    "now_and_then": "run_periodic_tasks",
    "due": "is_reporting_step",
    "passes": "micro_batches",
    "Report": "StepMetrics",
    "Reports": "AsyncMetricsReader",
    "Meter": "ThroughputMeter",
    "introduction": "run_summary",
    "forecast": "eta_message",
    "go_on": "restore",
    "called": "ddp_model",
    "average": "ema_model, mean",
    "RecordedPass": "GraphedPass",
    "recorded": "captured",
    "to_record": "to_capture",
    "explained_memory": "friendly_oom_errors",
    "own_share": "model_sample_probability",
    "with_own_samples": "apply_scheduled_sampling",
    "scheduled_sampling_patience": "scheduled_sampling_start_step",
    "history_interference": "history_mixing",
    "final_history_interference": "final_history_mixing",
    "interference": "mixing",
    "SPARSE": "INPUT_WEIGHT_GAIN",
    "shares": "normalized_relu",
    "nearest": "init_codebook",
    "code_use": "codebook_usage",
    "spread_codes": "init_codebook_from_features",
    "one_of_each": "default_labels",
    "check_given": "validate_labels",
    "Strings": "PianoPartials",
    "strings": "partials",
    "usual_strings": "default_partials",
    "strings_of": "partials_for",
    "turn": "omega",
    "turned": "demodulated",
    "gone": "inaudible_after",
    "damper": "release_envelope",
    "loudness": "gain",
    "strokes": "notes, onsets",
    "stroke": "note, onset",
    "Strokes": "NoteEvents",
    "likeness": "amplitude_match",
    "evidence": "fit_score",
    "ENOUGH": "MIN_...",
    "flux": "recording_lag_seconds",
    "Followed": "PartialTracks",
    "follow": "track_partials",
    "followed": "tracks",
    "Found": "RecordingAlignment",
    "tell": "_warn_if_mismatched",
    "where": "location: locate_crop, source, option ...",
    "corrupted": "augment_history",
    "chosen": "selected, bernoulli",
    "decode_changes": "mu_law_decode_preemphasized",
    "after_truth": "deemphasize_teacher_forced",
    "changes": "the pre-emphasised signal; counterfactual effects",
    "leaves": "fade_out",
    "comes": "fade_in",
    "agreements": "seam_correlations",
    "fall_rate": "decay_rate",
    "fall_rates": "decay_rates",
    "ceiling": "topline",
    "floor": "baseline (of a score), noise_floor, minimum",
    "claim": "acquire_output_dir",
    "refuse_foreign": "require_own_dir",
    "point": "update_symlink",
    "aside": "tmp_path",
    "standing": "status",
    "work": "parallel_map, function",
    "in_shard": "select_shard",
    "SamplingKeys": "SamplingConfig",
    "NOT_HEARD": "OPTIONS_NOT_AFFECTING_AUDIO",
    "Team": "ThreadGroup",
    "team": "group",
    "helpers": "followers",
    "TOLD": "LAYERS_PER_SIGNAL",
    "CLAIMED": "PREFETCH_DISTANCE",
    "meet": "barrier",
    "borrow": "as_pointers",
    "Player": "LoadedModel",
    "player": "generate, loaded_model",
    "load_player": "load_for_generation",
    "today": "migrate_config",
    "road": "pipeline",
    "Road": "Pipeline",
    "rooms": "modules",
    "house": "architecture",
}

# Parts of identifiers, between underscores.
PARTS = {
    "hear": "receive",
    "hears": "receives",
    "heard": "conditioning, detected, transcribed",
    "unheard": "disabled",
    "told": "conditioned_on",
    "untold": "null",
    "unsaid": "unknown",
    "deaf": "ignores",
    "owes": "gap",
    "riders": "aux_inputs",
    "rider": "aux_input",
    "strokes": "notes, onsets",
    "road": "pipeline",
    "found": "what it is",
    "given": "what it is",
    "kept": "selected",
    "drawn": "sampled",
}
PREFIXES = {"LEAST": "MIN", "MOST": "MAX", "LONGEST": "MAX", "SHORTEST": "MIN"}

# Prose, as regular expressions over one line, in lower case.
PROSE = {
    r"\b(hears?|heard|hearing|unheard)\b": "is conditioned on, receives as input, attends to; is audible",
    r"\blistens\b": "is conditioned on",
    r"\b(un)?told\b": "conditioned on, known",
    r"\bunsaid\b": "unknown",
    r"\bdeaf\b": "ignores its conditioning",
    r"\bow(e|es|ed|ing) (to )?(its|the|their)\b": "likelihood gain from the conditioning",
    r"\b(cures?|cured|remedies|remedy against)\b": "regularisers, augmentations",
    r"\brid(e|es|ers?) along\b|\briders?\b": "auxiliary inputs",
    r"\blets? (it |them )?through\b": "gated activation",
    r"\bstrokes?\b": "note, onset",
    r"\bthe (data )?road\b": "training pipeline",
    r"\bthe house\b": "architecture",
    r"\bfloors of\b|\bthe floors\b|\bkeep to the floors\b": "layering rules",
    r"\brooms stand\b|\bthe rooms\b": "modules",
    r"\bthe walk\b|\bwalks? through\b": "data flow",
    r"\bno circles\b|\bare no circles\b": "no import cycles",
    r"\bceilings?\b": "topline",
    r"\b(?<!noise )(?<!math\.)floor\b": "baseline; noise floor",
    r"\bprimed\b": "prompted",
    r"\bhistory.interference\b|\binterference on\b": "history mixing",
    r"\banother crop's sound\b": "history mixing",
    r"\bhandover": "end of the prompt",
    r"\b(dies|die|dying) away\b": "decay",
    r"\bfalls? at .* db/s\b|\bfall rates?\b|\bfall_rate\b|\bfall_db": "decay rate",
    r"\bordinary strings\b|\bmeasured strings\b|\bmeasure_strings\b|\bconfig_train_strings\b": "partials",
    r"\b(usual|ordinary) piano in tune\b": "default partials of a tuned piano",
    r"\bturned back\b": "demodulated",
    r"\bspread codes\b": "codebook initialisation",
    r"\bscheduled_sampling_patience\b": "scheduled_sampling_start_step",
    r"\bof_recording\b": "global_embedding, global_features",
    r"\bstands? on the model\b|\bstands? on it\b": "depends on",
    r"\bnow and then\b": "periodically",
    r"\bown share\b": "probability of a sample of the model",
    r"\bthe obvious (one|implementation)\b": "the plain implementation",
    r"\b(least|most)_[a-z]": "min_, max_",
    r"^\W*step \d+: (a|the|the? [a-z]+) [a-z]": "command (a step is an optimiser step)",
}

# Old names that users' files and commands still have, and where they may stand: file -> words that are allowed there.
FORMER_OPTIONS = ("history_interference", "scheduled_sampling_patience", "primed")
FORMER_SCORES = ("ceiling", "floor")
FORMER_VARIANTS = ("ordinary strings", "interference on")
ALLOWED: dict[str, tuple[str, ...]] = {
    "CHANGELOG.md": (*FORMER_OPTIONS, *FORMER_SCORES, "handover", "measure_strings"),
    "configs/schema.json": FORMER_OPTIONS,
    "midi2wave/config.py": FORMER_OPTIONS,
    "midi2wave/checkpoint.py": ("of_recording",),
    "midi2wave/evaluation/results.py": FORMER_SCORES,
    # An attribute of PyTorch's optimisers.
    "midi2wave/training/step.py": ("found_inf",),
    "benchmarks/ablation_report.py": FORMER_VARIANTS,
    "tests/unit/benchmarks/test_ablation.py": ("ceiling", "ordinary strings", "history_interference"),
    "tests/unit/model/test_config.py": ("history_interference",),
    "tests/unit/model/test_config_schema.py": ("history_interference", "primed"),
    "tests/unit/model/test_compatibility.py": ("of_recording", "scheduled_sampling_patience", "primed"),
    # Examples of words that are not used.
    "tests/docs/test_architecture.py": ("hears", "ceiling", "floor", "least_n"),
}
# The list of words itself, and results that were stored with old names.
EXCLUDED = ("tests/docs/vocabulary.py", "tests/golden/")
MAX_COLUMNS_OF_A_HIT = 100


class Hit(NamedTuple):
    """A word that is not used, where it stands, and what to write."""

    path: str
    line: int
    word: str
    write: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.word!r}; write: {self.write}"


def tracked(*patterns: str) -> list[str]:
    """Files of the repository that match git patterns, relative to its root; without a git checkout, all on disk."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", *patterns]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    names = done.stdout.splitlines()
    if done.returncode:
        names = [path.relative_to(ROOT).as_posix() for pattern in patterns for path in ROOT.rglob(pattern)]
    return sorted(name for name in set(names) if (ROOT / name).is_file())


def bound_names(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Every name that a module binds, with its line; functions of tests are prose and are left out."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield (node.id if isinstance(node, ast.Name) else node.attr), node.lineno
        elif isinstance(node, ast.arg):
            yield node.arg, node.lineno
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            if not node.name.startswith("test_"):
                yield node.name, node.lineno
        elif isinstance(node, ast.alias) and node.asname:
            yield node.asname, getattr(node, "lineno", 1)


def judge_identifier(name: str) -> str | None:
    """What to write in place of an identifier; None for one that may stay."""
    bare = name.strip("_")
    if bare in IDENTIFIERS:
        return IDENTIFIERS[bare]
    parts = bare.split("_")
    if bare.isupper() and parts[0] in PREFIXES:
        return f"{PREFIXES[parts[0]]}_..."
    return next((PARTS[part] for part in parts if part in PARTS), None)


def prose_hits(path: str, number: int, text: str) -> Iterator[Hit]:
    """The hits of a line of prose."""
    for pattern, write in PROSE.items():
        for match in re.finditer(pattern, text.lower()):
            yield Hit(path, number, match[0][:MAX_COLUMNS_OF_A_HIT], write)


def python_prose(text: str) -> Iterator[tuple[int, str]]:
    """Lines of comments and strings of a Python source, and the names of its tests, with their line numbers."""
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type in (tokenize.COMMENT, tokenize.STRING):
            for offset, line in enumerate(token.string.splitlines()):
                yield token.start[0] + offset, line
        elif token.type == tokenize.NAME and token.string.startswith("test_"):
            yield token.start[0], token.string.replace("_", " ")


def hits_of(path: str) -> Iterator[Hit]:
    """All hits of one file that are not allowed there."""
    text = (ROOT / path).read_text(encoding="utf-8")
    hits: list[Hit] = []
    if path.endswith(".py"):
        for name, line in bound_names(ast.parse(text)):
            if write := judge_identifier(name):
                hits.append(Hit(path, line, name, write))
        for line, words in python_prose(text):
            hits += prose_hits(path, line, words)
    else:
        for line, words in enumerate(text.splitlines(), start=1):
            hits += prose_hits(path, line, words)
    allowed = ALLOWED.get(path, ())
    yield from sorted({hit for hit in hits if hit.word.strip("_") not in allowed}, key=lambda hit: hit.line)


def all_hits(*places: str) -> list[Hit]:
    """The hits in Python, Markdown and JSON files; in all of the repository, or in some files and folders."""
    paths = [path for path in tracked("*.py", "*.md", "*.json", "*.toml") if not path.startswith(EXCLUDED)]
    if places:
        paths = [path for path in paths if any(path == place or path.startswith(f"{place}/") for place in places)]
    return [hit for path in paths for hit in hits_of(path)]


def main() -> int:
    """Print all hits; the exit code is 1 if there are any."""
    hits = all_hits(*(argument.strip("/") for argument in sys.argv[1:]))
    for hit in hits:
        print(hit)
    by_file = len({hit.path for hit in hits})
    print(f"{len(hits)} hits in {by_file} files", file=sys.stderr)
    return 1 if hits else 0


if __name__ == "__main__":
    sys.exit(main())
