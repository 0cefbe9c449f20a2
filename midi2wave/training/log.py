"""Log of a training run: metrics.jsonl, TensorBoard events, curves, and generated samples to listen to."""

import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch.utils.tensorboard import SummaryWriter

from midi2wave.audio.io import write_wav
from midi2wave.audio.pcm import FULL_SCALE
from midi2wave.config import DataConfig
from midi2wave.data.processed_folder import ProcessedFolder
from midi2wave.midi.performance import CLIP_MARGIN_SECONDS, clip
from midi2wave.plotting.pictures import save_picture
from midi2wave.sampling.options import SamplingOptions
from midi2wave.sampling.synthesis import synthesize
from midi2wave.utils.atomic_files import write_text
from midi2wave.utils.cli import format_error, log
from wavenet import WaveNet

if TYPE_CHECKING:
    from matplotlib.figure import Figure

METRICS_NAME = "metrics.jsonl"
CURVES_NAME = "curves.png"
SAMPLES_NAME = "samples"
SAMPLE_SECONDS = 2.0
PROMPT_SECONDS = 1.0  # Of a sample, the part that is taken from the recording.


class TrainingLog:
    """The log of one run folder.

    What can't be written (full disk) is reported, and training goes on without it.

    Args:
        folder: The run folder.
        step: The step from which the run goes on. Lines of later steps, which a killed run wrote, are dropped: these
            steps are repeated.
    """

    def __init__(self, folder: Path, step: int) -> None:
        self.folder = folder
        self.latest_metrics: dict[str, float] = {}
        previous = [metrics for metrics in self._read_lines() if metrics["step"] <= step]
        write_text(folder / METRICS_NAME, "".join(json.dumps(metrics) + "\n" for metrics in previous))
        for metrics in previous:
            self.latest_metrics |= {name: value for name, value in metrics.items() if name != "step"}
        self.board: SummaryWriter | None = SummaryWriter(str(folder), purge_step=step + 1)

    def _read_lines(self) -> list[dict[str, float]]:
        path, lines = self.folder / METRICS_NAME, []
        for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
            with contextlib.suppress(ValueError):  # A kill or a full disk may have cut a line.
                lines.append(json.loads(line))
        return lines

    def close(self) -> None:
        """Write what is still buffered."""
        with contextlib.suppress(OSError):
            if self.board:
                self.board.close()

    @contextlib.contextmanager
    def _log_write_errors(self, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            log(f"{what} could not be written: {format_error(error)}")

    @contextlib.contextmanager
    def _disable_board_on_error(self) -> Iterator[None]:
        """TensorBoard's writer thread raises its errors at some later call, and cannot be used any more after that."""
        try:
            yield
        except OSError as error:
            self.board = None
            log(f"TensorBoard's events could not be written, none follow: {format_error(error)}")

    def write_metrics(self, step: int, **metrics: float) -> None:
        """Log the metrics of a step, and print them where no progress bar is shown."""
        self.latest_metrics.update(metrics)
        with self._log_write_errors(METRICS_NAME), open(self.folder / METRICS_NAME, "a", encoding="utf-8") as handle:
            handle.write(json.dumps({"step": step, **metrics}) + "\n")
        with self._disable_board_on_error():
            if self.board:
                for name, value in metrics.items():
                    self.board.add_scalar(name, value, step)
        if not sys.stderr.isatty():
            log(f"step {step}: {self.format_metrics(metrics)}")

    def format_metrics(self, metrics: dict[str, float] | None = None) -> str:
        """Format metrics for people, without those of single layers.

        Args:
            metrics: Metrics by name; by default the latest value of each.
        """
        metrics = self.latest_metrics if metrics is None else metrics
        return ", ".join(f"{name} {value:.4g}" for name, value in metrics.items() if "/" not in name)

    def draw_curves(self) -> None:
        """Draw metrics.jsonl as a picture."""

        def draw() -> "Figure":
            from midi2wave.plotting.training_curves import training_curves_figure

            return training_curves_figure(self._read_lines())

        save_picture(self.folder / CURVES_NAME, draw)

    def write_sample(self, step: int, model: WaveNet, data: DataConfig) -> None:
        """Let the model continue a second of a validation recording, and write a wav and a picture.

        Args:
            step: Step after which the model is sampled.
            model: The model.
            data: The config of its data; the first recording of `validation_path` or `dataset_path` is used.
        """
        folder = ProcessedFolder(data.validation_path or data.dataset_path)
        performance, pcm = folder.performance(0), folder.pcm(0)
        if len(pcm) < SAMPLE_SECONDS * data.audio_hz:
            return
        start = max(0.0, min(float(performance.onset[0]), len(pcm) / data.audio_hz - SAMPLE_SECONDS))
        n_frames, hop = round(SAMPLE_SECONDS * data.midi_hz), data.audio_hz // data.midi_hz
        truth = pcm[round(start * data.audio_hz) :][: n_frames * hop]
        prompt = truth[None, : round(PROMPT_SECONDS * data.midi_hz) * hop]
        events = clip(performance, start, start + SAMPLE_SECONDS, CLIP_MARGIN_SECONDS)
        # One thread: the other cores are busy with training.
        blocks = synthesize(
            model, [events], n_frames, data, options=SamplingOptions(seed=0, threads=1), streams=[0], prefix=prompt
        )
        output = torch.cat([torch.from_numpy(block[0].copy()) for block in blocks])
        stem = self.folder / SAMPLES_NAME / f"step_{step:08d}"
        with self._log_write_errors(f"the sample of step {step}"):
            write_wav(stem.with_suffix(".wav"), output.numpy(), data.audio_hz)
        with self._disable_board_on_error():
            if self.board:
                self.board.add_audio("prompted", output / FULL_SCALE, step, data.audio_hz)

        def draw() -> "Figure":
            from midi2wave.plotting.figures import clip_figure, pixels

            figure = clip_figure(
                events,
                SAMPLE_SECONDS,
                data.audio_hz,
                truth,
                output.numpy(),
                title=f"step {step}",
                prompt_end_seconds=PROMPT_SECONDS,
            )
            with self._disable_board_on_error():
                if self.board:  # Its add_figure would import pyplot, and with it the user's backend.
                    self.board.add_image("prompted", pixels(figure), step, dataformats="HWC")
            return figure

        save_picture(stem.with_suffix(".png"), draw)
