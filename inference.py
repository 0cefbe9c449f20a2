"""Step 5: a checkpoint and test clips, or any MIDI files -> wavs, pictures and a page to listen to.

    python inference.py -c config_inference.json
    python inference.py -c config_inference.json --midi song.mid --out songs

mode teacher_forced: one parallel pass, every sample drawn given the true ones before it. primed: teacher_length seconds
of truth, then the model goes on by itself. free: from silence. MIDI files are always played free.
"""

import hashlib
import json
import math
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

import checkpoint
from atomic import claim, write_text
from audio import write_wav
from cli import SECONDS_BETWEEN_NOTES, Failure, choose_device, finish, note, parser, reason, run
from config import Config, DataConfig, InferenceConfig, load_config
from dataset import clip_paths, read_clip
from errors import InputError
from midi import Performance, load_events, read_midi, save_events, sounding_offset
from report import Entry, clip_figure, listening_page, save_figure
from synthesis import synthesize, teacher_forced
from wavenet import WaveNet

RECORD_NAME, PAGE_NAME = "inference.json", "index.html"
PRODUCTS = ("*.wav", "*.png", "*.npz", "*_teacher_forced.json", PAGE_NAME)
NOT_HEARD = ("output_dir", "batch_size", "device", "max_seconds")  # settings that leave the samples as they are


@dataclass(frozen=True)
class Task:
    """One piece to generate; `stream` numbers its source of randomness."""

    name: str
    stream: int
    performance: Performance
    n_frames: int
    truth: np.ndarray | None  # int16 [n_frames * hop]


def main(argv: list[str] | None = None) -> int:
    """Run the step; returns the exit code."""
    arguments = parser(__doc__, config="config_inference.json")
    arguments.add_argument("--midi", nargs="+", type=Path, metavar="FILE", help="play these MIDI files")
    arguments.add_argument("--out", help="where the results go, instead of inference_config.output_dir")
    args = arguments.parse_args(argv)
    config = load_config(args.config, ("inference_config",), args.overrides)
    settings = config.inference_config
    if args.out:
        settings.output_dir = args.out
    weights = checkpoint.find_weights(settings.model_filename)  # once: a training that runs may add a checkpoint
    model, theirs, step = checkpoint.load_model(weights, choose_device(settings.device))
    for block in checkpoint.MODEL_BLOCKS:  # a config may repeat the model's blocks, but not contradict them
        if getattr(config, block) and (wrong := checkpoint.differences(config, theirs, (block,))):
            raise InputError(f"{args.config} and the checkpoint {settings.model_filename} differ: {'; '.join(wrong)}")
    data = theirs.data_config
    mode = "free" if args.midi else settings.mode
    folder = Path(settings.output_dir)
    tasks, failures = _midi_tasks(args.midi, settings, data) if args.midi else _clip_tasks(settings, data)
    if tasks:
        record = _record(settings, theirs, weights, step, mode)
        claim(folder, RECORD_NAME, record, PRODUCTS, force=args.force)
        taken = {task.name for task in tasks if _is_taken(folder, task)}
        remedy = "choose another folder, or use --force"
        failures += [Failure(name, f"{folder} holds {name}.wav of other notes; {remedy}") for name in sorted(taken)]
        tasks = [task for task in tasks if task.name not in taken]
    todo = [task for task in tasks if not _is_done(folder, task, mode)]
    todo.sort(key=lambda task: task.n_frames)  # a batch lasts as long as its longest piece
    for start in range(0, len(todo), settings.batch_size):
        _generate(model, todo[start : start + settings.batch_size], mode, settings, data, folder)
    nll = {task.name: _read_nll(folder, task.name) for task in tasks} if mode == "teacher_forced" else {}
    mean_nll = float(np.average(list(nll.values()), weights=[task.n_frames for task in tasks])) if nll else None
    if tasks:
        _write_page(folder, tasks, nll, mode, settings, step)
    result = {"output_dir": str(folder), "mode": mode, "step": step, "wavs": [f"{task.name}.wav" for task in tasks],
              "nll": nll, "mean_nll": mean_nll}  # fmt: skip
    summary = _summary(folder, len(tasks), len(tasks) - len(todo), mean_nll)
    return finish(summary, result, failures, len(tasks), as_json=args.as_json)


def _record(settings: InferenceConfig, theirs: Config, weights: Path, step: int, mode: str) -> dict[str, Any]:
    """All that the samples depend on, besides the clips and MIDI files: it tells whose results a folder holds."""
    heard = {name: value for name, value in vars(settings).items() if name not in NOT_HEARD}
    with open(weights, "rb") as handle:  # a model trained anew has the same config and step
        sha256 = hashlib.file_digest(handle, "sha256").hexdigest()
    return {
        "inference_config": heard,
        "model": theirs.as_dict(),
        "step": step,
        "weights_sha256": sha256,
        "mode": mode,
    }


def _summary(folder: Path, n_wavs: int, n_already: int, mean_nll: float | None) -> str:
    if not n_wavs:
        return "nothing was made"
    already = f" ({n_already} were there already)" if n_already else ""
    nll = f"; mean NLL {mean_nll:.4f} nats per sample" if mean_nll is not None else ""
    return f"{n_wavs} wavs in {folder}{already}{nll}; listen: {folder / PAGE_NAME}"


def _clip_tasks(settings: InferenceConfig, data: DataConfig) -> tuple[list[Task], list[Failure]]:
    hop, tasks, failures = data.audio_hz // data.midi_hz, [], []
    primed = settings.teacher_length * data.midi_hz if settings.mode == "primed" else 0
    for number, path in enumerate(clip_paths(settings.test_dir)):
        try:
            one = read_clip(path, data.audio_hz)
            n_frames = len(one.pcm) // hop
            if primed >= n_frames:
                remedy = f"after teacher_length = {settings.teacher_length:g} s; lower inference_config.teacher_length"
                raise InputError(
                    f"has {len(one.pcm) / data.audio_hz:g} s, "
                    + (f"nothing is left {remedy}" if primed else "less than a conditioning frame; cut longer clips")
                )
            truth = one.pcm[: n_frames * hop]
            tasks.append(Task(f"{one.name}_{settings.mode}", number, one.performance, n_frames, truth))
        except InputError as error:
            failures.append(Failure(path.stem, reason(error)))
    return tasks, failures


def _midi_tasks(paths: list[Path], settings: InferenceConfig, data: DataConfig) -> tuple[list[Task], list[Failure]]:
    tasks, failures = [], []
    for number, path in enumerate(paths):
        try:
            performance = read_midi(path)
            for dropped in performance.dropped:
                note(f"{path}: {dropped}")
            # A pedal that is never released would hold the last notes for ever: the keys' release ends the piece then.
            ends = sounding_offset(performance)
            last = float(np.where(np.isfinite(ends), ends, performance.offset).max())
            seconds = last + settings.tail_seconds
            if seconds > settings.max_seconds:
                raise InputError(f"lasts {seconds:.0f} s; raise inference_config.max_seconds to play it all the same")
            if path.stem in {task.name for task in tasks}:
                raise InputError(f"another file of the name {path.stem} stands before it; rename one of them")
            tasks.append(Task(path.stem, number, performance, math.ceil(seconds * data.midi_hz - 1e-6), None))
        except InputError as error:
            failures.append(Failure(str(path), reason(error)))
    return tasks, failures


def _is_taken(folder: Path, task: Task) -> bool:
    """Whether a result of this name was made of other notes: of another MIDI file, or before this one was edited."""
    path = folder / f"{task.name}.npz"
    if not path.is_file():
        return False
    then, now = load_events(path), task.performance
    same = all(
        np.array_equal(getattr(then, name), getattr(now, name)) for name in ("onset", "offset", "pitch", "velocity")
    )
    return not same or any(not np.array_equal(events, now.pedals[pedal]) for pedal, events in then.pedals.items())


def _is_done(folder: Path, task: Task, mode: str) -> bool:
    """Whether an earlier run finished this task: the picture is written last."""
    scored = mode != "teacher_forced" or _read_nll(folder, task.name) is not None
    return scored and (folder / f"{task.name}.png").is_file()


def _read_nll(folder: Path, name: str) -> float | None:
    """The mean negative log-likelihood of a clip in nats per sample, as `_generate` left it; None if it did not."""
    try:
        return float(json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))["nll"])
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return None


def _generate(
    model: WaveNet, tasks: list[Task], mode: str, settings: InferenceConfig, data: DataConfig, folder: Path
) -> None:
    """Generate one batch and write its wavs and pictures, and in mode teacher_forced the likelihoods."""
    n_frames = max(task.n_frames for task in tasks)
    performances, streams = [task.performance for task in tasks], [task.stream for task in tasks]
    prefix_frames = max(1, round(settings.teacher_length * data.midi_hz)) if mode == "primed" else 0
    handover = prefix_frames / data.midi_hz if mode == "primed" else None
    if mode == "teacher_forced":
        outputs = []
        for task in tasks:  # one by one: the clips may differ in length, and a parallel pass needs no company
            output, nll = teacher_forced(model, [task.performance], task.truth[None], data, streams=[task.stream],
                                         seed=settings.seed, temperature=settings.temperature)  # fmt: skip
            outputs.append(output[0])
            write_text(folder / f"{task.name}.json", json.dumps({"nll": nll}) + "\n")
    else:
        prefix = np.stack([task.truth[: prefix_frames * model.hop] for task in tasks]) if prefix_frames else None
        blocks = synthesize(model, performances, n_frames, data, streams=streams, seed=settings.seed, prefix=prefix,
                            temperature=settings.temperature)  # fmt: skip
        outputs = np.concatenate(list(_with_speed(blocks, n_frames * model.hop, len(tasks), data.audio_hz)), axis=1)
    for task, output in zip(tasks, outputs, strict=True):
        pcm = output[: task.n_frames * model.hop]
        save_events(folder / f"{task.name}.npz", task.performance)
        write_wav(folder / f"{task.name}.wav", pcm, data.audio_hz)
        if task.truth is not None:
            write_wav(folder / f"{task.name}_truth.wav", task.truth, data.audio_hz)
        figure = clip_figure(task.performance, task.n_frames / data.midi_hz, data.audio_hz, task.truth, pcm,
                             title=task.name, handover_seconds=handover)  # fmt: skip
        save_figure(folder / f"{task.name}.png", figure)


def _with_speed(blocks: Iterator[np.ndarray], total: int, n_streams: int, audio_hz: int) -> Iterator[np.ndarray]:
    """Pass blocks on under a bar that counts samples of all streams, or with a line now and then off a terminal."""
    on_terminal, started, done = sys.stderr.isatty(), time.monotonic(), 0
    noted = started
    with tqdm(total=total * n_streams, unit="sample", unit_scale=True, dynamic_ncols=True, mininterval=1,
              disable=not on_terminal) as bar:  # fmt: skip
        for block in blocks:
            yield block
            done += block.size
            now = time.monotonic()
            speed = f"{done / audio_hz / (now - started):.2f} x real time"
            bar.set_postfix_str(speed, refresh=False)
            bar.update(block.size)
            if not on_terminal and now - noted > SECONDS_BETWEEN_NOTES:
                noted = now
                note(f"{done / (total * n_streams):.0%} of {n_streams} pieces, {speed}")


def _write_page(
    folder: Path, tasks: list[Task], nll: dict[str, float], mode: str, settings: InferenceConfig, step: int
) -> None:
    entries = []
    for task in tasks:
        wavs = [("output", f"{task.name}.wav")]
        if task.truth is not None:
            wavs.append(("truth", f"{task.name}_truth.wav"))
        remark = f"NLL of the truth: {nll[task.name]:.4f} nats per sample" if task.name in nll else ""
        entries.append(Entry(task.name, f"{task.name}.png", wavs, remark))
    facts = {"model": f"{settings.model_filename}, step {step}", "mode": mode, "seed": str(settings.seed),
             "temperature": f"{settings.temperature:g}"}  # fmt: skip
    if mode == "primed":
        facts["teacher_length"] = f"{settings.teacher_length:g} s"
    listening_page(folder / PAGE_NAME, "midi2wave", entries, facts)


if __name__ == "__main__":
    run(main)
