"""The report of a user's recordings: one HTML page with a table, and for each pair a picture and its problems.

The pairs that are not used come first.
"""

import functools
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from midi2wave.audio.io import read_resampled
from midi2wave.midi.performance import CLIP_MARGIN_SECONDS, Performance, clip
from midi2wave.midi.reader import read_midi
from midi2wave.plotting.listening_page import render_page
from midi2wave.plotting.pictures import save_picture
from midi2wave.recordings.check import EXCERPT_SECONDS, CheckedPair, CheckedRecordings
from midi2wave.recordings.problems import ANALYSIS_HZ
from midi2wave.utils.atomic_files import write_text
from midi2wave.utils.cli import progress
from midi2wave.utils.errors import InputError
from midi2wave.utils.file_names import fit_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TEMPLATE = Path(__file__).with_name("report_page.html")
PAGE_NAME = "index.html"
PICTURES_NAME = "pictures"
# Drawing takes as long as checking; a thousand pictures are not looked at. Pairs with problems come first.
MAX_PICTURES = 100
PITCH_NAMES = ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")


def write_report(checked: CheckedRecordings, folder: Path) -> Path:
    """Write the report; it works without a server and without network.

    Args:
        checked: The recordings.
        folder: Where to; made if need be. A former report in it is replaced.

    Returns:
        The page.

    Raises:
        OSError: The folder cannot be written.
    """
    (folder / PICTURES_NAME).mkdir(parents=True, exist_ok=True)
    order = sorted(range(len(checked.pairs)), key=lambda i: (not checked.pairs[i].problems, i))[:MAX_PICTURES]
    pictures = {}
    for i in progress(sorted(order), len(order), "picture"):
        name = f"{PICTURES_NAME}/{i + 1:04d}_{fit_name(checked.pairs[i].name, '.png', 100)}"
        if _draw_pair(checked.pairs[i], folder / name):
            pictures[i] = name
    usable = [pair for pair in checked.pairs if pair.usable]
    page = render_page(
        TEMPLATE,
        pairs=[(i + 1, pair, pictures.get(i, "")) for i, pair in enumerate(checked.pairs)],
        unmatched=[str(path) for path in checked.unmatched],
        unread=checked.unread,
        n_usable=len(usable),
        minutes=sum(pair.seconds for pair in usable) / 60,
        n_notes=sum(pair.n_notes for pair in usable),
        pitch_name=pitch_name,
    )
    write_text(folder / PAGE_NAME, page)
    return folder / PAGE_NAME


def pitch_name(pitch: int) -> str:
    """The name of a MIDI pitch: 60 -> "C4"."""
    return f"{PITCH_NAMES[pitch % 12]}{pitch // 12 - 1}"


def _draw_pair(pair: CheckedPair, path: Path) -> bool:
    """Draw a stretch of a pair that could be read; returns whether there is a picture."""
    path.unlink(missing_ok=True)  # Of a former report; drawing the new one may fail.
    if not pair.n_notes:
        return False
    start = pair.excerpt_seconds
    try:
        pcm = read_resampled(pair.audio, ANALYSIS_HZ, max_samples=round((start + EXCERPT_SECONDS) * ANALYSIS_HZ))
        performance = read_midi(pair.midi)
    except (InputError, OSError):  # It could be read a moment ago.
        return False
    shifted = clip(
        performance, start - pair.offset_seconds, start - pair.offset_seconds + EXCERPT_SECONDS, CLIP_MARGIN_SECONDS
    )
    samples = pcm[round(start * ANALYSIS_HZ) :]
    save_picture(path, functools.partial(_figure, pair.name, shifted, samples, start))
    return path.is_file()


def _figure(name: str, performance: Performance, samples: np.ndarray, start: float) -> "Figure":
    from midi2wave.plotting.figures import clip_figure

    return clip_figure(performance, EXCERPT_SECONDS, ANALYSIS_HZ, samples, title=f"{name}, from {start:.0f} s")
