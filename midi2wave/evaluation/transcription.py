"""Which notes are heard in audio, and how well they agree with the notes that were to be played.

    pip install -r requirements-transcribe.txt && pip install --no-deps basic-pitch==0.4.0

The listener is Spotify's basic-pitch (Bittner et al., ICASSP 2022, arXiv 2203.09893), whose weights come with the
package, through onnxruntime; the scores are mir_eval's. Both are optional: without them there is no F1.
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

INSTALL = "pip install -r requirements-transcribe.txt && pip install --no-deps basic-pitch==0.4.0"
ONSET_TOLERANCE_SECONDS = 0.05
PITCH_TOLERANCE_CENTS = 50.0
OFFSET_RATIO = 0.2  # of a note's length, or 50 ms if that is more; only where offsets are scored at all
OTHER_BACKENDS = ("tensorflow", "coremltools", "tflite_runtime")


@dataclass(frozen=True)
class Notes:
    """Notes that sound, as they were played or as they are heard; seconds."""

    onset: np.ndarray  # float64 [N]
    offset: np.ndarray  # float64 [N], when the damper falls
    pitch: np.ndarray  # int64 [N]

    def between(self, start: float, end: float) -> "Notes":
        """Those that begin in [start, end)."""
        kept = (self.onset >= start) & (self.onset < end)
        return Notes(self.onset[kept], self.offset[kept], self.pitch[kept])


def played_notes(performance: Performance, start: float, end: float) -> Notes:
    """The notes of a performance that begin in [start, end) seconds, extended by the pedals up to that end."""
    offset = np.minimum(sounding_offset(performance), end)
    return Notes(performance.onset, offset, performance.pitch).between(start, end)


def note_f1(played: Notes, heard: Notes, *, with_offsets: bool = False) -> float:
    """F1 of the heard notes against the played ones, 0..1; nan if none was played.

    A heard note is right if a played one has its pitch and begins within 50 ms (with_offsets: and ends within a fifth
    of its length, or 50 ms if that is more); each note is matched once. mir_eval's `transcription`, MIREX's standard.
    """
    from mir_eval.transcription import precision_recall_f1_overlap

    if not len(played.onset):
        return float("nan")
    if not len(heard.onset):
        return 0.0
    (ref_intervals, ref_hz), (est_intervals, est_hz) = (_intervals(notes) for notes in (played, heard))
    scores = precision_recall_f1_overlap(
        ref_intervals, ref_hz, est_intervals, est_hz, onset_tolerance=ONSET_TOLERANCE_SECONDS,
        pitch_tolerance=PITCH_TOLERANCE_CENTS, offset_ratio=OFFSET_RATIO if with_offsets else None,
    )  # fmt: skip
    return float(scores[2])


def matched(played: Notes, heard: Notes) -> tuple[np.ndarray, np.ndarray]:
    """Which played notes were heard and which heard ones were played: two masks, bool [N] and [M] (as in `note_f1`)."""
    from mir_eval.transcription import match_notes

    hit, right = np.zeros(len(played.onset), bool), np.zeros(len(heard.onset), bool)
    if len(hit) and len(right):
        (ref_intervals, ref_hz), (est_intervals, est_hz) = (_intervals(notes) for notes in (played, heard))
        pairs = match_notes(ref_intervals, ref_hz, est_intervals, est_hz, onset_tolerance=ONSET_TOLERANCE_SECONDS,
                            pitch_tolerance=PITCH_TOLERANCE_CENTS, offset_ratio=None)  # fmt: skip
        for i, j in pairs:
            hit[i] = right[j] = True
    return hit, right


def _intervals(notes: Notes) -> tuple[np.ndarray, np.ndarray]:
    """mir_eval's form: intervals in seconds [N, 2], longer than nothing, and frequencies in Hz [N]."""
    offset = np.maximum(notes.offset, notes.onset + 1e-3)
    return np.stack([notes.onset, offset], axis=1), 440.0 * 2.0 ** ((notes.pitch - 69) / 12)


class Transcriber:
    """basic-pitch, loaded once. Raises ImportError where it or what it needs is not installed."""

    # Chosen on 14 clips of real piano for the highest F1 of the recordings themselves: 0.70, against 0.63 with the
    # package's own settings (0.5, 0.3, 11, True), which leave out the short notes of fast passages.
    onset_threshold = 0.6
    frame_threshold = 0.3
    shortest_frames = 3  # of 11.6 ms
    melodia_trick = False

    def __init__(self) -> None:
        with _only_onnx():
            import basic_pitch
            import mir_eval  # noqa: F401 - better missing now than after the audio has been generated
            from basic_pitch import inference, note_creation

        self.name = f"basic-pitch {metadata.version('basic-pitch')}"
        self._run, self._decode = inference.run_inference, note_creation.model_output_to_notes
        path = basic_pitch.build_icassp_2022_model_path(basic_pitch.FilenameSuffix.onnx)
        self._model = inference.Model(path)

    def notes(self, pcm: np.ndarray, audio_hz: int) -> Notes:
        """The notes heard in int16 [T], of any rate: the listener resamples to its own 22,050 Hz."""
        return self.decode(self.activations(pcm, audio_hz))

    def activations(self, pcm: np.ndarray, audio_hz: int) -> dict[str, np.ndarray]:
        """The network's output for int16 [T], which the thresholds make notes of."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "audio.wav"
            write_wav(path, np.pad(pcm, (0, max(0, audio_hz // 10 - len(pcm)))), audio_hz)  # less than a frame fails
            return self._run(path, self._model)

    def decode(self, activations: dict[str, np.ndarray]) -> Notes:
        """The notes in the network's output, by onset."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of silence it divides 0 by 0 and goes on rightly
            _, events = self._decode(
                activations, self.onset_threshold, self.frame_threshold, min_note_len=self.shortest_frames,
                include_pitch_bends=False, melodia_trick=self.melodia_trick,
            )  # fmt: skip
        events = sorted(events)
        onset, offset = (np.array([event[i] for event in events], dtype=np.float64) for i in (0, 1))
        return Notes(onset, offset, np.array([event[2] for event in events], dtype=np.int64))


@contextmanager
def _only_onnx() -> Iterator[None]:
    """Keep basic-pitch from loading frameworks that it would prefer to onnxruntime, and its warnings."""
    handlers, blocked = list(logging.root.handlers), [name for name in OTHER_BACKENDS if name not in sys.modules]
    disabled = logging.root.manager.disable
    sys.modules.update(dict.fromkeys(blocked))  # None: importing it fails as if it were not installed
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(disabled)
        logging.root.handlers[:] = handlers  # its first warning sets up a handler for everyone
        for name in blocked:
            del sys.modules[name]
