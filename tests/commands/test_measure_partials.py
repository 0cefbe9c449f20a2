"""measure_partials.py: the partials of a synthetic piano are measured as what they are."""

import json

import numpy as np
import pytest

import measure_partials
from midi2wave.conditioning.partials import partials_for
from midi2wave.config import load_config
from midi2wave.data import partial_tracking
from midi2wave.data.processed_folder import ProcessedFolder
from midi2wave.utils.errors import InputError
from midi2wave.utils.folder_lock import lock_output
from tests.helpers.partials_folder import KEYS, NUMBERS, true_decay, true_hz, true_phase, write_partials_folder


def test_all_properties_of_partials_are_measured(tmp_path):
    """Frequency, level, decay and phase of each partial, and the velocity exponent, are those of the formula."""
    write_partials_folder(tmp_path / "data")
    blocks = {"data_config": {"excitation_quadrature": True}, "train_config": {"output_directory": "run"}}
    (tmp_path / "config.json").write_text(json.dumps(blocks))
    command = ["-d", tmp_path / "data", "-c", tmp_path / "config.json", "-o", tmp_path / "measured.json"]
    assert measure_partials.main(list(map(str, command))) == 0
    data = load_config(tmp_path / "measured.json", ("data_config", "train_config"), []).data_config
    assert data.excitation_quadrature and data.velocity_exponent == pytest.approx(1.7, abs=0.05)
    hz, level, decay, phase = (
        np.reshape(values, (88, 16))[KEYS][:, : len(NUMBERS)]
        for values in (data.partial_hz, data.partial_level, data.partial_decay, data.partial_phase)
    )
    np.testing.assert_allclose(1200 * np.log2(hz / np.stack([true_hz(key) for key in KEYS])), 0, atol=0.5)
    np.testing.assert_allclose(decay, np.stack([true_decay(key) for key in KEYS]), rtol=0.1)
    error = np.angle(np.exp(1j * (phase - np.stack([true_phase(key) for key in KEYS]))))
    assert np.abs(error).max() < 0.2
    # Partials 4 and 5 share a channel, as do 6 to 8: their ratio must be that of the piano.
    np.testing.assert_allclose(level[:, 4] / level[:, 3], 4 / 5, rtol=0.08)
    np.testing.assert_allclose(level[:, 7] / level[:, 5], 6 / 8, rtol=0.08)
    assert 0.9 < np.percentile(np.reshape(data.partial_level, (88, 16))[:, 0], 90) < 1.1
    with pytest.raises(InputError, match="is there already; choose another name, or use --force, which overwrites it"):
        measure_partials.main(list(map(str, command)))
    before = {path.name for path in tmp_path.iterdir()}
    with lock_output(tmp_path / "measured.json"), pytest.raises(InputError, match="another run is making"):
        measure_partials.main([*map(str, command), "--force"])
    (tmp_path / ".measured.json.4711-0123abcd.partial").write_text("half")
    (tmp_path / ".mine.json.4711-0123abcd.partial").write_text("of another command")
    assert measure_partials.main([*map(str, command), "--force"]) == 0
    assert {path.name for path in tmp_path.iterdir()} - before == {".mine.json.4711-0123abcd.partial"}


def test_inexact_labels_give_no_phases(tmp_path):
    write_partials_folder(tmp_path / "data", max_label_error=0.02)
    measurement = partial_tracking.measure_partials(ProcessedFolder(tmp_path / "data"), 0.0)
    partials, is_measured = measurement.partials, measurement.is_measured
    assert is_measured[KEYS, 0].all() and not partials.phase[KEYS, 1:8].any()
    np.testing.assert_allclose(1200 * np.log2(partials.hz[KEYS, :4] / [true_hz(k)[:4] for k in KEYS]), 0, atol=1.0)


def test_too_few_notes_are_refused(tmp_path):
    write_partials_folder(tmp_path / "data", n_notes=1)
    with pytest.raises(InputError, match="too small to be measured"):
        partial_tracking.measure_partials(ProcessedFolder(tmp_path / "data"), 0.0)


def test_configs_that_do_not_fit_are_refused(tmp_path):
    write_partials_folder(tmp_path / "data")
    for block, message in (({"excitation": False}, "nothing to measure"), ({"audio_hz": 8000}, "is at 16000 Hz")):
        (tmp_path / "config.json").write_text(json.dumps({"data_config": block}))
        with pytest.raises(InputError, match=message):
            command = ["-d", tmp_path / "data", "-c", tmp_path / "config.json", "-o", tmp_path / "measured.json"]
            measure_partials.main(list(map(str, command)))


def test_inaudible_partials_are_interpolated(tmp_path):
    """Partials that the piano does not have take values from the keys around, and are not reported as measured."""
    write_partials_folder(tmp_path / "data")
    measurement = partial_tracking.measure_partials(ProcessedFolder(tmp_path / "data"), 0.0)
    partials, is_measured = measurement.partials, measurement.is_measured
    assert is_measured[KEYS][:, : len(NUMBERS)].all()
    # Above the eighth partial there is only noise, which does not decay.
    assert is_measured[KEYS][:, len(NUMBERS) :].mean() < 0.5
    assert (partials.decay[KEYS] > partial_tracking.MIN_DECAY).all()


def test_each_global_value_is_measured_separately(tmp_path):
    write_partials_folder(tmp_path / "data", years=(2008, 2009))
    values = ["year=2008", "year=2009"]
    options = {"global_values": values, "features": ["note_state"]}
    (tmp_path / "config.json").write_text(json.dumps({"data_config": options}))
    command = ["-d", tmp_path / "data", "-c", tmp_path / "config.json", "-o", tmp_path / "measured.json"]
    assert measure_partials.main(list(map(str, command))) == 0
    data = load_config(tmp_path / "measured.json", ("data_config",)).data_config
    assert len(data.partial_hz) == 2 * 88 * 16
    folder = ProcessedFolder(tmp_path / "data")
    parts = folder.split_by_label([*values, "year=2010"])
    assert list(parts) == values
    for value, features in zip(values, ((1, 0), (0, 1)), strict=True):
        assert {f"year={row.year}" for row in parts[value].rows} == {value}
        own = partial_tracking.measure_partials(parts[value], 0.0).partials
        np.testing.assert_allclose(partials_for(data, features).hz, own.hz, rtol=1e-5)
    assert folder.split_by_label([]) == folder.split_by_label([*values, "piano=1"]) == {"": folder}
    with pytest.raises(InputError, match="none of data_config"):
        folder.split_by_label(["year=2008", "year=2010"])
    (tmp_path / "config.json").write_text(
        json.dumps({"data_config": options | {"global_values": [*values, "year=2010"]}})
    )
    with pytest.raises(InputError, match="has no recording of year=2010"):
        measure_partials.main([*map(str, command), "--force"])
