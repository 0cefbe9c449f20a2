"""The cost of a model by `python wavenet.py -c CONFIG` is its real cost, and its speed is measured on request."""

import json

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import model_speed as cost
from benchmarks import presets, speed_measurement
from midi2wave.config import load_config
from midi2wave.modules.residual_stack import GateKernels
from midi2wave.training.model_summary import multiply_adds, summarize_model
from tests.helpers.paths import ROOT
from tests.helpers.pipeline import assert_refused, call, command, settings
from tests.helpers.wavenet_models import make_model
from wavenet import Caches, build_model

SMALL = (
    "wavenet_config.n_layers=4",
    "wavenet_config.max_dilation=8",
    "train_config.compile=false",
    "train_config.batch_size=1",
    "data_config.segment_length=0.1",
    "train_config.device=cpu",
)


def small_config(*overrides: str):
    return load_config("demo/config_train.json", cost.NEEDS, [*SMALL, *overrides])


def multiply_adds_of(function, *arguments) -> float:
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        function(*arguments)
    return counter.get_total_flops() / 2


@pytest.mark.parametrize("output", ["logistic_mixture", "categorical"])
@pytest.mark.parametrize("kernel_size", [2, 3])
@pytest.mark.parametrize("upsampling", ["linear", "transposed"])
def test_multiply_adds_are_those_of_pytorch(output, kernel_size, upsampling):
    model = make_model(output, kernel_size, upsampling)
    decoder = model.decoder
    at_audio_rate, at_frame_rate = multiply_adds(model)
    dtype = decoder.output.weight.dtype
    cond = torch.zeros(len(decoder.layers), 1, 2 * decoder.config.n_residual_channels, dtype=dtype)
    counted = multiply_adds_of(Caches(decoder, 1).step, decoder, 0, cond)

    n_frames = 2000  # So many that the context of the context stack does not matter.
    n_features, n_excitation = model.context.input.in_channels, decoder.layers[0].excitation.in_features
    features = torch.zeros(1, n_features, sum(model.context_frames) + n_frames, dtype=dtype)
    excitation = torch.zeros(1, n_excitation, n_frames * model.hop, dtype=dtype)

    def condition() -> None:
        prepared = decoder.prepare(model.context(features), excitation)
        for layer in decoder.layers:
            decoder.layer_conditioning(layer, *prepared)

    counted += multiply_adds_of(condition) / (n_frames * model.hop)
    assert at_audio_rate + at_frame_rate / model.hop == pytest.approx(counted, rel=0.01)


@pytest.mark.parametrize("recompute", [False, True])
def test_activations_are_about_those_of_autograd(recompute):
    config = small_config(
        f"train_config.activation_checkpointing={json.dumps(recompute)}",
        "wavenet_config.n_layers=8",
        "cond_wavenet_config.n_mels=0",
    )
    model, n_samples = build_model(config), 8000
    model.decoder.gates = GateKernels(recompute=recompute)
    batch, saved = speed_measurement.noise_crops(model, config.data_config, 1, n_samples), {}

    def save(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor):
        params = model(batch["history"], batch["features"], batch["excitation"]).params
        nll = -model.log_likelihood(params, batch["samples"]).mean()
    assert torch.isfinite(nll)
    counted = summarize_model(config).activation_bytes * n_samples / config.data_config.audio_hz
    assert 1 < counted / sum(saved.values()) < 1.8  # The gradients at the peak count, too.


def test_summary_of_a_model():
    default = summarize_model(small_config())
    model = build_model(small_config())
    assert default.parameters == sum(p.numel() for p in model.parameters())
    assert default.receptive_field_ms == 1000 * model.decoder.receptive_field / 8000
    assert default.cache_bytes == sum(ring.nbytes for ring in Caches(model.decoder, 1).layers)
    causal = summarize_model(small_config("cond_wavenet_config.lookahead_ms=0"))
    assert default.lookahead_ms == 104 and causal.lookahead_ms == 4
    deeper = summarize_model(small_config("wavenet_config.n_layers=8"))
    assert deeper.multiply_adds_per_sample > default.multiply_adds_per_sample
    assert (deeper.cache_bytes, deeper.context_parameters) == (2 * default.cache_bytes, default.context_parameters)
    assert default.activation_bytes_bfloat16 < 0.7 * default.activation_bytes


def test_the_command_prints_the_cost_and_measures_speeds():
    done = command("wavenet.py", "-c", "demo/config_train.json")
    assert done.code == 0 and "194,942: decoder 106,078, context stack 86,752" in done.out
    assert "look-ahead           104 ms" in done.out and "samples/s" not in done.out
    measured = call(cost, "-c", "demo/config_train.json", "--json", "--measure", *settings(*SMALL))
    assert measured.code == 0 and measured.result.items() >= summarize_model(small_config()).as_dict().items()
    assert all(measured.result[name] > 0 for name in presets.ENGINES)


@pytest.fixture(autouse=True)
def short_measurements(monkeypatch):
    monkeypatch.setattr(speed_measurement, "REPEATS", 1)
    monkeypatch.setattr(speed_measurement, "SAMPLING_SECONDS", 0.01)
    monkeypatch.setattr(speed_measurement, "TRAINING_SECONDS", 0.01)


def test_an_unconditional_model_has_no_conditioning_cost():
    summary = summarize_model(load_config("demo/config_train_unconditional.json", cost.NEEDS))
    assert (summary.context_parameters, summary.context_field_ms, summary.lookahead_ms) == (0, 0, 0)
    assert summary.conditioning_multiply_adds == 0 < summary.multiply_adds_per_sample


def test_impossible_models_are_refused():
    assert_refused(
        call(cost, "-c", "demo/config_train.json", *settings("cond_wavenet_config.lookahead_ms=9000")),
        "look-ahead",
        "not possible",
    )
    assert_refused(call(cost, "-c", "config_play.json"), "train_config", "output_directory")


def test_the_table_of_presets_is_up_to_date():
    counted = {
        name: {"config": path, **summarize_model(load_config(path, cost.NEEDS)).as_dict()}
        for name, path in presets.PRESETS.items()
    }
    page = (ROOT / "docs/presets.md").read_text(encoding="utf-8")
    rows = [row for row in presets.table(counted) if "not measured" not in row]
    assert len(rows) == 13
    assert [row for row in rows if row not in page] == [], "run: python -m benchmarks.presets --report docs/presets.md"


def test_measured_speeds_are_in_the_table(tmp_path, monkeypatch, capsys):
    speeds = {name: 12345.6 for name in presets.ENGINES}

    def cost_of(config: str, *, measure: bool):
        return {"config": config, **summarize_model(small_config()).as_dict(), **(speeds if measure else {})}

    monkeypatch.setattr(presets, "cost_of", cost_of)
    page = tmp_path / "presets.md"
    page.write_text("before\n\n<!-- presets -->\nold\n<!-- /presets -->\n\nafter\n", encoding="utf-8")
    assert presets.main(["--report", str(page)]) == 0
    assert page.read_text(encoding="utf-8").count("not measured") == 15
    assert presets.main(["--report", str(page), "--measure"]) == 0
    text = page.read_text(encoding="utf-8")
    assert text.count("12,346") == 15 and "threads; one stream" in text and "old" not in text
    assert text.startswith("before\n") and text.endswith("after\n")
    page.write_text("no marks", encoding="utf-8")
    assert_refused(call(presets, "--report", page), "expected the lines <!-- presets -->")
