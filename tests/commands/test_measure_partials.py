"""measure_partials.py: the partials of a synthetic piano are measured as what they are."""

import json
from dataclasses import replace

import numpy as np
import pytest

import measure_partials
from midi2wave.conditioning.global_conditioning import one_hot
from midi2wave.conditioning.note_conditioning import NoteConditioning, conditioning_for
from midi2wave.conditioning.partials import (
    DEFAULT_STIFFNESS,
    FUNDAMENTAL_DECAY,
    default_partials,
    partial_hz,
    partials_for,
)
from midi2wave.config import DataConfig, config_from_dict, load_config
from midi2wave.data import partial_tracking, processed_folder
from midi2wave.data.processed_folder import ProcessedFolder
from midi2wave.midi.performance import MIN_PITCH, PEDALS, Performance
from midi2wave.utils.errors import InputError

HZ, SECONDS = 16000, 35.0
KEYS = np.arange(39, 47)  # pitches 60 to 67
N = np.arange(1, 9)  # the partials they have


def true_hz(key):
    return partial_hz(key, 4 * np.sin(key / 3), DEFAULT_STIFFNESS[key] * 0.7)[: len(N)]


def true_decay(key):
    return FUNDAMENTAL_DECAY[key] * (2 + N)


def true_phase(key):
    return 0.3 * N + 0.1 * (key - 40)


def make_folder(folder, strokes=60, late=0.0, years=(2000,), seed=0):
    """Eight keys, amplitude 3000 / n at velocity 100 and growing with its 1.7th power; `late`: how far off labels are
    at most, in seconds."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(SECONDS * HZ)) / HZ
    processed_folder.begin_folder(folder, {"preprocess_config": {"audio_hz": HZ}}, force=False)
    rows = []
    for index in range(5):
        onset = 0.1 + 0.55 * np.arange(strokes) + rng.uniform(0, 0.01, strokes)
        key = rng.choice(KEYS, strokes)
        pedals = {pedal: np.zeros((0, 2)) for pedal in PEDALS}
        velocity = rng.integers(40, 100, strokes)
        label = onset + rng.uniform(0, late, strokes)
        piece = Performance(label, onset + 0.53, key + MIN_PITCH, velocity, pedals)
        sound = rng.normal(scale=20, size=len(time))
        for on, k, v in zip(onset, key, velocity, strict=True):
            part = slice(round(on * HZ), round((on + 0.53) * HZ))
            age = time[part] - on
            envelope = 3000 * (v / 100) ** 1.7 / N * np.exp(-np.outer(age, true_decay(k)))
            sound[part] += (envelope * np.sin(2 * np.pi * np.outer(age, true_hz(k)) + true_phase(k))).sum(axis=1)
        rows.append(
            processed_folder.Row(
                index, f"{index}.wav", "", "train", years[index % len(years)], SECONDS, len(time), strokes, "", ""
            )
        )
        processed_folder.write_recording(folder, rows[-1], np.rint(sound).astype(np.int16), piece)
    processed_folder.finish_folder(folder, rows)


def test_the_strings_come_out(tmp_path):
    make_folder(tmp_path / "data")
    blocks = {"data_config": {"excitation_quadrature": True}, "train_config": {"output_directory": "run"}}
    (tmp_path / "config.json").write_text(json.dumps(blocks))
    command = ["-d", tmp_path / "data", "-c", tmp_path / "config.json", "-o", tmp_path / "measured.json"]
    assert measure_partials.main(list(map(str, command))) == 0
    data = load_config(tmp_path / "measured.json", ("data_config", "train_config"), []).data_config
    assert data.excitation_quadrature and data.velocity_exponent == pytest.approx(1.7, abs=0.05)
    hz, level, decay, phase = (
        np.reshape(values, (88, 16))[KEYS][:, : len(N)]
        for values in (data.partial_hz, data.partial_level, data.partial_decay, data.partial_phase)
    )
    np.testing.assert_allclose(1200 * np.log2(hz / np.stack([true_hz(key) for key in KEYS])), 0, atol=0.5)
    np.testing.assert_allclose(decay, np.stack([true_decay(key) for key in KEYS]), rtol=0.1)
    off = np.angle(np.exp(1j * (phase - np.stack([true_phase(key) for key in KEYS]))))
    assert np.abs(off).max() < 0.2
    # partials 4 and 5 share a channel, as do 6 to 8: there their relation must be the piano's
    np.testing.assert_allclose(level[:, 4] / level[:, 3], 4 / 5, rtol=0.08)
    np.testing.assert_allclose(level[:, 7] / level[:, 5], 6 / 8, rtol=0.08)
    assert 0.9 < np.percentile(np.reshape(data.partial_level, (88, 16))[:, 0], 90) < 1.1
    with pytest.raises(InputError, match="is there already"):
        measure_partials.main(list(map(str, command)))


def test_where_labels_are_inexact_there_are_no_phases(tmp_path):
    make_folder(tmp_path / "data", late=0.02)
    measurement = partial_tracking.measure_partials(ProcessedFolder(tmp_path / "data"), 0.0)
    partials, is_measured = measurement.partials, measurement.is_measured
    assert is_measured[KEYS, 0].all() and not partials.phase[KEYS, 1:8].any()
    np.testing.assert_allclose(1200 * np.log2(partials.hz[KEYS, :4] / [true_hz(k)[:4] for k in KEYS]), 0, atol=1.0)


def test_the_excitation_sounds_as_measured():
    pedals = {pedal: np.zeros((0, 2)) for pedal in PEDALS}
    piece = Performance(np.zeros(1), np.full(1, 9.0), np.array([69]), np.array([100]), pedals)
    usual = default_partials()
    lists = {"hz": usual.hz * 2 ** (50 / 1200), "level": usual.level * 2, "decay": usual.decay * 3,
             "phase": usual.phase + np.pi / 2}  # fmt: skip
    given = {f"partial_{name}": values.ravel().tolist() for name, values in lists.items()}
    measured = conditioning_for(piece, DataConfig(**given, velocity_exponent=2.0)).excitation(0, 1000)[0]
    ordinary = NoteConditioning(piece, DataConfig(audio_hz=HZ, midi_hz=250)).excitation(0, 1000)[0]
    for fundamental, hz in ((measured, 440 * 2 ** (50 / 1200)), (ordinary, 440.3)):
        spectrum = np.abs(np.fft.rfft(fundamental * np.hanning(len(fundamental))))
        assert abs(spectrum.argmax() * HZ / len(fundamental) - hz) < 0.3
    assert ordinary[0] == 0 and measured[0] == pytest.approx(2 * (100 / 127) ** 2)  # a cosine now
    late = slice(HZ // 2, HZ // 2 + 400)  # decays three times as fast
    fallen = [np.abs(sound[late]).max() / np.abs(sound[:400]).max() for sound in (measured, ordinary)]
    assert np.log(fallen[0]) / np.log(fallen[1]) == pytest.approx(3, abs=0.1)


def test_too_little_is_refused(tmp_path):
    make_folder(tmp_path / "data", strokes=1)
    with pytest.raises(InputError, match="too small to be measured"):
        partial_tracking.measure_partials(ProcessedFolder(tmp_path / "data"), 0.0)


@pytest.mark.parametrize(("key", "values"), [("partial_hz", [440.0] * 88), ("partial_level", [1.0] * 88 * 16)])
def test_wrong_lists_are_refused(key, values):
    words = r"partial_[a-z]*: expected 88 x 16 numbers from .*, 1408 in all.* (1408|88) are given"
    with pytest.raises(InputError, match=words):
        config_from_dict({"data_config": {key: values}}, "test")


def test_what_cannot_be_measured_is_refused_and_what_is_not_heard_is_taken_from_the_neighbours(tmp_path):
    make_folder(tmp_path / "data")
    for block, words in (({"excitation": False}, "nothing to measure"), ({"audio_hz": 8000}, "is at 16000 Hz")):
        (tmp_path / "config.json").write_text(json.dumps({"data_config": block}))
        with pytest.raises(InputError, match=words):
            command = ["-d", tmp_path / "data", "-c", tmp_path / "config.json", "-o", tmp_path / "measured.json"]
            measure_partials.main(list(map(str, command)))
    measurement = partial_tracking.measure_partials(ProcessedFolder(tmp_path / "data"), 0.0)
    partials, is_measured = measurement.partials, measurement.is_measured
    assert is_measured[KEYS][:, : len(N)].all()
    # above the eighth there is nothing but noise, which does not decay
    assert is_measured[KEYS][:, len(N) :].mean() < 0.5
    assert (partials.decay[KEYS] > partial_tracking.MIN_DECAY).all()


def test_every_global_value_can_have_its_own_strings():
    """Of two sets each recording gets its own, one of which nothing is known the first."""
    usual, names = default_partials(), ("hz", "level", "decay", "phase")
    given = {f"partial_{name}": 2 * getattr(usual, name).ravel().tolist() for name in names}
    given["partial_hz"][88 * 16 :] = (1.01 * usual.hz).ravel().tolist()
    with pytest.raises(InputError, match="88 x 16 numbers"):
        config_from_dict({"data_config": {**given, "global_values": ["year=2008"]}}, "test")
    with pytest.raises(InputError, match=r"of one column.* 1408 in all.* 2816 are given"):
        config_from_dict({"data_config": {**given, "global_values": ["year=2008", "piano=1"]}}, "test")
    both = {**given, "global_values": ["year=2008", "year=2009"]}
    data = config_from_dict({"data_config": both}, "test").data_config
    first, second, unknown = (partials_for(data, one_hot(said, data.global_values)).hz
                              for said in (["year=2008"], ["year=2009"], []))  # fmt: skip
    assert np.allclose(first, usual.hz) and np.allclose(second, 1.01 * usual.hz) and np.array_equal(unknown, first)
    played = Performance(np.zeros(1), np.ones(1), np.array([69]), np.array([100]), {})
    heard = {said: conditioning_for(replace(played, global_labels=said), data).excitation(0, 100)
             for said in (("year=2008",), ("year=2009",))}  # fmt: skip
    assert np.abs(heard["year=2008",] - heard["year=2009",]).max() > 0.1


def test_the_recordings_of_each_value_are_measured_by_themselves(tmp_path):
    make_folder(tmp_path / "data", years=(2008, 2009))
    values = ["year=2008", "year=2009"]
    given = {"global_values": values, "features": ["note_state"]}
    (tmp_path / "config.json").write_text(json.dumps({"data_config": given}))
    command = ["-d", tmp_path / "data", "-c", tmp_path / "config.json", "-o", tmp_path / "measured.json"]
    assert measure_partials.main(list(map(str, command))) == 0
    data = load_config(tmp_path / "measured.json", ("data_config",)).data_config
    assert len(data.partial_hz) == 2 * 88 * 16
    folder = ProcessedFolder(tmp_path / "data")
    parts = folder.split_by_label([*values, "year=2010"])
    assert list(parts) == values
    for value, said in zip(values, ((1, 0), (0, 1)), strict=True):
        assert {f"year={row.year}" for row in parts[value].rows} == {value}
        own = partial_tracking.measure_partials(parts[value], 0.0).partials
        np.testing.assert_allclose(partials_for(data, said).hz, own.hz, rtol=1e-5)
    assert folder.split_by_label([]) == folder.split_by_label([*values, "piano=1"]) == {"": folder}
    with pytest.raises(InputError, match="none of data_config"):
        folder.split_by_label(["year=2008", "year=2010"])
    (tmp_path / "config.json").write_text(
        json.dumps({"data_config": given | {"global_values": [*values, "year=2010"]}})
    )
    with pytest.raises(InputError, match="has no recording of year=2010"):
        measure_partials.main([*map(str, command), "--force"])
