"""What only a GPU can show: the captured sampler, training that resumes, float32 as on the CPU. Skipped without one."""

import json

import numpy as np
import pytest
import soundfile
import torch

import inference
import train
from midi2wave.sampling.engines import cuda
from midi2wave.sampling.options import SamplingOptions
from midi2wave.sampling.uniforms import seeded_uniforms
from tests.helpers.pipeline import call, settings
from tests.helpers.sampler_models import concatenate, make_model, make_sources, random_prefix, with_null
from wavenet import Conditioning, generate

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="a CUDA GPU is needed"),
]


def on_gpu(model, n_streams, guidance):
    """The model, conditioning and uniforms of the samplers' tests, on the GPU."""
    conditioning, _ = make_sources(model, n_streams)
    if guidance != 1:
        conditioning = with_null(conditioning)
    conditioning_on_gpu = Conditioning(
        lambda first, n: conditioning.features(first, n).cuda(),
        lambda first, n: conditioning.excitation(first, n).cuda(),
    )
    uniforms = seeded_uniforms(3, list(range(n_streams)), model.uniforms_per_sample, "cuda")
    return model.cuda(), conditioning_on_gpu, uniforms


@pytest.mark.parametrize(
    ("output", "kernel_size", "n_streams", "prefix_frames", "guidance", "temperature"),
    [
        ("categorical", 2, 1, 0, 1.0, 1.0),
        ("categorical", 3, 3, 5, 2.0, 0.8),
        ("logistic_mixture", 2, 2, 5, 1.0, 0.7),
        ("logistic_mixture", 2, 1, 0, 2.5, 1.0),
    ],
)
def test_captured_graph_samples_what_the_reference_samples(
    output, kernel_size, n_streams, prefix_frames, guidance, temperature
):
    """On the same GPU, from the same uniforms; rounding may occasionally move a sample over the edge of its bin."""
    model, conditioning, uniforms = on_gpu(make_model(output, kernel_size), n_streams, guidance)
    prefix = random_prefix(model, n_streams, prefix_frames)
    prefix = None if prefix is None else prefix.cuda()
    options = SamplingOptions(temperature=temperature, guidance=guidance)
    n_frames = prefix_frames + 2 * cuda.BLOCK_FRAMES + 3
    arguments = (model, conditioning, uniforms, n_streams, n_frames)
    expected = concatenate(generate(*arguments, prefix=prefix, temperature=temperature, guidance=guidance))
    captured = concatenate(cuda.generate(*arguments, options, prefix=prefix))
    assert captured.shape == expected.shape == (n_streams, n_frames * model.hop)
    n_same = int((captured == expected).cumprod(1).sum())
    # After the first difference they diverge: what counts is that a long beginning is the same.
    assert n_same > 0.9 * expected.numel(), f"apart after {n_same} of {expected.numel()} samples"
    again = concatenate(cuda.generate(*arguments, options, prefix=prefix))
    assert torch.equal(again, captured)


def train_and_read(pipeline, folder, *overrides, **options):
    """Train in a folder with these overrides and train_config options; returns the outcome and the logged losses."""
    options |= {"output_directory": folder}
    assigned = [f"train_config.{name}={value}" for name, value in options.items()]
    outcome = call(train, "-c", pipeline.config, "--json", *settings(*assigned, *overrides))
    assert outcome.code == 0, outcome.err
    rows = map(json.loads, (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    return outcome, [(row["loss"], row["gradient_norm"]) for row in rows if "loss" in row]


def test_first_losses_equal_those_on_a_cpu(pipeline, tmp_path):
    """In float32, on the same crops, up to rounding."""
    losses = {}
    for device in ("cpu", "cuda"):
        options = {"steps": 4, "iters_per_log": 1, "precision": "float32", "device": device}
        _, rows = train_and_read(pipeline, tmp_path / device, **options)
        losses[device] = [loss for loss, _ in rows]
    assert len(losses["cpu"]) == 4
    assert np.allclose(losses["cpu"], losses["cuda"], rtol=1e-3)


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["wavenet_config.output=logistic_mixture", "cond_wavenet_config.upsampling=transposed"],
        ["train_config.micro_batch_size=1", "train_config.activation_checkpointing=true"],
        ["cond_wavenet_config.n_codes=16", "train_config.diversity_loss_weight=0.1"],
        ["data_config.features=[]", "data_config.excitation=false", "cond_wavenet_config.n_mels=0"],
        ["train_config.scheduled_sampling_passes=1", "train_config.scheduled_sampling=0.5"],
    ],
)
def test_captured_pass_equals_the_pass(pipeline, tmp_path, overrides):
    """Losses and gradient norms of some steps, with the CUDA graph and without."""
    rows = {}
    for cuda_graph in ("true", "false"):
        options = {"steps": 6, "iters_per_log": 1, "cuda_graph": cuda_graph, "device": "cuda"}
        outcome, rows[cuda_graph] = train_and_read(pipeline, tmp_path / cuda_graph, *overrides, **options)
        assert "could not be captured" not in outcome.err
    assert len(rows["true"]) == 6
    assert np.allclose(rows["true"], rows["false"], rtol=1e-3)


def test_stopped_training_resumes(pipeline, tmp_path):
    """Four steps, then four more: the validation of eight at once, within the noise of atomic additions."""
    constant = {
        "learning_rate": 0.001,
        "final_learning_rate": 0.001,
        "warmup_steps": 0,
        "history_noise": 0,
        "final_history_noise": 0,
        "device": "cuda",
    }
    results = {}
    for name, ends in (("at_once", [8]), ("in_two", [4, 8])):
        for steps in ends:
            outcome, _ = train_and_read(pipeline, tmp_path / name, **constant, steps=steps)
            assert outcome.result["step"] == steps
        results[name] = outcome.result["validation_nll"]
    assert results["in_two"] == pytest.approx(results["at_once"], rel=1e-3)


def test_inference_writes_audible_clips(pipeline, tmp_path):
    """`inference.py` with sampler cuda writes sound that is finite and not silent."""
    options = ["device=cuda", "sampler=cuda", f"output_dir={tmp_path / 'out'}"]
    overrides = settings(*(f"inference_config.{option}" for option in options))
    outcome = call(inference, "-c", pipeline.config, *overrides, "--json")
    assert outcome.code == 0, outcome.err
    for name in outcome.result["wavs"]:
        sound, _ = soundfile.read(tmp_path / "out" / name)
        assert np.isfinite(sound).all() and np.abs(sound).max() > 0
