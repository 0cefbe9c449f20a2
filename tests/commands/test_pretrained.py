"""The shipped weights play: they follow notes, loudness and pedal, keep their level, and fall silent at the end."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from midi2wave import checkpoint
from midi2wave.audio.pcm import level_db
from midi2wave.config import load_config
from midi2wave.evaluation.counterfactual import counterfactuals
from midi2wave.midi.performance import PEDALS, Performance
from midi2wave.sampling.options import SamplingOptions
from midi2wave.sampling.synthesis import synthesize
from tests.helpers.paths import ROOT

SHIPPED = sorted((ROOT / "pretrained").glob("*.safetensors"))
PLAYED_BY = {
    "grand": "config_play.json",
    "rendered": "rendered/config_play.json",
    "rendered_reference": "rendered/config_play.json",
    "disklavier": "real/config_play.json",
    "disklavier_small": "real_small/config_play.json",
}


def test_shipped_weights_are_small_and_have_model_cards():
    """They are small, and each has a model card with the licence that the file states."""
    assert {path.stem for path in SHIPPED} == set(PLAYED_BY) and sum(path.stat().st_size for path in SHIPPED) < 20e6
    cards = {path: path.with_suffix(".md").read_text(encoding="utf-8") for path in SHIPPED}
    assert all(f"`{path.name}`" in card.splitlines()[0] for path, card in cards.items())
    licences = {path.stem: "CC BY 4.0" if path.stem == "grand" else "CC BY-NC-SA" for path in SHIPPED}
    assert all(f"**Licence: {licences[path.stem]}" in card for path, card in cards.items())
    # The file states the same, so that it can be passed on alone.
    assert all(f"**Licence: {checkpoint.stored_licences(path)[0]}" in card for path, card in cards.items())
    overview = (SHIPPED[0].parent / "README.md").read_text(encoding="utf-8")
    assert all(f"`{path.name}`" in overview and f"({path.stem}.md)" in overview for path in SHIPPED)


def test_shipped_weights_load_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path in SHIPPED:
        assert checkpoint.find_weights(f"pretrained/{path.name}").samefile(path)


@pytest.fixture(scope="module", params=SHIPPED, ids=lambda path: path.stem)
def performer(request):
    """What turns performances into audio by the shipped weights, as `counterfactual.Player`; in 16-bit weights, for
    speed: the scores in the model cards are of full precision."""
    model, config, _ = checkpoint.load_model(request.param, torch.device("cpu"))
    data = config.data_config
    settings = load_config(PLAYED_BY[request.param.stem], ("inference_config",), []).inference_config

    def play(performances, seconds):
        performances = [replace(one, global_labels=tuple(settings.global_values)) for one in performances]
        blocks = synthesize(
            model,
            performances,
            round(seconds * data.midi_hz),
            data,
            options=replace(SamplingOptions.from_config(settings), seed=0, weights="bfloat16"),
            streams=[0] * len(performances),
        )
        return np.concatenate(list(blocks), axis=1)

    play.hz = data.audio_hz
    return play


@pytest.mark.slow
def test_shipped_weights_follow_note_velocity_and_pedal(performer):
    effects = counterfactuals(performer, performer.hz)
    assert effects.semitone.right == 1 and effects.semitone.db > 12
    assert effects.elsewhere_db < effects.semitone.db / 4
    assert effects.velocity.right == 1 and effects.velocity.db > 6
    assert effects.pedal.right == 1 and effects.pedal.db > 6


@pytest.mark.slow
def test_shipped_weights_keep_their_level_for_a_minute(performer):
    """The same four bars again and again: the last ten seconds are as loud as the first ten; then silence."""
    phrase = [(60, 72), (64, 60), (67, 64), (72, 80), (76, 84), (72, 70), (67, 62), (64, 58)]
    onset = 0.25 + 0.25 * np.arange(30 * len(phrase))  # 30 phrases of 2 s
    pitch, velocity = (np.array([note[i] for note in phrase] * 30) for i in (0, 1))
    pedals = {controller: np.empty((0, 2)) for controller in PEDALS}
    piece = Performance(onset, onset + 0.4, pitch, velocity, pedals)
    sound = performer([piece], 67.0)[0]
    first, last = (sound[start * performer.hz : (start + 10) * performer.hz] for start in (0, 50))
    assert abs(level_db(last) - level_db(first)) < 3
    assert level_db(first) > -45
    after = int((piece.offset[-1] + 5) * performer.hz)
    assert level_db(sound[after:]) < -50
