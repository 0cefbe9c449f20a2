"""MIDI files that are played while their sound is generated: the settings of a take, and its blocks."""

import io
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass, replace

import numpy as np

from midi2wave.conditioning.global_conditioning import resolve_labels, validate_labels
from midi2wave.config import InferenceConfig
from midi2wave.live.messages import MAX_TEMPO, FileSettings, Settings
from midi2wave.live.models import LiveModel
from midi2wave.midi.keyboard import MAX_PITCH, MAX_VELOCITY, MIN_PITCH
from midi2wave.midi.performance import Performance
from midi2wave.midi.reader import read_midi
from midi2wave.sampling.options import SamplingOptions
from midi2wave.sampling.pieces import performance_frames, performance_seconds
from midi2wave.sampling.synthesis import synthesize
from midi2wave.utils.errors import InputError

# Of a MIDI file. The longest of MAESTRO has 0.4 MB.
MAX_FILE_BYTES = 2_000_000
# As it is played, after a change of tempo.
MAX_PIECE_SECONDS = 3600.0
# Frames of a block: 128 ms at 250 Hz. A take ends within a block when it is stopped.
PIECE_BLOCK_FRAMES = 32
# A take that begins within the piece is generated so much earlier, from silence, and then has most of its samples.
WARMUP_SECONDS = 1.0


def sampling_options(model: LiveModel, settings: Settings, threads: int, block_frames: int = 0) -> SamplingOptions:
    """How samples are drawn; `block_frames` is as of `SamplingOptions`.

    Raises:
        InputError: The model does not have such labels.
    """
    validate_labels(settings.labels, model.checkpoint.config.data_config.global_values)
    return SamplingOptions(
        temperature=settings.temperature,
        sampling=settings.sampling,
        guidance=settings.guidance,
        history_level=settings.history_level,
        seed=settings.seed,
        threads=threads,
        weights=model.weights,
        block_frames=block_frames,
    )


def labels_of(model: LiveModel, settings: Settings) -> tuple[str, ...]:
    """The labels that the model is conditioned on."""
    return resolve_labels((), settings.labels, model.checkpoint.config.data_config.global_values)


def read_upload(data: bytes) -> Performance:
    """The performance in the bytes of a MIDI file. Raises InputError: there is none, or it is too long at any tempo."""
    performance = read_midi(io.BytesIO(data))
    seconds, limit = performance_seconds(performance, 0.0), MAX_TEMPO * MAX_PIECE_SECONDS
    if seconds > limit:
        raise InputError(f"the file lasts {seconds:.0f} s, expected at most {limit:.0f} s; cut it")
    return performance


def modified(performance: Performance, settings: FileSettings) -> Performance:
    """The performance at another tempo, transposed, and louder or softer.

    Raises:
        InputError: No note is left on the piano.
    """
    pitch = performance.pitch + settings.transposition
    on_piano = (pitch >= MIN_PITCH) & (pitch <= MAX_PITCH)
    if not on_piano.any():
        raise InputError(f"transposition {settings.transposition:+d} moves all notes off the piano; choose another one")
    velocity = performance.velocity
    if settings.velocity_scale != 1:
        velocity = np.rint(velocity * settings.velocity_scale).astype(np.int64).clip(1, MAX_VELOCITY)
    tempo = settings.tempo
    return replace(
        performance,
        onset=performance.onset[on_piano] / tempo,
        offset=performance.offset[on_piano] / tempo,
        pitch=pitch[on_piano],
        velocity=velocity[on_piano],
        pedals={pedal: events / [tempo, 1.0] for pedal, events in performance.pedals.items()},
    )


@dataclass(frozen=True, eq=False)
class Take:
    """A piece as it is to be played: what inference.py plays of the same notes with the same settings.

    Attributes:
        model: The model.
        performance: Notes and pedals, with tempo and labels applied.
        n_frames: Its length.
        options: How samples are drawn.
    """

    model: LiveModel
    performance: Performance
    n_frames: int
    options: SamplingOptions

    @classmethod
    def prepare(cls, model: LiveModel, performance: Performance, settings: FileSettings, threads: int) -> "Take":
        """Apply the settings. Raises InputError for those that the model or the length of the piece does not allow."""
        options = sampling_options(model, settings, threads, PIECE_BLOCK_FRAMES)
        performance = replace(modified(performance, settings), global_labels=labels_of(model, settings))
        seconds = performance_seconds(performance, 0.0)
        if seconds > MAX_PIECE_SECONDS:
            raise InputError(
                f"at this tempo the file lasts {seconds:.0f} s, expected at most {MAX_PIECE_SECONDS:.0f} s; choose a "
                "faster one, or cut the file"
            )
        seconds = performance_seconds(performance, InferenceConfig.tail_seconds)
        n_frames = performance_frames(seconds, model.checkpoint.config.data_config.midi_hz)
        return cls(model, performance, n_frames, options)

    @property
    def n_samples(self) -> int:
        """Its length in samples."""
        return self.n_frames * self.model.checkpoint.model.hop

    def blocks(self, from_sample: int = 0) -> Generator[np.ndarray, None, None]:
        """The samples from one on, which is rounded down to a frame: blocks int16 [n].

        From 0 they are those of inference.py. From later ones they begin from silence a second before, and most of them
        are the same after that second (docs/folding.md).
        """
        checkpoint = self.model.checkpoint
        data, hop = checkpoint.config.data_config, checkpoint.model.hop
        first = min(from_sample // hop, self.n_frames)
        begin = max(0, first - round(WARMUP_SECONDS * data.midi_hz))
        n_skipped = (first - begin) * hop
        blocks = synthesize(
            checkpoint.model,
            [self.performance],
            self.n_frames - begin,
            data,
            self.options,
            streams=[0],
            first_frames=[begin],
        )
        with closing(blocks):
            for block in blocks:
                n = min(n_skipped, block.shape[1])
                n_skipped -= n
                yield block[0, n:]
