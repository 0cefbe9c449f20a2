"""The benchmark of look-ahead: with the whole look-ahead it plays what is generated offline, from the first note on."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from benchmarks import live_lookahead
from benchmarks.live_lookahead import LivePiece, leads_of, noise_db, play_live
from midi2wave.evaluation.transcription import Notes
from midi2wave.live.messages import Settings
from midi2wave.live.models import load_models
from midi2wave.live.pieces import sampling_options
from midi2wave.midi.performance import SUSTAIN, Performance
from midi2wave.sampling.synthesis import synthesize
from tests.helpers.live_server import small_model
from tests.helpers.pipeline import call

HZ, MIDI_HZ = 4000, 250
# On whole frames; one note sounds already when the piece begins, and one is struck again as it ends.
PERFORMANCE = Performance(
    onset=np.array([-0.4, 0.0, 0.1, 0.2]),
    offset=np.array([0.2, 0.1, 0.2, 0.4]),
    pitch=np.array([48, 60, 60, 72]),
    velocity=np.array([80, 90, 50, 60]),
    pedals={SUSTAIN: np.array([[-0.2, 127.0], [0.3, 0.0]])},
)


def piece(performance: Performance = PERFORMANCE, truth: np.ndarray | None = None) -> LivePiece:
    return LivePiece("piece", "piece", performance, truth)


def test_with_its_look_ahead_a_model_plays_what_it_plays_offline():
    model = small_model()
    live = play_live(model, piece(), 0.6, None, seed=3)
    lead_in = 100 + model.checkpoint.model.context_frames[1]  # 0.4 s before the piece
    shift = lead_in / MIDI_HZ
    shifted = replace(
        PERFORMANCE,
        onset=np.rint((PERFORMANCE.onset + shift) * MIDI_HZ) / MIDI_HZ,
        offset=np.rint((PERFORMANCE.offset + shift) * MIDI_HZ) / MIDI_HZ,
        pedals={SUSTAIN: PERFORMANCE.pedals[SUSTAIN] + [shift, 0.0]},
    )
    options = sampling_options(model, Settings(temperature=0.9, guidance=1.0, seed=3), threads=1)
    data = model.checkpoint.config.data_config
    blocks = synthesize(model.checkpoint.model, [shifted], lead_in + 150, data, options, streams=[0])
    np.testing.assert_array_equal(live, np.concatenate(list(blocks), axis=1)[0, lead_in * 16 :])
    assert len(live) == 0.6 * HZ
    assert (play_live(model, piece(), 0.6, 0.0, seed=3) != live).any()


def test_leads_that_a_model_does_not_have_are_left_out():
    assert leads_of(small_model(), ["full", "48", "8", "0"]) == [None, 8.0, 0.0]


def test_noise_is_relative_to_the_recording():
    rng = np.random.default_rng(0)
    truth = (3000 * rng.standard_normal(20000)).astype(np.int16)
    assert noise_db(truth, truth, HZ) == (0.0, 0.0)
    assert noise_db((truth * 0.5).astype(np.int16), truth, HZ) == pytest.approx((-6.02, -6.02), abs=0.1)
    assert all(map(math.isnan, noise_db(truth, None, HZ)))


@pytest.mark.slow
def test_models_are_compared_on_test_clips(pipeline, monkeypatch):
    """A row for each model and lead, with the F1 of what is detected, here no note, and the noise."""

    class NoNotesTranscriber:
        def notes(self, _pcm, _audio_hz):
            return Notes(np.zeros(0), np.zeros(0), np.zeros(0, np.int64))

    monkeypatch.setattr(live_lookahead, "Transcriber", NoNotesTranscriber)
    run, clips = str(pipeline.folder / "run"), str(pipeline.folder / "test")
    done = call(
        live_lookahead, "--model", run, run, "--clips", clips, "--lead", "full", "0", "--seconds", "0.5", "--json"
    )
    assert done.code == 0, done.err
    rows = json.loads(done.out)
    (model,) = load_models([run], "cpu")
    own_ms = model.describe()["lookahead_ms"]
    assert [(row["lookahead_ms"], row["lead_ms"]) for row in rows] == [(own_ms, own_ms), (own_ms, 0)] * 2
    assert all(row["f1"] == 0 and math.isfinite(row["noise_10_db"]) for row in rows)
    assert rows[0] == rows[2] and rows[0]["noise_median_db"] != rows[1]["noise_median_db"]


@pytest.mark.parametrize("options", [["--lead", "soon"], ["--lead", "-1"], ["--seeds", "0"], ["--seconds", "nan"]])
def test_wrong_options_are_one_line(options):
    done = call(live_lookahead, *options)
    assert done.code == 2 and "expected" in done.err
