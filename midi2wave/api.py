"""The Python API: load a trained model, generate audio from MIDI files, and measure likelihoods.

    import midi2wave

    model = midi2wave.load("pretrained/grand.safetensors")
    audio = model.generate("song.mid", seed=0)  # float32 [T] in -1..1 at model.sample_rate

inference.py and evaluate.py call the same functions: with equal settings they give the same samples.
"""

import math
import os
from collections.abc import Generator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TypeAlias

import numpy as np

from midi2wave.audio.io import read_pcm
from midi2wave.audio.pcm import FULL_SCALE
from midi2wave.checkpoint import LoadedCheckpoint, check_guidance, load_checkpoint
from midi2wave.conditioning.global_conditioning import validate_labels
from midi2wave.config import DEFAULT_HISTORY_LEVEL, Config, SamplerWeights, SamplingMethod
from midi2wave.midi.performance import Performance
from midi2wave.midi.reader import read_performance, source_name
from midi2wave.sampling.options import SamplingOptions, require_number
from midi2wave.sampling.pieces import Piece, performance_frames, performance_seconds, with_labels
from midi2wave.sampling.synthesis import negative_log_likelihood, synthesize
from midi2wave.utils.errors import InputError

if TYPE_CHECKING:
    import pretty_midi

    from midi2wave.finetuning.options import FinetuneResult

# Seconds of audio after the last sound of a MIDI file, as in inference.py.
TAIL_SECONDS = 2.0

# A day. More is a mistake, such as milliseconds, or a damaged MIDI file, and would fill the memory.
MAX_SECONDS = 86400.0

# What is played: a MIDI file, an object that is read from, such as a file opened in binary mode, or the events of one.
# None: no notes, which is the null condition, or an unconditional model.
Midi: TypeAlias = "str | Path | BinaryIO | pretty_midi.PrettyMIDI | Performance | None"


def load(
    path: str | Path,
    device: str = "auto",
    *,
    sampler: str = "auto",
    threads: int = 0,
    weights: SamplerWeights = "float32",
) -> "LoadedModel":
    """Load a trained model.

    Args:
        path: A .safetensors file, a run folder or a checkpoint's folder.
        device: cpu, cuda or cuda:N; auto is CUDA where it is available.
        sampler: The engine that generates: numba, torch (slow, the reference), cuda or triton (both on a GPU); auto is
            numba, which samples on the CPU also if the model is on a GPU.
        threads: Threads of the numba engine, at most as many as there are cores; 0: all that help.
        weights: float32; bfloat16: up to twice as fast, with samples near those of float32 (numba, triton); float16
            (triton only); auto: the faster one on this machine.

    Raises:
        InputError: If there is no such model, or an argument is impossible.
    """
    _require_path("path", path, "a .safetensors file, a run folder or a checkpoint's folder")
    engine = SamplingOptions(sampler=sampler, threads=threads, weights=weights)
    return LoadedModel(load_checkpoint(path, device), str(path), engine)


def finetune(
    folder: str | Path,
    out: str | Path,
    *,
    minutes: float | None = None,
    steps: int | None = None,
    base: str | Path = "",
    hold_out: float = 0.1,
    licence: str = "",
    seed: int = 0,
    jobs: int = 1,
    device: str = "auto",
) -> "FinetuneResult":
    """Train a shipped model further on recordings of another piano, as finetune.py does (docs/own_piano.md).

    The same call goes on after an interruption.

    Args:
        folder: Pairs of audio and MIDI files with equal stems at any depth, or a MAESTRO folder.
        out: The output folder.
        minutes: Minutes of training; default: 30.
        steps: Optimiser steps, in place of `minutes`.
        base: Weights to begin with; default: the shipped ones that find the recordings most likely.
        hold_out: Part of the recordings that is held out, once for validation and once for testing.
        licence: Licence of the new weights, which their file and card state.
        seed: Seed of split and crops.
        jobs: Recordings that are read at once.
        device: cpu, cuda or cuda:N; auto is CUDA where it is available.

    Returns:
        The files of the new model, its scores beside those of the base model, and the verdict in words.

    Raises:
        InputError: Nothing is usable, or an argument is impossible.
    """
    _require_path("folder", folder, "a folder of recordings")
    _require_path("out", out, "an output folder")
    # The modules of training take a second or two to import, for which `load` should not wait.
    from midi2wave.finetuning.options import FinetuneOptions
    from midi2wave.finetuning.pipeline import finetune as run_finetuning

    options = FinetuneOptions(
        minutes, steps, str(base), hold_out=hold_out, licence=licence, seed=seed, jobs=jobs, device=device
    )
    return run_finetuning(Path(folder), Path(out), options)


class LoadedModel:
    """A trained model that generates audio; made by `midi2wave.load`.

    Attributes:
        sample_rate: Sample rate in Hz of everything that it generates.
        global_labels: The labels COLUMN=VALUE that `generate` accepts; none without global conditioning.
    """

    def __init__(self, checkpoint: LoadedCheckpoint, source: str, engine: SamplingOptions) -> None:
        self._checkpoint = checkpoint
        self._source = source
        self._engine = engine
        self._data = checkpoint.config.data_config
        self.sample_rate: int = self._data.audio_hz
        self.global_labels: tuple[str, ...] = tuple(self._data.global_values)

    def __repr__(self) -> str:
        return f"<midi2wave model {self._source}, step {self._checkpoint.step}, {self.sample_rate} Hz>"

    @property
    def config(self) -> Config:
        """The config that the model was trained with."""
        return self._checkpoint.config

    def generate(
        self,
        midi: Midi = None,
        *,
        seed: int = 0,
        temperature: float = 1.0,
        sampling: SamplingMethod = "random",
        guidance: float = 1.0,
        history_level: float = DEFAULT_HISTORY_LEVEL,
        seconds: float | None = None,
        global_labels: Sequence[str] = (),
    ) -> np.ndarray:
        """Generate the audio of a MIDI file from silence.

        Args:
            midi: The path of a MIDI file, an object that is read from, a `pretty_midi.PrettyMIDI` or a `Performance`.
                None: no notes, for which the model must be unconditional or have a null condition.
            seed: Equal seeds give equal random samples; the mean has no seed.
            temperature: 1: the model's own distribution; less: less noise and less variety.
            sampling: random: each sample is drawn from the predicted distribution; mean: it is the mean of that
                distribution, which has much less noise and does not depend on the seed.
            guidance: Scale of classifier-free guidance; more than 1 follows the notes more closely, and takes twice the
                work. Best for models trained with conditioning_dropout.
            history_level: How disturbed the model is to take its own past samples to be, in dB relative to the most of
                its training, -60 to 0: lower is less noise, higher is safer against wrong notes. Models without
                data_config.history_level_input ignore it.
            seconds: Length, at most a day; default: up to 2 s after the last sound.
            global_labels: Labels of the recording to imitate, such as "year=2009", some of the model's `global_labels`.

        Returns:
            float32 [T] in -1..1, at `sample_rate`.

        Raises:
            InputError: If the file cannot be read, or an argument is impossible for this model.
        """
        blocks = self.stream(
            midi,
            seed=seed,
            temperature=temperature,
            sampling=sampling,
            guidance=guidance,
            history_level=history_level,
            seconds=seconds,
            global_labels=global_labels,
        )
        return np.concatenate(list(blocks))

    def stream(
        self,
        midi: Midi = None,
        *,
        seed: int = 0,
        temperature: float = 1.0,
        sampling: SamplingMethod = "random",
        guidance: float = 1.0,
        history_level: float = DEFAULT_HISTORY_LEVEL,
        seconds: float | None = None,
        global_labels: Sequence[str] = (),
    ) -> Generator[np.ndarray, None, None]:
        """Generate the samples of `generate` block by block, the first ones as early as possible.

        Mistakes in the arguments are raised by the call itself, before the first block is asked for.

        Args:
            midi: As in `generate`, like the other arguments.
            seed: Equal seeds give equal random samples; the mean has no seed.
            temperature: 1: the model's own distribution.
            sampling: random or mean.
            guidance: Scale of classifier-free guidance.
            history_level: Level in dB, for models with that input.
            seconds: Length; default: up to 2 s after the last sound.
            global_labels: Labels of the recording to imitate.

        Returns:
            A generator of blocks, float32 [n] in -1..1. Close it to stop early.

        Raises:
            InputError: If the file cannot be read, or an argument is impossible for this model.
        """
        if seconds is not None:
            require_number("seconds", seconds)
        options = replace(
            self._engine,
            seed=seed,
            temperature=temperature,
            sampling=sampling,
            guidance=guidance,
            history_level=history_level,
        )
        if guidance != 1:
            check_guidance(guidance, self._source, self.config)
        piece = self._piece(midi, seconds, global_labels)
        if piece.performance is None and guidance != 1:
            raise InputError(f"guidance = {guidance:g} has no effect without notes; set guidance = 1")
        return self._blocks(piece, options)

    def nll(self, audio: str | Path | np.ndarray, midi: Midi = None, *, global_labels: Sequence[str] = ()) -> float:
        """How likely the model takes a recording to be: its mean negative log-likelihood, teacher-forced.

        Args:
            audio: An audio file at `sample_rate`, or its samples [T]: floats in -1..1, or int16. What is left after the
                last whole conditioning frame is not scored.
            midi: The notes of the recording, as in `generate`; None: no notes.
            global_labels: Labels of the recording.

        Returns:
            Nats per sample; lower is more likely.

        Raises:
            InputError: If a file cannot be read, or an argument is impossible for this model.
        """
        pcm = read_pcm(audio, self.sample_rate) if isinstance(audio, (str, Path)) else _to_int16(audio)
        hop = self._checkpoint.model.hop
        n_frames = len(pcm) // hop
        if not n_frames:
            raise InputError(f"audio of {len(pcm)} samples: expected at least a conditioning frame, {hop} samples")
        source = self._piece(midi, n_frames * hop / self.sample_rate, global_labels).conditioning_source
        return negative_log_likelihood(self._checkpoint.model, source, pcm[: n_frames * hop], self._data)

    def _piece(self, midi: Midi, seconds: float | None, global_labels: Sequence[str]) -> Piece:
        """The piece to play. Raises InputError for what this model cannot play."""
        labels = _label_list(global_labels)
        validate_labels(labels, self._data.global_values)
        performance = None if midi is None else self._performance(midi)
        if performance is None:
            self._check_without_notes(seconds)
        if seconds is None:
            assert performance is not None  # Else it was refused above.
            try:
                seconds = performance_seconds(performance, TAIL_SECONDS)
                n_frames = performance_frames(seconds, self._data.midi_hz)
            except InputError as error:
                raise InputError(f"{source_name(midi)}: {error}") from error
            if seconds > MAX_SECONDS:
                limit = f"expected at most {MAX_SECONDS:g}; give seconds"
                raise InputError(f"{source_name(midi)}: lasts {seconds:.0f} s, {limit}")
        else:
            n_frames = round(seconds * self._data.midi_hz) if math.isfinite(seconds) else 0
            if n_frames < 1:
                raise InputError(f"seconds = {seconds:g}: expected at least {1 / self._data.midi_hz:g}")
            if seconds > MAX_SECONDS:
                raise InputError(f"seconds = {seconds:g}: expected at most {MAX_SECONDS:g}")
        return with_labels([Piece("piece", 0, performance, n_frames)], labels, self._data)[0]

    def _performance(self, midi: "str | Path | BinaryIO | pretty_midi.PrettyMIDI | Performance") -> Performance:
        if not self._data.conditional:
            raise InputError(f"{self._source} is an unconditional model and plays no MIDI; give seconds instead")
        if isinstance(midi, Performance):
            return midi
        if hasattr(midi, "instruments"):
            return Performance.from_pretty_midi(midi)
        if not hasattr(midi, "read"):
            _require_path("midi", midi, "a MIDI file or None (a path, an opened file, a PrettyMIDI or a Performance)")
        try:
            return read_performance(midi)
        except InputError as error:
            message, name = str(error), source_name(midi)
            raise InputError(message if name in message else f"{name}: {message}") from error

    def _check_without_notes(self, seconds: float | None) -> None:
        if self._data.conditional and not self._data.conditioning_dropout:
            raise InputError(
                f"{self._source} has no null condition, as it was trained without data_config.conditioning_dropout; "
                "give a MIDI file"
            )
        if seconds is None:
            raise InputError("without a MIDI file nothing says how long to play; give seconds")

    def _blocks(self, piece: Piece, options: SamplingOptions) -> Generator[np.ndarray, None, None]:
        model = self._checkpoint.model
        blocks = synthesize(
            model, [piece.conditioning_source], piece.n_frames, self._data, options, streams=[piece.stream]
        )
        try:
            for block in blocks:
                yield block[0].astype(np.float32) / np.float32(FULL_SCALE)
        finally:
            blocks.close()


def _require_path(name: str, value: object, expected: str) -> None:
    if not isinstance(value, (str, os.PathLike)) or not str(value):
        raise InputError(f"{name} = {value!r}: expected {expected}")


def _label_list(labels: object) -> list[str]:
    """One label or several as a list. Raises InputError for anything else."""
    if isinstance(labels, str):
        return [labels]
    if not isinstance(labels, Sequence) or not all(isinstance(label, str) for label in labels):
        raise InputError(f"global_labels = {labels!r}: expected labels such as ['year=2009'], or () for none")
    return list(labels)


def _to_int16(audio: np.ndarray) -> np.ndarray:
    """Samples [T], floats in -1..1 or int16, as int16. Raises InputError for anything else."""
    try:
        audio = np.asarray(audio)
    except ValueError as error:
        raise InputError("audio of lists of several lengths: expected mono samples [T]") from error
    if audio.dtype == object:
        raise InputError(f"audio of type {audio.dtype}: expected an audio file, floats in -1..1, or int16")
    if audio.ndim != 1:
        raise InputError(f"audio of shape {list(audio.shape)}: expected mono samples [T]")
    if audio.dtype == np.int16:
        return audio
    if not np.issubdtype(audio.dtype, np.floating):
        raise InputError(f"audio of type {audio.dtype}: expected floats in -1..1, or int16")
    if not np.isfinite(audio).all() or np.abs(audio).max(initial=0) > 1:
        raise InputError("audio: expected finite values in -1..1")
    scaled = np.rint(audio.astype(np.float64) * FULL_SCALE)
    return scaled.clip(-FULL_SCALE, FULL_SCALE - 1).astype(np.int16)
