"""Pedals of several channels, and the controllers that lift pedals or release all keys of their channel."""

import io
import tracemalloc

import pretty_midi
import pytest

from midi2wave.midi.keyboard import DRUM_PEDALS
from midi2wave.midi.performance import PEDALS, SOSTENUTO, SUSTAIN, Performance, sounding_offset
from midi2wave.midi.reader import read_midi
from tests.helpers.midi_bytes import off, on, pedal, smf, track

# Half a second, with 480 ticks a quarter note at the default tempo.
BEAT = 480
ALL_SOUND_OFF = 120
RESET_ALL_CONTROLLERS = 121
ALL_NOTES_OFF = 123


def read(*tracks: bytes, file_type: int = 1) -> Performance:
    return read_midi(io.BytesIO(smf(*tracks, file_type=file_type)))


def sounding_offsets(performance: Performance) -> list[float]:
    return sounding_offset(performance).tolist()


@pytest.mark.parametrize("controller", PEDALS)
def test_reset_all_controllers_lifts_the_pedal(controller):
    moves = [(0, on(60)), (0, pedal(controller, 127)), (BEAT, off(60)), (2 * BEAT, pedal(RESET_ALL_CONTROLLERS, 0))]
    performance = read(track(*moves, (9 * BEAT, pedal(controller, 0))))
    assert performance.pedals[controller].tolist() == [[0.0, 127.0], [1.0, 0.0], [4.5, 0.0]]
    assert sounding_offsets(performance) == [1.0 if controller != 67 else 0.5]


def test_reset_of_pedals_that_are_up_leaves_no_event():
    reset = pedal(RESET_ALL_CONTROLLERS, 0)
    moves = [
        (0, reset),
        (0, on(60)),
        (0, pedal(SUSTAIN, 90)),
        (BEAT, off(60)),
        (BEAT, pedal(SUSTAIN, 0)),
        (BEAT, reset),
    ]
    performance = read(track(*moves))
    assert performance.pedals[SUSTAIN].tolist() == [[0.0, 90.0], [0.5, 0.0]]
    assert len(performance.pedals[SOSTENUTO]) == 0


@pytest.mark.parametrize("in_one_track", [True, False])
def test_pedal_stays_down_while_one_channel_holds_it(in_one_track):
    first = [(0, on(60)), (0, pedal(SUSTAIN, 100)), (BEAT, off(60)), (6 * BEAT, pedal(SUSTAIN, 0))]
    second = [(BEAT, on(72, channel=1)), (2 * BEAT, off(72, 1)), (3 * BEAT, pedal(SUSTAIN, 0, 1))]
    second.insert(0, (0, pedal(SUSTAIN, 127, 1)))
    together = sorted(first + second, key=lambda event: event[0])
    performance = read(track(*together)) if in_one_track else read(track(*first), track(*second))
    assert performance.pedals[SUSTAIN].tolist() == [[0.0, 100.0], [0.0, 127.0], [1.5, 100.0], [3.0, 0.0]]
    assert sounding_offsets(performance) == [3.0, 3.0]


def test_reset_of_one_channel_leaves_the_pedal_of_another():
    first = [(0, on(60)), (0, pedal(SUSTAIN, 127)), (BEAT, off(60)), (6 * BEAT, pedal(SUSTAIN, 0))]
    second = [(0, pedal(SUSTAIN, 64, 1)), (BEAT, pedal(RESET_ALL_CONTROLLERS, 0, 1))]
    performance = read(track(*first), track(*second))
    assert performance.pedals[SUSTAIN].tolist() == [[0.0, 127.0], [0.0, 127.0], [0.5, 127.0], [3.0, 0.0]]
    assert sounding_offsets(performance) == [3.0]


@pytest.mark.parametrize("controller", [ALL_SOUND_OFF, ALL_NOTES_OFF, 124, 125, 126, 127])
def test_controllers_that_release_the_keys_of_their_channel(controller):
    moves = [(0, on(60)), (0, on(64, channel=1)), (BEAT, pedal(controller, 0)), (3 * BEAT, off(64, 1))]
    performance = read(track(*moves, (4 * BEAT, on(60)), (5 * BEAT, off(60)), (9 * BEAT, on(71)), (9 * BEAT, off(71))))
    assert performance.offset.tolist() == [0.5, 1.5, 2.5, 4.5]
    assert performance.dropped == ()


@pytest.mark.parametrize("notes_first", [True, False])
def test_all_notes_off_on_another_track_of_the_channel(notes_first):
    notes = track((0, on(60)), (BEAT, on(62)), (9 * BEAT, on(64)), (9 * BEAT, off(64)))
    control = track((BEAT, pedal(ALL_NOTES_OFF, 0)), (BEAT, pedal(ALL_NOTES_OFF, 0, 1)))
    performance = read(*((notes, control) if notes_first else (control, notes)))
    # The key that is pressed in its tick goes on.
    assert performance.offset.tolist() == [0.5, 4.5, 4.5]


def test_all_notes_off_after_the_end_of_another_track():
    """A key that is down there is released by it; no other track is held responsible for it."""
    performance = read(
        track((0, on(60))), track((2 * BEAT, pedal(ALL_NOTES_OFF, 0)), (9 * BEAT, on(64)), (9 * BEAT, off(64)))
    )
    assert performance.offset.tolist() == [1.0, 4.5] and performance.dropped == ()


def test_all_notes_off_on_thousands_of_tracks():
    """Time and memory grow with the number of tracks, not with its square."""
    one = track((0, on(60)), (BEAT, pedal(ALL_NOTES_OFF, 0)), (2 * BEAT, on(61)), (3 * BEAT, off(61)))
    tracemalloc.start()
    performance = read(*[one] * 5000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert performance.offset.tolist() == [0.5, 1.5] and peak < 50e6


def test_all_notes_off_leaves_what_the_pedal_holds():
    """As a note-off does; all sound off also lets the dampers fall."""
    moves = [(0, pedal(SUSTAIN, 127)), (0, on(60)), (6 * BEAT, pedal(SUSTAIN, 0))]
    sustained = read(track(*moves[:2], (BEAT, pedal(ALL_NOTES_OFF, 0)), moves[2]))
    assert sustained.offset.tolist() == [0.5] and sounding_offsets(sustained) == [3.0]
    silent = read(track(*moves[:2], (BEAT, pedal(ALL_SOUND_OFF, 0)), moves[2]))
    assert silent.offset.tolist() == sounding_offsets(silent) == [0.5]


def test_pedal_of_the_drum_channel_is_left_out():
    drums = [(0, pedal(SUSTAIN, 127, 9)), (0, on(36, channel=9)), (BEAT, off(36, 9))]
    performance = read(track((0, on(60)), (BEAT, off(60))), track(*drums))
    assert len(performance.pedals[SUSTAIN]) == 0 and sounding_offsets(performance) == [0.5]
    assert f"{DRUM_PEDALS}: 1" in performance.dropped


def test_instruments_of_pretty_midi_have_their_own_pedals():
    midi = pretty_midi.PrettyMIDI(resolution=480)
    for channel, release in enumerate((3.0, 1.5)):
        instrument = pretty_midi.Instrument(channel)
        instrument.notes = [pretty_midi.Note(64, 60 + channel, 0.0, 0.5)]
        controls = [(SUSTAIN, 100, 0.0), (SUSTAIN, 0, release)]
        instrument.control_changes = [pretty_midi.ControlChange(*control) for control in controls]
        midi.instruments.append(instrument)
    midi.instruments.append(pretty_midi.Instrument(0, is_drum=True))
    midi.instruments[-1].control_changes = [pretty_midi.ControlChange(SUSTAIN, 127, 0.0)]
    performance = Performance.from_pretty_midi(midi)
    assert performance.pedals[SUSTAIN].tolist() == [[0.0, 100.0], [0.0, 100.0], [1.5, 100.0], [3.0, 0.0]]
    midi.instruments[0].control_changes[1] = pretty_midi.ControlChange(RESET_ALL_CONTROLLERS, 0, 3.0)
    assert sounding_offsets(Performance.from_pretty_midi(midi)) == [3.0, 3.0]
