"""A performance that grows: keys, pedals, and what is forgotten."""

import numpy as np
import pytest

from midi2wave.conditioning.note_conditioning import conditioning_for
from midi2wave.config import DataConfig
from midi2wave.live.performance import LivePerformance
from midi2wave.midi.performance import SUSTAIN
from midi2wave.utils.errors import InputError

DATA = DataConfig(audio_hz=4000, midi_hz=100)


def test_keys_are_notes_whose_end_is_unknown():
    live = LivePerformance(100, ("year=2009",))
    assert live.press(60, 90, 10) == 10 and live.press(52, 40, 10) == 10
    assert live.release(60, 25) == 25 and live.release(61, 26) is None
    notes = live.snapshot()
    assert notes.global_labels == ("year=2009",)
    assert notes.pitch.tolist() == [52, 60] and notes.velocity.tolist() == [40, 90]
    assert notes.onset.tolist() == [0.1, 0.1] and notes.offset.tolist() == [np.inf, 0.25]


def test_events_of_a_key_in_one_frame_follow_each_other():
    live = LivePerformance(100)
    frames = [live.press(60, 90, 10), live.release(60, 10), live.press(60, 80, 10), live.press(60, 70, 10)]
    assert frames == [10, 11, 11, 12]
    notes = live.snapshot()
    assert notes.onset.tolist() == [0.1, 0.11, 0.12] and notes.offset.tolist() == [0.11, 0.12, np.inf]


def test_all_keys_and_pedals_go_up():
    live = LivePerformance(100)
    live.press(60, 90, 10)
    live.move_pedal(SUSTAIN, 127, 12)
    live.release_all(20)
    notes = live.snapshot()
    assert notes.offset.tolist() == [0.2] and notes.pedals[SUSTAIN].tolist() == [[0.12, 127], [0.2, 0]]


@pytest.mark.parametrize(("pitch", "velocity"), [(20, 64), (109, 64), (60, 0), (60, 128)])
def test_keys_that_a_piano_has_not_are_refused(pitch, velocity):
    with pytest.raises(InputError, match=r"(pitch|velocity) = \d+: expected \d+ to \d+"):
        LivePerformance(100).press(pitch, velocity, 0)


@pytest.mark.parametrize(("pedal", "value"), [(65, 0), (64, 128), (64, -1)])
def test_pedals_that_a_piano_has_not_are_refused(pedal, value):
    with pytest.raises(InputError, match="expected"):
        LivePerformance(100).move_pedal(pedal, value, 0)


def test_what_is_forgotten_has_no_effect():
    """Features and excitation after three minutes are equal with and without it; held keys and pedals stay."""
    rng = np.random.default_rng(0)
    live, whole = LivePerformance(100), LivePerformance(100)
    for one in (live, whole):
        one.press(40, 100, 5)
        one.move_pedal(SUSTAIN, 127, 8)
    for frame in range(10, 18000, 100):
        pitch, velocity = int(rng.integers(50, 60)), int(rng.integers(1, 128))
        for one in (live, whole):
            one.press(pitch, velocity, frame)
            one.release(pitch, frame + 40)
            one.move_pedal(SUSTAIN, 0 if frame % 3000 == 10 else 100, frame + 50)
        live.forget(frame)
    assert len(live.snapshot().onset) < 100 < len(whole.snapshot().onset)
    assert live.snapshot().onset[0] == 0.05  # The key that is down.
    ours, all_notes = (conditioning_for(one.snapshot(), DATA) for one in (live, whole))
    for first in (17950, 18300):
        np.testing.assert_array_equal(ours.features(first, 200), all_notes.features(first, 200))
        np.testing.assert_array_equal(ours.excitation(first, 200), all_notes.excitation(first, 200))
    assert live.release(40, 18000) == 18000
