"""A second, stronger transcriber: notes with velocities, and the sustain pedal, by Transkun; their scores.

    pip install -r requirements-transcribe.txt && pip install --no-deps basic-pitch==0.4.0 transkun==2.0.1

Transkun 2.0.1 (Yan and Duan, ISMIR 2024, arXiv 2404.09466; MIT) has its weights in its package. It is optional: without
it there are no such scores. Of what its package requires, transcribing needs nothing but this project's own packages:
torchaudio would only compute the mel filters that the file of weights holds, too.
"""

import contextlib
import io
import json
import math
import sys
import types
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata, resources

import numpy as np
import torch

from midi2wave.audio.pcm import FULL_SCALE
from midi2wave.evaluation.transcription import Notes, matched_pairs, note_f1
from midi2wave.midi.performance import PEDAL_DOWN, SUSTAIN, Performance

# Of the network: pitches above 0 are notes, and this is the sustain pedal.
SUSTAIN_PITCH = -SUSTAIN
# Pearson's correlation of fewer velocities says nothing.
MIN_MATCHED_NOTES = 5
# The network was trained on segments of 16 s. Audio of up to this length is one segment, with silence after it; the
# package would divide 10 s into four. Segments of another length are transcribed badly.
SEGMENT_SECONDS = 16.0
MAX_ONE_SEGMENT_SECONDS = 15.9


@dataclass(frozen=True)
class PlayedEvents:
    """What a pianist did, or what a transcriber detects of it.

    Attributes:
        notes: Onsets, releases of the piano keys (not of the pedal), and pitches; N notes.
        velocity: int64 [N].
        pedal: When the sustain pedal is down, seconds, float64 [M, 2].
    """

    notes: Notes
    velocity: np.ndarray
    pedal: np.ndarray

    def between(self, start: float, end: float) -> "PlayedEvents":
        """The notes that begin in [start, end) seconds, and the pedal within it."""
        inside = (self.notes.onset >= start) & (self.notes.onset < end)
        pedal = self.pedal.clip(start, end)
        return PlayedEvents(self.notes.between(start, end), self.velocity[inside], pedal[pedal[:, 1] > pedal[:, 0]])


def performed_events(performance: Performance, start: float, end: float) -> PlayedEvents:
    """The events of a performance in [start, end) seconds; what lasts longer ends there."""
    notes = Notes(performance.onset, np.minimum(performance.offset, end), performance.pitch)
    pedal = _down_intervals(performance.pedals.get(SUSTAIN, np.empty((0, 2))), end)
    return PlayedEvents(notes, performance.velocity, pedal).between(start, end)


def _down_intervals(events: np.ndarray, end: float) -> np.ndarray:
    """When a pedal of (seconds, value) events is down, up to `end`: float64 [M, 2]."""
    down = events[:, 1] >= PEDAL_DOWN
    edges = np.diff(down.astype(int), prepend=0)
    pressed, released = events[edges > 0, 0], events[edges < 0, 0]
    return np.stack([pressed, np.concatenate([released, [end] * (len(pressed) - len(released))])], axis=1)


def event_scores(reference: PlayedEvents, estimate: PlayedEvents) -> dict[str, float]:
    """Scores of detected events.

    Args:
        reference: Of the MIDI.
        estimate: Detected by the transcriber.

    Returns:
        `f1` and `f1_offsets`: as `note_f1`, where a note ends when its piano key is released. `velocity`: Pearson's
        correlation of the velocities of the notes that `f1` counts as correct; NaN of fewer than five, or if all are
        equal. `pedal_f1`: F1 of the time during which the sustain pedal is down; NaN if it never is in the reference.
    """
    return {
        "f1": note_f1(reference.notes, estimate.notes),
        "f1_offsets": note_f1(reference.notes, estimate.notes, with_offsets=True),
        "velocity": _velocity_correlation(reference, estimate),
        "pedal_f1": _pedal_f1(reference.pedal, estimate.pedal),
    }


def _velocity_correlation(reference: PlayedEvents, estimate: PlayedEvents) -> float:
    pairs = matched_pairs(reference.notes, estimate.notes)
    a, b = reference.velocity[pairs[:, 0]], estimate.velocity[pairs[:, 1]]
    if len(pairs) < MIN_MATCHED_NOTES or np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    return float(np.corrcoef(a, b)[0, 1])


def _pedal_f1(reference: np.ndarray, estimate: np.ndarray) -> float:
    """Twice the common time, divided by the time of both."""
    if not len(reference):
        return float("nan")
    starts, ends = (np.array(pair) for pair in (reference[:, None, 0], reference[:, None, 1]))
    common = (np.minimum(ends, estimate[:, 1]) - np.maximum(starts, estimate[:, 0])).clip(0).sum()
    return float(2 * common / sum((pedal[:, 1] - pedal[:, 0]).sum() for pedal in (reference, estimate)))


class TranskunTranscriber:
    """Transkun, loaded once; it runs on the CPU.

    Attributes:
        name: Name and version of the transcriber.
    """

    def __init__(self) -> None:
        """Load the network. Raises ImportError if transkun or mir_eval is not installed."""
        import mir_eval  # noqa: F401 - missing packages are reported before audio is generated

        # Whoever draws random numbers elsewhere gets the same ones with and without this transcriber.
        with _stand_in_for_torchaudio(), warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
            warnings.simplefilter("ignore")
            from transkun.ModelTransformer import ModelConfig, TransKun

            folder = resources.files("transkun") / "pretrained"
            config = ModelConfig()
            vars(config).update(json.loads((folder / "2.0.conf").read_text(encoding="utf-8"))["Model"]["config"])
            self._model = TransKun(conf=config).eval()
            with (folder / "2.0.pt").open("rb") as handle:
                weights = torch.load(handle, map_location="cpu", weights_only=True)["state_dict"]
            self._model.load_state_dict(weights)  # Strict: the file has the mel filters and all else.
        self._hidden: list[torch.Tensor] = []
        self._model.backbone.register_forward_hook(self._keep_hidden)
        self.name = f"transkun {metadata.version('transkun')}"

    def _keep_hidden(self, _module: torch.nn.Module, _inputs: object, output: torch.Tensor) -> None:
        """Keep the output of the network's last layer before its heads, [1, keys and pedals, frames, D]: the mean."""
        self._hidden.append(output[0].mean(dim=0))

    def events(self, pcm: np.ndarray, audio_hz: int) -> PlayedEvents:
        """The events in int16 [T] of any sample rate."""
        return self.analyse(pcm, audio_hz)[0]

    def analyse(self, pcm: np.ndarray, audio_hz: int) -> tuple[PlayedEvents, np.ndarray]:
        """Transcribe audio, and give the hidden features on the way.

        Args:
            pcm: int16 [T].
            audio_hz: Any sample rate.

        Returns:
            The events, and the output of the network's last layer, averaged over the 88 piano keys and two pedals:
            float32 [frames, D], a frame every 23 ms. Audio above 15.9 s has the frames of all segments. Silence has
            neither events nor frames.
        """
        import soxr

        self._hidden.clear()
        if not pcm.any():  # The network brings every input to the same level, and silence has none.
            return _played([]), np.empty((0, 1), dtype=np.float32)
        audio = soxr.resample(pcm.astype(np.float32) / FULL_SCALE, audio_hz, self._model.fs)
        one_segment = len(audio) <= MAX_ONE_SEGMENT_SECONDS * self._model.fs
        length = SEGMENT_SECONDS if one_segment else None
        # The package prints what it repairs, and PyTorch warns about how the package calls it.
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings(), torch.inference_mode():
            warnings.simplefilter("ignore")
            detected = self._model.transcribe(torch.from_numpy(audio)[:, None], length, length)
        features = torch.cat(self._hidden).numpy()
        if one_segment:  # Behind the audio there is only silence.
            features = features[: math.ceil(len(audio) / self._model.hopSize)]
        return _played([(one.start, one.end, one.pitch, one.velocity) for one in detected]), features


def _played(rows: list[tuple[float, float, int, int]]) -> PlayedEvents:
    """Events from (start, end, pitch, velocity), where pedals have negative pitches."""
    values = np.array(sorted(rows), dtype=np.float64).reshape(-1, 4)
    notes = values[values[:, 2] > 0]
    pitch, velocity = (notes[:, column].astype(np.int64) for column in (2, 3))
    return PlayedEvents(Notes(notes[:, 0], notes[:, 1], pitch), velocity, values[values[:, 2] == SUSTAIN_PITCH][:, :2])


@contextlib.contextmanager
def _stand_in_for_torchaudio() -> Iterator[None]:
    """Within it `import torchaudio` gives the one function that the network's constructor calls.

    It computes mel filters, which the weights replace a moment later: zeros of their shape will do.
    """

    def melscale_fbanks(n_freqs: int, n_mels: int, **_: float) -> torch.Tensor:
        return torch.zeros(n_freqs, n_mels)

    stand_in = types.ModuleType("torchaudio")
    stand_in.functional = types.SimpleNamespace(melscale_fbanks=melscale_fbanks)  # type: ignore[attr-defined]
    before = sys.modules.get("torchaudio")
    sys.modules["torchaudio"] = stand_in
    try:
        yield
    finally:
        del sys.modules["torchaudio"]
        if before is not None:
            sys.modules["torchaudio"] = before
