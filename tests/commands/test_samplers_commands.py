"""Sampling as its user meets it: wavs that grow while they are made, Ctrl-C, and compiled code that is found again."""

import functools
import os
import platform
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import soundfile

import inference
from midi2wave.audio import io as audio_io
from midi2wave.sampling import render
from tests.helpers.paths import ROOT
from tests.helpers.pipeline import HZ, assert_no_partial_files, call, read_files, settings, write_midi


@pytest.fixture
def song(tmp_path):
    return write_midi(tmp_path / "song.mid", [(0.0, 0.05, 60, 90), (0.3, 0.4, 64, 90)])


def test_engines_and_threads_are_chosen_by_config(pipeline, song, tmp_path):
    outputs = {}
    for name, overrides in {
        "torch": ["inference_config.sampler=torch"],
        "numba": ["inference_config.sampler=numba", "inference_config.sampler_threads=2"],
        "bfloat16": ["inference_config.sampler_weights=bfloat16"],
    }.items():
        arguments = ("-c", pipeline.config, "--out", tmp_path / name, *settings(*overrides), "--midi", song)
        assert call(inference, *arguments).code == 0
        outputs[name] = audio_io.read_pcm(tmp_path / name / "song.wav", HZ)
    assert len(outputs["torch"]) == len(outputs["numba"]) == len(outputs["bfloat16"])
    assert np.abs(outputs["torch"][:50].astype(int) - outputs["numba"][:50]).max() <= 1
    on_cpu = settings("inference_config.sampler=triton", "inference_config.device=cpu")
    refused = call(inference, "-c", pipeline.config, "--out", tmp_path / "triton", *on_cpu, "--midi", song)
    assert refused.code != 0 and "sampler triton needs the model on a CUDA device" in refused.err
    # another engine may differ by rounding, so that its results are others; threads change nothing
    arguments = ("-c", pipeline.config, "--out", tmp_path / "numba", "--midi", song)
    numba = settings("inference_config.sampler=numba")
    assert "1 was there already" in call(inference, *arguments, *numba).out
    assert call(inference, *arguments, *settings("inference_config.sampler=torch")).code == 2


def test_interrupted_wav_is_valid_and_unfinished(pipeline, song, tmp_path, monkeypatch):
    """What an interrupt leaves is a valid wav that a rerun does not take for finished."""
    whole = tmp_path / "whole"
    assert call(inference, "-c", pipeline.config, "--out", whole, "--midi", song).code == 0
    synthesize = render.synthesize

    def interrupted(*arguments, **options):
        for i, block in enumerate(synthesize(*arguments, **options)):
            if i == 4:
                raise KeyboardInterrupt
            yield block

    out = tmp_path / "out"
    arguments = ("-c", pipeline.config, "--out", out, "--midi", song)
    monkeypatch.setattr(render, "synthesize", interrupted)
    stopped = call(inference, *arguments)
    assert stopped.code == 130 and "song.interrupted.wav" in stopped.err
    n_expected = audio_io.read_pcm(out / "song.interrupted.wav", HZ)
    complete = audio_io.read_pcm(whole / "song.wav", HZ)
    assert len(n_expected) == (1 + 2 + 4 + 8) * HZ // 250 and np.array_equal(n_expected, complete[: len(n_expected)])
    assert "song.wav" not in read_files(out)
    assert_no_partial_files(out)
    monkeypatch.setattr(render, "synthesize", synthesize)
    assert call(inference, *arguments).code == 0
    assert read_files(out)["song.wav"] == read_files(whole)["song.wav"] and "song.interrupted.wav" not in read_files(
        out
    )


@pytest.mark.skipif(sys.platform == "win32", reason="no signals to another process")
@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
def test_a_signal_to_a_real_process(pipeline, tmp_path, name, code):
    """Two threads are sampling a long piece when Ctrl-C, a batch scheduler or a closed terminal sends the signal."""
    song = write_midi(tmp_path / "song.mid", [(0.0, 0.05, 60, 90), (900.0, 900.1, 60, 90)])
    out = tmp_path / "out"
    command = [
        sys.executable,
        ROOT / "inference.py",
        "-c",
        pipeline.config,
        "--out",
        out,
        "--midi",
        song,
        *settings("inference_config.sampler_threads=2"),
    ]
    # Also where the tests run in the background of a shell, whose processes ignore Ctrl-C.
    heed = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    process = subprocess.Popen(list(map(str, command)), stderr=subprocess.PIPE, text=True, preexec_fn=heed)
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline and process.poll() is None:
        if any(path.stat().st_size > 100_000 for path in out.glob(".song.wav.*.partial")):
            break
        time.sleep(0.05)
    process.send_signal(getattr(signal, name))
    _, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert "interrupted" in err and "Traceback" not in err
    assert soundfile.info(out / "song.interrupted.wav").frames > 10_000
    assert_no_partial_files(out)


def test_failing_stream_keeps_the_longest_interrupted_wav(tmp_path, capsys):
    """A stream that fails leaves nothing; of interrupted ones the longest is kept."""
    path, left = tmp_path / "a.wav", tmp_path / "a.interrupted.wav"
    with pytest.raises(ZeroDivisionError), audio_io.wav_stream(path, HZ, left) as append:
        append(np.zeros(10, np.int16))
        raise ZeroDivisionError
    with pytest.raises(KeyboardInterrupt), audio_io.wav_stream(path, HZ, left):
        raise KeyboardInterrupt
    assert read_files(tmp_path) == {}
    for n, n_expected in ((5, 5), (3, 5), (9, 9)):
        with pytest.raises(KeyboardInterrupt), audio_io.wav_stream(path, HZ, left) as append:
            append(np.full(n, n, np.int16))
            raise KeyboardInterrupt
        assert np.array_equal(audio_io.map_wav(left), [n_expected] * n_expected)
        assert ("is longer and stays" in capsys.readouterr().err) == (n < n_expected)
    left.unlink()
    with audio_io.wav_stream(path, HZ, left) as append:
        append(np.arange(7, dtype=np.int16))
        append(np.arange(3, dtype=np.int16))
    assert list(read_files(tmp_path)) == ["a.wav"]
    assert np.array_equal(audio_io.map_wav(path), [*range(7), *range(3)])


START = """
import sys
sys.path.insert(0, sys.argv[1])
sys.path.insert(0, sys.argv[1] + "/tests")
from tests.helpers.sampler_models import make_conditioning, make_model
from midi2wave.sampling.engines import cpu, cpu_threads as kernel
from midi2wave.sampling.uniforms import seeded_uniforms
model = make_model()
next(cpu.generate(model, make_conditioning(model, 1), seeded_uniforms(0, [0], 1), 1, 4))
print(sum(kernel.play.dispatcher.stats.cache_hits.values()), sum(kernel.play.dispatcher.stats.cache_misses.values()))
"""


def start(program: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program, str(ROOT)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.slow
def test_compiled_code_is_cached_for_the_next_process(tmp_path):
    """Compiled code is found again by the next process."""
    assert [start(START, NUMBA_CACHE_DIR=str(tmp_path)) for _ in range(2)] == ["0 1", "1 0"]


SANE = """
import sys
sys.path.insert(0, sys.argv[1])
sys.path.insert(0, sys.argv[1] + "/tests")
import torch
from tests.helpers.sampler_models import make_conditioning, make_model
from midi2wave.sampling.engines import cpu
from midi2wave.sampling.options import SamplingOptions
from midi2wave.sampling.uniforms import seeded_uniforms
from wavenet import generate
model = make_model()
arguments = (model, make_conditioning(model, 1), seeded_uniforms(0, [0], 1))
samples = torch.cat(list(generate(*arguments, 1, 8)), dim=1)
exact = cpu.replay(*arguments, samples)
assert torch.equal(exact[0], samples)
rounded = cpu.replay(*arguments, samples, SamplingOptions(weights="bfloat16"))
print(((rounded[1] - exact[1]).abs().max() / exact[1].abs().max()).item())
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="nehalem is a processor of this family")
def test_code_for_an_older_processor_does_not_ask_for_bfloat16(tmp_path):
    older = {"NUMBA_CPU_NAME": "nehalem", "NUMBA_CPU_FEATURES": ""}
    assert 1e-5 < float(start(SANE, NUMBA_CACHE_DIR=str(tmp_path), **older)) < 0.03
