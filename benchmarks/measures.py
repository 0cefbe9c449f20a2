"""Validation of the measures of evaluate.py: scores of recordings, of noise and of wrong clips.

    python -m benchmarks.measures test data/real/test_10s   # folders of test clips; the tables of docs/evaluation.md
    python -m benchmarks.measures data/real/train_clips --thresholds

It uses no model. It needs the transcriber (requirements-transcribe.txt).
"""

import itertools
from pathlib import Path

import numpy as np
import soundfile

from midi2wave.audio.pcm import FULL_SCALE
from midi2wave.data.pairing import mismatched_pairs
from midi2wave.data.test_clips import Clip, clip_paths, clip_source, read_clip
from midi2wave.evaluation.metrics import chroma_similarity, chroma_vectors, mean, multi_resolution_stft, onset_agreement
from midi2wave.evaluation.transcription import INSTALL, Transcriber, note_f1, played_notes
from midi2wave.utils.cli import make_plain_parser, run
from midi2wave.utils.errors import InputError

SCORE_NAMES = ("f1", "f1_offsets", "chroma", "(cosine)", "onsets", "mrstft")


def main(argv: list[str] | None = None) -> int:
    """Print a table for each folder; returns the exit code."""
    parser = make_plain_parser(__doc__)
    parser.add_argument("folders", nargs="+", type=Path, help="folders of test clips (preprocess_audio.py)")
    parser.add_argument("--thresholds", action="store_true", help="only the F1 of the recordings, by other thresholds")
    args = parser.parse_args(argv)
    try:
        transcriber = Transcriber()
    except ImportError as error:
        raise InputError(f"no transcriber ({error}); {INSTALL}") from error
    for folder in args.folders:
        audio_hz = soundfile.info(clip_paths(folder)[0]).samplerate
        clips = [read_clip(path, audio_hz) for path in clip_paths(folder)]
        if len(clips) < 2:
            raise InputError(f"{folder} holds one clip, expected two or more; cut more with preprocess_audio.py")
        print(f"\n{folder}: {len(clips)} clips at {audio_hz} Hz, {transcriber.name}")
        (print_thresholds if args.thresholds else print_scores)(clips, audio_hz, transcriber)
    return 0


def print_scores(clips: list[Clip], hz: int, transcriber: Transcriber) -> None:
    """Each score of four kinds of audio against the recording and MIDI of each clip, averaged over the clips."""
    rng = np.random.default_rng(0)
    rows: dict[str, list[tuple[float, ...]]] = {}
    for clip, other in zip(clips, mismatched_pairs([clip_source(clip.name) for clip in clips]), strict=True):
        truth = clip.pcm.astype(np.float64)
        noise = rng.normal(scale=np.sqrt(np.mean(truth**2)), size=len(truth))
        kinds = {
            "the recording": truth,
            "with noise at -10 dB": truth + noise * 10**-0.5,
            "white noise": noise,
            "another clip": clips[other].pcm,
        }
        for kind, audio in kinds.items():
            pcm = np.rint(audio).clip(-FULL_SCALE, FULL_SCALE - 1).astype(np.int16)
            rows.setdefault(kind, []).append(scores_of(pcm, clip, hz, transcriber))
    print(f"{'':22}" + "".join(f"{name:>12}" for name in SCORE_NAMES))
    for kind, scores in rows.items():
        print(f"{kind:22}" + "".join(f"{mean(column):12.2f}" for column in zip(*scores, strict=True)))
    f1 = [row[0] for row in rows["the recording"]]
    print(f"F1 of the recordings: {min(f1):.2f} to {max(f1):.2f}")


def scores_of(pcm: np.ndarray, clip: Clip, hz: int, transcriber: Transcriber) -> tuple[float, ...]:
    """The scores of int16 [T] against a clip, in the order of SCORE_NAMES."""
    seconds = len(clip.pcm) / hz
    notes, transcription = played_notes(clip.performance, 0, seconds), transcriber.notes(pcm, hz).between(0, seconds)
    return (
        note_f1(notes, transcription),
        note_f1(notes, transcription, with_offsets=True),
        chroma_similarity(pcm, clip.pcm, hz),
        chroma_cosine(pcm, clip.pcm, hz),
        onset_agreement(pcm, clip.pcm, hz),
        multi_resolution_stft(pcm, clip.pcm),
    )


def chroma_cosine(output: np.ndarray, truth: np.ndarray, hz: int) -> float:
    """The usual cosine similarity of chroma vectors, for comparison with `chroma_similarity`."""
    n = min(len(output), len(truth))
    a, b = chroma_vectors(output[:n], hz), chroma_vectors(truth[:n], hz)
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return mean((np.einsum("tc,tc->t", a, b) / np.maximum(norms, 1e-12))[norms > 1e-9])


def print_thresholds(clips: list[Clip], hz: int, transcriber: Transcriber) -> None:
    """F1 of the recordings themselves by the transcriber's thresholds."""
    activations = [transcriber.activations(clip.pcm, hz) for clip in clips]
    references = [played_notes(clip.performance, 0, len(clip.pcm) / hz) for clip in clips]
    for onset, frame, min_frames, melodia in itertools.product((0.4, 0.5, 0.6, 0.7), (0.3,), (3, 5, 11), (False, True)):
        transcriber.onset_threshold = onset
        transcriber.frame_threshold = frame
        transcriber.min_frames = min_frames
        transcriber.melodia_trick = melodia
        pairs = zip(references, activations, strict=True)
        f1 = [note_f1(reference, transcriber.decode(activation)) for reference, activation in pairs]
        print(f"onset {onset}, frame {frame}, shortest {min_frames:2}, melodia {melodia!s:5}: {mean(f1):.3f}")


if __name__ == "__main__":
    run(main)
