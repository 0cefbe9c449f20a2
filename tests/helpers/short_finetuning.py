"""Fine-tunings of some steps: recordings, and what makes `finetune.py` short."""

import signal
from pathlib import Path
from typing import NoReturn

import pytest
import soundfile

from midi2wave.data import clip_cutting, preprocessing
from midi2wave.evaluation import evaluation_folder
from midi2wave.finetuning import pipeline, schedule
from midi2wave.recordings.check import CheckedPair, CheckedRecordings
from midi2wave.training import log, run_state
from midi2wave.utils.errors import InputError
from midi2wave.utils.signals import Interrupted
from tests.helpers.pipeline import melody, write_audio, write_midi

SECONDS = 16.0
LATE_SECONDS = 1.5


def shorten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training of some steps, clips of a second, and neither compilation nor a transcriber."""
    monkeypatch.setattr(schedule, "measure_step_seconds", lambda _: 0.1)
    monkeypatch.setattr(schedule, "measure_play_seconds", lambda *_: 0.1)
    monkeypatch.setattr(schedule, "VALIDATION_CROPS", 4)
    monkeypatch.setattr(schedule, "N_WORKERS", 0)
    monkeypatch.setattr(pipeline, "CLIP_SECONDS", 1.0)
    monkeypatch.setattr(pipeline, "VALIDATION_CLIP_SECONDS", 1.0)
    monkeypatch.setattr(pipeline, "N_VALIDATION_CLIPS", 2)
    monkeypatch.setattr(run_state, "compile_gate_kernels", lambda *_, **__: None)
    monkeypatch.setattr(pipeline, "load_transcriber", lambda: None)
    monkeypatch.setattr(pipeline, "check_recordings", pairs_of_equal_stems)
    monkeypatch.setattr(pipeline, "write_report", lambda _, folder: folder / "index.html")
    # Pictures take most of the time.
    monkeypatch.setattr(evaluation_folder, "_write_pictures", lambda *_: None)
    for module in (clip_cutting, preprocessing, log):
        monkeypatch.setattr(module, "save_picture", lambda *_: None)


def stop(*_: object, **__: object) -> NoReturn:
    """What Ctrl-C does to a function."""
    raise Interrupted(signal.SIGINT)


def pairs_of_equal_stems(folder: Path, *, jobs: int = 1) -> CheckedRecordings:
    """All pairs as usable: the sines of these tests are no piano, and shorter than what the check accepts."""
    pairs = []
    for midi in sorted(folder.rglob("*.mid*")):
        audio = midi.with_suffix(".wav")
        late, problems = (LATE_SECONDS, ["its sound comes late"]) if midi.stem.startswith("late") else (0.0, [])
        seconds = soundfile.info(audio).duration
        pairs.append(CheckedPair(audio, midi, midi.stem, seconds, late, problems, usable=True, notes_sha256=midi.stem))
    if not pairs:
        raise InputError(f"{folder} holds no pairs")
    return CheckedRecordings(pairs, [])


def write_recordings(folder: Path) -> Path:
    """Four recordings, in two folders."""
    for number in range(4):
        notes = melody(number, SECONDS)
        write_midi(folder / f"{number % 2}/take {number}.mid", notes)
        write_audio(folder / f"{number % 2}/take {number}.wav", notes, seconds=SECONDS)
    return folder
