"""The kinds of files of docs/midi.md on which the project's reader and pretty_midi differ, each as a small file."""

import io
import warnings

import numpy as np
import pretty_midi
import pytest

from midi2wave.midi.performance import SUSTAIN, Performance
from midi2wave.midi.reader import read_midi
from midi2wave.utils.errors import InputError
from tests.helpers.midi_bytes import END, chunk, off, on, pedal, smf, tempo, track

# Half a second, with 480 ticks a quarter note at the default tempo.
BEAT = 480
NOTE = track((0, on(60)), (BEAT, off(60)))
PAIR = track((0, on(60)), (BEAT, off(60)), (BEAT, on(62)), (2 * BEAT, off(62)))


def by_pretty_midi(data: bytes) -> Performance | None:
    """What pretty_midi reads; None if it does not."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return Performance.from_pretty_midi(pretty_midi.PrettyMIDI(io.BytesIO(data)))
        except Exception:  # mido and pretty_midi raise whatever their code meets.
            return None


def notes(performance: Performance | None) -> list[tuple[float, float, int]] | None:
    """(onset, offset, pitch) of each note; None if there is no performance."""
    if performance is None:
        return None
    columns = (performance.onset, performance.offset, performance.pitch)
    return [(round(a, 9), round(b, 9), c) for a, b, c in zip(*(c.tolist() for c in columns), strict=True)]


@pytest.mark.parametrize(
    ("data", "ours", "peer"),
    [
        pytest.param(smf(PAIR), [(0.0, 0.5, 60), (0.5, 1.0, 62)], [(0.0, 0.5, 60), (0.5, 1.0, 62)], id="ordinary"),
        pytest.param(
            smf(track((0, on(60)), (BEAT, on(60)), (2 * BEAT, off(60)), (3 * BEAT, off(60)))),
            [(0.0, 0.5, 60), (0.5, 1.0, 60)],
            [(0.0, 0.5, 60), (0.5, 1.0, 60)],
            id="struck-again",
        ),
        pytest.param(
            smf(track((0, on(60)), (0, off(60)), (0, on(62)), (BEAT, off(62)))),
            [(0.0, 0.0, 60), (0.0, 0.5, 62)],
            [(0.0, 0.5, 62)],
            id="released-in-the-same-tick",
        ),
        pytest.param(
            smf(track((0, on(60)), (0, on(62)), (BEAT, off(62)))),
            [(0.0, 0.5, 60), (0.0, 0.5, 62)],
            [(0.0, 0.5, 62)],
            id="never-released",
        ),
        pytest.param(smf(track((0, tempo(10**6))), NOTE), [(0.0, 1.0, 60)], [(0.0, 1.0, 60)], id="tempo-first-track"),
        pytest.param(smf(NOTE, track((0, tempo(10**6)))), [(0.0, 1.0, 60)], [(0.0, 0.5, 60)], id="tempo-later-track"),
        pytest.param(smf(NOTE, NOTE, file_type=2), [(0.0, 0.5, 60), (0.5, 1.0, 60)], [(0.0, 0.5, 60)], id="type-2"),
        pytest.param(smf(NOTE, division=(256 - 25) << 8 | 40), [(0.0, 0.48, 60)], None, id="smpte"),
        pytest.param(
            b"RIFF" + (20 + len(smf(NOTE))).to_bytes(4, "little") + b"RMIDdata\0\0\0\0" + smf(NOTE),
            [(0.0, 0.5, 60)],
            None,
            id="riff",
        ),
        pytest.param(smf(NOTE, promised=2), [(0.0, 0.5, 60)], None, id="track-missing"),
        pytest.param(smf()[:12] + b"\x01\xe0" + chunk(NOTE, length=99), [(0.0, 0.5, 60)], None, id="long-track"),
        pytest.param(smf(PAIR)[:-9], [(0.0, 0.5, 60), (0.5, 0.5, 62)], None, id="broken-off"),
        pytest.param(
            smf(track((0, b"\xff\x59\x02\x09\x05"), (0, on(60)), (BEAT, off(60)))), [(0.0, 0.5, 60)], None, id="key"
        ),
        pytest.param(
            smf(track((0, b"\xff\x58\x02\x04\x02"), (0, on(60)), (BEAT, off(60)))), [(0.0, 0.5, 60)], None, id="metre"
        ),
        pytest.param(
            smf(track((0, b"\x90\x3c\xc8"), (BEAT, off(60)))), [(0.0, 0.5, 60)], None, id="data-byte-above-127"
        ),
    ],
)
def test_notes(data, ours, peer):
    assert notes(read_midi(io.BytesIO(data))) == ours
    assert notes(by_pretty_midi(data)) == peer


@pytest.mark.parametrize("channel", [0, 3])
def test_pedal_on_a_track_or_channel_without_notes(channel):
    data = smf(NOTE, track((0, pedal(SUSTAIN, 127, channel)), (BEAT, pedal(SUSTAIN, 0, channel))))
    assert read_midi(io.BytesIO(data)).pedals[SUSTAIN].tolist() == [[0.0, 127.0], [0.5, 0.0]]
    assert len(by_pretty_midi(data).pedals[SUSTAIN]) == 0


def test_pedal_before_notes_of_several_programs():
    """pretty_midi gives such events to each instrument of the track; the conversion counts them once."""
    program = b"\xc0\x01"
    moves = [(0, pedal(SUSTAIN, 127)), (BEAT, on(60)), (2 * BEAT, off(60)), (2 * BEAT, program)]
    data = smf(track(*moves, (3 * BEAT, on(62)), (4 * BEAT, off(62)), end=END))
    midi = pretty_midi.PrettyMIDI(io.BytesIO(data))
    assert sum(len(instrument.control_changes) for instrument in midi.instruments) == 2
    for performance in (read_midi(io.BytesIO(data)), Performance.from_pretty_midi(midi)):
        assert performance.pedals[SUSTAIN].tolist() == [[0.0, 127.0]]


def test_files_that_both_refuse():
    for data in (b"version https://git-lfs.github.com/spec/v1\n", smf(track()), smf(), smf(NOTE, division=0)):
        with pytest.raises(InputError):
            read_midi(io.BytesIO(data))
        performance = by_pretty_midi(data)
        assert performance is None or not np.isfinite(performance.offset).all()
