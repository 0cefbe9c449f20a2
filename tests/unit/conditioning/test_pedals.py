"""Pedals as features, and pedals that extend notes: each can be switched off."""

import numpy as np
import pytest
import torch

from midi2wave import checkpoint
from midi2wave.conditioning.excitation import N_EXCITATION
from midi2wave.conditioning.features import n_features
from midi2wave.conditioning.note_conditioning import conditioning_for
from midi2wave.config import FEATURES, CondWavenetConfig, Config, DataConfig, WavenetConfig
from midi2wave.midi.performance import N_PITCHES, PEDALS, SOFT, SOSTENUTO, SUSTAIN
from midi2wave.sampling.synthesis import conditioning
from tests.helpers.performances import performance_of
from wavenet import build_model

FRAME, N_FRAMES = 1 / 250, 30
OTHERS = [name for name in FEATURES if name != "pedals"]
NOTE = [(0.0, 3 * FRAME, 60)]  # its key is down in frames 0, 1 and 2
DEEP = [(FRAME, 127), (9 * FRAME, 0)]  # from frame 1 to frame 8, and so is the note, if it is held
SHALLOW = [(FRAME, 40), (9 * FRAME, 0)]  # the pedal has moved, no damper has


def config_of(**options) -> DataConfig:
    return DataConfig(audio_hz=4000, midi_hz=250, **options)


def rows(pedals, **options) -> np.ndarray:
    return conditioning_for(performance_of(NOTE, pedals), config_of(**options)).features(0, N_FRAMES)


@pytest.mark.parametrize(("line", "controller"), list(enumerate(PEDALS)))
def test_every_pedal_has_a_row_that_can_be_omitted(line, controller):
    expected = np.zeros((3, N_FRAMES), dtype=np.float32)
    expected[line, 1:9] = np.float32(40 / 127)
    assert np.array_equal(rows({controller: SHALLOW})[-3:], expected)
    assert np.array_equal(rows({controller: SHALLOW})[:-3], rows({})[:-3])
    assert np.array_equal(rows({controller: SHALLOW}, features=OTHERS), rows({}, features=OTHERS))
    assert n_features(OTHERS) == n_features(["note_state"]) - 3


@pytest.mark.parametrize(("controller", "last"), [(SUSTAIN, 8), (SOSTENUTO, 8), (SOFT, 2)])
def test_pedals_extend_notes_only_if_configured(controller, last):
    key = OTHERS.index("held_velocity") * N_PITCHES + 60 - 21
    for extends, end in ((True, last), (False, 2)):
        data = config_of(sustain_extends_notes=extends)
        with_pedal = conditioning_for(performance_of(NOTE, {controller: DEEP}), data)
        assert np.flatnonzero(with_pedal.features(0, N_FRAMES)[key]).tolist() == list(range(end + 1))
        plain = conditioning_for(performance_of([(0.0, (end + 1) * FRAME, 60)]), data)
        assert np.array_equal(with_pedal.excitation(0, N_FRAMES), plain.excitation(0, N_FRAMES))
        assert with_pedal.excitation(0, N_FRAMES).shape == (N_EXCITATION, N_FRAMES * 16)


def test_sostenuto_holds_only_keys_that_are_down():
    """Sostenuto holds the keys that are down when it is pressed, and no others."""
    notes = [(0.0, 3 * FRAME, 60), (2 * FRAME, 4 * FRAME, 62), (0.0, FRAME, 64)]
    with_pedal = conditioning_for(performance_of(notes, {SOSTENUTO: [(1.5 * FRAME, 127), (9 * FRAME, 0)]}), config_of())
    is_held = with_pedal.features(0, N_FRAMES)[N_PITCHES : 2 * N_PITCHES] > 0
    assert [np.flatnonzero(is_held[pitch - 21]).tolist() for pitch in (60, 62, 64)] == [list(range(9)), [2, 3], [0]]


# Whether a model's output depends on a pedal that moves: only a little, all the way.
IS_EFFECTIVE = {
    ("with pedals", True): (True, True),
    ("with pedals", False): (True, True),
    ("without", True): (False, True),
    ("without", False): (False, False),
}


@pytest.mark.parametrize(("features", "extends"), IS_EFFECTIVE)
@pytest.mark.parametrize("controller", [SUSTAIN, SOSTENUTO])
def test_pedal_change_alone_reaches_the_model(features, extends, controller):
    """A change of the pedal alone changes a model's output unless pedals are switched off."""
    data = config_of(features=list(FEATURES) if features == "with pedals" else OTHERS, sustain_extends_notes=extends)
    sizes = {"n_layers": 2, "max_dilation": 2, "n_residual_channels": 8, "n_skip_channels": 8}
    torch.manual_seed(0)
    wavenet = WavenetConfig(n_mixtures=2, n_out_channels=8, n_cond_channels=8, **sizes)
    stack = CondWavenetConfig(lookahead_ms=8.0, **sizes)
    model = build_model(Config(data_config=data, wavenet_config=wavenet, cond_wavenet_config=stack))
    for layer in (model.context.input, model.decoder.output):  # an untrained model hardly depends on its inputs
        torch.nn.init.normal_(layer.weight, std=0.5)
    pieces = [performance_of(NOTE, {controller: pedal}) for pedal in ([], SHALLOW, DEEP)]
    context, excitation = conditioning(pieces, data, torch.device("cpu")).block(model, 0, N_FRAMES)
    with torch.no_grad():
        history = model.decoder.prepend_silence(torch.zeros(3, N_FRAMES * 16, dtype=torch.long))
        params = model.decoder(history, context, excitation)
    differences = [(params[i] - params[0]).abs().max().item() for i in (1, 2)]
    assert tuple(difference > 1e-4 for difference in differences) == IS_EFFECTIVE[features, extends]
    assert all(difference == 0 or difference > 1e-4 for difference in differences)


def test_changed_pedal_option_is_a_difference_of_configs():
    whole, other = (
        Config(data_config=data, wavenet_config=WavenetConfig(), cond_wavenet_config=CondWavenetConfig())
        for data in (config_of(), config_of(sustain_extends_notes=False))
    )
    (difference,) = checkpoint.differences(other, whole)
    assert difference == "data_config.sustain_extends_notes = False instead of True"
