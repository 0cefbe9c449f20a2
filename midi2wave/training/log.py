"""What a training leaves for its user to read: metrics.jsonl, TensorBoard events, curves, samples to listen to."""

import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from torch.utils.tensorboard import SummaryWriter

from midi2wave.audio.io import write_wav
from midi2wave.config import DataConfig
from midi2wave.data.processed_folder import ProcessedFolder
from midi2wave.midi.performance import CLIP_MARGIN_SECONDS, clip
from midi2wave.plotting.figures import clip_figure, save_figure
from midi2wave.plotting.training_curves import training_curves_figure
from midi2wave.sampling.synthesis import synthesize
from midi2wave.utils.atomic_files import write_text
from midi2wave.utils.cli import format_error, log
from wavenet import WaveNet

METRICS_NAME, CURVES_NAME, SAMPLES_NAME = "metrics.jsonl", "curves.png", "samples"
SAMPLE_SECONDS, SAMPLE_PRIMED_SECONDS = 2.0, 1.0


class TrainingLog:
    """The log of one run folder. Lines that a killed run wrote after `step` are dropped: these steps come again.

    What can't be written (full disk) is reported, and training goes on without it.
    """

    def __init__(self, folder: Path, step: int) -> None:
        self.folder, self.newest = folder, {}  # newest: the last value of every metric
        kept = [metrics for metrics in self._lines() if metrics["step"] <= step]
        write_text(folder / METRICS_NAME, "".join(json.dumps(metrics) + "\n" for metrics in kept))
        for metrics in kept:
            self.newest |= {name: value for name, value in metrics.items() if name != "step"}
        self.board: SummaryWriter | None = SummaryWriter(str(folder), purge_step=step + 1)

    def _lines(self) -> list[dict[str, float]]:
        path, lines = self.folder / METRICS_NAME, []
        for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
            with contextlib.suppress(ValueError):  # a kill or a full disk may have cut a line
                lines.append(json.loads(line))
        return lines

    def close(self) -> None:
        """Write what is still held back."""
        with contextlib.suppress(OSError):
            if self.board:
                self.board.close()

    @contextlib.contextmanager
    def _reported(self, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            log(f"{what} could not be written: {format_error(error)}")

    @contextlib.contextmanager
    def _on_board(self) -> Iterator[None]:
        """Within it the board may fail: its writer thread hands on errors at some later call, and is then dead."""
        try:
            yield
        except OSError as error:
            self.board = None
            log(f"TensorBoard's events could not be written, none follow: {format_error(error)}")

    def metrics(self, step: int, **metrics: float) -> None:
        """Log metrics of a step; where there is no progress bar also as words, but for those of single layers."""
        self.newest.update(metrics)
        with self._reported(METRICS_NAME), open(self.folder / METRICS_NAME, "a", encoding="utf-8") as handle:
            handle.write(json.dumps({"step": step, **metrics}) + "\n")
        with self._on_board():
            for name, value in metrics.items() if self.board else ():
                self.board.add_scalar(name, value, step)
        if not sys.stderr.isatty():
            log(f"step {step}: {self.words(metrics)}")

    def words(self, metrics: dict[str, float] | None = None) -> str:
        """Metrics (default: the newest value of each) for people."""
        metrics = self.newest if metrics is None else metrics
        return ", ".join(f"{name} {value:.4g}" for name, value in metrics.items() if "/" not in name)

    def curves(self) -> None:
        """Draw metrics.jsonl."""
        with self._reported(CURVES_NAME):
            save_figure(self.folder / CURVES_NAME, training_curves_figure(self._lines()))

    def sample(self, step: int, model: WaveNet, data: DataConfig) -> None:
        """Let the model go on from a second of a validation recording: a wav and a picture to look at."""
        folder = ProcessedFolder(data.validation_path or data.dataset_path)
        performance, pcm = folder.performance(0), folder.pcm(0)
        if len(pcm) < SAMPLE_SECONDS * data.audio_hz:
            return  # nothing that could be shown
        start = max(0.0, min(float(performance.onset[0]), len(pcm) / data.audio_hz - SAMPLE_SECONDS))
        n_frames, hop = round(SAMPLE_SECONDS * data.midi_hz), data.audio_hz // data.midi_hz
        truth = pcm[round(start * data.audio_hz) :][: n_frames * hop]
        prefix = truth[None, : round(SAMPLE_PRIMED_SECONDS * data.midi_hz) * hop]
        events = clip(performance, start, start + SAMPLE_SECONDS, CLIP_MARGIN_SECONDS)
        # One thread: the other cores are busy with training.
        blocks = synthesize(model, [events], n_frames, data, streams=[0], seed=0, prefix=prefix, threads=1)
        output = torch.cat([torch.from_numpy(block[0].copy()) for block in blocks])
        figure = clip_figure(events, SAMPLE_SECONDS, data.audio_hz, truth, output.numpy(), title=f"step {step}",
                             prompt_end_seconds=SAMPLE_PRIMED_SECONDS)  # fmt: skip
        stem = self.folder / SAMPLES_NAME / f"step_{step:08d}"
        with self._reported(f"the sample of step {step}"):
            write_wav(stem.with_suffix(".wav"), output.numpy(), data.audio_hz)
            save_figure(stem.with_suffix(".png"), figure)
        with self._on_board():
            if self.board:
                self.board.add_audio("prompted", output / 32768, step, data.audio_hz)
                self.board.add_figure("prompted", figure, step)
