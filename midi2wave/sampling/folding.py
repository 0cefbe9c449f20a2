"""Fold with overlap: a long piece as parts that are generated side by side, and cross-faded where they meet.

    |======= part 0 ===X
            ~~~~~|=====X= part 1 ===X           | where a part begins to be heard    ~ its warm-up, from silence
                         ~~~~~|=====X= part 2 ====|     X the end of a cross-fade, over what both neighbours have

All parts draw a sample of the same time with the same uniforms. Two runs of a model that are given the same MIDI and
the same uniforms tend to fall in step, whatever each has heard before: after a warm-up of a second neighbours mostly
are one and the same sound by the time they meet (docs/folding.md). With uniforms of their own they would stay two.

Where neighbours agree, amplitudes add, and a linear cross-fade keeps the level; where they do not, powers add, and it
would dip by 3 dB. Hence each cross-fade is a linear one whose weights a and b are scaled to the power that its two
sounds' correlation r tells: a^2 + b^2 + 2 r a b = 1.
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
    """Where a piece is cut, in frames."""

    n_frames: int  # of the piece
    cuts: tuple[int, ...]  # where each part begins to be heard; the first at 0
    warmup: int
    overlap: int

    @property
    def begins(self) -> list[int]:
        """The frame at which each part's stream begins."""
        return [max(0, cut - self.warmup) for cut in self.cuts]

    @property
    def ends(self) -> list[int]:
        """The frame behind the last one of each part that is heard."""
        return [cut + self.overlap for cut in self.cuts[1:]] + [self.n_frames]

    @property
    def stream_frames(self) -> int:
        """How long the streams are, which are of one length."""
        return max(end - begin for begin, end in zip(self.begins, self.ends, strict=True))


def fold_of(n_frames: int, settings: InferenceConfig, data: DataConfig, receptive_field: int) -> Fold | None:
    """How a piece is folded; None if it is not: no longer than a part, or fold_seconds = 0.

    receptive_field: of the decoder, in samples; a warm-up is never shorter.
    """
    part = max(1, round(settings.fold_seconds * data.midi_hz))
    overlap = max(1, round(settings.fold_overlap_seconds * data.midi_hz))
    n_parts = math.ceil((n_frames - overlap) / part)  # a rest shorter than a cross-fade is no part
    if not settings.fold_seconds or n_parts < 2:
        return None
    heard = math.ceil(receptive_field * data.midi_hz / data.audio_hz)
    warmup = max(heard, round(settings.fold_warmup_seconds * data.midi_hz))
    return Fold(n_frames, tuple(part * i for i in range(n_parts)), warmup, overlap)


def weights(n: int, correlation: float) -> tuple[np.ndarray, np.ndarray]:
    """A cross-fade's weights of the sound that fades out and of the one that fades in, [n] each (see above)."""
    fade_in = (np.arange(n) + 0.5) / n
    fade_out = 1 - fade_in
    norm = np.sqrt(fade_out**2 + fade_in**2 + 2 * correlation * fade_out * fade_in)
    return fade_out / norm, fade_in / norm


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """How far two sounds of one stretch agree: 0 (not at all, or one is silent) to 1."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    norm = math.sqrt(np.dot(a, a) * np.dot(b, b))
    return max(0.0, float(np.dot(a, b)) / norm) if norm else 0.0


def join(streams: np.ndarray, fold: Fold, hop: int) -> tuple[np.ndarray, list[float]]:
    """The parts' streams, int16 [parts, stream_frames * hop] -> the piece, int16 [n_frames * hop], and the correlation
    of the two sounds at each seam."""
    piece, seam_correlations = np.zeros(fold.n_frames * hop, dtype=np.int16), []
    n = fold.overlap * hop
    for stream, begin, cut, end in zip(streams, fold.begins, fold.cuts, fold.ends, strict=True):
        part = stream[(cut - begin) * hop : (end - begin) * hop]
        if cut:
            before = piece[cut * hop : cut * hop + n]
            seam_correlations.append(correlation(before, part[:n]))
            fade_out, fade_in = weights(n, seam_correlations[-1])
            faded = np.rint(fade_out * before + fade_in * part[:n]).clip(-FULL_SCALE, FULL_SCALE - 1)
            part = np.concatenate([faded.astype(np.int16), part[n:]])
        piece[cut * hop : end * hop] = part
    return piece, seam_correlations


def seams(piece: np.ndarray, fold: Fold, data: DataConfig, seam_correlations: list[float]) -> dict[str, Any]:
    """What `join` made, measured: of every seam its second, the correlation, and how many dB the cross-fade is louder
    than what lies as long before and behind it; and how that is elsewhere in the piece, of every stretch of that length
    that is no seam. None where it is silent."""
    n, hop = fold.overlap * (data.audio_hz // data.midi_hz), data.audio_hz // data.midi_hz
    at = [cut * hop for cut in fold.cuts[1:]]
    elsewhere = [start for start in range(n, len(piece) - 2 * n + 1, n) if all(abs(start - cut) >= 2 * n for cut in at)]
    usual = [step for step in (_step_db(piece, start, n) for start in elsewhere) if step is not None]
    low, high = np.percentile(usual, USUAL_PERCENTILES).tolist() if usual else (None, None)
    return {
        "seams": [
            {"seconds": start / data.audio_hz, "level_db": _step_db(piece, start, n), "correlation": agreement}
            for start, agreement in zip(at, seam_correlations, strict=True)
        ],
        "elsewhere_db": float(np.mean(usual)) if usual else None,
        "elsewhere_low_db": low,
        "elsewhere_high_db": high,
    }


def _step_db(piece: np.ndarray, start: int, n: int) -> float | None:
    around = level_db(np.concatenate([piece[max(0, start - n) : start], piece[start + n : start + 2 * n]]))
    return level_db(piece[start : start + n]) - around if around > MIN_SEAM_LEVEL_DB else None


def words(measured: dict[str, Any]) -> str:
    """What `seams` found, as a line."""
    levels = [seam["level_db"] for seam in measured["seams"] if seam["level_db"] is not None]
    agreement = np.mean([seam["correlation"] for seam in measured["seams"]])
    said = f"{len(measured['seams'])} seams, whose two sounds correlate by {agreement:.2f}"
    if not levels or measured["elsewhere_db"] is None:
        return f"{said}; too quiet for a level"
    return (
        f"{said}; level there against around it {np.mean(levels):+.1f} dB ({min(levels):+.1f} to {max(levels):+.1f}), "
        f"elsewhere {measured['elsewhere_db']:+.1f} dB (nine in ten {measured['elsewhere_low_db']:+.1f} to "
        f"{measured['elsewhere_high_db']:+.1f})"
    )
