"""The rows and the table of the benchmark on a GPU, without one."""

import pytest
import torch

from benchmarks import gpu_sampling, gpu_sampling_measurement
from midi2wave.sampling.engines import triton
from midi2wave.utils.errors import InputError


def test_rows_are_those_of_the_page():
    rows = gpu_sampling_measurement.cases(
        list(gpu_sampling.OUTPUT_CONFIGS), list(gpu_sampling.STREAMS), list(gpu_sampling.WEIGHTS)
    )
    assert len(rows) == 2 * 6 * 3
    assert {row.streams for row in rows} == {1, 16, 64, 256, 1024, 2048}
    assert all(row.weights == "float32" for row in rows if row.engine == "cuda")
    sweep = gpu_sampling_measurement.sweep_cases(["reference"], [1, 2048])
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


@pytest.mark.parametrize("streams", ["0", "-1"])
def test_numbers_of_streams_that_are_none_are_refused(streams):
    with pytest.raises(InputError, match=f"--streams {streams}: expected numbers of 1 or more"):
        gpu_sampling.main(["--streams", "16", streams])


@pytest.mark.parametrize(("n_stages", "used"), [(1, 1), (2, 2), (3, 1)])
def test_stages_of_a_row_are_those_used(monkeypatch, n_stages, used):
    """The engine takes one where those asked for do not fit the GPU, as three in this case."""
    pytest.importorskip("triton")
    from triton.runtime.errors import OutOfResources

    from midi2wave.sampling.engines import triton_kernel

    class Kernel:
        def __getitem__(self, _grid):
            return self

        def __call__(self, *_arguments, num_stages, **_):
            if num_stages > 2:
                raise OutOfResources(300_000, 232_448, "shared memory")

    monkeypatch.setattr(triton_kernel, "generate_block", Kernel())
    monkeypatch.setattr(gpu_sampling_measurement, "seconds_per_sample", lambda blocks: len(next(blocks)) * 1e-3)
    launch = triton.Launch(16, 4, n_stages)
    case = gpu_sampling_measurement.Case("demo", "triton", 1, "float32", launch)
    row = gpu_sampling_measurement.measure(case, torch.device("cpu"))
    assert row["launch"] == f"16 rows, 4 warps, {used}" and row["samples_per_second"] == 1000


def test_random_inputs_fit_the_model():
    model, _ = gpu_sampling_measurement.build("demo")
    conditioning, uniforms = gpu_sampling_measurement.random_inputs(model, 2, torch.device("cpu"))
    for n_frames in (1, triton.MAX_BLOCK_FRAMES):
        context, excitation = conditioning.block(model, 1000, n_frames)
        up = model.decoder.upsampling
        assert context.shape[0] == 2 and context.shape[2] == up.left + n_frames + up.right
        assert excitation.shape[::2] == (2, n_frames * model.hop)
    draws = uniforms(0, 1000)
    assert draws.shape == (2, 1000, model.uniforms_per_sample) and draws.min() > 0 and draws.max() < 1
