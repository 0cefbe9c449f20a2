"""Partials of a config: the excitation has them, and each global value can have its own."""

from dataclasses import replace

import numpy as np
import pytest

from midi2wave.conditioning.global_conditioning import one_hot
from midi2wave.conditioning.note_conditioning import NoteConditioning, conditioning_for
from midi2wave.conditioning.partials import default_partials, partials_for
from midi2wave.config import DataConfig, config_from_dict
from midi2wave.midi.performance import PEDALS, Performance
from midi2wave.utils.errors import InputError

HZ = 16000


def test_the_excitation_has_the_configured_partials():
    """Frequency, level, decay and phase of the excitation are those of the config."""
    pedals = {pedal: np.zeros((0, 2)) for pedal in PEDALS}
    piece = Performance(np.zeros(1), np.full(1, 9.0), np.array([69]), np.array([100]), pedals)
    default = default_partials()
    lists = {
        "partial_hz": default.hz * 2 ** (50 / 1200),
        "partial_level": default.level * 2,
        "partial_decay": default.decay * 3,
        "partial_phase": default.phase + np.pi / 2,
    }
    options = {name: values.ravel().tolist() for name, values in lists.items()}
    measured = conditioning_for(piece, DataConfig(**options, velocity_exponent=2.0)).excitation(0, 1000)[0]
    unmeasured = NoteConditioning(piece, DataConfig(audio_hz=HZ, midi_hz=250)).excitation(0, 1000)[0]
    for fundamental, hz in ((measured, 440 * 2 ** (50 / 1200)), (unmeasured, 440.3)):
        spectrum = np.abs(np.fft.rfft(fundamental * np.hanning(len(fundamental))))
        assert abs(spectrum.argmax() * HZ / len(fundamental) - hz) < 0.3
    assert unmeasured[0] == 0 and measured[0] == pytest.approx(2 * (100 / 127) ** 2)  # A cosine instead of a sine.
    late = slice(HZ // 2, HZ // 2 + 400)
    ratios = [np.abs(sound[late]).max() / np.abs(sound[:400]).max() for sound in (measured, unmeasured)]
    assert np.log(ratios[0]) / np.log(ratios[1]) == pytest.approx(3, abs=0.1)


@pytest.mark.parametrize(("key", "values"), [("partial_hz", [440.0] * 88), ("partial_level", [1.0] * 88 * 16)])
def test_wrong_lists_are_refused(key, values):
    message = r"partial_[a-z]*: expected 88 x 16 numbers from .*, 1408 in all.* it has (1408|88)"
    with pytest.raises(InputError, match=message):
        config_from_dict({"data_config": {key: values}}, "test")


def test_every_global_value_can_have_its_own_partials():
    """Recordings get the partials of their value; those of an unknown value get the first ones."""
    default, names = default_partials(), ("hz", "level", "decay", "phase")
    options = {f"partial_{name}": 2 * getattr(default, name).ravel().tolist() for name in names}
    options["partial_hz"][88 * 16 :] = (1.01 * default.hz).ravel().tolist()
    with pytest.raises(InputError, match="88 x 16 numbers"):
        config_from_dict({"data_config": {**options, "global_values": ["year=2008"]}}, "test")
    with pytest.raises(InputError, match=r"of one column.* 1408 in all.* it has 2816"):
        config_from_dict({"data_config": {**options, "global_values": ["year=2008", "piano=1"]}}, "test")
    both = {**options, "global_values": ["year=2008", "year=2009"]}
    data = config_from_dict({"data_config": both}, "test").data_config
    first, second, unknown = (
        partials_for(data, one_hot(labels, data.global_values)).hz for labels in (["year=2008"], ["year=2009"], [])
    )
    assert np.allclose(first, default.hz) and np.allclose(second, 1.01 * default.hz)
    assert np.array_equal(unknown, first)
    performance = Performance(np.zeros(1), np.ones(1), np.array([69]), np.array([100]), {})
    excitations = [
        conditioning_for(replace(performance, global_labels=(label,)), data).excitation(0, 100)
        for label in ("year=2008", "year=2009")
    ]
    assert np.abs(excitations[0] - excitations[1]).max() > 0.1
