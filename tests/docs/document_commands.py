"""The commands that the documents show, and which of them a test runs.

Every command line of a ```sh block is one of
- RUN: `test_document_commands.py` runs it on tiny data, some with further options that make it short;
- a Python command of this project: the test parses its options and loads its config; TESTED_BY names the test file that
  runs the same command on small data, or NOT_RUN_COMMANDS says why nothing does;
- anything else: NOT_RUN_LINES says why it is not run.
"""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.helpers.paths import ROOT

PAGES = sorted(path for pattern in ("*.md", "*/*.md") for path in ROOT.glob(pattern) if path.parent.name != ".git")

# In this order, in one folder: a tiny MAESTRO folder named maestro-v3.0.0, song.mid, and links to examples/ and
# pretrained/. Command -> further options.
TINY_TRAINING = (
    "train_config.steps=2 train_config.warmup_steps=1 train_config.batch_size=1 data_config.segment_length=0.1 "
    "train_config.validation_crops=2 data_config.n_workers=0 train_config.compile=false train_config.device=cpu"
)
RUN = {
    "python resample_audio.py -d maestro-v3.0.0 -j 4": "",
    "python preprocess_maestro.py -c config_makeAll.json -j 4": "",
    "python train.py -c config_train.json": TINY_TRAINING,
    "python preprocess_audio.py -d test -c config_makeTest.json": (
        "preprocess_config.n_clips=2 preprocess_config.test_segment_length=2.2"
    ),
    "python inference.py -c config_inference.json": "",
    "python inference.py -c config_inference.json --midi song.mid --out songs": "",
    "python evaluate.py -c config_evaluate.json": (
        "evaluate_config.counterfactuals=false evaluate_config.second_transcriber=false"
    ),
    "python inference.py -c config_play.json --midi examples/scale.mid --out played": "",
    "python -m benchmarks.model_speed -c config_train.json": "",
}

TESTED_BY = {
    "resample_audio.py": "tests/commands/test_resample_audio.py",
    "preprocess_maestro.py": "tests/commands/test_preprocess.py",
    "preprocess_audio.py": "tests/commands/test_preprocess.py",
    "train.py": "tests/commands/test_train.py",
    "inference.py": "tests/commands/test_inference.py",
    "evaluate.py": "tests/commands/test_evaluate.py",
    "finetune.py": "tests/commands/finetune/test_finetune.py",
    "play.py": "tests/commands/test_play.py",
    "render_midi.py": "tests/commands/test_render_midi.py",
    "measure_partials.py": "tests/commands/test_measure_partials.py",
    "align_labels.py": "tests/commands/test_align_labels.py",
    "demo.py": "tests/commands/test_demo.py",
    "wavenet.py": "tests/unit/benchmarks/test_model_speed.py",
    "examples/type_in.py": "tests/docs/test_examples.py",
    "midi2wave.config": "tests/docs/test_architecture.py",
    "midi2wave.checkpoint": "tests/unit/model/test_checkpoint.py",
    "midi2wave.data.salamander": "tests/unit/data/test_salamander.py",
    "midi2wave.demo_dataset.write_midi": "tests/unit/demo_dataset/test_write_midi.py",
    "midi2wave.evaluation.reverberation": "tests/unit/evaluation/test_reverberation.py",
    "nv_wavenet_bridge.export": "tests/unit/nv_wavenet_bridge/test_bundle.py",
    "nv_wavenet_bridge.check": "tests/unit/nv_wavenet_bridge/test_bundle.py",
    "benchmarks.ablation": "tests/unit/benchmarks/test_ablation.py",
    "benchmarks.midi_readers": "tests/unit/benchmarks/test_midi_readers.py",
    "benchmarks.playing": "tests/unit/benchmarks/test_playing.py",
    "benchmarks.weight_formats": "tests/unit/benchmarks/test_playing.py",
    "benchmarks.live_lookahead": "tests/unit/benchmarks/test_live_lookahead.py",
    "benchmarks.model_speed": "tests/unit/benchmarks/test_model_speed.py",
    "benchmarks.training": "tests/unit/benchmarks/test_benchmarks.py",
    "benchmarks.presets": "tests/unit/benchmarks/test_model_speed.py",
    "benchmarks.listen": "tests/unit/benchmarks/test_listen.py",
    "benchmarks.mutations": "tests/unit/benchmarks/test_mutations.py",
    "benchmarks.own_piano": "tests/unit/benchmarks/test_own_piano.py",
    "benchmarks.own_piano_recordings": "tests/unit/benchmarks/test_own_piano.py",
    "benchmarks.own_piano_shares": "tests/unit/benchmarks/test_own_piano.py",
    "benchmarks.random_weights": "tests/unit/benchmarks/test_own_piano.py",
    "tests.helpers.fuzz": "tests/robustness/test_fuzz.py",
}

NOT_RUN_COMMANDS = {
    "benchmarks.live_playing": "a benchmark of some minutes on an idle machine, in a browser",
    "nv_wavenet_bridge.run": "needs a CUDA GPU and a build of nv-wavenet",
    "benchmarks.sampling": "a benchmark of some minutes on an idle machine",
    "benchmarks.gpu_sampling": "needs a CUDA GPU",
    "benchmarks.training_memory": "a benchmark of some minutes on an idle machine",
    "benchmarks.training_run": "a benchmark of some minutes on an idle machine",
    "benchmarks.loss_curves": "a benchmark of some minutes on an idle machine",
    "benchmarks.data": "a benchmark of some minutes on an idle machine",
    "benchmarks.full_size": "a benchmark that makes hours of audio",
    "benchmarks.measures": "needs test clips of real recordings",
    "benchmarks.excitation": "needs a processed folder of a piano",
    "tests.helpers.odd_midi": "needs MIDI files of other projects",
    "pytest": "runs the tests themselves",
}

NOT_RUN_LINES = {  # regular expression -> why
    r"python3 -m venv|source \.venv|\.venv/bin/|pip install|apt-get|dpkg ": "installs",
    r"(python -m )?pytest|ruff|mypy|pre-commit|\.ci/run|bash \.ci/run": "runs the checks themselves",
    r"git |tensorboard |sed -i|make$|cd |python build\.py ": "a tool of others",
    r"dask |export |PYTHONPATH=": "dask's own commands; tests/commands/test_clusters.py starts them",
    r"[A-Z]=": "sets a variable for the next command",
}


@dataclass(frozen=True)
class DocumentCommand:
    """One command line of a page.

    Attributes:
        page: Path relative to the repository.
        line: The command without comment, continuation lines joined.
    """

    page: str
    line: str

    @property
    def python_target(self) -> str | None:
        """The script or module of this project that the line runs: `train.py`, `benchmarks.data`; None: another."""
        words = self.line.split()
        if words[0] == "torchrun":
            return next((word for word in words if word.endswith(".py")), None)
        if not re.fullmatch(r"(\.venv/bin/)?python", words[0]):
            return None
        return words[2] if words[1] == "-m" else words[1]

    @property
    def options(self) -> list[str]:
        """The command-line options behind the script or module, as a shell would split them."""
        target = self.python_target
        assert target is not None
        words = shlex.split(self.line.split(">")[0])
        return words[words.index(target) + 1 :]


def document_commands() -> Iterator[DocumentCommand]:
    """All command lines of all ```sh blocks of all pages."""
    for path in PAGES:
        for block in re.findall(r"^```sh\n(.*?)^```", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL):
            for line in block.replace("\\\n", " ").splitlines():
                command = " ".join(re.sub(r"(^|\s)#.*", "", line).split())
                for part in command.split(" && ") if command else ():
                    yield DocumentCommand(path.relative_to(ROOT).as_posix(), part)


def reason_not_run(command: DocumentCommand) -> str | None:
    """Why a command is neither run nor parsed; None where it is a Python command of this project."""
    for pattern, reason in NOT_RUN_LINES.items():
        if re.match(pattern, command.line):
            return reason
    return None


def script_path(target: str) -> Path:
    """The file of a script or module."""
    return ROOT / target if target.endswith(".py") else ROOT / (target.replace(".", "/") + ".py")
