"""From a folder of recordings and MIDI to a model that plays them: the phases of `finetune.py`, one after another.

Each phase leaves what it has found in the record of the output folder (`phases.py`), so that the same call resumes.
Below the output folder:

    finetune.json                   settings and finished phases
    recordings/                     the report of the recordings
    audio/, data/, aligned/, clips/ resampled audio, processed folders, labels that agree with the sound, test clips
    validation_clips/               clips by which the share of the trained weights is chosen
    training.json, run/             config and run folder of the training
    shares/                         weights of the shares, until one is chosen
    blended.safetensors             the base and that share of the trained weights
    evaluation/                     generated clips and scores of the base model, the fine-tuned one, and the shares
    NAME.safetensors, model_card.md, play.json, index.html      the result
"""

import datetime
import functools
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from midi2wave.audio.io import AUDIO_SUFFIXES
from midi2wave.checkpoint import LoadedCheckpoint, load_checkpoint, stored_licences
from midi2wave.checkpoint_folders import step_folders, step_name, step_of
from midi2wave.config import FINETUNED_CONFIG, Config, DataConfig, config_from_dict
from midi2wave.data.maestro import find_metadata
from midi2wave.data.resample_manifest import state
from midi2wave.evaluation.transcription import Transcriber, load_transcriber
from midi2wave.finetuning import base_choice, blending, comparison, label_refinement, model_files, preparation, schedule
from midi2wave.finetuning.model_scores import evaluate_model
from midi2wave.finetuning.options import FinetuneOptions, FinetuneResult
from midi2wave.finetuning.phases import RECORD_NAME, PhaseRecord
from midi2wave.finetuning.pieces import Piece, UsablePair, clip_seconds, holds_out_middles, piece_from, plan_pieces
from midi2wave.finetuning.play_settings import play_settings
from midi2wave.midi.reader import MIDI_SUFFIXES
from midi2wave.recordings.check import CheckedRecordings, check_recordings
from midi2wave.recordings.report_page import write_report
from midi2wave.training.hardware import friendly_oom_errors
from midi2wave.training.loop import run_training
from midi2wave.utils.atomic_files import remove, write_text
from midi2wave.utils.cli import choose_device, count_of, log
from midi2wave.utils.errors import InputError, NoMemoryError
from midi2wave.utils.file_search import walk_folder
from midi2wave.utils.folder_lock import lock_own_folder
from midi2wave.utils.signals import Interrupted
from midi2wave.utils.text import join_names

RECORDINGS_NAME = "recordings"
TRAINING_CONFIG_NAME = "training.json"
# Folder of the scores on the validation clips, among the evaluations.
VALIDATION_NAME = "validation"
CLIP_SECONDS = 10.0
# Clips that choose between weights.
N_VALIDATION_CLIPS = 4
VALIDATION_CLIP_SECONDS = 10.0
SIGNAL_EXIT_CODES = 128
# What is removed when a phase is made again. The training is never, once it has a checkpoint.
PRODUCTS: dict[str, tuple[str, ...]] = {
    "data": (preparation.DATA_NAME, *preparation.CLIPS_NAMES.values()),
    "labels": (label_refinement.ALIGNED_NAME,),
    "training": (schedule.RUN_NAME, TRAINING_CONFIG_NAME),
}


def finetune(folder: Path, out: Path, options: FinetuneOptions) -> FinetuneResult:
    """Train a shipped model further on recordings of another piano; the same call goes on after an interruption.

    Before the training has its first checkpoint, options and recordings may change: what depends on them is made again.

    Args:
        folder: Pairs of audio and MIDI files with equal stems at any depth, or a MAESTRO folder.
        out: The output folder.
        options: The options.

    Raises:
        InputError: Nothing is usable, the folder holds something else, or memory ran out.
        KeyboardInterrupt: A signal stopped the training; the last step is saved.
        OSError: The disk is full.
    """
    options.check()
    if folder.resolve() in (out.resolve(), *out.resolve().parents):
        raise InputError(f"{out} lies in {folder}, whose files are the recordings; choose another folder with -o")
    record = _open_record(out)  # A folder of something else is refused before any work.
    if not folder.is_dir() and not record.is_fixed:
        raise InputError(f"{folder}: {'a file, expected a folder' if folder.exists() else 'no such folder'}")
    candidates = base_choice.load_candidates(options.base) if options.base else None
    with lock_own_folder(out, RECORD_NAME):
        record = _open_record(out)
        record.licence = options.licence or record.licence
        record.write()
        record.discard_outdated()
        try:
            with friendly_oom_errors():
                return _Finetuning(folder, out, options, record).run(candidates)
        except NoMemoryError as error:  # It names options of other commands.
            again = "run the command again"
            if choose_device(options.device).type == "cuda":
                again += " with --device cpu"
            raise InputError(
                f"out of memory; end other programs and {again}, or begin in another folder with a smaller model as "
                "--base"
            ) from error


def _open_record(out: Path) -> PhaseRecord:
    def discard(phases: Sequence[str]) -> None:
        for name in (name for phase in phases for name in PRODUCTS.get(phase, ())):
            remove(out / name)

    record = PhaseRecord(out, discard)
    # After the training, the user may have removed the run folder.
    record.is_fixed = bool(step_folders(out / schedule.RUN_NAME)) or record.result("training") is not None
    return record


class _Finetuning:
    """One call of `finetune`."""

    def __init__(self, folder: Path, out: Path, options: FinetuneOptions, record: PhaseRecord) -> None:
        self.folder = folder
        self.out = out
        self.options = options
        self.record = record

    def run(self, candidates: dict[str, LoadedCheckpoint] | None) -> FinetuneResult:
        """Do all phases that are not done.

        Args:
            candidates: The user's base weights by their path; None: the shipped ones are to be compared.
        """
        options = self.options
        base_options = {"base": next(iter(candidates)) if candidates else ""}
        # Before the number of clips, which follows from it: the message is to name what the user has changed.
        self.record.require_same("schedule", options.length)
        checked = self.record.run("recordings", self._check_recordings, self._state_of_recordings())
        pairs = [UsablePair(**one) for one in checked]
        planned = self._planned(pairs)
        lengths = {
            "test": clip_seconds(planned, "test", CLIP_SECONDS),
            "validation": clip_seconds(planned, "validation", VALIDATION_CLIP_SECONDS),
        }
        base = self.record.run("base", lambda: self._choose_base(candidates, planned), base_options)
        loaded = self._load_base(base)
        model_data = loaded.config.data_config
        pieces = base_choice.with_label(planned, base["label"], model_data.global_values)
        data_options = {"clips": options.n_clips}
        data = self.record.run("data", lambda: self._prepare(pieces, model_data, lengths), data_options)
        config = schedule.training_config(loaded.config, base["path"], self.out, options.seed, options.device)
        refinement = self.record.run("labels", lambda: label_refinement.refine(config, self.out))
        log(refinement["remark"])
        refined = label_refinement.with_refinement(config, refinement, self.out)
        planned_schedule = self.record.run("schedule", lambda: self._plan(refined, loaded), options.length)
        config = self._stored_config(planned_schedule, refinement)
        trained = self.record.run("training", lambda: self._train(config, planned_schedule, lengths))
        transcriber = load_transcriber()
        blended = self.record.run("blending", lambda: self._blend(base["path"], trained, transcriber))
        # Not before the choice is recorded: the folders of their clips accept no other weights.
        remove(self.out / blending.SHARES_NAME)
        compared = self.record.run("comparison", lambda: self._compare(base["path"], transcriber))
        base_licence = "; ".join(stored_licences(base["path"]))
        provenance = model_files.Provenance(
            self.record.name,
            Path(self.record.options("recordings")["recordings"]).name,
            base["path"],
            loaded.sha256,
            base["label"],
            self.record.licence,
            base_licence,
        )
        facts = {"licence": self.record.licence or model_files.NO_LICENCE}
        facts |= self._facts(data, planned_schedule, refinement, config, trained, blended)
        return self._finish(provenance, compared, facts)

    def _planned(self, pairs: list[UsablePair]) -> list[Piece]:
        """The pieces of all splits."""

        def plan() -> list[dict[str, Any]]:
            pieces = plan_pieces(self.folder, pairs, self.options.hold_out, self.options.seed)
            return [asdict(piece) for piece in pieces]

        options = {"hold_out": self.options.hold_out, "seed": self.options.seed}
        return [piece_from(values) for values in self.record.run("pieces", plan, options)]

    def _state_of_recordings(self) -> dict[str, Any]:
        """The user's folder and its files, as options of the first phase.

        Once the training has begun they are those that it began with: all that is needed of them is in the output
        folder.
        """
        before = self.record.options("recordings")
        if self.record.is_fixed and before and not self.folder.is_dir():
            log(f"{self.folder} is not there: {self.out} goes on with what it has prepared")
            return before
        tree = walk_folder(self.folder)
        paths = [*tree.select(AUDIO_SUFFIXES), *tree.select(MIDI_SUFFIXES)]
        if metadata := find_metadata(self.folder):
            paths.append(metadata.relative_to(self.folder))
        files = {path.as_posix(): list(state(self.folder / path)) for path in paths}
        recordings = str(self.folder.resolve())
        if self.record.is_fixed and before:
            if files == before["files"]:  # Wherever they lie now.
                return before
            if changed := [name for name, one in files.items() if before["files"].get(name) != one]:
                log(
                    f"new or changed since {self.out} was begun, and not used: {join_names(changed)}; another folder "
                    "with -o uses them"
                )
            files = before["files"]
        return {"recordings": recordings, "files": files}

    def _check_recordings(self) -> list[dict[str, Any]]:
        """Check the recordings, write the report, name the problems; the usable ones."""
        checked = check_recordings(self.folder, jobs=self.options.jobs)
        page = write_report(checked, self.out / RECORDINGS_NAME)
        _log_problems(self.folder, checked)
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
            UsablePair(
                audio=self._relative(pair.audio),
                midi=self._relative(pair.midi),
                seconds=pair.seconds,
                late_seconds=pair.offset_seconds,
                notes_sha256=pair.notes_sha256,
            )._asdict()
            for pair in usable
        ]

    def _relative(self, path: Path) -> str:
        """A file's name relative to the user's folder."""
        for folder in (self.folder, self.folder.resolve()):
            if path.is_relative_to(folder):
                return path.relative_to(folder).as_posix()
        raise InputError(f"{path} does not lie in {self.folder}; put the file itself there")

    def _choose_base(self, candidates: dict[str, LoadedCheckpoint] | None, pieces: list[Piece]) -> dict[str, Any]:
        candidates = candidates or base_choice.load_candidates("")
        audio_hz = next(iter(candidates.values())).config.data_config.audio_hz
        preparation.resample(self.folder, pieces, audio_hz, self.out, self.options.jobs)
        scores = base_choice.score_candidates(candidates, self.folder, pieces, self.out)
        path, label = min(scores, key=lambda key: scores[key])
        listed = "; ".join(
            f"{Path(one).name}{f' ({its_label})' if its_label else ''} {score:.3f}"
            for (one, its_label), score in sorted(scores.items(), key=lambda item: item[1])
        )
        log(f"base weights: {path}{f', {label}' if label else ''} (NLL in nats per sample: {listed})")
        if licences := stored_licences(path):
            log(f"their licence applies to your model too: {'; '.join(licences)}; --base names other weights")
        return {"path": path, "label": label, "scores": listed, "sha256": candidates[path].sha256}

    def _load_base(self, base: dict[str, Any]) -> LoadedCheckpoint:
        """The base weights, which must be those that the fine-tuning was begun with."""
        loaded = load_checkpoint(base["path"], "cpu")
        if loaded.sha256 != base["sha256"]:
            raise InputError(
                f"{base['path']} has changed since {self.out} was begun; choose another folder with -o, or put the "
                "former weights back"
            )
        return loaded

    def _prepare(self, pieces: list[Piece], model_data: DataConfig, lengths: dict[str, float]) -> dict[str, Any]:
        counts = preparation.process(self.folder, pieces, model_data, self.out, self.options.jobs)
        cut = functools.partial(preparation.cut_split_clips, self.folder, pieces, model_data, self.out)
        clips = cut("test", (self.options.n_clips, lengths["test"]))
        cut("validation", (N_VALIDATION_CLIPS, lengths["validation"]))
        kind = "the middle of each recording" if holds_out_middles(pieces) else "whole recordings"
        minutes = {split: one["seconds"] / 60 for split, one in counts.items()}
        log(
            f"{minutes['train']:.1f} minutes to train on, {minutes['validation']:.1f} to validate and "
            f"{minutes['test']:.1f} to test on ({kind} held out); {len(clips)} test clips of {lengths['test']:g} s"
        )
        return {"splits": counts, "clips": clips, "held_out": kind}

    def _plan(self, config: Config, base: LoadedCheckpoint) -> dict[str, Any]:
        """The length of the training, with its whole config, so that a later call trains with the same."""
        seconds_per_step = schedule.measure_step_seconds(config)
        if self.options.steps is not None:
            planned = schedule.schedule_of_steps(self.options.steps, seconds_per_step, config)
        else:
            planned = schedule.plan_steps(self.options.length["minutes"], seconds_per_step, config)
        if planned.steps < schedule.FEW_STEPS:
            minutes = schedule.schedule_of_steps(schedule.FEW_STEPS, seconds_per_step, config).seconds / 60
            log(
                f"{planned.steps} steps are few: less than {schedule.FEW_STEPS} was never measured, which takes "
                f"{minutes:.0f} minutes here; interrupt the command and give it more, which loses nothing yet"
            )
        config = schedule.with_steps(config, planned.steps, planned.n_validations)
        blocks = {name: block for name, block in config.as_dict().items() if block}
        play_seconds = schedule.measure_play_seconds(
            base, config.train_config.checkpoint_path, N_VALIDATION_CLIPS, self.options.device
        )
        return asdict(planned) | {"play_seconds": play_seconds, "config": blocks}

    def _stored_config(self, planned: dict[str, Any], refinement: dict[str, Any]) -> Config:
        """The config of the training, on the device of today and in the folder of today."""
        config = config_from_dict(planned["config"], str(self.out / RECORD_NAME), quiet=True)
        config = label_refinement.with_folders(config, refinement, self.out)
        run = str(self.out / schedule.RUN_NAME)
        return replace(
            config, train_config=replace(config.train_config, device=self.options.device, output_directory=run)
        )

    def _train(self, config: Config, planned: dict[str, Any], clip_lengths: dict[str, float]) -> dict[str, Any]:
        """Train to the last step. Raises Interrupted where a signal stops it."""
        blocks = {name: block for name, block in config.as_dict().items() if block}
        write_text(self.out / TRAINING_CONFIG_NAME, json.dumps(blocks, indent=2) + "\n")
        done = max(map(step_of, step_folders(Path(config.train_config.output_directory))), default=0)
        seconds = planned["seconds"] * (1 - done / planned["steps"])
        # Base and fine-tuned model play the test clips, the base and some shares the validation clips.
        play_seconds = planned["play_seconds"] * (
            2 * self.options.n_clips / N_VALIDATION_CLIPS * clip_lengths["test"]
            + blending.N_USUAL_EVALUATIONS * clip_lengths["validation"]
        )
        log(
            f"training: {planned['steps']} steps of {planned['seconds_per_step']:.2g} s each, as measured here"
            f"{f', of which {done} are done' if done else ''}; {seconds / 60:.1f} minutes, until about "
            f"{_clock(seconds)}; then {play_seconds / 60:.1f} minutes to generate clips, until about "
            f"{_clock(seconds + play_seconds)}; their scores take some minutes more"
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

    def _blend(self, base: str, trained: dict[str, Any], transcriber: Transcriber | None) -> dict[str, Any]:
        clips = preparation.clips_folder(self.out, "validation")

        def evaluate(model: str, name: str) -> dict[str, Any]:
            log(f"validation clips, {name.replace('_', ' ')}: {model}")
            return evaluate_model(model, f"{VALIDATION_NAME}/{name}", self.out, clips, transcriber, self.options.device)

        # Not the link to it, which not all file systems have.
        best = self.out / schedule.RUN_NAME / step_name(trained["best_step"])
        return blending.choose_share(base, best, self.out, evaluate)

    def _compare(self, base: str, transcriber: Transcriber | None) -> dict[str, Any]:
        clips = preparation.clips_folder(self.out, "test")
        scores = []
        for name, model in (
            (comparison.BASE_NAME, base),
            (comparison.TUNED_NAME, str(self.out / blending.BLENDED_NAME)),
        ):
            log(f"the {name.replace('_', '-')} model plays the test clips and is scored: {model}")
            scores.append(evaluate_model(model, name, self.out, clips, transcriber, self.options.device))
        names = [clip["clip"] for clip in scores[0]["per_clip"]]
        return {"names": names, **comparison.compare(*scores)}

    def _facts(
        self,
        data: dict[str, Any],
        planned: dict[str, Any],
        refinement: dict[str, Any],
        config: Config,
        trained: dict[str, Any],
        blended: dict[str, Any],
    ) -> dict[str, str]:
        """Rows of the tables in card and page."""
        train = data["splits"]["train"]
        return {
            "recordings": f"{train['seconds'] / 60:.1f} minutes, {train['notes']} notes; {data['held_out']} held out",
            "labels": refinement["remark"],
            "steps": f"{trained['step']} of {config.train_config.batch_size} crops of "
            f"{config.data_config.segment_length:g} s; the weights are those of step {trained['best_step']}",
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
            model_files.weights_path(self.out, self.record.name),
            self.out / FINETUNED_CONFIG,
            self.out / model_files.CARD_NAME,
            self.out / model_files.PAGE_NAME,
            words,
            compared,
        )


def _log_problems(folder: Path, checked: CheckedRecordings) -> None:
    """A line for each problem of the recordings."""
    for pair in checked.pairs:
        for problem in pair.problems:
            log(f"{pair.name}: {problem}{'' if pair.usable else ' (left out)'}")


def _clock(seconds: float) -> str:
    """The time in so many seconds, with the day where it is not today."""
    now = datetime.datetime.now()
    then = now + datetime.timedelta(seconds=seconds)
    return f"{then:%H:%M}" if then.date() == now.date() else f"{then:%Y-%m-%d %H:%M}"
