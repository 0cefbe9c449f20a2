"""A piano of known tuning and stiffness is measured as what it is."""

import json

import numpy as np
import pytest

import measure_tuning
import processed_folder
from conditioning import FUNDAMENTAL_DECAY, USUAL_STIFFNESS, NoteConditioning, conditioning_of, partial_hz
from config import DataConfig, config_from_dict, load_config
from errors import InputError
from midi import LOWEST_PITCH, PEDALS, Performance

HZ, SECONDS = 16000, 30.0
KEYS = np.arange(39, 47)  # pitches 60 to 67


def true_cents(key):
    return 4 * np.sin(key / 3)


def true_stiffness(key):
    return USUAL_STIFFNESS[key] * 0.7


def make_folder(folder, strokes=60):
    rng = np.random.default_rng(0)
    time = np.arange(round(SECONDS * HZ)) / HZ
    processed_folder.begin_folder(folder, {"preprocess_config": {"audio_hz": HZ}}, force=False)
    rows = []
    for index in range(5):
        onset = 0.1 + 0.49 * np.arange(strokes)
        key = rng.choice(KEYS, strokes)
        pedals = {pedal: np.zeros((0, 2)) for pedal in PEDALS}
        velocity = rng.integers(40, 100, strokes)
        piece = Performance(onset, onset + 0.48, key + LOWEST_PITCH, velocity, pedals)
        sound = rng.normal(scale=20, size=len(time))
        for on, k, v in zip(onset, key, velocity, strict=True):
            part = slice(round(on * HZ), round((on + 0.48) * HZ))
            age = time[part] - on
            hz = partial_hz(k, true_cents(k), true_stiffness(k))[:8]
            for n, frequency in enumerate(hz[hz < 0.45 * HZ], start=1):
                envelope = 3000 * v / 100 / n * np.exp(-FUNDAMENTAL_DECAY[k] * age * (1 + 0.5 * (n - 1)))
                sound[part] += envelope * np.sin(2 * np.pi * frequency * age)
        rows.append(processed_folder.Row(index, "", "", "train", 2000, SECONDS, len(time), strokes, "", ""))
        processed_folder.write_recording(folder, rows[-1], np.rint(sound).astype(np.int16), piece)
    processed_folder.finish_folder(folder, rows)


def test_tuning_and_stiffness_come_out(tmp_path):
    make_folder(tmp_path / "data")
    blocks = {"data_config": {"excitation_quadrature": True}, "train_config": {"output_directory": "run"}}
    (tmp_path / "config.json").write_text(json.dumps(blocks))
    command = ["-d", tmp_path / "data", "-c", tmp_path / "config.json", "-o", tmp_path / "tuned.json"]
    assert measure_tuning.main(list(map(str, command))) == 0
    data = load_config(tmp_path / "tuned.json", ("data_config", "train_config"), []).data_config
    assert data.excitation_quadrature
    found = np.array(data.tuning_cents)[KEYS]
    np.testing.assert_allclose(found, true_cents(KEYS), atol=0.3)
    for key in KEYS:
        there = partial_hz(key, data.tuning_cents[key], data.stiffness[key])[:6]
        np.testing.assert_allclose(
            1200 * np.log2(there / partial_hz(key, true_cents(key), true_stiffness(key))[:6]), 0, atol=0.6
        )
    with pytest.raises(InputError, match="is there already"):
        measure_tuning.main(list(map(str, command)))


def test_the_excitation_sounds_as_measured():
    pedals = {pedal: np.zeros((0, 2)) for pedal in PEDALS}
    piece = Performance(np.zeros(1), np.full(1, 9.0), np.array([69]), np.array([100]), pedals)
    tuned = conditioning_of(piece, DataConfig(tuning_cents=[50.0] * 88, stiffness=[0.0] * 88))
    for notes, hz in (
        (tuned, 440 * 2 ** (50 / 1200)),
        (NoteConditioning(piece, ["onset"], audio_hz=HZ, midi_hz=250), 440.3),
    ):
        fundamental = notes.excitation(0, 1000)[0]
        spectrum = np.abs(np.fft.rfft(fundamental * np.hanning(len(fundamental))))
        assert abs(spectrum.argmax() * HZ / len(fundamental) - hz) < 0.3


def test_too_little_is_refused(tmp_path):
    make_folder(tmp_path / "data", strokes=1)
    with pytest.raises(InputError, match="too small to be measured"):
        measure_tuning.fitted(measure_tuning.deviations(processed_folder.ProcessedFolder(tmp_path / "data")))


@pytest.mark.parametrize(("key", "values"), [("tuning_cents", [0.0] * 87), ("stiffness", [-1e-4] * 88)])
def test_wrong_lists_are_refused(key, values):
    with pytest.raises(InputError, match=f"{key}: expected 88 numbers"):
        config_from_dict({"data_config": {key: values}}, "test")
