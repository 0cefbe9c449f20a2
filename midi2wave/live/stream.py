"""The sound of a performance that is being played, block by block, with the model's own timing.

An event takes effect as early as possible: at the first frame whose conditioning no generated sample depends on. The
conditioning of generated frames never changes. The samples are therefore those of an offline generation from the same
events, known in advance.
"""

from collections.abc import Generator
from dataclasses import replace

import numpy as np
import torch

from midi2wave.checkpoint import LoadedCheckpoint
from midi2wave.conditioning.note_conditioning import (
    NoteConditioning,
    NullConditioning,
    NullPerformance,
    conditioning_for,
)
from midi2wave.live.performance import LivePerformance
from midi2wave.sampling import engines
from midi2wave.sampling.options import SamplingOptions
from midi2wave.sampling.synthesis import AudioOutput, uniforms_in_time
from midi2wave.utils.errors import InputError
from wavenet import Conditioning

# Longest performance; at its end the stream does.
MAX_LIVE_SECONDS = 86400
# Frames of a block: 16 ms at 250 Hz. Each block costs a pass of the context stack, and waits for the block before.
LIVE_BLOCK_FRAMES = 4


class LiveStream:
    """A model that is played live.

    Attributes:
        sample_rate: In Hz.
        hop: Samples per frame.
        lead_frames: How many frames after the last generated one an event takes effect.
        n_frames: How many frames are generated.
        max_frames: How many can be; the stream then ends.
    """

    def __init__(
        self,
        checkpoint: LoadedCheckpoint,
        options: SamplingOptions,
        *,
        global_labels: tuple[str, ...] = (),
        lead_frames: int | None = None,
    ) -> None:
        """Prepare a stream; nothing is generated before the first block is asked for.

        Args:
            checkpoint: A model that plays MIDI.
            options: How samples are drawn; without `block_frames` those of live playing are used.
            global_labels: Labels of the recording to imitate.
            lead_frames: Default: the model's look-ahead, with which the model receives every event as early as in
                training. Less: events take effect sooner, but the samples before them were generated as if they would
                not come, which the model was not trained for.

        Raises:
            InputError: The model plays no MIDI.
        """
        self._model, self._data = checkpoint.model, checkpoint.config.data_config
        if not self._data.conditional:
            raise InputError("an unconditional model plays no MIDI; choose another one")
        self.sample_rate, self.hop = self._data.audio_hz, self._model.hop
        lookahead = self._model.context_frames[1]
        self.lead_frames = lookahead if lead_frames is None else min(max(0, lead_frames), lookahead)
        self.n_frames, self.max_frames = 0, MAX_LIVE_SECONDS * self._data.midi_hz
        self.performance = LivePerformance(self._data.midi_hz, global_labels)
        self._options = replace(options, block_frames=options.block_frames or LIVE_BLOCK_FRAMES)
        self._null = conditioning_for(NullPerformance(global_labels), self._data, options.history_level)
        self._notes: NoteConditioning | NullConditioning | None = None  # None: events have come since it was made
        self._output = AudioOutput(self._model, self._data)
        self._blocks = self._generate()

    @property
    def horizon(self) -> int:
        """The first frame at which an event can take effect now."""
        return self.n_frames + self.lead_frames

    def press(self, pitch: int, velocity: int) -> int:
        """A key goes down; returns the number of the sample at which its note begins. Raises InputError."""
        frame = self.performance.press(pitch, velocity, self.horizon)
        self._notes = None
        return frame * self.hop

    def release(self, pitch: int) -> None:
        """A key goes up."""
        self.performance.release(pitch, self.horizon)
        self._notes = None

    def move_pedal(self, pedal: int, value: int) -> None:
        """A pedal moves to a value 0..127. Raises InputError."""
        self.performance.move_pedal(pedal, value, self.horizon)
        self._notes = None

    def release_all(self) -> None:
        """All keys and pedals go up."""
        self.performance.release_all(self.horizon)
        self._notes = None

    def next_block(self) -> np.ndarray:
        """Generate the next samples, int16 [n]. Raises StopIteration after `max_frames`."""
        return next(self._blocks)

    def close(self) -> None:
        """End the stream and its threads."""
        self._blocks.close()

    def _rows(self) -> list[NoteConditioning | NullConditioning]:
        """The conditioning of the rows that guidance needs: that of the notes so far, then the null condition."""
        if self._notes is None:  # Once for all events of a block: a chord has many.
            self._notes = conditioning_for(self.performance.snapshot(), self._data, self._options.history_level)
        return [self._notes] if self._options.guidance == 1 else [self._notes, self._null]

    def _generate(self) -> Generator[np.ndarray, None, None]:
        device = next(self._model.parameters()).device

        def features(first: int, n: int) -> torch.Tensor:
            return torch.from_numpy(np.stack([row.features(first, n) for row in self._rows()])).to(device)

        def excitation(first: int, n: int) -> torch.Tensor:
            return torch.from_numpy(np.stack([row.excitation(first, n) for row in self._rows()])).to(device)

        blocks = engines.generate(
            self._model,
            Conditioning(features, excitation),
            uniforms_in_time(self._model, self._options.seed, [0], [0], device),
            1,
            self.max_frames,
            self._options,
        )
        for block in blocks:
            self.n_frames += block.shape[1] // self.hop
            self.performance.forget(self.n_frames)
            yield self._output(block)[0]
