"""The training benchmark's yardstick is the same function as the model, and the benchmark says what it promises."""

import json

import pytest
import torch
from test_wavenet import HOP, N_FRAMES, make_conditioning, make_model, random_samples

from benchmarks import training
from benchmarks.plain import plain_forward


@pytest.mark.parametrize("output", ["logistic_mixture", "categorical"])
@pytest.mark.parametrize("kernel_size", [2, 3])
@pytest.mark.parametrize("upsampling", ["repeat", "linear", "transposed"])
def test_the_obvious_implementation_is_the_same_function(output, kernel_size, upsampling):
    model, conditioning = make_model(output, kernel_size, upsampling), make_conditioning()
    samples, previous = random_samples(model), random_samples(model, n_frames=1, seed=5)[:, :kernel_size]
    features = conditioning.features(-model.margins[0], sum(model.margins) + N_FRAMES)
    excitation = conditioning.excitation(0, N_FRAMES)
    assert samples.shape[1] == N_FRAMES * HOP
    with torch.no_grad():
        expected = model(samples, features, excitation, previous)
        found = plain_forward(model, samples, features, excitation, previous)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.slow
def test_the_training_benchmark_gives_its_rows(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["training", "--config", "demo", "--batch", "2", "--seconds", "0.1", "--json"])
    monkeypatch.setattr(training, "compiled_gates", lambda *_: None)
    training.main()
    rows = json.loads(capsys.readouterr().out)
    keys = {"config", "variant", "batch", "crop_seconds", "samples_per_second", "vs_plain", "limit_fraction"}
    assert all(keys <= row.keys() and row["samples_per_second"] > 0 for row in rows)
    assert max(row["vs_plain"] for row in rows if row["variant"] == "plain") == 1
    assert {"plain", "float32"} <= {row["variant"] for row in rows}
