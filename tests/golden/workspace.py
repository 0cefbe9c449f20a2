"""A temporary folder in which the project's commands run on generated data; results are made once and shared."""

import contextlib
import csv
import functools
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mido
import numpy as np
import soundfile
from safetensors.numpy import load_file

from tests.golden import project
from tests.golden.comparison import Value, flatten

AUDIO_HZ = 8000
SOURCE_TIME = 1_600_000_000  # Manifests and processed folders store when their sources were written.
SONG_SECONDS = 0.2
SONG_TAIL_SECONDS = 0.05
SONG_SPEED = 4  # The example's first chord then falls within the song.

# A decoder and a context stack that train in seconds, as overrides of the demo's config.
TINY_MODEL = {
    "wavenet_config.n_layers": 4,
    "wavenet_config.max_dilation": 8,
    "wavenet_config.n_mixtures": 3,
    "wavenet_config.n_residual_channels": 8,
    "wavenet_config.n_skip_channels": 12,
    "wavenet_config.n_out_channels": 10,
    "wavenet_config.n_cond_channels": 6,
}
TINY_CONTEXT = {
    "cond_wavenet_config.n_layers": 2,
    "cond_wavenet_config.max_dilation": 2,
    "cond_wavenet_config.n_residual_channels": 8,
    "cond_wavenet_config.n_skip_channels": 8,
    "cond_wavenet_config.lookahead_ms": 8.0,
}
# The same training on any machine, as far as processors compute alike.
REPRODUCIBLE = {
    "train_config.device": "cpu",
    "train_config.precision": "float32",
    "train_config.compile": False,
    "train_config.iters_per_log": 1,
    "train_config.iters_per_sample": 0,
    "data_config.n_workers": 0,
}


def overrides(values: dict[str, Any]) -> list[str]:
    """The `--set` options for a dictionary of block.option -> value."""
    options = []
    for name, value in values.items():
        options += ["--set", f"{name}={value if isinstance(value, str) else json.dumps(value)}"]
    return options


class Workspace:
    """The folder, which is also the current folder while `entered`, so that stored paths are relative.

    Methods that make data return paths relative to the folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @contextlib.contextmanager
    def entered(self) -> Iterator["Workspace"]:
        """Make the folder the current one within a `with` block."""
        before = Path.cwd()
        os.chdir(self.folder)
        try:
            yield self
        finally:
            os.chdir(before)

    def run(self, name: str, *arguments: Any) -> dict[str, Any]:
        """Run one of `project.COMMANDS` in this process and return the result that it prints with --json.

        Raises:
            RuntimeError: The command failed; what it logged is part of the message.
        """
        out, log = io.StringIO(), io.StringIO()
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(log):
                code = project.command(name)([*map(str, arguments), "--json"])
        except Exception as error:
            raise RuntimeError(f"{name} {arguments} failed: {error}\n{log.getvalue()}") from error
        if code:
            raise RuntimeError(f"{name} {arguments} returned {code}: {out.getvalue()}\n{log.getvalue()}")
        return json.loads(out.getvalue().splitlines()[-1])

    @functools.cache  # noqa: B019 - one workspace lives as long as the process
    def maestro(self) -> Path:
        """A folder in the MAESTRO layout, by the demo's generator: 60 s to train on, 15 s held out."""
        self.run("demo_data", "-o", "maestro", "--minutes", 1.0, "--seed", 5)
        self._set_times(Path("maestro"))
        return Path("maestro")

    @functools.cache  # noqa: B019
    def resampled(self, audio_hz: int) -> Path:
        """The same folder, with its audio also at `audio_hz`."""
        folder = self.maestro()
        self.run("resample", "-d", folder, "--hz", audio_hz)
        self._set_times(folder, f"*_{audio_hz}.wav")
        return folder

    def _set_times(self, folder: Path, pattern: str = "*") -> None:
        for path in folder.rglob(pattern):
            if path.is_file():
                os.utime(path, (SOURCE_TIME, SOURCE_TIME))

    @functools.cache  # noqa: B019
    def processed(self, split: str, audio_hz: int = AUDIO_HZ) -> Path:
        """The processed folder of a split."""
        folder = Path(f"data_{audio_hz}/{split}")
        settings = {
            "preprocess_config.maestro_dir": str(self.resampled(audio_hz)),
            "preprocess_config.split": split,
            "preprocess_config.out_dir": str(folder),
            "preprocess_config.audio_hz": audio_hz,
        }
        self.run("preprocess", "-c", "demo/config_makeTrain.json", *overrides(settings))
        return folder

    @functools.cache  # noqa: B019
    def clips(self, audio_hz: int = AUDIO_HZ) -> Path:
        """A folder of two test clips of 0.5 s."""
        folder = Path(f"clips_{audio_hz}")
        settings = {
            "preprocess_config.maestro_dir": str(self.resampled(audio_hz)),
            "preprocess_config.audio_hz": audio_hz,
            "preprocess_config.test_segment_length": 0.5,
            "preprocess_config.n_clips": 2,
        }
        self.run("clips", "-d", folder, "-c", "demo/config_makeTest.json", *overrides(settings))
        return folder

    @functools.cache  # noqa: B019
    def global_values(self, audio_hz: int = AUDIO_HZ) -> tuple[str, ...]:
        """The years of all recordings, as `data_config.global_values` names them."""
        years = set()
        for split in ("train", "validation"):
            with open(self.processed(split, audio_hz) / "filenames.csv", encoding="utf-8", newline="") as handle:
                years |= {row["year"] for row in csv.DictReader(handle)}
        return tuple(f"year={year}" for year in sorted(years))

    @functools.cache  # noqa: B019
    def measured_config(self) -> Path:
        """The demo's training config with the partials measured on the training split."""
        self.run(
            "measure_partials", "-d", self.processed("train"), "-c", "demo/config_train.json", "-o", "measured.json"
        )
        return Path("measured.json")

    def train(self, folder: str, config: str | Path, audio_hz: int = AUDIO_HZ, **settings: Any) -> Path:
        """Train a run; `settings` override the config, with "__" for the dot of block.option."""
        option_values = REPRODUCIBLE | {
            "train_config.output_directory": folder,
            "data_config.dataset_path": str(self.processed("train", audio_hz)),
            "data_config.validation_path": str(self.processed("validation", audio_hz)),
            "data_config.audio_hz": audio_hz,
        }
        option_values |= {name.replace("__", "."): value for name, value in settings.items()}
        self.run("train", "-c", config, *overrides(option_values))
        return Path(folder)

    @functools.cache  # noqa: B019
    def song(self) -> Path:
        """A MIDI file of 0.2 s: the beginning of examples/prelude.mid, four times as fast, its pedal included."""
        time, sounding, events = 0.0, set(), []
        for message in mido.MidiFile(project.ROOT / "examples" / "prelude.mid"):
            time += message.time / SONG_SPEED
            if time >= SONG_SECONDS:
                break
            if message.type == "note_on" and message.velocity:
                sounding.add(message.note)
            elif message.type in ("note_on", "note_off"):
                sounding.discard(message.note)
            elif message.type != "control_change":
                continue
            events.append((time, message))
        ends = [mido.Message("control_change", control=64, value=0)]
        ends += [mido.Message("note_off", note=note) for note in sorted(sounding)]
        track, before = mido.MidiTrack(), 0
        for seconds, message in [*events, *((SONG_SECONDS, message) for message in ends)]:
            tick = round(seconds * 1000)
            track.append(message.copy(time=tick - before))
            before = tick
        mido.MidiFile(ticks_per_beat=500, tracks=[track]).save("song.mid")
        return Path("song.mid")


def read_wav(path: Path) -> np.ndarray:
    """The samples of a 16-bit wav."""
    return soundfile.read(path, dtype="int16")[0]


def read_file(path: Path, *, without: tuple[str, ...] = ()) -> dict[str, Value]:
    """A file's content as flat values: arrays of .npy, .npz, .wav and .safetensors, JSON by key, text as it is.

    Args:
        path: The file.
        without: Names of arrays, and keys of JSON objects at any depth, that are left out.
    """
    kind = path.suffix
    if kind == ".npy":
        return {"": np.load(path)}
    if kind == ".npz":
        with np.load(path) as arrays:
            return {name: arrays[name] for name in sorted(arrays.files) if name not in without}
    if kind == ".wav":
        return {"": read_wav(path)}
    if kind == ".safetensors":
        return dict(sorted(load_file(path).items()))
    text = path.read_text(encoding="utf-8")
    if kind in (".json", ".jsonl"):
        parsed = [json.loads(line) for line in text.splitlines()] if kind == ".jsonl" else json.loads(text)
        return flatten(_pruned(parsed, without))
    return {"": text}


def _pruned(values: Any, without: tuple[str, ...]) -> Any:
    if isinstance(values, dict):
        return {name: _pruned(value, without) for name, value in values.items() if name not in without}
    return [_pruned(value, without) for value in values] if isinstance(values, list) else values


def read_folder(folder: Path, patterns: tuple[str, ...], *, without: tuple[str, ...] = ()) -> dict[str, Value]:
    """The contents of all files of a folder that match one of the patterns, each name after its file's."""
    values = {}
    for path in sorted({path for pattern in patterns for path in folder.rglob(pattern)}):
        for name, value in read_file(path, without=without).items():
            values[f"{path.relative_to(folder).as_posix()}:{name}".removesuffix(":")] = value
    return values
