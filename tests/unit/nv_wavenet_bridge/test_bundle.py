"""The three commands of nv_wavenet_bridge: what they make, and what they answer to mistakes.

nv-wavenet itself is played by a stand-in with the interface of its PyTorch wrapper, made of the emulator.
"""

import json
import shutil
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch

from midi2wave import checkpoint
from midi2wave.audio.mu_law import mu_law_decode
from midi2wave.config import InferenceConfig, config_from_dict
from midi2wave.data.test_clips import write_clip
from midi2wave.midi.reader import read_midi
from midi2wave.sampling import pieces
from midi2wave.sampling.options import SamplingOptions
from midi2wave.sampling.synthesis import synthesize
from nv_wavenet_bridge import bundle, check, export, run
from tests.helpers.exportable_models import BLOCKS
from tests.helpers.paths import ROOT
from tests.helpers.pipeline import (
    assert_failed,
    assert_no_partial_files,
    assert_refused,
    call,
    read_files,
    settings,
    write_midi,
)
from wavenet import build_model

HZ, HOP = 4000, 16


def make_run(folder, poison=False, **overrides):
    """A run folder with one checkpoint of random weights."""
    config = config_from_dict({**BLOCKS, "wavenet_config": {**BLOCKS["wavenet_config"], **overrides}}, "test")
    torch.manual_seed(4)
    model = build_model(config)
    torch.nn.init.normal_(model.decoder.output.weight, std=0.7)
    if poison:
        model.decoder.skip.weight.data[0, 0] = float("nan")
    checkpoint.save(folder, 1, model.state_dict(), {}, config, keep=1)
    return folder


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A checkpoint, two MIDI files of different length, a config, and the bundle made of them."""
    folder = tmp_path_factory.mktemp("bridge")
    make_run(folder / "run")
    write_midi(folder / "short.mid", [(0.0, 0.05, 60, 90)])
    write_midi(folder / "long.mid", [(0.01, 0.06, 64, 100), (0.08, 0.13, 67, 70)])
    blocks = {
        "inference_config": {
            "model_filename": str(folder / "run"),
            "temperature": 0.8,
            "seed": 6,
            "tail_seconds": 0.02,
            "device": "cpu",
        }
    }
    (folder / "config.json").write_text(json.dumps(blocks))
    outcome = make_bundle(folder, folder / "bundle", "--json")
    assert outcome.code == 0, outcome.err
    assert "cond_input.npy takes 0.00 GB: 2 x 0.152 s" in outcome.err
    return folder


def make_bundle(world, out, *options, midi=("short.mid", "long.mid")):
    pieces = [world / name for name in midi]
    return call(export, "-c", world / "config.json", "--midi", *pieces, "--out", out, *options)


def test_bundle_describes_its_content(world):
    about = json.loads((world / "bundle" / "bundle.json").read_text())
    assert [piece["name"] for piece in about["pieces"]] == ["short", "long"]
    assert [piece["n_samples"] for piece in about["pieces"]] == [18 * HOP, 38 * HOP]
    assert about["nv_wavenet"]["R"] == 32 and about["nv_wavenet"]["L"] == 3 and about["audio_hz"] == HZ
    arrays = {name: np.load(world / "bundle" / name) for name in ("cond_input.npy", "uniforms.npy", "expected.npy")}
    weights = torch.load(world / "bundle" / "weights.pt", weights_only=True)
    described = {row["name"].split()[0].removesuffix(".0"): row for row in about["tensors"]}
    for name, row in described.items():
        if row["file"] in arrays:
            stored = [arrays[row["file"]]]
        else:
            stored = [w.numpy() for w in (weights[name] if "count" in row else [weights[name]])]
            assert len(stored) == row.get("count", 1)
        assert all(list(array.shape) == row["shape"] and array.dtype == row["dtype"] for array in stored)
        assert row["meaning"] and row["layout"]
    assert set(weights) - set(described) == {"max_dilation", "use_embed_tanh"}
    assert type(weights["max_dilation"]) is int and weights["use_embed_tanh"] is False
    assert len(weights["res_weights"]) == 2 and len(weights["dilate_weights"]) == 3
    assert {p.name for p in (world / "bundle").iterdir()} == {
        *arrays,
        "weights.pt",
        "weights.safetensors",
        "bundle.json",
    }
    assert_no_partial_files(world)


def test_conditioning_file_has_nv_wavenets_layout(world):
    """[T][L][B][2R]: what its wrapper would make of the tensor by permuting it."""
    path = world / "bundle" / "cond_input.npy"
    cond_input = np.load(path)
    assert cond_input.shape == (64, 2, 3, 38 * HOP)
    memory = np.frombuffer(path.read_bytes()[-cond_input.nbytes :], "<f4").reshape(38 * HOP, 3, 2, 64)
    np.testing.assert_array_equal(memory.transpose(3, 2, 1, 0), cond_input)
    assert torch.from_numpy(np.load(path, mmap_mode="c")).permute(3, 2, 1, 0).is_contiguous()


def test_bundle_is_right_and_equals_inference(world):
    """The check passes, and the expected samples are those of inference.py."""
    outcome = call(check, world / "bundle")
    assert outcome.code == 0 and "1216 of 1216 samples equal" in outcome.out
    model, config, _ = checkpoint.load_model(world / "run", torch.device("cpu"))
    performances = [read_midi(world / name) for name in ("short.mid", "long.mid")]
    played = synthesize(
        model, performances, 38, config.data_config, options=SamplingOptions(seed=6, temperature=0.8), streams=[0, 1]
    )
    expected = np.load(world / "bundle" / "expected.npy")
    np.testing.assert_array_equal(mu_law_decode(expected), np.concatenate(list(played), axis=1))
    assert len(np.unique(expected)) > 50


def test_each_tensor_of_a_bundle_matters(world, tmp_path):
    """A bundle in which one tensor is turned round, consistently in both weights files, does not check out."""
    weights = bundle.read(world / "bundle").weights
    flips = {
        name: lambda a: a[::-1]
        for name in (
            "embedding_prev",
            "embedding_curr",
            "conv_out_weight",
            "skip_weights",
            "dilate_weights",
            "res_weights",
            "skip_biases",
            "res_biases",
        )
    }
    flips |= {
        "conv_end_weight": lambda a: a.T,
        "cond_input": lambda a: a[::-1],
        "batch": lambda a: a[:, ::-1],
        "layers": lambda a: a[:, :, ::-1],
        "time": lambda a: np.roll(a, 1, axis=-1),
    }
    flips |= {"taps": lambda a: a[..., ::-1], "transposed": lambda a: a.T}
    for name, flip in flips.items():
        folder = shutil.copytree(world / "bundle", tmp_path / name)
        key = {"taps": "dilate_weights", "transposed": "res_weights"}.get(name, name)
        if key in weights:
            value = weights[key]
            flipped = [np.ascontiguousarray(flip(v)) for v in value] if isinstance(value, list) else flip(value).copy()
            bundle.write_weights(folder, {**weights, key: flipped})
        else:
            cond_input = np.load(folder / "cond_input.npy")
            np.save(folder / "cond_input.npy", np.asfortranarray(flip(cond_input)))
        assert_failed(call(check, folder, "--json"), 2, **{name: "differ, the first at sample"})


def test_refusals_of_models(world, tmp_path):
    def answer(run_folder):
        return make_bundle(world, tmp_path / "out", "--checkpoint", run_folder)

    mixture = make_run(tmp_path / "mixture", output="logistic_mixture", kernel_size=3)
    assert_refused(
        answer(mixture), "can't be exported", "(1) wavenet_config.output = logistic", "(2) wavenet_config.kernel_size"
    )
    wide = make_run(tmp_path / "wide", n_residual_channels=130, n_out_channels=256)
    assert_refused(
        answer(wide), "(1) wavenet_config.n_residual_channels = 130", "(2) wavenet_config.output_bias = true"
    )
    assert_refused(answer(make_run(tmp_path / "nan", poison=True)), "NaN or infinity (in decoder.skip.weight)")
    assert_refused(answer(tmp_path / "none"), "no checkpoint at")
    assert not (tmp_path / "out").exists()


def test_refusals_of_pieces_and_folders(world, tmp_path):
    out = tmp_path / "out"
    assert_refused(make_bundle(world, out, "--clips", "x"), "--midi and --clips exclude each other")
    assert_refused(make_bundle(world, out, "--max_seconds", "nan"), "--max_seconds nan")
    assert_refused(make_bundle(world, out, "--max_seconds", "-1"), "at least a conditioning frame, 0.004 s")
    assert_refused(
        call(export, "-c", world / "config.json", "--clips", tmp_path / "none", "--out", out), "no test clips"
    )
    guided = make_bundle(world, out, *settings("inference_config.guidance=2"))
    assert_refused(guided, "inference_config.guidance = 2", "set guidance = 1")
    mean = make_bundle(world, out, *settings("inference_config.sampling=mean"))
    assert_refused(mean, "inference_config.sampling = mean", "set sampling = random")
    tail = settings("inference_config.tail_seconds=1e4")
    assert_refused(
        make_bundle(world, out, *tail), "long lasts 10000.1 s", "32-bit index reaches 1398.1 s", "--max_seconds 1398"
    )
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "letter.txt").write_text("dear")
    assert_refused(make_bundle(world, tmp_path / "foreign", "--force"), "is not a bundle", "choose another folder")
    assert_refused(make_bundle(world, world / "config.json"), "is a file, expected a folder")
    before = read_files(world / "bundle")
    assert_refused(make_bundle(world, world / "bundle"), "holds a bundle", "--force")
    assert_failed(make_bundle(world, out, "--json", midi=["gone.mid"]), 2, gone="no such file")
    assert read_files(world / "bundle") == before and not out.exists()


def test_a_bad_piece_is_left_out_and_a_long_one_cut(world, tmp_path):
    out = tmp_path / "out"
    first = make_bundle(world, out, "--json", "--max_seconds", "0.1", midi=["gone.mid", "long.mid", "short.mid"])
    assert_failed(first, 1, gone="no such file")
    assert "long: cut from 0.152 to 0.1 s" in first.err
    about = json.loads((out / "bundle.json").read_text())
    assert [(p["name"], p["n_samples"]) for p in about["pieces"]] == [("long", 25 * HOP), ("short", 18 * HOP)]
    assert make_bundle(world, out, "--force", midi=["short.mid"]).code == 0
    assert np.load(out / "expected.npy").shape == (1, 18 * HOP)
    assert call(check, out, world / "bundle").code == 0


def test_force_removes_nothing_but_the_bundle(world, tmp_path):
    out = tmp_path / "out"
    (tmp_path / ".out.4711-0123abcd.partial").mkdir()
    (tmp_path / ".out.4711-0123abcd.partial" / "cond_input.npy").write_bytes(b"half")
    assert make_bundle(world, out, midi=["short.mid"]).code == 0
    assert [path.name for path in tmp_path.iterdir()] == ["out"]  # No half bundle of a killed run, and no lock.
    (out / "played_single").mkdir()
    (out / "played_single" / "short.wav").write_bytes(b"played")
    before = read_files(out)
    refused = make_bundle(world, out, "--force", midi=["short.mid"])
    assert_refused(refused, "holds played_single beside the bundle, which --force would remove")
    assert read_files(out) == before


def test_clips_of_different_length_are_independent(world, tmp_path):
    """Clips of different length are padded, and each gives the samples that it gives alone."""
    for number, n_samples in enumerate([20 * HOP, 31 * HOP + 5, HOP - 1]):
        piece = read_midi(world / ("long.mid" if number else "short.mid"))
        write_clip(tmp_path / "clips", f"clip_00{number}_x_0.000s", np.zeros(n_samples, np.int16), piece, HZ)
    source = ("-c", world / "config.json", "--clips", tmp_path / "clips")
    assert_failed(
        call(export, *source, "--out", tmp_path / "out", "--json"), 1, clip_002_x_0="less than a conditioning frame"
    )
    about = json.loads((tmp_path / "out" / "bundle.json").read_text())
    assert [p["n_samples"] for p in about["pieces"]] == [20 * HOP, 31 * HOP]
    expected = np.load(tmp_path / "out" / "expected.npy")
    np.testing.assert_array_equal(expected, np.load(world / "bundle" / "expected.npy")[:, : 31 * HOP])
    assert make_bundle(world, tmp_path / "one", midi=["short.mid"]).code == 0
    alone = np.load(tmp_path / "one" / "expected.npy")[0]
    np.testing.assert_array_equal(alone, expected[0, : len(alone)])


def test_a_piece_is_as_long_as_inference_plays_it(world):
    """A length that is a whole number of frames, but for the rounding of the sum, gets no frame more."""
    data = config_from_dict(BLOCKS, "test").data_config
    tails = range(100)  # in frames; the piece itself has 32.5
    settings = [InferenceConfig(model_filename="run", tail_seconds=round(0.002 + tail / 250, 3)) for tail in tails]
    made = [pieces.midi_pieces([world / "long.mid"], one, data)[0][0] for one in settings]
    assert [piece.n_frames for piece in made] == [33 + tail for tail in tails]


def test_force_replaces_what_a_link_points_to_and_keeps_the_link(world, tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    for options in ([], ["--force"]):
        assert make_bundle(world, tmp_path / "link", *options, midi=["short.mid"]).code == 0
    assert (tmp_path / "link").is_symlink() and call(check, tmp_path / "disk").code == 0


def test_commands_run_from_the_project_folder(world):
    """Each command runs as a module from the project's folder."""
    for name, options, code in [
        ("check", [world / "bundle"], 0),
        ("check", [], 2),
        ("export", ["--out", world], 2),
        ("run", [world / "bundle", "--nv_wavenet", world], 2),
    ]:
        line = [sys.executable, "-m", f"nv_wavenet_bridge.{name}", *map(str, options)]
        done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == code, done.stderr
        assert len(done.stderr.splitlines()) == (code == 2) and "Traceback" not in done.stderr


def test_damaged_bundles(world, tmp_path):
    def damaged(name, change, *words):
        folder = shutil.copytree(world / "bundle", tmp_path / "broken")
        change(folder / name)
        outcome = call(check, folder, "--json")
        assert_failed(outcome, 2, broken=words[0])
        assert all(word in outcome.err for word in words)
        shutil.rmtree(folder)

    def cut(path):
        path.write_bytes(path.read_bytes()[:-1000])

    def wrong_about(path):
        path.write_text(json.dumps({**json.loads(path.read_text()), "pieces": [{"name": "../x", "n_samples": 608}]}))

    def without_rate(path, audio_hz):
        path.write_text(json.dumps({**json.loads(path.read_text()), "audio_hz": audio_hz}))

    for name in ("weights.safetensors", "weights.pt", "cond_input.npy"):
        damaged(name, cut, "is damaged", "export it again")
        damaged(name, lambda path: path.unlink(), "is damaged")
    damaged("bundle.json", cut, "is damaged")
    damaged("bundle.json", lambda path: path.unlink(), "is not a bundle")
    damaged("bundle.json", wrong_about, "no pieces are listed")
    damaged("bundle.json", lambda path: path.write_text('{"format": "other"}'), "expected 'midi2wave nv-wavenet bundle")
    damaged("uniforms.npy", lambda path: np.save(path, np.zeros((2, 608), "<f4")), "outside (0, 1)")
    damaged("uniforms.npy", lambda path: np.save(path, np.full((608, 2), 0.5, "<f4")), "float32 [608, 2]", "[2, 608]")
    damaged("expected.npy", lambda path: np.save(path, np.full((2, 608), 256, "<i4")), "no codes")
    damaged("expected.npy", lambda path: np.savez(path.open("wb"), x=np.zeros(3)), "is damaged")
    damaged("weights.pt", lambda path: torch.save([1], path), "weights.pt and weights.safetensors differ")
    for audio_hz in (None, "4000", -1, float("inf")):
        damaged("bundle.json", lambda path, hz=audio_hz: without_rate(path, hz), "is damaged (audio_hz = ")
    other = bundle.read(world / "bundle").weights | {"max_dilation": 2}
    damaged(
        "weights.pt", lambda path: torch.save(bundle.as_torch(other), path), "weights.pt and weights.safetensors differ"
    )


WRAPPER = """
import ctypes
import numpy as np
import torch
import nv_wavenet_ext
from nv_wavenet_bridge.emulator import emulate

class Impl:
    AUTO, SINGLE_BLOCK, DUAL_BLOCK, PERSISTENT = range(4)

class NVWaveNet:
    def __init__(self, embedding_prev, embedding_curr, conv_out_weight, conv_end_weight, dilate_weights, dilate_biases,
                 max_dilation, res_weights, res_biases, skip_weights, skip_biases, use_embed_tanh):
        self.weights = {k: [t.numpy() for t in v] if isinstance(v, list) else v.numpy() if hasattr(v, "numpy") else v
                        for k, v in locals().items() if k != "self"}

    def infer(self, cond_input, implementation UNIFORMS_ARGUMENT):
        assert implementation == IMPLEMENTATION
        shape = (cond_input.shape[1], cond_input.shape[3])
        return torch.from_numpy(np.stack([c for c, _ in emulate(self.weights, cond_input.numpy(), UNIFORMS)], 1)).int()

def draw(shape):
    libc, values = ctypes.CDLL(None), np.zeros(shape, np.float32)
    for b in range(shape[0]):
        for t in range(shape[1]):
            libc.rand()
            values[b, t] = np.float32(np.float32(libc.rand()) / np.float32(2**31) - np.float32(0.5)) + np.float32(0.5)
    return values
"""


@pytest.fixture
def build(tmp_path, monkeypatch):
    """Makes a stand-in build of nv-wavenet, as it is or changed to take uniforms, and a GPU to go with it."""

    def make(takes_uniforms=False, sizes=(32, 128, 256), implementation=0):
        text = WRAPPER.replace("UNIFORMS_ARGUMENT", ", uniforms" if takes_uniforms else "")
        text = text.replace("IMPLEMENTATION", str(implementation))
        text = text.replace("UNIFORMS", "uniforms.numpy()" if takes_uniforms else "draw(shape)")
        folder = tmp_path / "nv-wavenet" / "pytorch"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "nv_wavenet.py").write_text(text)
        names = ("num_res_channels", "num_skip_channels", "num_out_channels")
        extension = "\n".join(f"def {name}(): return {size}" for name, size in zip(names, sizes, strict=True))
        (folder / "nv_wavenet_ext.py").write_text(extension)
        return folder

    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (10**9, 10**9))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(multi_processor_count=16))
    yield make
    for name in ("nv_wavenet", "nv_wavenet_ext"):
        sys.modules.pop(name, None)


def test_a_build_that_takes_uniforms_plays_expected(world, build, tmp_path):
    folder = build(takes_uniforms=True, implementation=3)
    out = tmp_path / "out"
    arguments = (run, world / "bundle", "--nv_wavenet", folder.parent, "--implementation", "persistent", "--out", out)
    outcome = call(*arguments, "--json")
    assert outcome.code == 0, outcome.err
    assert outcome.result["equal_to_expected_until"] == [608, 608] and outcome.result["different"] == 0
    assert outcome.result["samples_per_second"] > 0
    assert "keeps 35 blocks on the GPU, which has 16 multiprocessors" in outcome.err
    expected = np.load(world / "bundle" / "expected.npy")
    for row, (name, n_samples) in zip(expected, [("short", 18 * HOP), ("long", 38 * HOP)], strict=True):
        pcm, hz = soundfile.read(out / f"{name}.wav", dtype="int16")
        np.testing.assert_array_equal(pcm, mu_law_decode(row[:n_samples]))
        assert hz == HZ
    assert_refused(call(*arguments), "short.wav exists", "--force")


def test_unmodified_build_draws_the_predicted_numbers(world, build, tmp_path):
    """An unmodified build uses the random numbers that were predicted."""
    outcome = call(run, world / "bundle", "--nv_wavenet", build(), "--out", tmp_path / "out", "--json")
    assert outcome.code == 0, outcome.err
    result = outcome.result
    assert (result["compared"], result["different"], result["on_edge"]) == (2 * 608, 0, 0)
    assert "equal_to_expected_until" not in result and "equal_to_expected" not in outcome.err


def test_rand_is_predicted_for_any_seed():
    first, again, other = run.rand_uniforms(1, 2, 5), run.rand_uniforms(1, 2, 5), run.rand_uniforms(2, 2, 5)
    np.testing.assert_array_equal(first, again)
    assert first.dtype == np.float32 and first.min() >= 0 and first.max() <= 1 and (first != other).all()


def test_what_would_abort_the_process_is_refused(world, build, tmp_path, monkeypatch):
    """What would make nv-wavenet abort the process is refused before it is called."""

    def answer(folder, *options):
        for name in ("nv_wavenet", "nv_wavenet_ext"):
            sys.modules.pop(name, None)
        return call(run, world / "bundle", "--nv_wavenet", folder, "--out", tmp_path / "out", *options)

    assert_refused(answer(build(sizes=(64, 256, 256))), "compiled for {'R': 64", "needs {'R': 32", "build again")
    assert_refused(answer(tmp_path / "none"), "holds no nv_wavenet.py")
    assert_refused(call(run, tmp_path, "--nv_wavenet", build()), "is not a bundle")
    (build() / "nv_wavenet_ext.py").write_text("import something_that_is_not_there")
    assert_refused(answer(tmp_path / "nv-wavenet"), "not a working build of nv-wavenet", "something_that_is_not_there")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (10**5, 10**9))
    assert_refused(answer(build()), "GB are free")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert_refused(answer(build()), "no CUDA GPU here")
    assert not (tmp_path / "out").exists()


def test_wide_models_have_the_persistent_kernel_only(world, build, tmp_path):
    run_folder = make_run(tmp_path / "run", n_residual_channels=70, n_layers=2)
    out = tmp_path / "wide"
    assert make_bundle(world, out, "--checkpoint", run_folder, midi=["short.mid"]).code == 0
    assert json.loads((out / "bundle.json").read_text())["nv_wavenet"]["implementations"] == ["persistent"]
    folder = build(takes_uniforms=True, sizes=(128, 256, 256), implementation=3)
    assert_refused(call(run, out, "--nv_wavenet", folder, "--implementation", "single"), "no kernel for R = 128")
    outcome = call(run, out, "--nv_wavenet", folder, "--json")
    assert outcome.code == 0 and outcome.result["implementation"] == "persistent"
    assert (out / "played_persistent" / "short.wav").is_file()
