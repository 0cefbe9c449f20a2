"""From a folder of recordings and MIDI to a model that plays them: the phases of `finetune.py`, one after another.

Each phase leaves what it has found in the record of the output folder (`phases.py`), so that the same call resumes.
Below the output folder:

    finetune.json                   settings and finished phases
    recordings/                     the report of the recordings
    audio/, data/, aligned/, clips/ resampled audio, processed folders, labels that agree with the sound, test clips
    validation_clips/               clips by which the share of the trained weights is chosen
    training.json, run/             config and run folder of the training
    blended.safetensors             that share of the trained weights, and the base
    evaluation/                     generated clips and scores of the base model and of the fine-tuned one
    NAME.safetensors, model_card.md, play.json, index.html      the result
"""

import contextlib
import datetime
import functools
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from midi2wave.checkpoint_folders import step_folders, step_of
from midi2wave.config import FINETUNED_CONFIG, Config
from midi2wave.data.resample_manifest import state
from midi2wave.evaluation.transcription import load_transcriber
from midi2wave.finetuning import base_choice, blending, comparison, label_refinement, model_files, preparation, schedule
from midi2wave.finetuning.phases import RECORD_NAME, PhaseRecord
from midi2wave.finetuning.pieces import (
    MAX_HOLD_OUT,
    MIN_HOLD_OUT,
    Pair,
    Piece,
    clip_seconds,
    holds_out_middles,
    plan_pieces,
    remaining_lags,
)
from midi2wave.finetuning.play_settings import play_settings
from midi2wave.finetuning.recordings import CheckedRecordings, check_recordings
from midi2wave.finetuning.report_page import write_report
from midi2wave.training.loop import run_training
from midi2wave.utils.atomic_files import write_text
from midi2wave.utils.cli import count_of, log
from midi2wave.utils.errors import InputError
from midi2wave.utils.folder_lock import lock_own_folder
from midi2wave.utils.signals import Interrupted
from midi2wave.utils.text import join_names

RECORDINGS_NAME = "recordings"
TRAINING_CONFIG_NAME = "training.json"
CLIP_SECONDS = 10.0
# Test clips, which both models generate: fewer for a short training.
N_CLIPS, FEW_CLIPS = 8, 4
# Clips that choose between weights.
N_VALIDATION_CLIPS = 4
VALIDATION_CLIP_SECONDS = 10.0
SHORT_MINUTES = 10.0
SIGNAL_EXIT_CODES = 128


@dataclass(frozen=True)
class FinetuneOptions:
    """The options of a fine-tuning.

    Attributes:
        minutes: Minutes of training; preparation and evaluation are not counted.
        base: Weights to begin with; "": the shipped ones that find the recordings most likely.
        hold_out: Part of the recordings that is held out, once for validation and once for testing.
        licence: Licence of the new weights; "": not stated.
        seed: Seed of split, crops and generated clips.
        jobs: Recordings that are read at once.
        device: auto, cpu, cuda or cuda:N.
    """

    minutes: float = 30.0
    base: str = ""
    hold_out: float = 0.1
    licence: str = ""
    seed: int = 0
    jobs: int = 1
    device: str = "auto"

    def check(self) -> None:
        """Raise InputError for an impossible value."""
        if not schedule.MIN_MINUTES <= self.minutes <= schedule.MAX_MINUTES:
            limits = f"{schedule.MIN_MINUTES:g} to {schedule.MAX_MINUTES}"
            raise InputError(f"--minutes {self.minutes:g}: expected {limits}")
        if not MIN_HOLD_OUT <= self.hold_out <= MAX_HOLD_OUT:
            raise InputError(f"--hold_out {self.hold_out:g}: expected {MIN_HOLD_OUT:g} to {MAX_HOLD_OUT:g}")
        if self.seed < 0:
            raise InputError(f"--seed {self.seed}: expected 0 or more")


@dataclass(frozen=True)
class FinetuneResult:
    """What a fine-tuning has made.

    Attributes:
        weights: The weights file, for `midi2wave.load` and `inference.py`.
        play_config: The config for `inference.py -c`.
        card: The model card.
        page: The page to listen.
        verdict: Whether it worked, in words.
        comparison: Scores of the base model and of the fine-tuned one, as of `comparison.compare`.
    """

    weights: Path
    play_config: Path
    card: Path
    page: Path
    verdict: str
    comparison: dict[str, Any]


def finetune(folder: Path, out: Path, options: FinetuneOptions) -> FinetuneResult:
    """Train a shipped model further on recordings of another piano; the same call goes on after an interruption.

    Args:
        folder: Pairs of audio and MIDI files with equal stems at any depth, or a MAESTRO folder.
        out: The output folder.
        options: The options.

    Raises:
        InputError: Nothing is usable, or the folder holds something else.
        KeyboardInterrupt: A signal stopped the training; the last step is saved.
        OSError: The disk is full.
    """
    options.check()
    if not folder.is_dir():
        raise InputError(f"{folder}: {'a file, expected a folder' if folder.exists() else 'no such folder'}")
    if folder.resolve() in (out.resolve(), *out.resolve().parents):
        raise InputError(f"{out} lies in {folder}, whose files are the recordings; choose another folder with -o")
    settings = {"recordings": str(folder.resolve()), "minutes": options.minutes, "base": options.base}
    settings |= {"hold_out": options.hold_out, "seed": options.seed, "device": options.device}
    PhaseRecord(out, settings)  # Before any work.
    candidates = base_choice.load_candidates(options.base)
    with lock_own_folder(out, RECORD_NAME):
        record = PhaseRecord(out, settings)
        record.begin()
        return _Finetuning(folder, out, options, record).run(candidates)


class _Finetuning:
    """One call of `finetune`."""

    def __init__(self, folder: Path, out: Path, options: FinetuneOptions, record: PhaseRecord) -> None:
        self.folder = folder
        self.out = out
        self.options = options
        self.record = record

    def run(self, candidates: dict[str, Any]) -> FinetuneResult:
        """Do all phases that are not done."""
        checked = self.record.run("recordings", self._check_recordings)
        self._require_unchanged(checked)
        pairs = [Pair(one["audio"], one["midi"], one["seconds"], one["late_seconds"]) for one in checked]
        planned = plan_pieces(self.folder, pairs, self.options.hold_out, self.options.seed)
        length = clip_seconds(planned, "test", CLIP_SECONDS)
        validation_length = clip_seconds(planned, "validation", VALIDATION_CLIP_SECONDS)
        base = self.record.run("base", lambda: self._choose_base(candidates, planned))
        if base["path"] not in candidates:
            raise InputError(f"{base['path']}, which {self.out} was begun with, is no longer there; choose another -o")
        loaded = candidates[base["path"]]
        model_data = loaded.config.data_config
        pieces = base_choice.with_label(planned, base["label"], model_data.global_values)
        data = self.record.run("data", lambda: self._prepare(pieces, model_data, length, validation_length))
        config = schedule.training_config(loaded.config, base["path"], self.out, self.options.seed, self.options.device)
        lags = remaining_lags(pieces, pairs)
        refinement = self.record.run("labels", lambda: label_refinement.refine(config, self.out, lags))
        config = label_refinement.with_refinement(config, refinement)
        planned_schedule = self.record.run("schedule", lambda: self._plan(config))
        self.record.run("training", lambda: self._train(config, planned_schedule))
        blended = self.record.run("blending", lambda: self._blend(base["path"]))
        compared = self.record.run("comparison", lambda: self._compare(base["path"]))
        provenance = model_files.Provenance(
            str(self.folder), base["path"], loaded.sha256, base["label"], self.options.licence
        )
        return self._finish(provenance, compared, self._facts(data, planned_schedule, refinement, config, blended))

    def _check_recordings(self) -> list[dict[str, Any]]:
        """Check the recordings, write the report, name the problems; the usable ones with the states of their files."""
        checked = check_recordings(self.folder, jobs=self.options.jobs)
        page = write_report(checked, self.out / RECORDINGS_NAME)
        _log_problems(checked)
        usable = [pair for pair in checked.pairs if pair.usable]
        if not usable:
            others = next((f"; {pair.name}: {pair.problems[0]}" for pair in checked.pairs if pair.problems), "")
            raise InputError(
                f"{self.folder} holds no usable pair of audio and MIDI with equal names{others}; the report: {page}"
            )
        seconds = sum(pair.seconds for pair in usable)
        log(
            f"{len(usable)} of {count_of(len(checked.pairs), 'recording')} usable, {seconds / 60:.1f} minutes; "
            f"the report: {page}"
        )
        return [
            {
                "audio": self._relative(pair.audio),
                "midi": self._relative(pair.midi),
                "seconds": pair.seconds,
                "late_seconds": pair.offset_seconds,
                "states": [list(state(pair.audio)), list(state(pair.midi))],
            }
            for pair in usable
        ]

    def _relative(self, path: Path) -> str:
        """A file's name relative to the user's folder."""
        for folder in (self.folder, self.folder.resolve()):
            if path.is_relative_to(folder):
                return path.relative_to(folder).as_posix()
        raise InputError(f"{path} does not lie in {self.folder}; put the file itself there")

    def _require_unchanged(self, checked: list[dict[str, Any]]) -> None:
        """Refuse to go on with recordings that are not those of the earlier call."""
        for one in checked:
            for name, before in zip((one["audio"], one["midi"]), one["states"], strict=True):
                path = self.folder / name
                # Finished phases do not read them again.
                with contextlib.suppress(FileNotFoundError):
                    if list(state(path)) != before:
                        raise InputError(
                            f"{path} has changed since {self.out} was begun; choose another folder with -o"
                        )

    def _choose_base(self, candidates: dict[str, Any], pieces: list[Piece]) -> dict[str, Any]:
        audio_hz = next(iter(candidates.values())).config.data_config.audio_hz
        preparation.resample(self.folder, pieces, audio_hz, self.out, self.options.jobs)
        scores = base_choice.score_candidates(candidates, self.folder, pieces, self.out)
        path, label = min(scores, key=lambda key: scores[key])
        listed = "; ".join(
            f"{Path(one).name}{f' ({its_label})' if its_label else ''} {score:.3f}"
            for (one, its_label), score in sorted(scores.items(), key=lambda item: item[1])
        )
        log(f"base weights: {path}{f', {label}' if label else ''} (NLL in nats per sample: {listed})")
        return {"path": path, "label": label, "scores": listed}

    def _prepare(self, pieces: list[Piece], model_data: Any, length: float, validation_length: float) -> dict[str, Any]:
        counts = preparation.process(self.folder, pieces, model_data, self.out, self.options.jobs)
        n_clips = N_CLIPS if self.options.minutes >= SHORT_MINUTES else FEW_CLIPS
        cut = functools.partial(preparation.cut_split_clips, self.folder, pieces, model_data, self.out)
        clips = cut("test", (n_clips, length))
        cut("validation", (N_VALIDATION_CLIPS, validation_length))
        kind = "the middle of each recording" if holds_out_middles(pieces) else "whole recordings"
        minutes = {split: one["seconds"] / 60 for split, one in counts.items()}
        log(
            f"{minutes['train']:.1f} minutes to train on, {minutes['validation']:.1f} to validate and "
            f"{minutes['test']:.1f} to test on ({kind} held out); {len(clips)} test clips of {length:g} s"
        )
        return {"splits": counts, "clips": clips, "held_out": kind}

    def _plan(self, config: Config) -> dict[str, Any]:
        seconds_per_step = schedule.measure_step_seconds(config)
        planned = schedule.plan_steps(self.options.minutes, seconds_per_step, config)
        if planned.steps < schedule.FEW_STEPS:
            log(
                f"{planned.steps} steps are few: {schedule.FEW_STEPS} are the fewest that were measured with blending "
                "(docs/own_piano.md); give more --minutes, and another -o"
            )
        return asdict(planned)

    def _train(self, config: Config, planned: dict[str, Any]) -> dict[str, Any]:
        """Train to the last step. Raises Interrupted where a signal stops it."""
        config = schedule.with_steps(config, planned["steps"], planned["n_validations"])
        blocks = {name: block for name, block in config.as_dict().items() if block}
        write_text(self.out / TRAINING_CONFIG_NAME, json.dumps(blocks, indent=2) + "\n")
        done = max(map(step_of, step_folders(Path(config.train_config.output_directory))), default=0)
        seconds = planned["seconds"] * (1 - done / planned["steps"])
        end = datetime.datetime.now() + datetime.timedelta(seconds=seconds)
        log(
            f"training: {planned['steps']} steps of {planned['seconds_per_step']:.2g} s each, as measured here"
            f"{f', of which {done} are done' if done else ''}; {seconds / 60:.1f} minutes, until about {end:%H:%M}; "
            "generation and scores follow"
        )
        run, _, exit_code = run_training(config, force=False)
        if exit_code:
            raise Interrupted(exit_code - SIGNAL_EXIT_CODES)
        best_nll, best_step = run.best
        return {
            "step": run.step,
            "best_step": best_step,
            "validation_nll": best_nll,
        }

    def _blend(self, base: str) -> dict[str, Any]:
        clips = preparation.clips_folder(self.out, "validation")
        trained = model_files.best_checkpoint(self.out)
        return blending.choose_share(base, trained, clips, self.out, load_transcriber(), self.options.device)

    def _compare(self, base: str) -> dict[str, Any]:
        transcriber = load_transcriber()
        clips = preparation.clips_folder(self.out, "test")
        scores = [
            comparison.evaluate_model(model, name, self.out, clips, transcriber, self.options.device)
            for name, model in (
                (comparison.BASE_NAME, base),
                (comparison.TUNED_NAME, str(self.out / blending.BLENDED_NAME)),
            )
        ]
        names = [clip["clip"] for clip in scores[0]["per_clip"]]
        return {"names": names, **comparison.compare(*scores)}

    def _facts(
        self,
        data: dict[str, Any],
        planned: dict[str, Any],
        refinement: dict[str, Any],
        config: Config,
        blended: dict[str, Any],
    ) -> dict[str, str]:
        """Rows of the tables in card and page."""
        train = data["splits"]["train"]
        training = self.record.run("training", dict)
        return {
            "recordings": f"{train['seconds'] / 60:.1f} minutes, {train['notes']} notes; {data['held_out']} held out",
            "labels": refinement["remark"],
            "steps": f"{training['step']} of {config.train_config.batch_size} crops of "
            f"{config.data_config.segment_length:g} s; the weights are those of step {training['best_step']}",
            "share of the trained weights": f"{blended['share']:g}, the rest is the base",
            "played with": play_settings(config.data_config).describe(config.data_config),
            "learning rate": f"{config.train_config.learning_rate:g}",
            "duration": f"{planned['seconds'] / 60:.1f} minutes as planned, {planned['seconds_per_step']:.3g} s a step",
        }

    def _finish(
        self, provenance: model_files.Provenance, compared: dict[str, Any], facts: dict[str, str]
    ) -> FinetuneResult:
        """Write weights, config, card and page."""
        if not provenance.licence:
            log(f"the weights say of their licence: {model_files.NO_LICENCE}; --licence TEXT states one")
        words = comparison.verdict(compared)
        model_files.write_model(self.out, provenance)
        model_files.write_card(self.out, provenance, facts, compared, words)
        model_files.write_page(self.out, compared["names"], {"base": provenance.base} | facts, compared, words)
        return FinetuneResult(
            model_files.weights_path(self.out),
            self.out / FINETUNED_CONFIG,
            self.out / model_files.CARD_NAME,
            self.out / model_files.PAGE_NAME,
            words,
            compared,
        )


def _log_problems(checked: CheckedRecordings) -> None:
    """A line for each problem of the recordings."""
    if checked.unmatched:
        names = join_names(str(path) for path in checked.unmatched)
        log(f"left out, without a partner of equal name: {names}; give audio and MIDI of a recording the same name")
    for pair in checked.pairs:
        for problem in pair.problems:
            log(f"{pair.name}: {problem}{'' if pair.usable else ' (left out)'}")
