"""Fold with overlap: a long piece in parts that are generated side by side, and cross-faded where they meet.

    |======= part 0 ===X
            ~~~~~|=====X= part 1 ===X           | where a part becomes audible    ~ its warm-up, from silence
                         ~~~~~|=====X= part 2 ====|     X the end of a cross-fade, over what both neighbours have

All parts draw a sample of the same time with the same uniforms. Two runs of a model with the same MIDI and the same
uniforms tend to converge to the same samples, whatever their pasts are: after a warm-up of a second neighbours mostly
have equal samples by the time they meet (docs/folding.md). With different uniforms they would remain different. Means
need no uniforms.

Where neighbours are equal, amplitudes add, and a linear cross-fade keeps the level; where they are uncorrelated, powers
add, and the level would fall by 3 dB. Hence each cross-fade is a linear one whose weights a and b are scaled so that
the power stays constant for two sounds of correlation r: a^2 + b^2 + 2 r a b = 1.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from midi2wave.audio.pcm import FULL_SCALE, level_db
from midi2wave.config import DataConfig, InferenceConfig

# Around quieter seams there is no level that could be preserved.
MIN_SEAM_LEVEL_DB = -60.0
USUAL_PERCENTILES = (5, 95)


@dataclass(frozen=True)
class Fold:
    """Where a piece is cut, in frames.

    Attributes:
        n_frames: Length of the piece.
        cuts: Where each part becomes audible; the first at 0.
        warmup: How much earlier than at its cut each part begins.
        overlap: Length of the cross-fades.
    """

    n_frames: int
    cuts: tuple[int, ...]
    warmup: int
    overlap: int

    @property
    def begins(self) -> list[int]:
        """The frame at which each part's stream begins."""
        return [max(0, cut - self.warmup) for cut in self.cuts]

    @property
    def ends(self) -> list[int]:
        """The frame after the last audible one of each part."""
        return [cut + self.overlap for cut in self.cuts[1:]] + [self.n_frames]

    @property
    def stream_frames(self) -> int:
        """The common length of the streams."""
        return max(end - begin for begin, end in zip(self.begins, self.ends, strict=True))


def plan_fold(n_frames: int, settings: InferenceConfig, data: DataConfig, receptive_field: int) -> Fold | None:
    """How a piece is folded; None if it is not: it is no longer than a part, or fold_seconds = 0.

    Args:
        n_frames: Length of the piece.
        settings: Lengths of parts, cross-fades and warm-up.
        data: The model's data_config.
        receptive_field: Of the decoder, in samples; a warm-up is never shorter.
    """
    part = max(1, round(settings.fold_seconds * data.midi_hz))
    overlap = max(1, round(settings.fold_overlap_seconds * data.midi_hz))
    n_parts = math.ceil((n_frames - overlap) / part)  # a rest shorter than a cross-fade is no part
    if not settings.fold_seconds or n_parts < 2:
        return None
    min_warmup = math.ceil(receptive_field * data.midi_hz / data.audio_hz)
    warmup = max(min_warmup, round(settings.fold_warmup_seconds * data.midi_hz))
    return Fold(n_frames, tuple(part * i for i in range(n_parts)), warmup, overlap)


def crossfade_weights(n: int, correlation: float) -> tuple[np.ndarray, np.ndarray]:
    """The weights of a cross-fade, [n] each: of the sound that fades out, and of the one that fades in."""
    fade_in = (np.arange(n) + 0.5) / n
    fade_out = 1 - fade_in
    norm = np.sqrt(fade_out**2 + fade_in**2 + 2 * correlation * fade_out * fade_in)
    return fade_out / norm, fade_in / norm


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """The correlation of two sounds of equal length, from 0 (uncorrelated, opposite, or one is silent) to 1."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    norm = math.sqrt(np.dot(a, a) * np.dot(b, b))
    return max(0.0, float(np.dot(a, b)) / norm) if norm else 0.0


def crossfade_parts(streams: np.ndarray, fold: Fold, hop: int) -> tuple[np.ndarray, list[float]]:
    """Join the streams of the parts with cross-fades.

    Args:
        streams: int16 [parts, stream_frames * hop].
        fold: How the piece is folded.
        hop: Samples per frame.

    Returns:
        The piece, int16 [n_frames * hop], and the correlation of the two sounds at each seam.
    """
    piece = np.zeros(fold.n_frames * hop, dtype=np.int16)
    seam_correlations: list[float] = []
    n = fold.overlap * hop
    for stream, begin, cut, end in zip(streams, fold.begins, fold.cuts, fold.ends, strict=True):
        part = stream[(cut - begin) * hop : (end - begin) * hop]
        if cut:
            before = piece[cut * hop : cut * hop + n]
            seam_correlations.append(correlation(before, part[:n]))
            fade_out, fade_in = crossfade_weights(n, seam_correlations[-1])
            faded = np.rint(fade_out * before + fade_in * part[:n]).clip(-FULL_SCALE, FULL_SCALE - 1)
            part = np.concatenate([faded.astype(np.int16), part[n:]])
        piece[cut * hop : end * hop] = part
    return piece, seam_correlations


def measure_seams(piece: np.ndarray, fold: Fold, data: DataConfig, seam_correlations: list[float]) -> dict[str, Any]:
    """Measure the seams of a piece.

    Args:
        piece: int16 [T], as made by `crossfade_parts`.
        fold: How it was folded.
        data: The model's data_config.
        seam_correlations: As returned by `crossfade_parts`.

    Returns:
        For every seam its time, its correlation, and the level of its cross-fade against the audio of equal length
        before and after it, in dB; for comparison the mean and percentiles of the same level difference elsewhere in
        the piece. None where it is silent.
    """
    n, hop = fold.overlap * (data.audio_hz // data.midi_hz), data.audio_hz // data.midi_hz
    at = [cut * hop for cut in fold.cuts[1:]]
    elsewhere = [start for start in range(n, len(piece) - 2 * n + 1, n) if all(abs(start - cut) >= 2 * n for cut in at)]
    differences = [_level_difference_db(piece, start, n) for start in elsewhere]
    usual = [value for value in differences if value is not None]
    low, high = np.percentile(usual, USUAL_PERCENTILES).tolist() if usual else (None, None)
    return {
        "seams": [
            {"seconds": start / data.audio_hz, "level_db": _level_difference_db(piece, start, n), "correlation": r}
            for start, r in zip(at, seam_correlations, strict=True)
        ],
        "elsewhere_db": float(np.mean(usual)) if usual else None,
        "elsewhere_low_db": low,
        "elsewhere_high_db": high,
    }


def _level_difference_db(piece: np.ndarray, start: int, n: int) -> float | None:
    """The level of n samples against that of as many before and after them; None if those are silent."""
    around = level_db(np.concatenate([piece[max(0, start - n) : start], piece[start + n : start + 2 * n]]))
    return level_db(piece[start : start + n]) - around if around > MIN_SEAM_LEVEL_DB else None


def format_seams(measured: dict[str, Any]) -> str:
    """The result of `measure_seams` as one line."""
    levels = [seam["level_db"] for seam in measured["seams"] if seam["level_db"] is not None]
    mean_correlation = np.mean([seam["correlation"] for seam in measured["seams"]])
    text = f"{len(measured['seams'])} seams, whose two sounds correlate by {mean_correlation:.2f}"
    if not levels or measured["elsewhere_db"] is None:
        return f"{text}; too quiet for a level"
    return (
        f"{text}; level there against around it {np.mean(levels):+.1f} dB ({min(levels):+.1f} to {max(levels):+.1f}), "
        f"elsewhere {measured['elsewhere_db']:+.1f} dB (nine in ten {measured['elsewhere_low_db']:+.1f} to "
        f"{measured['elsewhere_high_db']:+.1f})"
    )
