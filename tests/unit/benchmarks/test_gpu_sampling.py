"""The rows and the table of the benchmark on a GPU, without one."""

import pytest
import torch

from benchmarks import gpu_sampling
from midi2wave.sampling.engines import triton
from midi2wave.utils.errors import InputError


def test_rows_are_those_of_the_page():
    rows = gpu_sampling.cases(list(gpu_sampling.OUTPUT_CONFIGS), list(gpu_sampling.STREAMS), list(gpu_sampling.WEIGHTS))
    assert len(rows) == 2 * 6 * 3
    assert {row.streams for row in rows} == {1, 16, 64, 256, 1024, 2048}
    assert all(row.weights == "float32" for row in rows if row.engine == "cuda")
    sweep = gpu_sampling.sweep_cases(["reference"], [1, 2048])
    # Larger programs than there are streams would compute unused rows.
    assert {row.launch.n_rows for row in sweep if row.streams == 1} == {16}
    assert {row.launch.n_rows for row in sweep if row.streams == 2048} == {16, 32, 64}


def test_table_has_a_dash_for_what_is_not_measured():
    row = {"config": "reference", "output": "categorical", "streams": 16, "weights": "float32"}
    measured = {
        "samples_per_second": 12345,
        "realtime_per_stream": 0.5,
        "weights_gb_per_second": 7,
        "launch": "16 rows",
    }
    text = gpu_sampling.table(
        [row | measured | {"engine": "triton"}, row | dict.fromkeys(measured) | {"engine": "cuda"}]
    )
    lines = text.splitlines()
    assert len({line.count("|") for line in lines}) == 1
    assert "12,345 | 0.5 | 7" in lines[2] and lines[3].endswith("| - | - | - | - |")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_it_needs_a_gpu():
    with pytest.raises(InputError, match="needs a CUDA device"):
        gpu_sampling.main([])


def test_random_inputs_fit_the_model():
    model, _ = gpu_sampling.build("demo")
    conditioning, uniforms = gpu_sampling.random_inputs(model, 2, torch.device("cpu"))
    for n_frames in (1, triton.MAX_BLOCK_FRAMES):
        context, excitation = conditioning.block(model, 1000, n_frames)
        up = model.decoder.upsampling
        assert context.shape[0] == 2 and context.shape[2] == up.left + n_frames + up.right
        assert excitation.shape[::2] == (2, n_frames * model.hop)
    draws = uniforms(0, 1000)
    assert draws.shape == (2, 1000, model.uniforms_per_sample) and draws.min() > 0 and draws.max() < 1
