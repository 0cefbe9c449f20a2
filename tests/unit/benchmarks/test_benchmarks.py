"""The plain implementation is the same function as the model; the benchmarks report what they promise."""

import json

import numpy as np
import pytest
import torch

from benchmarks import excitation, limits, sampling, training, training_measurement
from benchmarks.plain import plain_forward
from midi2wave.conditioning.note_conditioning import conditioning_for
from midi2wave.config import DataConfig
from midi2wave.data.processed_folder import Row, begin_folder, finish_folder, write_recording
from midi2wave.midi.performance import Performance
from tests.helpers.wavenet_models import HOP, N_FRAMES, make_conditioning, make_model, random_samples


@pytest.mark.parametrize("output", ["logistic_mixture", "categorical"])
@pytest.mark.parametrize("kernel_size", [2, 3])
@pytest.mark.parametrize("upsampling", ["repeat", "linear", "transposed"])
def test_the_plain_implementation_is_the_same_function(output, kernel_size, upsampling):
    model, conditioning = make_model(output, kernel_size, upsampling), make_conditioning()
    samples, previous = random_samples(model), random_samples(model, n_frames=1, seed=5)[:, :kernel_size]
    history = torch.cat([previous, samples], dim=1)
    features = conditioning.features(-model.context_frames[0], sum(model.context_frames) + N_FRAMES)
    excitation = conditioning.excitation(0, N_FRAMES)
    assert samples.shape[1] == N_FRAMES * HOP
    with torch.no_grad():
        expected = model(history, features, excitation).params
        params = plain_forward(model, history, features, excitation)
    torch.testing.assert_close(params, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.slow
def test_rows_of_the_training_benchmark(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["training", "--config", "demo", "--batch", "2", "--seconds", "0.1", "--json"])
    monkeypatch.setattr(training_measurement, "compile_gate_kernels", lambda *_: None)
    training.main()
    rows = json.loads(capsys.readouterr().out)
    keys = {"config", "variant", "batch", "crop_seconds", "samples_per_second", "vs_plain", "limit_fraction"}
    assert all(keys <= row.keys() and row["samples_per_second"] > 0 for row in rows)
    assert max(row["vs_plain"] for row in rows if row["variant"] == "plain") == 1
    assert {"plain", "float32"} <= {row["variant"] for row in rows}


def test_the_sampling_table_has_dashes():
    """A GPU has no measured limit, and without the row of torch there is no ratio."""
    row = {
        "config": "demo",
        "output": "categorical",
        "engine": "numba",
        "threads": 1,
        "streams": 4,
        "weights": "float32",
        "samples_per_second": 40000,
        "realtime": 2.5,
        "vs_torch": 10.04,
        "limit_fraction": 0.5,
    }
    on_gpu = row | {"engine": "cuda", "threads": 0, "vs_torch": None, "limit_fraction": None}
    head, line, *rows = sampling.table([row, on_gpu]).splitlines()
    assert rows == [
        "| demo | categorical | numba | 1 | 4 | float32 | 40,000 | 2.50 | 10.0 | 50% |",
        "| demo | categorical | cuda | 0 | 4 | float32 | 40,000 | 2.50 | - | - |",
    ]
    assert {text.count("|") for text in (head, line, *rows)} == {11}


def test_the_processor_has_a_name_without_proc(monkeypatch):
    monkeypatch.setattr(limits.Path, "is_file", lambda _: False)
    monkeypatch.setattr(limits.platform, "processor", lambda: "arm")
    assert limits.processor_name() == "arm"


def test_audio_that_is_its_excitation_leaves_no_residue(tmp_path, capsys):
    data = DataConfig(audio_hz=4000, excitation_quadrature=True)
    onset = np.arange(10) * 1.1
    piece = Performance(onset, onset + 0.9, np.arange(50, 60), np.full(10, 80), {})
    weights = np.random.default_rng(0).uniform(-1, 1, 12)
    sound = weights @ conditioning_for(piece, data).excitation(0, 3000)
    noise = np.random.default_rng(1).standard_normal(len(sound)) * sound.std()
    begin_folder(tmp_path, {"preprocess_config": {"audio_hz": 4000}}, force=False)
    rows = []
    for index, sum_of in enumerate((sound, noise)):
        rows.append(Row(index, "", "", "train", 2000, 12.0, len(sound), 10, "", ""))
        write_recording(tmp_path, rows[-1], (3000 * sum_of).astype(np.int16), piece)
    finish_folder(tmp_path, rows)
    (tmp_path / "config.json").write_text(
        json.dumps({"data_config": {"audio_hz": 4000, "excitation_quadrature": True}})
    )
    assert excitation.main(["-d", str(tmp_path), "-c", str(tmp_path / "config.json"), "--json"]) == 0
    left = json.loads(capsys.readouterr().out)
    assert left["all"] == pytest.approx(-3.0, abs=0.3)  # the noise is half of the power
