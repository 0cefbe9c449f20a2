"""The Python API: the samples of inference.py, blocks, likelihoods, and one-line errors."""

import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pretty_midi
import pytest
import torch

import inference
import midi2wave
from midi2wave import checkpoint
from midi2wave.audio.io import read_pcm
from midi2wave.audio.pcm import FULL_SCALE
from midi2wave.midi.reader import read_midi
from midi2wave.sampling.synthesis import teacher_forced
from tests.helpers.paths import ROOT
from tests.helpers.pipeline import HZ, call, melody, settings, write_audio, write_midi
from tests.helpers.synthesis_models import make, make_pcm, make_performance

SONG_SECONDS = 0.1


@pytest.fixture(scope="module")
def song(tmp_path_factory):
    return write_midi(tmp_path_factory.mktemp("song") / "song.mid", melody(3, SONG_SECONDS))


@pytest.fixture(scope="module")
def model(pipeline):
    return midi2wave.load(pipeline.folder / "run", "cpu", threads=1)


def as_int16(audio):
    return np.rint(audio.astype(np.float64) * FULL_SCALE).astype(np.int16)


def test_import_is_quick_and_loads_no_torch():
    program = "import sys, midi2wave; print(sorted({'torch', 'numba', 'inference', 'train'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    program = "import sys, midi2wave; midi2wave.load; print('torch' in sys.modules, 'inference' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True False"


def test_names_of_the_package():
    assert set(midi2wave.__all__) <= set(dir(midi2wave))
    assert isinstance(midi2wave.InputError("x"), Exception)
    with pytest.raises(AttributeError, match="no attribute 'lod'"):
        midi2wave.lod  # noqa: B018 - the access is what is tested


@pytest.mark.parametrize(
    ("options", "keys"),
    [({}, []), ({"seed": 4, "temperature": 0.8, "guidance": 2.0}, ["seed=4", "temperature=0.8", "guidance=2"])],
)
def test_generate_gives_the_samples_of_inference(pipeline, model, song, tmp_path, options, keys):
    """The wav of inference.py, sample for sample, with the default tail of two seconds cut to what is compared."""
    overrides = settings(*(f"inference_config.{key}" for key in ["tail_seconds=0.05", "device=cpu", *keys]))
    assert call(inference, "-c", pipeline.config, "--out", tmp_path / "out", "--midi", song, *overrides).code == 0
    expected = read_pcm(tmp_path / "out" / "song.wav", HZ)
    audio = model.generate(song, seconds=len(expected) / HZ, **options)
    assert audio.dtype == np.float32 and audio.ndim == 1 and np.abs(audio).max() <= 1
    assert np.array_equal(as_int16(audio), expected)


def test_default_length_is_that_of_inference(model, song, pipeline, tmp_path):
    """Two seconds after the last sound; only the length is compared."""
    piece = model._piece(song, None, ())
    expected = read_midi(song).offset.max() + 2
    assert piece.n_frames == np.ceil(expected * 250 - 1e-6)
    assert model.sample_rate == HZ and str(HZ) in repr(model)


def test_stream_yields_the_blocks_of_generate(model, song):
    blocks = list(model.stream(song, seconds=0.1))
    assert len(blocks) > 2 and all(block.dtype == np.float32 and block.ndim == 1 for block in blocks)
    assert len(blocks[0]) < len(blocks[-2])
    assert np.array_equal(np.concatenate(blocks), model.generate(song, seconds=0.1))
    performance = read_midi(song)
    assert np.array_equal(np.concatenate(blocks), model.generate(performance, seconds=0.1))
    with open(song, "rb") as file:
        assert np.array_equal(np.concatenate(blocks), model.generate(file, seconds=0.1))
    stream = model.stream(song, seconds=10)
    next(stream)
    stream.close()


def test_pretty_midi_objects_are_played(model, song):
    """Read by pretty_midi, or edited in Python; the length and the likelihood are those of the file."""
    midi = pretty_midi.PrettyMIDI(str(song))
    assert np.array_equal(model.generate(midi, seconds=0.05), model.generate(song, seconds=0.05))
    assert model._piece(midi, None, ()).n_frames == model._piece(song, None, ()).n_frames
    audio = np.zeros(HZ // 10, np.int16)
    assert model.nll(audio, midi) == model.nll(audio, song)
    midi.instruments[0].notes.clear()
    with pytest.raises(midi2wave.InputError, match="no piano notes"):
        model.stream(midi)


def test_other_objects_are_refused(model):
    with pytest.raises(midi2wave.InputError, match="an opened file, a PrettyMIDI or a Performance"):
        model.stream([60, 62])


def test_seed_decides(model, song):
    first, again, other = (model.generate(song, seconds=0.05, seed=seed) for seed in (0, 0, 1))
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_nll_is_that_of_the_parallel_pass(pipeline, model, song, tmp_path):
    loaded, config, _ = checkpoint.load_model(pipeline.folder / "run", torch.device("cpu"))
    wav = write_audio(tmp_path / "a.wav", melody(3), HZ)
    pcm = read_pcm(wav, HZ)
    pcm = pcm[: len(pcm) // loaded.hop * loaded.hop]
    _, expected = teacher_forced(loaded, [read_midi(song)], pcm[None], config.data_config, streams=[0])
    for audio in (wav, pcm, (pcm / FULL_SCALE).astype(np.float32), np.append(pcm, np.int16(0))):
        assert model.nll(audio, song) == pytest.approx(expected, rel=1e-5)


def test_nll_of_blocks_is_that_of_one_pass(monkeypatch):
    """With blocks far shorter than the audio, of both kinds of output."""
    from midi2wave.sampling import synthesis

    monkeypatch.setattr(synthesis, "LIKELIHOOD_BLOCK_SECONDS", 1 / 250)
    for output in ("logistic_mixture", "categorical"):
        model, data = make(output)
        data = replace(data, preemphasis=0.9)
        pcm, notes = make_pcm(1, 40), make_performance(0)
        assert model.decoder.receptive_field < 20 * model.hop
        _, expected = teacher_forced(model, [notes], pcm, data, streams=[0])
        assert synthesis.negative_log_likelihood(model, notes, pcm[0], data) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"seconds": 0.0}, "seconds = 0: expected at least 0.004"),
        ({"seconds": 1e12}, r"seconds = 1e\+12: expected at most 86400"),
        ({"seconds": "2"}, "seconds = '2': expected a number"),
        ({"seconds": True}, "seconds = True: expected a number"),
        ({"temperature": "hot"}, "temperature = 'hot': expected a number"),
        ({"guidance": None}, "guidance = None: expected a number"),
        ({"seed": 1.5}, "seed = 1.5: expected a whole number"),
        ({"seed": "0"}, "seed = '0': expected a whole number"),
        ({"global_labels": None}, "global_labels = None: expected labels such as"),
        ({"global_labels": [5]}, r"global_labels = \[5\]: expected labels such as"),
        ({"seconds": float("nan")}, "seconds = nan"),
        ({"temperature": 0}, "temperature = 0: expected more than 0"),
        ({"guidance": -1}, "guidance = -1: expected 0 to 100"),
        ({"seed": -1}, "seed = -1"),
        ({"global_labels": ["year=2009"]}, "year=2009"),
        ({"global_labels": "year=2009"}, "year=2009"),
    ],
)
def test_impossible_arguments_are_one_line_errors(model, song, options, words):
    for function in (model.generate, model.stream):
        with pytest.raises(midi2wave.InputError, match=words) as error:
            function(song, **options)
        assert "\n" not in str(error.value)


def test_files_that_cannot_be_read(model, tmp_path):
    with pytest.raises(midi2wave.InputError, match=r"no_such\.mid"):
        model.generate(tmp_path / "no_such.mid")
    (tmp_path / "text.mid").write_text("no MIDI")
    with pytest.raises(midi2wave.InputError, match=r"text\.mid"):
        model.stream(tmp_path / "text.mid")
    with pytest.raises(midi2wave.InputError, match=r"no_such\.wav"):
        model.nll(tmp_path / "no_such.wav")


@pytest.mark.parametrize("midi", [5, b"song.mid", ["song.mid"], ""])
def test_what_is_no_file_name(model, midi):
    with pytest.raises(midi2wave.InputError, match=r"midi = .*: expected a MIDI file or None"):
        model.stream(midi)


def test_piece_of_more_than_a_day(model, tmp_path):
    song = write_midi(tmp_path / "long.mid", [(0.0, 1.0, 60, 64), (9e4, 9e4 + 1, 60, 64)])
    with pytest.raises(midi2wave.InputError, match=r"long\.mid: lasts 90003 s, expected at most 86400; give seconds"):
        model.stream(song)


@pytest.mark.parametrize(
    ("audio", "words"),
    [
        (np.zeros((2, 99), np.float32), "expected mono"),
        (np.zeros(99, np.int64), "expected floats"),
        (np.full(99, 2.0), "finite values in -1..1"),
        (np.full(99, np.nan), "finite values"),
        (np.zeros(3, np.float32), "at least a conditioning frame"),
        ([[0.0], [0.0, 0.0]], "lists of several lengths"),
        (None, "expected an audio file"),
    ],
)
def test_audio_that_is_no_audio(model, song, audio, words):
    with pytest.raises(midi2wave.InputError, match=words):
        model.nll(audio, song)


def test_models_that_do_not_exist_or_cannot_run(pipeline, tmp_path):
    with pytest.raises(midi2wave.InputError, match="no checkpoint at"):
        midi2wave.load(tmp_path)
    for path in (None, 5, b"model.safetensors", ""):
        with pytest.raises(midi2wave.InputError, match=r"path = .*: expected a \.safetensors file"):
            midi2wave.load(path)
    with pytest.raises(midi2wave.InputError, match=r"threads = 1\.5: expected a whole number"):
        midi2wave.load(pipeline.folder / "run", "cpu", threads=1.5)
    for device in ("tpu", None):
        with pytest.raises(midi2wave.InputError, match=r"cannot be used \(expected cpu, cuda, or cuda:N"):
            midi2wave.load(pipeline.folder / "run", device)
    with pytest.raises(midi2wave.InputError, match=r"'mps' cannot be used \([^.]*aten::[^.]*\.[^.]*\); set it to"):
        midi2wave.load(pipeline.folder / "run", "mps")
    with pytest.raises(midi2wave.InputError, match="expected one of auto, torch, numba, cuda"):
        midi2wave.load(pipeline.folder / "run", "cpu", sampler="nummba")


def test_without_notes(model):
    """A model plays without MIDI only if it has a null condition, and for a given time."""
    if model.config.data_config.conditioning_dropout:
        with pytest.raises(midi2wave.InputError, match="give seconds"):
            model.generate()
        with pytest.raises(midi2wave.InputError, match="guidance = 2"):
            model.generate(seconds=0.1, guidance=2.0)
        assert len(model.generate(seconds=0.02)) == 0.02 * HZ
    else:
        with pytest.raises(midi2wave.InputError, match="no null condition"):
            model.generate(seconds=0.1)


def test_the_example_of_the_documentation_runs(tmp_path, monkeypatch):
    """The code block of docs/api.md, on a shorter piece."""
    text = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    code = text.split("```python\n")[1].split("```")[0]
    assert code.count("seconds=5") == 2
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    monkeypatch.chdir(tmp_path)
    exec(compile(code.replace("seconds=5", "seconds=0.02"), "docs/api.md", "exec"), {})
    assert len(read_pcm(tmp_path / "song.wav", HZ)) == 0.02 * HZ
