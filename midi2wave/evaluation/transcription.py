"""Transcription of audio into notes, and their F1 against the notes of the MIDI.

    pip install -r requirements-transcribe.txt && pip install --no-deps basic-pitch==0.4.0 transkun==2.0.1

The transcriber is Spotify's basic-pitch (Bittner et al., ICASSP 2022, arXiv 2203.09893), whose weights are part of its
package, in onnxruntime; the scores are mir_eval's. Both are optional: without them there is no F1.
"""

import logging
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import numpy as np

from midi2wave.audio.io import write_wav
from midi2wave.midi.performance import Performance, sounding_offset
from midi2wave.utils.cli import log

INSTALL = "pip install -r requirements-transcribe.txt && pip install --no-deps basic-pitch==0.4.0 transkun==2.0.1"
ONSET_TOLERANCE_SECONDS = 0.05
PITCH_TOLERANCE_CENTS = 50.0
# Tolerance of the offset, as a share of the length of a note (or 50 ms if that is more); only with_offsets.
OFFSET_RATIO = 0.2
# Notes have at least this length for mir_eval.
MIN_NOTE_SECONDS = 1e-3
# Frameworks that basic-pitch would load in place of onnxruntime.
OTHER_BACKENDS = ("tensorflow", "coremltools", "tflite_runtime")


@dataclass(frozen=True)
class Notes:
    """Notes of a performance, or transcribed from audio.

    Attributes:
        onset: Seconds, float64 [N].
        offset: When the damper falls, seconds, float64 [N].
        pitch: MIDI pitch, int64 [N].
    """

    onset: np.ndarray
    offset: np.ndarray
    pitch: np.ndarray

    def between(self, start: float, end: float) -> "Notes":
        """The notes that begin in [start, end) seconds."""
        inside = (self.onset >= start) & (self.onset < end)
        return Notes(self.onset[inside], self.offset[inside], self.pitch[inside])


def played_notes(performance: Performance, start: float, end: float) -> Notes:
    """The notes of a performance that begin in [start, end) seconds, extended by the pedals up to that end."""
    offset = np.minimum(sounding_offset(performance), end)
    return Notes(performance.onset, offset, performance.pitch).between(start, end)


def note_f1(reference: Notes, estimate: Notes, *, with_offsets: bool = False) -> float:
    """F1 of transcribed notes (`mir_eval.transcription`, the standard of MIREX).

    An estimated note is correct if a reference note has its pitch and begins within 50 ms. Each note is matched once.

    Args:
        reference: The notes of the MIDI.
        estimate: The transcribed notes.
        with_offsets: Notes also have to end within a fifth of the reference's length, or 50 ms if that is more.

    Returns:
        0..1; NaN if there is no reference note.
    """
    from mir_eval.transcription import precision_recall_f1_overlap

    if not len(reference.onset):
        return float("nan")
    if not len(estimate.onset):
        return 0.0
    scores = precision_recall_f1_overlap(
        *_intervals(reference),
        *_intervals(estimate),
        onset_tolerance=ONSET_TOLERANCE_SECONDS,
        pitch_tolerance=PITCH_TOLERANCE_CENTS,
        offset_ratio=OFFSET_RATIO if with_offsets else None,
    )
    return float(scores[2])


def matched(reference: Notes, estimate: Notes) -> tuple[np.ndarray, np.ndarray]:
    """Match transcribed notes with those of the MIDI by pitch and onset, as in `note_f1`.

    Args:
        reference: The N notes of the MIDI.
        estimate: The M transcribed notes.

    Returns:
        Which reference notes were detected, bool [N], and which estimated ones are correct, bool [M].
    """
    detected, correct = np.zeros(len(reference.onset), bool), np.zeros(len(estimate.onset), bool)
    pairs = matched_pairs(reference, estimate)
    detected[pairs[:, 0]] = correct[pairs[:, 1]] = True
    return detected, correct


def matched_pairs(reference: Notes, estimate: Notes) -> np.ndarray:
    """The notes that `matched` matches: indices of reference and estimate, int64 [K, 2]."""
    from mir_eval.transcription import match_notes

    if not (len(reference.onset) and len(estimate.onset)):
        return np.empty((0, 2), dtype=np.int64)
    pairs = match_notes(
        *_intervals(reference),
        *_intervals(estimate),
        onset_tolerance=ONSET_TOLERANCE_SECONDS,
        pitch_tolerance=PITCH_TOLERANCE_CENTS,
        offset_ratio=None,
    )
    return np.array(pairs, dtype=np.int64).reshape(-1, 2)


def _intervals(notes: Notes) -> tuple[np.ndarray, np.ndarray]:
    """The format of mir_eval: intervals in seconds [N, 2], and frequencies in Hz [N]."""
    offset = np.maximum(notes.offset, notes.onset + MIN_NOTE_SECONDS)
    return np.stack([notes.onset, offset], axis=1), 440.0 * 2.0 ** ((notes.pitch - 69) / 12)


class Transcriber:
    """basic-pitch, loaded once.

    The thresholds were chosen on 14 clips of real piano for the highest F1 of the recordings themselves: 0.70, against
    0.63 with the defaults of the package (0.5, 0.3, 11, True), which miss the short notes of fast passages.

    Attributes:
        name: Name and version of the transcriber.
        onset_threshold: Threshold of the onset activations.
        frame_threshold: Threshold of the note activations.
        min_frames: Length of the shortest note in frames of 11.6 ms.
        melodia_trick: The option of basic-pitch.
    """

    onset_threshold = 0.6
    frame_threshold = 0.3
    min_frames = 3
    melodia_trick = False

    def __init__(self) -> None:
        """Load the network. Raises ImportError if basic-pitch, onnxruntime or mir_eval is not installed."""
        with _only_onnx():
            import basic_pitch
            import mir_eval  # noqa: F401 - missing packages are reported before audio is generated
            from basic_pitch import inference, note_creation

        self.name = f"basic-pitch {metadata.version('basic-pitch')}"
        self._run, self._decode = inference.run_inference, note_creation.model_output_to_notes
        path = basic_pitch.build_icassp_2022_model_path(basic_pitch.FilenameSuffix.onnx)
        self._model = inference.Model(path)

    def notes(self, pcm: np.ndarray, audio_hz: int) -> Notes:
        """The notes in int16 [T] of any sample rate: basic-pitch resamples to 22,050 Hz."""
        return self.decode(self.activations(pcm, audio_hz))

    def activations(self, pcm: np.ndarray, audio_hz: int) -> dict[str, np.ndarray]:
        """Output of the network for int16 [T]; `decode` turns it into notes."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "audio.wav"
            # The network fails for less than one frame.
            write_wav(path, np.pad(pcm, (0, max(0, audio_hz // 10 - len(pcm)))), audio_hz)
            return self._run(path, self._model)

    def decode(self, activations: dict[str, np.ndarray]) -> Notes:
        """The notes in the output of the network, sorted by onset."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # For silence it divides 0 by 0, without consequences.
            _, events = self._decode(
                activations,
                self.onset_threshold,
                self.frame_threshold,
                min_note_len=self.min_frames,
                include_pitch_bends=False,
                melodia_trick=self.melodia_trick,
            )
        events = sorted(events)
        onset, offset = (np.array([event[i] for event in events], dtype=np.float64) for i in (0, 1))
        return Notes(onset, offset, np.array([event[2] for event in events], dtype=np.int64))


def load_transcriber() -> Transcriber | None:
    """Load the transcriber; None if it is not installed, which is logged."""
    try:
        return Transcriber()
    except ImportError as error:
        log(f"no transcriber ({error}), so no F1; to have it: {INSTALL}")
        return None


@contextmanager
def _only_onnx() -> Iterator[None]:
    """Keep basic-pitch from loading frameworks that it prefers to onnxruntime, and from logging warnings."""
    handlers, blocked = list(logging.root.handlers), [name for name in OTHER_BACKENDS if name not in sys.modules]
    disabled = logging.root.manager.disable
    # Importing a module that is None here fails as if it were not installed.
    sys.modules.update(dict.fromkeys(blocked))  # type: ignore[arg-type]
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(disabled)
        logging.root.handlers[:] = handlers  # The first warning of the package configures the root logger.
        for name in blocked:
            del sys.modules[name]
