"""Check that the numbers of a float file are amplitudes, in units of full scale."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from midi2wave.utils.errors import InputError

# No mix is overloaded by more than 40 dB: numbers beyond have another scale, or the file is damaged.
MAX_AMPLITUDE = 100.0
# From here on, whole numbers without any fraction are samples of a quiet recording in 16 bits: a mix has fractions.
MIN_INTEGER = 2.0
INTEGER_BITS = (16, 24, 32)


def require_amplitudes(
    path: str | Path, block: np.ndarray, first_frame: int, audio_hz: int, rest: Iterable[np.ndarray]
) -> None:
    """Refuse a block that holds NaN, infinity or numbers of another scale.

    Args:
        path: The file.
        block: A part of it, float [n, channels].
        first_frame: Where the block begins.
        audio_hz: The sample rate of the file.
        rest: The blocks that follow; they are read only if the block is refused, to tell the scale.

    Raises:
        InputError: The block is refused.
    """
    magnitude = np.abs(block)
    peak = float(magnitude.max(initial=0.0))  # NaN if there is any.
    if peak < MIN_INTEGER:
        return
    is_sound = magnitude <= MAX_AMPLITUDE
    is_integer = bool(np.isfinite(peak)) and np.array_equal(block, np.rint(block))
    if is_sound.all() and not is_integer:
        return
    # In a damaged file few samples are too large, in one of another scale most of them.
    if is_integer or (np.isfinite(peak) and np.mean(magnitude[magnitude > 0] > 1) > 0.5):
        peak = max([peak, *(float(np.abs(other).max()) for other in rest)])
        # Resampling and filters make the largest numbers a little larger.
        bits = next((bits for bits in INTEGER_BITS if peak <= 2**bits), None)
        if bits:
            raise InputError(
                f"{path} has samples up to {peak:,.0f} times full scale: it looks like {bits}-bit integers stored as "
                f"float; divide by {2 ** (bits - 1)} and export it again"
            )
    frame = int(np.argmin(is_sound.all(axis=1)))
    is_finite = np.isfinite(block[frame]).all()
    kind = f"samples beyond {MAX_AMPLITUDE:g} times full scale" if is_finite else "NaN or infinite samples"
    raise InputError(f"{path} has {kind}, the first at {(first_frame + frame) / audio_hz:.3f} s; export it again")
