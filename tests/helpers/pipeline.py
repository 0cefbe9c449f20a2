"""A data set, a model and configs so small that the five commands run on them in seconds, and ways to call them."""

import contextlib
import io
import json
import os
import subprocess
import sys
import wave
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import mido
import numpy as np
import pytest
import soundfile

from midi2wave.data import maestro
from midi2wave.utils import cli
from tests.helpers.paths import ROOT

HZ = 16000
SECONDS = 3.0
CLIP_SECONDS = 0.08
PROMPT_SECONDS = 0.04
SPLITS = ("train", "train", "validation", "test")

Note = tuple[float, float, int, int]  # onset and offset in seconds, pitch, velocity


@dataclass(frozen=True)
class Outcome:
    """What a command left behind: its exit code and what it said."""

    code: int
    out: str
    err: str

    @property
    def result(self) -> dict[str, Any]:
        """The one JSON object of --json."""
        return json.loads(self.out)


@dataclass(frozen=True)
class Pipeline:
    """The folder in which every command was run once, and how each of these runs ended."""

    folder: Path
    commands: dict[str, Outcome]

    @property
    def config(self) -> Path:
        """One file with the blocks of every command; its paths are absolute."""
        return self.folder / "config.json"


def melody(seed: int, seconds: float = SECONDS) -> list[Note]:
    """A note every 40 ms, so that any clip has some."""
    rng = np.random.default_rng(seed)
    return [(t, t + 0.03, int(rng.integers(48, 84)), int(rng.integers(30, 110))) for t in np.arange(0, seconds, 0.04)]


def write_midi(path: Path, notes: Sequence[Note], channel: int = 0) -> Path:
    """Write notes at 1 ms resolution."""
    events = [(on, 1, pitch, velocity) for on, _, pitch, velocity in notes]
    events += [(off, 0, pitch, 0) for _, off, pitch, _ in notes]
    track, before = mido.MidiTrack(), 0
    for seconds, is_on, pitch, velocity in sorted(events):
        tick = round(seconds * 1000)
        kind = "note_on" if is_on else "note_off"
        track.append(mido.Message(kind, channel=channel, note=pitch, velocity=velocity, time=tick - before))
        before = tick
    path.parent.mkdir(parents=True, exist_ok=True)
    mido.MidiFile(ticks_per_beat=500, tracks=[track]).save(path)  # 500 ticks in a beat of half a second
    return path


def write_audio(path: Path, notes: Sequence[Note], audio_hz: int = HZ, channels: int = 1, **options: Any) -> Path:
    """A sine at every note's pitch, for as long as the key is down."""
    seconds = options.pop("seconds", SECONDS)
    time = np.arange(round(seconds * audio_hz)) / audio_hz
    sound = np.zeros_like(time)
    for onset, offset, pitch, velocity in notes:
        during = (time >= onset) & (time < offset)
        sound[during] += velocity / 512 * np.sin(2 * np.pi * 440 * 2 ** ((pitch - 69) / 12) * (time[during] - onset))
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.tile(sound[:, None], channels), audio_hz, **options)
    return path


def write_maestro(folder: Path, splits: Sequence[str] = SPLITS, audio_hz: int = HZ, channels: int = 1) -> Path:
    """A MAESTRO folder; at 16 kHz with the audio under the names that resample_audio.py gives."""
    lines = [",".join(maestro.COLUMNS)]
    for number, split in enumerate(splits):
        tail = f"_{audio_hz}" if audio_hz == HZ else ""
        write_midi(folder / f"2004/{number}.midi", melody(number))
        write_audio(folder / f"2004/{number}{tail}.wav", melody(number), audio_hz, channels)
        lines.append(f"Chopin,Étude,{split},2004,2004/{number}.midi,2004/{number}.wav,{SECONDS}")
    (folder / "maestro-v2.0.0.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


TINY_MODEL = {
    "wavenet_config": {
        "n_mixtures": 2,
        "n_layers": 2,
        "max_dilation": 2,
        "n_residual_channels": 8,
        "n_skip_channels": 8,
        "n_out_channels": 8,
        "n_cond_channels": 8,
    },
    "cond_wavenet_config": {
        "n_layers": 2,
        "max_dilation": 2,
        "n_residual_channels": 8,
        "n_skip_channels": 8,
        "lookahead_ms": 4.0,
    },
}
SHORT_TRAINING = {
    "steps": 4,
    "batch_size": 2,
    "warmup_steps": 1,
    "iters_per_checkpoint": 2,
    "iters_per_log": 1,
    "iters_per_validation": 2,
    "validation_crops": 2,
    "iters_per_sample": 0,
    "device": "cpu",
    "compile": False,
}


def write_config(folder: Path) -> Path:
    """The config of all commands for a pipeline run in `folder`."""
    blocks = {
        "preprocess_config": {
            "maestro_dir": f"{folder}/maestro",
            "out_dir": f"{folder}/train",
            "seed": 1,
            "test_segment_length": CLIP_SECONDS,
            "n_clips": 2,
        },
        "data_config": {
            "dataset_path": f"{folder}/train",
            "validation_path": f"{folder}/validation",
            "segment_length": 0.1,
            "n_workers": 0,
        },
        **TINY_MODEL,
        "train_config": {"output_directory": f"{folder}/run", **SHORT_TRAINING},
        "inference_config": {
            "model_filename": f"{folder}/run",
            "test_dir": f"{folder}/test",
            "output_dir": f"{folder}/output",
            "teacher_length": PROMPT_SECONDS,
            "tail_seconds": 0.1,
            "device": "cpu",
        },
        "evaluate_config": {
            "model_filename": f"{folder}/run",
            "test_dir": f"{folder}/test",
            "output_dir": f"{folder}/evaluation",
            # It takes seconds a clip; tests/unit/evaluation/test_transkun_transcriber.py runs it.
            "second_transcriber": False,
        },
    }
    path = folder / "config.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(blocks))
    return path


def command(script: str, *arguments: str | Path) -> Outcome:
    """Run a command as its users do, in a process of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, ROOT / script, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        cwd=ROOT.parent,
        timeout=120,
    )
    return Outcome(done.returncode, done.stdout, done.stderr)


def call(command_module: ModuleType, *arguments: str | Path) -> Outcome:
    """Run a command in this process, which has torch loaded already, with the exit code and messages of the command."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as left:
        cli.run(lambda: command_module.main([str(argument) for argument in arguments]))
    return Outcome(left.value.code, out.getvalue(), err.getvalue())


def settings(*overrides: str) -> list[str]:
    """The --set options of some block.option=value."""
    return [part for override in overrides for part in ("--set", override)]


def read_files(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, hidden ones too, with its content."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def read_wav(path: Path) -> np.ndarray:
    """The samples of a wav that must be mono, 16 bit, at 16 kHz: int16 [T]."""
    with wave.open(str(path)) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, HZ)
    return soundfile.read(path, dtype="int16")[0]


def read_wavs(folder: Path) -> dict[str, np.ndarray]:
    """The wavs of a folder by their stems, without the recordings that they are compared with."""
    return {path.stem: read_wav(path) for path in folder.glob("*.wav") if not path.stem.endswith("_truth")}


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """The lines of a run's metrics."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def modification_times(folder: Path) -> dict[str, int]:
    """When every file below a folder was written."""
    return {p.relative_to(folder).as_posix(): p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}


def assert_refused(outcome: Outcome, *words: str) -> None:
    """Exit 2, one line with all the words, no result and no traceback."""
    assert outcome.code == 2, outcome
    assert outcome.out == ""
    assert "Traceback" not in outcome.err
    (line,) = [line for line in outcome.err.splitlines() if line.startswith("error: ")]
    assert all(word in line for word in words), line


def assert_failed(outcome: Outcome, code: int, **failures: str) -> None:
    """Exit 1 or 2, and in --json every failed item with words of its reason."""
    assert outcome.code == code, outcome
    assert "Traceback" not in outcome.err
    listed = {failure["item"].split("/")[-1].split(".")[0]: failure["reason"] for failure in outcome.result["failures"]}
    assert listed.keys() == failures.keys()
    assert all(words in listed[item] for item, words in failures.items()), listed
    assert outcome.err.count("failed: ") == len(failures)


def assert_no_partial_files(folder: Path) -> None:
    """No partially written file is left below a folder."""
    assert not [name for name in read_files(folder) if ".partial" in name]


def bad_midis(folder: Path) -> dict[str, str]:
    """Make files that are no piano performance; returns words of the answer to each, by stem."""
    folder.mkdir()
    (folder / "empty.mid").touch()
    (folder / "text.mid").write_text("a letter")
    (folder / "header.mid").write_bytes(b"MThd\0\0\0\6\0\1\0\1\1\xe0")
    write_midi(folder / "silent.mid", [])
    write_midi(folder / "drums.mid", [(0.0, 0.5, 40, 90)], channel=9)
    write_midi(folder / "outside.mid", [(0.0, 0.5, 20, 90), (0.5, 1.0, 109, 90)])
    write_midi(folder / "long.mid", [(0.0, 0.1, 60, 90), (4000.0, 4000.1, 60, 90)])
    return {
        "empty": "empty file",
        "text": "not a MIDI file",
        "header": "without any track",
        "silent": "no piano notes",
        "drums": "drum notes (channel 10): 1",
        "outside": "notes outside the piano (pitch 21..108): 2",
        "gone": "no such file",
    }
