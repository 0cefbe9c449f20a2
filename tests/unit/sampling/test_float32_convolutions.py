"""On a GPU the convolutions of every engine are computed in float32: PyTorch's setting, which a CPU has too."""

import threading

import pytest
import torch

from midi2wave.sampling.engines import cpu, cuda
from midi2wave.sampling.options import SamplingOptions
from midi2wave.utils.float32_convolutions import float32_convolutions
from tests.helpers.sampler_models import make_model, make_sources, random_prefix
from wavenet import generate

N_STREAMS, PREFIX_FRAMES, N_FRAMES = 2, 3, 40


def precision():
    return torch.backends.cudnn.conv.fp32_precision


@pytest.fixture(autouse=True)
def rounded_by_default():
    """cuDNN's default on a GPU."""
    assert precision() == "tf32"
    yield
    assert precision() == "tf32"


@pytest.mark.parametrize("engine", ["torch", "numba", "cuda"])
@pytest.mark.parametrize("prefix_frames", [0, PREFIX_FRAMES])
def test_engines_convolve_in_float32_and_restore_the_setting(engine, prefix_frames):
    """The context stack and the transposed convolution of the upsampling; between blocks the user's setting holds."""
    model = make_model(upsampling="transposed")
    conditioning, uniforms = make_sources(model, N_STREAMS)
    prefix = random_prefix(model, N_STREAMS, prefix_frames)
    seen = []
    convolutions = [one for one in model.modules() if isinstance(one, torch.nn.Conv1d | torch.nn.ConvTranspose1d)]
    for convolution in convolutions:
        convolution.register_forward_hook(lambda module, *_: seen.append((module, precision())))
    arguments = (model, conditioning, uniforms, N_STREAMS, N_FRAMES)
    if engine == "torch":
        blocks = generate(*arguments, prefix=prefix)
    else:
        options = SamplingOptions(sampler=engine, threads=1)
        blocks = {"numba": cpu, "cuda": cuda}[engine].generate(*arguments, options, prefix=prefix)
    between_blocks = [precision() for _ in blocks]
    assert len(between_blocks) > 1 and set(between_blocks) == {"tf32"}
    assert {id(module) for module, _ in seen} >= {id(one) for one in model.context.dilated}
    assert any(isinstance(module, torch.nn.ConvTranspose1d) for module, _ in seen)
    assert {setting for _, setting in seen} == {"ieee"}


def test_setting_is_restored_after_errors_and_by_the_last_thread():
    with pytest.raises(ValueError, match="wrong"), float32_convolutions():
        assert precision() == "ieee"
        raise ValueError("wrong")
    assert precision() == "tf32"
    entered, may_leave = threading.Event(), threading.Event()

    def use():
        with float32_convolutions():
            entered.set()
            may_leave.wait(10)

    with float32_convolutions():
        thread = threading.Thread(target=use)
        thread.start()
        assert entered.wait(10)
    assert precision() == "ieee"  # The other thread still convolves.
    may_leave.set()
    thread.join()


def test_training_keeps_the_setting_of_the_user():
    model, seen = make_model(), []
    model.context.input.register_forward_hook(lambda *_: seen.append(precision()))
    conditioning, _ = make_sources(model, 1)
    features = conditioning.features(-model.context_frames[0], sum(model.context_frames) + 2)
    model(torch.zeros(1, 2 * model.hop + model.decoder.taps, dtype=torch.long), features, conditioning.excitation(0, 2))
    assert seen == ["tf32"]
