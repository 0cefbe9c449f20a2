"""Pedals as features, and as what holds notes: each can be switched off, and what is off is not heard."""

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
from tests.unit.midi.test_performance import made
from wavenet import build_model

FRAME, N_FRAMES = 1 / 250, 30
OTHERS = [name for name in FEATURES if name != "pedals"]
NOTE = [(0.0, 3 * FRAME, 60)]  # its key is down in frames 0, 1 and 2
DEEP = [(FRAME, 127), (9 * FRAME, 0)]  # from frame 1 to frame 8, and so is the note, if it is held
SHALLOW = [(FRAME, 40), (9 * FRAME, 0)]  # the pedal has moved, no damper has


def config_of(**changes) -> DataConfig:
    return DataConfig(audio_hz=4000, midi_hz=250, **changes)


def rows(pedals, **changes) -> np.ndarray:
    return conditioning_for(made(NOTE, pedals), config_of(**changes)).features(0, N_FRAMES)


@pytest.mark.parametrize(("line", "controller"), list(enumerate(PEDALS)))
def test_every_pedal_has_a_row_that_can_be_left_out(line, controller):
    expected = np.zeros((3, N_FRAMES), dtype=np.float32)
    expected[line, 1:9] = np.float32(40 / 127)
    assert np.array_equal(rows({controller: SHALLOW})[-3:], expected)
    assert np.array_equal(rows({controller: SHALLOW})[:-3], rows({})[:-3])
    assert np.array_equal(rows({controller: SHALLOW}, features=OTHERS), rows({}, features=OTHERS))
    assert n_features(OTHERS) == n_features(["note_state"]) - 3


@pytest.mark.parametrize(("controller", "last"), [(SUSTAIN, 8), (SOSTENUTO, 8), (SOFT, 2)])
def test_what_a_pedal_holds_is_held_only_if_it_is_to_extend_notes(controller, last):
    key = OTHERS.index("held_velocity") * N_PITCHES + 60 - 21
    for extends, end in ((True, last), (False, 2)):
        data = config_of(sustain_extends_notes=extends)
        given = conditioning_for(made(NOTE, {controller: DEEP}), data)
        assert np.flatnonzero(given.features(0, N_FRAMES)[key]).tolist() == list(range(end + 1))
        plain = conditioning_for(made([(0.0, (end + 1) * FRAME, 60)]), data)
        assert np.array_equal(given.excitation(0, N_FRAMES), plain.excitation(0, N_FRAMES))
        assert given.excitation(0, N_FRAMES).shape == (N_EXCITATION, N_FRAMES * 16)


def test_sostenuto_holds_the_keys_that_are_down_when_it_is_pressed_and_no_others():
    notes = [(0.0, 3 * FRAME, 60), (2 * FRAME, 4 * FRAME, 62), (0.0, FRAME, 64)]
    given = conditioning_for(made(notes, {SOSTENUTO: [(1.5 * FRAME, 127), (9 * FRAME, 0)]}), config_of())
    held = given.features(0, N_FRAMES)[N_PITCHES : 2 * N_PITCHES] > 0
    assert [np.flatnonzero(held[pitch - 21]).tolist() for pitch in (60, 62, 64)] == [list(range(9)), [2, 3], [0]]


HEARD = {  # whether a model hears that a pedal has moved: only a little, all the way
    ("with pedals", True): (True, True),
    ("with pedals", False): (True, True),
    ("without", True): (False, True),
    ("without", False): (False, False),
}


@pytest.mark.parametrize(("features", "extends"), HEARD)
@pytest.mark.parametrize("controller", [SUSTAIN, SOSTENUTO])
def test_a_model_hears_a_change_of_the_pedal_alone_unless_it_is_switched_off(features, extends, controller):
    data = config_of(features=list(FEATURES) if features == "with pedals" else OTHERS, sustain_extends_notes=extends)
    sizes = {"n_layers": 2, "max_dilation": 2, "n_residual_channels": 8, "n_skip_channels": 8}
    torch.manual_seed(0)
    wavenet = WavenetConfig(n_mixtures=2, n_out_channels=8, n_cond_channels=8, **sizes)
    stack = CondWavenetConfig(lookahead_ms=8.0, **sizes)
    model = build_model(Config(data_config=data, wavenet_config=wavenet, cond_wavenet_config=stack))
    for layer in (model.context.input, model.decoder.output):  # an untrained model hardly listens
        torch.nn.init.normal_(layer.weight, std=0.5)
    pieces = [made(NOTE, {controller: pedal}) for pedal in ([], SHALLOW, DEEP)]
    context, excitation = conditioning(pieces, data, torch.device("cpu")).block(model, 0, N_FRAMES)
    with torch.no_grad():
        history = model.decoder.prepend_silence(torch.zeros(3, N_FRAMES * 16, dtype=torch.long))
        params = model.decoder(history, context, excitation)
    changes = [(params[i] - params[0]).abs().max().item() for i in (1, 2)]
    assert tuple(change > 1e-4 for change in changes) == HEARD[features, extends]
    assert all(change == 0 or change > 1e-4 for change in changes)


def test_a_model_s_pedals_are_not_to_be_changed_behind_its_back():
    whole = Config(data_config=config_of(), wavenet_config=WavenetConfig(), cond_wavenet_config=CondWavenetConfig())
    other = Config(data_config=config_of(sustain_extends_notes=False), wavenet_config=WavenetConfig(),
                   cond_wavenet_config=CondWavenetConfig())  # fmt: skip
    (difference,) = checkpoint.differences(other, whole)
    assert difference == "data_config.sustain_extends_notes = False instead of True"
