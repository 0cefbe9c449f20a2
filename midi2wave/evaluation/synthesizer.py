"""Generation of the clips and phrases of an evaluation."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from midi2wave.audio.io import read_pcm, write_wav
from midi2wave.conditioning.global_conditioning import default_labels, resolve_labels
from midi2wave.config import DataConfig, EvaluateConfig
from midi2wave.evaluation.clips import ReferenceClip
from midi2wave.midi.performance import Performance
from midi2wave.sampling.options import SamplingOptions
from midi2wave.sampling.synthesis import synthesize
from midi2wave.utils.cli import format_error, log
from midi2wave.utils.errors import InputError
from wavenet import WaveNet


class Synthesizer:
    """Generates audio with the model and the settings of this evaluation."""

    def __init__(self, model: WaveNet, data: DataConfig, settings: EvaluateConfig) -> None:
        self.model = model
        self.data = data
        self.settings = settings
        self.default_labels = resolve_labels(
            default_labels(data.global_values), settings.global_values, data.global_values
        )

    def __call__(self, performances: list[Performance], seconds: float) -> np.ndarray:
        """Phrases of the same length, free-running and with the same uniforms, int16 [B, T].

        They differ by their notes and global labels alone; a performance without labels has the default ones.
        """
        log(f"generating {len(performances)} phrases of {seconds:g} s")
        performances = [replace(one, global_labels=self._labels(one)) for one in performances]
        return self.generate(performances, round(seconds * self.data.midi_hz), [0] * len(performances))

    def _labels(self, performance: Performance) -> tuple[str, ...]:
        return resolve_labels(self.default_labels, performance.global_labels, self.data.global_values)

    def generate(
        self, performances: list[Performance], n_frames: int, streams: list[int], prefix: np.ndarray | None = None
    ) -> np.ndarray:
        """Generate in batches.

        Args:
            performances: The notes, B performances.
            n_frames: Length in conditioning frames, prefix included.
            streams: Number of the random stream of each performance.
            prefix: Samples to continue, int16 [B, P * hop].

        Returns:
            int16 [B, n_frames * hop].
        """
        size, batches = self.settings.batch_size, []
        for first in range(0, len(performances), size):
            part = slice(first, first + size)
            blocks = synthesize(
                self.model,
                performances[part],
                n_frames,
                self.data,
                SamplingOptions.from_config(self.settings),
                streams=streams[part],
                prefix=None if prefix is None else prefix[part],
            )
            batches.append(np.concatenate(list(blocks), axis=1))
        return np.concatenate(batches)


def generate_clips(
    synthesizer: Synthesizer, clips: list[ReferenceClip], folder: Path, n_prompt: int
) -> list[np.ndarray]:
    """Generate each clip of a folder, unless an earlier run has written its wav file, and it is whole.

    Args:
        synthesizer: Generates the audio.
        clips: The clips, with their recordings, which are also written.
        folder: Folder of the wav files.
        n_prompt: How many frames of the recording are the prompt; 0: from silence.

    Returns:
        The audio of each clip, int16 [n_frames * hop].
    """
    hop, data, size = synthesizer.model.hop, synthesizer.data, synthesizer.settings.batch_size
    missing = [clip for clip in clips if not _is_generated(folder / f"{clip.name}.wav", clip.n_frames * hop, data)]
    missing.sort(key=lambda clip: clip.n_frames)  # A batch takes as long as its longest clip.
    for first in range(0, len(missing), size):
        batch = missing[first : first + size]
        n_frames = batch[-1].n_frames
        log(f"generating {len(batch)} of {len(clips)} clips, {n_frames / data.midi_hz:g} s each")
        prefix = np.stack([clip.truth[: n_prompt * hop] for clip in batch]) if n_prompt else None
        performances, streams = [clip.performance for clip in batch], [clip.stream for clip in batch]
        audio = synthesizer.generate(performances, n_frames, streams, prefix)
        for clip, pcm in zip(batch, audio, strict=True):
            write_wav(folder / f"{clip.name}_truth.wav", clip.truth, data.audio_hz)
            write_wav(folder / f"{clip.name}.wav", pcm[: clip.n_frames * hop], data.audio_hz)
    return [read_pcm(folder / f"{clip.name}.wav", data.audio_hz) for clip in clips]


def _is_generated(path: Path, n_samples: int, data: DataConfig) -> bool:
    """Whether an earlier run has generated a clip; one that was damaged since is generated again."""
    if not path.is_file():
        return False
    try:
        n_stored = len(read_pcm(path, data.audio_hz))
    except InputError as error:
        log(f"{format_error(error)}; it is generated again")
        return False
    if n_stored != n_samples:
        log(f"{path} has {n_stored} samples instead of {n_samples}; it is generated again")
    return n_stored == n_samples
