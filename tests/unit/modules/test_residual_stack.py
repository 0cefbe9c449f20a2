"""The residual stack's own backward pass equals autograd's of the plain implementation."""

import pytest
import torch
import torch.nn.functional as F

from midi2wave.modules.residual_stack import GateKernels, LayerWeights, compile_gate_kernels, residual_stack, run_layers

HOP, N_FRAMES, BATCH, R = 4, 5, 3, 6
T = N_FRAMES * HOP


def make(taps=2, aux_inputs=2, dilations=(1, 2, 16, 32), dtype=torch.float64, seed=0):
    """Inputs and layers; the largest dilations reach beyond the crop for three taps, the last one also for two."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape):
        return (0.5 * torch.randn(*shape, generator=generator, dtype=torch.float64)).to(dtype).requires_grad_()

    layers = []
    for i, dilation in enumerate(dilations):
        last = i == len(dilations) - 1
        layers.append(
            LayerWeights(
                dilation,
                random(2 * R, taps * R),
                random(2 * R, aux_inputs),
                None if last else random(R, R),
                None if last else random(R),
            )
        )
    return random(T * BATCH, R + aux_inputs), random(N_FRAMES + 1, BATCH, len(layers), 2 * R), layers


def plain(x, frames, ramp, layers):
    """Padded Conv1d over [B, C, T], conditioning at audio rate."""
    n_taps = layers[0].taps.shape[1] // R
    audio, aux_inputs = x.unflatten(0, (T, BATCH)).permute(1, 2, 0).tensor_split([R], dim=1)
    hidden = []
    for i, layer in enumerate(layers):
        weight = layer.taps.unflatten(1, (n_taps, R)).permute(0, 2, 1)
        pre_activations = F.conv1d(F.pad(audio, (layer.dilation * (n_taps - 1), 0)), weight, dilation=layer.dilation)
        if aux_inputs.shape[1]:
            pre_activations = pre_activations + F.conv1d(aux_inputs, layer.aux_inputs[..., None])
        at = torch.arange(T) // HOP
        blend = ramp[torch.arange(T) % HOP].view(-1, 1, 1)
        cond = (1 - blend) * frames[at, :, i] + blend * frames[at + 1, :, i]  # [T, B, 2R]
        tanh_half, sigmoid_half = (pre_activations + cond.permute(1, 2, 0)).chunk(2, dim=1)
        hidden.append(torch.tanh(tanh_half) * torch.sigmoid(sigmoid_half))
        if layer.residual is not None:
            audio = audio + F.conv1d(hidden[-1], layer.residual[..., None], layer.bias)
    return torch.stack(hidden).permute(3, 1, 0, 2).flatten(0, 1)


def ramp_of(kind, dtype=torch.float64):
    return torch.arange(HOP, dtype=dtype) / HOP if kind == "linear" else torch.zeros(HOP, dtype=dtype)


def gradients(function, x, frames, ramp, layers, *options):
    inputs = [x, frames, *(t for layer in layers for t in layer.tensors() if t is not None and t.numel())]
    out = function(x, frames, ramp, layers, *options)
    weights = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)
    return out.detach(), torch.autograd.grad((out * weights.sin()).sum(), inputs)


@pytest.mark.parametrize("taps", [2, 3])
@pytest.mark.parametrize("aux_inputs", [0, 2])
@pytest.mark.parametrize("kind", ["linear", "repeat"])
@pytest.mark.parametrize("recompute", [False, True])
def test_values_and_gradients_equal_the_plain_ones(taps, aux_inputs, kind, recompute):
    arguments = make(taps, aux_inputs)
    arguments = (*arguments[:2], ramp_of(kind), arguments[2])
    expected, expected_grads = gradients(plain, *arguments)
    values, grads = gradients(residual_stack, *arguments, GateKernels(recompute=recompute))
    torch.testing.assert_close(values, expected, rtol=1e-12, atol=1e-12)
    for a, b in zip(grads, expected_grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_the_gradient_can_be_taken_twice():
    x, frames, layers = make()
    out = residual_stack(x, frames, ramp_of("linear"), layers)
    first = torch.autograd.grad(out.sum(), x, retain_graph=True)
    assert torch.equal(*first, *torch.autograd.grad(out.sum(), x))


@pytest.mark.parametrize("recompute", [False, True])
def test_in_bfloat16_it_is_the_same_but_for_rounding(recompute):
    x, frames, layers = make()
    expected, expected_grads = gradients(plain, x, frames, ramp_of("linear"), layers)
    low = (x.detach().bfloat16().requires_grad_(), frames.detach().bfloat16().requires_grad_())
    values, grads = gradients(
        residual_stack, *low, ramp_of("linear", torch.bfloat16), layers, GateKernels(recompute=recompute)
    )
    assert values.dtype == torch.bfloat16 and all(g.dtype == torch.float64 for g in grads[2:])
    for a, b in zip((values, *grads), (expected, *expected_grads), strict=True):
        assert (a.double() - b).norm() < 0.02 * b.norm()


def test_layer_by_layer_without_gradients_it_is_the_same():
    x, frames, layers = make(taps=3)
    ramp = ramp_of("linear")
    with torch.no_grad():
        expected = residual_stack(x, frames, ramp, layers)
        one_by_one = [(layer_input.clone(), z.clone()) for layer_input, _, z in run_layers(x, frames, ramp, layers)]
    assert torch.equal(torch.stack([hidden for _, hidden in one_by_one], dim=1), expected)
    assert torch.equal(one_by_one[0][0], x)
    assert all(
        torch.equal(layer_input[:, R:], x[:, R:]) for layer_input, _ in one_by_one
    )  # the auxiliary inputs stay as they are


# As PyTorch 2.11 says it, without most of the compiler's options.
NO_HEADERS = """CppCompileError: C++ compile error

Command:
/usr/bin/g++ /tmp/tmpudhldfri/header.hpp -Wno-unused-variable -o /tmp/tmpudhldfri/header.i

Output:
/tmp/x/main.cpp:3:10: fatal error: Python.h: No such file or directory
    3 | #include <Python.h>
compilation terminated.
"""
NO_EXECUTION = """OSError: /tmp/torchinductor/sl/cslzqi.main.so: failed to map segment from shared object.  The most
common reason this may occur is if the /tmp folder is mounted with noexec
"""
NO_COMPILER = (
    "InvalidCxxCompiler: No working C++ compiler found in torch._inductor.config.cpp.cxx: (None, 'g++')\n\nSet"
)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (RuntimeError(NO_HEADERS), ["error: Python.h: No such file", "install Python's headers (python3-dev)"]),
        (RuntimeError(NO_EXECUTION), ["mounted with noexec", "TORCHINDUCTOR_CACHE_DIR"]),
        (RuntimeError(NO_COMPILER), ["there is no C++ compiler; install g++"]),
        (OSError(28, "No space left on device"), ["No space left on device"]),
        (RuntimeError(), ["RuntimeError"]),
    ],
)
def test_the_reason_of_a_failed_compilation_is_one_line(error, words, monkeypatch):
    def compile_later(function, **_):
        def fail(*_):
            raise error

        return fail

    monkeypatch.setattr(torch, "compile", compile_later)
    reasons: list[str] = []
    assert compile_gate_kernels(on_failure=reasons.append) is None and compile_gate_kernels() is None
    (reason,) = reasons
    assert all(part in reason for part in words) and "\n" not in reason and len(reason) < 200


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_compiled_gates_are_the_same_but_for_rounding(dtype):
    gates = compile_gate_kernels()
    if gates is None:
        pytest.skip("no C++ compiler here")
    x, frames, layers = make()
    expected, expected_grads = gradients(plain, x, frames, ramp_of("linear"), layers)
    x, frames = (tensor.detach().to(dtype).requires_grad_() for tensor in (x, frames))
    values, grads = gradients(residual_stack, x, frames, ramp_of("linear", dtype), layers, gates)
    tolerance = {torch.float32: 1e-5, torch.bfloat16: 0.02}[dtype]
    for a, b in zip((values, *grads), (expected, *expected_grads), strict=True):
        assert (a.double() - b).norm() < tolerance * b.norm()
